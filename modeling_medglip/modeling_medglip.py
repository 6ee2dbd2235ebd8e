# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""MedGLIP: language-image aligners for medical images, one image expert per modality and one shared language encoder.

The network is GLIP's (Li et al., "Grounded Language-Image Pre-training", CVPR 2022): image encoder, feature pyramid,
a tower of deep-fusion blocks (bi-directional cross-attention, BERT layer, dynamic head) and an alignment of regions
with tokens, Eq. (1) of Med-GLIP (arXiv 2508.10528): `S = F T^T`. Boxes follow GLIP's "+1" pixel convention throughout:
a box `(x1, y1, x2, y2)` covers the pixels from `x1` to `x2` inclusive, so its width is `x2 - x1 + 1`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torchvision.ops import box_iou, deform_conv2d, drop_block2d, generalized_box_iou_loss
from transformers import AutoBackbone, AutoModel, BertConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import BertLayer
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, auto_docstring, can_return_tuple

from .configuration_medglip import (
    HUB_OPTIONS,
    MODALITIES,
    ROUTER_FILE,
    MedGlipConfig,
    MedGlipHeadConfig,
    check_checkpoint_files,
    merge_hierarchies,
    resolve_modality,
)
from .image_processing_medglip import NORMALIZED, PRESENT_LOGIT, check_annotation, looks_normalized


# Names of pickled checkpoints, which can run code when they are read, and what to do about one.
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
CONVERT_PICKLE = (
    "where you trust it, convert it to safetensors first: "
    'safetensors.torch.save_file(torch.load(file, weights_only=True), "model.safetensors")'
)
# How many more parameters than its files hold a configuration may describe before it is refused outright.
SPARE_PARAMETERS = 2**27
# The logit of a region outside its own image: its probability is exactly 0 in float32.
OUTSIDE_LOGIT = -50000.0
# Box regression of GLIP: weights of the deltas and the largest log ratio of sizes.
DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
MAX_LOG_RATIO = math.log(1000.0 / 16)


@dataclass
class MedGlipModelOutput(ModelOutput):
    """Output of [`MedGlipModel`].

    Args:
        logits (`Tensor` of shape `(batch, regions, tokens)`): alignment S before the sigmoid. Regions are the cells of
            levels P3..P7 in row-major order; with prompts in chunks `(batch, chunks * regions, tokens)`.
        region_features (`Tensor` of shape `(batch, regions, channels)`): F of Eq. (1), after the fusion.
        token_features (`Tensor` of shape `(batch, tokens, channels)` or `(batch, chunks, tokens, channels)`): T of
            Eq. (1), after the fusion and the projection; GLIP's temperature is already applied.
        region_mask (`Tensor` of shape `(batch, regions)`, bool): regions inside their own image.
        spatial_shapes (`Tensor` of shape `(levels, 2)`): height and width of P3..P7 of the padded input.
        input_sizes (`Tensor` of shape `(batch, 2)`): height and width in pixels of each image without its padding.
        presence_logits (`Tensor` of shape `(batch, tokens)` or `(batch, chunks, tokens)`, *optional*): see
            [`MedGlipPresenceHead`]; `None` when no expert here has one.
    """

    logits: Tensor | None = None
    region_features: Tensor | None = None
    token_features: Tensor | None = None
    region_mask: Tensor | None = None
    spatial_shapes: Tensor | None = None
    input_sizes: Tensor | None = None
    presence_logits: Tensor | None = None


