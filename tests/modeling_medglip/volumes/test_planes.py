# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Planes: what three of them agree on, slices whose pixels are not square, gaps in mm, and the montage."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from modeling_medglip.grounding import Grounder, load_grounder
from modeling_medglip.outputs import montage
from modeling_medglip.outputs.montage import distinct_colors, draw_montage, shown_boxes
from modeling_medglip.outputs.overlay import CAPTION_HEIGHT
from modeling_medglip.outputs.volume_results import VolumeBox
from modeling_medglip.volume_grounding import MAX_GAP_MM, _consensus, _tracklets, ground_volume
from modeling_medglip.volumes.geometry import Volume, empty_grid, slice_spacing, to_lps
from modeling_medglip.volumes.linking import SliceBox
from modeling_medglip.volumes.source import VolumeSource
from modeling_medglip.volumes.square_pixels import resize, square_size

from ..outputs.test_slicer import made_box, made_result
from ..tiny_checkpoint import save_tiny_checkpoint


GRID = empty_grid((40, 40, 40), np.eye(4))


def seen(plane: str, ijk: Sequence[float], score: float) -> VolumeBox:
    return dataclasses.replace(made_box(GRID, tuple(float(v) for v in ijk), "liver", score), plane=plane)


# Consensus -----------------------------------------------------------------------------------------------------------


def test_edges_are_weighted_by_score() -> None:
    boxes = [[seen("axial", (0, 0, 0, 10, 10, 10), 0.9)], [seen("coronal", (4, 0, 0, 10, 10, 10), 0.3)], []]
    (box,) = _consensus(boxes, GRID)
    assert box.box_ijk == pytest.approx((1, 0, 0, 10, 10, 10)) and box.score == pytest.approx(0.6)
    assert box.plane == "axial"


@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_one_plane_sees_is_left_out(which: int) -> None:
    boxes: list[list[VolumeBox]] = [[], [], []]
    boxes[which] = [seen(("axial", "coronal", "sagittal")[which], (0, 0, 0, 10, 10, 10), 0.9)]
    assert _consensus(boxes, GRID) == []


@pytest.mark.parametrize(("low", "agree"), [(5.9, True), (6.1, False), (11, False)])
def test_planes_agree_from_a_quarter_of_overlap_on(low: float, agree: bool) -> None:
    """(10 - low) / (10 + low) is the IoU of these: a quarter at 6."""
    boxes = [[seen("axial", (0, 0, 0, 10, 10, 10), 0.9)], [seen("coronal", (low, 0, 0, 10 + low, 10, 10), 0.8)]]
    assert len(_consensus(boxes, GRID)) == agree


def test_two_boxes_of_one_plane_do_not_agree() -> None:
    same = [seen("axial", (0, 0, 0, 10, 10, 10), 0.9), seen("axial", (1, 0, 0, 10, 10, 10), 0.8)]
    assert _consensus([same, []], GRID) == []


def test_two_structures_stay_two() -> None:
    left, right = (0, 0, 0, 10, 10, 10), (20, 0, 0, 30, 10, 10)
    planes = [[seen(plane, left, 0.9), seen(plane, right, 0.7)] for plane in ("axial", "coronal", "sagittal")]
    found = _consensus(planes, GRID)
    np.testing.assert_allclose([box.box_ijk for box in found], [left, right], atol=1e-9)
    assert [box.score for box in found] == pytest.approx([0.9, 0.7])


# Gaps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("thickness", "bridged"), [(1.0, 5), (2.5, 2), (5.0, 1), (10.0, 1)])
def test_gaps_are_bridged_in_mm(thickness: float, bridged: int) -> None:
    """That many slices without a box in between are one structure, one more are two."""
    assert MAX_GAP_MM == 5.0
    grid = empty_grid((40, 40, 40), np.diag([1, 1, thickness, 1]))
    for empty, count in ((bridged, 1), (bridged + 1, 2)):
        indices = [0, 1, 2, 3 + empty, 4 + empty]
        boxes = [SliceBox(index, (5.0, 5.0, 20.0, 20.0), 0.9) for index in indices]
        assert len(_tracklets(boxes, to_lps(grid), "axial")) == count, empty


# Square pixels -------------------------------------------------------------------------------------------------------


def test_slices_become_square_where_they_are_far_from_it() -> None:
    assert square_size((40, 512), (0.8, 5.0)) == (250, 512)
    assert square_size((512, 40), (5.0, 0.8)) == (512, 250)
    assert square_size((40, 512), (0.8, 1.2)) == (40, 512), "one and a half is nearly square"
    assert square_size((40, 512), (0.8, 1.3)) == (65, 512)
    assert square_size((40, 4000), (0.1, 50.0)) == (2048, 4000), "never longer than needed"


