# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""`sources.json` of a built set: every source with its license, its recipe and what it gave. Publishing goes by it."""

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
    """Write `sources.json` into a built set."""
    content = {
        "schema": SCHEMA,
        "content_hash": content_hash,
        "split_hashes": dict(split_hashes),
        "sources": [source_row(recipe, statistics.images["source", recipe.source]) for recipe in recipes],
    }
    (out / "sources.json").write_text(to_json(content), encoding="utf-8")


def source_row(recipe: Recipe, images: int) -> dict[str, Any]:
    """One source: name, license as it is stated, access, whether its labels are confirmed, and its recipe as YAML."""
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
        "recipe": yaml.safe_dump(stated(recipe), sort_keys=False, allow_unicode=True, width=1000),
    }


def stated(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says, without what is so by default: `load_recipes` reads it again."""
    values = asdict(recipe)
    changed = {}
    for entry in fields(Recipe):
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        if values[entry.name] != default:
            changed[entry.name] = _listed(values[entry.name])
    return changed


def _listed(value: Any) -> Any:
    """Tuples as lists, which YAML and JSON have."""
    if isinstance(value, dict):
        return {key: _listed(part) for key, part in value.items()}
    return [_listed(part) for part in value] if isinstance(value, (list, tuple)) else value


__all__ = ["source_row", "stated", "write_provenance"]
