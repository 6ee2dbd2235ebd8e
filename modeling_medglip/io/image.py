# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Read one image from a file: PNG, JPEG, TIFF and the like through Pillow, DICOM through pydicom.

[`decode_image`] is the one decoder of 2-D files: serving, data build and training call it. Files are not trusted:
sizes are checked from the header before anything is decoded, and whatever a decoder raises becomes a one-line
[`MedGlipError`]. Of a DICOM header nothing but modality and pixel spacing is kept.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageFile

from ..errors import MedGlipError, one_line
from .dicom import count_dicom_frames, read_dicom
from .file_endings import DICOM_ENDINGS, VIDEO_ENDINGS, VOLUME_ENDINGS
from .image_headers import (
    EXIF_PROFILE,
    ORIENTATION,
    FileHeader,
    exif_orientation,
    exif_profile,
    valid_orientation,
    walk_header,
)
from .image_orientation import upright
from .image_pixels import image_array, png_array, tiff_array
from .image_record import ImageSizeError, ReadImage, check_pixels, choose_frame, compact
from .video import count_video_frames, read_video


MAX_BYTES = 2**30
# Equal to the image processor's, which this module does not import: reading a file needs no PyTorch.
IMAGE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
# Pixels that may be composed to reach a frame of an animation, and those of files that Pillow decodes in Python.
MAX_ANIMATED_PIXELS = 2**30
MAX_SLOW_PIXELS = 2**23
SLOW_DECODERS = ("bmp_rle", "ppm", "ppm_plain")
# Strips and tiles may cover the image once per channel, and the padding at its border.
MAX_COVERAGE = 8


def read_image(path: str | Path, frame: int | None = None) -> ReadImage:
    """Read one image.

    Args:
        path (`str` or `Path`): An image, video or DICOM file; symbolic links are followed.
        frame (`int`, *optional*): Which frame or page of a file that holds several, counted from 1. Without it the
            first is read, with a warning when there are more.

    Raises:
        `MedGlipError`: the file is missing, unreadable, too large, damaged, a volume or folder, or holds NaN; the
            message is one line and names the file.
    """
    with _stream(Path(path)) as (stream, is_dicom, name):
        if is_dicom:
            return replace(read_dicom(stream, frame), file=name)
        if Path(path).name.lower().endswith(VIDEO_ENDINGS):
            return replace(read_video(stream, Path(path).suffix, frame), file=name)
        return replace(decode_image(stream, frame), file=name)


def count_frames(path: str | Path) -> int:
    """Return the number of frames or pages of a file that [`read_image`] reads.

    Args:
        path (`str` or `Path`): An image, video or DICOM file.

    Raises:
        `MedGlipError`: as [`read_image`], as far as the headers tell.
    """
    with _stream(Path(path)) as (stream, is_dicom, _):
        if is_dicom:
            return count_dicom_frames(stream)
        if Path(path).name.lower().endswith(VIDEO_ENDINGS):
            return count_video_frames(stream, Path(path).suffix)
        with _opened(stream) as (image, header):
            return header.frames or int(getattr(image, "n_frames", 1))


@contextmanager
def _stream(file: Path) -> Iterator[tuple[IO[bytes], bool, str]]:
    """Yield an open file, whether it is DICOM, and its name. Errors inside the block name the file."""
    name = one_line(file.name, 120) or "."
    try:
        _check_file(file)
        with file.open("rb") as stream:
            has_preamble = stream.read(132)[128:] == b"DICM"
            stream.seek(0)
            yield stream, has_preamble or file.suffix.lower() in DICOM_ENDINGS, name
    except MedGlipError as error:
        raise type(error)(f"{name}: {error}") from error
    except OSError as error:
        raise MedGlipError(f"{name}: cannot be read ({one_line(error.strerror or 'damaged file')})") from error


def _check_file(file: Path) -> None:
    """Refuse what is not a plain file of sensible size."""
    try:
        status = file.stat()
    except FileNotFoundError:
        raise MedGlipError("no such file") from None
    except ValueError:
        raise MedGlipError("not a file name") from None
    lower = file.name.lower()
    if stat.S_ISDIR(status.st_mode):
        raise MedGlipError("is a folder, not an image: give its files one by one, or ground its series as a volume")
    if not stat.S_ISREG(status.st_mode):
        raise MedGlipError("is not a plain file")
    if lower.endswith(VOLUME_ENDINGS):
        raise MedGlipError("is a volume, not an image: ground it as a volume (medglip ground, or ground_volume)")
    if status.st_size == 0:
        raise MedGlipError("is empty")
    if status.st_size > MAX_BYTES:
        raise MedGlipError(f"has {status.st_size} bytes, more than {MAX_BYTES}")


