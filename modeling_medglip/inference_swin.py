# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The form of a Swin encoder that is fast on CPUs.

Windows are gathered and put back by one index each, which replaces the padding, the cyclic shift and the partition of
transformers' encoder; queries, keys and values come from one product; cells of the padding are in no product.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BackboneOutput
from transformers.models.swin.modeling_swin import SwinBackbone, SwinLayer

from .inference_products import fused_linear, linear


# Sizes of maps, times two for the shift, whose windows are kept: four stages of an image, of a few sizes of images.
KEPT_GRIDS = 64
# What Swin adds to the scores of cells that only the cyclic shift made neighbors.
APART = -100.0


class WindowGrid(NamedTuple):
    """The windows of a map, those across its borders last.

    Args:
        take (`Tensor` of shape `(windows, area)`): the cell of the map at each place; 0 in the padding.
        padding (`Tensor` of shape `(n,)`): flat indices of the places in the padding.
        back (`Tensor` of shape `(cells,)`): the flat place of each cell.
        mask (`Tensor` of shape `(windows_at_borders, 1, area, area)`): added to the scores of the last windows.
    """

    take: Tensor
    padding: Tensor
    back: Tensor
    mask: Tensor


def window_grid(height: int, width: int, window: int, shift: int) -> WindowGrid:
    """Return the windows of a map.

    Args:
        height (`int`): of the map in cells.
        width (`int`): of the map in cells.
        window (`int`): side of a window in cells.
        shift (`int`): cells by which the map is rolled up and to the left before it is cut; 0 for none.
    """
    cells = torch.arange(height * width).view(height, width)
    cells = F.pad(cells, (0, -width % window, 0, -height % window), value=-1)
    take = _partition(cells.roll((-shift, -shift), (0, 1)), window)
    mask = _shift_mask(cells.shape[0], cells.shape[1], window, shift)
    at_border = mask.flatten(1).any(1)
    order = at_border.long().argsort(stable=True)
    take = take[order]
    inside = (take >= 0).flatten()
    back = torch.empty(height * width, dtype=torch.long)
    back[take.flatten()[inside]] = inside.nonzero().flatten()
    shifted = mask[order][len(mask) - int(at_border.sum()) :, None]
    return WindowGrid(take.clamp(min=0), (~inside).nonzero().flatten(), back, shifted)


def _partition(cells: Tensor, window: int) -> Tensor:
    """Return the windows `(windows, area)` of a map `(height, width)`."""
    return cells.unfold(0, window, window).unfold(1, window, window).flatten(2).flatten(0, 1)


def _shift_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """Return what is added to the scores of each window `(windows, area, area)` of a rolled map."""
    regions = torch.zeros(height, width)
    for stop in (window, shift) if shift else ():
        regions[height - stop :] += 3
        regions[:, width - stop :] += 1
    regions = _partition(regions, window)
    return (regions[:, None] != regions[:, :, None]) * APART


def batched_grid(grid: WindowGrid, batch: int, cells: int) -> WindowGrid:
    """Return the windows of a batch of maps one after the other: those of all maps at one place side by side.

    Args:
        grid ([`WindowGrid`]): of one map.
        batch (`int`): number of maps.
        cells (`int`): of a map.
    """
    if batch == 1:
        return grid
    image, area = torch.arange(batch)[:, None], grid.take.shape[1]
    padding, back = (
        place // area * (batch * area) + image * area + place % area for place in (grid.padding, grid.back)
    )
    take = (grid.take[:, None] + image * cells).flatten(0, 1)
    return WindowGrid(take, padding.flatten(), back.flatten(), grid.mask.repeat_interleave(batch, 0))


