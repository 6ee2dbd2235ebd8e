# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Turn the annotations of a source into those of the data set: boxes, run-length masks, components, parents.

Boxes are [x, y, width, height] in pixels where pixel 0 covers 0 to 1, as COCO has them. An organ gets one box round
all of its parts and the boxes of the parts as `components`; a lesion gets one box per connected component (8
neighbors). A box is always the tight one of its mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy import ndimage

from modeling_medglip.boxes import share_inside
from modeling_medglip.io.coco_shapes import AnnotationError, fit_box
from modeling_medglip.taxonomy import load_taxonomy

from .labels import MappedLabel, annotated_labels, is_instance_label, map_label
from .quality import PROFILES
from .recipe import Recipe
from .records import AnnotatedImage, Annotation, Rejected


NEIGHBORS = np.ones((3, 3), dtype=bool)
# Least share of a box that its parent's box contains.
PARENT_SHARE = 0.5
Report = Callable[[str, str], None]


def annotate(
    image: AnnotatedImage, recipe: Recipe, profile: str, report: Report
) -> tuple[list[dict[str, Any]], set[str]]:
    """Return the annotations of one image as the data set stores them.

    Args:
        image ([`AnnotatedImage`]): The image as a reader returns it.
        recipe ([`Recipe`]): Maps the labels of the source.
        profile (`str`): One of `PROFILES`, the smallest fraction of the image that an annotation may cover.
        report (`Callable`): Called with rule and value for everything that is left out.

    Returns:
        `tuple[list[dict], set[str]]`: The annotations as plain data in a fixed order, and the names of labels that are
        present in this image but not boxed.
    """
    height, width = image.pixels.shape[:2]
    results: list[dict[str, Any]] = []
    mapped, all_labels_known = _mapped_annotations(image, recipe, report)
    # An annotation with an unknown name may be any of the labels, so that none of them can be called absent.
    left_open = set() if all_labels_known else set(annotated_labels(recipe))
    runs = RunLengths(height, width)
    for label, annotation in mapped:
        if annotation.issue and annotation.mask is None and annotation.box is None:
            left_open.add(label.name)
            continue
        try:
            boxed = annotation.mask is None
            entries = (
                _from_box(annotation, width, height, report)
                if boxed
                else _from_mask(annotation, recipe, label, report, runs)
            )
        except Rejected as error:
            report(error.rule, f"{annotation.label[:60]}: {error.value}" if error.rule == "bad_box" else error.value)
            left_open.add(label.name)
            continue
        for entry in entries:
            fraction = entry["area"] / (width * height)
            if entry["area"] < recipe.min_pixels:
                report("small_mark", f"{label.name}: {entry['area']:g} pixels")
                left_open.add(label.name)
            elif fraction < PROFILES[profile]:
                report("min_area", f"{label.name}: {fraction:.5f} of the image")
                left_open.add(label.name)
            else:
                results.append({**_described(label), **entry, "area_fraction": round(fraction, 6)})
    _number_instances(results)
    _add_parents(results)
    return results, left_open if all_labels_known else left_open - {entry["name"] for entry in results}


def _mapped_annotations(
    image: AnnotatedImage, recipe: Recipe, report: Report
) -> tuple[list[tuple[MappedLabel, Annotation]], bool]:
    """Return the annotations with their mapped labels, and whether the recipe knows all labels.

    Masks of several source labels that map to one organ, such as the lobes of a lung, are merged. Several masks of one
    source label are instances and stay separate.
    """
    results: list[tuple[MappedLabel, Annotation]] = []
    all_labels_known = True
    merged: dict[str, int] = {}
    for annotation in image.annotations:
        try:
            label = map_label(recipe, annotation.label)
        except Rejected as error:
            report(error.rule, error.value)
            all_labels_known = all_labels_known and error.rule != "undefined_label"
            continue
        if annotation.issue:
            report(annotation.issue[0], f"{label.name}: {annotation.issue[1]}")
        if annotation.mask is None or is_instance_label(recipe, label):
            results.append((label, annotation))
        elif label.name in merged and results[merged[label.name]][1].label != annotation.label:
            first, other = results[merged[label.name]]
            shape = (image.pixels.shape[0], image.pixels.shape[1])
            results[merged[label.name]] = first, Annotation(other.label, other.whole(shape) | annotation.whole(shape))
        else:
            merged[label.name] = len(results)
            results.append((label, annotation))
    return results, all_labels_known


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


def _from_box(annotation: Annotation, width: int, height: int, report: Report) -> list[dict[str, Any]]:
    x1, y1, x2, y2 = annotation.box or (math.nan,) * 4
    try:
        inside, clipped = fit_box((x1, y1, x2 - x1, y2 - y1), (width, height))
    except AnnotationError as error:
        raise Rejected(error.rule, error.reason) from None
    if clipped:
        report(
            "clipped_box", f"{annotation.label[:60]}: {[round(v, 2) for v in (x1, y1, x2, y2)]} in {width}x{height}"
        )
    box = list(inside)
    return [{"bbox": box, "area": box[2] * box[3], "segmentation": None, "components": [box]}]


