# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Markdown tables out of an evaluation's JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modeling_medglip.outputs.markdown import table
from training.evaluate import report, tables


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
    "side_confusion": {"share": 0.125, "labels": {"left kidney": {"wrong": 1, "images": 8}}},
    "scores": {"present": 0.67, "absent": None, "foreign": 0.081},
    "at_threshold": {"threshold": 0.3, "precision": 0.912, "recall": None, "wrong_per_image": 0.25},
    "synonyms": [{"source": "b", "label": "polyp", "wording": "adenoma", "AP": 0.5, "AP50": 0.85}],
    "seconds_per_image": 0.052,
}


def test_every_number_comes_from_the_results() -> None:
    text = report.render_markdown({"modalities": {"endoscopy": RESULT}})
    assert "| endoscopy | 40 | 5 | 81.2 | 40.0 | - | 12.5 | 0.67 | - | 0.08 | 0.05 |" in text
    assert text.index("| polyp | 40 | 3 (4) | 90.0 | 45.0 |") < text.index("| rare | 2 | 3 (4) | 10.0 | 5.0 |")
    assert "| endoscopy | 0.3 | 91.2 | - | 0.25 |" in text
    assert "| b: polyp | adenoma | 85.0 | 50.0 |" in text and "| left kidney | 8 | 1 |" in text


def test_tables_without_sides_or_wordings_are_left_out() -> None:
    plain = {**RESULT, "synonyms": [], "side_confusion": {"share": None, "labels": {}}}
    text = report.render_markdown({"modalities": {"endoscopy": plain}})
    assert "asked as" not in text and "both sides" not in text


def test_rows_and_columns_of_a_table() -> None:
    lines = table(["a", "b"], [["x", 1], ["y", 2]]).splitlines()
    assert lines == ["| a | b |", "| --- | ---: |", "| x | 1 |", "| y | 2 |"]


ROUTER: dict[str, Any] = {
    "validation": {"accuracy": 0.9, "by_modality": {"ct": {"accuracy": 0.9, "images": 20}}},
    "validation_augmented": {"accuracy": 0.8, "by_modality": {"ct": {"accuracy": 0.8, "images": 20}}},
}
BENCHMARK: dict[str, Any] = {
    "networks": {
        "ours": {"seconds": [1.0, 3.0, 2.0], "peak_bytes": 2_000_000},
        tables.BASELINE: {"seconds": [2.0, 4.0, 5.0], "peak_bytes": 3_000_000},
    }
}


def test_router_table() -> None:
    text = tables.router_table(ROUTER)
    assert "| all | 20 | 90.0 | 80.0 |" in text and "| ct | 20 | 90.0 | 80.0 |" in text and "left out" not in text
    assert "| ct/a | 50.0 | - |" in tables.router_table({**ROUTER, "source_left_out": {"ct/a": 0.5}})
    bins = [{"share": 1.0, "probability": 0.8, "accuracy": 0.75}]
    calibration = {
        "temperature": 1.5, "expected_calibration_error_before": 0.2, "expected_calibration_error": 0.05,
        "bins": bins, "level": 0.7, "unsure": 0.1, "accuracy_of_sure": 0.9,
    }  # fmt: skip
    left_out = {"source_left_out": {"ct/a": 0.5}, "source_left_out_augmented": {"ct/a": 0.25}}
    text = tables.router_table({**ROUTER, **left_out, "calibration": calibration})
    assert "| ct/a | 50.0 | 25.0 |" in text and "off by 5.0 points" in text and "| 100.0 | 80.0 | 75.0 |" in text


def test_the_benchmark_s_ratio_is_taken_round_by_round() -> None:
    # 1 / 2, 3 / 4, 2 / 5: the median is 0.50, not the ratio of the medians
    assert "| ours | 2000 | 2 | 0.50 |" in tables.benchmark_table(BENCHMARK)


def test_the_page_holds_what_was_measured_beside_the_results() -> None:
    results = {"modalities": {"endoscopy": RESULT}}
    bare = report.render_page(results)
    assert bare.startswith("# Results") and "## endoscopy" in bare and bare.count("Not measured.") == 4
    full = report.render_page(results, {"router": ROUTER, "benchmark": BENCHMARK})
    positions = [full.index(text) for text in ("## endoscopy", "| ct | 20 |", "| ours | 2000 |")]
    assert positions == sorted(positions)


