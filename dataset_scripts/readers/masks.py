# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Layout `mask_folder`: images in one folder, masks in others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ..records import AnnotatedImage, Annotation, Case
from .base import Reader, decoded, label_values, read_mask, sibling, stored_levels
from .manifest import binary


# Red, green and blue of a label.
COLOR = re.compile(r"\s*\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}\s*")
# Up to this value labels are looked for by a table of all values.
LARGEST_INDEX = 2**16


class MaskFolderReader(Reader):
    """Images and their masks, matched by name.

    `files: {image: "images/*.jpg", mask: ...}` where mask is one of

    - a pattern for one file: a label map with the recipe's `values` (value -> label), or a binary mask if `values` is
      empty and `label:` names the only label;
    - `{label: pattern}`: one binary mask (or several: instances) per label;
    - with `colors: {"255,0,0": label}` in `files`: an image whose colors are labels.

    `{stem}` in a mask's pattern is what the star of the image's pattern stands for.
    """

    layout = "mask_folder"
    needs = ("image", "mask")
    takes = ("label", "colors", "colours")

    def cases(self) -> list[Case]:
        """Return one case per image; images without any mask and masks without an image become rejections."""
        pattern, masks = str(self.recipe.files["image"]), self._templates()
        self._check_colors()
        cases, used = [], set[Path]()
        for path in self.find(pattern):
            parts = {
                label: [file.as_posix() for file in self.find(sibling(path, template, pattern, self.root))]
                for label, template in masks.items()
            }
            files = {Path(file) for group in parts.values() for file in group}
            if not files:
                self.reject("no_mask", "", path)
                continue
            used |= files
            cases.append(self.case(path, image=path.as_posix(), masks=parts))
        self._report_orphans(masks, used)
        return cases

    def _templates(self) -> dict[str, str]:
        given = self.recipe.files["mask"]
        return {str(key): str(part) for key, part in given.items()} if isinstance(given, dict) else {"": str(given)}

    def _check_colors(self) -> None:
        """Raise `ValueError` unless `colors` maps three whole numbers each to a label."""
        given = self._colors()
        if not isinstance(given, dict) or not all(COLOR.fullmatch(str(code)) for code in given):
            raise ValueError(f'{self.recipe.source}: colors must be like {{"255,0,0": label}}')

    def _colors(self) -> Any:
        """Return the label of each color; `colours` is the old spelling of the key."""
        return self.recipe.files.get("colors", self.recipe.files.get("colours", {}))

    def _report_orphans(self, masks: dict[str, str], used: set[Path]) -> None:
        images = {Path(path) for path in self.find(str(self.recipe.files["image"]))}
        for template in masks.values():
            anything = template.format(stem="*", name="*", folder="**")
            for path in self.find(anything):
                if path not in used and path not in images:
                    self.reject("no_image", "", path)

    def read(self, case: Case) -> AnnotatedImage:
        """Read pixels and annotations."""
        image = decoded(Path(case.parts["image"]))
        annotations: list[Annotation] = []
        colors = bool(self._colors())
        for label, files in case.parts["masks"].items():
            for file in files:
                annotations.extend(self._annotations(label, read_mask(Path(file), image, colors)))
        return AnnotatedImage(stored_levels(image.pixels), tuple(annotations))

    def _annotations(self, label: str, values: np.ndarray) -> list[Annotation]:
        if colors := self._colors():
            return _color_annotations(values, colors)
        if label or not self.recipe.values:
            return [Annotation(label or str(self.recipe.files.get("label", "")), binary(values))]
        return labelmap_annotations(label_values(values), self.recipe.values)


def labelmap_annotations(values: np.ndarray, names: dict[int, str]) -> list[Annotation]:
    """Return one annotation per value but 0 of a label map.

    A value without a name becomes the label `value N`, which no recipe maps, so that it is reported.

    Args:
        values (`np.ndarray` of shape `(h, w)`): The label map.
        names (`dict[int, str]`): Value -> label of the source.
    """
    if values.dtype.kind == "f" or values.size == 0 or values.min() < 0 or values.max() > LARGEST_INDEX:
        present = [int(value) for value in np.unique(values) if value != 0]
        return [Annotation(names.get(value, f"value {value}"), values == value) for value in present]
    annotations = []
    for value, region in enumerate(ndimage.find_objects(values), start=1):
        if region is not None:
            rows, columns = region
            mask = values[region] == value
            annotations.append(
                Annotation(names.get(value, f"value {value}"), mask, corner=(columns.start, rows.start))
            )
    return annotations


def _color_annotations(values: np.ndarray, colors: dict[str, Any]) -> list[Annotation]:
    if values.ndim != 3:
        values = np.repeat(values[..., None], 3, axis=2)
    unassigned = np.any(values != 0, axis=2)
    annotations = []
    for code, label in colors.items():
        mask = (values == np.array([int(part) for part in code.split(",")])).all(axis=2)
        unassigned &= ~mask
        if mask.any():
            annotations.append(Annotation(str(label), mask))
    return [*annotations, Annotation("other colours", unassigned)] if unassigned.any() else annotations


__all__ = ["MaskFolderReader", "labelmap_annotations"]