def test_resized_slices_are_linear_between_pixel_centers() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(7, 9)).astype(np.float32)
    expected = Image.fromarray(pixels).resize((9, 21), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(resize(pixels, (21, 9)), np.asarray(expected), atol=1e-5)
    whole = rng.integers(-1000, 1000, (7, 9)).astype(np.int16)
    found = resize(whole, (7, 30))
    assert found.dtype == np.int16 and found.shape == (7, 30) and np.array_equal(resize(whole, (7, 9)), whole)
    assert np.array_equal(resize(whole[:1], (5, 9)), np.repeat(whole[:1], 5, axis=0))


@pytest.fixture(scope="module")
def grounder(tmp_path_factory: pytest.TempPathFactory) -> Grounder:
    return load_grounder(save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint")))


def test_the_network_sees_square_pixels_and_boxes_lie_in_the_file_s(
    grounder: Grounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    processor = grounder.processor.image_processor
    kind = type(processor)
    original = kind.__call__
    monkeypatch.setattr(
        kind,
        "__call__",
        lambda self, images, **k: (shapes.extend(i.shape for i in images), original(self, images, **k))[1],
    )
    volume = Volume(
        np.random.default_rng(0).integers(-900, 900, (40, 36, 6)).astype(np.int16), np.diag([1.0, 1, 5, 1])
    )
    result = ground_volume(volume, "liver", "ct", grounder, threshold=0.0, plane="coronal")
    assert set(shapes) == {(30, 40)}
    assert result.boxes and all(0 <= box.box_ijk[2] < box.box_ijk[5] <= 6 for box in result.boxes)
    assert max(box.box_ijk[5] - box.box_ijk[2] for box in result.boxes) > 3
    shapes.clear()
    ground_volume(volume, "liver", "ct", grounder, threshold=0.0, plane="axial")
    assert set(shapes) == {(36, 40)}


# Montage -------------------------------------------------------------------------------------------------------------


def volume_with_bars(count: int = 6) -> Volume:
    """Slices that differ: a bright bar moves by 5 voxels from one to the next."""
    array = np.zeros((40, 30, count), np.uint8)
    for k in range(count):
        array[5 * k : 5 * k + 4, :, k] = 255
    return Volume(array, np.diag([1.0, 1, 4, 1]))


def boxed(labels: Sequence[str], best: Sequence[int], plane: str = "axial") -> Any:
    volume = volume_with_bars()
    grid = empty_grid(volume.array.shape, volume.affine)
    shown = tuple(SliceBox(index, (2.0, 2.0, 38.0, 28.0), 0.9) for index in best)
    boxes = [
        dataclasses.replace(made_box(grid, (2, 2, 0, 38, 28, 6), label), plane=plane, best=shown) for label in labels
    ]
    return VolumeSource(volume), made_result(grid, *boxes)


def test_the_montage_shows_the_slices_that_it_names() -> None:
    """The bar of each image is where it is in that slice, so that no slice stands for another."""
    source, result = boxed(["liver"], [4, 1, 3])
    sheet = draw_montage(source, result.boxes, ["liver"], "ct")
    assert sheet is not None
    pixels = np.asarray(sheet.convert("L")).astype(int)
    for column, index in enumerate((4, 1, 3)):
        cell = pixels[:, column * 420 : (column + 1) * 420]
        inside = cell[150:250].mean(axis=0)
        bright = np.nonzero(inside > 200)[0]
        middle = (bright.mean() - 6) / 408 * 40
        assert middle == pytest.approx(5 * index + 2, abs=1.0), index


@pytest.mark.parametrize(("plane", "ratio"), [("axial", 30 / 40), ("coronal", 24 / 40), ("sagittal", 24 / 30)])
def test_panels_are_as_long_as_the_patient_is(plane: str, ratio: float, monkeypatch: pytest.MonkeyPatch) -> None:
    panels: list[Image.Image] = []
    original = montage.contact_sheet
    monkeypatch.setattr(
        montage, "contact_sheet", lambda images, **k: (panels.extend(images), original(images, **k))[1]
    )
    source, result = boxed(["liver"], [2], plane)
    draw_montage(source, result.boxes, ["liver"], "ct")
    assert panels[0].width == 640 and panels[0].height - CAPTION_HEIGHT == pytest.approx(640 * ratio, abs=1)


def test_labels_have_colors_of_their_own() -> None:
    labels = ["liver", "spleen", "aorta"]
    source, result = boxed(labels, [2])
    sheet = draw_montage(source, result.boxes, labels, "ct")
    assert sheet is not None
    pixels = np.asarray(sheet).reshape(-1, sheet.width, 3)
    colors = distinct_colors(labels)
    assert len(set(colors.values())) == 3
    for row, label in enumerate(labels):
        band = pixels[row * 420 : (row + 1) * 420].reshape(-1, 3).astype(int)
        near = [np.abs(band - ImageColor.getrgb(colors[name])).sum(axis=1).min() < 30 for name in labels]
        assert near == [name == label for name in labels], label


def test_sixty_colors_differ() -> None:
    colors = [np.array(ImageColor.getrgb(color)) for color in distinct_colors([str(n) for n in range(60)]).values()]
    assert min(np.abs(a - b).sum() for a, b in combinations(colors, 2)) > 15


def test_labels_without_room_are_reported() -> None:
    labels = [f"label {number}" for number in range(27)]
    source, result = boxed(labels, [2])
    shown, missing = shown_boxes(result.boxes)
    assert [box.label for box in shown] == labels[:24] and missing == labels[24:]
    full, fewer = (
        draw_montage(source, result.boxes, labels, "ct"),
        draw_montage(source, boxed(labels[:24], [2])[1].boxes, labels, "ct"),
    )
    assert full is not None and fewer is not None and full.height == fewer.height + CAPTION_HEIGHT


def test_slices_know_their_plane_s_spacing() -> None:
    grid = empty_grid((4, 5, 6), np.diag([1.0, 2, 3, 1]))
    assert {plane: slice_spacing(to_lps(grid), plane) for plane in ("axial", "coronal", "sagittal")} == {
        "axial": (1, 2),
        "coronal": (1, 3),
        "sagittal": (2, 3),
    }
