# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Whether a checkpoint listens: what phrases draw that are unknown, absent or a neighbor's, and what other words find.

    python -m training.studies.listening --data out/data --model runs/ct --out runs/listening/after.json
    python -m training.studies.listening --page runs/listening/before.json runs/listening/after.json \
        --out docs/listening.json

Unknown phrases are those that training never uses, see `training/data/unlearned.py`. Every figure comes from the
Python API at the plain threshold; `stricter` also applies the one for labels that the checkpoint was not trained with.
For that threshold, `UNTRAINED_THRESHOLD`, the page states what several values hide and keep.
What `--out` has of other modalities stays, so that one file can hold the experts of several folders. `--page` writes
the tables of several files, one column each, and the figures in them as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.defaults import UNTRAINED_THRESHOLD
from modeling_medglip.grounding import Grounder, ground_image, load_grounder
from modeling_medglip.io.text_files import load_yaml
from modeling_medglip.modalities import resolve_modality
from modeling_medglip.outputs.files import write_text
from modeling_medglip.outputs.results import GroundedBox
from modeling_medglip.processing_medglip import clean_label

from ..data.absent import labels_absent_from
from ..data.load import load_records
from ..data.negative_images import ALIKE
from ..data.photometry import display_values
from ..data.records import DEFAULT_DATA, GroundingRecord, random_key
from ..data.unlearned import UnlearnedPhrases, is_held_out, whole_words
from ..data.validation import check_options
from ..data.vocabulary import Vocabulary
from .listening_page import ABSENT, PHRASES, PRESENT, UNKNOWN, WORDINGS, render_page, summary
from .phrases import LOWEST, RIGHT, SHOWN, overlap


SCHEMA, SUMMARY = "medglip/listening@1", "medglip/listening_summary@1"
ASKED = Path(__file__).with_name("listening.yaml")
# Images of noise, and of each other modality.
NEGATIVES = 2
SEED = 19
Row = dict[str, Any]
Records = Mapping[str, Sequence[GroundingRecord]]
logger = logging.getLogger(__name__)


def chosen_images(
    records: Iterable[GroundingRecord], limit: int, labels: Sequence[str] | None = None
) -> list[GroundingRecord]:
    """Return whole images in a fixed order, from all sources in turn.

    Args:
        records (`Iterable[GroundingRecord]`): of one modality.
        limit (`int`): images at most.
        labels (`Sequence[str]`, *optional*): only images with a box of one of these.
    """
    by_source: dict[str, list[GroundingRecord]] = defaultdict(list)
    for record in records:
        if record.view_of is None and (labels is None or set(labels) & set(record.labels)):
            by_source[record.source].append(record)
    for images in by_source.values():
        images.sort(key=lambda record: random_key(record.image_id))
    turns = zip_longest(*(by_source[source] for source in sorted(by_source)))
    return [record for record in chain.from_iterable(turns) if record is not None][:limit]


def ask(
    grounder: Grounder, pixels: NDArray, labels: Sequence[str], modality: str
) -> dict[str, tuple[list[GroundedBox], float | None]]:
    """Return the boxes of every label from `LOWEST` on, best first, and its presence where the expert states it.

    Args:
        grounder ([`~modeling_medglip.grounding.Grounder`]): the checkpoint.
        pixels (`np.ndarray`): as `GroundingRecord.load` returns them.
        labels (`Sequence[str]`): asked together.
        modality (`str`): one of `MODALITIES`.
    """
    if not labels:
        return {}
    prompt = "; ".join(labels)
    result = ground_image(pixels, prompt, modality, grounder, threshold=LOWEST, untrained_threshold=0)
    boxes: dict[str, list[GroundedBox]] = {clean_label(label): [] for label in labels}
    for box in result.boxes:
        boxes[clean_label(box.label)].append(box)
    presence = {clean_label(label): value for label, value in result.presence.items()}
    return {label: (boxes[clean_label(label)], presence.get(clean_label(label))) for label in labels}


def find_boxes(
    grounder: Grounder, pixels: NDArray, labels: Sequence[str], modality: str
) -> dict[str, list[GroundedBox]]:
    """Return the boxes of every label from `LOWEST` on, best first; see [`ask`]."""
    return {label: boxes for label, (boxes, _) in ask(grounder, pixels, labels, modality).items()}


