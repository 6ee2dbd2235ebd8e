# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Volumes -> pictures: every plane of the recipe, shown through a window, the patient's right on the left.

Pixels are the volume's own voxels, neither turned at an angle nor resampled (unless square pixels are asked for).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modeling_medglip.volumes.geometry import SlicePlane, Volume, extract_slice, slice_count, to_lps

from .readers.masks import labelmap_marks
from .recipe import Recipe
from .records import LabelledVolume, Mark, Picture


PERCENTILES = (0.5, 99.5)
SAMPLED_VOXELS = 2**22


def pictures_of(labelled: LabelledVolume, recipe: Recipe, square_pixels: bool = False) -> Iterator[Picture | str]:
    """All pictures of a volume with something annotated in them; for the others the name of their plane."""
    image = to_lps(labelled.volume)
    labelmaps = [(to_lps(labelmap), names) for labelmap, names in labelled.labelmaps]
    window = recipe.shown_window or value_range(image)
    occupied = [occupied_pictures(labelmap.array) for labelmap, _ in labelmaps]
    for plane, step in recipe.planes.items():
        for index in range(0, slice_count(image, plane), step):
            if not any(found[plane][index] for found in occupied):
                yield plane
                continue
            stored, place = extract_slice(image, plane, index)
            marks = [
                mark
                for labelmap, names in labelmaps
                for mark in labelmap_marks(extract_slice(labelmap, plane, index)[0], names)
            ]
            pixels = shown(image.values(stored), window, recipe.bits)
            picture = Picture(pixels, tuple(marks), f"{plane} {index}", place, window)
            yield squared(picture) if square_pixels else picture


def occupied_pictures(labels: NDArray) -> dict[str, NDArray[np.bool_]]:
    """For each plane, in which of its pictures an LPS label map holds anything but 0."""
    # One pass over the volume per axis pair; along the last axis numpy is quickest.
    by_row: NDArray[np.bool_] = np.any(labels, axis=2)
    found = {
        "sagittal": np.any(by_row, axis=1),
        "coronal": np.any(by_row, axis=0),
        "axial": np.any(labels, axis=(0, 1)),
    }
    return {plane: np.asarray(flags) for plane, flags in found.items()}


def value_range(volume: Volume) -> tuple[float, float]:
    """0.5th and 99.5th percentile of a volume's values that are not zero, from at most some four million voxels spread
    evenly: as the image processor stretches MRI."""
    step = max(1, round((volume.array.size / SAMPLED_VOXELS) ** (1 / 3)))
    sample = volume.values(np.ascontiguousarray(volume.array[::step, ::step, ::step])).ravel()
    sample = sample[np.isfinite(sample) & (sample != 0)]
    if sample.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(sample, PERCENTILES))
    return (low, high) if high > low else (low, low + 1.0)


def shown(values: NDArray, window: tuple[float, float], bits: int = 8) -> NDArray:
    """Values -> grey levels: the window's lower end is 0, its upper end 255 (uint8) or, with 16 bits, 65535
    (uint16)."""
    low, high = window
    if values.dtype.kind in "ui" and values.dtype.itemsize <= 2:
        return _table(values.dtype, low, high, bits)[values]
    return _grey(values, low, high, bits)


def _grey(values: NDArray, low: float, high: float, bits: int) -> NDArray:
    top = 2**bits - 1
    grey = (values.astype(np.float32) - low) * np.float32(top / (high - low))
    return np.nan_to_num(grey).round().clip(0, top).astype(np.uint8 if bits == 8 else np.uint16)


@lru_cache(maxsize=8)
def _table(dtype: np.dtype, low: float, high: float, bits: int) -> NDArray:
    """Grey level of every number of a type of at most 16 bits; negative ones count from the end, as numpy's do."""
    return _grey(np.arange(2 ** (8 * dtype.itemsize), dtype=np.uint16).astype(dtype), low, high, bits)


def squared(picture: Picture) -> Picture:
    """The picture with square pixels, of the finer spacing; masks by nearest neighbour, so that boxes keep to them."""
    place = picture.place
    if place is None or np.isclose(*place.spacing, rtol=1e-3):
        return picture
    along_x, along_y = place.spacing
    fine = min(along_x, along_y)
    height, width = picture.pixels.shape[:2]
    size = (max(1, round(width * along_x / fine)), max(1, round(height * along_y / fine)))
    pixels = np.asarray(Image.fromarray(picture.pixels).resize(size, Image.Resampling.BILINEAR))
    marks = []
    for mark in picture.marks:
        mask = None if mark.mask is None else _resized_mask(mark.whole((height, width)), size)
        marks.append(Mark(mark.label, mask, mark.box))
    steps = place.right * (width / size[0]), place.down * (height / size[1])
    # The outer edges stay where they are, so the first centre moves by half of the difference of the steps.
    origin = place.origin + (steps[0] - place.right) / 2 + (steps[1] - place.down) / 2
    return Picture(pixels, tuple(marks), picture.item, SlicePlane(origin, *steps), picture.window)


def _resized_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    # Not as a picture of one bit: its bytes come back as 255, which numpy takes for a strange kind of true.
    grey = Image.fromarray(mask.astype(np.uint8))
    return np.asarray(grey.resize(size, Image.Resampling.NEAREST)) > 0


__all__ = ["occupied_pictures", "pictures_of", "shown", "squared", "value_range"]
