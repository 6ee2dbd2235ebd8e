# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Volumes picture by picture: from memory, or streamed from disk so that only one slice is there at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import one_line
from .geometry import PLANES, Volume, closest_axes, cut, picture_count, to_lps, with_axcodes
from .volumes import NIFTI_ENDINGS, NiftiSlabs, VolumeError, nifti_header, read_header, read_volume


# The LPS axis that each plane cuts.
CUT_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}
# An axis whose voxels are so much longer than the others' is the one that slices were taken along.
LONG = 1.3
UNSTATED = "its header says nothing of orientation: left and right may be wrong; state the axes (--axes) to be sure"


class VolumeSource:
    """A volume in memory.

    Args:
        volume ([`Volume`]). name: base name of the file, for messages. modality: what a header says, if anything.
        notes: what was mended or should be known, one line each.

    Attributes:
        nifti_header: of a NIfTI file, nibabel's. dicom_files: of a series, in the order of its slices.
        stacked (`bool`): the last array axis is known to run from slice to slice.
        grid ([`Volume`]): shape and affine of the volume; its array takes no memory and holds nothing.
    """

    stacked = False
    nifti_header: Any = None
    dicom_files: tuple[Path, ...] = ()

    def __init__(
        self, volume: Volume, name: str = "volume", modality: str | None = None, notes: tuple[str, ...] = ()
    ) -> None:
        self.grid = empty_grid(volume.array.shape, volume.affine)
        self.name, self.modality, self.notes = one_line(name, 120), modality, notes
        self._volume: Volume | None = volume

    def volume(self) -> Volume:
        """The whole volume, in memory."""
        assert self._volume is not None
        return replace(self._volume, affine=self.grid.affine)

    def state_axes(self, codes: str) -> None:
        """Replace what the header says of orientation; see [`~modeling_medglip.geometry.with_axcodes`].

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
        self.grid = empty_grid(shape, affine)
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


def empty_grid(shape: tuple[int, ...], affine: NDArray[np.float64]) -> Volume:
    """A volume of this shape whose array takes no memory."""
    return Volume(np.broadcast_to(np.zeros((), np.uint8), shape), np.asarray(affine, dtype=np.float64))


def plane_of(grid: Volume, axis: int) -> str:
    """The plane that slices along an array axis show."""
    lps = [own for own, _ in closest_axes(grid.affine)].index(axis)
    return next(name for name, cut_axis in CUT_AXIS.items() if cut_axis == lps)


def acquisition_plane(grid: Volume, stacked: bool = False) -> str:
    """The plane in which slices were taken: across the axis with clearly the longest voxels, else axial.

    Args:
        stacked: the last axis is known to run from slice to slice, as in a DICOM series.
    """
    if stacked:
        return plane_of(grid, 2)
    order = np.argsort(grid.spacing)
    return plane_of(grid, int(order[2])) if grid.spacing[order[2]] > LONG * grid.spacing[order[1]] else "axial"


def box_of_pictures(
    grid: Volume, plane: str, box: tuple[float, float, float, float], first: int, last: int
) -> tuple[float, ...]:
    """A box over several pictures -> (i1, j1, k1, i2, j2, k2) in the array's own voxels, edges: voxel 0 covers 0 to 1.

    Args:
        box: (x1, y1, x2, y2) in pixels of the pictures. first, last: pictures, both included.
    """
    if plane not in PLANES:
        raise ValueError(f"plane {plane!r}: choose one of {', '.join(PLANES)}")
    across = CUT_AXIS[plane]
    columns, rows = (axis for axis in range(3) if axis != across)
    axes = closest_axes(grid.affine)
    lengths = [grid.array.shape[axis] for axis, _ in axes]
    low, high = [0.0] * 3, [0.0] * 3
    low[across], high[across] = float(first), float(last + 1)
    low[columns], high[columns] = box[0], box[2]
    # Coronal and sagittal pictures have the head on top: their rows run down.
    low[rows], high[rows] = (box[1], box[3]) if plane == "axial" else (lengths[rows] - box[3], lengths[rows] - box[1])
    return box_in_file(grid, low, high)


def box_in_file(grid: Volume, low: Sequence[float], high: Sequence[float]) -> tuple[float, ...]:
    """A box in voxels of `to_lps(grid)` (edges) -> (i1, j1, k1, i2, j2, k2) in the array's own."""
    start, stop = [0.0] * 3, [0.0] * 3
    for lps, (axis, sign) in enumerate(closest_axes(grid.affine)):
        length = grid.array.shape[axis]
        ends = (low[lps], high[lps]) if sign > 0 else (length - high[lps], length - low[lps])
        start[axis], stop[axis] = (float(end) for end in ends)
    return (*start, *stop)


def corners_lps(grid: Volume, box_ijk: tuple[float, ...]) -> NDArray[np.float64]:
    """The 8 corners (8, 3) in LPS mm of a box in voxels; i runs fastest, then j, then k."""
    start, stop = np.array(box_ijk[:3]), np.array(box_ijk[3:])
    places = np.array([[(number >> axis) & 1 for axis in range(3)] for number in range(8)])
    points = np.where(places == 1, stop, start) - 0.5
    return np.asarray(points @ grid.affine[:3, :3].T + grid.affine[:3, 3])


def states_orientation(header: Any) -> bool:
    """Whether a NIfTI header says how the patient lies: a transform with a code, other than one that only scales
    voxels from a corner at the origin, which programs write that know nothing better."""
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        return False
    affine = np.asarray(header.get_best_affine())
    return bool(np.abs(affine[:3, 3]).max() > 0 or np.abs(affine[:3, :3] - np.diag(np.diag(affine[:3, :3]))).max() > 0)


def open_volume(path: str | Path, number: int | None = None) -> VolumeSource:
    """A volume file: NIfTI slice by slice, the others in memory.

    Args:
        number: which volume of a 4-D NIfTI file, counted from 1.

    Raises:
        `VolumeError`: names the file and what is wrong.
    """
    file = Path(path)
    if file.name.lower().endswith(NIFTI_ENDINGS):
        shape, affine = read_header(file, number)
        source = StreamedSource(NiftiSlabs(file, number), shape, affine, file.name)
        source.nifti_header = nifti_header(file, number)
        if not states_orientation(source.nifti_header):
            source.notes = (UNSTATED,)
        return source
    return VolumeSource(read_volume(file), file.name)


__all__ = [
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