def count_boxes(boxes: Sequence[GroundedBox]) -> Row:
    """Return the best score, and the number of boxes at the plain threshold and with the stricter one."""
    needed = [max(SHOWN, UNTRAINED_THRESHOLD) if box.trained is False else SHOWN for box in boxes]
    return {
        "score": round(max((box.score for box in boxes), default=0.0), 3),
        "plain": sum(box.score >= SHOWN for box in boxes),
        "stricter": sum(box.score >= least for box, least in zip(boxes, needed, strict=True)),
    }


def study_phrases(grounder: Grounder, records: Records, modality: str, limit: int) -> list[Row]:
    """Return what unknown phrases, absent and present labels draw: a row for every image and phrase.

    Args:
        grounder ([`~modeling_medglip.grounding.Grounder`]): the checkpoint.
        records (`Mapping[str, Sequence[GroundingRecord]]`): by modality.
        modality (`str`): one of `MODALITIES`.
        limit (`int`): images at most.
    """
    learned, words = grounder.trained.labels(modality), whole_words(grounder.processor.tokenizer)
    unlearned = UnlearnedPhrases.of(modality, learned, words, held_out=True)
    rows: list[Row] = []
    for index, record in enumerate(chosen_images(records[modality], limit)):
        rng = np.random.default_rng([SEED, index])
        asked = {kind: unlearned.draw(PHRASES, rng, kinds) for kind, kinds in UNKNOWN.items()}
        absent = [rng.permutation(part)[:ABSENT] for part in labels_absent_from(record, sorted(learned))]
        asked["absent"] = list(dict.fromkeys(map(str, chain(*absent))))
        asked["present"] = sorted(set(record.labels) & set(learned))[:PRESENT]
        pixels = record.load()
        for kind, phrases in asked.items():
            common = {"kind": kind, "source": record.source, "image": index}
            rows += [
                {**common, "phrase": phrase, **count_boxes(boxes), "presence": presence}
                for phrase, (boxes, presence) in ask(grounder, pixels, phrases, modality).items()
            ]
    return rows


def negative_images(records: Records, modality: str) -> dict[str, list[NDArray]]:
    """Return images that show nothing of a modality, by kind: noise, one color, and those of other modalities.

    Args:
        records (`Mapping[str, Sequence[GroundingRecord]]`): by modality.
        modality (`str`): one of `MODALITIES`.
    """
    rng, shape = np.random.default_rng(SEED), (320, 320)
    images: dict[str, list[NDArray]] = {"noise": [], "black": [np.zeros(shape, np.uint8)]}
    images["white"] = [np.full(shape, 255, np.uint8)]
    for _ in range(NEGATIVES):
        images["noise"].append(rng.integers(0, 256, shape).astype(np.uint8))
        images["noise"].append(rng.normal(128, 40, (*shape, 3)).clip(0, 255).astype(np.uint8))
    alike = {modality}.union(*(group for group in ALIKE if modality in group))
    for name in records:
        if name not in alike:
            # Hounsfield units of another modality mean nothing to an expert: all pixels from 0 to 255.
            shown = (display_values(record.load()) for record in chosen_images(records[name], NEGATIVES))
            images[name] = [(values * 255).round().astype(np.uint8) for values in shown]
    return images


def study_negative_images(grounder: Grounder, records: Records, modality: str) -> list[Row]:
    """Return what the learned labels, asked together, draw on images that show nothing of the modality.

    Args:
        grounder ([`~modeling_medglip.grounding.Grounder`]): the checkpoint.
        records (`Mapping[str, Sequence[GroundingRecord]]`): by modality.
        modality (`str`): one of `MODALITIES`.
    """
    learned = list(grounder.trained.labels(modality))
    rows: list[Row] = []
    for kind, images in negative_images(records, modality).items():
        for index, pixels in enumerate(images):
            found = find_boxes(grounder, pixels, learned, modality)
            rows.append(
                {"kind": kind, "image": index, **count_boxes([box for boxes in found.values() for box in boxes])}
            )
    return rows


