# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Distillation of an image encoder: a tiny network, and a teacher whose features are brightness and position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint
from training.fit import encoder_distillation
from training.fit.encoder_distillation import TeacherFeatures, steps_of
from training.fit.finetune import load_base

from ..tiny_data import make_data


CHANNELS = 5


def features_of(teacher: Any, images: Tensor, side: int) -> Tensor:
    """Brightness and the two coordinates of every patch, in several channels."""
    bright = torch.nn.functional.adaptive_avg_pool2d(images.mean(dim=1, keepdim=True), side)
    row = torch.linspace(0, 1, side).expand(1, 1, side, side)
    return torch.cat([bright, 1 - bright, row, row.mT, bright + row], dim=1)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    checkpoint = save_tiny_checkpoint(tmp_path / "checkpoint")

    def base(settings: Any, recipe: Any) -> Any:
        settings.model = str(checkpoint)
        return load_base(settings, recipe)

    monkeypatch.setattr(encoder_distillation, "load_base", base)
    monkeypatch.setattr(encoder_distillation, "load_teacher", lambda: None)
    monkeypatch.setattr(encoder_distillation, "patch_features", features_of)
    monkeypatch.setattr(encoder_distillation, "WIDTH", CHANNELS)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "optimization: {head_learning_rate: 1.0e-2, backbone_learning_rate: 1.0e-3, weight_decay: 0.05,"
        " warmup_steps: 1, min_learning_rate_ratio: 0.03, gradient_clip: 5.0, ema_decay: 0.9, frozen_stages: 1}\n"
        "experts: {any: {size: 64, batch: 2, epochs: 1}}\n",
        encoding="utf-8",
    )
    return make_data(tmp_path / "data")


def test_an_encoder_learns_to_predict_the_features_of_the_teacher(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its frozen stages stay, all others move, and it ends better than the mean of the features, whose error is 1."""
    arguments = ["--data", str(tiny), "--modality", "CT", "--recipe", str(tmp_path / "recipe.yaml")]
    arguments += ["--epochs", "40", "--out", str(tmp_path / "out")]
    assert encoder_distillation.main(arguments) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    error = float(line.split("3 images, ")[1].split(" ")[0])
    assert 0 < error < 0.9
    weights = load_file(tmp_path / "out" / "ct.safetensors")
    before = load_file(tmp_path / "checkpoint" / "model.safetensors")
    prefix = "model.experts.ct.backbone."
    assert {prefix + name for name in weights} == {name for name in before if name.startswith(prefix)}
    moved = {name for name, value in weights.items() if not torch.equal(value, before[prefix + name].float())}
    assert moved and not [name for name in moved if "embeddings" in name or "layers.0." in name]
    assert [name for name in moved if "layers.3." in name]


def test_features_are_flipped_with_their_image() -> None:
    column = torch.tensor([0, 255]).to(torch.uint8).expand(1, 3, 2, 2)
    examples = TeacherFeatures(column.contiguous(), torch.tensor([-1.0, 1.0]).half().expand(1, 1, 2, 2))
    seen = set()
    for pixels, features in examples.batches(64, torch.Generator().manual_seed(0)):
        assert pixels.abs().max() <= 1
        for image, answer in zip(pixels, features, strict=True):
            assert (image[0, 0, 0] < image[0, 0, 1]) == (answer[0, 0, 0] < answer[0, 0, 1])
            seen.add(bool(answer[0, 0, 0] < 0))
    assert seen == {True, False}


def test_every_image_is_shown_as_often() -> None:
    images = torch.arange(12, dtype=torch.uint8).reshape(12, 1, 1, 1).expand(12, 3, 2, 2)
    examples = TeacherFeatures(images, torch.arange(12).half().reshape(12, 1, 1, 1).expand(12, 1, 2, 2))
    batches = list(examples.batches(2, torch.Generator().manual_seed(0)))
    assert len(batches) == steps_of(12, 2) == 3
    counts = torch.bincount(torch.cat([features[:, 0, 0, 0] for _, features in batches]).long())
    assert counts.tolist() == [2] * 12
