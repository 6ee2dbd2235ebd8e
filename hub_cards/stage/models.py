# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Stage model repositories: one per expert, and the checkpoint that holds them all.

Each is complete: weights, processor, the code that runs it, licenses, the evaluation, and the card made from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_medglip.checkpoints.licenses import LICENSES_FILE
from modeling_medglip.errors import one_line
from modeling_medglip.outputs.files import write_text

from ..evaluation_tables import EVALUATION, evaluation_of
from ..model_card import render_card, render_license, training_sources
from .repository import Repository, empty_folder, repository_id


UNIFIED = "med-glip"


def expert_name(modality: str) -> str:
    """Return the name of an expert's repository."""
    return f"med-glip-{modality}"


def stage_model(
    checkpoint: Path, modalities: Sequence[str], folder: Path, evaluation: Mapping[str, Any], publication: Any
) -> None:
    """Write everything of a model repository into an empty folder.

    Args:
        checkpoint (`Path`): The checkpoint that holds the experts.
        modalities (`Sequence[str]`): The experts to take.
        folder (`Path`): A folder below a stage.
        evaluation (`Mapping`): See [`~hub_cards.model_card.read_measured`].
        publication (`dict`): See [`~hub_cards.model_card.render_card`].

    Raises:
        `ValueError`: An expert does not exist, was not measured, or its weights cannot be read.
    """
    measured = part_of_evaluation(evaluation, list(modalities)) | {"publication": publication}
    rows = training_sources(checkpoint, modalities)
    _save(checkpoint, list(modalities), folder)
    write_text(folder / LICENSES_FILE, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "LICENSE.md", render_license(folder, modalities))
    write_text(folder / EVALUATION, json.dumps(measured, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "README.md", render_card(folder, measured))


def _save(checkpoint: Path, modalities: list[str], folder: Path) -> None:
    """Save weights in half precision, loaded as float32, with processor and code."""
    from safetensors import SafetensorError

    from modeling_medglip import MedGlipForObjectDetection, MedGlipProcessor
    from training.fit.shards import save_shards

    try:
        model = MedGlipForObjectDetection.from_pretrained(checkpoint, modalities=modalities)
        processor = MedGlipProcessor.from_pretrained(checkpoint)
    except SafetensorError as error:
        raise ValueError(f"{checkpoint.name}: its weights cannot be read ({one_line(error, 80)})") from None
    hierarchy = dict(model.config.label_hierarchy or {})
    known = hierarchy.pop("trained_labels", {})
    model.config.set_label_hierarchy({name: known.get(name, []) for name in modalities}, **hierarchy)
    if len(modalities) == 1:
        processor.image_processor.set_modality(modalities[0])
    model.half()
    if len(modalities) == 1:
        model.save_pretrained(folder)
    else:
        save_shards(model, folder)
    processor.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_text(path, json.dumps({**config, "dtype": "float32"}, indent=2, ensure_ascii=False) + "\n")


def part_of_evaluation(evaluation: Mapping[str, Any], modalities: list[str]) -> dict[str, Any]:
    """Return the evaluation and calibration of some modalities, with the router's figures for several.

    Args:
        evaluation (`Mapping`): See [`~hub_cards.model_card.read_measured`].
        modalities (`list[str]`): The modalities.
    """
    part = evaluation_of(evaluation, modalities)
    calibration = evaluation.get("calibration")
    if calibration:
        known = calibration["modalities"]
        part["calibration"] = {
            **calibration,
            "modalities": {name: known[name] for name in modalities if name in known},
        }
    if len(modalities) == 1:
        part["router"] = None
    return part


def model_repositories(
    checkpoint: Path,
    modalities: Sequence[str],
    owner: str,
    stage: Path,
    evaluation: Mapping[str, Any],
    unified: bool,
    datasets: Mapping[str, str],
    private: bool = True,
    gated: str = "no",
) -> list[Repository]:
    """Stage the experts one by one, or the checkpoint with all of them.

    Args:
        checkpoint (`Path`): The checkpoint that holds the experts.
        modalities (`Sequence[str]`): The experts to take.
        owner (`str`): Owner of the repositories.
        stage (`Path`): See [`~hub_cards.stage.repository.open_stage`].
        evaluation (`Mapping`): See [`~hub_cards.model_card.read_measured`].
        unified (`bool`): One repository with all experts instead of one per expert.
        datasets (`Mapping[str, str]`): Modality -> id of the data set that is published with images of it.
        private (`bool`, *optional*, defaults to `True`): Whether only the owners see the repositories.
        gated (`str`, *optional*, defaults to `"no"`): One of `GATES`.
    """
    groups = [(UNIFIED, list(modalities))] if unified else [(expert_name(name), [name]) for name in modalities]
    repositories = []
    for name, members in groups:
        repo = repository_id(owner, name)
        dataset = next((datasets[modality] for modality in members if modality in datasets), None)
        publication = {"repo": repo, "dataset": dataset, "gated": gated != "no"}
        stage_model(checkpoint, members, empty_folder(stage / name), evaluation, publication)
        role = "unified" if unified else "expert"
        repositories.append(Repository(repo, "model", stage / name, "research only", role, private, gated))
    return repositories


__all__ = ["UNIFIED", "expert_name", "model_repositories", "part_of_evaluation", "stage_model"]
