# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What several tests of the command line share: a tiny checkpoint, and `medglip ground` on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modeling_medglip import cli

from .tiny_checkpoint import save_tiny_checkpoint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny"))


@pytest.fixture
def ground(tiny: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`medglip ground` with the outputs in the test's folder; returns status, output, errors."""

    def run(*arguments: object, prompt: str = "liver", threshold: float = 0.0) -> tuple[int, str, str]:
        given = ["--no-isolate", "--model", tiny, "--modality", "ct", "--threshold", threshold]
        given += ["--untrained-threshold", threshold, "--out", tmp_path / "out"]
        given += ["--prompt", prompt] if prompt else []
        status = cli.main([str(a) for a in ("ground", *arguments, *given)])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run
