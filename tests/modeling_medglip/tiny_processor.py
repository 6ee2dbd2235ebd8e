# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A processor with a tokenizer of a few words, and made-up model outputs, for the tests of the processor."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from transformers import BertTokenizer

from modeling_medglip.image_processing_medglip import MedGlipImageProcessor
from modeling_medglip.processing_medglip import MedGlipProcessor


WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] . , ; : ( ) - 1 5 cm liver spleen left right kidney lung nodule lower pole polyp "
    "optic disc ##s ##oma aden pneumo ##thorax effusion pleural detect sep"
)


def tiny_tokenizer() -> BertTokenizer:
    """A lower-casing WordPiece tokenizer that knows `WORDS`, digits and single letters."""
    words = [*WORDS.split(), *(f"##{digit}" for digit in range(10)), *"02346789", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz" if f"##{letter}" not in words]
    return BertTokenizer(vocab={word: index for index, word in enumerate(dict.fromkeys(words))})


def tiny_processor(settings: dict[str, Any] | None = None, **kwargs: Any) -> MedGlipProcessor:
    """A processor of all modalities at their default sizes, or with the given image settings."""
    return MedGlipProcessor(MedGlipImageProcessor(**(settings or {})), tiny_tokenizer(), **kwargs)


def words_of(processor: MedGlipProcessor, batch: Any, image: int = 0, chunk: int = 0) -> list[str]:
    """The tokens of each label, decoded."""
    tokens = batch["label_tokens"] if batch["label_tokens"].ndim == 4 else batch["label_tokens"][:, None]
    ids = batch["input_ids"] if batch["input_ids"].ndim == 3 else batch["input_ids"][:, None]
    rows = tokens[image, chunk]
    return [processor.tokenizer.decode(ids[image, chunk][row]) for row in rows[rows.any(-1)]]


def made_up_outputs(
    inputs: Any, boxes: list[list[float]], labels: list[int], scores: list[float], chunk: int = 0
) -> SimpleNamespace:
    """
    Outputs of a model that found `boxes` (legacy xyxy pixels of the input) of the given labels of a chunk in image 0,
    each at a region of its own, with `scores` both as label score and as centerness, and nothing else.
    """
    tokens = inputs["label_tokens"]
    tokens = tokens if tokens.ndim == 4 else tokens[:, None]
    batch, chunks, _, length = tokens.shape
    side = max(4, len(boxes))
    regions = side * side + 1
    logits = torch.full((batch, chunks, regions, length), -20.0)
    centerness = torch.full((batch, chunks, regions), -20.0)
    found = torch.zeros(batch, chunks, regions, 4)
    for place, (box, label, score) in enumerate(zip(boxes, labels, scores, strict=True)):
        logits[0, chunk, place, tokens[0, chunk, label]] = torch.tensor(score).logit()
        centerness[0, chunk, place] = torch.tensor(score).logit()
        found[0, chunk, place] = torch.tensor(box)
    mask = inputs["pixel_mask"]
    sizes = torch.stack([mask.any(2).sum(1), mask.any(1).sum(1)], dim=1)
    return SimpleNamespace(
        logits=logits.flatten(1, 2),
        centerness=centerness.flatten(1, 2),
        pred_boxes=found.flatten(1, 2),
        input_sizes=sizes,
        spatial_shapes=torch.tensor([[side, side], [1, 1]]),
    )
