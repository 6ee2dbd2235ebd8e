# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Plots and contact sheets."""

from __future__ import annotations

import importlib
import io
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dataset_scripts.previews import CELL, draw_annotations, main, write_previews


@pytest.fixture(scope="module")
def built(small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built set with previews."""
    folder = shutil.copytree(small_set, tmp_path_factory.mktemp("previews") / "set")
    write_previews(folder)
    return folder


def preview_of(pixels: np.ndarray, names: dict[int, str], **columns: Any) -> np.ndarray:
    """The preview of an image without its caption."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    height, width = pixels.shape
    row = {
        "image": {"bytes": buffer.getvalue()},
        "width": width,
        "height": height,
        "case": "a",
        "plane": "",
        "index": -1,
    }
    return np.asarray(draw_annotations({**row, **columns}, names))[:-16]


def test_every_source_has_a_sheet_and_every_count_a_plot(built: Path) -> None:
    assert {path.stem for path in (built / "contact_sheets").iterdir()} == {"polyps_of_mine", "abdomen_of_mine"}
    plots = {path.stem for path in (built / "statistics").glob("*.png")}
    assert plots == {"by_modality", "by_region", "by_source", "by_name", "areas", "masks_per_image"}
    for path in built.glob("*/*.png"):
        image = np.asarray(Image.open(path).convert("RGB"))
        colors = np.unique(image.astype(np.int64) @ [1 << 16, 1 << 8, 1])
        assert min(image.shape[:2]) > 100 and len(colors) > 20


def test_the_command_writes_the_same_bytes_again(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in built.glob("*/*.png")}
    assert main([str(built)]) == 0 and f"{len(before)} images" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in built.glob("*/*.png")} == before


def test_boxes_are_drawn_where_they_are() -> None:
    factor = (CELL - 12) / 92
    objects = {"bbox": [[10.0, 20.0, 40.0, 20.0]], "category": [0], "segmentation": [""]}
    drawn = preview_of(np.zeros((46, 92), np.uint8), {0: "."}, objects=objects)
    _rows, columns = np.nonzero((drawn == [0xF0, 0xE4, 0x42]).all(axis=2)[round(20 * factor) :])
    assert (columns.min(), columns.max()) == (round(10 * factor), round(50 * factor) - 1)


@pytest.mark.parametrize(
    ("window", "modality", "low", "high"), [([-1024.0, 64511.0], "ct", 0, 127), ([], "mri", 5, 254)]
)
def test_deep_ct_is_shown_through_the_usual_window(window: list[float], modality: str, low: int, high: int) -> None:
    gray = np.full((46, 92), 1024 - 1000, np.uint16)
    gray[10:20, 10:20] = 1024 + 40
    objects: dict[str, list[object]] = {"bbox": [], "category": [], "segmentation": []}
    drawn = preview_of(gray, {}, objects=objects, window=window, modality=modality)
    center = round(15 * (CELL - 12) / 92)
    assert abs(int(drawn[-5, -5, 0]) - low) <= 1
    assert abs(int(drawn[center, center, 0]) - high) <= 1


def test_another_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2 and "is not a data set" in capsys.readouterr().err


def test_the_old_name_of_the_command_works_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "dataset_scripts.pictures", raising=False)  # another test may have imported it
    with pytest.warns(FutureWarning, match="dataset_scripts.previews; the old name goes with the next release"):
        pictures = importlib.import_module("dataset_scripts.pictures")
    assert pictures.main is main
