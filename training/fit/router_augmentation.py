# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Varied copies of display images for the training of the modality router: what differs between hospitals.

Every function takes and returns uint8 `(c, h, w)` with one or three channels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from matplotlib import font_manager
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from modeling_medglip.image_processing_medglip import channels_first


Pixels = NDArray[np.uint8]
Rng = np.random.Generator
# Below this spread of gray levels a variation has lost the image and is left out.
LEAST_SPREAD = 10.0
WORDS = (
    "R", "L", "CC", "MLO", "AP", "PA", "cm", "MI 1.1", "TIS 0.4", "Gain 58%", "12:41", "2019-03-07", "ID 004512", "A",
    "W 400 L 40", "SE 3", "IM 41", "T2", "Fr 23", "120 kV", "kVp", "mm", "M", "F 64Y", "DR", "Zoom 1.2", "P",
)  # fmt: skip


def from_pil(image: Image.Image) -> Pixels:
    """Return an 8-bit PIL image as `(c, h, w)`."""
    return channels_first(image)


def to_pil(image: Pixels) -> Image.Image:
    """Return `(c, h, w)` as a PIL image in L or RGB."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def rgb(image: Pixels) -> Pixels:
    """Return `(3, h, w)` of its own memory."""
    return np.array(np.broadcast_to(image, (3, *image.shape[1:])))


def clip(values: NDArray[Any]) -> Pixels:
    """Return float values as uint8."""
    return values.clip(0, 255).round().astype(np.uint8)


def resized(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Return an image resized to (height, width), bilinear."""
    return from_pil(to_pil(image).resize(size[::-1], Image.Resampling.BILINEAR))


def noise_field(shape: tuple[int, int], power: float, rng: Rng) -> NDArray[np.float64]:
    """Return a random field in [0, 1] whose amplitudes fall as 1 / frequency ** power."""
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    frequency[0, 0] = 1 / max(shape)
    spectrum = np.fft.rfft2(rng.normal(size=shape)) / frequency**power
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, s=shape)
    return (field - field.min()) / max(float(np.ptp(field)), 1e-9)


