# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Which labels are certainly not in an image, for training prompts, evaluation and studies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from modeling_medglip.taxonomy.phrases import normalize_phrase

from .records import GroundingRecord
from .vocabulary import Vocabulary


class AbsentLabels(NamedTuple):
    """Labels that are certainly not in an image.

    Args:
        annotated (`tuple[str, ...]`): the source annotates them wherever they occur, or cannot show them at all.
        foreign (`tuple[str, ...]`): of other parts of the body, and in no words of a label of the source.
    """

    annotated: tuple[str, ...]
    foreign: tuple[str, ...]


def absent_labels(
    names: Iterable[str],
    labels: Sequence[str],
    annotated: Sequence[str],
    regions: Sequence[str],
    source_labels: Sequence[str] = (),
    vocabulary: Vocabulary | None = None,
) -> AbsentLabels:
    """Return those of some labels that are certainly not in an image; nothing else may be asked as absent.

    Args:
        names (`Iterable[str]`): labels to choose from.
        labels (`Sequence[str]`): those with a box.
        annotated (`Sequence[str]`): those that would have a box if they were in the image.
        regions (`Sequence[str]`): body parts in the image; empty: those that the labels of the source can be in.
        source_labels (`Sequence[str]`, *optional*): what may be in the image whether it has a box or not; the
            annotated labels when not given.
        vocabulary ([`~training.data.vocabulary.Vocabulary`], *optional*): the shipped one when not given.
    """
    vocabulary, names = vocabulary or Vocabulary.load(), list(names)
    possible = tuple(source_labels or annotated)
    meant = frozenset().union(*map(vocabulary.wordings, possible))
    foreign = vocabulary.foreign(regions or vocabulary.regions(possible), names)
    denied = set(annotated) - set(labels)
    return AbsentLabels(
        tuple(name for name in names if name in denied),
        tuple(name for name in foreign if normalize_phrase(name) not in meant),
    )


def labels_absent_from(record: GroundingRecord, names: Iterable[str]) -> AbsentLabels:
    """Return those of some labels that are certainly not in the image of a record.

    Args:
        record (`GroundingRecord`): the image.
        names (`Iterable[str]`): labels to choose from.
    """
    annotated = (*record.annotated, *record.excluded_labels)
    return absent_labels(names, record.labels, annotated, record.settings.regions, record.possible_labels)
