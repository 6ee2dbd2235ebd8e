# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The form of a model that is fast on CPUs: batch norms folded into convolutions, channels last in memory.

What is saved and trained is the model itself: the fast form is a copy that shares the parameters that it does not
change.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .modeling_medglip import MedGlipForObjectDetection


def fast_form(model: MedGlipForObjectDetection) -> MedGlipForObjectDetection:
    """Return a copy of a model for inference on a CPU; on other devices the model itself.

    Outputs differ from the model's by rounding alone. Models that are wrapped, as by `torch.compile`, or that run
    exported graphs, are returned as they are.

    Args:
        model ([`MedGlipForObjectDetection`]): in evaluation mode; it stays as it is.
    """
    if type(model) is not MedGlipForObjectDetection or model.device.type != "cpu":
        return model
    shared: dict[int, object] = {id(value): value for value in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared)
    copied.config._attn_implementation = "eager"  # of the fusion: few tokens make fused kernels slow
    for expert in copied.model.experts.values():
        fold_batch_norms(cast(nn.Module, expert.backbone))
        for module in expert.modules():
            if isinstance(module, (nn.ReLU, nn.ReLU6)):
                module.inplace = True
            if isinstance(module, nn.Conv2d):
                weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
                module.weight = nn.Parameter(weight, requires_grad=False)
    return copied


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


def _pairs(parent: nn.Module) -> Iterator[tuple[tuple[str, nn.Conv2d], tuple[str, nn.BatchNorm2d]]]:
    """Yield the convolutions of a module that a batch norm follows, with it."""
    for (name, conv), (norm_name, norm) in pairwise(parent.named_children()):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):  # noqa: SIM102
            if conv.out_channels == norm.num_features:
                yield (name, conv), (norm_name, norm)
