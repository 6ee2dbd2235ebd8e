# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Two processes train as one does: the same losses, step by step."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.trainer import GroundingTrainer, train_expert

from .test_trainer import OPTIMISATION, RECIPE, Squares, collate, frozen


ROOT = Path(__file__).resolve().parents[2]


def losses(out: Path, batch: int) -> list[float]:
    """Losses of every step of two epochs with so many pictures per device."""
    recipe = dataclasses.replace(RECIPE, batch=batch)
    trainer: GroundingTrainer = train_expert(
        frozen(), Squares(), collate, recipe, OPTIMISATION, out, logging_steps=1, save_strategy="no"
    )
    return [float(row["loss"]) for row in trainer.state.log_history if "loss" in row]


def main(out: str, batch: str) -> None:
    """Run by every process of the launcher."""
    found = losses(Path(out), int(batch))
    if os.environ.get("RANK", "0") == "0":
        (Path(out) / "losses.json").write_text(json.dumps(found), encoding="utf-8")


@pytest.mark.distributed
def test_two_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.training.test_distributed import main; "
    (tmp_path / "run.py").write_text(f"{code}main({str(tmp_path / 'two')!r}, '2')\n", encoding="utf-8")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", str(tmp_path / "run.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "MASTER_PORT": "29531"}
    done = subprocess.run(launcher, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads((tmp_path / "two" / "losses.json").read_text(encoding="utf-8"))
    one = losses(tmp_path / "one", 4)
    assert len(one) == len(two) == 4 and one == pytest.approx(two, abs=1e-3)
