# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The reader of COCO files, for the data build and for training: entries, checked and sorted by image.

What an annotation file says and nobody understands is never read as "nothing is there": [`read_coco`] lists it as a
problem, and [`annotation_region`] raises [`AnnotationError`], upon which callers leave the label open in that image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MedGlipError, one_line
from .coco_shapes import FARTHEST, AnnotationError, Segmentation, fit_box, is_number, parse_segmentation
from .text_files import read_json


MAX_COCO_BYTES = 2**29
# The longest name of a file or folder that file systems allow, in bytes, and the longest path.
LONGEST_NAME, LONGEST_PATH = 255, 2048
# Share of the images with boxes whose boxes may look as if written in another format, before that is reported.
MOST_DOUBTFUL = 0.2
# Ids that are whole numbers, as text; floats beyond the limit have lost digits.
WHOLE = re.compile(r"0*([0-9]+)(?:\.0+)?")
LARGEST_WHOLE = 2**53
# Fields of an image entry that decide what its annotations mean.
DECISIVE = ("width", "height", "annotated", "split", "patient", "modality")


@dataclass
class CocoFile:
    """The content of a COCO file.

    Attributes:
        name (`str`): of the file.
        info (`dict`): its `info`.
        categories (`dict[str, str]`): id, as text -> name, with single spaces.
        images (`list[dict]`): entries whose `id`, as text, and `file_name` are usable, each image once.
        annotations (`dict[str, list[dict]]`): image id -> entries, each with its `label`: the category's name, or
            `None` for a category that is not in the file.
        unplaced (`set[str | None]`): labels of annotations that may belong to any image; they are unknown in images
            without a box of them.
        problems (`list[tuple[str, str]]`): (rule, value) of what is not in `images` or `annotations`.
    """

    name: str
    info: dict[str, Any] = field(default_factory=dict)
    categories: dict[str, str] = field(default_factory=dict)
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    unplaced: set[str | None] = field(default_factory=set)
    problems: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class AnnotationShape:
    """Where an annotation lies.

    Attributes:
        box (`tuple[float, float, float, float]`): [x, y, width, height] in pixels, as stated, else around the
            segmentation; not clipped to the image.
        segmentation ([`Segmentation`], *optional*): polygons or run lengths, where the annotation has usable ones.
        note (`str`): which part of the annotation is not usable, so that the other one was used; empty if all is.
    """

    box: tuple[float, float, float, float]
    segmentation: Segmentation | None = None
    note: str = ""


def read_coco(path: Path) -> CocoFile:
    """Read and check a COCO file. The ids of annotations are not used: exporters repeat or omit them.

    Raises:
        `MedGlipError`: the file is not COCO JSON: a list is missing, a category has no id or name, or two have one id.
    """
    name = one_line(path.name, 80)
    try:
        content = read_json(path, MAX_COCO_BYTES)
    except MedGlipError as error:
        raise MedGlipError(f"{name}: is not a COCO file ({str(error).removeprefix(f'{name}: ')})") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise MedGlipError(f"{name}: is not a COCO file (it has no list of {key})")
    info = content.get("info")
    coco = CocoFile(name, info if isinstance(info, dict) else {}, _categories(content["categories"], name))
    numbers = _read_images(coco, content["images"])
    _sort_annotations(coco, content["annotations"], numbers)
    return coco


