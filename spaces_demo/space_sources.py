# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The input of a visitor: an image or a volume, uploaded or an example, which every request opens again.

Files are decoded in worker processes only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeling_medglip.errors import MedGlipError
from modeling_medglip.io.file_endings import is_volume_file
from modeling_medglip.io.image_record import ReadImage
from modeling_medglip.outputs.results import GroundedBox
from modeling_medglip.outputs.volume_results import VolumeBox
from modeling_medglip.volumes.geometry import (
    NORMAL_AXIS,
    PLANES,
    Volume,
    closest_axes,
    empty_grid,
    slice_count,
    slice_spacing,
    to_lps,
)
from modeling_medglip.volumes.source import VolumeSource, acquisition_plane
from space_readers import READERS
from space_settings import Settings


GONE = "the upload has been deleted from the server: upload the file again"


@dataclass(frozen=True)
class Source:
    """An input of a visitor.

    Attributes:
        path (`Path`): the file.
        image ([`ReadImage`], *optional*): an image in memory instead of a file.
    """

    path: Path = Path()
    image: ReadImage | None = None

    @property
    def is_volume(self) -> bool:
        """Whether it has slices."""
        return self.image is None and is_volume_file(self.path)

    def read_image(self) -> ReadImage:
        """Return the image.

        Raises:
            `MedGlipError`: it cannot be read; names the file.
        """
        if self.image is not None:
            return self.image
        self._touch()
        return READERS.read_image(self.path)

    def volume(self, settings: Settings) -> VolumeSource:
        """Open the volume without reading its voxels.

        Args:
            settings ([`Settings`]): with the most voxels of a volume.

        Raises:
            `MedGlipError`: it cannot be read, or is too large for this server.
        """
        self._touch()
        shape, _ = READERS.read_header(self.path)
        if int(np.prod(shape, dtype=np.int64)) > settings.voxels:
            raise MedGlipError(f"{self.path.name[:120]}: has {shape} voxels, more than {settings.voxels} in all")
        return READERS.open_volume(self.path)

    def volume_grid(self) -> Volume:
        """Return shape and affine of the volume, without its voxels."""
        self._touch()
        shape, affine = READERS.read_header(self.path)
        return empty_grid(shape, affine)

    def _touch(self) -> None:
        """Set the time of the file's last change to now, so that it is not deleted as unused."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            raise MedGlipError(GONE) from None
        except OSError:
            pass  # an example in a package's folder that is not writable, which is never deleted


def planes_of(source: VolumeSource) -> tuple[str, dict[str, int]]:
    """Return the plane in which a volume was acquired, and plane -> number of its slices.

    Args:
        source ([`VolumeSource`]): the volume.
    """
    lps = to_lps(source.grid)
    return acquisition_plane(source.grid, source.stacked), {plane: slice_count(lps, plane) for plane in PLANES}


def read_slice_image(source: VolumeSource, plane: str, index: int) -> ReadImage:
    """Return one slice of a volume.

    Args:
        source ([`VolumeSource`]): the volume.
        plane (`str`): one of `PLANES`.
        index (`int`): counted from 0; beyond the ends the nearest slice.

    Returns:
        [`ReadImage`]: with its spacing in mm per pixel (along x, along y).
    """
    lps = to_lps(source.grid)
    inside = min(max(index, 0), slice_count(lps, plane) - 1)
    pixels = np.ascontiguousarray(source.read_slice(plane, inside))
    return ReadImage(pixels, source.name, source.modality, slice_spacing(lps, plane))


def box_in_slice(box: VolumeBox, grid: Volume, plane: str, index: int) -> GroundedBox | None:
    """Return the part of a box in space that lies in one slice of a plane, `None` if there is none.

    Args:
        box ([`VolumeBox`]): in voxels of the file.
        grid ([`Volume`]): of the file.
        plane (`str`): one of `PLANES`.
        index (`int`): of the slice, counted from 0.

    Returns:
        [`GroundedBox`], *optional*: in pixels of the slice.
    """
    across = NORMAL_AXIS[plane]
    columns, rows = (axis for axis in range(3) if axis != across)
    low, high = extent_lps(box, grid)
    if not low[across] <= index + 0.5 <= high[across]:
        return None
    # Coronal and sagittal slices have the head on top: their rows run down.
    top = low[rows] if plane == "axial" else to_lps(grid).array.shape[rows] - high[rows]
    size = (low[columns], top, high[columns] - low[columns], high[rows] - low[rows])
    return GroundedBox(box.label, box.score, size, box.label_id, box.category, box.region, box.trained)


def extent_lps(box: VolumeBox, grid: Volume) -> tuple[list[float], list[float]]:
    """Return the lowest and highest edges of a box in voxels of the canonical grid, `to_lps(grid)`.

    Args:
        box ([`VolumeBox`]): in voxels of the file.
        grid ([`Volume`]): of the file.
    """
    low, high = [], []
    for axis, sign in closest_axes(grid.affine):
        start, stop, length = box.box_ijk[axis], box.box_ijk[axis + 3], grid.array.shape[axis]
        low.append(start if sign > 0 else length - stop)
        high.append(stop if sign > 0 else length - start)
    return low, high
