# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The log of what was tried: figures come from the runs' own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.studies import training_log


def scores(ap: float) -> dict[str, Any]:
    return {"mean": {"AP": ap, "AP50": 2 * ap}, "labels": {"liver": {"AP": ap, "AP50": 2 * ap}}}


def make_run(folder: Path, ap: float) -> Path:
    folder.mkdir(parents=True)
    results = {
        "settings": {"modality": "ct", "lora": False},
        "recipe": {"size": 512, "epochs": 20, "batch": 4, "head_rate": 1e-3, "warmup_steps": 3},
        "images": {"train": 9, "replayed": 0, "validation": 3, "broken": 0},
        "before": scores(0.1),
        "after": scores(ap),
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def run(log: Path, *arguments: str) -> int:
    return training_log.main([*arguments, "--log", str(log)])


def test_runs_are_added_and_replaced_by_name(tmp_path: Path) -> None:
    log = tmp_path / "docs" / "training_log.json"
    first, second = make_run(tmp_path / "one", 0.2), make_run(tmp_path / "two", 0.3)
    assert run(log, "--name", "larger", "--run", str(first), "--note", "Small organs have few pixels.") == 0
    assert run(log, "--name", "other", "--run", str(first)) == 0
    assert run(log, "--name", "larger", "--run", str(second), "--note", "It helped.") == 0
    text = (log.parent / "training-log.md").read_text(encoding="utf-8")
    assert "| larger | ct | 512 | 20 | 20.0 | 60.0 | 10.0 | 30.0 |" in text
    assert "| other | ct | 512 | 20 | 20.0 | 40.0 | 10.0 | 20.0 |" in text
    assert "- **larger**: It helped." in text and "few pixels" not in text
    assert str(tmp_path) not in log.read_text(encoding="utf-8")


def test_two_evaluations(tmp_path: Path) -> None:
    paths = []
    for name, ap in (("before", 0.1), ("after", 0.25)):
        entry = {"AP": ap, "AP50": 2 * ap, "train_images": 9}
        part = {"AP": ap, "AP50": 2 * ap, "labels": {"liver": entry}}
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps({"modalities": {"ct": part}}), encoding="utf-8")
    log = tmp_path / "training_log.json"
    given = ["--name", "a", "--before", str(paths[0]), "--after", str(paths[1])]
    assert run(log, *given, "--modality", "ct") == 0
    assert "| a | ct | - | - | 20.0 | 50.0 | 10.0 | 25.0 |" in (tmp_path / "training-log.md").read_text(
        encoding="utf-8"
    )
    assert run(log, *given, "--modality", "mri") == 2 and run(log, *given) == 2


def test_two_sources_left_out(tmp_path: Path) -> None:
    paths = []
    for name, ap in (("before", 0.3), ("after", 0.25)):
        part = {"size": 224, "epochs": 10, "sources": {"clinic": {"unseen": scores(ap)}}}
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps({"modalities": {"ct": part}}), encoding="utf-8")
    log = tmp_path / "training_log.json"
    given = ["--name", "a", "--before", str(paths[0]), "--after", str(paths[1]), "--modality", "ct"]
    assert run(log, *given, "--source", "clinic") == 0
    text = (tmp_path / "training-log.md").read_text(encoding="utf-8")
    assert "| a | ct | 224 | 10 | 60.0 | 50.0 | 30.0 | 25.0 |" in text
    assert run(log, *given, "--source", "elsewhere") == 2


@pytest.mark.parametrize("content", [None, "not json", "{}"])
def test_bad_runs_are_refused_in_one_line(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content, encoding="utf-8")
    assert run(tmp_path / "log.json", "--name", "a", "--run", str(tmp_path)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / "log.json").exists()


def test_the_committed_page_is_what_the_command_writes() -> None:
    docs = Path(__file__).parents[3] / "docs"
    log = json.loads((docs / "training_log.json").read_text(encoding="utf-8"))
    assert (docs / training_log.PAGE).read_text(encoding="utf-8") == training_log.render_page(log)
