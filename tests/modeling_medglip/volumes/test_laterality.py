# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Left and right: what contradicts the patient's axes is reported, what may be right is not."""

from __future__ import annotations

import numpy as np
import pytest

from modeling_medglip.outputs.volume_results import VolumeBox
from modeling_medglip.volumes.geometry import empty_grid
from modeling_medglip.volumes.laterality import laterality_warnings

from ..outputs.test_slicer import made_box


def at(label: str, low: float, high: float, score: float = 0.8) -> VolumeBox:
    """A box from one x to another, in mm from the middle; the patient's left is positive."""
    affine = np.eye(4)
    affine[0, 3] = -49.5
    return made_box(empty_grid((100, 100, 100), affine), (low + 50, 40, 40, high + 50, 60, 60), label, score)


SWAPPED = "{} lies to the patient's right of {}: check the orientation of the file"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left kidney", "right kidney"),
        ("left caudate", "right caudate"),
        ("left femur", "right femur"),
        ("left lung", "right kidney"),
        ("left hilar node", "right hilar node"),
    ],
)
def test_sides_that_are_swapped(left: str, right: str) -> None:
    assert laterality_warnings([at(left, 10, 30), at(right, -30, -10)]) == ()
    assert laterality_warnings([at(right, 10, 30), at(left, -30, -10)]) == (SWAPPED.format(left, right),)


def test_sides_at_one_position_contradict_each_other() -> None:
    assert len(laterality_warnings([at("left kidney", 10, 30), at("right kidney", 10, 30)])) == 1


def test_a_second_box_beyond_the_other_side() -> None:
    boxes = [at("left kidney", 10, 30, 0.9), at("right kidney", -15, 0, 0.8), at("left kidney", -40, -20, 0.7)]
    assert laterality_warnings(boxes) == (
        SWAPPED.format("left kidney", "right kidney"),
        "left kidney was found twice, 30 mm apart: one may be the other side's",
    )


def test_one_structure_on_both_sides() -> None:
    twice = [at("left kidney", 20, 40, 0.9), at("left kidney", -40, -20, 0.8)]
    assert laterality_warnings(twice) == ("left kidney was found twice, 40 mm apart: one may be the other side's",)
    assert laterality_warnings([at("left kidney", 20, 40), at("left kidney", 5, 15)]) == (), "parts of one"
    assert laterality_warnings([at("kidney cyst left", 20, 40), at("kidney cyst left", -40, -20)]) == (), (
        "there may be several"
    )


@pytest.mark.parametrize(
    "boxes",
    [
        [at("left kidney", -30, -10)],
        [at("liver", 20, 40), at("spleen", -40, -20)],
        [at("left ventricle", -30, -20), at("right lung", 0, 40)],
        [at("left lung", -30, 0), at("right kidney", -10, 10)],
        [at("left hilar node", -30, -20), at("right lung", 0, 40)],
    ],
)
def test_what_may_be_right(boxes: list[VolumeBox]) -> None:
    """A lone box, labels without sides, chambers of the heart, boxes over each other, phrases of no known pair."""
    assert laterality_warnings(boxes) == ()


def test_many_contradictions_are_three_lines_and_a_number() -> None:
    names = ["kidney", "caudate", "putamen", "thalamus", "femur"]
    boxes = [
        at(f"{side} {name}", *((10, 30) if side == "right" else (-30, -10)))
        for name in names
        for side in ("left", "right")
    ]
    warnings = laterality_warnings(boxes)
    assert len(warnings) == 4 and warnings[3] == "22 more labels contradict the patient's sides"
