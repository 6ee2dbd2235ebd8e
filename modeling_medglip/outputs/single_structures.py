# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Keep one box of a structure that a patient has one of. The taxonomy lists these structures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from ..boxes import containment
from ..taxonomy import load_taxonomy
from .results import GroundedBox
from .volume_results import VolumeBox


# A box is dropped if this share of the smaller one lies inside a better box of its label.
NESTED_SHARE = 0.8
# Boxes in space that reach this share of a label's best score are candidates for its one box.
CLOSE_SCORE = 0.8


class _Scored(Protocol):
    @property
    def label(self) -> str: ...

    @property
    def score(self) -> float: ...


AnyBox = TypeVar("AnyBox", bound=_Scored)


def single_labels(labels: Iterable[str], modality: str | None = None) -> frozenset[str]:
    """Return the labels that name a structure of which a patient has one, such as `"left kidney"`.

    Args:
        labels (`Iterable[str]`): of a prompt.
        modality (`str`, *optional*): resolves labels with several meanings.
    """
    taxonomy = load_taxonomy()
    entries = {label: taxonomy.resolve(label, modality) for label in labels}
    return frozenset(label for label, entry in entries.items() if entry is not None and entry.single)


def best_in_image(boxes: Sequence[GroundedBox], modality: str | None = None) -> tuple[GroundedBox, ...]:
    """Keep the best box of single structures, and of others no box that lies inside a better one of its label.

    Args:
        boxes (`Sequence[GroundedBox]`): of one image, best score first.
        modality (`str`, *optional*): resolves labels with several meanings.
    """
    best = _best_of_single(boxes, modality, lambda box: box.score)
    results: list[GroundedBox] = []
    for box in best:
        if not any(
            box.label == other.label and containment(box.xyxy, other.xyxy) >= NESTED_SHARE for other in results
        ):
            results.append(box)
    return tuple(results)


def best_in_volume(boxes: Sequence[VolumeBox], modality: str | None = None) -> tuple[VolumeBox, ...]:
    """Keep the best box in space of single structures.

    Of boxes that score nearly as well, one in many slices ranks above one in few.

    Args:
        boxes (`Sequence[VolumeBox]`): of one volume, best score first.
        modality (`str`, *optional*): resolves labels with several meanings.
    """
    return _best_of_single(boxes, modality, lambda box: box.score * box.slices**0.5)


def _best_of_single(
    boxes: Sequence[AnyBox], modality: str | None, rank: Callable[[AnyBox], float]
) -> tuple[AnyBox, ...]:
    best: dict[str, AnyBox] = {}
    for label in single_labels({box.label for box in boxes}, modality):
        candidates = [box for box in boxes if box.label == label]
        least = CLOSE_SCORE * max(box.score for box in candidates)
        best[label] = max((box for box in candidates if box.score >= least), key=rank)
    return tuple(box for box in boxes if best.get(box.label, box) is box)


__all__ = ["NESTED_SHARE", "best_in_image", "best_in_volume", "single_labels"]
