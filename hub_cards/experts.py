# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Model repositories: one per expert, and the checkpoint that holds them all. Each is complete: weights, processor,
the code that runs it, licences, the evaluation, and the card made from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_medglip.results import write_text

from .measured import EVALUATION, evaluation_of
from .model_card import license_rows, render_card, render_license
from .repository import Repository, repository_id


CODE = ("configuration_medglip.py", "modeling_medglip.py", "image_processing_medglip.py", "processing_medglip.py")
SHARD_SIZE = "40MB"


def expert_name(modality: str) -> str:
    """Name of an expert's repository."""
    return f"med-glip-{modality}"


def stage_model(
    checkpoint: Path,
    modalities: Sequence[str],
    repo: str,
    folder: Path,
    measured: tuple[Mapping[str, Any], Mapping[str, Any] | None],
    dataset: str | None = None,
    gated: bool = False,
) -> None:
    """Write everything of a model repository into an empty folder.

    Args:
        checkpoint: the checkpoint that holds the experts. modalities: those to take; one for an expert of its own.
        repo: `owner/name`. folder: made anew. measured: see [`~hub_cards.model_card.read_measured`].
        dataset: id of the data set to name, if it is published too. gated: with a text that asks for agreement.

    Raises:
        `ValueError`: an expert that is not there, or was not measured.
    """
    from modeling_medglip import MedGlipForObjectDetection, MedGlipProcessor

    evaluation, router = measured
    own = part_of(evaluation, list(modalities))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = MedGlipForObjectDetection.from_pretrained(checkpoint, modalities=list(modalities))
    hierarchy = model.config.label_hierarchy or {}
    known = hierarchy.get("trained_labels", {})
    model.config.label_hierarchy = {**hierarchy, "trained_labels": {name: known.get(name, []) for name in modalities}}
    model.half().save_pretrained(folder, max_shard_size=SHARD_SIZE)
    processor = MedGlipProcessor.from_pretrained(checkpoint)
    if len(modalities) == 1:
        processor.image_processor.modality = modalities[0]
    processor.save_pretrained(folder)
    _finish_config(folder)
    rows = license_rows(checkpoint, modalities)
    write_text(folder / "licenses.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "LICENSE.md", render_license(folder, modalities))
    write_text(folder / EVALUATION, json.dumps(own, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "README.md", render_card(folder, own, router, repo, dataset, gated))


def part_of(evaluation: Mapping[str, Any], modalities: list[str]) -> dict[str, Any]:
    """The evaluation and calibration of some modalities."""
    own = evaluation_of(evaluation, modalities)
    calibration = evaluation.get("calibration")
    if calibration:
        known = calibration["modalities"]
        own["calibration"] = {**calibration, "modalities": {name: known[name] for name in modalities if name in known}}
    return own


def _finish_config(folder: Path) -> None:
    """Half-precision tensors are loaded as float32; the code of the package travels along."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_text(path, json.dumps({**config, "dtype": "float32"}, indent=2, ensure_ascii=False) + "\n")
    missing = [name for name in CODE if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{', '.join(missing)} did not come along with the model")


def model_repositories(
    checkpoint: Path,
    modalities: Sequence[str],
    owner: str,
    stage: Path,
    measured: tuple[Mapping[str, Any], Mapping[str, Any] | None],
    unified: bool,
    dataset: str | None = None,
    **settings: Any,
) -> list[Repository]:
    """Stage the experts one by one, or the checkpoint with all of them.

    Args:
        settings: `private` and `gated` of the repositories.
    """
    groups = [("med-glip", list(modalities))] if unified else [(expert_name(name), [name]) for name in modalities]
    made = []
    for name, own in groups:
        repo = repository_id(owner, name)
        gated = settings.get("gated", "no") != "no"
        stage_model(checkpoint, own, repo, stage / name, measured, dataset, gated)
        made.append(Repository(repo, "model", stage / name, "research only", **settings))
    return made


__all__ = ["expert_name", "model_repositories", "part_of", "stage_model"]
