# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Count the images, boxes and masks of a folder of Parquet files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Counts:
    """Counts of a data set.

    Attributes:
        images (`Counter`): ("modality" | "source" | "region" | "label", value) -> number of images.
        boxes (`Counter`): The same for boxes.
        masks (`Counter`): The same for masks.
        splits (`dict`): (modality, split) -> [number of images, bytes].
        patients (`dict[str, set[str]]`): Split -> pseudonyms with their source.
        pairs (`set[tuple[str, str]]`): (source, modality) that occur.
        content (`hashlib.sha256`): Hash of which images are in which split.
    """

    images: Counter[tuple[str, str]] = field(default_factory=Counter)
    boxes: Counter[tuple[str, str]] = field(default_factory=Counter)
    masks: Counter[tuple[str, str]] = field(default_factory=Counter)
    splits: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    patients: dict[str, set[str]] = field(default_factory=dict)
    pairs: set[tuple[str, str]] = field(default_factory=set)
    content: Any = field(default_factory=hashlib.sha256)

    def add(self, row: Mapping[str, Any], modality: str, part: str, names: Sequence[str]) -> None:
        """Count one row of a Parquet file.

        Args:
            row (`Mapping`): The row, with `bytes` (the size of the image) instead of the image.
            modality (`str`): Config of the file.
            part (`str`): Split of the file.
            names (`Sequence[str]`): Names of the classes.
        """
        number = self.splits.setdefault((modality, part), [0, 0])
        number[0] += 1
        number[1] += int(row["bytes"])
        self.pairs.add((str(row["source"]), modality))
        self.patients.setdefault(part, set()).add(f"{row['source']}\0{row['patient']}")
        self.content.update(f"{part} {row['image_id']} {row['sha256']}".encode())
        keys = [("modality", modality), ("source", str(row["source"]))]
        seen, objects = set(keys), row["objects"]
        for label, region, mask in zip(objects["category"], objects["region"], objects["segmentation"], strict=True):
            object_keys = [*keys, ("label", names[label]), ("region", region or "outside the taxonomy")]
            seen |= set(object_keys)
            self.boxes.update(object_keys)
            self.masks.update(object_keys if mask else ())
        self.images.update(seen)

    def total(self, kind: str) -> int:
        """Return the number of `"images"`, `"boxes"` or `"masks"` of all modalities."""
        numbers: Counter[tuple[str, str]] = getattr(self, kind)
        return sum(number for (by, _), number in numbers.items() if by == "modality")

    def split_hashes(self) -> dict[str, str]:
        """Return a short hash of the patients of each split."""
        return {
            part: hashlib.sha256("\n".join(sorted(patients)).encode()).hexdigest()[:16]
            for part, patients in sorted(self.patients.items())
        }


def count_files(folder: Path, header: Mapping[str, Any]) -> Counts:
    """Count the Parquet files of a folder, but for the config `labels`.

    Args:
        folder (`Path`): Of a built or staged set.
        header (`Mapping`): Of its card, for the names of the classes.
    """
    info = {str(row["config_name"]): row for row in header["dataset_info"]}
    names = {config: class_names(row) for config, row in info.items() if config != "labels"}
    counts = Counts()
    for path in sorted(folder.glob("*/*.parquet")):
        if path.parent.name != "labels":
            _count_file(path, names[path.parent.name], counts)
    return counts


def _count_file(path: Path, names: Sequence[str], counts: Counts) -> None:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        sizes = pc.binary_length(pc.struct_field(table["image"], "bytes")).to_pylist()
        rows = table.select(["source", "patient", "image_id", "sha256", "objects"]).to_pylist()
        for row, size in zip(rows, sizes, strict=True):
            counts.add({**row, "bytes": size or 0}, path.parent.name, path.name.split("-")[0], names)


def class_names(info: Mapping[str, Any]) -> list[str]:
    """Return the classes of a config, from its features in a card's header."""
    objects = next(feature for feature in info["features"] if feature["name"] == "objects")
    category = next(part for part in objects["struct"] if part["name"] == "category")
    names = category["sequence"]["class_label"]["names"]
    return [str(names[key]) for key in sorted(names, key=int)]


__all__ = ["Counts", "class_names", "count_files"]
