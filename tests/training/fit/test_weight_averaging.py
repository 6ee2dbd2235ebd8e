# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The mean of two experts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modeling_medglip import MedGlipForObjectDetection, MedGlipProcessor
from tests.modeling_medglip.tiny_checkpoint import tiny_config, tiny_processor
from training.fit import weight_averaging


def expert(folder: Path, seed: int, modality: str = "ct", side: int = 64) -> Path:
    torch.manual_seed(seed)
    MedGlipForObjectDetection(tiny_config((modality,))).save_pretrained(folder / "expert")
    settings = {"modality_settings": {modality: {"size": {"height": side, "width": side}}}}
    tiny_processor(folder, (modality,), **settings).save_pretrained(folder / "expert")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return MedGlipForObjectDetection.from_pretrained(folder / "expert").state_dict()


def run(first: Path, last: Path, share: str, out: Path) -> int:
    return weight_averaging.main(["--first", str(first), "--last", str(last), "--share", share, "--out", str(out)])


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("experts")
    return expert(folder / "a", 0), expert(folder / "b", 1, side=96)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_weights_are_the_mean_and_settings_the_last_one_s(
    share: float, experts: tuple[Path, Path], tmp_path: Path
) -> None:
    first, last = experts
    assert run(first, last, str(share), tmp_path / "out") == 0
    one, other, mean = (weights(folder) for folder in (first, last, tmp_path / "out"))
    assert mean.keys() == one.keys()
    for key, value in mean.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (1 - share) * one[key] + share * other[key], atol=1e-6, rtol=1e-5)
    settings = MedGlipProcessor.from_pretrained(tmp_path / "out" / "expert").image_processor.modality_settings
    assert settings["ct"]["size"]["height"] == 96


def test_layers_that_only_the_last_one_has_stay(experts: tuple[Path, Path], tmp_path: Path) -> None:
    """The first one may be a checkpoint of several experts."""
    torch.manual_seed(2)
    both = MedGlipForObjectDetection(tiny_config(("ct", "fundus")))
    both.save_pretrained(tmp_path / "both")
    config = tiny_config(("ct",))
    config.expert_overrides = {"ct": {"head_config": {"presence_dim": 8}}}
    MedGlipForObjectDetection(config).save_pretrained(tmp_path / "last" / "expert")
    MedGlipProcessor.from_pretrained(experts[0] / "expert").save_pretrained(tmp_path / "last" / "expert")
    assert run(tmp_path / "both", tmp_path / "last", "0.25", tmp_path / "out") == 0
    one, other, mean = both.state_dict(), weights(tmp_path / "last"), weights(tmp_path / "out")
    assert mean.keys() == other.keys() and any(".presence." in key for key in mean.keys() - one.keys())
    for key, value in mean.items():
        if value.is_floating_point():
            expected = other[key] if ".presence." in key else 0.75 * one[key] + 0.25 * other[key]
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


def test_what_has_no_mean(experts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, other = experts[0], expert(tmp_path / "b", 1, "fundus")
    assert run(first, other, "0.5", tmp_path / "out") == 2
    assert "cannot be averaged" in capsys.readouterr().err
    assert run(first, first, "1.5", tmp_path / "out") == 2 and "from 0 to 1" in capsys.readouterr().err
    assert run(first, tmp_path / "none", "0.5", tmp_path / "out") == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out").exists()
