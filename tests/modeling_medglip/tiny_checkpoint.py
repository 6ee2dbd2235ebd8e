# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A very small checkpoint with random weights and two experts, for tests that need any checkpoint at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, SwinConfig

from modeling_medglip import MedGlipConfig, MedGlipForObjectDetection, MedGlipProcessor
from modeling_medglip.image_processing_medglip import router_features

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


def biased_router(choice: str, probability: float = 0.99) -> dict[str, Any]:
    """Router weights that give the same for every image: `choice`, with this probability (of two classes)."""
    features = len(router_features(np.zeros((8, 8), dtype=np.uint8)))
    logit = math.log(probability / (1 - probability))
    classes = ["ct", "fundus"]
    layer = {"weight": [[0.0] * features] * 2, "bias": [logit if name == choice else 0.0 for name in classes]}
    return {"mean": [0.0] * features, "scale": [1.0] * features, "classes": classes, "layers": [layer]}


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
