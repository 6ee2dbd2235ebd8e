"""The command that trains one expert: where it starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from training.recipe import load_recipe
from training.train import starting_model


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("expert")
    config = load_recipe().config("ct")
    config.head_config.anchor_sizes = [10, 20, 40, 80, 160]
    MedGlipForObjectDetection(config).save_pretrained(folder)
    return folder


def test_training_goes_on_from_an_expert_with_the_recipe_s_anchors(expert: Path) -> None:
    saved = MedGlipForObjectDetection.from_pretrained(expert).state_dict()
    started = starting_model(load_recipe(), "ct", expert)
    assert all(torch.equal(tensor, started.state_dict()[name]) for name, tensor in saved.items())
    assert started.config.head_config.anchor_sizes == load_recipe().config("ct").head_config.anchor_sizes


def test_an_expert_of_another_modality_is_refused(expert: Path) -> None:
    with pytest.raises(ValueError, match="an expert for ct, not for mri"):
        starting_model(load_recipe(), "mri", expert)


def test_an_expert_of_another_size_is_refused(expert: Path) -> None:
    recipe = load_recipe()
    recipe.model["head_config"]["channels"] = 48
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        starting_model(recipe, "ct", expert)
