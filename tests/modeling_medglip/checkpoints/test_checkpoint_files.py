# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Hostile checkpoints: nothing in them is unpickled or run, and every entry point refuses them the same."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModel,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
    BertConfig,
    pipeline,
)

from modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.configuration_medglip import (
    MAX_ADDED_TOKENS,
    MAX_JSON_BYTES,
    MedGlipConfig,
    check_checkpoint_files,
)
from modeling_medglip.errors import CheckpointError
from modeling_medglip.grounding import load_grounder
from modeling_medglip.pipeline_medglip import TASK
from training.loading import load_model_and_processor

from ..tiny_checkpoint import save_tiny_checkpoint


ENTRIES: dict[str, Callable[[Path], Any]] = {
    "AutoModel": lambda folder: AutoModel.from_pretrained(folder),
    "AutoModelForZeroShotObjectDetection": lambda f: AutoModelForZeroShotObjectDetection.from_pretrained(f),
    "stock pipeline": lambda folder: pipeline("zero-shot-object-detection", model=str(folder)),
    "own pipeline": lambda folder: pipeline(TASK, model=str(folder)),
    "from_experts": lambda folder: MedGlipForObjectDetection.from_experts({"ct": folder}),
    "training": lambda folder: load_model_and_processor(str(folder)),
    "load": lambda folder: load_grounder(folder, "cpu"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may spoil."""
    return Path(shutil.copytree(folder, tmp_path / "spoilt"))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that appears when a planted pickle is read."""
    return tmp_path / "marker"


def bomb(marker: Path) -> bytes:
    """A pickle that makes `marker` when it is read, in a legacy file that `torch.load` would take."""

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    return pickle.dumps(Bomb())


def refused(folder: Path, marker: Path, message: str) -> None:
    """Every entry point refuses the checkpoint, in one line, and reads no pickle."""
    for name, entry in ENTRIES.items():
        with pytest.raises((ValueError, OSError), match=message) as caught:
            entry(folder)
        assert "\n" not in str(caught.value) or name != "load"
        assert name != "load" or isinstance(caught.value, CheckpointError)
    assert not marker.exists()


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; a key with dots lies deeper."""
    content = json.loads(file.read_text(encoding="utf-8"))
    for key, value in changes.items():
        place = content
        *outer, last = key.split("__")
        for part in outer:
            place = place[part]
        place[last] = value
    file.write_text(json.dumps(content), encoding="utf-8")


def test_a_sound_checkpoint_is_loaded_by_all(folder: Path) -> None:
    for entry in ENTRIES.values():
        entry(folder)


class TestShards:
    """Names in an index of weights."""

    @pytest.mark.parametrize(
        "name",
        [
            "../outside.safetensors", "/etc/outside.safetensors", "sub/part.safetensors", "..\\outside.safetensors",
            "C:outside.safetensors", "\\\\host\\share\\a.safetensors", "pytorch_model.bin", "part.safetensors.bin",
            "part.SAFETENSORS", "part.safetensors\n", "", 5, None,
        ],
    )  # fmt: skip
    def test_only_plain_safetensors_names(self, copy: Path, marker: Path, name: Any) -> None:
        (copy.parent / "outside.safetensors").write_bytes((copy / "model.safetensors").read_bytes())
        (copy / "pytorch_model.bin").write_bytes(bomb(marker))
        index = {"metadata": {"total_size": 1}, "weight_map": {"a": name}}
        (copy / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        with pytest.raises(ValueError, match="model.safetensors.index.json names .*only plain names"):
            check_checkpoint_files(copy)

    def test_no_entry_point_follows_an_index_to_a_pickle(self, copy: Path, marker: Path) -> None:
        (copy / "model.safetensors").rename(copy / "part.safetensors")
        (copy / "pytorch_model.bin").write_bytes(bomb(marker))
        index = {"metadata": {"total_size": 1}, "weight_map": {"a": "part.safetensors", "b": "pytorch_model.bin"}}
        (copy / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        refused(copy, marker, "names 'pytorch_model.bin': only plain names of .safetensors")

    @pytest.mark.parametrize("name", ["model.safetensors.index.fp16.json", "pytorch_model.bin.index.json"])
    def test_other_indices(self, copy: Path, name: str) -> None:
        (copy / name).write_text(json.dumps({"metadata": {}, "weight_map": {"a": "../x.safetensors"}}))
        with pytest.raises(ValueError, match="only plain names"):
            MedGlipForObjectDetection.from_pretrained(copy, variant="fp16")

    @pytest.mark.parametrize(
        "content", ["[", "[]", "{}", '{"weight_map": []}', "[" * 100_000, '{"weight_map": {"a": []}}']
    )
    def test_damaged_indices(self, copy: Path, content: str) -> None:
        (copy / "model.safetensors.index.json").write_text(content, encoding="utf-8")
        with pytest.raises(
            ValueError, match="index.json (is not an index of a checkpoint|cannot be read)|only plain names"
        ):
            check_checkpoint_files(copy)

    def test_a_subfolder_is_checked(self, copy: Path, tmp_path: Path) -> None:
        inner = Path(shutil.copytree(copy, tmp_path / "outer" / "inner"))
        (inner / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
        with pytest.raises(ValueError, match="only plain names"):
            AutoModel.from_pretrained(tmp_path / "outer", subfolder="inner")


class TestFiles:
    """Links, devices, sizes and contents."""

    @pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "processor_config.json"])
    def test_no_link_out_of_the_folder(self, copy: Path, marker: Path, name: str) -> None:
        (copy / name).rename(copy.parent / "elsewhere")
        (copy / name).symlink_to(copy.parent / "elsewhere")
        with pytest.raises(ValueError, match=f"{name} is a link out of the folder"):
            load_model_and_processor(str(copy))
        with pytest.raises(CheckpointError, match=f"spoilt: {name} is a link out of the folder"):
            load_grounder(copy, "cpu")

    def test_the_weights_are_not_a_link_for_any_entry_point(self, copy: Path, marker: Path) -> None:
        (copy.parent / "elsewhere").write_bytes(bomb(marker))
        (copy / "model.safetensors").unlink()
        (copy / "model.safetensors").symlink_to(copy.parent / "elsewhere")
        refused(copy, marker, "model.safetensors is a link out of the folder")

    def test_links_of_the_hub_cache_are_followed(self, folder: Path, tmp_path: Path) -> None:
        cache = tmp_path / "models--org--name"
        snapshot, blobs = cache / "snapshots" / "0123", cache / "blobs"
        snapshot.mkdir(parents=True)
        blobs.mkdir()
        for file in folder.iterdir():
            shutil.copy(file, blobs / file.name)
            (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
        assert load_grounder(snapshot, "cpu").modalities == ("ct", "fundus")

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", "processor_config.json", "tokenizer.json"])
    def test_a_pipe_is_not_waited_for(self, copy: Path, name: str) -> None:
        (copy / name).unlink()
        os.mkfifo(copy / name)
        with pytest.raises(CheckpointError, match=f"{name} is not a regular file"):
            load_grounder(copy, "cpu")
        with pytest.raises(ValueError, match=f"{name} is not a regular file"):
            load_model_and_processor(str(copy))

    @pytest.mark.parametrize("name", ["config.json", "processor_config.json", "model.safetensors.index.json"])
    def test_a_huge_file_is_not_read(self, copy: Path, name: str) -> None:
        with (copy / name).open("wb") as stream:
            stream.truncate(MAX_JSON_BYTES + 1)
        with pytest.raises(CheckpointError, match=f"{name} has {MAX_JSON_BYTES + 1} bytes, more than"):
            load_grounder(copy, "cpu")

    def test_a_pickle_under_a_false_name(self, copy: Path, marker: Path) -> None:
        (copy / "model.safetensors").write_bytes(bomb(marker))
        refused(copy, marker, "no safetensors|cannot be loaded|safetensors")

    def test_pickles_beside_are_never_fallen_back_to(self, copy: Path, marker: Path) -> None:
        (copy / "model.safetensors").rename(copy / "other.safetensors")
        (copy / "pytorch_model.bin").write_bytes(bomb(marker))
        refused(copy, marker, "no file named model.safetensors")

    @pytest.mark.parametrize(
        "arguments", [{"use_safetensors": False}, {"gguf_file": "model.gguf"}, {"weights_only": False}]
    )
    def test_arguments_that_ask_for_pickles(self, copy: Path, marker: Path, arguments: dict[str, Any]) -> None:
        (copy / "model.safetensors").unlink()
        for name in ("pytorch_model.bin", "model.gguf"):
            (copy / name).write_bytes(bomb(marker))
        with pytest.raises((ValueError, OSError)):
            AutoModel.from_pretrained(copy, **arguments)
        assert not marker.exists()

    def test_a_processor_brings_no_second_model(self, copy: Path, marker: Path) -> None:
        """Transformers would load the model that `audio_tokenizer` names, of any class and from any folder."""
        other = copy.parent / "other"
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(other)
        (other / "pytorch_model.bin").write_bytes(bomb(marker))
        stated = {"audio_tokenizer_class": "BertModel", "audio_tokenizer_name_or_path": str(other)}
        edit(copy / "processor_config.json", audio_tokenizer=stated)
        refused(copy, marker, "processor_config.json: audio_tokenizer is not allowed")
        edit(copy / "processor_config.json", audio_tokenizer=None)
        (copy / "audio_tokenizer_config.json").write_text(json.dumps(stated))
        refused(copy, marker, "audio_tokenizer_config.json is not allowed")

    def test_chat_templates_are_not_read(self, copy: Path, marker: Path) -> None:
        (copy / "additional_chat_templates").mkdir()
        os.mkfifo(copy / "additional_chat_templates" / "a.jinja")
        refused(copy, marker, "additional_chat_templates is not allowed")

    @pytest.mark.parametrize(
        ("name", "key"),
        [
            ("tokenizer_config.json", "added_tokens_decoder"), ("tokenizer.json", "added_tokens"),
            ("tokenizer_config.json", "extra_special_tokens"), ("added_tokens.json", None),
        ],
    )  # fmt: skip
    def test_tokens_that_are_added_one_by_one_are_few(self, copy: Path, name: str, key: str | None) -> None:
        tokens = {str(number): {"content": f"t{number}"} for number in range(MAX_ADDED_TOKENS + 1)}
        if key is None:
            (copy / name).write_text(json.dumps(tokens))
        else:
            edit(copy / name, **{key: tokens})
        with pytest.raises(CheckpointError, match=f"{name} adds 10001 tokens, more than 10000"):
            load_grounder(copy, "cpu")

    def test_a_tokenizer_that_cannot_read(self, copy: Path) -> None:
        model = {"type": "WordPiece", "unk_token": "?", "vocab": {}, "max_input_chars_per_word": 100}
        edit(copy / "tokenizer.json", model={**model, "continuing_subword_prefix": "##"}, post_processor=None)
        with pytest.raises(CheckpointError, match="processor cannot be loaded"):
            load_grounder(copy, "cpu")

    def test_an_image_processor_of_another_model(self, copy: Path, marker: Path) -> None:
        edit(copy / "processor_config.json", image_processor__image_processor_type="CLIPImageProcessor")
        with pytest.raises(CheckpointError, match="the image processor must be a MedGlipImageProcessor"):
            load_grounder(copy, "cpu")
        with pytest.raises(CheckpointError, match="the image processor must be a MedGlipImageProcessor"):
            load_model_and_processor(str(copy))

    def test_an_adapter_inside_is_not_loaded(self, copy: Path, marker: Path) -> None:
        (copy / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "target_modules": "x"}))
        (copy / "adapter_model.bin").write_bytes(bomb(marker))
        refused(copy, marker, "adapter")

    def test_an_adapter_that_names_its_base(self, copy: Path, marker: Path, tmp_path: Path) -> None:
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        config = {"peft_type": "LORA", "r": 1, "target_modules": "x", "base_model_name_or_path": str(copy)}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        (adapter / "adapter_model.bin").write_bytes(bomb(marker))
        with pytest.raises(ValueError, match="adapter"):
            AutoModel.from_pretrained(adapter)
        with pytest.raises(ValueError, match="adapter"):
            pipeline(TASK, model=str(adapter))
        assert not marker.exists()

    @pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
    @pytest.mark.parametrize("content", ["{", "[1]", '"a"', "[" * 100_000, '{"a": 1e999}'])
    def test_damaged_processor_files(self, copy: Path, name: str, content: str) -> None:
        (copy / name).write_text(content, encoding="utf-8")
        try:
            load_grounder(copy, "cpu")
        except CheckpointError as error:
            assert "\n" not in str(error)
        else:
            assert content == '{"a": 1e999}'


class TestSettings:
    """What a config.json says."""

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("text_config__num_hidden_layers", 10**6),
            ("text_config__hidden_size", 10**9),
            ("text_config__vocab_size", 2**40),
            ("head_config__num_blocks", 10**6),
            ("head_config__channels", 10**9),
            ("backbone_config__depths", [1, 1, 1, 10**6]),
            ("backbone_config__window_size", 10**4),
            ("backbone_config__image_size", 10**9),
            ("num_labels", 10**9),
            ("head_config__prior_prob", float("nan")),
            ("head_config__anchor_sizes", [float("inf")] * 5),
            ("expert_overrides", {"ct": {"head_config": {"num_blocks": 10**6}}}),
        ],
    )
    def test_sizes_out_of_proportion(self, copy: Path, marker: Path, key: str, value: Any) -> None:
        edit(copy / "config.json", **{key: value})
        setting = key.split("__")[-1] if key != "expert_overrides" else "num_blocks"
        with pytest.raises(CheckpointError, match=f"config.json: {setting} is "):
            load_grounder(copy, "cpu")
        with pytest.raises(ValueError, match=f"config.json: {setting} is "):
            AutoModelForZeroShotObjectDetection.from_pretrained(copy)

    @pytest.mark.parametrize(
        "changes",
        [
            {"backbone_config__depths": [64] * 4, "head_config__num_blocks": 1},
            {"backbone_config__depths": [0] * 1000},
            {"text_config__num_hidden_layers": 255, "head_config__num_blocks": 2},
            {"expert_overrides": {"ct": {"head_config": {"num_blocks": 250}}}, "head_config__num_blocks": 5},
            {"text_config__num_local_experts": 1000},
        ],
    )
    def test_layers_of_all_networks_together(self, copy: Path, changes: dict[str, Any]) -> None:
        """Each number is possible alone; building a million layers would take hours."""
        edit(copy / "config.json", **changes)
        with pytest.raises(CheckpointError, match="is out of range: [0-9]+ layers, more than 256"):
            load_grounder(copy, "cpu")

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("transformers_weights", "adapter_model.bin"),
            ("quantization_config", {"quant_method": "torchao"}),
            ("fusion_config", {"a": True}),
            ("attn_implementation", "kernels-community/flash-attn"),
            ("_attn_implementation", "org/name"),
            ("text_config__attn_implementation", "flash_attention_2"),
            ("text_config__model_args", {"checkpoint_path": "evil.pth"}),
            ("backbone_config__backbone", "hf-hub:org/name"),
            ("backbone_config__backbone", "local-dir:/tmp"),
            ("dtype", "load"),
            ("text_config__dtype", "os.system"),
        ],
    )
    def test_settings_that_reach_beyond_the_folder(self, copy: Path, marker: Path, key: str, value: Any) -> None:
        (copy / "adapter_model.bin").write_bytes(bomb(marker))
        edit(copy / "config.json", **{key: value})
        refused(copy, marker, f"config.json: {key.split('__')[-1]} ")

    @pytest.mark.parametrize(
        "content",
        [
            {"modalities": 5}, {"modalities": ["ct"] * 9 + ["banana"]}, {"head_config": "x"}, {"text_config": [1]},
            {"backbone_config": {"model_type": "nowhere"}}, {"expert_overrides": [1]}, {"expert_overrides": {"ct": 1}},
            {"separator_token_ids": "x"}, {"head_config": {"channels": "16"}}, {"head_config": {"fusion_heads": 0}},
            {"head_config": {"groups": 0}}, {"head_config": {"channels": -4}},
            {"expert_overrides": {"ct": {"backbone_config": [1]}}},
        ],
    )  # fmt: skip
    def test_wrong_types(self, copy: Path, content: dict[str, Any]) -> None:
        edit(copy / "config.json", **content)
        for entry in (ENTRIES["load"], ENTRIES["training"]):
            with pytest.raises(CheckpointError):
                entry(copy)
        with pytest.raises(ValueError):
            AutoModel.from_pretrained(copy)

    def test_deep_nesting(self, copy: Path) -> None:
        deep: dict[str, Any] = {}
        for _ in range(40):
            deep = {"a": deep}
        with pytest.raises(ValueError, match="nested more than 16 deep"):
            MedGlipConfig.from_dict({"label_hierarchy": deep})
        (copy / "config.json").write_text('{"a":' * 100_000, encoding="utf-8")
        with pytest.raises(CheckpointError, match="config.json cannot be read"):
            load_grounder(copy, "cpu")

    def test_too_many_values(self) -> None:
        with pytest.raises(ValueError, match="more than 300000 values"):
            MedGlipConfig.from_dict({"label_hierarchy": {"a": [0] * 300_001}})

    def test_a_model_far_larger_than_its_files_is_not_allocated(self, copy: Path) -> None:
        edit(copy / "config.json", text_config__hidden_size=2**15, text_config__intermediate_size=2**17)
        with pytest.raises(ValueError, match="config.json describes [0-9]{11} parameters, but the files hold only"):
            AutoModel.from_pretrained(copy)

    def test_code_of_sub_configurations_is_not_run(self, copy: Path, marker: Path) -> None:
        (copy / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
        for part in ("text_config", "backbone_config", "head_config"):
            edit(
                copy / "config.json", **{f"{part}__auto_map": {"AutoModel": "evil.Evil", "AutoBackbone": "evil.Evil"}}
            )
        edit(copy / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
        for entry in (ENTRIES["load"], ENTRIES["training"], ENTRIES["AutoModel"], AutoProcessor.from_pretrained):
            try:
                entry(copy)
            except (ValueError, OSError):
                continue
        assert not marker.exists()

    def test_plain_tensors_of_another_model(self, copy: Path) -> None:
        save_file({"a": torch.zeros(1)}, copy / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match="tensors"):
            load_grounder(copy, "cpu")
