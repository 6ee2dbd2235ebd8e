# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Two builds never write into one folder, and a killed one leaves no lock behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dataset_scripts.build import main
from dataset_scripts.locks import locked

from .raw_data import write_polyps, write_recipes


HOLD = """
import sys, pathlib
from dataset_scripts.locks import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock of a folder until its input ends."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], text=True, **pipes)  # type: ignore[call-overload]
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_build_is_refused_and_a_killed_one_releases_its_lock(tmp_path: Path) -> None:
    with holder(tmp_path / "set") as process:
        message = f"^set: another build .process {process.pid}. writes into this folder"
        with pytest.raises(ValueError, match=message), locked(tmp_path / "set"):
            pass
        process.kill()
    with locked(tmp_path / "set"):
        assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("name", ["set", "set.work"])
def test_a_build_into_a_folder_that_is_written(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    write_polyps(raw)
    recipe = next(path for path in write_recipes(raw) if path.stem == "polyps")
    command = ["--recipe", str(recipe), "--raw", str(raw), "--out", str(tmp_path / "set"), "--no-previews"]
    with locked(tmp_path / name):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {name}: another build (process ") and error.count("\n") == 1
        assert not (tmp_path / "set").exists()
