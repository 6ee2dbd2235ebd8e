# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Brightness, contrast, color, blur and noise of augmented images, and the windows of CT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as transforms

from .augmentation import AugmentationRecipe


# The first weight is torchvision's, not the image processor's 0.299, which would change the images of every recipe.
LUMINANCE = torch.tensor([0.2989, 0.587, 0.114])


def display_values(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return raw pixels in [0, 1] as an export to 8 bits shows them: measured units between their percentiles."""
    values = pixels.astype(np.float32)
    if values.min() < 0 or values.max() > 255:
        low, high = np.percentile(values, [0.5, 99.5])
        values = (values - low) * (255 / max(float(high - low), 1e-6))
    return (values.clip(0, 255) / np.float32(255)).astype(np.float32, copy=False)


def approximate_gamma(image: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return a cheap approximation of `image ** gamma` for values in [0, 1] and gamma in [0.5, 2].

    Args:
        image (`torch.Tensor`): values in [0, 1].
        gamma (`float`): exponent, 0.5 to 2.
    """
    if gamma < 1:
        return torch.lerp(image, image.sqrt(), 2 * (1 - gamma))
    return torch.lerp(image, image.square(), gamma - 1)


def draw_photometry(
    image: torch.Tensor, color: bool, recipe: AugmentationRecipe, rng: np.random.Generator
) -> torch.Tensor:
    """Change the look of a float image `(1 or 3, h, w)` in [0, 1]; returns the same shape and range.

    Args:
        image (`torch.Tensor`): `(1 or 3, h, w)` in [0, 1].
        color (`bool`): also change saturation and the gains of the channels.
        recipe (`AugmentationRecipe`): the ranges.
        rng (`np.random.Generator`): the source of everything random.
    """
    mean = float(image.mean())
    contrast, brightness = rng.uniform(*recipe.contrast), rng.uniform(*recipe.brightness)
    image = (image * (contrast * brightness)).add_(mean * (1 - contrast) * brightness).clamp_(0, 1)
    if rng.random() < 0.5:
        image = approximate_gamma(image, float(np.exp(rng.uniform(*np.log(recipe.gamma)))))
    if color and image.shape[0] == 3:
        image = saturated(image, rng.uniform(*recipe.saturation))
        gains = torch.from_numpy(rng.uniform(*recipe.channel_gain, size=(3, 1, 1))).float()
        image = image.mul_(gains).clamp_(0, 1)
    if rng.random() < recipe.light_share:
        image = (image * uneven_light(image.shape[1:], recipe.light, rng)).clamp_(0, 1)
    if rng.random() < recipe.coarse_share:
        image = through_smaller(image, rng.uniform(*recipe.coarse))
    if rng.random() < recipe.jpeg_share:
        image = compressed(image, int(rng.integers(*recipe.jpeg_quality)))
    if rng.random() < recipe.blur_share:
        side = float(np.exp(-0.5 / rng.uniform(0.4, 1.0) ** 2))  # of a Gaussian curve, relative to its middle
        image = softened(image, side / (1 + 2 * side))
    if rng.random() < recipe.noise_share:
        noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        image = (image + noise * rng.uniform(0, recipe.noise_level)).clamp_(0, 1)
    return image


def saturated(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Return a color image `(3, h, w)` in [0, 1] with its colors moved away from gray, or towards it.

    Args:
        image (`torch.Tensor`): `(3, h, w)` in [0, 1].
        factor (`float`): 0 makes it gray, 1 leaves it as it is.
    """
    gray = (LUMINANCE @ image.reshape(3, -1)).reshape(1, *image.shape[1:])
    return torch.lerp(gray, image, factor).clamp_(0, 1)


def softened(image: torch.Tensor, weight: float = 0.25) -> torch.Tensor:
    """Return an image `(c, h, w)` after averaging with its neighbors, in both directions; the border is reflected.

    Args:
        image (`torch.Tensor`): `(c, h, w)`, of two or more pixels each way.
        weight (`float`, *optional*, defaults to `0.25`): of each of the two neighbors.
    """
    for axis in (1, 2):
        count = image.shape[axis]
        soft = image * (1 - 2 * weight)
        soft.narrow(axis, 1, count - 1).add_(image.narrow(axis, 0, count - 1), alpha=weight)
        soft.narrow(axis, 0, count - 1).add_(image.narrow(axis, 1, count - 1), alpha=weight)
        for end, neighbor in ((0, 1), (count - 1, count - 2)):
            soft.select(axis, end).add_(image.select(axis, neighbor), alpha=weight)
        image = soft
    return image


def uneven_light(size: Sequence[int], most: float, rng: np.random.Generator) -> torch.Tensor:
    """Return smooth factors `(h, w)` around 1: a slope and a curvature of at most `most` in a random direction.

    Args:
        size (`Sequence[int]`): height and width.
        most (`float`): largest slope and curvature.
        rng (`np.random.Generator`): the source of everything random.
    """
    y, x = (torch.linspace(-1, 1, count) for count in size)
    angle, slope, curvature = rng.uniform(0, 2 * np.pi), rng.uniform(0, most), rng.uniform(-most, most)
    along = (float(np.cos(angle)) * x[None] + float(np.sin(angle)) * y[:, None]) / np.sqrt(2)
    return 1 + slope * along + curvature * (along.square() - 1 / 6)


def through_smaller(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Resize an image `(c, h, w)` in [0, 1] to a smaller size and back.

    Args:
        image (`torch.Tensor`): `(c, h, w)` in [0, 1].
        factor (`float`): of both sides, below 1.
    """
    full = image.shape[1:]
    small = [max(1, round(side * factor)) for side in full]
    image = torch.nn.functional.interpolate(image[None], size=small, mode="bilinear", antialias=True)
    return torch.nn.functional.interpolate(image, size=full, mode="bilinear")[0]


def compressed(image: torch.Tensor, quality: int) -> torch.Tensor:
    """Compress an image `(1 or 3, h, w)` in [0, 1] as JPEG and decode it.

    Args:
        image (`torch.Tensor`): `(1 or 3, h, w)` in [0, 1].
        quality (`int`): of JPEG, 1 to 100.
    """
    return transforms.jpeg((image * 255).round().byte(), quality).float().div_(255)


# CT ------------------------------------------------------------------------------------------------------------------


def draw_window(display: tuple[float, float], rng: np.random.Generator) -> tuple[float, float]:
    """Draw the (low, high) at which a CT image is shown in gray.

    Four in ten times as it came (`display`); else a soft tissue window, more rarely a lung or a wide one. An image
    that spans little (a brain window) is only narrowed.

    Args:
        display (`tuple[float, float]`): HU shown as black and as white as the image came.
        rng (`np.random.Generator`): the source of everything random.
    """
    low, high = display
    choice = rng.random()
    if choice < 0.4:
        return display
    if high - low < 900:
        return low + rng.uniform(0, 0.1) * (high - low), high - rng.uniform(0, 0.6) * (high - low)
    if choice < 0.8:
        center, width = rng.uniform(0, 90), np.exp(rng.uniform(np.log(250), np.log(700)))
    elif choice < 0.88:
        center, width = rng.uniform(-650, -450), rng.uniform(1200, 1700)
    else:
        center, width = rng.uniform(0, 500), rng.uniform(1200, 2500)
    return center - width / 2, center + width / 2
