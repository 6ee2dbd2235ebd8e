# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Boxes of neighbouring slices -> boxes in space.

Boxes of one label that lie over each other in neighbouring slices belong together. What does not touch stays apart, so
two kidneys under one label are two boxes. A few slices in which nothing was found do not cut a structure in two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


# Boxes belong together from this overlap on (IoU), or if so much of the smaller one lies in the other.
OVERLAP, INSIDE = 0.3, 0.7
# Slices at the ends of a chain are left out below this share of its best score.
WEAK_END = 0.4
# Parts of one structure: so much of the smaller extent within the other, and a score not much below the other's.
# Fainter ones are other guesses at the same thing, and are left out.
PART, FAINTER = 0.5, 0.6
# Slices that are kept to be looked at.
SHOWN = 3


@dataclass(frozen=True)
class SliceBox:
    """A box in a slice.

    Args:
        index (`int`): of the slice. box: (x1, y1, x2, y2) in pixels, edges. score (`float`): 0 to 1.
    """

    index: int
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Chain:
    """Boxes that belong together, in the order of their slices, one per slice."""

    boxes: tuple[SliceBox, ...]

    @property
    def first(self) -> int:
        """First slice."""
        return self.boxes[0].index

    @property
    def last(self) -> int:
        """Last slice."""
        return self.boxes[-1].index

    @property
    def best(self) -> tuple[SliceBox, ...]:
        """The three slices with the best scores, best first."""
        return tuple(sorted(self.boxes, key=lambda box: (-box.score, box.index))[:SHOWN])

    @property
    def score(self) -> float:
        """Mean of the better half of the slices, so that neither a single lucky slice nor the faint ends decide."""
        scores = sorted((box.score for box in self.boxes), reverse=True)
        return float(np.mean(scores[: -(-len(scores) // 2)]))

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2) round all slices."""
        corners = np.array([box.box for box in self.boxes])
        x1, y1 = corners[:, :2].min(axis=0)
        x2, y2 = corners[:, 2:].max(axis=0)
        return float(x1), float(y1), float(x2), float(y2)


def link(boxes: Iterable[SliceBox], gap: int = 1, least: int = 1) -> list[Chain]:
    """Chain the boxes of one label.

    Args:
        gap: so many slices without a box are bridged.
        least: chains of fewer slices are left out.

    Returns:
        the chains, best score first; parts of one structure are one chain.
    """
    by_slice: dict[int, list[SliceBox]] = {}
    for box in boxes:
        by_slice.setdefault(box.index, []).append(box)
    open_chains: list[list[SliceBox]] = []
    done: list[list[SliceBox]] = []
    for index in sorted(by_slice):
        by_slice[index] = _distinct(by_slice[index])
        done += [chain for chain in open_chains if index - chain[-1].index > gap + 1]
        open_chains = [chain for chain in open_chains if index - chain[-1].index <= gap + 1]
        open_chains += _extend(open_chains, by_slice[index])
    trimmed = [_trimmed(chain) for chain in [*done, *open_chains]]
    return [chain for chain in _joined(trimmed, gap) if len(chain.boxes) >= least]


def _distinct(boxes: Sequence[SliceBox]) -> list[SliceBox]:
    """The boxes of a slice, best first, without fainter guesses at the same thing."""
    kept: list[SliceBox] = []
    for box in sorted(boxes, key=lambda b: (-b.score, b.box)):
        better = (other for other in kept if box.score < FAINTER * other.score)
        if not any(_inside(box.box, other.box) >= PART for other in better):
            kept.append(box)
    return kept


def _inside(first: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Share of the smaller box that lies in the other."""
    width = min(first[2], other[2]) - max(first[0], other[0])
    height = min(first[3], other[3]) - max(first[1], other[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, other)]
    return max(width, 0.0) * max(height, 0.0) / max(min(areas), 1e-9)


def _extend(chains: list[list[SliceBox]], boxes: Sequence[SliceBox]) -> list[list[SliceBox]]:
    """Put the boxes of a slice to the chains they lie over most, best pairs first; returns chains of the others."""
    pairs = sorted(
        (
            (-_touch(chain[-1].box, box.box) * (chain[-1].score * box.score) ** 0.5, -box.score, row, column)
            for row, chain in enumerate(chains)
            for column, box in enumerate(boxes)
            if _touch(chain[-1].box, box.box) > 0
        ),
    )
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    for _, _, row, column in pairs:
        if row not in used_rows and column not in used_columns:
            chains[row].append(boxes[column])
            used_rows.add(row)
            used_columns.add(column)
    return [[box] for column, box in enumerate(boxes) if column not in used_columns]


def _touch(first: tuple[float, ...], other: tuple[float, ...]) -> float:
    """IoU of two boxes, 0 where they do not belong together."""
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, other)]
    share = _inside(first, other)
    inside = share * min(areas)
    iou = inside / max(areas[0] + areas[1] - inside, 1e-9)
    return iou if iou >= OVERLAP or share >= INSIDE else 0.0


def _trimmed(chain: list[SliceBox]) -> Chain:
    """Without faint slices at its ends."""
    limit = WEAK_END * max(box.score for box in chain)
    strong = [place for place, box in enumerate(chain) if box.score >= limit]
    return Chain(tuple(chain[strong[0] : strong[-1] + 1]))


def _joined(chains: Sequence[Chain], gap: int) -> list[Chain]:
    """The chains, best first; one that goes on where a better one ends, or beside it, becomes a part of it, or is left
    out if it is much fainter."""
    kept: list[Chain] = []
    for chain in sorted(chains, key=lambda c: (-c.score, c.first, c.extent)):
        place = next((n for n, better in enumerate(kept) if _goes_on(chain, better, gap)), None)
        if place is None:
            kept.append(chain)
        elif chain.score >= FAINTER * kept[place].score:
            kept[place] = _merged(kept[place], chain)
    return sorted(kept, key=lambda c: (-c.score, c.first, c.extent))


def _goes_on(chain: Chain, better: Chain, gap: int) -> bool:
    """Whether a chain is a part of what a better one shows: in the same or neighbouring slices, and at least half of
    the smaller one's extent within the other's."""
    if chain.first > better.last + gap + 1 or better.first > chain.last + gap + 1:
        return False
    return _inside(chain.extent, better.extent) >= PART


def _merged(first: Chain, other: Chain) -> Chain:
    """One chain of both; where both have a box in a slice, the box round them with the better score."""
    boxes: dict[int, SliceBox] = {}
    for box in (*first.boxes, *other.boxes):
        known = boxes.get(box.index)
        if known is not None:
            x1, y1 = min(known.box[0], box.box[0]), min(known.box[1], box.box[1])
            x2, y2 = max(known.box[2], box.box[2]), max(known.box[3], box.box[3])
            box = SliceBox(box.index, (x1, y1, x2, y2), max(known.score, box.score))
        boxes[box.index] = box
    return Chain(tuple(boxes[index] for index in sorted(boxes)))


__all__ = ["Chain", "SliceBox", "link"]
