# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Check that structures named left lie to the patient's left of those named right.

The x axis of LPS grows to the left. Contradictions reveal flipped files and wrong headers. One box alone proves
nothing: a volume need not be centered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Protocol

from ..errors import one_line
from ..taxonomy import load_taxonomy


# Categories whose sides name a function, not the side of the body.
CHAMBERS = ("chest_heart", "chest_myocardium")
# Two boxes of a single structure that are further apart than this from side to side (mm) are of both sides.
MAX_GAP_MM = 20.0
MAX_WARNINGS = 3


class LocatedBox(Protocol):
    """A box in space, such as [`~modeling_medglip.outputs.volume_results.VolumeBox`]."""

    @property
    def label(self) -> str:
        """What the box was asked as."""

    @property
    def corners_lps_mm(self) -> Sequence[tuple[float, float, float]]:
        """The 8 corners in LPS mm."""

    @property
    def center_lps_mm(self) -> tuple[float, float, float]:
        """The center in LPS mm."""


@dataclass(frozen=True)
class _SidedBox:
    """A box of the left or the right structure of a pair.

    Args:
        box ([`LocatedBox`]): the box.
        side (`str`): `"left"` or `"right"`.
        pair (`str`): the same for both sides.
        paired (`bool`): the taxonomy knows the label, and there is one on each side.
    """

    box: LocatedBox
    side: str
    pair: str
    paired: bool

    @property
    def extent(self) -> tuple[float, float]:
        """Least and largest x in mm."""
        across = [corner[0] for corner in self.box.corners_lps_mm]
        return min(across), max(across)

    @property
    def name(self) -> str:
        return one_line(self.box.label, 60)


def laterality_warnings(boxes: Sequence[LocatedBox]) -> tuple[str, ...]:
    """Return a warning for every pair of labels whose boxes contradict the patient's axes, three at most.

    A contradiction is a left structure to the right of its counterpart, a left structure wholly to the right of
    another right one, or one structure on both sides.

    Args:
        boxes (`Sequence[LocatedBox]`): of one volume.
    """
    sided = [entry for box in boxes if (entry := _sided(box)) is not None]
    warnings = tuple(dict.fromkeys([*_swapped(sided), *_on_both_sides(sided)]))
    hidden = len(warnings) - MAX_WARNINGS
    more = (f"{hidden} more labels contradict the patient's sides",) if hidden > 0 else ()
    return warnings[:MAX_WARNINGS] + more


def _sided(box: LocatedBox) -> _SidedBox | None:
    label = load_taxonomy().resolve(box.label)
    if label is not None:
        if label.laterality not in ("left", "right") or label.category in CHAMBERS:
            return None
        pair = label.id.replace(label.laterality, "").strip("_")
        return _SidedBox(box, label.laterality, pair, label.granularity != "lesion")
    words = box.label.lower().split()
    laterality = [word for word in words if word in ("left", "right")]
    if len(laterality) != 1:
        return None
    return _SidedBox(box, laterality[0], " ".join(word for word in words if word != laterality[0]), False)


def _swapped(sided: Sequence[_SidedBox]) -> Iterator[str]:
    """Compare the centers of left and right of one pair, and the extents of other structures."""
    for left, right in product(sided, sided):
        if (left.side, right.side) != ("left", "right"):
            continue
        same = left.pair == right.pair and left.box.center_lps_mm[0] <= right.box.center_lps_mm[0]
        other = left.paired and right.paired and left.extent[1] < right.extent[0]
        if same or other:
            yield f"{left.name} lies to the patient's right of {right.name}: check the orientation of the file"


def _on_both_sides(sided: Sequence[_SidedBox]) -> Iterator[str]:
    for first, second in combinations(sided, 2):
        if first.paired and (first.side, first.pair) == (second.side, second.pair):
            gap = max(first.extent[0], second.extent[0]) - min(first.extent[1], second.extent[1])
            if gap > MAX_GAP_MM:
                yield f"{first.name} was found twice, {gap:.0f} mm apart: one may be the other side's"


__all__ = ["laterality_warnings"]
