# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Exponential moving average of the weights, as a `Trainer` callback that is saved with every checkpoint.

The averages equal those of `torch.optim.swa_utils.AveragedModel`, which would also copy the frozen weights, several
times as many as an adapter has; timm's `ModelEmaV3` warms up along another curve, so resumed runs would differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


FILE_NAME = "ema.safetensors"


class EmaCallback(TrainerCallback):
    """Keeps a moving average of the trained weights.

    Args:
        model (`nn.Module`): the model that is trained.
        decay (`float`): the final decay; at step t it is `min(decay, (1 + t) / (10 + t))`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = model
        self.average = {name: p.detach().clone() for name, p in self._trained()}

    def _trained(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    @torch.no_grad()
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the averages towards the weights."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        names, values = zip(*self._trained(), strict=True)
        torch._foreach_lerp_([self.average[name] for name in names], [v.detach() for v in values], 1 - decay)

    def save(self, folder: Path) -> None:
        """Write the averages into the folder of a checkpoint."""
        save_file({name: tensor.contiguous() for name, tensor in self.average.items()}, folder / FILE_NAME)

    def load(self, folder: Path) -> None:
        """Read the averages from the folder of a checkpoint."""
        for name, tensor in load_file(folder / FILE_NAME).items():
            self.average[name].copy_(tensor)

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """Put the averaged weights into the model inside the block, and its own back after it."""
        trained = {name: p.detach().clone() for name, p in self._trained()}
        self._put(self.average)
        try:
            yield self.model
        finally:
            self._put(trained)

    def settle(self) -> None:
        """Put the averaged weights into the model."""
        self._put(self.average)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._trained():
            parameter.copy_(values[name])
