# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Varied copies of images for the training of the modality router, by the effects and the geometry of expert training.

Images are float32 `(1 or 3, h, w)` in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from modeling_medglip.image_processing_medglip import OTHER

from ..data.augmentation import AugmentationFlags, AugmentationRecipe, draw_geometry
from ..data.effects import EFFECTS, draw_effects
from ..data.photometry import draw_photometry
from ..data.records import SourceSettingsTable


Pixels = NDArray[np.float32]
# Below this standard deviation a variation has lost the image and is left out.
LEAST_SPREAD = 0.04
NO_BOXES = np.zeros((0, 4), np.float32)
# Share of images that may be turned upside down or by quarters, and of those with another surrounding than black.
TURNED_SHARE = 0.25
BRIGHT_SHARE = 0.2
RECIPE = AugmentationRecipe(
    scale=(0.65, 2.0),
    aspect=(0.75, 1.33),
    rotate_degrees=20.0,
    rotate_share=0.2,
    brightness=(0.75, 1.3),
    contrast=(0.6, 1.4),
    gamma=(0.55, 1.8),
    saturation=(0.6, 1.4),
    channel_gain=(0.85, 1.15),
    noise_share=0.35,
    noise_level=0.06,
    light_share=0.25,
    light=0.5,
    coarse_share=0.5,
    coarse=(0.3, 0.9),
    jpeg_share=0.6,
    jpeg_quality=(25, 96),
    effects=(0, 4),
)
# How often an effect is drawn relative to the others, beside those of the modality in `source_settings.yaml`: of any
# image, and of those of some modalities.
ANY: Mapping[str, float] = {
    "text": 4, "narrow_window": 3, "screen_photo": 2, "collimation": 1, "endoscope_field": 1, "inverted": 1,
    "gray_bar": 1, "tint": 1, "grain": 1, "speckle": 1,
}  # fmt: skip
OF_MODALITY: Mapping[str, Mapping[str, float]] = {
    "mri": {"false_color": 2},
    "ultrasound": {"sector_field": 4, "doppler": 2},
    "endoscopy": {"endoscope_field": 4, "gray": 3, "narrow_band": 3},
    "fundus": {"gray": 3, "narrow_band": 1.5},
    "dermoscopy": {"gray": 1, "narrow_band": 1},
}


@lru_cache
def effects_of(kind: str) -> tuple[tuple[str, float], ...]:
    """Return names of effects and how often each is drawn.

    Args:
        kind (`str`): one of `ROUTER_CLASSES`; images of `OTHER` get every effect, so that no effect tells the class.
    """
    own = dict(SourceSettingsTable.load().of(kind, "", ()).effects) or dict.fromkeys(EFFECTS, 1.0)
    return tuple({**own, **ANY, **OF_MODALITY.get(kind, {})}.items())


def augment(image: Pixels, kind: str, rng: np.random.Generator) -> Pixels:
    """Return a varied copy of an image.

    Args:
        image (`np.ndarray` of shape `(1 or 3, h, w)`): float32 in [0, 1].
        kind (`str`): one of `ROUTER_CLASSES`.
        rng (`np.random.Generator`): the source of everything random.
    """
    turned = bool(rng.random() < TURNED_SHARE)
    flags = AugmentationFlags(horizontal_flip=True, vertical_flip=turned, quarter_turns=turned, rotate=True)
    geometry = draw_geometry(NO_BOXES, flags, RECIPE, rng)
    fill = float(rng.random()) if rng.random() < BRIGHT_SHARE else 0.0
    values = geometry.resample(torch.from_numpy(image), (image.shape[1], image.shape[2]), fill)
    values = draw_effects(values, NO_BOXES, effects_of(kind), RECIPE.effects, rng)
    varied: Pixels = draw_photometry(values, True, RECIPE, rng).numpy()
    return varied if kind == OTHER or varied.std() >= LEAST_SPREAD else image
