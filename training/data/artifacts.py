# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What lies over the object in images of other makers: fields of view, burnt-in text, calipers, colors of flow, hair.

All is drawn at random places that do not depend on the labels, so that it is a cue for none. Functions take a float
image `(1 or 3, h, w)` in [0, 1] and the boxes in it, `(n, 4)` xyxy in units of the image, and return the image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont


Boxes = NDArray[np.float32]
Values = NDArray[np.float32]
# Takes x and y from -1 to 1 and a factor by which the field is enlarged; the field is where the value is below 1.
Field = Callable[[Values, Values, float], Values]
GLYPHS = np.array(
    list("ABCDEFGHIJKLMNOPRSTUVWXYZabcdefghiklmnoprstuvwxyz0123456789012345678901234567890123456789.:/-+% ")
)
# Factors by which a field is enlarged until every object lies in it.
ENLARGED = (1.0, 1.12, 1.25, 1.4, 1.6)
# Objects lie so far within a field, whose border is soft.
CLEAR = 0.97
# Largest share of a box that text or a sticker may cover.
COVERED = 0.1
# Gray level below which nothing is lit.
UNLIT = 0.08
# Of the blood in Doppler ultrasound: towards the probe, away from it, and turbulent.
FLOW_COLORS = np.array([[0.86, 0.16, 0.08], [0.08, 0.24, 0.86], [0.9, 0.78, 0.16]])
TURNS = np.linspace(0, 2 * np.pi, 16, endpoint=False)


# Fields of view ------------------------------------------------------------------------------------------------------


def endoscope_field(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Black out what is outside a round, rectangular or cut-corner field."""
    power = int(rng.choice([2, 2, 4, 8]))
    radius, center = rng.uniform(0.8, 1.15, 2), rng.uniform(-0.12, 0.12, 2)
    corner = rng.uniform(1.3, 1.7) if rng.random() < 0.5 else 4.0
    flat = rng.uniform(0.75, 1.0, 2) if rng.random() < 0.5 else np.ones(2)

    def field(x: Values, y: Values, grow: float) -> Values:
        across, down = np.abs(x - center[0]) / (radius[0] * grow), np.abs(y - center[1]) / (radius[1] * grow)
        value = np.maximum(across**power + down**power, (across + down) / corner)
        return np.maximum(value, np.maximum(across / flat[0], down / flat[1]))

    return _within(image, boxes, field, rng.uniform(0, 0.05))


def round_field(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Black out what is outside a circle, which may be cut above and below, as in photographs of the retina."""
    radius, center = rng.uniform(0.75, 1.1), rng.uniform(-0.1, 0.1, 2)
    flat = rng.uniform(0.75, 1.0) if rng.random() < 0.4 else 1.0

    def field(x: Values, y: Values, grow: float) -> Values:
        across, down = (x - center[0]) / (radius * grow), (y - center[1]) / (radius * grow)
        return np.maximum(across**2 + down**2, np.abs(down) / flat)

    return _within(image, boxes, field, rng.uniform(0, 0.03))


def sector_field(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Black out what is outside the fan of a curved or phased ultrasound probe."""
    apex, depth, slope = rng.uniform(-0.15, 0.15), rng.uniform(1.05, 1.8), np.tan(rng.uniform(0.5, 0.95))
    radius, skin = 1 + depth - rng.uniform(0, 0.25), depth - rng.uniform(0.85, 1.0)

    def field(x: Values, y: Values, grow: float) -> Values:
        across, down = x - apex, y + depth
        distance = np.sqrt(across**2 + down**2)
        sides = np.abs(across) / (down * (slope * grow))
        return np.maximum(np.maximum(sides, distance / (radius * grow)), skin / (distance * grow))

    return _within(image, boxes, field, rng.uniform(0, 0.04))


def collimation(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Darken, or rarely whiten, what is outside a slightly turned rectangle."""
    angle, half, center = np.deg2rad(rng.uniform(-5, 5)), rng.uniform(0.75, 1.1, 2), rng.uniform(-0.12, 0.12, 2)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))

    def field(x: Values, y: Values, grow: float) -> Values:
        across, down = x - center[0], y - center[1]
        turned = np.abs(across * cos + down * sin) / (half[0] * grow), np.abs(down * cos - across * sin) / half[1]
        return np.maximum(turned[0], turned[1] / np.float32(grow))

    return _within(image, boxes, field, rng.uniform(0.95, 1) if rng.random() < 0.1 else rng.uniform(0, 0.15))


