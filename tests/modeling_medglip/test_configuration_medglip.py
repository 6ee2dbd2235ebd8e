# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The configuration: GLIP-T's defaults, names of modalities, experts with settings of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, BertConfig, SwinConfig

from modeling_medglip.configuration_medglip import (
    MODALITIES,
    MODALITY_ALIASES,
    MedGlipConfig,
    MedGlipHeadConfig,
    resolve_modality,
)


def test_defaults_are_those_of_glip_t() -> None:
    config = MedGlipConfig.glip_t()
    assert isinstance(config.text_config, BertConfig) and isinstance(config.backbone_config, SwinConfig)
    assert config.backbone_config.out_indices == [2, 3, 4] and config.backbone_config.drop_path_rate == 0.2
    assert tuple(config.separator_token_ids) == (101, 1012), "[CLS] and the dot in BERT's vocabulary"
    assert config.text_attention == "prompt" and config.modalities == ["ct"]
    head = config.head_config
    assert tuple(head.anchor_sizes) == (64, 128, 256, 512, 1024) and tuple(head.anchor_strides) == (8, 16, 32, 64, 128)
    assert (head.channels, head.num_blocks, head.fusion_dim, head.fusion_heads) == (256, 6, 2048, 8)
    assert (head.focal_alpha, head.focal_gamma, head.box_loss_weight, head.atss_topk) == (0.25, 2.0, 2.0, 9)
    assert (head.prior_prob, head.log_scale_init, head.groups, head.drop_block) == (0.01, 0.0, 16, 0.3)
    assert head.score_calibration is None and head.text_dim is None
    assert not (head.positions or head.pyramid_norm or head.region_norm)


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("CT", "ct"), ("MR", "mri"), ("US", "ultrasound"), ("IVUS", "ultrasound"), ("CR", "xray"), ("DX", "xray"),
        ("MG", "xray"), ("RG", "xray"), ("X-ray", "xray"), ("ES", "endoscopy"), ("DMS", "dermoscopy"),
        ("skin", "dermoscopy"), ("OP", "fundus"), ("Magnetic Resonance", "mri"),
    ],
)  # fmt: skip
def test_names_of_modalities(name: str, modality: str) -> None:
    assert resolve_modality(name) == modality


def test_aliases_can_be_reached() -> None:
    """Names are compared by their letters and digits in lower case."""
    assert set(MODALITY_ALIASES.values()) <= set(MODALITIES)
    assert all(alias.isalnum() and alias == alias.lower() and alias not in MODALITIES for alias in MODALITY_ALIASES)


def test_experts_are_asked_for_by_name() -> None:
    config = MedGlipConfig(modalities=["CT", "OP"])
    assert config.require_modalities(["retina", "ct", "OP"]) == ["fundus", "ct", "fundus"]
    with pytest.raises(ValueError, match="no expert for mri, xray: it has ct, fundus"):
        config.require_modalities(["mri", "ct", "CR", "MR"])
    with pytest.raises(ValueError, match="no expert for an empty list: it has ct, fundus"):
        config.require_modalities([])


def test_experts_may_have_settings_of_their_own(tmp_path: Path) -> None:
    overrides = {"retina": {"head_config": {"anchor_sizes": [8, 16, 32, 64, 128]}}}
    hierarchy = {"trained_labels": {"ct": ["liver"], "fundus": ["disc"]}, "version": 1}
    config = MedGlipConfig(modalities=["ct", "fundus"], expert_overrides=overrides, label_hierarchy=hierarchy)
    assert config.expert_head_config("fundus").anchor_sizes == [8, 16, 32, 64, 128]
    assert config.expert_head_config("ct") is config.head_config
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path, modalities=["OP"])
    assert type(loaded) is MedGlipConfig and loaded.modalities == ["fundus"]
    assert loaded.expert_head_config("fundus").anchor_sizes == [8, 16, 32, 64, 128]
    assert loaded.label_hierarchy == {"trained_labels": {"fundus": ["disc"]}, "version": 1}
    assert config.for_modalities(["ct"]).expert_overrides == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conv_type": "dynamic"}, "conv_type must be 'deformable' or 'plain'"),
        ({"fusion_dim": 100, "fusion_heads": 8}, "fusion_dim 100 is not a multiple of fusion_heads 8"),
        ({"channels": 250}, "channels 250 is not a multiple of groups 16"),
        ({"anchor_sizes": [8, 16]}, "anchor_sizes and anchor_strides need one number per level"),
        ({"score_calibration": [1.0, 0.0, 0.0]}, "a positive slope and an intercept"),
    ],
)
def test_sizes_that_do_not_fit(settings: dict[str, object], message: str) -> None:
    with pytest.raises(Exception, match=message):
        MedGlipHeadConfig(**settings)
