# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Show what a training run would use: counts, prompts, and a sheet of augmented images with their boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from modeling_medglip.outputs.files import write_bytes
from modeling_medglip.outputs.overlay import DrawnBox, contact_sheet, draw_boxes, label_colors, overlay_png
from modeling_medglip.taxonomy import load_taxonomy

from .dataset import GroundingDataset
from .records import GroundingRecord


SHOWN = 12


def counts(train: Sequence[GroundingRecord], validation: Sequence[GroundingRecord]) -> list[dict[str, Any]]:
    """Return one row per label: images and boxes of both splits, and its id in the taxonomy.

    Args:
        train (`Sequence[GroundingRecord]`): training images.
        validation (`Sequence[GroundingRecord]`): validation images.
    """
    parts = {"train": train, "validation": validation}
    images, boxes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    labels: set[str] = set()
    for split, records in parts.items():
        for record in records:
            if record.view_of is not None:  # another view of an image
                continue
            labels.update(record.annotated)
            images.update((split, label) for label in set(record.labels))
            boxes.update((split, label) for label in record.labels)
    taxonomy = load_taxonomy()
    rows = []
    for label in sorted(labels):
        known = taxonomy.resolve(label)
        row: dict[str, Any] = {"label": label, "taxonomy": known.id if known else None}
        for split in parts:
            row[split] = {"images": images[split, label], "boxes": boxes[split, label]}
        rows.append(row)
    return rows


def prompt_texts(dataset: GroundingDataset, count: int = 5) -> list[str]:
    """Return the prompts of the first images as the model reads them, with phrases that have a box in brackets.

    Args:
        dataset (`GroundingDataset`): the training images.
        count (`int`, *optional*, defaults to `5`): number of prompts.
    """
    texts = []
    for index in range(min(count, len(dataset))):
        example = dataset[index]
        with_box = set(example["labels"]["class_labels"].tolist())
        phrases = [f"[{p}]" if n in with_box else p for n, p in enumerate(example["text_labels"])]
        texts.append(". ".join(phrases) + ".")
    return texts


def preview_image(dataset: GroundingDataset, index: int) -> Image.Image:
    """Return a training example after augmentation, with the boxes of its prompt.

    Args:
        dataset (`GroundingDataset`): the training images.
        index (`int`): of the example.
    """
    example = dataset[index]
    settings = dataset.image_processor.modality_settings[dataset.modality]
    mean, std = (torch.tensor(settings[name], dtype=torch.float32).reshape(3, 1, 1) for name in ("mean", "std"))
    pixels = (example["pixel_values"] * std + mean).clamp(0, 1).mul(255).round().byte()
    phrases = [example["text_labels"][number] for number in example["labels"]["class_labels"].tolist()]
    colors = label_colors(example["text_labels"])
    boxes = (example["labels"]["boxes"] + torch.tensor([0, 0, 1, 1])).tolist()
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    drawn = [DrawnBox(tuple(box), colors[phrase], phrase) for box, phrase in zip(boxes, phrases, strict=True)]
    draw_boxes(image, drawn)
    return image


def write_sheet(dataset: GroundingDataset, path: Path, count: int = SHOWN) -> Path:
    """Write a sheet of randomly chosen training examples.

    Args:
        dataset (`GroundingDataset`): the training images.
        path (`Path`): PNG file to write.
        count (`int`, *optional*, defaults to `SHOWN`): number of examples.
    """
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(dataset))[:count]
    images = [preview_image(dataset, int(index)) for index in chosen]
    return write_bytes(path, overlay_png(contact_sheet(images, columns=4, cell=380)))
