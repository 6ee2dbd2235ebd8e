# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Layout `coco`: a COCO JSON file and its pictures."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ..records import Case, Mark, Picture, Rejected, inside
from .base import Reader, read_annotated


class CocoReader(Reader):
    """A COCO JSON file and its pictures.

    `files: {annotations: train.json, images: train2017}`.

    `annotations` may be a dictionary `{split: file}`. Segmentations may be polygons or run lengths; without one the
    box counts. Crowd regions are masks like others.
    """

    layout = "coco"
    needs = ("annotations",)
    takes = ("images",)

    def cases(self) -> list[Case]:
        """One case per picture of all files."""
        given = self.recipe.files["annotations"]
        found: dict[str, Case] = {}
        for split, name in given.items() if isinstance(given, dict) else [(None, given)]:
            for case in self._cases_of(str(name), split):
                if case.key in found:
                    self.reject("duplicate_id", "a file name in several entries")
                else:
                    found[case.key] = case
        return [found[key] for key in sorted(found)]

    def _cases_of(self, name: str, split: str | None) -> list[Case]:
        path = inside(self.root, name)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
            images = self._unique(content["images"], "image")
            marks: dict[Any, list[dict[str, Any]]] = {number: [] for number in images}
            for entry in self._unique(content["annotations"], "annotation").values():
                self._sort_in(entry, marks, names)
            folder = str(self.recipe.files.get("images", "."))
            return [self._case(image, folder, split, marks[number]) for number, image in images.items()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.recipe.source}: {path.name} is no COCO file ({type(error).__name__})") from None

    def _sort_in(self, entry: dict[str, Any], marks: dict[Any, list[dict[str, Any]]], names: dict[Any, str]) -> None:
        """An annotation to its picture; one of another picture, or of none, is reported."""
        try:
            category = entry["category_id"]
            label = names.get(category, f"category {category}")
            own = marks.get(entry["image_id"])
        except (KeyError, TypeError):
            self.reject("bad_annotations", "an annotation without picture or category")
            return
        if own is None:
            self.reject("no_image", "an annotation of no picture")
        else:
            own.append({**entry, "label": label})

    def _unique(self, entries: list[dict[str, Any]], kind: str) -> dict[Any, dict[str, Any]]:
        found: dict[Any, dict[str, Any]] = {}
        for entry in entries:
            if not isinstance(entry, dict) or not isinstance(entry.get("id"), (int, str)):
                self.reject("bad_annotations", f"{kind} without an id")
            elif kind == "image" and not isinstance(entry.get("file_name"), str):
                self.reject("bad_annotations", "image without a file name")
            elif entry["id"] in found:
                self.reject("duplicate_id", kind)
            else:
                found[entry["id"]] = entry
        return found

    def _case(self, image: dict[str, Any], folder: str, split: str | None, marks: list[dict[str, Any]]) -> Case:
        key = f"{folder}/{image['file_name']}" if folder != "." else str(image["file_name"])
        return Case(key, self.patient(key), split or self.split(key), {"marks": marks, "size": _size(image)})

    def read(self, case: Case) -> Picture:
        """Pixels and marks."""
        stated = case.parts["size"]
        image = read_annotated(inside(self.root, case.key), None if stated is None else tuple(stated))
        width, height = image.size
        return image.picture(coco_mark(entry, height, width) for entry in case.parts["marks"])


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    return (int(image["width"]), int(image["height"])) if "width" in image and "height" in image else None


def coco_mark(entry: dict[str, Any], height: int, width: int) -> Mark:
    """A COCO annotation (with its `label`) as a mark; a segmentation that cannot be decoded is rejected."""
    label, segmentation = str(entry["label"]), entry.get("segmentation")
    if not segmentation:
        try:
            x, y, box_width, box_height = (float(value) for value in entry["bbox"])
        except (KeyError, TypeError, ValueError):
            raise Rejected("bad_annotations", "neither segmentation nor bbox") from None
        return Mark(label, box=(x, y, x + box_width, y + box_height))
    if isinstance(segmentation, dict) and list(segmentation.get("size", ())) != [height, width]:
        raise Rejected("size_mismatch", "run lengths of another size")
    try:
        if isinstance(segmentation, dict):
            runs = segmentation
            if isinstance(segmentation["counts"], list):
                runs = coco_mask.frPyObjects(segmentation, height, width)
        else:
            _check_polygons(segmentation)
            runs = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        return Mark(label, np.asarray(coco_mask.decode(runs)) > 0)
    except Rejected:
        raise
    except Exception as error:  # pycocotools raises nearly anything
        raise Rejected("bad_annotations", f"segmentation: {type(error).__name__}") from None


def _check_polygons(polygons: Any) -> None:
    """The rasteriser reads beyond short lists and loops on wild numbers: check first."""
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64)
        if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
            raise Rejected("bad_annotations", "a polygon that is none")
        if np.abs(points).max() > 100_000:
            raise Rejected("bad_annotations", "a polygon far outside its picture")


__all__ = ["CocoReader", "coco_mark"]
