"""Training of one expert: groups of parameters, frozen parts, averaged weights, going on after an interruption."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, TimmBackboneConfig, TrainerCallback

from modeling_medglip.configuration_medglip import MedGlipConfig
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from training.ema import EmaCallback
from training.recipe import ExpertRecipe, load_recipe
from training.trainer import freeze, parameter_groups, train_expert


RECIPE = ExpertRecipe(size=64, anchor_scale=4, batch=2, epochs=2)
OPTIMISATION = dataclasses.replace(load_recipe().optimisation, warmup_steps=1, frozen_stages=1)


class Squares(torch.utils.data.Dataset):
    """Eight pictures with one bright square; the place depends on the epoch."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = 4 * index + 8 * self.epoch
        image = torch.zeros(3, 64, 64)
        image[:, 16:40, place : place + 16] = 1.0
        box = torch.tensor([[place, 16.0, place + 15, 39.0]])
        return {"pixel_values": image, "labels": {"boxes": box, "class_labels": torch.tensor([0])}}


def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    ids = torch.tensor([[5, 1, 6, 1]])
    tokens = torch.tensor([[[True, False, False, False], [False, False, True, False]]])
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
        "input_ids": ids.repeat(len(examples), 1),
        "attention_mask": torch.ones(len(examples), 4, dtype=torch.long),
        "label_tokens": tokens.repeat(len(examples), 1, 1),
        "labels": [example["labels"] for example in examples],
        "modality": ["ct"] * len(examples),
    }


def tiny_model() -> MedGlipForObjectDetection:
    torch.manual_seed(0)
    text = BertConfig(
        vocab_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    head = {
        "channels": 16, "num_blocks": 1, "fusion_dim": 16, "fusion_heads": 2, "groups": 4, "text_heads": 2,
        "text_intermediate": 16, "conv_type": "plain", "anchor_sizes": [16, 32, 64, 128, 256], "drop_block": 0.0,
    }  # fmt: skip
    backbone = TimmBackboneConfig(backbone="efficientnet_lite0", out_indices=[2, 3, 4])
    config = MedGlipConfig(
        text_config=text, backbone_config=backbone, head_config=head, modalities=["ct"], separator_token_ids=[1]
    )
    return MedGlipForObjectDetection(config)


@pytest.fixture
def model() -> MedGlipForObjectDetection:
    return tiny_model()


def test_language_and_first_stages_are_frozen(model: MedGlipForObjectDetection) -> None:
    freeze(model, 1)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not [name for name in trained if "text_model" in name]
    backbone = {name.split("_backbone.")[1] for name in trained if "_backbone." in name}
    assert not [name for name in backbone if name.startswith(("conv_stem", "bn1", "blocks.0."))]
    assert [name for name in backbone if name.startswith("blocks.1.")]


def test_groups_hold_every_trained_parameter_once(model: MedGlipForObjectDetection) -> None:
    freeze(model, 1)
    groups = parameter_groups(model, OPTIMISATION)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert {group["lr"] for group in groups} == {OPTIMISATION.head_rate, OPTIMISATION.backbone_rate}
    for group in groups:
        expected = OPTIMISATION.weight_decay if group["weight_decay"] else 0.0
        assert group["weight_decay"] == expected
        assert all((parameter.dim() > 1) == bool(group["weight_decay"]) for parameter in group["params"])


def test_average_follows_the_weights(model: MedGlipForObjectDetection) -> None:
    ema = EmaCallback(model, decay=0.5)
    name, parameter = next((n, p) for n, p in model.named_parameters() if "pyramid.p6.weight" in n)
    before = parameter.detach().clone()
    with torch.no_grad():
        parameter.add_(1.0)
    state = type("State", (), {"global_step": 100})()
    ema.on_step_end(None, state, None)
    assert torch.allclose(ema.average[name], before + 0.5)
    with ema.applied():
        assert torch.allclose(parameter, before + 0.5)
    assert torch.allclose(parameter, before + 1.0)


class Stop(TrainerCallback):
    """Interrupts the training after its first epoch."""

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save, control.should_training_stop = True, True


def averaged(ema: EmaCallback) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in ema.average.items()}


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = averaged(train_expert(tiny_model(), Squares(), collate, RECIPE, OPTIMISATION, tmp_path / "whole"))
    train_expert(tiny_model(), Squares(), collate, RECIPE, OPTIMISATION, tmp_path / "cut", callbacks=(Stop(),))
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-4"]
    resumed = averaged(train_expert(tiny_model(), Squares(), collate, RECIPE, OPTIMISATION, tmp_path / "cut"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