def jpeg(image: Pixels, quality: int) -> Pixels:
    """Return an image through a JPEG file of the given quality."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "JPEG", quality=quality)
    return from_pil(Image.open(buffer))


# Shape ---------------------------------------------------------------------------------------------------------------


def crop(image: Pixels, rng: Rng) -> Pixels:
    """Return a random part with at least 45 % of both sides."""
    rows, columns = (max(8, int(side * rng.uniform(0.45, 1))) for side in image.shape[1:])
    top, left = (
        rng.integers(max(side - part, 0) + 1) for side, part in zip(image.shape[1:], (rows, columns), strict=True)
    )
    return image[:, top : top + rows, left : left + columns]


def pad(image: Pixels, rng: Rng) -> Pixels:
    """Return the image on a larger plane of one gray level, mostly black."""
    level = 0 if rng.random() < 0.85 else int(rng.integers(256))
    reach = max(image.shape[1:]) * rng.uniform(0.02, 0.35)
    around = rng.integers(0, int(reach) + 2, 4) * (rng.random(4) < 0.7)
    return np.pad(image, ((0, 0), (around[0], around[1]), (around[2], around[3])), constant_values=level)


def turn(image: Pixels, rng: Rng) -> Pixels:
    """Return the image flipped, turned by quarters, or by a few degrees on black."""
    kind = rng.random()
    if kind < 0.4:
        return image[:, :, ::-1]
    if kind < 0.55:
        return image[:, ::-1]
    if kind < 0.75:
        return np.rot90(image, int(rng.integers(1, 4)), axes=(1, 2))
    return from_pil(to_pil(np.ascontiguousarray(image)).rotate(float(rng.normal(0, 12)), Image.Resampling.BILINEAR))


def stretch(image: Pixels, rng: Rng) -> Pixels:
    """Return the image in another size and shape."""
    factor, aspect = rng.uniform(0.35, 1.1), np.exp(rng.normal(0, 0.12))
    height, width = image.shape[1:]
    return resized(image, (max(24, round(height * factor * aspect)), max(24, round(width * factor / aspect))))


def coarse(image: Pixels, rng: Rng) -> Pixels:
    """Return the image reduced and enlarged again, or blurred and sharpened."""
    height, width = image.shape[1:]
    factor = rng.uniform(0.25, 0.8)
    small = to_pil(image).resize((max(8, int(width * factor)), max(8, int(height * factor))), Image.Resampling.BOX)
    method = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS)[rng.integers(3)]
    back = from_pil(small.resize((width, height), method))
    if rng.random() < 0.3:
        return clip(image + rng.uniform(0.5, 2) * (image.astype(np.float32) - back))
    return back


# Intensities ---------------------------------------------------------------------------------------------------------


def levels(image: Pixels, rng: Rng) -> Pixels:
    """Return the image with another gamma, window and color cast."""
    values = 255 * (image / np.float32(255)) ** np.float32(np.exp(rng.normal(0, 0.3)))
    if rng.random() < 0.35:
        low, high = np.sort(rng.uniform(0, 255, 2)) * (0.4, 1) + (0, 40)
        values = (values - low) / max(high - low, 30) * 255
    else:
        values = (values - 128) * rng.uniform(0.6, 1.4) + 128 + rng.uniform(-30, 30)
    if len(values) == 3:
        values = values * np.exp(rng.normal(0, 0.08, (3, 1, 1)))
    return clip(values)


def bias_field(image: Pixels, rng: Rng) -> Pixels:
    """Return the image under uneven light, as of a coil or a lamp."""
    field = noise_field((image.shape[1], image.shape[2]), rng.uniform(2, 3.5), rng)
    return clip(image * (1 + rng.uniform(0.2, 0.9) * (field - 0.5)))


def grain(image: Pixels, rng: Rng) -> Pixels:
    """Return the image with noise that is added, or grows with the brightness."""
    noise = rng.normal(0, 1, image.shape[1:])
    if rng.random() < 0.5:
        return clip(image + rng.uniform(1, 14) * noise)
    return clip(image * (1 + rng.uniform(0.03, 0.25) * noise))


def gray(image: Pixels, rng: Rng) -> Pixels:
    """Return a color image in gray, as luminance or as a single channel; gray ones stay."""
    if len(image) == 1:
        return image
    weights = rng.dirichlet((1, 1, 1)) if rng.random() < 0.5 else np.array([0.299, 0.587, 0.114])
    return rgb(clip(np.tensordot(weights, image, axes=1))[None])


def other_light(image: Pixels, rng: Rng) -> Pixels:
    """Return a color image as under narrow bands of light, or in other hues."""
    if len(image) == 1:
        return image
    values = image.astype(np.float32)
    if rng.random() < 0.6:
        green, blue = values[1] * rng.uniform(0.8, 1.3), values[2] * rng.uniform(0.8, 1.4)
        return clip(np.stack([green, blue * rng.uniform(0.8, 1.1), blue]) + rng.uniform(-10, 10, (3, 1, 1)))
    matrix = np.eye(3) + rng.normal(0, 0.22, (3, 3))
    return clip(np.tensordot(matrix / matrix.sum(1, keepdims=True).clip(0.5), values, axes=1))


def false_color(image: Pixels, rng: Rng) -> Pixels:
    """Return a gray image as three contrasts of it in red, green and blue, as sequences of MRI are at times shown."""
    gray_levels = image[:1] / 255.0
    bent = [gray_levels ** np.exp(rng.normal(0, 0.4)) for _ in range(3)]
    bent[rng.integers(3)] = np.sin(gray_levels * rng.uniform(1.2, 3.1)) * rng.uniform(0.6, 1)
    return clip(255 * np.concatenate(bent))


def invert(image: Pixels, rng: Rng) -> Pixels:
    """Return the negative."""
    return 255 - image


def tint(image: Pixels, rng: Rng) -> Pixels:
    """Return a gray image in the sepia or blue of some displays and films; color images stay."""
    if len(image) == 3 and np.ptp(image.astype(np.int16), axis=0).mean() > 4:
        return image
    return clip(rgb(image) * rng.uniform(0.75, 1, (3, 1, 1)))


# What displays and people add ----------------------------------------------------------------------------------------


def font(size: int, rng: Rng) -> ImageFont.FreeTypeFont:
    """Return one of Matplotlib's fonts in a size of pixels."""
    names = ("DejaVu Sans", "DejaVu Sans Mono", "DejaVu Serif", "DejaVu Sans:bold")
    return ImageFont.truetype(font_manager.findfont(names[rng.integers(4)]), size)


