# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Callbacks of the trainings of `training.studies.encoders`: their CPU time, and maps on one scale."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from modeling_medglip.outputs.files import write_text


STATISTICS_IMAGES = 16


class CpuClock(TrainerCallback):
    """Adds up the CPU time of a training, also over interruptions.

    Args:
        file (`Path`, *optional*): keeps the time of every checkpoint.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file, self.before, self.start = file, 0.0, 0.0
        self.steps: list[float] = []

    @property
    def seconds(self) -> float:
        """CPU seconds since the training began."""
        return self.before + time.process_time() - self.start

    def _saved(self) -> dict[str, float]:
        return json.loads(self.file.read_text(encoding="utf-8")) if self.file and self.file.is_file() else {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock at the time of the checkpoint that the training goes on from."""
        self.before = self._saved().get(str(state.global_step), 0.0)
        self.start = time.process_time()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the time after a step."""
        self.steps.append(self.seconds)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the time of a checkpoint."""
        if self.file:
            write_text(self.file, json.dumps({**self._saved(), str(state.global_step): self.seconds}) + "\n")


class StandardizedMaps(TrainerCallback):
    """Gives every channel of the image encoder's maps the mean 0 and the deviation 1, with fixed numbers.

    They come from the first training images, before the first step. The pyramid cannot read maps of small deviation on
    a large offset as quickly.

    Args:
        images (`int`, *optional*, defaults to 16): number of images.
        file (`Path`, *optional*): keeps the numbers for a training that goes on from a checkpoint.
    """

    def __init__(self, images: int = STATISTICS_IMAGES, file: Path | None = None) -> None:
        self.images, self.file = images, file

    @torch.no_grad()
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure mean and deviation, and standardize all maps from then on."""
        (expert,) = kwargs["model"].model.experts.values()
        backbone = expert.backbone
        if self.file and self.file.is_file():
            tables = load_file(self.file)
        else:
            tables = self._measured(backbone.eval(), kwargs["train_dataloader"].dataset)
            expert.train(kwargs["model"].training)
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            save_file(tables, self.file)
        statistics = [(tables[f"deviation.{level}"], tables[f"mean.{level}"]) for level in range(len(tables) // 2)]

        def standardized(module: Any, inputs: Any, output: Any) -> Any:
            output.feature_maps = tuple(
                (level - center) / deviation
                for level, (deviation, center) in zip(output.feature_maps, statistics, strict=True)
            )
            return output

        backbone.register_forward_hook(standardized)

    def _measured(self, backbone: Any, dataset: Any) -> dict[str, torch.Tensor]:
        """Return `deviation.N` and `mean.N` of every channel, for each map N."""
        dataset.set_epoch(0)
        count = min(self.images, len(dataset))
        pixels = torch.stack([dataset[index * len(dataset) // count]["pixel_values"] for index in range(count)])
        tables: dict[str, torch.Tensor] = {}
        for number, level in enumerate(backbone(pixels).feature_maps):
            deviation, mean = torch.std_mean(level, dim=(0, 2, 3), keepdim=True)
            tables |= {f"deviation.{number}": deviation, f"mean.{number}": mean}
        return tables
