# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Map the labels of a source to the taxonomy. Labels outside the taxonomy stay open-vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

from modeling_medglip.taxonomy import load_taxonomy
from modeling_medglip.taxonomy.phrases import side_of

from .recipe import EXCLUDE, OPEN, Recipe
from .records import Rejected


@dataclass(frozen=True)
class MappedLabel:
    """What the data set says about one of a source's labels.

    Attributes:
        source_label: the source's own name.
        label_id: id in the taxonomy (extensions included), `None` for an open label.
        name: the phrase to ask for: the taxonomy's name, else the own one.
        category, region: ids, `None` where open.
        granularity: `"organ"`, `"substructure"`, `"lesion"` or `"other"`.
        side: `"left"`, `"right"` or `None`: the patient's.
        extension: outside the 198.
    """

    source_label: str
    label_id: str | None
    name: str
    category: str | None
    region: str | None
    granularity: str
    side: str | None
    extension: bool


def map_label(recipe: Recipe, name: str) -> MappedLabel:
    """One of a source's labels as the recipe maps it.

    Raises:
        `Rejected`: `undefined_label` for a name the recipe does not have, `excluded_label` for one it leaves out.
    """
    target = recipe.labels.get(name)
    if target is None:
        raise Rejected("undefined_label", name[:60])
    if target == EXCLUDE:
        raise Rejected("excluded_label", name[:60])
    if target == OPEN:
        words = " ".join(name.lower().replace("_", " ").split())
        return MappedLabel(name, None, words, None, None, "other", side_of(name), True)
    label = load_taxonomy().label(target)
    return MappedLabel(
        name, label.id, label.name, label.category, label.region, label.granularity, label.laterality, label.extension
    )


def annotated_labels(recipe: Recipe) -> list[str]:
    """The names (as in `MappedLabel.name`) of all labels that the source annotates: only these can be absent."""
    return sorted({map_label(recipe, name).name for name, target in recipe.labels.items() if target != EXCLUDE})


def is_instance_label(recipe: Recipe, label: MappedLabel) -> bool:
    """Whether each connected component gets a box of its own: as the recipe says, else lesions."""
    if recipe.instances is not None:
        return label.source_label in recipe.instances
    return label.granularity == "lesion"


__all__ = ["MappedLabel", "annotated_labels", "is_instance_label", "map_label"]
