# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Give the slices of a volume, from memory or streamed from disk."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import one_line
from .geometry import (
    NORMAL_AXIS,
    Volume,
    closest_axes,
    empty_grid,
    extract_slice,
    slice_count,
    to_lps,
    with_axcodes,
)
from .reader import SliceReader, open_slices, stack
from .spool import SliceSpool


# Slices were taken along the axis whose voxels are longer than the others' by this factor.
ANISOTROPY_RATIO = 1.3


@dataclass(frozen=True)
class SliceReference:
    """A slice of a DICOM series in its files.

    Args:
        file (`Path`): the file that holds it.
        frame (`int`, *optional*): of a multi-frame file, counted from 1.
        position (`float`): in voxels of the volume's last axis; whole, unless the volume's slices are interpolated.
    """

    file: Path
    frame: int | None
    position: float


class VolumeSource:
    """The slices of a volume in radiological convention.

    A volume on disk is streamed: slices along its last array axis are decoded one at a time; other planes need the
    whole volume in memory.

    Args:
        volume ([`Volume`] or [`SliceReader`]): in memory, or on disk.
        name (`str`, *optional*, defaults to `"volume"`): base name of the file, for messages.
        modality (`str`, *optional*): what a header says.
        notes (`tuple[str, ...]`, *optional*): what a user should know of the file, one line each.
        stacked (`bool`, *optional*, defaults to `False`): the last array axis is known to run from slice to slice.
        nifti_header (`nibabel.Nifti1Header`, *optional*): of a NIfTI file.
        dicom_slices (`tuple[SliceReference, ...]`, *optional*): of a DICOM series, in the order of its slices.

    Attributes:
        grid ([`Volume`]): shape and affine; its array takes no memory and holds nothing.
        file_grid ([`Volume`]): the same by the file's own header, where other axes were stated.
        lps ([`Volume`]): `grid` with canonical axes, see [`~volumes.geometry.to_lps`].
    """

    def __init__(
        self,
        volume: Volume | SliceReader,
        name: str = "volume",
        modality: str | None = None,
        notes: tuple[str, ...] = (),
        *,
        stacked: bool = False,
        nifti_header: Any = None,
        dicom_slices: tuple[SliceReference, ...] = (),
    ) -> None:
        self.name, self.modality, self.notes = one_line(name, 120), modality, notes
        self.stacked, self.nifti_header, self.dicom_slices = stacked, nifti_header, dicom_slices
        self._volume = volume if isinstance(volume, Volume) else None
        self._reader = None if isinstance(volume, Volume) else volume
        self._spool: SliceSpool | None = None
        self.file_grid = empty_grid(volume.shape, volume.affine)
        self._set_grid(self.file_grid)

    @property
    def dicom_files(self) -> tuple[Path, ...]:
        """Files of a DICOM series, in the order of its slices; a multi-frame file alone."""
        return tuple(dict.fromkeys(slice_.file for slice_ in self.dicom_slices))

    @property
    def sequential(self) -> bool:
        """Whether slices can only be decoded in order, as those of a compressed file."""
        return self._reader is not None and self._reader.sequential

    def streams(self, plane: str) -> bool:
        """Return whether the slices of a plane are decoded from disk one at a time."""
        return self._volume is None and plane == plane_of(self.grid, 2)

    def volume(self) -> Volume:
        """Return the whole volume, which stays in memory.

        Raises:
            `VolumeError`: names the file and what is wrong.
        """
        if self._volume is None:
            self._volume = self._load()
        return replace(self._volume, affine=self.grid.affine)

    def state_axes(self, codes: str) -> None:
        """Replace what the header says of orientation.

        Files that are to lie over the volume's file still follow `file_grid`.

        Args:
            codes (`str`): see [`~volumes.geometry.with_axcodes`].

        Raises:
            `ValueError`: not three letters of three axes.
        """
        self._set_grid(with_axcodes(self.grid, codes))

    def read_slices(self, plane: str) -> Iterator[tuple[int, NDArray]]:
        """Yield every slice of a plane with its index, in any order.

        Slices that can only be decoded in order are decoded once, however often this is called.

        Args:
            plane (`str`): one of `PLANES`.

        Raises:
            `VolumeError`: names the file and what is wrong, also after some slices.
        """
        if not (self.sequential and self.streams(plane)):
            return self.stream_slices(plane)
        if self._spool is None:
            self._spool = SliceSpool(self.stream_slices(plane))
        return iter(self._spool)

    def read_slice(self, plane: str, index: int) -> NDArray:
        """Return one slice (rows, columns) of a plane, see [`~volumes.geometry.extract_slice`].

        Args:
            plane (`str`): one of `PLANES`.
            index (`int`): along the LPS axis that is normal to the plane.

        Raises:
            `VolumeError`: names the file and what is wrong.
        """
        known = self._spool.get(index) if self._spool is not None and self.streams(plane) else None
        return self.decode_slice(plane, index) if known is None else known

    def stream_slices(self, plane: str) -> Iterator[tuple[int, NDArray]]:
        """Yield every slice of a plane as [`read_slices`] does, always decoded anew."""
        if self.streams(plane):
            assert self._reader is not None
            for number, stored in enumerate(self._reader.read()):
                yield self._index(number), self._oriented(stored, plane)
            return
        whole = to_lps(self.volume())
        for index in range(slice_count(whole, plane)):
            yield index, whole.values(extract_slice(whole, plane, index)[0])

    def decode_slice(self, plane: str, index: int) -> NDArray:
        """Return one slice as [`read_slice`] does, always decoded anew.

        Args:
            plane (`str`): one of `PLANES`.
            index (`int`): along the LPS axis that is normal to the plane.
        """
        if self.streams(plane):
            assert self._reader is not None
            return self._oriented(next(self._reader.read(self._index(index))), plane)
        whole = to_lps(self.volume())
        return whole.values(extract_slice(whole, plane, index)[0])

    def pictures(self, plane: str) -> Iterator[tuple[int, NDArray]]:
        """Yield slices by the old name of [`read_slices`]."""
        message = "VolumeSource.pictures is now read_slices; the old name goes with the next release"
        warnings.warn(message, FutureWarning, 2)
        return self.read_slices(plane)

    def picture(self, plane: str, index: int) -> NDArray:
        """Return a slice by the old name of [`read_slice`]."""
        message = "VolumeSource.picture is now read_slice; the old name goes with the next release"
        warnings.warn(message, FutureWarning, 2)
        return self.read_slice(plane, index)

    def _load(self) -> Volume:
        assert self._reader is not None
        return stack(self._reader)

    def _set_grid(self, grid: Volume) -> None:
        """Put the volume on a grid; slices decoded before are of another orientation."""
        self.grid, self.lps = grid, to_lps(grid)
        self._spool = None

    def _index(self, number: int) -> int:
        """Convert an index along the file's last axis to one along the LPS axis, or back."""
        _, sign = closest_axes(self.grid.affine)[NORMAL_AXIS[plane_of(self.grid, 2)]]
        return number if sign > 0 else self.grid.shape[2] - 1 - number

    def _oriented(self, stored: Volume, plane: str) -> NDArray:
        """Return the values of one slice (i, j, 1) of the file as (rows, columns) in radiological convention."""
        thin = to_lps(replace(stored, affine=self.grid.affine))
        return thin.values(extract_slice(thin, plane, 0)[0])


