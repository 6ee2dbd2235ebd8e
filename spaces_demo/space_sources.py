# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The input of a visitor: an upload or an example, an image or a volume, opened again for every request.

Files are decoded in worker processes only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeling_medglip.errors import MedGlipError
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
    to_lps,
)
from modeling_medglip.volumes.reader import is_volume_file
from modeling_medglip.volumes.source import VolumeSource, acquisition_plane
from space_readers import READERS
from space_settings import Settings


GONE = "the upload has been deleted from the server: upload the file again"


@dataclass(frozen=True)
class Source:
    """A file, or an image in memory (`image`)."""

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
        self._keep()
        return READERS.read_image(self.path)

    def volume(self, settings: Settings) -> VolumeSource:
        """A volume, not yet read. Raises `MedGlipError`: it cannot be, or is too large for this server."""
        self._keep()
        shape, _ = READERS.read_header(self.path)
        if int(np.prod(shape, dtype=np.int64)) > settings.voxels:
            raise MedGlipError(f"{self.path.name[:120]}: has {shape} voxels, more than {settings.voxels} in all")
        return READERS.open_volume(self.path)

    def volume_grid(self) -> Volume:
        """Shape and affine of a volume, without its voxels."""
        self._keep()
        shape, affine = READERS.read_header(self.path)
        return empty_grid(shape, affine)

    def _keep(self) -> None:
        """Files that are in use are not swept away: that goes by the time of their last change."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            raise MedGlipError(GONE) from None
        except OSError:  # an example among the files of a package that may not be touched
            pass


def planes_of(source: VolumeSource) -> tuple[str, dict[str, int]]:
    """Return the plane in which a volume was taken, and plane -> number of its slices."""
    lps = to_lps(source.grid)
    return acquisition_plane(source.grid, source.stacked), {plane: slice_count(lps, plane) for plane in PLANES}


def read_slice_image(source: VolumeSource, plane: str, index: int) -> ReadImage:
    """Return one slice of a volume, counted from 0; the nearest one for a number beyond the ends."""
    lps = to_lps(source.grid)
    columns, rows = (axis for axis in range(3) if axis != NORMAL_AXIS[plane])
    inside = min(max(index, 0), slice_count(lps, plane) - 1)
    pixels = np.ascontiguousarray(source.read_slice(plane, inside))
    spacing = (float(lps.spacing[columns]), float(lps.spacing[rows]))
    return ReadImage(pixels, source.name, source.modality, spacing)


def box_in_slice(box: VolumeBox, grid: Volume, plane: str, index: int) -> GroundedBox | None:
    """Return where a box in space cuts one slice of a plane, `None` if it does not."""
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
    """Lowest and highest edge of a box along the axes of `to_lps(grid)`, in voxels."""
    low, high = [], []
    for axis, sign in closest_axes(grid.affine):
        start, stop, length = box.box_ijk[axis], box.box_ijk[axis + 3], grid.array.shape[axis]
        low.append(start if sign > 0 else length - stop)
        high.append(stop if sign > 0 else length - start)
    return low, high
