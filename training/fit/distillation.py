# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Against forgetting without the older data: what the model finds in the new pictures, before it is trained, for the
labels it knows already, is learned along with the new labels (learning without forgetting)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from modeling_medglip.boxes import box_iou
from modeling_medglip.taxonomy.phrases import normalize_phrase

from ..data.prompts import Vocabulary
from ..data.records import GroundingRecord
from ..data.validation import readable_enough
from ..evaluate import detect
from ..evaluate.metrics import Detections
from .processes import gathered, own_share


# Score from which a box is believed. Of labels without one nothing is said: weak ones are often there all the same.
BELIEVED = 0.5
# Share of the best box's score from which another one may be right as well.
DOUBTFUL = 0.7


def known_labels(config: Any, modality: str) -> list[str]:
    """The labels that a checkpoint says it was trained on, for one modality."""
    hierarchy = config.label_hierarchy or {}
    return list(hierarchy.get("trained_labels", {}).get(modality, ()))


def with_known(
    model: Any, processor: Any, records: Sequence[GroundingRecord], known: Sequence[str], batch_size: int = 4
) -> list[GroundingRecord]:
    """Training records with the model's own boxes for labels that nobody marked in them.

    Args:
        known: labels to ask for; those that a record's source annotates are left to it.
    """
    asked = [_unmarked(record, known) for record in records]
    whole = {id(record) for record in readable_enough(records, {}, "training pictures")}
    places = [number for number, labels in enumerate(asked) if labels and id(records[number]) in whole]
    if not places:
        return list(records)
    model.eval()
    own = [places[number] for number in own_share(len(places))]
    part, _ = detect(model, processor, [records[i] for i in own], [asked[i] for i in own], batch_size)
    found = gathered(own, part)
    told = list(records)
    for number, result in zip(places, found, strict=True):
        told[number] = _joined(records[number], result, asked[number])
    return told


def _unmarked(record: GroundingRecord, known: Sequence[str]) -> list[str]:
    """The known labels that a record's source does not annotate, in whichever words it writes them: what the
    source says of its "Liver" goes before what the model believes of "liver". Nor general terms for what it marks: a
    marked left kidney would be wrong for "kidney" if the model finds the right one alone."""
    marked = {word for label in record.annotated for word in _wordings(label)}
    return [label for label in known if normalize_phrase(label) not in marked]


@lru_cache(maxsize=4096)
def _wordings(label: str) -> frozenset[str]:
    vocabulary = Vocabulary.load()
    return vocabulary.wordings(label) | frozenset(map(normalize_phrase, vocabulary.of(label).parents))


def _joined(record: GroundingRecord, found: Detections, asked: Sequence[str]) -> GroundingRecord:
    boxes, labels, certain = [record.boxes], list(record.labels), []
    for label in asked:
        scores, own = found.of(label)
        best = float(scores.max(initial=0.0))
        if best >= BELIEVED:
            # Nearly as good boxes elsewhere may be right too: they would be learned as background.
            doubtful = (scores < BELIEVED) & (scores >= DOUBTFUL * best)
            if doubtful.any() and _apart(own[doubtful], own[scores >= BELIEVED]):
                continue
            boxes.append(own[scores >= BELIEVED])
            labels += [label] * int((scores >= BELIEVED).sum())
            certain.append(label)
    annotated = tuple(sorted({*record.annotated, *certain}))
    return replace(record, boxes=np.concatenate(boxes).astype(np.float32), labels=tuple(labels), annotated=annotated)


def _apart(doubtful: Any, believed: Any) -> bool:
    """Whether one of the doubtful boxes hardly touches any that is believed."""
    return bool((box_iou(doubtful, believed).max(axis=1) < 0.3).any())