def _categories(entries: list[Any], file: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for entry in entries:
        number = _id(entry.get("id")) if isinstance(entry, dict) else None
        if number is None:
            raise MedGlipError(f"{file}: a category has no id: number the categories")
        name = entry.get("name")
        if not isinstance(name, str) or not name.strip() or not _encodes(name):
            raise MedGlipError(f"{file}: category {shown(number)} has no name: give it one")
        if number in names:
            raise MedGlipError(f"{file}: two categories have the id {shown(number)}: number them apart")
        names[number] = " ".join(name.split())
    return names


def _read_images(coco: CocoFile, entries: list[Any]) -> dict[str, str | None]:
    """Fill `coco.images`. Return the number that each id's annotations go by, `None` for images that are left out."""
    by_name: dict[str, dict[str, Any]] = {}
    by_id: dict[str, dict[str, Any]] = {}
    target: dict[str, str | None] = {}
    for entry in entries:
        number = _id(entry.get("id")) if isinstance(entry, dict) else None
        if number is None or not _usable_name(entry.get("file_name")):
            coco.problems.append(("bad_annotations", "image without an id or a file name"))
            if number is not None:
                target[number] = None
            continue
        other = by_id.setdefault(number, entry)
        first = by_name.setdefault(entry["file_name"], entry)
        if other is entry and first is entry:
            target[number] = number
            coco.images.append({**entry, "id": number})
            continue
        coco.problems.append(("duplicate_id", "an image id or file name in several entries"))
        same = all(_alike(entry, earlier) for earlier in (other, first))
        # Nobody knows which of several images, or of several states of one, the annotations belong to.
        affected = {number, str(_id(other["id"])), str(_id(first["id"]))}
        owner = target.get(str(_id(first["id"])))
        target.update(dict.fromkeys(affected, owner if same else None))
    coco.images = [image for image in coco.images if target[image["id"]] == image["id"]]
    return target


def _alike(entry: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(entry.get(key) == other.get(key) for key in ("file_name", *DECISIVE))


def _sort_annotations(coco: CocoFile, entries: list[Any], target: dict[str, str | None]) -> None:
    """Fill `coco.annotations` and `coco.unplaced`."""
    coco.annotations = {image["id"]: [] for image in coco.images}
    numbered = all(number.isdigit() for number in target)
    for entry in entries:
        if not isinstance(entry, dict):
            coco.problems.append(("bad_annotations", "an annotation that is not an object"))
            continue
        image, category = _id(entry.get("image_id")), _id(entry.get("category_id"))
        label = None if category is None else coco.categories.get(category)
        if image is not None and image in target:
            if (owner := target[image]) is not None:
                coco.annotations[owner].append({**entry, "label": label})
        elif image is not None and image.isdigit() and numbered:  # of an image that was taken out of the list
            coco.problems.append(("no_image", "an annotation of no image"))
        else:
            coco.problems.append(("bad_annotations", "an annotation of an unknown image, whose label is left open"))
            coco.unplaced.add(label)


def _id(value: Any) -> str | None:
    """Return an id as text. 1, 1.0, "1", "0001" and "1.0" are equal, since exporters mix them."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, float):
        return str(int(value)) if abs(value) <= LARGEST_WHOLE and value.is_integer() else None
    text = str(value).strip()
    number = WHOLE.fullmatch(text)
    return number[1] if number else text or None


def _usable_name(name: Any) -> bool:
    """Whether a file can have such a name."""
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_PATH or not _encodes(name):
        return False
    return all(len(part.encode()) <= LONGEST_NAME for part in name.split("/"))


def _encodes(text: str) -> bool:
    """Whether a text can be written at all; JSON may hold halves of surrogate pairs."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def image_size(image: dict[str, Any]) -> tuple[int, int] | None:
    """Return the width and height of an image entry, `None` where it states neither.

    Raises:
        `AnnotationError`: they are not whole numbers above 0.
    """
    sides: list[Any] = [image.get("width"), image.get("height")]
    if sides == [None, None]:
        return None
    for side in sides:
        # Some exporters write 512.0.
        if not is_number(side) or not 0 < side < FARTHEST or side != int(side):
            stated = " x ".join(shown(value) for value in sides)
            raise AnnotationError("bad_annotations", f"width and height must be whole numbers above 0, not {stated}")
    width, height = sides
    return int(width), int(height)


def annotation_region(entry: dict[str, Any], size: tuple[int, int]) -> AnnotationShape:
    """Return where an annotation lies in its image.

    If the segmentation or the box is not usable, the other one is used. Run lengths of another size are an exception:
    they and the box may belong to another image.

    Args:
        entry (`dict`): of the list of annotations.
        size (`tuple[int, int]`): width and height of the image in pixels.

    Raises:
        `AnnotationError`: a crowd region, or neither a usable box nor a usable segmentation. The label is unknown in
            this image then, not absent.
    """
    if entry.get("iscrowd") not in (None, 0, "0", False):
        raise AnnotationError("crowd_region", "of several objects")
    box, box_error = _stated_box(entry.get("bbox"), size)
    try:
        shape = parse_segmentation(entry.get("segmentation"), size)
        if shape is not None and box is None:
            fit_box(shape.box, size)
    except AnnotationError as error:
        if box is None or error.rule == "size_mismatch":
            raise box_error if box_error and error.rule == "bad_box" else error from None
        return AnnotationShape(box, None, f"{error.reason}: its box is used")
    if box is not None:
        return AnnotationShape(box, shape)
    if shape is not None:
        return AnnotationShape(shape.box, shape, f"{box_error.reason}: its segmentation is used" if box_error else "")
    raise box_error or AnnotationError("bad_annotations", "neither segmentation nor bbox")


def _stated_box(value: Any, size: tuple[int, int]) -> tuple[tuple[float, float, float, float] | None, Any]:
    """Return the stated box, or the reason why it is invalid; neither where none is stated."""
    if value in (None, [], {}, ""):
        return None, None
    if not isinstance(value, list) or len(value) != 4 or not all(map(is_number, value)):
        return None, AnnotationError("bad_annotations", "a bbox that is not four numbers")
    if not all(abs(side) < FARTHEST for side in value):
        return None, AnnotationError("bad_box", "not finite or far outside its image")
    x, y, width, height = map(float, value)
    try:
        fit_box((x, y, width, height), size)
    except AnnotationError as error:
        return None, error
    return (x, y, width, height), None


def other_format(boxes: NDArray[np.float64], size: tuple[int, int]) -> str | None:
    """Return how boxes look if they seem to be in another format, else `None`.

    Args:
        boxes (`np.ndarray` of shape `(n, 4)`): the stated [x, y, width, height] of one image.
        size (`tuple[int, int]`): its width and height in pixels.
    """
    if not len(boxes):
        return None
    if (boxes[:, 2:] < 2).all():
        return "have sides under 2 pixels: are they shares of the image?"
    far = boxes[:, :2] + boxes[:, 2:]
    ordered = (boxes[:, 2:] > boxes[:, :2]).all()  # as a second corner is beyond the first
    if (far > 1.25 * np.array(size) + 2).any() or (ordered and (far > np.array(size) + 2).any()):
        return "go beyond their image: are they two corners?"
    return None


def stated_boxes(entries: Iterable[dict[str, Any]]) -> NDArray[np.float64]:
    """Return the stated boxes `(n, 4)` of annotations that are four numbers, for [`other_format`]."""
    stated = [entry.get("bbox") for entry in entries]
    usable = [
        box for box in stated
        if isinstance(box, list) and len(box) == 4 and all(is_number(v) and abs(v) < FARTHEST for v in box)
    ]  # fmt: skip
    return np.array(usable, dtype=np.float64).reshape(-1, 4)


def image_folders(file: Path, root: Path | None = None) -> list[Path]:
    """Return the folders in which the images of a COCO file may be.

    These are `root`, the folder of the file, `images` in it, a folder with the name of the file, and the same beside a
    folder `annotations`.

    Args:
        file (`Path`): the COCO file.
        root (`Path`, *optional*): no other folders are returned than this one and those below it.
    """
    parents = [file.parent, *([file.parent.parent] if file.parent.name == "annotations" else [])]
    folders = [parent / part for parent in parents for part in (".", "images", file.stem)]
    inside = [folder for folder in folders if root is None or folder.is_relative_to(root)]
    return list(dict.fromkeys([*([root] if root else []), *inside]))


def shown(value: object) -> str:
    """Return a value of the file for a message."""
    return repr(one_line(value, 60))


__all__ = [
    "MOST_DOUBTFUL",
    "AnnotationShape",
    "CocoFile",
    "annotation_region",
    "image_folders",
    "image_size",
    "other_format",
    "read_coco",
    "shown",
    "stated_boxes",
]
