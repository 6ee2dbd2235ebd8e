# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Checks of JPEG, JPEG-LS, JPEG 2000 and RLE data before a native decoder sees them.

Native decoders end the process on some damaged files. What a file states of itself is compared with what its header
states, and its markers are walked, in Python. Entropy-coded data are not looked into.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass

from ..errors import MedGlipError


EOI, SOS, DHT, DQT, ADOBE = 0xD9, 0xDA, 0xC4, 0xDB, 0xEE
JPEG_LS_FRAME, LOSSLESS_FRAME = 0xF7, 0xC3
# SOF0 to SOF15 without DHT, JPG and DAC, and the frame of JPEG-LS.
FRAMES = {*range(0xC0, 0xD0), JPEG_LS_FRAME} - {0xC4, 0xC8, 0xCC}
ALONE = {0x01, *range(0xD0, 0xD9)}
COD, COC, QCD, QCC, SOT = 0x52, 0x53, 0x5C, 0x5D, 0x90
MAX_TILES = 65535
MAX_PARTS = 100_000


@dataclass(frozen=True)
class Codestream:
    """What a frame's compressed data state of themselves.

    Attributes:
        content (`bytes`): the data without a wrapping such as JP2 boxes.
        width (`int`): pixels of a row.
        height (`int`): pixels of a column.
        samples (`int`): samples per pixel.
        precision (`int`): bits of a sample.
        rgb (`bool`, *optional*): the decoder gives RGB, whatever the header says; `None` if the data do not say.
    """

    content: bytes
    width: int
    height: int
    samples: int
    precision: int
    rgb: bool | None = None


def check_jpeg(content: bytes, frames: set[int]) -> Codestream:
    """Walk the markers of JPEG or JPEG-LS data.

    Args:
        content (`bytes`): the data of one frame.
        frames (`set[int]`): the kinds of frame (second byte of the SOF marker) that the transfer syntax allows.

    Raises:
        `MedGlipError`: a damaged marker, a second frame, another kind of frame than allowed, or no end.
    """
    frame: Codestream | None = None
    kind, adobe = 0, False
    if content[:2] != b"\xff\xd8":
        raise _damaged("JPEG", "no start")
    position = 2
    while True:
        marker, start, end = _segment(content, position)
        body = content[start:end]
        if marker in FRAMES:
            if frame is not None or marker not in frames:
                raise MedGlipError("its JPEG data are of another kind than its transfer syntax says")
            kind, frame = marker, _jpeg_frame(content, body)
        elif marker == DHT:
            _check_huffman(body)
        elif marker == DQT:
            _check_quantization(body)
        elif marker == ADOBE and body[:5] == b"Adobe":
            adobe = True
        elif marker == SOS:
            if frame is None:
                raise _damaged("JPEG", "a scan before its size")
            _check_scan(body, frame, kind)
            break
        elif marker == EOI:
            raise _damaged("JPEG", "no scan")
        position = end
    if content.rfind(b"\xff\xd9", end) < 0:
        raise _damaged("JPEG", "cut short")
    return Codestream(content, frame.width, frame.height, frame.samples, frame.precision, True if adobe else None)


def _segment(content: bytes, position: int) -> tuple[int, int, int]:
    """Find the next marker: its second byte, and where its content begins and ends."""
    if content[position : position + 1] != b"\xff":
        raise _damaged("JPEG", "no marker where one should be")
    while content[position + 1 : position + 2] == b"\xff":  # fill bytes
        position += 1
    if position + 2 > len(content) - 1:
        raise _damaged("JPEG", "cut short")
    marker = content[position + 1]
    if marker in ALONE or marker == EOI:
        return marker, position + 2, position + 2
    length = int.from_bytes(content[position + 2 : position + 4])
    if length < 2 or position + 2 + length > len(content):
        raise _damaged("JPEG", "a segment of the wrong size")
    return marker, position + 4, position + 2 + length


def _jpeg_frame(content: bytes, body: bytes) -> Codestream:
    if len(body) < 6:
        raise _damaged("JPEG", "a size that is cut short")
    precision, height, width, samples = struct.unpack(">BHHB", body[:6])
    parts = [body[6 + 3 * n : 9 + 3 * n] for n in range(samples)]
    factors = [(part[1] >> 4, part[1] & 15) for part in parts if len(part) == 3]
    if len(body) != 6 + 3 * samples or not samples or not all(1 <= f <= 4 for pair in factors for f in pair):
        raise _damaged("JPEG", "invalid components")
    if len({part[0] for part in parts}) != samples or not 2 <= precision <= 16:
        raise _damaged("JPEG", "invalid components")
    return Codestream(content, width, height, samples, precision)


