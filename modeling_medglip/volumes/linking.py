# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Link the boxes of neighboring slices to boxes in space.

Boxes of one label that overlap in neighboring slices form a tracklet. Boxes that do not overlap stay apart, so two
kidneys under one label are two tracklets. A tracklet bridges a few slices without a box.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..boxes import containment, iou


# Boxes of neighboring slices belong together from this IoU on, or if this share of the smaller box lies in the other.
LINK_IOU_THRESHOLD, LINK_CONTAINMENT_THRESHOLD = 0.3, 0.7
# Slices at the ends of a tracklet are left out below this share of its best score.
END_SCORE_RATIO = 0.4
# Two tracklets show one structure if this share of the smaller extent lies in the other. The lower-scored one becomes
# a part of it from this share of the better score on; below that it is another guess at the same structure.
MERGE_CONTAINMENT_THRESHOLD, MERGE_SCORE_RATIO = 0.5, 0.6
# Slices that a result names for display.
BEST_SLICES = 3


@dataclass(frozen=True)
class SliceBox:
    """A box in a slice.

    Args:
        index (`int`): index of the slice.
        box (`tuple[float, float, float, float]`): (x1, y1, x2, y2), edges in pixels.
        score (`float`): 0 to 1.
    """

    index: int
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Tracklet:
    """Boxes that belong together.

    Args:
        boxes (`tuple[SliceBox, ...]`): one per slice, in the order of the slices.
    """

    boxes: tuple[SliceBox, ...]

    @property
    def first(self) -> int:
        """Index of the first slice."""
        return self.boxes[0].index

    @property
    def last(self) -> int:
        """Index of the last slice."""
        return self.boxes[-1].index

    @property
    def best(self) -> tuple[SliceBox, ...]:
        """The three boxes with the best scores, best first."""
        return tuple(sorted(self.boxes, key=lambda box: (-box.score, box.index))[:BEST_SLICES])

    @property
    def score(self) -> float:
        """Mean score of the better half of the slices; neither one lucky slice nor the faint ends decide."""
        scores = sorted((box.score for box in self.boxes), reverse=True)
        return float(np.mean(scores[: -(-len(scores) // 2)]))

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2) around the boxes of all slices."""
        corners = np.array([box.box for box in self.boxes])
        x1, y1 = corners[:, :2].min(axis=0)
        x2, y2 = corners[:, 2:].max(axis=0)
        return float(x1), float(y1), float(x2), float(y2)


def link_slices(boxes: Iterable[SliceBox], gap: int = 1, min_slices: int = 1) -> list[Tracklet]:
    """Link the boxes of one label.

    Args:
        boxes (`Iterable[SliceBox]`): boxes of all slices of a plane, in any order.
        gap (`int`, *optional*, defaults to 1): slices without a box that a tracklet bridges.
        min_slices (`int`, *optional*, defaults to 1): tracklets of fewer slices are left out.

    Returns:
        `list[Tracklet]`: best score first; parts of one structure are one tracklet.
    """
    by_slice: dict[int, list[SliceBox]] = {}
    for box in boxes:
        by_slice.setdefault(box.index, []).append(box)
    active: list[list[SliceBox]] = []
    finished: list[list[SliceBox]] = []
    for index in sorted(by_slice):
        finished += [boxes for boxes in active if index - boxes[-1].index > gap + 1]
        active = [boxes for boxes in active if index - boxes[-1].index <= gap + 1]
        active += _extend(active, _distinct(by_slice[index]))
    tracklets = _merge([_trim_ends(boxes) for boxes in [*finished, *active]], gap)
    return [tracklet for tracklet in tracklets if len(tracklet.boxes) >= min_slices]


def _distinct(boxes: Sequence[SliceBox]) -> list[SliceBox]:
    """Drop the boxes of a slice that are fainter guesses at what a better box shows; best first."""
    kept_boxes: list[SliceBox] = []
    for box in sorted(boxes, key=lambda b: (-b.score, b.box)):
        better = (other for other in kept_boxes if box.score < MERGE_SCORE_RATIO * other.score)
        if not any(containment(box.box, other.box) >= MERGE_CONTAINMENT_THRESHOLD for other in better):
            kept_boxes.append(box)
    return kept_boxes


def _extend(active: list[list[SliceBox]], boxes: Sequence[SliceBox]) -> list[list[SliceBox]]:
    """Append the boxes of a slice to the tracklets that they overlap most, best pairs first.

    Returns:
        `list[list[SliceBox]]`: new tracklets, of the boxes that extend none.
    """
    pairs = sorted(
        (-overlap * (known[-1].score * box.score) ** 0.5, -box.score, row, column)
        for row, known in enumerate(active)
        for column, box in enumerate(boxes)
        if (overlap := _link_overlap(known[-1].box, box.box)) > 0
    )
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    for _, _, row, column in pairs:
        if row not in used_rows and column not in used_columns:
            active[row].append(boxes[column])
            used_rows.add(row)
            used_columns.add(column)
    return [[box] for column, box in enumerate(boxes) if column not in used_columns]


def _link_overlap(first: Sequence[float], other: Sequence[float]) -> float:
    """Return the IoU of two boxes, 0 where they do not belong together."""
    overlap = iou(first, other)
    linked = overlap >= LINK_IOU_THRESHOLD or containment(first, other) >= LINK_CONTAINMENT_THRESHOLD
    return overlap if linked else 0.0


def _trim_ends(boxes: list[SliceBox]) -> Tracklet:
    """Leave out low-scored slices at both ends."""
    limit = END_SCORE_RATIO * max(box.score for box in boxes)
    strong = [number for number, box in enumerate(boxes) if box.score >= limit]
    return Tracklet(tuple(boxes[strong[0] : strong[-1] + 1]))


def _merge(tracklets: Sequence[Tracklet], gap: int) -> list[Tracklet]:
    """Merge tracklets of one structure into its best one, or drop those that score much lower; best first."""
    merged: list[Tracklet] = []
    for tracklet in sorted(tracklets, key=_rank):
        number = next((n for n, better in enumerate(merged) if _shows_same(tracklet, better, gap)), None)
        if number is None:
            merged.append(tracklet)
        elif tracklet.score >= MERGE_SCORE_RATIO * merged[number].score:
            merged[number] = _union(merged[number], tracklet)
    return sorted(merged, key=_rank)


def _rank(tracklet: Tracklet) -> tuple[float, int, tuple[float, ...]]:
    """Sort key: best score first, then by position."""
    return -tracklet.score, tracklet.first, tracklet.extent


def _shows_same(tracklet: Tracklet, better: Tracklet, gap: int) -> bool:
    """Whether two tracklets share or neighbor slices, and the smaller extent lies mostly in the other."""
    if tracklet.first > better.last + gap + 1 or better.first > tracklet.last + gap + 1:
        return False
    return containment(tracklet.extent, better.extent) >= MERGE_CONTAINMENT_THRESHOLD


def _union(first: Tracklet, other: Tracklet) -> Tracklet:
    """Return one tracklet of both; in shared slices the box around both boxes, with the better score."""
    boxes: dict[int, SliceBox] = {}
    for box in (*first.boxes, *other.boxes):
        known = boxes.get(box.index)
        if known is not None:
            x1, y1 = min(known.box[0], box.box[0]), min(known.box[1], box.box[1])
            x2, y2 = max(known.box[2], box.box[2]), max(known.box[3], box.box[3])
            box = SliceBox(box.index, (x1, y1, x2, y2), max(known.score, box.score))
        boxes[box.index] = box
    return Tracklet(tuple(boxes[index] for index in sorted(boxes)))


__all__ = ["SliceBox", "Tracklet", "link_slices"]
