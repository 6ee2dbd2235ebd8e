# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Where an annotation of a COCO file lies: which entries are crowds, and which part of an entry counts."""

from __future__ import annotations

from typing import Any

import pytest

from modeling_medglip.io.coco import annotation_region
from modeling_medglip.io.coco_shapes import AnnotationError, fit_box


BOX = [2.0, 3.0, 4.0, 5.0]
SQUARE = [[0, 0, 6, 0, 6, 6, 0, 6]]


@pytest.mark.parametrize("value", [None, 0, "0", False])
def test_an_annotation_of_one_object(value: Any) -> None:
    assert annotation_region({"bbox": BOX, "iscrowd": value}, (20, 10)).box == (2, 3, 4, 5)


@pytest.mark.parametrize("value", [1, "1", True, "yes"])
def test_a_crowd_leaves_the_label_unknown(value: Any) -> None:
    with pytest.raises(AnnotationError) as error:
        annotation_region({"bbox": BOX, "iscrowd": value}, (20, 10))
    assert error.value.rule == "crowd_region"


def test_the_stated_box_counts_before_that_of_the_segmentation() -> None:
    region = annotation_region({"bbox": BOX, "segmentation": SQUARE}, (20, 10))
    assert region.box == (2, 3, 4, 5) and region.segmentation is not None and region.note == ""
    assert annotation_region({"segmentation": SQUARE}, (20, 10)).box == (0, 0, 6, 6)


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ((-1.0, 0.0, 4.0, 4.0), ((0, 0, 3, 4), False)),  # by one pixel: a rounding error
        ((-2.0, 0.0, 20.0, 4.0), ((0, 0, 18, 4), True)),  # by a tenth of its side
        ((18.0, 0.0, 2.0, 11.0), ((18, 0, 2, 10), False)),
    ],
)
def test_boxes_at_the_border_are_clipped(box: tuple[float, ...], clipped: tuple[Any, bool]) -> None:
    assert fit_box(box, (20, 10)) == clipped  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "box", [(-2.1, 0, 20, 4), (0, -1.1, 4, 4), (20, 0, 1, 4), (0, 0, 0, 4), (0, 0, 4, float("nan"))]
)
def test_boxes_outside_their_image_are_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(AnnotationError, match="bad_box"):
        fit_box(box, (20, 10))  # type: ignore[arg-type]