class RunLengths:
    """Encode masks of one image as COCO run lengths.

    Run lengths follow the columns. One buffer in that order is filled with the part of the image that a mask covers,
    encoded, and cleared again.
    """

    def __init__(self, height: int, width: int) -> None:
        self.buffer = np.zeros((height, width), np.uint8, order="F")

    def encode(self, mask: NDArray[np.bool_], left: int, top: int) -> dict[str, Any]:
        """Return the COCO run lengths of a mask.

        Args:
            mask (`np.ndarray` of shape `(h, w)`): Foreground of a part of the image.
            left (`int`): Column of the first pixel of the mask in the image.
            top (`int`): Row of the first pixel of the mask in the image.
        """
        region = (slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1]))
        self.buffer[region] = mask
        encoded = coco_mask.encode(self.buffer)
        self.buffer[region] = 0
        return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def _from_mask(
    annotation: Annotation, recipe: Recipe, label: MappedLabel, report: Report, runs: RunLengths
) -> list[dict[str, Any]]:
    mask, (left, top) = _tight(annotation)
    if mask is None:
        return []
    numbers, parts = components(mask, left, top)
    least = recipe.min_component_fraction * max(size for _, size in parts)
    kept_parts = [number for number, (_, size) in enumerate(parts, start=1) if size >= least]
    if len(kept_parts) < len(parts):
        report("speck", f"{label.name}: {len(parts) - len(kept_parts)} of {len(parts)} parts")
    groups = [[number] for number in kept_parts] if is_instance_label(recipe, label) else [kept_parts]
    entries = []
    for group in groups:
        part = mask if len(group) == len(parts) else np.isin(numbers, group)
        boxes = [parts[number - 1][0] for number in group]
        area = float(sum(parts[number - 1][1] for number in group))
        segmentation = runs.encode(part, left, top)
        entries.append({"bbox": enclosing_box(boxes), "area": area, "segmentation": segmentation, "components": boxes})
    return entries


def _tight(annotation: Annotation) -> tuple[NDArray[np.bool_] | None, tuple[int, int]]:
    """Crop a mask to its foreground; return it (`None` if empty) and the position of its first pixel in the image."""
    regions = ndimage.find_objects(annotation.mask.view(np.uint8)) if annotation.mask is not None else []
    if annotation.mask is None or not regions or regions[0] is None:
        return None, annotation.corner
    rows, columns = regions[0]
    return annotation.mask[rows, columns], (annotation.corner[0] + columns.start, annotation.corner[1] + rows.start)


def components(mask: NDArray[np.bool_], left: int = 0, top: int = 0) -> tuple[NDArray, list[tuple[list[float], int]]]:
    """Label the 8-connected components of a mask.

    Args:
        mask (`np.ndarray` of shape `(h, w)`): Foreground.
        left (`int`, *optional*, defaults to 0): Column of the first pixel of the mask in the image.
        top (`int`, *optional*, defaults to 0): Row of the first pixel of the mask in the image.

    Returns:
        `tuple`: Component numbers from 1 `(h, w)`, and for each component its box and number of pixels.
    """
    numbers, count = ndimage.label(mask, structure=NEIGHBORS)
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)
    boxes = [
        [float(x.start + left), float(y.start + top), float(x.stop - x.start), float(y.stop - y.start)]
        for y, x in ndimage.find_objects(numbers)
    ]
    return numbers, [(box, int(size)) for box, size in zip(boxes, sizes[1:], strict=True)]


def enclosing_box(boxes: list[list[float]]) -> list[float]:
    """Return the box [x, y, width, height] that encloses boxes."""
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return [left, top, right - left, bottom - top]


def _number_instances(entries: list[dict[str, Any]]) -> None:
    """Sort by label, then from top to bottom, and number the instances of each label."""
    entries.sort(key=lambda entry: (entry["name"], entry["source_label"], entry["bbox"][1], entry["bbox"][0]))
    totals: dict[str, int] = {}
    for entry in entries:
        totals[entry["name"]] = totals.get(entry["name"], 0) + 1
        entry["instance_index"] = totals[entry["name"]] - 1
    for entry in entries:
        entry["instance_count"] = totals[entry["name"]]


def _add_parents(entries: list[dict[str, Any]]) -> None:
    """Add `parent_label` and `parent_box`: the nearest ancestor whose box contains half of the box of an entry.

    The parent of a lesion is its organ. Of several boxes the smallest one counts.
    """
    by_label: dict[str, list[list[float]]] = {}
    for entry in entries:
        if entry["label_id"] is not None:
            by_label.setdefault(entry["label_id"], []).append(entry["bbox"])
    taxonomy = load_taxonomy()
    for entry in entries:
        entry["parent_label"], entry["parent_box"] = None, None
        corners = _corners(entry["bbox"])
        for above in taxonomy.ancestors(entry["label_id"]) if entry["label_id"] else ():
            containing = [
                box for box in by_label.get(above.id, []) if share_inside(corners, _corners(box)) >= PARENT_SHARE
            ]
            if containing:
                entry["parent_label"], entry["parent_box"] = above.id, min(containing, key=lambda box: box[2] * box[3])
                break


def _corners(box: list[float]) -> tuple[float, float, float, float]:
    """Return the corners (x1, y1, x2, y2) of a box [x, y, width, height]."""
    x, y, width, height = box
    return x, y, x + width, y + height


__all__ = ["annotate", "components", "enclosing_box"]
