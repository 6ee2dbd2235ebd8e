"""The Trainer that makes the experts: parameter groups, epochs of the dataset, averaged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from modeling_medglip.modeling_medglip import MedGlipExpert, MedGlipForObjectDetection

from .ema import EmaCallback
from .recipe import ExpertRecipe, Optimisation


class EpochCallback(TrainerCallback):
    """Tells the dataset which epoch it is, so that prompts and augmentation are new in each and the same when
    resumed."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.dataset.set_epoch(round(state.epoch or 0))


class GroundingTrainer(Trainer):
    """`Trainer` with two learning rates: the image encoder's and that of the new layers."""

    def __init__(self, *args: Any, optimisation: Optimisation, **kwargs: Any) -> None:
        self.optimizer: torch.optim.Optimizer | None = None
        super().__init__(*args, **kwargs)
        self.optimisation = optimisation

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over four groups: image encoder or not, decayed or not."""
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(parameter_groups(self.model, self.optimisation), foreach=True)
        return self.optimizer


def parameter_groups(model: nn.Module, optimisation: Optimisation) -> list[dict[str, Any]]:
    """Groups of trainable parameters with their rate and decay; biases, norms and scalars are not decayed."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = optimisation.backbone_rate if ".backbone." in name else optimisation.head_rate
            decay = optimisation.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def freeze(model: MedGlipForObjectDetection, frozen_stages: int) -> None:
    """Freeze the language encoder and the first stages of the (timm) image encoders."""
    model.model.text_model.requires_grad_(False)
    early = ("conv_stem", "bn1", *(f"blocks.{stage}." for stage in range(frozen_stages)))
    for expert in model.model.experts.values():
        for name, parameter in cast(MedGlipExpert, expert).backbone.named_parameters():
            if name.removeprefix("_backbone.").startswith(early):
                parameter.requires_grad_(False)


def training_arguments(out: Path, recipe: ExpertRecipe, optimisation: Optimisation, seed: int) -> TrainingArguments:
    """Arguments for `Trainer`; a checkpoint every epoch, the last one kept."""
    return TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=recipe.batch,
        num_train_epochs=recipe.epochs,
        max_grad_norm=optimisation.gradient_clip,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": optimisation.min_rate},
        warmup_steps=optimisation.warmup_steps,
        save_strategy="epoch",
        save_total_limit=1,
        logging_steps=10,
        report_to=[],
        remove_unused_columns=False,
        dataloader_num_workers=0,
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        disable_tqdm=True,
    )


def train_expert(
    model: MedGlipForObjectDetection,
    dataset: Any,
    collator: Any,
    recipe: ExpertRecipe,
    optimisation: Optimisation,
    out: Path,
    seed: int = 0,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> EmaCallback:
    """Train one expert, going on from the last checkpoint in `out` if there is one.

    Returns:
        the averaged weights; `with ema.applied():` puts them into the model.
    """
    freeze(model, optimisation.frozen_stages)
    model.to(memory_format=torch.channels_last)
    ema = EmaCallback(model, optimisation.ema_decay)
    trainer = GroundingTrainer(
        model=model,
        args=training_arguments(out, recipe, optimisation, seed),
        train_dataset=dataset,
        data_collator=collator,
        callbacks=[EpochCallback(dataset), ema, *callbacks],
        optimisation=optimisation,
    )
    last = get_last_checkpoint(str(out)) if out.is_dir() else None
    if last is not None:
        ema.load(Path(last))
    trainer.train(resume_from_checkpoint=last)
    return ema
