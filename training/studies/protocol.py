# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The paper's comparison in small: zero-shot, a tenth of the data, all of it, and two detectors with fixed labels.

    python -m training.studies.protocol --data out/data --modality ct dermoscopy --epochs 8 --out runs/protocol

All rows of a modality start from the same image encoder and have the same images, input size and number of epochs.
Zero-shot is the starting weights as they are. Rows that are done are not done again; `OUT/protocol.json` and
`OUT/protocol.md` hold what is measured so far.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.configuration_medglip import MODALITIES
from modeling_medglip.modalities import resolve_modality
from modeling_medglip.outputs.files import write_text
from modeling_medglip.outputs.markdown import percent, table

from ..data.dataset import GroundingCollator
from ..data.load import load_records
from ..data.prompts import PromptRecipe
from ..data.records import DEFAULT_DATA, GroundingRecord, fraction_of, shared_patients
from ..data.validation import check_options, nothing_to_measure, readable_enough
from ..evaluate.bootstrap import MIN_PATIENTS, edges, patient_of, resampled
from ..fit.arguments import FinetuneArguments
from ..fit.finetune import load_base, make_dataset
from ..fit.recipe import TrainingRecipe, load_recipe
from ..fit.run_data import images_elsewhere
from ..fit.run_identity import claim, run_identity
from ..fit.run_results import Scores, find_all, scores_of
from ..fit.trainer import freeze, train_expert
from ..old_names import with_new_keys, with_old_names
from .baselines.closed_vocabulary import ClosedVocabularyDetector
from .baselines.deformable_detr import DeformableDetrDetector
from .baselines.fixed_labels import FixedLabelCollator, FixedLabelProcessor


SCHEMA = "medglip/protocol@1"
# Sets of patients drawn with replacement, the same in every row of a modality.
DRAWS = 500
ROWS = {
    "zero-shot": "MedGLIP, untouched starting weights: encoders of images and of language, and heads that were never"
    " trained",
    "10 %": "MedGLIP, a tenth of the patients",
    "100 %": "MedGLIP, all training images",
    "100 %, plain": "the same, always asked for all labels in their own words, as the detectors with fixed labels are",
    "closed vocabulary": "our network with S = F W^T (Eq. 3), all training images",
    "Deformable DETR": "two-stage, closed vocabulary, all training images, from ImageNet weights alone; it was"
    " published with 50 epochs of many more images, and this is what it does with few; what a source does not annotate"
    " is background to it, where the others leave it open",
}
FIXED_LABELS = ("closed vocabulary", "Deformable DETR")
# Rows whose difference is shown with its interval.
PAIRS = tuple((ours, other) for other in FIXED_LABELS for ours in ("100 %", "100 %, plain"))
# Modality and row -> AP of every set of patients, `(DRAWS,)`. It stays in the folder of the run.
Draws = dict[tuple[str, str], NDArray[np.float64]]
DRAWS_FILE = "resampled_AP.npy"
# A detector with fewer points of AP has not begun to learn: to be better than that is to say nothing.
FLOOR = 1.0
# Plain labels, all of them: what a detector with fixed labels is trained with.
PLAIN = PromptRecipe(all_labels=1.0, no_positive=0.0, replace=0.0, foreign=0)
logger = logging.getLogger(__name__)


def from_scratch(recipe: TrainingRecipe) -> None:
    """Check that a recipe builds new experts: one that goes on from a checkpoint would have seen the data.

    Raises:
        `ValueError`: it does not.
    """
    if not recipe.model:
        raise ValueError("this recipe goes on from a checkpoint that saw the data: choose one with a model: embedded")


def read_images(data: str, modality: str, broken: dict[str, str] | None = None) -> list[GroundingRecord]:
    """Return the records of a modality, without validation images that cannot be decoded.

    Those are added to `broken` with the reason.

    Args:
        data (`str`): as [`~training.data.load.load_records`] takes it.
        modality (`str`): one of `MODALITIES`.
        broken (`dict[str, str]`, *optional*): receives the images that cannot be read, with the reason.

    Raises:
        `ValueError`: no record, none with a box, too many broken ones, or a patient in training and in validation.
    """
    records = load_records(data, modality)
    if both := shared_patients(records):
        raise ValueError(f"{data}: {both} patients are in training and validation: divide by patient")
    broken = {} if broken is None else broken
    measured = readable_enough([record for record in records if record.split == "validation"], broken, data)
    if reason := nothing_to_measure(len(measured), any(record.labels for record in measured)):
        raise ValueError(f"{data}: {modality}: {reason}, so there is nothing to measure on: add some")
    return [record for record in records if record.split == "train"] + measured


