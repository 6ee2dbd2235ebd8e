# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Reports and segmentations: read back by highdicom they hold the same boxes of the same series."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest

from modeling_medglip.errors import MedGlipError
from modeling_medglip.outputs.dicom import MAY_BE_EMPTY, _packed, covered_slices, write_report, write_segmentation
from modeling_medglip.outputs.volume_results import VolumeResult
from modeling_medglip.volumes.dicom_folder import find_series, open_series
from modeling_medglip.volumes.geometry import empty_grid, on_grid, to_file
from modeling_medglip.volumes.segmentations import read_segmentation
from modeling_medglip.volumes.source import VolumeSource

from ..dicom_files import into_frames, write_multi_frame, write_series
from ..dicom_files import write_segmentation as write_stored_segmentation
from .test_slicer import made_box, made_result


@pytest.fixture
def source(tmp_path: Path) -> VolumeSource:
    write_series(tmp_path / "scan", FrameOfReferenceUID="1.2.3.4", PatientName="Doe^Jane")
    return open_series(find_series(tmp_path / "scan")[0], "scan")


@pytest.fixture
def result(source: VolumeSource) -> VolumeResult:
    liver = made_box(source.grid, (2.25, 3.5, 1.0, 9.75, 8.0, 4.0), "liver", 0.91)
    phrase = made_box(source.grid, (1.0, 1.0, 0.0, 4.0, 3.0, 2.0), "something new", 0.4)
    return made_result(source.grid, liver, phrase)


def test_a_report_holds_the_boxes(source: VolumeSource, result: VolumeResult, tmp_path: Path) -> None:
    path = write_report(result, source, tmp_path / "a.sr.dcm")
    report = highdicom.sr.srread(path)
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["liver 1", "something new 2"]
    names = [str(pydicom.dcmread(file).SOPInstanceUID) for file in source.dicom_files]
    for group, box in zip(groups, result.boxes, strict=True):
        x1, y1, k1, x2, y2, k2 = box.box_ijk
        expected = [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]
        for region in group.roi:
            np.testing.assert_allclose(region.value, expected)
        uids = [region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID for region in group.roi]
        assert uids == names[int(k1) : int(k2)]
        (score,) = group.get_measurements()
        assert score.value == pytest.approx(box.score)
    assert groups[0].finding_type.scheme_designator == "SCT" and groups[0].finding_type.value == "10200004"
    assert groups[1].finding_type.scheme_designator == "99MEDGLIP"
    assert groups[1].finding_type.meaning == "something new"


def test_report_and_segmentation_belong_to_the_study(
    source: VolumeSource, result: VolumeResult, tmp_path: Path
) -> None:
    first = pydicom.dcmread(source.dicom_files[0])
    for path in (
        write_report(result, source, tmp_path / "a.sr.dcm"),
        write_segmentation(result, source, tmp_path / "a.seg.dcm"),
    ):
        written = pydicom.dcmread(path)
        for name in ("PatientID", "PatientName", "StudyInstanceUID"):
            assert written[name].value == first[name].value
        assert written.SeriesInstanceUID != first.SeriesInstanceUID and "research use" in written.SeriesDescription


def test_a_segmentation_holds_the_boxes(source: VolumeSource, result: VolumeResult, tmp_path: Path) -> None:
    path = write_segmentation(result, source, tmp_path / "a.seg.dcm")
    found = read_segmentation(path)
    assert [label for _, label in found] == ["liver 1", "something new 2"]
    segments = highdicom.seg.segread(path)
    assert segments.get_segment_description(1).segmented_property_type.value == "10200004"
    for (mask, _), box in zip(found, result.boxes, strict=True):
        places = np.argwhere(mask.array)
        corners = mask.affine[:3, :3] @ places.T + mask.affine[:3, 3:]
        k = covered_slices(box, source)
        i1, j1 = (int(np.ceil(value - 0.5)) for value in box.box_ijk[:2])
        i2, j2 = (int(np.ceil(value - 0.5)) for value in box.box_ijk[3:5])
        ends = np.array([[i1, j1, k[0], 1], [i2 - 1, j2 - 1, k[-1], 1]]) @ source.grid.affine.T
        np.testing.assert_allclose(corners.min(axis=1), np.minimum(*ends[:, :3]), atol=1e-4)
        np.testing.assert_allclose(corners.max(axis=1), np.maximum(*ends[:, :3]), atol=1e-4)


