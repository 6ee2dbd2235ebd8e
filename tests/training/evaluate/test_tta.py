# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Detections in an image, averaged with those in its flipped copy or in inputs of other sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.records import SourceSettings
from training.evaluate import evaluation, tta
from training.evaluate.metrics import Detections
from training.evaluate.tta import average_detections, flipped, scaled, unflipped

from ...modeling_medglip.tiny_processor import tiny_processor
from ..tiny_data import record


WIDTH = 100


def detections(*rows: tuple[str, float, list[float]]) -> Detections:
    labels, scores, boxes = (tuple(row[part] for row in rows) for part in range(3))
    return Detections(labels, np.array(scores, np.float32), np.array(boxes, np.float32).reshape(-1, 4))


def as_flipped(detections: Detections) -> Detections:
    x1, y1, x2, y2 = detections.boxes.T
    return replace(detections, boxes=np.stack([WIDTH - x2, y1, WIDTH - x1, y2], axis=1))


def rows(detections: Detections) -> list[tuple[str, float, list[float]]]:
    values = zip(detections.labels, detections.scores.tolist(), detections.boxes.tolist(), strict=True)
    return [(label, round(score, 4), [round(side, 3) for side in box]) for label, score, box in values]


def test_a_record_shows_its_image_left_for_right() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    whole = record([[1, 1, 2, 2]], ["polyp"], pixels=pixels)
    np.testing.assert_array_equal(flipped(whole).load(), pixels[:, ::-1])
    np.testing.assert_array_equal(flipped(flipped(whole)).load(), pixels)


def test_boxes_that_meet_are_averaged_by_their_scores() -> None:
    first = detections(("polyp", 0.9, [10, 10, 30, 30]))
    second = as_flipped(detections(("polyp", 0.3, [14, 10, 34, 30])))
    assert rows(average_detections(first, unflipped(second, WIDTH))) == [("polyp", 0.6, [11, 10, 31, 30])]


def test_boxes_of_one_side_keep_half_their_score_and_the_surest_comes_first() -> None:
    first = detections(("polyp", 0.4, [10, 10, 30, 30]), ("polyp", 0.2, [60, 60, 70, 70]))
    second = as_flipped(detections(("polyp", 0.8, [10, 40, 30, 60]), ("tool", 0.4, [10, 10, 30, 30])))
    assert rows(average_detections(first, unflipped(second, WIDTH))) == [
        ("polyp", 0.4, [10, 40, 30, 60]),
        ("polyp", 0.2, [10, 10, 30, 30]),
        ("tool", 0.2, [10, 10, 30, 30]),
        ("polyp", 0.1, [60, 60, 70, 70]),
    ]


def test_a_box_has_one_partner_the_surest_chooses_first() -> None:
    first = detections(("polyp", 0.5, [10, 10, 30, 30]), ("polyp", 0.9, [11, 10, 31, 30]))
    second = as_flipped(detections(("polyp", 0.7, [10, 10, 30, 30])))
    assert [score for _, score, _ in rows(average_detections(first, unflipped(second, WIDTH)))] == pytest.approx(
        [0.8, 0.25]
    )


@pytest.mark.parametrize("first", [detections(), detections(("polyp", 0.0, [1, 1, 5, 5]))])
def test_nothing_or_no_score(first: Detections) -> None:
    assert rows(average_detections(first, detections())) == rows(first)
    assert len(rows(average_detections(first, unflipped(as_flipped(first), WIDTH)))) == len(first.labels)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]), st.sampled_from([0.25, 0.5, 1.0]), st.integers(0, 4), st.integers(0, 4)
        ),
        max_size=8,
        unique_by=lambda row: row[2:],
    )
)
def test_twice_the_same_changes_nothing(drawn: list[tuple[str, float, int, int]]) -> None:
    first = detections(*((label, score, [20 * x, 20 * y, 20 * x + 15, 20 * y + 15]) for label, score, x, y in drawn))
    assert sorted(rows(average_detections(first, unflipped(as_flipped(first), WIDTH)))) == sorted(rows(first))


