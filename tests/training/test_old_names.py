# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Old names of commands and modules, which keep working through one release."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from training.old_names import ESTIMATE_OPTIONS, EVALUATE_OPTIONS, RENAMED, new_options, with_new_keys


@pytest.mark.slow
def test_the_old_command_says_the_new_one() -> None:
    command = [sys.executable, "-m", "training.finetune", "--help"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root)
    assert done.returncode == 0 and "--lora" in done.stdout
    assert (
        "FutureWarning: python -m training.finetune is now python -m training.fit.finetune; the old name goes"
        in done.stderr
    )


@pytest.mark.parametrize("name", ["coco_records", "records"])
def test_old_modules(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"training.{name}", raising=False)
    with pytest.warns(FutureWarning, match=f"training.{name} has moved to training.data.{name}"):
        old = importlib.import_module(f"training.{name}")
    new = importlib.import_module(f"training.data.{name}")
    assert old.GroundingRecord is new.GroundingRecord


def test_the_old_name_of_the_reader(tmp_path: Path) -> None:
    Image.new("L", (8, 6)).save(tmp_path / "a.png")
    with pytest.warns(FutureWarning, match="read_picture is now read_image_file"):
        pixels = importlib.import_module("training.coco_records").read_picture(tmp_path / "a.png", (8, 6))
    assert pixels.shape == (6, 8)


@pytest.mark.parametrize(
    ("words", "renamed", "new"),
    [
        (["--mirror"], EVALUATE_OPTIONS, ["--flip-tta"]),
        (["--pictures", "a"], EVALUATE_OPTIONS, ["--worst-cases", "a"]),
        (["--pictures=9"], ESTIMATE_OPTIONS, ["--images=9"]),
        (["--no-remember"], RENAMED, ["--no_distillation"]),
    ],
)
def test_old_options(words: list[str], renamed: dict[str, str], new: list[str]) -> None:
    with pytest.warns(FutureWarning, match=f"{words[0].partition('=')[0]} is now {new[0].partition('=')[0]}"):
        assert new_options(words, renamed) == new
    assert new_options(new, renamed) == new


def test_old_keys_of_measurements() -> None:
    rows = {"pictures": {"train": 3}, "labels": {"liver": {"wrong": 1, "pictures": 8}}, "draws": [{"pictures": "ab"}]}
    assert with_new_keys(rows) == {
        "images": {"train": 3}, "labels": {"liver": {"wrong": 1, "images": 8}}, "draws": [{"images": "ab"}],
    }  # fmt: skip


def test_a_label_or_source_keeps_its_name() -> None:
    entries = {"labels": {"pictures": {"AP": 0.5}}, "sources": {"mirror": {"labels": {}}}}
    assert with_new_keys(entries) == entries
