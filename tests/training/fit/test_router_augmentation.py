# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Varied copies of images for the modality router."""

from __future__ import annotations

import numpy as np
import pytest

from modeling_medglip.image_processing_medglip import ROUTER_CLASSES
from tests.modeling_medglip.test_router import GRAY, RED
from training.fit import router_augmentation as augmentation


STEPS = {step for steps in (augmentation.STEPS, *augmentation.FIRST.values()) for _, step in steps}


@pytest.mark.parametrize("image", [GRAY[None], RED.transpose(2, 0, 1)], ids=["gray", "color"])
@pytest.mark.parametrize("kind", ROUTER_CLASSES)
def test_augmented_images_stay_images(image: np.ndarray, kind: str) -> None:
    for seed in range(6):
        varied = augmentation.augment(image, kind, np.random.default_rng(seed))
        assert varied.dtype == np.uint8 and len(varied) in (1, 3) and min(varied.shape[1:]) >= 8
        assert varied.std() >= 5
    again = [augmentation.augment(image, kind, np.random.default_rng(3)) for _ in range(2)]
    assert np.array_equal(*again)


@pytest.mark.parametrize("step", sorted(STEPS, key=lambda step: step.__name__), ids=lambda step: step.__name__)
def test_every_step_returns_an_image_and_leaves_its_input(step: augmentation.Transform) -> None:
    for image in (GRAY[None], RED.transpose(2, 0, 1), np.zeros((1, 1, 1), np.uint8)):
        before = image.copy()
        for seed in range(4):
            varied = step(image, np.random.default_rng(seed))
            assert varied.dtype == np.uint8 and varied.ndim == 3 and len(varied) in (1, 3)
        assert np.array_equal(image, before)


def test_a_variation_that_loses_the_image_is_left_out() -> None:
    steps = ((1.0, lambda image, rng: np.zeros_like(image)),)
    rng = np.random.default_rng(0)
    assert np.array_equal(augmentation.apply(steps, GRAY[None], rng, least=5), GRAY[None])
    assert not augmentation.apply(steps, GRAY[None], rng, least=0).any()


def test_narrow_bands_and_gray() -> None:
    image, rng = RED.transpose(2, 0, 1), np.random.default_rng(0)
    assert np.ptp(augmentation.gray(image, rng).astype(int), axis=0).max() == 0
    cold = [augmentation.other_light(image, np.random.default_rng(seed)).mean((1, 2)) for seed in range(8)]
    assert any(red < blue for red, _, blue in cold), "under blue and green light red is dark"
    assert augmentation.gray(GRAY[None], rng) is not None and len(augmentation.other_light(GRAY[None], rng)) == 1


def test_a_mask_is_dark_in_the_corners() -> None:
    bright = np.full((1, 60, 80), 200, dtype=np.uint8)
    for seed in range(8):
        masked = augmentation.mask(bright, np.random.default_rng(seed))
        assert masked[0, 30, 40] == 200 and (masked < 25).mean() < 0.7
    assert any(augmentation.mask(bright, np.random.default_rng(seed))[0, 0, 0] < 25 for seed in range(4))


def test_a_fan_is_black_outside_and_untouched_inside() -> None:
    bright = np.full((1, 60, 80), 200, dtype=np.uint8)
    for seed in range(5):
        shape = augmentation.fan(bright, np.random.default_rng(seed))
        assert set(np.unique(shape)) == {0, 200} and 0.2 < (shape > 0).mean() < 1 and shape[0, 30, 40] == 200


def test_flow_colors_are_spots_on_gray() -> None:
    colored = augmentation.flow_colors(GRAY[None], np.random.default_rng(1))
    changed = (colored != GRAY).any(0)
    assert colored.shape == (3, *GRAY.shape) and 0 < changed.mean() < 0.3
    assert (colored[:, changed].max(0) > colored[:, changed].min(0)).all()


def test_noise_of_steep_spectra_is_smooth() -> None:
    rough, smooth = (augmentation.noise_field((40, 50), power, np.random.default_rng(0)) for power in (0.0, 2.0))
    assert rough.shape == smooth.shape == (40, 50) and smooth.min() == 0 and smooth.max() == 1
    assert np.abs(np.diff(smooth)).mean() < 0.5 * np.abs(np.diff(rough)).mean()
