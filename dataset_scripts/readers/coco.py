# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Layout `coco`: a COCO JSON file and its images."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from modeling_medglip.errors import MedGlipError, one_line
from modeling_medglip.io.coco import (
    MOST_DOUBTFUL,
    CocoFile,
    annotation_region,
    image_folders,
    image_size,
    other_format,
    read_coco,
    stated_boxes,
)
from modeling_medglip.io.coco_shapes import AnnotationError

from ..records import AnnotatedImage, Annotation, Case, Rejected, inside
from .base import Reader, read_annotated


class CocoReader(Reader):
    """A COCO JSON file and its images.

    `files: {annotations: train.json, images: train2017}`.

    `annotations` may be a dictionary `{split: file}`. Without `images` the images are looked for in the source's
    folder, beside the JSON file, in `images/` there, and in a folder of the file's name. Segmentations may be polygons
    or run lengths; without one the box counts. A crowd region, or an annotation that cannot be used, leaves its label
    open in its image.
    """

    layout = "coco"
    needs = ("annotations",)
    takes = ("images",)

    def cases(self) -> list[Case]:
        """Return one case per image of all files; missing images become rejections."""
        given = self.recipe.files["annotations"]
        results: dict[str, Case] = {}
        for split, name in given.items() if isinstance(given, dict) else [(None, given)]:
            for case in self._cases_of(str(name), split):
                if case.key in results:
                    self.reject("duplicate_id", "a file name in several files")
                    # What either file annotates is in the image.
                    for part in ("annotations", "of_unknown_image"):
                        results[case.key].parts[part].extend(case.parts[part])
                else:
                    results[case.key] = case
        for case in results.values():
            case.parts["annotations"][:] = self._once(case.parts["annotations"])
        return [results[key] for key in sorted(results)]

    def _once(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return annotations without repetitions, whatever their ids, which exporters repeat."""
        results = {json.dumps({**entry, "id": None, "image_id": None}): entry for entry in reversed(entries)}
        for _ in range(len(entries) - len(results)):
            self.reject("duplicate_id", "an annotation in several entries")
        return list(reversed(results.values()))

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
        results, missing = [], 0
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
                annotations = coco.annotations[image["id"]]
                of_unknown_image = coco.unplaced - {entry["label"] for entry in annotations}
                parts = {
                    "annotations": annotations,
                    "size": size,
                    "of_unknown_image": sorted(label or "unknown category" for label in of_unknown_image),
                }
                results.append(Case(key, self.patient(key), split or self.split(key), parts))
        if missing:
            looked = f"looked in {', '.join(folders)} of {self.recipe.root!r}"
            self._warn(f"{coco.name}: {missing} of {len(coco.images)} images are missing: {looked}")
        return results

    def _folders(self, path: Path) -> list[str]:
        """Return the folders to look for images in, relative to the root."""
        if "images" in self.recipe.files:
            return [str(self.recipe.files["images"])]
        return [folder.relative_to(self.root).as_posix() for folder in image_folders(path, self.root)]

    def _key_of(self, name: str, folders: list[str]) -> str:
        """Return the relative path of an image.

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
        other_formats, annotated = Counter[str](), 0
        for image in coco.images:
            entries = coco.annotations[image["id"]]
            annotated += bool(entries)
            try:
                size = image_size(image)
            except AnnotationError:
                continue
            if size and (looks := other_format(stated_boxes(entries), size)):
                other_formats[looks] += 1
        for looks, count in other_formats.items():
            if count > MOST_DOUBTFUL * annotated:
                self.reject("box_format", f"boxes of {count} images {looks}")
                self._warn(f"{coco.name}: boxes of {count} images {looks}")

    def _warn(self, text: str) -> None:
        print(f"warning: {one_line(f'{self.recipe.source}: {text}')}", file=sys.stderr)

    def read(self, case: Case) -> AnnotatedImage:
        """Read pixels and annotations."""
        stated = case.parts["size"]
        image = read_annotated(inside(self.root, case.key), None if stated is None else tuple(stated))
        width, height = image.size
        issue = ("bad_annotations", "an annotation of an unknown image may be of this one")
        annotations = [coco_annotation(entry, height, width) for entry in case.parts["annotations"]]
        unknown = [Annotation(label, issue=issue) for label in case.parts["of_unknown_image"]]
        return image.annotated([*annotations, *unknown])


def coco_annotation(entry: dict[str, Any], height: int, width: int) -> Annotation:
    """Convert a COCO annotation; one that cannot be used has its label and the issue.

    Args:
        entry (`dict`): Annotation of the COCO file, with its `label`.
        height (`int`): Of the image in pixels.
        width (`int`): Of the image in pixels.
    """
    label = entry["label"]
    if label is None:  # no label map has such a name
        label = f"category {one_line(entry.get('category_id'), 40)}"
    try:
        region = annotation_region(entry, (width, height))
    except AnnotationError as error:
        return Annotation(label, issue=(error.rule, error.reason))
    issue = ("bad_annotations", region.note) if region.note else None
    mask = None if region.segmentation is None else region.segmentation.mask()
    if mask is not None and mask.any():
        return Annotation(label, mask, issue=issue)
    if mask is not None:
        issue = ("bad_annotations", "a segmentation without a pixel: its box is used")
    x, y, wide, high = region.box
    return Annotation(label, box=(x, y, x + wide, y + high), issue=issue)


__all__ = ["CocoReader", "coco_annotation"]
