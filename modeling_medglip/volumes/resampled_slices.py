# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Interpolate evenly spaced slices between those of an uneven series; two are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .geometry import Volume
from .header import MAX_BYTES, VolumeError
from .reader import SliceReader


MAX_SLICES = 100_000


class ResampledSlices:
    """Evenly spaced slices, linear between their neighbors: a [`SliceReader`].

    Args:
        reader ([`SliceReader`]): the slices of the series.
        along (`np.ndarray` of shape `(slices,)`): their positions along their normal in mm, increasing.

    Attributes:
        positions (`np.ndarray` of shape `(slices,)`): of the series' slices, in voxels of the last axis.

    Raises:
        `VolumeError`: too many slices.
    """

    sequential = False

    def __init__(self, reader: SliceReader, along: NDArray[np.float64]) -> None:
        self._reader = reader
        total = float(along[-1] - along[0])
        count = max(2, round(total / float(np.median(np.diff(along)))) + 1)
        columns, rows, _ = reader.shape
        if columns * rows * count * 4 > MAX_BYTES or count > MAX_SLICES:
            message = f"{count} even slices: more than {MAX_SLICES}, or of more than {MAX_BYTES} bytes"
            raise VolumeError(message, "too_large")
        self.shape = (columns, rows, count)
        even = np.linspace(along[0], along[-1], count)
        self._after = np.clip(np.searchsorted(along, even), 1, len(along) - 1)
        before = along[self._after - 1]
        self._weight = (even - before) / (along[self._after] - before)
        self.positions = (along - along[0]) / total * (count - 1)
        self.affine = reader.affine.copy()
        self.affine[:3, 2] *= (len(along) - 1) / (count - 1)

    def read(self, first: int = 0) -> Iterator[Volume]:
        """See [`SliceReader.read`]."""
        index = int(self._after[first]) - 1
        slices = self._reader.read(index)
        before, after = next(slices), next(slices)
        for number in range(first, self.shape[2]):
            while index < int(self._after[number]) - 1:
                before, after, index = after, next(slices), index + 1
            yield self._between(before, after, float(self._weight[number]))

    def _between(self, before: Volume, after: Volume, weight: float) -> Volume:
        """Interpolate stored numbers where both slices are rescaled alike, else values."""
        if (before.slope, before.intercept, before.array.dtype) == (after.slope, after.intercept, after.array.dtype):
            mixed = before.array * np.float32(1 - weight) + after.array * np.float32(weight)
            if before.array.dtype.kind in "iu":
                mixed = np.rint(mixed).astype(before.array.dtype)
            return Volume(mixed, self.affine, before.slope, before.intercept)
        first, second = (slice_.values(slice_.array) for slice_ in (before, after))
        return Volume(first * np.float32(1 - weight) + second * np.float32(weight), self.affine)


__all__ = ["ResampledSlices"]
