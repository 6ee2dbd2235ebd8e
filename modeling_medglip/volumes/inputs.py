# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Open what [`~modeling_medglip.ground_volume`] takes: files, folders, volumes, images of nibabel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MedGlipError, UsageError, one_line
from ..io.file_endings import DICOM_ENDINGS, is_volume_file
from .geometry import Volume
from .nifti import image_affine
from .source import VolumeSource, open_volume


def as_source(
    volume: Any, number: int | None = None, resample: bool = False, several_patients: bool = False
) -> VolumeSource:
    """Open whatever [`~modeling_medglip.ground_volume`] takes.

    Args:
        volume (`str`, `Path`, [`VolumeSource`], [`Volume`] or image of nibabel): what to open.
        number (`int`, *optional*): which volume of a 4-D one, counted from 1.
        resample (`bool`, *optional*, defaults to `False`): see [`open_path`].
        several_patients (`bool`, *optional*, defaults to `False`): see [`open_path`].

    Raises:
        `UsageError`: something else, or a number for what is not 4-D. `MedGlipError`: it cannot be read or used.
    """
    if isinstance(volume, (str, Path)):
        return open_path(Path(volume), number, resample, several_patients)
    if hasattr(volume, "affine") and hasattr(volume, "dataobj"):
        return _of_nibabel(volume, number)
    if not isinstance(volume, (VolumeSource, Volume)):
        known = "give a file, a DICOM folder, a Volume, or an image of nibabel"
        raise UsageError(f"cannot ground a {type(volume).__name__}: {known}")
    if number is not None:
        raise UsageError("number: chooses a volume of a 4-D file or image, and this is one volume")
    return volume if isinstance(volume, VolumeSource) else VolumeSource(volume)


def open_path(
    path: Path, number: int | None = None, resample: bool = False, several_patients: bool = False
) -> VolumeSource:
    """Open a volume file, a multi-frame DICOM file, or the only series of a DICOM folder.

    Args:
        path (`Path`): the file or folder.
        number (`int`, *optional*): which volume of a 4-D file, counted from 1.
        resample (`bool`, *optional*, defaults to `False`): interpolate uneven, missing or damaged slices of a series.
        several_patients (`bool`, *optional*, defaults to `False`): take a folder with files of several patients.

    Raises:
        `MedGlipError`: it cannot be read, or the folder has several series; names it.
    """
    name = one_line(path.name, 120)
    if is_volume_file(path) or not (path.is_dir() or path.name.lower().endswith(DICOM_ENDINGS)):
        return open_volume(path, number, detached=True)
    if number is not None:
        raise UsageError(f"{name}: number chooses a volume of a 4-D file, and this is DICOM")
    from .dicom_folder import FoundSeries, find_series, holds_slices, open_series

    if not path.is_dir():
        if not holds_slices(path):
            reason = (
                "holds no slices with a position in space: give the folder of its series, or ground it as an image"
            )
            raise MedGlipError(f"{name}: {reason}")
        return open_series(FoundSeries((path,)), path.name, resample)
    all_series = find_series(path, several_patients, resample)
    series = [one for one in all_series if not one.flat] or all_series
    if len(series) > 1:
        numbers = ", ".join("none" if one.number is None else str(one.number) for one in series[:8])
        how = "choose one with modeling_medglip.volumes.dicom_folder.find_series and open_series"
        raise MedGlipError(f"{name}: holds {len(series)} series (numbers {numbers}): {how}")
    return open_series(series[0], path.resolve().name, resample)


def _of_nibabel(image: Any, number: int | None) -> VolumeSource:
    """Return a source for an image of nibabel, whose frame is RAS."""
    lengths = tuple(int(length) for length in image.shape)
    count = int(np.prod(lengths[3:], dtype=np.int64)) if len(lengths) > 3 else 1
    if number is None and count > 1:
        raise UsageError(f"the image has {count} volumes: choose one by its number")
    if number is not None and not 1 <= number <= count:
        raise UsageError(f"the image has {count} volumes and no volume {number}")
    try:
        stored = image.dataobj.get_unscaled() if hasattr(image.dataobj, "get_unscaled") else image.dataobj
        index = np.unravel_index((number or 1) - 1, lengths[3:], order="F") if len(lengths) > 3 else ()
        array = np.asanyarray(stored[(..., *index)])
        affine, notes = image_affine(image)
        volume = Volume(array[..., None] if array.ndim == 2 else array, affine, *_rescale(image.dataobj))
    except ValueError as error:
        raise UsageError(f"the image cannot be used: {one_line(error)}") from None
    header = image.header.copy() if "xyzt_units" in getattr(image, "header", ()) else None
    return VolumeSource(volume, notes=notes, nifti_header=header)


def _rescale(stored: Any) -> tuple[float, float]:
    """Return slope and intercept of an image's stored numbers."""
    slope, intercept = (float(getattr(stored, name, default)) for name, default in (("slope", 1.0), ("inter", 0.0)))
    return (slope, intercept) if np.isfinite([slope, intercept]).all() and slope else (1.0, 0.0)


__all__ = ["as_source", "open_path"]
