# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Average precision once more: the same figures as pycocotools', and intervals over patients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.records import GroundingRecord
from training.evaluate.bootstrap import edges, interval, match, resampled
from training.evaluate.metrics import Detections, average_precision

from ..tiny_data import record


def made_up(seed: int, images: int = 6) -> tuple[list[GroundingRecord], list[Detections]]:
    """Images with a few boxes of two labels; what is found is near the truth, beside it, or there twice."""
    rng = np.random.default_rng(seed)
    records, detections = [], []
    for number in range(images):
        count = int(rng.integers(0, 5))
        corners = rng.integers(0, 60, (count, 2)).astype(np.float32)
        boxes = np.concatenate([corners, corners + rng.integers(5, 30, (count, 2))], axis=1)
        labels = [("liver", "spleen")[i] for i in rng.integers(0, 2, count)]
        annotated = ["liver", "spleen"] if rng.random() < 0.8 else ["liver"]
        keep = [i for i, label in enumerate(labels) if label in annotated]
        shown = [labels[i] for i in keep]
        records.append(record(boxes[keep].tolist(), shown, annotated, image_id=str(number), patient=str(number // 2)))
        times = int(rng.integers(0, 8))
        picks = rng.integers(0, max(count, 1), times) if count else np.zeros(0, int)
        near = boxes[picks].reshape(-1, 4) + rng.normal(0, rng.choice([0, 1, 6]), (len(picks), 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        scores = np.round(rng.random(len(picks)), 1).astype(np.float32)  # with ties
        names = tuple(labels[i] if rng.random() < 0.8 else "liver" for i in picks)
        order = np.argsort(-scores, kind="mergesort")
        detections.append(Detections(tuple(names[i] for i in order), scores[order], near[order].astype(np.float32)))
    return records, detections


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_figures_are_pycocotools(seed: int) -> None:
    records, detections = made_up(seed)
    for label, score in average_precision(records, detections).items():
        ours = match(records, detections, label).average_precision()
        assert ours.mean() == pytest.approx(score.ap, abs=1e-9) and ours[0] == pytest.approx(score.ap50, abs=1e-9)


def test_a_image_that_counts_twice_is_there_twice() -> None:
    records, detections = made_up(3)
    weights = np.array([2, 0, 1, 3, 1, 0])
    for label in ("liver", "spleen"):
        chosen = [n for n, r in enumerate(records) if label in r.annotated]
        again = [n for n in chosen for _ in range(weights[n])]
        matches = match(records, detections, label)
        repeated = match([records[n] for n in again], [detections[n] for n in again], label)
        assert np.allclose(matches.average_precision(weights[chosen]), repeated.average_precision(), equal_nan=True)


def test_intervals_hold_the_figure_and_shrink_with_more_patients() -> None:
    widths = []
    for images in (10, 120):
        records, detections = made_up(5, images)
        detections = [
            Detections(f.labels, f.scores, f.boxes) if n % 3 else Detections((), f.scores[:0], f.boxes[:0])
            for n, f in enumerate(detections)
        ]
        scores = average_precision(records, detections)
        mean = np.mean([score.ap50 for score in scores.values()])
        low, high = interval(records, detections, list(scores), times=200)["AP50"]
        assert low <= mean <= high
        widths.append(high - low)
    assert widths[1] < widths[0]
    assert interval(records, detections, list(scores), times=50) == interval(
        records, detections, list(scores), times=50
    )


def alone(detected: bool, label: str, patient: int) -> tuple[GroundingRecord, Detections]:
    """An image of one patient with one box of one label, found exactly or not at all; two labels are asked."""
    box = [[5.0, 5.0, 20.0, 20.0]]
    item = record(box, [label], ["liver", "spleen"], image_id=str(patient), patient=str(patient))
    names, count = ((label,), 1) if detected else ((), 0)
    return item, Detections(names, np.ones(count, np.float32), np.array(box * count, np.float32).reshape(-1, 4))


def test_a_label_of_one_patient_does_not_pull_the_interval_aside() -> None:
    """Left out of the draws that miss its patient, a rare label that is never found would raise the mean there."""
    images = [alone(True, "liver", n) for n in range(9)] + [alone(False, "spleen", 9)]
    records, detections = [list(part) for part in zip(*images, strict=True)]
    drawn = resampled(records, detections, ["liver", "spleen"], times=50)
    assert np.allclose(drawn, 0.5)
    assert interval(records, detections, ["liver", "spleen"], times=50)["AP"] == pytest.approx((0.5, 0.5))


def test_the_draws_do_not_hang_on_the_names_of_patients() -> None:
    records, detections = made_up(5, images=12)
    renamed = [replace(r, patient=f"{97 - int(r.patient)}x") for r in records]
    labels = ["liver", "spleen"]
    assert np.array_equal(
        resampled(records, detections, labels, times=20), resampled(renamed, detections, labels, times=20)
    )


def test_few_patients_have_no_interval() -> None:
    images = [alone(n > 0, "liver", n) for n in range(5)]
    records, detections = [list(part) for part in zip(*images, strict=True)]
    assert interval(records[:4], detections[:4], ["liver"], times=20) == {}
    assert interval(records, detections, ["spleen"], times=20) == {}  # no true box
    low, high = interval(records, detections, ["liver"], times=200)["AP50"]
    assert 0 < low < 0.8 < high <= 1


def test_nothing_to_find() -> None:
    empty = match([], [], "liver")
    assert np.isnan(empty.average_precision()).all()


def test_the_same_patients_are_drawn_for_two_detectors() -> None:
    records, detections = made_up(5, images=12)
    worse = [Detections(d.labels[1:], d.scores[1:], d.boxes[1:]) for d in detections]
    labels = ["liver", "spleen"]
    first, second = (resampled(records, d, labels, times=200, seed=3) for d in (detections, worse))
    assert first.shape == (200, 2) and np.array_equal(first, resampled(records, detections, labels, times=200, seed=3))
    # what is taken away from every draw in the same way varies less than each of them
    apart = np.hypot(first[:, 0].std(), second[:, 0].std())
    assert (first[:, 0] - second[:, 0]).std() < 0.7 * apart
    assert edges(first[:, 0] - first[:, 0], 0.25) == (0.25, 0.25)
    low, high = edges(first[:, 0], 0.5)
    assert low < 0.5 < high and high - low == pytest.approx(np.diff(np.percentile(first[:, 0], [2.5, 97.5])).item())
    with pytest.raises(ValueError, match="nothing"):
        edges(np.full(3, np.nan), 0.0)
