# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Train experts without one of their labels, and measure what they detect when they are asked for it.

    python -m training.studies.leave_label_out --data out/data --modality ct --leave-out liver --epochs 4

An expert is trained from the recipe's starting weights. No training prompt names the label, a synonym or a kind of it,
not even as a label that the image does not show. The expert is then asked for the label on images with and without it
and, for comparison, for unknown phrases and for the labels that it was trained with. `OUT/leave_label_out.json` and
`OUT/leave_label_out.md` hold the results so far; a run that is started again skips the labels in them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from modeling_medglip.boxes import box_iou
from modeling_medglip.cli.scripts import script_main
from modeling_medglip.outputs.files import write_text
from modeling_medglip.outputs.markdown import percent, plain, table

from ..data.absent import labels_absent_from
from ..data.records import GroundingRecord, annotated_labels, chosen_labels
from ..data.unlearned import UnlearnedPhrases, whole_words
from ..evaluate.metrics import Detections
from ..evaluate.predict import detect_records
from ..fit.recipe import TrainingRecipe
from ..fit.run_results import measure
from .cross_source import folder_name, trained_on
from .phrases import RIGHT, SHOWN
from .protocol import agree, conditions, from_scratch, prepare, read_images, studied_recipe, study_parser


SCHEMA = "medglip/leave_label_out@1"
# Labels that are left out by default, each in a training of its own; dermoscopy has only one label.
LEFT_OUT: Mapping[str, tuple[str, ...]] = {
    "ct": ("liver", "left kidney"),
    "mri": ("left ventricle",),
    "ultrasound": ("fetal head", "malignant breast tumor"),
    "xray": ("cardiomediastinum",),
    "endoscopy": ("gallbladder",),
    "fundus": ("optic cup",),
}
# What is asked, as the results and the page name it.
ASKED = {
    "label, there": "the label, on images with it",
    "label, not there": "the label, on images without it",
    "nonsense": "nonsense",
    "never learned": "labels and findings without training images",
    "learned, there": "a trained label, on images with it",
    "learned, not there": "a trained label, on images without it",
}
# Images for each of these at most.
MOST_IMAGES = 60
Row = dict[str, Any]
logger = logging.getLogger(__name__)


def answers(
    expert: tuple[Any, Any], records: Sequence[GroundingRecord], phrases: Sequence[str], batch_size: int
) -> Row:
    """Ask for one phrase in every image; returns the counts and scores of the detected boxes.

    Args:
        expert (`tuple`): model and processor.
        records (`Sequence[GroundingRecord]`): the images.
        phrases (`Sequence[str]`): the phrase for each image.
        batch_size (`int`): images per forward pass.

    Returns:
        `dict`: `images`: their number; the others are `None` without images. `boxes`: boxes per image with a score of
        at least `SHOWN`. `drawn`: share of the images with such a box. `score`: mean of the best scores. `right`: of
        the images with an annotated box of the phrase, the share whose best box overlaps one and reaches `SHOWN`.
    """
    if not records:
        return {"images": 0, "boxes": None, "drawn": None, "score": None, "right": None}
    found, _ = detect_records(*expert, records, [[phrase] for phrase in phrases], batch_size)
    counts = [int((detected.scores >= SHOWN).sum()) for detected in found]
    best = [float(detected.scores.max(initial=0)) for detected in found]
    right = [_is_right(*each) for each in zip(found, records, phrases, strict=True)]
    there = [hit for hit in right if hit is not None]
    return {
        "images": len(records),
        "boxes": float(np.mean(counts)),
        "drawn": float(np.mean([count > 0 for count in counts])),
        "score": float(np.mean(best)),
        "right": float(np.mean(there)) if there else None,
    }


def _is_right(found: Detections, record: GroundingRecord, label: str) -> bool | None:
    """Return whether the best box overlaps an annotated one of the label; `None` if the image has none."""
    true = record.boxes[[name == label for name in record.labels]]
    if not len(true):
        return None
    index = int(found.scores.argmax()) if len(found.scores) else -1
    if index < 0 or found.scores[index] < SHOWN:
        return False
    return bool(box_iou(found.boxes[index : index + 1], true).max() >= RIGHT)


def judge(
    expert: tuple[Any, Any],
    label: str,
    records: Sequence[GroundingRecord],
    learned: Sequence[str],
    recipe: TrainingRecipe,
    seed: int,
) -> Row:
    """Measure a trained expert: what it detects for each of `ASKED`, and the AP50 of the labels it was trained with.

    Args:
        expert (`tuple`): model and processor.
        label (`str`): the label that was left out.
        records (`Sequence[GroundingRecord]`): validation images with all their labels.
        learned (`Sequence[str]`): labels with a training box.
        recipe (`TrainingRecipe`): its batch size is used.
        seed (`int`): of everything random.
    """
    rng, modality = np.random.default_rng(seed), records[0].modality
    batch, images = recipe.expert(modality).batch, [record for record in records if record.view_of is None]
    words = whole_words(expert[1].tokenizer)
    unlearned = UnlearnedPhrases.of(modality, learned, words, [label], held_out=True)
    known = set(learned)
    present = [(r, _any(sorted(known & set(r.labels)), rng)) for r in images if known & set(r.labels)]
    absent = [(r, _any(names, rng)) for r in images if (names := _absent(r, learned))]
    pairs = {
        "label, there": [(r, label) for r in images if label in r.labels],
        "label, not there": [(r, label) for r in images if _absent(r, [label])],
        "nonsense": [(r, unlearned.draw(1, rng, ("nonsense",))[0]) for r in images],
        "never learned": [(r, unlearned.draw(1, rng, ("label", "finding"))[0]) for r in images],
        "learned, there": present,
        "learned, not there": absent,
    }
    asked = {}
    for kind, chosen in pairs.items():
        part = [chosen[index] for index in sorted(rng.permutation(len(chosen))[:MOST_IMAGES])]
        asked[kind] = answers(expert, [record for record, _ in part], [phrase for _, phrase in part], batch)
    others = chosen_labels(images, None, [label])
    return {"asked": asked, "AP50": measure(*expert, others, batch).ap50}


