# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The readers, one class per layout of raw files, behind the interface of `base.Reader`."""

from __future__ import annotations

from pathlib import Path

from ..recipe import Recipe
from .base import Reader
from .boxes import CsvBoxesReader, VocReader, YoloReader
from .coco import CocoReader
from .dicom import DicomSeriesReader
from .manifest import ManifestReader
from .masks import MaskFolderReader
from .volumes import LabelmapReader, MaskVolumesReader


READERS: dict[str, type[Reader]] = {
    reader.layout: reader
    for reader in (
        CocoReader,
        CsvBoxesReader,
        DicomSeriesReader,
        LabelmapReader,
        ManifestReader,
        MaskFolderReader,
        MaskVolumesReader,
        VocReader,
        YoloReader,
    )
}


def make_reader(recipe: Recipe, raw: Path) -> Reader:
    """Return the reader of a recipe's layout.

    Args:
        recipe ([`Recipe`]): The recipe.
        raw (`Path`): Folder that contains its root.

    Raises:
        `ValueError`: An unknown layout or folder, or files that the layout needs are not named.
    """
    if recipe.layout not in READERS:
        raise ValueError(f"{recipe.source}: layout {recipe.layout!r}: choose one of {', '.join(sorted(READERS))}")
    return READERS[recipe.layout](recipe, raw)


__all__ = ["READERS", "Reader", "make_reader"]
