# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Map array indices of volumes to patient coordinates, and cut slices in radiological convention.

Coordinates are millimeters in DICOM's patient frame, LPS: x grows to the patient's left, y to the back, z to the head
(PS3.3 C.7.6.2.1.1). An integer index is the center of a voxel. Left is always the patient's left.
The canonical grid of a volume is that of [`to_lps`]; [`to_file`] maps boxes on it back to the file's own voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from numpy.typing import NDArray


PLANES = ("axial", "coronal", "sagittal")
# Axes of an LPS array in each plane: (normal, columns, rows), and whether rows run towards smaller indices, with the
# head on top.
_PLANE_AXES = {"axial": (2, 0, 1, False), "coronal": (1, 0, 2, True), "sagittal": (0, 1, 2, True)}
# The LPS axis that is normal to each plane.
NORMAL_AXIS = {plane: axes[0] for plane, axes in _PLANE_AXES.items()}
# From LPS to RAS, the frame of NIfTI, and back: the first two axes are flipped.
RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# The sides that letters of axis codes name: (LPS axis, direction). Not `nibabel.orientations`, since nibabel is an
# optional dependency.
SIDES = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
# Directions with a smaller determinant are coplanar.
MIN_DETERMINANT = 1e-6
Box = tuple[float, float, float, float]


def affine_fault(affine: NDArray[np.float64]) -> str | None:
    """Return why a matrix cannot be the affine of a volume, or `None`.

    Args:
        affine (`np.ndarray` of shape `(4, 4)`): index to coordinates in any unit.
    """
    if np.shape(affine) != (4, 4) or not np.isfinite(affine).all():
        return "the affine must be four by four finite numbers"
    largest = np.abs(affine[:3, :3]).max(axis=0)  # norms of enormous numbers would overflow
    if largest.min() == 0 or abs(np.linalg.det(affine[:3, :3] / largest)) < MIN_DETERMINANT:
        return "the affine is singular: different voxels have the same coordinates"
    return None


@dataclass(frozen=True)
class Volume:
    """A 3-D array and its position in the patient.

    Args:
        array (`np.ndarray` of shape `(i, j, k)`): stored numbers of any type.
        affine (`np.ndarray` of shape `(4, 4)`): index (i, j, k, 1) to LPS mm, float64.
        slope (`float`, *optional*, defaults to 1.0): factor from stored numbers to values, such as HU. Applied slice
            by slice, since a whole volume of floats takes too much memory.
        intercept (`float`, *optional*, defaults to 0.0): added to the product.

    Raises:
        `ValueError`: the array does not have three axes, or the affine is invalid.
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
    def shape(self) -> tuple[int, int, int]:
        """(i, j, k) voxels along the array axes."""
        i, j, k = self.array.shape
        return i, j, k

    @property
    def spacing(self) -> NDArray[np.float64]:
        """(3,) distance of neighboring voxels along each array axis in mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def values(self, stored: NDArray) -> NDArray:
        """Return the values of stored numbers of any shape: float32, or the numbers themselves without rescaling."""
        if self.slope == 1 and self.intercept == 0:
            return stored
        with np.errstate(over="ignore", invalid="ignore"):  # damaged numbers become infinite, without a warning
            return stored.astype(np.float32) * np.float32(self.slope) + np.float32(self.intercept)


@dataclass(frozen=True)
class SlicePlane:
    """The position of a slice. The center of pixel (column, row) is `origin + column * right + row * down`.

    Args:
        origin (`np.ndarray` of shape `(3,)`): center of pixel (0, 0) in LPS mm.
        right (`np.ndarray` of shape `(3,)`): step to the next column in LPS mm.
        down (`np.ndarray` of shape `(3,)`): step to the next row in LPS mm.
    """

    origin: NDArray[np.float64]
    right: NDArray[np.float64]
    down: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float]:
        """(along x, along y) mm per pixel."""
        return float(np.linalg.norm(self.right)), float(np.linalg.norm(self.down))

    def corners(self, box: Box) -> NDArray[np.float64]:
        """Return the corners (4, 3) of a box in LPS mm: top left, top right, bottom right, bottom left.

        Args:
            box (`tuple[float, float, float, float]`): (x1, y1, x2, y2) in pixels; pixel 0 covers 0 to 1.
        """
        x1, y1, x2, y2 = box
        points = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], dtype=np.float64) - 0.5
        return self.origin + points @ np.stack([self.right, self.down])


