# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Count images, boxes and masks of a built set by modality, source, region, category, label and granularity."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modeling_medglip.outputs.markdown import plain, table


DIMENSIONS = ("modality", "source", "region", "category", "name", "granularity", "split")
# Shares of the image at which the bins of areas begin: powers of the square root of ten.
AREA_EDGES = tuple(10 ** (exponent / 2) for exponent in range(-10, 1))


# Numbers of boxes or masks in an image at which the bins of their table begin.
PER_IMAGE_EDGES = (0, 1, 2, 3, 4, 5, 10, 20, 50)


class Statistics:
    """Collect counts image by image."""

    def __init__(self) -> None:
        self.images: Counter[tuple[str, str]] = Counter()
        self.boxes: Counter[tuple[str, str]] = Counter()
        self.masks: Counter[tuple[str, str]] = Counter()
        self.areas: Counter[tuple[str, int]] = Counter()
        self.per_image: Counter[tuple[str, int]] = Counter()
        self.masks_per_image: Counter[tuple[str, int]] = Counter()
        self.split_images: Counter[tuple[str, str]] = Counter()
        self.split_bytes: Counter[tuple[str, str]] = Counter()

    def add(self, content: dict[str, Any], image: dict[str, Any], split: str, size: int = 0) -> None:
        """Count one image of a case.

        Args:
            content (`dict`): Of the case, as in `case.json`.
            image (`dict`): One of its images.
            split (`str`): Split of the patient.
            size (`int`, *optional*, defaults to 0): Bytes of the image file.
        """
        annotations = image["annotations"]
        modality = content["modality"]
        image_keys = {("modality", modality), ("source", content["source"]), ("split", split)}
        self.split_images[modality, split] += 1
        self.split_bytes[modality, split] += size
        self.per_image[modality, len(annotations)] += 1
        self.masks_per_image[modality, sum(entry["segmentation"] is not None for entry in annotations)] += 1
        touched = set(image_keys)
        for entry in annotations:
            keys = image_keys | {(key, entry[key] or "open") for key in ("region", "category", "name", "granularity")}
            touched |= keys
            self.boxes.update(keys)
            if entry["segmentation"] is not None:
                self.masks.update(keys)
            self.areas[modality, _area_bin(entry["area_fraction"])] += 1
        self.images.update(touched)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per value of every dimension, largest first."""
        return [
            {"by": by, "value": value, "images": self.images[by, value], "boxes": self.boxes[by, value],
             "masks": self.masks[by, value]}
            for by in DIMENSIONS
            for value in sorted({v for b, v in self.images if b == by}, key=lambda v: (-self.boxes[by, v], v))
        ]  # fmt: skip

    def total(self) -> dict[str, int]:
        """Return the number of images, boxes and masks."""
        return {
            kind: sum(count for (by, _), count in counter.items() if by == "modality")
            for kind, counter in (("images", self.images), ("boxes", self.boxes), ("masks", self.masks))
        }

    def write(self, folder: Path) -> None:
        """Write the counts as Parquet files and as tables in `README.md`."""
        folder.mkdir()
        pq.write_table(pa.Table.from_pylist(self.rows()), folder / "counts.parquet")
        areas = [
            {"modality": modality, "from": AREA_EDGES[number - 1] if number else 0.0, "boxes": count}
            for (modality, number), count in sorted(self.areas.items())
        ]
        pq.write_table(pa.Table.from_pylist(areas), folder / "areas.parquet")
        for kind, counter in (("boxes", self.per_image), ("masks", self.masks_per_image)):
            per_image = [
                {"modality": modality, kind: number, "images": count}
                for (modality, number), count in sorted(counter.items())
            ]
            pq.write_table(pa.Table.from_pylist(per_image), folder / f"{kind}_per_image.parquet")
        (folder / "README.md").write_text(self.markdown(), encoding="utf-8")

    def markdown(self) -> str:
        """Return the counts as Markdown tables, one per dimension."""
        total = self.total()
        each = f"{total['boxes'] / max(total['images'], 1):.2f} per image"
        parts = [f"{total['images']:,} images, {total['boxes']:,} boxes ({each}), {total['masks']:,} masks.\n"]
        for by in DIMENSIONS:
            rows = [row for row in self.rows() if row["by"] == by]
            cells = [[plain(row["value"]), row["images"], row["boxes"], row["masks"]] for row in rows]
            parts.append(f"## By {by}\n\n" + table([by, "images", "boxes", "masks"], cells))
        parts += [f"## Boxes and masks per image\n\n{self._per_image_table()}"]
        parts += [f"## Size of the annotations\n\n{self._area_table()}"]
        return "\n".join(["# Statistics\n", *parts])

    def _per_image_table(self) -> str:
        """Return how many images have which number of boxes and masks."""
        boxes, masks = (_summed(counter, PER_IMAGE_EDGES) for counter in (self.per_image, self.masks_per_image))
        names = [_range(low, high) for low, high in zip(PER_IMAGE_EDGES, (*PER_IMAGE_EDGES[1:], None), strict=True)]
        header = ["number", "images with this number of boxes", "images with this number of masks"]
        return table(header, zip(names, boxes, masks, strict=True))

    def _area_table(self) -> str:
        """Return how many boxes cover which share of their image."""
        edges = (0.0, *AREA_EDGES)
        total = Counter[int]()
        for (_, number), count in self.areas.items():
            total[number] += count
        names = [f"{100 * low:.2g} to {100 * high:.2g} %" for low, high in zip(edges, AREA_EDGES, strict=False)]
        return table(["share of the image", "boxes"], [[name, total[number]] for number, name in enumerate(names)])


def _summed(counter: Counter[tuple[str, int]], edges: tuple[int, ...]) -> list[int]:
    """Return the number of images of all modalities in the bins that begin at the edges."""
    sums = [0] * len(edges)
    for (_, number), count in counter.items():
        sums[sum(edge <= number for edge in edges) - 1] += count
    return sums


def _range(low: int, high: int | None) -> str:
    return f"{low} or more" if high is None else str(low) if high == low + 1 else f"{low} to {high - 1}"


def _area_bin(fraction: float) -> int:
    """Return the index of the bin of `AREA_EDGES` that contains a fraction."""
    if fraction < AREA_EDGES[0]:
        return 0
    return min(len(AREA_EDGES), math.floor(2 * math.log10(fraction) + 1e-9) + 11)


__all__ = ["AREA_EDGES", "DIMENSIONS", "Statistics"]
