# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Adapters in use: found in a run's folder, put on the right base, merged; and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection

import modeling_medglip
from modeling_medglip.checkpoints import loading
from modeling_medglip.checkpoints.adapters import BASE_FILE, merge_adapter
from modeling_medglip.cli import main
from modeling_medglip.errors import CheckpointError, UsageError
from modeling_medglip.grounding import Grounder, load_grounder
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.outputs.results import GroundedBox
from training.fit.lora import add_adapter, save_adapter

from ..tiny_checkpoint import save_tiny_checkpoint, tiny_processor


PIXELS = np.arange(48 * 40, dtype=np.uint8).reshape(40, 48)
LABELS = ["left lung", "liver"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "base")


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that made an adapter for CT."""
    run = tmp_path_factory.mktemp("runs") / "mine"
    model = MedGlipForObjectDetection.from_pretrained(base, modalities=["ct"])
    adapted = add_adapter(model, "ct")
    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in adapted.named_parameters():
            if "lora_B" in name:
                tensor.normal_(0, 0.5)
    model.config.label_hierarchy = {"trained_labels": {"ct": LABELS}}
    save_adapter(adapted, run / "adapter")
    tiny_processor(run, ("ct",)).save_pretrained(run / "adapter")
    (run / "results.json").write_text("{}", encoding="utf-8")
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, to change."""
    return Path(shutil.copytree(trained, tmp_path / "mine"))


def boxes(grounder: Grounder) -> tuple[GroundedBox, ...]:
    return modeling_medglip.ground_image(PIXELS, "liver. spleen.", "ct", grounder, threshold=0.0).boxes


def change(folder: Path, file: str, **values: Any) -> None:
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps({**content, **values}), encoding="utf-8")


