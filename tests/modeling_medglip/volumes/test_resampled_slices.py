# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Uneven series at even distances: the right values in the right positions, two slices at a time."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from modeling_medglip.outputs.dicom import covered_slices, write_report, write_segmentation
from modeling_medglip.volumes.dicom_folder import find_series, open_series
from modeling_medglip.volumes.dicom_series import index_series, read_series
from modeling_medglip.volumes.dicom_slices import DicomSlices, Slice
from modeling_medglip.volumes.geometry import Volume
from modeling_medglip.volumes.header import VolumeError
from modeling_medglip.volumes.reader import stack
from modeling_medglip.volumes.resampled_slices import ResampledSlices
from modeling_medglip.volumes.segmentations import read_segmentation

from ..dicom_files import slice_dataset
from ..outputs.test_slicer import made_box, made_result


POSITIONS = (0.0, 2.0, 4.0, 8.0, 10.0)  # mm; the slice at 6 is missing


def ramp(folder: Path, positions: tuple[float, ...] = POSITIONS, **fields: object) -> list[Path]:
    """Slices whose value is 10 times their position, and more from column to column."""
    folder.mkdir()
    paths = [folder / f"{number}.dcm" for number in range(len(positions))]
    for number, (path, position) in enumerate(zip(paths, positions, strict=True)):
        dataset = slice_dataset(number, [-5, -7, 40 + position], FrameOfReferenceUID="1.2.3.4", **fields)
        columns = np.arange(16, dtype=np.int16)[None]
        dataset.PixelData = (np.full((12, 16), round(10 * position), np.int16) + columns).tobytes()
        dataset.save_as(path)
    return paths


def test_values_lie_where_they_were(tmp_path: Path) -> None:
    series = read_series(ramp(tmp_path / "scan"), resample=True)
    volume = series.volume
    assert series.notes == (("resampled", "6 even slices from 5"),) and len(series.files) == 5
    assert volume.array.shape == (16, 12, 6) and volume.array.dtype == np.int16
    for number in range(6):
        assert (volume.array[:, :, number] == 20 * number + np.arange(16)[:, None]).all()
        np.testing.assert_allclose((volume.affine @ [0, 0, number, 1])[:3], [-5, -7, 40 + 2 * number])
    assert (volume.slope, volume.intercept) == (1, -1024)


def test_places_between_slices_are_shared_out(tmp_path: Path) -> None:
    """At 0, 2, 4, 6, 8 and 13 mm, evenly: 2.17 mm apart, so that no slice but the ends is one of the file's."""
    positions = (0.0, 2.0, 4.0, 6.0, 8.0, 13.0)
    volume = read_series(ramp(tmp_path / "scan", positions), resample=True).volume
    count = volume.array.shape[2]
    even = np.linspace(0, 13, count)
    assert count == 7 and np.abs(volume.array[0, 0, :] - 10 * even).max() <= 0.5
    np.testing.assert_allclose(volume.affine[2, 2], 13 / 6)


def test_slices_with_a_rescaling_each_are_mixed_as_values(tmp_path: Path) -> None:
    paths = ramp(tmp_path / "scan")
    dataset = pydicom.dcmread(paths[3])
    dataset.RescaleSlope, dataset.RescaleIntercept = 2, 6
    dataset.save_as(paths[3])
    volume = read_series(paths, resample=True).volume
    own = [pydicom.dcmread(path) for path in paths]
    ends = [float(d.RescaleSlope) * d.pixel_array.T + float(d.RescaleIntercept) for d in own]
    assert volume.array.dtype == np.float32 and (volume.slope, volume.intercept) == (1, 0)
    np.testing.assert_allclose(volume.array[:, :, 3], (ends[2] + ends[3]) / 2)
    np.testing.assert_allclose(volume.array[:, :, 4], ends[3])


def test_a_slice_on_its_own_is_that_of_the_whole(tmp_path: Path) -> None:
    series = index_series(ramp(tmp_path / "scan"), resample=True)
    whole = stack(series.reader)
    for number in range(6):
        first = next(series.reader.read(number))
        assert np.array_equal(first.array[:, :, 0], whole.array[:, :, number])


