# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The form of a model that is fast on CPUs: batch norms folded into convolutions, channels last in memory.

What is saved and trained is the model itself: the fast form is a copy that shares the parameters that it does not
change.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
from collections.abc import Iterator
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .inference_products import FUSED, fused_linear
from .inference_swin import swin_maps
from .modeling_medglip import (
    MedGlipDynamicConv,
    MedGlipForObjectDetection,
    MedGlipModulatedDeformConv,
    MedGlipSinePositionEmbedding,
    sample_taps,
)


# Sizes of maps whose positions are kept: five of an image, of a few sizes of images.
KEPT_SIZES = 64
# Parameters of glibc's `mallopt`, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 2**28
# oneDNN computes full blocks of 16 channels a third faster than the 27 that a dynamic head needs.
OFFSET_CHANNELS = 32


def fast_form(model: MedGlipForObjectDetection) -> MedGlipForObjectDetection:
    """Return a copy of a model in single precision for inference on a CPU; any other model itself.

    Outputs differ from the model's by rounding alone. Models that are wrapped, as by `torch.compile`, or that run
    exported graphs, are returned as they are.

    Args:
        model ([`MedGlipForObjectDetection`]): in evaluation mode; it stays as it is.
    """
    if type(model) is not MedGlipForObjectDetection or (model.device.type, model.dtype) != ("cpu", torch.float32):
        return model
    shared: dict[int, object] = {id(value): value for value in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared)
    copied.config._attn_implementation = "eager"  # of the fusion: few tokens make fused kernels slow
    for expert in copied.model.experts.values():
        backbone = expert.backbone = swin_maps(cast(nn.Module, expert.backbone))
        fold_batch_norms(backbone)
        quicken_deformable(expert)
        for module in expert.modules():
            if isinstance(module, (nn.ReLU, nn.ReLU6)):
                module.inplace = True
            if isinstance(module, nn.Conv2d):
                weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
                module.weight = nn.Parameter(weight, requires_grad=False)
        if FUSED:
            fuse_activations(backbone)
        if isinstance(expert.positions, MedGlipSinePositionEmbedding):
            expert.positions = KeptPositions(expert.positions)
    return copied


class KeptPositions(nn.Module):
    """The code of positions, computed once for each size of map.

    Args:
        positions ([`MedGlipSinePositionEmbedding`]): whose parameters are shared.
    """

    def __init__(self, positions: MedGlipSinePositionEmbedding) -> None:
        super().__init__()
        self.positions = positions
        self.codes: dict[tuple[int, int], Tensor] = {}

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Return maps of the same shapes `(batch, channels, h, w)`."""
        return [level + self._code(level.shape[2], level.shape[3]) for level in levels]

    def _code(self, height: int, width: int) -> Tensor:
        code = self.codes.get((height, width))
        if code is None:
            if len(self.codes) >= KEPT_SIZES:
                self.codes.clear()
            code = self.codes[height, width] = self.positions.code(height, width)
        return code


def keep_freed_memory() -> None:
    """Let this process reuse the memory that it frees, up to `KEPT_BYTES`, instead of returning it to the system.

    The maps of an image are large. With its own settings glibc returns them after every image, and the system clears
    the same pages again for the next one, which takes a tenth of the time of an image. Other systems are left alone.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)


def fold_batch_norms(network: nn.Module) -> None:
    """Fold every batch norm that directly follows a convolution into it; what the norm does beside stays.

    Args:
        network (`nn.Module`): in evaluation mode. Convolutions and norms follow each other in the order in which their
            module names them, as in timm's networks.
    """
    for parent in list(network.modules()):
        for (name, conv), (norm_name, norm) in _pairs(parent):
            setattr(parent, name, fuse_conv_bn_eval(conv, norm))
            # timm's norms end with an activation; dropout does nothing in evaluation mode.
            setattr(parent, norm_name, getattr(norm, "act", nn.Identity()))


def fuse_activations(network: nn.Module) -> None:
    """Compute every ReLU6 that directly follows a convolution together with it, which saves a pass over its output.

    Args:
        network (`nn.Module`): with folded batch norms, see [`fold_batch_norms`].
    """
    for parent in list(network.modules()):
        for (name, conv), (next_name, activation) in pairwise(list(parent.named_children())):
            if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
                continue
            if isinstance(activation, nn.ReLU6):
                setattr(parent, name, ClampedConv2d(conv))
                setattr(parent, next_name, nn.Identity())


class ClampedConv2d(nn.Module):
    """A convolution whose outputs are clamped to 0 and 6, by the operator of oneDNN that compiled models use.

    Args:
        conv (`nn.Conv2d`): whose parameters are shared.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.options = (conv.padding, conv.stride, conv.dilation, conv.groups, "hardtanh", (0.0, 6.0), "")

    def forward(self, image: Tensor) -> Tensor:
        """Return the map `(batch, channels, h, w)` of a map `(batch, channels_in, height, width)`."""
        return torch.ops.mkldnn._convolution_pointwise(image, self.weight, self.bias, *self.options)


def quicken_deformable(network: nn.Module) -> None:
    """Replace the deformable convolutions of a network's dynamic heads by their form for CPUs.

    Args:
        network (`nn.Module`): whose [`MedGlipDynamicConv`] are changed.
    """
    for module in list(network.modules()):
        if isinstance(module, MedGlipDynamicConv) and module.offset is not None:
            module.offset = widen(module.offset, OFFSET_CHANNELS)
            for name, conv in list(module.named_children()):
                if isinstance(conv, MedGlipModulatedDeformConv):
                    setattr(module, name, SampledDeformConv(conv))


def widen(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Return a copy of a convolution with zeros in further output channels.

    Args:
        conv (`nn.Conv2d`): with a bias.
        channels (`int`): of the output; more than the convolution's.
    """
    wide = copy.copy(conv)
    wide._parameters, wide.out_channels = {}, channels
    for name in ("weight", "bias"):
        given = cast(Tensor, getattr(conv, name)).detach()
        padded = torch.cat([given, given.new_zeros(channels - len(given), *given.shape[1:])])
        setattr(wide, name, nn.Parameter(padded, requires_grad=False))
    return wide


class SampledDeformConv(nn.Module):
    """A deformable convolution whose kernel lies in memory as its product with the samples reads it.

    Args:
        conv ([`MedGlipModulatedDeformConv`]): whose bias is shared.
    """

    def __init__(self, conv: MedGlipModulatedDeformConv) -> None:
        super().__init__()
        self.stride, self.bias = conv.stride, conv.bias
        self.weight = nn.Parameter(conv.weight.detach().permute(0, 2, 3, 1).flatten(1), requires_grad=False)

    def forward(self, feature: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """Return the convolved map, see [`MedGlipModulatedDeformConv`]."""
        sampled = sample_taps(feature, offset, mask, self.stride)
        return fused_linear(sampled, self.weight, self.bias).permute(0, 3, 1, 2)


def _pairs(parent: nn.Module) -> Iterator[tuple[tuple[str, nn.Conv2d], tuple[str, nn.BatchNorm2d]]]:
    """Yield the convolutions of a module that a batch norm follows, with it."""
    for (name, conv), (norm_name, norm) in pairwise(parent.named_children()):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):  # noqa: SIM102
            if conv.out_channels == norm.num_features:
                yield (name, conv), (norm_name, norm)
