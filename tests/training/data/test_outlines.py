# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Outlines of masks and polygons, and the boxes of turned objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dataset_scripts.augment import encode_mask
from modeling_medglip.io.coco_shapes import Segmentation, parse_segmentation
from training.data.augmentation import Geometry
from training.data.load import load_records
from training.data.outlines import outline, outlines_by_box

from ..tiny_data import disc, save_coco


SIZE = (60, 40)


def as_shape(mask: NDArray[np.bool_]) -> Segmentation:
    height, width = mask.shape
    shape = parse_segmentation(
        {"size": [height, width], "counts": encode_mask(mask.astype(np.uint8))}, (width, height)
    )
    assert shape is not None
    return shape


def slanted() -> NDArray[np.bool_]:
    """A thin bar along the diagonal of a square of 30 pixels."""
    y, x = np.mgrid[:40, :60]
    return (np.abs(x - y - 5) < 3) & (y >= 5) & (y < 35)


@pytest.mark.parametrize("mask", [slanted(), disc(SIZE, (20, 15), 9), np.ones((40, 60), bool)])
def test_an_outline_touches_all_sides_of_the_box(mask: NDArray[np.bool_]) -> None:
    rows, columns = np.nonzero(mask)
    points = outline(as_shape(mask))
    assert len(points) <= 48
    np.testing.assert_array_equal(points.min(axis=0), [columns.min(), rows.min()])
    np.testing.assert_array_equal(points.max(axis=0), [columns.max() + 1, rows.max() + 1])


def test_an_outline_is_convex_and_holds_the_object() -> None:
    mask = slanted()
    rows, columns = np.nonzero(mask)
    for angle in np.deg2rad([10, 45, 80, 135]):
        along = np.array([np.cos(angle), np.sin(angle)])
        farthest = (np.stack([columns + 0.5, rows + 0.5], axis=1) @ along).max()
        assert farthest <= float((outline(as_shape(mask)) @ along).max()) <= farthest + 0.75


@pytest.mark.parametrize("degrees", [45, -45, 20])
def test_the_box_of_a_turned_object_is_that_of_its_outline(degrees: float) -> None:
    mask, angle = slanted(), np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = np.diag([60.0, 40.0])
    geometry = Geometry(np.linalg.inv(scale) @ turn @ scale, np.array([0.05, 0.0]))
    rows, columns = np.nonzero(mask)
    centers = np.stack([columns + 0.5, rows + 0.5], axis=1) / SIZE
    moved = (centers - 0.5) @ geometry.matrix.T + 0.5 + geometry.shift
    points = outline(as_shape(mask)) / np.array(SIZE, np.float32)
    box = np.concatenate([points.min(axis=0), points.max(axis=0)])[None].astype(np.float32)
    exact = geometry.map_boxes(box, [points])[0] * (60, 40, 60, 40)
    expected = np.concatenate([moved.min(axis=0), moved.max(axis=0)]) * (60, 40, 60, 40)
    np.testing.assert_allclose(exact, expected, atol=0.8)
    ellipse = geometry.map_boxes(box, [None])[0] * (60, 40, 60, 40)
    assert np.abs(ellipse - expected).max() > 2
    straight = Geometry(np.diag([-1.0, 0.5]), np.zeros(2))
    np.testing.assert_array_equal(straight.map_boxes(box, [points]), straight.map_boxes(box))


def test_outlines_that_do_not_fit_their_box_are_not_used() -> None:
    shape = as_shape(disc(SIZE, (20, 15), 9))
    boxes = np.array([[11, 6, 29, 24], [11, 6, 40, 24], [1, 1, 5, 5]], dtype=np.float32)
    assert set(outlines_by_box(boxes, [shape, shape, None])) == {(11.0, 6.0, 29.0, 24.0)}


def test_polygons_of_coco_files_become_outlines(tmp_path: Path) -> None:
    Image.new("L", SIZE).save(tmp_path / "a.png")
    entry = {"file_name": "a.png", "width": 60, "height": 40, "split": "train"}
    polygon = [10.0, 5.0, 30.0, 5.0, 20.0, 25.0]
    annotations = [
        {"image_id": 0, "category_id": 0, "bbox": [10, 5, 20, 20], "segmentation": [polygon]},
        {"image_id": 0, "category_id": 0, "bbox": [40, 5, 10, 10]},
        {"image_id": 0, "category_id": 0, "bbox": [40, 20, 8, 6], "segmentation": [[40, 20, 48, 20, 48, 26, 40, 26]]},
    ]
    path = save_coco(tmp_path, "train.json", [entry], [[]], labels=["polyp"], annotations=annotations)
    (item,) = load_records(path, "endoscopy")
    assert len(item.boxes) == 3, "one without a polygon, and one whose polygon is its box"
    ((box, points),) = item.outlines.items()
    assert box == (10, 5, 30, 25) and sorted(points.tolist()) == [[10, 5], [20, 25], [30, 5]]
