# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The images and volumes of a folder, by their names. No file is opened here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import MedGlipError, one_line
from ..volumes.reader import is_volume_file
from .image import VIDEO_ENDINGS


MAX_FILES = 100_000
IMAGE_ENDINGS = (
    ".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
OUTPUT_ENDINGS = (".boxes.json", ".boxes.nii.gz", ".mrk.json", ".sr.dcm", ".seg.dcm", ".labels.ctbl")


@dataclass(frozen=True)
class FolderContents:
    """What lies below a folder.

    Attributes:
        files (`tuple[Path, ...]`): images and volume files, in the order of their names.
        others (`int`): how many files there are that may be DICOM; hidden files and own outputs do not count.
    """

    files: tuple[Path, ...]
    others: int


def sort_folder(folder: Path) -> FolderContents:
    """Tell the files below a folder apart. Links are not followed.

    Raises:
        `MedGlipError`: more than `MAX_FILES` files; names the folder.
    """
    files: list[Path] = []
    count = others = 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        count += len(names)
        if count > MAX_FILES:
            raise MedGlipError(f"{one_line(folder.name, 120)}: holds more than {MAX_FILES} files: give part of it")
        for name in names:
            path = Path(place, name)
            if name.startswith(".") or is_output(path) or path.is_symlink() or not path.is_file():
                continue
            if is_named_input(path):
                files.append(path)
            else:
                others += 1
    return FolderContents(tuple(sorted(files)), others)


def is_named_input(path: Path) -> bool:
    """Whether a name is that of an image, a video or a volume file."""
    return path.name.lower().endswith((*IMAGE_ENDINGS, *VIDEO_ENDINGS)) or is_volume_file(path)


def is_output(path: Path) -> bool:
    """Whether a file was written by `medglip ground`, by its name and, of an overlay, by the boxes beside it."""
    name = path.name.lower()
    return name.endswith(OUTPUT_ENDINGS) or (name.endswith(".png") and path.with_suffix(".boxes.json").exists())


__all__ = ["FolderContents", "is_named_input", "is_output", "sort_folder"]