def conditions(records: Sequence[GroundingRecord], recipe: TrainingRecipe, modality: str, seed: int) -> dict[str, Any]:
    """Return what rows must have in common to be comparable.

    The digest of the images covers boxes and labels: names of images and patients change with every build of the data.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        recipe (`TrainingRecipe`): of the row.
        modality (`str`): one of `MODALITIES`.
        seed (`int`): of everything random.
    """
    digest = hashlib.sha256()
    for record in records:
        digest.update(repr((record.source, record.split, record.size, record.labels, record.annotated)).encode())
        digest.update(record.boxes.tobytes())
    expert = recipe.expert(modality)
    content = with_old_names(asdict(recipe) | {"experts": asdict(expert)})
    settings = json.dumps(content, sort_keys=True, default=str)
    return {
        "epochs": expert.epochs,
        "size": expert.size,
        "seed": seed,
        "images": digest.hexdigest()[:16],
        "recipe": hashlib.sha256(settings.encode()).hexdigest()[:16],
    }


def agree(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two rows were measured under the same conditions, as far as both state them.

    Rows of before November 2026 do not state images and recipe.

    Args:
        first (`Mapping[str, Any]`): conditions of a row.
        second (`Mapping[str, Any]`): conditions of another row.
    """
    return all(first[name] == second[name] for name in set(first) & set(second))


def run_row(
    name: str,
    modality: str,
    data: str,
    recipe: TrainingRecipe,
    out: Path,
    seed: int = 0,
    records: Sequence[GroundingRecord] | None = None,
    broken: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], NDArray[np.float64] | None]:
    """Train and measure one row.

    Args:
        name (`str`): one of `ROWS`.
        modality (`str`): of the expert.
        data (`str`): as [`~training.data.load.load_records`] takes it.
        recipe ([`~training.fit.recipe.TrainingRecipe`]): of all rows.
        out (`Path`): folder of the row.
        seed (`int`, *optional*, defaults to 0): of everything random.
        records (`Sequence[GroundingRecord]`, *optional*): what [`read_images`] returns; read from `data` if left out.
        broken (`Mapping[str, str]`, *optional*): images that `read_images` left out, with the reason.

    Returns:
        scores and numbers of images, of which `broken` are the validation images that were left out; and the AP of
        resampled sets of patients, `(DRAWS,)`, `None` of too few patients.
    """
    left_out = dict(broken or {})
    records = list(records or read_images(data, modality, left_out))
    train = [record for record in records if record.split == "train"]
    validation = [record for record in records if record.split == "validation"]
    if name == "10 %":
        train = fraction_of(train, 0.1, seed)
    torch.manual_seed(seed)
    base, processor = load_base(FinetuneArguments(data, modality, recipe="embedded"), recipe)
    labels = sorted({label for record in records for label in record.annotated})
    asked: Any = FixedLabelProcessor(processor, labels) if name in FIXED_LABELS else processor
    model: nn.Module = base
    if name != "zero-shot":
        elsewhere = images_elsewhere(data, modality, recipe)
        model = _trained(name, base, processor, train, records, elsewhere, labels, recipe, modality, out, seed)
    detections = find_all(model, asked, validation)
    scores = scores_of(validation, detections)
    count = 0 if name == "zero-shot" else _images(train)
    images = {"train": count, "validation": len(validation), "broken": len(left_out)}
    row = {"images": images, **_numbers(scores, train if name != "10 %" else records)}
    if len(set(map(patient_of, validation))) < MIN_PATIENTS:
        return row, None
    return row, resampled(validation, detections, sorted(scores.labels), DRAWS)[:, 0]


def _images(records: Sequence[GroundingRecord]) -> int:
    """How many images records show; single channels are views of one."""
    return len({record.image_key for record in records})


def _trained(
    name: str,
    base: Any,
    processor: Any,
    train: list[GroundingRecord],
    records: Sequence[GroundingRecord],
    elsewhere: Sequence[GroundingRecord],
    labels: list[str],
    recipe: TrainingRecipe,
    modality: str,
    out: Path,
    seed: int,
) -> nn.Module:
    fixed = name in FIXED_LABELS
    model: nn.Module = base
    freeze(base, recipe.optimization)
    if name == "closed vocabulary":
        model = ClosedVocabularyDetector(base, labels)
    elif name == "Deformable DETR":
        model = DeformableDetrDetector(labels)
    prompts = PLAIN if fixed or name == "100 %, plain" else recipe.prompts
    dataset = make_dataset(train, records, processor, replace(recipe, prompts=prompts), seed, elsewhere)
    collator = FixedLabelCollator(labels) if fixed else GroundingCollator(processor)
    optimization = recipe.optimization
    if name == "Deformable DETR":  # the rates and the clipping it is trained with everywhere
        optimization = replace(
            optimization, head_learning_rate=2e-4, backbone_learning_rate=2e-5, weight_decay=1e-4, gradient_clip=0.1
        )
    identity = {"row": name, "recipe": asdict(recipe), "seed": seed, "modality": modality}
    claim(out, run_identity(identity, train, model, elsewhere))
    train_expert(model, dataset, collator, recipe.expert(modality), optimization, out, seed)
    return model.eval()


def _numbers(scores: Scores, train: Sequence[GroundingRecord]) -> dict[str, Any]:
    """Means over all labels, and over those with at least 30 training images."""
    shown = [record for record in train if record.split == "train" and record.view_of is None]
    counts = Counter(label for record in shown for label in set(record.labels))
    often = Scores({label: value for label, value in scores.labels.items() if counts[label] >= 30})
    return {**scores.as_dict(), "well_shown": {"AP": often.ap, "AP50": often.ap50}}


def protocol(
    modalities: Sequence[str],
    data: str,
    recipe: TrainingRecipe,
    out: Path,
    rows: Sequence[str] = tuple(ROWS),
    seed: int = 0,
) -> dict[str, Any]:
    """Run all rows that are not done yet; returns everything that is measured.

    Args:
        modalities (`Sequence[str]`): of `MODALITIES`.
        data (`str`): as [`~training.data.load.load_records`] takes it.
        recipe (`TrainingRecipe`): of all rows.
        out (`Path`): folder of the run.
        rows (`Sequence[str]`, *optional*, defaults to `tuple(ROWS)`): of `ROWS`, those to measure.
        seed (`int`, *optional*, defaults to `0`): of everything random.
    """
    from_scratch(recipe)
    path = out / "protocol.json"
    measured: dict[str, Any] = _measured_before(path)
    draws = draws_of(measured, out)
    broken: dict[str, dict[str, str]] = {modality: {} for modality in modalities}
    # All of them before hours of training: one may have nothing to measure on.
    images = {modality: read_images(data, modality, broken[modality]) for modality in modalities}
    for modality, records in images.items():
        expert = recipe.expert(modality)
        entry = measured.setdefault("modalities", {}).setdefault(modality, {"size": expert.size, "rows": {}})
        entry["epochs"] = expert.epochs
        now = conditions(records, recipe, modality, seed)
        for name in rows:
            if name in entry["rows"]:
                if not agree(entry["rows"][name]["conditions"], now):
                    raise ValueError(
                        f"{modality}, {name}: measured with other images or settings before: choose another --out"
                    )
                continue
            logger.info("%s: %s", modality, name)
            folder = row_folder(out, modality, name)
            row, drawn = run_row(name, modality, data, recipe, folder, seed, records, broken[modality])
            entry["rows"][name] = {"conditions": now, **row}
            folder.mkdir(parents=True, exist_ok=True)
            if drawn is not None:
                np.save(folder / DRAWS_FILE, drawn)
                draws[modality, name] = drawn
            entry["differences"] = entry.get("differences", {}) | differences(modality, entry["rows"], draws)
            write_text(path, json.dumps(measured, indent=1, allow_nan=False) + "\n")
            write_text(out / "protocol.md", render_page(measured))
    return measured


def _measured_before(path: Path) -> dict[str, Any]:
    """Return the content of a run's `protocol.json`; only its schema before there is one."""
    content: dict[str, Any] = with_new_keys(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    return content or {"schema": SCHEMA}


def row_folder(out: Path, modality: str, name: str) -> Path:
    """Return the folder of one row of a run.

    Args:
        out (`Path`): folder of the run.
        modality (`str`): one of `MODALITIES`.
        name (`str`): one of `ROWS`.
    """
    return out / modality / name.replace(" ", "_").replace("%", "percent")


def draws_of(measured: Mapping[str, Any], out: Path) -> Draws:
    """Return the resampled APs of measured rows from the folders of their run.

    Args:
        measured (`Mapping[str, Any]`): content of `protocol.json`. The draws in files of before December 2026 are
            taken out of it.
        out (`Path`): folder of the run.
    """
    draws: Draws = {}
    for modality, entry in measured.get("modalities", {}).items():
        for name, row in entry["rows"].items():
            file = row_folder(out, modality, name) / DRAWS_FILE
            if "resampled_AP" in row:
                draws[modality, name] = np.array(row.pop("resampled_AP"), dtype=np.float64)
            elif file.is_file():
                draws[modality, name] = np.load(file, allow_pickle=False)
    return draws


def differences(modality: str, rows: Mapping[str, Any], draws: Draws) -> dict[str, list[float]]:
    """Return the 95 % interval over patients of the difference in mean AP, by pair of [`PAIRS`] with draws of both.

    Args:
        modality (`str`): one of `MODALITIES`.
        rows (`Mapping[str, Any]`): measured rows of the modality.
        draws (`Draws`): APs of resampled sets of patients.
    """
    intervals = {}
    for ours, other in PAIRS:
        if ours in rows and other in rows and {(modality, ours), (modality, other)} <= draws.keys():
            gap = rows[ours]["mean"]["AP"] - rows[other]["mean"]["AP"]
            pair = edges(draws[modality, ours] - draws[modality, other], gap)
            intervals[f"{ours} against {other}"] = [round(edge, 5) for edge in pair]
    return intervals


def render_page(measured: dict[str, Any]) -> str:
    """Return the paper's table in small, in Markdown."""
    lines = [
        "# Zero-shot, a tenth, all: against detectors with fixed labels", "",
        "Made by `python -m training.studies.protocol`.",
        "AP / AP50 in per cent on the validation split, mean over labels; in",
        "brackets over labels with at least 30 training images. Within a row images, epochs, input size and image",
        "encoder are the same. Modalities were run one by one, each with the `--size` and `--epochs` of its row, and",
        "joined by `python -m training.studies.join_protocol`.", "",
        *(f"- **{name}**: {text}" for name, text in ROWS.items()), "",
    ]  # fmt: skip
    modalities = measured.get("modalities", {})
    rows = [
        [name, entry["size"], f"{entry['epochs']:g}", *(_cell(entry["rows"].get(row)) for row in ROWS)]
        for name, entry in modalities.items()
    ]
    rows += _means(list(modalities.values()))
    lines += [table(["modality", "pixels", "epochs", *ROWS], rows).rstrip(), *_of_before(modalities)]
    compared = [line for name, entry in modalities.items() for line in _compared(name, entry)]
    if compared:
        lines += [
            "", "MedGLIP against the detectors with fixed labels, difference of the mean AP in points, with the 95 %",
            "interval over patients; an interval with 0 in it does not tell them apart, and one of rows that were",
            "measured on different builds of the data is wider than it need be, for their patients were drawn apart.",
            "MedGLIP learns synonyms, parent terms and random subsets of labels in the same few steps, in which the",
            "others see all labels in the same words every time; in the plain row it does as they do:", "", *compared,
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _of_before(modalities: Mapping[str, Any]) -> list[str]:
    """Return a note on rows that do not state their images and recipe."""
    pairs = [(name, row.get("conditions", {})) for name, entry in modalities.items() for row in entry["rows"].values()]
    incomplete = {name for name, stated in pairs if "images" not in stated}
    if not incomplete:
        return []
    names = ", ".join(name for name in modalities if name in incomplete)
    return [
        "",
        f"Rows of {names} were measured by earlier versions of the",
        "code and of the built data, which wrote down epochs, size and seed alone: that their images were the same",
        "is known by their numbers only, and measured again they would differ somewhat.",
    ]


def _means(modalities: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the last row of the table: means over modalities, of the rows that all of them have."""
    if len(modalities) < 2:
        return []
    cells = []
    for name in ROWS:
        means = [entry["rows"][name]["mean"] for entry in modalities if name in entry["rows"]]
        full = len(means) == len(modalities) and all(mean["AP"] is not None for mean in means)
        shares = [float(np.mean([mean[key] for mean in means])) for key in ("AP", "AP50")] if full else []
        cells.append(" / ".join(map(percent, shares)) or "-")
    return [["**mean**", "", "", *cells]]


def _compared(modality: str, entry: Mapping[str, Any]) -> list[str]:
    """Return one line per detector with fixed labels, for both ways of asking."""
    lines = []
    for ours, other in PAIRS:
        pair = f"{ours} against {other}"
        if pair not in entry.get("differences", {}):
            continue
        first, second = entry["rows"][ours], entry["rows"][other]
        gap = 100 * (first["mean"]["AP"] - second["mean"]["AP"])
        low, high = (100 * edge for edge in entry["differences"][pair])
        verdict = "better" if low > 0 else "worse" if high < 0 else "no difference that these images can show"
        if 100 * second["mean"]["AP"] < FLOOR:
            verdict = f"which says little: {other} has hardly begun to learn in so few steps"
        most = f"; most on {_behind(first['labels'], second['labels'])}" if high < 0 else ""
        lines.append(f"- {modality}, {pair}: {gap:+.1f} ({low:+.1f} to {high:+.1f}), {verdict}{most}")
    return lines


def _behind(ours: Mapping[str, Any], other: Mapping[str, Any], most: int = 5) -> str:
    """Return the labels on which a row is furthest behind another, with the points of AP."""
    gaps = sorted((100 * (ours[name]["AP"] - other[name]["AP"]), name) for name in set(ours) & set(other))
    return ", ".join(f"{name} ({gap:+.0f})" for gap, name in gaps[:most])


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    every, often = (tuple(row[key][name] for name in ("AP", "AP50")) for key in ("mean", "well_shown"))
    text = " / ".join(map(percent, every))
    return text if often[0] is None else f"{text} ({' / '.join(map(percent, often))})"


def study_parser(module: str, about: str, out: str) -> argparse.ArgumentParser:
    """Return the command line of a study that trains several experts from the starting weights.

    Args:
        module (`str`): that the command line is of.
        about (`str`): its docstring.
        out (`str`): default folder of the run.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about.split("\n")[0])
    parser.add_argument("--data", default=DEFAULT_DATA, help="built data set, its id on the Hub, or a COCO file")
    parser.add_argument("--modality", nargs="+", type=resolve_modality, default=[])
    parser.add_argument("--recipe", default="embedded", help="file, or the name of one in training/recipes")
    parser.add_argument(
        "--like", help="recipe whose augmentation, prompts, negative images and head replace the recipe's"
    )
    parser.add_argument("--epochs", type=float, help="of every training, instead of the recipe's")
    parser.add_argument("--size", type=int, help="input size in pixels, instead of the recipe's")
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    return parser


def studied_recipe(options: argparse.Namespace) -> TrainingRecipe:
    """Return the recipe of a study's command line."""
    recipe = load_recipe(options.recipe).changed(options.modality, epochs=options.epochs, size=options.size)
    return recipe.trained_like(load_recipe(options.like)) if options.like else recipe


def prepare(options: argparse.Namespace) -> None:
    """Check the options of a study, and set up the log and the number of threads (0: PyTorch's choice).

    Raises:
        `ValueError`: an option is out of its range, or no modality is named.
    """
    if not options.modality:
        raise ValueError(f"no modality: name some with --modality, such as {' '.join(MODALITIES[:2])}")
    check_options(vars(options))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = study_parser("training.studies.protocol", __doc__ or "", "runs/protocol")
    parser.add_argument("--row", nargs="+", choices=list(ROWS), default=list(ROWS), help="only these")
    options = parser.parse_args(argv)
    prepare(options)
    recipe, out = studied_recipe(options), options.out
    print(render_page(protocol(options.modality, options.data, recipe, out, options.row, options.seed)), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
