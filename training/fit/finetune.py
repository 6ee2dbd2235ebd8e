# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Train an expert on a data set: further, as an adapter, or from the encoders up.

    python -m training.fit.finetune --model org/med-glip-ct --data private/coco --modality ct --lora --out runs/mine
    python -m training.fit.finetune --recipe embedded --data out/data --modality ct --out runs/ct

`--data` is a folder that `dataset_scripts.build` made, its id on the Hub, or a COCO JSON file (or a folder with one,
or with one per split). `--dry-run` shows what would be trained. A run that was interrupted goes on when the same
command is given again. In `OUT`: `expert/` or `adapter/`, the scores before and after in `results.json`,
`history.png`, a card.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import validate_repo_id
from torch import nn

from modeling_medglip import default_checkpoint
from modeling_medglip.checkpoints.adapters import forget_calibration
from modeling_medglip.cli.scripts import script_main
from modeling_medglip.errors import one_line
from modeling_medglip.image_processing_medglip import MedGlipImageProcessor
from modeling_medglip.modalities import resolve_modality
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.processing_medglip import MedGlipProcessor

from ..data.dataset import GroundingCollator, GroundingDataset, PhraseLength, foreign_labels
from ..data.preview import counts, prompt_texts, write_sheet
from ..data.records import GroundingRecord, annotated_labels
from ..data.unlearned import LabelSet, UnlearnedPhrases, whole_words
from ..data.validation import check_options, nothing_to_measure
from ..data.vocabulary import Vocabulary
from ..data.wordings import trained_wordings
from ..loading import load_model_and_processor
from .arguments import FinetuneArguments, FinetuneParser
from .closing import closing
from .distillation import known_labels, with_known
from .lora import add_adapter, save_adapter
from .processes import merge_entries, process_state, shards_weights, worker_message
from .recipe import STRIDES, ExpertRecipe, TrainingRecipe, load_recipe
from .run_data import RunData, images_elsewhere, load_data
from .run_identity import claim, run_identity
from .run_results import Scores, measure, write_run
from .trainer import GroundingTrainer, freeze, freeze_others, train_expert


logger = logging.getLogger(__name__)
# FinetuneArguments that change nothing of what is learned.
UNIMPORTANT = (
    "data", "model", "replay", "out", "threads", "workers", "dry_run", "push_to_hub", "checkpointing", "recipe",
)  # fmt: skip
# FinetuneArguments that replace the recipe's values.
CHANGED = ("epochs", "batch", "accumulate", "checkpointing", "size", "anchor_scale")


def resolved_recipe(settings: FinetuneArguments) -> TrainingRecipe:
    """Return the recipe with the values of the command line.

    Raises:
        `ValueError`: no such recipe, or one that builds a new base for an adapter, which nobody else would have.
    """
    recipe = load_recipe(settings.recipe or ("lora" if settings.lora else "full"))
    if settings.lora and settings.model is None and recipe.model:
        raise ValueError(
            f"--lora --recipe {settings.recipe}: it builds a new model, and an adapter needs a base: give --model"
        )
    given = {name: getattr(settings, name) for name in CHANGED}
    if settings.head_learning_rate is not None:
        changed = replace(recipe.optimization, head_learning_rate=settings.head_learning_rate)
        recipe = replace(recipe, optimization=changed)
    if settings.lora and recipe.head:
        raise ValueError(
            "an adapter keeps the head of its base: leave head out of the recipe, or train without --lora"
        )
    return recipe.changed([settings.modality], **given)


def load_base(
    settings: FinetuneArguments, recipe: TrainingRecipe
) -> tuple[MedGlipForObjectDetection, MedGlipProcessor]:
    """Return the model and processor to start from: one expert of a checkpoint, or a new one of the recipe.

    Args:
        settings (`FinetuneArguments`): of the run.
        recipe (`TrainingRecipe`): with the values of the command line.

    Raises:
        `ValueError`: no such checkpoint, or one without an expert for the modality.
    """
    if settings.model is None and recipe.model:
        from .starting_weights import build_starting_model, load_tokenizer

        image_processor = MedGlipImageProcessor(
            modality=settings.modality, modality_settings=recipe.modality_settings()
        )
        processor = MedGlipProcessor(image_processor=image_processor, tokenizer=load_tokenizer())
        model = build_starting_model(recipe.config(settings.modality), recipe.image_encoder(settings.modality))
        return model, processor
    name = settings.model or str(default_checkpoint())
    model, processor = load_model_and_processor(name, [settings.modality])
    before = list(model.config.expert_head_config(settings.modality).anchor_sizes)
    model = with_head(model, settings.modality, recipe.head)
    _resize(model, processor, settings.modality, recipe.expert(settings.modality))
    if settings.lora and list(model.config.expert_head_config(settings.modality).anchor_sizes) != before:
        # Anchors are not weights: whoever loads the adapter onto its base would not get them.
        raise ValueError("an adapter keeps the anchors of its base: leave out anchor_scale, or train without --lora")
    return model, processor


