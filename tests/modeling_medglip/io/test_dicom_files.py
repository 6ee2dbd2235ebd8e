# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The one way in for DICOM files: hostile ones cost neither memory nor time, in whatever reader."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling_medglip.errors import MedGlipError
from modeling_medglip.io import dicom_files
from modeling_medglip.io.dicom_files import open_dicom, open_plain, read_dicom_header
from modeling_medglip.io.image import read_image


pydicom = pytest.importorskip("pydicom")

from modeling_medglip.volumes.dicom_folder import find_series, holds_slices, open_series  # noqa: E402
from modeling_medglip.volumes.dicom_series import index_series  # noqa: E402
from modeling_medglip.volumes.header import VolumeError  # noqa: E402
from modeling_medglip.volumes.segmentations import read_segmentation, read_structures  # noqa: E402

from ..dicom_files import dicom_image, save  # noqa: E402


PIXELS = np.arange(48, dtype=np.uint16).reshape(6, 8)


def element(tag: tuple[int, int], vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """An element in Explicit VR Little Endian, with a length of four bytes."""
    return struct.pack("<HH2s2xI", *tag, vr, len(value) if length is None else length) + value


def deflated(path: Path, added: bytes) -> Path:
    """A deflated image of a few pixels, with something after them."""
    plain = save(dicom_image(PIXELS), path.parent)
    with open_dicom(plain) as opened:
        size = 144 + int(opened.header.file_meta.FileMetaInformationGroupLength)
    content = plain.read_bytes()
    plain.unlink()
    meta = content[:size].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    # The transfer syntax is two bytes longer: its own length, and that of the group.
    place = meta.index(b"1.2.840.10008.1.2.1.99") - 2
    meta = meta[:place] + struct.pack("<H", 22) + meta[place + 2 :]
    meta = meta[:140] + struct.pack("<I", size - 144 + 2) + meta[144:]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(meta + packer.compress(content[size:] + added) + packer.flush())
    return path


def test_deflated_images(tmp_path: Path) -> None:
    path = deflated(tmp_path / "a.dcm", b"")
    assert np.array_equal(read_image(path).pixels, PIXELS)
    assert read_dicom_header(path, ["Rows"]).file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian


def test_inflation_is_bounded_by_what_the_pixels_need(tmp_path: Path) -> None:
    path = deflated(tmp_path / "a.dcm", element((0x7FE1, 0x10), b"OB", bytes(dicom_files.MAX_HEADER_BYTES)))
    assert path.stat().st_size < 100_000
    for read in (read_image, read_dicom_header):
        with pytest.raises(MedGlipError, match="inflates to more than the 67108960 bytes that its pixels need"):
            read(path)
    assert not holds_slices(path)
    with pytest.raises(MedGlipError, match="a.dcm: is damaged"):
        find_series(tmp_path)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def nested(path: Path) -> None:
    """Sequences of undefined length, two thousand deep."""
    start = save(dicom_image(PIXELS), path.parent, PixelData=None).read_bytes()
    one = element((0x0040, 0xA730), b"SQ", b"", 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(start + one * 2000)


def crowded(path: Path) -> None:
    """A sequence of a million empty items."""
    start = save(dicom_image(PIXELS), path.parent, PixelData=None).read_bytes()
    path.write_bytes(start + element((0x5200, 0x9230), b"SQ", b"\xfe\xff\x00\xe0\0\0\0\0" * 1_000_000))


READERS: list[Callable[[Path], Any]] = [
    read_dicom_header,
    read_image,
    lambda path: index_series([path]),
    read_segmentation,
    lambda path: read_structures(path, None),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("make", [fifo, Path.mkdir])
def test_only_plain_files_are_opened(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(MedGlipError, match="^is not a plain file$"):
        open_plain(tmp_path / "a")
    with pytest.raises(MedGlipError, match="^cannot be read .No such file or directory.$"):
        open_plain(tmp_path / "b")


@pytest.mark.parametrize("make", [fifo, nested, crowded, Path.mkdir])
@pytest.mark.parametrize("read", READERS)
def test_hostile_files_in_every_reader(
    tmp_path: Path, make: Callable[[Path], None], read: Callable[[Path], Any]
) -> None:
    path = tmp_path / "a.dcm"
    make(path)
    with pytest.raises(MedGlipError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert not holds_slices(path)


def test_hostile_files_in_a_folder(tmp_path: Path) -> None:
    nested(tmp_path / "a.dcm")
    with pytest.raises(MedGlipError, match=r"a.dcm: is damaged, and may be a slice"):
        find_series(tmp_path)


def test_pipes_in_a_folder_are_passed_over(tmp_path: Path) -> None:
    fifo(tmp_path / "b.dcm")
    save(dicom_image(PIXELS), tmp_path)
    assert [path.name for path in find_series(tmp_path)[0].files] == ["a.dcm"]


def test_elements_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(dicom_image(PIXELS), tmp_path)
    monkeypatch.setattr(dicom_files, "MAX_READS", 20)
    with pytest.raises(MedGlipError, match="too many elements"):
        read_dicom_header(path)


def test_large_values_that_nobody_asks_for_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Private elements may hold raw data."""
    dataset = dicom_image(PIXELS)
    dataset.private_block(0x200D, "MAKER", create=True).add_new(1, "OB", bytes(5000))
    path = save(dataset, tmp_path)
    monkeypatch.setattr(dicom_files, "MAX_HEADER_BYTES", 2000)
    assert np.array_equal(read_image(path).pixels, PIXELS)


def test_references_are_not_followed(tmp_path: Path) -> None:
    """A DICOMDIR that names a file elsewhere; what lies beside it is read, and nothing else."""
    (tmp_path / "disc").mkdir()
    secret = save(dicom_image(PIXELS), tmp_path)
    record = pydicom.Dataset()
    record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", ["..", secret.name]
    index = pydicom.Dataset()
    index.file_meta = pydicom.dataset.FileMetaDataset()
    index.file_meta.MediaStorageSOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    index.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    index.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    index.DirectoryRecordSequence = [record]
    index.save_as(tmp_path / "disc" / "DICOMDIR", enforce_file_format=True)
    with pytest.raises(MedGlipError, match=re.escape("disc: holds no DICOM image series (1 other files)")):
        find_series(tmp_path / "disc")


GEOMETRY = {"PixelSpacing": [1, 1], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, 0]}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"PixelSpacing": [1e-9, 1e-9]}, "bad_affine"),
        ({"PixelSpacing": [0, 1]}, "no_geometry"),
        ({"PixelSpacing": [1e30, 1]}, "no_geometry"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no_geometry"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "no_geometry"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.6, 0.8, 0]}, "no_geometry"),
        ({"ImagePositionPatient": [1e200, 0, 0]}, "no_geometry"),
        ({"SliceThickness": 1e-12}, "bad_affine"),
    ],
)
def test_geometry_that_is_none(tmp_path: Path, change: dict[str, Any], rule: str) -> None:
    save(dicom_image(PIXELS, **{**GEOMETRY, **change}), tmp_path)
    with pytest.raises(VolumeError, match=r"^scan: [^\n]*$") as caught:
        open_series(find_series(tmp_path)[0], "scan")
    assert caught.value.rule == rule


def test_mosaics_are_reported(tmp_path: Path) -> None:
    kind = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    path = save(dicom_image(PIXELS, ImageType=kind, **GEOMETRY), tmp_path)
    assert any("mosaic" in text for text in read_image(path).warnings)
    assert any("mosaic" in text for text in open_series(find_series(tmp_path)[0], "scan").notes)
    several = np.stack([PIXELS, PIXELS])
    path = save(dicom_image(several, ImageType=kind, NumberOfFrames=2), tmp_path)
    assert not any("mosaic" in text for text in read_image(path).warnings)


def test_what_slices_lack_is_reported(tmp_path: Path) -> None:
    save(dicom_image(PIXELS, **GEOMETRY), tmp_path, PhotometricInterpretation=None)
    source = open_series(find_series(tmp_path)[0], "scan")
    assert any("no PhotometricInterpretation" in text for text in source.notes)
    assert np.array_equal(source.read_slice("axial", 0), PIXELS)
