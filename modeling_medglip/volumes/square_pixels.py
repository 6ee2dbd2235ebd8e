# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Pictures of a volume as the network should see them: with square pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .geometry import Volume, cut, empty_grid, to_lps


# Pictures whose pixels are so much longer than they are wide, or wider, are given square ones.
OBLONG = 1.5
LONGEST = 2048


def picture_spacing(grid: Volume, plane: str) -> tuple[float, float]:
    """(along x, along y) mm per pixel of the pictures of a plane."""
    lps = to_lps(empty_grid(grid.array.shape, grid.affine))
    return cut(lps, plane, 0)[1].spacing


def square_size(shape: tuple[int, int], spacing: tuple[float, float]) -> tuple[int, int]:
    """(rows, columns) of a picture with square pixels, those of its finer side; its own where they nearly are."""
    (rows, columns), (x, y) = shape, spacing
    if max(x, y) <= OBLONG * min(x, y):
        return rows, columns
    fine = min(x, y)
    sizes = [max(own, min(LONGEST, round(own * mm / fine))) for own, mm in ((rows, y), (columns, x))]
    return sizes[0], sizes[1]


def resized(picture: NDArray, size: tuple[int, int]) -> NDArray:
    """A grey picture with more rows and columns, linear between the centres of its pixels; of the same type."""
    if picture.shape == size:
        return picture
    values = picture.astype(np.float32)
    for axis, (own, wanted) in enumerate(zip(picture.shape, size, strict=True)):
        places = ((np.arange(wanted) + 0.5) * own / wanted - 0.5).clip(0, own - 1)
        before = np.minimum(places.astype(int), max(0, own - 2))
        share = (places - before).astype(np.float32)
        share = share[:, None] if axis == 0 else share
        after = np.minimum(before + 1, own - 1)
        values = values.take(before, axis) * (1 - share) + values.take(after, axis) * share
    return np.rint(values).astype(picture.dtype) if picture.dtype.kind in "iu" else values.astype(picture.dtype)


__all__ = ["picture_spacing", "resized", "square_size"]