@dataclass
class MedGlipObjectDetectionOutput(ModelOutput):
    """Output of [`MedGlipForObjectDetection`].

    Args:
        loss (`Tensor`, *optional*): sum of `loss_dict`, when `labels` were given.
        loss_dict (`dict[str, Tensor]`, *optional*): `loss_alignment`, `loss_box`, `loss_centerness`, and, where the
            experts have them, `loss_presence` and `loss_contrast`.
        logits (`Tensor` of shape `(batch, regions, tokens)`): alignment before the sigmoid.
        box_deltas (`Tensor` of shape `(batch, regions, 4)`): box regression relative to the anchors.
        centerness (`Tensor` of shape `(batch, regions)`): before the sigmoid.
        pred_boxes (`Tensor` of shape `(batch, regions, 4)`): xyxy in pixels of the padded input, GLIP's +1 convention.
        region_features (`Tensor` of shape `(batch, regions, channels)`): see [`MedGlipModelOutput`].
        token_features (`Tensor` of shape `(batch, tokens, channels)` or `(batch, chunks, tokens, channels)`): see
            [`MedGlipModelOutput`].
        spatial_shapes (`Tensor` of shape `(levels, 2)`): height and width of P3..P7 of the padded input.
        input_sizes (`Tensor` of shape `(batch, 2)`): height and width in pixels of each image without its padding.
        score_calibration (`Tensor` of shape `(batch, 2)`, *optional*): each image's slope and intercept, see
            [`MedGlipHeadConfig`]; `None` when no expert here has any.
        label_token_mask (`Tensor` of shape `(batch, tokens)`, bool, *optional*): the prompts' tokens that are neither
            padding nor separators, for post-processing that sees no prompt; not for prompts in chunks.
        presence_logits (`Tensor` of shape `(batch, tokens)` or `(batch, chunks, tokens)`, *optional*): see
            [`MedGlipPresenceHead`]; `None` when no expert here has one.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    box_deltas: Tensor | None = None
    centerness: Tensor | None = None
    pred_boxes: Tensor | None = None
    region_features: Tensor | None = None
    token_features: Tensor | None = None
    spatial_shapes: Tensor | None = None
    input_sizes: Tensor | None = None
    score_calibration: Tensor | None = None
    label_token_mask: Tensor | None = None
    presence_logits: Tensor | None = None


# ------------------------------------------------------------------------------------------------ feature pyramid


class MedGlipFeaturePyramid(nn.Module):
    """P3..P7 (strides 8 to 128) from the image encoder's maps at strides 8, 16 and 32; P6 comes from P5 (GLIP)."""

    def __init__(self, in_channels: Sequence[int], config: MedGlipHeadConfig) -> None:
        super().__init__()
        width = config.channels
        self.drop_block = float(config.drop_block)
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in in_channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in in_channels)
        self.p6 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.norms = nn.ModuleList(
            nn.GroupNorm(config.groups, width) if config.pyramid_norm else nn.Identity() for _ in range(5)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return five maps `(batch, channels, h, w)`, finest first.

        Args:
            maps (`Sequence[Tensor]` of shapes `(batch, channels_i, h_i, w_i)`): the image encoder's, finest first.
        """
        merged = self.lateral[-1](maps[-1])
        levels = [self.smooth[-1](merged)]
        for index in range(len(maps) - 2, -1, -1):
            lateral = self.lateral[index](maps[index])
            merged = lateral + F.interpolate(merged, size=lateral.shape[-2:], mode="nearest")
            if self.training and self.drop_block > 0:
                merged = drop_block2d(merged, self.drop_block, block_size=3)
            levels.insert(0, self.smooth[index](merged))
        levels.append(self.p6(levels[-1]))
        levels.append(self.p7(F.relu(levels[-1])))
        return [norm(level) for norm, level in zip(self.norms, levels, strict=True)]


class MedGlipSinePositionEmbedding(nn.Module):
    """Adds a projected 2-D sine code of the position, relative to the image, to every level."""

    frequencies = 8

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(4 * self.frequencies, channels)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Return maps of the same shapes `(batch, channels, h, w)`."""
        return [level + self.code(level.shape[2], level.shape[3]) for level in levels]

    def code(self, height: int, width: int) -> Tensor:
        """Return the code of a map's cells, `(1, channels, height, width)`.

        Args:
            height (`int`): of the map.
            width (`int`): of the map.
        """
        device = self.projection.weight.device
        powers = math.pi * 2.0 ** torch.arange(self.frequencies, device=device, dtype=torch.float32)
        y = (torch.arange(height, device=device) + 0.5).div(height)[:, None] * powers
        x = (torch.arange(width, device=device) + 0.5).div(width)[:, None] * powers
        weight = self.projection.weight
        y_code, x_code = (torch.cat([part.sin(), part.cos()], dim=-1).to(weight.dtype) for part in (y, x))
        # The projection of the joined code is the sum of two: of a few rows, and of a few columns.
        y_weight, x_weight = weight.chunk(2, dim=1)
        code = F.linear(y_code, y_weight, self.projection.bias)[:, None] + F.linear(x_code, x_weight)
        return code.permute(2, 0, 1)[None]


# ------------------------------------------------------------------------------------------------ fusion tower


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Compute attention step by step, as the attention interface of transformers expects it.

    Args:
        module (`nn.Module`): the calling layer; dropout acts only in its training mode.
        query (`Tensor` of shape `(batch, heads, queries, width)`): what asks.
        key (`Tensor` of shape `(batch, heads, keys, width)`): what is compared with the queries.
        value (`Tensor` of shape `(batch, heads, keys, value_width)`): what is averaged.
        attention_mask (`Tensor` that broadcasts to `(batch, heads, queries, keys)`, *optional*): added to the scores.
        scaling (`float`): factor of the scores.
        dropout (`float`, *optional*, defaults to 0.0): probability on the attention map.
        kwargs (`Any`): ignored; other implementations have more arguments.

    Returns:
        the output `(batch, queries, heads, width)` and the attention map `(batch, heads, queries, keys)`.
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    attention = F.dropout(scores.softmax(dim=-1), dropout, module.training)
    return torch.matmul(attention, value).transpose(1, 2).contiguous(), attention


class MedGlipBiDirectionalAttention(nn.Module):
    """Cross-attention between regions and tokens in both directions (GLIP's `BiMultiHeadAttention`).

    The projections of the many regions are folded onto the few tokens: with `K` the projected tokens of a head, the
    scores `(V Wq) K^T` are `V (Wq K^T)`, and likewise for both value paths. No tensor of shape
    `(regions, fusion_dim)` is made and the outputs are the same.
    """

    is_causal = False

    def __init__(self, config: MedGlipConfig, head_config: MedGlipHeadConfig, text_dim: int) -> None:
        super().__init__()
        self.config = config
        width, inner = head_config.channels, head_config.fusion_dim
        self.heads = head_config.fusion_heads
        self.dropout = float(head_config.fusion_dropout)
        self.v_proj = nn.Linear(width, inner)
        self.l_proj = nn.Linear(text_dim, inner)
        self.values_v_proj = nn.Linear(width, inner)
        self.values_l_proj = nn.Linear(text_dim, inner)
        self.out_v_proj = nn.Linear(inner, width)
        self.out_l_proj = nn.Linear(inner, text_dim)

    def forward(self, visual: Tensor, text: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the updates of regions and tokens, of the shapes of `visual` and `text`.

        Args:
            visual (`Tensor` of shape `(batch, regions, channels)`): the regions.
            text (`Tensor` of shape `(batch, tokens, text_dim)`): the tokens.
            attention_mask (`Tensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding.
        """
        keys = self._split(self.l_proj(text))
        keys = keys * keys.shape[-1] ** -0.5
        folded = torch.matmul(keys, self._head_weight(self.v_proj))
        bias = (keys * self.v_proj.bias.view(self.heads, 1, -1)).sum(-1)[:, :, None]
        hidden = ~attention_mask.bool()[:, None, None]
        mask = bias.masked_fill(hidden, -1e9 if bias.dtype == torch.float32 else torch.finfo(bias.dtype).min)
        out_weight = self.out_v_proj.weight.view(-1, self.heads, self.out_v_proj.in_features // self.heads)
        values = torch.matmul(self._split(self.values_l_proj(text)), out_weight.permute(1, 2, 0))
        attend = self._attend_at_once if self.config._attn_implementation == "eager" else self._attend_each_way
        update, pooled = attend(visual, folded, values, mask)
        return update + self.out_v_proj.bias, self._text_update(pooled)

    def _attend_each_way(self, visual: Tensor, folded: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the update of the regions and the regions pooled for every token, by two calls of the interface."""
        regions = visual[:, None].expand(-1, self.heads, -1, -1)
        # A token's bias is the same for all regions, so it cancels in the softmax over regions.
        pooled = self._attend(folded, regions, regions, None)
        return self._attend(regions, folded, values, mask).sum(2), pooled

    def _attend_at_once(self, visual: Tensor, folded: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return what [`_attend_each_way`] does, from one matrix of scores for both ways and all heads."""
        rows, heads, tokens, channels = folded.shape
        scores = torch.matmul(folded.flatten(1, 2), visual.transpose(1, 2))
        dropout = partial(F.dropout, p=self.dropout, training=self.training)
        pooled = torch.matmul(dropout(scores.softmax(dim=-1)), visual)
        attention = (scores.view(rows, heads, tokens, -1) + mask.transpose(2, 3)).softmax(dim=2)
        update = torch.matmul(dropout(attention).flatten(1, 2).transpose(1, 2), values.flatten(1, 2))
        return update, pooled.view(rows, heads, tokens, channels).transpose(1, 2)

    def _split(self, tensor: Tensor) -> Tensor:
        batch, tokens, inner = tensor.shape
        return tensor.view(batch, tokens, self.heads, inner // self.heads).transpose(1, 2)

    def _head_weight(self, linear: nn.Linear) -> Tensor:
        return linear.weight.view(self.heads, -1, linear.in_features)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Return the attention's output `(batch, queries, heads, width)`."""
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.dropout if self.training else 0.0
        return attention_interface(self, query, key, value, mask, scaling=1.0, dropout=dropout)[0]

    def _text_update(self, pooled: Tensor) -> Tensor:
        """Project pooled regions `(batch, tokens, heads, channels)` to an update of the tokens."""
        values = torch.matmul(pooled.transpose(1, 2), self._head_weight(self.values_v_proj).transpose(1, 2))
        values = values + self.values_v_proj.bias.view(self.heads, 1, -1)
        return self.out_l_proj(values.transpose(1, 2).flatten(2))


class MedGlipFusionLayer(nn.Module):
    """Pre-norm bi-directional cross-attention; residuals start from the normalized tensors, as in GLIP's VLFuse."""

    def __init__(self, config: MedGlipConfig, head_config: MedGlipHeadConfig, text_dim: int) -> None:
        super().__init__()
        self.norm_visual = nn.LayerNorm(head_config.channels)
        self.norm_text = nn.LayerNorm(text_dim)
        self.attention = MedGlipBiDirectionalAttention(config, head_config, text_dim)
        self.gamma_visual = nn.Parameter(torch.empty(head_config.channels))
        self.gamma_text = nn.Parameter(torch.empty(text_dim))
        self.initial_gamma = 1.0 / head_config.num_blocks

    def forward(self, levels: list[Tensor], text: Tensor, attention_mask: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return maps and tokens of the shapes of `levels` and `text`.

        Args:
            levels (`list[Tensor]` of shapes `(batch, channels, h, w)`): P3..P7.
            text (`Tensor` of shape `(batch, tokens, text_dim)`): the tokens.
            attention_mask (`Tensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding.
        """
        visual = self.norm_visual(flatten_levels(levels))
        text = self.norm_text(text)
        visual_update, text_update = self.attention(visual, text, attention_mask)
        visual = torch.addcmul(visual, self.gamma_visual, visual_update)
        return unflatten_levels(visual, [level.shape[-2:] for level in levels]), text + self.gamma_text * text_update


class MedGlipModulatedDeformConv(nn.Module):
    """3x3 modulated deformable convolution (DCNv2), one offset group; torchvision's operator on accelerators."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, feature: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """Return the convolved map `(batch, channels, h, w)`.

        Args:
            feature (`Tensor` of shape `(batch, channels, h * stride, w * stride)`): the input map.
            offset (`Tensor` of shape `(batch, 18, h, w)`): (dy, dx) per tap, at the output's size.
            mask (`Tensor` of shape `(batch, 9, h, w)`): the taps' factors.
        """
        if feature.device.type == "cpu":
            return deform_conv_by_sampling(feature, offset, mask, self.weight, self.bias, self.stride)
        return deform_conv2d(feature, offset, self.weight, self.bias, stride=self.stride, padding=1, mask=mask)


def deform_conv_by_sampling(
    feature: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int
) -> Tensor:
    """Modulated 3x3 deformable convolution (padding 1) by [`sample_taps`] and a 1x1 convolution.

    Equal to `torchvision.ops.deform_conv2d`, whose CPU kernel uses one core only.

    Args:
        feature (`Tensor` of shape `(batch, channels, height, width)`): the input map.
        offset (`Tensor` of shape `(batch, 18, h, w)`): (dy, dx) per tap, at the output's size.
        mask (`Tensor` of shape `(batch, 9, h, w)`): the taps' factors.
        weight (`Tensor` of shape `(out_channels, channels, 3, 3)`): the kernel.
        bias (`Tensor` of shape `(out_channels,)`): added to the output.
        stride (`int`): pixels between output cells.
    """
    sampled = sample_taps(feature, offset, mask, stride).permute(0, 3, 1, 2)
    kernel = weight.permute(0, 2, 3, 1).reshape(len(weight), -1, 1, 1)
    return F.conv2d(sampled, kernel, bias)


def sample_taps(feature: Tensor, offset: Tensor, mask: Tensor, stride: int) -> Tensor:
    """Return what the nine taps of every output cell see: `(batch, h, w, 9 * channels)`.

    With the channels of a cell side by side, a bilinear sample is a weighted sum of four contiguous rows, which
    `embedding_bag` computes at the speed of memory, and the product with the kernel comes in the layout that the
    convolutions of CPUs are fastest in.

    Args:
        feature (`Tensor` of shape `(batch, channels, height, width)`): the input map.
        offset (`Tensor` of shape `(batch, 18, h, w)`): (dy, dx) per tap, at the output's size.
        mask (`Tensor` of shape `(batch, 9, h, w)`): the taps' factors.
        stride (`int`): pixels between output cells.
    """
    batch, channels, height, width = feature.shape
    index, share = bilinear_corners(offset, mask, stride, height, width)
    first = torch.arange(batch, device=feature.device, dtype=index.dtype)[:, None] * (height * width)
    table = feature.permute(0, 2, 3, 1).reshape(-1, channels)
    sampled = F.embedding_bag(
        (index.flatten(1) + first).view(-1, 4),
        table,
        per_sample_weights=share.view(-1, 4).to(table.dtype),
        mode="sum",
    )
    return sampled.view(batch, *offset.shape[-2:], 9 * channels)


def bilinear_corners(offset: Tensor, mask: Tensor, stride: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return where the nine taps of every output cell are sampled in the input map.

    Args:
        offset (`Tensor` of shape `(batch, 18, h, w)`): (dy, dx) per tap, at the output's size.
        mask (`Tensor` of shape `(batch, 9, h, w)`): the taps' factors.
        stride (`int`): pixels between output cells.
        height (`int`): of the input map.
        width (`int`): of the input map.

    Returns:
        flat indices and shares of the four corners, each `(batch, h, w, 9, 4)`; corners outside the map have share 0.
    """
    rows, columns = offset.shape[-2:]
    device = offset.device
    tap = torch.arange(-1, 2, device=device)
    moved = offset.float().permute(0, 2, 3, 1)
    y = moved[..., 0::2] + (torch.arange(rows, device=device)[:, None, None] * stride + tap.repeat_interleave(3))
    x = moved[..., 1::2] + (torch.arange(columns, device=device)[:, None] * stride + tap.repeat(3))
    (top, up), (bottom, down) = linear_neighbors(y, height)
    (left, before), (right, after) = linear_neighbors(x, width)
    factor = mask.float().permute(0, 2, 3, 1)
    up, down, top, bottom = up * factor, down * factor, top * width, bottom * width
    index = torch.stack([top + left, top + right, bottom + left, bottom + right], -1)
    return index, torch.stack([up * before, up * after, down * before, down * after], -1)


def linear_neighbors(position: Tensor, size: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the two cells of an axis that a position lies between, each as index and share.

    Args:
        position (`Tensor`): in cells.
        size (`int`): of the axis; neighbors outside it have share 0 and the index of the nearest cell.
    """
    first = position.floor()
    second_share = position - first
    neighbors = ((first, 1 - second_share), (first + 1, second_share))
    inside = [cell.clamp(0, size - 1) for cell, _ in neighbors]
    (lower, upper) = (
        (kept.int(), share * (kept == cell)) for kept, (cell, share) in zip(inside, neighbors, strict=True)
    )
    return lower, upper


class MedGlipDynamicReLU(nn.Module):
    """DYReLU: `max(a1 x + b1, a2 x + b2)` with coefficients from the pooled map (the head's task attention)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 4)
        self.excite = nn.Linear(channels // 4, channels * 4)

    def forward(self, feature: Tensor) -> Tensor:
        """Return a map of the same shape `(batch, channels, h, w)`."""
        coefficients = F.hardsigmoid(self.excite(F.relu(self.squeeze(feature.mean(dim=(2, 3))))))
        a1, b1, a2, b2 = (part[..., None, None] for part in coefficients.chunk(4, dim=1))
        first = torch.addcmul(b1 - 0.5, feature, (a1 - 0.5) * 2 + 1)
        return torch.maximum(first, torch.addcmul(b2 - 0.5, feature, (a2 - 0.5) * 2))


class MedGlipDynamicConv(nn.Module):
    """DyHead block: each level meets its finer and coarser neighbor, by deformable or plain 3x3 convolutions."""

    def __init__(self, config: MedGlipHeadConfig) -> None:
        super().__init__()
        width = config.channels
        self.deformable = config.conv_type == "deformable"
        self.conv_coarse = self._conv(width, 1)
        self.conv_same = self._conv(width, 1)
        self.conv_fine = self._conv(width, 2)
        self.norm_coarse = nn.GroupNorm(config.groups, width)
        self.norm_same = nn.GroupNorm(config.groups, width)
        self.norm_fine = nn.GroupNorm(config.groups, width)
        self.offset = nn.Conv2d(width, 27, 3, padding=1) if self.deformable else None
        self.scale_attention = nn.Linear(width, 1)
        self.activation = MedGlipDynamicReLU(width)

    def _conv(self, width: int, stride: int) -> nn.Module:
        if self.deformable:
            return MedGlipModulatedDeformConv(width, stride)
        return nn.Conv2d(width, width, 3, stride=stride, padding=1)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Return maps of the same shapes `(batch, channels, h, w)`."""
        return [self.activation(self._merge(levels, index)) for index in range(len(levels))]

    def _merge(self, levels: list[Tensor], index: int) -> Tensor:
        level = levels[index]
        offset_mask = self._offset_mask(level)
        branches = [self.norm_same(self._convolve(self.conv_same, level, offset_mask))]
        if index > 0:
            branches.append(self.norm_fine(self._convolve(self.conv_fine, levels[index - 1], offset_mask)))
        if index + 1 < len(levels):
            coarse = levels[index + 1]
            merged = self.norm_coarse(
                self._convolve(self.conv_coarse, coarse, reinterpret_offsets(offset_mask, coarse))
            )
            branches.append(F.interpolate(merged, size=level.shape[-2:], mode="bilinear", align_corners=True))
        shares = [self._attention(branch) / len(branches) for branch in branches]
        mean = branches[0] * shares[0]
        for branch, share in zip(branches[1:], shares[1:], strict=True):
            mean = torch.addcmul(mean, branch, share)
        return mean

    def _attention(self, branch: Tensor) -> Tensor:
        return F.hardsigmoid(F.relu(self.scale_attention(branch.mean(dim=(2, 3)))))[..., None, None]

    def _offset_mask(self, level: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.offset is None:
            return None
        prediction = self.offset(level)
        return prediction[:, :18], prediction[:, 18:27].sigmoid()

    def _convolve(self, conv: nn.Module, feature: Tensor, offset_mask: tuple[Tensor, Tensor] | None) -> Tensor:
        return conv(feature) if offset_mask is None else conv(feature, *offset_mask)


def reinterpret_offsets(offset_mask: tuple[Tensor, Tensor] | None, coarse: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the offsets that GLIP's CUDA kernel reads for the coarser neighbor.

    GLIP passes the finer level's offsets, and its kernel reads the first numbers of that flat memory as if they
    had the coarser level's size. The published weights depend on it.
    """
    if offset_mask is None:
        return None
    height, width = coarse.shape[-2:]
    return tuple(  # type: ignore[return-value]
        tensor.flatten(1)[:, : tensor.shape[1] * height * width].view(len(tensor), -1, height, width)
        for tensor in offset_mask
    )


class MedGlipTextLayer(BertLayer):
    """A BERT layer of one expert's sizes, with the attention implementation of the whole model."""

    def __init__(self, config: MedGlipConfig, head_config: MedGlipHeadConfig, text_dim: int) -> None:
        sizes = BertConfig(
            hidden_size=text_dim,
            num_attention_heads=head_config.text_heads,
            intermediate_size=head_config.text_intermediate,
            hidden_dropout_prob=head_config.text_dropout,
            attention_probs_dropout_prob=head_config.text_dropout,
        )
        super().__init__(sizes)
        # BERT's attention asks its configuration for the implementation and, once it is built, for nothing else.
        self.attention.self.config = config


class MedGlipFusionBlock(GradientCheckpointingLayer):
    """One block of the tower: cross-attention, a BERT layer on the text, a DyHead block on the image."""

    def __init__(self, config: MedGlipConfig, head_config: MedGlipHeadConfig, text_dim: int) -> None:
        super().__init__()
        self.fusion = MedGlipFusionLayer(config, head_config, text_dim)
        self.text_layer = MedGlipTextLayer(config, head_config, text_dim)
        self.dynamic_conv = MedGlipDynamicConv(head_config)

    def forward(
        self, levels: list[Tensor], text: Tensor, attention_mask: Tensor, text_mask: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Return maps and tokens of the shapes of `levels` and `text`.

        Args:
            levels (`list[Tensor]` of shapes `(batch, channels, h, w)`): P3..P7.
            text (`Tensor` of shape `(batch, tokens, text_dim)`): the tokens.
            attention_mask (`Tensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding.
            text_mask (`Tensor` of shape `(batch, 1, 1 or tokens, tokens)`): added to the text layer's scores.
        """
        levels, text = self.fusion(levels, text, attention_mask)
        return self.dynamic_conv(levels), self.text_layer(text, text_mask)


def flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """Return maps `(batch, channels, h, w)` as `(batch, regions, channels)`, level after level in row-major order."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def unflatten_levels(visual: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Return maps of `shapes` (h, w) from `(batch, regions, channels)`; the inverse of [`flatten_levels`]."""
    parts = visual.transpose(1, 2).split([height * width for height, width in shapes], dim=2)
    return [part.unflatten(2, tuple(shape)) for part, shape in zip(parts, shapes, strict=True)]


# ------------------------------------------------------------------------------------------------ alignment, experts


class MedGlipAlignmentHead(nn.Module):
    """Alignment of regions with tokens: `x . W(e / 2) / exp(log_scale) + e . b + b0` with `e` the normalized token."""

    def __init__(self, config: MedGlipHeadConfig, text_dim: int) -> None:
        super().__init__()
        self.text_projection = nn.Linear(text_dim, config.channels)
        self.token_bias = nn.Parameter(torch.empty(text_dim))
        self.bias = nn.Parameter(torch.empty(1))
        self.log_scale = nn.Parameter(torch.empty(1))
        self.prior_bias = -math.log((1 - config.prior_prob) / config.prior_prob)
        self.initial_log_scale = float(config.log_scale_init)

    def forward(self, regions: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits S `(batch, regions, tokens)` and token features T `(batch, tokens, channels)`.

        Args:
            regions (`Tensor` of shape `(batch, regions, channels)`): region features F.
            text (`Tensor` of shape `(batch, tokens, text_dim)`): the tokens after the tower.
        """
        embedding = F.normalize(text, p=2, dim=-1)
        tokens = self.text_projection(embedding / 2.0) / self.log_scale.exp()
        bias = torch.matmul(embedding, self.token_bias) + self.bias
        return torch.baddbmm(bias[:, None], regions, tokens.transpose(1, 2)), tokens


class MedGlipPresenceHead(nn.Module):
    """Logit of each token that the image shows what its label names, wherever it is.

    Boxes answer where a label is; this head answers whether it is there at all, as the presence token of SAM 3
    (arXiv 2511.16719) does, for each label. It sees the phrase as the language encoder reads it, so that it can refuse
    what the expert never learned, the token after the fusion, which has looked at the whole image, and the best
    aligned regions. The logit of a label is the mean over its tokens.
    """

    best_regions = 16

    def __init__(self, config: MedGlipHeadConfig, phrase_dim: int, text_dim: int) -> None:
        super().__init__()
        width = config.presence_dim
        self.phrase_norm = nn.LayerNorm(phrase_dim)
        self.token_norm = nn.LayerNorm(text_dim)
        self.phrase_projection = nn.Linear(phrase_dim, width)
        self.token_projection = nn.Linear(text_dim, width)
        self.region_projection = nn.Linear(config.channels, width)
        self.evidence_projection = nn.Linear(2, width)
        self.hidden = nn.Linear(width, width)
        self.presence_projection = nn.Linear(width, 1)

    def forward(self, phrases: Tensor, tokens: Tensor, regions: Tensor, logits: Tensor) -> Tensor:
        """Return the presence logits `(batch, tokens)`.

        Args:
            phrases (`Tensor` of shape `(batch, tokens, phrase_dim)`): the language encoder's output.
            tokens (`Tensor` of shape `(batch, tokens, text_dim)`): the tokens after the tower.
            regions (`Tensor` of shape `(batch, regions, channels)`): region features F.
            logits (`Tensor` of shape `(batch, regions, tokens)`): alignment S; no gradient flows back into it.
        """
        best, index = logits.detach().transpose(1, 2).topk(min(self.best_regions, logits.shape[1]), dim=-1)
        rows = torch.arange(regions.shape[0], device=regions.device)[:, None, None]
        weights = best.softmax(-1)[..., None]
        shown = (regions[rows, index] * weights).sum(2)
        evidence = torch.stack([best[..., 0], best.mean(-1)], dim=-1) / 4
        mixed = self.phrase_projection(self.phrase_norm(phrases)) + self.token_projection(self.token_norm(tokens))
        mixed = mixed + self.region_projection(shown) + self.evidence_projection(evidence)
        return self.presence_projection(F.gelu(self.hidden(F.gelu(mixed)))).squeeze(-1)


class ExpertOutputs(NamedTuple):
    """What an expert gives for a batch of one chunk of prompts.

    Args:
        regions (`Tensor` of shape `(batch, regions, channels)`): region features F.
        tokens (`Tensor` of shape `(batch, tokens, channels)`): token features T.
        logits (`Tensor` of shape `(batch, regions, tokens)`): alignment S before the sigmoid.
        presence (`Tensor` of shape `(batch, tokens)`): presence logits; [`PRESENT_LOGIT`] without a presence head.
    """

    regions: Tensor
    tokens: Tensor
    logits: Tensor
    presence: Tensor


class MedGlipExpert(nn.Module):
    """The image side of one modality: encoder, pyramid, fusion tower, alignment."""

    def __init__(self, config: MedGlipConfig, modality: str) -> None:
        super().__init__()
        head = config.expert_head_config(modality)
        text_dim = head.text_dim or config.text_config.hidden_size
        self.backbone = AutoBackbone.from_config(config.expert_backbone_config(modality), trust_remote_code=False)
        if hasattr(self.backbone, "swin"):
            # The pyramid reads the stages' own norms; this one would be computed for nothing and get no gradient.
            self.backbone.swin.layernorm = nn.Identity()
        self.pyramid = MedGlipFeaturePyramid(self.backbone.channels, head)
        self.positions = MedGlipSinePositionEmbedding(head.channels) if head.positions else None
        self.text_adapter = nn.Linear(config.text_config.hidden_size, text_dim) if head.text_dim else None
        self.blocks = nn.ModuleList(MedGlipFusionBlock(config, head, text_dim) for _ in range(head.num_blocks))
        self.region_norm = nn.LayerNorm(head.channels) if head.region_norm else None
        self.alignment = MedGlipAlignmentHead(head, text_dim)
        phrase_dim = config.text_config.hidden_size
        self.presence = MedGlipPresenceHead(head, phrase_dim, text_dim) if head.presence_dim else None

    def train(self, mode: bool = True) -> MedGlipExpert:
        """Set the mode as `Module.train` does; BatchNorm of the image encoder keeps its statistics.

        Detection batches are too small to estimate new ones.
        """
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def encode_image(self, pixel_values: Tensor) -> list[Tensor]:
        """Return maps P3..P7 before the fusion, of images `(batch, 3, height, width)`."""
        levels = self.pyramid(self.backbone(pixel_values).feature_maps)
        return self.positions(levels) if self.positions is not None else levels

    def fuse(self, levels: list[Tensor], text: Tensor, attention_mask: Tensor, text_mask: Tensor) -> ExpertOutputs:
        """Return region features F, token features T, logits S and presence logits.

        Args:
            levels (`list[Tensor]` of shapes `(batch, channels, h, w)`): P3..P7 before the fusion.
            text (`Tensor` of shape `(batch, tokens, hidden_size)`): the language encoder's output.
            attention_mask (`Tensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding.
            text_mask (`Tensor` of shape `(batch, 1, 1 or tokens, tokens)`): added to the text layers' scores.
        """
        phrases = text
        if self.text_adapter is not None:
            text = self.text_adapter(text)
        for block in self.blocks:
            levels, text = block(levels, text, attention_mask, text_mask)
        regions = flatten_levels(levels)
        if self.region_norm is not None:
            regions = self.region_norm(regions)
        logits, tokens = self.alignment(regions, text)
        if self.presence is None:
            presence = logits.new_full(text.shape[:2], PRESENT_LOGIT)
        else:
            presence = self.presence(phrases, text, regions, logits)
        return ExpertOutputs(regions, tokens, logits, presence)


class MedGlipBoxHead(nn.Module):
    """Box deltas (with one learned scale per level) and centerness of one expert."""

    def __init__(self, config: MedGlipHeadConfig) -> None:
        super().__init__()
        self.box_projection = nn.Linear(config.channels, 4)
        self.centerness_projection = nn.Linear(config.channels, 1)
        self.level_scales = nn.Parameter(torch.empty(len(config.anchor_sizes)))
        self.initial_scale = float(config.box_scale_init)

    def forward(self, regions: Tensor, level_of_region: Tensor) -> tuple[Tensor, Tensor]:
        """Return box deltas `(..., regions, 4)` and centerness before the sigmoid `(..., regions)`.

        Args:
            regions (`Tensor` of shape `(..., regions, channels)`): region features F.
            level_of_region (`Tensor` of shape `(regions,)`): index of each region's level.
        """
        deltas = self.box_projection(regions) * self.level_scales[level_of_region][:, None]
        return deltas, self.centerness_projection(regions).squeeze(-1)


# ------------------------------------------------------------------------------------------------ text


class TextFeatures(NamedTuple):
    """Language features of prompts, computed once and given to `forward(text_features=...)` for many images.

    Features of prompts in chunks have an axis of chunks after the prompts'.

    Args:
        hidden (`Tensor` of shape `(prompts, tokens, hidden_size)`): the language encoder's output.
        attention_mask (`Tensor` of shape `(prompts, tokens)`): 1 for tokens, 0 for padding.
        text_mask (`Tensor` of shape `(prompts, 1, 1 or tokens, tokens)`): added to the scores of self-attention.
    """

    hidden: Tensor
    attention_mask: Tensor
    text_mask: Tensor


def on_device(values: Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return numbers of the host as a tensor on a device, without waiting for what the device computes.

    Args:
        values (`Sequence`): numbers, or sequences of numbers.
        device (`torch.device`): of the result.
        dtype (`torch.dtype`, *optional*): of the result.
    """
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


def label_segments(input_ids: Tensor, separators: Sequence[int]) -> Tensor:
    """Return the running number of the label that each token belongs to, of the shape of `input_ids`.

    A separator closes its own label. The opening token is a separator too, or the first label would be read
    differently from the others.

    Args:
        input_ids (`Tensor` of shape `(prompts, tokens)`): token ids.
        separators (`Sequence[int]`): ids of the tokens that end a label.
    """
    ends = torch.isin(input_ids, on_device(list(separators), input_ids.device))
    return ends.long().cumsum(-1) - ends.long()


def segment_positions(segments: Tensor) -> Tensor:
    """Return the position of each token inside its label, starting at 1 as after BERT's [CLS]."""
    index = torch.arange(segments.shape[-1], device=segments.device).expand_as(segments)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    first = torch.where(starts, index, torch.zeros_like(index)).cummax(-1).values
    return index - first + 1


# ------------------------------------------------------------------------------------------------ anchors and boxes


def make_anchors(shapes: Iterable[tuple[int, int]], config: MedGlipHeadConfig, device: torch.device) -> Tensor:
    """Return one square anchor per cell: `(regions, 4)` xyxy pixels in GLIP's +1 convention.

    Args:
        shapes (`Iterable[tuple[int, int]]`): height and width of each level in cells.
        config ([`MedGlipHeadConfig`]): with the anchors' sides and strides in pixels.
        device (`torch.device`): of the result.
    """
    levels = []
    for (height, width), size, stride in zip(shapes, config.anchor_sizes, config.anchor_strides, strict=True):
        center, half = (stride - 1) / 2, (size - 1) / 2
        y = torch.arange(height, device=device, dtype=torch.float32) * stride + center
        x = torch.arange(width, device=device, dtype=torch.float32) * stride + center
        y, x = torch.meshgrid(y, x, indexing="ij")
        levels.append(torch.stack([x - half, y - half, x + half, y + half], dim=-1).view(-1, 4))
    return torch.cat(levels)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Return xyxy boxes `(..., regions, 4)` in pixels, +1 convention.

    Args:
        deltas (`Tensor` of shape `(..., regions, 4)`): shifts of the centers and logarithms of the ratios of sizes,
            relative to the anchors and times GLIP's weights.
        anchors (`Tensor` of shape `(regions, 4)`): xyxy pixels, +1 convention.
    """
    sizes = anchors[:, 2:] - anchors[:, :2] + 1
    centers = (anchors[:, 2:] + anchors[:, :2]) / 2
    weights = on_device(DELTA_WEIGHTS, deltas.device, deltas.dtype)
    scaled = deltas / weights
    predicted_centers = scaled[..., :2] * sizes + centers
    half = (scaled[..., 2:].clamp(max=MAX_LOG_RATIO).exp() * sizes - 1) / 2
    return torch.cat([predicted_centers - half, predicted_centers + half], dim=-1)


def pixel_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the IoU `(n, m)` of every pair of boxes `(n, 4)` and `(m, 4)`, xyxy in the +1 convention."""
    shift = first.new_tensor([0.0, 0.0, 1.0, 1.0])
    return box_iou(first + shift, second + shift)


def border_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Return distances `(..., 4)` of points `(..., 2)` to the left, top, right and bottom of boxes `(..., 4)`."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def assign_atss(anchors: Tensor, level_sizes: Sequence[int], boxes: Tensor, topk: int) -> Tensor:
    """Adaptive training sample selection (Zhang et al., CVPR 2020, as in GLIP).

    Args:
        anchors (`Tensor` of shape `(regions, 4)`): xyxy pixels, +1 convention.
        level_sizes (`Sequence[int]`): regions of each level.
        boxes (`Tensor` of shape `(targets, 4)`): xyxy pixels, +1 convention.
        topk (`int`): candidates per level and target.

    Returns:
        `(regions,)` index of the target of each region, -1 for background.
    """
    if len(boxes) == 0:
        return torch.full((len(anchors),), -1, dtype=torch.long, device=anchors.device)
    iou = pixel_iou(anchors, boxes)
    points = (anchors[:, :2] + anchors[:, 2:]) / 2
    distance = torch.cdist(points, (boxes[:, :2] + boxes[:, 2:]) / 2)
    candidates, start = [], 0
    for size in level_sizes:
        nearest = distance[start : start + size].topk(min(topk, size), dim=0, largest=False).indices
        candidates.append(nearest + start)
        start += size
    candidate = torch.cat(candidates)
    candidate_iou = iou.gather(0, candidate)
    threshold = candidate_iou.mean(0) + candidate_iou.std(0)
    inside = border_distances(points[candidate], boxes[None].expand(len(candidate), -1, -1)).amin(-1) > 0.01
    positive = (candidate_iou >= threshold) & inside
    positive_iou = torch.full_like(iou, -1.0)
    positive_iou.scatter_(0, candidate, torch.where(positive, candidate_iou, torch.full_like(candidate_iou, -1.0)))
    best, target = positive_iou.max(dim=1)
    return torch.where(best >= 0, target, torch.full_like(target, -1))


# ------------------------------------------------------------------------------------------------ losses


def alignment_focal_loss(
    logits: Tensor, targets: Tensor, focal_alpha: float | Tensor, focal_gamma: float | Tensor
) -> Tensor:
    """Return the sigmoid focal loss per region and token (Eq. 2 of Med-GLIP on the expanded targets T').

    Args:
        logits (`Tensor` of shape `(batch, regions, tokens)`): alignment before the sigmoid.
        targets (`Tensor` of the same shape): 1 where a region shows the label that a token belongs to, else 0.
        focal_alpha (`float` or `Tensor`): weight of the positives, 0 to 1.
        focal_gamma (`float` or `Tensor`): how strongly easy pairs are weighed down.
    """
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = probability * targets + (1 - probability) * (1 - targets)
    alpha = focal_alpha * targets + (1 - focal_alpha) * (1 - targets)
    return alpha * (1 - p_t) ** focal_gamma * cross_entropy


def centerness_targets(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Return how central each anchor `(n, 4)` lies in its target box `(n, 4)`: `(n,)`, 0 to 1."""
    left, top, right, bottom = border_distances((anchors[:, :2] + anchors[:, 2:]) / 2, boxes).unbind(-1)
    horizontal = torch.minimum(left, right) / torch.maximum(left, right)
    vertical = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (horizontal * vertical).clamp(min=0).sqrt()


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a number over all distributed processes (GLIP's normalizer)."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        value = value.clone()
        torch.distributed.all_reduce(value)
        value = value / torch.distributed.get_world_size()
    return value


def target_problem(boxes: Tensor, classes: Tensor, labels: int) -> str | None:
    """Return what is wrong with one image's targets, or `None`.

    Args:
        boxes (`Tensor` of shape `(n, 4)`): xyxy pixels of the padded input, +1 convention.
        classes (`Tensor` of shape `(n,)`): indices of labels.
        labels (`int`): number of labels of the image's prompt.
    """
    if len(classes) != len(boxes):
        return f"{len(boxes)} boxes but {len(classes)} class_labels"
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < labels:
        return f"class_labels from {int(classes.min())} to {int(classes.max())} for a prompt of {labels} labels"
    # In the +1 convention a box of one pixel has x2 = x1.
    if not bool(torch.isfinite(boxes).all()) or bool((boxes[:, 2:] - boxes[:, :2] <= -1).any()):
        return "a box is not finite or has no area; boxes are x1, y1, x2, y2 in pixels of the padded input"
    return NORMALIZED if looks_normalized(boxes) else None


class MedGlipImageTargets(NamedTuple):
    """Assigned targets of one image.

    Args:
        positive (`Tensor` of shape `(n,)`): indices of the regions with a target.
        boxes (`Tensor` of shape `(n, 4)`): their target boxes, xyxy pixels, +1 convention.
        tokens (`Tensor` of shape `(n, tokens)`): 1 for the tokens of their labels.
    """

    positive: Tensor
    boxes: Tensor
    tokens: Tensor


# ------------------------------------------------------------------------------------------------ models


class MedGlipForwardKwargs(TypedDict, total=False):
    """Arguments that `forward` accepts beside its own.

    Args:
        output_attentions (`bool`, *optional*): must be off: see [`check_forward_kwargs`].
        output_hidden_states (`bool`, *optional*): must be off.
        token_type_ids (`Tensor`, *optional*): from the bare tokenizer; prompts are one segment.
        text_labels (`list[list[str]]`, *optional*): in the processor's batch, for post-processing.
        input_sizes (`Tensor` of shape `(batch, 2)`, *optional*): in the processor's batch, for post-processing.
    """

    output_attentions: bool | None
    output_hidden_states: bool | None
    token_type_ids: Tensor | None
    text_labels: list[list[str]] | None
    input_sizes: Tensor | None


def check_forward_kwargs(model: PreTrainedModel, kwargs: Mapping[str, Any]) -> None:
    """Refuse keyword arguments that `forward` would ignore.

    Args:
        model ([`MedGlipPreTrainedModel`]): whose name and configuration count.
        kwargs (`Mapping`): what `forward` was given beside its own arguments.

    Raises:
        `TypeError`: the name is not in [`MedGlipForwardKwargs`].
        `ValueError`: attention maps or hidden states are asked for, here or by the configuration. Images of several
            sizes and experts run one after the other, so that their layers have no common shape.
    """
    for name in kwargs:
        if name not in MedGlipForwardKwargs.__annotations__:
            raise TypeError(f"{type(model).__name__}.forward() got an unexpected keyword argument {name!r}")
    for name in ("output_attentions", "output_hidden_states"):
        requested = kwargs.get(name)
        if getattr(model.config, name) if requested is None else requested:
            raise ValueError(
                f"{name} is not supported: region_features and token_features are the states after the last layer; "
                "register a forward hook on a layer for its own"
            )


@auto_docstring(
    custom_intro="""
    Base class of the MedGLIP models: initial weights, loading and saving. Only safetensors are read; an incomplete
    checkpoint is refused.
    """
)
class MedGlipPreTrainedModel(PreTrainedModel):  # noqa: D101
    config_class = MedGlipConfig
    config: MedGlipConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = [
        "MedGlipFeaturePyramid", "MedGlipSinePositionEmbedding", "MedGlipFusionBlock", "MedGlipAlignmentHead",
        "MedGlipPresenceHead", "MedGlipBoxHead",
    ]  # fmt: skip

    def _initialize_weights(self, module: Any, is_custom_code: bool = False) -> None:
        """Initialize a module as transformers' own models do.

        For custom code transformers skips modules without tensors of their own, in case `_init_weights` overwrites
        loaded tensors. Ours uses `transformers.initialization`, which leaves them alone.
        """
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)
        if isinstance(module, MedGlipFeaturePyramid):
            for conv in (*module.lateral, *module.smooth, module.p6, module.p7):
                init.kaiming_uniform_(conv.weight, a=1)
        elif isinstance(module, MedGlipBiDirectionalAttention):
            for linear in module.children():
                init.xavier_uniform_(linear.weight)
        elif isinstance(module, MedGlipFusionLayer):
            init.constant_(module.gamma_visual, module.initial_gamma)
            init.constant_(module.gamma_text, module.initial_gamma)
        elif isinstance(module, MedGlipModulatedDeformConv):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            init.zeros_(module.bias)
        elif isinstance(module, MedGlipDynamicConv):
            for layer in module.modules():
                if isinstance(layer, (nn.Linear, nn.Conv2d)):
                    init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
            init.normal_(module.scale_attention.weight, std=0.01)
        elif isinstance(module, MedGlipSinePositionEmbedding):
            init.kaiming_uniform_(module.projection.weight, a=math.sqrt(5))
        elif isinstance(module, MedGlipExpert) and module.text_adapter is not None:
            init.kaiming_uniform_(module.text_adapter.weight, a=math.sqrt(5))
        elif isinstance(module, MedGlipAlignmentHead):
            init.kaiming_uniform_(module.text_projection.weight, a=math.sqrt(5))
            init.zeros_(module.token_bias)
            init.constant_(module.bias, module.prior_bias)
            init.constant_(module.log_scale, module.initial_log_scale)
        elif isinstance(module, MedGlipBoxHead):
            init.normal_(module.box_projection.weight, std=0.01)
            init.normal_(module.centerness_projection.weight, std=0.01)
            init.constant_(module.level_scales, module.initial_scale)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint, or only some of its experts.

        Args:
            pretrained_model_name_or_path (`str` or `Path`): a folder or a Hub id.
            args (`Any`): passed to the model's constructor.
            modalities (`list[str]`, *optional*): the experts to load; the others' tensors are not read.
            kwargs (`Any`): see `PreTrainedModel.from_pretrained`.

        Raises:
            `ValueError`: tensors are missing, left over or of another shape, the expert is not in the checkpoint, or
                a file or setting of the checkpoint is refused.
            `OSError`: there is no safetensors file.
        """
        modalities = kwargs.pop("modalities", None)
        with_info = kwargs.pop("output_loading_info", False)
        if kwargs.get("use_safetensors") in (False, 0) or kwargs.get("gguf_file") is not None:
            raise ValueError("only safetensors are read: leave use_safetensors and gguf_file out")
        kwargs["use_safetensors"] = True
        _check_checkpoint(pretrained_model_name_or_path, kwargs)
        if modalities is not None:
            names = [modalities] if isinstance(modalities, str) else list(modalities)
            config = kwargs.pop("config", None)
            if config is None:
                hub = {k: kwargs[k] for k in HUB_OPTIONS if k in kwargs}
                config = cls.config_class.from_pretrained(pretrained_model_name_or_path, **hub)
            kwargs["config"] = config.for_modalities(names)
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        except SafetensorError as error:
            raise ValueError(f"checkpoint {pretrained_model_name_or_path}: no safetensors ({error})") from error
        if kwargs.get("ignore_mismatched_sizes"):
            info["mismatched_keys"].clear()
        model._require_complete(info, str(pretrained_model_name_or_path))
        return (model, info) if with_info else model

    @staticmethod
    def _load_pretrained_model(model: Any, state_dict: Any, checkpoint_files: Any, *args: Any, **kwargs: Any) -> Any:
        """Compare sizes before `PreTrainedModel._load_pretrained_model` allocates the model."""
        _check_parameters(model, checkpoint_files or [])
        return PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, *args, **kwargs)

    def _require_complete(self, info: Any, source: str) -> None:
        for problem, keys in (
            ("lacks", list(info["missing_keys"])),
            ("has unknown", list(info["unexpected_keys"])),
            ("has another shape for", [str(entry[0]) for entry in info["mismatched_keys"]]),
        ):
            if keys:
                raise ValueError(
                    f"checkpoint {source} {problem} {len(keys)} tensors, the first is {sorted(keys)[0]!r}: it does "
                    f"not fit {type(self).__name__} with the experts {', '.join(self.config.modalities)}"
                )

    def _ignore_other_experts(self) -> None:
        """Pass over the tensors of other experts, and over box heads where only the base model is loaded.

        Called last in a model's `__init__`, since transformers gathers these patterns in `post_init`.
        """
        others = f"({'|'.join(name for name in MODALITIES if name not in self.config.modalities) or '(?!)'})\\."
        heads = others if hasattr(self, "box_heads") else ""
        self._keys_to_ignore_on_load_unexpected = {rf"^(model\.)?experts\.{others}", rf"^box_heads\.{heads}"}

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save as `PreTrainedModel.save_pretrained` does, with the tensors under the model's own names.

        Transformers by default restores legacy names of Swin and others on saving, which `Trainer` cannot read
        back when it resumes or loads the best checkpoint.
        """
        kwargs.setdefault("save_original_format", False)
        self.config.auto_map = dict(AUTO_MAP)
        return super().save_pretrained(save_directory, *args, **kwargs)


def _check_checkpoint(source: Any, options: dict[str, Any]) -> None:
    """Check the files of a folder or Hub id before transformers reads any of them.

    Raises:
        `ValueError`: see [`check_checkpoint_files`]; or an adapter, which transformers would load from a pickle too;
            or no weights but pickled ones.
    """
    ending = f".{options['variant']}.json" if options.get("variant") else ".json"
    names = ("config.json", "adapter_config.json", f"model.safetensors.index{ending}")
    folder = check_checkpoint_files(source, names, **options)
    if (options.get("adapter_kwargs") or {}).get("_adapter_model_path") or (
        folder is not None and (folder / "adapter_config.json").exists()
    ):
        raise ValueError(f"{source}: holds an adapter (adapter_config.json): give the checkpoint it was trained on")
    if folder is None or not Path(str(source)).is_dir():
        return
    if any(folder.glob("shard-*-model-*.safetensors")):
        raise ValueError(f"{folder}: holds the shards of a distributed run: save the model with save_pretrained")
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    if pickled and not any(file.name != ROUTER_FILE for file in folder.glob("*.safetensors")):
        raise ValueError(f"{folder}: {pickled[0]} is a pickled checkpoint and is not opened; {CONVERT_PICKLE}")


def _check_parameters(model: nn.Module, files: Sequence[str]) -> None:
    """Compare the parameters that a configuration describes with those in the files.

    Raises:
        `ValueError`: the files are not safetensors, or the model is far larger than they are.
    """
    held = 0
    for file in files:
        if not str(file).endswith(".safetensors"):
            raise ValueError(f"{Path(file).name}: only safetensors are read; {CONVERT_PICKLE}")
        with safe_open(file, framework="pt") as tensors:
            held += sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
    described = sum(tensor.numel() for tensor in model.state_dict().values())
    if described > held + SPARE_PARAMETERS:
        raise ValueError(f"config.json describes {described} parameters, but the files hold only {held}")


@auto_docstring(
    custom_intro="""
    The bare MedGLIP model: region features F, token features T and their alignment S, for one or several experts.
    """
)
class MedGlipModel(MedGlipPreTrainedModel):  # noqa: D101
    def __init__(self, config: MedGlipConfig):
        super().__init__(config)
        text_kwargs = {"add_pooling_layer": False} if config.text_config.model_type in ("bert", "roberta") else {}
        self.text_model = AutoModel.from_config(config.text_config, trust_remote_code=False, **text_kwargs)
        self.experts = nn.ModuleDict({name: MedGlipExpert(config, name) for name in config.modalities})
        self.post_init()
        self._ignore_other_experts()

    def train(self, mode: bool = True) -> MedGlipModel:
        """Set the mode as `Module.train` does; a frozen language encoder stays without dropout."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.text_model.parameters()):
            self.text_model.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings of the text encoder."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings of the text encoder."""
        self.text_model.set_input_embeddings(value)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> TextFeatures:
        """Encode prompts once.

        Args:
            input_ids (`Tensor` of shape `(prompts, tokens)` or `(prompts, chunks, tokens)`): token ids.
            attention_mask (`Tensor` of the same shape, *optional*): 1 for tokens, 0 for padding.

        Returns:
            [`TextFeatures`] for `forward(text_features=...)`; one prompt serves a whole batch of images.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if input_ids.dim() == 3:
            features = self.get_text_features(input_ids.flatten(0, 1), mask.flatten(0, 1))
            return TextFeatures(*(tensor.unflatten(0, input_ids.shape[:2]) for tensor in features))
        rows, inverse = input_ids, None
        # The number of different prompts is a shape that a traced graph cannot have, and that another device would
        # have to tell the host, which takes longer than to encode a prompt twice.
        on_host = input_ids.device.type == "cpu" and not torch.compiler.is_compiling()
        if on_host and not self.training and len(input_ids) > 1:
            both, inverse = torch.unique(torch.stack([input_ids, mask], -1), dim=0, return_inverse=True)
            rows, mask = both[..., 0], both[..., 1]
        text_mask, positions = self._text_mask(rows, mask)
        hidden = self.text_model(input_ids=rows, attention_mask=text_mask, position_ids=positions).last_hidden_state
        features = TextFeatures(hidden, mask, text_mask)
        return features if inverse is None else TextFeatures(*(tensor[inverse] for tensor in features))

    def _text_mask(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Additive mask (prompts, 1, 1 or tokens, tokens) and, for label-wise attention, the position ids."""
        allowed = attention_mask.bool()[:, None, None]
        positions = None
        if self.config.text_attention == "label":
            segments = label_segments(input_ids, self.config.separator_token_ids)
            same = segments[:, :, None] == segments[:, None, :]
            # Padding tokens see themselves, so that no row of the softmax is empty.
            itself = torch.eye(input_ids.shape[1], dtype=torch.bool, device=input_ids.device)
            allowed = ((same & attention_mask.bool()[:, None]) | itself)[:, None]
            positions = segment_positions(segments).clamp(max=self.config.text_config.max_position_embeddings - 1)
        mask = torch.zeros(allowed.shape, dtype=self.dtype, device=input_ids.device)
        return mask.masked_fill(
            ~allowed, -1e9 if self.dtype == torch.float32 else torch.finfo(self.dtype).min
        ), positions

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        modality: str | Sequence[str] | None = None,
        pixel_mask: Tensor | None = None,
        text_features: TextFeatures | None = None,
        labels: list[dict[str, Tensor]] | None = None,
        label_tokens: Tensor | None = None,
        image_sizes: Sequence[Sequence[int]] | None = None,
        **kwargs: Unpack[MedGlipForwardKwargs],
    ) -> MedGlipModelOutput:
        r"""
        pixel_values (`Tensor` of shape `(batch, 3, height, width)`):
            Images as the processor makes them, of any floating-point type.
        input_ids (`Tensor` of shape `(batch, tokens)` or `(batch, chunks, tokens)`, *optional*):
            Token ids of the prompts. Chunks share one pass of the image encoder. One row serves the whole batch.
        attention_mask (`Tensor` of the shape of `input_ids`, *optional*):
            1 for tokens, 0 for padding.
        modality (`str` or `list[str]`, *optional*):
            The expert for all images or for each; not needed where there is one.
        pixel_mask (`Tensor` of shape `(batch, height, width)`, *optional*):
            1 for pixels of the image. Each image is then computed on its own extent, as if it were alone. Without
            mask and `image_sizes`, padding takes part, as in GLIP.
        text_features ([`TextFeatures`], *optional*):
            From [`~MedGlipModel.get_text_features`], instead of `input_ids`.
        labels (`list[dict[str, Tensor]]`, *optional*):
            Ignored; the processor's batch can be passed whole.
        label_tokens (`Tensor`, *optional*):
            Ignored.
        image_sizes (`list[tuple[int, int]]`, *optional*):
            Height and width in pixels of each image at the top left of the input: the extents of `pixel_mask`, as
            the processor knows them. Without them they are read from the mask, for which a GPU must wait and which a
            compiled or exported graph cannot do. With them a GPU does not read the mask: leave them out with a mask
            of your own.

        Returns:
            [`MedGlipModelOutput`], or its values as a tuple with `return_dict=False`.

        Raises:
            `ValueError`: shapes do not fit, the checkpoint has no such expert, or attention maps or hidden states are
                asked for.
            `TypeError`: an unknown argument.
        """
        check_forward_kwargs(self, kwargs)
        batch = len(pixel_values)
        pixel_values = pixel_values.to(self.dtype)  # the processor's are float32
        if text_features is None:
            if input_ids is None:
                raise ValueError("give input_ids or text_features")
            if len(input_ids) not in (1, batch):
                raise ValueError(f"{len(input_ids)} prompts for {batch} images: give one, or one per image")
            text_features = self.get_text_features(input_ids, attention_mask)
        elif len(text_features.hidden) not in (1, batch):
            raise ValueError(
                f"text_features of {len(text_features.hidden)} prompts for {batch} images: give one, or all"
            )
        chunked = text_features.hidden.dim() == 4
        chunks = text_features.hidden.shape[1] if chunked else 1
        text_features = TextFeatures(*(tensor.expand(batch, *tensor.shape[1:]) for tensor in text_features))
        if chunked:
            text_features = TextFeatures(*(tensor.flatten(0, 1) for tensor in text_features))
        names = self.resolve_modalities(modality, batch)
        sizes = resolve_image_sizes(pixel_values, pixel_mask, image_sizes)
        groups = group_images(names, sizes)
        outputs = [self._forward_group(pixel_values, text_features, chunks, *group) for group in groups.items()]
        shapes = pyramid_shapes(pixel_values.shape[-2:], self.config.head_config.anchor_strides)
        return self._gather(outputs, list(groups.items()), shapes, sizes, chunks)

    def resolve_modalities(self, modality: str | Sequence[str] | None, batch: int) -> list[str]:
        """Return the expert of each image.

        Args:
            modality (`str` or `Sequence[str]`, *optional*): for all images or for each, by any of its names.
            batch (`int`): number of images.

        Raises:
            `ValueError`: unknown, not in this checkpoint, or not given although there are several experts.
        """
        if modality is None:
            if len(self.config.modalities) > 1:
                raise ValueError(f"give the modality of each image: one of {', '.join(self.config.modalities)}")
            return [self.config.modalities[0]] * batch
        names = [modality] * batch if isinstance(modality, str) else list(modality)
        if len(names) != batch:
            raise ValueError(f"{len(names)} modalities for {batch} images: give one, or one per image")
        return self.config.require_modalities(names)

    def _forward_group(
        self, pixel_values: Tensor, text: TextFeatures, chunks: int, key: tuple[str, int, int], images: list[int]
    ) -> ExpertOutputs:
        """Return the outputs of all images of one expert and one size, with an axis of chunks after the images'."""
        name, height, width = key
        expert = cast(MedGlipExpert, self.experts[name])
        rows = on_device(images, pixel_values.device)
        pixels = pixel_values if len(images) == len(pixel_values) else pixel_values[rows]
        levels = expert.encode_image(pixels[..., :height, :width])
        parts = []
        for chunk in range(chunks):
            hidden, mask, text_mask = (tensor[rows * chunks + chunk] for tensor in text)
            parts.append(expert.fuse(levels, hidden, mask, text_mask))
        if chunks == 1:
            return ExpertOutputs(*(part[:, None] for part in parts[0]))
        return ExpertOutputs(*(torch.stack(part, dim=1) for part in zip(*parts, strict=True)))

    def _gather(
        self,
        outputs: list[ExpertOutputs],
        groups: list[tuple[tuple[str, int, int], list[int]]],
        shapes: list[tuple[int, int]],
        sizes: list[tuple[int, int]],
        chunks: int,
    ) -> MedGlipModelOutput:
        """Put the groups' results back in the batch's order, each on its cells of the padded grid."""
        device = outputs[0].regions.device
        total = sum(height * width for height, width in shapes)
        if len(groups) == 1 and outputs[0].regions.shape[2] == total:
            gathered = outputs[0]
            inside = torch.ones(len(sizes), total, dtype=torch.bool, device=device)
        else:
            gathered, inside = self._scatter(outputs, groups, shapes, total, len(sizes))
        answers_presence = any(cast(MedGlipExpert, expert).presence is not None for expert in self.experts.values())
        tokens, presence = (part if chunks > 1 else part.squeeze(1) for part in (gathered.tokens, gathered.presence))
        return MedGlipModelOutput(
            logits=gathered.logits.flatten(1, 2),
            region_features=gathered.regions.flatten(1, 2),
            token_features=tokens,
            region_mask=inside.repeat(1, chunks),
            spatial_shapes=on_device(shapes, device),
            input_sizes=on_device(sizes, device),
            presence_logits=presence if answers_presence else None,
        )

    def _scatter(
        self,
        outputs: list[ExpertOutputs],
        groups: list[tuple[tuple[str, int, int], list[int]]],
        shapes: list[tuple[int, int]],
        total: int,
        batch: int,
    ) -> tuple[ExpertOutputs, Tensor]:
        first = outputs[0]
        chunks = first.regions.shape[1]
        regions = first.regions.new_zeros(batch, chunks, total, first.regions.shape[-1])
        tokens = first.tokens.new_zeros(batch, *first.tokens.shape[1:])
        logits = first.logits.new_full((batch, chunks, total, first.logits.shape[-1]), OUTSIDE_LOGIT)
        presence = first.presence.new_zeros(batch, *first.presence.shape[1:])
        inside = torch.zeros(batch, total, dtype=torch.bool, device=regions.device)
        for part, ((_, height, width), images) in zip(outputs, groups, strict=True):
            cells = grid_indices(
                pyramid_shapes((height, width), self.config.head_config.anchor_strides), shapes, regions.device
            )
            rows = on_device(images, regions.device)
            regions[rows[:, None], :, cells] = part.regions.transpose(1, 2)
            logits[rows[:, None], :, cells] = part.logits.transpose(1, 2)
            tokens[rows], presence[rows] = part.tokens, part.presence
            inside[rows[:, None], cells] = True
        return ExpertOutputs(regions, tokens, logits, presence), inside


def resolve_image_sizes(
    pixel_values: Tensor, pixel_mask: Tensor | None = None, image_sizes: Sequence[Sequence[int]] | None = None
) -> list[tuple[int, int]]:
    """Return height and width in pixels of each image: as given, the extent of its mask, or the whole input.

    The mask is compared with the sizes on a CPU. On another device the host would wait for that: there the sizes
    win, and only a mask without sizes is read.

    Args:
        pixel_values (`Tensor` of shape `(batch, 3, height, width)`): the input.
        pixel_mask (`Tensor` of shape `(batch, height, width)`, *optional*): 1 for pixels of the image.
        image_sizes (`Sequence[Sequence[int]]`, *optional*): height and width of each image.

    Raises:
        `ValueError`: mask or sizes do not fit the input, the mask hides all of an image, or the sizes are not its
            extents.
        `RuntimeError`: they are not in a compiled or exported graph, or the graph needs them.
    """
    batch, _, height, width = pixel_values.shape
    whole = [(height, width)] * batch
    if pixel_mask is not None and pixel_mask.shape != (batch, height, width):
        raise ValueError(f"pixel_mask {tuple(pixel_mask.shape)} does not fit pixel_values {tuple(pixel_values.shape)}")
    sizes = whole if image_sizes is None else [(int(rows), int(columns)) for rows, columns in image_sizes]
    if len(sizes) != batch or not all(0 < rows <= height and 0 < columns <= width for rows, columns in sizes):
        raise ValueError(f"image_sizes {sizes} do not fit pixel_values {tuple(pixel_values.shape)}")
    if pixel_mask is None or (image_sizes is not None and pixel_mask.device.type != "cpu"):
        return sizes
    extents = mask_extents(pixel_mask)
    if not torch.compiler.is_compiling():
        shown = [(rows, columns) for rows, columns in extents.tolist()]
        if (0, 0) in shown:
            raise ValueError("pixel_mask hides all of an image")
        if image_sizes is not None and sizes != shown:
            raise ValueError(
                f"image_sizes {sizes} are not the extents {shown} of pixel_mask: leave image_sizes out, or pass those"
            )
        return shown
    same = (extents == torch.tensor(sizes, device=extents.device)).all()
    torch._assert_async(same, "pixel_mask needs its extents as image_sizes: the processor's batch holds both")
    return sizes


def mask_extents(pixel_mask: Tensor) -> Tensor:
    """Return the last row and column, counted from 1, of each mask `(batch, height, width)`: `(batch, 2)`."""
    mask = pixel_mask.bool()
    rows, columns = (torch.arange(1, side + 1, device=mask.device) for side in mask.shape[1:])
    return torch.stack([(mask.any(2) * rows).amax(1), (mask.any(1) * columns).amax(1)], dim=1)


def group_images(names: list[str], sizes: list[tuple[int, int]]) -> dict[tuple[str, int, int], list[int]]:
    """Return the indices of the images that share an expert and a size (height, width)."""
    groups: dict[tuple[str, int, int], list[int]] = {}
    for index, (name, (height, width)) in enumerate(zip(names, sizes, strict=True)):
        groups.setdefault((name, height, width), []).append(index)
    return groups


def pyramid_shapes(size: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return height and width of each level in cells, rounded up.

    Args:
        size (`Sequence[int]`): height and width of the input in pixels.
        strides (`Sequence[int]`): pixels between cells of each level.
    """
    height, width = size
    return [(-(-height // stride), -(-width // stride)) for stride in strides]


def region_levels(shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Return the index of the level of each region, `(regions,)`, for levels of `shapes` (height, width)."""
    return torch.cat(
        [torch.full((rows * columns,), level, device=device) for level, (rows, columns) in enumerate(shapes)]
    )


def grid_indices(part: list[tuple[int, int]], whole: list[tuple[int, int]], device: torch.device) -> Tensor:
    """Return the indices `(regions,)` of a smaller image's regions among those of the padded grid.

    Args:
        part (`list[tuple[int, int]]`): height and width of each level of the image.
        whole (`list[tuple[int, int]]`): the same of the padded input.
        device (`torch.device`): of the result.
    """
    cells, start = [], 0
    for (rows, columns), (height, width) in zip(part, whole, strict=True):
        y = torch.arange(rows, device=device)[:, None] * width
        cells.append((y + torch.arange(columns, device=device)).flatten() + start)
        start += height * width
    return torch.cat(cells)


@auto_docstring(
    custom_intro="""
    MedGLIP with box and centerness heads: finds the regions of an image that the phrases of a prompt name.
    """
)
class MedGlipForObjectDetection(MedGlipPreTrainedModel):  # noqa: D101
    # `Trainer` gives the losses' divisors of a whole optimizer step as `num_items_in_batch`.
    accepts_loss_kwargs = True

    def __init__(self, config: MedGlipConfig):
        super().__init__(config)
        self.model = MedGlipModel(config)
        self.head_configs = {name: config.expert_head_config(name) for name in config.modalities}
        self.box_heads = nn.ModuleDict({name: MedGlipBoxHead(head) for name, head in self.head_configs.items()})
        self.post_init()
        self._ignore_other_experts()

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> TextFeatures:
        """See [`MedGlipModel.get_text_features`]."""
        return self.model.get_text_features(input_ids, attention_mask)

    def update_head_config(self, modality: str, **settings: Any) -> None:
        """Change settings of one expert that shape no weights: anchors, score calibration, losses.

        Args:
            modality (`str`): the expert.
            settings (`Any`): fields of [`MedGlipHeadConfig`] and their values.
        """
        (name,) = self.config.require_modalities([modality])
        overrides = cast(dict[str, Any], self.config.expert_overrides)
        overrides.setdefault(name, {}).setdefault("head_config", {}).update(settings)
        self.head_configs[name] = self.config.expert_head_config(name)

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        modality: str | Sequence[str] | None = None,
        pixel_mask: Tensor | None = None,
        labels: list[dict[str, Tensor]] | None = None,
        label_tokens: Tensor | None = None,
        text_features: TextFeatures | None = None,
        num_items_in_batch: Tensor | None = None,
        image_sizes: Sequence[Sequence[int]] | None = None,
        **kwargs: Unpack[MedGlipForwardKwargs],
    ) -> MedGlipObjectDetectionOutput:
        r"""
        pixel_values (`Tensor` of shape `(batch, 3, height, width)`):
            Images as the processor makes them, of any floating-point type.
        input_ids (`Tensor` of shape `(batch, tokens)` or `(batch, chunks, tokens)`, *optional*):
            Token ids of the prompts; see [`MedGlipModel.forward`].
        attention_mask (`Tensor` of the shape of `input_ids`, *optional*):
            1 for tokens, 0 for padding.
        modality (`str` or `list[str]`, *optional*):
            The expert for all images or for each; not needed where there is one.
        pixel_mask (`Tensor` of shape `(batch, height, width)`, *optional*):
            1 for pixels of the image; see [`MedGlipModel.forward`].
        labels (`list[dict[str, Tensor]]`, *optional*):
            Per image `boxes` (targets, 4), xyxy pixels of the padded input in the +1 convention, and `class_labels`
            (targets,), the index of the phrase in that image's prompt. An image may have no targets. Their values are
            checked on the host: no compiled or exported graph takes them.
        label_tokens (`Tensor` of shape `(batch, labels, tokens)`, bool, *optional*):
            The tokens of each phrase; needed with `labels`.
        text_features ([`TextFeatures`], *optional*):
            From [`~MedGlipForObjectDetection.get_text_features`], instead of `input_ids`.
        num_items_in_batch (`Tensor` of shape `(3,)`, *optional*):
            What the losses are divided by: the sum of [`~MedGlipForObjectDetection.loss_totals`] over all batches and
            processes of an optimizer step; this batch's own when not given.
        image_sizes (`list[tuple[int, int]]`, *optional*):
            Height and width in pixels of each image without its padding; see [`MedGlipModel.forward`].

        Returns:
            [`MedGlipObjectDetectionOutput`], or its values as a tuple with `return_dict=False`.

        Raises:
            `ValueError`: as [`MedGlipModel.forward`], or targets that do not fit the prompt.
            `TypeError`: an unknown argument.
        """
        check_forward_kwargs(self, kwargs)
        sizes = resolve_image_sizes(pixel_values, pixel_mask, image_sizes)
        outputs = self.model(
            pixel_values,
            input_ids,
            attention_mask,
            modality,
            text_features=text_features,
            image_sizes=sizes,
            return_dict=True,
            **kwargs,
        )
        names = self.model.resolve_modalities(modality, len(pixel_values))
        shapes = pyramid_shapes(pixel_values.shape[-2:], self.config.head_config.anchor_strides)
        deltas, centerness, anchors = self._predict_boxes(outputs.region_features, names, shapes)
        prediction = MedGlipObjectDetectionOutput(
            logits=outputs.logits,
            box_deltas=deltas,
            centerness=centerness,
            pred_boxes=torch.stack(
                [decode_boxes(delta, anchor) for delta, anchor in zip(deltas, anchors, strict=True)]
            ),
            region_features=outputs.region_features,
            token_features=outputs.token_features,
            spatial_shapes=outputs.spatial_shapes,
            input_sizes=outputs.input_sizes,
            score_calibration=self._calibration(names, deltas.device),
            label_token_mask=self._label_token_mask(input_ids, attention_mask, len(names)),
            presence_logits=outputs.presence_logits,
        )
        if labels is not None:
            if attention_mask is None:
                attention_mask = torch.ones_like(input_ids) if input_ids is not None else text_features.attention_mask
            heads = [self.head_configs[name] for name in names]
            targets = self._assign(anchors, heads, shapes, sizes, labels, label_tokens, prediction.logits)
            losses = self._losses(
                prediction, targets, anchors, heads, attention_mask, outputs.region_mask, num_items_in_batch
            )
            losses |= self._label_losses(prediction, targets, heads, labels, label_tokens, num_items_in_batch)
            prediction.loss_dict, prediction.loss = losses, torch.stack(list(losses.values())).sum()
        return prediction

    def _label_token_mask(self, input_ids: Tensor | None, attention_mask: Tensor | None, batch: int) -> Tensor | None:
        """Return which tokens are neither padding nor separators after the opening token: `(batch, tokens)`."""
        if input_ids is None or input_ids.ndim != 2:
            return None
        ends = torch.isin(input_ids, on_device(list(self.config.separator_token_ids), input_ids.device))
        ends[:, 0] = False
        words = ~ends if attention_mask is None else ~ends & attention_mask.bool()
        return words.expand(batch, -1)

    def _calibration(self, names: list[str], device: torch.device) -> Tensor | None:
        """Return slope and intercept of each image's expert, (1, 0) for those without: `(batch, 2)`."""
        known = {name: head.score_calibration for name, head in self.head_configs.items()}
        if not any(known.values()):
            return None
        return on_device([known[name] or (1.0, 0.0) for name in names], device, torch.float32)

    def _predict_boxes(
        self, regions: Tensor, names: list[str], shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return deltas and centerness of every region, by each image's expert, and each image's anchors."""
        levels = region_levels(shapes, regions.device)
        chunks = regions.shape[1] // len(levels)
        levels = levels.repeat(chunks)
        if len(set(names)) == 1:
            deltas, centerness = self.box_heads[names[0]](regions, levels)
        else:
            parts = [self.box_heads[name](regions[index], levels) for index, name in enumerate(names)]
            deltas, centerness = (torch.stack(part) for part in zip(*parts, strict=True))
        anchors = {
            name: make_anchors(shapes, self.head_configs[name], deltas.device).repeat(chunks, 1)
            for name in dict.fromkeys(names)
        }
        return deltas, centerness, [anchors[name] for name in names]

    def _assign(
        self,
        anchors: list[Tensor],
        heads: list[MedGlipHeadConfig],
        shapes: list[tuple[int, int]],
        sizes: list[tuple[int, int]],
        labels: list[dict[str, Tensor]],
        label_tokens: Tensor | None,
        logits: Any,
    ) -> list[MedGlipImageTargets]:
        """Check the targets of each image and assign them to the regions inside it."""
        batch, _regions, tokens = logits.shape
        if label_tokens is None:
            raise ValueError("labels need label_tokens: make the batch with MedGlipProcessor(..., labels=...)")
        if label_tokens.shape[-1] != tokens or label_tokens.dim() != 3 or len(labels) != batch:
            raise ValueError(
                f"labels of {len(labels)} images and label_tokens {tuple(label_tokens.shape)} do not fit logits "
                f"{tuple(logits.shape)}; training takes one prompt per image, not chunks"
            )
        targets = []
        for index, target in enumerate(labels):
            check_annotation(target, f"labels of image {index}")
            boxes = target["boxes"].to(torch.float32).reshape(-1, 4)
            classes = target["class_labels"].long().reshape(-1)
            if problem := target_problem(boxes, classes, label_tokens.shape[1]):
                raise ValueError(f"labels of image {index}: {problem}")
            boxes, classes = boxes.to(logits.device), classes.to(logits.device)
            levels = pyramid_shapes(sizes[index], heads[index].anchor_strides)
            inside = grid_indices(levels, shapes, logits.device)
            level_sizes = [rows * columns for rows, columns in levels]
            assigned = assign_atss(anchors[index][inside], level_sizes, boxes, heads[index].atss_topk)
            matched = assigned[assigned >= 0]
            token_rows = label_tokens[index].to(logits.device, torch.float32)
            targets.append(MedGlipImageTargets(inside[assigned >= 0], boxes[matched], token_rows[classes[matched]]))
        return targets

    @torch.no_grad()
    def loss_totals(
        self,
        size: tuple[int, int],
        modality: str | Sequence[str] | None,
        labels: list[dict[str, Tensor]],
        label_tokens: Tensor | None = None,
    ) -> Tensor:
        """Return what the losses of a batch without pixel mask are divided by.

        These are the number of its positive regions, the sum of their centerness and the number of labels asked for.
        They follow from targets and prompts alone, so that a step of several batches, or on several devices, can be
        given its sums before any of them is computed.

        Args:
            size (`tuple[int, int]`): height and width of the input in pixels.
            modality (`str` or `Sequence[str]`, *optional*): as in `forward`.
            labels (`list[dict[str, Tensor]]`): as in `forward`.
            label_tokens (`Tensor` of shape `(batch, labels, tokens)`, bool, *optional*): as in `forward`; the losses
                of labels need it.

        Returns:
            float32 `(3,)`, on the model's device.
        """
        names = self.model.resolve_modalities(modality, len(labels))
        totals = torch.zeros(3, device=self.device)
        if label_tokens is not None:
            totals[2] = label_tokens.any(-1).sum()
        for name, target in zip(names, labels, strict=True):
            head = self.head_configs[name]
            shapes = pyramid_shapes(size, head.anchor_strides)
            anchors = make_anchors(shapes, head, self.device)
            boxes = target["boxes"].to(self.device, torch.float32).reshape(-1, 4)
            assigned = assign_atss(anchors, [height * width for height, width in shapes], boxes, head.atss_topk)
            central = centerness_targets(anchors[assigned >= 0], boxes[assigned[assigned >= 0]])
            totals[:2] += torch.stack([central.new_tensor(float(len(central))), central.sum()])
        return totals

    def _losses(
        self,
        prediction: Any,
        targets: list[MedGlipImageTargets],
        anchors: list[Tensor],
        heads: list[MedGlipHeadConfig],
        attention_mask: Tensor,
        region_mask: Tensor,
        totals: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the three losses of GLIP in float32, normalized by the positives of all processes or by `totals`.

        Each image counts with its own expert's settings.
        """
        logits = prediction.logits.float()
        alpha = logits.new_tensor([head.focal_alpha for head in heads])[:, None, None]
        gamma = logits.new_tensor([head.focal_gamma for head in heads])[:, None, None]
        if totals is None:
            count = logits.new_tensor(float(sum(len(target.positive) for target in targets)))
            positives = mean_over_processes(count).clamp(min=1)
        else:
            positives = totals[0].to(logits.device).clamp(min=1)
        expanded = torch.zeros_like(logits)
        for index, target in enumerate(targets):
            expanded[index, target.positive] = target.tokens.to(logits.dtype)
        counted = region_mask[:, :, None] & attention_mask.bool().to(logits.device)[:, None]
        alignment = (alignment_focal_loss(logits, expanded, alpha, gamma) * counted).sum() / positives
        boxes = torch.cat([prediction.pred_boxes[i, t.positive] for i, t in enumerate(targets)]).float()
        centerness = torch.cat([prediction.centerness[i, t.positive] for i, t in enumerate(targets)]).float()
        target_boxes = torch.cat([t.boxes for t in targets])
        central = centerness_targets(
            torch.cat([a[t.positive] for a, t in zip(anchors, targets, strict=True)]), target_boxes
        )
        whole = mean_over_processes(central.sum()) if totals is None else totals[1].to(logits.device)
        weight = whole.clamp(min=1e-6)
        shares = [central.new_full((len(t.positive),), h.box_loss_weight) for t, h in zip(targets, heads, strict=True)]
        box = (generalized_box_iou_loss(boxes, target_boxes) * central * torch.cat(shares)).sum() / weight
        center = F.binary_cross_entropy_with_logits(centerness, central, reduction="sum") / positives
        return {"loss_alignment": alignment, "loss_box": box, "loss_centerness": center}

    def _label_losses(
        self,
        prediction: Any,
        targets: list[MedGlipImageTargets],
        heads: list[MedGlipHeadConfig],
        labels: list[dict[str, Tensor]],
        label_tokens: Any,
        totals: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses on the side of the words, of those experts that have them."""
        weights = label_tokens.to(prediction.logits.device, torch.float32)
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
        losses = {}
        if prediction.presence_logits is not None:
            losses["loss_presence"] = self._presence_loss(prediction.presence_logits, heads, labels, weights, totals)
        # By all experts, not by those of this batch: every process has to take part in the mean over processes.
        if any(head.contrast_loss_weight for head in self.head_configs.values()):
            losses["loss_contrast"] = self._contrast_loss(prediction.logits, targets, heads, weights, totals)
        return losses

    def _presence_loss(
        self,
        presence_logits: Tensor,
        heads: list[MedGlipHeadConfig],
        labels: list[dict[str, Tensor]],
        weights: Tensor,
        totals: Tensor | None,
    ) -> Tensor:
        """Return the cross-entropy of each label's presence; `weights` (B, L, T) average over its tokens."""
        logits, asked = torch.einsum("blt,bt->bl", weights, presence_logits.float()), weights.any(-1)
        present = torch.zeros_like(logits)
        for row, annotation in zip(present, labels, strict=True):
            row[annotation["class_labels"].long().to(row.device)] = 1
        shares = logits.new_tensor([head.presence_loss_weight if head.presence_dim else 0.0 for head in heads])
        entropy = F.binary_cross_entropy_with_logits(logits, present, reduction="none") * asked * shares[:, None]
        count = mean_over_processes(asked.sum().float()) if totals is None else totals[2].to(logits.device)
        return entropy.sum() / count.clamp(min=1)

    def _contrast_loss(
        self,
        logits: Tensor,
        targets: list[MedGlipImageTargets],
        heads: list[MedGlipHeadConfig],
        weights: Tensor,
        totals: Tensor | None,
    ) -> Tensor:
        """Return the cross-entropy of a prompt's labels in the regions that show one: it tells look-alikes apart."""
        total, positives = logits.new_zeros(()), 0
        for scores, target, head, label_weights in zip(logits, targets, heads, weights, strict=True):
            if len(target.positive) == 0:
                continue
            label_scores = scores[target.positive].float() @ label_weights.T
            label_scores = label_scores.masked_fill(~label_weights.any(-1), -1e9)
            shown = (target.tokens @ label_weights.T).argmax(-1)
            total = total + F.cross_entropy(label_scores, shown, reduction="sum") * head.contrast_loss_weight
            positives += len(shown)
        count = mean_over_processes(total.new_tensor(float(positives))) if totals is None else totals[0]
        return total / count.to(total.device).clamp(min=1)

    # -------------------------------------------------------------------------------------------- experts

    @classmethod
    def from_experts(cls, experts: dict[str, Any], **kwargs: Any) -> MedGlipForObjectDetection:
        """Join experts that share the language encoder into one checkpoint.

        Args:
            experts (`dict[str, Any]`): modality -> folder, Hub id or model that holds that expert.
            kwargs (`Any`): passed to `from_pretrained` for folders and ids.

        Raises:
            `ValueError`: no experts, another language encoder, or heads of another width.
        """
        if not experts:
            raise ValueError("from_experts needs at least one expert")
        parts: dict[str, MedGlipForObjectDetection] = {}
        for name, source in experts.items():
            key = resolve_modality(name)
            is_model = isinstance(source, cls)
            parts[key] = source.expert(key) if is_model else cls.from_pretrained(source, modalities=[key], **kwargs)
        first = next(iter(parts.values()))
        config = _join_configs({name: part.config for name, part in parts.items()})
        for name, part in parts.items():
            _require_same_text(first, part, name)
        return cls._assemble(config, [*parts.values()][::-1], first.training)

    def expert(self, modality: str) -> MedGlipForObjectDetection:
        """Return one expert as a model of its own, which shares this model's tensors.

        Raises:
            `ValueError`: this checkpoint has no such expert.
        """
        return self._assemble(self.config.for_modalities([modality]), [self], self.training)

    @classmethod
    def _assemble(
        cls, config: MedGlipConfig, parts: Sequence[MedGlipForObjectDetection], training: bool
    ) -> MedGlipForObjectDetection:
        """Return a model of the parts' tensors, frozen where they are; what several hold comes from the last one."""
        model = cls(config)
        state = {key: value for part in parts for key, value in part.state_dict().items()}
        trained = {key: value.requires_grad for part in parts for key, value in part.named_parameters()}
        model.load_state_dict({key: state[key] for key in model.state_dict()}, strict=True, assign=True)
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(trained[key])
        # Buffers that no state holds were made on the CPU.
        return model.to(parts[-1].device).train(training)


def _require_same_text(first: MedGlipForObjectDetection, other: MedGlipForObjectDetection, name: str) -> None:
    ours, theirs = first.model.text_model.state_dict(), other.model.text_model.state_dict()
    same_reading = all(
        getattr(first.config, field) == getattr(other.config, field)
        for field in ("text_attention", "separator_token_ids")
    )
    same_weights = ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    if not same_reading or not same_weights:
        raise ValueError(f"the expert for {name} was trained with another language encoder: they cannot be joined")


def _join_configs(configs: dict[str, MedGlipConfig]) -> MedGlipConfig:
    """Return one configuration for all experts: the first one's, with the others' differences as overrides."""
    names = list(configs)
    joined = configs[names[0]].for_modalities([names[0]])
    overrides: dict[str, dict[str, Any]] = {}
    for name, config in configs.items():
        for part in ("head_config", "backbone_config"):
            base = getattr(joined, part).to_dict()
            other = config._overridden(part, name).to_dict()
            same_kind = base.get("model_type") == other.get("model_type")
            changes = {key: value for key, value in other.items() if base.get(key) != value} if same_kind else other
            if changes:
                overrides.setdefault(name, {})[part] = changes
    hierarchy = merge_hierarchies([config.label_hierarchy for config in configs.values()])
    fields = {**joined.to_dict(), "modalities": names, "expert_overrides": overrides, "label_hierarchy": hierarchy}
    return MedGlipConfig.from_dict(fields)


# What `trust_remote_code` loads from a checkpoint's own folder.
AUTO_MAP = {
    "AutoConfig": "configuration_medglip.MedGlipConfig",
    "AutoModel": "modeling_medglip.MedGlipModel",
    "AutoModelForZeroShotObjectDetection": "modeling_medglip.MedGlipForObjectDetection",
    "AutoImageProcessor": "image_processing_medglip.MedGlipImageProcessor",
    "AutoProcessor": "processing_medglip.MedGlipProcessor",
}

MedGlipModel.register_for_auto_class("AutoModel")
MedGlipForObjectDetection.register_for_auto_class("AutoModelForZeroShotObjectDetection")

__all__ = [
    "MedGlipForObjectDetection",
    "MedGlipModel",
    "MedGlipModelOutput",
    "MedGlipObjectDetectionOutput",
    "MedGlipPreTrainedModel",
    "TextFeatures",
]
