# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Geometry of images and boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from training.data.augmentation import (
    IDENTITY,
    AugmentationFlags,
    AugmentationRecipe,
    Geometry,
    draw_geometry,
    shrunk,
    visible_share,
)


RECIPE = AugmentationRecipe()
FREE = AugmentationFlags(horizontal_flip=True, vertical_flip=True, quarter_turns=True, rotate=True)
BOX = np.array([[0.3, 0.4, 0.5, 0.8]], dtype=np.float32)


def test_identity_changes_nothing() -> None:
    image = torch.rand(3, 20, 30)
    torch.testing.assert_close(IDENTITY.resample(image, (20, 30)), image, atol=1e-5, rtol=0)
    np.testing.assert_allclose(IDENTITY.map_boxes(BOX), BOX, atol=1e-6)


def test_resampling_is_what_torch_does_with_the_same_matrix() -> None:
    geometry = Geometry(np.array([[1.2, 0.1], [-0.05, 0.9]]), np.array([0.05, -0.1]))
    image, inverse = torch.rand(3, 50, 70), np.linalg.inv(geometry.matrix)
    theta = torch.from_numpy(np.concatenate([inverse, -2 * inverse @ geometry.shift[:, None]], axis=1)).float()
    grid = functional.affine_grid(theta[None], [1, 3, 40, 60], align_corners=False)
    expected = functional.grid_sample(image[None], grid, align_corners=False)[0]
    torch.testing.assert_close(geometry.resample(image, (40, 60)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("flags", [AugmentationFlags(), AugmentationFlags(True, True, True, False)])
def test_boxes_follow_the_image(seed: int, flags: AugmentationFlags) -> None:
    rng = np.random.default_rng(seed)
    geometry = draw_geometry(BOX, flags, RECIPE, rng)
    image = torch.zeros(1, 200, 200)
    image[0, 80:160, 60:100] = 1
    seen = geometry.resample(image, (200, 200))[0] > 0.5
    rows, columns = (torch.nonzero(seen.any(axis)).flatten() for axis in (1, 0))
    drawn = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 200
    np.testing.assert_allclose(np.clip(geometry.map_boxes(BOX)[0], 0, 1), drawn, atol=0.011)


def test_a_turned_round_structure_keeps_its_box() -> None:
    angle = np.deg2rad(7)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    round_box = np.array([[0.4, 0.4, 0.6, 0.6]], dtype=np.float32)
    np.testing.assert_allclose(Geometry(turn, np.zeros(2)).map_boxes(round_box), round_box, atol=1e-6)


def test_outside_the_image_is_the_fill_value() -> None:
    geometry = Geometry(np.eye(2) * 0.5, np.zeros(2))
    image = geometry.resample(torch.full((1, 20, 20), 3.0), (20, 20), fill=-1000.0)
    assert image[0, 0, 0] == -1000 and image[0, 10, 10] == 3


def test_enough_of_every_box_stays_visible() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([[0.02, 0.05, 0.2, 0.3], [0.75, 0.6, 0.99, 0.98]], dtype=np.float32)
    for _ in range(200):
        assert visible_share(draw_geometry(boxes, FREE, RECIPE, rng).map_boxes(boxes)).min() >= RECIPE.keep - 1e-6
    full = np.array([[0.0, 0.0, 1.0, 1.0]], dtype=np.float32)
    assert visible_share(draw_geometry(full, FREE, RECIPE, rng).map_boxes(full)).min() >= RECIPE.keep - 1e-6


def test_close_ups_enlarge_one_box_near_the_middle_and_may_lose_the_others() -> None:
    rng, recipe = np.random.default_rng(0), AugmentationRecipe(close_share=1.0)
    boxes = np.array([[0.05, 0.05, 0.15, 0.15], [0.8, 0.8, 0.9, 0.9]], dtype=np.float32)
    lost = 0
    for _ in range(50):
        geometry = draw_geometry(boxes, AugmentationFlags(close_ups=True), recipe, rng)
        assert recipe.close_scale[0] / 1.07 <= geometry.matrix[0, 0] <= recipe.close_scale[1] * 1.07
        mapped = geometry.map_boxes(boxes)
        centers = (mapped[:, :2] + mapped[:, 2:]) / 2
        assert np.abs(centers - 0.5).max(axis=1).min() <= 0.25 + 1e-6
        lost += int(visible_share(mapped).min() == 0)
    assert lost > 25
    empty = draw_geometry(np.zeros((0, 4), np.float32), AugmentationFlags(close_ups=True), recipe, rng)
    assert empty.matrix[0, 0] > 1.3
    assert draw_geometry(boxes, AugmentationFlags(), recipe, rng).matrix[0, 0] < 1.3 * recipe.scale[1]


def test_visible_share() -> None:
    boxes = np.array([[-0.5, 0, 0.5, 1], [0.2, 0.2, 0.4, 0.4], [1.1, 0, 1.4, 1]], dtype=np.float32)
    np.testing.assert_allclose(visible_share(boxes), [0.5, 1, 0], atol=1e-6)


def test_small_images_keep_small_objects_large_enough() -> None:
    rng, recipe = np.random.default_rng(0), AugmentationRecipe(zoom_out_share=1.0, smallest=0.05)
    flags, boxes = AugmentationFlags(zoom_out=(0.3, 0.6)), np.array([[0.3, 0.3, 0.7, 0.4]], dtype=np.float32)
    for _ in range(50):
        assert 0.29 <= draw_geometry(BOX, flags, recipe, rng).matrix[0, 0] * 1.06 <= 0.67
        assert 0.5 / 1.07 <= draw_geometry(boxes, flags, recipe, rng).matrix[1, 1] <= 0.6 * 1.07
        assert draw_geometry(BOX, AugmentationFlags(), recipe, rng).matrix[0, 0] > 0.7
    tiny = np.array([[0.3, 0.3, 0.34, 0.34]], dtype=np.float32)
    assert draw_geometry(tiny, flags, recipe, rng).matrix[0, 0] > 0.9, "smaller than the least side as it came"


def test_turns_by_any_angle_respect_the_ratio_of_the_sides() -> None:
    rng, recipe = np.random.default_rng(0), AugmentationRecipe(turn_share=1.0, scale=(1, 1), aspect=(1, 1))
    angles = []
    for _ in range(200):
        matrix = draw_geometry(BOX, AugmentationFlags(turns=True), recipe, rng, (200, 100)).matrix
        pixels = np.diag([200, 100]) @ matrix @ np.diag([1 / 200, 1 / 100])
        np.testing.assert_allclose(pixels @ pixels.T, np.eye(2), atol=1e-9)
        angles.append(np.arctan2(pixels[1, 0], pixels[0, 0]))
    assert np.histogram(angles, 4, (-np.pi, np.pi))[0].min() > 25
    sided = AugmentationFlags(True, True, True, turns=True).with_sides()
    assert draw_geometry(BOX, sided, recipe, rng).matrix[0, 1] == 0


@pytest.mark.parametrize(("surroundings", "expected"), [("black", 0.0), ("mean", 0.45), ("edge", 0.3)])
def test_surroundings(surroundings: str, expected: float) -> None:
    image = torch.full((1, 20, 20), 0.3)
    image[0, 5:15, 5:15] = 0.9
    drawn = Geometry(np.eye(2) * 0.5, np.zeros(2)).resample(image, (40, 40), surroundings=surroundings)
    np.testing.assert_allclose(
        [drawn[0, 1, 1], drawn[0, 20, 1], drawn[0, 20, 20]], [expected, expected, 0.9], atol=0.12
    )
    full = IDENTITY.resample(image, (20, 20), surroundings=surroundings)
    torch.testing.assert_close(full, image, atol=1e-5, rtol=0)


def test_a_share_of_the_images_stays_plain() -> None:
    rng = np.random.default_rng(0)
    recipe = AugmentationRecipe(plain_share=0.3, zoom_out_share=0.5, turn_share=0.5, effects=(1, 2))
    drawn = [recipe.for_one_image(rng) for _ in range(300)]
    plain = [one for one in drawn if one is not recipe]
    assert 60 <= len(plain) <= 120
    assert {(one.zoom_out_share, one.turn_share, one.effects) for one in plain} == {(0.0, 0.0, (0, 0))}
    assert AugmentationRecipe().for_one_image(rng) == AugmentationRecipe()


def test_sided_images_are_never_flipped_nor_turned() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        matrix = draw_geometry(BOX, AugmentationFlags(), RECIPE, rng).matrix
        assert matrix[0, 0] > 0 and matrix[1, 1] > 0 and matrix[0, 1] == matrix[1, 0] == 0


def test_free_images_are_flipped_and_turned() -> None:
    rng = np.random.default_rng(0)
    matrices = [draw_geometry(BOX, FREE, RECIPE, rng).matrix for _ in range(200)]
    signs = {(np.sign(m[0, 0]), np.sign(m[1, 1])) for m in matrices if abs(m[0, 0]) > abs(m[0, 1])}
    assert signs == {(1, 1), (1, -1), (-1, 1), (-1, -1)}
    assert 40 < sum(abs(m[0, 0]) < abs(m[0, 1]) for m in matrices) < 160


def test_empty_parts_hold_nothing_of_any_box() -> None:
    boxes = np.array([[0.3, 0.4, 0.55, 0.65], [0.7, 0.1, 0.8, 0.2]], np.float32)
    recipe = AugmentationRecipe(empty_share=1.0, attempts=200)
    for seed in range(20):
        flags = AugmentationFlags(horizontal_flip=True, vertical_flip=True, quarter_turns=True)
        geometry = draw_geometry(boxes, flags, recipe, np.random.default_rng(seed))
        assert visible_share(geometry.map_boxes(boxes)).tolist() == [0, 0]
        corners = np.linalg.inv(geometry.matrix) @ (np.array([[0, 1], [0, 1]]) - 0.5 - geometry.shift[:, None]) + 0.5
        assert corners.min() >= -1e-9 and corners.max() <= 1 + 1e-9, "a part of the image, nothing around it"


def test_without_an_empty_part_the_box_stays() -> None:
    boxes = np.array([[0.02, 0.02, 0.98, 0.98]], np.float32)
    recipe = AugmentationRecipe(empty_share=1.0)
    geometry = draw_geometry(boxes, AugmentationFlags(), recipe, np.random.default_rng(0))
    assert visible_share(geometry.map_boxes(boxes)).min() >= recipe.keep


def test_images_are_shrunk_to_a_limit_and_never_enlarged() -> None:
    image = torch.rand(1, 30, 90)
    assert shrunk(image, 45).shape == (1, 15, 45) and shrunk(image, 90) is image
    assert shrunk(torch.rand(3, 1, 400), 100).shape == (3, 1, 100)
