# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Made-up images for the modality router."""

from __future__ import annotations

import numpy as np
import pytest

from training.fit import router_phantoms


PHANTOMS = router_phantoms.NOT_MEDICAL | {name: draw for name, (_, draw) in router_phantoms.MEDICAL.items()}


@pytest.mark.parametrize("name", PHANTOMS)
def test_phantoms_are_images_and_differ(name: str) -> None:
    draw = PHANTOMS[name]
    images = [draw(np.random.default_rng(seed)) for seed in (0, 1, 0)]
    for image in images:
        assert image.dtype == np.float32 and image.ndim == 3 and len(image) in (1, 3) and min(image.shape[1:]) > 80
        assert image.min() >= 0 and image.max() <= 1
    assert np.array_equal(images[0], images[2])
    assert images[0].shape != images[1].shape or not np.array_equal(images[0], images[1])


def test_a_mammogram_is_bright_at_one_side_of_black() -> None:
    for seed in range(6):
        image = 255 * router_phantoms.mammogram(np.random.default_rng(seed))[0].astype(float)
        if np.array_equal(image, image[:, ::-1]):  # both breasts
            image = image[:, : image.shape[1] // 2]
        left, right = image[:, :8].mean(), image[:, -8:].mean()
        assert max(left, right) > 3 * min(left, right) + 5
        assert 0.1 < (image < 20).mean() < 0.9
