# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Two processes train as one does: the same losses step by step; the launch files of the full-size recipe work."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint
from training.fit.trainer import GroundingTrainer, freeze, train_expert

from ..tiny_data import make_data
from .test_trainer import OPTIMIZATION, RECIPE, Squares, collate, tiny_model


ROOT = Path(__file__).resolve().parents[3]


def losses(out: Path, batch: int) -> list[float]:
    """Losses of every step of two epochs with so many images per device."""
    recipe = dataclasses.replace(RECIPE, batch=batch)
    model = tiny_model()  # without dropout: each process draws numbers of its own
    freeze(model, OPTIMIZATION)
    trainer: GroundingTrainer = train_expert(
        model, Squares(), collate, recipe, OPTIMIZATION, out, logging_steps=1, save_strategy="no"
    )
    return [float(row["loss"]) for row in trainer.state.log_history if "loss" in row]


def main(out: str, batch: str) -> None:
    """Run by every process of the launcher."""
    values = losses(Path(out), int(batch))
    if os.environ.get("RANK", "0") == "0":
        (Path(out) / "losses.json").write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.distributed
def test_two_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.training.fit.test_distributed import main; "
    (tmp_path / "run.py").write_text(f"{code}main({str(tmp_path / 'two')!r}, '2')\n", encoding="utf-8")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", str(tmp_path / "run.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "MASTER_PORT": "29531"}
    done = subprocess.run(launcher, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads((tmp_path / "two" / "losses.json").read_text(encoding="utf-8"))
    one = losses(tmp_path / "one", 4)
    assert len(one) == len(two) == 4 and one == pytest.approx(two, abs=1e-3)


# accelerate takes sharding (FSDP) for granted on accelerators only; PyTorch can do it on processors, too.
SHARD_ON_PROCESSORS = """
import os
from accelerate.state import PartialState
from accelerate.utils import DistributedType

original = PartialState.__init__

def init(self, *args, **kwargs):
    original(self, *args, **kwargs)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU

PartialState.__init__ = init
"""


def finetune(tmp_path: Path, name: str, *launcher: str) -> dict[str, torch.Tensor]:
    """Two epochs of the paper's recipe in processes of their own; returns the expert's weights."""
    out = tmp_path / name
    command = ["-m", "training.fit.finetune", "--recipe", "paper", "--epochs", "2", "--no_distillation"]
    command += ["--modality", "ct"]
    command += ["--model", str(tmp_path / "checkpoint"), "--data", str(tmp_path / "data"), "--out", str(out)]
    (tmp_path / "site").mkdir(exist_ok=True)
    (tmp_path / "site" / "sitecustomize.py").write_text(SHARD_ON_PROCESSORS, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    environment |= {"PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1"}
    run = [sys.executable, *launcher, *command]
    done = subprocess.run(run, capture_output=True, text=True, env=environment, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Find with it:") == 1  # the first process alone writes how it ended
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["images"]["train"] == 3 and set(results["after"]["labels"]) == {"left kidney", "right kidney"}
    assert (out / "expert" / "modeling_medglip.py").is_file() and not list((out / "expert").glob("_fsdp*"))
    return load_file(out / "expert" / "model.safetensors")


@pytest.mark.distributed
def test_the_launch_files_train_the_same_expert(tmp_path: Path) -> None:
    checkpoint = save_tiny_checkpoint(tmp_path / "checkpoint")
    make_data(tmp_path / "data")
    weights = {}
    for kind, port in (("ddp", "29541"), ("fsdp", "29542")):
        launcher = ["-m", "accelerate.commands.launch", "--config_file", f"training/launch/{kind}.yaml"]
        launcher += ["--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no"]
        weights[kind] = finetune(tmp_path, kind, *launcher, "--main_process_port", port)
        sharded = (tmp_path / kind).joinpath("checkpoint-2", "pytorch_model_fsdp.bin").is_file()
        assert sharded == (kind == "fsdp")
    before, whole, sharded_weights = load_file(checkpoint / "model.safetensors"), weights["ddp"], weights["fsdp"]
    moved = max(float((value - before[key]).abs().max()) for key, value in whole.items())
    assert whole.keys() == sharded_weights.keys() and moved > 1e-4
    for key, value in whole.items():
        torch.testing.assert_close(sharded_weights[key], value, atol=0.01 * moved, rtol=0, msg=key)
