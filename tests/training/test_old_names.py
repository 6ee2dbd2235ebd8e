# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Old names of commands and modules, which keep working through one release."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_old_command_says_the_new_one() -> None:
    command = [sys.executable, "-m", "training.finetune", "--help"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root)
    assert done.returncode == 0 and "--lora" in done.stdout
    assert "FutureWarning: python -m training.finetune is now python -m training.fit.finetune" in done.stderr


@pytest.mark.parametrize("name", ["coco_records", "records"])
def test_old_modules(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"training.{name}", raising=False)
    with pytest.warns(FutureWarning, match=f"training.{name} has moved to training.data.{name}"):
        old = importlib.import_module(f"training.{name}")
    new = importlib.import_module(f"training.data.{name}")
    assert old.GroundingRecord is new.GroundingRecord
