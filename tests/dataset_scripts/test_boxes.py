# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Annotations -> annotations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from dataset_scripts.boxes import annotate, components, enclosing_box
from dataset_scripts.recipe import Recipe
from dataset_scripts.records import AnnotatedImage, Annotation


LABELS = {"liver": "liver", "lung l": "lung_left", "lobe": "lung_left", "tumour": "liver_tumor", "thing": "open"}
PIXELS = np.zeros((40, 60), np.uint8)


def annotated(
    *annotations: Annotation, profile: str = "none", **fields: Any
) -> tuple[list[dict[str, Any]], list[str], set[str]]:
    rows: list[str] = []
    recipe = Recipe("mine", "ct", "manifest", labels=LABELS, **fields)
    result, left_open = annotate(
        AnnotatedImage(PIXELS, annotations), recipe, profile, lambda rule, value: rows.append(f"{rule}: {value}")
    )
    return result, rows, left_open


def mask(*blocks: tuple[int, int, int, int]) -> np.ndarray:
    """Blocks of (x, y, width, height)."""
    array = np.zeros(PIXELS.shape, bool)
    for x, y, width, height in blocks:
        array[y : y + height, x : x + width] = True
    return array


def test_an_organ_has_one_box_round_its_parts() -> None:
    (entry,), rows, _ = annotated(Annotation("liver", mask((5, 6, 10, 4), (30, 20, 3, 3))))
    assert entry["bbox"] == [5, 6, 28, 17] and entry["area"] == 49 and not rows
    assert entry["components"] == [[5, 6, 10, 4], [30, 20, 3, 3]]
    assert (entry["label_id"], entry["name"], entry["source_label"]) == ("liver", "liver", "liver")
    assert entry["area_fraction"] == pytest.approx(49 / 2400, abs=1e-6)
    decoded = coco_mask.decode(entry["segmentation"])
    assert np.array_equal(decoded, mask((5, 6, 10, 4), (30, 20, 3, 3)))


def test_lesions_have_one_box_each_and_know_their_organ() -> None:
    result, _, _ = annotated(
        Annotation("tumour", mask((7, 7, 2, 2), (10, 8, 1, 1), (50, 30, 4, 4))),
        Annotation("liver", mask((5, 5, 20, 20))),
    )
    liver, *tumours = result
    assert [entry["bbox"] for entry in tumours] == [[7, 7, 2, 2], [10, 8, 1, 1], [50, 30, 4, 4]]
    assert [entry["instance_index"] for entry in tumours] == [0, 1, 2] and tumours[0]["instance_count"] == 3
    assert [entry["parent_box"] for entry in tumours] == [[5, 5, 20, 20], [5, 5, 20, 20], None]
    assert tumours[0]["parent_label"] == "liver" and liver["parent_box"] is None
    assert coco_mask.decode(tumours[1]["segmentation"]).sum() == 1


def test_diagonal_neighbors_are_one_component() -> None:
    assert len(annotated(Annotation("tumour", mask((5, 5, 2, 2), (7, 7, 2, 2))))[0]) == 1


def test_masks_of_one_organ_are_joined() -> None:
    (entry,), _, _ = annotated(Annotation("lobe", mask((5, 5, 4, 4))), Annotation("lung l", mask((5, 9, 4, 4))))
    assert entry["bbox"] == [5, 5, 4, 8] and entry["side"] == "left"


def test_several_annotations_of_one_name_are_instances() -> None:
    result, _, _ = annotated(Annotation("thing", mask((5, 5, 4, 4))), Annotation("thing", mask((20, 9, 4, 4))))
    assert [entry["instance_index"] for entry in result] == [0, 1] and result[0]["instance_count"] == 2


def test_open_labels_stay() -> None:
    (entry,), _, _ = annotated(Annotation("thing", mask((1, 1, 3, 3))))
    assert entry["label_id"] is None and entry["open_vocabulary"] and entry["region"] is None