def closest_axes(affine: NDArray[np.float64]) -> tuple[tuple[int, int], ...]:
    """Return for each LPS axis the array axis closest to it and its direction: ((axis, +1 or -1), ...).

    Every array axis is used once: the assignment with the largest product of cosines wins. Unlike
    `nibabel.io_orientation`, which assigns axes greedily, this does not depend on their order in oblique volumes.

    Args:
        affine (`np.ndarray` of shape `(4, 4)`): index to LPS mm.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs(directions)
    best = max(permutations(range(3)), key=lambda axes: float(np.prod([cosines[lps, axes[lps]] for lps in range(3)])))
    return tuple((axis, 1 if directions[lps, axis] >= 0 else -1) for lps, axis in enumerate(best))


def to_lps(volume: Volume) -> Volume:
    """Return the volume on its canonical grid: axes that grow (nearly) to the left, the back and the head.

    The array is a view; nothing is copied or interpolated.

    Args:
        volume ([`Volume`]): of any order and direction of axes; oblique axes stay oblique.
    """
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


def axcodes_affine(codes: str, spacing: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the affine (4, 4) of axes that run as letters say, with the first voxel at the origin.

    Args:
        codes (`str`): for every array axis the side that its indices grow to: one of L and R, P and A, S and I, such
            as `"LPS"`.
        spacing (`Sequence[float]`): mm along each array axis.

    Raises:
        `ValueError`: not three such letters of three axes.
    """
    sides = [SIDES.get(letter, (3, 0)) for letter in codes.upper()]
    if sorted(axis for axis, _ in sides) != [0, 1, 2]:
        raise ValueError(f"axes {codes[:20]!r}: give three letters such as LPS or RAS, one of each pair")
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    for column, (axis, sign) in enumerate(sides):
        affine[axis, column] = sign * float(spacing[column])
    return affine


def with_axcodes(volume: Volume, codes: str) -> Volume:
    """Return the volume with its axes running as letters say, for files whose headers are known to be wrong.

    The spacing and the position of the first voxel stay; oblique angles go.

    Args:
        volume ([`Volume`]): with the axes of its file.
        codes (`str`): as in [`axcodes_affine`].

    Raises:
        `ValueError`: not three letters of three axes.
    """
    affine = axcodes_affine(codes, volume.spacing)
    affine[:3, 3] = volume.affine[:3, 3]
    return replace(volume, affine=affine)


def slice_count(lps: Volume, plane: str) -> int:
    """Return the number of slices that a plane of an LPS volume has.

    Args:
        lps ([`Volume`]): on its canonical grid, see [`to_lps`].
        plane (`str`): one of `PLANES`.

    Raises:
        `ValueError`: an unknown plane.
    """
    return int(lps.array.shape[_axes(plane)[0]])


def extract_slice(lps: Volume, plane: str, index: int) -> tuple[NDArray, SlicePlane]:
    """Return a slice of an LPS volume in radiological convention, and its position.

    Axial and coronal slices have the patient's right on their left; the front (axial) or the head is on top. Sagittal
    slices have the front on the left.

    Args:
        lps ([`Volume`]): on its canonical grid, see [`to_lps`].
        plane (`str`): one of `PLANES`.
        index (`int`): along the axis that is normal to the plane.

    Returns:
        `tuple[np.ndarray, SlicePlane]`: a view (rows, columns) of the stored numbers, and its position.

    Raises:
        `ValueError`: an unknown plane. `IndexError`: no such slice.
    """
    across, columns, rows, upside_down = _axes(plane)
    if not 0 <= index < lps.array.shape[across]:
        raise IndexError(f"{plane} slice {index} of {lps.array.shape[across]}")
    pixels = np.moveaxis(lps.array, (across, rows, columns), (0, 1, 2))[index]
    origin = lps.affine[:3, 3] + index * lps.affine[:3, across]
    down = lps.affine[:3, rows].copy()
    if upside_down:
        pixels = pixels[::-1]
        origin, down = origin + down * (lps.array.shape[rows] - 1), -down
    return pixels, SlicePlane(origin, lps.affine[:3, columns].copy(), down)


def slice_spacing(lps: Volume, plane: str) -> tuple[float, float]:
    """Return the mm per pixel (along x, along y) of the slices of a plane of an LPS volume.

    Args:
        lps ([`Volume`]): on its canonical grid, see [`to_lps`].
        plane (`str`): one of `PLANES`.

    Raises:
        `ValueError`: an unknown plane.
    """
    _, columns, rows, _ = _axes(plane)
    return float(lps.spacing[columns]), float(lps.spacing[rows])


def on_grid(labels: Volume, image: Volume, tolerance: float = 0.1) -> Volume | None:
    """Return a label map that covers all or a part of an image's grid, on the image's canonical grid.

    The two may order their axes differently, and the map may have fewer slices: the rest is filled with 0.

    Args:
        labels ([`Volume`]): the label map.
        image ([`Volume`]): the image; only its grid counts.
        tolerance (`float`, *optional*, defaults to 0.1): largest distance between matching voxels, in voxels.

    Returns:
        [`Volume`]: a label map with the shape and affine of `to_lps(image)`, or `None` if its voxels do not match.
    """
    local, grid = to_lps(labels), to_lps(image)
    moved = np.linalg.inv(grid.affine) @ local.affine
    if not np.abs(moved).max() < 2**31:  # nowhere near, or not finite
        return None
    offset = np.rint(moved[:3, 3]).astype(int)
    ends = np.array(local.array.shape) - 1
    drift = np.abs(moved[:3, :3] - np.eye(3)) @ ends + np.abs(moved[:3, 3] - offset)
    if drift.max() > tolerance:
        return None
    if (offset == 0).all() and local.array.shape == grid.array.shape:
        return Volume(local.array, grid.affine)
    filled = np.zeros(grid.array.shape, local.array.dtype)
    low, high = np.maximum(offset, 0), np.minimum(offset + local.array.shape, grid.array.shape)
    if (low >= high).any():
        return None
    target = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    source = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, offset, strict=True))
    filled[target] = local.array[source]
    return Volume(filled, grid.affine)


