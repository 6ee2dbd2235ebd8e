# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The worst validation images: true boxes in white, detections in the color of their label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from modeling_medglip.io.image_record import ReadImage
from modeling_medglip.outputs.files import write_bytes
from modeling_medglip.outputs.overlay import (
    DrawnBox,
    contact_sheet,
    display_image,
    draw_boxes,
    draw_overlay,
    overlay_png,
)
from modeling_medglip.outputs.results import GroundedBox

from ..data.records import GroundingRecord
from .metrics import Detections, right_boxes


SHOWN = 6


def agreement(record: GroundingRecord, detections: Detections, threshold: float) -> float:
    """Return the F1 score (0..1) of the boxes over a threshold, 1 without true and detected boxes.

    Args:
        record (`GroundingRecord`): the image with its true boxes.
        detections (`Detections`): in the image.
        threshold (`float`): boxes with a higher score count.
    """
    over = detections.scores > threshold
    right, boxes, true_boxes = int(right_boxes(record, detections)[over].sum()), int(over.sum()), len(record.labels)
    return 2 * right / (boxes + true_boxes) if boxes + true_boxes else 1.0


def worst_cases(
    records: Sequence[GroundingRecord], detections: Sequence[Detections], threshold: float, count: int = SHOWN
) -> list[int]:
    """Return the indices of the images with the lowest agreement, worst first, without those that are all right.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        detections (`Sequence[Detections]`): one per record.
        threshold (`float`): boxes with a higher score count.
        count (`int`, *optional*, defaults to `SHOWN`): indices at most.
    """
    scores = [agreement(record, result, threshold) for record, result in zip(records, detections, strict=True)]
    return [int(index) for index in np.argsort(scores, kind="stable")[:count] if scores[index] < 1]


def write_worst_cases(
    path: Path,
    records: Sequence[GroundingRecord],
    detections: Sequence[Detections],
    threshold: float,
    count: int = SHOWN,
) -> Path | None:
    """Write a sheet of the worst images, which shows the data; return `None` if all images are right.

    Args:
        path (`Path`): PNG file to write.
        records (`Sequence[GroundingRecord]`): the images.
        detections (`Sequence[Detections]`): one per record.
        threshold (`float`): boxes with a higher score count.
        count (`int`, *optional*, defaults to `SHOWN`): images at most.
    """
    chosen = worst_cases(records, detections, threshold, count)
    if not chosen:
        return None
    images = [case(records[index], detections[index], threshold) for index in chosen]
    return write_bytes(path, overlay_png(contact_sheet(images, columns=3, cell=560)))


def case(record: GroundingRecord, detections: Detections, threshold: float) -> Image.Image:
    """Return an image with its true boxes and the detections over a threshold drawn in it.

    Args:
        record (`GroundingRecord`): the image with its true boxes.
        detections (`Detections`): in the image.
        threshold (`float`): boxes with a higher score are drawn.
    """
    shown = display_image(ReadImage(record.load(), record.image_id), record.modality)
    true_boxes = [
        DrawnBox((left, top, right, bottom), "white") for left, top, right, bottom in np.asarray(record.boxes).tolist()
    ]
    draw_boxes(shown, true_boxes, width=max(1, round(max(shown.size) / 300)))
    boxes = tuple(
        GroundedBox(label, float(score), (float(x), float(y), float(right - x), float(bottom - y)))
        for label, score, (x, y, right, bottom) in zip(
            detections.labels, detections.scores, detections.boxes, strict=True
        )
        if score > threshold
    )
    true = ", ".join(dict.fromkeys(record.labels)) or "nothing"
    names = sorted({*record.labels, *(box.label for box in boxes)})
    return draw_overlay(shown, boxes, names, title=f"{record.source}, {record.image_id}: {true} (white)")
