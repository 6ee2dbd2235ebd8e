# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Read the entries of a COCO file for training: labels, image sizes, boxes, and which labels stay unknown."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.io.coco import CocoFile, annotation_region, image_size, shown
from modeling_medglip.io.coco_shapes import AnnotationError, Segmentation, fit_box


# Control characters, and those that change the direction of text. Other characters without a shape belong to scripts.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# How the files that `dataset_scripts.build` writes begin.
BUILT = "MedGLIP grounding data"
MAX_LABEL_LENGTH = 200
# Why an annotation is left out, by the rule that it breaks.
REASONS = {"crowd_region": "crowd regions", "bad_box": "boxes without an area inside their image, or far beyond it"}
INVALID = "invalid annotations"
NO_CATEGORY = "annotations of an unknown category"


def is_built(coco: CocoFile) -> bool:
    """Whether `dataset_scripts.build` wrote the file, which then may hold some boxes of labels that it leaves open."""
    return str(coco.info.get("description")).startswith(BUILT)


def label_names(coco: CocoFile) -> set[str]:
    """Return the names of a file's categories, which become labels.

    Raises:
        `ValueError`: the file has no category, one name is not printable or too long, or two names differ in case
            alone, so that they may mean the same.
    """
    spelt: dict[str, str] = {}
    for name in coco.categories.values():
        if character := next(filter(UNPRINTABLE.match, name), ""):
            code = f"U+{ord(character):04X}"
            raise ValueError(f"{coco.name}: category {shown(name)} has the character {code}: take it out")
        known = name.casefold() in spelt
        other = spelt.setdefault(name.casefold(), name)
        if known:
            raise ValueError(f"{coco.name}: categories {other[:60]!r} and {name[:60]!r}: give them one name")
        if len(name) > MAX_LABEL_LENGTH:
            raise ValueError(
                f"{coco.name}: category {shown(name)}... is too long: give it at most {MAX_LABEL_LENGTH} letters"
            )
    if not spelt:
        raise ValueError(f"{coco.name}: has no categories: list the labels that are annotated in its images")
    return set(spelt.values())


def stated_size(image: dict[str, Any], file: Path) -> tuple[int, int]:
    """Return the width and height of an image entry in pixels.

    Args:
        image (`dict[str, Any]`): entry of the file's `images`.
        file (`Path`): the COCO file, for errors.

    Raises:
        `ValueError`: they are missing, or not whole numbers above 0.
    """
    try:
        size = image_size(image)
    except AnnotationError as error:
        reason = error.reason.replace("width and height", f"width and height of {shown(image['file_name'])}")
        raise ValueError(f"{file.name}: {reason}") from None
    if size is None:
        raise ValueError(f"{file.name}: width and height of {shown(image['file_name'])} must be there")
    return size


def annotated_labels(image: dict[str, Any], vocabulary: set[str], file: Path) -> tuple[str, ...]:
    """Return the labels that are annotated wherever they occur in an image: those its entry lists, else all.

    Args:
        image (`dict[str, Any]`): entry of the file's `images`.
        vocabulary (`set[str]`): all labels of the file.
        file (`Path`): the COCO file, for errors.

    Raises:
        `ValueError`: `annotated` of the entry is not a list of labels of the file.
    """
    listed = image.get("annotated")
    if listed is None:
        return tuple(sorted(vocabulary))
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise ValueError(f"{file.name}: annotated of {shown(image['file_name'])} must be a list of labels")
    names = {" ".join(name.split()) for name in listed}
    if unknown := sorted(names - vocabulary):
        where = f"annotated of {shown(image['file_name'])}"
        raise ValueError(
            f"{file.name}: {where} has {shown(unknown[0])}, which is not a category of the file: add it there"
        )
    return tuple(sorted(names))


@dataclass
class ImageAnnotations:
    """The usable annotations of one image.

    Attributes:
        labels (`list[str]`): label of each annotation, which counts once.
        boxes (`np.ndarray` of shape `(n, 4)`): one per label, as stated, [x, y, width, height] in pixels.
        shapes (`list[Segmentation | None]`): one per label, `None` where there are neither run lengths nor polygons,
            or the polygon is the box itself.
        left_out (`Counter[tuple[str, str | None]]`): (reason, label) -> number of annotations that cannot be used; the
            label is `None` where the file does not have its category.
        clipped (`list[str]`): stated boxes of which a part beyond the image was taken off.
    """

    labels: list[str]
    boxes: NDArray[np.float64]
    shapes: list[Segmentation | None]
    left_out: Counter[tuple[str, str | None]]
    clipped: list[str]

    def unknown(self, vocabulary: set[str]) -> set[str]:
        """Return labels that may be in the image without a box; an unknown category may be any of them."""
        named = {label for _, label in self.left_out if label is not None}
        return named | (vocabulary - set(self.labels) if any(label is None for _, label in self.left_out) else set())


def image_annotations(entries: list[dict[str, Any]], size: tuple[int, int]) -> ImageAnnotations:
    """Return the labels and boxes of one image, from its annotations with their `label`.

    Args:
        entries (`list[dict[str, Any]]`): annotations of the image, each with its `label`.
        size (`tuple[int, int]`): width and height of the image in pixels.
    """
    unique: dict[tuple[str, tuple[float, ...]], Segmentation | None] = {}
    left, clipped = Counter[tuple[str, str | None]](), []
    for entry in entries:
        try:
            region = annotation_region(entry, size)
            _, beyond = fit_box(region.box, size)
        except AnnotationError as error:
            left[REASONS.get(error.rule, INVALID), entry["label"]] += 1
            continue
        if entry["label"] is None:
            left[NO_CATEGORY, None] += 1
            continue
        if beyond and (entry["label"], region.box) not in unique:
            clipped.append(f"{[round(side, 2) for side in region.box]} in {size[0]}x{size[1]}")
        shape = region.segmentation
        unique[entry["label"], region.box] = None if shape is None or _is_box(shape) else shape
    boxes = np.array([box for _, box in unique], dtype=np.float64).reshape(-1, 4)
    return ImageAnnotations([label for label, _ in unique], boxes, list(unique.values()), left, clipped)


def _is_box(shape: Segmentation) -> bool:
    """Return whether a polygon is a box, as in files of boxes alone: it says nothing of the object's outline."""
    points = {tuple(point) for polygon in shape.polygons for point in polygon.tolist()}
    return len(points) == 4 and all(len({point[axis] for point in points}) == 2 for axis in (0, 1))
