"""Recipes: what the YAML says is what is built."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from modeling_medglip.configuration_medglip import MODALITIES
from training.fit.recipe import EMBEDDED_RECIPE, load_recipe


def test_the_embedded_recipe_names_every_modality() -> None:
    recipe = load_recipe()
    assert tuple(recipe.experts) == MODALITIES
    assert set(recipe.modality_settings()) == set(MODALITIES)


def test_anchors_and_sizes_come_from_the_expert() -> None:
    recipe = load_recipe()
    expert = recipe.experts["ct"]
    config = recipe.config("CT")
    assert config.modalities == ["ct"]
    assert config.head_config.anchor_sizes == [stride * expert.anchor_scale for stride in (8, 16, 32, 64, 128)]
    assert recipe.modality_settings()["ct"]["size"] == {"height": expert.size, "width": expert.size}


def test_all_experts_can_be_joined() -> None:
    """Same language encoder and width, so that one checkpoint can hold them."""
    recipe = load_recipe()
    configs = [recipe.config(name) for name in MODALITIES]
    assert len({config.head_config.channels for config in configs}) == 1
    assert len({str(config.text_config.to_dict()) for config in configs}) == 1


@pytest.mark.parametrize("damage", ["optimisation", "experts"])
def test_an_incomplete_recipe_is_refused(tmp_path: Path, damage: str) -> None:
    document = yaml.safe_load(EMBEDDED_RECIPE.read_text(encoding="utf-8"))
    del document[damage]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ValueError, match="recipe.yaml: not a training recipe"):
        load_recipe(path)


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    document = yaml.safe_load(EMBEDDED_RECIPE.read_text(encoding="utf-8"))
    document["experts"]["ct"]["colour"] = "green"
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ValueError, match="colour"):
        load_recipe(path)


def test_a_recipe_may_change_augmentation_and_prompts(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    text = EMBEDDED_RECIPE.read_text(encoding="utf-8")
    path.write_text(
        text + "augmentation: {jpeg_share: 0.5, gamma: [0.9, 1.1]}\nprompts: {foreign: 1}\n", encoding="utf-8"
    )
    recipe = load_recipe(path)
    assert recipe.augmentation.jpeg_share == 0.5 and recipe.augmentation.gamma == (0.9, 1.1)
    assert recipe.prompts.foreign == 1
    path.write_text(text + "augmentation: {sparkle: 1}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="sparkle"):
        load_recipe(path)


def test_a_recipe_is_changed_for_some_modalities_only() -> None:
    recipe = load_recipe()
    changed = recipe.changed(["CT"], epochs=2, size=None)
    assert changed.expert("ct").epochs == 2 and changed.expert("ct").size == recipe.expert("ct").size
    assert changed.expert("mri") == recipe.expert("mri")
