# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The boxes of a volume, and the `*.boxes.json` files that hold them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..defaults import CT_WINDOW
from ..errors import MedGlipError
from ..volumes.linking import SliceBox
from .base import BaseResult
from .files import to_json, write_text
from .results import rounded, validate_boxes


if TYPE_CHECKING:
    from PIL import Image

    from ..volumes.source import VolumeSource


Corner = tuple[float, float, float]
# What the numbers of a file count, for its readers.
MEANING = {
    "box_ijk": "edges in voxels of the file's own grid: i1 j1 k1 i2 j2 k2, voxel 0 covers 0 to 1",
    "corners_lps_mm": "mm, x to the patient's left, y to the back, z to the head",
    "size_lps_mm": "mm from side to side, from front to back, from feet to head",
    "label_values": "of the label map, a file of its own (.boxes.nii.gz)",
    "best_slices": "slices of the box's plane, from 0 at the patient's right, front or feet",
}


@dataclass(frozen=True)
class VolumeBox:
    """One box in a volume.

    Args:
        label (`str`): as the user wrote it.
        score (`float`): 0 to 1.
        box_ijk (`tuple`): (i1, j1, k1, i2, j2, k2) in voxels of the file's grid, edges: voxel 0 covers 0 to 1.
        corners_lps_mm (`tuple`): 8 corners in LPS mm (DICOM's patient frame); i runs fastest, then j, then k.
        plane (`str`): the plane of the slices that were searched.
        slices (`int`): how many slices show the box.
        best (`tuple[SliceBox, ...]`): up to three of these with the best scores, with their indices (along the LPS
            axis normal to the plane) and boxes.
        label_id (`str`, *optional*): see [`~modeling_medglip.outputs.results.GroundedBox`], as for the next three.
        category (`str`, *optional*): of the label in the taxonomy.
        region (`str`, *optional*): of the label in the taxonomy.
        trained (`bool`, *optional*): whether the expert was trained with the label.
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
    def center_lps_mm(self) -> Corner:
        """Center of the box in LPS mm."""
        x, y, z = (sum(corner[axis] for corner in self.corners_lps_mm) / 8 for axis in range(3))
        return x, y, z

    @property
    def centre_lps_mm(self) -> Corner:
        """The old name of `center_lps_mm`."""
        message = "VolumeBox.centre_lps_mm is now center_lps_mm; the old name goes with the next release"
        warnings.warn(message, FutureWarning, stacklevel=2)
        return self.center_lps_mm

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
    """The volume of a result: base name of the file, voxels and mm along the array's axes, modality."""

    file: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    modality: str


