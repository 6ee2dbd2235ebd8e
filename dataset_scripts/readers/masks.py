# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Layout `mask_folder`: pictures in one folder, masks in others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ..records import Case, Mark, Picture
from .base import Reader, decoded, label_values, read_mask, sibling, stem_of, stored_levels
from .manifest import binary


# Red, green and blue of a label.
COLOR = re.compile(r"\s*\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}\s*")
# Up to this value labels are looked for by a table of all values.
LARGEST_INDEX = 2**16


class MaskFolderReader(Reader):
    """Pictures and their masks, matched by name.

    `files: {image: "images/*.jpg", mask: ...}` where mask is one of

    - a pattern for one file: a label map with the recipe's `values` (value -> label), or a binary mask if `values` is
      empty and `label:` names the only label;
    - `{label: pattern}`: one binary mask (or several: instances) per label;
    - with `colours: {"255,0,0": label}` in `files`: a picture whose colours are labels.

    `{stem}` in a mask's pattern is what the star of the picture's pattern stands for.
    """

    layout = "mask_folder"
    needs = ("image", "mask")
    takes = ("label", "colours")

    def cases(self) -> list[Case]:
        """One case per picture; pictures without any mask and masks without a picture become problems."""
        pattern, masks = str(self.recipe.files["image"]), self._templates()
        self._check_colors()
        found, used = [], set[Path]()
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
            found.append(self.case(path, image=path.as_posix(), masks=parts))
        self._report_orphans(masks, used)
        return found

    def _templates(self) -> dict[str, str]:
        given = self.recipe.files["mask"]
        return {str(key): str(part) for key, part in given.items()} if isinstance(given, dict) else {"": str(given)}

    def _check_colors(self) -> None:
        """Raise `ValueError` unless `colours` maps three whole numbers each to a label."""
        given = self.recipe.files.get("colours", {})
        if not isinstance(given, dict) or not all(COLOR.fullmatch(str(code)) for code in given):
            raise ValueError(f'{self.recipe.source}: colours must be like {{"255,0,0": label}}')

    def _report_orphans(self, masks: dict[str, str], used: set[Path]) -> None:
        images = {Path(path) for path in self.find(str(self.recipe.files["image"]))}
        for template in masks.values():
            anything = template.format(stem="*", name="*", folder="**")
            for path in self.find(anything):
                if path not in used and path not in images:
                    self.reject("no_image", "", path)

    def read(self, case: Case) -> Picture:
        """Pixels and marks."""
        image = decoded(Path(case.parts["image"]))
        marks: list[Mark] = []
        colors = bool(self.recipe.files.get("colours"))
        for label, files in case.parts["masks"].items():
            for file in files:
                marks.extend(self._marks(label, read_mask(Path(file), image, colors)))
        return Picture(stored_levels(image.pixels), tuple(marks))

    def _marks(self, label: str, values: np.ndarray) -> list[Mark]:
        colours: dict[str, Any] = self.recipe.files.get("colours", {})
        if colours:
            return _colour_marks(values, colours)
        if label or not self.recipe.values:
            return [Mark(label or str(self.recipe.files.get("label", "")), binary(values))]
        return labelmap_marks(label_values(values), self.recipe.values)


def labelmap_marks(values: np.ndarray, names: dict[int, str]) -> list[Mark]:
    """A label map (h, w) -> one mark per value but 0. A value without a name becomes a mark `value N`, which no label
    map has, so that it is reported."""
    if values.dtype.kind == "f" or values.size == 0 or values.min() < 0 or values.max() > LARGEST_INDEX:
        present = [int(value) for value in np.unique(values) if value != 0]
        return [Mark(names.get(value, f"value {value}"), values == value) for value in present]
    marks = []
    for value, region in enumerate(ndimage.find_objects(values), start=1):
        if region is not None:
            rows, columns = region
            mask = values[region] == value
            marks.append(Mark(names.get(value, f"value {value}"), mask, corner=(columns.start, rows.start)))
    return marks


def _colour_marks(values: np.ndarray, colours: dict[str, Any]) -> list[Mark]:
    if values.ndim != 3:
        values = np.repeat(values[..., None], 3, axis=2)
    left = np.any(values != 0, axis=2)
    marks = []
    for code, label in colours.items():
        mask = (values == np.array([int(part) for part in code.split(",")])).all(axis=2)
        left &= ~mask
        if mask.any():
            marks.append(Mark(str(label), mask))
    return [*marks, Mark("other colours", left)] if left.any() else marks


__all__ = ["MaskFolderReader", "labelmap_marks", "stem_of"]