def with_head(
    model: MedGlipForObjectDetection, modality: str, settings: Mapping[str, Any]
) -> MedGlipForObjectDetection:
    """Return the model with other settings of an expert's head; a presence head that it lacked has random weights.

    Args:
        model ([`MedGlipForObjectDetection`]): one expert; its weights are copied, its configuration changes.
        modality (`str`): of the expert.
        settings (`Mapping[str, Any]`): fields of `MedGlipHeadConfig` and their values.

    Raises:
        `ValueError`: a setting needs other weights than those of a presence head.
    """
    if not settings:
        return model
    model.update_head_config(modality, **settings)
    changed = MedGlipForObjectDetection(model.config)
    try:
        missing, unexpected = changed.load_state_dict(model.state_dict(), strict=False)
    except RuntimeError as error:
        raise ValueError(f"the recipe's head does not fit the checkpoint: {one_line(error, 120)}") from None
    if unexpected or any(".presence." not in name for name in missing):
        raise ValueError(f"the recipe's head does not fit the checkpoint: {[*missing, *unexpected][0]}")
    return changed


def _resize(model: Any, processor: Any, modality: str, expert: ExpertRecipe) -> None:
    """Set the recipe's input size and anchors on a loaded expert."""
    processor.image_processor.set_modality(modality, expert.size)
    if expert.anchor_scale is not None:
        sizes = [stride * expert.anchor_scale for stride in STRIDES]
        model.update_head_config(modality, anchor_sizes=sizes)


def _unmeasured(settings: FinetuneArguments, data: RunData) -> str:
    """Return why a run cannot measure anything, empty if it can.

    Raises:
        `ValueError`: it cannot, and `--keep best` asks for the best epoch.
    """
    reason = nothing_to_measure(len(data.validation), any(record.labels for record in data.validation))
    if reason and settings.keep == "best":
        raise ValueError(f"{settings.data}: {reason}, so no epoch is the best: add some, or choose --keep last")
    return reason


def make_dataset(
    train: Sequence[GroundingRecord],
    everything: Sequence[GroundingRecord],
    processor: MedGlipProcessor,
    recipe: TrainingRecipe,
    seed: int = 0,
    elsewhere: Sequence[GroundingRecord] = (),
    known: Sequence[str] = (),
    left_out: Sequence[str] = (),
) -> GroundingDataset:
    """Return the training images with their prompts.

    Negatives of other body parts are labels of `everything`. The recipe and the processor limit the length of prompts.

    Args:
        train (`Sequence[GroundingRecord]`): training images.
        everything (`Sequence[GroundingRecord]`): records whose labels serve as negatives of other body parts.
        processor (`MedGlipProcessor`): limits the length of prompts.
        recipe (`TrainingRecipe`): prompts, augmentation and balance.
        seed (`int`, *optional*, defaults to `0`): of everything random.
        elsewhere (`Sequence[GroundingRecord]`, *optional*): images of other modalities that negative images are taken
            from; see [`~training.fit.run_data.images_elsewhere`].
        known (`Sequence[str]`, *optional*): further labels that the model knows: no phrase for them is a negative.
        left_out (`Sequence[str]`, *optional*): labels held out of training: no prompt asks for them.
    """
    modality, vocabulary = train[0].modality, Vocabulary.load()
    absent = set(left_out) - annotated_labels(train)
    held_out = LabelSet(vocabulary, absent, modality) if absent else None
    foreign = {**foreign_labels(everything), "known": tuple(vocabulary.words)}
    if held_out is not None:
        foreign = {key: tuple(n for n in names if not held_out.narrows(n)) for key, names in foreign.items()}
    unlearned = None
    if recipe.prompts.unlearned:
        learned = annotated_labels(everything) | set(known)
        unlearned = UnlearnedPhrases.of(modality, learned, whole_words(processor.tokenizer), absent)
    budget = min(recipe.prompts.token_budget, processor.max_text_tokens)
    return GroundingDataset(
        [record for record in train if record.annotated],  # without an annotated label there is nothing to ask
        processor.image_processor,
        seed=seed,
        prompts=replace(recipe.prompts, token_budget=budget),
        augmentation=recipe.augmentation,
        # The labels of a single source may be of one body part: further negatives come from the vocabulary.
        foreign=foreign,
        token_length=PhraseLength(processor.tokenizer),
        balance=recipe.balance,
        negatives=(recipe.negative_images, elsewhere),
        unlearned=unlearned,
        left_out=held_out,
    )


