# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""How an expert does on a hospital whose images it never saw: one source left out at a time.

    python -m training.studies.cross_source --data out/data --modality dermoscopy fundus --epochs 8 \
        --out runs/cross_source
    python -m training.studies.cross_source --page runs/embedded.json runs/foreign.json --out docs

For every source that shares a label with another one, an expert is trained on all the others and measured on it,
beside an expert that was trained on all of them. Both start from the recipe's starting weights, so nothing of the
source is known. Rows that are done are not done again; `OUT/cross_source.json` and `OUT/cross_source.md` hold what is
measured so far. `--page` only writes the table of several such files, which may share modalities.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.outputs.files import write_text
from modeling_medglip.outputs.markdown import percent, plain, table

from ..data.dataset import GroundingCollator
from ..data.load import load_records
from ..data.records import GroundingRecord, chosen_labels, shared_patients
from ..data.validation import nothing_to_measure, readable_enough
from ..fit.arguments import FinetuneArguments
from ..fit.finetune import load_base, make_dataset
from ..fit.recipe import TrainingRecipe
from ..fit.run_data import images_elsewhere
from ..fit.run_identity import claim, run_identity
from ..fit.run_results import measure
from ..fit.trainer import freeze, train_expert
from ..old_names import with_new_keys
from .protocol import agree, conditions, from_scratch, prepare, studied_recipe, study_parser


SCHEMA = "medglip/cross_source@1"
EVERYTHING = "everything"
INTRODUCTION = """# Sources that were left out

Made by `python -m training.studies.cross_source`.
Mean over labels, in per cent, of an expert that was trained on
all sources but this one (never seen), and of one that was trained on this one too, on the same images.
Only labels that another source annotates as well are asked.
Where several trainings are compared, the column `training` holds the names of their files.

"""
logger = logging.getLogger(__name__)


def shared_labels(records: Sequence[GroundingRecord]) -> dict[str, tuple[str, ...]]:
    """Return, by source, the labels of its boxes that another source annotates as well."""
    shown: dict[str, set[str]] = {}
    annotated: dict[str, set[str]] = {}
    for record in records:
        shown.setdefault(record.source, set()).update(record.labels)
        if record.split == "train":
            annotated.setdefault(record.source, set()).update(record.labels)
    shared = {}
    for source, labels in shown.items():
        elsewhere = set().union(*(annotated[name] for name in annotated if name != source))
        if labels & elsewhere:
            shared[source] = tuple(sorted(labels & elsewhere))
    return shared


