# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""One weight file of each expert and one of the language encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from tests.modeling_medglip.tiny_model import tiny_model
from training.fit.shards import save_shards, shard_of


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.text_model.embeddings.LayerNorm.weight", "language"),
        ("model.experts.ct.pyramid.p6.weight", "ct"),
        ("box_heads.mri.level_scales", "mri"),
    ],
)
def test_the_part_of_a_tensor(name: str, part: str) -> None:
    assert shard_of(name) == part


def test_a_checkpoint_in_shards_is_read_as_any_other(tmp_path: Path) -> None:
    model = tiny_model(("ct", "mri"))
    (tmp_path / "model.safetensors").write_bytes(b"of before")
    save_shards(model, tmp_path)
    names = {file.name for file in tmp_path.glob("*.safetensors")}
    assert names == {"model-language.safetensors", "model-ct.safetensors", "model-mri.safetensors"}
    modes = {(tmp_path / name).stat().st_mode for name in (*names, "config.json")}
    assert len(modes) == 1, "who may read the configuration may read the weights"
    loaded = MedGlipForObjectDetection.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    alone = MedGlipForObjectDetection.from_pretrained(tmp_path, modalities=["mri"])
    assert alone.config.modalities == ["mri"]
    assert (tmp_path / "modeling_medglip.py").is_file() and "MedGlipModel" in (tmp_path / "config.json").read_text()


def test_what_was_not_trained_keeps_its_bytes(tmp_path: Path) -> None:
    model = tiny_model(("ct", "mri")).half()
    save_shards(model, tmp_path / "before")
    again = MedGlipForObjectDetection.from_pretrained(tmp_path / "before", dtype=torch.float32)
    with torch.no_grad():
        again.box_heads["mri"].level_scales.add_(1)
    save_shards(again.half(), tmp_path / "after")
    same = {
        file.name: file.read_bytes() == (tmp_path / "after" / file.name).read_bytes()
        for file in (tmp_path / "before").glob("*.safetensors")
    }
    assert same == {"model-language.safetensors": True, "model-ct.safetensors": True, "model-mri.safetensors": False}
