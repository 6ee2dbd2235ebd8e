# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Volumes in space: from array indices to the patient, and to pictures as radiologists look at them.

Coordinates are millimetres in DICOM's patient frame, LPS: x grows to the patient's left, y to the back, z to the head
(PS3.3 C.7.6.2.1.1). An integer index is the centre of a voxel. Left is the patient's left, whatever way an array runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from numpy.typing import NDArray


PLANES = ("axial", "coronal", "sagittal")
# Of each plane, the axes of an LPS array: (the one that is cut, columns, rows), and whether rows run towards smaller
# indices, so that the head is on top.
_PLANE_AXES = {"axial": (2, 0, 1, False), "coronal": (1, 0, 2, True), "sagittal": (0, 1, 2, True)}
# The LPS axis that each plane cuts.
CUT_AXIS = {plane: axes[0] for plane, axes in _PLANE_AXES.items()}
# Between LPS and RAS, the frame of NIfTI, two axes are turned round; the same matrix leads both ways.
RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Directions with a smaller determinant lie in one plane.
SINGULAR = 1e-6


def affine_fault(affine: NDArray[np.float64]) -> str | None:
    """Return what keeps a matrix from being the affine of a volume, or `None`.

    Args:
        affine (`np.ndarray`): (4, 4) index -> any unit, so that voxels may be micrometers as well as meters.
    """
    if np.shape(affine) != (4, 4) or not np.isfinite(affine).all():
        return "the affine must be four by four finite numbers"
    largest = np.abs(affine[:3, :3]).max(axis=0)  # norms of enormous numbers would overflow
    if largest.min() == 0 or abs(np.linalg.det(affine[:3, :3] / largest)) < SINGULAR:
        return "the affine is singular: it puts different voxels in one place"
    return None


@dataclass(frozen=True)
class Volume:
    """A 3-D array and where it lies.

    Attributes:
        array: (i, j, k) voxels, of any type.
        affine: (4, 4) float64; index (i, j, k, 1) -> LPS mm.
        slope, intercept: what a stored number is multiplied by and added to, to give its value (HU, for example).
            Applied picture by picture, since a whole volume of floats takes too much memory.
    """

    array: NDArray
    affine: NDArray[np.float64]
    slope: float = 1.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        if self.array.ndim != 3:
            raise ValueError(f"a volume has three axes, this array has {self.array.ndim}")
        if (fault := affine_fault(self.affine)) is not None:
            raise ValueError(fault)

    @property
    def spacing(self) -> NDArray[np.float64]:
        """(3,) distance of neighbouring voxels along each array axis in mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def values(self, stored: NDArray) -> NDArray:
        """Stored numbers of any shape -> their values; float32 unless they are the numbers themselves."""
        if self.slope == 1 and self.intercept == 0:
            return stored
        with np.errstate(over="ignore", invalid="ignore"):  # damaged numbers become infinite, without a warning
            return stored.astype(np.float32) * np.float32(self.slope) + np.float32(self.intercept)


@dataclass(frozen=True)
class PicturePlane:
    """Where a 2-D picture lies. Its pixel (column, row) has its centre at `origin + column * right + row * down`.

    Attributes:
        origin, right, down: (3,) LPS mm; the last two are the steps to the next column and row.
    """

    origin: NDArray[np.float64]
    right: NDArray[np.float64]
    down: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float]:
        """(along x, along y) mm per pixel."""
        return float(np.linalg.norm(self.right)), float(np.linalg.norm(self.down))

    def corners(self, box: tuple[float, float, float, float]) -> NDArray[np.float64]:
        """Corners (4, 3) in LPS mm of a box (x1, y1, x2, y2) in pixels, where pixel 0 covers 0 to 1: top left, top
        right, bottom right, bottom left."""
        x1, y1, x2, y2 = box
        points = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], dtype=np.float64) - 0.5
        return self.origin + points @ np.stack([self.right, self.down])


def closest_axes(affine: NDArray[np.float64]) -> tuple[tuple[int, int], ...]:
    """For each LPS axis the array axis that runs along it most, and in which direction: ((axis, +1 or -1), ...).

    Every array axis is used once. Of all assignments the one with the largest product of cosines is taken, so that
    oblique volumes have a definite answer too.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs(directions)
    best = max(permutations(range(3)), key=lambda axes: float(np.prod([cosines[lps, axes[lps]] for lps in range(3)])))
    return tuple((axis, 1 if directions[lps, axis] >= 0 else -1) for lps, axis in enumerate(best))


def to_lps(volume: Volume) -> Volume:
    """The volume with axes that grow (nearest) to the left, the back and the head. A view: nothing is copied or
    interpolated."""
    axes = closest_axes(volume.affine)
    order = [axis for axis, _ in axes]
    array = volume.array.transpose(order)
    affine = volume.affine[:, [*order, 3]].copy()
    for lps, (_, sign) in enumerate(axes):
        if sign < 0:
            affine[:, 3] += affine[:, lps] * (array.shape[lps] - 1)
            affine[:, lps] *= -1
    steps = tuple(slice(None, None, sign) for _, sign in axes)
    return replace(volume, array=array[steps], affine=affine)


