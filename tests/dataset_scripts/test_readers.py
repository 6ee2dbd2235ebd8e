# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The readers: good folders, and every way in which a folder is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from dataset_scripts.readers import READERS, make_reader
from dataset_scripts.readers.base import read_pixels, stem_of
from dataset_scripts.recipe import Recipe
from dataset_scripts.records import AnnotatedImage, LabeledVolume, Rejected, inside
from modeling_medglip.volumes.geometry import to_lps
from modeling_medglip.volumes.header import UNORIENTED


def save(path: Path, array: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)


def save_volume(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def reader(raw: Path, layout: str, files: dict[str, Any], **fields: Any):  # type: ignore[no-untyped-def]
    return make_reader(Recipe("mine", "endoscopy", layout, files=files, **fields), raw)


def read_all(raw: Path, layout: str, files: dict[str, Any], **fields: Any) -> tuple[list[Any], list[str]]:
    """What comes out (or the rule that turned it away), and the rules of the listing."""
    source = reader(raw, layout, files, **fields)
    found: list[Any] = []
    for case in source.cases():
        try:
            found.append(source.read(case))
        except Rejected as error:
            found.append(error.rule)
    return found, [issue.rule for issue in source.rejections]


GREY = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
MASK = np.zeros((20, 30), np.uint8)
MASK[3:8, 4:12] = 1


class TestMaskFolder:
    FILES = {"image": "images/*.png", "mask": "masks/{stem}.png", "label": "polyp"}

    @pytest.mark.parametrize("mode", ["L", "1", "P", "RGB"])
    def test_binary_masks_of_every_kind(self, tmp_path: Path, mode: str) -> None:
        save(tmp_path / "images" / "a.png", GREY)
        save(tmp_path / "masks" / "a.png", MASK * 255, mode)
        (image,), rejections = read_all(tmp_path, "mask_folder", self.FILES)
        assert isinstance(image, AnnotatedImage) and not rejections
        assert np.array_equal(image.pixels, GREY)
        (annotation,) = image.annotations
        assert (
            annotation.label == "polyp" and annotation.mask is not None and np.array_equal(annotation.mask, MASK == 1)
        )
        assert annotation.mask.dtype == np.bool_ and set(np.unique(annotation.mask.view(np.uint8))) == {0, 1}

    def test_label_maps_and_values_without_a_name(self, tmp_path: Path) -> None:
        save(tmp_path / "images" / "a.png", GREY)
        save(tmp_path / "masks" / "a.png", MASK * 3)
        (image,), _ = read_all(tmp_path, "mask_folder", self.FILES, values={3: "disc"})
        assert [annotation.label for annotation in image.annotations] == ["disc"]
        (image,), _ = read_all(tmp_path, "mask_folder", self.FILES, values={4: "disc"})
        assert [annotation.label for annotation in image.annotations] == ["value 3"]

    def test_a_mask_file_for_each_label(self, tmp_path: Path) -> None:
        save(tmp_path / "images" / "a.png", GREY)
        save(tmp_path / "disc" / "a.png", MASK)
        save(tmp_path / "cup" / "a_1.png", MASK)
        save(tmp_path / "cup" / "a_2.png", MASK[::-1])
        files = {"image": "images/*.png", "mask": {"disc": "disc/{stem}.png", "cup": "cup/{stem}_*.png"}}
        (image,), _ = read_all(tmp_path, "mask_folder", files)
        assert [annotation.label for annotation in image.annotations] == ["disc", "cup", "cup"]

    @pytest.mark.parametrize("key", ["colors", "colours"])
    def test_colors_are_labels(self, tmp_path: Path, key: str) -> None:
        colors = np.zeros((20, 30, 3), np.uint8)
        colors[2:4, 2:4], colors[9:12, 9:12], colors[15, 15] = (255, 0, 0), (0, 255, 0), (1, 2, 3)
        save(tmp_path / "images" / "a.png", GREY)
        save(tmp_path / "masks" / "a.png", colors)
        files = {**self.FILES, key: {"255,0,0": "disc", "0,255,0": "cup"}}
        (image,), _ = read_all(tmp_path, "mask_folder", files)
        assert [(annotation.label, int(annotation.mask.sum())) for annotation in image.annotations] == [
            ("disc", 4), ("cup", 9), ("other colours", 1),
        ]  # fmt: skip

    def test_colours_of_a_palette(self, tmp_path: Path) -> None:
        save(tmp_path / "images" / "a.png", GREY)
        image = Image.fromarray(MASK)
        image.putpalette([0, 0, 0, 255, 0, 0])
        (tmp_path / "masks").mkdir()
        image.save(tmp_path / "masks" / "a.png")
        files = {**self.FILES, "colours": {"255,0,0": "polyp"}}
        (image,), _ = read_all(tmp_path, "mask_folder", files)
        assert [annotation.label for annotation in image.annotations] == ["polyp"]
        assert np.array_equal(image.annotations[0].mask, MASK == 1)

    def test_a_label_map_in_color_has_no_values(self, tmp_path: Path) -> None:
        save(tmp_path / "images" / "a.png", GREY)
        save(tmp_path / "masks" / "a.png", np.dstack([MASK, MASK * 2, MASK * 0]))
        files = {"image": "images/*.png", "mask": "masks/{stem}.png"}
        assert read_all(tmp_path, "mask_folder", files, values={1: "polyp"})[0] == ["undefined_label"]
        save(tmp_path / "masks" / "a.png", np.dstack([MASK] * 3))
        (image,), _ = read_all(tmp_path, "mask_folder", files, values={1: "polyp"})
        assert [annotation.label for annotation in image.annotations] == ["polyp"]

    def test_unmatched_files(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            save(tmp_path / "images" / f"{name}.png", GREY)
        for name in ("a", "c"):
            save(tmp_path / "masks" / f"{name}.png", MASK)
        found, rejections = read_all(tmp_path, "mask_folder", self.FILES)
        assert len(found) == 1 and sorted(rejections) == ["no_image", "no_mask"]

    def test_wrong_sizes_and_damaged_files(self, tmp_path: Path) -> None:
        for name in ("a", "b", "c"):
            save(tmp_path / "images" / f"{name}.png", GREY)
            save(tmp_path / "masks" / f"{name}.png", MASK)
        save(tmp_path / "masks" / "a.png", MASK[:-1])
        (tmp_path / "images" / "b.png").write_bytes(b"nothing")
        content = (tmp_path / "masks" / "c.png").read_bytes()
        (tmp_path / "masks" / "c.png").write_bytes(content[: len(content) // 2])
        found, _ = read_all(tmp_path, "mask_folder", self.FILES)
        assert found == ["size_mismatch", "unreadable", "unreadable"]

    def test_stars_in_names_are_taken_literally(self, tmp_path: Path) -> None:
        save(tmp_path / "images" / "a[1].png", GREY)
        save(tmp_path / "masks" / "a[1].png", MASK)
        assert len(read_all(tmp_path, "mask_folder", self.FILES)[0]) == 1

    def test_links_out_of_the_folder(self, tmp_path: Path) -> None:
        save(tmp_path / "elsewhere.png", GREY)
        (tmp_path / "raw" / "images").mkdir(parents=True)
        (tmp_path / "raw" / "images" / "a.png").symlink_to(tmp_path / "elsewhere.png")
        assert read_all(tmp_path / "raw", "mask_folder", self.FILES) == ([], ["leaves_folder"] * 2)


class TestManifest:
    def manifest(self, folder: Path, *entries: dict[str, Any]) -> tuple[list[Any], list[str]]:
        save(folder / "a.png", GREY)
        save(folder / "m.png", MASK * 255)
        save(folder / "map.png", MASK * 9)
        (folder / "list.json").write_text(json.dumps({"images": entries}), encoding="utf-8")
        return read_all(folder, "manifest", {"manifest": "list.json"})

    def test_masks_values_and_boxes(self, tmp_path: Path) -> None:
        objects = [
            {"label": "x", "mask": "m.png"},
            {"label": "y", "labelmap_value": 9},
            {"label": "z", "bbox_xywh": [1, 2, 3, 4]},
        ]
        entry = {"image": "a.png", "split": "train", "labelmap": "map.png", "objects": objects}
        (image,), _ = self.manifest(tmp_path, entry)
        assert [annotation.label for annotation in image.annotations] == ["x", "y", "z"]
        assert np.array_equal(image.annotations[0].mask, MASK == 1) and np.array_equal(
            image.annotations[1].mask, MASK == 1
        )
        assert image.annotations[2].mask is None and image.annotations[2].box == (1, 2, 4, 6)

    @pytest.mark.parametrize(
        ("entry", "rule"),
        [
            ({"image": "b.png", "objects": []}, "missing_file"),
            ({"image": "../a.png", "objects": []}, "leaves_folder"),
            ({"image": "/etc/passwd", "objects": []}, "leaves_folder"),
            ({"image": "a.png"}, "bad_annotations"),
            ({"image": "a.png", "objects": [{"mask": "m.png"}]}, "bad_annotations"),
            ({"image": "a.png", "objects": [{"label": "x", "mask": "../m.png"}]}, "leaves_folder"),
            ({"image": "a.png", "objects": [{"label": "x", "bbox_xywh": [1, 2]}]}, "bad_annotations"),
        ],
    )
    def test_bad_entries(self, tmp_path: Path, entry: dict[str, Any], rule: str) -> None:
        assert self.manifest(tmp_path, entry)[0] == [rule]

    def test_one_bad_entry_leaves_the_others(self, tmp_path: Path) -> None:
        found, rejections = self.manifest(tmp_path, {"objects": []}, {"image": "a.png", "objects": []})
        assert len(found) == 1 and rejections == ["bad_annotations"]

    def test_images_that_are_listed_twice(self, tmp_path: Path) -> None:
        found, rejections = self.manifest(tmp_path, *[{"image": "a.png", "objects": []}] * 2)
        assert len(found) == 1 and rejections == ["duplicate_id"]

    @pytest.mark.parametrize("name", [3, 1.5, ["m.png"], {"a": 1}, None])
    def test_names_that_are_not_text(self, tmp_path: Path, name: Any) -> None:
        assert self.manifest(tmp_path, {"image": "a.png", "labelmap": name, "objects": []})[0] == ["bad_annotations"]
        masked = {"image": "a.png", "objects": [{"label": "polyp", "mask": name}]}
        assert self.manifest(tmp_path, masked)[0] == ["bad_annotations"]

    def test_objects_of_a_second_entry_are_in_the_picture(self, tmp_path: Path) -> None:
        box = {"label": "polyp", "bbox_xywh": [1, 1, 5, 5]}
        (image,), rejections = self.manifest(
            tmp_path, {"image": "a.png", "objects": []}, {"image": "a.png", "objects": [box]}
        )
        assert [annotation.label for annotation in image.annotations] == ["polyp"] and rejections == ["duplicate_id"]

    def test_a_listed_object_with_an_empty_mask(self, tmp_path: Path) -> None:
        save(tmp_path / "none.png", MASK * 0)
        (image,), _ = self.manifest(tmp_path, {"image": "a.png", "objects": [{"label": "polyp", "mask": "none.png"}]})
        assert image.annotations[0].mask is None and image.annotations[0].issue is not None

    @pytest.mark.parametrize("text", ["{", "[]", '{"images": 3}'])
    def test_what_is_no_manifest(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "list.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="mine: list.json is not a valid manifest"):
            read_all(tmp_path, "manifest", {"manifest": "list.json"})


class TestVolumes:
    FILES = {"image": "*_ct.nii.gz", "labelmap": "{stem}_seg.nii.gz"}
    ARRAY = np.random.default_rng(0).integers(-100, 100, (6, 7, 8)).astype(np.int16)

    def labelmap(self, raw: Path, labels: np.ndarray, affine: np.ndarray | None = None) -> Any:
        save_volume(raw / "p1_ct.nii.gz", self.ARRAY)
        save_volume(raw / "p1_seg.nii.gz", labels, affine)
        (found,), rejections = read_all(raw, "volume_labelmap", self.FILES, values={1: "liver"})
        assert not rejections
        return found

    def test_label_maps(self, tmp_path: Path) -> None:
        labels = (self.ARRAY > 50).astype(np.uint8)
        found = self.labelmap(tmp_path, labels)
        assert isinstance(found, LabeledVolume) and np.array_equal(found.volume.array, self.ARRAY)
        ((labelmap, names),) = found.labelmaps
        assert np.array_equal(labelmap.array, to_lps(found.volume).array > 50) and names == {1: "liver"}

    def test_whole_numbers_stored_as_floats(self, tmp_path: Path) -> None:
        found = self.labelmap(tmp_path, (self.ARRAY > 50).astype(np.float64))
        assert found.labelmaps[0][0].array.dtype == np.int16

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

    def test_what_the_header_leaves_out_is_told_without_its_words(self, tmp_path: Path) -> None:
        header = "NRRD0004\ntype: uchar\ndimension: 3\nspace dimension: 3\nsizes: 2 2 2\nencoding: raw\n"
        header += 'space directions: (1,0,0) (0,1,0) (0,0,1)\nspace units: "Doe" "Doe" "Doe"\n\n'
        for name in ("a_ct", "a_seg"):
            (tmp_path / f"{name}.nrrd").write_bytes(header.encode() + bytes([0, 1] * 4))
        files = {"image": "*_ct.nrrd", "labelmap": "{stem}_seg.nrrd"}
        (found,), _ = read_all(tmp_path, "volume_labelmap", files, values={1: "liver"})
        unit = ("incomplete_header", "its header counts in an unknown unit")
        assert found.notes == (("incomplete_header", UNORIENTED), unit)
        (found,), _ = read_all(tmp_path, "volume_labelmap", files, values={1: "liver"}, axcodes="LPS")
        assert found.notes == (unit,)

    def test_names_in_a_file(self, tmp_path: Path) -> None:
        save_volume(tmp_path / "p1_ct.nii.gz", self.ARRAY)
        save_volume(tmp_path / "p1_seg.nii.gz", np.ones(self.ARRAY.shape, np.uint8))
        (tmp_path / "names.json").write_text('{"1": "liver", "2": "spleen"}', encoding="utf-8")
        (found,), _ = read_all(tmp_path, "volume_labelmap", {**self.FILES, "values": "names.json"}, values={2: "milt"})
        assert found.labelmaps[0][1] == {1: "liver", 2: "milt"}

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
        (found,), _ = read_all(tmp_path, "volume_masks", files)
        assert [names for _, names in found.labelmaps] == [{1: "liver"}, {1: "spleen"}]
        (tmp_path / "p2").mkdir()
        save_volume(tmp_path / "p2" / "ct.nii.gz", self.ARRAY)
        assert read_all(tmp_path, "volume_masks", files)[1] == ["no_mask"]

    def test_axes_by_decree(self, tmp_path: Path) -> None:
        save_volume(tmp_path / "p1_ct.nii.gz", self.ARRAY, np.diag([2.0, 3, 4, 1]))
        save_volume(tmp_path / "p1_seg.nii.gz", self.ARRAY)
        (found,), _ = read_all(tmp_path, "volume_labelmap", self.FILES, axcodes="LIA")
        assert found == "affine_mismatch"  # spacings differ

    def test_axes_by_decree_keep_the_origin(self, tmp_path: Path) -> None:
        """The header of NIfTI is RAS mm, so that its origin (-5, 6, 7) is at LPS (5, -6, 7)."""
        affine = np.diag([2.0, 3, 4, 1])
        affine[:3, 3] = -5, 6, 7
        for name in ("ct", "seg"):
            save_volume(tmp_path / f"p1_{name}.nii.gz", self.ARRAY, affine)
        (found,), _ = read_all(tmp_path, "volume_labelmap", self.FILES, axcodes="LIA")
        assert found.volume.affine.tolist() == [[2, 0, 0, 5], [0, 0, -4, -6], [0, -3, 0, 7], [0, 0, 0, 1]]
        assert found.labelmaps[0][0].affine.tolist() == to_lps(found.volume).affine.tolist()
        case = reader(tmp_path, "volume_labelmap", self.FILES, axcodes="LRA").cases()[0]
        with pytest.raises(ValueError, match="one of each pair"):
            reader(tmp_path, "volume_labelmap", self.FILES, axcodes="LRA").read(case)


def test_patients_and_splits(tmp_path: Path) -> None:
    for name in ("p1_a", "p1_b", "p2_a"):
        save(tmp_path / "images" / f"{name}.png", GREY)
        save(tmp_path / "masks" / f"{name}.png", MASK)
    fields = {"patient": r"/(p\d)_", "splits": {"test": ["p2*"], "train": ["images/p1_a*"]}}
    cases = reader(tmp_path, "mask_folder", TestMaskFolder.FILES, **fields).cases()
    assert [(case.key, case.patient, case.split) for case in cases] == [
        ("images/p1_a.png", "p1", "train"), ("images/p1_b.png", "p1", None), ("images/p2_a.png", "p2", "test"),
    ]  # fmt: skip


def test_wrong_recipes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose one of coco, csv_boxes, dicom_series"):
        reader(tmp_path, "nonsense", {})
    with pytest.raises(ValueError, match="there is no folder 'gone'"):
        reader(tmp_path, "manifest", {"manifest": "a"}, root="gone")
    for layout, kind in READERS.items():
        with pytest.raises(ValueError, match=f"layout {layout} needs files: {kind.needs[0]}"):
            reader(tmp_path, layout, {})


def test_pixels_keep_their_depth(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 200
    save(tmp_path / "deep.png", deep)
    save(tmp_path / "clear.png", np.dstack([GREY] * 4))
    assert np.array_equal(read_pixels(tmp_path / "deep.png"), deep)
    assert read_pixels(tmp_path / "clear.png").shape == (20, 30, 3)
    for array, rule in (
        (np.array([[np.nan, 1]], np.float32), "not_finite"),
        (np.array([[-1, 1]], np.int32), "unreadable"),
    ):
        save(tmp_path / "odd.tif", array)
        with pytest.raises(Rejected) as error:
            read_pixels(tmp_path / "odd.tif")
        assert error.value.rule == rule


def test_picture_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "big.png", GREY)
    monkeypatch.setattr("modeling_medglip.io.image_record.MAX_PIXELS", 599)
    with pytest.raises(Rejected) as error:
        read_pixels(tmp_path / "big.png")
    assert error.value.rule == "too_large" and "600 pixels (30x20)" in error.value.value


def test_stems() -> None:
    assert stem_of(Path("x/a_image.nii.gz"), "*/*_image.nii.gz") == "a"
    assert stem_of(Path("x/ct.nii.gz"), "*/ct.nii.gz") == ""
    assert stem_of(Path("x/other.png"), "*.jpg") == "other"
    assert stem_of(Path("x/amos_0507.nii.gz"), "images*/amos_0[5-6]*.nii.gz") == "507"
    assert stem_of(Path("a[1].png"), "a[[]?].png") == "[1"
    assert stem_of(Path("b7.png"), "[!a]*.png") == "b7" and stem_of(Path("a7.png"), "[!a]*.png") == "a7"


@pytest.mark.parametrize("name", ["..", "a/../../b", "/etc/passwd", "a\\b", "a\0b"])
def test_names_that_climb(tmp_path: Path, name: str) -> None:
    with pytest.raises(Rejected) as error:
        inside(tmp_path, name)
    assert error.value.rule == "leaves_folder"
