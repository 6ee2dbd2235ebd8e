# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Saving and loading: names of tensors, incomplete and pickled checkpoints, remote code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForZeroShotObjectDetection

import modeling_medglip  # noqa: F401  (registers the Auto classes)
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection, MedGlipModel

from .tiny_model import prompt, tiny_model


@pytest.fixture(scope="module")
def model() -> MedGlipForObjectDetection:
    return tiny_model()


def clean_environment() -> dict[str, str]:
    """The environment without a path to this repository."""

    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


class TestSaving:
    def test_round_trip_keeps_names_and_outputs(self, model: MedGlipForObjectDetection, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path)
        assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
        again = AutoModelForZeroShotObjectDetection.from_pretrained(tmp_path)
        assert type(again) is MedGlipForObjectDetection
        images, ids = torch.randn(1, 3, 64, 64), prompt("liver")[0]
        with torch.no_grad():
            assert torch.equal(again(images, ids).logits, model(images, ids).logits)
        base = AutoModel.from_pretrained(tmp_path)
        assert type(base) is MedGlipModel
        with torch.no_grad():
            assert torch.equal(base(images, ids).logits, model(images, ids).logits)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda state: state.pop("model.experts.ct.alignment.bias"), "lacks 1 tensors"),
            (lambda state: state.update({"model.more": torch.zeros(1)}), "has unknown 1 tensors"),
        ],
    )
    def test_incomplete_checkpoint_is_refused(
        self, model: MedGlipForObjectDetection, tmp_path: Path, damage: Any, message: str
    ) -> None:
        model.save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        damage(state)
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=message) as error:
            MedGlipForObjectDetection.from_pretrained(tmp_path)
        assert "\n" not in str(error.value)

    def test_pickled_checkpoint_is_not_opened(self, model: MedGlipForObjectDetection, tmp_path: Path) -> None:
        model.config.save_pretrained(tmp_path)
        (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
        with pytest.raises(ValueError, match="pytorch_model.bin is a pickled checkpoint and is not opened"):
            MedGlipForObjectDetection.from_pretrained(tmp_path)

    @pytest.mark.slow  # starts a process
    def test_remote_code_works_without_the_package(self, model: MedGlipForObjectDetection, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path / "hub")
        config = json.loads((tmp_path / "hub" / "config.json").read_text())
        assert config["auto_map"]["AutoModel"] == "modeling_medglip.MedGlipModel"
        for name in ("configuration", "modeling"):
            assert (tmp_path / "hub" / f"{name}_medglip.py").is_file()
        with torch.no_grad():
            expected = model(torch.ones(1, 3, 64, 64), prompt("liver")[0]).logits.sum().item()
        code = (
            "import sys, torch\n"
            "from transformers import AutoModelForZeroShotObjectDetection as A\n"
            "m = A.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
            "assert 'modeling_medglip' not in sys.modules\n"
            "ids = torch.tensor([[5, 1]])\n"
            "with torch.no_grad():\n"
            "    print(m(torch.ones(1, 3, 64, 64), ids).logits.sum().item())\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "hub")],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=300,
            env={**clean_environment(), "HF_HOME": str(tmp_path / "home")},
        )
        assert run.returncode == 0, run.stderr[-2000:]
        assert float(run.stdout.split()[-1]) == pytest.approx(expected, rel=1e-5)
