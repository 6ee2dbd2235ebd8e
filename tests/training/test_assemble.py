"""Joining experts into the embedded form: half precision on disk, float32 in memory, no code beside the weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from tests.training.test_trainer import tiny_model
from training.assemble import license_rows, shorten_positions, tidy


MANIFEST = """# What is here

| source | upstream set | train / validation images | objects | labels | sizes | licence | remarks |
|---|---|---|---|---|---|---|---|
| `ct/set_a` | Set A | 10 / 2 | 30 | liver | 512x512 | CC BY 4.0 | good |
| `mri/set_b` | Set B | - | 3 files | (see labels.json) |  | unknown | volume |

Words that follow.
"""


def test_half_precision_is_loaded_as_float32(tmp_path: Path) -> None:
    model = tiny_model()
    model.half().save_pretrained(tmp_path)
    tidy(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in stored.values() if value.is_floating_point()} == {torch.float16}
    loaded = MedGlipForObjectDetection.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    key = "model.experts.ct.pyramid.p6.weight"
    assert torch.equal(loaded.state_dict()[key], stored[key].float())
    assert not list(tmp_path.glob("*.py"))
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


def test_shorter_positions_change_nothing() -> None:
    model = tiny_model().eval()
    ids = torch.tensor([[5, 1, 6, 1]])
    before = model.get_text_features(ids).hidden
    text = model.model.text_model
    text.embeddings.position_embeddings = torch.nn.Embedding(200, 16)
    with torch.no_grad():
        text.embeddings.position_embeddings.weight[:32] = (
            tiny_model().model.text_model.embeddings.position_embeddings.weight
        )
    shorten_positions(model)
    assert text.embeddings.position_embeddings.weight.shape == (128, 16)
    assert model.config.text_config.max_position_embeddings == 128
    assert torch.equal(model.get_text_features(ids).hidden, before)


def test_licences_come_from_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "MANIFEST.md").write_text(MANIFEST, encoding="utf-8")
    rows = license_rows(tmp_path / "MANIFEST.md")
    assert [(row["modality"], row["source"], row["license"]) for row in rows] == [
        ("ct", "set_a", "CC BY 4.0"),
        ("mri", "set_b", "unknown"),
    ]
