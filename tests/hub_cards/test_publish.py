# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The command: a dry run that shows everything and sends nothing, gates that stop it, adapters."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from hub_cards import publish
from hub_cards.adapters import check_adapter, stage_adapter
from hub_cards.check import problems
from hub_cards.publish import main, size

from .material import write_checkpoint, write_results


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    checkpoint, results = write_checkpoint(tmp_path / "checkpoint"), write_results(tmp_path / "measured")
    made = ["--checkpoint", str(checkpoint), "--results", str(results), "--stage", str(tmp_path / "stage")]
    return ["--org", "clinic", *made]


def write_run(folder: Path, base: str = "clinic/med-glip-ct") -> Path:
    """What a run of `training.finetune --lora` leaves, with figures of its own."""
    adapter = folder / "adapter"
    adapter.mkdir(parents=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": base}
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    (adapter / "adapter_model.safetensors").write_bytes(b"0" * 100)
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
    for line in ("model clinic/med-glip-ct: private, licence: research only", "model clinic/med-glip-fundus"):
        assert line in said
    for name in ("README.md", "evaluation.json", "modeling_medglip.py", "model.safetensors", "LICENSE.md"):
        assert f"  {name}" in said
    assert said.count("gates passed: licences, privacy, card") == 2
    assert "nothing was sent: this was a dry run, --yes does it" in said
    assert sorted(path.name for path in (tmp_path / "stage").iterdir()) == ["med-glip-ct", "med-glip-fundus"]


def test_the_unified_checkpoint_and_one_expert(arguments: list[str], tmp_path: Path) -> None:
    assert main(["--what", "unified,experts", "--modality", "ct", "--gated", "manual", "--public", *arguments]) == 0
    config = json.loads((tmp_path / "stage" / "med-glip-ct" / "config.json").read_text(encoding="utf-8"))
    assert config["modalities"] == ["ct"] and list(config["label_hierarchy"]["trained_labels"]) == ["ct"]
    assert config["dtype"] == "float32" and "AutoModel" in config["auto_map"]
    own = json.loads((tmp_path / "stage" / "med-glip" / "evaluation.json").read_text(encoding="utf-8"))
    assert list(own["modalities"]) == ["ct"] and list(own["calibration"]["modalities"]) == ["ct"]
    licences = json.loads((tmp_path / "stage" / "med-glip-ct" / "licenses.json").read_text(encoding="utf-8"))
    assert [row["modality"] for row in licences] == ["ct"]


def test_a_shut_gate_sends_nothing(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "problems", lambda kind, folder: ["README.md: holds a path of this machine"])
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    assert main(["--what", "experts", "--modality", "ct", "--yes", *arguments]) == 1
    said = capsys.readouterr()
    assert "REFUSED: README.md: holds a path" in said.out and "nothing was sent" in said.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--what", "adapter"], "needs --adapter RUN"),
        (["--what", "dataset", "--data", "nowhere"], "nowhere: is no built data set"),
        (["--what", "experts", "--modality", "mri"], "mri"),
        (["--what", "experts", "--org", "../etc"], "is no name on the Hub"),
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


class TestAdapters:
    def test_what_goes(self, tmp_path: Path) -> None:
        made = stage_adapter(write_run(tmp_path / "run"), "clinic/lora", tmp_path / "out")
        assert problems("model", made.folder) == [] and made.private
        assert "optimizer.pt" not in made.files() and "adapter_model.safetensors" in made.files()
        text = (made.folder / "README.md").read_text(encoding="utf-8")
        assert "base_model: clinic/med-glip-ct" in text and "<b>" not in text
        assert "| **mean** | 20.0 | 70.0 | 10.0 | 35.0 |" in text and "Labels of the base" in text

    def test_a_base_on_this_machine_is_no_base(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", "checkpoint")
        with pytest.raises(ValueError, match="give it with --base owner/name"):
            stage_adapter(run, "clinic/lora", tmp_path / "out")
        stage_adapter(run, "clinic/lora", tmp_path / "out", base="clinic/med-glip")
        config = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["base_model_name_or_path"] == "clinic/med-glip"

    def test_figures_of_somebody(self, tmp_path: Path) -> None:
        made = stage_adapter(write_run(tmp_path / "run"), "clinic/lora", tmp_path / "out")
        card = made.folder / "README.md"
        card.write_text(card.read_text(encoding="utf-8").replace("70.0", "99.0"), encoding="utf-8")
        assert check_adapter(made.folder) == ["README.md: its figures are not those of results.json"]

    def test_no_adapter(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="holds no adapter and"):
            stage_adapter(tmp_path, "clinic/lora", tmp_path / "out")

    def test_by_the_command(self, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = write_run(tmp_path / "liver")
        assert main(["--what", "adapter", "--adapter", str(run), *arguments]) == 0
        assert "model clinic/med-glip-liver: private" in capsys.readouterr().out
