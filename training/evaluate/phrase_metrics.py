# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Measures besides average precision: single phrases, FROC, boxes in negative images, and calibration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.boxes import box_iou

from ..data.records import GroundingRecord
from .metrics import OVERLAP, Detections, right_boxes


# False boxes per image at which FROC is read, as in the LUNA16 challenge.
FALSE_PER_IMAGE = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
BINS, MIN_SCORE = 10, 0.05


def phrase_scores(records: Sequence[GroundingRecord], detections: Sequence[Detections]) -> dict[str, float | None]:
    """Measure the best box of every phrase that is in the image, as is usual for phrase grounding.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        detections (`Sequence[Detections]`): one per record.

    Returns:
        `accuracy` (its overlap with a true box is at least 0.5), `mean_iou`, `pointing` (its center lies in a true
        box), `phrases`. A phrase without a box counts as wrong.
    """
    overlaps, hits = [], []
    for record, result in zip(records, detections, strict=True):
        for label in sorted(set(record.labels)):
            true = record.boxes[[name == label for name in record.labels]]
            scores, boxes = result.of(label)
            if not len(scores):
                overlaps.append(0.0)
                hits.append(False)
                continue
            best = boxes[[int(np.argmax(scores))]]
            center = (best[:, :2] + best[:, 2:]) / 2
            overlaps.append(float(box_iou(best, true).max()))
            hits.append(bool(((center >= true[:, :2]) & (center <= true[:, 2:])).all(axis=1).any()))
    if not overlaps:
        return {"phrases": 0, "accuracy": None, "mean_iou": None, "pointing": None}
    return {
        "phrases": len(overlaps),
        "accuracy": float(np.mean(np.array(overlaps) >= OVERLAP)),
        "mean_iou": float(np.mean(overlaps)),
        "pointing": float(np.mean(hits)),
    }


def froc(records: Sequence[GroundingRecord], detections: Sequence[Detections]) -> dict[str, float | None]:
    """Return the free-response ROC, all labels together: the share of true boxes detected by false boxes per image.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        detections (`Sequence[Detections]`): one per record.

    Returns:
        `"0.125"` ... `"8"` -> share, and their mean as `mean`; `None` without a true box.
    """
    total = sum(len(record.labels) for record in records)
    if not total:
        return {**{f"{count:g}": None for count in FALSE_PER_IMAGE}, "mean": None}
    scores, right = _all_boxes(records, detections)
    order = np.argsort(-scores, kind="mergesort")
    hits, misses = np.cumsum(right[order]), np.cumsum(~right[order])
    shares = []
    for count in FALSE_PER_IMAGE:
        index = int(np.searchsorted(misses, count * len(records), side="right"))
        shares.append(float(hits[index - 1] / total) if index else 0.0)
    named = {f"{count:g}": share for count, share in zip(FALSE_PER_IMAGE, shares, strict=True)}
    return {**named, "mean": float(np.mean(shares))}


def on_negatives(
    records: Sequence[GroundingRecord], detections: Sequence[Detections], threshold: float
) -> dict[str, float | None]:
    """Measure the detections in images without a true box.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        detections (`Sequence[Detections]`): one per record.
        threshold (`float`): boxes with a higher score count.

    Returns:
        `images` (number of images), `boxes_per_image` over the threshold, and `clean`, the share of images without
        such a box.
    """
    counts = [
        int((result.scores > threshold).sum())
        for record, result in zip(records, detections, strict=True)
        if not record.labels
    ]
    if not counts:
        return {"images": 0, "boxes_per_image": None, "clean": None}
    return {
        "images": len(counts),
        "boxes_per_image": float(np.mean(counts)),
        "clean": float(np.mean(np.array(counts) == 0)),
    }


def reliability(records: Sequence[GroundingRecord], detections: Sequence[Detections]) -> list[dict[str, float]]:
    """Compare scores with the share of right boxes, in ten equal bins of scores over `MIN_SCORE`.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        detections (`Sequence[Detections]`): one per record.

    Returns:
        for every bin with a box its mean `score`, the share of its boxes that are `right`, and their number `boxes`.
    """
    scores, right = _all_boxes(records, detections)
    scores, right = scores[scores > MIN_SCORE], right[scores > MIN_SCORE]
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    return [
        {
            "score": float(scores[bins == number].mean()),
            "right": float(right[bins == number].mean()),
            "boxes": int((bins == number).sum()),
        }
        for number in range(BINS)
        if (bins == number).any()
    ]


def calibration_error(bins: Sequence[dict[str, float]]) -> float | None:
    """Return the expected calibration error over the bins of [`reliability`], `None` without boxes.

    It is the mean difference between score and share of right boxes, weighted by the boxes of each bin.
    """
    total = sum(entry["boxes"] for entry in bins)
    gap = sum(abs(entry["score"] - entry["right"]) * entry["boxes"] for entry in bins)
    return gap / total if total else None


def _all_boxes(
    records: Sequence[GroundingRecord], detections: Sequence[Detections]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the scores of all boxes of all images, and whether each is right."""
    scores = [result.scores.astype(np.float64) for result in detections]
    right = [right_boxes(record, result) for record, result in zip(records, detections, strict=True)]
    if not scores:
        return np.zeros(0), np.zeros(0, bool)
    return np.concatenate(scores), np.concatenate(right)