def plane_of(grid: Volume, axis: int) -> str:
    """Return the plane that slices along an array axis show.

    Args:
        grid ([`Volume`]): of the file.
        axis (`int`): 0, 1 or 2: i, j or k.
    """
    normal = [array_axis for array_axis, _ in closest_axes(grid.affine)].index(axis)
    return next(name for name, lps_axis in NORMAL_AXIS.items() if lps_axis == normal)


def acquisition_plane(grid: Volume, stacked: bool = False) -> str:
    """Return the plane in which slices were taken.

    This is the plane normal to the only axis with a single voxel, or else to the axis with clearly the longest
    voxels, else axial.

    Args:
        grid ([`Volume`]): shape and affine of the volume.
        stacked (`bool`, *optional*, defaults to `False`): the last axis is known to run from slice to slice, as in a
            DICOM series.
    """
    single = [axis for axis, length in enumerate(grid.array.shape) if length == 1]
    if len(single) == 1:
        return plane_of(grid, single[0])
    if stacked:
        return plane_of(grid, 2)
    order = np.argsort(grid.spacing)
    longest = grid.spacing[order[2]] > ANISOTROPY_RATIO * grid.spacing[order[1]]
    return plane_of(grid, int(order[2])) if longest else "axial"


def open_volume(path: str | Path, number: int | None = None, *, detached: bool = False) -> VolumeSource:
    """Open a volume file, whose slices along its last axis are streamed.

    Args:
        path (`str` or `Path`): see [`~modeling_medglip.volumes.reader.read_volume`].
        number (`int`, *optional*): which volume of a 4-D file, counted from 1.
        detached (`bool`, *optional*, defaults to `False`): an NRRD or MetaImage header may name a file in its folder
            that holds the voxels; not for untrusted files.

    Raises:
        `VolumeError`: names the file and what is wrong.
    """
    file = Path(path)
    slices = open_slices(file, number, detached=detached)
    return VolumeSource(slices, file.name, notes=slices.header.notes, nifti_header=slices.header.nifti)


__all__ = ["SliceReference", "VolumeSource", "acquisition_plane", "open_volume", "plane_of"]
