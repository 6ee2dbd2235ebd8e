# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The images that went worst."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.evaluate.metrics import Detections
from training.evaluate.worst_cases import agreement, case, worst_cases, write_worst_cases

from ..tiny_data import record, trunk_image


BOX, ELSEWHERE = [10.0, 10.0, 40.0, 40.0], [60.0, 50.0, 90.0, 70.0]


def found(*boxes: list[float], score: float = 0.9) -> Detections:
    corners = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Detections(("liver",) * len(boxes), np.full(len(boxes), score, np.float32), corners)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [([BOX], 1.0), ([], 0.0), ([ELSEWHERE], 0.0), ([BOX, ELSEWHERE], 2 / 3)],
)
def test_agreement_is_f1(boxes: list[list[float]], expected: float) -> None:
    assert agreement(record([BOX], ["liver"]), found(*boxes), 0.3) == pytest.approx(expected)


def test_an_empty_image_without_a_box_is_right() -> None:
    empty = record([], [], ["liver"])
    assert agreement(empty, found(), 0.3) == agreement(empty, found(BOX, score=0.2), 0.3) == 1.0
    assert agreement(empty, found(BOX), 0.3) == 0.0


def test_worst_first_and_right_ones_never() -> None:
    records = [record([BOX], ["liver"]) for _ in range(3)]
    detections = [found(BOX, ELSEWHERE), found(BOX), found()]
    assert worst_cases(records, detections, 0.3) == [2, 0]
    assert worst_cases(records, detections, 0.3, count=1) == [2]


def test_a_sheet_is_written_where_something_is_wrong(tmp_path: Path) -> None:
    pixels = trunk_image((100, 80))
    records = [record([BOX], ["liver"], pixels=pixels)]
    assert write_worst_cases(tmp_path / "none.png", records, [found(BOX)], 0.3) is None
    path = write_worst_cases(tmp_path / "sheet" / "worst_ct.png", records, [found(ELSEWHERE)], 0.3)
    assert path is not None and Image.open(path).size == (3 * 560, 560)


def test_true_boxes_are_white_and_detections_colored() -> None:
    dark = record([BOX], ["liver"], pixels=np.zeros((80, 100), np.uint8))
    one, other = (np.asarray(case(dark, boxes, 0.3).convert("RGB"), np.int64) for boxes in (found(), found(ELSEWHERE)))
    scale = 8  # 100 pixels become 800
    assert one[10 * scale, 25 * scale].min() > 120
    edge = other[50 * scale, 75 * scale]
    assert edge.max() - edge.min() > 60 and one[50 * scale, 75 * scale].max() < 60
