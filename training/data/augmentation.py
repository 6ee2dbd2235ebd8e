# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Augmentation: one affine resampling straight to the input size, then brightness, contrast, color, blur and noise.

Boxes are in units of the image (0..1 for width and height). An image is flipped only if the settings of its
source allow it and none of its labels has a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as transforms


@dataclass(frozen=True)
class AugmentationRecipe:
    """Ranges from which an augmentation is drawn.

    Args:
        scale (`tuple[float, float]`): zoom.
        aspect (`tuple[float, float]`): ratio of the horizontal to the vertical zoom.
        keep (`float`): smallest visible share of every box.
        drop (`float`): a box of which less is visible is dropped (only close-ups and turns get there).
        close_share (`float`): share of close-ups, where the source allows them; what leaves the image there is dropped
            as well.
        close_scale (`tuple[float, float]`): zoom of close-ups.
        rotate_degrees (`float`): largest angle.
        rotate_share (`float`): share of the images turned, where the source allows it.
        brightness (`tuple[float, float]`): factors.
        contrast (`tuple[float, float]`): factors.
        gamma (`tuple[float, float]`): exponents.
        saturation (`tuple[float, float]`): factors.
        channel_gain (`tuple[float, float]`): factors, one for each channel.
        blur_share (`float`): share of images that are softened.
        noise_share (`float`): share of images that get noise.
        noise_level (`float`): most noise.
        light_share (`float`): share of images under uneven light (a coil's bias field, a lamp, time gain).
        light (`float`): by how much the brightness differs at most from the mean towards an edge.
        coarse_share (`float`): share of images that go through a smaller size.
        coarse (`tuple[float, float]`): factors of that size.
        jpeg_share (`float`): share of images that are compressed.
        jpeg_quality (`tuple[int, int]`): range of the quality.
        attempts (`int`): draws of a geometry before the image is left as it is.
    """

    scale: tuple[float, float] = (0.75, 1.35)
    aspect: tuple[float, float] = (0.88, 1.12)
    keep: float = 0.6
    drop: float = 0.25
    close_share: float = 0.12
    close_scale: tuple[float, float] = (1.4, 3.5)
    rotate_degrees: float = 7.0
    rotate_share: float = 0.3
    brightness: tuple[float, float] = (0.8, 1.25)
    contrast: tuple[float, float] = (0.75, 1.3)
    gamma: tuple[float, float] = (0.7, 1.4)
    saturation: tuple[float, float] = (0.7, 1.3)
    channel_gain: tuple[float, float] = (0.92, 1.08)
    blur_share: float = 0.1
    noise_share: float = 0.15
    noise_level: float = 0.03
    light_share: float = 0.0
    light: float = 0.35
    coarse_share: float = 0.0
    coarse: tuple[float, float] = (0.35, 0.8)
    jpeg_share: float = 0.0
    jpeg_quality: tuple[int, int] = (25, 80)
    attempts: int = 12


@dataclass(frozen=True)
class AugmentationFlags:
    """What a source allows: see the flags of the same names in `source_settings.yaml`."""

    horizontal_flip: bool = False
    vertical_flip: bool = False
    quarter_turns: bool = False
    rotate: bool = False
    close_ups: bool = False


@dataclass(frozen=True)
class Geometry:
    """Maps the old image to the new one: `new = matrix @ (old - 0.5) + 0.5 + shift`, in units of the image.

    Args:
        matrix (`np.ndarray` of shape `(2, 2)`).
        shift (`np.ndarray` of shape `(2,)`).
    """

    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]

    def map_boxes(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes `(n, 4)` xyxy, 0..1, before clipping.

        Exact for zoom, shift, flips and quarter turns; for other turns it is the box of the turned inscribed ellipse
        (structures are rounder than their boxes).
        """
        center = ((boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5) @ self.matrix.T + 0.5 + self.shift
        half = np.sqrt(((boxes[:, 2:] - boxes[:, :2]) / 2) ** 2 @ (self.matrix.T**2))
        return np.concatenate([center - half, center + half], axis=1).astype(np.float32)

    def resample(self, image: torch.Tensor, size: tuple[int, int], fill: float = 0.0) -> torch.Tensor:
        """Float `(c, h, w)` -> `(c, *size)`, bilinear; `fill` outside the old image.

        Args:
            image (`torch.Tensor`): `(c, h, w)` float values.
            size (`tuple[int, int]`): height and width of the result.
            fill (`float`, *optional*, defaults to `0.0`): value outside the old image.
        """
        inverse = np.linalg.inv(self.matrix)
        x, y = (torch.arange(count, dtype=torch.float32).add_(0.5).mul_(2 / count).sub_(1) for count in size[::-1])
        offset = -2 * inverse @ self.shift
        grid = torch.empty(1, *size, 2)
        for axis in range(2):
            across, down = x * float(inverse[axis, 0]) + float(offset[axis]), y * float(inverse[axis, 1])
            torch.add(across[None], down[:, None], out=grid[0, :, :, axis])
        values = image[None] - fill if fill else image[None]
        values = torch.nn.functional.grid_sample(values, grid, mode="bilinear", align_corners=False)[0]
        return values + fill if fill else values


IDENTITY = Geometry(np.eye(2), np.zeros(2))


def visible_share(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the share of each box `(n, 4)` that is within the image (0..1)."""
    clipped = np.clip(boxes, 0, 1)
    inside = (clipped[:, 2:] - clipped[:, :2]).prod(axis=1)
    return inside / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-9)


