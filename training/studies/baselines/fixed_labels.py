# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Batches and prompts for detectors with a fixed list of labels.

They have the form of those for grounding: a label of the prompt is one token, the number of its row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from modeling_medglip.processing_medglip import MedGlipProcessor


class FixedLabelCollator:
    """Examples of a `GroundingDataset` whose prompts are plain labels -> a batch for a fixed-label detector.

    Args:
        labels (`Sequence[str]`): in the order of the detector's rows.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.rows = {label: row for row, label in enumerate(labels)}

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """`pixel_values` (B, 3, H, W), `known` (B, labels) bool, `labels` with the rows as classes, `modality`."""
        known = torch.zeros(len(examples), len(self.rows), dtype=torch.bool)
        targets = []
        for number, example in enumerate(examples):
            # A label of another part of the body may stand in for a prompt that would be empty: it has no row.
            rows = torch.tensor([self.rows.get(name, -1) for name in example["text_labels"]], dtype=torch.int64)
            known[number, rows[rows >= 0]] = True
            target = example["labels"]
            targets.append({"boxes": target["boxes"], "class_labels": rows[target["class_labels"]]})
        return {
            "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
            "known": known,
            "labels": targets,
            "modality": [example["modality"] for example in examples],
        }


class FixedLabelProcessor:
    """Asks a fixed-label detector in the words of a grounding processor, so that one routine measures both.

    Args:
        processor ([`MedGlipProcessor`]): prepares the images and turns outputs into boxes.
        labels (`Sequence[str]`): in the order of the detector's rows.
    """

    def __init__(self, processor: MedGlipProcessor, labels: Sequence[str]) -> None:
        self.image_processor = processor.image_processor
        self.post_process_grounded_object_detection = processor.post_process_grounded_object_detection
        self.rows = {label: row for row, label in enumerate(labels)}

    def encode_prompts(self, text: Sequence[Sequence[str]]) -> tuple[dict[str, Any], None]:
        """Return `label_tokens` of shape `(batch, labels, rows)` and `text_labels`.

        A label that the detector does not have gets no row, and so no box.
        """
        tokens = torch.zeros(len(text), max(map(len, text)), len(self.rows), dtype=torch.bool)
        for number, labels in enumerate(text):
            for index, label in enumerate(labels):
                if label in self.rows:
                    tokens[number, index, self.rows[label]] = True
        return {"label_tokens": tokens, "text_labels": [list(labels) for labels in text]}, None