def test_only_sources_that_may_be_flipped_are(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((80, WIDTH), np.uint8)
    pixels[:, 20] = 9
    free = record([[10, 10, 30, 30]], ["polyp"], pixels=pixels, settings=SourceSettings(horizontal_flip=True))
    sided = record([[10, 10, 30, 30]], ["left kidney"], pixels=pixels)

    def detect(model: Any, processor: Any, records: Any, prompts: Any, size: int) -> tuple[list[Detections], float]:
        bright = [float(r.load()[0].argmax()) for r in records]  # a box beside the bright column, in either image
        one = zip(prompts, bright, strict=True)
        return [detections((names[0], 0.5, [x - 10, 10, x + 10, 30])) for names, x in one], 1.0

    monkeypatch.setattr(tta, "detect_records", detect)
    both, seconds = tta.detect_with_flips(None, None, [sided, free], [["left kidney"], ["polyp"]])
    assert rows(both[0]) == [("left kidney", 0.5, [10, 10, 30, 30])] and seconds == 1.5
    assert rows(both[1]) == [("polyp", 0.5, [10.5, 10, 30.5, 30])]  # column 20 is column 79 of the flipped image


def test_two_sizes_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A box is at the same place in both; the larger input is surer of it."""

    def detect(model: Any, processor: Any, records: Any, prompts: Any, size: int) -> tuple[list[Detections], float]:
        side = processor.image_processor.modality_settings["ct"]["size"]["height"]
        return [detections(("polyp", side / 1000, [10, 10, 30, 30]))] * len(records), side / 1000

    monkeypatch.setattr(tta, "detect_records", detect)
    processor = tiny_processor()
    processor.image_processor.set_modality("ct", 512)
    both, seconds = tta.detect_at_scales(None, processor, [record([[10, 10, 30, 30]], ["polyp"])], [["polyp"]])
    assert rows(both[0]) == [("polyp", (0.384 + 0.672) / 2, [10, 10, 30, 30])]
    assert seconds == pytest.approx(0.384 + 0.672)
    assert processor.image_processor.modality_settings["ct"]["size"] == {"height": 512, "width": 512}
    tiny = scaled(processor, 0.001).image_processor.modality_settings["ct"]["size"]
    assert tiny == {"height": 32, "width": 32}, "never smaller than one cell"


@pytest.mark.parametrize(("longest", "expected"), [(None, None), (1333, 1024)])
def test_sizes_of_edges(longest: int | None, expected: int | None) -> None:
    processor = tiny_processor()
    size = {"shortest_edge": 800, "longest_edge": longest}
    processor.image_processor.modality_settings["ct"]["size"] = size
    changed = scaled(processor, 0.77)
    assert changed.image_processor.modality_settings["ct"]["size"] == {"shortest_edge": 608, "longest_edge": expected}
    pixels = changed(images=np.zeros((80, 100), np.uint8), text="polyp.", modality="ct")["pixel_values"]
    assert tuple(pixels.shape[-2:]) == (608, 768)


def test_every_number_is_of_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may be in no image, and other wordings, are asked as the labels are."""
    item = record([[10, 10, 30, 30]], ["polyp"], modality="endoscopy", settings=SourceSettings(regions=("bowel",)))
    asked: list[tuple[str, ...]] = []

    def ways(model: Any, processor: Any, records: Any, prompts: Any, batch_size: int) -> Any:
        asked.extend(map(tuple, prompts))
        return [detections(*((name, 0.5, [10, 10, 30, 30]) for name in names)) for names in prompts], 1.0

    monkeypatch.setattr(evaluation, "detect_with_flips", ways)
    checks = [{"source": "made_up", "label": "polyp", "wordings": ["polypoid lesion"]}]
    results = evaluation.evaluate_modality(None, None, [item], [], ["liver"], checks, 4, flip_tta=True)
    assert asked == [("polyp",), ("liver",), ("polypoid lesion",)]
    assert [row["AP50"] for row in results["synonyms"]] == pytest.approx([1.0, 1.0]) and results["scores"][
        "foreign"
    ] == 0.5
