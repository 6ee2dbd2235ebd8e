# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Images that are trained on in one data set and held out in another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.data.records import GroundingRecord
from training.data.split_leakage import check_apart

from ..tiny_data import record


def _record(source: str, split: str, patient: str, gray: int) -> GroundingRecord:
    pixels = np.full((8, 8), gray, np.uint8)
    pixels[0] = 0  # an empty image is not evidence
    return replace(record([], [], ["liver"], source, pixels=pixels, patient=patient), split=split)


def test_patients_of_one_source() -> None:
    with pytest.raises(ValueError, match="1 patients are trained on in one of --data and --replay and held out"):
        check_apart([_record("a", "validation", "x", 1)], [_record("a", "train", "x", 2)])


def test_the_same_image_under_another_source() -> None:
    new, older = _record("mine", "validation", "x", 1), _record("older", "train", "x", 1)
    for first, second in ((new, older), (older, new)):
        with pytest.raises(ValueError, match="1 images are trained on in one of --data and --replay and held out"):
            check_apart([first], [second])


def test_the_same_name_alone_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    check_apart([_record("mine", "validation", "x", 1)], [_record("older", "train", "x", 2)])
    assert "1 patients of --data and --replay have the same name" in caplog.text
    caplog.clear()
    check_apart([_record("mine", "validation", "x", 1)], [_record("older", "train", "y", 2)])
    assert not caplog.records


def test_the_same_image_under_another_name_and_in_color() -> None:
    new, older = _record("mine", "validation", "x", 1), _record("older", "train", "3f9a", 1)
    with pytest.raises(ValueError, match="1 images are trained on"):
        check_apart([new], [older])
    color = replace(older, loader=lambda: np.repeat(older.load()[..., None], 3, axis=2))
    with pytest.raises(ValueError, match="1 images are trained on"):
        check_apart([new], [color])


def test_an_empty_frame_is_not_evidence() -> None:
    new, older = _record("mine", "validation", "x", 0), _record("older", "train", "y", 0)
    check_apart([new], [older])


def test_file_names_are_not_patients(caplog: pytest.LogCaptureFixture) -> None:
    new, older = _record("images", "validation", "1.png", 1), _record("images", "train", "1.png", 2)
    unnamed = [replace(each, image_id="1.png") for each in (new, older)]
    check_apart(unnamed[:1], unnamed[1:])
    assert not caplog.records
    with pytest.raises(ValueError, match="give their images another source"):
        check_apart([new], [older])
