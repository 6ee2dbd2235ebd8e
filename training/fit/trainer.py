# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The `Trainer` of experts: parameter groups, epochs of the data set, averaged weights, atomic checkpoints."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from modeling_medglip.errors import one_line
from modeling_medglip.modeling_medglip import MedGlipExpert, MedGlipForObjectDetection

from .ema import EmaCallback
from .processes import process_state, shards_weights
from .recipe import ExpertRecipe, Optimization


logger = logging.getLogger(__name__)
TRAINER_STATE = "trainer_state.json"
BEST_METRIC = "eval_AP"
DIVERGED = "the run diverged, take a lower learning rate and another --out"
# What comes before the stages of an image encoder, and its stages, in the names that timm and transformers give.
STEM = re.compile(r"(?:[a-z]+\.)?(?:conv_stem|bn1|stem|patch_embed|embedd)")
STAGE = re.compile(r"(?:[a-z]+\.)?(?:encoder\.)?(?:blocks|layers|stages)[._](\d+)\.")


class EpochCallback(TrainerCallback):
    """Sets the epoch of the data set, so that prompts and augmentation are new in each and the same when resumed."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """State the epoch to the data set."""
        self.dataset.set_epoch(int((state.epoch or 0) + 1e-6))


class LogCallback(TrainerCallback):
    """Logs the progress of a run instead of printing it."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Log the numbers of a step."""
        text = ", ".join(f"{name} {float(value):.4g}" for name, value in (logs or {}).items() if name != "epoch")
        logger.info("epoch %.2f of %g: %s", state.epoch or 0, args.num_train_epochs, text)


class DivergenceCallback(TrainerCallback):
    """Stops training on a non-finite loss."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Raises `ValueError`."""
        loss = float((logs or {}).get("loss", (logs or {}).get("train_loss", 0.0)))
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss} at step {state.global_step}: {DIVERGED}")


