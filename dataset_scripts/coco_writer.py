# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Write COCO files as a stream: one folder per modality with `images/` and one JSON per split."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import IO, Any

from .hierarchy import Classes


class CocoWriter:
    """Writes `<folder>/<split>.json`, which `pycocotools.coco.COCO` loads.

    Images go to the file as they come, annotations to a second one that is appended at the end, so that memory does
    not grow with the set.
    """

    def __init__(self, folder: Path, split: str, classes: Classes, info: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "images").mkdir(exist_ok=True)
        self.folder, self.classes = folder, classes
        self._images: IO[str] = (folder / f"{split}.json").open("w", encoding="utf-8")
        self._spool = folder / f".{split}.annotations"
        self._annotations: IO[str] = self._spool.open("w", encoding="utf-8")
        self._images.write(f'{{"info":{_compact(info)},"images":[')
        self._separators = {"images": "\n", "annotations": "\n"}

    def add(self, image: dict[str, Any], annotations: list[dict[str, Any]], file: Path) -> None:
        """Add one image with its annotations.

        Args:
            image (`dict`): Entry of `images`.
            annotations (`list[dict]`): Entries of `annotations`.
            file (`Path`): Image file, which is linked where the file system allows it, and copied otherwise.
        """
        target = self.folder / "images" / image["file_name"].rpartition("/")[2]
        link_or_copy(file, target)
        self._images.write(self._separators["images"] + _compact(image))
        self._separators["images"] = ",\n"
        for annotation in annotations:
            self._annotations.write(self._separators["annotations"] + _compact(annotation))
            self._separators["annotations"] = ",\n"

    def close(self) -> None:
        """Finish the file."""
        self._annotations.close()
        self._images.write('],\n"annotations":[')
        with self._spool.open(encoding="utf-8") as spool:
            shutil.copyfileobj(spool, self._images, 1 << 20)
        categories = [coco_category(row) for row in self.classes.rows]
        self._images.write(f'],\n"categories":{_compact(categories)}}}\n')
        self._images.close()
        self._spool.unlink()


def coco_category(row: dict[str, Any]) -> dict[str, Any]:
    """Return a class as a COCO category; the supercategory is the anatomical category."""
    extra = {key: row[key] for key in ("label_id", "anatomy", "region", "granularity", "side", "parent", "kind_of")}
    return {"id": row["class_id"], "name": row["name"], "supercategory": row["anatomy"] or "open", **extra}


def link_or_copy(source: Path, target: Path) -> None:
    """Create a hard link to a file, or copy it where the file system has no links.

    Args:
        source (`Path`): The file.
        target (`Path`): The path to create.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


__all__ = ["CocoWriter", "coco_category", "link_or_copy"]
