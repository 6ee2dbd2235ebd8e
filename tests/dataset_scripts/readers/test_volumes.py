# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Layouts `volume_labelmap` and `volume_masks`: good folders, and every way in which a folder is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_scripts.records import LabeledVolume
from modeling_medglip.volumes.geometry import to_lps
from modeling_medglip.volumes.header import UNORIENTED

from .reading import read_all, reader, save_volume


class TestVolumes:
    FILES = {"image": "*_ct.nii.gz", "labelmap": "{stem}_seg.nii.gz"}
    ARRAY = np.random.default_rng(0).integers(-100, 100, (6, 7, 8)).astype(np.int16)

    def labelmap(self, raw: Path, labels: np.ndarray, affine: np.ndarray | None = None) -> Any:
        save_volume(raw / "p1_ct.nii.gz", self.ARRAY)
        save_volume(raw / "p1_seg.nii.gz", labels, affine)
        (result,), rejections = read_all(raw, "volume_labelmap", self.FILES, values={1: "liver"})
        assert not rejections
        return result

    def test_label_maps(self, tmp_path: Path) -> None:
        labels = (self.ARRAY > 50).astype(np.uint8)
        result = self.labelmap(tmp_path, labels)
        assert isinstance(result, LabeledVolume) and np.array_equal(result.volume.array, self.ARRAY)
        ((labelmap, names),) = result.labelmaps
        assert np.array_equal(labelmap.array, to_lps(result.volume).array > 50) and names == {1: "liver"}

    def test_whole_numbers_stored_as_floats(self, tmp_path: Path) -> None:
        result = self.labelmap(tmp_path, (self.ARRAY > 50).astype(np.float64))
        assert result.labelmaps[0][0].array.dtype == np.int16

    def test_what_does_not_fit(self, tmp_path: Path) -> None:
        labels = (self.ARRAY > 50).astype(np.uint8)
        moved = np.eye(4)
        moved[0, 3] = 3
        assert self.labelmap(tmp_path, labels[:-1]) == "size_mismatch"
        assert self.labelmap(tmp_path, labels, moved) == "affine_mismatch"
        assert self.labelmap(tmp_path, labels * 0.5) == "undefined_label"
        assert self.labelmap(tmp_path, np.where(labels, np.nan, 0.0)) == "not_finite"
        moved[0, 3] = 0.05
        assert isinstance(self.labelmap(tmp_path, labels, moved), LabeledVolume)

    def test_what_the_header_leaves_out_is_reported_without_its_words(self, tmp_path: Path) -> None:
        header = "NRRD0004\ntype: uchar\ndimension: 3\nspace dimension: 3\nsizes: 2 2 2\nencoding: raw\n"
        header += 'space directions: (1,0,0) (0,1,0) (0,0,1)\nspace units: "Doe" "Doe" "Doe"\n\n'
        for name in ("a_ct", "a_seg"):
            (tmp_path / f"{name}.nrrd").write_bytes(header.encode() + bytes([0, 1] * 4))
        files = {"image": "*_ct.nrrd", "labelmap": "{stem}_seg.nrrd"}
        (result,), _ = read_all(tmp_path, "volume_labelmap", files, values={1: "liver"})
        unit = ("incomplete_header", "its header counts in an unknown unit")
        assert result.notes == (("incomplete_header", UNORIENTED), unit)
        (result,), _ = read_all(tmp_path, "volume_labelmap", files, values={1: "liver"}, axcodes="LPS")
        assert result.notes == (unit,)

    def test_names_in_a_file(self, tmp_path: Path) -> None:
        save_volume(tmp_path / "p1_ct.nii.gz", self.ARRAY)
        save_volume(tmp_path / "p1_seg.nii.gz", np.ones(self.ARRAY.shape, np.uint8))
        (tmp_path / "names.json").write_text('{"1": "liver", "2": "spleen"}', encoding="utf-8")
        (result,), _ = read_all(
            tmp_path, "volume_labelmap", {**self.FILES, "values": "names.json"}, values={2: "milt"}
        )
        assert result.labelmaps[0][1] == {1: "liver", 2: "milt"}

    def test_unmatched_files(self, tmp_path: Path) -> None:
        save_volume(tmp_path / "p1_ct.nii.gz", self.ARRAY)
        save_volume(tmp_path / "p2_seg.nii.gz", self.ARRAY)
        assert read_all(tmp_path, "volume_labelmap", self.FILES) == ([], ["no_mask", "no_image"])
        assert read_all(tmp_path, "volume_labelmap", {**self.FILES, "orphans": "ignore"})[1] == ["no_mask"]

    def test_a_mask_file_for_each_label(self, tmp_path: Path) -> None:
        for name, low in (("liver", 0), ("spleen", 50), ("colon", 500)):
            save_volume(tmp_path / "p1" / "segmentations" / f"{name}.nii.gz", (low < self.ARRAY).astype(np.uint8))
        save_volume(tmp_path / "p1" / "ct.nii.gz", self.ARRAY)
        files = {"image": "*/ct.nii.gz", "mask": "{folder}/segmentations/*.nii.gz"}
        (result,), _ = read_all(tmp_path, "volume_masks", files)
        assert [names for _, names in result.labelmaps] == [{1: "liver"}, {1: "spleen"}]
        (tmp_path / "p2").mkdir()
        save_volume(tmp_path / "p2" / "ct.nii.gz", self.ARRAY)
        assert read_all(tmp_path, "volume_masks", files)[1] == ["no_mask"]

    def test_axes_by_decree(self, tmp_path: Path) -> None:
        save_volume(tmp_path / "p1_ct.nii.gz", self.ARRAY, np.diag([2.0, 3, 4, 1]))
        save_volume(tmp_path / "p1_seg.nii.gz", self.ARRAY)
        (result,), _ = read_all(tmp_path, "volume_labelmap", self.FILES, axcodes="LIA")
        assert result == "affine_mismatch"  # spacings differ

    def test_axes_by_decree_keep_the_origin(self, tmp_path: Path) -> None:
        """The header of NIfTI is RAS mm, so that its origin (-5, 6, 7) is at LPS (5, -6, 7)."""
        affine = np.diag([2.0, 3, 4, 1])
        affine[:3, 3] = -5, 6, 7
        for name in ("ct", "seg"):
            save_volume(tmp_path / f"p1_{name}.nii.gz", self.ARRAY, affine)
        (result,), _ = read_all(tmp_path, "volume_labelmap", self.FILES, axcodes="LIA")
        assert result.volume.affine.tolist() == [[2, 0, 0, 5], [0, 0, -4, -6], [0, -3, 0, 7], [0, 0, 0, 1]]
        assert result.labelmaps[0][0].affine.tolist() == to_lps(result.volume).affine.tolist()
        case = reader(tmp_path, "volume_labelmap", self.FILES, axcodes="LRA").cases()[0]
        with pytest.raises(ValueError, match="one of each pair"):
            reader(tmp_path, "volume_labelmap", self.FILES, axcodes="LRA").read(case)
