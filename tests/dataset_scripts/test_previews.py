# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Plots and contact sheets."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_scripts.build import build
from dataset_scripts.previews import CELL, draw_annotations, main, write_previews
from dataset_scripts.recipe import load_recipes

from .raw_data import write_polyps, write_recipes, write_volumes


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("raw")
    write_polyps(raw)
    write_volumes(raw)
    recipes = [recipe for path in write_recipes(raw) for recipe in load_recipes(path)]
    build(recipes, raw, raw / "set", echo=lambda text: None, previews=True)
    return raw / "set"


def test_every_source_has_a_sheet_and_every_count_a_plot(built: Path) -> None:
    assert {path.stem for path in (built / "contact_sheets").iterdir()} == {"polyps_of_mine", "abdomen_of_mine"}
    plots = {path.stem for path in (built / "statistics").glob("*.png")}
    assert plots == {"by_modality", "by_region", "by_source", "by_name", "areas", "masks_per_image"}
    for path in built.glob("*/*.png"):
        image = np.asarray(Image.open(path).convert("RGB"))
        assert min(image.shape[:2]) > 100 and len(np.unique(image.reshape(-1, 3), axis=0)) > 20


def test_again_gives_the_same_bytes(built: Path) -> None:
    before = {path: path.read_bytes() for path in built.glob("*/*.png")}
    assert sorted(write_previews(built)) == sorted(before)
    assert {path: path.read_bytes() for path in before} == before


def test_boxes_are_drawn_where_they_are() -> None:
    import io

    buffer = io.BytesIO()
    Image.new("L", (92, 46)).save(buffer, "PNG")
    factor = (CELL - 12) / 92
    objects = {"bbox": [[10.0, 20.0, 40.0, 20.0]], "category": [0], "segmentation": [""]}
    row = {"image": {"bytes": buffer.getvalue()}, "width": 92, "height": 46, "case": "abc", "plane": "", "index": -1}
    drawn = np.asarray(draw_annotations({**row, "objects": objects}, {0: "."}))[16:]
    _rows, columns = np.nonzero((drawn == [0xF0, 0xE4, 0x42]).all(axis=2)[round(20 * factor) :])
    assert (columns.min(), columns.max()) == (round(10 * factor), round(50 * factor) - 1)


def test_deep_ct_is_shown_through_the_usual_window() -> None:
    import io

    gray = np.full((46, 92), 1024 - 1000, np.uint16)
    gray[10:20, 10:20] = 1024 + 40
    for window, modality, low, high in (([-1024.0, 64511.0], "ct", 0, 127), ([], "mri", 5, 254)):
        buffer = io.BytesIO()
        Image.fromarray(gray).save(buffer, "PNG")
        row = {"image": {"bytes": buffer.getvalue()}, "width": 92, "height": 46, "case": "a", "plane": "", "index": -1}
        objects: dict[str, list[object]] = {"bbox": [], "category": [], "segmentation": []}
        drawn = np.asarray(draw_annotations({**row, "objects": objects, "window": window, "modality": modality}, {}))[
            16:
        ]
        factor = (CELL - 12) / 92
        assert abs(int(drawn[-5, -5, 0]) - low) <= 1
        assert abs(int(drawn[round(15 * factor), round(15 * factor), 0]) - high) <= 1


def test_command(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(built)]) == 0 and "8 images" in capsys.readouterr().out
    assert main([str(tmp_path)]) == 2 and "is not a data set" in capsys.readouterr().err


def test_the_old_name_of_the_command_works_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "dataset_scripts.pictures", raising=False)  # another test may have imported it
    with pytest.warns(FutureWarning, match="dataset_scripts.pictures is now dataset_scripts.previews"):
        pictures = importlib.import_module("dataset_scripts.pictures")
    assert pictures.main is main
