# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Tools for drawing phantoms with numpy and Pillow: smooth noise, curves, filled outlines, blurs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw


Box = tuple[float, float, float, float]
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Phantom:
    """A drawn picture.

    Attributes:
        pixels: uint8 array, (height, width) or (height, width, 3).
        boxes: label -> true box, xyxy in pixels.
    """

    pixels: np.ndarray
    boxes: dict[str, Box]


def blur(layer: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of a (height, width) float array, the edges repeated."""
    if sigma <= 0:
        return layer
    reach = max(1, round(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padded = np.pad(layer, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        size = layer.shape[axis]
        layer = sum(w * padded.take(range(i, i + size), axis=axis) for i, w in enumerate(weights))
    return layer


def noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1 whose bumps are about `cell` pixels wide."""
    height, width = shape
    small = rng.standard_normal((max(2, round(height / cell)), max(2, round(width / cell))))
    grid = Image.fromarray(small.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    values = np.asarray(grid)
    return (values - values.mean()) / (values.std() + 1e-9)


def grid(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (y, x) of every pixel, each (height, width) float."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float64)
    return y, x


def spline(points: Points, steps: int = 24) -> Points:
    """A closed smooth curve (Catmull-Rom) through the points."""
    p = np.asarray(points, dtype=np.float64)
    before, after, beyond = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    curve = []
    for t in np.linspace(0, 1, steps, endpoint=False):
        curve.append(
            0.5
            * (
                2 * p
                + (after - before) * t
                + (2 * before - 5 * p + 4 * after - beyond) * t**2
                + (3 * p - before - 3 * after + beyond) * t**3
            )
        )
    ordered = np.stack(curve, axis=1).reshape(-1, 2)
    return [(float(x), float(y)) for x, y in ordered]


def filled(shape: tuple[int, int], outline: Points, sigma: float = 0.0) -> np.ndarray:
    """A filled outline as a float mask 0..1, its edge blurred by `sigma` pixels."""
    canvas = Image.new("L", (shape[1], shape[0]), 0)
    ImageDraw.Draw(canvas).polygon(outline, fill=255)
    return blur(np.asarray(canvas, dtype=np.float32) / 255, sigma)


def stroke(shape: tuple[int, int], path: Points, width: float, sigma: float) -> np.ndarray:
    """A path of the given width as a float mask 0..1."""
    return strokes(shape, [path], width, sigma)


def strokes(shape: tuple[int, int], paths: list[Points], width: float, sigma: float) -> np.ndarray:
    """Several paths of one width as one float mask 0..1, blurred by `sigma` pixels."""
    canvas = Image.new("L", (shape[1], shape[0]), 0)
    pen = ImageDraw.Draw(canvas)
    for path in paths:
        pen.line(path, fill=255, width=max(1, round(width)), joint="curve")
    return blur(np.asarray(canvas, dtype=np.float32) / 255, sigma)


def bounds(mask: np.ndarray, level: float = 0.5) -> Box:
    """The xyxy box around the pixels above `level`."""
    rows, columns = np.where(mask.max(axis=1) > level)[0], np.where(mask.max(axis=0) > level)[0]
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """Round and clip to uint8."""
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)
