# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Parts of the network against plain formulations: deformable convolution, attention, segments, grids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

import modeling_medglip  # noqa: F401  (registers the Auto classes)
from modeling_medglip.modeling_medglip import (
    MedGlipForObjectDetection,
    assign_atss,
    deform_conv_by_sampling,
    group_images,
    label_segments,
    mask_extents,
    resolve_image_sizes,
    segment_positions,
)

from .tiny_model import DOT, tiny_model


@pytest.fixture(scope="module")
def model() -> MedGlipForObjectDetection:
    return tiny_model()


def textbook_attention(attention: Any, visual: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """GLIP's formulation, with all projections of the regions."""
    split = attention._split
    query, key = split(attention.v_proj(visual)), split(attention.l_proj(text))
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    to_text = scores.transpose(2, 3).softmax(-1) @ split(attention.values_v_proj(visual))
    allowed = scores.masked_fill(~mask.bool()[:, None, None], float("-inf"))
    to_visual = allowed.softmax(-1) @ split(attention.values_l_proj(text))
    merge = [part.transpose(1, 2).flatten(2) for part in (to_visual, to_text)]
    return attention.out_v_proj(merge[0]), attention.out_l_proj(merge[1])


class TestParts:
    @pytest.mark.parametrize("stride", [1, 2])
    def test_sampled_deformable_convolution_equals_torchvision(self, stride: int) -> None:
        torch.manual_seed(0)
        feature = torch.randn(2, 40, 7, 9, requires_grad=True)
        height, width = -(-7 // stride), -(-9 // stride)
        offset = torch.randn(2, 18, height, width) * 3
        mask = torch.rand(2, 9, height, width)
        weight, bias = torch.randn(40, 40, 3, 3), torch.randn(40)
        ours = deform_conv_by_sampling(feature, offset, mask, weight, bias, stride)
        theirs = deform_conv2d(feature, offset, weight, bias, stride=stride, padding=1, mask=mask)
        assert torch.allclose(ours, theirs, atol=1e-4)
        first = torch.autograd.grad(ours.square().sum(), feature)[0]
        second = torch.autograd.grad(theirs.square().sum(), feature)[0]
        assert torch.allclose(first, second, atol=1e-2, rtol=1e-3)

    def test_single_row_maps_are_sampled(self) -> None:
        feature = torch.randn(1, 4, 1, 1)
        offset, mask = torch.zeros(1, 18, 1, 1), torch.ones(1, 9, 1, 1)
        weight, bias = torch.randn(4, 4, 3, 3), torch.zeros(4)
        expected = torch.nn.functional.conv2d(feature, weight, padding=1)
        assert torch.allclose(deform_conv_by_sampling(feature, offset, mask, weight, bias, 1), expected, atol=1e-5)

    def test_folded_attention_equals_the_textbook_form(self, model: MedGlipForObjectDetection) -> None:
        attention = model.model.experts["ct"].blocks[0].fusion.attention
        visual, text = torch.randn(2, 9, 16), torch.randn(2, 5, 16)
        mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
        with torch.no_grad():
            for linear in attention.children():
                linear.bias.normal_()
            ours = attention(visual, text, mask)
            theirs = textbook_attention(attention, visual, text, mask)
            for linear in attention.children():
                linear.bias.zero_()
        for mine, reference in zip(ours, theirs, strict=True):
            assert torch.allclose(mine, reference, atol=1e-5)

    def test_segments_and_positions(self) -> None:
        ids = torch.tensor([[7, 8, DOT, 5, DOT, 0]])
        segments = label_segments(ids, [DOT])
        assert segments.tolist() == [[0, 0, 0, 1, 1, 2]]
        assert segment_positions(segments).tolist() == [[1, 2, 3, 1, 2, 1]]

    def test_assignment_takes_the_fitting_anchor(self) -> None:
        anchors = torch.tensor([[0.0, 0, 9, 9], [10, 0, 19, 9], [0, 0, 19, 9], [40, 40, 49, 49]])
        assigned = assign_atss(anchors, [3, 1], torch.tensor([[10.0, 0, 19, 9]]), topk=2)
        assert assigned.tolist() == [-1, 0, -1, -1]
        assert assign_atss(anchors, [3, 1], torch.zeros(0, 4), topk=2).tolist() == [-1] * 4

    def test_image_sizes_and_groups(self) -> None:
        mask = torch.zeros(2, 32, 64)
        mask[0, :32, :64], mask[1, :20, :40] = 1, 1
        assert mask_extents(mask).tolist() == [[32, 64], [20, 40]]
        images = torch.zeros(2, 3, 32, 64)
        assert resolve_image_sizes(images) == [(32, 64), (32, 64)]
        assert resolve_image_sizes(images, mask) == [(32, 64), (20, 40)]
        assert resolve_image_sizes(images, mask, [(32, 64), [20, 40]]) == [(32, 64), (20, 40)]
        assert resolve_image_sizes(images, None, [(8, 16), (32, 64)]) == [(8, 16), (32, 64)]
        groups = group_images(["ct", "ct", "mri"], [(8, 8), (4, 4), (8, 8)])
        assert groups == {("ct", 8, 8): [0], ("ct", 4, 4): [1], ("mri", 8, 8): [2]}