def run(settings: FinetuneArguments) -> dict[str, Any]:
    """Train an expert or an adapter.

    Returns:
        `dict`: content of `results.json`; of a dry run what it printed; empty in all but the main process.

    Raises:
        `ValueError`: invalid settings, data or model.
    """
    settings = _checked(settings)
    recipe, out, process = resolved_recipe(settings), Path(settings.out), process_state()
    data = load_data(settings)
    data = replace(data, elsewhere=tuple(images_elsewhere(settings.data, settings.modality, recipe)))
    if (reason := _unmeasured(settings, data)) and process.is_main_process:
        hint = "" if data.validation else " (a file called train.json is training alone: add val.json)"
        logger.warning("%s: nothing is measured%s", reason, hint)
    torch.manual_seed(settings.seed)  # of weights that start at random: a run that goes on has the same
    model, processor = load_base(settings, recipe)
    if settings.dry_run:  # of the data alone, without what the model would add
        dataset = make_dataset(
            data.train, data.everything, processor, recipe, settings.seed, data.elsewhere, left_out=data.left_out
        )
        return _dry_run(dataset, data, out)
    model.to(process.device)
    known = settings.known or known_labels(model.config, settings.modality)
    identity = _identity(settings, recipe, known, data, model)
    data, dataset = _training_images(settings, recipe, data, (model, processor), known)
    if process.is_main_process:
        claim(out, identity)
    process.wait_for_everyone()
    logger.info("%d images, %d presentations per epoch", len(data.train), len(dataset))
    judge = partial(measure, processor=processor, batch_size=recipe.expert(settings.modality).batch)
    parts = {"": data.validation, "known_": data.older}
    torch.manual_seed(settings.seed)
    scores = {f"{part}before": judge(model, records=records) for part, records in parts.items()}
    trained, trainer = _train(settings, recipe, (model, processor), dataset, partial(judge, records=data.validation))
    learned = {label for record in data.train for label in record.labels}
    labels = {settings.modality: sorted({*known, *learned})}
    model.config.set_label_hierarchy(labels, wordings=trained_wordings(labels))
    forget_calibration(model, settings.modality)
    folder = save(trainer, trained, processor, out / ("adapter" if settings.lora else "expert"))
    dataset.release()  # measuring needs the memory
    scores |= {f"{part}after": judge(_plain(trained), records=records) for part, records in parts.items()}
    broken = {**data.broken, **merge_entries(dataset.broken())}
    if not process.is_main_process:
        return {}
    results = write_run(out, settings, recipe, data, scores, trainer.state.log_history, broken)
    if settings.push_to_hub:
        push(folder, settings.push_to_hub)
    logger.info("saved %s", folder)
    print(closing(settings, results, data), flush=True)
    return results


def _checked(settings: FinetuneArguments) -> FinetuneArguments:
    """Return the settings with the canonical name of the modality."""
    check_options(asdict(settings))
    if shards_weights() and (settings.lora or settings.keep == "best"):
        raise ValueError("sharded weights (FSDP) go with neither --lora nor --keep best: launch without FSDP")
    if settings.lora and settings.presence_only:
        raise ValueError("--presence_only trains the head of a whole expert: leave out --lora")
    if settings.push_to_hub:
        validate_repo_id(settings.push_to_hub)  # before hours of training
    return replace(settings, modality=resolve_modality(settings.modality))


def _identity(
    settings: FinetuneArguments, recipe: TrainingRecipe, known: Sequence[str], data: RunData, model: nn.Module
) -> str:
    """Return what distinguishes a run from others, so that only the same one goes on."""
    relevant = {name: value for name, value in asdict(settings).items() if name not in UNIMPORTANT}
    # Recomputed activations are the same activations.
    steady = recipe.changed([settings.modality], checkpointing=False)
    # Without the boxes of the model, whose last bits depend on the number of threads.
    return run_identity({**relevant, "known": known, "recipe": asdict(steady)}, data.train, model, data.elsewhere)


def _training_images(
    settings: FinetuneArguments,
    recipe: TrainingRecipe,
    data: RunData,
    base: tuple[MedGlipForObjectDetection, MedGlipProcessor],
    known: Sequence[str],
) -> tuple[RunData, GroundingDataset]:
    """Return the training images, with the boxes that the base finds of labels it knows, and their prompts."""
    model, processor = base
    if settings.distillation and known:
        batch = recipe.expert(settings.modality).batch
        data = replace(data, train=with_known(model, processor, data.train, known, batch))
    # A label that only validation images show is not one that no source annotates.
    asked = annotated_labels(data.validation + data.older).union(known)
    dataset = make_dataset(
        data.train, data.everything, processor, recipe, settings.seed, data.elsewhere,
        known=sorted(asked), left_out=data.left_out,
    )  # fmt: skip
    return data, dataset


