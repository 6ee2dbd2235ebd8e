# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""How labels behave that are written otherwise, worded as in no training prompt, or asked beside others.

`python -m training.studies.phrases --data DIR [--out docs/phrases.json] [--images 20]` asks the checkpoint for sided
labels in all forms, for wordings that training held out, and for trained labels with and without others beside them.
`python -m training.studies.phrases --page docs/phrases.json` writes the page beside it. `DIR` holds
`<modality>/<source>/annotations.json` and images. What is asked is in `phrases.yaml`, and under `held_out` of
`training/data/synonyms.yaml`. What unknown phrases draw: `training/studies/listening.py`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import yaml

from modeling_medglip.boxes import box_iou
from modeling_medglip.cli.scripts import script_main
from modeling_medglip.defaults import UNTRAINED_THRESHOLD
from modeling_medglip.grounding import Grounder, ground_image, load_grounder
from modeling_medglip.io.image import read_image
from modeling_medglip.io.image_record import ReadImage
from modeling_medglip.outputs.markdown import table
from modeling_medglip.outputs.results import GroundedBox
from modeling_medglip.processing_medglip import clean_label
from modeling_medglip.taxonomy.phrases import side_of

from ..data.vocabulary import SYNONYMS_FILE


PHRASES = Path(__file__).with_name("phrases.yaml")
TEMPLATE = Path(__file__).parent.parent / "templates" / "phrases.md"
# Boxes are looked for down to the first score and counted from the second on, as by default; a right box overlaps a
# true one by at least the third.
LOWEST, SHOWN, RIGHT = 0.05, 0.3, 0.5
FORMS = (
    "{side} {base}", "{base}, {side}", "{base} ({letter})", "{letter} {base}", "{base} {letter}", "{short} {base}",
    "{short}. {base}", "{base}_{letter}", "{side}-sided {base}", "{base} on the {side}", "{base} of the {side} side",
)  # fmt: skip
Entry = Mapping[str, Any]


