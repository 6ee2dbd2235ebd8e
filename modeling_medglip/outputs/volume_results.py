# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Boxes in space as plain data, and the `*.boxes.json` files that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MedGlipError
from ..volumes.linking import SliceBox
from .files import to_json, write_text
from .results import SCHEMA, labels_without_box, validate_boxes


Corner = tuple[float, float, float]
# What the numbers of a file count, for its readers.
MEANING = {
    "box_ijk": "edges in voxels of the file's own grid: i1 j1 k1 i2 j2 k2, voxel 0 covers 0 to 1",
    "corners_lps_mm": "mm, x to the patient's left, y to the back, z to the head",
    "size_lps_mm": "mm from side to side, from front to back, from feet to head",
    "label_values": "of the label map that --write nifti makes",
    "best_slices": "pictures of the box's plane, from 0 at the patient's right, front or feet",
}


@dataclass(frozen=True)
class VolumeBox:
    """One found box in space.

    Attributes:
        label: the caller's own string. score: 0 to 1.
        box_ijk: (i1, j1, k1, i2, j2, k2) in voxels of the file's own grid, edges: voxel 0 covers 0 to 1.
        corners_lps_mm: 8 corners in LPS mm (DICOM's patient frame); i runs fastest, then j, then k.
        plane: whose pictures were looked at. slices: how many of them show the box. best: up to three of these with
            the best scores, with their indices (along the LPS axis that the plane cuts) and boxes.
        label_id, category, region, trained: as in [`~modeling_medglip.outputs.results.GroundedBox`].
    """

    label: str
    score: float
    box_ijk: tuple[float, float, float, float, float, float]
    corners_lps_mm: tuple[Corner, ...]
    plane: str
    slices: int
    best: tuple[SliceBox, ...] = field(default=(), compare=False)
    label_id: str | None = None
    category: str | None = None
    region: str | None = None
    trained: bool | None = None

    @property
    def centre_lps_mm(self) -> Corner:
        """Middle of the box in LPS mm."""
        x, y, z = (sum(corner[axis] for corner in self.corners_lps_mm) / 8 for axis in range(3))
        return x, y, z

    @property
    def size_lps_mm(self) -> Corner:
        """Length of the box in mm along its edges nearest to left-right, front-back and feet-head."""
        origin, *edges = (np.array(self.corners_lps_mm[corner]) for corner in (0, 1, 2, 4))
        sides = np.abs([edge - origin for edge in edges])
        order = max(permutations(range(3)), key=lambda axes: sum(sides[edge, axis] for edge, axis in enumerate(axes)))
        x, y, z = (float(np.linalg.norm(sides[order.index(axis)])) for axis in range(3))
        return x, y, z


@dataclass(frozen=True)
class VolumeInfo:
    """What a result says about its volume: base name of the file, voxels and mm along the array's axes, modality."""

    file: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    modality: str


@dataclass(frozen=True)
class VolumeResult:
    """The boxes of one volume.

    Attributes:
        model: name of the checkpoint. image: see [`VolumeInfo`]. prompt: as the caller gave it.
        trained: as in [`~modeling_medglip.outputs.results.GroundingResult`].
        boxes: best score first. plane: the plane that was looked at (`"all"`: a consensus of three).
        slice_boxes: plane -> label -> the boxes of single pictures that were linked; not stored.
        slices, seconds: how many pictures were looked at, and how long that took; not stored.
        modality_source, modality_probability, warnings: as in [`~modeling_medglip.outputs.results.GroundingResult`].
    """

    model: str
    image: VolumeInfo
    prompt: str
    boxes: tuple[VolumeBox, ...] = ()
    plane: str = "axial"
    slice_boxes: Mapping[str, Mapping[str, Sequence[SliceBox]]] = field(default_factory=dict, compare=False)
    slices: int = field(default=0, compare=False)
    seconds: float = field(default=0.0, compare=False)
    modality_source: str = field(default="given", compare=False)
    modality_probability: float | None = field(default=None, compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    trained: Mapping[str, bool | None] = field(default_factory=dict)

    @property
    def label_values(self) -> dict[str, int]:
        """Label -> its value in a label map: 1 for the first label that was asked for, and so on."""
        return {label: value for value, label in enumerate(self.trained, start=1)}

    @property
    def not_found(self) -> tuple[str, ...]:
        """The labels that were asked for and have no box, in the order of the prompt."""
        return labels_without_box(self.trained, self.boxes)


def volume_to_dict(result: VolumeResult) -> dict[str, Any]:
    """The content of a `*.boxes.json` file, which says itself what its numbers mean. Voxels are rounded to 2 digits,
    mm to 3, scores to 4.

    `bbox` is the box in the plane of the array's first two axes, so that readers of 2-D files find what they expect.
    """
    width, height, depth = result.image.shape
    boxes = []
    for box in result.boxes:
        i1, j1, k1, i2, j2, k2 = (round(value, 2) for value in box.box_ijk)
        entry: dict[str, Any] = {"label": box.label, "score": round(box.score, 4)}
        entry["bbox"] = [i1, j1, round(i2 - i1, 2), round(j2 - j1, 2)]
        entry["box_ijk"] = [i1, j1, k1, i2, j2, k2]
        entry["corners_lps_mm"] = [[round(value, 3) for value in corner] for corner in box.corners_lps_mm]
        entry["size_lps_mm"] = [round(value, 2) for value in box.size_lps_mm]
        entry.update(plane=box.plane, slices=box.slices, best_slices=[shown.index for shown in box.best])
        entry.update(label_id=box.label_id, category=box.category, region=box.region)
        entry |= {"trained": box.trained} if result.trained else {}
        boxes.append(entry)
    image = {"file": result.image.file, "width": width, "height": height, "depth": depth}
    image |= {"modality": result.image.modality, "spacing_mm": [round(value, 4) for value in result.image.spacing_mm]}
    content = {"schema": SCHEMA, "model": result.model, "image": image, "prompt": result.prompt}
    asked: dict[str, Any] = {}
    if result.trained:
        asked = {"trained": dict(result.trained), "not_found": list(result.not_found)}
        asked["label_values"] = result.label_values
    return {**content, **asked, "plane": result.plane, "meaning": MEANING, "boxes": boxes}


def write_volume_boxes(result: VolumeResult, path: str | Path) -> Path:
    """Write a `*.boxes.json` file.

    Raises:
        `MedGlipError`: the result is not valid (a box outside its volume ...) or the place cannot be written to.
    """
    return write_text(path, volume_boxes_json(result, Path(path).name))


def volume_boxes_json(result: VolumeResult, name: str = "boxes") -> str:
    """Return the text of a `*.boxes.json` file.

    Raises:
        `MedGlipError`: the result is not valid (a box outside its volume ...); names `name`.
    """
    content = volume_to_dict(result)
    validate_boxes(content, name)
    depth = content["image"]["depth"]
    for number, box in enumerate(content["boxes"]):
        low, high = box["box_ijk"][2], box["box_ijk"][5]
        if not 0 <= low < high <= depth:
            raise MedGlipError(f"{name}: box {number}: box_ijk lies outside its volume of {depth} slices")
    return to_json(content)


__all__ = ["VolumeBox", "VolumeInfo", "VolumeResult", "volume_boxes_json", "volume_to_dict", "write_volume_boxes"]
