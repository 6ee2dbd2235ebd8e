# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Consistency of detections: a lesion inside its organ, the whole detected where a part of it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.taxonomy import load_taxonomy

from ..data.records import GroundingRecord
from .metrics import Detections


def parent_of(label: str, asked: Sequence[str]) -> str | None:
    """Return the nearest ancestor of a label in the taxonomy among the asked labels, in the words of the prompt.

    Args:
        label (`str`): in the words of the prompt.
        asked (`Sequence[str]`): all labels of the prompt.
    """
    taxonomy = load_taxonomy()
    entry = taxonomy.resolve(label)
    if entry is None:
        return None
    names = {other.id: name for name in asked if name != label and (other := taxonomy.resolve(name)) is not None}
    return next((names[above.id] for above in taxonomy.ancestors(entry.id) if above.id in names), None)


def hierarchy_scores(
    records: Sequence[GroundingRecord], detections: Sequence[Detections], threshold: float
) -> dict[str, Any]:
    """Measure how parts and wholes agree among the boxes over a threshold.

    Only labels whose parent in the taxonomy is asked in the same image count.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        detections (`Sequence[Detections]`): one per record.
        threshold (`float`): boxes with a higher score count.

    Returns:
        `boxes` of parts, `inside`: the share whose center lies in a box of the parent, `true_inside`: the same of the
        true boxes, `images` (times labels) with a part, `parent_found`: the share in which a box of the parent was
        detected as well, and `pairs`: the same by `"part: parent"`.
    """
    pairs: dict[str, list[NDArray[np.int64]]] = {}
    for record, result in zip(records, detections, strict=True):
        for label in record.annotated:
            parent = parent_of(label, record.annotated)
            if parent is None:
                continue
            parts, wholes = (_over(result, name, threshold) for name in (label, parent))
            true_parts, true_wholes = (
                record.boxes[[other == name for other in record.labels]] for name in (label, parent)
            )
            pairs.setdefault(f"{label}: {parent}", []).append(
                np.array(
                    [
                        *(len(parts), inside(parts, wholes)),
                        *((len(true_parts), inside(true_parts, true_wholes)) if len(true_wholes) else (0, 0)),
                        *(int(len(parts) > 0), int(len(parts) > 0 and len(wholes) > 0)),
                    ]
                )
            )
    sums = {name: np.sum(rows, axis=0) for name, rows in sorted(pairs.items())}
    total = np.sum(list(sums.values()), axis=0) if sums else np.zeros(6, np.int64)
    return {**_shares(total), "pairs": {name: _shares(row) for name, row in sums.items()}}


def inside(parts: NDArray[np.float32], wholes: NDArray[np.float32]) -> int:
    """Return how many boxes `(n, 4)` have their center in one of the others `(m, 4)`.

    Args:
        parts (`np.ndarray`): `(n, 4)` xyxy pixels.
        wholes (`np.ndarray`): `(m, 4)` xyxy pixels.
    """
    center = (parts[:, None, :2] + parts[:, None, 2:]) / 2
    held = np.all((center >= wholes[None, :, :2]) & (center <= wholes[None, :, 2:]), axis=2)
    return int(np.count_nonzero(held.any(axis=1)))


def _over(detections: Detections, label: str, threshold: float) -> NDArray[np.float32]:
    scores, boxes = detections.of(label)
    return boxes[scores > threshold]


def _shares(sums: NDArray[np.int64]) -> dict[str, Any]:
    boxes, held, true_boxes, true_held, images, with_parent = (int(value) for value in sums)
    return {
        "boxes": boxes,
        "inside": held / boxes if boxes else None,
        "true_inside": true_held / true_boxes if true_boxes else None,
        "images": images,
        "parent_found": with_parent / images if images else None,
    }
