# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Parts inside their wholes."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluate.hierarchy_metrics import hierarchy_scores, inside, parent_of
from training.evaluate.metrics import Detections

from ..tiny_data import record


def found(*boxes: tuple[str, float, list[float]]) -> Detections:
    corners = np.array([box for _, _, box in boxes], dtype=np.float32).reshape(-1, 4)
    return Detections(tuple(b[0] for b in boxes), np.array([b[1] for b in boxes], np.float32), corners)


DISC, CUP = [10.0, 10.0, 40.0, 40.0], [20.0, 20.0, 30.0, 30.0]


def test_the_nearest_asked_label_above_is_the_parent() -> None:
    assert parent_of("optic cup", ["optic cup", "optic disc"]) == "optic disc"
    assert parent_of("optic cup", ["optic cup", "optic nerve head"]) == "optic nerve head"
    assert parent_of("left lung", ["left lung", "lung", "right lung"]) == "lung"
    assert parent_of("optic disc", ["optic cup", "optic disc"]) is None
    assert parent_of("something else", ["optic disc"]) is None


def test_boxes_whose_center_is_in_another() -> None:
    parts = np.array([CUP, [35, 35, 60, 60], [0, 0, 100, 100]], np.float32)
    assert inside(parts, np.array([DISC], np.float32)) == 1
    assert inside(parts, np.array([DISC, [45, 45, 55, 55]], np.float32)) == 3
    assert inside(parts, np.zeros((0, 4), np.float32)) == 0 == inside(parts[:0], parts)


def test_shares_over_images() -> None:
    records = [record([DISC, CUP], ["optic disc", "optic cup"]) for _ in range(3)]
    detections = [
        found(("optic disc", 0.9, DISC), ("optic cup", 0.8, CUP), ("optic cup", 0.1, [60, 60, 70, 70])),
        found(("optic disc", 0.9, DISC), ("optic cup", 0.8, [60, 60, 70, 70])),
        found(("optic disc", 0.2, DISC), ("optic cup", 0.8, CUP)),
    ]
    scores = hierarchy_scores(records, detections, 0.3)
    assert scores["boxes"] == scores["images"] == 3
    assert scores["inside"] == pytest.approx(1 / 3) and scores["parent_found"] == pytest.approx(2 / 3)
    assert scores["true_inside"] == 1.0 and list(scores["pairs"]) == ["optic cup: optic disc"]


def test_without_parents_there_are_no_shares() -> None:
    scores = hierarchy_scores([record([DISC], ["polyp"])], [found(("polyp", 0.9, DISC))], 0.3)
    assert scores == {
        "boxes": 0,
        "inside": None,
        "true_inside": None,
        "images": 0,
        "parent_found": None,
        "pairs": {},
    }
