"""Joining experts into the embedded form: half precision on disk, float32 in memory, no code beside the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling_medglip.image_processing_medglip import MedGlipImageProcessor, write_router
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from tests.modeling_medglip.tiny_checkpoint import biased_router, tiny_processor
from tests.training.fit.test_trainer import tiny_model
from training.fit import assemble
from training.fit.assemble import WORD_PIECES, build_processor, manifest_sources, shorten_embeddings, tidy


MANIFEST = """# What is here

| source | upstream set | train / validation images | objects | labels | sizes | license | remarks |
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


def test_shorter_embeddings_change_nothing() -> None:
    model = tiny_model().eval()
    ids = torch.tensor([[5, 1, 6, 1]])
    before = model.get_text_features(ids).hidden
    embeddings, config = model.model.text_model.embeddings, model.config.text_config
    for name, rows in (("position_embeddings", 200), ("word_embeddings", WORD_PIECES + 7)):
        short = getattr(embeddings, name).weight
        longer = torch.nn.Embedding(rows, short.shape[1])
        with torch.no_grad():
            longer.weight[: len(short)] = short
        setattr(embeddings, name, longer)
    config.max_position_embeddings, config.vocab_size = 200, WORD_PIECES + 7
    shorten_embeddings(model)
    assert embeddings.position_embeddings.weight.shape == (64, 16) and config.max_position_embeddings == 64
    assert embeddings.word_embeddings.weight.shape == (WORD_PIECES, 16) and config.vocab_size == WORD_PIECES
    assert torch.equal(model.get_text_features(ids).hidden, before)


def test_the_tokenizer_has_no_piece_without_an_embedding(tmp_path: Path) -> None:
    words = {f"w{row}": row for row in range(WORD_PIECES + 3)}
    content = {"model": {"vocab": words}, "truncation": {"max_length": 128}, "padding": {"pad_id": 0}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    tidy(tmp_path)
    tidied = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert max(tidied["model"]["vocab"].values()) == WORD_PIECES - 1
    assert tidied["truncation"] is None and tidied["padding"] is None


def test_licenses_come_from_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "MANIFEST.md").write_text(MANIFEST, encoding="utf-8")
    rows = manifest_sources(tmp_path / "MANIFEST.md")
    assert [(row["modality"], row["source"], row["license"]) for row in rows] == [
        ("ct", "set_a", "CC BY 4.0"),
        ("mri", "set_b", "unknown"),
    ]


def test_bad_input_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_processor(tmp_path, ("ct",)).tokenizer
    monkeypatch.setattr("training.fit.assemble.load_tokenizer", lambda: tokenizer)
    (tmp_path / "MANIFEST.md").write_text(MANIFEST, encoding="utf-8")

    def error(manifest: str) -> str:
        arguments = ["--runs", str(tmp_path / "runs"), "--data", str(tmp_path / "data")]
        arguments += ["--out", str(tmp_path / "out")]
        assert assemble.main([*arguments, "--manifest", str(tmp_path / manifest)]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert not (tmp_path / "out").exists()
        return line

    assert "no <modality>/expert folder there; run training.fit.finetune first" in error("MANIFEST.md")
    tiny_model().save_pretrained(tmp_path / "runs" / "ct" / "expert")
    tiny_processor(tmp_path, ("ct",)).save_pretrained(tmp_path / "runs" / "ct" / "expert")
    assert "none.md" in error("none.md")
    assert "data: " in error("MANIFEST.md"), "there is no data set"


def test_every_modality_keeps_its_expert_s_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_processor(tmp_path, ("ct",)).tokenizer  # the real one comes with `make train-env` alone
    monkeypatch.setattr("training.fit.assemble.load_tokenizer", lambda: tokenizer)
    experts = {}
    for name, side in (("ct", 512), ("fundus", 448)):
        settings = {name: {"size": {"height": side, "width": side}, "mean": [0.4] * 3}}
        processor = MedGlipImageProcessor(modality=name, modality_settings=settings)
        experts[name] = tmp_path / name
        processor.save_pretrained(experts[name])
    write_router(tmp_path / "router.safetensors", biased_router("ct"))
    image_processor = build_processor(experts, tmp_path / "router.safetensors").image_processor
    assert image_processor.modality == "auto" and image_processor.router is not None
    assert {name: image_processor.modality_settings[name]["size"]["height"] for name in experts} == {
        "ct": 512,
        "fundus": 448,
    }
    assert image_processor.modality_settings["ct"]["mean"] == [0.4] * 3