def _within(image: torch.Tensor, boxes: Boxes, field: Field, fill: float) -> torch.Tensor:
    """Fill what is outside a field; the image stays as it is where the field cannot hold all objects."""
    x, y = (np.linspace(-1, 1, count, dtype=np.float32) for count in image.shape[:0:-1])
    across, down = _outlines(boxes)
    for grow in ENLARGED:
        if (field(across, down, grow) < CLEAR).all():
            edge = min(image.shape[1:]) / 4  # a transition of about two pixels
            inside = np.clip((1 - field(x[None], y[:, None], grow)) * edge, 0, 1).astype(np.float32)
            return torch.lerp(image.new_full((1, 1, 1), fill), image, torch.from_numpy(inside)[None])
    return image


def _outlines(boxes: Boxes) -> tuple[Values, Values]:
    """Return x and y, -1 to 1, of points on the ellipses in the boxes."""
    center, half = boxes[:, :2] + boxes[:, 2:] - 1, boxes[:, 2:] - boxes[:, :2]
    across, down = center[:, :1] + half[:, :1] * np.cos(TURNS), center[:, 1:] + half[:, 1:] * np.sin(TURNS)
    return across.ravel().astype(np.float32), down.ravel().astype(np.float32)


# Drawn things --------------------------------------------------------------------------------------------------------


