# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Brightness, contrast, color, blur and noise, and CT windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from training.data.augmentation import AugmentationRecipe
from training.data.photometry import (
    approximate_gamma,
    compressed,
    display_values,
    draw_photometry,
    draw_window,
    saturated,
    softened,
    through_smaller,
    uneven_light,
)


RECIPE = AugmentationRecipe()


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


def test_bytes_stay_and_measured_units_are_stretched() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.testing.assert_allclose(display_values(levels), levels / 255, rtol=1e-6)
    for measured in (levels.astype(np.int16) * 8 - 1000, levels.astype(np.uint16) * 8):
        shown = display_values(measured)
        assert shown.dtype == np.float32 and shown.min() == 0 and shown.max() == 1
        assert np.abs(shown - levels / 255).max() < 0.01


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


def test_saturation_and_softening_are_those_of_torchvision() -> None:
    image = torch.rand(3, 20, 30)
    for factor in (0.0, 0.7, 1.3):
        torch.testing.assert_close(saturated(image, factor), transforms.adjust_saturation(image, factor))
    for sigma in (0.4, 1.0):
        side = np.exp(-0.5 / sigma**2)
        expected = transforms.gaussian_blur(image, [3, 3], [sigma])
        torch.testing.assert_close(softened(image, side / (1 + 2 * side)), expected)


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
