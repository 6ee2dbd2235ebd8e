# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""One frame of a DICOM file as a [`ReadImage`]. Needs pydicom (the extra `clinical`).

pydicom's own messages may quote header values, names among them; they are never passed on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from ..errors import MedGlipError
from ..modalities import resolve_modality
from .dicom_files import DicomFile, open_dicom
from .dicom_mosaic import mosaic_notes
from .dicom_palette import palette_colors
from .dicom_pixels import GREY, PALETTE, Frame, PixelFormat, pixel_format, read_frame
from .image_record import ReadImage, check_pixels, choose_frame, compact
from .quiet import silent


# Codes of DICOM's Modality that say nothing about the picture.
SILENT_CODES = ("", "OT", "SC")
# Pixels that are results, not images.
DERIVED_CODES = ("SEG", "RTDOSE", "RTPLAN", "RTSTRUCT", "SR", "PR", "KO", "ECG")


def read_dicom(stream: IO[bytes], frame: int | None) -> ReadImage:
    """Read one frame of an open DICOM file.

    Args:
        stream: the file, opened for reading bytes.
        frame (`int`, *optional*): counted from 1; the first without it.

    Raises:
        `MedGlipError`: pydicom is missing, or the file is no picture, too large or damaged.
    """
    with _opened(stream) as opened:
        return _decoded(opened, frame)


def count_dicom_frames(stream: IO[bytes]) -> int:
    """Return how many frames an open DICOM file holds. Raises as [`read_dicom`]."""
    with _opened(stream) as opened:
        return pixel_format(opened).frames


@contextmanager
def _opened(stream: IO[bytes]) -> Iterator[DicomFile]:
    """Open a DICOM file. Every failure inside the block becomes a `MedGlipError`."""
    try:
        with silent("pydicom"), open_dicom(stream) as opened:
            yield opened
    except (MedGlipError, MemoryError):
        raise
    except Exception as error:  # damaged files make pydicom raise nearly anything
        raise MedGlipError(f"is a damaged or unreadable DICOM file ({type(error).__name__})") from error


def _decoded(opened: DicomFile, frame: int | None) -> ReadImage:
    header = opened.header
    if "Rows" not in header or "Columns" not in header:
        raise MedGlipError("is no DICOM picture (a report, a plan, or no DICOM file at all)")
    if str(header.get("Modality") or "").strip().upper() in DERIVED_CODES:
        raise MedGlipError("is a DICOM object made from images (segmentation, dose), not an image")
    stored_as = pixel_format(opened)
    check_pixels(stored_as.columns, stored_as.rows)
    notes = choose_frame(frame, stored_as.frames) + mosaic_notes(header) + stored_as.warnings
    index = (frame or 1) - 1
    modality, modality_note = _modality(header)
    values, value_notes = _values(header, read_frame(opened, stored_as, index), stored_as, index, modality)
    return ReadImage(
        values,
        "",
        modality=modality,
        spacing_mm=_spacing(header, index),
        photometric_interpretation=stored_as.photometric if stored_as.photometric in GREY else None,
        warnings=notes + modality_note + value_notes + _orientation_note(header, index),
    )


def _modality(header: Any) -> tuple[str | None, tuple[str, ...]]:
    """The header's modality as one of ours, and a warning when it names another one."""
    code = str(header.get("Modality") or "").strip().upper()
    try:
        return resolve_modality(code), ()
    except ValueError:
        if code in SILENT_CODES or not (code.isascii() and code.isalpha() and len(code) <= 8):
            return None, ()
        return None, (f"its header says {code}, a modality that MedGLIP does not know",)


