# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The command: a dry run that shows everything and sends nothing, gates that stop it, adapters."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hub_cards import publish
from hub_cards.check import check_folder
from hub_cards.publish import main, size
from hub_cards.stage.adapters import stage_adapter
from hub_cards.stage.space import requirements

from .material import staged_in, write_checkpoint, write_results


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


def write_run(folder: Path, base: str = "clinic/med-glip-ct") -> Path:
    """What a run of `training.fit.finetune --lora` leaves, with figures of its own."""
    adapter = folder / "adapter"
    adapter.mkdir(parents=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": base}
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({"a": torch.zeros(2)}, adapter / "adapter_model.safetensors")
    (adapter / "optimizer.pt").write_bytes(b"0")

    def scores(value: float) -> dict[str, Any]:
        return {"mean": {"AP": value / 2, "AP50": value}, "labels": {"a | <b>": {"AP": value / 2, "AP50": value}}}

    results = {
        "schema": "medglip/run@1", "settings": {"modality": "ct"}, "pictures": {"train": 20, "validation": 9},
        "before": scores(0.2), "after": scores(0.7), "known_before": scores(0.8), "known_after": scores(0.79),
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def test_a_dry_run_opens_no_connection(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert main(["--what", "experts", *arguments]) == 0
    said = capsys.readouterr().out
    for line in ("model clinic/med-glip-ct: private, license: research only", "model clinic/med-glip-fundus"):
        assert line in said
    for name in ("README.md", "evaluation.json", "modeling_medglip.py", "model.safetensors", "LICENSE.md"):
        assert f"  {name}" in said
    assert said.count("gates passed: licenses, privacy, card") == 2
    assert "nothing was sent: this was a dry run, --yes does it" in said
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


def test_a_shut_gate_sends_nothing(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "check_folder", lambda kind, folder: ["README.md: holds a path of this machine"])
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    assert main(["--what", "experts", "--modality", "ct", "--yes", *arguments]) == 1
    said = capsys.readouterr()
    assert "REFUSED: README.md: holds a path" in said.out and "nothing was sent" in said.err


@pytest.mark.parametrize(
    ("more", "said"),
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
    more: list[str], said: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *more]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and any(part in error for part in said.split("|"))


@pytest.mark.parametrize("what", ["magic", "", "experts,magic"])
def test_wrong_usage(what: str, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--what", what, *arguments])
    assert error.value.code == 2


@pytest.mark.parametrize(("number", "text"), [(7, "7 B"), (1500, "1.5 kB"), (2_500_000, "2.5 MB"), (3e9, "3.0 GB")])
def test_sizes_for_people(number: int, text: str) -> None:
    assert size(int(number)) == text


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
    said = capsys.readouterr().out
    assert "model clinic/med-glip: private" in said and "variable MEDGLIP_MODEL = clinic/med-glip" in said
    assert "modeling_medglip/modeling_medglip.py" in said and "checkpoints/unified" not in said


def test_what_the_space_installs() -> None:
    lines = requirements().splitlines()
    assert lines[0].startswith("--extra-index-url ") and not any("med-glip" in line for line in lines)
    for name in ("torch", "transformers", "pydicom", "nibabel", "scikit-image"):
        assert any(line.startswith(f"{name}>=") for line in lines)


@pytest.mark.parametrize(
    "more", [["--tag", "a b"], ["--tag", "main"], ["--tag", "../x"], ["--tag", ""], ["--modality", "foo"]]
)
def test_odd_options_are_refused_before_any_work(
    more: list[str], arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--what", "experts", *arguments, *more])
    assert error.value.code == 2 and not (tmp_path / "stage").exists()
    assert "ct, mri" in capsys.readouterr().err or more[0] == "--tag"


def test_a_checkpoint_that_does_not_say_what_it_was_trained_on(
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
    def test_what_goes(self, tmp_path: Path) -> None:
        made = stage_adapter(write_run(tmp_path / "run"), "clinic/lora", staged_in(tmp_path / "s") / "out")
        assert check_folder("model", made.folder) == [] and made.private
        assert "optimizer.pt" not in made.files() and "adapter_model.safetensors" in made.files()
        text = (made.folder / "README.md").read_text(encoding="utf-8")
        assert "base_model: clinic/med-glip-ct" in text and "<b>" not in text
        assert "| **mean** | 20.0 | 70.0 | 10.0 | 35.0 |" in text and "Labels of the base" in text

    def test_nothing_measured_is_said(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run")
        results = json.loads((run / "results.json").read_text(encoding="utf-8"))
        nothing: dict[str, Any] = {"mean": {"AP": None, "AP50": None}, "labels": {}}
        results |= {"before": nothing, "after": nothing}
        (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
        made = stage_adapter(run, "clinic/lora", staged_in(tmp_path / "s") / "out")
        text = (made.folder / "README.md").read_text(encoding="utf-8")
        assert "Nothing was measured: no validation image has a box." in text and "**mean** | - |" not in text

    def test_a_base_on_this_machine_is_no_base(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", "checkpoint")
        with pytest.raises(ValueError, match="give it with --base owner/name"):
            stage_adapter(run, "clinic/lora", staged_in(tmp_path / "s") / "out")
        stage_adapter(run, "clinic/lora", staged_in(tmp_path / "s") / "out", base="clinic/med-glip")
        config = json.loads((tmp_path / "s" / "out" / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["base_model_name_or_path"] == "clinic/med-glip"

    def test_the_embedded_base_is_no_id_on_the_hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("hub_cards.stage.adapters._base", lambda *_, **__: None)
        stage_adapter(write_run(tmp_path / "run"), "clinic/lora", staged_in(tmp_path / "s") / "out")
        config = json.loads((tmp_path / "s" / "out" / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["base_model_name_or_path"] == "./embedded", "transformers asks the Hub for anything else"

    def test_figures_of_somebody(self, tmp_path: Path) -> None:
        made = stage_adapter(write_run(tmp_path / "run"), "clinic/lora", staged_in(tmp_path / "s") / "out")
        card = made.folder / "README.md"
        card.write_text(card.read_text(encoding="utf-8").replace("70.0", "99.0"), encoding="utf-8")
        (found,) = check_folder("model", made.folder)
        assert found.startswith("README.md: ") and "99.0" in found

    def test_no_adapter(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="holds no adapter and"):
            stage_adapter(tmp_path, "clinic/lora", staged_in(tmp_path / "s") / "out")

    def test_two_things_of_one_name(
        self, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = ["--adapter", str(write_run(tmp_path / "run")), "--adapter-name", "med-glip-ct"]
        assert main(["--what", "experts,adapter", *arguments, *run]) == 2
        assert "two repositories have this name" in capsys.readouterr().err

    @pytest.mark.parametrize("part", ["settings", "after", "pictures"])
    def test_incomplete_results(self, part: str, tmp_path: Path) -> None:
        path = write_run(tmp_path / "run") / "results.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        del content[part]
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ValueError, match="holds no adapter and its results"):
            stage_adapter(tmp_path / "run", "clinic/lora", staged_in(tmp_path / "s") / "out")

    def test_by_the_command(self, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = write_run(tmp_path / "liver")
        assert main(["--what", "adapter", "--adapter", str(run), *arguments]) == 0
        assert "model clinic/med-glip-lora-liver: private" in capsys.readouterr().out
