# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Records of a training run: those of `--data`, of `--replay` beside them, and negative images of other modalities."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..data.load import load_records
from ..data.negative_images import chosen_records
from ..data.records import GroundingRecord, annotated_labels, chosen_labels, fraction_of, random_key, shared_patients
from ..data.split_leakage import check_apart
from ..data.validation import readable_enough
from .arguments import FinetuneArguments
from .recipe import TrainingRecipe


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunData:
    """Records of a run.

    Args:
        train (`list[GroundingRecord]`): for training, with those of `--replay`.
        new_images (`int`): images of `--data` among them.
        validation (`list[GroundingRecord]`): validation images of `--data`.
        older (`list[GroundingRecord]`): validation images of `--replay`, on which forgetting is measured.
        everything (`list[GroundingRecord]`): records whose labels serve as negatives of other body parts.
        broken (`dict[str, str]`): images that cannot be read, with the reason.
        replayed (`int`, *optional*, defaults to 0): images of `--replay` among those for training.
        left_out (`tuple[str, ...]`, *optional*): labels that no training image annotates because the options say so.
        elsewhere (`tuple[GroundingRecord, ...]`, *optional*): what [`images_elsewhere`] returns.
    """

    train: list[GroundingRecord]
    new_images: int
    validation: list[GroundingRecord]
    older: list[GroundingRecord]
    everything: list[GroundingRecord]
    broken: dict[str, str]
    replayed: int = 0
    left_out: tuple[str, ...] = ()
    elsewhere: tuple[GroundingRecord, ...] = ()


def load_data(settings: FinetuneArguments) -> RunData:
    """Return the records of a run.

    Args:
        settings (`FinetuneArguments`): of the run.

    Raises:
        `ValueError`: no training images, or none with a box, or too many that cannot be read.
    """
    whole = load_records(settings.data, settings.modality)
    records = chosen_labels(whole, settings.labels, settings.exclude)
    left_out, broken = annotated_labels(whole) - annotated_labels(records), dict[str, str]()
    train = _training_records(settings, records)
    older: list[GroundingRecord] = []
    older_validation: list[GroundingRecord] = []
    if settings.replay:
        replay = load_records(settings.replay, settings.modality)
        whole = chosen_labels(replay, None, settings.replay_exclude)
        left_out |= annotated_labels(replay) - annotated_labels(whole)
        older = _replayed_records(settings, whole, train, records)
        held_out = [record for record in whole if record.split == "validation"]
        older_validation = readable_enough(held_out, broken, settings.replay)
    everything = [*train, *older]
    return RunData(
        train=everything,
        new_images=len({record.image_key for record in train}),
        validation=readable_enough([r for r in records if r.split == "validation"], broken, settings.data),
        older=older_validation,
        everything=list(everything),
        broken=broken,
        replayed=len({record.image_key for record in older}) if settings.replay_share else 0,
        left_out=tuple(sorted(left_out - annotated_labels(everything))),
    )


def images_elsewhere(data: Path | str, modality: str, recipe: TrainingRecipe) -> list[GroundingRecord]:
    """Return the training images of other modalities that negative images are taken from.

    If the recipe has no negative images, other modalities are not read and the list is empty.

    Args:
        data (`Path` or `str`): as [`~training.data.load.load_records`] takes it; images that state no modality are of
            `modality`.
        modality (`str`): of the expert.
        recipe ([`~training.fit.recipe.TrainingRecipe`]): says whether there are negative images.

    Raises:
        `ValueError`: the data of another modality are damaged.
    """
    if not recipe.negative_images:
        return []
    chosen = chosen_records(load_records(data, unstated=modality), modality)
    logger.info("%s: negative images are taken from %d images of other modalities", modality, len(chosen))
    return chosen


def _training_records(settings: FinetuneArguments, records: Sequence[GroundingRecord]) -> list[GroundingRecord]:
    """Return the training records of `--data`, as many as `--fraction` and `--max-images` say."""
    train = fraction_of([r for r in records if r.split == "train"], settings.fraction, settings.seed)
    if settings.max_images is not None:
        chosen = sorted({r.image_key for r in train}, key=lambda name: random_key(name[1], settings.seed))
        names = set(chosen[: settings.max_images])
        train = [record for record in train if record.image_key in names]
    if not train:
        raise ValueError(f"{settings.data}: no training images of {settings.modality}")
    if not any(record.labels for record in train):
        raise ValueError(f"{settings.data}: no training image has a box, so there is nothing to find in them")
    _check_patients(settings.data, records)
    return train


def _replayed_records(
    settings: FinetuneArguments,
    replay: Sequence[GroundingRecord],
    train: Sequence[GroundingRecord],
    records: Sequence[GroundingRecord],
) -> list[GroundingRecord]:
    """Return the training records of `--replay`, with weights that give them their share."""
    name = str(settings.replay)
    _check_patients(name, replay)
    if not _is_same_source(name, settings.data):
        check_apart([*train, *(r for r in records if r.split != "train")], replay)
    older = [record for record in replay if record.split == "train"]
    if not older:
        raise ValueError(f"{name}: no training images of {settings.modality} to replay")
    factor = settings.replay_share * sum(r.weight for r in train) / sum(r.weight for r in older)
    return [replace(record, weight=record.weight * factor) for record in older]


def _check_patients(name: str, records: Sequence[GroundingRecord]) -> None:
    if both := shared_patients(records):
        raise ValueError(f"{name}: {both} patients are in training and validation: divide by patient")


def _is_same_source(first: str, second: str) -> bool:
    """Whether two folders, files or ids on the Hub are the same."""
    one, other = Path(first), Path(second)
    return one.samefile(other) if one.exists() and other.exists() else first == second
