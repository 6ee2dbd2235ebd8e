# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Marks -> annotations: boxes, run-length masks, sizes, components, and the organ that a lesion lies in.

Boxes are [x, y, width, height] in pixels where pixel 0 covers 0 to 1, as COCO has them. An organ gets one box round
all of its parts and keeps the parts' boxes as `components`; a lesion gets one box per connected component (8
neighbours). A box is always the tight one of its own mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy import ndimage

from modeling_medglip.io.coco_shapes import AnnotationError, fit_box
from modeling_medglip.taxonomy import load_taxonomy

from .labels import MappedLabel, annotated_labels, is_instance_label, map_label
from .quality import PROFILES
from .recipe import Recipe
from .records import Mark, Picture, Rejected


NEIGHBOURS = np.ones((3, 3), dtype=bool)
Report = Callable[[str, str], None]


def annotate(picture: Picture, recipe: Recipe, profile: str, report: Report) -> tuple[list[dict[str, Any]], set[str]]:
    """The annotations of one picture.

    Args:
        picture, recipe: what was read, and how labels map.
        profile: one of `PROFILES`, the smallest share of the picture that a mark may cover.
        report: called with rule and value for everything that is left out.

    Returns:
        annotations as plain data, in a fixed order; names of labels that are left open in this picture (present, but
        not boxed).
    """
    height, width = picture.pixels.shape[:2]
    found: list[dict[str, Any]] = []
    mapped, all_known = _mapped_marks(picture, recipe, report)
    # A mark that nobody can name may be any of the labels, so that none of them can be called absent.
    left_open = set() if all_known else set(annotated_labels(recipe))
    runs = RunLengths(height, width)
    for label, mark in mapped:
        if mark.problem and mark.mask is None and mark.box is None:
            left_open.add(label.name)
            continue
        try:
            boxed = mark.mask is None
            entries = (
                _from_box(mark, width, height, report) if boxed else _from_mask(mark, recipe, label, report, runs)
            )
        except Rejected as error:
            report(error.rule, f"{mark.label[:60]}: {error.value}" if error.rule == "bad_box" else error.value)
            left_open.add(label.name)
            continue
        for entry in entries:
            fraction = entry["area"] / (width * height)
            if entry["area"] < recipe.min_pixels:
                report("small_mark", f"{label.name}: {entry['area']:g} pixels")
                left_open.add(label.name)
            elif fraction < PROFILES[profile]:
                report("min_area", f"{label.name}: {fraction:.5f} of the picture")
                left_open.add(label.name)
            else:
                found.append({**_described(label), **entry, "area_fraction": round(fraction, 6)})
    _number_instances(found)
    _add_parents(found)
    return found, left_open if all_known else left_open - {entry["name"] for entry in found}


def _mapped_marks(picture: Picture, recipe: Recipe, report: Report) -> tuple[list[tuple[MappedLabel, Mark]], bool]:
    """Marks with their labels, and whether the recipe knows all of them. Masks of several own labels that map to one
    organ (the lobes of a lung, say) become one; several of one own label are instances and stay apart."""
    found: list[tuple[MappedLabel, Mark]] = []
    all_known = True
    merged: dict[str, int] = {}
    for mark in picture.marks:
        try:
            label = map_label(recipe, mark.label)
        except Rejected as error:
            report(error.rule, error.value)
            all_known = all_known and error.rule != "undefined_label"
            continue
        if mark.problem:
            report(mark.problem[0], f"{label.name}: {mark.problem[1]}")
        if mark.mask is None or is_instance_label(recipe, label):
            found.append((label, mark))
        elif label.name in merged and found[merged[label.name]][1].label != mark.label:
            first, other = found[merged[label.name]]
            shape = (picture.pixels.shape[0], picture.pixels.shape[1])
            found[merged[label.name]] = first, Mark(other.label, other.whole(shape) | mark.whole(shape))
        else:
            merged[label.name] = len(found)
            found.append((label, mark))
    return found, all_known


def _described(label: MappedLabel) -> dict[str, Any]:
    return {
        "label_id": label.label_id,
        "name": label.name,
        "source_label": label.source_label,
        "category": label.category,
        "region": label.region,
        "granularity": label.granularity,
        "side": label.side,
        "open_vocabulary": label.extension,
    }


def _from_box(mark: Mark, width: int, height: int, report: Report) -> list[dict[str, Any]]:
    x1, y1, x2, y2 = mark.box or (math.nan,) * 4
    try:
        inside, clipped = fit_box((x1, y1, x2 - x1, y2 - y1), (width, height))
    except AnnotationError as error:
        raise Rejected(error.rule, error.reason) from None
    if clipped:
        report("clipped_box", f"{mark.label[:60]}: {[round(v, 2) for v in (x1, y1, x2, y2)]} in {width}x{height}")
    box = list(inside)
    return [{"bbox": box, "area": box[2] * box[3], "segmentation": None, "components": [box]}]


