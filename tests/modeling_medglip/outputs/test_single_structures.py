# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""One box for a structure that a patient has one of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from modeling_medglip.outputs.results import GroundedBox, GroundingResult, ImageInfo
from modeling_medglip.outputs.single_structures import best_in_image, best_in_volume, single_labels
from modeling_medglip.outputs.volume_results import VolumeBox, VolumeInfo, VolumeResult
from modeling_medglip.taxonomy import load_taxonomy


TAXONOMY = load_taxonomy()


def test_every_label_of_the_198_is_single_unless_it_is_a_pair_or_no_organ() -> None:
    several = {label.id for label in TAXONOMY.labels.values() if not label.single}
    findings = {label.id for label in TAXONOMY.labels.values() if label.granularity in ("lesion", "other")}
    assert several == findings | {"lung", "kidney", "adrenal_gland", "testis"}
    assert len(TAXONOMY.labels) == 198 and len(several) == 27


def test_extensions_that_are_single() -> None:
    single = {label.id for label in TAXONOMY.extensions.values() if label.single}
    assert {"spine", "uterus", "cardiomediastinum", "superior_vena_cava", "vertebra_S1"} <= single
    vessels_and_devices = {"blood_vessel", "retinal_vessel", "pulmonary_vein", "common_carotid_artery", "tubing"}
    assert single.isdisjoint(
        {*vessels_and_devices, "surgical_instrument", "nerve", "fetal_head", "intervertebral_disc"}
    )


def test_an_organ_of_one_side_is_single() -> None:
    for label in TAXONOMY.labels.values():
        if label.laterality:
            assert label.single == (label.granularity != "lesion"), label.id


def test_phrases_go_by_what_they_mean() -> None:
    asked = ["lt kidney", "Leber", "heart", "ribs", "third left rib", "polyp", "kidney", "something else", "LV"]
    single = single_labels(asked, "ct")
    assert {"lt kidney", "heart", "third left rib"} <= single
    assert not single & {"ribs", "polyp", "kidney", "something else"}


def image_box(label: str, score: float, *bbox: float) -> GroundedBox:
    return GroundedBox(label, score, bbox)  # type: ignore[arg-type]


def test_the_best_box_of_an_organ_in_an_image() -> None:
    boxes = [
        image_box("liver", 0.9, 0, 0, 50, 50),
        image_box("polyp", 0.8, 0, 0, 10, 10),
        image_box("liver", 0.7, 60, 60, 20, 20),
        image_box("polyp", 0.6, 40, 40, 10, 10),
    ]
    assert best_in_image(boxes) == (boxes[0], boxes[1], boxes[3])


@pytest.mark.parametrize(
    ("inner", "kept"),
    [((2, 2, 10, 10), False), ((0, 0, 40, 40), False), ((15, 0, 10, 10), True), ((19, 0, 10, 10), True)],
)
def test_nested_doubles_of_a_lesion_are_merged(inner: tuple[float, ...], kept: bool) -> None:
    """A box in a better one, or round it, is the same finding; one that only overlaps is another."""
    better = image_box("polyp", 0.9, 0, 0, 20, 20)
    other = image_box("polyp", 0.5, *inner)
    assert (other in best_in_image([better, other])) is kept
    assert image_box("skin lesion", 0.5, *inner) in best_in_image([better, image_box("skin lesion", 0.5, *inner)])


def volume_box(label: str, score: float, slices: int, first: float = 0.0) -> VolumeBox:
    ijk = (0.0, 0.0, first, 10.0, 10.0, first + slices)
    corners = tuple((float(i), float(j), float(k)) for k in ijk[2::3] for j in ijk[1::3] for i in ijk[0::3])
    return VolumeBox(label, score, ijk, corners, "axial", slices)


def test_a_long_chain_beats_a_few_lucky_slices() -> None:
    lucky, true = volume_box("heart", 0.9, 3, 60), volume_box("heart", 0.8, 30)
    rib = [volume_box("ribs", 0.9, 3), volume_box("ribs", 0.8, 3, 20)]
    assert best_in_volume([lucky, rib[0], true, rib[1]]) == (rib[0], true, rib[1])
    assert best_in_volume([volume_box("heart", 0.9, 29), true])[0].slices == 29
    assert best_in_volume([lucky, volume_box("heart", 0.5, 300)]) == (lucky,), "a faint chain, however long"


def test_what_was_asked_for_and_not_found_is_listed() -> None:
    trained = {"liver": True, "heart": True, "something": False}
    image = GroundingResult(
        "m", ImageInfo("a.png", 50, 50, "ct"), "", (image_box("heart", 0.9, 0, 0, 9, 9),), trained=trained
    )
    assert image.not_found == ("liver", "something")
    assert image.to_dict()["not_found"] == ["liver", "something"]
    info = VolumeInfo("a.nii", (20, 20, 20), (1.0, 1.0, 1.0), "ct")
    volume = VolumeResult("m", info, "", (volume_box("liver", 0.9, 3),), trained=trained)
    assert volume.to_dict()["not_found"] == ["heart", "something"]


@pytest.mark.parametrize(
    ("affine", "expected"),
    [
        (np.diag([-1.0, -2.0, 5.0]), (10.0, 20.0, 150.0)),
        # Array axes run to the head, to the left and to the front.
        (np.array([[0.0, 2.0, 0.0], [0.0, 0.0, -5.0], [1.0, 0.0, 0.0]]), (20.0, 150.0, 10.0)),
        # Turned by 20 degrees about the long axis: lengths stay those of the edges.
        (np.array([[0.9397, -0.684, 0.0], [0.342, 1.8794, 0.0], [0.0, 0.0, 5.0]]), (10.0, 20.0, 150.0)),
    ],
)
def test_sizes_are_on_the_patient_s_axes(affine: np.ndarray, expected: tuple[float, ...]) -> None:
    """A box of 10 by 10 by 30 voxels."""
    box = volume_box("liver", 0.9, 30)
    corners = tuple(tuple(affine @ corner) for corner in box.corners_lps_mm)
    assert replace(box, corners_lps_mm=corners).size_lps_mm == pytest.approx(expected, abs=1e-2)  # type: ignore[arg-type]
