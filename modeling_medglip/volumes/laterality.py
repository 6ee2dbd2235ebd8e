# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Whether what is called left lies to the patient's left of what is called right; the x axis of LPS grows to the left.

A mirrored file, or one whose header is wrong, shows in this. A box alone says nothing: a volume need not be centred.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from ..errors import one_line
from ..outputs.volume_results import VolumeBox
from ..taxonomy import load_taxonomy


# Named by their function, not by the side of the body that they lie in.
CHAMBERS = ("chest_heart", "chest_myocardium")
# One of two boxes of a single structure that are so far apart from side to side (mm) is the other side's.
APART_MM = 20.0
MOST = 3


@dataclass(frozen=True)
class _Sided:
    """A box of the left or the right one of a pair.

    Attributes:
        pair: the same for both sides. known: in the taxonomy, and no lesion, so that there is one on each side.
    """

    box: VolumeBox
    side: str
    pair: str
    known: bool

    @property
    def extent(self) -> tuple[float, float]:
        """Least and largest x in mm."""
        across = [corner[0] for corner in self.box.corners_lps_mm]
        return min(across), max(across)

    @property
    def name(self) -> str:
        return one_line(self.box.label, 60)


def side_doubts(boxes: Sequence[VolumeBox]) -> tuple[str, ...]:
    """A warning for every pair of labels whose boxes contradict the patient's axes, three at most.

    Doubted are left and right of one kind that lie the other way round, a left structure that lies wholly to the right
    of another right one, and one structure that was found on both sides.
    """
    sided = [found for box in boxes if (found := _sided(box)) is not None]
    doubts = tuple(dict.fromkeys([*_swapped(sided), *_twice(sided)]))
    more = (f"{len(doubts) - MOST} more labels contradict the patient's sides",) if len(doubts) > MOST else ()
    return doubts[:MOST] + more


def _sided(box: VolumeBox) -> _Sided | None:
    label = load_taxonomy().resolve(box.label)
    if label is not None:
        if label.laterality not in ("left", "right") or label.category in CHAMBERS:
            return None
        pair = label.id.replace(label.laterality, "").strip("_")
        return _Sided(box, label.laterality, pair, label.granularity != "lesion")
    words = box.label.lower().split()
    sides = [word for word in words if word in ("left", "right")]
    if len(sides) != 1:
        return None
    return _Sided(box, sides[0], " ".join(word for word in words if word != sides[0]), False)


def _swapped(sided: Sequence[_Sided]) -> Iterator[str]:
    """Left boxes beyond right ones: by their centres if both are of one kind, else wholly."""
    for left, right in product(sided, sided):
        if (left.side, right.side) != ("left", "right"):
            continue
        same = left.pair == right.pair and left.box.centre_lps_mm[0] <= right.box.centre_lps_mm[0]
        other = left.known and right.known and left.extent[1] < right.extent[0]
        if same or other:
            yield f"{left.name} lies to the patient's right of {right.name}: check the orientation of the file"


def _twice(sided: Sequence[_Sided]) -> Iterator[str]:
    for first, second in combinations(sided, 2):
        if first.known and (first.side, first.pair) == (second.side, second.pair):
            gap = max(first.extent[0], second.extent[0]) - min(first.extent[1], second.extent[1])
            if gap > APART_MM:
                yield f"{first.name} was found twice, {gap:.0f} mm apart: one may be the other side's"


__all__ = ["side_doubts"]
