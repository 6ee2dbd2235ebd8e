# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What makes images of other hospitals look different: light, color, contrast, sharpness, noise, and artifacts.

Which of them suit a modality, and how often each is drawn, is in `source_settings.yaml`; how many are drawn for an
image is in a recipe. Every effect takes a float image `(1 or 3, h, w)` in [0, 1], the boxes in it, `(n, 4)` xyxy in
units of the image, and the source of everything random, and returns the image. `COLORING` effects give a gray image
three channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from .artifacts import (
    Boxes,
    burnt_in_text,
    collimation,
    color_chart,
    doppler,
    endoscope_field,
    gray_bar,
    hair,
    highlights,
    round_field,
    sector_field,
)
from .photometry import compressed, softened, through_smaller, uneven_light


Effect = Callable[[torch.Tensor, Boxes, np.random.Generator], torch.Tensor]
# Not the image processor's, which are float32: gains from those would differ in their last bits, and so would images.
LUMINANCE = np.array([0.299, 0.587, 0.114])
# Rows are luminance and two differences of colors (the YIQ space of television).
TO_YIQ = np.array([LUMINANCE, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
LEVELS = np.linspace(0, 1, 256)


def draw_effects(
    image: torch.Tensor,
    boxes: Boxes,
    effects: Sequence[tuple[str, float]],
    count: tuple[int, int],
    rng: np.random.Generator,
) -> torch.Tensor:
    """Return the image after some effects, in the order in which they arise.

    Args:
        image (`torch.Tensor`): `(1 or 3, h, w)` in [0, 1].
        boxes (`np.ndarray` of shape `(n, 4)`): xyxy in units of the image; masks and text leave them visible.
        effects (`Sequence[tuple[str, float]]`): names of `EFFECTS`, each with how often it is drawn relative to the
            others.
        count (`tuple[int, int]`): least and largest number of effects.
        rng (`np.random.Generator`): the source of everything random.
    """
    number = min(int(rng.integers(count[0], count[1] + 1)), len(effects))
    if number == 0:
        return image
    weights = np.array([weight for _, weight in effects])
    chosen = {
        effects[index][0] for index in rng.choice(len(effects), number, replace=False, p=weights / weights.sum())
    }
    for name, effect in EFFECTS.items():
        if name in chosen:
            image = effect(image, boxes, rng)
    return image


# Color ---------------------------------------------------------------------------------------------------------------


def _mixed(image: torch.Tensor, matrix: NDArray[np.float64]) -> torch.Tensor:
    """Return the image with new channels `matrix @ old`; an image of one channel stays as it is."""
    if image.shape[0] == 1:
        return image
    mixed = torch.from_numpy(matrix).float() @ image.reshape(3, -1)
    return mixed.reshape(image.shape).clamp_(0, 1)


def _white_balance(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Change the gains of the channels at the same luminance of white."""
    gains = np.exp(rng.uniform(np.log(0.8), np.log(1.25), 3))
    return _mixed(image, np.diag(gains / (LUMINANCE @ gains)))


def _hue(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Turn hues by up to 25 degrees and change the saturation; the luminance stays."""
    angle, saturation = np.deg2rad(rng.uniform(-25, 25)), rng.uniform(0.5, 1.4)
    turn = np.eye(3)
    turn[1:, 1:] = saturation * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return _mixed(image, np.linalg.inv(TO_YIQ) @ turn @ TO_YIQ)


def _narrow_band(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Show green light as red, and blue light as green and blue, as endoscopes with narrow-band light do."""
    red, green, blue = rng.uniform(0.8, 1.2), rng.uniform(0.85, 1.2), rng.uniform(0.7, 1.1)
    return _mixed(image, np.array([[0.15, 0.85 * red, 0.0], [0.0, 0.3, 0.7 * green], [0.0, 0.15, 0.85 * blue]]))


def _gray(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Show one gray mixture of the channels."""
    weights = rng.dirichlet([1.0, 2.0, 1.0])
    return _mixed(image, np.tile(weights, (3, 1)))


def _tint(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Give white the sepia or blue of some displays and films."""
    return image * torch.from_numpy(rng.uniform(0.75, 1, (3, 1, 1))).float()


def _false_color(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Show three contrasts in red, green and blue, as composites of MRI sequences do."""
    gray = image.mean(dim=0, keepdim=True)
    planes = [_curved(gray, LEVELS ** np.exp(rng.normal(0, 0.4))) for _ in range(3)]
    planes[rng.integers(3)] = _curved(gray, np.sin(LEVELS * rng.uniform(1.2, 3.1)) * rng.uniform(0.6, 1))
    return torch.cat(planes)


# Light and contrast --------------------------------------------------------------------------------------------------


def _bias_field(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Light the image unevenly, as a coil or a lamp at one side does."""
    return (image * uneven_light(image.shape[1:], 0.55, rng)).clamp_(0, 1)


def _vignette(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Darken the image away from a place near its center."""
    y, x = (torch.linspace(-1, 1, side) - float(rng.uniform(-0.3, 0.3)) for side in image.shape[1:])
    strength, sharpness = float(rng.uniform(0.25, 0.6)), float(rng.uniform(0.5, 1.0))
    distance = (x.square()[None] + y.square()[:, None]) * sharpness
    return image * (1 - strength * distance.clamp_(max=1.0))


def _curved(image: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
    """Return the image through a curve, given at 256 levels."""
    levels = (image * 255).add_(0.5).clamp_(0, 255).byte().numpy()
    return torch.from_numpy(np.take(values.astype(np.float32), levels))


def _tone_curve(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Apply a random rising curve, so that every order of gray levels stays and every distance changes."""
    steps = rng.dirichlet(np.full(5, 3.0))
    knots = np.concatenate([[0.0], np.cumsum(steps)])
    return _curved(image, np.interp(LEVELS, np.linspace(0, 1, 6), knots))


def _exposure(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Over- or underexpose."""
    gain, gamma = np.exp(rng.uniform(np.log(0.75), np.log(1.4))), np.exp(rng.uniform(np.log(0.6), np.log(1.45)))
    return _curved(image, np.clip(gain * LEVELS, 0, 1) ** gamma)


def _dynamic_range(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Cut off faint and bright echoes, or compress them."""
    low, high, gamma = rng.uniform(-0.1, 0.1), rng.uniform(0.7, 1.15), np.exp(rng.uniform(np.log(0.6), np.log(1.5)))
    curve = np.clip((LEVELS - low) / (high - low), 0, 1) ** gamma
    return _curved(image, np.where(LEVELS < 2 / 255, 0, curve))  # outside of the field it stays black


def _time_gain(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Amplify some depths more than others."""
    gains = np.interp(np.linspace(0, 5, image.shape[1]), np.arange(6), np.exp(rng.uniform(-0.35, 0.35, 6)))
    return (image * torch.from_numpy(gains).float()[None, :, None]).clamp_(0, 1)


def _narrow_window(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Show a part of the gray levels from black to white."""
    low, high = np.sort(rng.random(2)) * (0.4, 1.0) + (0, 0.15)
    return _curved(image, np.clip((LEVELS - low) / max(high - low, 0.12), 0, 1))


def _inverted_tissue(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Invert the contrast within the body, as other sequences do, and leave air and bone dark."""
    tissue = np.clip(LEVELS / rng.uniform(0.06, 0.14) - 0.5, 0, 1)
    falling = 1 - np.cumsum(np.concatenate([[0.0], rng.dirichlet([3, 3, 3])]))
    return _curved(image, tissue * np.interp(LEVELS, np.linspace(0, 1, 4), falling))


def _inverted(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Show high values dark, as films of MONOCHROME1 that a reader took for others."""
    return 1 - image


# Sharpness and noise -------------------------------------------------------------------------------------------------


def _sharpen(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Strengthen edges, as sharp reconstruction kernels and cameras do."""
    return softened(image).lerp_(image, 1 + float(rng.uniform(0.5, 1.5))).clamp_(0, 1)


def _soften(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Blur a little: out of focus, or a soft reconstruction kernel."""
    for _ in range(rng.integers(1, 4)):
        image = softened(image)
    return image


def _ringing(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Cut off high frequencies, in one direction more than in the other, which leaves ringing at edges."""
    height, width = image.shape[1:]
    waves = torch.fft.rfft2(image)
    rows, columns = (int(side / 2 * rng.uniform(0.25, 0.6)) for side in (height, width))
    waves[:, rows : height - rows], waves[:, :, columns:] = 0, 0
    return torch.fft.irfft2(waves, s=(height, width)).clamp_(0, 1)


def _normal(size: Sequence[int], coarse: float, rng: np.random.Generator) -> torch.Tensor:
    """Return Gaussian noise `(1, h, w)` of deviation 1, with grains of `coarse` pixels."""
    small = [max(2, round(side / coarse)) for side in size]
    noise = torch.from_numpy(rng.standard_normal((1, 1, *small), dtype=np.float32))
    if coarse > 1:
        noise = torch.nn.functional.interpolate(noise, size=tuple(size), mode="bilinear").mul_(1.5)
    return noise[0]


def _grain(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Add gray noise."""
    coarse = 1.0 if rng.random() < 0.5 else rng.uniform(1.2, 2.2)
    return (image + _normal(image.shape[1:], coarse, rng) * float(rng.uniform(0.01, 0.05))).clamp_(0, 1)


def _magnitude_noise(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Add the noise of magnitude images, which brightens the air."""
    noise = _normal(image.shape[1:], rng.uniform(1.0, 2.0), rng) * float(rng.uniform(0.01, 0.05))
    return (image + noise).abs_().clamp_(max=1)


def _speckle(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Multiply by the grains of ultrasound."""
    noise = _normal(image.shape[1:], rng.uniform(1.3, 3.0), rng) * float(rng.uniform(0.08, 0.25))
    return (image * (1 + noise)).clamp_(0, 1)


def _grid_lines(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Add the lines of an antiscatter grid or of a screen."""
    along, phase, period = int(rng.integers(1, 3)), rng.uniform(0, 6), rng.uniform(2.2, 9)
    wave = np.sin(np.arange(image.shape[along]) * (2 * np.pi / period) + phase) * rng.uniform(0.01, 0.04)
    lines = torch.from_numpy(wave).float()
    return (image + (lines[:, None] if along == 1 else lines)).clamp_(0, 1)


# Photographs of a display --------------------------------------------------------------------------------------------


def _waves(size: Sequence[int], frequency: float, rng: np.random.Generator) -> torch.Tensor:
    """Return a wave `(h, w)` in a random direction of about so many radians per pixel, -1 to 1."""
    down, across = (torch.arange(side) * float(rng.normal(0, frequency)) for side in size)
    return torch.sin(down[:, None] + across[None])


def _screen_photo(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Photograph a screen or a film: moire, a glare, raised black, and a cast."""
    size = image.shape[1:]
    if rng.random() < 0.7:
        fine, broad = (_waves(size, float(rng.uniform(*reach)), rng) for reach in ((0.3, 2.5), (0.02, 0.2)))
        strength = rng.uniform(0.03, 0.2) * (rng.random((3, 1, 1)) if rng.random() < 0.5 else np.ones((3, 1, 1)))
        image = image * (1 + torch.from_numpy(strength).float() * fine * (0.5 + 0.5 * broad))
    y, x = (torch.arange(side) - float(rng.random()) * side for side in size)
    spread = float(rng.uniform(0.1, 0.5)) * max(size)
    glare = torch.exp(-(y.square()[:, None] + x.square()[None]) / (2 * spread**2))
    lit, bright, black = rng.uniform((0.6, 0.0, 0.0), (0.95, 0.35, 0.14)).tolist()
    gains = torch.from_numpy(np.exp(rng.normal(0, 0.07, (3, 1, 1)))).float()
    return ((image * lit + bright * glare + black) * gains).clamp_(0, 1)


# Storage -------------------------------------------------------------------------------------------------------------


def _coarse(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Go through a smaller size."""
    return through_smaller(image, float(rng.uniform(0.35, 0.75)))


def _jpeg(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Compress strongly."""
    return compressed(image, int(rng.integers(20, 70)))


# In the order in which they arise: the scene, the device, its display, the storage.
EFFECTS: Mapping[str, Effect] = {
    "hair": hair,
    "color_chart": color_chart,
    "highlights": highlights,
    "doppler": doppler,
    "bias_field": _bias_field,
    "vignette": _vignette,
    "inverted_tissue": _inverted_tissue,
    "tone_curve": _tone_curve,
    "exposure": _exposure,
    "dynamic_range": _dynamic_range,
    "time_gain": _time_gain,
    "white_balance": _white_balance,
    "hue": _hue,
    "narrow_band": _narrow_band,
    "gray": _gray,
    "false_color": _false_color,
    "ringing": _ringing,
    "soften": _soften,
    "speckle": _speckle,
    "grain": _grain,
    "magnitude_noise": _magnitude_noise,
    "sharpen": _sharpen,
    "grid_lines": _grid_lines,
    "endoscope_field": endoscope_field,
    "round_field": round_field,
    "sector_field": sector_field,
    "collimation": collimation,
    "inverted": _inverted,
    "narrow_window": _narrow_window,
    "gray_bar": gray_bar,
    "text": burnt_in_text,
    "tint": _tint,
    "screen_photo": _screen_photo,
    "coarse": _coarse,
    "jpeg": _jpeg,
}
COLORING = ("doppler", "false_color", "tint", "screen_photo")
