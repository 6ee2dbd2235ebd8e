# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""An image that was read from a file, and the checks that all image readers share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import Advice, MedGlipError


# Equal to the image processor's, which this module does not import: reading a file needs no PyTorch.
MAX_PIXELS = 2**26


class ImageSizeError(MedGlipError):
    """The image has no pixels, or more than are decoded."""


class NotFiniteError(MedGlipError):
    """The image holds NaN or infinite values."""


@dataclass(frozen=True)
class ReadImage:
    """One image in the numbers of its file.

    Attributes:
        pixels (`np.ndarray` of shape `(height, width)` or `(height, width, 3)`): CT from DICOM in HU, color always
            uint8 RGB; upright.
        file (`str`): Printable base name of the file, without its folder.
        modality (`str`, *optional*): Modality stated by the file's header, one of `MODALITIES`.
        spacing_mm (`tuple[float, float]`, *optional*): Distance of neighboring pixels along x and along y in mm.
        photometric_interpretation (`str`, *optional*): Of DICOM; `"MONOCHROME1"` means that high values are dark.
        warnings (`tuple[str, ...]`): What a user should know about how the file was read, one line each.
        orientation (`int`): EXIF orientation of the file, 1 to 8.
    """

    pixels: np.ndarray
    file: str
    modality: str | None = None
    spacing_mm: tuple[float, float] | None = None
    photometric_interpretation: str | None = None
    warnings: tuple[str, ...] = ()
    orientation: int = 1

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.pixels.shape[0])


def check_pixels(width: int, height: int) -> None:
    """Raise `ImageSizeError` unless an image of this size may be decoded (1 to `MAX_PIXELS` pixels).

    Args:
        width (`int`): pixels of a row.
        height (`int`): pixels of a column.
    """
    if width < 1 or height < 1:
        raise ImageSizeError(f"the image has no pixels ({width}x{height})")
    if width * height > MAX_PIXELS:
        raise ImageSizeError(f"the image has {width * height} pixels ({width}x{height}), more than {MAX_PIXELS}")


def choose_frame(frame: int | None, count: int) -> tuple[str, ...]:
    """Check the requested frame of a file, and return the warnings to give.

    Args:
        frame (`int`, *optional*): Counted from 1; the first when not given.
        count (`int`): Number of frames of the file.

    Raises:
        `MedGlipError`: The file has no such frame.
    """
    if frame is not None and not 1 <= frame <= count:
        raise MedGlipError(f"has no frame {frame}: it holds {count}")
    if frame is None and count > 1:
        return (Advice(f"holds {count} frames; only the first is used (choose another with frame=)", "frame"),)
    return ()


def compact(values: np.ndarray, signed: bool = False) -> np.ndarray:
    """Cast to the smallest of uint16, int16 and float32 that holds the numbers.

    Args:
        values (`np.ndarray`): Numbers of any type and byte order but uint8.
        signed (`bool`, *optional*, defaults to `False`): The numbers are measured, such as HU: they become int16 or
            float32 even where none is negative.

    Raises:
        `MedGlipError`: NaN or infinite values, or ones beyond single precision.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise NotFiniteError("the image holds NaN or infinite values")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype == np.int16 or (values.dtype == np.uint16 and not signed):
        return values
    low, high = float(values.min()), float(values.max())
    whole = values.dtype.kind in "ui" or bool((values == np.floor(values)).all())
    for kind in (np.int16,) if signed else (np.uint16, np.int16):
        if whole and np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind, copy=False)
    if max(abs(low), abs(high)) > float(np.finfo(np.float32).max):
        raise MedGlipError("the image holds values beyond single precision")
    return values.astype(np.float32, copy=False)


__all__ = [
    "MAX_PIXELS",
    "ImageSizeError",
    "NotFiniteError",
    "ReadImage",
    "check_pixels",
    "choose_frame",
    "compact",
]