def draw_geometry(
    boxes: NDArray[np.float32], flags: AugmentationFlags, recipe: AugmentationRecipe, rng: np.random.Generator
) -> Geometry:
    """Draw a zoom, shift, flip and turn that keeps enough of every box, or a close-up that need not.

    Args:
        boxes (`np.ndarray` of shape `(n, 4)`): xyxy in units of the image.
        flags ([`AugmentationFlags`]): what the source allows.
        recipe ([`AugmentationRecipe`]): the ranges.
        rng (`np.random.Generator`): the source of everything random.
    """
    base = _symmetry(flags, rng)
    if flags.close_ups and rng.random() < recipe.close_share:
        return _draw_close_up(boxes, base, recipe, rng)
    for _ in range(recipe.attempts):
        geometry = _draw_once(base, flags, recipe, rng)
        if len(boxes) == 0 or visible_share(geometry.map_boxes(boxes)).min() >= recipe.keep:
            return geometry
    return Geometry(base, np.zeros(2))


def _symmetry(flags: AugmentationFlags, rng: np.random.Generator) -> NDArray[np.float64]:
    matrix = np.eye(2)
    if flags.horizontal_flip and rng.random() < 0.5:
        matrix[0] *= -1
    if flags.vertical_flip and rng.random() < 0.5:
        matrix[1] *= -1
    if flags.quarter_turns and rng.random() < 0.5:
        matrix = np.array([[0.0, -1.0], [1.0, 0.0]]) @ matrix
    return matrix


def _draw_once(
    base: NDArray[np.float64], flags: AugmentationFlags, recipe: AugmentationRecipe, rng: np.random.Generator
) -> Geometry:
    scale, aspect = np.exp(rng.uniform(*np.log(recipe.scale))), np.sqrt(rng.uniform(*recipe.aspect))
    zoom = np.array([scale * aspect, scale / aspect])
    turn = np.eye(2)
    if flags.rotate and rng.random() < recipe.rotate_share:
        angle = np.deg2rad(rng.uniform(-recipe.rotate_degrees, recipe.rotate_degrees))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    reach = np.abs(zoom - 1) / 2 + 0.05
    return Geometry(turn @ np.diag(zoom) @ base, rng.uniform(-reach, reach))


def _draw_close_up(
    boxes: NDArray[np.float32], base: NDArray[np.float64], recipe: AugmentationRecipe, rng: np.random.Generator
) -> Geometry:
    """Enlarge one of the boxes, or some region without boxes, near the center of the image."""
    scale, aspect = np.exp(rng.uniform(*np.log(recipe.close_scale))), np.sqrt(rng.uniform(*recipe.aspect))
    matrix = np.diag([scale * aspect, scale / aspect]) @ base
    box = boxes[rng.integers(len(boxes))] if len(boxes) else np.array([0.3, 0.3, 0.7, 0.7])
    center = (box[:2] + box[2:]) / 2
    return Geometry(matrix, rng.uniform(-0.25, 0.25, 2) - matrix @ (center - 0.5))


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
    image = (image * (contrast * brightness) + mean * (1 - contrast) * brightness).clamp_(0, 1)
    if rng.random() < 0.5:
        image = approximate_gamma(image, float(np.exp(rng.uniform(*np.log(recipe.gamma)))))
    if color and image.shape[0] == 3:
        image = transforms.adjust_saturation(image, rng.uniform(*recipe.saturation))
        gains = torch.from_numpy(rng.uniform(*recipe.channel_gain, size=(3, 1, 1))).float()
        image = (image * gains).clamp_(0, 1)
    if rng.random() < recipe.light_share:
        image = (image * uneven_light(image.shape[1:], recipe.light, rng)).clamp_(0, 1)
    if rng.random() < recipe.coarse_share:
        image = through_smaller(image, rng.uniform(*recipe.coarse))
    if rng.random() < recipe.jpeg_share:
        image = compressed(image, int(rng.integers(*recipe.jpeg_quality)))
    if rng.random() < recipe.blur_share:
        image = transforms.gaussian_blur(image, [3, 3], [rng.uniform(0.4, 1.0)])
    if rng.random() < recipe.noise_share:
        noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        image = (image + noise * rng.uniform(0, recipe.noise_level)).clamp_(0, 1)
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
