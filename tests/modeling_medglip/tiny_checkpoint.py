# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A very small checkpoint with random weights and two experts, for tests that need any checkpoint at all."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoBackbone, BertConfig, SwinConfig, TimmBackboneConfig

from modeling_medglip import MedGlipConfig, MedGlipForObjectDetection, MedGlipProcessor
from modeling_medglip.image_processing_medglip import MedGlipRouter

from . import tiny_processor as processors


def tiny_config(modalities: tuple[str, ...] = ("ct", "fundus")) -> MedGlipConfig:
    """Random weights of a few hundred kilobytes."""
    text = BertConfig(
        vocab_size=128, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=512,
    )  # fmt: skip
    backbone = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4]
    )
    head: dict[str, Any] = {
        "channels": 16, "num_blocks": 1, "fusion_dim": 16, "fusion_heads": 2, "groups": 4, "text_heads": 2,
        "text_intermediate": 16, "conv_type": "plain", "prior_prob": 0.4,
    }  # fmt: skip
    hierarchy = {"trained_labels": {"ct": ["spleen", "liver"], "fundus": ["optic disc"]}}
    return MedGlipConfig(
        text_config=text, backbone_config=backbone, head_config=head, modalities=modalities, label_hierarchy=hierarchy
    )


@functools.cache
def tiny_encoder() -> dict[str, np.ndarray]:
    """Random weights of the first stage of a router's encoder, in float16."""
    with torch.device("meta"):
        config = TimmBackboneConfig(backbone="efficientnet_lite0", use_pretrained_backbone=False)
        shapes = AutoBackbone.from_config(config)._backbone.state_dict()
    rng = np.random.default_rng(0)
    names = [name for name in shapes if not name.startswith("blocks.") or name.startswith("blocks.0.")]
    return {
        name: rng.uniform(0.1, 0.6, shapes[name].shape).astype(np.float16) * (1 if shapes[name].ndim == 1 else 0.3)
        for name in names
        if not name.endswith("num_batches_tracked")
    }


def biased_router(
    choice: str, probability: float = 0.99, classes: tuple[str, ...] = ("ct", "fundus")
) -> MedGlipRouter:
    """A router that gives the same for every image: `choice`, with this probability, and the rest to other classes."""
    count = 3 * 16
    logit = math.log(probability / (1 - probability) * (len(classes) - 1))
    layer = {"weight": np.zeros((len(classes), count)), "bias": [logit * (name == choice) for name in classes]}
    return MedGlipRouter(classes, np.zeros(count), np.ones(count), [layer], tiny_encoder())


def tiny_processor(folder: Path, modalities: tuple[str, ...] = ("ct", "fundus"), **kwargs: Any) -> MedGlipProcessor:
    """A processor of small images, without router; `folder` is not used."""
    settings = {name: {"size": {"height": 64, "width": 64}} for name in modalities}
    return processors.tiny_processor({"modality_settings": settings, **kwargs}, max_text_tokens=128)


def save_tiny_checkpoint(folder: Path) -> Path:
    """Write model, processor (its router takes everything for fundus) and licenses into `folder`; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    MedGlipForObjectDetection(tiny_config()).save_pretrained(folder)
    tiny_processor(folder, router=biased_router("fundus")).save_pretrained(folder)
    row = {"source": "set_a", "upstream": "Set A", "modality": "ct", "license": "CC0", "remarks": "made up"}
    (folder / "licenses.json").write_text(json.dumps([row]), encoding="utf-8")
    return folder


def save_convolutional(folder: Path) -> Path:
    """A checkpoint whose image encoders are small convolutional networks, with batch norms that are not trivial."""
    torch.manual_seed(0)
    config = tiny_config()
    config.backbone_config = TimmBackboneConfig(
        backbone="test_efficientnet", use_pretrained_backbone=False, out_indices=[2, 3, 4]
    )
    model = MedGlipForObjectDetection(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    model.save_pretrained(folder)
    tiny_processor(folder, router=biased_router("fundus")).save_pretrained(folder)
    return folder
