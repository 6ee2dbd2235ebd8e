# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What is refused before anything is read or written."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from training.data import validation
from training.data.augmentation import AugmentationRecipe
from training.data.prompts import PromptRecipe
from training.data.validation import check_options, check_recipe
from training.fit.arguments import FinetuneArguments
from training.fit.recipe import EMBEDDED_RECIPE, RECIPES, ExpertRecipe, Optimization, load_recipe


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("epochs", 0.0, "0: choose a number above 0"),
        ("epochs", -1.0, "-1: choose a number above 0"),
        ("epochs", NAN, "nan: choose a number above 0"),
        ("epochs", float("inf"), "inf: choose a number above 0"),
        ("batch", 0, "0: choose a whole number of 1 or more"),
        ("batch", True, "true: choose a whole number of 1 or more"),
        ("batch", 2.0, "2: choose a whole number of 1 or more"),
        ("size", 0, "0: choose a multiple of 32 from 32 to 4096"),
        ("size", 17, "17: choose a multiple of 32 from 32 to 4096"),
        ("size", 100_000, "100000: choose a multiple of 32 from 32 to 4096"),
        ("rank", 0, "0: choose a whole number from 1 to 1024"),
        ("fraction", NAN, "nan: choose a number above 0 and at most 1"),
        ("seed", 2**32, "4294967296: choose a whole number from 0 to 4294967295"),
        ("labels", [], "[]: name at least one label"),
        ("labels", ["liver", " "], "['liver', ' ']: name at least one label"),
        ("keep", "first", "'first': choose best or last"),
    ],
)
def test_an_option_out_of_range(name: str, value: Any, shown: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_options({name: value})
    assert str(caught.value) == f"--{name} {shown}"


def test_what_is_not_given_or_right_passes() -> None:
    check_options({name: None for name in validation.OPTIONS})
    check_options({"epochs": 0.5, "size": 64, "seed": 0, "labels": ["liver"], "replay_share": 0.0, "other": -1})


def test_every_number_has_a_rule() -> None:
    """A new field without a rule would go unchecked."""
    for section, kind in (
        (validation.OPTIMIZATION, Optimization),
        (validation.EXPERT, ExpertRecipe),
        (validation.PROMPTS, PromptRecipe),
        (validation.AUGMENTATION, AugmentationRecipe),
    ):
        assert set(section) == {field.name for field in fields(kind)}  # type: ignore[arg-type]
    settings = get_type_hints(FinetuneArguments)
    numbers = {name for name, kind in settings.items() if {int, float} & {kind, *get_args(kind)}}
    assert numbers and numbers <= set(validation.OPTIONS)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_pass(path: Path) -> None:
    check_recipe(path.name, yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("section", "name", "value", "shown"),
    [
        ("experts", "epochs", 0, "0: choose a number above 0"),
        ("experts", "epochs", "30", "'30': choose a number above 0, written without quotes and with a point: 3.0e+01"),
        ("experts", "epochs", None, "empty: choose a number above 0"),
        ("experts", "batch", True, "true: choose a whole number of 1 or more"),
        ("experts", "size", 17, "17: choose a multiple of 32 from 32 to 4096"),
        ("experts", "anchor_scale", 0, "0: choose a number above 0"),
        ("experts", "checkpointing", "yes", "'yes': choose true or false"),
        ("optimization", "optimizer", "sgd", "'sgd': choose adamw or adam"),
        ("optimization", "ema_decay", 1.0, "1: choose a number from 0 to below 1"),
        ("optimization", "min_learning_rate_ratio", 1.5, "1.5: choose a number from 0 to 1"),
        ("optimization", "head_learning_rate", -1, "-1: choose a number of 0 or more"),
        ("optimization", "gradient_clip", NAN, "nan: choose a number of 0 or more"),
        ("prompts", "replace", 1.1, "1.1: choose a number from 0 to 1"),
        ("prompts", "token_budget", 2, "2: choose a whole number of 3 or more"),
        ("augmentation", "gamma", [1.2, 0.9], "[1.2, 0.9]: give two numbers above 0, the smaller one first"),
        (
            "augmentation",
            "jpeg_quality",
            [0, 80],
            "[0, 80]: give two whole numbers from 1 to 100, the smaller one first",
        ),
    ],
)
def test_a_recipe_out_of_range(section: str, name: str, value: Any, shown: str, tmp_path: Path) -> None:
    document = yaml.safe_load(EMBEDDED_RECIPE.read_text(encoding="utf-8"))
    part = document.setdefault(section, {})
    (part["ct"] if section == "experts" else part)[name] = value
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        load_recipe(path)
    assert str(caught.value) == f"own.yaml: {name} {shown}"


@pytest.mark.parametrize("text", ["", "- 1\n", "optimization: 3\nexperts: []\n", "{"])
def test_no_recipe_at_all(text: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"own\.yaml: not a training recipe"):
        load_recipe(path)


def test_one_broken_image_is_borne_and_more_than_one_in_a_hundred_are_not() -> None:
    validation.stop_if_broken(1, 1, "data")
    validation.stop_if_broken(3, 300, "data")
    with pytest.raises(ValueError, match="^data: 4 of 300 images cannot be read: mend the data$"):
        validation.stop_if_broken(4, 300, "data")
