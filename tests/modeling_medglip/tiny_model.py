# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A very small model with random weights, for the tests of the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, SwinConfig

import modeling_medglip  # noqa: F401  (registers the Auto classes)
from modeling_medglip.configuration_medglip import MedGlipConfig
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection


DOT, WORDS = 1, {"liver": 5, "spleen": 6, "left": 7, "kidney": 8, "polyp": 9}
HEAD: dict[str, Any] = {
    "channels": 16,
    "num_blocks": 2,
    "fusion_dim": 16,
    "fusion_heads": 2,
    "groups": 4,
    "text_heads": 2,
    "text_intermediate": 16,
    "anchor_sizes": [16, 32, 64, 128, 256],
    "prior_prob": 0.3,
}
SWIN = SwinConfig(
    image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4]
)


def tiny_config(modalities: tuple[str, ...] = ("ct",), **changes: Any) -> MedGlipConfig:
    """Two fusion blocks of 16 channels."""
    text = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64,
    )  # fmt: skip
    fields = {"text_config": text, "backbone_config": SWIN, "head_config": HEAD, "separator_token_ids": [DOT]}
    return MedGlipConfig(modalities=modalities, **{**fields, **changes})


def tiny_model(modalities: tuple[str, ...] = ("ct",), **changes: Any) -> MedGlipForObjectDetection:
    torch.manual_seed(0)
    return MedGlipForObjectDetection(tiny_config(modalities, **changes)).eval()


def prompt(*labels: str) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and label tokens of "a. b." for labels of one or two known words."""
    ids: list[int] = []
    spans = []
    for label in labels:
        words = [WORDS[word] for word in label.split()]
        spans.append(range(len(ids), len(ids) + len(words)))
        ids += [*words, DOT]
    tokens = torch.zeros(1, len(labels), len(ids), dtype=torch.bool)
    for row, span in enumerate(spans):
        tokens[0, row, list(span)] = True
    return torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long), tokens


def count_calls(monkeypatch: pytest.MonkeyPatch, module: torch.nn.Module) -> list[dict[str, Any]]:
    """Record the keyword arguments of every forward of `module`."""
    calls: list[dict[str, Any]] = []
    forward = module.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return forward(*args, **kwargs)

    monkeypatch.setattr(module, "forward", counted)
    return calls


def training_batch(count: int = 2) -> dict[str, Any]:
    """Images with a bright square to be found as "liver"; the second has no target."""
    torch.manual_seed(1)
    images = torch.zeros(count, 3, 64, 64)
    images[0, :, 16:40, 8:32] = 1.0
    ids, mask, tokens = prompt("liver", "spleen")
    labels = [{"boxes": torch.tensor([[8.0, 16.0, 31.0, 39.0]]), "class_labels": torch.tensor([0])}]
    labels += [{"boxes": torch.zeros(0, 4), "class_labels": torch.zeros(0, dtype=torch.long)}] * (count - 1)
    return {
        "pixel_values": images,
        "input_ids": ids.repeat(count, 1),
        "attention_mask": mask.repeat(count, 1),
        "label_tokens": tokens.repeat(count, 1, 1),
        "labels": labels,
    }


def wave(shape: Sequence[int], phase: float) -> Tensor:
    """A sine over the numbers of a tensor in row-major order, the same on every machine."""
    numbers = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(numbers * 0.37 + phase).view(*shape).float()


def known_model(conv_type: str) -> MedGlipForObjectDetection:
    """A model whose matrices and kernels are sines instead of random numbers, with every optional part."""
    optional = {"positions": True, "region_norm": True, "pyramid_norm": True, "text_dim": 8, "log_scale_init": -0.5}
    model = tiny_model(head_config={**HEAD, "conv_type": conv_type, **optional})
    with torch.no_grad():
        for number, tensor in enumerate(tensor for tensor in model.parameters() if tensor.ndim > 1):
            tensor.copy_(wave(tensor.shape, number) * (2 / tensor[0].numel()) ** 0.5)
    return model
