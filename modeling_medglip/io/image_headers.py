# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Walk through the headers of image files before a decoder sees them.

Each walk reads a few bytes per block and bounds what a decoder would read, keep or loop over: chunks of PNG, segments
and scans of JPEG, blocks of GIF, directories of TIFF and EXIF. What is beyond the bounds raises `MedGlipError`.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from ..errors import MedGlipError


# The first bytes of a file -> the name of its format.
SIGNATURES = {
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "TIFF": re.compile(rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]"),
    "BMP": re.compile(rb"BM"),
    "GIF": re.compile(rb"GIF8[79]a"),
    "WEBP": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "PPM": re.compile(rb"P[1-6fF]\s"),
}
# Bytes and number of the parts of a file that hold no pixels: color profiles, texts, EXIF.
MAX_EXTRA_BYTES = 2**24
MAX_EXTRA_PARTS = 1000
MAX_EXIF_BYTES = 2**16
# Parts that hold pixels: chunks of PNG, strips of TIFF.
MAX_PIXEL_PARTS = 2**17
MAX_GIF_BLOCKS = 2**22
MAX_FRAMES = 10_000
# Pixels times scans of a JPEG: a few hundred bytes can ask for thousands of passes over the whole image.
MAX_SCANNED_PIXELS = 2**30
BLOCK = 2**20
ORIENTATION = 0x0112
EXIF_DIRECTORY, GPS_DIRECTORY = 0x8769, 0x8825
TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
EXIF_PROFILE = "Raw profile type exif"
XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


@dataclass(frozen=True)
class FileHeader:
    """What the walk through a header finds.

    Attributes:
        format (`str`): One of the keys of `SIGNATURES`.
        frames (`int`, *optional*): Number of frames or pages; `None` where only the decoder knows it.
        bits (`int`): Bits per sample of a PNG.
        color_type (`int`): Color type of a PNG.
        transparency (`bytes`, *optional*): Content of the `tRNS` chunk of a PNG.
        exif (`bytes`): Content of the `eXIf` chunk of a PNG.
    """

    format: str
    frames: int | None = None
    bits: int = 8
    color_type: int = 0
    transparency: bytes | None = None
    exif: bytes = b""


def walk_header(stream: IO[bytes]) -> FileHeader:
    """Recognize the format of a file, and check its blocks.

    Args:
        stream (`IO[bytes]`): A seekable file; left at its start.

    Raises:
        `MedGlipError`: an unknown format, or more blocks, frames or bytes of metadata than are read.
    """
    start = _read(stream, 0, 16)
    kind = next((name for name, pattern in SIGNATURES.items() if pattern.match(start)), None)
    if kind is None:
        raise MedGlipError("is not an image of a known format: give a PNG, JPEG, TIFF or DICOM file")
    walks = {"PNG": _walk_png, "JPEG": _walk_jpeg, "GIF": _walk_gif, "TIFF": _walk_tiff}
    header = walks[kind](stream) if kind in walks else FileHeader(kind)
    stream.seek(0)
    return header


def _read(stream: IO[bytes], offset: int, size: int) -> bytes:
    stream.seek(offset)
    return stream.read(size)


def _too_much(what: str) -> MedGlipError:
    return MedGlipError(f"holds {what}: save the image anew without metadata, as PNG")


# PNG -----------------------------------------------------------------------------------------------------------------


def _walk_png(stream: IO[bytes]) -> FileHeader:
    """Check the chunks up to `IEND`."""
    bits = color_type = extra = extra_bytes = 0
    transparency, exif = None, b""
    for count, (name, offset, length) in enumerate(_png_chunks(stream)):
        if count > MAX_PIXEL_PARTS:
            raise _too_much(f"more than {MAX_PIXEL_PARTS} chunks")
        if name == b"IHDR" and count == 0:
            bits, color_type = _read(stream, offset + 8, 2)
        elif name == b"tRNS":
            transparency = _read(stream, offset, min(length, 256))
        elif name == b"eXIf":
            exif = _read(stream, offset, min(length, MAX_EXTRA_BYTES))
        if name not in (b"IDAT", b"fdAT", b"fcTL"):
            extra, extra_bytes = extra + 1, extra_bytes + length
        if extra > MAX_EXTRA_PARTS or extra_bytes > MAX_EXTRA_BYTES:
            raise _too_much("too much text or other metadata")
    return FileHeader("PNG", bits=bits, color_type=color_type, transparency=transparency, exif=exif)


