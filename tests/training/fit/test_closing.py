# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The end of a run: scores in words, a plot of them, commands that work when pasted; and the options' help."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hub_cards import publish
from modeling_medglip import cli
from modeling_medglip.checkpoints import loading
from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint
from training.evaluate import __main__ as evaluate
from training.fit import finetune
from training.fit.closing import next_commands, scores_in_words
from training.fit.run_results import Scores, card, measured_points

from ..tiny_data import make_data


SCORES = Scores({"liver": (0.1, 0.139)}), Scores({"liver": (0.3, 0.634)})


def results_of(before: Scores, after: Scores, validation: int = 12) -> dict[str, Any]:
    known = {f"known_{name}": Scores().as_dict() for name in ("before", "after")}
    images = {"train": 20, "validation": validation, "broken": 0, "replayed": 0}
    return {"images": images, "before": before.as_dict(), "after": after.as_dict(), **known}


class TestWords:
    def test_in_per_cent(self) -> None:
        line, _ = scores_in_words(results_of(*SCORES))
        expected = "AP50 on 12 validation images: 14 % before, 63 % after; AP: 10 % before, 30 % after"
        assert line == expected

    def test_nothing_measured(self) -> None:
        (line,) = scores_in_words(results_of(Scores(), Scores(), 0))
        assert line == "No validation images: nothing was measured."


class TestPlot:
    def test_before_and_after_without_epochs(self) -> None:
        history = [{"epoch": 1.0, "loss": 2.0}, {"epoch": 3.0, "loss": 1.0}]
        assert np.allclose(measured_points(history, *SCORES), [(0.0, 10.0, 13.9), (3.0, 30.0, 63.4)])

    def test_every_epoch_where_measured(self) -> None:
        history = [{"epoch": 1.0, "eval_AP": 0.2, "eval_AP50": 0.5}, {"epoch": 2.0, "eval_AP": 0.25, "eval_AP50": 0.5}]
        assert [epoch for epoch, _, _ in measured_points(history, *SCORES)] == [0.0, 1.0, 2.0]

    def test_nothing_measured(self) -> None:
        assert measured_points([{"epoch": 1.0, "loss": 2.0}], Scores(), Scores()) == []


def test_a_base_in_a_folder_is_in_the_commands(tmp_path: Path) -> None:
    settings = SimpleNamespace(out="runs/my run", lora=True, model=str(tmp_path), modality="ct", data="d")
    record = SimpleNamespace(labels=("liver",), loader=None)
    lines = next_commands(settings, results_of(*SCORES), SimpleNamespace(validation=[record], train=[record]))
    ground, merge, publishing = lines[1::2]
    assert f"--base {tmp_path}" in ground and f"--base {tmp_path}" in merge and "--base OWNER/NAME" in publishing
    assert all("'runs/my run'" in line for line in (ground, publishing))


class TestCommands:
    """The README's commands in turn, and those that a run prints, with a small checkpoint as the embedded one."""

    def test_after_an_adapter(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        base, data = save_tiny_checkpoint(tmp_path / "unified"), make_data(tmp_path / "data")
        monkeypatch.setattr(finetune, "default_checkpoint", lambda: base)
        monkeypatch.setattr(loading, "embedded_checkpoint", lambda: base)
        train = ["--data", str(data), "--modality", "ct", "--lora", "--out", str(tmp_path / "mine")]
        assert finetune.main([*train, "--epochs", "1", "--batch", "2", "--no_distillation"]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith("AP50 on 1 validation image: ")
        for command, main in self.commands(printed):
            if main is cli.main and command[0] == "ground":
                command += ["--out", str(tmp_path / "out"), "--no-isolate"]
            if main is publish.main:
                command = [*(part.replace("YOUR-ORG", "clinic") for part in command)]
                command += ["--stage", str(tmp_path / "stage")]
            assert main(command) == 0, capsys.readouterr().err
        assert (tmp_path / "mine" / "merged" / "model.safetensors").is_file()
        boxes = next((tmp_path / "out").glob("*.boxes.json")).read_text(encoding="utf-8")
        assert json.loads(boxes)["model"] == "mine"
        output = capsys.readouterr().out
        assert "model clinic/med-glip-lora-mine: private" in output and "gates passed" in output
        card_text = (tmp_path / "stage" / "med-glip-lora-mine" / "README.md").read_text(encoding="utf-8")
        assert 'load_grounder("clinic/med-glip-lora-mine")' in card_text and "base_model" not in card_text
        assert "the checkpoint that comes with the package" in card_text

    def commands(self, printed: str) -> list[tuple[list[str], Callable[[Sequence[str]], int]]]:
        known = {"medglip": cli.main, "training.evaluate": evaluate.main, "hub_cards.publish": publish.main}
        lines = []
        for line in printed.splitlines():
            if line.startswith("  "):
                words = shlex.split(line)
                start = 0 if words[0] == "medglip" else 2
                lines.append((words[start + 1 :], known[words[start]]))
        assert len(lines) == 3
        return lines

    def test_the_card_s_code_names_no_folder(self, tmp_path: Path) -> None:
        settings = finetune.FinetuneArguments("d", "ct", str(tmp_path), lora=True, out=str(tmp_path / "run"))
        text = card(settings, results_of(*SCORES))
        assert 'load_grounder("FOLDER", base="FOLDER OF' in text and str(tmp_path) not in text
        pushed = finetune.FinetuneArguments("d", "ct", "org/base", lora=True, push_to_hub="clinic/mine")
        assert 'load_grounder("clinic/mine")' in card(pushed, results_of(*SCORES))


class TestHelp:
    def test_defaults_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            finetune.main(["--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert stop.value.code == 0 and "default: None" not in text and "default: False" not in text
        assert "(default: runs/finetune)" in text and text.count("(default: last)") == 1

    @pytest.mark.parametrize(
        "more", [["--epoch_count", "3"], ["--epochs", "many"], ["--epochs", "-1"], ["--keep", "x"]]
    )
    def test_one_line_that_names_the_help(self, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        try:
            status: Any = finetune.main(["--data", "d", "--modality", "ct", *more])
        except SystemExit as stop:
            status = stop.code
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert status == 2 and line.startswith("error: ") and "python -m training.fit.finetune --help" in line


def test_the_table_of_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, data = save_tiny_checkpoint(tmp_path / "base"), make_data(tmp_path / "data")
    arguments = ["--model", str(base), "--data", str(data), "--modality", "ct", "--out", str(tmp_path / "out")]
    assert evaluate.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["images", "AP50", "%", "AP", "%"]
    assert [line.split("  ")[0] for line in lines[1:]] == ["left kidney", "right kidney", "ct"]
