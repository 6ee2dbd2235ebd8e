# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Series with something wrong in them: an error that names the file, or, where that is certain, a note."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from modeling_medglip.errors import MedGlipError
from modeling_medglip.volumes import dicom_slices
from modeling_medglip.volumes.dicom_folder import find_series, holds_slices, open_series
from modeling_medglip.volumes.dicom_series import read_series
from modeling_medglip.volumes.header import VolumeError

from ..dicom_files import change, into_frames, slice_dataset, write_multi_frame, write_series


SECRET = {"PatientName": "Doe^Jane", "PatientID": "SECRET77"}


def opened(folder: Path, **options: Any) -> Any:
    (series,) = find_series(folder, **options)
    return open_series(series, folder.name, **options)


def refused(folder: Path, message: str, **options: Any) -> MedGlipError:
    with pytest.raises(MedGlipError, match=message) as error:
        opened(folder, **options)
    text = str(error.value)
    assert text.startswith(f"{folder.name}: ") and "\n" not in text
    assert "Doe" not in text and "SECRET" not in text and "JD" not in text
    return error.value


def corrupt(path: Path, tag: bytes, kind: bytes) -> None:
    """Write two letters instead of a number of two digits."""
    content = path.read_bytes()
    position = content.find(tag + kind + b"\x02\x00")
    assert position > 0
    path.write_bytes(content[: position + 8] + b"JD" + content[position + 10 :])


# Slices that do not form a stack -------------------------------------------------------------------------------------


def stack(folder: Path, aside: Callable[[int], float], count: int = 8) -> list[Path]:
    """Slices that are moved along x, by so many mm each."""
    folder.mkdir()
    paths = [folder / f"{number}.dcm" for number in range(count)]
    for number, path in enumerate(paths):
        slice_dataset(number, [-5.0 + aside(number), -7, 40 + 2.0 * number]).save_as(path)
    return paths


@pytest.mark.parametrize("resample", [False, True])
def test_slices_that_jump_to_the_side_are_named(resample: bool, tmp_path: Path) -> None:
    stack(tmp_path / "jagged", lambda number: 20.0 if number >= 4 else 0.0)
    error = refused(tmp_path / "jagged", "4.dcm: is 20.0 mm to the side", resample=resample)
    assert isinstance(error, VolumeError) and error.rule == "mixed_series"


def test_slices_that_drift_to_the_side_are_named(tmp_path: Path) -> None:
    """By 0.15 mm each from the sixth on: no step is large, but their sum is."""
    stack(tmp_path / "bent", lambda number: 0.15 * max(0, number - 5), count=9)
    refused(tmp_path / "bent", "7.dcm: is 0.3 mm to the side")


def test_two_slices_far_beside_each_other(tmp_path: Path) -> None:
    stack(tmp_path / "two", lambda number: 20.0 * number, count=2)
    refused(tmp_path / "two", "1.dcm: is 20.0 mm to the side")


def test_a_tilted_gantry_is_not_a_jump(tmp_path: Path) -> None:
    paths = stack(tmp_path / "tilted", lambda number: 0.9 * number)
    source = opened(tmp_path / "tilted")
    assert source.notes == ("gantry tilt: 24.2 degrees",)
    for number, path in enumerate(paths):
        expected = pydicom.dcmread(path).ImagePositionPatient
        np.testing.assert_allclose((source.grid.affine @ [0, 0, number, 1])[:3], expected, atol=1e-6)


def test_distances_that_grow_by_less_than_a_tenth_add_up(tmp_path: Path) -> None:
    """Half of the slices 2 mm apart, half 2.18 mm: every distance is nearly the usual one, the positions are not."""
    paths = stack(tmp_path / "grown", lambda number: 0.0, count=24)
    for number, path in enumerate(paths):
        change(path, ImagePositionPatient=[-5, -7, 40 + 2.0 * number + 0.18 * max(0, number - 12)])
    error = refused(tmp_path / "grown", "distances of slices from 2.00 to 2.18 mm, the first uneven one after ")
    assert isinstance(error, VolumeError) and error.rule == "missing_slices"
    assert opened(tmp_path / "grown", resample=True).grid.array.shape[2] == 25


