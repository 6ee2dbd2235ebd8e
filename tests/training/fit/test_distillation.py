# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Detections of the model become annotations of the new images, where they are certain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.evaluate.metrics import Detections
from training.fit import distillation
from training.fit.distillation import known_labels, with_known

from ..tiny_data import record


def found(scores: list[float], boxes: list[list[float]]) -> Detections:
    return Detections(
        ("liver",) * len(scores), np.array(scores, np.float32), np.array(boxes, np.float32).reshape(-1, 4)
    )


@pytest.mark.parametrize(
    ("scores", "boxes", "taken", "annotated"),
    [
        ([0.8], [[1, 1, 9, 9]], 1, True),  # sure
        ([0.8, 0.7], [[1, 1, 9, 9], [20, 20, 40, 40]], 2, True),
        ([0.8, 0.3], [[1, 1, 9, 9], [20, 20, 40, 40]], 1, True),  # another one, but far worse
        ([0.6, 0.45], [[1, 1, 9, 9], [20, 20, 40, 40]], 0, False),  # another one that may be right too
        ([0.6, 0.45], [[1, 1, 9, 9], [1, 1, 9, 8]], 1, True),  # the same one again
        ([0.3], [[1, 1, 9, 9]], 0, False),  # unsure
        ([0.05], [[1, 1, 9, 9]], 0, False),  # weak labels are often there all the same
        ([], [], 0, False),
    ],
)
def test_what_is_believed(
    monkeypatch: pytest.MonkeyPatch, scores: list[float], boxes: list[list[float]], taken: int, annotated: bool
) -> None:
    asked: list[Any] = []

    def detect(model: Any, processor: Any, records: Any, prompts: Any, batch_size: int) -> Any:
        asked.extend(prompts)
        return [found(scores, boxes) for _ in records], 0.0

    class Model:
        def eval(self) -> None:
            """As a module."""

    monkeypatch.setattr(distillation, "detect_records", detect)
    item = record([[50, 50, 60, 60]], ["spleen"], ["spleen"])
    (extended,) = with_known(Model(), None, [item], ["liver", "spleen"])
    assert asked == [["liver"]], "labels that its source annotates are not asked"
    assert extended.labels == ("spleen", *("liver",) * taken) and len(extended.boxes) == 1 + taken
    assert ("liver" in extended.annotated) == annotated and "spleen" in extended.annotated
    assert with_known(Model(), None, [item], ["spleen"]) == [item]


def test_the_same_label_in_other_words_is_left_to_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Model:
        def eval(self) -> None:
            """As a module."""

    def detect(model: Any, processor: Any, records: Any, prompts: Any, batch_size: int) -> Any:
        asked.extend(prompts)
        return [found([], []) for _ in records], 0.0

    monkeypatch.setattr(distillation, "detect_records", detect)
    item = record([[50, 50, 60, 60]], [" Livers"], [" Livers", "urinary_bladder", "Disk"])
    with_known(Model(), None, [item], ["liver", "urinary bladder", "disc", "bladder", "spleen"])
    assert asked == [["spleen"]]


def test_general_terms_of_annotated_labels_are_not_asked() -> None:
    item = record([[50, 50, 60, 60]], ["left kidney"], ["left kidney", "right kidney"])
    assert distillation._not_annotated(item, ["kidney", "right kidney", "liver"]) == ["liver"]
    assert distillation._not_annotated(record([], [], ["polyp"]), ["lesion", "colorectal polyp", "liver"]) == ["liver"]


def test_known_labels() -> None:
    config = type("Config", (), {"label_hierarchy": {"trained_labels": {"ct": ["liver"]}}})()
    assert known_labels(config, "ct") == ["liver"] and known_labels(config, "mri") == []
    assert known_labels(type("Config", (), {"label_hierarchy": None})(), "ct") == []
