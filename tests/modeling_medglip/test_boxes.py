# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Overlap of boxes: hand-made values, and the same as torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou as torchvision_iou

from modeling_medglip.boxes import box_iou, containment, intersection, iou, share_inside


@pytest.mark.parametrize(
    ("first", "other", "common", "union", "share"),
    [
        ((0, 0, 2, 2), (1, 1, 3, 3), 1, 7, 1 / 4),
        ((0, 0, 4, 4), (1, 1, 2, 2), 1, 16, 1.0),
        ((0, 0, 1, 1), (1, 0, 2, 1), 0, 2, 0.0),
        ((0, 0, 0, 2, 2, 2), (1, 1, 1, 3, 3, 3), 1, 15, 1 / 8),
        ((0, 0, 0, 0), (0, 0, 0, 0), 0, 1, 0.0),
    ],
)
def test_two_boxes(
    first: tuple[float, ...], other: tuple[float, ...], common: float, union: float, share: float
) -> None:
    assert intersection(first, other) == intersection(other, first) == common
    assert iou(first, other) == iou(other, first) == pytest.approx(common / union)
    assert containment(first, other) == containment(other, first) == pytest.approx(share)


@pytest.mark.parametrize(
    ("box", "other", "share"),
    [
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 4),
        ((1, 1, 2, 2), (0, 0, 4, 4), 1.0),
        ((0, 0, 4, 4), (1, 1, 2, 2), 1 / 16),
        ((0, 0, 0, 2, 2, 2), (1, 1, 1, 3, 3, 9), 1 / 8),
        ((1, 1, 1, 2), (0, 0, 4, 4), 0.0),
    ],
)
def test_share_of_the_first_box(box: tuple[float, ...], other: tuple[float, ...], share: float) -> None:
    assert share_inside(box, other) == pytest.approx(share)


def test_many_boxes() -> None:
    rng = np.random.default_rng(0)
    first, second = (np.sort(rng.uniform(0, 50, (count, 2, 2)), axis=1).reshape(count, 4) for count in (7, 5))
    expected = torchvision_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    assert expected.max() > 0.2
    np.testing.assert_allclose(box_iou(first, second), expected, rtol=1e-12)
    np.testing.assert_allclose(box_iou(first, second), [[iou(a, b) for b in second] for a in first], rtol=1e-12)
    assert box_iou(first[:0], second).shape == (0, 5)
