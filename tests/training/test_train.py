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
    MedGlipForObjectDetection(load_recipe().config("ct")).save_pretrained(folder)
    return folder


def test_training_goes_on_from_an_expert(expert: Path) -> None:
    saved = MedGlipForObjectDetection.from_pretrained(expert).state_dict()
    started = starting_model(load_recipe(), "ct", expert).state_dict()
    assert all(torch.equal(tensor, started[name]) for name, tensor in saved.items())


@pytest.mark.parametrize("modality", ["mri", "endoscopy"])
def test_an_expert_of_another_kind_is_refused(expert: Path, modality: str) -> None:
    with pytest.raises(ValueError, match=f"not a {modality} expert"):
        starting_model(load_recipe(), modality, expert)
