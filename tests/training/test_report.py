# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Markdown tables out of an evaluation's JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training import report


def entry(ap50: float, images: int) -> dict[str, Any]:
    counts = {"train_images": images, "train_boxes": images, "validation_images": 3, "validation_boxes": 4}
    return {"AP": ap50 / 2, "AP50": ap50, **counts}


SOURCE: dict[str, Any] = {"images": 5, "train_images": 40, "AP": 0.4, "AP50": 0.8}
SOURCE["labels"] = {"rare": entry(0.1, 2), "polyp": entry(0.9, 40)}
RESULT: dict[str, Any] = {
    "images": 5,
    "train_images": 40,
    "AP": 0.4,
    "AP50": 0.8125,
    "AP50_well_shown": None,
    "labels": {"polyp": entry(0.9, 40)},
    "sources": {"b": SOURCE},
    "side_confusion": {"share": 0.125, "labels": {"left kidney": {"wrong": 1, "pictures": 8}}},
    "scores": {"present": 0.67, "absent": None, "foreign": 0.081},
    "synonyms": [{"source": "b", "label": "polyp", "wording": "adenoma", "AP": 0.5, "AP50": 0.85}],
    "seconds_per_image": 0.052,
}


def test_every_number_comes_from_the_results() -> None:
    text = report.render_markdown({"modalities": {"endoscopy": RESULT}})
    assert "| endoscopy | 40 | 5 | 81.2 | 40.0 | - | 12.5 | 0.67 | - | 0.08 | 0.05 |" in text
    assert text.index("| polyp | 40 | 3 (4) | 90.0 | 45.0 |") < text.index("| rare | 2 | 3 (4) | 10.0 | 5.0 |")
    assert "| b: polyp | adenoma | 85.0 | 50.0 |" in text and "| left kidney | 8 | 1 |" in text


def test_tables_without_sides_or_wordings_are_left_out() -> None:
    plain = {**RESULT, "synonyms": [], "side_confusion": {"share": None, "labels": {}}}
    text = report.render_markdown({"modalities": {"endoscopy": plain}})
    assert "asked as" not in text and "both sides" not in text


def test_rows_and_columns_of_a_table() -> None:
    lines = report.table(["a", "b"], [["x", 1], ["y", 2]]).splitlines()
    assert lines == ["| a | b |", "| --- | ---: |", "| x | 1 |", "| y | 2 |"]


def test_the_command_writes_a_file_and_refuses_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "results.json", tmp_path / "results.md"
    source.write_text(json.dumps({"modalities": {"endoscopy": RESULT}}), encoding="utf-8")
    assert report.main([str(source), "--out", str(target)]) == 0
    assert target.read_text(encoding="utf-8").startswith("| modality |")
    source.write_text("not json", encoding="utf-8")
    assert report.main([str(source)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {source}:")
