# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Resize slices of a volume to square pixels, as the network expects them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


# Slices whose pixels are longer along one side by more than this factor are resized.
MAX_ASPECT_RATIO = 1.5
# Most pixels along a side of a resized slice.
MAX_SIDE = 2048


def square_size(shape: tuple[int, int], spacing: tuple[float, float]) -> tuple[int, int]:
    """Return the size of a slice with square pixels of its finer spacing.

    Args:
        shape (`tuple[int, int]`): (rows, columns).
        spacing (`tuple[float, float]`): mm per pixel (along x, along y).

    Returns:
        `tuple[int, int]`: (rows, columns); `shape` where pixels are nearly square.
    """
    (rows, columns), (x, y) = shape, spacing
    if max(x, y) <= MAX_ASPECT_RATIO * min(x, y):
        return rows, columns
    fine = min(x, y)
    sizes = [max(side, min(MAX_SIDE, round(side * mm / fine))) for side, mm in ((rows, y), (columns, x))]
    return sizes[0], sizes[1]


def resize(pixels: NDArray, size: tuple[int, int]) -> NDArray:
    """Return a gray slice with more rows and columns, linear between the centers of its pixels.

    Args:
        pixels (`np.ndarray` of shape `(rows, columns)`): of any type, which stays.
        size (`tuple[int, int]`): (rows, columns) of the result.
    """
    if pixels.shape == size:
        return pixels
    values = pixels.astype(np.float32)
    for axis, (length, target) in enumerate(zip(pixels.shape, size, strict=True)):
        centers = ((np.arange(target) + 0.5) * length / target - 0.5).clip(0, length - 1)
        before = np.minimum(centers.astype(int), max(0, length - 2))
        weight = (centers - before).astype(np.float32)
        weight = weight[:, None] if axis == 0 else weight
        after = np.minimum(before + 1, length - 1)
        values = values.take(before, axis) * (1 - weight) + values.take(after, axis) * weight
    return np.rint(values).astype(pixels.dtype) if pixels.dtype.kind in "iu" else values.astype(pixels.dtype)


__all__ = ["resize", "square_size"]
