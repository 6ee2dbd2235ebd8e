# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Made-up images for the modality router: kinds without a real one in the data sets, and images that are not medical.

Mammograms are phantoms (a bright, textured half-ellipse at one side of a black plane, with a label): whether real ones
are recognized was not measured. Histology and nuclear medicine are phantoms too. Every phantom is float32
`(1 or 3, h, w)` in [0, 1].
"""

from __future__ import annotations

import io
import string
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import gaussian_filter

from modeling_medglip.image_processing_medglip import channels_first

from ..data.artifacts import burnt_in_text, endoscope_field, sector_field
from ..data.effects import Effect
from ..data.negative_images import smooth_noise, synthetic_image
from ..data.photometry import display_values
from .router_augmentation import NO_BOXES, Pixels


Rng = np.random.Generator
Phantom = Callable[[Rng], Pixels]
SIDE = 192


def _clip(values: NDArray[Any]) -> Pixels:
    return values.clip(0, 1).astype(np.float32)


def _canvas(image: Pixels) -> Image.Image:
    """Return an image as an 8-bit one to draw on."""
    values = (image * 255).round().astype(np.uint8)
    return Image.fromarray(values[0] if len(values) == 1 else np.ascontiguousarray(values.transpose(1, 2, 0)))


def _drawn(canvas: Image.Image) -> Pixels:
    return display_values(channels_first(canvas))


def _with(effect: Effect, image: Pixels, rng: Rng) -> Pixels:
    """Return an image after an effect."""
    changed: Pixels = effect(torch.from_numpy(image), NO_BOXES, rng).numpy()
    return changed


def noise_field(shape: tuple[int, int], power: float, rng: Rng) -> NDArray[np.float64]:
    """Return a random field in [0, 1] whose amplitudes fall as 1 / frequency ** power.

    Args:
        shape (`tuple[int, int]`): height and width.
        power (`float`): see [`~training.data.negative_images.smooth_noise`].
        rng (`np.random.Generator`): the source of everything random.
    """
    field = smooth_noise(rng.normal(size=shape), power)
    return (field - field.min()) / max(float(np.ptp(field)), 1e-9)


def _grid(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return y, x


def mammogram(rng: Rng) -> Pixels:
    """Return a phantom of a mammogram: one breast at a side, at times muscle, mass, calcifications and a label."""
    shown = _breast((SIDE + int(rng.integers(0, 60)), int(SIDE * rng.uniform(0.6, 1.05))), rng)
    image = _clip(shown / max(float(np.quantile(shown, 0.995)), 1e-3))[None]
    image = _labeled(image, rng) if rng.random() < 0.75 else image
    image = image[:, :, ::-1].copy() if rng.random() < 0.5 else image
    return np.concatenate([image, image[:, :, ::-1]], 2) if rng.random() < 0.1 else image


def _breast(size: tuple[int, int], rng: Rng) -> NDArray[np.float64]:
    """Return the brightness `size` of a breast at the left side."""
    (height, width), (y, x) = size, _grid(*size)
    middle, half, depth = rng.uniform(0.42, 0.58), rng.uniform(0.32, 0.55), rng.uniform(0.4, 0.9)
    radius = np.hypot((y - middle) / half, x / depth) ** rng.uniform(0.85, 1.2)
    breast = 1 / (1 + np.exp((radius - 1) * rng.uniform(25, 70)))
    tissue, fibers = noise_field(size, rng.uniform(1.2, 2.0), rng), noise_field(size, 1.0, rng)
    dense = np.exp(-(((radius - rng.uniform(0.1, 0.4)) / rng.uniform(0.3, 0.7)) ** 2)) * tissue ** rng.uniform(1, 3)
    shown = breast * (rng.uniform(0.15, 0.45) + rng.uniform(0.3, 0.9) * dense + 0.12 * (fibers - 0.5))
    if rng.random() < 0.5:
        muscle = x * rng.uniform(1.2, 3) + y * rng.uniform(0.8, 2) < rng.uniform(0.4, 0.9)
        shown = np.where(muscle, np.maximum(shown, rng.uniform(0.5, 0.9) + 0.1 * (fibers - 0.5)), shown)
    if rng.random() < 0.4:
        mass = np.hypot(y - rng.uniform(0.3, 0.7), x - rng.uniform(0.1, 0.5) * depth) / rng.uniform(0.03, 0.1)
        shown = shown + 0.3 * np.exp(-(mass**4)) * breast
    for _ in range(rng.integers(0, 12) if rng.random() < 0.4 else 0):  # calcifications
        shown[int(rng.uniform(0.3, 0.7) * height), int(rng.uniform(0.05, 0.6) * depth * width)] = 1.0
    return shown


def _labeled(image: Pixels, rng: Rng) -> Pixels:
    """Return an image with side and view of a mammogram written at the right."""
    height, width = image.shape[1:]
    text = f"{rng.choice(['R', 'L'])} {rng.choice(['CC', 'MLO', 'ML', 'XCCL'])}"
    corner = rng.uniform(0.55, 0.75) * width, rng.choice([rng.uniform(0.02, 0.2), rng.uniform(0.75, 0.9)]) * height
    drawing, size = ImageDraw.Draw(canvas := _canvas(image)), int(height * rng.uniform(0.04, 0.08))
    drawing.text(corner, text, fill=int(rng.integers(180, 256)), font_size=size)
    return _drawn(canvas)


def head_ct(rng: Rng) -> Pixels:
    """Return a phantom of a CT slice of the head: a bright ring around an even brain, at times a bleeding."""
    y, x = _grid(SIDE, SIDE)
    y, x = y - rng.normal(0.5, 0.03), x - rng.normal(0.5, 0.03)
    radius = np.hypot(y / rng.uniform(0.34, 0.46), x / rng.uniform(0.27, 0.38))
    radius = radius * (
        1 + 0.05 * rng.normal() * np.cos(2 * np.arctan2(y, x)) + 0.03 * rng.normal() * np.sin(3 * np.arctan2(y, x))
    )
    thick, texture = rng.uniform(0.05, 0.16), noise_field((SIDE, SIDE), rng.uniform(0.8, 1.8), rng)
    brain = rng.uniform(0.2, 0.6)
    shown = np.where(radius < 1 - thick, brain + rng.uniform(0.05, 0.25) * (texture - 0.5), 0.0)
    side, top = np.abs(x), y + rng.normal(0, 0.04)
    open_to = rng.uniform(0.02, 0.06)
    ventricle = np.hypot((side - 0.03 - 0.3 * np.abs(top)) / open_to, top / rng.uniform(0.08, 0.16)) < 1
    shown = np.where(ventricle & (radius < 0.6) & (rng.random() < 0.7), brain * rng.uniform(0.2, 0.6), shown)
    if rng.random() < 0.5:
        spot = np.hypot(y - rng.normal(0, 0.12), x - rng.normal(0, 0.1)) / rng.uniform(0.02, 0.1)
        shown = shown + rng.uniform(0.15, 0.4) * np.exp(-(spot**4)) * (radius < 1 - thick)
    shown = np.where((radius >= 1 - thick) & (radius < 1), 1 - 0.15 * texture, shown)
    skin = (radius >= 1) & (radius < 1 + rng.uniform(0.03, 0.1))
    shown = np.where(skin, rng.uniform(0.1, 0.4), shown)
    if rng.random() < 0.4:
        shown = np.maximum(shown, 0.5 * (np.abs(np.hypot(y + 0.1, x) - 0.55) < 0.012) * (y > 0.2))
    return _clip(shown)[None]


def ultrasound(rng: Rng) -> Pixels:
    """Return a phantom of an ultrasound image: speckle that grows with depth, dark and bright parts, outlines."""
    y, x = _grid(SIDE, SIDE)
    waves = rng.normal(size=(2, SIDE, SIDE))
    along, across = rng.uniform(0.4, 1.0), rng.uniform(1.0, 3.0)
    speckle = np.hypot(*gaussian_filter(waves, (0, along, across)))
    echo = 0.2 + 0.6 * noise_field((SIDE, SIDE), rng.uniform(1.2, 2.5), rng) ** rng.uniform(1, 3)
    for _ in range(rng.integers(1, 6)):
        turned, center = rng.uniform(0, np.pi), rng.uniform(0.2, 0.8, 2)
        down, right = y - center[0], x - center[1]
        first, second = down * np.cos(turned) + right * np.sin(turned), right * np.cos(turned) - down * np.sin(turned)
        radius = np.hypot(first / rng.uniform(0.05, 0.4), second / rng.uniform(0.05, 0.35))
        echo = np.where(radius < 1, echo * rng.uniform(0.05, 1.5), echo)
        if rng.random() < 0.6:
            outline = np.exp(-(((radius - 1) / rng.uniform(0.03, 0.12)) ** 2))
            echo = echo + rng.uniform(0.3, 2) * outline * np.abs(np.cos(np.arctan2(down, right) + rng.normal()))
    if rng.random() < 0.4:
        echo = echo * (
            1 - rng.uniform(0.4, 0.9) * (np.abs(x - rng.uniform(0.2, 0.8)) < rng.uniform(0.03, 0.15)) * (y > 0.4)
        )
    shown = np.log1p(rng.uniform(3, 40) * echo * speckle / speckle.mean()) * (1 - rng.uniform(0, 0.6) * y)
    image = _clip(shown / np.quantile(shown, 0.998))[None]
    return _with(sector_field, image, rng) if rng.random() < 0.6 else image


def endoscopy(rng: Rng) -> Pixels:
    """Return a phantom of an endoscope's view: lit, folded, wet walls around a dark opening."""
    y, x = _grid(SIDE, SIDE)
    bumps = noise_field((SIDE, SIDE), rng.uniform(1.8, 2.6), rng)
    away = np.hypot(y - rng.uniform(0.1, 0.9), x - rng.uniform(0.1, 0.9)) + 0.25 * (bumps - 0.5)
    folds = 0.5 + 0.5 * np.sin(rng.uniform(4, 14) * np.log(away.clip(0.02)) + 4 * bumps)
    light = np.exp(-(((away - rng.uniform(0.3, 0.7)) / rng.uniform(0.25, 0.6)) ** 2)) * (0.6 + 0.5 * folds)
    if rng.random() < 0.4:
        polyp = np.hypot(y - rng.uniform(0.25, 0.75), x - rng.uniform(0.25, 0.75)) / rng.uniform(0.08, 0.25)
        light = np.where(polyp < 1, light * 0.5 + 0.8 * np.sqrt((1 - polyp**2).clip(0)), light)
    vessels = np.abs(noise_field((SIDE, SIDE), 1.4, rng) - 0.5) < 0.012
    color = np.array([1.0, rng.uniform(0.35, 0.7), rng.uniform(0.2, 0.6)])[:, None, None]
    fade = np.array([0.1, 0.5, 0.5])[:, None, None] * rng.uniform(0, 0.8) * vessels
    image = light * (color + 0.12 * (noise_field((SIDE, SIDE), 1.2, rng) - 0.5)) * (1 - fade)
    wet = gaussian_filter(rng.normal(size=(SIDE, SIDE)), rng.uniform(1, 3)) * (0.3 + light) * (0.5 + folds)
    image = np.where(wet > np.quantile(wet, 1 - rng.uniform(0, 0.03)), 0.98, image * rng.uniform(0.8, 1.5))
    return _with(endoscope_field, _clip(image), rng) if rng.random() < 0.5 else _clip(image)


