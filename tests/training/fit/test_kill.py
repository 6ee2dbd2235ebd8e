# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A run that is killed without a word, between two checkpoints, ends with the weights of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint

from ..tiny_data import make_data


EPOCHS = 12


@pytest.mark.slow
@pytest.mark.parametrize("kind", [[], ["--lora"]], ids=["full", "lora"])
def test_a_killed_run_goes_on(tmp_path: Path, kind: list[str]) -> None:
    checkpoint, data = save_tiny_checkpoint(tmp_path / "checkpoint"), make_data(tmp_path / "data")

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "training.fit.finetune", "--model", str(checkpoint), "--data", str(data)]
        command += ["--modality", "ct", "--size", "64", "--batch", "1", "--epochs", str(EPOCHS), "--threads", "1"]
        return subprocess.Popen([*command, *kind, "--no_distillation", "--out", str(out)], stderr=subprocess.DEVNULL)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait() == 0
    run = start(killed)
    end = time.monotonic() + 120
    while not any(killed.glob("checkpoint-*/trainer_state.json")) and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL, "it had ended before it was killed"
    assert not (killed / "results.json").exists()
    assert start(killed).wait() == 0
    (first,) = [path for path in whole.glob("*/*model.safetensors") if path.parent.name in ("expert", "adapter")]
    tensors, other = load_file(first), load_file(killed / first.parent.name / first.name)
    assert tensors.keys() == other.keys() and all(bool((tensors[name] == other[name]).all()) for name in tensors)
