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
    """What the data set states about one label of a source.

    Attributes:
        source_label (`str`): Name that the source uses.
        label_id (`str`, *optional*): Id in the taxonomy (extensions included), `None` for an open label.
        name (`str`): The phrase to ask for: the name in the taxonomy, or the name of an open label.
        category (`str`, *optional*): Id of the category, `None` where open.
        region (`str`, *optional*): Id of the region, `None` where open.
        granularity (`str`): `"organ"`, `"substructure"`, `"lesion"` or `"other"`.
        side (`str`, *optional*): `"left"` or `"right"` of the patient.
        extension (`bool`): Whether it is outside the 198 labels.
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
    """Map a label of a source as the recipe says.

    Args:
        recipe ([`Recipe`]): The recipe of the source.
        name (`str`): Name that the source uses.

    Raises:
        `Rejected`: `undefined_label` for a name that the recipe does not have, `excluded_label` for an excluded one.
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
    """Return the names of all labels that the source annotates: only these can be absent."""
    return sorted({map_label(recipe, name).name for name, target in recipe.labels.items() if target != EXCLUDE})


def is_instance_label(recipe: Recipe, label: MappedLabel) -> bool:
    """Return whether each connected component gets a separate box: as the recipe says, otherwise for lesions.

    Args:
        recipe ([`Recipe`]): The recipe of the source.
        label ([`MappedLabel`]): One of its labels.
    """
    if recipe.instances is not None:
        return label.source_label in recipe.instances
    return label.granularity == "lesion"


__all__ = ["MappedLabel", "annotated_labels", "is_instance_label", "map_label"]
