# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Evaluation of a checkpoint on the validation pictures.

`python -m training.evaluate [--model DIR] [--data DIR] [--modality ct ...] [--out DIR]` writes `results.json` and,
made from it, `results.md` and plots; with `--pictures DIR` also the pictures that went worst. Only the public
interface is used: the processor's call, the model's call and `post_process_grounded_object_detection`. Every picture
of a source is asked for all labels that the source annotates.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers.utils import cached_file

from modeling_medglip.checkpoints.loading import outcome_folder
from modeling_medglip.checkpoints.location import default_checkpoint, weights_sha256
from modeling_medglip.errors import one_line
from modeling_medglip.modalities import MODALITIES, resolve_modality
from modeling_medglip.processing_medglip import MedGlipProcessor

from ..data.dataset import foreign_labels
from ..data.load import load_records
from ..data.prompts import SYNONYMS_FILE, Vocabulary
from ..data.records import DEFAULT_DATA, GroundingRecord, shared_patients
from ..data.validation import check_options, nothing_to_measure, readable_enough
from ..loading import load_checkpoint
from .bootstrap import interval
from .flip_tta import averaged, mirrored
from .hierarchy_metrics import hierarchy_scores
from .metrics import (
    SIZES,
    Detections,
    LabelScore,
    annotated_only,
    average_precision,
    precision_recall,
    side_confusion,
    top_scores,
)
from .phrase_metrics import calibration_error, froc, on_negatives, phrase_scores, reliability
from .plots import write_plots
from .report import screen_table, write_page
from .worst_cases import write_worst_cases


SCHEMA = "medglip/evaluation@1"
FOREIGN_PICTURES, FOREIGN_LABELS = 20, 6
WELL_SHOWN = 30
THRESHOLD = 0.3
# Pictures and the labels to ask in each -> what is found, and the seconds per picture.
Finder = Callable[[Sequence[GroundingRecord], Sequence[Sequence[str]]], tuple[list[Detections], float]]


def source_labels(records: Iterable[GroundingRecord]) -> dict[str, list[str]]:
    """Source -> all labels it annotates, in alphabetical order: the prompt of every picture of that source."""
    return {key: list(labels) for key, labels in foreign_labels(list(records)).items()}


def detect(
    model: Any,
    processor: Any,
    records: Sequence[GroundingRecord],
    prompts: Sequence[Sequence[str]],
    batch_size: int = 4,
) -> tuple[list[Detections], float]:
    """Ground a prompt in every picture.

    Args:
        model, processor: as `from_pretrained` gives them; the model in evaluation mode.
        records, prompts: the pictures and the labels to ask in each.

    Returns:
        what was found per picture, and the seconds per picture from decoded pixels to boxes.
    """
    found: list[Detections] = []
    seconds = 0.0
    device = next(model.parameters()).device
    for start in range(0, len(records), batch_size):
        batch = records[start : start + batch_size]
        images = [record.load() for record in batch]
        begin = time.perf_counter()
        inputs = processor(
            images=images,
            text=[list(prompt) for prompt in prompts[start : start + batch_size]],
            modality=[record.modality for record in batch],
            return_tensors="pt",
        ).to(device)
        with torch.inference_mode():
            outputs = model(**inputs)
        sizes = [(record.size[1], record.size[0]) for record in batch]
        results = processor.post_process_grounded_object_detection(outputs, inputs, threshold=0.0, target_sizes=sizes)
        seconds += time.perf_counter() - begin
        found += [_detections(result) for result in results]
    return found, seconds / max(1, len(records))


def detect_both_ways(
    model: Any,
    processor: Any,
    records: Sequence[GroundingRecord],
    prompts: Sequence[Sequence[str]],
    batch_size: int = 4,
) -> tuple[list[Detections], float]:
    """As [`detect`], averaged with what is found in the mirror image where the source may be mirrored."""
    found, seconds = detect(model, processor, records, prompts, batch_size)
    places = [place for place, record in enumerate(records) if record.hints.horizontal_flip]
    images, asked = [mirrored(records[i]) for i in places], [prompts[i] for i in places]
    second, more = detect(model, processor, images, asked, batch_size)
    for place, other in zip(places, second, strict=True):
        found[place] = averaged(found[place], other, records[place].size[0])
    return found, seconds + more * len(places) / max(1, len(records))


