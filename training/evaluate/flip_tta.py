# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Test-time augmentation: average the boxes of an image and of its mirror image, where no label has a side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.boxes import box_iou

from ..data.records import GroundingRecord
from .metrics import OVERLAP, Detections
from .predict import detect


@dataclass(frozen=True)
class _Mirrored:
    record: GroundingRecord

    def __call__(self) -> NDArray:
        return np.ascontiguousarray(self.record.load()[:, ::-1])


def mirrored(record: GroundingRecord) -> GroundingRecord:
    """Return the record with its image flipped; its boxes are not moved."""
    return replace(record, loader=_Mirrored(record))


def detect_with_flips(
    model: Any,
    processor: Any,
    records: Sequence[GroundingRecord],
    prompts: Sequence[Sequence[str]],
    batch_size: int = 4,
) -> tuple[list[Detections], float]:
    """Return what [`detect`] does, averaged with the detections in the mirror image where the source allows a flip."""
    found, seconds = detect(model, processor, records, prompts, batch_size)
    places = [place for place, record in enumerate(records) if record.settings.horizontal_flip]
    images, asked = [mirrored(records[i]) for i in places], [prompts[i] for i in places]
    second, more = detect(model, processor, images, asked, batch_size)
    for place, other in zip(places, second, strict=True):
        found[place] = averaged(found[place], other, records[place].size[0])
    return found, seconds + more * len(places) / max(1, len(records))


def averaged(found: Detections, in_mirror: Detections, width: int) -> Detections:
    """Return the mean of the detections in an image and in its mirror image.

    Boxes of one label that overlap by an IoU over `metrics.OVERLAP` become one, weighted by their scores, with the
    mean score; a box that only one of the two has keeps half its score.

    Args:
        found: in the image. in_mirror: in the mirror image, in its pixels. width (`int`): of the image in pixels.
    """
    flipped = in_mirror.boxes * np.array([-1, 1, -1, 1], np.float32) + np.array([width, 0, width, 0], np.float32)
    other = replace(in_mirror, boxes=flipped[:, [2, 1, 0, 3]])
    rows = [
        (label, score, box)
        for label in dict.fromkeys([*found.labels, *other.labels])
        for score, box in _pairs(*found.of(label), *other.of(label))
    ]
    rows.sort(key=lambda row: -row[1])
    boxes = np.array([box for _, _, box in rows], np.float32).reshape(-1, 4)
    return Detections(
        tuple(label for label, _, _ in rows), np.array([score for _, score, _ in rows], np.float32), boxes
    )


def _pairs(
    scores: NDArray[np.float32], boxes: NDArray[np.float32], others: NDArray[np.float32], there: NDArray[np.float32]
) -> Iterator[tuple[float, NDArray[np.float32]]]:
    """Yield scores and boxes of one label; the box with the highest score chooses its partner first."""
    overlap = box_iou(boxes, there) if len(boxes) and len(there) else np.zeros((len(boxes), len(there)))
    free = np.ones(len(there), dtype=bool)
    for place in np.argsort(-scores, kind="stable"):
        partner = int(np.argmax(np.where(free, overlap[place], -1))) if free.any() else -1
        if partner < 0 or overlap[place, partner] <= OVERLAP:
            yield float(scores[place]) / 2, boxes[place]
            continue
        free[partner] = False
        weights = np.array([scores[place], others[partner]], np.float64)
        # The small addend lets two boxes without any score be averaged.
        yield float(weights.mean()), np.average([boxes[place], there[partner]], axis=0, weights=weights + 1e-9)
    for place in np.flatnonzero(free):
        yield float(others[place]) / 2, there[place]
