# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Boxes of slices become boxes in space."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_medglip.volumes.linking import SliceBox, Tracklet, link_slices


LEFT, RIGHT = (10.0, 20.0, 30.0, 40.0), (60.0, 20.0, 80.0, 40.0)


def column(slices: range | list[int], box: tuple[float, ...] = LEFT, score: float = 0.8) -> list[SliceBox]:
    return [SliceBox(index, (box[0], box[1], box[2], box[3]), score) for index in slices]


def spans(tracklets: list[Tracklet]) -> list[tuple[int, int]]:
    return [(tracklet.first, tracklet.last) for tracklet in tracklets]


def test_boxes_over_each_other_are_one() -> None:
    (tracklet,) = link_slices(column(range(3, 9)))
    assert (tracklet.first, tracklet.last, tracklet.extent) == (3, 8, LEFT) and tracklet.score == pytest.approx(0.8)
    assert len(tracklet.best) == 3


def test_what_does_not_touch_stays_apart() -> None:
    tracklets = link_slices([*column(range(0, 6), LEFT, 0.9), *column(range(2, 9), RIGHT, 0.7)])
    assert spans(tracklets) == [(0, 5), (2, 8)] and [tracklet.extent for tracklet in tracklets] == [LEFT, RIGHT]


@pytest.mark.parametrize(("gap", "expected"), [(0, [(0, 2), (5, 7)]), (1, [(0, 2), (5, 7)]), (2, [(0, 7)])])
def test_gaps_are_bridged_as_far_as_asked(gap: int, expected: list[tuple[int, int]]) -> None:
    assert sorted(spans(link_slices(column([0, 1, 2, 5, 6, 7]), gap))) == expected


def test_a_structure_that_moves_and_grows_is_followed() -> None:
    boxes = [SliceBox(n, (10.0 + 4 * n, 20.0, 30.0 + 5 * n, 40.0 + n), 0.8) for n in range(10)]
    (tracklet,) = link_slices(boxes)
    assert (tracklet.first, tracklet.last) == (0, 9) and tracklet.extent == (10.0, 20.0, 75.0, 49.0)


def test_faint_ends_are_cut_and_faint_middles_are_not() -> None:
    scores = [0.1, 0.2, 0.9, 0.2, 0.9, 0.3, 0.1]
    boxes = [SliceBox(number, LEFT, score) for number, score in enumerate(scores)]
    (tracklet,) = link_slices(boxes)
    assert (tracklet.first, tracklet.last) == (2, 4) and tracklet.score == pytest.approx(0.9)


def test_a_single_slice_is_not_a_structure_where_two_are_asked() -> None:
    assert link_slices(column([4]), min_slices=2) == [] and spans(link_slices(column([4]), min_slices=1)) == [(4, 4)]


def test_parts_that_go_on_in_each_other_are_joined() -> None:
    upper, lower = (10.0, 10.0, 50.0, 50.0), (35.0, 20.0, 65.0, 45.0)
    (tracklet,) = link_slices([*column(range(5, 9), upper, 0.9), *column(range(0, 6), lower, 0.8)])
    assert (tracklet.first, tracklet.last) == (0, 8) and tracklet.extent == (10.0, 10.0, 65.0, 50.0)


def test_much_fainter_alternatives_are_left_out() -> None:
    beside = (15.0, 22.0, 36.0, 44.0)
    tracklets = link_slices([*column(range(0, 6), LEFT, 0.9), *column(range(1, 5), beside, 0.2)])
    assert spans(tracklets) == [(0, 5)] and tracklets[0].extent == LEFT


def test_fainter_guesses_at_the_same_thing_take_nothing_over() -> None:
    outer, inner = (62.0, 115.0, 114.0, 171.0), (67.0, 121.0, 108.0, 164.0)
    between = (65.0, 124.0, 106.0, 162.0)  # nearer to the faint guesses than to the structure before
    boxes = [*column(range(0, 6), outer, 0.8), *column(range(0, 6), inner, 0.2), *column(range(6, 9), between, 0.9)]
    (tracklet,) = link_slices(boxes)
    assert (tracklet.first, tracklet.last, tracklet.extent) == (0, 8, outer)


def test_without_boxes_there_are_no_tracklets() -> None:
    assert link_slices([]) == []


@given(seed=st.integers(0, 10**6))
def test_the_order_of_the_boxes_plays_no_part_and_nothing_is_made_up(seed: int) -> None:
    chance = random.Random(seed)
    boxes = []
    for _ in range(chance.randint(1, 25)):
        x, y = chance.uniform(0, 60), chance.uniform(0, 60)
        size = chance.uniform(5, 30), chance.uniform(5, 30)
        boxes.append(SliceBox(chance.randint(0, 8), (x, y, x + size[0], y + size[1]), chance.random()))
    tracklets = link_slices(boxes, gap=1)
    shuffled = list(boxes)
    chance.shuffle(shuffled)
    assert {(c.first, c.last, c.extent) for c in link_slices(shuffled, gap=1)} == {
        (c.first, c.last, c.extent) for c in tracklets
    }
    for tracklet in tracklets:
        x1, _y1, x2, _y2 = tracklet.extent
        assert min(b.box[0] for b in boxes) <= x1 < x2 <= max(b.box[2] for b in boxes)
        assert 0 <= tracklet.first <= tracklet.last <= 8 and 0 <= tracklet.score <= 1
        indices = [box.index for box in tracklet.boxes]
        assert indices == sorted(set(indices))


@pytest.mark.parametrize(("shift", "tracklets"), [(5.2, 1), (5.5, 2), (6.6, 2)])
def test_boxes_belong_together_from_an_iou_of_three_tenths(shift: float, tracklets: int) -> None:
    """Squares of 10 pixels that are moved by this much: IoU 0.32, 0.29 and 0.20, less than half in common."""
    boxes = [SliceBox(0, (0.0, 0.0, 10.0, 10.0), 0.8), SliceBox(1, (shift, 0.0, 10.0 + shift, 10.0), 0.8)]
    assert len(link_slices(boxes)) == tracklets


@pytest.mark.parametrize(("overlap", "last"), [(6, 2), (8, 5)])
def test_boxes_inside_others_belong_together_from_a_share_of_seven_tenths(overlap: int, last: int) -> None:
    """Of a faint smaller box this many tenths lie in the larger one; the IoU is below 0.3 in both cases."""
    larger, smaller = (0.0, 0.0, 20.0, 20.0), (20.0 - overlap, 0.0, 30.0 - overlap, 10.0)
    (tracklet,) = link_slices([*column(range(3), larger, 0.9), *column(range(3, 6), smaller, 0.45)])
    assert (tracklet.first, tracklet.last) == (0, last)
