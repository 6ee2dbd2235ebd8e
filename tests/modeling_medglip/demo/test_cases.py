# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The images of the demo, their licenses and their true boxes."""

from __future__ import annotations

import hashlib
import importlib.util
import re

import numpy as np
import pytest

from modeling_medglip.configuration_medglip import MODALITIES
from modeling_medglip.demo import cases as demo_images
from modeling_medglip.demo import phantoms
from modeling_medglip.demo.cases import DemoCase, demo_cases, mni_slice, package_file
from modeling_medglip.errors import MedGlipError


CASES = {case.id: case for case in demo_cases()}


def overlap(first: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union of two xyxy boxes."""
    width = max(0.0, min(first[2], other[2]) - max(first[0], other[0]))
    height = max(0.0, min(first[3], other[3]) - max(first[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, other)]
    return width * height / (sum(areas) - width * height)


def bounds(mask: np.ndarray) -> tuple[float, ...]:
    """The xyxy box around the pixels of a mask."""
    rows, columns = np.where(mask.any(axis=1))[0], np.where(mask.any(axis=0))[0]
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


class TestCases:
    def test_every_modality_is_there_and_ids_are_unique(self) -> None:
        assert {case.modality for case in demo_cases()} == set(MODALITIES)
        assert len(CASES) == len(demo_cases())

    def test_a_phantom_is_named_as_one(self) -> None:
        assert [case.id for case in CASES.values() if case.is_phantom] == ["endoscopy_phantom"]
        for case in CASES.values():
            assert case.is_phantom == ("phantom" in case.id) == ("not a patient" in case.source), case.id

    def test_every_file_has_a_license(self) -> None:
        text = (demo_images.IMAGES / "LICENSES.md").read_text(encoding="utf-8")
        files = {path.name for path in demo_images.IMAGES.iterdir()} - {"LICENSES.md"}
        assert {
            name for line in re.findall(r"^## (`.*)$", text, re.M) for name in re.findall(r"`(.+?)`", line)
        } == files
        sections = [section for section in text.split("\n## ") if section.startswith("`")]
        assert all(f"\n- {item}: " in section for section in sections for item in ("Source", "License"))
        assert sum((demo_images.IMAGES / name).stat().st_size for name in files) < 3e6

    @pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.id)
    def test_images_load_and_hold_their_boxes(self, case: DemoCase) -> None:
        image = case.load()
        assert image.pixels.std() > 1 and min(image.width, image.height) >= 100
        assert image.modality in (None, case.modality)
        for left, top, right, bottom in case.true_boxes.values():
            assert 0 <= left < right <= image.width and 0 <= top < bottom <= image.height

    @pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.id)
    def test_true_boxes_are_of_labels_of_the_prompt(self, case: DemoCase) -> None:
        asked = {label.strip() for label in case.prompt.split(".") if label.strip()}
        assert case.true_boxes and set(case.true_boxes) <= asked

    def test_names_hold_no_folder(self) -> None:
        assert CASES["fundus_retina"].load().file == "retina.jpg"
        assert CASES["mri_brain"].load().file == "mni152_t1.nii.gz"


def tissue(kind: str) -> np.ndarray:
    """The slice of the MNI152 template's mask of a tissue: `"gm"` (gray matter) or `"wm"` (white matter)."""
    path = package_file("nilearn", "datasets", "data", f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
    volume = pytest.importorskip("nibabel").Nifti1Image.from_filename(path)
    return np.rot90(np.asarray(volume.dataobj[..., demo_images.MNI_SLICE]))[:, ::-1].astype(int)


class TestImages:
    def test_the_brain_has_its_front_up(self) -> None:
        # The template's front, above the ventricles, is narrower than its back.
        rows = np.where((mni_slice() > 30).sum(axis=1))[0]
        widths = (mni_slice() > 30).sum(axis=1)
        assert widths[rows[0] + 15] < widths[rows[-1] - 30]

    def test_the_patients_right_is_on_the_left(self) -> None:
        nibabel = pytest.importorskip("nibabel")
        path = package_file("nilearn", "datasets", "data", "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
        assert nibabel.aff2axcodes(nibabel.Nifti1Image.from_filename(path).affine) == ("R", "A", "S")
        volume = np.asarray(nibabel.Nifti1Image.from_filename(path).dataobj[..., demo_images.MNI_SLICE])
        assert np.array_equal(mni_slice()[0, ::-1], volume[:, -1])

    def test_ventricles_lie_where_the_tissue_masks_have_a_hole(self) -> None:
        ndimage = pytest.importorskip("scipy.ndimage")
        image, gray, white = mni_slice().astype(int), tissue("gm"), tissue("wm")
        inside = ndimage.binary_fill_holes(ndimage.binary_closing(image > 30, iterations=2))
        pieces, count = ndimage.label(inside & (gray + white <= 127) & (image < 130))
        sizes = ndimage.sum_labels(np.ones_like(pieces), pieces, range(1, count + 1))
        horns = [bounds(pieces == number) for number in range(1, count + 1) if 120 <= sizes[number - 1] <= 200]
        boxes = CASES["mri_brain"].true_boxes
        middle = 98.5
        for side, name in ((-1, "right lateral ventricle"), (1, "left lateral ventricle")):
            own = np.array([horn for horn in horns if side * ((horn[0] + horn[2]) / 2 - middle) > 8])
            union = (*own[:, :2].min(0), *own[:, 2:].max(0))
            assert len(own) == 2 and overlap(boxes[name], union) > 0.95

    def test_caudates_are_gray_matter(self) -> None:
        ndimage = pytest.importorskip("scipy.ndimage")
        pieces, _ = ndimage.label(ndimage.binary_opening(tissue("gm") > 120))
        for name in ("right caudate", "left caudate"):
            box = CASES["mri_brain"].true_boxes[name]
            center = round((box[1] + box[3]) / 2), round((box[0] + box[2]) / 2)
            assert pieces[center] and overlap(box, bounds(pieces == pieces[center])) > 0.9

    def test_the_disc_is_the_bright_spot(self) -> None:
        ndimage = pytest.importorskip("scipy.ndimage")
        green = CASES["fundus_retina"].load().pixels[::4, ::4, 1].astype(float)
        pieces, _ = ndimage.label(ndimage.gaussian_filter(green, 3) > 140)
        disc = tuple(4 * side for side in bounds(pieces == pieces[162, 54]))
        assert pieces[162, 54] and overlap(CASES["fundus_retina"].true_boxes["optic disc"], disc) > 0.8

    def test_organs_of_the_ct_have_their_hounsfield_units(self) -> None:
        image = CASES["ct_abdomen"].load()
        assert image.spacing_mm == pytest.approx((0.810547, 0.810547)) and image.pixels.min() == -1024
        for name in ("liver", "spleen", "aorta"):
            left, top, right, bottom = (round(side) for side in CASES["ct_abdomen"].true_boxes[name])
            y, x = (top + bottom) // 2, (left + right) // 2
            assert 30 < np.median(image.pixels[y - 8 : y + 8, x - 8 : x + 8]) < 80, name

    def test_the_ct_names_no_patient(self) -> None:
        pydicom = pytest.importorskip("pydicom")
        header = pydicom.dcmread(demo_images.IMAGES / "ct_abdomen.dcm", stop_before_pixels=True)
        assert (header.PatientName, header.PatientID, header.PatientIdentityRemoved) == ("Demo^Abdomen", "demo", "YES")
        assert not [item.keyword for item in header if item.VR in ("DA", "DT", "TM") or item.tag.is_private]

    @pytest.mark.parametrize(("case", "organ"), [("xray_chest", "lung"), ("mri_brain", "thalamus")])
    def test_the_right_of_the_patient_is_on_the_left_of_the_image(self, case: str, organ: str) -> None:
        boxes = CASES[case].true_boxes
        assert boxes[f"right {organ}"][2] < boxes[f"left {organ}"][0]

    def test_the_liver_is_on_the_left_of_the_image(self) -> None:
        assert CASES["ct_abdomen"].true_boxes["liver"][0] < CASES["ct_abdomen"].true_boxes["spleen"][0]

    def test_the_stored_chest_phantom(self) -> None:
        pixels = phantoms.chest_radiograph().pixels
        assert (pixels.shape, pixels.dtype) == ((512, 512), np.uint8)
        assert hashlib.sha256(pixels.tobytes()).hexdigest().startswith("a990573f351b4641")

    def test_missing_packages_name_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(MedGlipError, match="does not ship absent.png"):
            package_file("numpy", "absent.png")
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        for case in (CASES["fundus_retina"], CASES["mri_brain"]):
            with pytest.raises(MedGlipError, match=r'pip install "\.\[demo\]" in a clone'):
                case.load()
