# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Two-stage Deformable DETR of transformers with a closed vocabulary, on the same image encoder.

It is what transformers has nearest to the paper's comparison; it is not Co-DETR, which adds auxiliary heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, TimmBackboneConfig

from modeling_medglip.modeling_medglip import MedGlipObjectDetectionOutput

from ...fit.starting_weights import load_image_encoder


QUERIES = 100
CERTAIN = 50.0
# Of the matching and the losses: class, L1 and GIoU.
COSTS = (2, 5, 2)


class DeformableDetrDetector(nn.Module):
    """Deformable DETR with our batches in and outputs that our post-processing takes.

    Args:
        labels (`Sequence[str]`): all that can be detected.
        width (`int`): channels of encoder and decoder.
        layers (`int`): of the encoder, and as many of the decoder.
        queries (`int`): boxes per image.
        pretrained (`bool`, defaults to `True`): ImageNet weights for the image encoder.
    """

    def __init__(
        self,
        labels: Sequence[str],
        width: int = 128,
        layers: int = 3,
        queries: int = QUERIES,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        self.labels = tuple(labels)
        config = DeformableDetrConfig(
            backbone_config=TimmBackboneConfig(backbone="efficientnet_lite0", out_indices=[2, 3, 4]),
            num_labels=len(self.labels),
            num_queries=queries,
            two_stage=True,
            two_stage_num_proposals=queries,
            with_box_refine=True,
            num_feature_levels=4,
            d_model=width,
            encoder_layers=layers,
            decoder_layers=layers,
            encoder_ffn_dim=4 * width,
            decoder_ffn_dim=4 * width,
            class_cost=COSTS[0],
            bbox_cost=COSTS[1],
            giou_cost=COSTS[2],
        )
        self.detector = DeformableDetrForObjectDetection(config)
        if pretrained:
            load_image_encoder(self.image_encoder)

    def train(self, mode: bool = True) -> DeformableDetrDetector:
        """As `Module.train`; BatchNorm of the image encoder keeps its statistics, as ours does."""
        super().train(mode)
        for module in self.image_encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    @property
    def image_encoder(self) -> nn.Module:
        """The timm network inside."""
        backbone: Any = self.detector.model.backbone
        return backbone.model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(
        self,
        pixel_values: Tensor,
        known: Tensor | None = None,
        labels: list[dict[str, Tensor]] | None = None,
        **kwargs: Any,
    ) -> MedGlipObjectDetectionOutput:
        """Run the detector; see [`ClosedVocabularyDetector.forward`].

        Every query is a region. Labels that are not annotated in an image count as negatives, since the matching of
        Deformable DETR knows no other way.

        Args:
            pixel_values (`Tensor` of shape `(batch, 3, height, width)`): standardized images.
            known (`Tensor`, *optional*): ignored.
            labels (`list[dict[str, Tensor]]`, *optional*): as of [`ClosedVocabularyDetector.forward`].
            kwargs (`Any`): ignored.
        """
        height, width = pixel_values.shape[-2:]
        size = pixel_values.new_tensor([width, height, width, height])
        targets = None if labels is None else [_as_detr(target, size) for target in labels]
        outputs = self.detector(pixel_values, labels=targets)
        center, extent = outputs.pred_boxes[..., :2], outputs.pred_boxes[..., 2:]
        corners = torch.cat([center - extent / 2, center + extent / 2], dim=-1) * size
        boxes = corners - corners.new_tensor([0, 0, 1, 1])  # x2 = x1 + width - 1
        count = boxes.shape[1]
        return MedGlipObjectDetectionOutput(
            loss=outputs.loss,
            loss_dict=None if labels is None else {"loss": outputs.loss},
            logits=outputs.logits,
            # A query has no centerness. With this one a score is the root of its label's, which keeps their order.
            centerness=torch.full_like(outputs.logits[..., 0], CERTAIN),
            pred_boxes=boxes,
            box_deltas=torch.zeros_like(boxes),
            spatial_shapes=torch.tensor([[1, count]]),
            input_sizes=torch.tensor([[height, width]] * len(pixel_values), device=pixel_values.device),
        )


def _as_detr(target: dict[str, Tensor], size: Tensor) -> dict[str, Tensor]:
    boxes = target["boxes"].to(size.device, torch.float32).reshape(-1, 4) + size.new_tensor([0, 0, 1, 1])
    center, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return {
        "class_labels": target["class_labels"].to(size.device).long(),
        "boxes": torch.cat([center, extent], dim=1) / size,
    }
