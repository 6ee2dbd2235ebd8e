# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Shared parts of the readers of volume formats: their error, their limits, and a checked header.

Every format is parsed by this package (nibabel decodes the fixed fields of NIfTI). A [`VolumeHeader`] refuses sizes,
positions and transforms that no volume has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import Advice, Hint, MedGlipError
from .geometry import empty_grid


MAX_BYTES = 2**32
# NIfTI-1 and DICOM hold no longer axis.
MAX_LENGTH = 2**15
# The most bytes that one byte of a file becomes. Deflate cannot exceed 1032, bzip2 packs runs of 45 MB in 40 bytes.
EXPANSION = {"raw": 1.0, "gzip": 1100.0, "bzip2": 2.0**21, "text": 4.0, "hex": 0.5}
# Headers with voxels of other sizes, or volumes further away, are damaged (mm).
MIN_SPACING, MAX_SPACING, MAX_COORDINATE = 1e-6, 1e5, 1e7
# Largest slope and intercept; values are 32-bit floats.
MAX_RESCALE = 1e30
UNORIENTED = Advice(
    "its header says nothing of orientation: left and right may be wrong; state the axes (axes=) to be sure", "axes"
)
UNSPACED = "its header says nothing of the size of voxels: they are taken as 1 mm, and mm are wrong if they are not"
Shape = tuple[int, int, int]


class VolumeError(MedGlipError):
    """A volume that cannot be used.

    Args:
        message (`str`): one line.
        rule (`str`): what is wrong, as one word for reports: `"unreadable"`, `"not_3d"`, `"colour_volume"`,
            `"bad_affine"`, `"too_large"`, `"leaves_folder"`.
        hint (`str`, *optional*): see [`MedGlipError`].
    """

    def __init__(self, message: str, rule: str, *, hint: Hint | None = None) -> None:
        super().__init__(message, hint=hint)
        self.rule = rule


@dataclass(frozen=True)
class VolumeHeader:
    """One volume of a file by its header; no voxel has been read.

    Args:
        file (`Path`): holds the voxels, of which the first axis runs fastest.
        shape (`tuple[int, int, int]`): (i, j, k) voxels along the array axes.
        dtype (`np.dtype`): of the stored numbers.
        affine (`np.ndarray` of shape `(4, 4)`): index (i, j, k, 1) -> LPS mm.
        encoding (`str`, *optional*, defaults to `"raw"`): a key of `EXPANSION`; `"gzip"` is zlib too.
        offset (`int`, *optional*, defaults to 0): bytes of the file before the encoded voxels.
        skip (`int`, *optional*, defaults to 0): decoded bytes before those of this volume.
        channels (`int`, *optional*, defaults to 1): volumes whose voxels alternate in the file.
        channel (`int`, *optional*, defaults to 0): which of them this is.
        slope (`float`, *optional*, defaults to 1.0): factor from stored numbers to values.
        intercept (`float`, *optional*, defaults to 0.0): added to the product.
        notes (`tuple[str, ...]`, *optional*): what a user should know, one line each.
        nifti (`nibabel.Nifti1Header`, *optional*): of a NIfTI file, as it is stored.

    Raises:
        `VolumeError`: there is no such volume, or the file is too small for it.
    """

    file: Path
    shape: Shape
    dtype: np.dtype[Any]
    affine: NDArray[np.float64]
    encoding: str = "raw"
    offset: int = 0
    skip: int = 0
    channels: int = 1
    channel: int = 0
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()
    nifti: Any = None

    def __post_init__(self) -> None:
        _check_shape(self)
        check_affine(self.shape, self.affine)
        if not all(abs(number) <= MAX_RESCALE for number in (self.slope, self.intercept)):
            raise VolumeError("states a slope or intercept that is enormous or not finite", "unreadable")
        _check_file(self)

    @property
    def slice_bytes(self) -> int:
        """Decoded bytes from one slice along the last axis to the next."""
        return self.shape[0] * self.shape[1] * self.channels * self.dtype.itemsize


def choose_volume(lengths: Sequence[int], number: int | None) -> tuple[Shape, int]:
    """Return the shape of one volume of a file, and its index.

    Args:
        lengths (`Sequence[int]`): voxels along all axes of the file; axes of one voxel beyond the third do not count.
        number (`int`, *optional*): which volume of a 4-D file, counted from 1; such files are refused without.

    Raises:
        `VolumeError`: the file has no such volume.
    """
    if min(lengths, default=0) < 1:
        raise VolumeError(f"has no voxels {tuple(lengths)}", "unreadable")
    axes = (*lengths[:3], *(length for length in lengths[3:] if length != 1))
    if len(axes) not in (3, 4):
        raise VolumeError(f"has {len(axes)} axes {axes}, not three", "not_3d")
    count = axes[3] if len(axes) == 4 else 1
    if number is None and count > 1:
        message = f"has 4 axes {axes}, not three: choose a volume from 1 to {count} (number=)"
        raise VolumeError(message, "not_3d", hint="number")
    if number is not None and not 1 <= number <= count:
        raise VolumeError(f"has {count} volumes and no volume {number}", "not_3d")
    return (axes[0], axes[1], axes[2]), (number or 1) - 1


def _check_shape(header: VolumeHeader) -> None:
    voxels = header.shape[0] * header.shape[1] * header.shape[2]
    if voxels * header.channels * header.dtype.itemsize > MAX_BYTES:
        raise VolumeError(f"has {voxels} voxels {header.shape}: more than {MAX_BYTES} bytes", "too_large")
    if max(header.shape) > MAX_LENGTH:
        raise VolumeError(f"has {header.shape} voxels: more than {MAX_LENGTH} along an axis", "too_large")


def check_affine(shape: Shape, affine: NDArray[np.float64]) -> None:
    """Raise `VolumeError` for an affine that no volume has.

    Args:
        shape (`tuple[int, int, int]`): (i, j, k) voxels.
        affine (`np.ndarray` of shape `(4, 4)`): index to LPS mm.
    """
    try:
        grid = empty_grid(shape, affine)
    except ValueError as error:
        raise VolumeError(str(error), "bad_affine") from None
    possible = MIN_SPACING <= grid.spacing.min() <= grid.spacing.max() <= MAX_SPACING
    if np.abs(affine).max() > MAX_COORDINATE or not possible:
        raise VolumeError("states an impossible size or position of voxels: correct its header", "bad_affine")


def _check_file(header: VolumeHeader) -> None:
    """Refuse a file that cannot hold what its header promises, before memory is taken for it."""
    stored = header.file.stat().st_size - header.offset
    needed = header.skip + header.slice_bytes * header.shape[2]
    if needed > stored * EXPANSION[header.encoding]:
        raise VolumeError(f"is damaged or cut short: {stored} bytes cannot hold its {needed} of voxels", "unreadable")


__all__ = [
    "MAX_BYTES",
    "UNORIENTED",
    "UNSPACED",
    "Shape",
    "VolumeError",
    "VolumeHeader",
    "check_affine",
    "choose_volume",
]