def test_a_page_of_other_weights_claims_nothing_of_the_shipped_ones() -> None:
    common = {"modalities": {"endoscopy": RESULT}, "model": "mine", "weights_sha256": "ab" * 32, "embedded": False}
    text = report.render_page({**common, "shared_patients": 3})
    assert text.startswith("# Results of mine\n") and "weights abababababab" in text
    assert "make results" not in text and "fitted on" not in text and "too: 3; the figures flatter" in text
    adapted = report.render_page({**common, "adapter": {"name": "polyps", "weights_sha256": "cd" * 32}})
    assert "# Results of mine with the adapter polyps" in adapted and "adapter cdcdcdcdcdcd" in adapted


def test_the_command_writes_a_file_and_refuses_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "results.json"
    source.write_text(json.dumps({"modalities": {"endoscopy": RESULT}}), encoding="utf-8")
    (tmp_path / "router.json").write_text(json.dumps(ROUTER), encoding="utf-8")
    assert report.main([str(source)]) == 0
    assert "| ct | 20 |" in (tmp_path / "results.md").read_text(encoding="utf-8")
    assert report.main([str(source), "--out", str(tmp_path / "other.md")]) == 0 and (tmp_path / "other.md").is_file()
    source.write_text("not json", encoding="utf-8")
    assert report.main([str(source)]) == 2 and report.main([str(tmp_path / "absent.json")]) == 2
    for content in ("[]", "3", '{"modalities": []}', '{"modalities": {"ct": 3}}', '{"embedded": false}'):
        source.write_text(content, encoding="utf-8")
        assert report.main([str(source)]) == 2
    messages = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in messages) and len(messages) == 7
    assert all(line.endswith("is not a file that training.evaluate writes") for line in messages[2:])


def test_labels_and_sources_are_shown_as_they_are() -> None:
    unsafe = "x | y <b>z</b>"
    labels = {unsafe: {"train_images": 1, "validation_images": 1, "validation_boxes": 1, "AP50": 0.5, "AP": 0.5}}
    part = {"train_images": 1, "images": 1, "AP50": 0.5, "AP": 0.5, "labels": labels}
    rows = [{"source": unsafe, "label": unsafe, "wording": unsafe, "AP50": 0.5, "AP": 0.5}]
    sides = {"side_confusion": {"labels": {unsafe: {"images": 1, "wrong": 0}}}}
    made = [tables.label_table({"sources": {unsafe: part}}), tables.wording_table({"synonyms": rows})]
    for text in (*made, tables.side_table(sides)):
        assert "<b>" not in text and "x | y" not in text and "x \\| y &lt;b&gt;" in text


def test_other_measures_and_parts() -> None:
    pair = {"boxes": 8, "inside": 0.75, "true_inside": None, "images": 4, "parent_found": 0.5}
    more = {
        "AP75": 0.3,
        "sizes": {"small": None, "medium": 0.2, "large": 0.6},
        "phrases": {"phrases": 9, "accuracy": 0.7, "mean_iou": 0.65, "pointing": 0.9},
        "froc": {"mean": 0.55},
        "negatives": {"images": 3, "boxes_per_image": 0.1, "clean": 2 / 3},
        "calibration_error": 0.043,
        "hierarchy": {**pair, "pairs": {"optic cup: optic disc": pair, "unseen: whole": {**pair, "boxes": 0}}},
    }
    text = report.render_markdown({"modalities": {"fundus": {**RESULT, **more}}})
    assert "| fundus | 30.0 | - | 20.0 | 60.0 | 70.0 | 65.0 | 90.0 | 55.0 | 3 | 66.7 | 0.04 |" in text
    assert "| fundus, optic cup: optic disc | 8 | 75.0 | - | 50.0 |" in text and "unseen" not in text
    assert "Other measures" not in report.render_markdown({"modalities": {"fundus": RESULT}})


def test_calibration_errors() -> None:
    entry = {"images": 51, "before": 0.1234, "after": 0.02, "other_patients": None}
    text = tables.calibration_table({"modalities": {"ct": entry}})
    assert "copies" not in text
    assert "copies, 3 of each validation image" in tables.calibration_table(
        {"modalities": {"ct": {**entry, "copies": 3}}}
    )
    assert "| ct | 51 | 0.123 | 0.020 | - |" in text
