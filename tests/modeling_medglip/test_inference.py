# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The fast form of a model: the same outputs, shared parameters, and the model itself as it was."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoBackbone, SwinConfig, TimmBackboneConfig, pipeline

from modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.grounding import ground_image, load_grounder
from modeling_medglip.inference import KEPT_SIZES, KeptPositions, SampledDeformConv, fast_form, fold_batch_norms
from modeling_medglip.inference_swin import swin_maps
from modeling_medglip.modeling_medglip import MedGlipSinePositionEmbedding
from modeling_medglip.questions import make_question

from .tiny_checkpoint import save_tiny_checkpoint, tiny_config
from .tiny_model import tiny_model as deformable_model


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


@pytest.mark.parametrize("size", [(96, 64), (37, 250), (20, 20)])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_swin_gives_the_same_maps(size: tuple[int, int], qkv_bias: bool) -> None:
    torch.manual_seed(0)
    config = SwinConfig(
        embed_dim=12, depths=[2, 2, 2], num_heads=[1, 2, 4], window_size=3, out_indices=[1, 3], qkv_bias=qkv_bias
    )
    backbone = AutoBackbone.from_config(config).eval()
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.3)
    fast = swin_maps(backbone)
    with torch.no_grad():
        image = torch.randn(3, 3, *size)
        ours, theirs = backbone(image).feature_maps, fast(image).feature_maps
    assert len(ours) == len(theirs) == 2
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_an_encoder_that_gives_its_stem_stays() -> None:
    config = SwinConfig(embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=3, out_indices=[0, 1, 2])
    backbone = AutoBackbone.from_config(config)
    assert swin_maps(backbone) is backbone


def test_deformable_towers_are_the_same() -> None:
    model = deformable_model().eval()
    fast = fast_form(model)
    assert any(isinstance(module, SampledDeformConv) for module in fast.modules())
    with torch.inference_mode():
        batch = {**inputs(), "input_ids": torch.tensor([[3, 4, 5, 6]]), "attention_mask": torch.ones(1, 4).long()}
        ours, theirs = model(**batch), fast(**batch)
    for name in ("logits", "box_deltas", "centerness", "pred_boxes"):
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=1e-4)


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


def test_grounding_uses_it_and_saving_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grounder = load_grounder(save_tiny_checkpoint(tmp_path / "tiny"), "cpu")
    assert grounder.fast is grounder.fast and grounder.fast is not grounder.model
    assert all(value.requires_grad for value in grounder.model.parameters())
    monkeypatch.setattr(grounder.model, "forward", None)
    assert ground_image(np.eye(40), "liver", "ct", model=grounder, threshold=0.0).boxes
    grounder.model.save_pretrained(tmp_path / "saved")
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as saved:
        assert set(saved.keys()) == set(grounder.model.state_dict())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_stay_as_they_are(dtype: torch.dtype) -> None:
    model = tiny_model("efficientnet_lite0").to(dtype)
    assert fast_form(model) is model


def test_a_copy_of_a_used_grounder_has_its_own_prompts(tmp_path: Path) -> None:
    grounder = load_grounder(save_tiny_checkpoint(tmp_path / "tiny"), "cpu")
    image = np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)
    expected = ground_image(image, "liver", "ct", model=grounder, threshold=0.0).to_dict()
    other = copy.deepcopy(grounder)
    assert other._encoded is not grounder._encoded and other.fast is not grounder.fast
    assert ground_image(image, "liver", "ct", model=other, threshold=0.0).to_dict() == expected


def test_kept_prompts_cannot_be_changed_from_outside(tmp_path: Path) -> None:
    grounder = load_grounder(save_tiny_checkpoint(tmp_path / "tiny"), "cpu")
    question = make_question(grounder.trained, ["liver"], "ct")
    first = grounder.encode(question)
    kept = first.pop("text_features")
    assert grounder.encode(question)["text_features"] is kept


def test_positions_are_kept_for_a_few_sizes_only() -> None:
    fast = fast_form(tiny_model("efficientnet_lite0"))
    kept = next((module for module in fast.modules() if isinstance(module, KeptPositions)), None)
    if kept is None:
        kept = KeptPositions(MedGlipSinePositionEmbedding(8))
    for size in range(1, KEPT_SIZES + 3):
        level = torch.zeros(1, 8, size, 2)
        assert torch.equal(kept([level])[0], kept.positions([level])[0])
    assert 0 < len(kept.codes) <= KEPT_SIZES


def test_padded_tokens_count_for_nothing_either_way() -> None:
    """The attention of both ways from one matrix of scores equals the attention interface's, with padding."""
    model = tiny_model("efficientnet_lite0")
    attention = model.model.experts["ct"].blocks[0].fusion.attention
    visual, text = torch.randn(2, 30, 16), torch.randn(2, 6, attention.l_proj.in_features)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    outputs = []
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            outputs.append(attention(visual, text, mask))
    for ours, theirs in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_compiling_is_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    checkpoint = save_tiny_checkpoint(tmp_path / "tiny")
    plain = load_grounder(checkpoint, "cpu").fast
    assert not compiled and type(plain) is MedGlipForObjectDetection
    grounder = load_grounder(checkpoint, "cpu", compile=True)
    assert not compiled and grounder.fast is compiled[0] and len(compiled) == 1


def test_a_pipeline_follows_the_model_that_is_set(tmp_path: Path) -> None:
    pipe = pipeline("medical-phrase-grounding", model=str(save_tiny_checkpoint(tmp_path / "tiny")), device="cpu")
    first = pipe.fast
    assert first is pipe.fast and first is not pipe.model
    compiled = torch.compile(pipe.model, backend="eager")
    pipe.model = compiled
    assert pipe.fast is compiled


@pytest.mark.parametrize("name", ["inference", "detection", "exported.quantization"])
def test_each_can_be_the_first_module_that_is_imported(name: str) -> None:
    """Importing transformers registers the pipelines, which import these modules in turn."""
    subprocess.run([sys.executable, "-c", f"import modeling_medglip.{name}"], check=True)
