# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Measures of a model on the validation images, as one JSON document.

Every image of a source is asked for all labels that the source annotates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from modeling_medglip.modalities import MODALITIES

from ..data.absent import labels_absent_from
from ..data.records import GroundingRecord
from ..data.vocabulary import SYNONYMS_FILE, Vocabulary
from .bootstrap import interval
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
from .predict import Finder, detect_records, source_labels
from .tta import detect_at_scales, detect_with_flips
from .worst_cases import write_worst_cases


SCHEMA = "medglip/evaluation@1"
FOREIGN_IMAGES, FOREIGN_LABELS = 20, 6
WELL_SHOWN = 30
THRESHOLD = 0.3


def evaluate_model(
    model: Any,
    processor: Any,
    records: Sequence[GroundingRecord],
    train_records: Sequence[GroundingRecord] = (),
    checks: dict[str, Any] | None = None,
    batch_size: int = 4,
    limit: int | None = None,
    worst_folder: Path | None = None,
    flip_tta: bool = False,
    scale_tta: bool = False,
) -> dict[str, Any]:
    """Measure a model on validation records of one or several modalities.

    Args:
        model ([`~modeling_medglip.MedGlipForObjectDetection`]): with the experts needed.
        processor ([`~modeling_medglip.MedGlipProcessor`]): the model's.
        records (`Sequence[GroundingRecord]`): the validation images.
        train_records (`Sequence[GroundingRecord]`, *optional*): the training images, only to count them per label.
        checks (`dict`, *optional*): wordings to test; the `check` part of `synonyms.yaml` when not given.
        batch_size (`int`, *optional*, defaults to 4): images per forward pass.
        limit (`int`, *optional*): at most so many images per source, for a quick look.
        worst_folder (`Path`, *optional*): folder for `worst_MODALITY.png`, which show the data.
        flip_tta (`bool`, *optional*, defaults to `False`): average with the flipped image where no label of a source
            has a side, at twice the time.
        scale_tta (`bool`, *optional*, defaults to `False`): average a smaller and a larger input instead.

    Returns:
        a JSON-serializable dictionary: `schema` and `modalities`; see `evaluate_modality`.
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
                    worst_folder,
                    flip_tta,
                    scale_tta,
                )
                for name in names
            },
        }
    finally:
        model.train(training)


def _first(records: Sequence[GroundingRecord], limit: int | None) -> list[GroundingRecord]:
    seen: Counter[str] = Counter()
    chosen = []
    for record in records:
        seen[record.source] += 1
        if limit is None or seen[record.source] <= limit:
            chosen.append(record)
    return chosen


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
    worst_folder: Path | None = None,
    flip_tta: bool = False,
    scale_tta: bool = False,
) -> dict[str, Any]:
    """Measure one expert.

    Args:
        model ([`~modeling_medglip.MedGlipForObjectDetection`]): in evaluation mode.
        processor ([`~modeling_medglip.MedGlipProcessor`]): the model's.
        records (`Sequence[GroundingRecord]`): the validation images, all of one modality.
        train_records (`Sequence[GroundingRecord]`): the training images, only to count them per label.
        other_labels (`Sequence[str]`): labels of other modalities, for negatives.
        checks (`Sequence[dict]`): wordings to test.
        batch_size (`int`): images per forward pass.
        worst_folder (`Path`, *optional*): see [`evaluate_model`].
        flip_tta (`bool`, *optional*, defaults to `False`): see [`evaluate_model`].
        scale_tta (`bool`, *optional*, defaults to `False`): see [`evaluate_model`].

    Returns:
        `AP`, `AP50`, `AP75` (means over labels, all sources together), `AP50_well_shown` (labels with at least 30
        training images), `sizes` (AP of small, medium and large boxes, mean over the labels that have them),
        `curve` (mean precision at IoU 0.50 and the recalls of `metrics.RECALLS`), `labels` and `sources` (each with
        its own `labels`: AP, AP50, AP75, sizes, counts), `side_confusion`, `scores` (medians of best scores of
        present, absent and foreign labels), `at_threshold` (precision, recall and wrong boxes per image at the
        default threshold), `phrases`, `froc`, `negatives`, `reliability`, `calibration_error` (see
        `phrase_metrics.py`), `hierarchy` (see `hierarchy_metrics.py`), `synonyms`, `seconds_per_image`; `AP_interval`
        and `AP50_interval`, 95 % bootstrap intervals of the means over patients.
    """
    asked = source_labels(records)
    prompts = [asked[f"{record.modality}/{record.source}"] for record in records]
    way = detect_with_flips if flip_tta else detect_at_scales if scale_tta else detect_records
    find = partial(way, model, processor, batch_size=batch_size)
    detections, seconds = find(records, prompts)
    detections = annotated_only(records, detections)
    summary = _summary(records, detections, train_records)
    if summary["labels"]:
        edges = interval(records, detections, list(summary["labels"]))
        summary |= {f"{name}_interval": list(pair) for name, pair in edges.items()}
    summary["sources"] = {}
    for source in dict.fromkeys(record.source for record in records):
        chosen = [index for index, record in enumerate(records) if record.source == source]
        part = [record for record in train_records if record.source == source]
        summary["sources"][source] = _summary([records[i] for i in chosen], [detections[i] for i in chosen], part)
    if worst_folder is not None:
        write_worst_cases(worst_folder / f"worst_{records[0].modality}.png", records, detections, THRESHOLD)
    bins = reliability(records, detections)
    confusion = side_confusion(records, detections, Vocabulary.load().partner)
    wrong, total = (sum(counts[i] for counts in confusion.values()) for i in range(2))
    return {
        **summary,
        "side_confusion": {
            "share": wrong / total if total else None,
            "labels": {label: {"wrong": counts[0], "images": counts[1]} for label, counts in confusion.items()},
        },
        "scores": {
            "present": _median(top_scores(records, detections, absent=False)),
            "absent": _median(top_scores(records, detections, absent=True)),
            "foreign": _foreign_floor(find, records, other_labels),
        },
        "at_threshold": precision_recall(records, detections, THRESHOLD),
        "phrases": phrase_scores(records, detections),
        "froc": froc(records, detections),
        "negatives": on_negatives(records, detections, THRESHOLD),
        "hierarchy": hierarchy_scores(records, detections, THRESHOLD),
        "reliability": bins,
        "calibration_error": calibration_error(bins),
        "synonyms": _check_wordings(find, records, detections, checks),
        "seconds_per_image": seconds,
    }


def _summary(
    records: Sequence[GroundingRecord], detections: Sequence[Detections], train_records: Sequence[GroundingRecord]
) -> dict[str, Any]:
    scores = average_precision(records, detections)
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
        "train_images": len({record.image_key for record in train_records}),
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
    """Return (images, boxes) of every label; further channel views of an image do not count."""
    images: Counter[str] = Counter()
    boxes: Counter[str] = Counter()
    for record in records:
        if record.view_of is None:
            images.update(set(record.labels))
            boxes.update(record.labels)
    return {label: (images[label], boxes[label]) for label in sorted(images)}


def _foreign_floor(find: Finder, records: Sequence[GroundingRecord], labels: Sequence[str]) -> float | None:
    """Return the median best score of labels that cannot be in the image, over some images of every source."""
    rng = np.random.default_rng(0)
    images, prompts = [], []
    for record in _first(records, FOREIGN_IMAGES):
        names = labels_absent_from(record, labels).foreign
        if names:
            images.append(record)
            prompts.append([str(name) for name in rng.permutation(list(names))[:FOREIGN_LABELS]])
    detections, _ = find(images, prompts)
    pairs = zip(detections, prompts, strict=True)
    return _median([result.of(name)[0].max(initial=0.0) for result, prompt in pairs for name in prompt])


def _check_wordings(
    find: Finder,
    records: Sequence[GroundingRecord],
    detections: Sequence[Detections],
    checks: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Measure a label in other words; a parent term must detect the boxes of all labels under it."""
    rows = []
    for check in checks:
        chosen = [index for index, record in enumerate(records) if record.source == check["source"]]
        images = [records[index] for index in chosen]
        if not images:
            continue
        label, members = check["label"], {check["label"], *check.get("with", [])}
        scores = average_precision(images, [detections[index] for index in chosen], [label])
        rows.append({"source": check["source"], "label": label, "wording": label, **_row(scores.get(label))})
        targets = [_relabel(record, members, label) for record in images]
        for wording in check["wordings"]:
            asked, _ = find(images, [[wording]] * len(images))
            asked = [Detections((label,) * len(result.labels), result.scores, result.boxes) for result in asked]
            score = average_precision(targets, asked, [label]).get(label)
            rows.append({"source": check["source"], "label": label, "wording": wording, **_row(score)})
    return rows


def _relabel(record: GroundingRecord, members: set[str], label: str) -> GroundingRecord:
    """Return the same image with the boxes of `members` only, all called `label`."""
    keep = [index for index, name in enumerate(record.labels) if name in members]
    fields = {name: getattr(record, name) for name in record.__dataclass_fields__}
    fields |= {"boxes": record.boxes[keep], "labels": (label,) * len(keep), "annotated": (label,)}
    return GroundingRecord(**fields)


def _row(score: LabelScore | None) -> dict[str, float | None]:
    return {"AP": score.ap if score else None, "AP50": score.ap50 if score else None}
