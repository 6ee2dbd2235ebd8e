# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Small files that ask a decoder for much work or memory are refused from their headers, in one line."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from modeling_medglip.errors import MedGlipError
from modeling_medglip.io import image as reading
from modeling_medglip.io import image_headers
from modeling_medglip.io.image import decode_image, read_orientation
from modeling_medglip.io.image_headers import exif_orientation

from ..image_files import SIGNATURE, chunk, png, tiff


HEAD = SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
TAIL = chunk(b"IDAT", zlib.compress(b"\0" * 72)) + chunk(b"IEND", b"")
GIF_HEAD = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0)
GIF_FRAME = b"," + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\x02\x02\x4c\x01\0"
SQUARE = {256: (3, [8]), 257: (3, [8]), 258: (3, [8]), 262: (3, [1]), 277: (3, [1])}


def refusal(content: bytes, frame: int | None = None) -> str:
    with pytest.raises(MedGlipError) as caught:
        decode_image(io.BytesIO(content), frame)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def exif_bomb(tags: int, size: int) -> bytes:
    """An EXIF block whose tags all point at the same bytes."""
    entries = b"".join(struct.pack("<HHII", 1000 + number, 7, size, 8) for number in range(tags))
    return b"II*\0" + struct.pack("<IH", 8, tags) + entries + bytes(4)


def pages(count: int, last: int = 0) -> bytes:
    """A TIFF of many pages with one image; the last page is followed by the one at `last`."""
    length, start = 2 + 12 * 7 + 4, 8 + 64
    numbers = {256: 8, 257: 8, 258: 8, 262: 1, 273: 8, 277: 1, 279: 64}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in numbers.items())
    following = [start + (number + 1) * length for number in range(count - 1)] + [last]
    directories = b"".join(struct.pack("<H", 7) + entries + struct.pack("<I", offset) for offset in following)
    return b"II*\0" + struct.pack("<I", start) + bytes(64) + directories


@pytest.mark.parametrize(
    "between",
    [
        chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 1000)) * 1001,
        chunk(b"iCCP", b"a\0\0" + zlib.compress(b"x" * 1000)) * 1001,
        chunk(b"teSt", b"") * 1001,
        chunk(b"tEXt", b"a\0" + b"x" * 2**24),
        chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"x" * 2**21)),
        chunk(b"eXIf", exif_bomb(60_000, 1)),
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_metadata_of_png(between: bytes, after: bool) -> None:
    content = HEAD + TAIL[:-12] + between + TAIL[-12:] if after else HEAD + between + TAIL
    assert "save" in refusal(content)


def test_chunks_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_headers, "MAX_PIXEL_PARTS", 50)
    assert "more than 50 chunks" in refusal(HEAD + chunk(b"IDAT", b"") * 51 + TAIL)


def test_frames_of_gif() -> None:
    assert "more than 10000 frames" in refusal(GIF_HEAD + GIF_FRAME * 10_001 + b";")
    comment = b"!\xfe" + (b"\xff" + b"x" * 255) * 1001 + b"\0"
    assert "too much text" in refusal(GIF_HEAD + comment + GIF_FRAME + b";")
    assert "too much text" in refusal(GIF_HEAD + b"\1" * 5000)


def test_a_frame_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    frames = [Image.fromarray(np.full((8, 8), 40 * number, np.uint8)) for number in range(5)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(io.BytesIO(stream.getvalue()), 5).pixels.max() == 160
    monkeypatch.setattr(reading, "MAX_ANIMATED_PIXELS", 4 * 64)
    assert "takes too long to reach frame 5" in refusal(stream.getvalue(), 5)


def test_pages_of_tiff() -> None:
    assert decode_image(io.BytesIO(pages(3, last=8 + 64))).warnings[0].startswith("holds 3 frames")
    assert "more than 10000 pages" in refusal(pages(10_001))


def test_tags_of_tiff() -> None:
    assert "too many tags" in refusal(exif_bomb(60_000, 1))
    assert "too much metadata" in refusal(exif_bomb(900, 10**6))
    inner = tiff({**SQUARE, 0x8769: (4, [9999])}, bytes(64))
    offset = len(inner)
    bomb = inner.replace(struct.pack("<I", 9999), struct.pack("<I", offset)) + struct.pack("<H", 60_000)
    assert "too many tags" in refusal(bomb)


def test_tiles_that_cover_the_image_again_and_again() -> None:
    tiles = {322: (4, [9]), 323: (4, [8]), 324: (4, [8] * 100), 325: (4, [72] * 100)}
    content = tiff({**SQUARE, **tiles}, bytes(72))
    # Without strips, so that the tiles count.
    for tag in (273, 279):
        content = content.replace(struct.pack("<HH", tag, 4), struct.pack("<HH", 65_000, 4))
    assert "again and again" in refusal(content)


def test_tiles_far_larger_than_the_image() -> None:
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((8, 8), np.uint8), tile=(16, 16), compression="zlib")
    content = stream.getvalue()
    for tag in (322, 323):
        (kind,) = [kind for kind in (3, 4) if struct.pack("<HHI", tag, kind, 1) in content]
        at = content.index(struct.pack("<HHI", tag, kind, 1)) + 2
        content = content[:at] + struct.pack("<HII", 4, 1, 60_000) + content[at + 10 :]
    assert "tiles far larger" in refusal(content)


def test_scans_of_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    assert decode_image(io.BytesIO(content)).pixels.shape == (64, 64)
    monkeypatch.setattr(image_headers, "MAX_SCANNED_PIXELS", 20 * 64 * 64)
    assert "too many scans" in refusal(content + b"\xff\xda" * 20)


def test_segments_of_jpeg() -> None:
    exif = b"\xff\xe1" + struct.pack(">H", 60_000) + b"Exif\0\0" + bytes(59_992)
    assert "too many segments" in refusal(b"\xff\xd8" + exif * 2)
    assert "too many segments" in refusal(b"\xff\xd8" + b"\xff" * 5000)
    assert "no marker" in refusal(b"\xff\xd8\xff\xe0\0\2" + bytes(5000))


def test_what_is_decoded_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_SLOW_PIXELS", 10)
    assert "stores 16 pixels in a format that decodes slowly" in refusal(b"P2\n4 4\n255\n" + b"1 " * 16)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_orientation_without_decoding(kind: str) -> None:
    stream = io.BytesIO()
    image = Image.new("L", (8, 4))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(stream, kind, exif=exif)
    assert read_orientation(stream) == (6, (4, 8))


def test_orientation_of_a_block() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    assert exif_orientation(exif.tobytes()) == 8
    assert exif_orientation(b"", b'<x tiff:Orientation="3"/>') == 3
    assert exif_orientation(b"", b"<tiff:Orientation>5</tiff:Orientation>") == 5
    assert [exif_orientation(part) for part in (b"", b"Exif\0\0", b"II*\0", b"II*\0\xff\xff\xff\xff", b"junk")] == [
        1
    ] * 5


def test_a_text_of_a_png_is_not_an_orientation() -> None:
    text = chunk(b"tEXt", b"exif\0II*\0")
    assert decode_image(io.BytesIO(png(0, 8, np.zeros((4, 4, 1), int), text))).orientation == 1