class RunLengths:
    """Encodes masks of one picture as COCO run lengths, which go down the columns: one buffer in that order is filled
    with the part of the picture that a mask covers, encoded, and cleared again."""

    def __init__(self, height: int, width: int) -> None:
        self.buffer = np.zeros((height, width), np.uint8, order="F")

    def encode(self, mask: NDArray[np.bool_], left: int, top: int) -> dict[str, Any]:
        """The run lengths of a mask whose corner lies at (left, top)."""
        region = (slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1]))
        self.buffer[region] = mask
        encoded = coco_mask.encode(self.buffer)
        self.buffer[region] = 0
        return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def _from_mask(
    mark: Mark, recipe: Recipe, label: MappedLabel, report: Report, runs: RunLengths
) -> list[dict[str, Any]]:
    mask, (left, top) = _tight(mark)
    if mask is None:
        return []
    numbers, parts = components(mask, left, top)
    least = recipe.specks * max(size for _, size in parts)
    kept = [number for number, (_, size) in enumerate(parts, start=1) if size >= least]
    if len(kept) < len(parts):
        report("speck", f"{label.name}: {len(parts) - len(kept)} of {len(parts)} parts")
    groups = [[number] for number in kept] if is_instance_label(recipe, label) else [kept]
    entries = []
    for group in groups:
        part = mask if len(group) == len(parts) else np.isin(numbers, group)
        boxes = [parts[number - 1][0] for number in group]
        area = float(sum(parts[number - 1][1] for number in group))
        segmentation = runs.encode(part, left, top)
        entries.append({"bbox": union(boxes), "area": area, "segmentation": segmentation, "components": boxes})
    return entries


def _tight(mark: Mark) -> tuple[NDArray[np.bool_] | None, tuple[int, int]]:
    """The part of a mask that holds anything, and its corner in the picture; `None` if there is nothing."""
    found = ndimage.find_objects(mark.mask.view(np.uint8)) if mark.mask is not None else []
    if mark.mask is None or not found or found[0] is None:
        return None, mark.corner
    rows, columns = found[0]
    return mark.mask[rows, columns], (mark.corner[0] + columns.start, mark.corner[1] + rows.start)


def components(mask: NDArray[np.bool_], left: int = 0, top: int = 0) -> tuple[NDArray, list[tuple[list[float], int]]]:
    """The connected components of a mask whose corner lies at (left, top): their numbers from 1 in an array of the
    mask's shape, and for each its box and its pixels."""
    numbers, count = ndimage.label(mask, structure=NEIGHBOURS)
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)
    boxes = [
        [float(x.start + left), float(y.start + top), float(x.stop - x.start), float(y.stop - y.start)]
        for y, x in ndimage.find_objects(numbers)
    ]
    return numbers, [(box, int(size)) for box, size in zip(boxes, sizes[1:], strict=True)]


def union(boxes: list[list[float]]) -> list[float]:
    """The box round boxes."""
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return [left, top, right - left, bottom - top]


def _number_instances(entries: list[dict[str, Any]]) -> None:
    """Order by label, then from top to bottom; each knows which of how many of its label it is."""
    entries.sort(key=lambda entry: (entry["name"], entry["source_label"], entry["bbox"][1], entry["bbox"][0]))
    totals: dict[str, int] = {}
    for entry in entries:
        totals[entry["name"]] = totals.get(entry["name"], 0) + 1
        entry["instance_index"] = totals[entry["name"]] - 1
    for entry in entries:
        entry["instance_count"] = totals[entry["name"]]


def _add_parents(entries: list[dict[str, Any]]) -> None:
    """`parent_box`: of the nearest ancestor in the taxonomy (a lesion's organ) that is boxed in this picture and holds
    at least half of this box; the smallest one if there are several."""
    by_label: dict[str, list[list[float]]] = {}
    for entry in entries:
        if entry["label_id"] is not None:
            by_label.setdefault(entry["label_id"], []).append(entry["bbox"])
    taxonomy = load_taxonomy()
    for entry in entries:
        entry["parent_label"], entry["parent_box"] = None, None
        for above in taxonomy.ancestors(entry["label_id"]) if entry["label_id"] else ():
            holding = [box for box in by_label.get(above.id, []) if _share_inside(entry["bbox"], box) >= 0.5]
            if holding:
                entry["parent_label"], entry["parent_box"] = above.id, min(holding, key=lambda box: box[2] * box[3])
                break


def _share_inside(box: list[float], other: list[float]) -> float:
    across = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    down = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    return max(across, 0.0) * max(down, 0.0) / (box[2] * box[3])


__all__ = ["annotate", "components", "union"]
