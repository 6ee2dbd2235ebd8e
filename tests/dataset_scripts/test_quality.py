# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The rules and their counts."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import dataset_scripts
from dataset_scripts.quality import EXPECTED, PROFILES, RULES, count_rejections, is_mask_like
from dataset_scripts.records import Rejection


def test_every_rule_that_the_code_names_is_described() -> None:
    folder = Path(dataset_scripts.__file__).parent
    text = "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    named = set(re.findall(r'(?:Rejected|reject)\("(\w+)"', text)) | set(re.findall(r'report\([^"\n]*"(\w+)"', text))
    assert named and named <= set(RULES)
    assert set(RULES) >= EXPECTED and {tier for tier, _ in RULES.values()} == {1, 2, 3}


def test_profiles() -> None:
    assert {"none": 0.0, "sa_med2d": pytest.approx(0.00153, abs=1e-5), "paper": 0.015} == PROFILES


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.zeros((9, 9), np.uint8), True),
        (np.eye(9, dtype=np.uint8) * 255, True),
        (np.repeat((np.eye(9, dtype=np.uint8) * 7)[..., None], 3, axis=2), True),
        (np.arange(81, dtype=np.uint8).reshape(9, 9), False),
    ],
)
def test_masks_among_the_images(pixels: np.ndarray, expected: bool) -> None:
    assert is_mask_like(pixels) is expected


def test_counts_follow_the_order_of_the_rules() -> None:
    rows = [
        Rejection(source, "c", "", rule)
        for source, rule in (("b", "min_area"), ("a", "unreadable"), ("a", "min_area"))
    ]
    assert list(count_rejections(rows).items()) == [("unreadable", {"a": 1}), ("min_area", {"a": 1, "b": 1})]