def test_a_lone_scout_without_a_word_is_left_out(tmp_path: Path) -> None:
    write_series(tmp_path / "scan")
    scout = slice_dataset(9, (0, 0, 0), (0, 1, 0, 0, 0, -1), ImageType=["ORIGINAL", "PRIMARY"])
    scout.save_as(tmp_path / "scan" / "scout.dcm")
    source = opened(tmp_path / "scan")
    assert source.grid.array.shape == (16, 12, 5)
    assert source.notes == ("mixed series: scout.dcm left out, across the other slices",)


def test_another_size_is_named(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan")
    change(paths[2], Rows=6, Columns=32)
    refused(tmp_path / "scan", f"{paths[2].name}: has another size")


def test_different_slices_in_one_place_are_named(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan")
    slice_dataset(77, [-5, -7, 42]).save_as(tmp_path / "scan" / "phase.dcm")
    refused(tmp_path / "scan", f"({paths[1].name} and phase.dcm|phase.dcm and {paths[1].name}) differ at one position")


# Headers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ImageOrientationPatient": None}, "states no orientation"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "its orientation is invalid"),
        ({"ImagePositionPatient": None}, "states no position"),
        ({"PixelSpacing": [0.0, 0.0]}, "its pixel spacing is not positive"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "is in color"),
    ],
)
def test_the_slice_that_is_wrong_is_named(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan", **SECRET)
    change(paths[2], **fields)
    refused(tmp_path / "scan", f"{paths[2].name}: {message}")


@pytest.mark.parametrize(
    ("fields", "tag", "kind", "message"),
    [
        ({"NumberOfFrames": 12}, b"\x28\x00\x08\x00", b"IS", "its NumberOfFrames is not a whole number"),
        ({"RescaleSlope": "12"}, b"\x28\x00\x53\x10", b"DS", "is damaged"),
    ],
)
def test_numbers_that_are_none_are_damage(
    fields: dict[str, Any], tag: bytes, kind: bytes, message: str, tmp_path: Path
) -> None:
    paths = write_series(tmp_path / "scan", **SECRET)
    change(paths[1], **fields)
    corrupt(paths[1], tag, kind)
    refused(tmp_path / "scan", f"{paths[1].name}: {message}")


def test_a_series_number_that_is_none_only_names_nothing(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan", SeriesNumber=12, **SECRET)
    for path in paths:
        corrupt(path, b"\x20\x00\x11\x00", b"IS")
    (series,) = find_series(tmp_path / "scan")
    assert series.number is None and len(series.files) == 5


def test_files_without_a_meta_header(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan")
    expected = read_series(paths).volume.array
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.file_meta, dataset.preamble = pydicom.dataset.FileMetaDataset(), None
        dataset.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert np.array_equal(opened(tmp_path / "scan").volume().array, expected)


@pytest.mark.parametrize("kind", ["RLELossless", "DeflatedExplicitVRLittleEndian", "JPEGLSLossless"])
def test_packed_slices(kind: str, tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan")
    expected = read_series(paths).volume.array
    syntax = getattr(pydicom.uid, kind)
    for path in paths:
        dataset = pydicom.dcmread(path)
        if kind.startswith("Deflated"):
            dataset.file_meta.TransferSyntaxUID = syntax
        else:
            dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(opened(tmp_path / "scan").volume().array, expected)


# Patients ------------------------------------------------------------------------------------------------------------


def test_patients_with_one_series_number_are_not_mixed(tmp_path: Path) -> None:
    write_series(tmp_path / "two" / "a", count=4, PatientID="A1", SeriesInstanceUID="1.2.9")
    for number in range(4, 8):
        fields = {"PatientID": "B1", "SeriesInstanceUID": "1.2.9"}
        slice_dataset(number, [-5, -7, 40 + 2.0 * number], **fields).save_as(tmp_path / "two" / f"b{number}.dcm")
    with pytest.raises(MedGlipError, match="2 patients: give a folder for each, or pass several_patients=True"):
        find_series(tmp_path / "two")
    found = find_series(tmp_path / "two", several_patients=True)
    owners = [{str(pydicom.dcmread(path).PatientID) for path in series.files} for series in found]
    assert sorted(owner for (owner,) in owners) == ["A1", "B1"] and [len(series.files) for series in found] == [4, 4]


def test_studies_with_one_series_number_are_not_mixed(tmp_path: Path) -> None:
    write_series(tmp_path / "a", SeriesInstanceUID="1.2.9", StudyInstanceUID="1.2.1")
    write_series(tmp_path / "b", SeriesInstanceUID="1.2.9", StudyInstanceUID="1.2.2")
    assert len(find_series(tmp_path)) == 2


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (("A1", "DOE^JANE"), ("A1", "Doe^Jane^^^"), True),
        (("A1", "Doe^Jane"), ("a1 ", "Roe^Jo"), True),
        (("", "DOE^JANE"), ("", "Doe^Jane^^^"), True),
        (("", "Doe^Jane"), ("", "Roe^Jo"), False),
        (("A1", "Doe^Jane"), ("B1", "Doe^Jane"), False),
    ],
)
def test_who_is_the_same_patient(first: tuple[str, str], second: tuple[str, str], same: bool, tmp_path: Path) -> None:
    for number, (identity, name) in enumerate((first, second)):
        write_series(
            tmp_path / "x" / str(number), PatientID=identity, PatientName=name, SeriesInstanceUID=f"1.{number}"
        )
    if same:
        assert len(find_series(tmp_path / "x")) == 2
    else:
        with pytest.raises(MedGlipError, match="2 patients"):
            find_series(tmp_path / "x")


# Files that should be slices -----------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:600])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def no_sense(path: Path) -> None:
    path.write_bytes(b"\0" * 128 + b"DICM" + bytes(range(256)) * 4)


@pytest.mark.parametrize("damage", [cut, empty, no_sense])
@pytest.mark.parametrize("which", [0, 3, 6])
def test_damaged_slices_are_not_lost(damage: Callable[[Path], None], which: int, tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan", count=7)
    damage(paths[which])
    kind = "empty" if damage is empty else "damaged"
    refused(tmp_path / "scan", rf"{paths[which].name}: is {kind}, and may be a slice: .*resample=True")
    source = opened(tmp_path / "scan", resample=True)
    assert f"1 damaged files left out: {paths[which].name}" in source.notes
    assert source.grid.array.shape[2] == (7 if which == 3 else 6)


def test_an_empty_file_named_like_the_slices(tmp_path: Path) -> None:
    for number, path in enumerate(write_series(tmp_path / "scan")):
        path.rename(tmp_path / "scan" / f"IM{number:04d}")
    (tmp_path / "scan" / "IM0005").write_bytes(b"")
    refused(tmp_path / "scan", "IM0005: is empty")
    (tmp_path / "scan" / "IM0005").rename(tmp_path / "scan" / "done")
    assert opened(tmp_path / "scan").notes == ("1 files that are not images left out",)


def test_what_a_mac_leaves_beside_a_slice_is_none(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan")
    (tmp_path / "scan" / f"._{paths[0].name}").write_bytes(b"\0\5\x16\7" * 40)
    assert opened(tmp_path / "scan").notes == ("1 files that are not images left out",)


# Multi-frame files ---------------------------------------------------------------------------------------------------


def enhanced(folder: Path, slices: list[Path]) -> Path:
    """One enhanced file of slices, which are removed."""
    folder.mkdir()
    write_multi_frame(folder / "e.dcm", slices)
    for path in slices:
        path.unlink()
    return folder / "e.dcm"


def test_a_missing_frame_is_named_or_interpolated(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "slices", count=6)
    whole = read_series(slices).volume
    enhanced(tmp_path / "scan", [slices[number] for number in (5, 0, 1, 3, 4)])
    refused(tmp_path / "scan", "after e.dcm: frame 3: slices are missing, or interpolate them .resample=True")
    source = opened(tmp_path / "scan", resample=True)
    np.testing.assert_allclose(source.grid.affine, whole.affine)
    found = source.volume().array
    assert np.array_equal(found[:, :, 3], whole.array[:, :, 3])
    expected = np.rint((whole.array[:, :, 1].astype(float) + whole.array[:, :, 3]) / 2)
    assert np.abs(found[:, :, 2] - expected).max() <= 1


def test_frames_are_read_one_at_a_time_in_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slices = write_series(tmp_path / "slices")
    whole = read_series(slices).volume
    path = enhanced(tmp_path / "scan", [slices[number] for number in (3, 0, 4, 1, 2)])
    source = opened(tmp_path / "scan")
    assert [slice_.frame for slice_ in source.dicom_slices] == [2, 4, 5, 1, 3] and source.dicom_files == (path,)
    own = dicom_slices.read_frame
    asked: list[int] = []
    monkeypatch.setattr(
        dicom_slices, "read_frame", lambda file, kind, frame: (asked.append(frame), own(file, kind, frame))[1]
    )
    found = dict(source.read_slices("axial"))
    assert asked == [1, 3, 4, 0, 2] and source._volume is None, "never whole in memory"
    for index, pixels in found.items():
        assert np.array_equal(pixels, whole.values(whole.array[:, :, index]).T)
    assert np.array_equal(source.read_slice("axial", 2), found[2])


def test_frames_without_positions_are_images(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "slices")
    path = enhanced(tmp_path / "scan", slices)
    assert holds_slices(path)
    dataset = pydicom.dcmread(path)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        del frame.PlanePositionSequence
    dataset.save_as(path)
    assert not holds_slices(path)
    refused(tmp_path / "scan", "e.dcm: its frames state no positions: ground its frames one by one")


def test_one_slice_and_other_files_hold_no_slices(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan")
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    shutil.copy(tmp_path / "a.txt", tmp_path / "b.dcm")
    assert not any(
        holds_slices(path) for path in (paths[0], tmp_path / "a.txt", tmp_path / "b.dcm", tmp_path / "c.dcm")
    )


def test_a_frame_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path = enhanced(tmp_path / "scan", write_series(tmp_path / "slices"))
    source = opened(tmp_path / "scan")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(VolumeError, match=r"^scan: e.dcm: frame \d: its pixels cannot be decoded"):
        list(source.read_slices("axial"))


@pytest.mark.parametrize(
    ("keyword", "values", "count", "rule"),
    [
        ("PlanePositionSequence", {"ImagePositionPatient": [-5.0, -7.0, 40.0]}, 1, "duplicate_slices"),
        ("PlanePositionSequence", {"ImagePositionPatient": [60.0, -7.0, 44.0]}, 1, "mixed_series"),
        ("PixelMeasuresSequence", {"PixelSpacing": [2.0, 2.0]}, 1, "mixed_series"),
        ("PlaneOrientationSequence", {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, 2, "mixed_series"),
    ],
)
def test_frames_that_do_not_form_a_stack_cannot_be_put_in_folders(
    keyword: str, values: dict[str, Any], count: int, rule: str, tmp_path: Path
) -> None:
    path = enhanced(tmp_path / "scan", write_series(tmp_path / "slices"))
    into_frames(path, "PixelMeasuresSequence", "PlaneOrientationSequence")
    dataset = pydicom.dcmread(path)
    frames = dataset.PerFrameFunctionalGroupsSequence
    for frame in frames[2 : 2 + count]:
        item = pydicom.Dataset()
        for name, value in values.items():
            setattr(item, name, value)
        setattr(frame, keyword, [item])
    dataset.save_as(path)
    error = refused(tmp_path / "scan", "ground its frames one by one")
    assert isinstance(error, VolumeError) and error.rule == rule
    assert "folder for each" not in str(error) and "frame=" in str(error) and error.hint == "frame"


def test_frames_in_color_are_grounded_one_by_one(tmp_path: Path) -> None:
    path = enhanced(tmp_path / "scan", write_series(tmp_path / "slices"))
    dataset = pydicom.dcmread(path)
    dataset.PixelData = dataset.PixelData * 3
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.save_as(path)
    error = refused(tmp_path / "scan", "is in color and not a slice of a volume: ground its frames one by one")
    assert isinstance(error, VolumeError) and error.rule == "colour_volume"


def test_fewer_positions_than_frames(tmp_path: Path) -> None:
    path = enhanced(tmp_path / "scan", write_series(tmp_path / "slices"))
    change(path, NumberOfFrames=2_000_000_000)
    refused(tmp_path / "scan", "states 2000000000 frames, but fewer positions")


@pytest.mark.parametrize(("aside", "degrees"), [(1.9, "43.5"), (2.1, None)])
def test_slices_lean_by_45_degrees_at_most(aside: float, degrees: str | None, tmp_path: Path) -> None:
    stack(tmp_path / "leaning", lambda number: aside * number)
    if degrees is None:
        refused(tmp_path / "leaning", "1.dcm: is 2.1 mm to the side")
    else:
        assert opened(tmp_path / "leaning").notes == (f"gantry tilt: {degrees} degrees",)
