# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Command lines of `training.fit.finetune`, and what they print."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.fit.finetune import main


def command(checkpoint: Path, data: Path, out: Path, *more: str) -> list[str]:
    base = ["--model", str(checkpoint), "--data", str(data), "--modality", "ct", "--out", str(out)]
    return [*base, "--epochs", "2", "--batch", "2", *more]


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line
