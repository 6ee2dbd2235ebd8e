# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Measures beside average precision, on cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluate.metrics import Detections
from training.evaluate.phrase_metrics import calibration_error, froc, on_negatives, phrase_scores, reliability

from ..tiny_data import record


def found(*entries: tuple[str, float, list[float]]) -> Detections:
    ordered = sorted(entries, key=lambda entry: -entry[1])
    boxes = np.array([entry[2] for entry in ordered], np.float32).reshape(-1, 4)
    return Detections(tuple(e[0] for e in ordered), np.array([e[1] for e in ordered], np.float32), boxes)


LIVER, SPLEEN = [0.0, 0, 10, 10], [50.0, 50, 70, 70]


def test_single_phrases() -> None:
    both = record([LIVER, SPLEEN], ["liver", "spleen"])
    result = phrase_scores(
        [both, both, both],
        [
            found(("liver", 0.9, LIVER), ("liver", 0.5, SPLEEN), ("spleen", 0.8, SPLEEN)),
            found(("liver", 0.9, [0, 0, 10, 5]), ("spleen", 0.9, [58, 58, 62, 62])),  # half of it; its middle
            found(("liver", 0.9, SPLEEN)),
        ],
    )
    assert result["phrases"] == 6 and result["accuracy"] == pytest.approx(3 / 6)
    assert result["mean_iou"] == pytest.approx((1 + 1 + 0.5 + 16 / 400 + 0 + 0) / 6)
    assert result["pointing"] == pytest.approx(4 / 6)
    assert phrase_scores([], []) == {"phrases": 0, "accuracy": None, "mean_iou": None, "pointing": None}


def test_froc() -> None:
    records = [record([LIVER], ["liver"]), record([LIVER], ["liver"])]
    detections = [
        found(("liver", 0.9, LIVER), ("liver", 0.8, SPLEEN)),
        found(("liver", 0.7, SPLEEN), ("liver", 0.6, LIVER)),
    ]
    curve = froc(records, detections)
    # One hit before the first miss (half a miss per image), the second after two (one per image).
    assert curve["0.25"] == curve["0.5"] == 0.5 and curve["1"] == curve["8"] == 1.0
    assert froc([record([], [], ["liver"])], [found()])["mean"] is None
    assert froc(records, [found(), found()])["mean"] == 0.0


def test_images_without_anything() -> None:
    empty = record([], [], ["liver"])
    result = on_negatives(
        [empty, empty, record([LIVER], ["liver"])],
        [found(("liver", 0.5, LIVER), ("liver", 0.2, LIVER)), found(), found(("liver", 0.9, SPLEEN))],
        0.3,
    )
    assert result == {"images": 2, "boxes_per_image": 0.5, "clean": 0.5}
    assert on_negatives([record([LIVER], ["liver"])], [found()], 0.3)["images"] == 0


def test_scores_that_say_what_they_mean() -> None:
    rng = np.random.default_rng(0)
    records, honest, boastful = [], [], []
    for score in rng.random(3000) * 0.9 + 0.08:
        right = rng.random() < score
        records.append(record([LIVER], ["liver"]))
        honest.append(found(("liver", float(score), LIVER if right else SPLEEN)))
        boastful.append(found(("liver", 0.99, LIVER if right else SPLEEN)))
    error, worse = (calibration_error(reliability(records, part)) for part in (honest, boastful))
    assert error is not None and error < 0.04 and worse is not None and worse > 0.3
    assert calibration_error(reliability([], [])) is None
    assert sum(entry["boxes"] for entry in reliability(records, honest)) == 3000
