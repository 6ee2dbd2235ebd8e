# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Detections of a model in annotated images, made as `medglip ground` makes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from modeling_medglip.grounding import Grounder

from ..data.dataset import foreign_labels
from ..data.records import GroundingRecord
from .metrics import Detections


# Images and the labels to ask in each -> the detections, and the seconds per image.
Finder = Callable[[Sequence[GroundingRecord], Sequence[Sequence[str]]], tuple[list[Detections], float]]


def source_labels(records: Iterable[GroundingRecord]) -> dict[str, list[str]]:
    """Return, by source, all labels that it annotates in alphabetical order: the prompt of each of its images."""
    return {key: list(labels) for key, labels in foreign_labels(list(records)).items()}


def detect_records(
    model: Any,
    processor: Any,
    records: Sequence[GroundingRecord],
    prompts: Sequence[Sequence[str]],
    batch_size: int = 4,
) -> tuple[list[Detections], float]:
    """Ground a prompt in every image.

    Args:
        model ([`~modeling_medglip.MedGlipForObjectDetection`]): in evaluation mode.
        processor ([`~modeling_medglip.MedGlipProcessor`]): the model's.
        records (`Sequence[GroundingRecord]`): the images.
        prompts (`Sequence[Sequence[str]]`): the labels to ask in each image, in the words for the model.
        batch_size (`int`, *optional*, defaults to 4): images per forward pass.

    Returns:
        `tuple[list[Detections], float]`: the boxes of every image, also those of low scores; and the seconds per image
        from decoded pixels to boxes.
    """
    grounder = Grounder(model, processor, "", next(model.parameters()).device)
    detections: list[Detections] = []
    seconds = 0.0
    for start in range(0, len(records), batch_size):
        batch = records[start : start + batch_size]
        images = [record.load() for record in batch]
        asked = [list(prompt) for prompt in prompts[start : start + batch_size]]
        begin = time.perf_counter()
        results = grounder.detect(
            images,
            asked,
            [record.modality for record in batch],
            threshold=0.0,
            target_sizes=[(record.size[1], record.size[0]) for record in batch],
        )
        seconds += time.perf_counter() - begin
        detections += [_detections(result) for result in results]
    return detections, seconds / max(1, len(records))


def _detections(result: dict[str, Any]) -> Detections:
    scores, boxes = (result[key].detach().cpu().float().numpy() for key in ("scores", "boxes"))
    return Detections(tuple(result["text_labels"]), scores, boxes.reshape(-1, 4))