def test_small_components_are_removed_on_request() -> None:
    annotations = Annotation("liver", mask((5, 5, 10, 10), (50, 30, 1, 1)))
    (whole,), rows, _ = annotated(annotations)
    assert whole["bbox"] == [5, 5, 46, 26] and not rows
    (clean,), rows, _ = annotated(annotations, min_component_fraction=0.02)
    assert clean["bbox"] == [5, 5, 10, 10] and clean["area"] == 100 and rows == ["speck: liver: 1 of 2 parts"]


def test_small_annotations_leave_their_label_open() -> None:
    result, rows, left_open = annotated(Annotation("liver", mask((5, 5, 2, 2))), min_pixels=5)
    assert not result and rows == ["small_mark: liver: 4 pixels"] and left_open == {"liver"}
    result, rows, left_open = annotated(Annotation("liver", mask((5, 5, 5, 5))), profile="paper")
    assert not result and rows == ["min_area: liver: 0.01042 of the image"] and left_open == {"liver"}
    assert len(annotated(Annotation("liver", mask((5, 5, 6, 6))), profile="paper")[0]) == 1


def test_labels_that_the_recipe_lacks_are_reported() -> None:
    result, rows, _ = annotated(Annotation("other", mask((1, 1, 3, 3))), Annotation("liver", mask((1, 1, 3, 3))))
    assert len(result) == 1 and rows == ["undefined_label: other"]


def test_stated_boxes() -> None:
    (entry,), rows, _ = annotated(Annotation("liver", box=(-0.5, 3, 10.5, 9)))
    assert entry["bbox"] == [0, 3, 10.5, 6] and entry["segmentation"] is None and not rows


def test_a_box_that_goes_a_little_beyond_its_image() -> None:
    (entry,), rows, left_open = annotated(Annotation("liver", box=(1, 1, 5, 43)))
    assert entry["bbox"] == [1, 1, 4, 39] and rows == ["clipped_box: liver: [1, 1, 5, 43] in 60x40"] and not left_open


@pytest.mark.parametrize(
    "box",
    [
        (1, 1, 1, 5),
        (5, 5, 2, 9),
        (math.nan, 1, 2, 3),
        (1, 1, math.inf, 3),
        (-3, 1, 5, 5),
        (50, 1, 63, 5),
        (1, 1, 5, 46),
    ],
)
def test_bad_boxes(box: tuple[float, float, float, float]) -> None:
    result, rows, _ = annotated(Annotation("liver", box=box))
    assert not result and len(rows) == 1 and rows[0].startswith("bad_box: liver: ")


@given(st.integers(0, 10_000))
def test_every_box_is_the_tight_one_of_its_mask(seed: int) -> None:
    random = np.random.default_rng(seed)
    annotations = [Annotation(label, random.random(PIXELS.shape) < 0.02) for label in ("liver", "tumour", "thing")]
    result, _, _ = annotated(*annotations)
    for entry in result:
        rows, columns = np.nonzero(coco_mask.decode(entry["segmentation"]))
        assert entry["bbox"] == [
            columns.min(), rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1,
        ]  # fmt: skip
        assert entry["area"] == len(rows) and entry["bbox"] == enclosing_box(entry["components"])


def test_components() -> None:
    numbers, parts = components(mask((2, 3, 4, 5), (20, 20, 1, 1)), left=100, top=200)
    assert parts == [([102.0, 203.0, 4.0, 5.0], 20), ([120.0, 220.0, 1.0, 1.0], 1)] and numbers.max() == 2


@pytest.mark.parametrize(("x", "parent"), [(19, [5, 5, 20, 20]), (21, None)])
def test_a_lesion_belongs_to_an_organ_that_holds_half_of_it(x: int, parent: list[int] | None) -> None:
    """10 pixels wide; the organ ends at 25, so that 6 or 4 of them lie in it."""
    result, _, _ = annotated(Annotation("tumour", mask((x, 7, 10, 4))), Annotation("liver", mask((5, 5, 20, 20))))
    assert [entry["parent_box"] for entry in result if entry["label_id"] != "liver"] == [parent]
