# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Small files, and how tests read them: through the reader of a layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

from dataset_scripts.readers import make_reader
from dataset_scripts.recipe import Recipe
from dataset_scripts.records import Rejected


def save(path: Path, array: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)


def save_volume(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def reader(raw: Path, layout: str, files: dict[str, Any], **fields: Any):  # type: ignore[no-untyped-def]
    return make_reader(Recipe("mine", "endoscopy", layout, files=files, **fields), raw)


def read_all(raw: Path, layout: str, files: dict[str, Any], **fields: Any) -> tuple[list[Any], list[str]]:
    """What comes out (or the rule that turned it away), and the rules of the listing."""
    source = reader(raw, layout, files, **fields)
    results: list[Any] = []
    for case in source.cases():
        try:
            results.append(source.read(case))
        except Rejected as error:
            results.append(error.rule)
    return results, [issue.rule for issue in source.rejections]


GRAY = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
MASK = np.zeros((20, 30), np.uint8)
MASK[3:8, 4:12] = 1