MEDICAL: dict[str, tuple[str, Phantom]] = {
    "mammogram_phantoms": ("xray", mammogram),
    "head_phantoms": ("ct", head_ct),
    "ultrasound_phantoms": ("ultrasound", ultrasound),
    "endoscopy_phantoms": ("endoscopy", endoscopy),
}


# Images that are not medical ----------------------------------------------------------------------------------------


def chart(rng: Rng) -> Pixels:
    """Return a figure as papers and slides hold: lines, bars, points, shares, a map of values or a signal."""
    background = str(rng.choice(["white", "white", "0.9", "black"]))
    figure = Figure(figsize=(3, rng.uniform(1.8, 3.2)), dpi=80, facecolor=background)
    axes, values = figure.subplots(), rng.normal(size=(int(rng.integers(1, 5)), int(rng.integers(5, 80))))
    _plot(axes, values, rng)
    if rng.random() < 0.5:
        axes.set_title("".join(rng.choice(list(string.ascii_lowercase + " "), 14)))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return _drawn(Image.open(buffer).convert("RGB"))


def _plot(axes: Axes, values: NDArray[np.float64], rng: Rng) -> None:
    """Plot values `(rows, columns)` in one of six ways."""
    kind = rng.integers(6)
    if kind == 0:
        axes.plot(values.cumsum(1).T)
    elif kind == 1:
        axes.bar(range(values.shape[1]), np.abs(values[0]), color=rng.uniform(0, 1, 3))
    elif kind == 2:
        axes.scatter(values[0], rng.normal(size=values.shape[1]), c=rng.uniform(0, 1, values.shape[1]))
    elif kind == 3:
        axes.pie(np.abs(values[0][:6]) + 0.1)
    elif kind == 4:
        maps = ("viridis", "gray", "hot", "jet", "Blues")
        axes.imshow(noise_field((30, 30), rng.uniform(0, 2), rng), cmap=str(rng.choice(maps)))
    else:
        beats = np.exp(-(((np.linspace(0, 8, 400) % 1 - 0.4) / 0.03) ** 2)) + 0.05 * rng.normal(size=400)
        axes.plot(beats, color="black", linewidth=0.8)
        axes.grid(color="pink")


