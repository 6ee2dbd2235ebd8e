# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A made-up COCO folder of a few small images, and records without files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.records import GroundingRecord, SourceSettings, SourceSettingsTable


CT_SIZE, FUNDUS_SIZE = (48, 40), (36, 30)


def disc(size: tuple[int, int], center: tuple[float, float], radius: float) -> NDArray[np.bool_]:
    """A filled circle; size and center are (width, height) and (x, y)."""
    y, x = np.mgrid[: size[1], : size[0]]
    return (x + 0.5 - center[0]) ** 2 + (y + 0.5 - center[1]) ** 2 <= radius**2


def trunk_image(
    size: tuple[int, int] = (128, 128), fat: float = 0.2, low: float = -1000, high: float = 1400
) -> NDArray:
    """An 8-bit CT slice: air, an ellipse of fat and soft tissue with a bone, shown from `low` to `high` HU."""
    rng = np.random.default_rng(0)
    hounsfield = np.full((size[1], size[0]), -1000.0)
    hounsfield[disc(size, (size[0] / 2, size[1] / 2), size[0] * 0.45)] = -100
    hounsfield[disc(size, (size[0] / 2, size[1] / 2), size[0] * 0.45 * (1 - fat))] = 50
    hounsfield[disc(size, (size[0] / 2, size[1] * 0.7), size[0] * 0.06)] = 900
    hounsfield += rng.normal(0, 12, hounsfield.shape)
    return ((hounsfield - low) / (high - low) * 255).clip(0, 255).round().astype(np.uint8)


def save_coco(
    folder: Path, name: str, images: list[dict[str, Any]], objects: list[list[tuple[str, list[float]]]], **more: Any
) -> Path:
    """Write a COCO file: one list of (label, [x, y, width, height]) per image. Ids are 0-based, with holes."""
    labels = sorted({label for boxes in objects for label, _ in boxes} | set(more.pop("labels", ())))
    categories = [{"id": 3 * number, "name": label} for number, label in enumerate(labels)]
    annotations = [
        {"image_id": 2 * number, "category_id": 3 * labels.index(label), "bbox": box}
        for number, boxes in enumerate(objects)
        for label, box in boxes
    ]
    content = {
        "images": [{"id": 2 * number, **image} for number, image in enumerate(images)],
        "categories": categories,
        "annotations": [{"id": 5 * number, **entry} for number, entry in enumerate(annotations)],
        **more,
    }
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def make_data(folder: Path) -> Path:
    """A COCO folder of two sources: `organs` (CT; three train images, one validation) and `discs` (fundus; one
    each). Of the organs every image says what its source annotates."""
    folder.mkdir(parents=True, exist_ok=True)
    kidneys = [("left kidney", [30.0, 14.0, 12.0, 12.0]), ("right kidney", [6.0, 14.0, 12.0, 12.0])]
    gray, color = trunk_image(CT_SIZE), np.zeros((30, 36, 3), np.uint8)
    color[disc(FUNDUS_SIZE, (10, 15), 5)] = (250, 200, 20)
    organs = {"modality": "ct", "source": "organs", "annotated": ["left kidney", "liver", "right kidney"]}
    organs |= {"width": CT_SIZE[0], "height": CT_SIZE[1]}
    discs = {"modality": "fundus", "source": "discs", "annotated": ["optic disc"]}
    discs |= {"width": FUNDUS_SIZE[0], "height": FUNDUS_SIZE[1]}
    spot = [("optic disc", [5.0, 10.0, 10.0, 10.0])]
    liver = [("liver", [4.0, 6.0, 20.0, 12.0])]
    parts: dict[str, list[tuple[str, NDArray, dict[str, Any], list[tuple[str, list[float]]]]]] = {
        "train": [
            ("P0.png", gray, organs, kidneys), ("P1.png", gray, organs, kidneys), ("P2.png", gray, organs, liver),
            ("a.png", color, discs, spot),
        ],
        "validation": [("P9.png", gray, organs, kidneys), ("b.png", color, discs, spot)],
    }  # fmt: skip
    (folder / "images").mkdir(exist_ok=True)
    labels = ["left kidney", "liver", "optic disc", "right kidney"]
    for split, entries in parts.items():
        for number, (name, pixels, _, _) in enumerate(entries):
            unique = pixels.copy()  # no two images are the same
            unique[0, number] = 1 + (split == "train")
            Image.fromarray(unique).save(folder / "images" / name)
        images = [{"file_name": name, "patient": name[:-4], **entry} for name, _, entry, _ in entries]
        save_coco(folder, f"{split}.json", images, [boxes for *_, boxes in entries], labels=labels)
    return folder


def settings() -> SourceSettingsTable:
    """SourceSettings for the two sources that `make_data` writes."""
    return SourceSettingsTable(
        {
            "modalities": {},
            "sources": {
                "organs": {"weight": 2.0, "regions": ["abdomen"], "window": "per_image"},
                "discs": {"regions": ["eye"], "horizontal_flip": True, "color": True},
            },
        }
    )


def record(
    boxes: list[list[float]],
    labels: list[str],
    annotated: list[str] | None = None,
    source: str = "made_up",
    modality: str = "ct",
    pixels: NDArray | None = None,
    **fields: Any,
) -> GroundingRecord:
    """A record without files; black pixels of 100 x 80 unless given."""
    array = np.zeros((80, 100), np.uint8) if pixels is None else pixels
    return GroundingRecord(
        modality=modality,
        source=source,
        image_id=fields.pop("image_id", "a"),
        patient=fields.pop("patient", "a"),
        split="validation",
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=tuple(labels),
        annotated=tuple(sorted(set(labels)) if annotated is None else annotated),
        size=(array.shape[1], array.shape[0]),
        loader=partial(np.asarray, array),
        settings=fields.pop("settings", SourceSettings(regions=("abdomen",))),
        **fields,
    )
