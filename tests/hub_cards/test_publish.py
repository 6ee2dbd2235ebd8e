# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The command: a dry run that shows everything and sends nothing, gates that stop it, adapters."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest

from hub_cards import publish
from hub_cards.publish import format_size, main

from .material import staged_in, write_checkpoint, write_results, write_run


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and what was measured of it."""
    folder = tmp_path_factory.mktemp("inputs")
    write_results(folder / "measured", write_checkpoint(folder / "checkpoint"))
    return folder


@pytest.fixture
def arguments(inputs: Path, tmp_path: Path) -> list[str]:
    """Options that name copies of the inputs, which the test may change."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    results = str(tmp_path / "measured" / "results.json")
    made = ["--checkpoint", str(tmp_path / "checkpoint"), "--results", results, "--stage", str(tmp_path / "stage")]
    return ["--org", "clinic", *made]


def test_a_dry_run_opens_no_connection(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert main(["--what", "experts", *arguments]) == 0
    printed = capsys.readouterr().out
    for line in ("model clinic/med-glip-ct: private, license: research only", "model clinic/med-glip-fundus"):
        assert line in printed
    for name in ("README.md", "evaluation.json", "modeling_medglip.py", "model.safetensors", "LICENSE.md"):
        assert f"  {name}" in printed
    assert printed.count("gates passed: licenses, privacy, card") == 2
    assert "nothing was sent: this was a dry run, --yes sends it" in printed
    assert sorted(path.name for path in (tmp_path / "stage").iterdir() if path.is_dir()) == [
        "med-glip-ct",
        "med-glip-fundus",
    ]


def test_the_unified_checkpoint_and_one_expert(arguments: list[str], tmp_path: Path) -> None:
    assert main(["--what", "unified,experts", "--modality", "ct", "--gated", "manual", "--public", *arguments]) == 0
    config = json.loads((tmp_path / "stage" / "med-glip-ct" / "config.json").read_text(encoding="utf-8"))
    assert config["modalities"] == ["ct"] and list(config["label_hierarchy"]["trained_labels"]) == ["ct"]
    assert config["dtype"] == "float32" and "AutoModel" in config["auto_map"]
    own = json.loads((tmp_path / "stage" / "med-glip" / "evaluation.json").read_text(encoding="utf-8"))
    assert list(own["modalities"]) == ["ct"] and list(own["calibration"]["modalities"]) == ["ct"]
    licenses = json.loads((tmp_path / "stage" / "med-glip-ct" / "licenses.json").read_text(encoding="utf-8"))
    assert [row["modality"] for row in licenses] == ["ct"]


def test_a_closed_gate_sends_nothing(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "check_folder", lambda kind, folder: ["README.md: holds a path of this machine"])
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    assert main(["--what", "experts", "--modality", "ct", "--yes", *arguments]) == 1
    printed = capsys.readouterr()
    assert "REFUSED: README.md: holds a path" in printed.out and "nothing was sent" in printed.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--what", "adapter"], "needs --adapter RUN"),
        (["--what", "dataset", "--data", "nowhere"], "nowhere: is not a built data set"),
        (["--what", "experts", "--modality", "mri"], "mri"),
        (["--what", "experts", "--org", "../etc"], "is not a valid name on the Hub"),
        (["--what", "experts", "--results", "nowhere.json"], "nowhere.json"),
        (["--what", "experts", "--modality", "ct", "--yes"], "HF_HUB_OFFLINE|no token"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    more: list[str], message: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *more]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and any(part in error for part in message.split("|"))


@pytest.mark.parametrize("what", ["magic", "", "experts,magic"])
def test_wrong_usage(what: str, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--what", what, *arguments])
    assert error.value.code == 2


@pytest.mark.parametrize(("number", "text"), [(7, "7 B"), (1500, "1.5 kB"), (2_500_000, "2.5 MB"), (3e9, "3.0 GB")])
def test_sizes_for_people(number: int, text: str) -> None:
    assert format_size(int(number)) == text


class TestTheStage:
    """What a dry run may delete."""

    def test_only_its_own_folder(
        self, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "mine"
        (folder / "med-glip-ct").mkdir(parents=True)
        (folder / "med-glip-ct" / "notes.txt").write_text("mine", encoding="utf-8")
        assert main(["--what", "experts", *arguments, "--stage", str(folder)]) == 2
        assert "is not empty and was not made by this command" in capsys.readouterr().err
        assert (folder / "med-glip-ct" / "notes.txt").read_text(encoding="utf-8") == "mine"

    @pytest.mark.parametrize("option", ["--adapter", "--data", "--checkpoint"])
    def test_never_an_input(
        self, option: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stage = staged_in(tmp_path / "stage")
        (stage / "med-glip-lora-x").mkdir()
        (stage / "med-glip-lora-x" / "weights").write_text("mine", encoding="utf-8")
        assert main(["--what", "adapter", *arguments, option, str(stage / "med-glip-lora-x")]) == 2
        assert "or is inside it: choose another folder" in capsys.readouterr().err
        assert (stage / "med-glip-lora-x" / "weights").is_file()


def test_the_space_brings_the_checkpoint_that_it_loads(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--what", "space", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "model clinic/med-glip: private" in printed and "variable MEDGLIP_MODEL = clinic/med-glip" in printed
    assert "modeling_medglip/modeling_medglip.py" in printed and "checkpoints/unified" not in printed


@pytest.mark.parametrize(
    "more", [["--tag", "a b"], ["--tag", "main"], ["--tag", "../x"], ["--tag", ""], ["--modality", "foo"]]
)
def test_invalid_options_are_refused_before_any_work(
    more: list[str], arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--what", "experts", *arguments, *more])
    assert error.value.code == 2 and not (tmp_path / "stage").exists()
    assert "ct, mri" in capsys.readouterr().err or more[0] == "--tag"


def test_a_checkpoint_without_its_training_sources(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoint" / "licenses.json").unlink()
    assert main(["--what", "experts", *arguments]) == 2
    assert "checkpoint: has no licenses.json: write one" in capsys.readouterr().err


def test_an_incomplete_evaluation_is_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "measured" / "results.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["modalities"]["ct"]["at_threshold"]
    path.write_text(json.dumps(content), encoding="utf-8")
    assert main(["--what", "experts", *arguments]) == 2
    assert "experts: an input is not complete (KeyError" in capsys.readouterr().err


class TestAdapters:
    def test_two_repositories_of_one_name(
        self, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = ["--adapter", str(write_run(tmp_path / "run")), "--adapter-name", "med-glip-ct"]
        assert main(["--what", "experts,adapter", *arguments, *run]) == 2
        assert "two repositories have this name" in capsys.readouterr().err

    def test_by_the_command(self, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = write_run(tmp_path / "liver")
        assert main(["--what", "adapter", "--adapter", str(run), *arguments]) == 0
        assert "model clinic/med-glip-lora-liver: private" in capsys.readouterr().out
