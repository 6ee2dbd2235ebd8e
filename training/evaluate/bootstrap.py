# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""COCO's average precision from matches that are made once, so that it can be computed again for thousands of
resampled sets of patients: bootstrap intervals.

The matching and the interpolation are pycocotools' (all areas, at most 100 boxes per picture and label); the figures
are the same to the last digits, which a test shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.boxes import box_iou

from ..data.records import GroundingRecord
from .metrics import Detections


THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST_BOXES = 100
RESAMPLED, LEVEL = 1000, 0.95
# Of fewer patients the draws say nothing about other patients.
LEAST_PATIENTS = 5


@dataclass(frozen=True)
class Matches:
    """What was found for one label in all pictures of its sources.

    Args:
        scores (`np.ndarray` of shape `(n,)`): of all boxes, best first.
        right (`np.ndarray` of shape `(thresholds, n)`): whether each box is right.
        image (`np.ndarray` of shape `(n,)`): the picture of each box.
        truth (`np.ndarray` of shape `(pictures,)`): true boxes in each picture.
    """

    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    image: NDArray[np.int64]
    truth: NDArray[np.int64]

    def average_precision(self, weights: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """AP at each threshold, `(thresholds,)`, with every picture counted `weights[picture]` times; NaN without a
        true box."""
        times = np.ones(len(self.truth), np.int64) if weights is None else weights
        positives = int((self.truth * times).sum())
        if positives == 0:
            return np.full(len(THRESHOLDS), np.nan)
        own = times[self.image]
        hits, misses = np.cumsum(self.right * own, axis=1), np.cumsum(~self.right * own, axis=1)
        recall = hits / positives
        precision = hits / np.maximum(hits + misses, np.finfo(np.float64).eps)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        found = np.zeros((len(THRESHOLDS), len(RECALLS)))
        for row in range(len(THRESHOLDS)):
            places = np.searchsorted(recall[row], RECALLS, side="left")
            inside = places < recall.shape[1]
            found[row, inside] = precision[row, places[inside]]
        return np.asarray(found.mean(axis=1))


def match(records: Sequence[GroundingRecord], detections: Sequence[Detections], label: str) -> Matches:
    """Match the boxes of one label with the truth, in pictures whose source annotates it."""
    scores, right, images, truth = [], [], [], []
    chosen = [(record, found) for record, found in zip(records, detections, strict=True) if label in record.annotated]
    for number, (record, found) in enumerate(chosen):
        true = record.boxes[[name == label for name in record.labels]]
        own, boxes = found.of(label)
        order = np.argsort(-own, kind="mergesort")[:MOST_BOXES]
        scores.append(own[order].astype(np.float64))
        right.append(_matched(box_iou(boxes[order], true)))
        images.append(np.full(len(order), number))
        truth.append(len(true))
    if not chosen:
        nothing = np.zeros(0)
        return Matches(nothing, np.zeros((len(THRESHOLDS), 0), bool), nothing.astype(int), nothing.astype(int))
    every = np.concatenate(scores)
    order = np.argsort(-every, kind="mergesort")
    return Matches(
        every[order], np.concatenate(right, axis=1)[:, order], np.concatenate(images)[order], np.array(truth)
    )


def _matched(overlap: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each box (best first) takes a true one that no better box took, at every threshold."""
    right = np.zeros((len(THRESHOLDS), len(overlap)), dtype=bool)
    for row, threshold in enumerate(THRESHOLDS):
        free = np.ones(overlap.shape[1], dtype=bool)
        for box in range(len(overlap)):
            open_places = np.flatnonzero(free & (overlap[box] >= min(threshold, 1 - 1e-10)))
            if len(open_places):
                # Of equal overlaps pycocotools takes the last one.
                best = open_places[::-1][np.argmax(overlap[box, open_places[::-1]])]
                free[best], right[row, box] = False, True
    return right


def resampled(
    records: Sequence[GroundingRecord],
    detections: Sequence[Detections],
    labels: Sequence[str],
    times: int = RESAMPLED,
    seed: int = 0,
) -> NDArray[np.float64]:
    """AP and AP50, means over labels, of sets of patients drawn with replacement: `(times, 2)`.

    The draws depend on the order of the patients and the seed alone, not on their names, which are keyed anew in every
    build of the data: figures of two detectors can be subtracted draw by draw. A label without a true box in a draw
    counts there with what it has in all pictures, so that every draw is a mean over the same labels; without any label
    all are NaN.
    """
    names = dict.fromkeys(map(patient_of, records))
    place = {name: number for number, name in enumerate(names)}
    parts = []
    for label in labels:
        patients = [place[patient_of(record)] for record in records if label in record.annotated]
        matches = match(records, detections, label)
        if matches.truth.sum():
            parts.append((matches, np.array(patients, dtype=np.int64), matches.average_precision()))
    rng = np.random.default_rng(seed)
    drawn = np.full((times, 2), np.nan)
    for row in range(times if parts else 0):
        counts = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        scores = [(matches.average_precision(counts[patients]), whole) for matches, patients, whole in parts]
        drawn[row] = _ap_and_ap50([np.where(np.isnan(own), whole, own) for own, whole in scores])
    return drawn


def patient_of(record: GroundingRecord) -> tuple[str, str]:
    """Whose picture it is: sources name their patients without regard to each other."""
    return record.source, record.patient


def _ap_and_ap50(scores: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Means over labels, each `(thresholds,)`."""
    array = np.array(scores)
    return float(array.mean()), float(array[:, 0].mean())


def edges(drawn: NDArray[np.float64], figure: float) -> tuple[float, float]:
    """The 95 % interval round a figure from resampled ones `(times,)`; those that are NaN are left out.

    The draws are shifted so that their mean is the figure: AP of pictures that are drawn twice is higher than that of
    as many different ones, an error that an interval of plain percentiles keeps.

    Raises:
        `ValueError`: all are.
    """
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        raise ValueError("nothing to take an interval of")
    low, high = np.percentile(known - known.mean(), [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2])
    return figure + float(low), figure + float(high)


def interval(
    records: Sequence[GroundingRecord],
    detections: Sequence[Detections],
    labels: Sequence[str],
    times: int = RESAMPLED,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals of the mean over labels, drawn over patients.

    Returns:
        `AP` and `AP50`, each (low, high) in 0..1; nothing of fewer than `LEAST_PATIENTS` patients.
    """
    matched = [match(records, detections, label) for label in labels]
    whole = [found.average_precision() for found in matched if found.truth.sum()]
    if not whole or len(set(map(patient_of, records))) < LEAST_PATIENTS:
        return {}
    drawn, figures = resampled(records, detections, labels, times, seed), _ap_and_ap50(whole)
    found = {name: edges(drawn[:, i], figures[i]) for i, name in enumerate(("AP", "AP50"))}
    return {name: (max(low, 0.0), min(high, 1.0)) for name, (low, high) in found.items()}