def histology(rng: Rng) -> Pixels:
    """Return a phantom of a stained section: dark dots on a colored, uneven ground with white gaps."""
    ground = noise_field((SIDE, SIDE), rng.uniform(1.2, 2), rng)
    stain, dots = rng.uniform((190, 110, 160), (250, 190, 220)), rng.uniform((50, 20, 90), (130, 90, 170))
    if rng.random() < 0.3:
        stain, dots = rng.uniform((180, 180, 200), (235, 230, 240)), rng.uniform((80, 40, 20), (150, 100, 60))
    image = stain[:, None, None] + (ground - 0.5) * rng.uniform(20, 110)
    gaps = noise_field((SIDE, SIDE), 2, rng) > rng.uniform(0.6, 1)
    image = np.where(gaps, 235 + 10 * ground, image)
    canvas = _canvas(_clip(image / 255))
    drawing, size = ImageDraw.Draw(canvas), rng.uniform(1, 7)
    for x, y in rng.uniform(0, SIDE, (int(rng.uniform(1500, 9000) / size**1.5), 2)):
        wide, high = size * rng.uniform(0.6, 1.4, 2)
        color = tuple(int(v) for v in (dots + rng.normal(0, 18, 3)).clip(0, 255))
        if not gaps[int(y), int(x)]:
            drawing.ellipse((x - wide, y - high, x + wide, y + high), fill=color)
    return _drawn(canvas.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.2)))))


