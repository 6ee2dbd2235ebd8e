# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Geometry of images and boxes, photometry, and CT windows."""

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
    approximate_gamma,
    compressed,
    draw_geometry,
    draw_photometry,
    draw_window,
    through_smaller,
    uneven_light,
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


@pytest.mark.parametrize("channels", [1, 3])
def test_photometry_keeps_shape_and_range_and_is_reproducible(channels: int) -> None:
    image = torch.rand(channels, 24, 30)
    for seed in range(20):
        first = draw_photometry(image.clone(), True, RECIPE, np.random.default_rng(seed))
        assert first.shape == image.shape and float(first.min()) >= 0 and float(first.max()) <= 1
        torch.testing.assert_close(first, draw_photometry(image.clone(), True, RECIPE, np.random.default_rng(seed)))


def test_gray_images_stay_gray() -> None:
    image = torch.rand(1, 24, 30).expand(3, -1, -1).clone()
    quiet = AugmentationRecipe(noise_share=0.0)
    for seed in range(10):
        changed = draw_photometry(image.clone(), False, quiet, np.random.default_rng(seed))
        torch.testing.assert_close(changed[0], changed[2])


@pytest.mark.parametrize("gamma", [0.7, 0.9, 1.0, 1.2, 1.4])
def test_the_cheap_curve_is_close_to_the_power(gamma: float) -> None:
    values = torch.linspace(0, 1, 50)
    assert (approximate_gamma(values, gamma) - values**gamma).abs().max() < 0.05


def test_drawn_windows_are_plausible_and_narrow_images_are_only_narrowed() -> None:
    rng = np.random.default_rng(0)
    wide = [draw_window((-1000.0, 1500.0), rng) for _ in range(300)]
    assert all(low < high for low, high in wide)
    assert 80 < sum(window == (-1000.0, 1500.0) for window in wide) < 160
    assert all(low >= 0 and high <= 255 for low, high in (draw_window((0.0, 255.0), rng) for _ in range(100)))


def test_uneven_light_is_smooth_and_near_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        light = uneven_light((40, 60), 0.35, rng)
        assert light.shape == (40, 60) and 0.3 < float(light.min()) < float(light.max()) < 1.7
        assert abs(float(light.mean()) - 1) < 0.15
        assert float((light[1:] - light[:-1]).abs().max()) < 0.05
    torch.testing.assert_close(uneven_light((8, 8), 0.0, rng), torch.ones(8, 8))


def test_fewer_pixels_lose_detail_and_keep_shape_and_mean() -> None:
    board = torch.tensor([[0.0, 1.0] * 16, [1.0, 0.0] * 16] * 12)[None]
    coarse = through_smaller(board, 0.4)
    assert coarse.shape == board.shape and float(coarse.std()) < 0.4 * float(board.std())
    assert float(coarse.mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("channels", [1, 3])
def test_compression_is_lossy_and_close(channels: int) -> None:
    image = torch.rand(channels, 20, 30) * 0.2 + 0.4
    result = compressed(image, 30)
    assert result.shape == image.shape and not torch.equal(result, image)
    assert float((result.mean() - image.mean()).abs()) < 0.02


def test_every_degradation_keeps_shape_and_range() -> None:
    recipe = AugmentationRecipe(light_share=1.0, coarse_share=1.0, jpeg_share=1.0, blur_share=1.0, noise_share=1.0)
    for channels in (1, 3):
        result = draw_photometry(torch.rand(channels, 24, 32), True, recipe, np.random.default_rng(1))
        assert result.shape == (channels, 24, 32) and 0 <= float(result.min()) <= float(result.max()) <= 1
