# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Layout `coco`: a COCO JSON file and its pictures."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from modeling_medglip.errors import MedGlipError, one_line
from modeling_medglip.io.coco import (
    MOST_DOUBTFUL,
    AnnotationError,
    CocoFile,
    annotation_region,
    image_folders,
    image_size,
    other_format,
    read_coco,
    stated_boxes,
)

from ..records import Case, Mark, Picture, Rejected, inside
from .base import Reader, read_annotated


class CocoReader(Reader):
    """A COCO JSON file and its pictures.

    `files: {annotations: train.json, images: train2017}`.

    `annotations` may be a dictionary `{split: file}`. Without `images` the pictures are looked for in the source's
    folder, beside the JSON file, in `images/` there, and in a folder of the file's name. Segmentations may be polygons
    or run lengths; without one the box counts. A crowd region, or an annotation that cannot be used, leaves its label
    open in its picture.
    """

    layout = "coco"
    needs = ("annotations",)
    takes = ("images",)

    def cases(self) -> list[Case]:
        """One case per picture of all files; pictures that are not there become problems."""
        given = self.recipe.files["annotations"]
        found: dict[str, Case] = {}
        for split, name in given.items() if isinstance(given, dict) else [(None, given)]:
            for case in self._cases_of(str(name), split):
                if case.key in found:
                    self.reject("duplicate_id", "a file name in several files")
                    # What either file marks is there.
                    for part in ("marks", "unplaced"):
                        found[case.key].parts[part].extend(case.parts[part])
                else:
                    found[case.key] = case
        for case in found.values():
            case.parts["marks"][:] = self._once(case.parts["marks"])
        return [found[key] for key in sorted(found)]

    def _once(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Annotations without repetitions. Their own ids tell nothing: exporters repeat them."""
        found = {json.dumps({**entry, "id": None, "image_id": None}): entry for entry in reversed(entries)}
        for _ in range(len(entries) - len(found)):
            self.reject("duplicate_id", "an annotation in several entries")
        return list(reversed(found.values()))

    def _cases_of(self, name: str, split: str | None) -> list[Case]:
        path = inside(self.root, name)
        try:
            coco = read_coco(path)
        except MedGlipError as error:
            raise ValueError(f"{self.recipe.source}: {error}") from None
        for rule, value in coco.problems:
            self.reject(rule, value)
        self._report_other_formats(coco)
        folders = self._folders(path)
        found, missing = [], 0
        for image in coco.images:
            try:
                size = image_size(image)
                key = self._key_of(image["file_name"], folders)
            except AnnotationError as error:
                self.reject(error.rule, error.reason)
            except Rejected as error:
                missing += error.rule == "missing_file"
                self.reject(error.rule, error.value)
            else:
                marks = coco.annotations[image["id"]]
                unplaced = coco.unplaced - {entry["label"] for entry in marks}
                parts = {
                    "marks": marks,
                    "size": size,
                    "unplaced": sorted(label or "unknown category" for label in unplaced),
                }
                found.append(Case(key, self.patient(key), split or self.split(key), parts))
        if missing:
            looked = f"looked in {', '.join(folders)} of {self.recipe.root!r}"
            self._warn(f"{coco.name}: {missing} of {len(coco.images)} pictures are missing: {looked}")
        return found

    def _folders(self, path: Path) -> list[str]:
        """Where pictures are looked for, relative to the root."""
        if "images" in self.recipe.files:
            return [str(self.recipe.files["images"])]
        return [folder.relative_to(self.root).as_posix() for folder in image_folders(path, self.root)]

    def _key_of(self, name: str, folders: list[str]) -> str:
        """The relative path of a picture.

        Raises:
            `Rejected`: `missing_file`, `leaves_folder`.
        """
        if Path(name).is_absolute():
            raise Rejected("leaves_folder", "absolute or climbing file name")
        for folder in folders:
            key = name if folder == "." else f"{folder}/{name}"
            try:
                inside(self.root, key)
            except Rejected as error:
                if error.rule != "missing_file":
                    raise
            else:
                return key
        raise Rejected("missing_file", f"looked in {', '.join(folders)}")

    def _report_other_formats(self, coco: CocoFile) -> None:
        doubts, annotated = Counter[str](), 0
        for image in coco.images:
            entries = coco.annotations[image["id"]]
            annotated += bool(entries)
            try:
                size = image_size(image)
            except AnnotationError:
                continue
            if size and (looks := other_format(stated_boxes(entries), size)):
                doubts[looks] += 1
        for looks, count in doubts.items():
            if count > MOST_DOUBTFUL * annotated:
                self.reject("box_format", f"boxes of {count} pictures {looks}")
                self._warn(f"{coco.name}: boxes of {count} pictures {looks}")

    def _warn(self, text: str) -> None:
        print(f"warning: {one_line(f'{self.recipe.source}: {text}')}", file=sys.stderr)

    def read(self, case: Case) -> Picture:
        """Pixels and marks."""
        stated = case.parts["size"]
        image = read_annotated(inside(self.root, case.key), None if stated is None else tuple(stated))
        width, height = image.size
        problem = ("bad_annotations", "an annotation of an unknown image may be of this one")
        marks = [coco_mark(entry, height, width) for entry in case.parts["marks"]]
        return image.picture([*marks, *(Mark(label, problem=problem) for label in case.parts["unplaced"])])


def coco_mark(entry: dict[str, Any], height: int, width: int) -> Mark:
    """A COCO annotation, with its `label`, as a mark. One that cannot be used keeps its label and says why."""
    label = entry["label"]
    if label is None:  # no label map has such a name
        label = f"category {one_line(entry.get('category_id'), 40)}"
    try:
        region = annotation_region(entry, (width, height))
    except AnnotationError as error:
        return Mark(label, problem=(error.rule, error.reason))
    problem = ("bad_annotations", region.note) if region.note else None
    mask = None if region.segmentation is None else region.segmentation.mask()
    if mask is not None and mask.any():
        return Mark(label, mask, problem=problem)
    if mask is not None:
        problem = ("bad_annotations", "a segmentation without a pixel: its box is used")
    x, y, wide, high = region.box
    return Mark(label, box=(x, y, x + wide, y + high), problem=problem)


__all__ = ["CocoReader", "coco_mark"]
