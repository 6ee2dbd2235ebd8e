# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""DICOM series as volumes, and their segmentations and structure sets."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest


pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

from modeling_medglip.volumes.dicom_series import read_series  # noqa: E402
from modeling_medglip.volumes.geometry import on_grid, to_lps  # noqa: E402
from modeling_medglip.volumes.header import VolumeError  # noqa: E402
from modeling_medglip.volumes.segmentations import fill_polygon, read_segmentation, read_structures  # noqa: E402

from ..dicom_files import (  # noqa: E402
    MASK,
    slice_dataset,
    write_multi_frame,
    write_segmentation,
    write_series,
    write_structures,
)


OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)


class TestSeries:
    def test_slices_in_any_order(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        series = read_series(sorted(paths, key=lambda path: path.name))
        assert series.modality == "ct" and series.notes == ()
        assert series.volume.array.shape == (16, 12, 5) and (series.volume.slope, series.volume.intercept) == (
            1,
            -1024,
        )
        for number, path in enumerate(paths):
            assert np.array_equal(series.volume.array[:, :, number].T, pydicom.dcmread(path).pixel_array)
        assert np.allclose((series.volume.affine @ [2, 3, 4, 1])[:3], [-5 + 1.4, -7 + 2.7, 40 + 8])

    def test_oblique_slices(self, tmp_path: Path) -> None:
        normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
        volume = read_series(write_series(tmp_path, step=normal * 3, ImageOrientationPatient=list(OBLIQUE))).volume
        assert volume.spacing == pytest.approx([0.7, 0.9, 3.0])
        assert np.allclose(volume.affine[:3, 0], np.array(OBLIQUE[:3]) * 0.7)
        assert np.allclose(volume.affine[:3, 1], np.array(OBLIQUE[3:]) * 0.9)

    def test_both_readers_put_voxels_in_the_same_places(self, tmp_path: Path) -> None:
        """dcm2niix, an independent program, against ours."""
        pytest.importorskip("dcm2niix")
        from dataset_scripts.readers.dicom import through_dcm2niix

        paths = write_series(tmp_path)
        ours, theirs = to_lps(read_series(paths).volume), to_lps(through_dcm2niix(paths))
        assert np.allclose(ours.affine, theirs.affine, atol=1e-3)
        assert np.array_equal(ours.values(ours.array), theirs.values(theirs.array))

    def test_a_tilted_gantry_is_kept_in_the_affine(self, tmp_path: Path) -> None:
        series = read_series(write_series(tmp_path, step=(0, 0.5, 2.0)))
        assert series.notes == (("gantry_tilt", "14.0 degrees"),)
        assert np.allclose((series.volume.affine @ [0, 0, 4, 1])[:3], [-5, -5, 48])

    def test_slopes_of_their_own(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        dataset = pydicom.dcmread(paths[2])
        dataset.RescaleSlope = 2
        dataset.save_as(paths[2])
        volume = read_series(paths).volume
        assert volume.array.dtype == np.float32 and (volume.slope, volume.intercept) == (1, 0)
        assert np.allclose(volume.array[:, :, 2].T, dataset.pixel_array * 2.0 - 1024)

    def test_one_slice(self, tmp_path: Path) -> None:
        assert read_series(write_series(tmp_path, count=1)).volume.spacing == pytest.approx([0.7, 0.9, 2.0])

    def test_copies_are_left_out(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        shutil.copy(paths[1], tmp_path / "copy.dcm")
        series = read_series([*paths, tmp_path / "copy.dcm"])
        assert series.volume.array.shape[2] == 5 and series.notes == (("duplicate_slices", "1 copies left out"),)

    def test_other_files_are_passed_over(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        write_structures(tmp_path / "structures.dcm", {})
        assert read_series([*paths, tmp_path / "structures.dcm"]).volume.array.shape[2] == 5

    def test_multi_frame_files(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path / "ct")
        write_multi_frame(tmp_path / "enhanced.dcm", paths)
        many, one = read_series(paths).volume, read_series([tmp_path / "enhanced.dcm"])
        assert one.modality == "ct"
        first, second = to_lps(many), to_lps(one.volume)
        assert np.allclose(first.affine, second.affine)
        assert np.array_equal(first.values(first.array), second.values(second.array))


class TestBadSeries:
    def refused(self, paths: Any, rule: str) -> None:
        with pytest.raises(VolumeError) as error:
            read_series(paths)
        assert error.value.rule == rule and "\n" not in str(error.value)

    def test_nothing_and_no_images(self, tmp_path: Path) -> None:
        self.refused([], "unreadable")
        (tmp_path / "a.dcm").write_bytes(b"nothing" * 99)
        self.refused([tmp_path / "a.dcm"], "unreadable")
        self.refused([tmp_path / "missing.dcm"], "unreadable")

    def test_several_series(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        slice_dataset(9, [-5, -7, 50], SeriesInstanceUID="1.2.3").save_as(paths[4])
        self.refused(paths, "mixed_series")

    def test_several_orientations(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        for number in (3, 4):
            slice_dataset(9, [-5, -7, 40 + number], OBLIQUE).save_as(paths[number])
        self.refused(paths, "mixed_series")

    def test_a_slice_that_is_tilted_a_little(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        slice_dataset(9, [-5, -7, 48], (1.0, 0, 0, 0, 0.995, 0.0999)).save_as(paths[4])
        self.refused(paths, "mixed_series")

    def test_missing_slices(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        self.refused(paths[:2] + paths[3:], "missing_slices")

    def test_different_slices_in_one_place(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        slice_dataset(77, [-5, -7, 42]).save_as(tmp_path / "phase.dcm")
        self.refused([*paths, tmp_path / "phase.dcm"], "duplicate_slices")

    @pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
    def test_no_geometry(self, tmp_path: Path, tag: str) -> None:
        paths = write_series(tmp_path)
        dataset = pydicom.dcmread(paths[1])
        delattr(dataset, tag)
        dataset.save_as(paths[1])
        self.refused(paths, "no_geometry")

    def test_pixels_that_are_cut_short(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        dataset = pydicom.dcmread(paths[1])
        dataset.PixelData = dataset.PixelData[:100]
        dataset.save_as(paths[1])
        self.refused(paths, "unreadable")

    def test_bombs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("modeling_medglip.volumes.dicom_slices.MAX_BYTES", 100)
        self.refused(write_series(tmp_path), "too_large")

    def test_missing_packages(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        paths = write_series(tmp_path)
        monkeypatch.setitem(sys.modules, "pydicom", None)
        with pytest.raises(VolumeError, match="needs pydicom: pip install"):
            read_series(paths)


class TestSegmentations:
    def test_segments_lie_on_the_images_grid(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path / "ct")
        write_segmentation(tmp_path / "seg.dcm", paths)
        image = read_series(paths).volume
        (liver, first), (kidney, second) = read_segmentation(tmp_path / "seg.dcm")
        assert (first, second) == ("Liver", "Left kidney")
        placed = on_grid(liver, image)
        assert placed is not None and np.array_equal(placed.array, to_lps(image).array * 0 + MASK)
        other = on_grid(kidney, image)
        assert other is not None and other.array.sum() == 18 and other.array[11:14, 8:11, 2:4].all()

    @pytest.mark.parametrize("empty", [[], [2]])
    def test_of_a_tilted_gantry(self, tmp_path: Path, empty: list[int]) -> None:
        paths = write_series(tmp_path / "ct", step=(0, 0.6, 1.9))
        mask = MASK.copy()
        mask[:, :, empty] = 0
        write_segmentation(tmp_path / "seg.dcm", paths, mask)
        image = read_series(paths).volume
        (liver, _), (kidney, _) = read_segmentation(tmp_path / "seg.dcm")
        placed, other = on_grid(liver, image), on_grid(kidney, image)
        assert placed is not None and np.array_equal(placed.array, mask)
        assert other is not None and other.array.sum() == 18 and other.array[11:14, 8:11, 2:4].all()

    def test_files_that_are_not_segmentations(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        (tmp_path / "a.txt").write_bytes(b"no")
        for path in (paths[0], tmp_path / "a.txt", tmp_path / "missing"):
            with pytest.raises(VolumeError) as error:
                read_segmentation(path)
            assert error.value.rule == "unreadable"


class TestStructures:
    def square(self, low: float, high: float, z: float) -> np.ndarray:
        """A square contour round pixels low..high of both axes, in LPS mm of the series."""
        corners = np.array([[low, low], [high, low], [high, high], [low, high]])
        edge = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
        points = (corners + edge) * [0.7, 0.9] + [-5, -7]
        return np.column_stack([points, np.full(4, z)])

    def test_contours_and_holes(self, tmp_path: Path) -> None:
        image = read_series(write_series(tmp_path / "ct")).volume
        path = tmp_path / "structures.dcm"
        outer, hole, above = self.square(2, 8, 42), self.square(4, 5, 42), self.square(2, 3, 44)
        write_structures(path, {"GTV": [outer, hole, above], "empty": []})
        ((mask, name),) = read_structures(path, image)
        assert name == "GTV" and np.allclose(mask.affine, image.affine)
        assert mask.array[:, :, 1].sum() == 49 - 4 and mask.array[2:9, 2:9, 1].sum() == 45
        assert mask.array[:, :, 2].sum() == 4 and mask.array.sum() == 49

    def test_contours_across_the_slices(self, tmp_path: Path) -> None:
        image = read_series(write_series(tmp_path / "ct")).volume
        upright = self.square(2, 8, 42)[:, [0, 2, 1]]
        write_structures(tmp_path / "structures.dcm", {"GTV": [upright]})
        with pytest.raises(VolumeError) as error:
            read_structures(tmp_path / "structures.dcm", image)
        assert error.value.rule == "affine_mismatch"

    def test_files_that_are_not_structure_sets(self, tmp_path: Path) -> None:
        paths = write_series(tmp_path)
        image = read_series(paths).volume
        with pytest.raises(VolumeError, match="is not a structure set"):
            read_structures(paths[0], image)

    def test_polygons_by_their_centers(self) -> None:
        """Against the plain rule, point by point."""
        random = np.random.default_rng(0)
        for _ in range(20):
            points = random.uniform(-3, 15, (7, 2))
            filled = fill_polygon(points, (12, 10))
            for i in range(12):
                for j in range(10):
                    assert filled[i, j] == _inside(points, i, j), (points, i, j)


def _inside(points: np.ndarray, i: float, j: float) -> bool:
    found = False
    for (i1, j1), (i2, j2) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if (j1 <= j) != (j2 <= j) and i >= i1 + (j - j1) / (j2 - j1) * (i2 - i1):
            found = not found
    return found