@dataclass(frozen=True)
class VolumeResult(BaseResult):
    """The boxes of one volume. `print` shows them as a table.

    COCO and supervision hold boxes of single images, so there is no `to_coco` and no `to_supervision`; `slice_boxes`
    has the boxes of every slice.

    Args:
        model (`str`): name of the checkpoint.
        image ([`VolumeInfo`]): what is known of the input.
        prompt (`str`): as the user gave it.
        boxes (`tuple[VolumeBox, ...]`): best score first.
        modality_source (`str`): `"given"`, `"header"`, `"pixels"`, `"checkpoint"`, or `"unrecognized"` for what
            does not look like a medical image, so that nothing was looked for.
        modality_probability (`float`, *optional*): the router's, when the pixels decided; not stored.
        warnings (`tuple[str, ...]`): one line each; not stored.
        trained (`Mapping[str, bool | None]`): asked label -> whether the expert was trained with it; `None` if the
            checkpoint does not say.
        presence (`Mapping[str, float]`): asked label -> highest probability over the slices that one shows it; empty
            for checkpoints without a presence head.
        plane (`str`): the plane that was searched (`"all"`: a consensus of three).
        slice_boxes (`Mapping`): plane -> label -> the boxes of single slices before linking; not stored.
        slices (`int`): how many slices were searched; not stored.
        seconds (`float`): how long that took; not stored.
        axes (`str`, *optional*): where the axes run, if the caller stated it; not stored.
        open_volume (`Callable`, *optional*): opens the volume again, for [`plot`]; not stored.
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
    presence: Mapping[str, float] = field(default_factory=dict)
    axes: str | None = field(default=None, compare=False)
    open_volume: Callable[..., VolumeSource] | None = field(default=None, compare=False, repr=False)

    def heading(self, name: str | None = None) -> str:
        """Return the first line of the text: name of the input, modality and shape in voxels."""
        return f"{name or self.image.file}  [{self.image.modality}, {'x'.join(map(str, self.image.shape))}]"

    def _cells(self) -> tuple[Sequence[str], list[list[str]]]:
        cells = [
            [" ".join(f"{value:.0f}" for value in values) for values in (box.center_lps_mm, box.size_lps_mm)]
            + [str(box.slices)]
            for box in self.boxes
        ]
        return ("center, LPS mm", "size, LR AP HF mm", "slices"), cells

    def _position(self, box: VolumeBox) -> dict[str, Any]:
        return {
            "box_ijk": rounded(box.box_ijk),
            "center_lps_mm": rounded(box.center_lps_mm),
            "size_lps_mm": rounded(box.size_lps_mm),
        }

    def plot(self, volume: Any = None, window: tuple[float, float] = CT_WINDOW, **options: Any) -> Image.Image | None:
        """Draw the slices that show each label best.

        Args:
            volume (`str`, `Path`, [`Volume`], [`VolumeSource`] or image of nibabel, *optional*): what was grounded;
                without it the file is read again, or the volume that was given in memory is used.
            window (`tuple[float, float]`, *optional*, defaults to `(40, 400)`): (center, width) in HU of CT.
            options (`Any`): `number`, `resample` and `several_patients`, as they were given to `ground_volume`.

        Returns:
            `PIL.Image.Image`: RGB; `None` if there is no box.

        Raises:
            `MedGlipError`: no volume is given, and the file is gone or this result has none.
        """
        from ..volumes.inputs import as_source
        from .montage import draw_montage

        if volume is not None:
            source = as_source(volume, **options)
            if self.axes is not None and source is not volume:
                source.state_axes(self.axes)
        elif self.open_volume is not None:
            source = self.open_volume(**options)
        else:
            raise MedGlipError(f"{self.image.file}: the result has no volume: give it to plot")
        return draw_montage(source, self.boxes, list(self.trained), self.image.modality, self.not_found, window)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a `*.boxes.json` file, which says itself what its numbers mean.

        Voxels are rounded to 2 digits, mm to 3, scores to 4. `bbox` is the box in the plane of the array's first two
        axes, so that readers of 2-D files find what they expect.
        """
        width, height, depth = self.image.shape
        boxes = []
        for box in self.boxes:
            i1, j1, k1, i2, j2, k2 = rounded(box.box_ijk)
            entry: dict[str, Any] = {"label": box.label, "score": round(box.score, 4)}
            entry["bbox"] = [i1, j1, round(i2 - i1, 2), round(j2 - j1, 2)]
            entry["box_ijk"] = [i1, j1, k1, i2, j2, k2]
            entry["corners_lps_mm"] = [rounded(corner, 3) for corner in box.corners_lps_mm]
            entry["size_lps_mm"] = rounded(box.size_lps_mm)
            entry.update(plane=box.plane, slices=box.slices, best_slices=[shown.index for shown in box.best])
            entry |= self._label_ids(box)
            boxes.append(entry)
        image = {"file": self.image.file, "width": width, "height": height, "depth": depth}
        image |= {"modality": self.image.modality, "spacing_mm": rounded(self.image.spacing_mm, 4)}
        values = {"label_values": self.label_values} if self.trained else {}
        return {**self._content(image), **values, "plane": self.plane, "meaning": MEANING, "boxes": boxes}


def write_volume_boxes(result: VolumeResult, path: str | Path) -> Path:
    """Write a `*.boxes.json` file.

    Args:
        result ([`VolumeResult`]): the boxes.
        path (`str` or `Path`): the file.

    Raises:
        `MedGlipError`: the result is not valid (a box outside its volume ...) or the file cannot be written.
    """
    return write_text(path, volume_boxes_json(result, Path(path).name))


def volume_boxes_json(result: VolumeResult, name: str = "boxes") -> str:
    """Return the text of a `*.boxes.json` file.

    Args:
        result ([`VolumeResult`]): the boxes.
        name (`str`, *optional*, defaults to `"boxes"`): of the file, for messages.

    Raises:
        `MedGlipError`: the result is not valid (a box outside its volume ...); names `name`.
    """
    content = result.to_dict()
    validate_boxes(content, name)
    depth = content["image"]["depth"]
    for number, box in enumerate(content["boxes"]):
        low, high = box["box_ijk"][2], box["box_ijk"][5]
        if not 0 <= low < high <= depth:
            raise MedGlipError(f"{name}: box {number}: box_ijk lies outside its volume of {depth} slices")
    return to_json(content)


__all__ = ["VolumeBox", "VolumeInfo", "VolumeResult", "volume_boxes_json", "write_volume_boxes"]
