# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The data of a build: a case as files, then as pixels with annotations, and what is rejected.

Case (files) -> AnnotatedImage or LabeledVolume -> images with boxes (plain JSON, see boxes.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.volumes.geometry import SlicePlane, Volume


class Rejected(Exception):
    """A case, image or annotation that is rejected.

    Attributes:
        rule (`str`): One of `quality.RULES`.
        value (`str`): The reason in few words, without text from the header of a file.
    """

    def __init__(self, rule: str, value: str = "") -> None:
        super().__init__(f"{rule}: {value}" if value else rule)
        self.rule, self.value = rule, value


@dataclass(frozen=True)
class Rejection:
    """One row of the quality report.

    Attributes:
        source (`str`): Id of the source.
        case (`str`): Pseudonym of the case, or `""` for a whole source.
        item (`str`): Image or label of the case, without file names.
        rule (`str`): As in [`Rejected`].
        value (`str`): As in [`Rejected`].
        file (`str`): Relative path of the raw file, for the private report only.
    """

    source: str
    case: str
    item: str
    rule: str
    value: str = ""
    file: str = ""


@dataclass(frozen=True)
class Case:
    """The files that belong together: one image, or one volume, with its annotations.

    Attributes:
        key (`str`): Relative path of the image or volume, unique within the source.
        patient (`str`): Key of the patient, never shown; equal for everything that must stay in one split.
        split (`str`, *optional*): `"train"`, `"validation"` or `"test"` where the source has an official split.
        parts (`dict`): What the reader needs, by name.
    """

    key: str
    patient: str
    split: str | None = None
    parts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Annotation:
    """One annotated object of an image: a mask, or only a box.

    Attributes:
        label (`str`): Name that the source uses.
        mask (`np.ndarray` of shape `(h, w)`, *optional*): Bool, of the whole image or of a part of it.
        box (`tuple[float, float, float, float]`, *optional*): (x1, y1, x2, y2) in continuous pixels.
        corner (`tuple[int, int]`): Column and row of the first pixel of the mask in the image.
        issue (`tuple[str, str]`, *optional*): Rule and value of what is wrong with the annotation, for the report.
            With neither mask nor box the annotation cannot be used, and its label is left open in the image.
    """

    label: str
    mask: NDArray[np.bool_] | None = None
    box: tuple[float, float, float, float] | None = None
    corner: tuple[int, int] = (0, 0)
    issue: tuple[str, str] | None = None

    def whole(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the mask in an image of `shape` (rows, columns)."""
        if self.mask is None:
            return np.zeros(shape, bool)
        if self.mask.shape == shape:
            return self.mask
        left, top = self.corner
        full = np.zeros(shape, bool)
        full[top : top + self.mask.shape[0], left : left + self.mask.shape[1]] = self.mask
        return full


@dataclass(frozen=True)
class AnnotatedImage:
    """A 2-D image with its annotations.

    Attributes:
        pixels (`np.ndarray` of shape `(h, w)` or `(h, w, 3)`): Uint8 or uint16, as they are stored.
        annotations (`tuple[Annotation, ...]`): Masks and boxes.
        item (`str`): Plane and index of a slice, such as `"axial 12"`; empty for 2-D images.
        geometry ([`SlicePlane`], *optional*): Position of a slice in the patient, in LPS mm.
        window (`tuple[float, float]`, *optional*): Values of the lowest and the highest gray level of a slice.
    """

    pixels: NDArray
    annotations: tuple[Annotation, ...]
    item: str = ""
    geometry: SlicePlane | None = None
    window: tuple[float, float] | None = None


@dataclass(frozen=True)
class LabeledVolume:
    """A volume with label maps on its grid.

    Attributes:
        volume ([`Volume`]): The image.
        labelmaps (`tuple`): Label maps on the grid of the image, each with value -> label of the source.
        notes (`tuple`): Rule and value of what was corrected on reading.
    """

    volume: Volume
    labelmaps: tuple[tuple[Volume, dict[int, str]], ...]
    notes: tuple[tuple[str, str], ...] = ()


def inside(root: Path, name: Any) -> Path:
    """Return a file below `root` by a name from an annotation file.

    Args:
        root (`Path`): Folder of the source.
        name (`Any`): The name; anything but relative text is refused.

    Raises:
        `Rejected`: `leaves_folder`, for absolute names, `..`, and links that lead out; `missing_file`;
            `bad_annotations`, for a name that is not text.
    """
    if not isinstance(name, str):
        raise Rejected("bad_annotations", "a file name that is not text")
    if Path(name).is_absolute() or ".." in Path(name).parts or "\\" in name or "\0" in name:
        raise Rejected("leaves_folder", "absolute or climbing file name")
    path = root / name
    try:
        # Reading from a pipe would block.
        if not path.is_file():
            raise Rejected("missing_file")
        if not path.resolve().is_relative_to(root.resolve()):
            raise Rejected("leaves_folder", "link out of the folder")
    except (OSError, ValueError, RuntimeError):  # too long, not encodable, or a circle of links
        raise Rejected("missing_file", "not a valid file name") from None
    return path


__all__ = ["AnnotatedImage", "Annotation", "Case", "LabeledVolume", "Rejected", "Rejection", "inside"]