def study_siblings(
    grounder: Grounder, records: Sequence[GroundingRecord], modality: str, groups: Sequence[Sequence[str]], limit: int
) -> list[Row]:
    """Return, for annotated objects of labels that are easily confused, how many are hit and with the right label.

    An object is hit if a box of any label of the group overlaps it; the box with the best score decides.

    Args:
        grounder ([`~modeling_medglip.grounding.Grounder`]): the checkpoint.
        records (`Sequence[GroundingRecord]`): of the modality.
        modality (`str`): one of `MODALITIES`.
        groups (`Sequence[Sequence[str]]`): labels that are asked together.
        limit (`int`): images of each label at most.
    """
    rows: list[Row] = []
    for group in groups:
        counts = {label: {"objects": 0, "hit": 0, "right": 0} for label in group}
        images = {id(r): r for label in group for r in chosen_images(records, limit, [label])}
        for record in images.values():
            asked = [label for label in group if label in record.annotated]
            if len(asked) < 2:
                continue
            found = find_boxes(grounder, record.load(), asked, modality)
            boxes = sorted((box for label in asked for box in found[label]), key=lambda box: -box.score)
            for label, true in zip(record.labels, record.boxes.tolist(), strict=True):
                if label not in asked:
                    continue
                hits = [box.label for box in boxes if overlap(box, [true]) >= RIGHT]
                counts[label]["objects"] += 1
                counts[label]["hit"] += bool(hits)
                counts[label]["right"] += hits[:1] == [label]
        rows += [{"group": " / ".join(group), "label": label, **count} for label, count in counts.items()]
    return rows


def study_others(
    grounder: Grounder,
    records: Sequence[GroundingRecord],
    modality: str,
    others: Mapping[str, Sequence[str]],
    limit: int,
) -> list[Row]:
    """Return how often a label that is there draws a box, and how often phrases for other things do.

    Args:
        grounder ([`~modeling_medglip.grounding.Grounder`]): the checkpoint.
        records (`Sequence[GroundingRecord]`): of the modality.
        modality (`str`): one of `MODALITIES`.
        others (`Mapping[str, Sequence[str]]`): label -> phrases for something else.
        limit (`int`): images of each label at most.
    """
    rows: list[Row] = []
    for label, phrases in others.items():
        row: Row = {"label": label, "images": 0, "drawn": 0, "alone": 0, "others": dict.fromkeys(phrases, 0)}
        for record in chosen_images(records, limit, [label]):
            found = find_boxes(grounder, record.load(), [label, *phrases], modality)
            drawn = {phrase for phrase, boxes in found.items() if any(box.score >= SHOWN for box in boxes)}
            row["images"] += 1
            row["drawn"] += label in drawn
            row["alone"] += drawn == {label}
            for phrase in phrases:
                row["others"][phrase] += phrase in drawn
        rows.append({**row, "held_out": [phrase for phrase in phrases if is_held_out(phrase)]})
    return rows


def study_wordings(grounder: Grounder, records: Sequence[GroundingRecord], modality: str, limit: int) -> list[Row]:
    """Return which wordings of the labels in an image find them: names, synonyms, descriptions and held-out wordings.

    A row also says whether the checkpoint knows the wording as trained, and holds the scores of right best boxes.

    Args:
        grounder ([`~modeling_medglip.grounding.Grounder`]): the checkpoint.
        records (`Sequence[GroundingRecord]`): of the modality.
        modality (`str`): one of `MODALITIES`.
        limit (`int`): images at most.
    """
    vocabulary, learned = Vocabulary.load(), grounder.trained.labels(modality)
    counts: dict[tuple[str, str, str], Row] = {}
    for index, record in enumerate(chosen_images(records, limit, learned)):
        rng, pixels = np.random.default_rng([SEED, index]), record.load()
        for label in rng.permutation(sorted(set(record.labels) & set(learned)))[:2].tolist():
            wordings = {
                "name": (label,),
                "synonym": rng.permutation(vocabulary.synonyms(label))[:WORDINGS].tolist(),
                "description": rng.permutation(vocabulary.descriptions.get(label, ()))[:WORDINGS].tolist(),
                "held out": vocabulary.held_out.get(label, ()),
            }
            found = find_boxes(grounder, pixels, [str(w) for words in wordings.values() for w in words], modality)
            true = [box for box, name in zip(record.boxes.tolist(), record.labels, strict=True) if name == label]
            for kind, word in ((kind, word) for kind, words in wordings.items() for word in words):
                empty = {"kind": kind, "label": label, "phrase": word, "images": 0, "plain": 0, "stricter": 0}
                empty |= {"trained": grounder.trained.knows(word, modality), "scores": []}
                row = counts.setdefault((kind, label, word), empty)
                hit = [box for box in found[word][:1] if overlap(box, true) >= RIGHT]
                row["images"] += 1
                for key in ("plain", "stricter"):
                    row[key] += count_boxes(hit)[key]
                row["scores"] += [round(box.score, 4) for box in hit]
    return list(counts.values())