def test_an_empty_character_set_is_the_default_one(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", SpecificCharacterSet="", FrameOfReferenceUID="1.2.3.4")
    source = open_series(find_series(tmp_path / "scan")[0], "scan")
    write_report(made_result(source.grid, made_box(source.grid, (1, 1, 1, 3, 3, 3))), source, tmp_path / "a.dcm")
    assert highdicom.sr.srread(tmp_path / "a.dcm").content.get_volumetric_roi_measurement_groups()


@pytest.mark.parametrize("write", [write_report, write_segmentation])
def test_what_cannot_be_written(write: Any, source: VolumeSource, result: VolumeResult, tmp_path: Path) -> None:
    with pytest.raises(MedGlipError, match="scan: nothing was found"):
        write(dataclasses.replace(result, boxes=()), source, tmp_path / "a.dcm")
    with pytest.raises(MedGlipError, match="volume: is not a DICOM series"):
        write(result, VolumeSource(empty_grid((4, 4, 4), np.eye(4))), tmp_path / "a.dcm")
    assert not (tmp_path / "a.dcm").exists()


def test_what_highdicom_says_of_a_header_is_not_passed_on(
    source: VolumeSource, result: VolumeResult, tmp_path: Path
) -> None:
    for file in source.dicom_files:
        dataset = pydicom.dcmread(file)
        del dataset.StudyInstanceUID
        dataset.save_as(file)
    with pytest.raises(MedGlipError, match="no report can be made of its headers") as error:
        write_report(result, source, tmp_path / "a.dcm")
    assert "Doe" not in str(error.value)


def test_frames_of_a_multi_frame_file_are_referred_to(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "slices", FrameOfReferenceUID="1.2.3")
    write_multi_frame(tmp_path / "scan.dcm", [slices[n] for n in (3, 0, 4, 1, 2)])  # its frames in another order
    for path in slices:
        path.unlink()
    source = open_series(find_series(tmp_path)[0], "scan")
    box = made_box(source.grid, (2.0, 3.0, 1.0, 9.0, 8.0, 3.0), "liver", 0.9)
    result = made_result(source.grid, box)
    report = highdicom.sr.srread(write_report(result, source, tmp_path / "a.sr.dcm"))
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    frames = pydicom.dcmread(tmp_path / "scan.dcm").PerFrameFunctionalGroupsSequence
    positions = []
    for region in group.roi:
        number = int(region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber)
        positions.append(float(frames[number - 1].PlanePositionSequence[0].ImagePositionPatient[2]))
    expected = sorted(float((source.grid.affine @ [0, 0, k, 1])[2]) for k in (1, 2))
    assert sorted(positions) == pytest.approx(expected)
    ((mask, _),) = read_segmentation(write_segmentation(result, source, tmp_path / "b.seg.dcm"))
    places = np.argwhere(mask.array)
    corners = mask.affine[:3, :3] @ places.T + mask.affine[:3, 3:]
    assert [corners[2].min(), corners[2].max()] == pytest.approx(expected)


@pytest.mark.skipif(not shutil.which("dsrdump") or not shutil.which("dciodvfy"), reason="needs dcmtk and dicom3tools")
def test_other_readers_find_no_error(source: VolumeSource, result: VolumeResult, tmp_path: Path) -> None:
    report = write_report(result, source, tmp_path / "a.sr.dcm")
    mask = write_segmentation(result, source, tmp_path / "a.seg.dcm")
    shown = subprocess.run(["dsrdump", str(report)], capture_output=True, text=True)
    assert shown.returncode == 0 and 'Tracking Identifier")="liver 1"' in shown.stdout
    for path in (report, mask):
        checked = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
        assert [line for line in checked.stderr.splitlines() if line.startswith("Error")] == []


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dicom3tools")
def test_files_of_nobody_are_reported_on_too(tmp_path: Path) -> None:
    """De-identified files lack what a valid one holds with an empty value."""
    for path in write_series(tmp_path / "scan", FrameOfReferenceUID="1.2.3.4"):
        dataset = pydicom.dcmread(path)
        for keyword in MAY_BE_EMPTY:
            if keyword in dataset:
                delattr(dataset, keyword)
        dataset.save_as(path)
    source = open_series(find_series(tmp_path / "scan")[0], "scan")
    result = made_result(source.grid, made_box(source.grid, (2, 3, 1, 9, 8, 4), "liver", 0.9))
    for write in (write_report, write_segmentation):
        path = write(result, source, tmp_path / "a.dcm")
        assert pydicom.dcmread(path).PatientID == "" and pydicom.dcmread(path).StudyDate == ""
        checked = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
        assert [line for line in checked.stderr.splitlines() if line.startswith("Error")] == []


def test_three_slices_and_their_segmentation_come_back(tmp_path: Path) -> None:
    """A box round a mask that is stored as SEG, through a report and a segmentation: the same place of the patient."""
    slices = write_series(tmp_path / "scan", count=3, step=(0, 0, 5.0), FrameOfReferenceUID="1.2.3.4")
    mask = np.zeros((16, 12, 3), np.uint8)
    mask[3:9, 2:7, 0:2] = 1
    write_stored_segmentation(tmp_path / "mask.dcm", slices, mask)
    source = open_series(find_series(tmp_path / "scan")[0], "scan")
    placed = on_grid(read_segmentation(tmp_path / "mask.dcm")[0][0], source.grid)
    assert placed is not None
    places = np.argwhere(placed.array)
    box = made_box(source.grid, to_file(source.grid, places.min(axis=0), places.max(axis=0) + 1))
    assert box.box_ijk == (3, 2, 0, 9, 7, 2)
    result = made_result(source.grid, box)
    ((back, _),) = read_segmentation(write_segmentation(result, source, tmp_path / "a.seg.dcm"))
    again = on_grid(back, source.grid)
    assert again is not None and np.array_equal(again.array, placed.array)
    report = highdicom.sr.srread(write_report(result, source, tmp_path / "a.sr.dcm"))
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    corners = []
    for region in group.roi:
        uid = region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        (image,) = [d for d in map(pydicom.dcmread, slices) if d.SOPInstanceUID == uid]
        transform = highdicom.spatial.ImageToReferenceTransformer.for_image(image)
        corners.append(transform(region.value))
    points = np.concatenate(corners)
    expected = np.array(box.corners_lps_mm)
    np.testing.assert_allclose(points[:, :2].min(axis=0), expected[:, :2].min(axis=0), atol=1e-6)
    np.testing.assert_allclose(points[:, :2].max(axis=0), expected[:, :2].max(axis=0), atol=1e-6)
    # Slices have no thickness: half a slice more on both sides.
    assert (points[:, 2].min() - 2.5, points[:, 2].max() + 2.5) == pytest.approx(
        (expected[:, 2].min(), expected[:, 2].max())
    )


def test_frames_of_a_segmentation_need_no_memory_each(tmp_path: Path) -> None:
    """The bits that are packed frame by frame are those of all frames at once, also where a frame ends in a byte."""
    frames = np.random.default_rng(0).integers(0, 2, (7, 5, 5)).astype(np.uint8)
    expected = np.packbits(frames.ravel(), bitorder="little").tobytes()
    assert _packed(iter(frames)) == expected and len(expected) % 2 == 0
    assert _packed(iter(frames[:3])) == np.packbits(frames[:3].ravel(), bitorder="little").tobytes()
    assert _packed(iter(frames[:2])) == np.packbits(frames[:2].ravel(), bitorder="little").tobytes() + b"\0"


def test_only_slices_of_boxes_have_frames(source: VolumeSource, result: VolumeResult, tmp_path: Path) -> None:
    path = write_segmentation(result, source, tmp_path / "a.seg.dcm")
    written = pydicom.dcmread(path)
    assert written.NumberOfFrames == 3 + 2 and (written.Rows, written.Columns) == (12, 16)
    referred = written.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert len(referred) == 4, "slices 0 to 3 of 5"
    assert len(written.PixelData) == 5 * 12 * 16 // 8


def test_segments_that_no_file_holds(
    source: VolumeSource, result: VolumeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modeling_medglip.outputs.dicom.MAX_SEG_BYTES", 119)
    with pytest.raises(MedGlipError, match="scan: 2 segments of 120 bytes are more than a file holds"):
        write_segmentation(result, source, tmp_path / "a.seg.dcm")


@pytest.mark.parametrize("groups", [("PixelMeasuresSequence",), ("PixelMeasuresSequence", "PlaneOrientationSequence")])
def test_measures_may_stand_in_each_frame(groups: tuple[str, ...], tmp_path: Path) -> None:
    """As Siemens XA30 writes them; highdicom looks for them among what all frames share."""
    write_multi_frame(tmp_path / "scan.dcm", write_series(tmp_path / "slices"))
    into_frames(tmp_path / "scan.dcm", *groups)
    shutil.rmtree(tmp_path / "slices")
    source = open_series(find_series(tmp_path)[0], "scan")
    box = made_box(source.grid, (2, 3, 1, 9, 8, 4), "liver", 0.9)
    found = made_result(source.grid, box)
    assert write_report(found, source, tmp_path / "a.sr.dcm").stat().st_size > 0
    ((mask, label),) = read_segmentation(write_segmentation(found, source, tmp_path / "a.seg.dcm"))
    placed = on_grid(mask, empty_grid(source.grid.array.shape, source.grid.affine))
    expected = np.zeros(source.grid.array.shape)
    expected[2:9, 3:8, 1:4] = 1
    assert label == "liver 1" and placed is not None and np.array_equal(placed.array, expected)


def test_a_slice_belongs_to_a_box_that_holds_its_center(source: VolumeSource) -> None:
    """Index k of a box counts edges: slice 2 reaches from 2 to 3, its center lies at 2.5."""
    assert covered_slices(made_box(source.grid, (1, 1, 1.4, 3, 3, 3.6)), source) == [1, 2, 3]
    assert covered_slices(made_box(source.grid, (1, 1, 1.6, 3, 3, 3.4)), source) == [2]