# Boxes ---------------------------------------------------------------------------------------------------------------


def empty_grid(shape: tuple[int, ...], affine: NDArray[np.float64]) -> Volume:
    """Return a volume of a shape and an affine whose array takes no memory.

    Args:
        shape (`tuple[int, ...]`): (i, j, k) voxels.
        affine (`np.ndarray` of shape `(4, 4)`): index (i, j, k, 1) to LPS mm.

    Raises:
        `ValueError`: not three axes, or an invalid affine.
    """
    return Volume(np.broadcast_to(np.zeros((), np.uint8), shape), np.asarray(affine, dtype=np.float64))


def slices_extent(lps: Volume, plane: str, box: Box, first: int, last: int) -> tuple[list[float], list[float]]:
    """Return the lowest and highest edges of a box over several slices, in voxels of the canonical grid.

    Args:
        lps ([`Volume`]): on its canonical grid.
        plane (`str`): of the slices.
        box (`tuple[float, float, float, float]`): (x1, y1, x2, y2) in pixels of the slices.
        first (`int`): index of the first slice.
        last (`int`): index of the last slice, which is included.

    Raises:
        `ValueError`: an unknown plane.
    """
    normal, columns, rows, upside_down = _axes(plane)
    length = lps.array.shape[rows]
    low, high = [0.0] * 3, [0.0] * 3
    low[normal], high[normal] = float(first), float(last + 1)
    low[columns], high[columns] = box[0], box[2]
    low[rows], high[rows] = (length - box[3], length - box[1]) if upside_down else (box[1], box[3])
    return low, high


def to_file(grid: Volume, low: Sequence[float], high: Sequence[float]) -> tuple[float, ...]:
    """Map a box on the canonical grid to the file's own voxels.

    Args:
        grid ([`Volume`]): of the file.
        low (`Sequence[float]`): lowest edges in voxels of `to_lps(grid)`; voxel 0 covers 0 to 1.
        high (`Sequence[float]`): highest edges.

    Returns:
        `tuple[float, ...]`: (i1, j1, k1, i2, j2, k2), edges in voxels of `grid`.
    """
    start, stop = [0.0] * 3, [0.0] * 3
    for lps, (axis, sign) in enumerate(closest_axes(grid.affine)):
        length = grid.array.shape[axis]
        ends = (low[lps], high[lps]) if sign > 0 else (length - high[lps], length - low[lps])
        start[axis], stop[axis] = (float(end) for end in ends)
    return (*start, *stop)


def corners_lps(grid: Volume, box_ijk: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the 8 corners (8, 3) in LPS mm of a box in voxels; i runs fastest, then j, then k.

    Args:
        grid ([`Volume`]): of the file.
        box_ijk (`tuple[float, ...]`): (i1, j1, k1, i2, j2, k2), edges in voxels of `grid`.
    """
    start, stop = np.array(box_ijk[:3]), np.array(box_ijk[3:])
    corners = np.array([[(number >> axis) & 1 for axis in range(3)] for number in range(8)])
    points = np.where(corners == 1, stop, start) - 0.5
    return np.asarray(points @ grid.affine[:3, :3].T + grid.affine[:3, 3])


def box_voxels(box_ijk: Sequence[float], shape: Sequence[int]) -> tuple[slice, slice, slice]:
    """Return the voxels whose centers lie in a box, as a slice along each axis.

    Args:
        box_ijk (`Sequence[float]`): (i1, j1, k1, i2, j2, k2), edges in voxels; voxel 0 covers 0 to 1.
        shape (`Sequence[int]`): voxels along each axis, beyond which nothing is returned.
    """
    low = [max(0, math.ceil(value - 0.5)) for value in box_ijk[:3]]
    high = [min(int(length), math.ceil(value - 0.5)) for value, length in zip(box_ijk[3:], shape, strict=True)]
    i, j, k = (slice(start, max(start, stop)) for start, stop in zip(low, high, strict=True))
    return i, j, k


def _axes(plane: str) -> tuple[int, int, int, bool]:
    if plane not in _PLANE_AXES:
        raise ValueError(f"plane {plane!r}: choose one of {', '.join(PLANES)}")
    return _PLANE_AXES[plane]


__all__ = [
    "NORMAL_AXIS",
    "PLANES",
    "RAS_LPS",
    "Box",
    "SlicePlane",
    "Volume",
    "affine_fault",
    "axcodes_affine",
    "box_voxels",
    "closest_axes",
    "corners_lps",
    "empty_grid",
    "extract_slice",
    "on_grid",
    "slice_count",
    "slice_spacing",
    "slices_extent",
    "to_file",
    "to_lps",
    "with_axcodes",
]
