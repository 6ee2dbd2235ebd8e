# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Order boxes for display: by region and category, lesions below the organ that they lie in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modeling_medglip.boxes import share_inside
from modeling_medglip.outputs.overlay import label_colors
from modeling_medglip.outputs.results import GroundedBox
from modeling_medglip.outputs.volume_results import VolumeBox
from modeling_medglip.taxonomy import load_taxonomy


# Warm colors are for lesions only.
LESION_COLORS = ("#FF6B4A", "#FF7AC6", "#FFB000")
ORGAN_COLORS = ("#56B4E9", "#F0E442", "#2FC69A", "#B9A3FF", "#FFFFFF", "#8CE0E8", "#C6E377", "#9BB8FF")
OUTSIDE = "outside the taxonomy"
# A lesion lies in an organ if so much of its box does.
SHARE = 0.5
# Boxes that a page shows at most.
MOST = 300


@dataclass(frozen=True)
class Row:
    """A box for display.

    Attributes:
        number (`int`): position of the box by score, from 0.
        box ([`GroundedBox`] or [`VolumeBox`]): the box.
        kind (`str`): `"organ"`, `"substructure"`, `"lesion"`, `"other"`, or `"phrase"` outside the taxonomy.
        region (`str`): name of the region.
        category (`str`): name of the category, empty outside the taxonomy.
        color (`str`): hexadecimal, such as `"#56B4E9"`.
        inside (`str`, *optional*): label of the organ whose box contains a lesion's box.
    """

    number: int
    box: GroundedBox | VolumeBox
    kind: str
    region: str
    category: str
    color: str
    inside: str | None = None


def rows_of(boxes: Sequence[GroundedBox | VolumeBox], labels: Sequence[str]) -> list[Row]:
    """Return the `MOST` best boxes, grouped; regions and categories by their best score.

    Args:
        boxes (`Sequence`): of an image or a volume.
        labels (`Sequence[str]`): all labels of the prompt, whose positions decide the colors.
    """
    shown = sorted(boxes, key=lambda box: -box.score)[:MOST]
    colors = colors_of(labels, shown)
    rows = [_row(number, box, colors[box.label], shown) for number, box in enumerate(shown)]
    regions = list(dict.fromkeys(row.region for row in rows))
    categories = list(dict.fromkeys((row.region, row.category) for row in rows))
    rows.sort(key=lambda row: (regions.index(row.region), categories.index((row.region, row.category)), row.number))
    return _nested(rows)


def kind_of(label_id: str | None) -> str:
    """Return the granularity of a label, `"phrase"` for `None`."""
    return load_taxonomy().label(label_id).granularity if label_id else "phrase"


def colors_of(labels: Sequence[str], boxes: Sequence[GroundedBox | VolumeBox] = ()) -> dict[str, str]:
    """Return label -> color; lesions and other labels have separate palettes.

    Args:
        labels (`Sequence[str]`): in the order that decides their colors.
        boxes (`Sequence`, *optional*): tell which labels are lesions.
    """
    kinds = {box.label: kind_of(box.label_id) for box in boxes}
    names = list(label_colors([*labels, *kinds]))
    lesions = [name for name in names if kinds.get(name) == "lesion"]
    others = [name for name in names if name not in lesions]
    return {name: ORGAN_COLORS[position % len(ORGAN_COLORS)] for position, name in enumerate(others)} | {
        name: LESION_COLORS[position % len(LESION_COLORS)] for position, name in enumerate(lesions)
    }


def _row(number: int, box: GroundedBox | VolumeBox, color: str, others: Sequence[GroundedBox | VolumeBox]) -> Row:
    taxonomy = load_taxonomy()
    region = taxonomy.regions[box.region].name if box.region else OUTSIDE
    category = taxonomy.categories[box.category].name if box.category else ""
    kind = kind_of(box.label_id)
    return Row(number, box, kind, region, category, color, _organ(box, others) if kind == "lesion" else None)


def _organ(lesion: GroundedBox | VolumeBox, others: Sequence[GroundedBox | VolumeBox]) -> str | None:
    """Return the label of the organ that the lesion belongs to and whose box it lies in most, if there is one."""
    taxonomy = load_taxonomy()
    above = {label.id for label in taxonomy.ancestors(lesion.label_id)} if lesion.label_id else set[str]()
    best, most = None, SHARE
    for other in others:
        if other.label_id is None or kind_of(other.label_id) == "lesion":
            continue
        related = other.label_id in above or other.category == lesion.category
        related |= any(label.id in above for label in taxonomy.ancestors(other.label_id))
        share = share_inside(_edges(lesion), _edges(other))
        if related and share >= most:
            best, most = other.label, share
    return best


def _edges(box: GroundedBox | VolumeBox) -> tuple[float, ...]:
    return box.box_ijk if isinstance(box, VolumeBox) else box.xyxy


def _nested(rows: list[Row]) -> list[Row]:
    """Move lesions directly after the best box of their organ, into the organ's group."""
    placed = [row for row in rows if row.inside is None]
    for row in (row for row in rows if row.inside is not None):
        index = next(index for index, other in enumerate(placed) if other.box.label == row.inside)
        organ = placed[index]
        while index + 1 < len(placed) and placed[index + 1].inside == row.inside:
            index += 1
        moved = Row(row.number, row.box, row.kind, organ.region, organ.category, row.color, row.inside)
        placed.insert(index + 1, moved)
    return placed
