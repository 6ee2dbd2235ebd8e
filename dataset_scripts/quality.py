# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The quality rules: every reason for a rejection, named once, in three tiers.

Tier 1: files that cannot be used. Tier 2: labels and annotations that cannot be trusted. Tier 3: images that add
nothing. Every rejection is a row of the report, with its rule and value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .records import Rejection


RULES: dict[str, tuple[int, str]] = {
    # files
    "unreadable": (1, "the file is damaged, cut short or of an unknown kind"),
    "missing_file": (1, "the annotations name a file that is not there"),
    "leaves_folder": (1, "a name or link leads out of the source's folder"),
    "too_large": (1, "the header states more voxels or pixels than a machine can hold"),
    "not_3d": (1, "a volume with other than three axes"),
    "colour_volume": (1, "a volume of colors or complex numbers"),
    "bad_affine": (1, "the geometry is singular or not finite"),
    "bad_source": (1, "a source whose recipe, folder or files cannot be read: it is left out as a whole"),
    "no_cases": (1, "a source in whose folder no file fits the recipe"),
    "no_mask": (1, "an image or volume without any annotation file"),
    "no_image": (1, "an annotation without its image or volume"),
    "size_mismatch": (1, "image and mask have different sizes"),
    "exif_orientation": (
        1, "turned by EXIF orientation, and nothing says whether the annotations are: save the file upright",
    ),
    "affine_mismatch": (1, "volume and label map have different geometry"),
    "mixed_series": (1, "slices of several series, sizes or orientations in one folder"),
    "missing_slices": (1, "slices at uneven distances"),
    "duplicate_slices": (1, "slices at one position: copies are left out, different ones cannot be used"),
    "gantry_tilt": (1, "slices that are not stacked along their normal; the geometry keeps it"),
    "mosaic": (1, "a Siemens mosaic, many slices tiled in one image: read it with via: dcm2niix"),
    "incomplete_header": (1, "a header that is incomplete or was corrected, and how it was read"),
    "no_geometry": (1, "slices without usable orientation, position or spacing"),
    "modality_mismatch": (1, "the header names another modality than the recipe"),
    "not_finite": (1, "NaN or infinite values"),
    "bad_annotations": (1, "the annotation file is not what its layout says"),
    "duplicate_id": (1, "an identifier occurs twice; the first one counts"),
    # labels and annotations
    "undefined_label": (2, "a name or value that the recipe's label map does not have"),
    "excluded_label": (2, "a label that the recipe leaves out on purpose"),
    "bad_box": (2, "a box that is not finite, has no area or is outside its image"),
    "box_format": (2, "boxes that look as if they were written in another format than x, y, width, height"),
    "clipped_box": (2, "a box that leaves its image by a little: only the part inside counts"),
    "crowd_region": (2, "a crowd region is not the box of one object; its label is left open in that image"),
    "min_area": (2, "an annotation smaller than the profile's share of the image"),
    "speck": (2, "parts of a mask under the recipe's share of its largest part"),
    "small_mark": (2, "an annotation of fewer pixels than the recipe's floor; its label is left open in that image"),
    # images
    "empty_slice": (3, "images of a volume in which nothing is annotated"),
    "empty_mask": (3, "an image whose masks are all empty"),
    "mask_like": (3, "an image that holds hardly any gray levels, like a mask"),
    "exact_duplicate": (3, "the same pixels and annotations as another image of the source"),
}  # fmt: skip
# Rules that ordinary data breaks: they are counted, but do not make the exit status 1.
EXPECTED = frozenset(
    {
        "clipped_box", "crowd_region", "gantry_tilt", "incomplete_header", "excluded_label", "min_area", "small_mark",
        "speck",
        "empty_slice", "empty_mask", "exact_duplicate",
    }
)  # fmt: skip
# Smallest share of the image that an annotation may cover. `paper`: Med-GLIP's 1.5 %, which removes most lesions.
PROFILES = {"none": 0.0, "sa_med2d": 100 / 256**2, "paper": 0.015}
# A binary mask, or a label map of three values, has fewer gray levels than this.
MASK_LIKE_LEVELS = 5


def is_mask_like(pixels: NDArray) -> bool:
    """Return whether an image has so few different values that it must be a mask, or blank."""
    first = pixels if pixels.ndim == 2 else pixels[..., 0]
    return len(np.unique(first)) < MASK_LIKE_LEVELS


def count_rejections(rejections: Iterable[Rejection]) -> dict[str, dict[str, int]]:
    """Return rule -> source -> number of rows, in the order of `RULES`."""
    numbers = Counter((rejection.rule, rejection.source) for rejection in rejections)
    return {
        rule: {source: numbers[rule, source] for name, source in sorted(numbers) if name == rule}
        for rule in RULES
        if any(name == rule for name, _ in numbers)
    }


__all__ = ["EXPECTED", "PROFILES", "RULES", "count_rejections", "is_mask_like"]