def _absent(record: GroundingRecord, names: Sequence[str]) -> list[str]:
    """Return those of some labels that are certainly not in an image."""
    absent = set(chain.from_iterable(labels_absent_from(record, names)))
    return [name for name in names if name in absent]


def _any(names: Sequence[str], rng: np.random.Generator) -> str:
    return names[int(rng.integers(len(names)))]


def leave_out(
    labels: Mapping[str, Sequence[str]], data: str, recipe: TrainingRecipe, out: Path, seed: int = 0
) -> dict[str, Any]:
    """Train and measure an expert for every label without a result; returns all results.

    Args:
        labels (`Mapping[str, Sequence[str]]`): modality -> labels to leave out, each in a training of its own.
        data (`str`): as [`~training.data.load.load_records`] takes it.
        recipe (`TrainingRecipe`): how to train.
        out (`Path`): folder of the run.
        seed (`int`, *optional*, defaults to `0`): of everything random.

    Raises:
        `ValueError`: no images, a label that they do not have, or results of other images or settings in `out`.
    """
    from_scratch(recipe)
    path = out / "leave_label_out.json"
    measured: dict[str, Any] = {"schema": SCHEMA, "modalities": {}}
    if path.is_file():
        measured = json.loads(path.read_text(encoding="utf-8"))
    # Read and check everything before hours of training.
    images = {modality: _images(data, modality, names) for modality, names in labels.items()}
    for modality, records in images.items():
        entry = measured["modalities"].setdefault(modality, {})
        now = conditions(records, recipe, modality, seed)
        for label in labels[modality]:
            if label in entry:
                if not agree(entry[label]["conditions"], now):
                    raise ValueError(
                        f"{modality}, {label}: measured with other images or settings before: choose another --out"
                    )
                continue
            train = chosen_labels([record for record in records if record.split == "train"], None, [label])
            learned = sorted({name for record in train for name in record.labels})
            logger.info("%s: %s left out, %d images", modality, label, len(train))
            folder = out / modality / folder_name(label)
            expert = trained_on(train, data, modality, recipe, folder, seed, left_out=[label])
            held_out = [record for record in records if record.split == "validation"]
            entry[label] = {"conditions": now, **judge(expert, label, held_out, learned, recipe, seed)}
            write_text(path, json.dumps(measured, indent=1, allow_nan=False) + "\n")
            write_text(out / "leave_label_out.md", render_page(measured))
    return measured


def _images(data: str, modality: str, labels: Sequence[str]) -> list[GroundingRecord]:
    """Return the records of a modality after a check that it has the labels, and others besides."""
    records = read_images(data, modality)
    shown = {name for record in records if record.split == "validation" for name in record.labels}
    if unknown := sorted(set(labels) - shown):
        raise ValueError(f"{data}: no validation image of {modality} has {', '.join(unknown)}: choose another label")
    if annotated_labels(record for record in records if record.split == "train") <= set(labels[:1]):
        raise ValueError(f"{data}: {modality} has no label besides {labels[0]}, so it cannot be left out")
    return records


def render_page(measured: Mapping[str, Any]) -> str:
    """Return the page of figures in Markdown."""
    every = [row["conditions"] for entry in measured["modalities"].values() for row in entry.values()]
    lengths = sorted({f"{one['epochs']:g} epochs at {one['size']} pixels" for one in every})
    lines = [
        "# Labels that were left out of training",
        "",
        "Made by `python -m training.studies.leave_label_out`. No training prompt of the expert named the label. Each",
        f"image is asked for one phrase. `with a box`: images in per cent with one from a score of {SHOWN:g} on.",
        "`best score`: mean over the images. `right`: images in per cent whose best box overlaps the object with an",
        f"IoU of {RIGHT:g} or more. AP50 in per cent, mean over the labels in training. Scores are not calibrated,",
        f"and trainings are short: {', '.join(lengths)}.",
        "",
    ]
    rows = []
    for modality, entry in measured["modalities"].items():
        for label, row in entry.items():
            for kind, asked in row["asked"].items():
                score = "-" if asked["score"] is None else f"{asked['score']:.2f}"
                figures = [asked["images"], percent(asked["drawn"], 0), score, percent(asked["right"], 0)]
                rows.append([f"{modality}, without {plain(label)}", ASKED[kind], *figures, percent(row["AP50"])])
    header = ["expert", "asked for", "images", "with a box", "best score", "right", "AP50, trained labels"]
    return "\n".join(lines) + "\n" + table(header, rows)


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = study_parser("training.studies.leave_label_out", __doc__ or "", "runs/leave_label_out")
    parser.add_argument("--leave-out", nargs="+", help="labels of a single modality, instead of the study's own")
    options = parser.parse_args(argv)
    prepare(options)
    if options.leave_out and len(options.modality) > 1:
        raise ValueError("--leave-out: name a single --modality")
    labels = {name: options.leave_out or LEFT_OUT.get(name, ()) for name in options.modality}
    if empty := [name for name, names in labels.items() if not names]:
        raise ValueError(f"no label of {', '.join(empty)} is left out by default: name one with --leave-out")
    measured = leave_out(labels, options.data, studied_recipe(options), options.out, options.seed)
    print(render_page(measured), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
