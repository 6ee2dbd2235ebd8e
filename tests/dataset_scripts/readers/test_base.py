# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What all readers share: patients, splits, pixels, and patterns of file names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataset_scripts.readers import READERS
from dataset_scripts.readers.base import read_pixels, stem_of
from dataset_scripts.records import Rejected

from .reading import GRAY, MASK, reader, save


FILES = {"image": "images/*.png", "mask": "masks/{stem}.png", "label": "polyp"}


def test_patients_and_splits(tmp_path: Path) -> None:
    for name in ("p1_a", "p1_b", "p2_a"):
        save(tmp_path / "images" / f"{name}.png", GRAY)
        save(tmp_path / "masks" / f"{name}.png", MASK)
    fields = {"patient": r"/(p\d)_", "splits": {"test": ["p2*"], "train": ["images/p1_a*"]}}
    cases = reader(tmp_path, "mask_folder", FILES, **fields).cases()
    assert [(case.key, case.patient, case.split) for case in cases] == [
        ("images/p1_a.png", "p1", "train"), ("images/p1_b.png", "p1", None), ("images/p2_a.png", "p2", "test"),
    ]  # fmt: skip


def test_wrong_recipes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose one of coco, csv_boxes, dicom_series"):
        reader(tmp_path, "nonsense", {})
    with pytest.raises(ValueError, match="there is no folder 'gone'"):
        reader(tmp_path, "manifest", {"manifest": "a"}, root="gone")
    for layout, kind in READERS.items():
        with pytest.raises(ValueError, match=f"layout {layout} needs files: {kind.needs[0]}"):
            reader(tmp_path, layout, {})


def test_pixels_keep_their_depth(tmp_path: Path) -> None:
    deep = GRAY.astype(np.uint16) * 200
    save(tmp_path / "deep.png", deep)
    save(tmp_path / "clear.png", np.dstack([GRAY] * 4))
    assert np.array_equal(read_pixels(tmp_path / "deep.png"), deep)
    assert read_pixels(tmp_path / "clear.png").shape == (20, 30, 3)
    for array, rule in (
        (np.array([[np.nan, 1]], np.float32), "not_finite"),
        (np.array([[-1, 1]], np.int32), "unreadable"),
    ):
        save(tmp_path / "floats.tif", array)
        with pytest.raises(Rejected) as error:
            read_pixels(tmp_path / "floats.tif")
        assert error.value.rule == rule


def test_decompression_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "big.png", GRAY)
    monkeypatch.setattr("modeling_medglip.io.image_record.MAX_PIXELS", 599)
    with pytest.raises(Rejected) as error:
        read_pixels(tmp_path / "big.png")
    assert error.value.rule == "too_large" and "600 pixels (30x20)" in error.value.value


def test_stems() -> None:
    assert stem_of(Path("x/a_image.nii.gz"), "*/*_image.nii.gz") == "a"
    assert stem_of(Path("x/ct.nii.gz"), "*/ct.nii.gz") == ""
    assert stem_of(Path("x/other.png"), "*.jpg") == "other"
    assert stem_of(Path("x/amos_0507.nii.gz"), "images*/amos_0[5-6]*.nii.gz") == "507"
    assert stem_of(Path("a[1].png"), "a[[]?].png") == "[1"
    assert stem_of(Path("b7.png"), "[!a]*.png") == "b7" and stem_of(Path("a7.png"), "[!a]*.png") == "a7"
