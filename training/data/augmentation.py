# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Augmentation: its recipe, and the geometry: one affine resampling straight to the input size.

Boxes are in units of the image (0..1 for width and height). What follows is in `photometry.py` and `effects.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from modeling_medglip.image_processing_medglip import resize_image


SURROUNDINGS = ("black", "mean", "edge")
# Points each way of a blurred surrounding.
COARSE = 12


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
        empty_share (`float`): share of images that are cropped to a part without any box, where there is one: the
            proof that its labels are absent.
        empty_scale (`tuple[float, float]`): zoom of these.
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
        plain_share (`float`): share of images without the rest of this list.
        zoom_out_share (`float`): share of images shown small, so that small objects are learned; the source says how
            small.
        smallest (`float`): least side of a box after that, as a share of the image's side.
        turn_share (`float`): share of images turned by any angle, where the source allows it.
        surroundings (`tuple[str, ...]`): what lies outside of the image: `black`, its `mean`, or its blurred `edge`.
            One is drawn, and a name that comes twice is drawn twice as often. CT has air there.
        effects (`tuple[int, int]`): least and largest number of effects of `effects.py`, drawn from those of the
            modality in `source_settings.yaml`.
        hounsfield_share (`float`): share of the CT images with HU that are shown through the windows of the image
            processor, not in gray.
        hounsfield_jitter (`tuple[float, float]`): largest relative change of HU above air, and largest offset in HU.
    """

    scale: tuple[float, float] = (0.75, 1.35)
    aspect: tuple[float, float] = (0.88, 1.12)
    keep: float = 0.6
    drop: float = 0.25
    close_share: float = 0.12
    close_scale: tuple[float, float] = (1.4, 3.5)
    empty_share: float = 0.0
    empty_scale: tuple[float, float] = (1.5, 3.5)
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
    plain_share: float = 0.0
    zoom_out_share: float = 0.0
    smallest: float = 0.03
    turn_share: float = 0.0
    surroundings: tuple[str, ...] = ("black",)
    effects: tuple[int, int] = (0, 0)
    hounsfield_share: float = 0.85
    hounsfield_jitter: tuple[float, float] = (0.05, 30.0)

    def for_one_image(self, rng: np.random.Generator) -> AugmentationRecipe:
        """Return the recipe for one image: it is a plain one or not."""
        if self.plain_share and rng.random() < self.plain_share:
            return replace(self, zoom_out_share=0.0, turn_share=0.0, effects=(0, 0))
        return self

    def draw_surroundings(self, rng: np.random.Generator) -> str:
        """Return one of the surroundings."""
        return self.surroundings[int(rng.integers(len(self.surroundings))) if len(self.surroundings) > 1 else 0]


@dataclass(frozen=True)
class AugmentationFlags:
    """What a source allows: see the flags of the same names in `source_settings.yaml`."""

    horizontal_flip: bool = False
    vertical_flip: bool = False
    quarter_turns: bool = False
    rotate: bool = False
    turns: bool = False
    close_ups: bool = False
    zoom_out: tuple[float, float] | None = None

    def with_sides(self) -> AugmentationFlags:
        """Return what an image still allows that shows a left or a right."""
        return replace(self, horizontal_flip=False, vertical_flip=False, quarter_turns=False, turns=False)


@dataclass(frozen=True)
class Geometry:
    """Maps the old image to the new one: `new = matrix @ (old - 0.5) + 0.5 + shift`, in units of the image.

    Args:
        matrix (`np.ndarray` of shape `(2, 2)`).
        shift (`np.ndarray` of shape `(2,)`).
    """

    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]

    def map_boxes(
        self, boxes: NDArray[np.float32], outlines: Sequence[NDArray[np.float32] | None] | None = None
    ) -> NDArray[np.float32]:
        """Boxes `(n, 4)` xyxy, 0..1, before clipping.

        Exact for zoom, shift, flips and quarter turns, and for other turns of objects with an outline. For the others
        it is the box of the turned inscribed ellipse (structures are rounder than their boxes).

        Args:
            boxes (`np.ndarray` of shape `(n, 4)`): xyxy, 0..1.
            outlines (`Sequence[np.ndarray | None]`, *optional*): for each box, points `(k, 2)` on the outline of its
                object, 0..1.
        """
        center = ((boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5) @ self.matrix.T + 0.5 + self.shift
        half = np.sqrt(((boxes[:, 2:] - boxes[:, :2]) / 2) ** 2 @ (self.matrix.T**2))
        mapped = np.concatenate([center - half, center + half], axis=1).astype(np.float32)
        if (self.matrix != 0).sum() > 2:  # turned by other than a right angle
            for index, points in enumerate(outlines or ()):
                if points is not None:
                    moved = (points - 0.5) @ self.matrix.T + 0.5 + self.shift
                    mapped[index] = np.concatenate([moved.min(axis=0), moved.max(axis=0)])
        return mapped

    def resample(
        self, image: torch.Tensor, size: tuple[int, int], fill: float = 0.0, surroundings: str = "black"
    ) -> torch.Tensor:
        """Float `(c, h, w)` -> `(c, *size)`, bilinear.

        Args:
            image (`torch.Tensor`): `(c, h, w)` float values.
            size (`tuple[int, int]`): height and width of the result.
            fill (`float`, *optional*, defaults to `0.0`): value outside the old image where that is `black`.
            surroundings (`str`, *optional*, defaults to `"black"`): what lies outside: see [`AugmentationRecipe`].
        """
        grid = self._grid(size)
        if surroundings == "edge":
            values = torch.nn.functional.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]
            outside = (grid[0, :, :, 0].abs() > 1) | (grid[0, :, :, 1].abs() > 1)
            return torch.where(outside, _without_detail(values), values) if outside.any() else values
        fill = float(image.mean()) if surroundings == "mean" else fill
        values = image[None] - fill if fill else image[None]
        values = torch.nn.functional.grid_sample(values, grid, mode="bilinear", align_corners=False)[0]
        return values.add_(fill) if fill else values

    def _grid(self, size: tuple[int, int]) -> torch.Tensor:
        """Return where in the old image, -1 to 1, each pixel of the new one lies: `(1, *size, 2)`."""
        inverse = np.linalg.inv(self.matrix)
        x, y = (torch.arange(count, dtype=torch.float32).add_(0.5).mul_(2 / count).sub_(1) for count in size[::-1])
        offset = -2 * inverse @ self.shift
        grid = torch.empty(1, *size, 2)
        for axis in range(2):
            across, down = x * float(inverse[axis, 0]) + float(offset[axis]), y * float(inverse[axis, 1])
            torch.add(across[None], down[:, None], out=grid[0, :, :, axis])
        return grid


def _without_detail(image: torch.Tensor) -> torch.Tensor:
    """Return an image `(c, h, w)` as a smooth surface through `COARSE` x `COARSE` of its pixels."""
    down, across = (_interpolation(side) for side in image.shape[1:])
    rows, columns = (torch.linspace(0, side - 1, COARSE).long() for side in image.shape[1:])
    return down @ image[:, rows][:, :, columns] @ across.T


@lru_cache(maxsize=8)
def _interpolation(side: int) -> torch.Tensor:
    """Return the weights `(side, COARSE)` of evenly spaced points in a linear interpolation between them."""
    return torch.nn.functional.interpolate(torch.eye(COARSE)[None], size=side, mode="linear", align_corners=True)[0].T


def shrunk(image: torch.Tensor, limit: int) -> torch.Tensor:
    """Return an image with its longer side at `limit`, or as it is where that is shorter.

    Args:
        image (`torch.Tensor`): `(c, h, w)` float values.
        limit (`int`): pixels.
    """
    longest = max(image.shape[1:])
    if longest <= limit:
        return image
    height, width = (max(1, round(side * limit / longest)) for side in image.shape[1:])
    return resize_image(image, (height, width))


IDENTITY = Geometry(np.eye(2), np.zeros(2))


def visible_share(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the share of each box `(n, 4)` that is within the image (0..1)."""
    clipped = np.clip(boxes, 0, 1)
    inside = (clipped[:, 2:] - clipped[:, :2]).prod(axis=1)
    return inside / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-9)


def draw_geometry(
    boxes: NDArray[np.float32],
    flags: AugmentationFlags,
    recipe: AugmentationRecipe,
    rng: np.random.Generator,
    size: tuple[int, int] = (1, 1),
) -> Geometry:
    """Draw a zoom, shift, flip and turn that keeps enough of every box, or a close-up that need not.

    Args:
        boxes (`np.ndarray` of shape `(n, 4)`): xyxy in units of the image.
        flags ([`AugmentationFlags`]): what the source allows.
        recipe ([`AugmentationRecipe`]): the ranges.
        rng (`np.random.Generator`): the source of everything random.
        size (`tuple[int, int]`, *optional*, defaults to `(1, 1)`): width and height, whose ratio a turn respects.
    """
    turned = flags.turns and recipe.turn_share and rng.random() < recipe.turn_share
    if turned:
        flags = replace(flags, rotate=False, quarter_turns=False)
    base = _symmetry(flags, rng)
    if recipe.empty_share and len(boxes) and rng.random() < recipe.empty_share:
        empty = _draw_empty(boxes, base, recipe, rng)
        if empty is not None:
            return empty
    if turned:
        ratio = np.diag(np.asarray(size, dtype=np.float64))
        base = np.linalg.inv(ratio) @ _turn(rng.uniform(0, 360)) @ ratio @ base
    if flags.close_ups and rng.random() < recipe.close_share:
        return _draw_close_up(boxes, base, recipe, rng)
    scale = recipe.scale
    if flags.zoom_out and recipe.zoom_out_share and rng.random() < recipe.zoom_out_share:
        scale = _zoom_out(boxes, flags.zoom_out, recipe.smallest)
    for _ in range(recipe.attempts):
        geometry = _draw_once(base, scale, flags, recipe, rng)
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


def _zoom_out(boxes: NDArray[np.float32], scales: tuple[float, float], smallest: float) -> tuple[float, float]:
    """Return the range of zooms at which no box gets smaller than `smallest`; a box that is smaller stays so."""
    sides = (boxes[:, 2:] - boxes[:, :2]).min(initial=1.0)
    low, high = (min(1.0, max(scale, smallest / max(sides, 1e-6))) for scale in scales)
    return low, high


def _turn(degrees: float) -> NDArray[np.float64]:
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _draw_once(
    base: NDArray[np.float64],
    scales: tuple[float, float],
    flags: AugmentationFlags,
    recipe: AugmentationRecipe,
    rng: np.random.Generator,
) -> Geometry:
    scale, aspect = np.exp(rng.uniform(*np.log(scales))), np.sqrt(rng.uniform(*recipe.aspect))
    zoom = np.array([scale * aspect, scale / aspect])
    turn = np.eye(2)
    if flags.rotate and rng.random() < recipe.rotate_share:
        turn = _turn(rng.uniform(-recipe.rotate_degrees, recipe.rotate_degrees))
    reach = np.abs(zoom - 1) / 2 + 0.05
    return Geometry(turn @ np.diag(zoom) @ base, rng.uniform(-reach, reach))


def _draw_empty(
    boxes: NDArray[np.float32], base: NDArray[np.float64], recipe: AugmentationRecipe, rng: np.random.Generator
) -> Geometry | None:
    """Enlarge a part of the image that no box reaches into; `None` if none is hit upon."""
    for _ in range(recipe.attempts):
        scale, aspect = np.exp(rng.uniform(*np.log(recipe.empty_scale))), np.sqrt(rng.uniform(*recipe.aspect))
        matrix = np.diag([scale * aspect, scale / aspect]) @ base
        reach = 0.5 - np.abs(np.linalg.inv(matrix)).sum(axis=1) / 2
        # More often near the border, where there is most room beside an object.
        geometry = Geometry(matrix, -matrix @ (reach * np.cos(rng.uniform(0, np.pi, 2))))
        if visible_share(geometry.map_boxes(boxes)).max() <= 0:
            return geometry
    return None


def _draw_close_up(
    boxes: NDArray[np.float32], base: NDArray[np.float64], recipe: AugmentationRecipe, rng: np.random.Generator
) -> Geometry:
    """Enlarge one of the boxes, or some region without boxes, near the center of the image."""
    scale, aspect = np.exp(rng.uniform(*np.log(recipe.close_scale))), np.sqrt(rng.uniform(*recipe.aspect))
    matrix = np.diag([scale * aspect, scale / aspect]) @ base
    box = boxes[rng.integers(len(boxes))] if len(boxes) else np.array([0.3, 0.3, 0.7, 0.7])
    center = (box[:2] + box[2:]) / 2
    return Geometry(matrix, rng.uniform(-0.25, 0.25, 2) - matrix @ (center - 0.5))
