# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Slices of a series from disk: one at a time, with the same values as the whole, whatever turns numbers into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


pydicom = pytest.importorskip("pydicom")

from modeling_medglip.volumes import dicom_slices  # noqa: E402
from modeling_medglip.volumes.dicom_folder import find_series, open_series  # noqa: E402
from modeling_medglip.volumes.dicom_series import index_series, read_series  # noqa: E402
from modeling_medglip.volumes.header import VolumeError  # noqa: E402

from ..dicom_files import change, write_series  # noqa: E402


def lookup_table(first: int, values: list[int]) -> Any:
    """A modality LUT (PS3.3 C.11.1.1.1) that begins at a stored number."""
    table = pydicom.Dataset()
    table.add_new("LUTDescriptor", "SS", [len(values), first, 16])
    table.ModalityLUTType = "US"
    table.add_new("LUTData", "US", values)
    return pydicom.Sequence([table])


def stacked_and_single(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """The values of a series, read whole and slice by slice."""
    series = index_series(paths)
    whole = read_series(paths).volume
    pieces = [piece.values(piece.array) for piece in series.reader.read()]
    return whole.values(whole.array), np.concatenate(pieces, axis=2)


def test_slices_are_the_whole(tmp_path: Path) -> None:
    whole, pieces = stacked_and_single(write_series(tmp_path))
    assert whole.shape == (16, 12, 5)
    np.testing.assert_array_equal(whole, pieces)


def test_slices_with_a_rescaling_each(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    change(paths[1], RescaleSlope=2.5, RescaleIntercept=3)
    whole, pieces = stacked_and_single(paths)
    np.testing.assert_allclose(whole, pieces)
    expected = pydicom.dcmread(paths[1]).pixel_array.T * 2.5 + 3
    np.testing.assert_allclose(pieces[:, :, 1], expected)


def test_a_modality_lut_in_the_place_of_a_rescaling(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    table = lookup_table(0, [7 + 3 * number for number in range(2000)])
    change(*paths, RescaleSlope=None, RescaleIntercept=None, ModalityLUTSequence=table)
    whole, pieces = stacked_and_single(paths)
    expected = 7 + 3 * pydicom.dcmread(paths[2]).pixel_array.T.astype(np.float32)
    np.testing.assert_array_equal(whole[:, :, 2], expected)
    np.testing.assert_array_equal(whole, pieces)


def test_a_damaged_modality_lut_is_named(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    broken = lookup_table(0, [1, 2])
    del broken[0].LUTDescriptor
    change(paths[3], RescaleSlope=None, RescaleIntercept=None, ModalityLUTSequence=broken)
    with pytest.raises(VolumeError, match=f"{paths[3].name}: its modality LUT cannot be used"):
        read_series(paths)


@pytest.mark.parametrize(("representation", "sum_"), [(0, 4095), (1, -1)])
def test_high_values_are_bright_in_monochrome1(tmp_path: Path, representation: int, sum_: int) -> None:
    """Of an MR image of 12 bits; the largest number that can be stored becomes the smallest."""
    fields = {"Modality": "MR", "PixelRepresentation": representation, "BitsStored": 12}
    fields |= {"RescaleSlope": 2, "RescaleIntercept": 10}
    plain, _ = stacked_and_single(write_series(tmp_path / "plain", **fields))
    turned, pieces = stacked_and_single(
        write_series(tmp_path / "dark", PhotometricInterpretation="MONOCHROME1", **fields)
    )
    stored = (plain - 10) / 2
    np.testing.assert_array_equal(turned, 2 * (sum_ - stored) + 10)
    np.testing.assert_array_equal(turned, pieces)


def test_hounsfield_units_stay_in_monochrome1(tmp_path: Path) -> None:
    plain, _ = stacked_and_single(write_series(tmp_path / "plain"))
    turned, _ = stacked_and_single(write_series(tmp_path / "dark", PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(turned, plain)


def test_a_rescaling_that_is_none(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    change(paths[1], RescaleSlope="nan")
    with pytest.raises(VolumeError, match="rescaling that is enormous or not finite"):
        read_series(paths)


def test_one_slice_is_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "scan")
    opened: list[str] = []
    own = dicom_slices.frame_pixels
    monkeypatch.setattr(dicom_slices, "frame_pixels", lambda file, n: (opened.append(file.name), own(file, n))[1])
    source = open_series(find_series(tmp_path / "scan")[0], "scan")
    assert source.streams("axial") and opened == []
    slices = source.read_slices("axial")
    index, first = next(slices)
    assert index == 0 and len(opened) == 1
    np.testing.assert_array_equal(first, source.read_slice("axial", 0))
    assert len(opened) == 2
    whole = source.volume()
    assert len(opened) == 7
    np.testing.assert_array_equal(first, whole.values(whole.array)[:, :, 0].T)


def test_a_slice_that_breaks_later_names_folder_and_file(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan")
    source = open_series(find_series(tmp_path / "scan")[0], "scan")
    content = paths[3].read_bytes()
    paths[3].write_bytes(content[: len(content) - 100])
    with pytest.raises(VolumeError, match=f"^scan: {paths[3].name}: its pixels cannot be decoded"):
        list(source.read_slices("axial"))


def test_a_slice_of_another_size_than_in_its_header(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan")
    source = open_series(find_series(tmp_path / "scan")[0], "scan")
    change(paths[2], Rows=6, Columns=32)
    with pytest.raises(VolumeError, match="pixels of another size than stated"):
        source.volume()
