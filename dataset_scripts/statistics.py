# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Counts of a built set: pictures, boxes and masks by modality, source, region, category, label and granularity."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


DIMENSIONS = ("modality", "source", "region", "category", "name", "granularity", "split")
# Shares of the picture, for the histogram of areas: powers of the square root of ten.
AREA_EDGES = tuple(10 ** (exponent / 2) for exponent in range(-10, 1))


class Statistics:
    """Collects counts picture by picture."""

    def __init__(self) -> None:
        self.images: Counter[tuple[str, str]] = Counter()
        self.boxes: Counter[tuple[str, str]] = Counter()
        self.masks: Counter[tuple[str, str]] = Counter()
        self.areas: Counter[tuple[str, int]] = Counter()
        self.per_image: Counter[tuple[str, int]] = Counter()
        self.split_images: Counter[tuple[str, str]] = Counter()
        self.split_bytes: Counter[tuple[str, str]] = Counter()

    def add(self, content: dict[str, Any], image: dict[str, Any], split: str, size: int = 0) -> None:
        """Count one picture of a case; `size`: bytes of its file."""
        annotations = image["annotations"]
        modality = content["modality"]
        own = {("modality", modality), ("source", content["source"]), ("split", split)}
        self.split_images[modality, split] += 1
        self.split_bytes[modality, split] += size
        self.per_image[modality, len(annotations)] += 1
        touched = set(own)
        for entry in annotations:
            keys = own | {(key, entry[key] or "open") for key in ("region", "category", "name", "granularity")}
            touched |= keys
            self.boxes.update(keys)
            if entry["segmentation"] is not None:
                self.masks.update(keys)
            self.areas[modality, _area_bin(entry["area_fraction"])] += 1
        self.images.update(touched)

    def rows(self) -> list[dict[str, Any]]:
        """One row per value of every dimension, largest first."""
        return [
            {"by": by, "value": value, "images": self.images[by, value], "boxes": self.boxes[by, value],
             "masks": self.masks[by, value]}
            for by in DIMENSIONS
            for value in sorted({v for b, v in self.images if b == by}, key=lambda v: (-self.boxes[by, v], v))
        ]  # fmt: skip

    def total(self) -> dict[str, int]:
        """Pictures, boxes and masks in all."""
        return {
            kind: sum(count for (by, _), count in counter.items() if by == "modality")
            for kind, counter in (("images", self.images), ("boxes", self.boxes), ("masks", self.masks))
        }

    def write(self, folder: Path) -> None:
        """`counts.parquet`, `areas.parquet`, `boxes_per_image.parquet` and `README.md` with the tables."""
        folder.mkdir()
        pq.write_table(pa.Table.from_pylist(self.rows()), folder / "counts.parquet")
        areas = [
            {"modality": modality, "from": AREA_EDGES[number - 1] if number else 0.0, "boxes": count}
            for (modality, number), count in sorted(self.areas.items())
        ]
        pq.write_table(pa.Table.from_pylist(areas), folder / "areas.parquet")
        per_image = [
            {"modality": modality, "boxes": boxes, "images": count}
            for (modality, boxes), count in sorted(self.per_image.items())
        ]
        pq.write_table(pa.Table.from_pylist(per_image), folder / "boxes_per_image.parquet")
        (folder / "README.md").write_text(self.markdown(), encoding="utf-8")

    def markdown(self) -> str:
        """The counts as Markdown tables, one per dimension."""
        total = self.total()
        each = f"{total['boxes'] / max(total['images'], 1):.2f} per picture"
        lines = [
            "# Statistics", "",
            f"{total['images']:,} pictures, {total['boxes']:,} boxes ({each}), {total['masks']:,} masks.",
        ]  # fmt: skip
        for by in DIMENSIONS:
            rows = [row for row in self.rows() if row["by"] == by]
            lines += ["", f"## By {by}", "", f"| {by} | pictures | boxes | masks |", "|---|---|---|---|"]
            lines += [f"| {row['value']} | {row['images']} | {row['boxes']} | {row['masks']} |" for row in rows]
        return "\n".join(lines) + "\n"


def _area_bin(fraction: float) -> int:
    """Number of the edge of `AREA_EDGES` that a share lies above, from 0."""
    if fraction < AREA_EDGES[0]:
        return 0
    return min(len(AREA_EDGES), int(math.floor(2 * math.log10(fraction) + 1e-9)) + 11)


__all__ = ["AREA_EDGES", "DIMENSIONS", "Statistics"]
