# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The check from outside finds what is planted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dataset_scripts.verify import main, verify


def test_a_good_set(small_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = verify(small_set)
    assert not findings.faults and findings.boxes == findings.masks > 60 and findings.images > 20
    assert main([str(small_set), "--table", str(tmp_path / "table.md")]) == 0
    assert "0 faults" in capsys.readouterr().out
    assert "| abdomen_of_mine | " in (tmp_path / "table.md").read_text(encoding="utf-8")


def edit(out: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = out / "coco" / "ct" / "train.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def add_text(out: Path) -> None:
    path = next((out / "coco" / "ct" / "images").iterdir())
    text = PngInfo()
    text.add_text("a", "b")
    Image.open(path).save(path.with_suffix(".new.png"), pnginfo=text)
    path.with_suffix(".new.png").replace(path)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda out: edit(out, lambda c: c["annotations"][0]["bbox"].__setitem__(0, 1)), "its mask's"),
        (lambda out: edit(out, lambda c: c["annotations"][0]["bbox"].__setitem__(2, 900)), "the box ends outside"),
        (lambda out: edit(out, lambda c: c["annotations"][0].update(area=1.0)), "the area is not"),
        (lambda out: edit(out, lambda c: c["images"][0].update(sha256="0")), "another hash"),
        (lambda out: edit(out, lambda c: c["images"][0].update(width=9)), "another size"),
        (lambda out: edit(out, lambda c: c["images"].pop()), "differ in their images"),
        (add_text, "holds metadata (tEXt)"),
    ],
)
def test_planted_faults(small_set: Path, tmp_path: Path, spoil: Callable[[Path], None], fault: str) -> None:
    shutil.copytree(small_set, tmp_path / "set")
    spoil(tmp_path / "set")
    assert any(fault in line for line in verify(tmp_path / "set").faults)


def test_a_patient_in_two_splits(small_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(small_set, tmp_path / "set")
    held_out = json.loads((small_set / "coco" / "ct" / "validation.json").read_text(encoding="utf-8"))["images"][0][
        "patient"
    ]
    edit(tmp_path / "set", lambda c: c["images"][0].update(patient=held_out))
    assert main([str(tmp_path / "set")]) == 1
    assert f"patient {held_out} is in train and validation" in capsys.readouterr().err


def test_another_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2 and "is not a data set" in capsys.readouterr().err
