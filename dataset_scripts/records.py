# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What flows through the build: a case as its files, then as pixels with annotations, and what is turned away.

Case (files) -> Image or LabelledVolume (pixels and annotations) -> images with boxes (plain JSON, see boxes.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.volumes.geometry import SlicePlane, Volume


class Rejected(Exception):
    """A case, image or annotation that is turned away.

    Attributes:
        rule: one of `quality.RULES`. value: what was found, in few words and without any text out of a file's header.
    """

    def __init__(self, rule: str, value: str = "") -> None:
        super().__init__(f"{rule}: {value}" if value else rule)
        self.rule, self.value = rule, value


@dataclass(frozen=True)
class Rejection:
    """One row of the quality report.

    Attributes:
        source, case: where; `case` is the pseudonym, or `""` for a whole source.
        item: which image or label of the case, without the names of files.
        rule, value: as in [`Rejected`].
        file: relative path of the raw file, for the private report only.
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
        key: unique within the source and stable: the relative path of the image or volume.
        patient: key of the patient, never shown; equal for everything that must stay in one split.
        split: `"train"`, `"validation"`, `"test"` where the source has an official split, else `None`.
        parts: what the reader needs, by name.
    """

    key: str
    patient: str
    split: str | None = None
    parts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Annotation:
    """One thing that was annotated in an image: a mask, or only a box.

    Attributes:
        label: the source's own name.
        mask: (h, w) bool of the whole image or of a part of it, or `None`.
        box: (x1, y1, x2, y2) in pixels, continuous, where there is no mask.
        corner: column and row of the mask's first pixel in the image.
        issue: (rule, value) of what is wrong with the annotation, for the report. With neither mask nor box nothing
            of it can be used, and its label is left open in the image.
    """

    label: str
    mask: NDArray[np.bool_] | None = None
    box: tuple[float, float, float, float] | None = None
    corner: tuple[int, int] = (0, 0)
    issue: tuple[str, str] | None = None

    def whole(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask in an image of `shape` (rows, columns)."""
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
        pixels: (h, w) or (h, w, 3), uint8 or uint16, as they are stored.
        annotations: what was annotated.
        item: `""`, or which image of the case, such as `"axial 12"`.
        geometry: where it lies in the patient, for images cut from volumes.
        window: value of gray 0 and of the highest gray, where pixels were made from values.
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
        volume: the image.
        labelmaps: label maps on the image's grid, each with its names: value -> the source's own label.
        notes: (rule, value) of what was mended on reading.
    """

    volume: Volume
    labelmaps: tuple[tuple[Volume, dict[int, str]], ...]
    notes: tuple[tuple[str, str], ...] = ()


def inside(root: Path, name: Any) -> Path:
    """A file below `root`, given by a name out of an annotation file.

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
        # Reading a pipe would wait for ever.
        if not path.is_file():
            raise Rejected("missing_file")
        if not path.resolve().is_relative_to(root.resolve()):
            raise Rejected("leaves_folder", "link out of the folder")
    except (OSError, ValueError, RuntimeError):  # too long, not encodable, or a circle of links
        raise Rejected("missing_file", "no name of a file") from None
    return path


__all__ = ["AnnotatedImage", "Annotation", "Case", "LabeledVolume", "Rejected", "Rejection", "inside"]