def annotated_images(folder: Path, limit: int) -> Iterator[tuple[ReadImage, dict[str, list[list[float]]]]]:
    """Yield up to `limit` images of a source with their boxes (left, top, right, bottom) by label.

    Those of the validation split come first, then others, evenly over the rest.

    Args:
        folder (`Path`): of the source, with `annotations.json`.
        limit (`int`): images at most.
    """
    entries = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))["images"]
    held_out = [entry for entry in entries if entry.get("split") == "validation"]
    others = [entry for entry in entries if entry.get("split") != "validation"]
    for part, room in ((held_out, limit), (others, limit - min(limit, len(held_out)))):
        for entry in part[:: max(1, len(part) // max(1, room))][:room]:
            boxes: dict[str, list[list[float]]] = defaultdict(list)
            for labeled in entry["objects"]:
                x, y, width, height = labeled["bbox_xywh"]
                boxes[labeled["label"]].append([x, y, x + width, y + height])
            yield read_image(folder / entry["image"]), boxes


def best_boxes(grounder: Grounder, image: ReadImage, labels: Sequence[str], modality: str) -> dict[str, GroundedBox]:
    """Return the best box of every label that has one, whatever its score.

    Args:
        grounder (`Grounder`): the model and its processor.
        image (`ReadImage`): the image.
        labels (`Sequence[str]`): to ask for, together.
        modality (`str`): one of `MODALITIES`.
    """
    result = ground_image(image, "; ".join(labels), modality, grounder, threshold=LOWEST, untrained_threshold=0)
    best: dict[str, GroundedBox] = {}
    for box in result.boxes:
        best.setdefault(clean_label(box.label), box)
    # A prompt asks only once for labels that the tokenizer cannot tell apart, such as "lt. kidney" and "lt kidney".
    return {label: best[clean_label(label)] for label in labels if clean_label(label) in best}


def overlap(box: GroundedBox, true: Sequence[Sequence[float]]) -> float:
    """Largest IoU with one of several boxes, 0 without any.

    Args:
        box (`GroundedBox`): the detected box.
        true (`Sequence[Sequence[float]]`): (left, top, right, bottom) of each true box in pixels.
    """
    return float(box_iou(np.array([box.xyxy]), np.array(true, dtype=float)).max()) if len(true) else 0.0


def study_sides(grounder: Grounder, data: Path, sources: Sequence[str], limit: int) -> list[dict[str, Any]]:
    """Of every source and form, how often it was asked, and how often the box is nearer to the other side's.

    Args:
        grounder (`Grounder`): the model and its processor.
        data (`Path`): folder with `<modality>/<source>/annotations.json`.
        sources (`Sequence[str]`): `<modality>/<source>`.
        limit (`int`): images per source at most.
    """
    rows = []
    for source in sources:
        counts = {form: {"asked": 0, "found": 0, "wrong": 0} for form in FORMS}
        for image, boxes in annotated_images(data / source, limit):
            for label in boxes:
                other = _other_side(label)
                if other in boxes and other != label:
                    _count_sides(grounder, image, source.split("/")[0], (label, boxes[label], boxes[other]), counts)
        rows += [{"source": source, "form": form.format(**EXAMPLE), **counts[form]} for form in FORMS]
    return rows


EXAMPLE = {"side": "left", "base": "kidney", "letter": "L", "short": "lt"}


def _other_side(label: str) -> str:
    sides = {"left": "right", "right": "left"}
    return re.sub(r"\b(left|right)\b", lambda match: sides[match[0]], label)


def _count_sides(
    grounder: Grounder,
    image: ReadImage,
    modality: str,
    targets: tuple[str, list[list[float]], list[list[float]]],
    counts: dict[str, dict[str, int]],
) -> None:
    label, true_boxes, opposite = targets
    side = str(side_of(label))
    words = {"side": side, "letter": side[0].upper(), "short": "lt" if side == "left" else "rt"}
    forms = {form: form.format(base=" ".join(w for w in label.split() if w != side), **words) for form in FORMS}
    best = best_boxes(grounder, image, list(forms.values()), modality)
    for form, phrase in forms.items():
        counts[form]["asked"] += 1
        box = best.get(phrase)
        if box is not None and box.score >= SHOWN:
            counts[form]["found"] += 1
            counts[form]["wrong"] += overlap(box, opposite) > overlap(box, true_boxes)


def study_held_out(grounder: Grounder, data: Path, held_out: Entry, limit: int) -> list[dict[str, Any]]:
    """Score and overlap of the best box of wordings that mean a label but are in no training prompt.

    Args:
        grounder (`Grounder`): the model and its processor.
        data (`Path`): folder with `<modality>/<source>/annotations.json`.
        held_out (`Entry`): source -> label -> wordings.
        limit (`int`): images per source at most.
    """
    rows = []
    for source, labels in held_out.items():
        modality = source.split("/")[0]
        for label, wordings in labels.items():
            for phrase in wordings:
                rows.append({"source": source, "label": label, "phrase": phrase, "scores": [], "overlaps": []})
                rows[-1]["trained"] = grounder.trained.knows(phrase, modality)
        for image, boxes in annotated_images(data / source, limit):
            chosen = [row for row in rows if row["source"] == source and row["label"] in boxes]
            best = best_boxes(grounder, image, [row["phrase"] for row in chosen], modality) if chosen else {}
            for row in chosen:
                box = best.get(row["phrase"])
                row["scores"].append(round(box.score, 3) if box else 0.0)
                row["overlaps"].append(round(overlap(box, boxes[row["label"]]), 3) if box else 0.0)
    return rows


def study_companions(grounder: Grounder, data: Path, sources: Sequence[str], limit: int) -> list[dict[str, Any]]:
    """Scores of every trained label that an image shows: all together, alone, and beside an untrained phrase.

    Args:
        grounder (`Grounder`): the model and its processor.
        data (`Path`): folder with `<modality>/<source>/annotations.json`.
        sources (`Sequence[str]`): `<modality>/<source>`.
        limit (`int`): images per source at most.
    """
    rows = []
    for source in sources:
        modality = source.split("/")[0]
        for image, boxes in annotated_images(data / source, limit):
            labels = sorted(label for label in boxes if grounder.trained.knows(label, modality))[:4]
            if len(labels) < 2:
                continue
            together = best_boxes(grounder, image, labels, modality)
            backwards = best_boxes(grounder, image, labels[::-1], modality)
            beside = best_boxes(grounder, image, [*labels, "banana", "pneumonia of the left foot"], modality)
            for label in labels:
                alone = best_boxes(grounder, image, [label], modality)
                scores = [best[label].score if label in best else 0.0 for best in (together, backwards, beside, alone)]
                names = ("together", "backwards", "beside", "alone")
                rows.append({"source": source, "label": label, **dict(zip(names, scores, strict=True))})
    return rows


def measure(data: Path, limit: int, model: str | None = None) -> dict[str, Any]:
    """Run all three studies on up to `limit` images per source.

    Args:
        data (`Path`): folder with `<modality>/<source>/annotations.json`.
        limit (`int`): images per source at most.
        model (`str`, *optional*): checkpoint folder or Hub id; the embedded checkpoint without it.
    """
    grounder, asked = load_grounder(model), yaml.safe_load(PHRASES.read_text(encoding="utf-8"))
    held_out = yaml.safe_load(SYNONYMS_FILE.read_text(encoding="utf-8"))["held_out"]
    return {
        "model": grounder.name,
        "images": limit,
        "held_out": study_held_out(grounder, data, held_out, limit),
        "sides": study_sides(grounder, data, asked["sides"], limit),
        "companions": study_companions(grounder, data, list(held_out), max(2, limit // 4)),
    }


# The page ------------------------------------------------------------------------------------------------------------


def render_page(results: Entry) -> str:
    """Return `docs/phrases.md` for the measured numbers."""
    parts = {
        "threshold": f"{UNTRAINED_THRESHOLD:g}", "lowest": f"{LOWEST:g}", "shown": f"{SHOWN:g}",
        "model": results["model"], "images": results["images"],
        "sides": _sides_table(results["sides"]), "held_out": _held_out_table(results["held_out"]),
        "companions": _companions_table(results["companions"]),
    }  # fmt: skip
    return TEMPLATE.read_text(encoding="utf-8").format(**parts)


def _sides_table(rows: Sequence[Entry]) -> str:
    sources = list(dict.fromkeys(row["source"] for row in rows))
    by_form: dict[str, dict[str, Entry]] = defaultdict(dict)
    for row in rows:
        by_form[row["form"]][row["source"]] = row
    cells = [
        [form, *(f"{by_source[source]['wrong']} of {by_source[source]['found']}" for source in sources)]
        for form, by_source in by_form.items()
    ]
    return table(["written as", *sources], cells)


def _held_out_table(rows: Sequence[Entry]) -> str:
    cells = []
    for row in rows:
        right = [score for score, shared in zip(row["scores"], row["overlaps"], strict=True) if shared >= RIGHT]
        shown = sum(score >= (UNTRAINED_THRESHOLD if row["trained"] is False else SHOWN) for score in right)
        trained = "yes" if row["trained"] else "no"
        cells.append(
            [row["source"], row["label"], row["phrase"], trained, str(len(row["scores"])), str(len(right)), str(shown)]
        )
    return table(["source", "label", "wording", "known", "images", "right box", "of these shown"], cells)


def _companions_table(rows: Sequence[Entry]) -> str:
    cells = []
    for source in dict.fromkeys(row["source"] for row in rows):
        of_source = [row for row in rows if row["source"] == source]
        gaps = [[abs(row["together"] - row[name]) for row in of_source] for name in ("backwards", "beside", "alone")]
        cells.append([source, str(len(of_source)), *(f"{mean(gap):.3f} ({max(gap):.3f})" for gap in gaps)])
    columns = ["source", "scores", "other order", "two untrained phrases beside", "asked alone"]
    return table(columns, cells)


@script_main(also=(KeyError,))
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.studies.phrases", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with <modality>/<source>/annotations.json")
    parser.add_argument("--model", help="checkpoint folder or Hub id; default: the embedded checkpoint")
    parser.add_argument("--images", type=int, default=20, help="images per source at most")
    parser.add_argument("--out", type=Path, default=Path("docs/phrases.json"))
    parser.add_argument("--page", type=Path, help="only write the page of these measured numbers")
    arguments = parser.parse_args(argv)
    file = arguments.page or arguments.out
    if arguments.page is None:
        results = measure(arguments.data, arguments.images, arguments.model)
        file.write_text(json.dumps(results) + "\n", encoding="utf-8")
    page = render_page(json.loads(file.read_text(encoding="utf-8")))
    file.with_suffix(".md").write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
