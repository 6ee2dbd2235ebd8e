# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Arguments of `python -m training.fit.finetune`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from transformers import HfArgumentParser

from modeling_medglip.cli.scripts import fail_script
from modeling_medglip.errors import one_line

from ..old_names import RENAMED, new_options


HELP = " (python -m training.fit.finetune --help explains the options)"


def _setting(help_text: str, default: Any = None, **more: Any) -> Any:
    return field(default=default, metadata={"help": help_text, **more})


@dataclass
class FinetuneArguments:
    """Arguments of the command line; those left out are the recipe's."""

    data: str = field(
        metadata={"help": "your images with boxes: a COCO file, a folder with one, or what dataset_scripts.build made"}
    )
    modality: str = field(metadata={"help": "ct, mri, ultrasound, xray, dermoscopy, endoscopy or fundus"})
    model: str | None = _setting(
        "checkpoint to start from: a folder, or an id on the Hub; without it the one that comes with med-glip, or a "
        "new one if the recipe builds one"
    )
    recipe: str | None = _setting(
        "how to train: a YAML file, or a name in training/recipes; without it 'lora' with --lora, else 'full'"
    )
    out: str = _setting("folder for everything that the run writes", "runs/finetune")
    lora: bool = _setting(
        "train an adapter: small, quick, and the checkpoint itself stays as it is; without it all weights change",
        False,
    )
    presence_only: bool = _setting(
        "train the presence head alone, which says whether an image shows a label: after weights were averaged", False
    )
    rank: int = _setting("size of the adapter: larger learns more from many images, but needs more of them", 8)
    fraction: float = _setting("train with this share of the patients only, 0 to 1, to see what more data bring", 1.0)
    max_images: int | None = _setting("train with at most so many images, chosen at random; without it with all")
    labels: list[str] | None = _setting("learn only these labels; the others count as unknown, not as absent")
    exclude: list[str] | None = _setting("learn all labels but these")
    distillation: bool = _setting(
        "keep what the model knows: while it learns, it is also shown what it finds now for the labels it knows", True
    )
    known: list[str] | None = _setting("the labels to keep in this way; without it those that the checkpoint names")
    replay: str | None = _setting(
        "older images with boxes, given as --data is, mixed in so that less is forgotten; what was forgotten is "
        "measured on them"
    )
    replay_exclude: list[str] | None = _setting("labels of --replay that are not used")
    replay_share: float = _setting("older images for each new one", 0.5)
    epochs: float | None = _setting("how often every image is shown; without it as often as the recipe says")
    batch: int | None = _setting("images per step: fewer need less memory; without it the recipe's number")
    accumulate: int | None = _setting(
        "batches that make one step together, which stands in for a larger --batch; without it the recipe's number"
    )
    size: int | None = _setting(
        "side in pixels to which images are scaled: larger shows small findings better and takes longer; without it "
        "the recipe's or the checkpoint's"
    )
    anchor_scale: float | None = _setting(
        "how large the boxes are that the search starts from, in multiples of its grid: larger for large organs; "
        "without it the recipe's or the checkpoint's"
    )
    head_learning_rate: float | None = _setting("learning rate at its highest; without it the recipe's")
    keep: str = _setting(
        "keep the weights of the last epoch, or of the best one on the validation images, which are then measured "
        "after every epoch", "last", choices=["best", "last"],
    )  # fmt: skip
    checkpointing: bool | None = _setting("use less memory and more time; without it as the recipe says")
    seed: int = _setting("number that everything random comes from: the same number gives the same run", 0)
    threads: int = _setting("processor threads to use; 0 lets PyTorch choose", 0)
    workers: int = _setting("processes that read images beside the training; 0 reads them in turn", 0)
    dry_run: bool = _setting("only show what would be trained: counts, prompts and a sheet of training images", False)
    push_to_hub: str | None = _setting("also upload what was trained, to this repository, such as org/name (private)")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that are values; the help texts say what happens without the other options."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_plain = action.default is None or isinstance(action.default, bool)
        return action.help if is_plain else super()._get_help_string(action)


class FinetuneParser(HfArgumentParser):
    """The command line's options, and one line for what is wrong with them."""

    def __init__(self) -> None:
        about = "Train MedGLIP on your own images and boxes. Research use only, not a medical device."
        super().__init__(
            FinetuneArguments, prog="python -m training.fit.finetune", description=about, formatter_class=HelpFormatter
        )

    def parse_args_into_dataclasses(self, args: Sequence[str] | None = None, **options: Any) -> tuple[Any, ...]:
        """Parse as `HfArgumentParser` does; an unknown option is an error of one line."""
        args = None if args is None else new_options(args, RENAMED)
        *parsed, rest = super().parse_args_into_dataclasses(args, return_remaining_strings=True, **options)
        if rest:
            self.error(f"unknown option {one_line(rest[0], 60)}")
        return tuple(parsed)

    def error(self, message: str) -> NoReturn:
        """Print one line instead of the whole usage, and exit."""
        raise SystemExit(fail_script(one_line(message) + HELP))
