# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The boxes of an image, and the `*.boxes.json` files that hold them.

Files are the same, byte for byte, for the same boxes: they hold no time, no path and no name of a machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..defaults import CT_WINDOW
from ..errors import MedGlipError, one_line
from ..io.text_files import read_json
from ..modalities import MODALITIES
from .base import GIVEN, MODALITY_SOURCES, SCHEMA, BaseResult, optional_library
from .files import to_json, write_text


if TYPE_CHECKING:
    from PIL import Image

    from ..io.image_record import ReadImage


MAX_JSON_BYTES = 2**26
# Pixels along a side; no image has more.
MAX_SIDE = 2**31 - 1
# Pixels by which rounding may push a box over the image's border.
BORDER = 0.5


@dataclass(frozen=True)
class GroundedBox:
    """One box in an image.

    Args:
        label (`str`): as the user wrote it.
        score (`float`): 0 to 1.
        bbox (`tuple[float, float, float, float]`): (x, y, width, height) in pixels of the image; x and y of the top
            left corner, not rounded.
        label_id (`str`, *optional*): id in the taxonomy; `None` for a phrase outside it, as of the next two.
        category (`str`, *optional*): of the label in the taxonomy.
        region (`str`, *optional*): of the label in the taxonomy.
        trained (`bool`, *optional*): whether the expert was trained with the label; `None` if the checkpoint does not
            say.
    """

    label: str
    score: float
    bbox: tuple[float, float, float, float]
    label_id: str | None = None
    category: str | None = None
    region: str | None = None
    trained: bool | None = None

    def size_mm(self, spacing_mm: tuple[float, float]) -> tuple[float, float]:
        """Return (width, height) in mm, for pixels that measure `spacing_mm` (x, y)."""
        return self.bbox[2] * spacing_mm[0], self.bbox[3] * spacing_mm[1]

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) in pixels."""
        x, y, width, height = self.bbox
        return x, y, x + width, y + height


@dataclass(frozen=True)
class ImageInfo:
    """The image of a result: base name of the file, size in pixels, modality, spacing (x, y) in mm."""

    file: str
    width: int
    height: int
    modality: str
    spacing_mm: tuple[float, float] | None = None


@dataclass(frozen=True)
class GroundingResult(BaseResult):
    """The boxes of one image. `print` shows them as a table.

    Args:
        model (`str`): name of the checkpoint.
        image ([`ImageInfo`]): what is known of the input.
        prompt (`str`): as the user gave it.
        boxes (`tuple[GroundedBox, ...]`): best score first.
        modality_source (`str`): `"given"`, `"header"`, `"pixels"`, `"checkpoint"`, or `"unrecognized"` for what
            does not look like a medical image, so that nothing was looked for.
        modality_probability (`float`, *optional*): the router's, when the pixels decided; not stored.
        warnings (`tuple[str, ...]`): one line each; not stored.
        trained (`Mapping[str, bool | None]`): asked label -> whether the expert was trained with it; `None` if the
            checkpoint does not say.
        presence (`Mapping[str, float]`): asked label -> probability that the image shows it; where it is low, so are
            the scores of its boxes. Empty for checkpoints without a presence head.
        open_image (`Callable`, *optional*): reads the image again, for [`plot`]; not stored.
    """

    model: str
    image: ImageInfo
    prompt: str
    boxes: tuple[GroundedBox, ...] = ()
    modality_source: str = field(default=GIVEN, compare=False)
    modality_probability: float | None = field(default=None, compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    trained: Mapping[str, bool | None] = field(default_factory=dict)
    presence: Mapping[str, float] = field(default_factory=dict)
    open_image: Callable[[], ReadImage] | None = field(default=None, compare=False, repr=False)

    def heading(self, name: str | None = None) -> str:
        """Return the first line of the text: name of the input, modality, width and height in pixels."""
        return f"{name or self.image.file}  [{self.image.modality}, {self.image.width}x{self.image.height}]"

    def _cells(self) -> tuple[Sequence[str], list[list[str]]]:
        spacing = self.image.spacing_mm
        columns = ["x", "y", "width", "height", *(["size, mm"] if spacing else [])]
        cells = [[f"{value:.1f}" for value in box.bbox] for box in self.boxes]
        if spacing:
            for box, cell in zip(self.boxes, cells, strict=True):
                cell.append(" ".join(f"{value:.0f}" for value in box.size_mm(spacing)))
        return columns, cells

    def _position(self, box: GroundedBox) -> dict[str, Any]:
        position: dict[str, Any] = dict(zip(("x", "y", "width", "height"), rounded(box.bbox), strict=True))
        if self.image.spacing_mm is not None:
            position["size_mm"] = rounded(box.size_mm(self.image.spacing_mm))
        return position

    def plot(
        self,
        image: ReadImage | Image.Image | None = None,
        title: str = "",
        banner: str = "",
        window: tuple[float, float] = CT_WINDOW,
    ) -> Image.Image:
        """Draw the boxes and a legend.

        Args:
            image ([`ReadImage`] or `PIL.Image.Image`, *optional*): the image; without it the one that was grounded is
                read again.
            title (`str`, *optional*): a line above the legend; modality and file when left out.
            banner (`str`, *optional*): a warning in a colored bar at the top.
            window (`tuple[float, float]`, *optional*, defaults to `(40, 400)`): (center, width) in HU of CT.

        Returns:
            `PIL.Image.Image`: RGB.

        Raises:
            `MedGlipError`: no image is given, and this result came from a file of boxes.
        """
        from PIL import ImageOps

        from ..io.image_record import ReadImage
        from .overlay import display_image, draw_overlay

        if image is None and self.open_image is None:
            raise MedGlipError(f"{self.image.file}: the result has no image: give it to plot")
        shown = self.open_image() if image is None and self.open_image is not None else image
        if isinstance(shown, ReadImage):
            shown = display_image(shown, self.image.modality, window)
        elif shown is not None:
            shown = ImageOps.exif_transpose(shown)  # boxes are of the upright image
        assert shown is not None
        title = title or f"{self.image.modality}: {self.image.file}"
        return draw_overlay(shown, self.boxes, list(self.trained), title, banner)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a `*.boxes.json` file. Pixels are rounded to 2 digits, scores to 4."""
        boxes = []
        for box in self.boxes:
            entry: dict[str, Any] = {"label": box.label, "score": round(box.score, 4), "bbox": rounded(box.bbox)}
            entry |= self._label_ids(box)
            if self.image.spacing_mm is not None:
                entry["size_mm"] = rounded(box.size_mm(self.image.spacing_mm))
            boxes.append(entry)
        image = asdict(self.image)
        image["spacing_mm"] = None if self.image.spacing_mm is None else list(self.image.spacing_mm)
        return {**self._content(image), "boxes": boxes}

    def to_coco(self, image_id: int = 1) -> dict[str, Any]:
        """Return a COCO data set of this image, whose annotations have a `score`.

        Args:
            image_id (`int`, *optional*, defaults to 1): id of the image.
        """
        values = self.label_values
        size = {"width": self.image.width, "height": self.image.height}
        annotations = [
            {
                "id": number,
                "image_id": image_id,
                "category_id": values[box.label],
                "bbox": list(box.bbox),
                "area": box.bbox[2] * box.bbox[3],
                "iscrowd": 0,
                "score": box.score,
            }
            for number, box in enumerate(self.boxes, start=1)
        ]
        return {
            "images": [{"id": image_id, "file_name": self.image.file, **size}],
            "annotations": annotations,
            "categories": [{"id": value, "name": label} for label, value in values.items()],
        }

    def to_supervision(self) -> Any:
        """Return `supervision.Detections`: boxes in pixels, classes counted from 0 in the order of the prompt.

        Raises:
            `MedGlipError`: supervision is not installed.
        """
        supervision = optional_library("supervision")
        values = self.label_values
        return supervision.Detections(
            xyxy=np.array([box.xyxy for box in self.boxes], np.float32).reshape(-1, 4),
            confidence=np.array([box.score for box in self.boxes], np.float32),
            class_id=np.array([values[box.label] - 1 for box in self.boxes], int),
            data={"class_name": np.array([box.label for box in self.boxes], str)},
        )


