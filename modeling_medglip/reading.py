# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Reading one picture from a file: PNG, JPEG, TIFF and the like through Pillow, DICOM through pydicom.

Files are not trusted: sizes are checked from the header before anything is decoded, and whatever a decoder raises
becomes a one-line [`MedGlipError`]. Of a DICOM header nothing but modality and pixel spacing is kept.
"""

from __future__ import annotations

import stat
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from .errors import MedGlipError, one_line


MAX_BYTES = 2**30
# Equal to the image processor's, which this module does not import: reading a file needs no PyTorch.
MAX_PIXELS = 2**26
PICTURE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
VOLUME_ENDINGS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".img", ".hdr", ".mgz")
DICOM_ENDINGS = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True)
class ReadImage:
    """One picture in its own numbers.

    Attributes:
        pixels: (height, width) or (height, width, 3) array; CT from DICOM in HU, colour always uint8 RGB.
        file: base name of the file, printable; never its folder.
        modality: modality stated by the file's header, one of `MODALITIES`, or `None`.
        spacing_mm: distance of neighbouring pixels (along x, along y) in mm, or `None` when not stated.
        photometric_interpretation: DICOM's; `"MONOCHROME1"` means that high values are dark.
        warnings: what a user should know about how the file was read, one line each.
    """

    pixels: np.ndarray
    file: str
    modality: str | None = None
    spacing_mm: tuple[float, float] | None = None
    photometric_interpretation: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])


def read_image(path: str | Path, frame: int | None = None) -> ReadImage:
    """Read one picture.

    Args:
        path: a picture or DICOM file; symbolic links are followed.
        frame (`int`, *optional*): which frame or page of a file that holds several, counted from 1. Without it the
            first is read, with a warning when there are more.

    Raises:
        `MedGlipError`: the file is missing, unreadable, too large, damaged, a volume or folder, or holds NaN; the
            message is one line and names the file.
    """
    file = Path(path)
    name = one_line(file.name, 120) or "."
    try:
        _check_file(file)
        with file.open("rb") as stream:
            start = stream.read(132)
            stream.seek(0)
            if start[128:132] == b"DICM" or file.suffix.lower() in DICOM_ENDINGS:
                from .reading_dicom import read_dicom

                image = read_dicom(stream, frame)
            else:
                image = _read_picture(stream, frame)
        return replace(image, file=name)
    except MedGlipError as error:
        raise type(error)(f"{name}: {error}") from error
    except OSError as error:
        raise MedGlipError(f"{name}: cannot be read ({one_line(error.strerror or 'damaged file')})") from error


def check_pixels(width: int, height: int) -> None:
    """Raise `MedGlipError` unless a picture of this size may be decoded (1 to `MAX_PIXELS` pixels)."""
    if width < 1 or height < 1:
        raise MedGlipError(f"the image has no pixels ({width}x{height})")
    if width * height > MAX_PIXELS:
        raise MedGlipError(f"the image has {width * height} pixels ({width}x{height}), more than {MAX_PIXELS}")


def _check_file(file: Path) -> None:
    """Refuse what is no plain file of sensible size."""
    try:
        status = file.stat()
    except FileNotFoundError:
        raise MedGlipError("no such file") from None
    except ValueError:
        raise MedGlipError("not a file name") from None
    lower = file.name.lower()
    if stat.S_ISDIR(status.st_mode):
        raise MedGlipError("is a folder: DICOM series come in a later release, give single image files")
    if not stat.S_ISREG(status.st_mode):
        raise MedGlipError("is not a plain file")
    if lower.endswith(VOLUME_ENDINGS):
        raise MedGlipError("is a volume: volumes come in a later release, give a 2-D image or a single DICOM slice")
    if status.st_size == 0:
        raise MedGlipError("is empty")
    if status.st_size > MAX_BYTES:
        raise MedGlipError(f"has {status.st_size} bytes, more than {MAX_BYTES}")


def _read_picture(stream: IO[bytes], frame: int | None) -> ReadImage:
    """Any of `PICTURE_FORMATS`. Every failure of a decoder becomes a `MedGlipError`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _decoded_picture(stream, frame)
        except (MedGlipError, MemoryError):
            raise
        except Image.DecompressionBombError:
            raise MedGlipError("the image has too many pixels to be decoded safely") from None
        except Image.UnidentifiedImageError:
            raise MedGlipError("is no image of a known kind: give a PNG, JPEG, TIFF or DICOM file") from None
        except Exception as error:  # damaged files make Pillow raise nearly anything
            raise MedGlipError(f"is damaged or cut short ({type(error).__name__})") from error


def _decoded_picture(stream: IO[bytes], frame: int | None) -> ReadImage:
    Image.init()  # or Pillow does not know all of the formats yet
    with Image.open(stream, formats=PICTURE_FORMATS) as picture:
        check_pixels(*picture.size)
        count = int(getattr(picture, "n_frames", 1))
        notes = choose_frame(frame, count)
        if (frame or 1) > 1:
            picture.seek((frame or 1) - 1)
            check_pixels(*picture.size)
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        return ReadImage(_array(upright), "", warnings=notes)


def choose_frame(frame: int | None, count: int) -> tuple[str, ...]:
    """Check the wanted frame (counted from 1) of a file with `count` of them; the warnings to give.

    Raises:
        `MedGlipError`: there is no such frame.
    """
    if frame is not None and not 1 <= frame <= count:
        raise MedGlipError(f"has no frame {frame}: it holds {count}")
    if frame is None and count > 1:
        return (f"holds {count} frames; only the first is used (choose another with --frame)",)
    return ()


def _array(picture: Image.Image) -> np.ndarray:
    """A loaded Pillow picture -> array in its own bit depth; transparent parts become black."""
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        opaque = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", opaque.size, (0, 0, 0, 255)), opaque).convert("RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in ("L", "RGB", "F") and not picture.mode.startswith("I"):
        picture = picture.convert("RGB")
    values = np.array(picture)
    return values if values.dtype == np.uint8 else compact(values)


def compact(values: np.ndarray, signed: bool = False) -> np.ndarray:
    """The smallest of uint16, int16 and float32 that holds the numbers (whole ones stay whole).

    Args:
        values: numbers of any type and byte order, no uint8.
        signed: they are measured, such as HU: they become int16 or float32 even where none is negative.

    Raises:
        `MedGlipError`: NaN or infinite values, or ones beyond single precision.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise MedGlipError("the image holds NaN or infinite values")
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


__all__ = ["MAX_BYTES", "MAX_PIXELS", "ReadImage", "read_image"]
