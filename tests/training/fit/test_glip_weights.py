# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The starting point of the full-size recipe: GLIP's weights with a processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import BertTokenizerFast

from modeling_medglip import MedGlipForObjectDetection, MedGlipProcessor
from modeling_medglip.convert_glip_checkpoint import config_from_glip
from tests.modeling_medglip.test_convert_glip_checkpoint import TINY, to_glip
from training.fit import glip_weights


SMALL = {**TINY, "swin": {**TINY["swin"], "embed_dim": 8, "num_heads": [1, 1, 2, 2]}}


@pytest.fixture
def tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny sizes in the place of GLIP-T's, and a tokenizer of as many words."""
    monkeypatch.setattr("modeling_medglip.convert_glip_checkpoint.GLIP_T_CONFIG", SMALL)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "liver", "spleen"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def run(out: Path, tokenizer: Path, *more: str) -> int:
    given = ["--modality", "CT", "--size", "64", "--tokenizer", str(tokenizer), "--out", str(out)]
    return glip_weights.main([*given, *more])


def test_weights_are_glip_s(tmp_path: Path, tokenizer: Path) -> None:
    torch.manual_seed(0)
    source = MedGlipForObjectDetection(config_from_glip(SMALL, "ct"))
    save_file(to_glip(source), tmp_path / "glip.safetensors")
    assert run(tmp_path / "out", tokenizer, "--weights", str(tmp_path / "glip.safetensors")) == 0
    again = MedGlipForObjectDetection.from_pretrained(tmp_path / "out")
    assert again.config.modalities == ["ct"]
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in source.state_dict().items())


def test_images_are_normalized_as_glip_s(tmp_path: Path, tokenizer: Path) -> None:
    assert run(tmp_path / "out", tokenizer) == 0
    processor = MedGlipProcessor.from_pretrained(tmp_path / "out")
    pixels_in = np.zeros((64, 64, 3), np.uint8)
    pixels_in[..., 0] = 200  # red, which is the last channel
    image = processor.image_processor
    image.modality_settings["endoscopy"] = image.modality_settings["ct"]
    pixels = processor(images=pixels_in, text="liver.", modality="ct", return_tensors="pt")["pixel_values"][0]
    assert pixels.shape == (3, 64, 64)
    settings = image.modality_settings["ct"]
    assert settings["channel_order"] == "BGR"
    np.testing.assert_allclose(np.array(settings["mean"]) * 255, glip_weights.MEAN, rtol=1e-6)
    color = image.standardize(torch.from_numpy(pixels_in).permute(2, 0, 1).float() / 255, "ct")
    expected = (torch.tensor([0.0, 0.0, 200.0]) - torch.tensor(glip_weights.MEAN)) / torch.tensor(glip_weights.STD)
    torch.testing.assert_close(color[:, 0, 0], expected, rtol=1e-4, atol=1e-4)


def test_a_size_out_of_range(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "out", tokenizer, "--size", "17") == 2
    assert capsys.readouterr().err.startswith("error: --size 17: choose a multiple of 32 from 32 to 4096 (")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["absent.safetensors", "glip.pth"])
def test_other_files_are_refused_in_one_line(
    name: str, tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name.endswith(".pth"):
        (tmp_path / name).write_bytes(b"\x80\x02 a pickle")
    assert run(tmp_path / "out", tokenizer, "--weights", str(tmp_path / name)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        error.startswith("error: ") and name in error and (("safetensors file first" in error) == (name == "glip.pth"))
    )
    assert not (tmp_path / "out").exists()


def test_another_network_s_weights_are_refused(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"backbone.body.patch_embed.proj.weight": torch.zeros(4, 3, 4, 4)}, tmp_path / "other.safetensors")
    assert run(tmp_path / "out", tokenizer, "--weights", str(tmp_path / "other.safetensors")) == 2
    assert "lacks" in capsys.readouterr().err
