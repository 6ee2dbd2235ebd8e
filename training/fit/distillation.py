# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Distillation against forgetting, without the older data (Li and Hoiem, Learning without Forgetting, 2016).

Before training, the model detects the labels that it knows in the new images. It then learns these boxes along with
those of the new labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.boxes import box_iou
from modeling_medglip.taxonomy.phrases import normalize_phrase

from ..data.records import GroundingRecord
from ..data.validation import readable_enough
from ..data.vocabulary import Vocabulary
from ..evaluate.metrics import Detections
from ..evaluate.predict import detect_records
from .processes import gather_values, process_share


# Score from which a box counts. A label without such a box stays unknown: it is often there all the same.
PSEUDO_LABEL_THRESHOLD = 0.5
# Share of the best score from which another box may be right as well.
AMBIGUOUS_SHARE = 0.7
# Boxes that overlap less are different structures.
SAME_BOX_IOU_THRESHOLD = 0.3


def known_labels(config: Any, modality: str) -> list[str]:
    """Return the labels that a checkpoint states it was trained on, for one modality.

    Args:
        config (`Any`): of the checkpoint.
        modality (`str`): one of `MODALITIES`.
    """
    hierarchy = config.label_hierarchy or {}
    return list(hierarchy.get("trained_labels", {}).get(modality, ()))


def with_known(
    model: Any, processor: Any, records: Sequence[GroundingRecord], known: Sequence[str], batch_size: int = 4
) -> list[GroundingRecord]:
    """Return training records with the boxes of the model for labels that are not annotated in them.

    Args:
        model ([`~modeling_medglip.MedGlipForObjectDetection`]): before its training.
        processor ([`~modeling_medglip.MedGlipProcessor`]): the model's.
        records (`Sequence[GroundingRecord]`): the training images.
        known (`Sequence[str]`): labels to ask for, in records whose source does not annotate them.
        batch_size (`int`, *optional*, defaults to 4): images per forward pass.
    """
    asked = [_not_annotated(record, known) for record in records]
    whole = {id(record) for record in readable_enough(records, {}, "training images")}
    index = [number for number, labels in enumerate(asked) if labels and id(records[number]) in whole]
    if not index:
        return list(records)
    model.eval()
    share = [index[number] for number in process_share(len(index))]
    part, _ = detect_records(model, processor, [records[i] for i in share], [asked[i] for i in share], batch_size)
    extended = list(records)
    for number, result in zip(index, gather_values(share, part), strict=True):
        extended[number] = _with_detections(records[number], result, asked[number])
    return extended


def _not_annotated(record: GroundingRecord, known: Sequence[str]) -> list[str]:
    """Return the known labels that a record's source does not annotate in any wording.

    General terms of annotated labels are left out too: an annotated left kidney would count as a wrong box of "kidney"
    if the model detected the right one alone.
    """
    annotated = {word for label in record.annotated for word in _wordings(label)}
    return [label for label in known if normalize_phrase(label) not in annotated]


@lru_cache(maxsize=4096)
def _wordings(label: str) -> frozenset[str]:
    vocabulary = Vocabulary.load()
    return vocabulary.wordings(label) | frozenset(map(normalize_phrase, vocabulary.of(label).parents))


def _with_detections(record: GroundingRecord, detections: Detections, asked: Sequence[str]) -> GroundingRecord:
    """Return a record with the boxes over the threshold; labels with an ambiguous box stay unknown."""
    boxes, labels, certain = [record.boxes], list(record.labels), []
    for label in asked:
        scores, detected = detections.of(label)
        best = float(scores.max(initial=0.0))
        over = scores >= PSEUDO_LABEL_THRESHOLD
        # Nearly as good boxes elsewhere may be right too: they would be learned as background.
        ambiguous = ~over & (scores >= AMBIGUOUS_SHARE * best)
        if not over.any() or _any_apart(detected[ambiguous], detected[over]):
            continue
        boxes.append(detected[over])
        labels += [label] * int(over.sum())
        certain.append(label)
    annotated = tuple(sorted({*record.annotated, *certain}))
    return replace(record, boxes=np.concatenate(boxes).astype(np.float32), labels=tuple(labels), annotated=annotated)


def _any_apart(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> bool:
    """Whether one of the boxes `(n, 4)` overlaps none of the others `(m, 4)`."""
    return bool((box_iou(boxes, others).max(axis=1, initial=0.0) < SAME_BOX_IOU_THRESHOLD).any())