def with_axcodes(volume: Volume, codes: str) -> Volume:
    """The volume with its axes running as letters say, for files whose headers are known to be wrong.

    Args:
        codes: for every array axis the side that its indices grow to: one of L and R, P and A, S and I, such as
            `"LPS"`. The spacing stays, and so does the place of the first voxel; oblique angles go.

    Raises:
        `ValueError`: not three such letters of three axes.
    """
    sides = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    found = [sides.get(letter) for letter in codes.upper()]
    axes = [side[0] for side in found if side is not None]
    if len(codes) != 3 or sorted(axes) != [0, 1, 2]:
        raise ValueError(f"axes {codes[:20]!r}: give three letters such as LPS or RAS, one of each pair")
    affine = np.zeros((4, 4))
    affine[3, 3] = 1.0
    for axis, side in enumerate(found):
        if side is not None:
            affine[side[0], axis] = side[1] * volume.spacing[axis]
    affine[:3, 3] = volume.affine[:3, 3]
    return replace(volume, affine=affine)


def picture_count(lps: Volume, plane: str) -> int:
    """Number of pictures that a plane of an LPS volume has."""
    return int(lps.array.shape[_axes(plane)[0]])


def cut(lps: Volume, plane: str, index: int) -> tuple[NDArray, PicturePlane]:
    """One picture of an LPS volume in radiological convention, and where it lies.

    Axial and coronal pictures have the patient's right on their left; the front (axial) or the head is on top.
    Sagittal ones have the front on the left.

    Args:
        lps: see [`to_lps`]. plane: one of `PLANES`. index: along the axis that is cut.

    Returns:
        a view (rows, columns) and its [`PicturePlane`].

    Raises:
        `ValueError`: another plane. `IndexError`: no such picture.
    """
    across, columns, rows, upside_down = _axes(plane)
    if not 0 <= index < lps.array.shape[across]:
        raise IndexError(f"{plane} picture {index} of {lps.array.shape[across]}")
    picture = np.moveaxis(lps.array, (across, rows, columns), (0, 1, 2))[index]
    origin = lps.affine[:3, 3] + index * lps.affine[:3, across]
    down = lps.affine[:3, rows].copy()
    if upside_down:
        picture = picture[::-1]
        origin, down = origin + down * (lps.array.shape[rows] - 1), -down
    return picture, PicturePlane(origin, lps.affine[:3, columns].copy(), down)


def on_grid(labels: Volume, image: Volume, tolerance: float = 0.1) -> Volume | None:
    """A label map that covers all or a part of an image's grid, on the whole of it.

    The two may order their axes differently, and the map may have fewer slices: what it does not cover is 0.

    Args:
        tolerance: by how much of a voxel voxels may be off their places.

    Returns:
        a label map with the shape and affine of `to_lps(image)`; `None` if its voxels lie in other places.
    """
    own, grid = to_lps(labels), to_lps(image)
    moved = np.linalg.inv(grid.affine) @ own.affine
    if not np.abs(moved).max() < 2**31:  # nowhere near, or not finite
        return None
    offset = np.rint(moved[:3, 3]).astype(int)
    ends = np.array(own.array.shape) - 1
    drift = np.abs(moved[:3, :3] - np.eye(3)) @ ends + np.abs(moved[:3, 3] - offset)
    if drift.max() > tolerance:
        return None
    if (offset == 0).all() and own.array.shape == grid.array.shape:
        return Volume(own.array, grid.affine)
    placed = np.zeros(grid.array.shape, own.array.dtype)
    low, high = np.maximum(offset, 0), np.minimum(offset + own.array.shape, grid.array.shape)
    if (low >= high).any():
        return None
    target = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    source = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, offset, strict=True))
    placed[target] = own.array[source]
    return Volume(placed, grid.affine)


# Boxes ---------------------------------------------------------------------------------------------------------------


def empty_grid(shape: tuple[int, ...], affine: NDArray[np.float64]) -> Volume:
    """A volume of this shape whose array takes no memory."""
    return Volume(np.broadcast_to(np.zeros((), np.uint8), shape), np.asarray(affine, dtype=np.float64))


def box_of_pictures(
    grid: Volume, plane: str, box: tuple[float, float, float, float], first: int, last: int
) -> tuple[float, ...]:
    """A box over several pictures -> (i1, j1, k1, i2, j2, k2) in the array's own voxels, edges: voxel 0 covers 0 to 1.

    Args:
        box: (x1, y1, x2, y2) in pixels of the pictures. first, last: pictures, both included.

    Raises:
        `ValueError`: another plane.
    """
    across, columns, rows, upside_down = _axes(plane)
    length = grid.array.shape[closest_axes(grid.affine)[rows][0]]
    low, high = [0.0] * 3, [0.0] * 3
    low[across], high[across] = float(first), float(last + 1)
    low[columns], high[columns] = box[0], box[2]
    low[rows], high[rows] = (length - box[3], length - box[1]) if upside_down else (box[1], box[3])
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


def _axes(plane: str) -> tuple[int, int, int, bool]:
    if plane not in _PLANE_AXES:
        raise ValueError(f"plane {plane!r}: choose one of {', '.join(PLANES)}")
    return _PLANE_AXES[plane]


__all__ = [
    "CUT_AXIS",
    "PLANES",
    "RAS_LPS",
    "PicturePlane",
    "Volume",
    "affine_fault",
    "box_in_file",
    "box_of_pictures",
    "closest_axes",
    "corners_lps",
    "cut",
    "empty_grid",
    "on_grid",
    "picture_count",
    "to_lps",
    "with_axcodes",
]
