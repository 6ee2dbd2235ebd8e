# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Layout `manifest`: one JSON file lists images with their objects."""

from __future__ import annotations

from typing import Any

import numpy as np

from modeling_medglip.errors import MedGlipError, one_line
from modeling_medglip.io.image_record import ReadImage
from modeling_medglip.io.text_files import read_json

from ..records import AnnotatedImage, Annotation, Case, Rejected, inside
from .base import Reader, decoded, label_values, on_stored, read_mask, stored_levels


MAX_MANIFEST_BYTES = 2**29


class ManifestReader(Reader):
    """One JSON file lists images and their objects.

    `files: {manifest: annotations.json}`: `{"images": [{"image", "split", "labelmap"?, "objects": [{"label",
    "bbox_xywh", "mask"? or "labelmap_value"?}]}]}`; names are relative to the file's folder.

    An object is its mask where there is one, else its box.
    """

    layout = "manifest"
    needs = ("manifest",)

    def cases(self) -> list[Case]:
        """Return one case per listed image; an image that is listed twice counts once."""
        path = inside(self.root, str(self.recipe.files["manifest"]))
        try:
            entries = list(read_json(path, MAX_MANIFEST_BYTES)["images"])
        except (ValueError, KeyError, TypeError) as error:
            reason = one_line(error, 120) if isinstance(error, MedGlipError) else type(error).__name__
            raise ValueError(f"{self.recipe.source}: {path.name} is not a valid manifest ({reason})") from None
        cases: dict[str, Case] = {}
        for entry in entries:
            if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
                self.reject("bad_annotations", "an entry without an image")
                continue
            key = entry["image"]
            if key in cases:
                self.reject("duplicate_id", "listed twice")
                self._join(cases[key].parts["entry"], entry)
                continue
            patient = str(entry.get("video_id") or entry.get("source_id") or self.patient(key))
            cases[key] = Case(key, patient, self.stated_split(entry.get("split"), key), {"entry": entry})
        return [cases[key] for key in sorted(cases)]

    def _join(self, first: dict[str, Any], other: dict[str, Any]) -> None:
        """Add the objects of a second entry: they are in the image. Values of another label map cannot be."""
        if "labelmap" in other or not isinstance(other.get("objects"), list):
            first["objects"] = None  # no image is made of it
        elif isinstance(first.get("objects"), list):
            first["objects"] = [
                *first["objects"],
                *(item for item in other["objects"] if item not in first["objects"]),
            ]

    def read(self, case: Case) -> AnnotatedImage:
        """Read pixels and annotations."""
        entry: dict[str, Any] = case.parts["entry"]
        image = decoded(inside(self.root, case.key))
        path = inside(self.root, entry["labelmap"]) if "labelmap" in entry else None
        labelmap = None if path is None else label_values(read_mask(path, image))
        try:
            annotations = [self._annotation(item, labelmap, image) for item in entry["objects"]]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise Rejected("bad_annotations", type(error).__name__) from None
        if any(annotation.box is not None for annotation in annotations):  # boxes come without the size of their image
            on_stored(image, None)
        return AnnotatedImage(stored_levels(image.pixels), tuple(annotations))

    def _annotation(self, item: dict[str, Any], labelmap: np.ndarray | None, image: ReadImage) -> Annotation:
        label = str(item["label"])
        mask = None
        if labelmap is not None and "labelmap_value" in item:
            mask = np.asarray(labelmap == item["labelmap_value"])
        elif "mask" in item:
            mask = binary(read_mask(inside(self.root, item["mask"]), image))
        if mask is not None:
            # What is listed is in the image, so that nothing may be claimed where its mask is empty.
            empty = None if mask.any() else ("bad_annotations", "an object with an empty mask")
            return Annotation(label, None if empty else mask, issue=empty)
        x, y, width, height = (float(value) for value in item["bbox_xywh"])
        return Annotation(label, box=(x, y, x + width, y + height))


def binary(values: np.ndarray) -> np.ndarray:
    """Return where a mask file has over half of its largest value, as bool (h, w); masks in JPEG have soft edges."""
    gray = values if values.ndim == 2 else values.max(axis=2)
    if gray.dtype == np.bool_:
        return gray
    high = float(gray.max()) if gray.size else 0.0
    return gray > high / 2 if high > 0 else np.zeros(gray.shape, bool)


__all__ = ["ManifestReader", "binary"]
