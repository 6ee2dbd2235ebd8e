# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Scores that are chances: the fit and the command on a tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_medglip import MedGlipConfig, MedGlipForObjectDetection, MedGlipProcessor
from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint
from training import calibration
from training.calibration import calibrate, clear, fit_platt

from .tiny_data import make_data


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (5.0, -2.0), (0.5, 1.0)])
def test_the_fit_finds_the_line_that_made_the_data(slope: float, intercept: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, 40_000)
    right = rng.random(40_000) < 1 / (1 + np.exp(-slope * logits - intercept))
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    assert fit_platt(scores, right) == pytest.approx((slope, intercept), rel=0.06, abs=0.06)


def test_separable_scores_give_finite_numbers() -> None:
    slope, intercept = fit_platt(np.array([0.1, 0.2, 0.7, 0.8], np.float32), np.array([False, False, True, True]))
    assert 0 < slope < 100 and abs(intercept) < 100


@pytest.mark.parametrize(
    ("right", "message"),
    [([True] * 4, "4 right and 0 wrong"), ([False] * 4, "0 right and 4 wrong"), ([True, True, False, False], "rise")],
)
def test_what_cannot_be_calibrated(right: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_platt(np.array([0.1, 0.2, 0.7, 0.8], np.float32), np.array(right))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    make_data(tmp_path / "data")
    return save_tiny_checkpoint(tmp_path / "checkpoint")


def test_the_command_writes_the_experts_lines(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter([(2.0, -1.0), (3.0, 0.5)])
    monkeypatch.setattr(calibration, "fit_platt", lambda scores, right: next(lines))
    before = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    assert calibration.main(["--model", str(checkpoint), "--data", str(tmp_path / "data")]) == 0
    after = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    assert {key for key in after if after[key] != before.get(key)} == {"expert_overrides"}
    config = MedGlipConfig.from_pretrained(checkpoint)
    assert list(config.expert_head_config("ct").score_calibration) == [2.0, -1.0]
    assert list(config.expert_head_config("fundus").score_calibration) == [3.0, 0.5]


def test_an_older_calibration_plays_no_part(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores: list[list[float]] = []

    def remember(found: np.ndarray, right: np.ndarray) -> tuple[float, float]:
        scores.append(found.tolist())
        return 4.0, 1.0

    monkeypatch.setattr(calibration, "fit_platt", remember)
    model = MedGlipForObjectDetection.from_pretrained(checkpoint).eval()
    processor = MedGlipProcessor.from_pretrained(checkpoint)
    calibrate(model, processor, tmp_path / "data")
    calibrate(model, processor, tmp_path / "data")
    assert len(scores) == 4 and scores[0] == scores[2] and scores[1] == scores[3] and scores[0]
    clear(model.config)
    ids = torch.ones(1, 3, dtype=torch.long)
    assert model(torch.zeros(1, 3, 64, 64), ids, modality="ct").score_calibration is None