def test_two_slices_are_in_memory() -> None:
    pixels = {number: np.full((8, 9), number, np.float32) for number in range(40)}
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    class Counted(DicomSlices):
        def read(self, first: int = 0) -> Iterator[Volume]:
            nonlocal most
            array = np.empty(0)
            for number in range(first, 40):
                array = np.array(pixels[number].T[:, :, None])
                alive.append(weakref.ref(array))
                most = max(most, sum(one() is not None for one in alive))
                yield Volume(array, self.affine)

    along = np.array([number * 2.0 for number in range(20)] + [39.7 + number * 2.0 for number in range(20)])
    reader = ResampledSlices(Counted([Slice(Path("a"))] * 40, (8, 9), np.eye(4)), along)
    assert len(list(iter(None for _ in reader.read()))) == reader.shape[2] and most <= 4


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ramp(tmp_path / "scan", (0.0, 1.0, 2.0, 3000.0))
    monkeypatch.setattr("modeling_medglip.volumes.resampled_slices.MAX_BYTES", 10**6)
    with pytest.raises(VolumeError, match="3001 even slices: more than") as error:
        index_series(paths, resample=True)
    assert error.value.rule == "too_large"


def test_reports_and_segmentations_refer_to_the_series_own_slices(tmp_path: Path) -> None:
    paths = ramp(tmp_path / "scan")
    source = open_series(find_series(tmp_path / "scan")[0], "scan", resample=True)
    assert [slice_.position for slice_ in source.dicom_slices] == pytest.approx([0, 1, 2, 4, 5])
    box = made_box(source.grid, (2, 3, 1, 9, 8, 5), "liver", 0.9)  # even slices 1 to 4: own ones at 2, 4 and 8 mm
    thin = made_box(source.grid, (2, 3, 3, 9, 8, 4), "liver", 0.8)  # where there is no own slice
    assert covered_slices(box, source) == [1, 2, 3] and covered_slices(thin, source) in ([2], [3])
    result = made_result(source.grid, box, thin)
    report = highdicom.sr.srread(write_report(result, source, tmp_path / "a.sr.dcm"))
    group = report.content.get_volumetric_roi_measurement_groups()[0]
    referenced = [region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID for region in group.roi]
    assert referenced == [str(pydicom.dcmread(paths[number]).SOPInstanceUID) for number in (1, 2, 3)]
    write_segmentation(made_result(source.grid, box), source, tmp_path / "a.seg.dcm")
    frames = pydicom.dcmread(tmp_path / "a.seg.dcm").PerFrameFunctionalGroupsSequence
    positions = [float(frame.PlanePositionSequence[0].ImagePositionPatient[2]) for frame in frames]
    assert sorted(positions) == pytest.approx([42, 44, 48])
    ((mask, _),) = read_segmentation(tmp_path / "a.seg.dcm")
    assert int(mask.array.sum()) == 7 * 5 * 3


@pytest.mark.parametrize(("distance", "even"), [(1.09, False), (1.05, False), (1.03, True)])
def test_distances_that_drift_are_uneven(tmp_path: Path, distance: float, even: bool) -> None:
    """Each distance is near the median, but the middle slice is 0.45, 0.25 or 0.15 of it off an even stack."""
    paths = ramp(tmp_path / "scan", (*range(11), *(10 + distance * n for n in range(1, 11))))
    if even:
        assert index_series(paths).reader.shape[2] == 21
    else:
        with pytest.raises(VolumeError, match="slices are missing"):
            index_series(paths)


@pytest.mark.parametrize(("degrees", "left_out"), [(25, True), (8, False)])
def test_a_single_slice_across_the_others_is_left_out(tmp_path: Path, degrees: float, left_out: bool) -> None:
    paths = ramp(tmp_path / "scan", (0.0, 2.0, 4.0, 6.0))
    cosine, sine = (round(float(part(np.radians(degrees))), 6) for part in (np.cos, np.sin))
    scout = slice_dataset(9, [-5, -7, 60], ImageOrientationPatient=[1, 0, 0, 0, cosine, sine])
    scout.save_as(tmp_path / "scan" / "scout.dcm")
    if left_out:
        series = index_series([*paths, tmp_path / "scan" / "scout.dcm"])
        assert len(series.files) == 4 and series.notes == (
            ("mixed_series", "scout.dcm left out, across the other slices"),
        )
    else:
        with pytest.raises(VolumeError, match="scout.dcm: has another orientation"):
            index_series([*paths, tmp_path / "scan" / "scout.dcm"])