def _check_scan(body: bytes, frame: Codestream, kind: int) -> None:
    count = body[0] if body else 0
    if not 1 <= count <= frame.samples or len(body) != 4 + 2 * count:
        raise _damaged("JPEG", "a scan of invalid components")
    start, end, shift = body[-3], body[-2], body[-1]
    if kind == JPEG_LS_FRAME:
        sound = end <= 2 and shift < frame.precision and (count == 1 or end > 0)
    elif kind == LOSSLESS_FRAME:
        sound = 1 <= start <= 7 and (shift & 15) < frame.precision
    else:
        sound = start <= end <= 63
    if not sound:
        raise _damaged("JPEG", "a scan with invalid settings")


def _check_huffman(body: bytes) -> None:
    position = 0
    while position < len(body):
        counts = body[position + 1 : position + 17]
        total = sum(counts)
        kind, number = body[position] >> 4, body[position] & 15
        code = 0
        for length, count in enumerate(counts, start=1):
            code = (code << 1) + count
            if code > 1 << length:
                raise _damaged("JPEG", "an invalid Huffman table")
        symbols = body[position + 17 : position + 17 + total]
        if len(counts) < 16 or len(symbols) < total or total > 256 or kind > 1 or number > 3:
            raise _damaged("JPEG", "an invalid Huffman table")
        position += 17 + total


def _check_quantization(body: bytes) -> None:
    position = 0
    while position < len(body):
        size = 1 + 64 * (1 + (body[position] >> 4))
        if body[position] >> 4 > 1 or body[position] & 15 > 3 or position + size > len(body):
            raise _damaged("JPEG", "an invalid quantization table")
        position += size


def check_jpeg_2000(content: bytes) -> Codestream:
    """Walk the boxes, markers and tile-parts of JPEG 2000 data.

    Raises:
        `MedGlipError`: a damaged marker, invalid sizes or settings, or less data than stated.
    """
    content = _without_boxes(content)
    if content[:4] != b"\xff\x4f\xff\x51":
        raise _damaged("JPEG 2000", "no start")
    codestream, tiles = _jpeg_2000_size(content)
    position, seen = 2, set[int]()
    while True:
        marker, body, end = _jpeg_2000_segment(content, position)
        if marker == SOT:
            break
        seen.add(marker)
        _check_main(marker, body, codestream.samples)
        position = end
    if not {COD, QCD} <= seen:
        raise _damaged("JPEG 2000", "no coding style or quantization")
    _check_parts(content, position, tiles)
    return codestream


def _without_boxes(content: bytes) -> bytes:
    """Take the codestream out of JP2 boxes."""
    if content[4:8] != b"jP  ":
        return content
    position = 0
    while position + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[position : position + 8])
        head = 8
        if length == 1:  # the length is in the next eight bytes
            length, head = int.from_bytes(content[position + 8 : position + 16]), 16
        if kind == b"jp2c":
            return content[position + head : position + length if length else None]
        if length < head:  # 0 means up to the end, which only a codestream may
            break
        position += length
    raise _damaged("JPEG 2000", "no codestream in its boxes")


