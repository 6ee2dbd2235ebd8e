# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The demo's pictures and phantoms, and the boxes that are taken for true."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import pytest

from modeling_medglip.configuration_medglip import MODALITIES
from modeling_medglip.demo import cases as demo_images
from modeling_medglip.demo import phantom_tools, phantoms
from modeling_medglip.demo.cases import DemoCase, demo_cases, mni_slice, package_file
from modeling_medglip.errors import MedGlipError


CASES = {case.id: case for case in demo_cases()}
NOTHING_TO_FIND = {"ultrasound_node"}
PHANTOM_DRAWINGS = [
    phantoms.abdominal_ct,
    phantoms.chest_radiograph,
    phantoms.dermoscopy_lesion,
    phantoms.endoscopy_polyp,
    phantoms.fetal_head,
]


def overlap(first: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union of two xyxy boxes."""
    width = max(0.0, min(first[2], other[2]) - max(first[0], other[0]))
    height = max(0.0, min(first[3], other[3]) - max(first[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, other)]
    return width * height / (sum(areas) - width * height)


def bounds(mask: np.ndarray) -> tuple[float, ...]:
    return phantom_tools.bounds(mask.astype(np.float32))


class TestCases:
    def test_every_modality_is_there_and_ids_are_unique(self) -> None:
        assert {case.modality for case in demo_cases()} == set(MODALITIES)
        assert len(CASES) == len(demo_cases())

    def test_phantoms_say_so(self) -> None:
        for case in CASES.values():
            assert case.is_phantom == ("phantom" in case.id) == ("not a patient" in case.source), case.id

    @pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.id)
    def test_pictures_load_and_hold_their_boxes(self, case: DemoCase) -> None:
        image = case.load()
        assert image.pixels.std() > 1 and min(image.width, image.height) >= 100
        assert image.modality in (None, case.modality)
        boxes = case.true_boxes()
        assert bool(boxes) == (case.id not in NOTHING_TO_FIND)
        for left, top, right, bottom in boxes.values():
            assert 0 <= left < right <= image.width and 0 <= top < bottom <= image.height

    @pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.id)
    def test_what_is_asked_has_a_true_box(self, case: DemoCase) -> None:
        asked = {label.strip() for label in case.prompt.split(".") if label.strip()}
        assert bool(asked & set(case.true_boxes())) == (case.id not in NOTHING_TO_FIND)

    def test_names_hold_no_folder(self) -> None:
        assert CASES["fundus_retina"].load().file == "retina.jpg"
        assert CASES["mri_brain"].load().file == "mni152_t1.nii.gz"


class TestRealPictures:
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
        picture, grey, white = (mni_slice(tissue).astype(int) for tissue in ("t1", "gm", "wm"))
        inside = ndimage.binary_fill_holes(ndimage.binary_closing(picture > 30, iterations=2))
        pieces, count = ndimage.label(inside & (grey + white <= 127) & (picture < 130))
        sizes = ndimage.sum_labels(np.ones_like(pieces), pieces, range(1, count + 1))
        horns = [bounds(pieces == number) for number in range(1, count + 1) if 120 <= sizes[number - 1] <= 200]
        boxes = CASES["mri_brain"].true_boxes()
        middle = 98.5
        for side, name in ((-1, "right lateral ventricle"), (1, "left lateral ventricle")):
            own = np.array([horn for horn in horns if side * ((horn[0] + horn[2]) / 2 - middle) > 8])
            union = (*own[:, :2].min(0), *own[:, 2:].max(0))
            assert len(own) == 2 and overlap(boxes[name], union) > 0.95

    def test_caudates_are_grey_matter(self) -> None:
        ndimage = pytest.importorskip("scipy.ndimage")
        pieces, _ = ndimage.label(ndimage.binary_opening(mni_slice("gm") > 120))
        for name in ("right caudate", "left caudate"):
            box = CASES["mri_brain"].true_boxes()[name]
            centre = round((box[1] + box[3]) / 2), round((box[0] + box[2]) / 2)
            assert pieces[centre] and overlap(box, bounds(pieces == pieces[centre])) > 0.9

    def test_the_disc_is_the_bright_spot(self) -> None:
        ndimage = pytest.importorskip("scipy.ndimage")
        green = CASES["fundus_retina"].load().pixels[::4, ::4, 1].astype(float)
        pieces, _ = ndimage.label(ndimage.gaussian_filter(green, 3) > 140)
        disc = tuple(4 * side for side in bounds(pieces == pieces[162, 54]))
        assert pieces[162, 54] and overlap(CASES["fundus_retina"].true_boxes()["optic disc"], disc) > 0.8

    def test_the_aorta_is_full_of_contrast_agent_and_the_lungs_of_air(self) -> None:
        hounsfield = CASES["ct_chest"].load().pixels
        for name, low, high in (("aorta", 100, 300), ("right lung", -1000, -600), ("left lung", -1000, -600)):
            left, top, right, bottom = (round(side) for side in CASES["ct_chest"].true_boxes()[name])
            assert low < np.median(hounsfield[top:bottom, left:right]) < high, name

    def test_missing_packages_name_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(MedGlipError, match="does not ship absent.png"):
            package_file("numpy", "absent.png")
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        for case in (CASES["fundus_retina"], CASES["mri_brain"], CASES["ct_chest"]):
            with pytest.raises(MedGlipError, match=r'pip install "\.\[demo\]" in a clone'):
                case.load()


class TestPhantoms:
    @pytest.mark.parametrize("draw", PHANTOM_DRAWINGS, ids=lambda draw: draw.__name__)
    def test_same_every_time(self, draw: Callable[[], phantoms.Phantom]) -> None:
        first, second = draw(), draw()
        assert np.array_equal(first.pixels, second.pixels) and first.boxes == second.boxes

    def test_ct_is_in_hounsfield_units(self) -> None:
        image, boxes = phantoms.abdominal_ct().pixels, phantoms.abdominal_ct().boxes
        assert image.dtype == np.int16 and image.min() < -900 and image.max() > 300
        left, top, right, bottom = (round(side) for side in boxes["aorta"])
        assert 160 < np.median(image[top + 8 : bottom - 8, left + 8 : right - 8]) < 210

    @pytest.mark.parametrize("draw", [phantoms.abdominal_ct, phantoms.chest_radiograph])
    def test_the_patients_right_is_on_the_left_of_the_picture(self, draw: Callable[[], phantoms.Phantom]) -> None:
        boxes = draw().boxes
        organ = "lung" if "left lung" in boxes else "kidney"
        assert boxes[f"right {organ}"][2] < boxes[f"left {organ}"][0]
        if "liver" in boxes:
            assert boxes["liver"][2] < boxes["spleen"][0]

    def test_lungs_are_dark_and_the_heart_is_bright(self) -> None:
        phantom = phantoms.chest_radiograph()

        def middle(name: str) -> float:
            left, top, right, bottom = phantom.boxes[name]
            y, x = round((top + bottom) / 2), round((left + right) / 2)
            return float(phantom.pixels[y - 15 : y + 15, x - 15 : x + 15].mean())

        assert max(middle("left lung"), middle("right lung")) + 40 < middle("cardiomediastinum")

    def test_lesion_and_polyp_stand_out(self) -> None:
        for phantom, name in ((phantoms.dermoscopy_lesion(), "skin lesion"), (phantoms.endoscopy_polyp(), "polyp")):
            left, top, right, bottom = (round(side) for side in phantom.boxes[name])
            height, width = bottom - top, right - left
            inner = phantom.pixels[top + height // 4 : bottom - height // 4, left + width // 4 : right - width // 4]
            beside = phantom.pixels[top:bottom, right + 10 : right + 40]
            assert np.abs(inner.mean((0, 1)) - beside.mean((0, 1))).max() > 15

    def test_the_skull_is_a_bright_ring(self) -> None:
        phantom = phantoms.fetal_head()
        left, top, right, bottom = phantom.boxes["fetal head"]
        column = phantom.pixels[:, round((left + right) / 2) - 8 : round((left + right) / 2) + 8].mean(1)
        assert column[round(top) : round(top) + 25].max() > 2.5 * column[round((top + bottom) / 2) + 20]


class TestTools:
    def test_blur_keeps_the_mean(self) -> None:
        layer = np.zeros((40, 40))
        layer[20, 20] = 1
        soft = phantom_tools.blur(layer, 2)
        assert soft.sum() == pytest.approx(1) and soft.max() == soft[20, 20] < 0.1
        assert phantom_tools.blur(layer, 0) is layer

    def test_noise_is_standardised_and_smooth(self) -> None:
        noise = phantom_tools.noise(np.random.default_rng(0), (64, 96), 8)
        assert noise.shape == (64, 96) and abs(noise.mean()) < 1e-5 and noise.std() == pytest.approx(1, abs=1e-4)
        assert np.abs(np.diff(noise, axis=1)).mean() < 0.5

    def test_a_filled_curve_passes_its_points(self) -> None:
        square = phantom_tools.spline([(10, 10), (30, 10), (30, 30), (10, 30)])
        mask = phantom_tools.filled((40, 40), square)
        assert mask[20, 20] == 1 and mask[2, 2] == 0
        assert overlap(phantom_tools.bounds(mask), (8, 8, 33, 33)) > 0.85

    def test_strokes_have_their_width(self) -> None:
        line = phantom_tools.stroke((30, 30), [(0, 15), (29, 15)], 5, 0)
        assert line[:, 10].sum() == 5
        both = phantom_tools.strokes((30, 30), [[(0, 5), (29, 5)], [(0, 25), (29, 25)]], 1, 0)
        assert both[:, 10].sum() == 2

    def test_bytes_are_clipped(self) -> None:
        assert phantom_tools.to_bytes(np.array([-3.0, 1.6, 300.0])).tolist() == [0, 2, 255]
        y, x = phantom_tools.grid((2, 3))
        assert y.shape == (2, 3) and x[0].tolist() == [0, 1, 2]