def decode_image(stream: IO[bytes], frame: int | None = None, label_map: bool = False) -> ReadImage:
    """Decode an image of one of `IMAGE_FORMATS`, upright; transparent parts become black.

    Args:
        stream (`IO[bytes]`): A seekable file at its start.
        frame (`int`, *optional*, defaults to 1): Frame or page, counted from 1.
        label_map (`bool`, *optional*, defaults to `False`): Keep the indices of a palette, and gray levels of 2 and 4
            bits, as stored.

    Returns:
        [`ReadImage`]: Without a file name. Gray in its own bit depth, color as uint8, fractions of 0 to 1 as float32.

    Raises:
        `MedGlipError`: whatever is wrong with the file; [`ImageSizeError`] and [`NotFiniteError`] among others.
    """
    with _opened(stream) as (image, header):
        frames = header.frames or int(getattr(image, "n_frames", 1))
        notes = choose_frame(frame, frames)
        _seek(image, frame or 1, header.format)
        _check_cost(image)
        orientation = _orientation(image, header)
        values = _values(image, stream, header, label_map)
        # Pillow turns TIFF files itself.
        values = values if header.format == "TIFF" else upright(values, orientation)
        return ReadImage(_smallest(values), "", warnings=notes, orientation=orientation)


def read_orientation(stream: IO[bytes]) -> tuple[int, tuple[int, int]]:
    """Return EXIF orientation, and width and height of the upright image, without decoding it.

    Args:
        stream (`IO[bytes]`): A seekable file at its start.

    Raises:
        `MedGlipError`: as in `decode_image`.
    """
    with _opened(stream) as (image, header):
        orientation = _orientation(image, header)
        width, height = image.size
        # Pillow states the size of TIFF files as they are shown.
        return orientation, (height, width) if orientation > 4 and header.format != "TIFF" else (width, height)


@contextmanager
def _opened(stream: IO[bytes]) -> Iterator[tuple[ImageFile.ImageFile, FileHeader]]:
    """Open an image with the decoder of its format. Every failure inside the block becomes a `MedGlipError`."""
    header: FileHeader | None = None
    Image.init()  # or Pillow does not know all of the formats yet
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = walk_header(stream)
            with Image.open(stream, formats=(header.format,)) as image:
                check_pixels(*image.size)
                yield image, header
        except MedGlipError:
            raise
        except Image.DecompressionBombError:
            raise ImageSizeError("the image has too many pixels to be decoded safely") from None
        except MemoryError:
            raise MedGlipError("needs more memory than there is") from None
        except Exception as error:  # damaged files make Pillow raise nearly anything
            kind = f"{header.format} file" if header else "image"
            raise MedGlipError(
                f"is a damaged {kind}, or of a kind that cannot be read: save it as an 8-bit or 16-bit PNG"
            ) from error


def _seek(image: ImageFile.ImageFile, frame: int, kind: str) -> None:
    """Seek to a frame, counted from 1."""
    if frame == 1:
        return
    if kind != "TIFF" and frame * image.width * image.height > MAX_ANIMATED_PIXELS:
        raise MedGlipError(f"takes too long to reach frame {frame}: save that frame as PNG")
    image.seek(frame - 1)
    check_pixels(*image.size)


def _check_cost(image: ImageFile.ImageFile) -> None:
    """Refuse what would be decoded over and over, or in Python byte by byte."""
    pixels, tiles = image.width * image.height, getattr(image, "tile", ())
    boxes = [tile.extents for tile in tiles if tile.extents is not None]
    if sum((box[2] - box[0]) * (box[3] - box[1]) for box in boxes) > MAX_COVERAGE * pixels:
        raise MedGlipError("has strips or tiles that cover the image again and again: save it anew, as PNG")
    if pixels > MAX_SLOW_PIXELS and any(tile.codec_name in SLOW_DECODERS for tile in tiles):
        raise MedGlipError(f"stores {pixels} pixels in a format that decodes slowly: save it as PNG")


def _orientation(image: ImageFile.ImageFile, header: FileHeader) -> int:
    """Return the EXIF orientation of the current frame, 1 to 8."""
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    xmp = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
    if header.format == "TIFF":
        stored = getattr(image, "tag_v2", {}).get(ORIENTATION)
        return (
            exif_orientation(b"", xmp if isinstance(xmp, bytes) else b"")
            if stored is None
            else valid_orientation(stored)
        )
    png = header.format == "PNG"
    exif = header.exif or (exif_profile(image.info.get(EXIF_PROFILE)) if png else image.info.get("exif")) or b""
    return exif_orientation(exif if isinstance(exif, bytes) else b"", xmp if isinstance(xmp, bytes) else b"")


def _values(image: ImageFile.ImageFile, stream: IO[bytes], header: FileHeader, label_map: bool) -> np.ndarray:
    """Return the pixels in the numbers of the file: (h, w) or (h, w, 3)."""
    if label_map and image.mode == "P":
        return np.array(image)
    if header.format == "PNG" and not image.tell():
        return png_array(image, stream, header, label_map)
    return tiff_array(image, label_map) if header.format == "TIFF" else image_array(image)


def _smallest(values: np.ndarray) -> np.ndarray:
    """Apply `compact`, except to uint8 and to fractions of 0 to 1, which stay a range even where all are 0 or 1."""
    if values.dtype == np.uint8 or (values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1):
        return values
    return compact(values)


__all__ = [
    "MAX_BYTES",
    "count_frames",
    "decode_image",
    "read_image",
    "read_orientation",
]