class TestLoading:
    def test_by_the_run_and_by_its_adapter(self, trained: Path, base: Path) -> None:
        first, second = (
            load_grounder(trained, "cpu", base=base),
            load_grounder(trained / "adapter", "cpu", "CT", base=base),
        )
        assert first.name == second.name == "mine" and first.modalities == ("ct",)
        found, plain = boxes(first), boxes(load_grounder(base, "cpu"))
        assert found == boxes(second) and len(found) > 0
        assert [box.score for box in found] != [box.score for box in plain]
        assert not [name for name in first.model.state_dict() if "lora_" in name], "merged"
        assert list(first.model.config.label_hierarchy["trained_labels"]["ct"]) == LABELS

    def test_by_the_run_of_an_expert(self, base: Path, tmp_path: Path) -> None:
        shutil.copytree(base, tmp_path / "full" / "expert")
        (tmp_path / "full" / "results.json").write_text("{}", encoding="utf-8")
        assert load_grounder(tmp_path / "full", "cpu").name == "full"

    def test_the_embedded_base_is_known_by_its_content(
        self, trained: Path, base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loading, "embedded_checkpoint", lambda: base)
        assert boxes(modeling_medglip.load_grounder(trained, "cpu")) == boxes(load_grounder(trained, "cpu", base=base))

    def test_no_loader_asks_the_hub_for_a_base_of_this_machine(self, trained: Path) -> None:
        settings = json.loads((trained / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
        assert settings["base_model_name_or_path"] == "./base"
        with pytest.raises(OSError, match="Repo id must use"):
            AutoModelForZeroShotObjectDetection.from_pretrained(trained / "adapter")

    def test_a_base_that_is_not_known(self, run: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loading, "embedded_checkpoint", lambda: base)
        (known := json.loads((run / "adapter" / BASE_FILE).read_text(encoding="utf-8")))["base_sha256"]["float32"] = (
            "0"
        )
        change(run / "adapter", BASE_FILE, **known)
        with pytest.raises(
            CheckpointError, match=r"^adapter mine: its base \('./base'\) is not .* give its folder or id as base="
        ):
            load_grounder(run, "cpu")
        with pytest.raises(CheckpointError, match="^adapter mine: an adapter for another base"):
            load_grounder(run, "cpu", base=base)
        change(run / "adapter", "adapter_config.json", base_model_name_or_path="clinic/base")
        with pytest.raises(CheckpointError, match="^checkpoint clinic/base: neither in the cache"):
            load_grounder(run, "cpu")

    def test_another_modality_is_refused(self, trained: Path, base: Path) -> None:
        with pytest.raises(CheckpointError, match="^adapter mine: is for ct, not for fundus"):
            load_grounder(trained, "cpu", "fundus", base=base)

    def test_a_checkpoint_has_no_base(self, base: Path) -> None:
        with pytest.raises(UsageError, match="^checkpoint base: is not an adapter"):
            load_grounder(base, "cpu", base=base)

    def test_without_peft_the_command_is_named(
        self, trained: Path, base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "peft", None)
        with pytest.raises(UsageError, match=r'pip install "\.\[adapter\]" in a clone of MedGLIP$'):
            load_grounder(trained, "cpu", base=base)


class TestDamagedAdapters:
    """What [`check_adapter`] refuses has tests of its own, in `test_adapter_files.py`."""

    def test_settings_and_files_are_checked(self, run: Path, base: Path) -> None:
        change(run / "adapter", "adapter_config.json", megatron_config={"a": 1})
        with pytest.raises(CheckpointError, match="^adapter mine: .* megatron_config is not allowed"):
            load_grounder(run, "cpu", base=base)
        (run / "adapter" / "adapter_model.safetensors").rename(run / "adapter" / "adapter_model.bin")
        with pytest.raises(CheckpointError, match="^adapter mine: .* pickled ones are not opened"):
            load_grounder(run, "cpu", base=base)

    @pytest.mark.parametrize("content", ["[" * 10**5, '{"schema": "medglip/adapter@1"}', "null"])
    def test_a_broken_record_of_the_base(self, content: str, run: Path, base: Path) -> None:
        (run / "adapter" / BASE_FILE).write_text(content, encoding="utf-8")
        with pytest.raises(CheckpointError, match="^adapter mine: "):
            load_grounder(run, "cpu", base=base)

    def test_a_torn_file(self, run: Path, base: Path) -> None:
        (run / "adapter" / "adapter_model.safetensors").write_bytes(b"torn")
        with pytest.raises(CheckpointError, match="^adapter mine: its weights cannot be read"):
            load_grounder(run, "cpu", base=base)


class TestMerging:
    def test_the_same_boxes_from_a_plain_checkpoint(
        self, trained: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "merged"
        assert main(["merge", "--model", str(trained), "--out", str(out), "--base", str(base)]) == 0
        assert f"use it with --model {out}" in capsys.readouterr().out
        merged, adapted = boxes(load_grounder(out, "cpu")), boxes(load_grounder(trained, "cpu", base=base))
        assert [box.label for box in merged] == [box.label for box in adapted]
        assert [box.score for box in merged] == pytest.approx([box.score for box in adapted], abs=1e-5)
        assert np.allclose([box.bbox for box in merged], [box.bbox for box in adapted], rtol=0, atol=1e-3)
        assert (out / "model.safetensors").is_file() and not (out / "adapter_config.json").exists()
        rows = json.loads((out / "licenses.json").read_text(encoding="utf-8"))
        assert [(row["source"], row["license"]) for row in rows] == [("set_a", "CC0"), ("mine", "not stated")]

    def test_what_is_refused(self, trained: Path, base: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="^checkpoint base: is not an adapter"):
            merge_adapter(base, tmp_path / "out")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").touch()
        with pytest.raises(UsageError, match="^full: is not empty: choose a new folder .out=.$"):
            merge_adapter(trained, tmp_path / "full", base)


@pytest.mark.slow  # starts a process
def test_the_command_grounds_with_an_adapter(
    trained: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "slice.png")
    command = ["ground", str(tmp_path / "slice.png"), "--prompt", "liver", "--out", str(tmp_path / "out")]
    command += ["--model", str(trained), "--threshold", "0", "--no-isolate"]
    assert main(command) == 2
    assert "adapter mine: its base ('./base') is not the embedded checkpoint" in capsys.readouterr().err
    assert main([*command, "--base", str(base)]) == 0
    assert json.loads((tmp_path / "out" / "slice.boxes.json").read_text(encoding="utf-8"))["model"] == "mine"


class TestOneCall:
    def test_files_arrays_and_pil_images_are_one(self, base: Path, tmp_path: Path) -> None:
        grounder = load_grounder(base, "cpu")
        Image.fromarray(PIXELS).save(tmp_path / "slice.png")
        given = [PIXELS, Image.fromarray(PIXELS), tmp_path / "slice.png", str(tmp_path / "slice.png")]
        results = [modeling_medglip.ground_image(one, "liver", "ct", grounder, threshold=0.0).boxes for one in given]
        assert results[0] and all(boxes == results[0] for boxes in results)

    def test_other_things_are_refused(self) -> None:
        with pytest.raises(UsageError, match="a file, a PIL image or a NumPy array, not a int"):
            modeling_medglip.ground_image(3, "liver")