class GroundingTrainer(Trainer):
    """`Trainer` with the learning rates of an [`Optimization`], averaged weights, and validation of grounding.

    Args:
        optimization ([`Optimization`]): learning rates, decay, optimizer.
        ema ([`EmaCallback`], *optional*): averaged weights; measured, saved with every checkpoint, and loaded back.
        measure (`Callable[[nn.Module], dict[str, float]]`, *optional*): called with the model in evaluation mode;
            returns numbers such as `{"AP": 0.4}`.
    """

    def __init__(
        self,
        *args: Any,
        optimization: Optimization,
        ema: EmaCallback | None = None,
        measure: Callable[[nn.Module], dict[str, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.optimizer: torch.optim.Optimizer | None = None
        self.ema, self.measure = ema, measure
        callbacks = [*kwargs.pop("callbacks", ()), *([ema] if ema else [])]
        super().__init__(*args, callbacks=callbacks, **kwargs)
        if self.args.disable_tqdm:
            self.remove_callback(PrinterCallback)
            self.add_callback(LogCallback)
        self.add_callback(DivergenceCallback)
        self.optimization = optimization

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW or Adam over the groups of `parameter_groups`."""
        if self.optimizer is None:
            kind = torch.optim.AdamW if self.optimization.optimizer == "adamw" else torch.optim.Adam
            self.optimizer = kind(parameter_groups(cast(nn.Module, self.model), self.optimization), foreach=True)
        return self.optimizer

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return what `measure` returns for the averaged weights.

        Args:
            eval_dataset (`Any`, *optional*): passed on where nothing else measures.
            ignore_keys (`list[str]`, *optional*): passed on where nothing else measures.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): before the names of the numbers.
        """
        if self.measure is None:
            return cast(dict[str, float], super().evaluate(eval_dataset, ignore_keys, metric_key_prefix))
        model = cast(nn.Module, self.model)
        model.eval()
        if self.ema is None:
            measured = self.measure(model)
        else:
            with self.ema.applied():
                measured = self.measure(model)
        model.train()
        metrics = {f"{metric_key_prefix}_{name}": float(value) for name, value in measured.items()}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, cast(Any, self).control, metrics)
        return metrics

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        """Return the divisors of the losses of a step, summed over its batches and all processes.

        Gradients are then the same however a step is divided into batches and processes.
        """
        model: Any = self.accelerator.unwrap_model(self.model)
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        if not batch_samples or not hasattr(model, "loss_totals") or "pixel_mask" in batch_samples[0]:
            return None
        totals = torch.zeros(3, device=device)
        for batch in batch_samples:
            height, width = batch["pixel_values"].shape[-2:]
            prompts = (batch["modality"], batch["labels"], batch.get("label_tokens"))
            totals += model.loss_totals((height, width), *prompts).to(device)
        return self.accelerator.reduce(totals, "sum") if self.args.world_size > 1 else totals

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save the model, and the averaged weights before older checkpoints are removed."""
        model = cast(nn.Module, self.model)
        if state_dict is None and not hasattr(model, "save_pretrained"):  # a baseline
            tensors = model.state_dict().items()
            state_dict = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors}
        super()._save(output_dir, state_dict)
        if self.ema is not None and self.args.should_save and output_dir is not None:
            self.ema.save(Path(output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a whole checkpoint; one that a full disk cuts short is removed, and older ones stay.

        Raises:
            `OSError`: it cannot be written; names the checkpoint that is left.
            `ValueError`: a weight is not a finite number.
        """
        self._check_finite(model)  # before older checkpoints make room for this one
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch.save raises the second for a full disk
            out = Path(str(self.args.output_dir))
            shutil.rmtree(out / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}", ignore_errors=True)
            last = last_checkpoint(out)
            left = f"{last.name} is left: the same command goes on from it" if last else "none is left"
            step, reason = self.state.global_step, one_line(error, 80)
            raise OSError(f"the checkpoint of step {step} cannot be saved ({reason}); {left}") from error

    def _check_finite(self, model: nn.Module) -> None:
        averages = self.ema.average.values() if self.ema else ()
        weights = (parameter for parameter in model.parameters() if parameter.requires_grad)
        numbers = (buffer for buffer in model.buffers() if buffer.is_floating_point())
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (*weights, *numbers, *averages)):
            last = last_checkpoint(Path(str(self.args.output_dir)))
            left = f"; {last.name} is left" if last else ""
            raise ValueError(f"weights are not finite numbers at step {self.state.global_step}: {DIVERGED}{left}")

    def _load_best_model(self) -> None:
        """Load the averaged weights of the best checkpoint."""
        super()._load_best_model()
        if self.ema is not None and self.state.best_model_checkpoint:
            self.ema.load(Path(self.state.best_model_checkpoint))


def last_checkpoint(out: Path) -> Path | None:
    """Return the last whole checkpoint of a run: one whose state, which is written last, can be read."""
    checkpoints = []
    for path in out.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        try:
            checkpoints.append(
                (int(json.loads((path / TRAINER_STATE).read_text(encoding="utf-8"))["global_step"]), path)
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return max(checkpoints)[1] if checkpoints else None


def parameter_groups(model: nn.Module, optimization: Optimization) -> list[dict[str, Any]]:
    """Return groups of trainable parameters with learning rate and decay; biases, norms and scalars have none.

    Args:
        model (`nn.Module`): with its frozen parts.
        optimization (`Optimization`): learning rates and schedule.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = optimization.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((learning_rate_of(name, optimization), decay), []).append(parameter)
    return [
        {"params": params, "lr": learning_rate, "weight_decay": decay}
        for (learning_rate, decay), params in groups.items()
    ]


def learning_rate_of(name: str, optimization: Optimization) -> float:
    """Return the learning rate of a parameter by its name.

    Args:
        name (`str`): of the parameter.
        optimization (`Optimization`): learning rates and schedule.
    """
    if "text_model." in name:
        return optimization.language_learning_rate
    return optimization.backbone_learning_rate if ".backbone." in name else optimization.head_learning_rate


def freeze(model: MedGlipForObjectDetection, optimization: Optimization) -> None:
    """Freeze parts with the learning rate 0, and the first stages of the image encoders.

    Args:
        model (`MedGlipForObjectDetection`): its parameters change.
        optimization (`Optimization`): learning rates and schedule.

    Raises:
        `ValueError`: more stages than an image encoder has.
    """
    for name, parameter in model.named_parameters():
        if learning_rate_of(name, optimization) == 0:
            parameter.requires_grad_(False)
    if optimization.frozen_stages:
        for expert in model.model.experts.values():
            _freeze_stages(cast(MedGlipExpert, expert).backbone, optimization.frozen_stages)


def freeze_others(model: nn.Module, part: str) -> None:
    """Freeze all parameters without a part in their names.

    Args:
        model (`nn.Module`): its parameters change.
        part (`str`): such as `".presence."`.

    Raises:
        `ValueError`: nothing is left to train.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and part in name)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"the expert has no parameters of {part.strip('.')} to train: choose another recipe")


def _freeze_stages(backbone: nn.Module, count: int) -> None:
    stages = {name: _stage_of(name.removeprefix("_backbone.")) for name, _ in backbone.named_parameters()}
    if count > 1 + max((stage for stage in stages.values() if stage is not None), default=-1):
        raise ValueError(f"frozen_stages {count}: the image encoder has no {count} stages that are known by name")
    for name, parameter in backbone.named_parameters():
        stage = stages[name]
        if stage is not None and stage < count:
            parameter.requires_grad_(False)


