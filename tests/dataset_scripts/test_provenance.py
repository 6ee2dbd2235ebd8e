# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What a built set says of its sources."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from dataset_scripts.build import build
from dataset_scripts.provenance import source_row, stated_values
from dataset_scripts.recipe import Recipe, load_recipes

from .raw_data import write_polyps, write_recipes, write_volumes


REAL = Path(__file__).parents[2] / "dataset_scripts" / "recipes" / "real_data.yaml"


@pytest.mark.parametrize("recipe", load_recipes(REAL), ids=lambda recipe: recipe.source)
def test_what_is_stated_is_the_recipe(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(stated_values(recipe), allow_unicode=True), encoding="utf-8")
    assert load_recipes(path) == [recipe]


def test_the_catalog_fills_what_a_card_leaves_open() -> None:
    row = source_row(Recipe("acdc", "mri", "volume_labelmap", labels={"a": "open"}), 7)
    assert row["images"] == 7 and row["access"] and row["name"] != "acdc" and not row["confirmed"]
    unknown = source_row(Recipe("clinic_private", "ct", "volume_labelmap"), 0)
    assert (unknown["license"], unknown["access"], unknown["name"]) == (None, None, "clinic_private")


def test_a_built_set_has_a_row_for_every_source(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_volumes(raw), write_polyps(raw)
    recipes = [recipe for path in write_recipes(raw) for recipe in load_recipes(path)]
    build(recipes, raw, tmp_path / "set", echo=lambda text: None)
    content = json.loads((tmp_path / "set" / "sources.json").read_text(encoding="utf-8"))
    assert content["schema"] == "medglip/sources@1" and len(content["content_hash"]) == 16
    images: Counter[str] = Counter()
    for path in (tmp_path / "set").glob("*/*.parquet"):
        if "source" in pq.read_schema(path).names:
            images.update(pq.read_table(path, columns=["source"])["source"].to_pylist())
    assert {row["source"]: row["images"] for row in content["sources"]} == images