def _train(
    settings: FinetuneArguments,
    recipe: TrainingRecipe,
    base: tuple[MedGlipForObjectDetection, MedGlipProcessor],
    dataset: GroundingDataset,
    judge: Callable[[Any], Scores],
) -> tuple[nn.Module, GroundingTrainer]:
    """Train the expert or an adapter on it; returns it, with its trainer."""
    model, processor = base
    trained: nn.Module = model
    if settings.lora:
        trained = add_adapter(model, settings.modality, settings.rank)
    else:
        freeze(model, recipe.optimization)
    if settings.presence_only:
        freeze_others(model, ".presence.")
    best, out = settings.keep == "best", Path(settings.out)

    def score(now: nn.Module) -> dict[str, float]:
        scores = judge(_plain(now))
        return {"AP": scores.ap or 0.0, "AP50": scores.ap50 or 0.0}

    trainer = train_expert(
        trained, dataset, GroundingCollator(processor), recipe.expert(settings.modality),
        recipe.optimization, out, settings.seed, measure=score if best else None, load_best_model_at_end=best,
        dataloader_num_workers=settings.workers, **_tensorboard(out),
    )  # fmt: skip
    return trained, trainer


def _plain(model: Any) -> Any:
    """Return the detector without the wrapper of an adapter, with the adapter active."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _tensorboard(out: Path) -> dict[str, Any]:
    from importlib.util import find_spec

    if find_spec("tensorboard") is None:
        return {}
    import os

    os.environ["TENSORBOARD_LOGGING_DIR"] = str(out / "tensorboard")
    return {"report_to": ["tensorboard"]}


def save(trainer: Any, model: Any, processor: MedGlipProcessor, folder: Path) -> Path:
    """Write the expert, or the adapter alone, with its processor; sharded weights are gathered first.

    Args:
        trainer (`Any`): holds the weights if they are sharded.
        model (`Any`): the expert, or a `peft.PeftModel`.
        processor (`MedGlipProcessor`): the model's.
        folder (`Path`): where to write.
    """
    state = trainer.accelerator.get_state_dict(trainer.model) if shards_weights() else None
    if trainer.is_world_process_zero():
        if state is not None:  # sharding changes the class, and so the code that is saved with it
            model = MedGlipForObjectDetection(model.config)
            model.load_state_dict(state)
        save_adapter(model, folder) if hasattr(model, "peft_config") else model.save_pretrained(folder)
        processor.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()
    return folder


def push(folder: Path, name: str) -> None:
    """Upload the expert or adapter with its card to a private repository of the Hub.

    Args:
        folder (`Path`): of the expert or adapter; the card is in the folder above.
        name (`str`): id of the repository.
    """
    from huggingface_hub import HfApi

    (folder / "README.md").write_bytes((folder.parent / "README.md").read_bytes())
    api = HfApi()
    try:
        api.create_repo(name, exist_ok=True, private=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a MedGLIP expert trained further")
    except Exception as error:
        # Without a connection the client raises what its HTTP library raises, and that is not an OSError.
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2"):
            raise
        raise OSError(
            f"{name}: no connection to the Hub ({type(error).__name__}); the outcome stays in {folder.name}"
        ) from None


def _dry_run(dataset: GroundingDataset, data: RunData, out: Path) -> dict[str, Any]:
    rows = counts(data.train, data.validation)
    out.mkdir(parents=True, exist_ok=True)
    print(f"{len(data.train)} training images, {len(data.validation)} for validation; {len(dataset)} per epoch")
    width = max(len(row["label"]) for row in rows)
    for row in rows:
        train, validation = row["train"], row["validation"]
        counted = f"train {train['images']} images, {train['boxes']} boxes; validation {validation['images']}"
        print(f"  {row['label']:{width}}  {counted}, {validation['boxes']}; taxonomy: {row['taxonomy'] or '-'}")
    texts = prompt_texts(dataset)
    print("prompts (phrases with a box in brackets), without what the model itself would add of the labels it knows:")
    print("\n".join(f"  {text}" for text in texts))
    sheet = write_sheet(dataset, out / "training_images.png")
    print(f"images after augmentation: {sheet}")
    return {"labels": rows, "prompts": texts, "sheet": str(sheet)}


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    (settings,) = FinetuneParser().parse_args_into_dataclasses(list(sys.argv[1:] if argv is None else argv))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    torch.set_flush_denormal(True)
    check_options(asdict(settings))
    if settings.threads:
        torch.set_num_threads(settings.threads)
    try:
        run(settings)
    except ValueError as error:
        raise ValueError(worker_message(error)) from error
    return 0


__all__ = ["load_base", "main", "make_dataset", "run"]

if __name__ == "__main__":
    raise SystemExit(main())