def burnt_in_text(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Write random glyphs, mostly near the border, and draw a ruler, calipers or an arrow."""
    height, width = image.shape[1:]
    canvas = Image.new("L", (width, height))
    draw, side = ImageDraw.Draw(canvas), min(height, width)
    for _ in range(rng.integers(1, 3)):
        _write(draw, (width, height), boxes, rng)
    for paint, share in ((_ruler, 0.4), (_calipers, 0.35), (_arrow, 0.2)):
        if rng.random() < share:
            paint(draw, (width, height), side, rng)
    color = rng.choice([[1.0, 1.0, 1.0], [0.85, 0.85, 0.85], [1.0, 0.95, 0.3], [0.4, 1.0, 0.5], [0.4, 0.8, 1.0]])
    return _painted(image, canvas, color if rng.random() < 0.5 else color.mean().repeat(3), rng.uniform(0.7, 1.0))


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _write(draw: ImageDraw.ImageDraw, size: tuple[int, int], boxes: Boxes, rng: np.random.Generator) -> None:
    """Write one to three lines where they hide no object."""
    lines = ["".join(rng.choice(GLYPHS, rng.integers(1, 13))) for _ in range(rng.integers(1, 4))]
    text, font = "\n".join(lines), _font(max(7, int(min(size) * rng.uniform(0.025, 0.06))))
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    for _ in range(4):
        corner = _near_border(rng) * (np.array(size) - [right - left, bottom - top])
        x, y = float(corner[0]), float(corner[1])
        place = np.array([x, y, x + right - left, y + bottom - top]) / np.array(size * 2)
        if not _hides(place, boxes):
            draw.text((x - left, y - top), text, fill=255, font=font)
            return


def _near_border(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return x and y, 0 to 1, three times in four near a side."""
    place = rng.random(2)
    if rng.random() < 0.75:
        place[rng.integers(2)] = rng.integers(2) + rng.uniform(-0.06, 0.06)
    return np.clip(place, 0.01, 0.99)


def _hides(place: NDArray[np.float64], boxes: Boxes) -> bool:
    """Whether a rectangle in units of the image covers too much of a box."""
    sides = np.minimum(place[2:], boxes[:, 2:]) - np.maximum(place[:2], boxes[:, :2])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return bool((np.maximum(sides, 0).prod(axis=1) > COVERED * area).any())


def _ruler(draw: ImageDraw.ImageDraw, size: tuple[int, int], side: int, rng: np.random.Generator) -> None:
    """Draw ticks, every fifth longer, along a side."""
    axis, step, tick = int(rng.integers(2)), side * rng.uniform(0.015, 0.06), side * rng.uniform(0.01, 0.025)
    across = size[1 - axis] * (rng.uniform(0.01, 0.06) if rng.random() < 0.5 else rng.uniform(0.92, 0.97))
    start, end = size[axis] * rng.uniform(0, 0.4), size[axis] * rng.uniform(0.6, 1.0)
    for number, along in enumerate(np.arange(start, end, step)):
        ends = [(along, across), (along, across + tick * (1.8 if number % 5 == 0 else 1.0))]
        draw.line([point if axis == 0 else point[::-1] for point in ends], fill=255)
    if rng.random() < 0.5:
        line = [(start, across), (end, across)]
        draw.line([point if axis == 0 else point[::-1] for point in line], fill=255)


def _calipers(draw: ImageDraw.ImageDraw, size: tuple[int, int], side: int, rng: np.random.Generator) -> None:
    """Draw one or two pairs of crosses, some with a dotted line between."""
    arm, upright = side * rng.uniform(0.01, 0.02), rng.random() < 0.7
    for _ in range(rng.integers(1, 3)):
        ends = rng.uniform(0.1, 0.9, (2, 2)) * size
        for x, y in ends.tolist():
            shift = (arm, 0.0) if upright else (arm * 0.7, arm * 0.7)
            draw.line([(x - shift[0], y - shift[1]), (x + shift[0], y + shift[1])], fill=255)
            draw.line([(x + shift[1], y - shift[0]), (x - shift[1], y + shift[0])], fill=255)
        if rng.random() < 0.6:
            dots = int(np.linalg.norm(ends[1] - ends[0]) / (side * 0.02)) + 2
            draw.point([(x, y) for x, y in np.linspace(ends[0], ends[1], dots).tolist()], fill=255)


def _arrow(draw: ImageDraw.ImageDraw, size: tuple[int, int], side: int, rng: np.random.Generator) -> None:
    """Draw an arrow in any direction."""
    tip, angle, length = rng.uniform(0.1, 0.9, 2) * size, rng.uniform(0, 2 * np.pi), side * rng.uniform(0.04, 0.1)
    back = np.array([np.cos(angle), np.sin(angle)]) * length
    across = np.array([-back[1], back[0]]) * 0.3
    head = [tip, tip + back * 0.45 + across, tip + back * 0.45 - across]
    draw.polygon([(float(x), float(y)) for x, y in head], fill=255)
    draw.line([(float(x), float(y)) for x, y in (tip, tip + back)], fill=255, width=2)


def gray_bar(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Draw the bar of gray levels that displays show at a side, where it hides no object."""
    left, top, side = rng.choice([0.01, 0.95]), rng.uniform(0.05, 0.6), rng.uniform(0.2, 0.4)
    place = np.array([left, top, left + 0.03, top + side])
    if _hides(place, boxes):
        return image
    start, stop = (place.reshape(2, 2) * image.shape[:0:-1]).round().astype(int).tolist()
    image = image.clone()
    bar = image[:, start[1] : stop[1], start[0] : max(stop[0], start[0] + 1)]
    bar.copy_(torch.linspace(1, 0, bar.shape[1])[None, :, None].expand_as(bar))
    return image


def doppler(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Color one or two spots red, blue or yellow, as Doppler ultrasound does; returns three channels."""
    del boxes
    image, size = image.repeat(3 // image.shape[0], 1, 1), np.array(image.shape[:0:-1])
    for _ in range(rng.integers(1, 3)):
        canvas = Image.new("L", (image.shape[2], image.shape[1]))
        center, reach = rng.uniform(0.15, 0.85, 2) * size, rng.uniform(0.02, 0.15, 2) * size
        ImageDraw.Draw(canvas).ellipse([*(center - reach).tolist(), *(center + reach).tolist()], fill=255)
        image = _painted(image, canvas, FLOW_COLORS[rng.integers(len(FLOW_COLORS))], 0.6)
    return image


def hair(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Draw bent strokes, mostly dark."""
    del boxes
    height, width = image.shape[1:]
    canvas = Image.new("L", (2 * width, 2 * height))
    draw, size = ImageDraw.Draw(canvas), np.array([2 * width, 2 * height])
    share = np.linspace(0, 1, 12)[:, None]
    main = rng.uniform(0, np.pi)
    for _ in range(rng.integers(3, 16)):
        angle, length = main + rng.normal(0, 0.5), rng.uniform(0.3, 1.2)
        start = rng.uniform(-0.1, 1.1, 2) * size
        end = start + np.array([np.cos(angle), np.sin(angle)]) * length * size
        middle = (start + end) / 2 + rng.normal(0, 0.12, 2) * size
        curve = (1 - share) ** 2 * start + 2 * share * (1 - share) * middle + share**2 * end
        draw.line([(x, y) for x, y in curve.tolist()], fill=255, width=int(rng.integers(2, 5)))
    color = rng.uniform(0.75, 0.95) if rng.random() < 0.12 else rng.uniform(0.02, 0.25)
    return _painted(image, canvas.reduce(2), np.array([1.0, 0.85, 0.7]) * color, rng.uniform(0.55, 0.95))


def highlights(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Add small white reflections with soft edges, where the image is lit."""
    del boxes
    height, width = (side // 2 for side in image.shape[1:])
    canvas = Image.new("L", (width, height))
    draw, side = ImageDraw.Draw(canvas), min(height, width)
    center = rng.uniform(0.2, 0.8, 2)
    for _ in range(rng.integers(3, 25)):
        x, y = (center + rng.normal(0, 0.25, 2)) * (width, height)
        across, down = side * np.exp(rng.uniform(np.log(0.004), np.log(0.03), 2))
        draw.ellipse((x - across, y - down, x + across, y + down), fill=255)
    size = (image.shape[2], image.shape[1])
    canvas = canvas.filter(ImageFilter.GaussianBlur(0.7)).resize(size, Image.Resampling.BILINEAR)
    lit = Image.fromarray((image[image.shape[0] // 2] > UNLIT).numpy())
    return _painted(image, ImageChops.multiply(canvas, lit.convert("L")), np.ones(3), rng.uniform(0.7, 1.0))


def color_chart(image: torch.Tensor, boxes: Boxes, rng: np.random.Generator) -> torch.Tensor:
    """Put colored stickers or patches at the border, where they hide no object."""
    height, width = image.shape[1:]
    for _ in range(rng.integers(1, 4)):
        size = rng.uniform(0.08, 0.3, 2)
        corner = _near_border(rng) - size / 2
        place = np.concatenate([corner, corner + size])
        if _hides(place, boxes):
            continue
        canvas = Image.new("L", (width, height))
        draw = ImageDraw.Draw(canvas)
        (draw.ellipse if rng.random() < 0.6 else draw.rectangle)((place * ([width, height] * 2)).tolist(), fill=255)
        image = _painted(image, canvas, rng.uniform(0.05, 1.0, 3), rng.uniform(0.8, 1.0))
    return image


def _painted(image: torch.Tensor, canvas: Image.Image, color: NDArray[np.float64], strength: float) -> torch.Tensor:
    """Return the image with `color` where the canvas is white; a gray image gets the mean of the color."""
    area = canvas.getbbox()
    if area is None:
        return image
    left, top, right, bottom = area
    share = torch.from_numpy(np.array(canvas.crop(area), dtype=np.float32) * np.float32(strength / 255))
    paint = torch.from_numpy(color if image.shape[0] == 3 else color.mean(keepdims=True)).float()[:, None, None]
    image = image.clone()
    image[:, top:bottom, left:right] = torch.lerp(image[:, top:bottom, left:right], paint, share[None])
    return image
