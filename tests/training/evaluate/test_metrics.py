# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Average precision, sides and scores on made-up detections with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.vocabulary import Vocabulary
from training.evaluate.metrics import (
    Detections,
    annotated_only,
    average_precision,
    precision_recall,
    right_boxes,
    side_confusion,
    top_scores,
)

from ..tiny_data import record


LEFT, RIGHT = [60, 20, 80, 40], [20, 20, 40, 40]
KIDNEYS = record([LEFT, RIGHT], ["left kidney", "right kidney"], ["left kidney", "liver", "right kidney"])


def detections(*rows: tuple[str, float, list[float]]) -> Detections:
    boxes = np.array([box for _, _, box in rows], dtype=np.float32).reshape(-1, 4)
    return Detections(tuple(n for n, _, _ in rows), np.array([s for _, s, _ in rows], dtype=np.float32), boxes)


def test_perfect_boxes_score_one() -> None:
    result = detections(("left kidney", 0.9, LEFT), ("right kidney", 0.8, RIGHT))
    scores = average_precision([KIDNEYS], [result])
    assert set(scores) == {"left kidney", "right kidney"}
    assert all(score.ap == pytest.approx(1) and score.ap50 == pytest.approx(1) for score in scores.values())


def test_a_shifted_box_counts_at_half_overlap_only() -> None:
    shifted = detections(("left kidney", 0.9, [60, 25, 80, 45]))  # IoU 15 / 25 = 0.6
    scores = average_precision([KIDNEYS], [shifted], ["left kidney"])
    assert scores["left kidney"].ap50 == pytest.approx(1) and scores["left kidney"].ap == pytest.approx(0.3)


def test_a_better_scored_wrong_box_halves_the_precision() -> None:
    result = detections(("left kidney", 0.9, RIGHT), ("left kidney", 0.5, LEFT))
    assert average_precision([KIDNEYS], [result], ["left kidney"])["left kidney"].ap50 == pytest.approx(0.5)


def test_no_box_scores_zero_and_labels_without_annotations_are_left_out() -> None:
    assert average_precision([KIDNEYS], [detections()])["left kidney"].ap50 == 0
    assert average_precision([record([], [], ["liver"])], [detections(("liver", 0.9, LEFT))]) == {}


def test_boxes_of_labels_that_a_source_does_not_annotate_are_ignored() -> None:
    other = record([[1, 1, 9, 9]], ["spleen"])
    wrong = detections(("left kidney", 0.99, [1, 1, 30, 30]), ("spleen", 0.9, [1, 1, 9, 9]))
    result = detections(("left kidney", 0.5, LEFT))
    assert average_precision([KIDNEYS, other], [result, wrong], ["left kidney"])["left kidney"].ap50 == pytest.approx(
        1
    )
    annotated = record([[1, 1, 9, 9]], ["spleen"], ["left kidney", "spleen"])
    assert average_precision([KIDNEYS, annotated], [result, wrong], ["left kidney"])["left kidney"].ap50 < 0.6


def test_one_detection_list_per_record() -> None:
    with pytest.raises(ValueError, match="1 records but detections of 2"):
        average_precision([KIDNEYS], [detections(), detections()])


def test_left_taken_for_right() -> None:
    partner = Vocabulary.load().partner
    mixed_up = detections(("left kidney", 0.9, RIGHT), ("left kidney", 0.4, LEFT), ("right kidney", 0.9, RIGHT))
    lost = detections(("left kidney", 0.9, [0, 0, 5, 5]))
    only_one = record([LEFT], ["left kidney"], ["left kidney", "right kidney"])
    counts = side_confusion([KIDNEYS, KIDNEYS, only_one], [mixed_up, lost, mixed_up], partner)
    assert counts == {"left kidney": (1, 2), "right kidney": (0, 2)}


def test_best_scores_of_present_and_absent_labels() -> None:
    result = detections(("left kidney", 0.9, LEFT), ("left kidney", 0.2, RIGHT), ("liver", 0.1, LEFT))
    np.testing.assert_allclose(sorted(top_scores([KIDNEYS], [result], absent=False)), [0, 0.9], atol=1e-6)
    np.testing.assert_allclose(top_scores([KIDNEYS], [result], absent=True), [0.1], atol=1e-6)


def test_each_true_box_makes_one_box_right() -> None:
    target = record([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], ["polyp", "polyp", "liver"])
    boxes = detections(
        ("polyp", 0.9, [0, 0, 10, 11]),
        ("polyp", 0.8, [0, 0, 10, 10]),  # the same one again
        ("liver", 0.7, [20, 0, 30, 10]),  # another label's place
        ("polyp", 0.6, [20, 0, 30, 12]),
        ("liver", 0.5, [40, 0, 44, 10]),  # overlaps by less than half
        ("spleen", 0.4, [40, 0, 50, 10]),  # a label that is not there
    )
    assert right_boxes(target, boxes).tolist() == [True, False, False, True, False, False]


def test_nothing_to_find() -> None:
    assert right_boxes(record([], [], ["liver"]), detections(("liver", 0.9, [0, 0, 5, 5]))).tolist() == [False]


def test_precision_and_recall_at_a_threshold() -> None:
    targets = [record([[0, 0, 10, 10], [20, 0, 30, 10]], ["polyp", "polyp"]), record([], [], ["polyp"])]
    boxes = [
        detections(("polyp", 0.9, [0, 0, 10, 10]), ("polyp", 0.2, [20, 0, 30, 10])),
        detections(("polyp", 0.5, [0, 0, 5, 5])),
    ]
    assert precision_recall(targets, boxes, 0.3) == {
        "threshold": 0.3, "precision": 0.5, "recall": 0.5, "wrong_per_image": 0.5,
    }  # fmt: skip
    nothing = precision_recall(targets[1:], [detections(("polyp", 0.1, [0, 0, 5, 5]))], 0.3)
    assert nothing["precision"] is None and nothing["recall"] is None and nothing["wrong_per_image"] == 0


def test_boxes_of_labels_without_annotations_are_left_out() -> None:
    annotated = record([[0, 0, 10, 10]], ["liver"], ["liver"])
    boxes = np.array([[0, 0, 10, 10]] * 2, np.float32)
    result = Detections(("liver", "spleen"), np.array([0.9, 0.8], np.float32), boxes)
    (filtered,) = annotated_only([annotated], [result])
    assert (
        filtered.labels == ("liver",)
        and filtered.scores.tolist() == pytest.approx([0.9])
        and filtered.boxes.shape == (1, 4)
    )
