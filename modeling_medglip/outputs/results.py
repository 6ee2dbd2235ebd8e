# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Grounded boxes as plain data, and the `*.boxes.json` files that hold them.

Files are the same, byte for byte, for the same boxes: no time, no path, no name of a machine is in them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import MedGlipError, one_line
from ..io.text_files import read_json
from ..modalities import MODALITIES
from .files import to_json, write_text


SCHEMA = "medglip/boxes@1"
MAX_JSON_BYTES = 2**26
# Pixels along a side; no image has more.
MAX_SIDE = 2**31 - 1
# Pixels by which rounding may push a box over the image's border.
BORDER = 0.5


@dataclass(frozen=True)
class GroundedBox:
    """One found box.

    Attributes:
        label: the caller's own string.
        score: 0 to 1.
        bbox: (x, y, width, height) in pixels of the image; x and y of the top left corner, not rounded.
        label_id, category, region: ids in the taxonomy, `None` for a phrase outside it.
        trained: whether the expert was trained with the label; `None` if the checkpoint does not say.
    """

    label: str
    score: float
    bbox: tuple[float, float, float, float]
    label_id: str | None = None
    category: str | None = None
    region: str | None = None
    trained: bool | None = None

    def size_mm(self, spacing_mm: tuple[float, float]) -> tuple[float, float]:
        """Width and height in mm, for pixels that measure `spacing_mm` (x, y)."""
        return self.bbox[2] * spacing_mm[0], self.bbox[3] * spacing_mm[1]

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) in pixels."""
        x, y, width, height = self.bbox
        return x, y, x + width, y + height


@dataclass(frozen=True)
class ImageInfo:
    """What a result says about its image: base name of the file, size in pixels, modality, spacing (x, y) in mm."""

    file: str
    width: int
    height: int
    modality: str
    spacing_mm: tuple[float, float] | None = None


@dataclass(frozen=True)
class GroundingResult:
    """The boxes of one image.

    Attributes:
        model: name of the checkpoint.
        image: see [`ImageInfo`].
        prompt: as the caller gave it.
        boxes: best score first.
        trained: asked label -> whether the expert was trained with it; `None` if the checkpoint does not say.
        modality_source: `"given"`, `"header"`, `"pixels"` or `"checkpoint"`; not stored.
        modality_probability: how sure the router was when the pixels decided; not stored.
        warnings: one line each; not stored.
    """

    model: str
    image: ImageInfo
    prompt: str
    boxes: tuple[GroundedBox, ...] = ()
    modality_source: str = field(default="given", compare=False)
    modality_probability: float | None = field(default=None, compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    trained: Mapping[str, bool | None] = field(default_factory=dict)

    @property
    def not_found(self) -> tuple[str, ...]:
        """The labels that were asked for and have no box, in the order of the prompt."""
        return labels_without_box(self.trained, self.boxes)


def labels_without_box(labels: Iterable[str], boxes: Iterable[Any]) -> tuple[str, ...]:
    """Return the labels that no box has."""
    found = {box.label for box in boxes}
    return tuple(label for label in labels if label not in found)


def result_to_dict(result: GroundingResult) -> dict[str, Any]:
    """The content of a `*.boxes.json` file. Pixels are rounded to 2 digits, scores to 4."""
    boxes = []
    for box in result.boxes:
        entry: dict[str, Any] = {"label": box.label, "score": round(box.score, 4)}
        entry["bbox"] = [round(value, 2) for value in box.bbox]
        entry.update(label_id=box.label_id, category=box.category, region=box.region)
        entry |= {"trained": box.trained} if result.trained else {}
        if result.image.spacing_mm is not None:
            entry["size_mm"] = [round(value, 2) for value in box.size_mm(result.image.spacing_mm)]
        boxes.append(entry)
    image = asdict(result.image)
    image["spacing_mm"] = None if result.image.spacing_mm is None else list(result.image.spacing_mm)
    content = {"schema": SCHEMA, "model": result.model, "image": image, "prompt": result.prompt}
    asked: dict[str, Any] = {}
    if result.trained:
        asked = {"trained": dict(result.trained), "not_found": list(result.not_found)}
    return {**content, **asked, "boxes": boxes}


def write_boxes(result: GroundingResult, path: str | Path) -> Path:
    """Write a `*.boxes.json` file; a reader sees the old file or the whole new one, never half of it.

    Raises:
        `MedGlipError`: the result is not valid (a box outside its image ...) or the place cannot be written to.
    """
    return write_text(path, boxes_json(result, Path(path).name))


def boxes_json(result: GroundingResult, name: str = "boxes") -> str:
    """Return the text of a `*.boxes.json` file.

    Raises:
        `MedGlipError`: the result is not valid (a box outside its image ...); names `name`.
    """
    content = result_to_dict(result)
    validate_boxes(content, name)
    return to_json(content)


def read_boxes(path: str | Path) -> GroundingResult:
    """Read a `*.boxes.json` file.

    Raises:
        `MedGlipError`: one line naming the file and what is wrong with it.
    """
    content = read_json(path, MAX_JSON_BYTES, finite=True)
    validate_boxes(content, one_line(Path(path).name, 120))
    return _from_dict(content)


def _from_dict(content: dict[str, Any]) -> GroundingResult:
    image = dict(content["image"])
    spacing = image.get("spacing_mm")
    info = ImageInfo(
        image["file"], image["width"], image["height"], image["modality"], None if spacing is None else tuple(spacing)
    )
    boxes = tuple(
        GroundedBox(
            entry["label"],
            entry["score"],
            tuple(entry["bbox"]),
            entry["label_id"],
            entry["category"],
            entry["region"],
            entry.get("trained"),
        )
        for entry in content["boxes"]
    )
    return GroundingResult(content["model"], info, content["prompt"], boxes, trained=content.get("trained", {}))


# Validation ----------------------------------------------------------------------------------------------------------


def validate_boxes(content: Any, name: str = "boxes") -> None:
    """Check the content of a `*.boxes.json` file. Keys beyond the schema's are allowed.

    Raises:
        `MedGlipError`: names `name` and the first thing that is wrong.
    """
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise MedGlipError(f"{name}: is no {SCHEMA} file")
    for key in ("model", "prompt"):
        _require(isinstance(content.get(key), str), name, f"{key} must be a string")
    trained = content.get("trained", {})
    known = isinstance(trained, dict) and all(value in (True, False, None) for value in trained.values())
    _require(known, name, "trained must be an object of booleans and nulls")
    width, height = _validate_image(content.get("image"), name)
    boxes = content.get("boxes")
    _require(isinstance(boxes, list), name, "boxes must be a list")
    for number, box in enumerate(boxes or []):
        _validate_box(box, width, height, f"{name}: box {number}")


def _validate_image(image: Any, name: str) -> tuple[int, int]:
    _require(isinstance(image, dict), name, "image must be an object")
    _require(isinstance(image.get("file"), str), name, "image.file must be a string")
    for key in ("width", "height"):
        value = image.get(key)
        whole = isinstance(value, int) and not isinstance(value, bool)
        _require(whole and 0 < value <= MAX_SIDE, name, f"image.{key} must be > 0 and at most {MAX_SIDE}")
    _require(image.get("modality") in MODALITIES, name, f"image.modality must be one of {', '.join(MODALITIES)}")
    spacing = image.get("spacing_mm")
    fits = spacing is None or (_numbers(spacing) and len(spacing) in (2, 3) and min(spacing) > 0)
    _require(fits, name, "image.spacing_mm must be null or positive numbers")
    return image["width"], image["height"]


def _validate_box(box: Any, width: int, height: int, name: str) -> None:
    _require(isinstance(box, dict), name, "must be an object")
    _require(isinstance(box.get("label"), str) and bool(box["label"].strip()), name, "label must be a string")
    score, bbox = box.get("score"), box.get("bbox")
    _require(_numbers([score]) and 0 <= score <= 1, name, "score must be a number from 0 to 1")
    _require(isinstance(bbox, (list, tuple)) and len(bbox) == 4 and _numbers(bbox), name, "bbox must be four numbers")
    x, y, box_width, box_height = bbox
    _require(box_width > 0 and box_height > 0, name, "bbox must have a width and height above 0")
    inside = x >= -BORDER and y >= -BORDER and x + box_width <= width + BORDER and y + box_height <= height + BORDER
    _require(inside, name, f"bbox {list(bbox)} lies outside its image of {width}x{height} pixels")
    _require(box.get("trained") in (True, False, None), name, "trained must be a boolean or null")
    for key in ("label_id", "category", "region"):
        _require(
            key in box and (box[key] is None or isinstance(box[key], str)), name, f"{key} must be a string or null"
        )


def _numbers(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(
        # Compared, since `math.isfinite` raises for whole numbers that no float can hold.
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        for value in values
    )


def _require(condition: bool, name: str, problem: str) -> None:
    if not condition:
        raise MedGlipError(f"{name}: {problem}")


__all__ = [
    "SCHEMA",
    "GroundedBox",
    "GroundingResult",
    "ImageInfo",
    "boxes_json",
    "read_boxes",
    "result_to_dict",
    "validate_boxes",
    "write_boxes",
]
