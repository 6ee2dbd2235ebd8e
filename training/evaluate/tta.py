# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Test-time augmentation: average the boxes of an image with those of the flipped image, or of two other sizes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.boxes import box_iou

from ..data.records import GroundingRecord
from .metrics import OVERLAP, Detections
from .predict import detect_records


# What can be averaged, as results name it, and what to say of it.
AVERAGED = {
    "flip_tta": "the flipped image where no label has a side",
    "scale_tta": "a smaller and a larger input",
}
# Sizes of the input, as factors of the expert's: one for large objects, one for small ones.
SCALES = (0.77, 1.3)


def flipped(record: GroundingRecord) -> GroundingRecord:
    """Return the record with its image flipped left to right; its boxes stay."""
    return replace(record, loader=partial(_flipped_pixels, record))


def _flipped_pixels(record: GroundingRecord) -> NDArray:
    return np.ascontiguousarray(record.load()[:, ::-1])


def detect_with_flips(
    model: Any,
    processor: Any,
    records: Sequence[GroundingRecord],
    prompts: Sequence[Sequence[str]],
    batch_size: int = 4,
) -> tuple[list[Detections], float]:
    """Average the detections of [`detect_records`] with those in the flipped image, where the source allows a flip.

    Args:
        model ([`~modeling_medglip.MedGlipForObjectDetection`]): in evaluation mode.
        processor ([`~modeling_medglip.MedGlipProcessor`]): the model's.
        records (`Sequence[GroundingRecord]`): the images.
        prompts (`Sequence[Sequence[str]]`): the labels to ask in each image.
        batch_size (`int`, *optional*, defaults to 4): images per forward pass.

    Returns:
        `tuple[list[Detections], float]`: as of [`detect_records`].
    """
    detections, seconds = detect_records(model, processor, records, prompts, batch_size)
    indices = [index for index, record in enumerate(records) if record.settings.horizontal_flip]
    images, asked = [flipped(records[index]) for index in indices], [prompts[index] for index in indices]
    of_flipped, more = detect_records(model, processor, images, asked, batch_size)
    for index, other in zip(indices, of_flipped, strict=True):
        detections[index] = average_detections(detections[index], unflipped(other, records[index].size[0]))
    return detections, seconds + more * len(indices) / max(1, len(records))


def detect_at_scales(
    model: Any,
    processor: Any,
    records: Sequence[GroundingRecord],
    prompts: Sequence[Sequence[str]],
    batch_size: int = 4,
) -> tuple[list[Detections], float]:
    """Average the detections of [`detect_records`] in smaller and in larger inputs, see `SCALES`.

    Args:
        model ([`~modeling_medglip.MedGlipForObjectDetection`]): in evaluation mode.
        processor ([`~modeling_medglip.MedGlipProcessor`]): the model's.
        records (`Sequence[GroundingRecord]`): the images.
        prompts (`Sequence[Sequence[str]]`): the labels to ask in each image.
        batch_size (`int`, *optional*, defaults to 4): images per forward pass.

    Returns:
        `tuple[list[Detections], float]`: as of [`detect_records`].
    """
    runs = [detect_records(model, scaled(processor, factor), records, prompts, batch_size) for factor in SCALES]
    pairs = zip(*(detections for detections, _ in runs), strict=True)
    return [average_detections(first, second) for first, second in pairs], sum(seconds for _, seconds in runs)


def scaled(processor: Any, factor: float) -> Any:
    """Return a copy of a processor whose inputs are larger by a factor, to whole multiples of its `size_divisor`."""
    processor = copy.deepcopy(processor)
    images = processor.image_processor
    for settings in images.modality_settings.values():
        settings["size"] = {
            # A longest edge without a limit is None, and stays so.
            side: max(1, round(pixels * factor / images.size_divisor)) * images.size_divisor if pixels else pixels
            for side, pixels in settings["size"].items()
        }
    return processor


def unflipped(detections: Detections, width: int) -> Detections:
    """Return the detections in a flipped image in pixels of the image, which is `width` pixels wide."""
    boxes = detections.boxes * np.array([-1, 1, -1, 1], np.float32) + np.array([width, 0, width, 0], np.float32)
    return replace(detections, boxes=boxes[:, [2, 1, 0, 3]])


def average_detections(detections: Detections, other: Detections) -> Detections:
    """Return the mean of two detections in one image.

    Boxes of one label that overlap by an IoU over `metrics.OVERLAP` become one, weighted by their scores, with the
    mean score. A box without a partner keeps half its score.

    Args:
        detections (`Detections`): of one way to look at the image.
        other (`Detections`): of another way, in the same pixels.
    """
    rows = [
        (label, score, box)
        for label in dict.fromkeys([*detections.labels, *other.labels])
        for score, box in _average_label(*detections.of(label), *other.of(label))
    ]
    rows.sort(key=lambda row: -row[1])
    return Detections(
        tuple(label for label, _, _ in rows),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([box for _, _, box in rows], np.float32).reshape(-1, 4),
    )


def _average_label(
    scores: NDArray[np.float32],
    boxes: NDArray[np.float32],
    other_scores: NDArray[np.float32],
    other_boxes: NDArray[np.float32],
) -> Iterator[tuple[float, NDArray[np.float32]]]:
    """Yield scores and boxes of one label; the box with the highest score chooses its partner first."""
    both = len(boxes) and len(other_boxes)
    overlap = box_iou(boxes, other_boxes) if both else np.zeros((len(boxes), len(other_boxes)))
    free = np.ones(len(other_boxes), dtype=bool)
    for row in np.argsort(-scores, kind="stable"):
        partner = int(np.argmax(np.where(free, overlap[row], -1))) if free.any() else -1
        if partner < 0 or overlap[row, partner] <= OVERLAP:
            yield float(scores[row]) / 2, boxes[row]
            continue
        free[partner] = False
        weights = np.array([scores[row], other_scores[partner]], np.float64)
        # The small addend lets two boxes without any score be averaged.
        yield float(weights.mean()), np.average([boxes[row], other_boxes[partner]], axis=0, weights=weights + 1e-9)
    for column in np.flatnonzero(free):
        yield float(other_scores[column]) / 2, other_boxes[column]
