# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Bootstrap intervals of COCO average precision over patients.

Boxes are matched once, and average precision is computed again for every resampled set of patients. Matching and
interpolation equal those of pycocotools (all areas, at most 100 boxes per image and label), as a test shows.
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
MAX_BOXES = 100
RESAMPLED, LEVEL = 1000, 0.95
# Draws from fewer patients say nothing about other patients.
MIN_PATIENTS = 5


@dataclass(frozen=True)
class Matches:
    """Detections of one label in all images of its sources, matched with the true boxes.

    Args:
        scores (`np.ndarray` of shape `(n,)`): of all boxes, best first.
        right (`np.ndarray` of shape `(thresholds, n)`): whether each box is right.
        image (`np.ndarray` of shape `(n,)`): the image of each box.
        true_boxes (`np.ndarray` of shape `(images,)`): true boxes in each image.
    """

    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    image: NDArray[np.int64]
    true_boxes: NDArray[np.int64]

    def average_precision(self, weights: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Return AP at each threshold, `(thresholds,)`, with each image counted `weights[image]` times.

        It is NaN without a true box.
        """
        times = np.ones(len(self.true_boxes), np.int64) if weights is None else weights
        positives = int((self.true_boxes * times).sum())
        if positives == 0:
            return np.full(len(THRESHOLDS), np.nan)
        counts = times[self.image]
        hits, misses = np.cumsum(self.right * counts, axis=1), np.cumsum(~self.right * counts, axis=1)
        recall = hits / positives
        precision = hits / np.maximum(hits + misses, np.finfo(np.float64).eps)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        interpolated = np.zeros((len(THRESHOLDS), len(RECALLS)))
        for row in range(len(THRESHOLDS)):
            columns = np.searchsorted(recall[row], RECALLS, side="left")
            inside = columns < recall.shape[1]
            interpolated[row, inside] = precision[row, columns[inside]]
        return np.asarray(interpolated.mean(axis=1))


def match(records: Sequence[GroundingRecord], detections: Sequence[Detections], label: str) -> Matches:
    """Match the boxes of one label with the true ones, in images whose source annotates it.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        detections (`Sequence[Detections]`): one per record.
        label (`str`): the label to match.
    """
    scores, right, images, true_boxes = [], [], [], []
    chosen = [
        (record, result) for record, result in zip(records, detections, strict=True) if label in record.annotated
    ]
    for number, (record, result) in enumerate(chosen):
        true = record.boxes[[name == label for name in record.labels]]
        box_scores, boxes = result.of(label)
        order = np.argsort(-box_scores, kind="mergesort")[:MAX_BOXES]
        scores.append(box_scores[order].astype(np.float64))
        right.append(_matched(box_iou(boxes[order], true)))
        images.append(np.full(len(order), number))
        true_boxes.append(len(true))
    if not chosen:
        nothing = np.zeros(0)
        return Matches(nothing, np.zeros((len(THRESHOLDS), 0), bool), nothing.astype(int), nothing.astype(int))
    every = np.concatenate(scores)
    order = np.argsort(-every, kind="mergesort")
    return Matches(
        every[order], np.concatenate(right, axis=1)[:, order], np.concatenate(images)[order], np.array(true_boxes)
    )


def _matched(overlap: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether each box (best first) matches a true one that no better box matches, at every threshold."""
    right = np.zeros((len(THRESHOLDS), len(overlap)), dtype=bool)
    for row, threshold in enumerate(THRESHOLDS):
        free = np.ones(overlap.shape[1], dtype=bool)
        for box in range(len(overlap)):
            free_boxes = np.flatnonzero(free & (overlap[box] >= min(threshold, 1 - 1e-10)))
            if len(free_boxes):
                # Of equal overlaps pycocotools takes the last one.
                best = free_boxes[::-1][np.argmax(overlap[box, free_boxes[::-1]])]
                free[best], right[row, box] = False, True
    return right


def resampled(
    records: Sequence[GroundingRecord],
    detections: Sequence[Detections],
    labels: Sequence[str],
    times: int = RESAMPLED,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return AP and AP50, means over labels, of sets of patients drawn with replacement, `(times, 2)`.

    The draws depend on the order of the patients and on the seed, not on names, which change with every build of the
    data. Figures of two detectors can therefore be subtracted draw by draw. A label without a true box in a draw
    counts with its AP in all images, so that every draw is a mean over the same labels. Without any label all are NaN.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        detections (`Sequence[Detections]`): one per record.
        labels (`Sequence[str]`): over which means are taken.
        times (`int`, *optional*, defaults to `RESAMPLED`): number of draws.
        seed (`int`, *optional*, defaults to `0`): of everything random.
    """
    names = dict.fromkeys(map(patient_of, records))
    index = {name: number for number, name in enumerate(names)}
    parts = []
    for label in labels:
        patients = [index[patient_of(record)] for record in records if label in record.annotated]
        matches = match(records, detections, label)
        if matches.true_boxes.sum():
            parts.append((matches, np.array(patients, dtype=np.int64), matches.average_precision()))
    rng = np.random.default_rng(seed)
    drawn = np.full((times, 2), np.nan)
    for row in range(times if parts else 0):
        counts = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        scores = [(matches.average_precision(counts[patients]), whole) for matches, patients, whole in parts]
        drawn[row] = _ap_and_ap50([np.where(np.isnan(score), whole, score) for score, whole in scores])
    return drawn


def patient_of(record: GroundingRecord) -> tuple[str, str]:
    """Return source and patient; names of patients are unique within their source only."""
    return record.source, record.patient


def _ap_and_ap50(scores: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return AP and AP50 as means over labels, from APs of shape `(thresholds,)`."""
    array = np.array(scores)
    return float(array.mean()), float(array[:, 0].mean())


def edges(drawn: NDArray[np.float64], figure: float) -> tuple[float, float]:
    """Return the 95 % interval around a figure from resampled ones `(times,)`, without those that are NaN.

    The draws are shifted so that their mean is the figure. AP of images drawn twice is higher than AP of as many
    different ones, a bias that plain percentiles would keep.

    Args:
        drawn (`np.ndarray`): resampled figures, `(times,)`.
        figure (`float`): of all images.

    Raises:
        `ValueError`: all figures are NaN.
    """
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        raise ValueError("nothing to take an interval of: no resampled figure is a number")
    low, high = np.percentile(known - known.mean(), [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2])
    return figure + float(low), figure + float(high)


def interval(
    records: Sequence[GroundingRecord],
    detections: Sequence[Detections],
    labels: Sequence[str],
    times: int = RESAMPLED,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return 95 % bootstrap intervals of the mean over labels, drawn over patients.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        detections (`Sequence[Detections]`): one per record.
        labels (`Sequence[str]`): over which means are taken.
        times (`int`, *optional*, defaults to `RESAMPLED`): number of draws.
        seed (`int`, *optional*, defaults to `0`): of everything random.

    Returns:
        `AP` and `AP50`, each (low, high) in 0..1; empty for fewer than `MIN_PATIENTS` patients.
    """
    matched = [match(records, detections, label) for label in labels]
    whole = [matches.average_precision() for matches in matched if matches.true_boxes.sum()]
    if not whole or len(set(map(patient_of, records))) < MIN_PATIENTS:
        return {}
    drawn, figures = resampled(records, detections, labels, times, seed), _ap_and_ap50(whole)
    matches = {name: edges(drawn[:, i], figures[i]) for i, name in enumerate(("AP", "AP50"))}
    return {name: (max(low, 0.0), min(high, 1.0)) for name, (low, high) in matches.items()}
