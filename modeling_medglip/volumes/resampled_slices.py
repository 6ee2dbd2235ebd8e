# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Slices at even distances, interpolated between those of an uneven series: two are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .dicom_slices import DicomSlabs
from .geometry import Volume
from .reader import MAX_BYTES, VolumeError


MAX_SLICES = 100_000


class EvenSlabs:
    """The slices of a series at even distances, linear between their neighbours, as [`DicomSlabs`] gives its own.

    Args:
        slabs: the series' own slices. along: (slices,) where these lie along their normal, in mm, growing.

    Attributes:
        places: (slices,) where the own slices lie among the even ones.

    Raises:
        `VolumeError`: so many slices that nobody means it.
    """

    def __init__(self, slabs: DicomSlabs, along: NDArray[np.float64]) -> None:
        self.slabs, self.shape = slabs, slabs.shape
        total = float(along[-1] - along[0])
        self.count = max(2, round(total / float(np.median(np.diff(along)))) + 1)
        if self.shape[0] * self.shape[1] * self.count * 4 > MAX_BYTES or self.count > MAX_SLICES:
            told = f"{self.count} even slices: more than {MAX_SLICES}, or of more than {MAX_BYTES} bytes"
            raise VolumeError(told, "too_large")
        even = np.linspace(along[0], along[-1], self.count)
        self._after = np.clip(np.searchsorted(along, even), 1, len(along) - 1)
        before = along[self._after - 1]
        self._share = (even - before) / (along[self._after] - before)
        self.places = (along - along[0]) / total * (self.count - 1)
        self.affine = slabs.affine.copy()
        self.affine[:3, 2] *= (len(along) - 1) / (self.count - 1)

    @property
    def name(self) -> str:
        """Of the series' folder, for messages."""
        return self.slabs.name

    @name.setter
    def name(self, name: str) -> None:
        self.slabs.name = name

    def read(self, first: int = 0) -> Iterator[Volume]:
        """Slices from one on, each a [`Volume`] (columns, rows, 1) with the affine of the whole.

        Raises:
            `VolumeError`: names the file and what is wrong.
        """
        place = int(self._after[first]) - 1
        own = self.slabs.read(place)
        before, after = next(own), next(own)
        for number in range(first, self.count):
            while place < int(self._after[number]) - 1:
                before, after, place = after, next(own), place + 1
            yield self._between(before, after, float(self._share[number]))

    def _between(self, before: Volume, after: Volume, share: float) -> Volume:
        """As stored numbers where both slices count alike, else as values."""
        if (before.slope, before.intercept, before.array.dtype) == (after.slope, after.intercept, after.array.dtype):
            mixed = before.array * np.float32(1 - share) + after.array * np.float32(share)
            if before.array.dtype.kind in "iu":
                mixed = np.rint(mixed).astype(before.array.dtype)
            return Volume(mixed, self.affine, before.slope, before.intercept)
        values = [
            volume.values(volume.array) * np.float32(part) for volume, part in ((before, 1 - share), (after, share))
        ]
        return Volume(values[0] + values[1], self.affine)

    def whole(self) -> Volume:
        """(columns, rows, slices) in memory: as stored where all slices count alike, else as float32 values.

        Raises:
            `VolumeError`: names the file and what is wrong.
        """
        alike = self.slabs.alike()
        array, line = np.empty(0), (1.0, 0.0)
        for number, slab in enumerate(self.read()):
            if number == 0:
                kind = slab.array.dtype if alike else np.dtype(np.float32)
                array = np.empty((self.count, self.shape[0], self.shape[1]), kind)
                line = (slab.slope, slab.intercept) if alike else line
            array[number] = (slab.array if alike else slab.values(slab.array))[:, :, 0].T
        return Volume(array.transpose(2, 1, 0), self.affine, *line)


__all__ = ["EvenSlabs"]
