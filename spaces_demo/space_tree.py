# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Show the taxonomy as a tree of buttons: region, category, label. Trained labels are highlighted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modeling_medglip.taxonomy import Label, load_taxonomy
from space_experts import NAMES
from space_html import text


UNPLACED = "other"


@dataclass(frozen=True)
class Leaf:
    """A label of the tree.

    Attributes:
        name (`str`): the text for the prompt.
        label_id (`str`, *optional*): `None` for a trained label outside the taxonomy.
        region (`str`): name of the region.
        category (`str`): name of the category.
        kind (`str`): granularity.
        trained (`tuple[str, ...]`): modalities whose expert was trained with it.
    """

    name: str
    label_id: str | None
    region: str
    category: str
    kind: str
    trained: tuple[str, ...]


def leaves(trained: Mapping[str, Sequence[str]]) -> list[Leaf]:
    """Return all labels of the taxonomy in its order, its extensions, then trained labels outside the taxonomy.

    Args:
        trained (`Mapping[str, Sequence[str]]`): modality -> labels.
    """
    taxonomy = load_taxonomy()
    wording: dict[str, dict[str, list[str]]] = {}
    outside: dict[str, list[str]] = {}
    for modality, names in trained.items():
        for name in names:
            label = taxonomy.resolve(name, modality)
            known = outside if label is None else wording.setdefault(label.id, {})
            known.setdefault(name, []).append(modality)
    placed = [
        leaf
        for category in taxonomy.categories.values()
        for label in taxonomy.in_category(category.id)
        for leaf in _leaf(label, taxonomy.regions[category.region].name, category.name, wording.get(label.id, {}))
    ]
    for label in taxonomy.extensions.values():
        if label.category is None:
            placed += _leaf(label, UNPLACED, "extensions", wording.get(label.id, {}))
    placed += [
        Leaf(name, None, UNPLACED, "trained, outside the taxonomy", "other", tuple(modalities))
        for name, modalities in outside.items()
    ]
    return placed


def _leaf(label: Label, region: str, category: str, wording: Mapping[str, Sequence[str]]) -> list[Leaf]:
    """Return the label in the words that it was trained in, which ground best; usually its name."""
    if not wording:
        return [Leaf(label.name, label.id, region, category, label.granularity, ())]
    return [
        Leaf(name, label.id, region, category, label.granularity, tuple(modalities))
        for name, modalities in wording.items()
    ]


def tree(trained: Mapping[str, Sequence[str]]) -> str:
    """Return the tree as HTML; the page's script writes a clicked label into the prompt.

    Args:
        trained (`Mapping[str, Sequence[str]]`): modality -> labels.
    """
    all_leaves = leaves(trained)
    regions: dict[str, dict[str, list[Leaf]]] = {}
    for leaf in all_leaves:
        regions.setdefault(leaf.region, {}).setdefault(leaf.category, []).append(leaf)
    body = "".join(_region(name, categories) for name, categories in regions.items())
    buttons = "".join(
        f'<button type="button" class="mg-all" data-labels="{text(". ".join(names) + ".", 20_000)}">'
        f"{text(NAMES.get(modality, modality))} <small>{len(names)}</small></button>"
        for modality, names in trained.items()
    )
    return (
        '<div class="mg-tree"><input class="mg-search" type="search" placeholder="Search labels" '
        f'aria-label="Search labels"><div class="mg-all-row"><span>All trained labels of</span>{buttons}</div>'
        f'<p class="mg-key"><i class="mg-dot"></i> trained <i class="mg-dot mg-open"></i> not trained: '
        f"expect little</p>{body}</div>"
    )


def _region(name: str, categories: Mapping[str, Sequence[Leaf]]) -> str:
    body = "".join(_category(category, members) for category, members in categories.items())
    known = sum(bool(leaf.trained) for members in categories.values() for leaf in members)
    total = sum(len(members) for members in categories.values())
    return f"<details><summary>{text(name)} <small>{known} of {total} trained</small></summary>{body}</details>"


def _category(name: str, members: Sequence[Leaf]) -> str:
    buttons = "".join(_button(leaf) for leaf in sorted(members, key=lambda leaf: not leaf.trained))
    return f'<section><h5>{text(name)}</h5><div class="mg-picks">{buttons}</div></section>'


def _button(leaf: Leaf) -> str:
    experts = ", ".join(NAMES.get(name, name) for name in leaf.trained)
    title = f"trained: {experts}" if experts else "not among the trained labels"
    return (
        f'<button type="button" class="mg-pick mg-{text(leaf.kind)}" aria-pressed="false" '
        f'data-label="{text(leaf.name)}" data-trained="{text(" ".join(leaf.trained))}" title="{text(title)}">'
        f'<i class="mg-dot{"" if leaf.trained else " mg-open"}"></i>{text(leaf.name)}</button>'
    )
