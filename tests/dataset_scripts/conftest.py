# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""One small built set for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset_scripts.build import build
from dataset_scripts.recipe import load_recipes

from .raw_data import write_polyps, write_recipes, write_volumes


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Endoscopy frames and CT volumes as a data set. Not to be changed: copy it first."""
    raw = tmp_path_factory.mktemp("raw")
    write_polyps(raw)
    write_volumes(raw)
    recipes = [recipe for path in write_recipes(raw) for recipe in load_recipes(path)]
    build(recipes, raw, raw / "set", echo=lambda text: None)
    return raw / "set"