def rounded(values: Sequence[float], digits: int = 2) -> list[float]:
    """Return numbers as files hold them, rounded to `digits` decimals."""
    return [round(float(value), digits) for value in values]


def write_boxes(result: GroundingResult, path: str | Path) -> Path:
    """Write a `*.boxes.json` file atomically.

    Args:
        result ([`GroundingResult`]): the boxes.
        path (`str` or `Path`): the file.

    Raises:
        `MedGlipError`: the result is not valid (a box outside its image ...) or the file cannot be written.
    """
    return write_text(path, boxes_json(result, Path(path).name))


def boxes_json(result: GroundingResult, name: str = "boxes") -> str:
    """Return the text of a `*.boxes.json` file.

    Args:
        result ([`GroundingResult`]): the boxes.
        name (`str`, *optional*, defaults to `"boxes"`): of the file, for messages.

    Raises:
        `MedGlipError`: the result is not valid (a box outside its image ...); names `name`.
    """
    content = result.to_dict()
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
    stated = {key: content.get(key, {}) for key in ("trained", "presence")}
    source = content.get("modality_source", GIVEN)
    return GroundingResult(content["model"], info, content["prompt"], boxes, source, **stated)


# Validation ----------------------------------------------------------------------------------------------------------


def validate_boxes(content: Any, name: str = "boxes") -> None:
    """Check the content of a `*.boxes.json` file; further keys are allowed.

    Args:
        content (`dict`): what JSON holds.
        name (`str`, *optional*, defaults to `"boxes"`): of the file, for messages.

    Raises:
        `MedGlipError`: names `name` and the first thing that is wrong.
    """
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise MedGlipError(f"{name}: is not a {SCHEMA} file")
    for key in ("model", "prompt"):
        _require(isinstance(content.get(key), str), name, f"{key} must be a string")
    source = content.get("modality_source", GIVEN)
    _require(source in MODALITY_SOURCES, name, f"modality_source must be one of {', '.join(MODALITY_SOURCES)}")
    trained = content.get("trained", {})
    known = isinstance(trained, dict) and all(value in (True, False, None) for value in trained.values())
    _require(known, name, "trained must be an object of booleans and nulls")
    presence = content.get("presence", {})
    known = isinstance(presence, dict) and all(_numbers([value]) and 0 <= value <= 1 for value in presence.values())
    _require(known, name, "presence must be an object of numbers from 0 to 1")
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
    "GroundedBox",
    "GroundingResult",
    "ImageInfo",
    "boxes_json",
    "read_boxes",
    "rounded",
    "validate_boxes",
    "write_boxes",
]
