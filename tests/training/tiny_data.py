# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A made-up data folder with the layout of the real one: a few small pictures and two volumes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.sources import GroundingRecord, SourceRecipe


CT_SIZE, FUNDUS_SIZE = (48, 40), (36, 30)


def disc(size: tuple[int, int], centre: tuple[float, float], radius: float) -> NDArray[np.bool_]:
    """A filled circle; size and centre are (width, height) and (x, y)."""
    y, x = np.mgrid[: size[1], : size[0]]
    return (x + 0.5 - centre[0]) ** 2 + (y + 0.5 - centre[1]) ** 2 <= radius**2


def trunk_picture(
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


def save_source(folder: Path, pictures: list[dict[str, Any]]) -> None:
    """Write `annotations.json` and the picture and mask files of a 2-D source.

    Each picture: `name`, `pixels`, `split`, `objects` {label: mask or xywh box}.
    """
    entries = []
    for picture in pictures:
        path = folder / picture["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture["pixels"]).save(path)
        objects: list[dict[str, Any]] = []
        for label, shape in picture["objects"].items():
            if isinstance(shape, list):
                objects.append({"label": label, "bbox_xywh": shape})
                continue
            mask = f"masks/{path.stem}__{label.replace(' ', '_')}.png"
            (folder / "masks").mkdir(exist_ok=True)
            Image.fromarray(shape.astype(np.uint8) * 255).save(folder / mask)
            rows, columns = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
            box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
            entry = {"label": label, "bbox_xywh": [int(side) for side in box], "mask": mask, "area": int(shape.sum())}
            objects.append(entry)
        height, width = picture["pixels"].shape[:2]
        entries.append(
            {"image": picture["name"], "width": width, "height": height, "objects": objects, "split": picture["split"]}
        )
    document = {"modality": folder.parent.name, "source": folder.name, "images": entries}
    (folder / "annotations.json").write_text(json.dumps(document), encoding="utf-8")


def save_nrrd(path: Path, array: NDArray[np.int16], directions: str) -> None:
    """Write a gzipped NRRD of shorts in left-posterior-superior space."""
    sizes = " ".join(map(str, array.shape))
    lines = ["NRRD0004", "type: short", "dimension: 3", "space: left-posterior-superior", f"sizes: {sizes}"]
    lines += [f"space directions: {directions}", "endian: little", "encoding: gzip", "space origin: (0,0,0)"]
    data = gzip.compress(array.astype("<i2").tobytes(order="F"))
    path.write_bytes("\n".join(lines).encode() + b"\n\n" + data)


def save_volume(folder: Path, stem: str, image: NDArray, labels: NDArray, affine: NDArray | None = None) -> None:
    """Write `<stem>_image.nii.gz` and `<stem>_label.nii.gz`; without an affine, RAS."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("image", image), ("label", labels)):
        volume = nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine)
        nibabel.save(volume, folder / f"{stem}_{name}.nii.gz")


def save_labels(folder: Path, names: dict[str, str], train: list[str], validation: list[str]) -> None:
    """Write `labels.json` and `splits.json` of a source of volumes."""
    (folder / "labels.json").write_text(json.dumps(names), encoding="utf-8")
    (folder / "splits.json").write_text(json.dumps({"train": train, "validation": validation}), encoding="utf-8")


def make_data(folder: Path) -> Path:
    """Two 2-D sources: `ct/organs` (three train pictures, one validation) and `fundus/discs` (one each)."""
    grey = trunk_picture((48, 40))
    left, right = disc(CT_SIZE, (36, 20), 6), disc(CT_SIZE, (12, 20), 6)
    pictures = [
        {
            "name": f"images/P{i}_0.png",
            "pixels": grey,
            "split": "train",
            "objects": {"left kidney": left, "right kidney": right},
        }
        for i in range(2)
    ]
    pictures.append(
        {"name": "images/P2_0.png", "pixels": grey, "split": "train", "objects": {"liver": [4, 6, 20, 12]}}
    )
    pictures.append({**pictures[0], "name": "images/P9_0.png", "split": "validation"})
    save_source(folder / "ct" / "organs", pictures)
    colour = np.zeros((30, 36, 3), np.uint8)
    spot = disc(FUNDUS_SIZE, (10, 15), 5)
    colour[spot] = (250, 200, 20)
    fundus = {"pixels": colour, "objects": {"optic disc": spot}}
    names = {"images/a.png": "train", "images/b.png": "validation"}
    save_source(folder / "fundus" / "discs", [{"name": n, "split": s, **fundus} for n, s in names.items()])
    return folder


def recipes() -> dict[str, SourceRecipe]:
    """Recipes of the two sources that `make_data` writes."""
    return {
        "ct/organs": SourceRecipe(
            "ct", "organs", weight=2.0, regions=("abdomen",), group=r"^(P\d+)_", window="per_image"
        ),
        "fundus/discs": SourceRecipe("fundus", "discs", regions=("eye",), horizontal_flip=True, colour=True),
    }


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
    recipe = fields.pop("recipe", SourceRecipe(modality, source, regions=("abdomen",)))
    return GroundingRecord(
        recipe=recipe,
        image_id=fields.pop("image_id", "a"),
        group="a",
        split="validation",
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=tuple(labels),
        annotated=tuple(sorted(set(labels)) if annotated is None else annotated),
        size=(array.shape[1], array.shape[0]),
        loader=lambda: array,
        **fields,
    )
