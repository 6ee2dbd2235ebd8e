# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The image series of a folder, whatever else lies in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modeling_medglip.errors import MedGlipError
from modeling_medglip.volumes.dicom_folder import find_series, open_series
from modeling_medglip.volumes.header import VolumeError

from ..dicom_files import slice_dataset, write_multi_frame, write_series


def test_series_are_distinguished_by_their_headers(tmp_path: Path) -> None:
    write_series(tmp_path / "mixed", SeriesInstanceUID="1.2.1", SeriesNumber=7)
    for path in write_series(tmp_path / "other", count=3, SeriesInstanceUID="1.2.2", SeriesNumber=3):
        path.rename(tmp_path / "mixed" / f"more_{path.name}")
    found = find_series(tmp_path / "mixed")
    assert [(series.number, len(series.files)) for series in found] == [(3, 3), (7, 5)]
    source = open_series(found[1], "mixed")
    assert source.grid.array.shape == (16, 12, 5) and source.modality == "ct" and source.stacked
    z = [source.grid.affine @ [0, 0, index, 1] for index in range(5)]
    assert [round(float(point[2]), 3) for point in z] == [40, 42, 44, 46, 48]


def test_other_files_and_localizers_are_left_out(tmp_path: Path) -> None:
    write_series(tmp_path, SeriesInstanceUID="1.2.1")
    slice_dataset(
        9, (0, 0, 0), (0, 1, 0, 0, 0, -1), SeriesInstanceUID="1.2.1", ImageType=["ORIGINAL", "LOCALIZER"]
    ).save_as(tmp_path / "scout.dcm")
    for modality in ("SR", "RTPLAN", "SEG"):
        slice_dataset(8, (0, 0, 0), Modality=modality, SeriesInstanceUID="1.2.9").save_as(tmp_path / f"{modality}.dcm")
    (tmp_path / "notes.txt").write_text("not DICOM", encoding="utf-8")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 200)
    (series,) = find_series(tmp_path)
    assert len(series.files) == 5
    assert series.notes == ("1 localizer images left out", "5 files that are not images left out")
    assert open_series(series, "folder").notes[:2] == series.notes


def test_several_patients_are_refused_without_naming_them(tmp_path: Path) -> None:
    write_series(tmp_path / "a", PatientID="SECRET-1", PatientName="Doe^Jane")
    write_series(tmp_path / "b", PatientID="SECRET-2", PatientName="Roe^Jo", SeriesInstanceUID="1.2.5")
    with pytest.raises(MedGlipError, match="holds files of 2 patients: give a folder for each") as error:
        find_series(tmp_path)
    assert "SECRET" not in str(error.value) and "Doe" not in str(error.value)
    assert len(find_series(tmp_path, several_patients=True)) == 2


@pytest.mark.parametrize("content", [[], ["notes.txt"]])
def test_a_folder_without_images(content: list[str], tmp_path: Path) -> None:
    for name in content:
        (tmp_path / name).write_text("x", encoding="utf-8")
    with pytest.raises(MedGlipError, match="holds no DICOM image series"):
        find_series(tmp_path)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    write_series(tmp_path / "elsewhere")
    inside = tmp_path / "folder"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path / "elsewhere")
    (inside / "a.dcm").symlink_to(next((tmp_path / "elsewhere").iterdir()))
    with pytest.raises(MedGlipError, match="holds no DICOM image series"):
        find_series(inside)


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"PixelSpacing": [0.0, 0.7]}, "no_geometry"),
        ({"ImageOrientationPatient": None}, "no_geometry"),
    ],
)
def test_broken_geometry_is_named(fields: dict, rule: str, tmp_path: Path) -> None:
    write_series(tmp_path / "scan", **fields)
    (series,) = find_series(tmp_path / "scan")
    with pytest.raises(VolumeError, match="^scan: ") as error:
        open_series(series, "scan")
    assert error.value.rule == rule


def test_missing_slices_are_an_error(tmp_path: Path) -> None:
    paths = write_series(tmp_path, count=7)
    next(path for path in paths if path.name.endswith("_3.dcm")).unlink()
    with pytest.raises(VolumeError, match="distances of slices") as error:
        open_series(find_series(tmp_path)[0], "scan")
    assert error.value.rule == "missing_slices"


def test_a_multi_frame_file_is_a_series(tmp_path: Path) -> None:
    write_multi_frame(tmp_path / "enhanced.dcm", write_series(tmp_path / "slices"))
    single = open_series(find_series(tmp_path / "slices")[0], "a")
    first = dict(single.read_slices("axial"))
    for path in (tmp_path / "slices").iterdir():
        path.unlink()
    many = open_series(find_series(tmp_path)[0], "b")
    assert many.grid.array.shape == single.grid.array.shape
    other = dict(many.read_slices("axial"))
    assert all(np.array_equal(first[index], other[index]) for index in first)
