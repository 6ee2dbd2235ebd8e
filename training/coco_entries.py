# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The entries of a COCO file, checked: its categories, the size of a picture, the box of an annotation."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from modeling_medglip.errors import one_line

from .records import as_boxes


# No picture is that large; single precision cannot tell pixels apart there.
FARTHEST = 1e7
# What steers a terminal, or turns the order of what is read. Other marks without a shape belong to some scripts.
UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# How the files that `dataset_scripts.build` writes begin.
BUILT = "MedGLIP grounding data"
LONGEST = 200
CROWD, EMPTY = "crowd regions", "boxes without an area inside their picture"


def file_content(file: Path) -> Any:
    """The JSON of a file, with or without a byte order mark.

    Raises:
        `ValueError`: it is none.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = one_line(f"{type(error).__name__} {error}", 120)
        raise ValueError(f"{one_line(file.name, 80)}: is no COCO file ({reason})") from None


def is_built(content: dict[str, Any]) -> bool:
    """Whether `dataset_scripts.build` wrote it. Such a file may hold some boxes of a label that it leaves open."""
    info = content.get("info")
    return isinstance(info, dict) and str(info.get("description")).startswith(BUILT)


def category_names(content: dict[str, Any], file: Path) -> dict[Any, str]:
    """Names by id.

    Raises:
        `ValueError`: none at all, one without a name, two of one id, or two names that hardly differ: whether they
            mean the same would be a guess.
    """
    names: dict[Any, str] = {}
    spelt: dict[str, str] = {}
    for entry in content["categories"]:
        number, said = entry["id"], entry.get("name")
        if not isinstance(said, str) or not said.strip():
            raise ValueError(f"{file.name}: category {shown(number)} has no name: give it one")
        if odd := next(filter(UNSHOWN.match, " ".join(said.split())), ""):
            raise ValueError(f"{file.name}: category {shown(said)} has the character U+{ord(odd):04X}: take it out")
        if number in names:
            raise ValueError(f"{file.name}: two categories have the id {shown(number)}: number them apart")
        other = spelt.setdefault(" ".join(said.split()).casefold(), said)
        if other != said:
            raise ValueError(f"{file.name}: categories {other[:60]!r} and {said[:60]!r}: give them one name")
        if len(said) > LONGEST:
            raise ValueError(f"{file.name}: category {shown(said)}... is no label: give it at most {LONGEST} letters")
        names[number] = " ".join(said.split())
    if not names:
        raise ValueError(f"{file.name}: has no categories: list the labels that are marked in its pictures")
    return names


def picture_size(image: dict[str, Any], file: Path) -> tuple[int, int]:
    """Width and height.

    Raises:
        `ValueError`: they are no whole numbers above 0, or the picture has no file name.
    """
    name = image.get("file_name")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{file.name}: picture {shown(image['id'])} has no file_name")
    sides = [image.get("width"), image.get("height")]
    for side in sides:
        # Some exporters write 512.0.
        if isinstance(side, bool) or not isinstance(side, int | float) or not 0 < side < FARTHEST or side != int(side):
            told = " x ".join(shown(value) for value in sides)
            raise ValueError(
                f"{file.name}: width and height of {shown(name)} must be whole numbers above 0, not {told}"
            )
    return int(image["width"]), int(image["height"])


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


def marks_of(
    entries: list[tuple[str, dict[str, Any]]], size: tuple[int, int], file: Path
) -> tuple[list[str], NDArray[np.float64], Counter[tuple[str, str]]]:
    """Labels and boxes [x, y, width, height] of a picture, each once, and what had to be left out: how many, by reason
    and label.

    A crowd region is no box of one thing, and a box without an area, or beside the picture, is of nobody knows what:
    real exports have some of each.

    Raises:
        `ValueError`: an annotation without a box, or with what is none.
    """
    found: dict[tuple[str, tuple[float, ...]], None] = {}
    left: Counter[tuple[str, str]] = Counter()
    for label, entry in entries:
        box = _box(entry, size, file)
        corners = as_boxes([box], size)[0]
        if entry.get("iscrowd") not in (None, 0, "0"):
            left[CROWD, label] += 1
        elif (corners[2:] <= corners[:2]).any():
            left[EMPTY, label] += 1
        else:
            found[label, tuple(box)] = None
    boxes = np.array([box for _, box in found], dtype=np.float64).reshape(-1, 4)
    return [label for label, _ in found], boxes, left


def doubt(boxes: NDArray[np.float64], size: tuple[int, int]) -> str | None:
    """In which other format the boxes [x, y, width, height] of a picture may be written, if they look like it."""
    if not len(boxes):
        return None
    if (boxes[:, 2:] < 2).all():
        return "have sides under 2 pixels: are they shares of the picture?"
    far = boxes[:, :2] + boxes[:, 2:]
    ordered = (boxes[:, 2:] > boxes[:, :2]).all()  # as a second corner is beyond the first
    if (far > 1.25 * np.array(size) + 2).any() or (ordered and (far > np.array(size) + 2).any()):
        return "go beyond their picture: are they two corners?"
    return None


def _box(entry: dict[str, Any], size: tuple[int, int], file: Path) -> list[float]:
    """[x, y, width, height]: what is said, else round the segmentation."""
    try:
        said = entry.get("bbox") or _round_segmentation(entry["segmentation"], size)
        box = [float(side) for side in said] if isinstance(said, list) else []
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        box = []
    # Negative sides are those of another format, such as two corners, rather than of an empty box.
    if len(box) != 4 or not np.isfinite(box).all() or np.abs(box).max() > FARTHEST or min(box[2:]) < 0:
        raise ValueError(
            f"{file.name}: annotation {shown(entry.get('id'))} has no box of four finite numbers: "
            "x, y, width and height in pixels, or a segmentation that fits its picture"
        )
    return box


def _round_segmentation(shape: Any, size: tuple[int, int]) -> list[float]:
    """The box round polygons or run lengths."""
    if isinstance(shape, dict):
        width, height = size
        if list(shape["size"]) != [height, width]:
            raise ValueError("run lengths of another size")
        runs = coco_mask.frPyObjects(shape, height, width) if isinstance(shape["counts"], list) else shape
        x, y, wide, high = (float(side) for side in coco_mask.toBbox(runs))
        if x + wide > width or y + high > height:  # damaged run lengths go on beyond their picture
            raise ValueError("run lengths that leave their picture")
        return [x, y, wide, high]
    points = [np.asarray(polygon, dtype=np.float64) for polygon in shape]
    if any(part.ndim != 1 or len(part) < 6 or len(part) % 2 for part in points):
        raise ValueError("no polygons")
    pairs = np.concatenate(points).reshape(-1, 2)
    low, high_corner = pairs.min(axis=0), pairs.max(axis=0)
    return [*low.tolist(), *(high_corner - low).tolist()]


def shown(value: object) -> str:
    """A value of the file in a message."""
    return repr(one_line(value, 60))