def nuclear(rng: Rng) -> Pixels:
    """Return a phantom of a PET or bone scan: a faint body with hot spots, dark on light or in colors of heat."""
    height, width = int(SIDE * rng.uniform(1, 1.8)), int(SIDE * rng.uniform(0.6, 1.2))
    y, x = _grid(height, width)
    x = np.abs(x - 0.5)
    body: NDArray[Any] = np.zeros((height, width))
    for top, tall, wide in ((0.1, 0.08, 0.1), (0.35, 0.2, 0.22), (0.6, 0.15, 0.18), (0.8, 0.25, 0.13)):
        body = np.maximum(body, np.hypot((y - top) / tall, x / (wide * rng.uniform(0.8, 1.6))) < 1)
    if rng.random() < 0.4:
        body = np.hypot((y - 0.5) / rng.uniform(0.3, 0.45), x / rng.uniform(0.25, 0.45)) < 1
    counts: NDArray[Any] = body * (0.08 + 0.12 * noise_field((height, width), 1.5, rng))
    for _ in range(rng.integers(2, 9)):
        spot = np.hypot(
            (y - rng.uniform(0.05, 0.85)) / rng.uniform(0.01, 0.08), (x - rng.uniform(0, 0.2)) / rng.uniform(0.02, 0.1)
        )
        counts = counts + rng.uniform(0.2, 1) * np.exp(-(spot**2)) * (rng.random() + 0.3 * body)
    counts = rng.poisson(counts.clip(0) * rng.uniform(30, 400))
    image = gaussian_filter(counts / max(counts.max(), 1), rng.uniform(0.8, 3))[None]
    image = image / max(image.max(), 1e-6)
    if rng.random() < 0.3:
        return _clip(np.concatenate([3 * image, 3 * image - 1, 3 * image - 2]))
    return _clip(1 - image if rng.random() < 0.7 else image)


def microscopy(rng: Rng) -> Pixels:
    """Return a phantom of fluorescent cells: soft bright spots on black, gray or in one or two colors."""
    y, x = _grid(SIDE, SIDE)
    planes = []
    for _ in range(3 if rng.random() < 0.5 else 1):
        plane = 0.05 * noise_field((SIDE, SIDE), 1, rng)
        for _ in range(rng.integers(0, 16)):
            spot = np.hypot(
                (y - rng.uniform(0, 1)) / rng.uniform(0.01, 0.12), (x - rng.uniform(0, 1)) / rng.uniform(0.01, 0.12)
            )
            plane = plane + rng.uniform(0.2, 1) * np.exp(-(spot ** rng.choice([2, 6])))
        planes.append(plane)
    return _clip(np.stack(planes))


def empty_viewer(rng: Rng) -> Pixels:
    """Return a black or gray plane with text and rulers only."""
    image = np.full((1, SIDE, SIDE), rng.uniform(0, 0.25), np.float32)
    for _ in range(rng.integers(1, 4)):
        image = _with(burnt_in_text, image, rng)
    return image


def _synthetic(*kinds: str) -> Phantom:
    """Return what draws a synthetic image of some kinds."""
    return lambda rng: synthetic_image((SIDE, SIDE), rng, kinds)


NOT_MEDICAL: dict[str, Phantom] = {
    "noise": _synthetic("noise", "clouds"), "flat": _synthetic("flat", "gradient", "stripes", "shapes"),
    "page": _synthetic("page"), "chart": chart, "histology": histology, "nuclear": nuclear, "microscopy": microscopy,
    "empty_viewer": empty_viewer,
}  # fmt: skip
