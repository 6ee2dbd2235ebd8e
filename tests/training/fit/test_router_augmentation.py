# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Varied copies of images for the modality router."""

from __future__ import annotations

import numpy as np
import pytest

from modeling_medglip.image_processing_medglip import ROUTER_CLASSES
from modeling_medglip.modalities import MODALITIES
from tests.modeling_medglip.test_router import GRAY, RED
from training.data.effects import EFFECTS
from training.data.records import SourceSettingsTable
from training.fit import router_augmentation
from training.fit.router_augmentation import OF_MODALITY, augment, effects_of


GRAY_IMAGE = (GRAY[None] / 255).astype(np.float32)
RED_IMAGE = (RED.transpose(2, 0, 1) / 255).astype(np.float32)


@pytest.mark.parametrize("image", [GRAY_IMAGE, RED_IMAGE], ids=["gray", "color"])
@pytest.mark.parametrize("kind", ROUTER_CLASSES)
def test_augmented_images_stay_images(image: np.ndarray, kind: str) -> None:
    before = image.copy()
    for seed in range(6):
        varied = augment(image, kind, np.random.default_rng(seed))
        assert varied.dtype == np.float32 and varied.shape in ((len(image), *GRAY.shape), (3, *GRAY.shape))
        assert varied.min() >= 0 and varied.max() <= 1 and varied.std() > 0.02
        assert not np.array_equal(varied, image)
    again = [augment(image, kind, np.random.default_rng(3)) for _ in range(2)]
    assert np.array_equal(*again) and np.array_equal(image, before)


def test_effects_are_those_of_the_modality_and_of_any_image() -> None:
    assert set(OF_MODALITY) <= set(MODALITIES)
    for modality in MODALITIES:
        drawn, own = dict(effects_of(modality)), dict(SourceSettingsTable.load().of(modality, "", ()).effects)
        assert set(own) <= set(drawn) <= set(EFFECTS), "draw_effects leaves out an unknown name"
        assert {"text", "narrow_window", "screen_photo"} <= set(drawn) and min(drawn.values()) > 0
    assert dict(effects_of("endoscopy"))["gray"] == 3 and "doppler" not in dict(effects_of("mri"))
    assert set(dict(effects_of("other"))) == set(EFFECTS)


def test_a_variation_that_loses_the_image_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_augmentation, "draw_photometry", lambda image, *arguments: image * 0)
    rng = np.random.default_rng(0)
    assert augment(GRAY_IMAGE, "ct", rng) is GRAY_IMAGE
    assert not augment(GRAY_IMAGE, "other", rng).any(), "a black image is not medical either way"


def test_endoscopy_comes_in_gray_and_in_cold_light() -> None:
    varied = [augment(RED_IMAGE, "endoscopy", np.random.default_rng(seed)) for seed in range(60)]
    spread = [np.ptp(image, axis=0).mean() for image in varied]
    cold = [image for image in varied if image[0].mean() < image[2].mean()]
    assert sum(value < 0.05 for value in spread) >= 3 and len(cold) >= 3
    assert sum(image[0].mean() > 1.3 * image[2].mean() for image in varied) > 20, "most keep their colors"


def test_copies_are_enlarged_parts_and_small_ones_on_one_level(monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.broadcast_to(np.linspace(0.2, 1, 64, dtype=np.float32), (1, 64, 64)).copy()
    monkeypatch.setattr(router_augmentation, "draw_effects", lambda image, *arguments: image)
    monkeypatch.setattr(router_augmentation, "draw_photometry", lambda image, *arguments: image)
    varied = [augment(ramp, "ct", np.random.default_rng(seed)) for seed in range(60)]
    assert sum(np.ptp(image) < 0.55 for image in varied) > 10, "crops"
    assert sum((image == 0).mean() > 0.1 for image in varied) > 10, "black around"
    assert any(np.unique(image[0, :3]).size == 1 and image[0, 0, 0] > 0 for image in varied), "another level around"