def _values(
    header: Any, frame: Frame, stored_as: PixelFormat, index: int, modality: str | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Stored numbers -> HU or other units for grey pictures, uint8 RGB for coloured ones; and warnings."""
    import pydicom

    pixels = frame.pixels
    if frame.photometric == PALETTE:
        return palette_colors(pixels, header), ()
    if pixels.ndim == 3:
        return _rgb(frame, stored_as), ()
    if stored_as.stored == 1:
        return pixels, ()
    slope, intercept = _rescale(header, index)
    if slope is None and "ModalityLUTSequence" in header:
        return compact(pydicom.pixels.apply_modality_lut(pixels, header), signed=True), ()
    if slope is not None:
        return compact(pixels * slope + intercept, signed=True), ()
    measured = pixels.dtype.kind != "u"
    source = "taken from the numbers as they are" if measured else "estimated from the picture where it has two peaks"
    unscaled = modality == "ct" and pixels.dtype.itemsize > 1
    note = (f"its header has no rescale slope: HU are {source}",) if unscaled else ()
    return (pixels if pixels.dtype == np.uint8 else compact(pixels, signed=measured)), note


def _rgb(frame: Frame, stored_as: PixelFormat) -> np.ndarray:
    """Color of any depth and kind -> uint8 RGB."""
    import pydicom

    colors, shift = frame.pixels, max(0, stored_as.stored - 8)
    if frame.photometric not in ("YBR_FULL", "YBR_FULL_422"):
        return colors if colors.dtype == np.uint8 else (colors >> shift).clip(0, 255).astype(np.uint8)
    if colors.dtype != np.uint8:  # rounded, since the conversion doubles errors
        colors = (colors / np.float32(2**shift)).round().clip(0, 255).astype(np.uint8)
    return pydicom.pixels.convert_color_space(colors, "YBR_FULL", "RGB")


def functional_item(dataset: Any, index: int, name: str) -> Any:
    """One group of an enhanced file, of the frame itself or of all frames together; `None` if it has none."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in [*own[index : index + 1], *shared[:1]]:
        items = group.get(name)
        if items:
            return items[0]
    return None


def _rescale(dataset: Any, index: int) -> tuple[float | None, float]:
    """(slope, intercept); slope `None` when the file states none that is usable."""
    source = functional_item(dataset, index, "PixelValueTransformationSequence") or dataset
    slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
    if slope is None and intercept is None:
        return None, 0.0
    slope, intercept = float(1 if slope is None else slope), float(intercept or 0)
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise MedGlipError(f"its rescale slope {slope:g} or intercept {intercept:g} is unusable")
    return slope, intercept


def _orientation_note(dataset: Any, index: int) -> tuple[str, ...]:
    """A warning if rows and columns do not run as in the usual views: axial to the left and the back, coronal to the
    left and the feet, sagittal to the back and the feet (PS3.3 C.7.6.2.1.1; axes left, posterior, superior)."""
    item = functional_item(dataset, index, "PlaneOrientationSequence")
    source = dataset if item is None else item
    stated = source.get("ImageOrientationPatient")
    if stated is None or len(stated) != 6:
        return ()
    directions = np.array(stated, dtype=float).reshape(2, 3)
    axes = np.abs(directions).argmax(axis=1)
    signs = tuple(float(np.sign(row[axis])) for row, axis in zip(directions, axes, strict=True))
    usual = {(0, 1): (1.0, 1.0), (0, 2): (1.0, -1.0), (1, 2): (1.0, -1.0)}
    if usual.get((int(axes[0]), int(axes[1]))) == signs:
        return ()
    return ("is mirrored or turned against the usual view (ImageOrientationPatient): left and right may be swapped",)


def _spacing(dataset: Any, index: int) -> tuple[float, float] | None:
    """(along x, along y) in mm. The header's order is the other way round."""
    source = functional_item(dataset, index, "PixelMeasuresSequence") or dataset
    stated = source.get("PixelSpacing")
    try:
        along_y, along_x = (float(value) for value in stated)
    except (TypeError, ValueError):
        return None
    usable = math.isfinite(along_x) and math.isfinite(along_y) and min(along_x, along_y) > 0
    return (along_x, along_y) if usable else None


__all__ = ["count_dicom_frames", "functional_item", "read_dicom"]
