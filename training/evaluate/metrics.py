# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Measures of grounding: COCO average precision per label, side confusion, scores of absent labels."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from modeling_medglip.boxes import box_iou

from ..data.records import GroundingRecord


OVERLAP = 0.5
SIZES = ("small", "medium", "large")
# Recalls at which precision-recall curves are stored: every fifth of COCO's points.
RECALLS = tuple(point / 20 for point in range(21))


@dataclass(frozen=True)
class Detections:
    """Detected boxes of one image.

    Args:
        labels (`tuple[str]`): one per box.
        scores (`np.ndarray` of shape `(n,)`).
        boxes (`np.ndarray` of shape `(n, 4)`): xyxy pixels of the image, continuous (width = x2 - x1).
    """

    labels: tuple[str, ...]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]

    def of(self, label: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores `(m,)` and boxes `(m, 4)` of one label."""
        chosen = np.array([name == label for name in self.labels], dtype=bool)
        return self.scores[chosen], self.boxes[chosen]


@dataclass(frozen=True)
class LabelScore:
    """Average precision (0..1) of one label.

    Args:
        ap (`float`): over IoU 0.50:0.95.
        ap50 (`float`): at IoU 0.50.
        ap75 (`float`): at IoU 0.75.
        sizes (`dict[str, float]`): AP of small, medium and large boxes (areas up to 32 x 32, up to 96 x 96, and over
            that, in pixels of the image); only the sizes that occur.
        curve (`tuple[float]`): precision at IoU 0.50 and the recalls `RECALLS`.
    """

    ap: float
    ap50: float
    ap75: float = 0.0
    sizes: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[float, ...] = ()


def average_precision(
    records: Sequence[GroundingRecord], detections: Sequence[Detections], labels: Iterable[str] | None = None
) -> dict[str, LabelScore]:
    """Return the COCO average precision of every label that has a box in the records.

    A label counts only in images whose source annotates it; detections elsewhere are ignored.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        detections (`Sequence[Detections]`): one per record.
        labels (`Iterable[str]`, *optional*): only these.

    Raises:
        `ValueError`: the numbers of records and of detections differ.
    """
    if len(records) != len(detections):
        raise ValueError(f"{len(records)} records but detections of {len(detections)}")
    present = {label for record in records for label in record.labels}
    names = sorted(present if labels is None else present & set(labels))
    if not names:
        return {}
    targets, results = _coco_targets(records, names), _coco_results(records, detections, names)
    if not results:
        return {name: LabelScore(0.0, 0.0, curve=(0.0,) * len(RECALLS)) for name in names}
    with contextlib.redirect_stdout(io.StringIO()):
        targets.createIndex()
        evaluation = COCOeval(targets, targets.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]  # thresholds, recalls, labels, sizes
    return {name: _label_score(precision[:, :, i]) for i, name in enumerate(names)}


def _label_score(precision: NDArray[np.float64]) -> LabelScore:
    """Of one label's `(thresholds, recalls, sizes)`, -1 where a size does not occur."""
    all_sizes = precision[:, :, 0]
    sizes = {name: _mean(part) for i, name in enumerate(SIZES, 1) if (part := precision[:, :, i]).max() > -1}
    curve = tuple(np.maximum(all_sizes[0, :: 100 // (len(RECALLS) - 1)], 0).tolist())
    return LabelScore(_mean(all_sizes), _mean(all_sizes[0]), _mean(all_sizes[5]), sizes, curve)


def _mean(values: NDArray[np.float64]) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else 0.0


def _xywh(box: NDArray[np.float32]) -> list[float]:
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]


def _coco_targets(records: Sequence[GroundingRecord], names: list[str]) -> COCO:
    annotations: list[dict[str, Any]] = []
    for image, record in enumerate(records):
        for box, label in zip(record.boxes, record.labels, strict=True):
            if label in names:
                x, y, width, height = _xywh(box)
                entry = {"id": len(annotations) + 1, "image_id": image + 1, "category_id": names.index(label) + 1}
                annotations.append({**entry, "bbox": [x, y, width, height], "area": width * height, "iscrowd": 0})
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": i + 1, "width": r.size[0], "height": r.size[1]} for i, r in enumerate(records)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
        "annotations": annotations,
    }
    return coco


def _coco_results(
    records: Sequence[GroundingRecord], detections: Sequence[Detections], names: list[str]
) -> list[dict[str, Any]]:
    entries = []
    for image, (record, result) in enumerate(zip(records, detections, strict=True)):
        for label, score, box in zip(result.labels, result.scores, result.boxes, strict=True):
            if label in names and label in record.annotated:
                entry = {"image_id": image + 1, "category_id": names.index(label) + 1}
                entries.append({**entry, "bbox": _xywh(box), "score": float(score)})
    return entries


def annotated_only(records: Sequence[GroundingRecord], detections: Sequence[Detections]) -> list[Detections]:
    """Return the detections without labels that are not annotated in their image: they may be right or wrong.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        detections (`Sequence[Detections]`): one per record.
    """
    filtered = []
    for record, result in zip(records, detections, strict=True):
        known = [index for index, label in enumerate(result.labels) if label in record.annotated]
        labels = tuple(result.labels[index] for index in known)
        filtered.append(Detections(labels, result.scores[known], result.boxes[known]))
    return filtered


def right_boxes(record: GroundingRecord, detections: Detections) -> NDArray[np.bool_]:
    """Return whether each detected box (best first) is right, `(n,)`. Each true box matches one, as in COCO.

    Args:
        record (`GroundingRecord`): the image with its true boxes.
        detections (`Detections`): in this image.
    """
    right = np.zeros(len(detections.scores), dtype=bool)
    names = np.array(detections.labels)
    for label in set(record.labels):
        overlap = box_iou(detections.boxes[names == label], record.boxes[[name == label for name in record.labels]])
        for row, index in enumerate(np.flatnonzero(names == label)):
            best = int(overlap[row].argmax())
            if overlap[row, best] >= OVERLAP:
                right[index] = True
                overlap[:, best] = -1.0
    return right


def precision_recall(
    records: Sequence[GroundingRecord], detections: Sequence[Detections], threshold: float
) -> dict[str, float | None]:
    """Return precision and recall at a threshold, all labels together.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        detections (`Sequence[Detections]`): one per record.
        threshold (`float`): boxes with a higher score count.

    Returns:
        `threshold`, `precision` (share of the boxes that are right), `recall` (share of the true boxes that are
        detected), and
        `wrong_per_image`.
    """
    over = [
        right_boxes(record, result)[result.scores > threshold]
        for record, result in zip(records, detections, strict=True)
    ]
    right, boxes = sum(int(part.sum()) for part in over), sum(len(part) for part in over)
    total = sum(len(record.labels) for record in records)
    return {
        "threshold": threshold,
        "precision": right / boxes if boxes else None,
        "recall": right / total if total else None,
        "wrong_per_image": (boxes - right) / max(1, len(records)),
    }


def side_confusion(
    records: Sequence[GroundingRecord], detections: Sequence[Detections], partner: Callable[[str], str | None]
) -> dict[str, tuple[int, int]]:
    """Count how often the best box of a label is on the partner label of the other side.

    Only images with boxes of both sides count. The best box is wrong if its IoU with a true box of the partner is at
    least 0.5, and higher than with a true box of its label.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        detections (`Sequence[Detections]`): one per record.
        partner (`Callable[[str], str | None]`): label -> label of the other side, `None` without one.

    Returns:
        label -> (wrong, images).
    """
    counts: dict[str, tuple[int, int]] = {}
    for record, result in zip(records, detections, strict=True):
        by_label = {label: record.boxes[[name == label for name in record.labels]] for label in set(record.labels)}
        for label, true_boxes in by_label.items():
            other = by_label.get(partner(label) or "")
            if other is None:
                continue
            scores, boxes = result.of(label)
            wrong, total = counts.get(label, (0, 0))
            if len(scores):
                best = boxes[[int(np.argmax(scores))]]
                other_iou, true_iou = box_iou(best, other).max(), box_iou(best, true_boxes).max()
                wrong += int(other_iou >= OVERLAP and other_iou > true_iou)
            counts[label] = (wrong, total + 1)
    return dict(sorted(counts.items()))


def top_scores(
    records: Sequence[GroundingRecord], detections: Sequence[Detections], absent: bool
) -> NDArray[np.float64]:
    """Return the best score of every annotated label of every image, of absent labels or of present ones.

    A label without any box counts as 0.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        detections (`Sequence[Detections]`): one per record.
        absent (`bool`): of labels without a true box; else of those with one.

    Returns:
        `np.ndarray` of shape `(n,)`: one score per image and label.
    """
    best = []
    for record, result in zip(records, detections, strict=True):
        present = set(record.labels)
        for label in record.annotated:
            if (label not in present) == absent:
                best.append(float(result.of(label)[0].max(initial=0.0)))
    return np.array(best)