def _detections(result: dict[str, Any]) -> Detections:
    scores, boxes = (result[key].detach().cpu().float().numpy() for key in ("scores", "boxes"))
    return Detections(tuple(result["text_labels"]), scores, boxes.reshape(-1, 4))


def evaluate_model(
    model: Any,
    processor: Any,
    records: Sequence[GroundingRecord],
    train_records: Sequence[GroundingRecord] = (),
    checks: dict[str, Any] | None = None,
    batch_size: int = 4,
    limit: int | None = None,
    pictures: Path | None = None,
    mirror: bool = False,
) -> dict[str, Any]:
    """Measure a model on validation records of one or several modalities.

    Args:
        model, processor: a `MedGlipForObjectDetection` with the experts needed, and its processor.
        records: the validation pictures.
        train_records (*optional*): the training pictures, only to count them per label.
        checks (`dict`, *optional*): wordings to test; the `check` part of `synonyms.yaml` when not given.
        limit (`int`, *optional*): at most so many pictures per source, for a quick look.
        pictures (`Path`, *optional*): folder for `worst_MODALITY.png`, which show the data.
        mirror (`bool`): average with the mirror image where no label of a source has a side, at twice the time.

    Returns:
        a JSON-serialisable dictionary: `schema` and `modalities`; see `evaluate_modality`.
    """
    training = model.training
    model.eval()
    if checks is None:
        checks = yaml.safe_load(SYNONYMS_FILE.read_text(encoding="utf-8"))["check"]
    names = [name for name in MODALITIES if any(record.modality == name for record in records)]
    try:
        return {
            "schema": SCHEMA,
            "well_shown": WELL_SHOWN,
            "modalities": {
                name: evaluate_modality(
                    model,
                    processor,
                    _first([record for record in records if record.modality == name], limit),
                    [record for record in train_records if record.modality == name],
                    _other_labels([*records, *train_records], name),
                    checks.get(name, []),
                    batch_size,
                    pictures,
                    mirror,
                )
                for name in names
            },
        }
    finally:
        model.train(training)


def _first(records: Sequence[GroundingRecord], limit: int | None) -> list[GroundingRecord]:
    seen: Counter[str] = Counter()
    kept = []
    for record in records:
        seen[record.source] += 1
        if limit is None or seen[record.source] <= limit:
            kept.append(record)
    return kept


def _other_labels(records: Sequence[GroundingRecord], modality: str) -> list[str]:
    """Labels of other modalities, for negatives; every known one where the records have a single modality."""
    labels = {label for r in records if r.modality != modality for label in r.annotated}
    return sorted(labels or set(Vocabulary.load().words))


