# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The fast form of a model: the same outputs, shared parameters, and the model itself as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TimmBackboneConfig, pipeline

from modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.grounding import load_grounder
from modeling_medglip.inference import fast_form, fold_batch_norms

from .tiny_checkpoint import save_tiny_checkpoint, tiny_config


def tiny_model(backbone: str) -> MedGlipForObjectDetection:
    """Random weights, and statistics of batch norms as after training."""
    torch.manual_seed(0)
    config = tiny_config(("ct",))
    config.backbone_config = TimmBackboneConfig(
        backbone=backbone, use_pretrained_backbone=False, out_indices=[2, 3, 4] if "vit" not in backbone else [1, 2, 3]
    )
    model = MedGlipForObjectDetection(config).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_var, module.weight):
                nn.init.uniform_(values, 0.5, 2.0)
            for values in (module.running_mean, module.bias):
                nn.init.uniform_(values, -0.5, 0.5)
    return model


def inputs() -> dict[str, Any]:
    tokens = torch.tensor([[2, 20, 21, 5, 22, 3]])
    pixels = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return {"pixel_values": pixels, "input_ids": tokens, "attention_mask": torch.ones_like(tokens), "modality": "ct"}


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "test_resnet", "tiny_vit_5m_224"])
def test_outputs_are_the_same(backbone: str) -> None:
    model = tiny_model(backbone)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = fast_form(model)
    folded = [module for module in fast.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(folded) < sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) / 4
    with torch.inference_mode():
        ours, theirs = model(**inputs()), fast(**inputs())
    for name in ("logits", "pred_boxes", "centerness"):
        torch.testing.assert_close(ours[name], theirs[name], atol=2e-3, rtol=1e-4)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


def test_parameters_are_shared_where_nothing_changes() -> None:
    model = tiny_model("efficientnet_lite0")
    ours, theirs = dict(model.named_parameters()), dict(fast_form(model).named_parameters())
    shared = [name for name in theirs if name in ours and theirs[name] is ours[name]]
    assert any("text_model" in name for name in shared)
    assert all("backbone" in name or ours[name].dim() == 4 for name in ours if name not in shared)


def test_a_norm_that_does_not_follow_its_convolution_stays() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8)
    ).eval()
    nn.init.uniform_(network[4].running_mean)
    image = torch.rand(1, 3, 5, 5)
    with torch.no_grad():
        before = network(image)
        fold_batch_norms(network)
        torch.testing.assert_close(network(image), before)
    assert [type(module).__name__ for module in network] == ["Conv2d", "ReLU", "BatchNorm2d", "Conv2d", "Identity"]


def test_grounding_uses_it_and_saving_does_not(tmp_path: Path) -> None:
    grounder = load_grounder(save_tiny_checkpoint(tmp_path / "tiny"), "cpu")
    assert grounder.fast is grounder.fast and grounder.fast is not grounder.model
    assert all(value.requires_grad for value in grounder.model.parameters())


def test_a_pipeline_follows_the_model_that_is_set(tmp_path: Path) -> None:
    pipe = pipeline("medical-phrase-grounding", model=str(save_tiny_checkpoint(tmp_path / "tiny")), device="cpu")
    first = pipe.fast
    assert first is pipe.fast and first is not pipe.model
    compiled = torch.compile(pipe.model, backend="eager")
    pipe.model = compiled
    assert pipe.fast is compiled


def test_it_can_be_the_first_module_that_is_imported() -> None:
    subprocess.run([sys.executable, "-c", "from modeling_medglip.inference import keep_freed_memory"], check=True)
