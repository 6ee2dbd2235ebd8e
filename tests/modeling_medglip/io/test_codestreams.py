# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Damaged compressed data are refused in Python, before a native decoder sees them."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_medglip.errors import MedGlipError
from modeling_medglip.io.codestreams import JPEG_LS_FRAME, check_jpeg, check_jpeg_2000, check_rle
from modeling_medglip.io.image import read_image


pydicom = pytest.importorskip("pydicom")

from ..dicom_files import dicom_image  # noqa: E402


PIXELS = np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)
JPEG_BASELINE, JPEG_2000 = pydicom.uid.JPEGBaseline8Bit, pydicom.uid.JPEG2000Lossless


def coded(kind: str, colors: bool = False) -> bytes:
    """An image of 30 by 40 pixels as JPEG or JPEG 2000."""
    stream = io.BytesIO()
    Image.fromarray(np.stack([PIXELS] * 3, axis=-1) if colors else PIXELS).save(stream, kind, **JPEG2000.get(kind, {}))
    return stream.getvalue()


JPEG2000 = {"JPEG2000": {"no_jp2": True, "irreversible": False}}
JPEG, CODESTREAM = coded("JPEG"), coded("JPEG2000")


def jp2(*boxes: tuple[int | None, bytes, bytes]) -> bytes:
    """Boxes of JP2: (stated length, the right one by default; kind; content)."""
    parts = [(12, b"jP  ", b"\r\n\x87\n"), *boxes]
    return b"".join(struct.pack(">I4s", 8 + len(c) if n is None else n, kind) + c for n, kind, c in parts)


def changed(content: bytes, place: int, new: bytes) -> bytes:
    return content[:place] + new + content[place + len(new) :]


def test_sound_data() -> None:
    for content in (JPEG, coded("JPEG", colors=True)):
        found = check_jpeg(content, {0xC0})
        assert (found.width, found.height, found.precision) == (30, 40, 8)
    for content in (
        CODESTREAM,
        jp2((None, b"ftyp", b"jp2 "), (None, b"jp2c", CODESTREAM)),
        jp2((0, b"jp2c", CODESTREAM)),
    ):
        found = check_jpeg_2000(content)
        assert (found.width, found.height, found.samples, found.content) == (30, 40, 1, CODESTREAM)
    assert check_jpeg_2000(coded("JPEG2000", colors=True)).samples == 3


COD = CODESTREAM.index(b"\xff\x52")
QCD = CODESTREAM.index(b"\xff\x5c")
SOT = CODESTREAM.index(b"\xff\x90")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        CODESTREAM[: len(CODESTREAM) // 2],
        CODESTREAM[:30],
        changed(CODESTREAM, 8, b"\0\0\0\0"),  # no columns
        changed(CODESTREAM, 24, b"\0\0\0\1\0\0\0\1"),  # 1,200 tiles in a file that holds one
        changed(CODESTREAM, 24, bytes(8)),
        changed(CODESTREAM, 40, b"\0\0"),
        changed(CODESTREAM, 43, b"\2\2"),
        changed(CODESTREAM, COD + 2, b"\0\1"),
        changed(CODESTREAM, COD + 9, b"\x28"),  # 40 decompositions
        changed(CODESTREAM, COD + 10, b"\x0a\x0a"),  # blocks of 4096 by 4096
        changed(CODESTREAM, COD + 6, b"\0\0"),  # no layer
        changed(CODESTREAM, QCD + 4, b"\3"),
        changed(CODESTREAM, SOT + 4, b"\0\7"),  # the eighth tile of one
        changed(CODESTREAM, SOT + 6, b"\x7f\0\0\0"),
        changed(CODESTREAM, SOT, b"\xff\xd9"),
        jp2((0, b"ftyp", b"jp2 "), (None, b"jp2c", CODESTREAM)),
        jp2((3, b"ftyp", b"jp2 ")),
        jp2((1, b"ftyp", bytes(8))),
        jp2(),
    ],
)  # fmt: skip
def test_damaged_jpeg_2000(content: bytes) -> None:
    with pytest.raises(MedGlipError, match="JPEG 2000 data"):
        check_jpeg_2000(content)


DHT, DQT, SOF, SOS = (JPEG.index(bytes([0xFF, marker])) for marker in (0xC4, 0xDB, 0xC0, 0xDA))


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8",
        JPEG[:-2],
        JPEG[: SOS + 3],
        JPEG[:SOF] + JPEG[SOS:],
        JPEG[:SOS] + JPEG[SOF:],
        changed(JPEG, SOF + 1, b"\xc3"),
        changed(JPEG, SOF + 9, b"\3"),
        changed(JPEG, SOF + 11, b"\x50"),
        changed(JPEG, DHT + 2, b"\xff\xff"),
        changed(JPEG, DHT + 2, b"\0\1"),
        changed(JPEG, DHT + 5, b"\7"),  # seven codes of one bit
        changed(JPEG, DQT + 4, b"\x70"),
        changed(JPEG, SOS + 4, b"\7"),
        changed(JPEG, SOS, b"\0\0"),
    ],
)
def test_damaged_jpeg(content: bytes) -> None:
    with pytest.raises(MedGlipError, match="JPEG data"):
        check_jpeg(content, {0xC0})


