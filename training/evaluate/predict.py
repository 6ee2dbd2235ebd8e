# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Detections of a model in annotated images, made as `medglip ground` makes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature

from modeling_medglip.detection import run_model
from modeling_medglip.grounding import Grounder

from ..data.dataset import GroundingCollator, GroundingDataset, foreign_labels
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


def detect_augmented(
    model: Any, processor: Any, dataset: GroundingDataset, batch_size: int = 4
) -> tuple[list[GroundingRecord], list[Detections]]:
    """Ground the drawn prompt of every example of an augmented data set.

    Args:
        model ([`~modeling_medglip.MedGlipForObjectDetection`]): in evaluation mode.
        processor ([`~modeling_medglip.MedGlipProcessor`]): the model's.
        dataset ([`~training.data.dataset.GroundingDataset`]): whose epoch is shown.
        batch_size (`int`, *optional*, defaults to 4): images per forward pass.

    Returns:
        records with the boxes and phrases of the examples, in pixels of the input, and the boxes that were detected in
        each, also those of low scores.
    """
    collator, (height, width) = GroundingCollator(processor), dataset.size
    records: list[GroundingRecord] = []
    detections: list[Detections] = []
    for start in range(0, len(dataset), batch_size):
        examples = [dataset[index] for index in range(start, min(start + batch_size, len(dataset)))]
        inputs = BatchFeature({**collator(examples), "input_sizes": torch.tensor([(height, width)] * len(examples))})
        targets = inputs.pop("labels")
        outputs = run_model(model, inputs.to(next(model.parameters()).device))
        results = processor.post_process_grounded_object_detection(outputs, inputs, threshold=0.0)
        detections += [_detections(result) for result in results]
        for index, (target, names) in enumerate(zip(targets, inputs["text_labels"], strict=True)):
            record = dataset.shown(start + index)
            boxes = target["boxes"].numpy() + np.array([0, 0, 1, 1], np.float32)
            labels = tuple(names[label] for label in target["class_labels"].tolist())
            records.append(replace(record, boxes=boxes, labels=labels, annotated=tuple(names), size=(width, height)))
    return records, detections


def _detections(result: dict[str, Any]) -> Detections:
    scores, boxes = (result[key].detach().cpu().float().numpy() for key in ("scores", "boxes"))
    return Detections(tuple(result["text_labels"]), scores, boxes.reshape(-1, 4))
