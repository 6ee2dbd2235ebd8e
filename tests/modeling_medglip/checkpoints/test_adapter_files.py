# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Hostile adapters: checked before peft reads anything of them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from modeling_medglip.checkpoints.location import check_adapter
from modeling_medglip.errors import CheckpointError


SETTINGS: dict[str, Any] = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": r"model\.experts\.ct\.text_adapter|model\.a",
    "modules_to_save": ["box_heads.ct.box_projection"], "base_model_name_or_path": "../elsewhere", "bias": "none",
    "init_lora_weights": True, "rank_pattern": {}, "megatron_core": "megatron.core",
}  # fmt: skip


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file({"a": torch.zeros(1)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    return folder


def test_a_sound_one(adapter: Path) -> None:
    assert check_adapter(adapter) == (adapter, SETTINGS)


def test_pickled_weights_are_not_fallen_back_to(adapter: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="no adapter_model.safetensors, and pickled ones are not opened"):
        check_adapter(adapter)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_no_link_out_of_the_folder(adapter: Path, name: str) -> None:
    (adapter / name).rename(adapter.parent / name)
    (adapter / name).symlink_to(adapter.parent / name)
    with pytest.raises(CheckpointError, match=f"{name} is a link out of the folder"):
        check_adapter(adapter)


@pytest.mark.parametrize("content", ["", "[]", "5", "[" * 100_000])
def test_no_settings(adapter: Path, content: str) -> None:
    (adapter / "adapter_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match="adapter_config.json cannot be read"):
        check_adapter(adapter)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "MULTITASK_PROMPT_TUNING"}, "peft_type is MULTITASK_PROMPT_TUNING, not LORA"),
        ({"r": 10**9}, "its rank is not 1 to 1024"),
        ({"r": True}, "its rank is not 1 to 1024"),
        ({"target_modules": "(a+)+$"}, "target_modules are not a pattern of plain names"),
        ({"target_modules": ["a"]}, "target_modules are not a pattern of plain names"),
        ({"target_modules": "|".join(["aaa"] * 10**5)}, "target_modules are not a pattern of plain names"),
        ({"modules_to_save": ["model"]}, "modules_to_save are not among box_projection"),
        ({"modules_to_save": ["box_projection"] * 101}, "modules_to_save are not among box_projection"),
        ({"modules_to_save": "model"}, "modules_to_save are not among box_projection"),
        ({"megatron_config": {"a": 1}}, "setting megatron_config is not allowed"),
        ({"megatron_core": "evil"}, "setting megatron_core is not allowed"),
        ({"layer_replication": [[0, 10**9]]}, "setting layer_replication is not allowed"),
        ({"corda_config": {"cache_file": "x.bin"}}, "setting corda_config is not allowed"),
        ({"init_lora_weights": "corda"}, "setting init_lora_weights is not allowed"),
        ({"rank_pattern": {".*": 10**9}}, "setting rank_pattern is not allowed"),
    ],
)
def test_settings_that_reach_beyond_low_rank_matrices(adapter: Path, settings: dict[str, Any], message: str) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps({**SETTINGS, **settings}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"holds no adapter .*{message}"):
        check_adapter(adapter)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no adapter"):
        check_adapter(tmp_path)
    with pytest.raises(CheckpointError, match="nowhere/at-all: holds no adapter"):
        check_adapter("nowhere/at-all")