def _png_chunks(stream: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, offset of the content, and length of each chunk."""
    offset = 8
    while len(head := _read(stream, offset, 8)) == 8:
        length, name = struct.unpack(">I4s", head)
        yield name, offset + 8, length
        if name == b"IEND":
            return
        offset += 12 + length


# JPEG ----------------------------------------------------------------------------------------------------------------


def _walk_jpeg(stream: IO[bytes]) -> FileHeader:
    """Check the segments up to the first scan, then the number of scans."""
    exif = parts = pixels = 0
    for marker, offset, length in _jpeg_segments(stream):
        parts += 1  # noqa: SIM113 - the count is used after the loop
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            precision, height, width = struct.unpack(">BHH", _read(stream, offset, 5).ljust(5, b"\0"))
            if precision != 8:
                raise MedGlipError(f"is a JPEG of {precision} bits: save it as a 16-bit PNG")
            pixels = max(pixels, height * width)
        if marker == 0xE1 and _read(stream, offset, 6) == b"Exif\0\0":
            exif += length
        if parts > MAX_EXTRA_PARTS or exif > MAX_EXIF_BYTES:
            raise _too_much("too many segments of metadata")
    if pixels * _count(stream, b"\xff\xda") > MAX_SCANNED_PIXELS:
        raise MedGlipError("is a JPEG of too many scans: save it anew, as PNG")
    return FileHeader("JPEG")


def _jpeg_segments(stream: IO[bytes]) -> Iterator[tuple[int, int, int]]:
    """Yield marker, offset of the content, and length of each segment before the first scan."""
    offset = 2
    while len(head := _read(stream, offset, 4)) == 4 and head[1] not in (0xDA, 0xD9):
        if head[0] != 0xFF:
            raise MedGlipError("is a damaged JPEG file (no marker where one is due)")
        if head[1] in (0xFF, 0x01) or 0xD0 <= head[1] <= 0xD8:  # fill bytes and markers without content
            yield head[1], offset + 2, 0
            offset += 1 if head[1] == 0xFF else 2
            continue
        length = struct.unpack(">H", head[2:])[0]
        yield head[1], offset + 4, length - 2
        offset += 2 + max(length, 2)


def _count(stream: IO[bytes], pattern: bytes) -> int:
    """Count how often two bytes occur in a file."""
    stream.seek(0)
    total, last = 0, b""
    while block := stream.read(BLOCK):
        total += (last + block).count(pattern)
        last = block[-1:]
    return total


# GIF -----------------------------------------------------------------------------------------------------------------


def _walk_gif(stream: IO[bytes]) -> FileHeader:
    """Check the blocks up to the trailer, and count the frames."""
    stream.seek(10)
    _skip_palette(stream, stream.read(3)[:1])
    frames = parts = blocks = 0
    # A file that is cut short ends without its trailer, a semicolon.
    while (kind := stream.read(1)) and kind != b";":
        if kind == b",":
            frames += 1
            _skip_palette(stream, stream.read(9)[8:])
            stream.seek(1, os.SEEK_CUR)
        else:
            parts += 1
            stream.seek(1, os.SEEK_CUR)
        read = _skip_blocks(stream) if kind in b",!" else 0
        blocks += read
        if frames > MAX_FRAMES:
            raise MedGlipError(f"holds more than {MAX_FRAMES} frames: save the one that counts as PNG")
        # The decoder joins the blocks of comments piece by piece.
        if (
            parts > MAX_EXTRA_PARTS + 2 * frames
            or blocks > MAX_GIF_BLOCKS
            or (kind == b"!" and read > MAX_EXTRA_PARTS)
        ):
            raise _too_much("too much text or other metadata")
    return FileHeader("GIF", frames=max(frames, 1))


def _skip_palette(stream: IO[bytes], flags: bytes) -> None:
    if flags and flags[0] & 0x80:
        stream.seek(3 << (flags[0] & 7) + 1, os.SEEK_CUR)


def _skip_blocks(stream: IO[bytes]) -> int:
    """Skip sub-blocks up to an empty one, and return their number."""
    count = 0
    while (length := stream.read(1)) and length != b"\0" and count <= MAX_GIF_BLOCKS:
        stream.seek(length[0], os.SEEK_CUR)
        count += 1
    return count


# TIFF and EXIF -------------------------------------------------------------------------------------------------------


def _walk_tiff(stream: IO[bytes]) -> FileHeader:
    """Check the number of pages and the sizes of their tags."""
    frames = spent = 0
    for size in _tiff_pages(stream):
        frames += 1
        spent += size
        if frames > MAX_FRAMES:
            raise MedGlipError(f"holds more than {MAX_FRAMES} pages: save the one that counts as PNG")
        if spent > 4 * MAX_EXTRA_BYTES:
            raise _too_much("too much metadata")
    return FileHeader("TIFF", frames=max(frames, 1))


def _tiff_pages(stream: IO[bytes]) -> Iterator[int]:
    """Yield the bytes of all tags of each page, with those of its EXIF."""
    order = "<" if _read(stream, 0, 2) == b"II" else ">"
    big = struct.unpack(f"{order}H", _read(stream, 2, 2))[0] == 43
    (offset,) = _unpack(stream, 8 if big else 4, f"{order}{'Q' if big else 'I'}")
    seen: set[int] = set()
    while offset and offset not in seen:
        seen.add(offset)
        values, size, following = _directory(stream, offset, order, big)
        for name in (EXIF_DIRECTORY, GPS_DIRECTORY):
            if inner := values.get(name):
                size += _directory(stream, inner, order, big)[1]
        yield size
        offset = following


def _unpack(stream: IO[bytes], offset: int, form: str) -> tuple[int, ...]:
    """Unpack numbers at an offset of a file; zeros beyond its end."""
    size = struct.calcsize(form)
    return struct.unpack(form, _read(stream, offset, size).ljust(size, b"\0")) if offset < 2**62 else (0,)


def _directory(stream: IO[bytes], offset: int, order: str, big: bool) -> tuple[dict[int, int], int, int]:
    """Read one directory: its single numbers by tag, the bytes of all its tags, and the offset of the next one."""
    (count,) = _unpack(stream, offset, f"{order}{'Q' if big else 'H'}")
    if count > MAX_EXTRA_PARTS:
        raise _too_much("too many tags")
    form, start = (f"{order}HHQ8s", offset + 8) if big else (f"{order}HHI4s", offset + 2)
    step = struct.calcsize(form)
    content = _read(stream, start, count * step)
    values: dict[int, int] = {}
    size = 0
    for tag, kind, number, held in struct.iter_unpack(form, content[: len(content) // step * step]):
        size += number * TIFF_SIZES.get(kind, 0)
        if number > MAX_PIXEL_PARTS and kind not in (1, 2, 6, 7):
            raise _too_much("too many strips, or too much metadata")
        letter = {3: "H", 4: "I", 13: "I", 16: "Q"}.get(kind)
        if number == 1 and letter and TIFF_SIZES[kind] <= len(held):
            values[tag] = struct.unpack_from(f"{order}{letter}", held)[0]
    if size > MAX_EXTRA_BYTES:
        raise _too_much("too much metadata")
    return values, size, _unpack(stream, start + count * step, f"{order}{'Q' if big else 'I'}")[0]


def exif_orientation(exif: bytes, xmp: bytes = b"") -> int:
    """Return the EXIF orientation, 1 to 8: of the EXIF block, else of the XMP block, else 1.

    Args:
        exif (`bytes`): An EXIF block, with or without its `Exif` prefix.
        xmp (`bytes`, *optional*, defaults to `b""`): An XMP packet.

    Raises:
        `MedGlipError`: the block has too many tags.
    """
    block = exif.removeprefix(b"Exif\0\0")
    orientation = None
    if SIGNATURES["TIFF"].match(block):
        stream = io.BytesIO(block)
        order = "<" if block[:2] == b"II" else ">"
        (offset,) = _unpack(stream, 4, f"{order}I")
        orientation = _directory(stream, offset, order, False)[0].get(ORIENTATION) if offset else None
    if orientation is None and (match := XMP_ORIENTATION.search(xmp[:MAX_EXTRA_BYTES])):
        orientation = int(match[1])
    return valid_orientation(orientation or 1)


def exif_profile(text: object) -> bytes:
    """Return the EXIF block that a text of a PNG file holds as hexadecimal digits; empty if it holds none.

    Args:
        text (`object`): The value that the file has under the name `EXIF_PROFILE`, as ImageMagick writes it.
    """
    # The name of the profile, its length, then its digits.
    digits = "".join(text.split("\n")[3:]) if isinstance(text, str) else ""
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return b""


def valid_orientation(orientation: object) -> int:
    """Return the number itself if it is an EXIF orientation, else 1."""
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


__all__ = ["EXIF_PROFILE", "FileHeader", "exif_orientation", "exif_profile", "valid_orientation", "walk_header"]
