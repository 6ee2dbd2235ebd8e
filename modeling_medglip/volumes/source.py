# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Volumes picture by picture: from memory, or streamed from disk so that only one slice is there at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import one_line
from .geometry import (
    CUT_AXIS,
    Volume,
    box_in_file,
    box_of_pictures,
    closest_axes,
    corners_lps,
    cut,
    empty_grid,
    picture_count,
    to_lps,
    with_axcodes,
)
from .header import UNORIENTED as UNSTATED
from .reader import VolumeError, VolumeFile, volume_header


# An axis whose voxels are so much longer than the others' is the one that slices were taken along.
LONG = 1.3


@dataclass(frozen=True)
class SliceOf:
    """A slice of a DICOM series, as its files hold it.

    Attributes:
        file: which one. frame: of a multi-frame file, counted from 1.
        place: in voxels of the volume's last axis; whole, unless the volume's slices were interpolated.
    """

    file: Path
    frame: int | None
    place: float


class VolumeSource:
    """A volume in memory.

    Args:
        volume ([`Volume`]). name: base name of the file, for messages. modality: what a header says, if anything.
        notes: what was mended or should be known, one line each.

    Attributes:
        nifti_header: of a NIfTI file, nibabel's. dicom_slices ([`SliceOf`]): of a series, in the order of its slices.
        stacked (`bool`): the last array axis is known to run from slice to slice.
        grid ([`Volume`]): shape and affine of the volume; its array takes no memory and holds nothing.
        file_grid ([`Volume`]): the same by the file's own header, where other axes are stated than that says.
    """

    stacked = False
    nifti_header: Any = None
    dicom_slices: tuple[SliceOf, ...] = ()

    def __init__(
        self, volume: Volume, name: str = "volume", modality: str | None = None, notes: tuple[str, ...] = ()
    ) -> None:
        self.grid = self.file_grid = empty_grid(volume.array.shape, volume.affine)
        self.name, self.modality, self.notes = one_line(name, 120), modality, notes
        self._volume: Volume | None = volume

    @property
    def dicom_files(self) -> tuple[Path, ...]:
        """Of a series, in the order of its slices; a multi-frame file alone."""
        return tuple(dict.fromkeys(slice_.file for slice_ in self.dicom_slices))

    def volume(self) -> Volume:
        """The whole volume, in memory."""
        assert self._volume is not None
        return replace(self._volume, affine=self.grid.affine)

    def state_axes(self, codes: str) -> None:
        """Replace what the header says of orientation; see [`~volumes.geometry.with_axcodes`]. What the file
        itself says stays in `file_grid`, for files that are to lie over it.

        Raises:
            `ValueError`: no three letters for three axes.
        """
        self.grid = with_axcodes(self.grid, codes)

    def pictures(self, plane: str) -> Iterator[tuple[int, NDArray]]:
        """Every picture of a plane, as `geometry.cut` gives it, with its index; in any order."""
        whole = to_lps(self.volume())
        for index in range(picture_count(whole, plane)):
            yield index, whole.values(cut(whole, plane, index)[0])

    def picture(self, plane: str, index: int) -> NDArray:
        """One picture of a plane."""
        whole = to_lps(self.volume())
        return whole.values(cut(whole, plane, index)[0])


class StreamedSource(VolumeSource):
    """A volume on disk whose slices along the last array axis are read one by one; other planes need all of it.

    Args:
        slabs: gives the stored numbers of slices in order, `slabs(first)` from one on.
    """

    def __init__(
        self,
        slabs: Any,
        shape: tuple[int, int, int],
        affine: NDArray[np.float64],
        name: str,
        modality: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.grid = self.file_grid = empty_grid(shape, affine)
        self.name, self.modality, self.notes = one_line(name, 120), modality, notes
        self._slabs, self._volume = slabs, None

    def volume(self) -> Volume:
        """The whole volume, read once."""
        if self._volume is None:
            self._volume = self._slabs.whole()
        return super().volume()

    def pictures(self, plane: str) -> Iterator[tuple[int, NDArray]]:
        if self._volume is not None or plane != plane_of(self.grid, 2):
            yield from super().pictures(plane)
            return
        for number, slab in enumerate(self._slabs.read()):
            yield self._index(number), self._picture(slab, plane)

    def picture(self, plane: str, index: int) -> NDArray:
        if self._volume is not None or plane != plane_of(self.grid, 2):
            return super().picture(plane, index)
        number = self._index(index)
        return self._picture(next(self._slabs.read(number)), plane)

    def _index(self, number: int) -> int:
        """Slice of the file <-> picture of the plane: the same, or counted from the other end."""
        _, sign = closest_axes(self.grid.affine)[CUT_AXIS[plane_of(self.grid, 2)]]
        return number if sign > 0 else self.grid.array.shape[2] - 1 - number

    def _picture(self, slab: Volume, plane: str) -> NDArray:
        thin = to_lps(replace(slab, affine=self.grid.affine))
        return thin.values(cut(thin, plane, 0)[0])


def plane_of(grid: Volume, axis: int) -> str:
    """The plane that slices along an array axis show."""
    lps = [own for own, _ in closest_axes(grid.affine)].index(axis)
    return next(name for name, cut_axis in CUT_AXIS.items() if cut_axis == lps)


def acquisition_plane(grid: Volume, stacked: bool = False) -> str:
    """Return the plane in which slices were taken: across the only axis with a single voxel, or else the axis with
    clearly the longest voxels, else axial.

    Args:
        stacked: the last axis is known to run from slice to slice, as in a DICOM series.
    """
    single = [axis for axis, length in enumerate(grid.array.shape) if length == 1]
    if len(single) == 1:
        return plane_of(grid, single[0])
    if stacked:
        return plane_of(grid, 2)
    order = np.argsort(grid.spacing)
    return plane_of(grid, int(order[2])) if grid.spacing[order[2]] > LONG * grid.spacing[order[1]] else "axial"


def open_volume(path: str | Path, number: int | None = None, *, detached: bool = False) -> VolumeSource:
    """Open a volume file; slices along its last axis are read one by one.

    Args:
        path (`str` or `Path`): see [`~modeling_medglip.volumes.reader.read_volume`].
        number (`int`, *optional*): which volume of a 4-D file, counted from 1.
        detached (`bool`, *optional*, defaults to `False`): an NRRD or MetaImage header may name a file beside it that
            holds the voxels; never for files of strangers.

    Raises:
        `VolumeError`: names the file and what is wrong.
    """
    file = Path(path)
    header = volume_header(file, number, detached=detached)
    source = StreamedSource(VolumeFile(file, header), header.shape, header.affine, file.name, notes=header.notes)
    source.nifti_header = header.nifti
    return source


__all__ = [
    "CUT_AXIS",
    "UNSTATED",
    "SliceOf",
    "StreamedSource",
    "VolumeError",
    "VolumeSource",
    "acquisition_plane",
    "box_in_file",
    "box_of_pictures",
    "corners_lps",
    "empty_grid",
    "open_volume",
    "plane_of",
]
