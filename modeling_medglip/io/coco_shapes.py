# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Boxes, polygons and run lengths of COCO annotations, checked before any native code sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ..errors import MedGlipError


# No image is that large; single precision cannot tell pixels apart there.
FARTHEST = 1e7
# A box may leave its image by a pixel, or by this share of its side: what is inside is kept then.
BORDER, OVERHANG = 1.0, 0.1
# Limits of the polygon rasterizer, which keeps some bytes for every pixel of an outline.
FARTHEST_POINT, LONGEST_OUTLINE = 100_000, 20_000_000
# Characters of one run length; each holds five bits.
LONGEST_RUN = 7
Box = tuple[float, float, float, float]


class AnnotationError(MedGlipError):
    """An annotation that cannot be used: its label is unknown in its image, not absent.

    Attributes:
        rule (`str`): one of `dataset_scripts.quality.RULES`.
        reason (`str`): the fault, in few words.
    """

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(f"{rule}: {reason}")
        self.rule, self.reason = rule, reason


@dataclass(frozen=True)
class Segmentation:
    """The shape of an annotation.

    Attributes:
        size (`tuple[int, int]`): width and height of the image in pixels.
        polygons (`tuple[np.ndarray, ...]`): points x, y in pixels, of shape `(n, 2)` each. Empty if `runs` is set.
        runs (`np.ndarray`, *optional*): lengths of background and object by turns, down the columns.
    """

    size: tuple[int, int]
    polygons: tuple[NDArray[np.float64], ...] = ()
    runs: NDArray[np.int64] | None = None

    @property
    def box(self) -> Box:
        """[x, y, width, height] around the shape; without area if there is nothing in it."""
        if self.runs is not None:
            return _box_of_runs(self.runs, self.size[1])
        points = np.concatenate(self.polygons)
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return left, top, right - left, bottom - top

    def mask(self) -> NDArray[np.bool_]:
        """Return the shape as a mask `(height, width)`."""
        width, height = self.size
        if self.runs is not None:
            inside = np.arange(len(self.runs)) % 2 == 1
            return np.repeat(inside, self.runs).reshape((height, width), order="F")
        from pycocotools import mask as coco_mask

        outlines = [points.ravel().tolist() for points in self.polygons]
        return np.asarray(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outlines, height, width)))) > 0


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a value of a JSON file is a number, which may be NaN, infinite, or too large for a float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def fit_box(box: Box, size: tuple[int, int]) -> tuple[Box, bool]:
    """Clip a box to its image.

    Args:
        box (`tuple[float, float, float, float]`): [x, y, width, height] in pixels.
        size (`tuple[int, int]`): width and height of the image in pixels.

    Returns:
        `tuple[Box, bool]`: the box inside the image; whether more than a rounding error was clipped.

    Raises:
        `AnnotationError`: the box has no area, or leaves its image by more than `OVERHANG` of its side.
    """
    x, y, wide, high = box
    if not np.isfinite(box).all() or wide <= 0 or high <= 0:
        raise AnnotationError("bad_box", "not finite or without area")
    across, down = (max(-x, x + wide - size[0], 0.0), max(-y, y + high - size[1], 0.0))
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + wide, float(size[0])), min(y + high, float(size[1]))
    if across > max(BORDER, OVERHANG * wide) or down > max(BORDER, OVERHANG * high) or right <= left or bottom <= top:
        sides = ", ".join(f"{side:g}" for side in box)
        raise AnnotationError("bad_box", f"[{sides}] lies outside its image of {size[0]}x{size[1]}")
    return (left, top, right - left, bottom - top), max(across, down) > BORDER


def parse_segmentation(value: Any, size: tuple[int, int]) -> Segmentation | None:
    """Parse the `segmentation` of an annotation; return `None` where it is empty.

    Args:
        value (`Any`): of the JSON file.
        size (`tuple[int, int]`): width and height of the image in pixels.

    Raises:
        `AnnotationError`: it is neither polygons nor run lengths of an image of this size.
    """
    if not value or (isinstance(value, list) and not any(part != [] for part in value)):
        return None
    if isinstance(value, dict):
        return Segmentation(size, runs=_runs(value, size))
    if not isinstance(value, list):
        raise AnnotationError("bad_annotations", "a segmentation that is neither polygons nor run lengths")
    return Segmentation(size, polygons=tuple(map(_polygon, value)))


def _polygon(value: Any) -> NDArray[np.float64]:
    fits = isinstance(value, list) and len(value) >= 6 and len(value) % 2 == 0
    if not fits or not all(map(is_number, value)):
        raise AnnotationError("bad_annotations", "a polygon that is not a list of at least three points")
    if not all(abs(number) <= FARTHEST_POINT for number in value):  # also NaN
        raise AnnotationError("bad_annotations", "a polygon far outside its image")
    points = np.array(value, dtype=np.float64).reshape(-1, 2)
    if np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum() > LONGEST_OUTLINE:
        raise AnnotationError("bad_annotations", "a polygon with too long an outline")
    return points


def _runs(value: dict[str, Any], size: tuple[int, int]) -> NDArray[np.int64]:
    width, height = size
    if value.get("size") != [height, width]:
        raise AnnotationError("size_mismatch", "run lengths of another size")
    counts = value.get("counts")
    runs = _decoded(counts) if isinstance(counts, str) else _listed(counts, width * height)
    if runs is None or (runs < 0).any() or int(runs.sum()) > width * height:
        raise AnnotationError("bad_annotations", "run lengths that do not fit their image")
    rest = width * height - int(runs.sum())  # some exporters leave out the last background
    return np.append(runs, [0, rest] if len(runs) % 2 else [rest]).astype(np.int64)


def _listed(counts: Any, most: int) -> NDArray[np.int64] | None:
    whole = isinstance(counts, list) and all(type(count) is int and 0 <= count <= most for count in counts)
    return np.array(counts, dtype=np.int64) if whole and sum(counts) <= most else None


def _decoded(text: str) -> NDArray[np.int64] | None:
    """Return the run lengths of COCO's compressed text, `None` if it is damaged.

    Each number is written in groups of five bits, lowest first, from the character `0` on; bit 5 says that more groups
    follow. From the fourth number on it is the difference to the number two places before.
    """
    codes = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - ord("0")
    if not len(codes) or (codes < 0).any() or (codes > 63).any() or codes[-1] & 32:
        return None
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= LONGEST_RUN:
        return None
    positions = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((codes & 31) << (5 * positions), starts)
    negative = (codes[ends] & 16) != 0
    values[negative] -= 1 << (5 * (ends - starts + 1)[negative])
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _box_of_runs(runs: NDArray[np.int64], height: int) -> Box:
    ends = np.cumsum(runs)
    first, last = ends[:-1:2][: len(runs[1::2])], ends[1::2] - 1
    filled = runs[1::2] > 0
    if not filled.any():
        return 0.0, 0.0, 0.0, 0.0
    first, last = first[filled], last[filled]
    left, right = int(first[0] // height), int(last[-1] // height)
    whole = first // height != last // height  # goes on into the next column, through its top and the other's bottom
    top = 0 if whole.any() else int((first % height).min())
    bottom = height - 1 if whole.any() else int((last % height).max())
    return float(left), float(top), float(right + 1 - left), float(bottom + 1 - top)


__all__ = ["FARTHEST", "AnnotationError", "Box", "Segmentation", "fit_box", "is_number", "parse_segmentation"]
