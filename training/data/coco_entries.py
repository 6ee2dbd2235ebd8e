# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What training makes of the entries of a COCO file: labels, the size of a picture, boxes and what they leave open."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.io.coco import CocoFile, annotation_region, image_size, shown
from modeling_medglip.io.coco_shapes import AnnotationError, fit_box


# What steers a terminal, or turns the order of what is read. Other marks without a shape belong to some scripts.
UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# How the files that `dataset_scripts.build` writes begin.
BUILT = "MedGLIP grounding data"
LONGEST = 200
# Why an annotation is left out, by the rule that it breaks.
REASONS = {"crowd_region": "crowd regions", "bad_box": "boxes without an area inside their picture, or far beyond it"}
NOT_UNDERSTOOD = "annotations that are not understood"
NO_CATEGORY = "annotations of a category that is not there"


def is_built(coco: CocoFile) -> bool:
    """Whether `dataset_scripts.build` wrote it. Such a file may hold some boxes of a label that it leaves open."""
    return str(coco.info.get("description")).startswith(BUILT)


def label_names(coco: CocoFile) -> set[str]:
    """The names of a file's categories, fit to be labels.

    Raises:
        `ValueError`: none at all, one that cannot be shown or is too long, or two names that hardly differ: whether
            they mean the same would be a guess.
    """
    spelt: dict[str, str] = {}
    for said in coco.categories.values():
        if odd := next(filter(UNSHOWN.match, said), ""):
            raise ValueError(f"{coco.name}: category {shown(said)} has the character U+{ord(odd):04X}: take it out")
        known = said.casefold() in spelt
        other = spelt.setdefault(said.casefold(), said)
        if known:
            raise ValueError(f"{coco.name}: categories {other[:60]!r} and {said[:60]!r}: give them one name")
        if len(said) > LONGEST:
            raise ValueError(f"{coco.name}: category {shown(said)}... is no label: give it at most {LONGEST} letters")
    if not spelt:
        raise ValueError(f"{coco.name}: has no categories: list the labels that are marked in its pictures")
    return set(spelt.values())


def picture_size(image: dict[str, Any], file: Path) -> tuple[int, int]:
    """Width and height.

    Raises:
        `ValueError`: they are no whole numbers above 0.
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
    """The labels that are marked wherever they occur in a picture: what its entry lists, else all.

    Raises:
        `ValueError`: no list of labels of the file.
    """
    said = image.get("annotated")
    if said is None:
        return tuple(sorted(vocabulary))
    if not isinstance(said, list) or not all(isinstance(name, str) for name in said):
        raise ValueError(f"{file.name}: annotated of {shown(image['file_name'])} must be a list of labels")
    names = {" ".join(name.split()) for name in said}
    if odd := sorted(names - vocabulary):
        where = f"annotated of {shown(image['file_name'])}"
        raise ValueError(f"{file.name}: {where} has {shown(odd[0])}, which is no category of the file: add it there")
    return tuple(sorted(names))


@dataclass
class Marks:
    """The usable annotations of one picture.

    Attributes:
        labels, boxes: each annotation once; boxes `(n, 4)` as stated, [x, y, width, height] in pixels.
        left: (reason, label) -> number of annotations that had to be left out; the label is `None` where the file
            does not have its category.
        clipped: stated boxes of which a part beyond the picture was taken off.
    """

    labels: list[str]
    boxes: NDArray[np.float64]
    left: Counter[tuple[str, str | None]]
    clipped: list[str]

    def unknown(self, vocabulary: set[str]) -> set[str]:
        """Labels that may be in the picture though no box says where: one of no category may be any of the others."""
        named = {label for _, label in self.left if label is not None}
        return named | (vocabulary - set(self.labels) if any(label is None for _, label in self.left) else set())


def marks_of(entries: list[dict[str, Any]], size: tuple[int, int]) -> Marks:
    """The labels and boxes of one picture, from its annotations with their `label`."""
    found: dict[tuple[str, tuple[float, ...]], None] = {}
    left, clipped = Counter[tuple[str, str | None]](), []
    for entry in entries:
        try:
            region = annotation_region(entry, size)
            _, beyond = fit_box(region.box, size)
        except AnnotationError as error:
            left[REASONS.get(error.rule, NOT_UNDERSTOOD), entry["label"]] += 1
            continue
        if entry["label"] is None:
            left[NO_CATEGORY, None] += 1
            continue
        if beyond and (entry["label"], region.box) not in found:
            clipped.append(f"{[round(side, 2) for side in region.box]} in {size[0]}x{size[1]}")
        found[entry["label"], region.box] = None
    boxes = np.array([box for _, box in found], dtype=np.float64).reshape(-1, 4)
    return Marks([label for label, _ in found], boxes, left, clipped)