def _stage_of(name: str) -> int | None:
    """Return the stage of an image encoder that a parameter belongs to: -1 for the stem, `None` after the stages."""
    if STEM.match(name):
        return -1
    stage = STAGE.match(name)
    return int(stage[1]) if stage else None


def training_arguments(
    out: Path, recipe: ExpertRecipe, optimization: Optimization, seed: int, **more: Any
) -> TrainingArguments:
    """Return arguments for `Trainer`, which saves every epoch and removes all checkpoints but the last one.

    Args:
        out (`Path`): folder for the checkpoints.
        recipe (`ExpertRecipe`): batches and epochs.
        optimization (`Optimization`): learning rates and schedule.
        seed (`int`): of everything random.
        more (`Any`): further arguments, which win.
    """
    steady = optimization.min_learning_rate_ratio >= 1
    values: dict[str, Any] = {
        "output_dir": str(out),
        "per_device_train_batch_size": recipe.batch,
        "gradient_accumulation_steps": recipe.accumulate,
        "activation_checkpointing": recipe.checkpointing,
        "num_train_epochs": recipe.epochs,
        "max_grad_norm": optimization.gradient_clip,
        "lr_scheduler_type": "constant_with_warmup" if steady else "cosine_with_min_lr",
        "lr_scheduler_kwargs": {} if steady else {"min_lr_rate": optimization.min_learning_rate_ratio},
        "warmup_steps": optimization.warmup_steps,
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "logging_steps": 10,
        "logging_nan_inf_filter": False,  # a diverged run must not look healthy
        "report_to": [],
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        "seed": seed,
        "disable_tqdm": not sys.stderr.isatty(),
    }
    return TrainingArguments(**{**values, **more})


def train_expert(
    model: nn.Module,
    dataset: Any,
    collator: Any,
    recipe: ExpertRecipe,
    optimization: Optimization,
    out: Path,
    seed: int = 0,
    callbacks: tuple[TrainerCallback, ...] = (),
    measure: Callable[[nn.Module], dict[str, float]] | None = None,
    **arguments: Any,
) -> GroundingTrainer:
    """Train one expert, resuming from the last whole checkpoint in `out` if there is one.

    Args:
        model (`nn.Module`): with frozen parts, see [`freeze`].
        dataset ([`~training.data.dataset.GroundingDataset`]): the training images.
        collator (`Callable`): makes a batch of examples of `dataset`.
        recipe ([`ExpertRecipe`]): batches and epochs.
        optimization ([`Optimization`]): learning rates and schedule.
        out (`Path`): folder for the checkpoints.
        seed (`int`, *optional*, defaults to 0): of everything random.
        callbacks (`tuple[TrainerCallback, ...]`, *optional*): further ones.
        measure (`Callable`, *optional*): see [`GroundingTrainer`]; called after every epoch.
        arguments (`Any`): further ones for `TrainingArguments`.

    Raises:
        `ValueError`: averaged weights of sharded ones are asked for, or the run diverged.

    Returns:
        `GroundingTrainer`: its model has the averaged weights, of the best epoch with `load_best_model_at_end`.
    """
    if measure is not None:
        # The last checkpoint stays besides the best one, or a finished run would resume from the best one.
        arguments = {
            "save_total_limit": 2,
            "eval_strategy": "epoch",
            "metric_for_best_model": BEST_METRIC,
            "greater_is_better": True,
            **arguments,
        }
    model.to(process_state().device)  # before the averages are copied from it
    if not shards_weights():  # FSDP wants contiguous weights
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    elif optimization.ema_decay:
        raise ValueError("sharded weights cannot be averaged: set ema_decay 0 in the recipe, or launch without FSDP")
    steps = math.ceil(len(dataset) / (recipe.batch * recipe.accumulate))
    arguments = {"logging_steps": min(10, max(1, steps)), **arguments}  # at least once an epoch
    ema = EmaCallback(model, optimization.ema_decay) if optimization.ema_decay else None
    trainer = GroundingTrainer(
        model=model,
        args=training_arguments(out, recipe, optimization, seed, **arguments),
        train_dataset=dataset,
        eval_dataset=dataset if measure is not None else None,  # never read, but `Trainer` wants one
        data_collator=collator,
        callbacks=[EpochCallback(dataset), *callbacks],
        optimization=optimization,
        ema=ema,
        measure=measure,
    )
    last = last_checkpoint(out)
    if last is not None and ema is not None:
        ema.load(last)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    if ema is not None:
        ema.settle()
    if not all(torch.isfinite(value).all() for value in model.state_dict().values() if value.is_floating_point()):
        raise ValueError(f"the weights are not finite numbers: {DIVERGED}")
    if not shards_weights():
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return trainer
