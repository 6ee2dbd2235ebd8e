# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Write `sources.json` of a built set: every source with license, recipe and number of images, for publishing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import yaml

from modeling_medglip.outputs.files import to_json

from .catalog import load_catalog
from .recipe import Recipe
from .statistics import Statistics


SCHEMA = "medglip/sources@1"


def write_provenance(
    out: Path,
    recipes: Sequence[Recipe],
    statistics: Statistics,
    split_hashes: Mapping[str, str],
    content_hash: str,
) -> None:
    """Write `sources.json` into a built set.

    Args:
        out (`Path`): Folder of the set.
        recipes (`Sequence[Recipe]`): The sources.
        statistics ([`Statistics`]): Counts of the set.
        split_hashes (`Mapping[str, str]`): Split -> hash of its patients.
        content_hash (`str`): Short hash of the content.
    """
    content = {
        "schema": SCHEMA,
        "content_hash": content_hash,
        "split_hashes": dict(split_hashes),
        "sources": [source_row(recipe, statistics.images["source", recipe.source]) for recipe in recipes],
    }
    (out / "sources.json").write_text(to_json(content), encoding="utf-8")


def source_row(recipe: Recipe, images: int) -> dict[str, Any]:
    """Return the row of one source: name, stated license, access, whether its labels are confirmed, and its recipe.

    Args:
        recipe ([`Recipe`]): The recipe, which becomes YAML.
        images (`int`): Number of images of the source.
    """
    known = load_catalog().get(recipe.source)
    return {
        "source": recipe.source,
        "modality": recipe.modality,
        "name": str(recipe.card.get("name") or (known.name if known else recipe.source)),
        "family": recipe.family,
        "license": recipe.license,
        "access": known.access if known else None,
        "official_split": bool(recipe.splits) or recipe.layout == "manifest",
        "confirmed": recipe.confirmed,
        "images": images,
        "recipe": yaml.safe_dump(stated_values(recipe), sort_keys=False, allow_unicode=True, width=1000),
    }


def stated_values(recipe: Recipe) -> dict[str, Any]:
    """Return the values of a recipe that differ from the defaults; `load_recipes` reads them again."""
    values = asdict(recipe)
    changed = {}
    for entry in fields(Recipe):
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        if values[entry.name] != default:
            changed[entry.name] = _listed(values[entry.name])
    return changed


def _listed(value: Any) -> Any:
    """Replace tuples by lists, which YAML and JSON have."""
    if isinstance(value, dict):
        return {key: _listed(part) for key, part in value.items()}
    return [_listed(part) for part in value] if isinstance(value, (list, tuple)) else value


__all__ = ["source_row", "stated_values", "write_provenance"]
