# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Our network without language: S = F W^T (Eq. 3 of Med-GLIP) instead of the alignment with words.

Image encoder, pyramid, dynamic convolutions, box head, anchors, assignment and losses are those of the expert; the
fusion with the prompt is left out, and a row of W stands for each label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from modeling_medglip.modeling_medglip import (
    MedGlipExpert,
    MedGlipForObjectDetection,
    MedGlipObjectDetectionOutput,
    decode_boxes,
    flatten_levels,
    make_anchors,
    pyramid_shapes,
)


class ClosedVocabularyDetector(nn.Module):
    """An expert whose labels are rows of a matrix.

    Args:
        grounding ([`MedGlipForObjectDetection`]): with one expert; its image side is used, not copied.
        labels (`Sequence[str]`): all that can be detected.
    """

    def __init__(self, grounding: MedGlipForObjectDetection, labels: Sequence[str]) -> None:
        super().__init__()
        (self.modality,) = grounding.config.modalities
        self.grounding, self.labels = grounding, tuple(labels)
        self.config = grounding.config
        head = self.config.expert_head_config(self.modality)
        self.classes = nn.Linear(head.channels, len(self.labels))
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.constant_(self.classes.bias, -math.log((1 - head.prior_prob) / head.prior_prob))
        for parameter in self.unused_parameters():
            parameter.requires_grad_(False)

    def unused_parameters(self) -> list[nn.Parameter]:
        """Of the grounding network: everything that has to do with language."""
        expert = self._expert
        parts: list[nn.Module] = [self.grounding.model.text_model, expert.alignment]
        for block in expert.blocks:
            parts += [cast(Any, block).fusion, cast(Any, block).text_layer]
        parts += [part for part in (expert.text_adapter, expert.presence) if part is not None]
        return [parameter for part in parts for parameter in part.parameters()]

    @property
    def _expert(self) -> MedGlipExpert:
        return cast(MedGlipExpert, self.grounding.model.experts[self.modality])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.classes.weight.device

    def loss_totals(
        self, size: tuple[int, int], modality: Any, labels: list[dict[str, Tensor]], label_tokens: Tensor | None = None
    ) -> Tensor:
        """See [`MedGlipForObjectDetection.loss_totals`]."""
        return self.grounding.loss_totals(size, modality, labels, label_tokens)

    def forward(
        self,
        pixel_values: Tensor,
        known: Tensor | None = None,
        labels: list[dict[str, Tensor]] | None = None,
        num_items_in_batch: Tensor | None = None,
        **kwargs: Any,
    ) -> MedGlipObjectDetectionOutput:
        """Classify and locate the labels in a batch of images.

        Args:
            pixel_values (`Tensor` of shape `(batch, 3, height, width)`): standardized images.
            known (`Tensor` of shape `(batch, labels)`, bool): labels that the image's source annotates; the others
                take no part in the loss. All of them when not given.
            labels (`list[dict]`, *optional*): `boxes` (n, 4) xyxy in the +1 convention and `class_labels` (n,), rows
                of `self.labels`.
            num_items_in_batch (`Tensor`, *optional*): as in [`MedGlipForObjectDetection.forward`].
            kwargs (`Any`): ignored.

        Returns:
            outputs with one "token" per label.
        """
        expert, head = self._expert, self.config.expert_head_config(self.modality)
        levels = expert.encode_image(pixel_values)
        for block in expert.blocks:
            levels = cast(Any, block).dynamic_conv(levels)
        regions = flatten_levels(levels)
        if expert.region_norm is not None:
            regions = expert.region_norm(regions)
        shapes = pyramid_shapes(tuple(pixel_values.shape[-2:]), head.anchor_strides)
        counts = torch.tensor([height * width for height, width in shapes], device=regions.device)
        level_of_region = torch.arange(len(shapes), device=regions.device).repeat_interleave(counts)
        deltas, centerness = self.grounding.box_heads[self.modality](regions, level_of_region)
        anchors = make_anchors(shapes, head, regions.device)
        inside = torch.ones(regions.shape[:2], dtype=torch.bool, device=regions.device)
        sizes = torch.tensor([pixel_values.shape[-2:]] * len(pixel_values), device=regions.device)
        output = MedGlipObjectDetectionOutput(
            logits=self.classes(regions),
            box_deltas=deltas,
            centerness=centerness,
            pred_boxes=torch.stack([decode_boxes(delta, anchors) for delta in deltas]),
            spatial_shapes=torch.tensor(shapes),
            input_sizes=sizes,
        )
        if labels is not None:
            batch = len(pixel_values)
            rows = torch.eye(len(self.labels), dtype=torch.bool, device=regions.device).expand(batch, -1, -1)
            mask = torch.ones(batch, len(self.labels), device=regions.device) if known is None else known
            height, width = pixel_values.shape[-2:]
            every, heads = [anchors] * batch, [head] * batch
            targets = self.grounding._assign(
                every, heads, shapes, [(height, width)] * batch, labels, rows, output.logits
            )
            losses = self.grounding._losses(output, targets, every, heads, mask, inside, num_items_in_batch)
            output.loss_dict, output.loss = losses, torch.stack(list(losses.values())).sum()
        return output
