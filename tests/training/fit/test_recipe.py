"""Recipes: what the YAML says is what is built."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from torch import nn

from modeling_medglip.configuration_medglip import MODALITIES
from training.fit.recipe import EMBEDDED_RECIPE, load_recipe
from training.fit.run_identity import run_identity
from training.old_names import RENAMED


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


def test_a_recipe_can_name_image_encoders_of_its_own(tmp_path: Path) -> None:
    """One file per modality; the configuration of the expert does not know of it."""
    document = yaml.safe_load(EMBEDDED_RECIPE.read_text(encoding="utf-8"))
    document["model"] |= {"image_encoder": "runs/image_encoders"}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    recipe = load_recipe(path)
    assert recipe.image_encoder("CT") == Path("runs/image_encoders/ct.safetensors")
    assert load_recipe().image_encoder("ct") is None
    assert recipe.config("ct").to_dict() == load_recipe().config("ct").to_dict()


def test_all_experts_can_be_joined() -> None:
    """Same language encoder and width, so that one checkpoint can hold them."""
    recipe = load_recipe()
    configs = [recipe.config(name) for name in MODALITIES]
    assert len({config.head_config.channels for config in configs}) == 1
    assert len({str(config.text_config.to_dict()) for config in configs}) == 1


@pytest.mark.parametrize("damage", ["optimization", "experts"])
def test_an_incomplete_recipe_is_refused(tmp_path: Path, damage: str) -> None:
    document = yaml.safe_load(EMBEDDED_RECIPE.read_text(encoding="utf-8"))
    del document[damage]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ValueError, match="recipe.yaml: not a training recipe"):
        load_recipe(path)


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    document = yaml.safe_load(EMBEDDED_RECIPE.read_text(encoding="utf-8"))
    document["experts"]["ct"]["color"] = "green"
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ValueError, match="color"):
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


def test_old_names_are_read_with_a_warning(tmp_path: Path) -> None:
    document = yaml.safe_load(EMBEDDED_RECIPE.read_text(encoding="utf-8"))
    section = document["optimisation"] = document.pop("optimization")
    for old, new in (("head_rate", "head_learning_rate"), ("min_rate", "min_learning_rate_ratio")):
        section[old] = section.pop(new)
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.warns(FutureWarning) as warned:
        assert load_recipe(path) == load_recipe()
    messages = {str(warning.message).partition(";")[0] for warning in warned}
    assert messages >= {
        "own.yaml: head_rate is now head_learning_rate", "own.yaml: optimisation is now optimization",
    }  # fmt: skip


def test_runs_of_before_the_new_names_keep_their_identity() -> None:
    """They go on from their checkpoints only then."""
    settings = {"recipe": asdict(load_recipe("full")), "distillation": True}
    old_names = {new: old for old, new in RENAMED.items()}
    earlier = dict(settings["recipe"])
    section = earlier.pop("optimization")
    earlier["optimisation"] = {old_names.get(name, name): value for name, value in section.items()}
    assert "head_rate" in earlier["optimisation"] and "head_learning_rate" not in earlier["optimisation"]
    identity = run_identity({"recipe": earlier, "remember": True}, [], nn.Module())
    assert run_identity(settings, [], nn.Module()) == identity
    assert (
        run_identity({"recipe": {}, "remember": True}, [], nn.Module())
        == hashlib.sha256(b'{"recipe": {}, "remember": true}').hexdigest()
    )


def test_new_experts_can_be_trained_like_those_of_another_recipe() -> None:
    embedded, foreign = load_recipe("embedded"), load_recipe("foreign")
    recipe = embedded.trained_like(foreign)
    assert (recipe.prompts, recipe.augmentation) == (
        foreign.prompts,
        foreign.augmentation,
    ) and recipe.prompts.unlearned
    assert recipe.negative_images == foreign.negative_images and recipe.head == {}
    head = recipe.config("ct").head_config
    assert {name: getattr(head, name) for name in foreign.head} == foreign.head
    assert head.channels == embedded.config("ct").head_config.channels
    assert (recipe.optimization, recipe.experts) == (embedded.optimization, embedded.experts)
    assert load_recipe("full").trained_like(foreign).head == foreign.head