def folder_name(source: str) -> str:
    """Return a folder for a source: its name if it is safe, else a safe part of it with a digest."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", source)[:60]
    if safe == source and safe not in ("", EVERYTHING):
        return safe
    return f"{safe}_{hashlib.sha256(source.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def judged(records: Sequence[GroundingRecord], source: str, labels: Sequence[str]) -> list[GroundingRecord]:
    """Return the images by which a source is judged, with these labels only.

    They are its validation images, or all of its images if no validation image has a box.

    Args:
        records (`Sequence[GroundingRecord]`): of all sources.
        source (`str`): the source that is left out.
        labels (`Sequence[str]`): those that another source annotates.
    """
    images = [record for record in records if record.source == source and record.view_of is None]
    annotated = [record for record in images if set(record.annotated) & set(labels)]
    chosen = chosen_labels(annotated, labels, None)
    held_out = [record for record in chosen if record.split != "train"]
    return held_out if any(record.labels for record in held_out) else chosen


def trained_on(
    train: Sequence[GroundingRecord],
    data: str,
    modality: str,
    recipe: TrainingRecipe,
    out: Path,
    seed: int,
    callbacks: tuple[TrainerCallback, ...] = (),
    left_out: Sequence[str] = (),
    **arguments: Any,
) -> tuple[Any, Any]:
    """Train an expert from the starting weights on these images; return model and processor.

    Args:
        train (`Sequence[GroundingRecord]`): training images.
        data (`str`): as [`~training.data.load.load_records`] takes it.
        modality (`str`): one of `MODALITIES`.
        recipe (`TrainingRecipe`): how to train.
        out (`Path`): folder for the checkpoints.
        seed (`int`): of everything random.
        callbacks (`tuple[TrainerCallback, ...]`, *optional*): of the training.
        left_out (`Sequence[str]`, *optional*): labels that no prompt may ask for.
        arguments (`Any`): further ones for `TrainingArguments`.

    Raises:
        `ValueError`: the folder holds checkpoints of another training.
    """
    torch.manual_seed(seed)
    model, processor = load_base(FinetuneArguments(data, modality, recipe="embedded"), recipe)
    freeze(model, recipe.optimization)
    elsewhere = images_elsewhere(data, modality, recipe)
    dataset = make_dataset(train, train, processor, recipe, seed, elsewhere=elsewhere, left_out=left_out)
    collator = GroundingCollator(processor)
    identity = {"recipe": asdict(recipe), "seed": seed, "modality": modality}
    claim(out, run_identity(identity, train, model, elsewhere))
    expert = recipe.expert(modality)
    train_expert(model, dataset, collator, expert, recipe.optimization, out, seed, callbacks, **arguments)
    return model.eval(), processor


def cross_source(
    modalities: Sequence[str], data: str, recipe: TrainingRecipe, out: Path, seed: int = 0
) -> dict[str, Any]:
    """Measure all sources that are not done yet; returns everything that is measured.

    Args:
        modalities (`Sequence[str]`): of `MODALITIES`.
        data (`str`): as [`~training.data.load.load_records`] takes it.
        recipe (`TrainingRecipe`): how to train.
        out (`Path`): folder of the run.
        seed (`int`, *optional*, defaults to `0`): of everything random.

    Raises:
        `ValueError`: no images, or no two sources of a modality with a label in common.
    """
    from_scratch(recipe)
    path = out / "cross_source.json"
    measured: dict[str, Any] = {"schema": SCHEMA}
    if path.is_file():
        measured = _read(path)
    # All of them before hours of training: one may have no source to leave out.
    images = {modality: _comparable(data, modality) for modality in modalities}
    for modality, (records, shared) in images.items():
        entry = measured.setdefault("modalities", {}).setdefault(modality, {"sources": {}})
        entry |= {"epochs": recipe.expert(modality).epochs, "size": recipe.expert(modality).size}
        now = conditions(records, recipe, modality, seed)
        for source, labels in shared.items():
            if source in entry["sources"]:
                if not agree(entry["sources"][source]["conditions"], now):
                    raise ValueError(
                        f"{modality}, {source}: measured with other images or settings before: choose another --out"
                    )
                continue
            row = _left_out(source, labels, records, data, modality, recipe, out / modality, seed)
            entry["sources"][source] = {"conditions": now, **row}
            write_text(path, json.dumps(measured, indent=1, allow_nan=False) + "\n")
            write_text(out / "cross_source.md", render_page({"": measured}))
    return measured


def _read(path: Path) -> dict[str, Any]:
    """Return what a run measured.

    Raises:
        `ValueError`: the file is not of this study.
    """
    try:
        measured = with_new_keys(json.loads(path.read_text(encoding="utf-8")))
    except json.JSONDecodeError:
        measured = None
    if not isinstance(measured, dict) or measured.get("schema") != SCHEMA:
        raise ValueError(f"{path.name}: not a file of this study: give a cross_source.json")
    return measured


def _comparable(data: str, modality: str) -> tuple[list[GroundingRecord], dict[str, tuple[str, ...]]]:
    """Return the records of a modality, and the [`shared_labels`] of its sources."""
    records = load_records(data, modality)
    if both := shared_patients(records):
        raise ValueError(f"{data}: {both} patients are in training and validation: divide by patient")
    if shared := shared_labels(records):
        return records, shared
    raise ValueError(
        f"{data}: no two sources of {modality} share a label, so none can be left out: choose others with --modality"
    )


def _left_out(
    source: str,
    labels: Sequence[str],
    records: Sequence[GroundingRecord],
    data: str,
    modality: str,
    recipe: TrainingRecipe,
    out: Path,
    seed: int,
) -> dict[str, Any]:
    """Train without a source and measure on it; also with it, if it has validation images.

    `broken` counts its images that were left out.
    """
    broken: dict[str, str] = {}
    images = readable_enough(judged(records, source, labels), broken, f"{data}: {source}")
    if reason := nothing_to_measure(len(images), any(record.labels for record in images)):
        raise ValueError(f"{data}: {modality}, {source}: {reason} that can be read: mend the data")
    train = [record for record in records if record.split == "train"]
    others = [record for record in train if record.source != source]
    logger.info("%s: %s left out, %d images of it", modality, source, len(images))
    unseen = trained_on(others, data, modality, recipe, out / folder_name(source), seed)
    row: dict[str, Any] = {"labels": labels, "images": len(images), "broken": len(broken)}
    row["unseen"] = measure(*unseen, images).as_dict()
    if not any(record.split == "train" for record in images):
        seen = trained_on(train, data, modality, recipe, out / EVERYTHING, seed)
        row["seen"] = measure(*seen, images).as_dict()
    return row


def render_page(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page of figures in Markdown.

    Args:
        files (`Mapping[str, Mapping]`): name -> content of each file of figures; a single one is not named.
    """
    rows: dict[str, list[list[Any]]] = {}
    for name, measured in files.items():
        for modality, entry in measured.get("modalities", {}).items():
            for source, row in entry["sources"].items():
                means = [row.get(key, {}).get("mean", {}) for key in ("unseen", "seen")]
                figures = [percent(mean.get(key)) for key in ("AP50", "AP") for mean in means]
                named = [plain(name)] if len(files) > 1 else []
                cells = [*named, len(row["labels"]), row["images"], f"{entry['epochs']:g}", *figures]
                rows.setdefault(f"{modality}: {plain(source)}", []).append(cells)
    header = ["labels", "images", "epochs", "AP50, never seen", "seen", "AP, never seen", "seen"]
    header = ["source", *(["training"] if len(files) > 1 else []), *header]
    return INTRODUCTION + table(header, [[source, *cells] for source, found in rows.items() for cells in found])


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = study_parser("training.studies.cross_source", __doc__ or "", "runs/cross_source")
    parser.add_argument("--page", type=Path, nargs="+", help="only write the table of these files")
    options = parser.parse_args(argv)
    if options.page:
        files = {file.stem: _read(file) for file in options.page}
    else:
        prepare(options)
        recipe = studied_recipe(options)
        files = {"": cross_source(options.modality, options.data, recipe, options.out, options.seed)}
    page = render_page(files)
    write_text(options.out / "cross_source.md", page)
    print(page, end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