class WindowGrids:
    """The windows of maps, computed once for each size."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, int, int, int], WindowGrid] = {}

    def __call__(self, height: int, width: int, window: int, shift: int) -> WindowGrid:
        """Return the windows of a map, see [`window_grid`]."""
        key = (height, width, window, shift)
        if key not in self.kept:
            if len(self.kept) >= KEPT_GRIDS:
                self.kept.clear()
            self.kept[key] = window_grid(*key)
        return self.kept[key]


class WindowLayer(nn.Module):
    """A layer of Swin: attention in windows, then the perceptron.

    Args:
        layer (`SwinLayer`): in evaluation mode; its parameters are shared but for the projections, which are joined.
    """

    def __init__(self, layer: SwinLayer) -> None:
        super().__init__()
        attention = layer.attention
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        weight = torch.cat([projection.weight.detach() for projection in projections])
        biases = [projection.bias for projection in projections]
        bias = weight.new_zeros(len(weight)) if None in biases else torch.cat([part.detach() for part in biases])
        self.weight, self.bias = (nn.Parameter(part, requires_grad=False) for part in (weight, bias))
        self.position_bias = nn.Buffer(attention.relative_position_bias().detach(), persistent=False)
        self.window, self.shift, self.heads = layer.window_size, layer.shift_size, attention.num_attention_heads
        self.scaling = attention.scaling
        self.norm_before, self.norm_after = layer.layernorm_before, layer.layernorm_after
        self.output, self.mlp = attention.o_proj, layer.mlp
        self.gelu = attention.config.hidden_act == "gelu"

    def forward(self, tokens: Tensor, grid: WindowGrid) -> Tensor:
        """Return tokens of the same shape `(batch, cells, channels)`.

        Args:
            tokens (`Tensor` of shape `(batch, cells, channels)`): of a map in row-major order.
            grid ([`WindowGrid`]): of the map's size.
        """
        attended = self._attend(self.norm_before(tokens), grid)
        tokens = linear(attended, self.output.weight, self.output.bias).add_(tokens)
        return self._perceptron(self.norm_after(tokens)).add_(tokens)

    def _attend(self, tokens: Tensor, grid: WindowGrid) -> Tensor:
        """Return what each cell gathers from its window, `(batch, cells, channels)`."""
        batch, cells, channels = tokens.shape
        grid = batched_grid(grid, batch, cells)
        area = grid.take.shape[-1]
        joined = linear(tokens, self.weight, self.bias).flatten(0, 1).index_select(0, grid.take.flatten())
        joined[grid.padding] = self.bias  # Swin pads with zeros, of which a projection leaves its bias
        windows = joined.view(-1, area, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        plain = windows.shape[1] - len(grid.mask)
        parts = [self._attend_windows(windows[:, :plain], self.position_bias)]
        if len(grid.mask):
            parts.append(self._attend_windows(windows[:, plain:], self.position_bias + grid.mask))
        return torch.cat(parts).view(-1, channels).index_select(0, grid.back).view(batch, cells, channels)

    def _attend_windows(self, windows: Tensor, bias: Tensor) -> Tensor:
        """Return the attention of windows `(3, windows, heads, area, width)`: `(windows, area, heads, width)`."""
        query, key, value = windows
        bias = bias.expand(len(query), -1, -1, -1)
        return F.scaled_dot_product_attention(query, key, value, bias, scale=self.scaling).transpose(1, 2)

    def _perceptron(self, tokens: Tensor) -> Tensor:
        first, second = self.mlp.fc1, self.mlp.fc2
        if self.gelu:
            hidden = fused_linear(tokens, first.weight, first.bias, "gelu")
        else:
            hidden = self.mlp.activation_fn(first(tokens))
        return linear(hidden, second.weight, second.bias)


class SwinMaps(nn.Module):
    """A Swin encoder that returns its maps with the channels of a cell side by side in memory.

    Args:
        backbone (`SwinBackbone`): in evaluation mode; see [`WindowLayer`] for what is shared.
    """

    def __init__(self, backbone: SwinBackbone) -> None:
        super().__init__()
        stages = backbone.swin.encoder.layers
        self.names = backbone.stage_names[1:]
        self.embeddings = backbone.swin.embeddings
        self.stages = nn.ModuleList(nn.ModuleList(WindowLayer(layer) for layer in stage.blocks) for stage in stages)
        self.downsamples = nn.ModuleList(stage.downsample or nn.Identity() for stage in stages)
        self.norms = backbone.hidden_states_norms
        self.grids = WindowGrids()

    def forward(self, pixel_values: Tensor) -> BackboneOutput:
        """Return the maps of images `(batch, 3, height, width)` as transformers' encoder does."""
        tokens, (height, width) = self.embeddings(pixel_values)
        maps = []
        for name, layers, downsample in zip(self.names, self.stages, self.downsamples, strict=True):
            for layer in cast(Any, layers):
                tokens = layer(tokens, self.grids(height, width, layer.window, layer.shift))
            if name in self.norms:
                maps.append(self.norms[name](tokens).unflatten(1, (height, width)).permute(0, 3, 1, 2))
            if not isinstance(downsample, nn.Identity):
                tokens = downsample(tokens, (height, width))
                height, width = (height + 1) // 2, (width + 1) // 2
        return BackboneOutput(feature_maps=tuple(maps))


def swin_maps(backbone: nn.Module) -> nn.Module:
    """Return the fast form of a Swin encoder; any other encoder itself.

    Args:
        backbone (`nn.Module`): in evaluation mode; it stays as it is.
    """
    if type(backbone) is not SwinBackbone:
        return backbone
    stages = cast(list[str], backbone.stage_names)[1:]
    return SwinMaps(backbone) if set(cast(list[str], backbone.out_features)) <= set(stages) else backbone
