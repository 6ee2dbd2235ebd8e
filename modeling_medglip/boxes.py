# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Overlap of boxes. A box lists its low edges, then its high edges: (x1, y1, x2, y2), or (i1, j1, k1, i2, j2, k2).

Tensors have `torchvision.ops.box_iou`; this module needs no PyTorch and takes boxes of any number of axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def box_iou(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union of every box with every other one.

    Args:
        first (`np.ndarray` of shape `(n, 2 * axes)`): boxes.
        second (`np.ndarray` of shape `(m, 2 * axes)`): boxes to compare them with.

    Returns:
        `np.ndarray` of shape `(n, m)`: 0 to 1; 0 for boxes without area.
    """
    axes = first.shape[-1] // 2
    low = np.maximum(first[:, None, :axes], second[None, :, :axes])
    high = np.minimum(first[:, None, axes:], second[None, :, axes:])
    common = np.clip(high - low, 0, None).prod(axis=2).astype(np.float64)
    sizes = [(boxes[:, axes:] - boxes[:, :axes]).prod(axis=1) for boxes in (first, second)]
    return common / np.maximum(sizes[0][:, None] + sizes[1][None] - common, 1e-9)


def iou(first: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection over union of two boxes; 0 for boxes without area."""
    common = intersection(first, other)
    total = _size(first) + _size(other) - common
    return common / total if total > 0 else 0.0


def containment(first: Sequence[float], other: Sequence[float]) -> float:
    """Return the share of the smaller of two boxes that lies in the other; 0 for boxes without area."""
    smaller = min(_size(first), _size(other))
    return intersection(first, other) / smaller if smaller > 0 else 0.0


def share_inside(box: Sequence[float], other: Sequence[float]) -> float:
    """Return the share of a box that lies in another one; 0 for a box without area.

    Args:
        box (`Sequence[float]`): The box whose area or volume is the whole.
        other (`Sequence[float]`): The box that may contain it, with the same axes.
    """
    size = _size(box)
    return intersection(box, other) / size if size > 0 else 0.0


def intersection(first: Sequence[float], other: Sequence[float]) -> float:
    """Return the area or volume that two boxes share."""
    axes = len(first) // 2
    sides = (min(first[n + axes], other[n + axes]) - max(first[n], other[n]) for n in range(axes))
    return math.prod(max(side, 0.0) for side in sides)


def _size(box: Sequence[float]) -> float:
    axes = len(box) // 2
    return math.prod(box[n + axes] - box[n] for n in range(axes))


__all__ = ["box_iou", "containment", "intersection", "iou", "share_inside"]