def jpeg_ls(**fields: int) -> bytes:
    """The markers of a JPEG-LS file, with settings that are changed."""
    values = {"precision": 8, "samples": 1, "count": 1, "near": 0, "mode": 0, **fields}
    frame = struct.pack(">BHHB3B", values["precision"], 40, 30, values["samples"], 1, 0x11, 0)
    scan = struct.pack(">6B", values["count"], 1, 0, values["near"], values["mode"], 0)
    head = b"\xff\xd8\xff\xf7" + struct.pack(">H", 2 + len(frame)) + frame
    return head + b"\xff\xda" + struct.pack(">H", 2 + len(scan)) + scan + b"\0\0\xff\xd9"


def test_jpeg_ls() -> None:
    found = check_jpeg(jpeg_ls(), {JPEG_LS_FRAME})
    assert (found.width, found.height, found.samples, found.precision) == (30, 40, 1, 8)
    for fields in ({"precision": 1}, {"precision": 17}, {"samples": 3}, {"count": 4}, {"mode": 3}):
        with pytest.raises(MedGlipError, match="JPEG data"):
            check_jpeg(jpeg_ls(**fields), {JPEG_LS_FRAME})


def test_rle() -> None:
    check_rle(struct.pack("<16I", 2, 64, 70, *[0] * 13) + bytes(20), 2)
    for stated in ([1, 64], [2, 64, 64], [2, 60, 70], [2, 64, 90], [2, 70, 64], [15, *range(64, 79)]):
        with pytest.raises(MedGlipError, match="RLE data"):
            check_rle(struct.pack("<16I", *stated, *[0] * (16 - len(stated))) + bytes(20), 2)


def encapsulated(path: Path, content: bytes, syntax: str, rows: int = 40, photometric: str = "MONOCHROME2") -> Path:
    """A DICOM file of one frame that is compressed already."""
    dataset = dicom_image(PIXELS, photometric=photometric)
    dataset.Rows = rows
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = pydicom.encaps.encapsulate([content])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_what_data_and_header_agree_on_is_read(tmp_path: Path) -> None:
    file = encapsulated(tmp_path / "a.dcm", jp2((None, b"jp2c", CODESTREAM)), JPEG_2000)
    assert np.array_equal(read_image(file).pixels, PIXELS)
    file = encapsulated(tmp_path / "b.dcm", JPEG, JPEG_BASELINE)
    assert np.array_equal(read_image(file).pixels, np.array(Image.open(io.BytesIO(JPEG))))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: encapsulated(path, CODESTREAM, JPEG_2000, rows=41), "its compressed data say 30x40"),
        (lambda path: encapsulated(path, JPEG, JPEG_BASELINE, rows=39), "its compressed data say 30x40"),
        (lambda path: encapsulated(path, changed(CODESTREAM, 12, b"\0\x09\1\xe0"), JPEG_2000), "its JPEG 2000 data"),
        (lambda path: encapsulated(path, CODESTREAM, JPEG_2000, photometric="HSV"), "its PhotometricInterpretation"),
        (lambda path: encapsulated(path, jp2((0, b"ftyp", b"")), JPEG_2000), "no codestream in its boxes"),
        (lambda path: encapsulated(path, CODESTREAM, JPEG_BASELINE), "its JPEG data are damaged"),
        (lambda path: encapsulated(path, JPEG, JPEG_2000), "its JPEG 2000 data are damaged"),
        (lambda path: encapsulated(path, JPEG, pydicom.uid.JPEGLosslessSV1), "are of another kind"),
        (lambda path: encapsulated(path, b"\0" * 64, pydicom.uid.RLELossless), "its RLE data are damaged"),
        (lambda path: encapsulated(path, JPEG, pydicom.uid.MPEG2MPML), "are not supported"),
        (lambda path: encapsulated(path, b"\0" * 2**17, JPEG_BASELINE), "more"),
    ],
)  # fmt: skip
def test_contradictions_are_one_line(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(MedGlipError, match=f"^a.dcm: [^\n]*{message}[^\n]*$"):
        read_image(make(tmp_path / "a.dcm"))


def test_color_jpeg_is_converted_once(tmp_path: Path) -> None:
    """With an Adobe marker the decoder gives RGB; without one, what the header says decides."""
    flat = np.full((40, 30, 3), (200, 60, 20), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(flat).save(stream, "JPEG", quality=95)
    jfif = stream.getvalue()
    adobe = jfif[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\1" + jfif[20:]  # in the place of JFIF's segment
    bare = jfif[:2] + jfif[20:]
    for content in (jfif, adobe, bare):
        path = encapsulated(tmp_path / "a.dcm", content, JPEG_BASELINE)
        dataset = pydicom.dcmread(path)
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "YBR_FULL_422"
        dataset.PlanarConfiguration = 0
        dataset.save_as(path)
        assert np.abs(read_image(path).pixels.astype(int) - flat).max() <= 3
