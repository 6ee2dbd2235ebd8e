# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What `medglip info` states of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modeling_medglip.checkpoints.info import checkpoint_info
from modeling_medglip.errors import MedGlipError


def test_labels_and_licenses(tmp_path: Path) -> None:
    config = {"modalities": ["ct"], "label_hierarchy": {"trained_labels": {"ct": ["spleen", "liver"]}}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 250_000)
    row = {"source": "a", "upstream": "Set A", "modality": "ct", "license": "CC0", "remarks": "r\nr"}
    (tmp_path / "licenses.json").write_text(json.dumps([row, "broken"]), encoding="utf-8")
    info = checkpoint_info(tmp_path)
    assert info["modalities"] == ["ct"] and info["labels"] == {"ct": ["liver", "spleen"]}
    assert info["weights_mb"] == 0.2
    assert [entry["part"] for entry in info["licenses"]] == ["code", "weights", "Set A (a)"]
    assert info["licenses"][2] == {"part": "Set A (a)", "license": "CC0", "modality": "ct", "remarks": "r r"}


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(MedGlipError, match="config.json is missing"):
        checkpoint_info(tmp_path)