def burn_in(image: Pixels, rng: Rng) -> Pixels:
    """Return the image with text near its borders and at times a ruler, a gray or color bar, calipers or a cross."""
    shown = to_pil(rgb(image) if rng.random() < 0.3 else image)
    drawing, (width, height) = ImageDraw.Draw(shown), shown.size
    color = tuple(int(v) for v in rng.integers(150, 256, 3)) if shown.mode == "RGB" else int(rng.integers(150, 256))
    letters = font(max(6, int(min(height, width) * rng.uniform(0.03, 0.09))), rng)
    for _ in range(rng.integers(1, 5)):
        lines = "\n".join(" ".join(rng.choice(WORDS, rng.integers(1, 4))) for _ in range(rng.integers(1, 5)))
        x, y = (rng.choice([0.01, 0.02, 0.65, 0.8]) * width, rng.choice([0.01, 0.03, 0.75, 0.9]) * height)
        drawing.multiline_text((x, y), lines, fill=color, font=letters)
    if rng.random() < 0.4:
        x, step = int(rng.choice([0.02, 0.97]) * width), max(3, int(height * rng.uniform(0.02, 0.07)))
        for number, y in enumerate(range(int(0.1 * height), int(0.9 * height), step)):
            drawing.line((x - (6 if number % 5 == 0 else 3), y, x, y), fill=color)
    if rng.random() < 0.25:
        rows = np.linspace(255, 0, max(8, int(height * 0.3))).astype(np.uint8)
        shown.paste(Image.fromarray(np.tile(rows[:, None], (1, max(3, width // 40)))).convert(shown.mode),
                    (int(rng.choice([0.01, 0.95]) * width), int(0.2 * height)))  # fmt: skip
    for _ in range(rng.integers(0, 4) if rng.random() < 0.3 else 0):
        x, y, reach = rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height, max(2, width // 60)
        drawing.line((x - reach, y, x + reach, y), fill=color)
        drawing.line((x, y - reach, x, y + reach), fill=color)
    return from_pil(shown)


def mask(image: Pixels, rng: Rng) -> Pixels:
    """Return the image black outside a circle, an ellipse, a plane with cut corners or round corners."""
    height, width = image.shape[1:]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    x, y = x - rng.normal(0, 0.08), y - rng.normal(0, 0.08)
    kind, reach = rng.integers(4), rng.uniform(0.75, 1.15)
    if kind == 0:
        scale = np.array([height, width]) / (min(height, width) if rng.random() < 0.5 else max(height, width))
        inside = np.hypot(y * scale[0], x * scale[1]) < reach
    elif kind == 1:
        inside = (np.abs(x) + np.abs(y) < reach * rng.uniform(1.3, 1.6)) & (np.maximum(np.abs(x), np.abs(y)) < reach)
    elif kind == 2:
        inside = np.abs(x) ** 6 + np.abs(y) ** 6 < reach**6
    else:
        inside = (np.hypot(y, x) < reach * 1.1) & (np.abs(y) < reach * rng.uniform(0.65, 0.95))
    level = int(rng.integers(0, 25))
    return np.where(inside[None], image, np.uint8(level))


def screen_photo(image: Pixels, rng: Rng) -> Pixels:
    """Return the image as a photograph of a screen or a film: perspective, moire, glare, cast, blur."""
    values = rgb(image).astype(np.float32)
    height, width = values.shape[1:]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    if rng.random() < 0.7:
        wave = np.sin((x * rng.normal(0, 1) + y * rng.normal(0, 1)) * rng.uniform(0.3, 2.5))
        bent = np.sin((x * rng.normal(0, 1) + y * rng.normal(0, 1)) * rng.uniform(0.02, 0.2))
        tones = rng.uniform(0, 1, (3, 1, 1)) if rng.random() < 0.5 else np.ones((3, 1, 1))
        values = values * (1 + rng.uniform(0.03, 0.2) * wave * (0.5 + 0.5 * bent) * tones)
    center, spread = rng.uniform(0, 1, 2) * (height, width), rng.uniform(0.1, 0.5) * max(height, width)
    glare = np.exp(-((y - center[0]) ** 2 + (x - center[1]) ** 2) / (2 * spread**2))
    values = values * rng.uniform(0.6, 0.95) + rng.uniform(0, 90) * glare + rng.uniform(0, 35)
    photo = to_pil(clip(values * np.exp(rng.normal(0, 0.07, (3, 1, 1)))))
    corners = np.array([(0, 0), (0, height), (width, height), (width, 0)]) + rng.normal(0, 0.06, (4, 2)) * (
        width,
        height,
    )
    backdrop = tuple(int(v) for v in rng.integers(0, 120) * rng.uniform(0.7, 1, 3))
    return from_pil(photo.transform((width, height), Image.Transform.QUAD, corners.ravel().tolist(),
                                    Image.Resampling.BILINEAR, fillcolor=backdrop))  # fmt: skip


def in_a_window(image: Pixels, rng: Rng) -> Pixels:
    """Return the image as part of a screenshot: bars of one color with text around it."""
    height, width = image.shape[1:]
    sides = rng.integers(0, max(height, width) // 4 + 1, 4) * (rng.random(4) < 0.6)
    level = rng.integers(0, 256, (3, 1, 1)) if rng.random() < 0.3 else rng.integers(0, 256)
    canvas = np.empty((3, height + sides[0] + sides[1], width + sides[2] + sides[3]), np.uint8)
    canvas[:] = level
    canvas = burn_in(canvas, rng)
    canvas = rgb(canvas)
    canvas[:, sides[0] : sides[0] + height, sides[2] : sides[2] + width] = image
    return canvas


def fan(image: Pixels, rng: Rng) -> Pixels:
    """Return the image cut to a random sector on black, the shape in which curved ultrasound probes show theirs."""
    height, width = image.shape[1:]
    y, x = np.mgrid[0:height, 0:width]
    tip = -rng.uniform(0, 0.35) * height, rng.uniform(0.4, 0.6) * width
    angle, radius = np.arctan2(x - tip[1], y - tip[0]), np.hypot(x - tip[1], y - tip[0])
    inside = (np.abs(angle) < rng.uniform(0.45, 0.85)) & (radius < rng.uniform(0.9, 1.05) * (height - tip[0]))
    return image * (inside & (radius > -tip[0] * rng.uniform(1.0, 1.15))).astype(np.uint8)


def flow_colors(image: Pixels, rng: Rng) -> Pixels:
    """Return `(3, h, w)` with one or two colored spots, such as those of Doppler ultrasound."""
    colored = rgb(image)
    y, x = np.mgrid[0 : image.shape[1], 0 : image.shape[2]] / np.array(image.shape[1:])[:, None, None]
    for _ in range(rng.integers(1, 3)):
        center, radius = rng.uniform(0.15, 0.85, 2), rng.uniform(0.02, 0.15, 2)
        spot = np.hypot((y - center[0]) / radius[0], (x - center[1]) / radius[1]) < 1
        color = np.array([(220, 40, 20), (20, 60, 220), (230, 200, 40)])[rng.integers(3)]
        colored[:, spot] = (colored[:, spot] * 0.4 + color[:, None] * 0.6).astype(np.uint8)
    return colored


Transform = Callable[[Pixels, Rng], Pixels]
Step = tuple[float, Transform]
# What happens to any image, in this order: chance and function.
STEPS: tuple[Step, ...] = (
    (0.5, crop), (0.45, turn), (0.25, bias_field), (0.15, mask), (0.2, pad), (0.12, in_a_window), (0.25, burn_in),
    (0.06, invert), (0.85, levels), (0.05, tint), (0.85, stretch), (0.25, coarse), (0.35, grain), (0.12, screen_photo),
)  # fmt: skip
# What happens before to images of some kinds.
FIRST: dict[str, tuple[Step, ...]] = {
    "mri": ((0.12, false_color),),
    "ultrasound": ((0.3, fan), (0.15, flow_colors)),
    "endoscopy": ((0.3, mask), (0.2, gray), (0.3, other_light)),
    "fundus": ((0.2, mask), (0.2, gray), (0.1, other_light)),
    "dermoscopy": ((0.1, mask), (0.06, gray), (0.05, other_light)),
    "other": ((0.15, gray), (0.1, other_light), (0.1, mask)),
}


def augment(image: Pixels, kind: str, rng: Rng) -> Pixels:
    """Return a varied copy of a display image.

    Args:
        image (`np.ndarray` of shape `(c, h, w)`): uint8, one or three channels.
        kind (`str`): one of `MODALITIES`, or `"other"`.
        rng (`np.random.Generator`): decides what happens.
    """
    least = 0.0 if kind == "other" else LEAST_SPREAD
    image = apply((*FIRST.get(kind, ()), *STEPS), image, rng, least)
    return jpeg(image, int(rng.integers(25, 96))) if rng.random() < 0.6 else image


def apply(steps: Iterable[Step], image: Pixels, rng: Rng, least: float) -> Pixels:
    """Return the image after steps, each by its chance.

    Args:
        steps (`Iterable[Step]`): chance and function.
        image (`np.ndarray` of shape `(c, h, w)`): uint8.
        rng (`np.random.Generator`): decides what happens.
        least (`float`): standard deviation below which a step has lost the image and is undone.
    """
    for chance, step in steps:
        if rng.random() < chance:
            varied = np.ascontiguousarray(step(image, rng))
            image = varied if varied.std() >= least else image
    return image
