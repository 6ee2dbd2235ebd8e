# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Products of matrices by oneDNN, which adds the bias and applies the activation while it writes the output."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


# Whether this PyTorch was built with oneDNN's fused products and convolutions.
FUSED = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_convolution_pointwise")
)
# Up to this many channels on a side, writing the output takes longer than computing it, and oneDNN is the faster one.
NARROW = 128


def fused_linear(rows: Tensor, weight: Tensor, bias: Tensor, activation: str = "none") -> Tensor:
    """Return `F.linear(rows, weight, bias)`, then the activation, by oneDNN; no gradient flows back.

    Args:
        rows (`Tensor` of shape `(..., channels)`): the input.
        weight (`Tensor` of shape `(out_channels, channels)`): the matrix.
        bias (`Tensor` of shape `(out_channels,)`): added to the output.
        activation (`str`, *optional*, defaults to `"none"`): `"gelu"` or none.
    """
    if not FUSED:
        output = F.linear(rows, weight, bias)
        return F.gelu(output) if activation == "gelu" else output
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, activation, [], "none")


def linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `F.linear(rows, weight, bias)` by whichever library is faster for its sizes."""
    return (fused_linear if min(weight.shape) <= NARROW else F.linear)(rows, weight, bias)