def evaluate_modality(
    model: Any,
    processor: Any,
    records: Sequence[GroundingRecord],
    train_records: Sequence[GroundingRecord],
    other_labels: Sequence[str],
    checks: Sequence[dict[str, Any]],
    batch_size: int,
    pictures: Path | None = None,
    mirror: bool = False,
) -> dict[str, Any]:
    """Measure one expert.

    Returns:
        `AP`, `AP50`, `AP75` (means over labels, all sources together), `AP50_well_shown` (labels with at least 30
        training pictures), `sizes` (AP of small, medium and large boxes, mean over the labels that have them),
        `curve` (mean precision at IoU 0.50 and the recalls of `metrics.RECALLS`), `labels` and `sources` (each with
        its own `labels`: AP, AP50, AP75, sizes, counts), `side_confusion`, `scores` (medians of best scores of
        present, absent and foreign labels), `at_threshold` (precision, recall and wrong boxes per picture at the
        default threshold), `phrases`, `froc`, `negatives`, `reliability`, `calibration_error` (see
        `phrase_metrics.py`), `hierarchy` (see `hierarchy_metrics.py`), `synonyms`, `seconds_per_image`; `AP_interval`
        and `AP50_interval`, 95 % bootstrap intervals of the means over patients.
    """
    asked = source_labels(records)
    prompts = [asked[f"{record.modality}/{record.source}"] for record in records]
    find = partial(detect_both_ways if mirror else detect, model, processor, batch_size=batch_size)
    found, seconds = find(records, prompts)
    found = annotated_only(records, found)
    summary = _summary(records, found, train_records)
    if summary["labels"]:
        edges = interval(records, found, list(summary["labels"]))
        summary |= {f"{name}_interval": list(pair) for name, pair in edges.items()}
    summary["sources"] = {}
    for source in dict.fromkeys(record.source for record in records):
        chosen = [index for index, record in enumerate(records) if record.source == source]
        part = [record for record in train_records if record.source == source]
        summary["sources"][source] = _summary([records[i] for i in chosen], [found[i] for i in chosen], part)
    if pictures is not None:
        write_worst_cases(pictures / f"worst_{records[0].modality}.png", records, found, THRESHOLD)
    bins = reliability(records, found)
    confusion = side_confusion(records, found, Vocabulary.load().partner)
    wrong, total = (sum(counts[i] for counts in confusion.values()) for i in range(2))
    return {
        **summary,
        "side_confusion": {
            "share": wrong / total if total else None,
            "labels": {label: {"wrong": counts[0], "pictures": counts[1]} for label, counts in confusion.items()},
        },
        "scores": {
            "present": _median(top_scores(records, found, absent=False)),
            "absent": _median(top_scores(records, found, absent=True)),
            "foreign": _foreign_floor(find, records, other_labels),
        },
        "at_threshold": precision_recall(records, found, THRESHOLD),
        "phrases": phrase_scores(records, found),
        "froc": froc(records, found),
        "negatives": on_negatives(records, found, THRESHOLD),
        "hierarchy": hierarchy_scores(records, found, THRESHOLD),
        "reliability": bins,
        "calibration_error": calibration_error(bins),
        "synonyms": _check_wordings(find, records, found, checks),
        "seconds_per_image": seconds,
    }


def _summary(
    records: Sequence[GroundingRecord], found: Sequence[Detections], train_records: Sequence[GroundingRecord]
) -> dict[str, Any]:
    scores = average_precision(records, found)
    shown, trained = label_counts(records), label_counts(train_records)
    labels = {
        label: {
            "AP": score.ap,
            "AP50": score.ap50,
            "AP75": score.ap75,
            "sizes": dict(score.sizes),
            "train_images": trained.get(label, (0, 0))[0],
            "train_boxes": trained.get(label, (0, 0))[1],
            "validation_images": shown[label][0],
            "validation_boxes": shown[label][1],
        }
        for label, score in scores.items()
    }
    well = [scores[label] for label in scores if trained.get(label, (0, 0))[0] >= WELL_SHOWN]
    return {
        "images": len(records),
        "train_images": len({record.picture for record in train_records}),
        "AP": _mean_of(scores.values(), "ap"),
        "AP50": _mean_of(scores.values(), "ap50"),
        "AP75": _mean_of(scores.values(), "ap75"),
        "sizes": {size: _of_size(scores.values(), size) for size in SIZES},
        "curve": np.mean([score.curve for score in scores.values()], axis=0).tolist() if scores else [],
        "AP50_well_shown": _mean_of(well, "ap50"),
        "labels": labels,
    }


def _mean_of(scores: Iterable[LabelScore], name: str) -> float | None:
    values = [getattr(score, name) for score in scores]
    return float(np.mean(values)) if values else None


def _of_size(scores: Iterable[LabelScore], size: str) -> float | None:
    values = [score.sizes[size] for score in scores if size in score.sizes]
    return float(np.mean(values)) if values else None


def _median(values: Any) -> float | None:
    return float(np.median(values)) if len(values) else None


def label_counts(records: Sequence[GroundingRecord]) -> dict[str, tuple[int, int]]:
    """Label -> (pictures that show it, boxes); the extra channel views of a picture are not counted."""
    images: Counter[str] = Counter()
    boxes: Counter[str] = Counter()
    for record in records:
        if record.view_of is None:
            images.update(set(record.labels))
            boxes.update(record.labels)
    return {label: (images[label], boxes[label]) for label in sorted(images)}