def _jpeg_2000_size(content: bytes) -> tuple[Codestream, int]:
    if len(content) < 42:
        raise _damaged("JPEG 2000", "cut short")
    length, _, x1, y1, x0, y0, width, height, tile_x, tile_y, samples = struct.unpack(">HHIIIIIIIIH", content[4:42])
    parts = [content[42 + 3 * n : 45 + 3 * n] for n in range(samples)]
    if length != 38 + 3 * samples or not samples or len(content) < 4 + length:
        raise _damaged("JPEG 2000", "invalid components")
    if len({bytes(part) for part in parts}) != 1 or parts[0][1:] != b"\1\1":
        raise MedGlipError("its JPEG 2000 data have components of several sizes or depths, which are not supported")
    if not (x0 < x1 and y0 < y1 and tile_x <= x0 < tile_x + width and tile_y <= y0 < tile_y + height):
        raise _damaged("JPEG 2000", "an invalid size")
    tiles = -(-(x1 - tile_x) // width) * -(-(y1 - tile_y) // height)
    if tiles > MAX_TILES:
        raise _damaged("JPEG 2000", f"{tiles} tiles")
    return Codestream(content, x1 - x0, y1 - y0, samples, (parts[0][0] & 127) + 1), tiles


def _jpeg_2000_segment(content: bytes, position: int) -> tuple[int, bytes, int]:
    """Find the next marker of a JPEG 2000 header: its second byte, content and end."""
    length = int.from_bytes(content[position + 2 : position + 4])
    if content[position : position + 1] != b"\xff" or length < 2 or position + 2 + length > len(content):
        raise _damaged("JPEG 2000", "a segment of the wrong size")
    return content[position + 1], content[position + 4 : position + 2 + length], position + 2 + length


def _check_main(marker: int, body: bytes, samples: int) -> None:
    """Check a coding style or a quantization of the main header (ISO/IEC 15444-1, A.6)."""
    wide = 2 if samples > 256 else 1
    if marker == COD:
        sound = len(body) >= 10 and body[1] <= 4 and body[2:4] != b"\0\0" and body[4] <= (1 if samples > 2 else 0)
        _check_coding(body[5:], body[0] & 1 if body else 0, sound)
    elif marker == COC:
        sound = len(body) >= wide + 6 and int.from_bytes(body[:wide]) < samples
        _check_coding(body[wide + 1 :], body[wide] & 1 if sound else 0, sound)
    elif marker in (QCD, QCC):
        body = body[wide:] if marker == QCC else body
        style = body[0] & 31 if body else 3
        steps = len(body) - 1
        if style > 2 or not 1 <= steps <= 194 or (style == 1 and steps != 2) or (style == 2 and steps % 2):
            raise _damaged("JPEG 2000", "an invalid quantization")


def _check_coding(body: bytes, precincts: int, sound: bool) -> None:
    """Check levels, code-blocks, wavelet and precincts of a coding style."""
    if sound:
        levels, width, height, _, wavelet = body[:5]
        sound = levels <= 32 and width <= 8 and height <= 8 and width + height <= 8 and wavelet <= 1
        sound = sound and len(body) == 5 + (levels + 1 if precincts else 0)
        # A precinct of one sample is sound at the lowest level only.
        sound = sound and all(size & 15 and size >> 4 for size in body[6:])
    if not sound:
        raise _damaged("JPEG 2000", "an invalid coding style")


def _check_parts(content: bytes, position: int, tiles: int) -> None:
    """Walk from tile-part to tile-part up to the end; every tile must be there."""
    seen = set[int]()
    for _ in range(MAX_PARTS):
        if content[position : position + 2] == b"\xff\xd9":
            if len(seen) < tiles:
                raise _damaged("JPEG 2000", f"{len(seen)} tiles of {tiles}")
            return
        if content[position : position + 4] != b"\xff\x90\x00\x0a" or position + 12 > len(content):
            raise _damaged("JPEG 2000", "cut short")
        tile, length = struct.unpack(">HI", content[position + 4 : position + 10])
        seen.add(tile)
        end = position + length if length else content.rfind(b"\xff\xd9")  # the last part may leave it open
        if tile >= tiles or end > len(content) or end < position + 14:
            raise _damaged("JPEG 2000", "a tile of the wrong size")
        _check_part(content, position + 12, end)
        position = end
    raise _damaged("JPEG 2000", "too many tiles")


def _check_part(content: bytes, position: int, end: int) -> None:
    """Walk the header of a tile-part up to its data."""
    while content[position : position + 2] != b"\xff\x93":
        _, _, position = _jpeg_2000_segment(content, position)
        if position + 2 > end:
            raise _damaged("JPEG 2000", "a tile of the wrong size")


def check_rle(content: bytes, segments: int) -> None:
    """Check the header of RLE data (PS3.5 annex G): as many segments as there are bytes of a pixel, in order.

    Args:
        content (`bytes`): the data of one frame.
        segments (`int`): bytes of a pixel.

    Raises:
        `MedGlipError`: another number of segments, or another order.
    """
    stated = struct.unpack("<16I", content[:64]) if len(content) >= 64 else (0,) * 16
    ends = [*stated[1 : 1 + segments], len(content)]
    if stated[0] != segments or ends[0] < 64 or any(one >= two for one, two in itertools.pairwise(ends)):
        raise _damaged("RLE", "segments of the wrong size")


def _damaged(kind: str, what: str) -> MedGlipError:
    return MedGlipError(f"its {kind} data are damaged: {what}")


__all__ = ["Codestream", "check_jpeg", "check_jpeg_2000", "check_rle"]