def measure(data: str, model: str | None, modalities: Sequence[str] | None, limit: int) -> Iterator[tuple[str, Row]]:
    """Run all studies on a checkpoint; yields each modality with its figures.

    Args:
        data (`str`): as [`~training.data.load.load_records`] takes it.
        model (`str`, *optional*): folder of a checkpoint or of a run, or an id; the embedded checkpoint when `None`.
        modalities (`Sequence[str]`, *optional*): those of the checkpoint when `None`.
        limit (`int`): images per modality, and of each confused label.

    Raises:
        `ValueError`: the checkpoint does not state its labels.
    """
    grounder, asked = load_grounder(model), load_yaml(ASKED.read_text(encoding="utf-8"))
    records: dict[str, list[GroundingRecord]] = defaultdict(list)
    for record in load_records(data, split="validation"):
        records[record.modality].append(record)
    for modality in modalities or grounder.modalities:
        if not grounder.trained.labels(modality):
            raise ValueError(
                f"{grounder.name}: does not state its labels for {modality}, so none is known to be learned"
            )
        if not records[modality]:
            raise ValueError(f"{data}: no validation images of {modality}")
        logger.info("%s", modality)
        own, siblings, others = (
            records[modality],
            asked["siblings"].get(modality, ()),
            asked["others"].get(modality, {}),
        )
        yield (
            modality,
            {
                "model": grounder.name,
                "images": limit,
                "phrases": study_phrases(grounder, records, modality, limit),
                "negative_images": study_negative_images(grounder, records, modality),
                "siblings": study_siblings(grounder, own, modality, siblings, limit),
                "others": study_others(grounder, own, modality, others, limit),
                "wordings": study_wordings(grounder, own, modality, limit),
            },
        )


def _read_results(file: Path) -> dict[str, Any]:
    results = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise ValueError(f"{file.name}: not a file of this study")
    return results


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.studies.listening", description=__doc__)
    parser.add_argument("--data", default=DEFAULT_DATA, help="built data set, its id on the Hub, or a COCO file")
    parser.add_argument("--model", help="folder of a checkpoint or run, or an id; default: the embedded checkpoint")
    parser.add_argument("--modality", nargs="+", type=resolve_modality, help="default: all of the checkpoint")
    parser.add_argument("--images", type=int, default=12, help="images per modality, and of each confused label")
    parser.add_argument("--out", type=Path, default=Path("runs/listening/listening.json"))
    parser.add_argument("--page", type=Path, nargs="+", help="only write the tables of these files")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    if options.page and options.out in options.page:
        raise ValueError(f"{options.out.name}: holds what was measured: give another file with --out")
    if options.page is None:
        check_options({"images": options.images})
        results: Row = _read_results(options.out) if options.out.is_file() else {"schema": SCHEMA, "modalities": {}}
        for modality, figures in measure(options.data, options.model, options.modality, options.images):
            results["modalities"][modality] = figures
            write_text(options.out, json.dumps(results) + "\n")
    columns = {file.stem: summary(_read_results(file)) for file in options.page or [options.out]}
    if options.page:
        write_text(options.out, json.dumps({"schema": SUMMARY, "columns": columns}, indent=1) + "\n")
    page = render_page(columns)
    write_text(options.out.with_suffix(".md"), page)
    print(page, end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