def _foreign_floor(find: Finder, records: Sequence[GroundingRecord], labels: Sequence[str]) -> float | None:
    """Median best score of labels that cannot be in the picture, over a few pictures of every source."""
    rng = np.random.default_rng(0)
    pictures, prompts = [], []
    for record in _first(records, FOREIGN_PICTURES):
        names = Vocabulary.load().foreign(record.hints.regions, labels)
        if names:
            pictures.append(record)
            prompts.append([str(name) for name in rng.permutation(list(names))[:FOREIGN_LABELS]])
    found, _ = find(pictures, prompts)
    pairs = zip(found, prompts, strict=True)
    return _median([result.of(name)[0].max(initial=0.0) for result, prompt in pairs for name in prompt])


def _check_wordings(
    find: Finder, records: Sequence[GroundingRecord], found: Sequence[Detections], checks: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Ask for a label in other words; a parent term must find the boxes of all the labels under it."""
    rows = []
    for check in checks:
        chosen = [index for index, record in enumerate(records) if record.source == check["source"]]
        pictures = [records[index] for index in chosen]
        if not pictures:
            continue
        label, members = check["label"], {check["label"], *check.get("with", [])}
        scores = average_precision(pictures, [found[index] for index in chosen], [label])
        rows.append({"source": check["source"], "label": label, "wording": label, **_row(scores.get(label))})
        truth = [_relabel(record, members, label) for record in pictures]
        for wording in check["wordings"]:
            asked, _ = find(pictures, [[wording]] * len(pictures))
            asked = [Detections((label,) * len(result.labels), result.scores, result.boxes) for result in asked]
            score = average_precision(truth, asked, [label]).get(label)
            rows.append({"source": check["source"], "label": label, "wording": wording, **_row(score)})
    return rows


def _relabel(record: GroundingRecord, members: set[str], label: str) -> GroundingRecord:
    """The same picture with only the boxes of `members`, all called `label`."""
    keep = [index for index, name in enumerate(record.labels) if name in members]
    fields = {name: getattr(record, name) for name in record.__dataclass_fields__}
    fields |= {"boxes": record.boxes[keep], "labels": (label,) * len(keep), "annotated": (label,)}
    return GroundingRecord(**fields)


def _row(score: LabelScore | None) -> dict[str, float | None]:
    return {"AP": score.ap if score else None, "AP50": score.ap50 if score else None}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--model", help="checkpoint folder or Hub id; default: the embedded checkpoint")
    parser.add_argument("--data", default=DEFAULT_DATA, help="built data set, its id on the Hub, or a COCO file")
    parser.add_argument("--modality", nargs="+", default=None, help="only these; default: all that the checkpoint has")
    parser.add_argument("--out", default="out/evaluation", help="folder for results.json, results.md and plots")
    parser.add_argument("--adapter", help="adapter of training.fit.finetune, for --model: folder or Hub id")
    parser.add_argument("--pictures", type=Path, help="folder for the pictures that went worst; they show the data")
    parser.add_argument("--mirror", action="store_true", help="average with mirror images where no label has a side")
    parser.add_argument(
        "--shipped", action="store_true", help="the page of the embedded checkpoint, for `make results`"
    )
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--limit", type=int, default=None, help="at most so many pictures per source")
    arguments = parser.parse_args(argv)
    try:
        check_options({"batch-size": arguments.batch_size, "limit": arguments.limit})
        if arguments.shipped and (odd := _narrowed(arguments)):
            raise ValueError(f"--shipped: the page of the embedded checkpoint is of all of it: leave out --{odd}")
        results = _evaluate_folder(arguments)
        out = Path(arguments.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        write_page(out / "results.json", out / "results.md")
        write_plots(results, out)
        print(screen_table(results), flush=True)
    except (ValueError, OSError) as error:
        text = one_line(error, 300)
        hint = " (python -m training.evaluate --help explains the options)" if text.startswith("--") else ""
        print(f"error: {text}{hint}", file=sys.stderr)
        return 2
    return 0


def _narrowed(arguments: argparse.Namespace) -> str | None:
    """The first option with which the embedded checkpoint's page would not be what it says."""
    if arguments.data != DEFAULT_DATA:
        return "data"
    return next(
        (name for name in ("model", "modality", "adapter", "mirror", "limit") if getattr(arguments, name)), None
    )


def _validation(
    records: Sequence[GroundingRecord], data: str, asked: Sequence[str] | None
) -> tuple[list[GroundingRecord], int]:
    """The validation pictures that can be read, and how many cannot.

    Args:
        asked: modalities that must be there; without any, those that have validation pictures.

    Raises:
        `ValueError`: too many pictures of a modality are broken, or none of it has a box.
    """
    held_out = [record for record in records if record.split == "validation"]
    names = [resolve_modality(name) for name in asked or ()] or list(dict.fromkeys(r.modality for r in held_out))
    kept: list[GroundingRecord] = []
    for name in dict.fromkeys(names):
        own = readable_enough([r for r in held_out if r.modality == name], {}, data)
        if reason := nothing_to_measure(len(own), any(record.labels for record in own)):
            raise ValueError(f"{data}: {name}: {reason}: add some, or choose others with --modality")
        kept += own
    if not kept:
        raise ValueError(f"{data}: no validation pictures: add some, or divide the data by patient")
    return kept, len(held_out) - len(kept)


def _evaluate_folder(arguments: argparse.Namespace) -> dict[str, Any]:
    name = str(arguments.model or default_checkpoint())
    model, processor = load_checkpoint(name)
    asked = [resolve_modality(modality) for modality in arguments.modality or model.config.modalities]
    adapter: dict[str, Any] = {}
    if arguments.adapter:
        if Path(arguments.adapter).is_dir():
            arguments.adapter = str(outcome_folder(Path(arguments.adapter)))
        model, processor, asked = _adapted(model, arguments.adapter, asked if arguments.modality else None)
        adapter = {"adapter": {"name": Path(arguments.adapter).name, "weights_sha256": _sha256(arguments.adapter)}}
    records = load_records(arguments.data, asked)
    train = [record for record in records if record.split == "train"]
    valid, broken = _validation(records, arguments.data, asked if arguments.modality else None)
    quick = {name: getattr(arguments, name) for name in ("batch_size", "limit", "pictures", "mirror")}
    results = evaluate_model(model, processor, valid, train, **quick)
    own = Path(name).is_dir() and not arguments.adapter
    told: dict[str, Any] = {"model": Path(name).name, "weights_sha256": weights_sha256(Path(name)) if own else None}
    told |= {"mirror": True} if arguments.mirror else {}
    told |= {"broken": broken, "shared_patients": shared_patients(records)}
    told["embedded"] = arguments.shipped
    return {**told, **adapter, "torch_threads": torch.get_num_threads(), **results}


def _adapted(model: Any, folder: str, asked: Sequence[str] | None) -> tuple[Any, Any, list[str]]:
    """A model with an adapter, its processor, and the modalities to measure.

    Raises:
        `ValueError`: no adapter for this model, or others than its modalities are asked for.
    """
    from modeling_medglip.checkpoints.adapters import adapted_experts, load_adapter

    model = load_adapter(model, folder).get_base_model()
    own = adapted_experts(model)
    if odd := sorted(set(asked or ()) - set(own)):
        raise ValueError(f"{folder}: an adapter for {', '.join(own)}, not for {', '.join(odd)}")
    try:
        return model, MedGlipProcessor.from_pretrained(folder), list(asked or own)
    except Exception as error:  # broken files make transformers raise nearly anything
        raise ValueError(f"{folder}: its processor cannot be loaded: {one_line(error, 120)}") from None


def _sha256(adapter: str) -> str:
    """Of an adapter's weights, in a folder or the cache of the Hub's files."""
    file = cached_file(adapter, "adapter_model.safetensors")
    return hashlib.sha256(Path(str(file)).read_bytes()).hexdigest()
