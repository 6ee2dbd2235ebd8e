# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Extract the slices of volumes: every plane of the recipe, as gray levels, the patient's right on the left.

Pixels are voxels of the volume, neither rotated nor resampled (unless square pixels are requested).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modeling_medglip.volumes.geometry import SlicePlane, Volume, extract_slice, slice_count, to_lps

from .readers.masks import labelmap_annotations
from .recipe import Recipe
from .records import AnnotatedImage, Annotation, LabeledVolume


PERCENTILES = (0.5, 99.5)
SAMPLED_VOXELS = 2**22


def extract_images(
    labeled: LabeledVolume, recipe: Recipe, square_pixels: bool = False
) -> Iterator[AnnotatedImage | str]:
    """Yield all slices of a volume that have annotations; for the others, the name of their plane.

    Args:
        labeled ([`LabeledVolume`]): The volume and its label maps.
        recipe ([`Recipe`]): States planes, window and bits.
        square_pixels (`bool`, *optional*, defaults to `False`): Resample the slices to square pixels.
    """
    volume = to_lps(labeled.volume)
    labelmaps = [(to_lps(labelmap), names) for labelmap, names in labeled.labelmaps]
    window = recipe.display_window or value_range(volume)
    occupied = [annotated_slices(labelmap.array) for labelmap, _ in labelmaps]
    for plane, step in recipe.planes.items():
        for index in range(0, slice_count(volume, plane), step):
            if not any(present[plane][index] for present in occupied):
                yield plane
                continue
            stored, geometry = extract_slice(volume, plane, index)
            annotations = [
                annotation
                for labelmap, names in labelmaps
                for annotation in labelmap_annotations(extract_slice(labelmap, plane, index)[0], names)
            ]
            pixels = to_gray_levels(volume.values(stored), window, recipe.bits)
            image = AnnotatedImage(pixels, tuple(annotations), f"{plane} {index}", geometry, window)
            yield with_square_pixels(image) if square_pixels else image


def annotated_slices(labels: NDArray) -> dict[str, NDArray[np.bool_]]:
    """Return for each plane which of its slices have a value other than 0 in an LPS label map."""
    # One pass over the volume per axis pair; along the last axis numpy is quickest.
    by_row: NDArray[np.bool_] = np.any(labels, axis=2)
    occupied = {
        "sagittal": np.any(by_row, axis=1),
        "coronal": np.any(by_row, axis=0),
        "axial": np.any(labels, axis=(0, 1)),
    }
    return {plane: np.asarray(flags) for plane, flags in occupied.items()}


def value_range(volume: Volume) -> tuple[float, float]:
    """Return the 0.5th and 99.5th percentile of the values that are not zero, as the image processor does for MRI.

    They come from at most some four million voxels, spread evenly.
    """
    step = max(1, round((volume.array.size / SAMPLED_VOXELS) ** (1 / 3)))
    sample = volume.values(np.ascontiguousarray(volume.array[::step, ::step, ::step])).ravel()
    sample = sample[np.isfinite(sample) & (sample != 0)]
    if sample.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(sample, PERCENTILES))
    return (low, high) if high > low else (low, low + 1.0)


def to_gray_levels(values: NDArray, window: tuple[float, float], bits: int = 8) -> NDArray:
    """Convert values to gray levels through a window.

    Args:
        values (`np.ndarray`): Values of any shape, such as HU.
        window (`tuple[float, float]`): Values of gray level 0 and of the highest gray level.
        bits (`int`, *optional*, defaults to 8): 8 (0 to 255, uint8) or 16 (0 to 65535, uint16).
    """
    low, high = window
    if values.dtype.kind in "ui" and values.dtype.itemsize <= 2:
        return _gray_table(values.dtype, low, high, bits)[values]
    return _to_gray(values, low, high, bits)


def _to_gray(values: NDArray, low: float, high: float, bits: int) -> NDArray:
    top = 2**bits - 1
    gray = (values.astype(np.float32) - low) * np.float32(top / (high - low))
    return np.nan_to_num(gray).round().clip(0, top).astype(np.uint8 if bits == 8 else np.uint16)


@lru_cache(maxsize=8)
def _gray_table(dtype: np.dtype, low: float, high: float, bits: int) -> NDArray:
    """Return the gray level of every number of a type of at most 16 bits; negative ones count from the end."""
    return _to_gray(np.arange(2 ** (8 * dtype.itemsize), dtype=np.uint16).astype(dtype), low, high, bits)


def with_square_pixels(image: AnnotatedImage) -> AnnotatedImage:
    """Return the image with square pixels of the finer spacing; masks are resampled by nearest neighbor."""
    geometry = image.geometry
    if geometry is None or np.isclose(*geometry.spacing, rtol=1e-3):
        return image
    along_x, along_y = geometry.spacing
    fine = min(along_x, along_y)
    height, width = image.pixels.shape[:2]
    size = (max(1, round(width * along_x / fine)), max(1, round(height * along_y / fine)))
    pixels = np.asarray(Image.fromarray(image.pixels).resize(size, Image.Resampling.BILINEAR))
    annotations = []
    for annotation in image.annotations:
        mask = None if annotation.mask is None else _resized_mask(annotation.whole((height, width)), size)
        annotations.append(Annotation(annotation.label, mask, annotation.box))
    steps = geometry.right * (width / size[0]), geometry.down * (height / size[1])
    # The outer edges stay where they are, so the first center moves by half of the difference of the steps.
    origin = geometry.origin + (steps[0] - geometry.right) / 2 + (steps[1] - geometry.down) / 2
    return AnnotatedImage(pixels, tuple(annotations), image.item, SlicePlane(origin, *steps), image.window)


def _resized_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    # Not as an image of one bit: its bytes come back as 255, which numpy takes for a strange kind of true.
    gray = Image.fromarray(mask.astype(np.uint8))
    return np.asarray(gray.resize(size, Image.Resampling.NEAREST)) > 0


__all__ = ["annotated_slices", "extract_images", "to_gray_levels", "value_range", "with_square_pixels"]
