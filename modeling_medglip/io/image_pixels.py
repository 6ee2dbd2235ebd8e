# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Return the pixels of an opened Pillow image in the bit depth of its file.

Pillow silently reduces, inverts or swaps several kinds of PNG and TIFF. Each kind is corrected here or refused with a
hint what to save instead. Color is 8 bits per channel: deeper color is shifted down, never clipped.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from ..errors import MedGlipError
from .image_headers import FileHeader


# PNG color types.
GRAY, RGB, GRAY_ALPHA, RGB_ALPHA = 0, 2, 4, 6
# TIFF tags.
BITS, COMPRESSION, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 259, 262, 284, 339
TILE_WIDTH, TILE_HEIGHT = 322, 323
SEPARATE_PLANES, WHITE_IS_ZERO, SIGNED, UNSIGNED, FLOAT = 2, 0, 2, 1, 3
# Pixels of a tile, whatever the size of its image.
LARGEST_TILE = 2**24
SAVE_INSTEAD = "save it as an 8-bit or 16-bit PNG"


def over_black(colors: NDArray, alpha: NDArray) -> NDArray:
    """Compose an image over black, the background of medical images.

    Args:
        colors (`np.ndarray` of shape `(h, w)` or `(h, w, 3)`): Uint8 or uint16, not premultiplied.
        alpha (`np.ndarray` of shape `(h, w)`): Of the same type; its highest number is opaque.
    """
    full = np.iinfo(alpha.dtype).max
    if alpha.min() == full:
        return colors
    result = np.empty_like(colors)
    for channel in range(colors.shape[2]) if colors.ndim == 3 else (slice(None),):
        part = (..., channel) if colors.ndim == 3 else ...
        result[part] = (colors[part].astype(np.uint32) * alpha + full // 2) // full
    return result


def image_array(image: Image.Image) -> NDArray:
    """Return the pixels of a loaded image of any mode; transparent parts become black.

    Args:
        image (`PIL.Image.Image`): The image.

    Returns:
        `np.ndarray` of shape `(h, w)` or `(h, w, 3)`: Uint8, uint16, int32 or float32.
    """
    if image.mode in ("P", "PA", "La", "RGBa"):
        transparent = image.mode != "P" or "transparency" in image.info
        image = image.convert("RGBA" if transparent else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("CMYK", "YCbCr", "RGBX"):
        image = image.convert("RGB")
    if image.mode not in ("L", "LA", "RGB", "RGBA", "F") and not image.mode.startswith("I"):
        raise MedGlipError(f"has the color mode {image.mode}, which cannot be read: {SAVE_INSTEAD}")
    values = np.array(image)
    if image.mode in ("LA", "RGBA"):
        colors = values[..., 0] if image.mode == "LA" else values[..., :3]
        return over_black(colors, values[..., -1])
    return values


# PNG -----------------------------------------------------------------------------------------------------------------


def png_array(image: ImageFile.ImageFile, stream: IO[bytes], header: FileHeader, unscaled: bool = False) -> NDArray:
    """Return the pixels of an opened PNG file.

    Args:
        image (`PIL.ImageFile.ImageFile`): Opened from `stream`, not loaded yet.
        stream (`IO[bytes]`): The file.
        header ([`FileHeader`]): As `walk_header` returns it.
        unscaled (`bool`, *optional*, defaults to `False`): Leave gray levels of 2 and 4 bits as they are stored, as
            label maps need them.
    """
    # Texts of a PNG become metadata under any name, also under this one.
    image.info.pop("transparency", None)
    if header.bits == 16 and header.color_type == GRAY_ALPHA:
        return _gray_alpha_16(stream)
    if header.bits == 16 and header.color_type == RGB and header.transparency:
        return _rgb_16_with_key(image, stream, header.transparency)
    if image.mode == "P":
        return _palette(image, header.transparency)
    values = image_array(image)
    scale = {1: 255, 2: 85, 4: 17}.get(header.bits, 1)
    if header.transparency and header.color_type in (GRAY, RGB):
        _hide(values, [(values, number * scale) for number in _key(header.transparency, values.ndim)])
    return values // scale if unscaled and header.bits in (2, 4) else values


def _key(transparency: bytes, ndim: int) -> list[int]:
    """Return the transparent color of a gray (2 dimensions) or color image: one number per channel."""
    count = 3 if ndim == 3 else 1
    if len(transparency) < 2 * count:
        raise MedGlipError("is a damaged PNG file (transparent color)")
    return [int(number) for number in struct.unpack(f">{count}H", transparency[: 2 * count])]


def _hide(values: NDArray, conditions: list[tuple[NDArray, int]]) -> None:
    """Set pixels to black, in place, where each channel of `(h, w)` or `(h, w, 3)` has its number.

    Args:
        values (`np.ndarray`): The image.
        conditions (`list`): Per channel an array like `values`, and the number that it must have; they repeat for more
            parts.
    """
    hidden = np.ones(values.shape[:2], bool)
    for number, (part, value) in enumerate(conditions):
        hidden &= (part[..., number % 3] if part.ndim == 3 else part) == value
    visible = ~hidden
    np.multiply(values, visible[..., None] if values.ndim == 3 else visible, out=values)


def _palette(image: Image.Image, transparency: bytes | None) -> NDArray:
    """Return the colors of a palette image over black."""
    indices = np.array(image)
    values = np.array(image.convert("RGB"))
    if transparency:
        table = np.full(256, 255, np.uint8)
        table[: len(transparency)] = np.frombuffer(transparency[:256], np.uint8)
        values = over_black(values, table[indices])
    return values


def _gray_alpha_16(stream: IO[bytes]) -> NDArray:
    """Return the pixels of a PNG of 16-bit gray with alpha, of which Pillow keeps 8 bits.

    Its bytes are those of an RGBA file of 8 bits: high and low byte of the gray level, then of alpha.
    """
    stream.seek(0)
    content = bytearray(stream.read())
    content[24:26] = bytes((8, RGB_ALPHA))
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        halves = np.array(image)
    if halves.shape[-1:] != (4,):
        raise MedGlipError("is a damaged PNG file (header)")
    gray, alpha = (halves[..., at].astype(np.uint16) << 8 | halves[..., at + 1] for at in (0, 2))
    return over_black(gray, alpha)


def _rgb_16_with_key(image: ImageFile.ImageFile, stream: IO[bytes], transparency: bytes) -> NDArray:
    """Return the pixels of a PNG of 16-bit color with a transparent color, which all 16 bits decide."""
    high = np.array(image)
    stream.seek(0)
    with Image.open(stream, formats=("PNG",)) as again:
        # Of samples read as little-endian, the decoder keeps what is the low byte here.
        again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]
        low = np.array(again)
    key = _key(transparency, high.ndim)
    _hide(high, [(high, number >> 8) for number in key] + [(low, number & 255) for number in key])
    return high


# TIFF ----------------------------------------------------------------------------------------------------------------


def tiff_array(image: ImageFile.ImageFile, unscaled: bool = False) -> NDArray:
    """Return the pixels of the current page of an opened TIFF file, which Pillow turns upright.

    Args:
        image (`PIL.ImageFile.ImageFile`): Not loaded yet.
        unscaled (`bool`, *optional*, defaults to `False`): Leave gray levels of 2 and 4 bits as they are stored.
    """
    tags: Any = getattr(image, "tag_v2", {})
    bits = int(max(tags.get(BITS, (1,))))
    sample_format = int(max(tags.get(SAMPLE_FORMAT, (1,))))
    white_is_zero = tags.get(PHOTOMETRIC, 0) == WHITE_IS_ZERO
    big = getattr(tags, "prefix", b"II") == b"MM"
    _check_tiff(image, tags, bits, sample_format, white_is_zero, big and tags.get(COMPRESSION, 1) != 1)
    if tags.get(PLANAR, 1) == SEPARATE_PLANES and bits == 16:
        _correct_planes(image, ";16B" if big else ";16L")
    values = image_array(image)
    if sample_format == SIGNED and bits == 8:
        values = values.view(np.int8).astype(np.int16)
    elif sample_format == UNSIGNED and bits == 32:
        values = values.view(np.uint32)
    elif white_is_zero and bits == 16:
        values = 65535 - values
    return values // {2: 85, 4: 17}.get(bits, 1) if unscaled and image.mode == "L" else values


def _correct_planes(image: ImageFile.ImageFile, end: str) -> None:
    """Decode the planes of an uncompressed file as 16 bits, which Pillow takes for 8."""
    image.tile = [
        tile._replace(args=(tile.args[0] + end, *tile.args[1:]))
        if isinstance(tile.args, tuple) and tile.args[0] in tuple("RGBA")
        else tile
        for tile in image.tile
    ]


def _check_tiff(
    image: Image.Image, tags: Any, bits: int, sample_format: int, white_is_zero: bool, swapped: bool
) -> None:
    """Refuse what Pillow reads wrongly, and what is too rare to correct."""
    if sample_format == FLOAT and white_is_zero:
        raise MedGlipError("is a TIFF of fractions whose zero is white: save it with zero as black")
    # libtiff gives numbers in the order of the machine, Pillow swaps them once more.
    if swapped and (bits == 32 or (bits == 16 and sample_format == SIGNED)):
        raise MedGlipError("is a compressed big-endian TIFF: save it uncompressed, or in little-endian order")
    if tags.get(TILE_WIDTH, 1) * tags.get(TILE_HEIGHT, 1) > max(LARGEST_TILE, 4 * image.width * image.height):
        raise MedGlipError(f"is a TIFF of tiles far larger than the image: {SAVE_INSTEAD}")
    if image.mode == "RGB" and sample_format != UNSIGNED:
        raise MedGlipError(f"is a TIFF of signed color: {SAVE_INSTEAD}")
    if image.mode == "LA" and tags.get(PLANAR, 1) == SEPARATE_PLANES and tags.get(COMPRESSION, 1) != 1:
        raise MedGlipError(f"is a compressed TIFF of gray levels and alpha in separate planes: {SAVE_INSTEAD}")


__all__ = ["image_array", "over_black", "png_array", "tiff_array"]
