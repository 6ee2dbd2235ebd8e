# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Outlines of objects with a mask, from which the box of a turned object is exact."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.io.coco_shapes import Segmentation


Points = NDArray[np.float32]
# The outlines of an image by their boxes, xyxy as in the record.
Outlines = dict[tuple[float, ...], Points]
# Largest difference between a box and its outline, in pixels.
AGREEMENT = 1.5
# A turned box is exact to a five-hundredth of the object's size.
DIRECTIONS = np.linspace(0, 2 * np.pi, 48, endpoint=False)


def outlines_by_box(boxes: NDArray[np.float32], shapes: Iterable[Segmentation | None]) -> Outlines:
    """Return the outlines of the objects that have a mask which fits their box.

    The key is the box, so that records may leave objects out.

    Args:
        boxes (`np.ndarray` of shape `(n, 4)`): xyxy pixels.
        shapes (`Iterable[Segmentation | None]`): one per box.
    """
    found: Outlines = {}
    for box, shape in zip(boxes, shapes, strict=True):
        points = outline(shape) if shape is not None else np.zeros((0, 2), np.float32)
        if len(points) and np.abs(np.concatenate([points.min(axis=0), points.max(axis=0)]) - box).max() <= AGREEMENT:
            found[tuple(box.tolist())] = points
    return found


def outline(shape: Segmentation) -> Points:
    """Return the outermost points of a shape in 48 directions, `(at most 48, 2)`, x and y in pixels."""
    points = np.concatenate(shape.polygons) if shape.runs is None else _ends_of_runs(shape.runs, shape.size[1])
    if not len(points):
        return np.zeros((0, 2), np.float32)
    along = points @ np.stack([np.cos(DIRECTIONS), np.sin(DIRECTIONS)])
    return points[np.unique(along.argmax(axis=0))].astype(np.float32)


def _ends_of_runs(runs: NDArray[np.int64], height: int) -> NDArray[np.float64]:
    """Return the corners of the pixels at both ends of every run; one over several columns fills them."""
    ends = np.cumsum(runs)
    filled = runs[1::2] > 0
    first, last = ends[0::2][: len(filled)][filled], ends[1::2][filled] - 1
    left, right = first // height, last // height + 1
    several = right - left > 1
    top, bottom = np.where(several, 0, first % height), np.where(several, height, last % height + 1)
    return (
        np.stack([np.stack([x, y], axis=1) for x in (left, right) for y in (top, bottom)]).reshape(-1, 2).astype(float)
    )
