# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""List the images and volumes of a folder by their names, without opening a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import MedGlipError, one_line
from .file_endings import IMAGE_ENDINGS, OUTPUT_ENDINGS, VIDEO_ENDINGS, is_volume_file


MAX_FILES = 100_000


@dataclass(frozen=True)
class FolderContents:
    """The files below a folder.

    Attributes:
        files (`tuple[Path, ...]`): Images and volume files, sorted by name.
        others (`int`): Number of files that may be DICOM, without hidden files and outputs of this package.
    """

    files: tuple[Path, ...]
    others: int


def sort_folder(folder: Path) -> FolderContents:
    """Sort the files below a folder by kind. Links are not followed.

    Args:
        folder (`Path`): The folder.

    Raises:
        `MedGlipError`: The folder holds more than `MAX_FILES` files.
    """
    files: list[Path] = []
    count = others = 0
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        count += len(names)
        if count > MAX_FILES:
            raise MedGlipError(f"{one_line(folder.name, 120)}: holds more than {MAX_FILES} files: give part of it")
        for name in names:
            path = Path(parent, name)
            if name.startswith(".") or is_output(path) or path.is_symlink() or not path.is_file():
                continue
            if is_named_input(path):
                files.append(path)
            else:
                others += 1
    return FolderContents(tuple(sorted(files)), others)


def is_named_input(path: Path) -> bool:
    """Return whether a file is an image, a video or a volume by its name."""
    return path.name.lower().endswith((*IMAGE_ENDINGS, *VIDEO_ENDINGS)) or is_volume_file(path)


def is_output(path: Path) -> bool:
    """Return whether `medglip ground` wrote a file: by its name, or because it is an overlay with a file of boxes."""
    name = path.name.lower()
    return name.endswith(OUTPUT_ENDINGS) or (name.endswith(".png") and path.with_suffix(".boxes.json").exists())


__all__ = ["FolderContents", "is_named_input", "is_output", "sort_folder"]
