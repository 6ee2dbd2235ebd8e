# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What the network is asked for a user's labels, and its answer in the user's own words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .errors import one_line
from .processing_medglip import MedGlipProcessor, clean_label
from .trained_labels import TrainedLabels


Rectangle = tuple[float, float, float, float]
# Lowest score of a label that the checkpoint was not trained with, unless the caller sets another; see docs/phrases.md.
UNTRAINED_THRESHOLD = 0.9


@dataclass(frozen=True)
class Question:
    """The labels of one prompt in the words of one expert.

    Attributes:
        labels (`tuple[str, ...]`): as the user wrote them.
        wordings (`Mapping[str, str]`): label -> the words for the network; several labels may share one.
        groups (`tuple[tuple[str, ...], ...]`): wordings that are asked together, in a fixed order: those that the expert
            was trained with, then every other one by itself, so that it does not disturb them.
        trained (`Mapping[str, bool | None]`): label -> whether the expert was trained with it, see
            [`TrainedLabels.knows`].
        wider (`Mapping[str, str]`): label -> the trained label that it is not told apart from, if there is one.
    """

    labels: tuple[str, ...]
    wordings: Mapping[str, str]
    groups: tuple[tuple[str, ...], ...]
    trained: Mapping[str, bool | None]
    wider: Mapping[str, str]

    @property
    def untrained(self) -> tuple[str, ...]:
        """The labels that the expert was not trained with."""
        return tuple(label for label in self.labels if self.trained[label] is False)

    def answers(self, found: Mapping[str, Any], untrained_threshold: float = 0) -> Iterator[tuple[str, float, Rectangle]]:
        """Yield label, score and box (left, top, right, bottom) of what was found, in the order that was given.

        Args:
            found (`Mapping`): of one image, as `post_process_grounded_object_detection` returns it.
            untrained_threshold (`float`, *optional*): lowest score of labels that the expert was not trained with.
        """
        rows = zip(found["text_labels"], found["scores"].tolist(), found["boxes"].tolist(), strict=True)
        for wording, score, (left, top, right, bottom) in rows:
            for label in self.labels:
                if self.wordings[label] == wording and (score >= untrained_threshold or label not in self.untrained):
                    yield label, score, (left, top, right, bottom)


    def notes(self, modality: str, untrained_threshold: float) -> tuple[str, ...]:
        """One line that names the labels that the expert was not trained with, if there are any."""
        if not self.untrained:
            return ()
        names = [
            one_line(label, 60) + (f" (not told apart from {self.wider[label]})" if label in self.wider else "")
            for label in self.untrained
        ]
        shown = f"boxes for them may mean nothing and are shown from a score of {untrained_threshold:g} on"
        return (f"not trained in {modality}: {', '.join(names)}: {shown}",)


def make_question(trained: TrainedLabels, labels: Sequence[str], modality: str) -> Question:
    """Put labels into the words of a checkpoint.

    Args:
        trained ([`TrainedLabels`]): what the checkpoint knows.
        labels (`Sequence[str]`): the user's, without repetitions.
        modality (`str`): of the expert that is asked.
    """
    first: dict[str, str] = {}
    wordings, known, wider = {}, {}, {}
    for label in labels:
        wording = trained.wording(label, modality)
        wordings[label] = first.setdefault(clean_label(wording), wording)
        known[label] = trained.knows(label, modality)
        if name := trained.wider(label, modality):
            wider[label] = name
    alone = {wordings[label] for label in labels if known[label] is False}
    together = tuple(sorted(set(first.values()) - alone))
    groups = ([together] if together else []) + [(wording,) for wording in sorted(alone)]
    return Question(tuple(labels), wordings, tuple(groups), known, wider)


def encode_question(processor: MedGlipProcessor, question: Question) -> dict[str, Any]:
    """Tokenize a question for one image, its groups as chunks of the prompt.

    Returns:
        as [`MedGlipProcessor.encode_prompts`]: `input_ids`, `attention_mask`, `label_tokens` and `text_labels`.

    Raises:
        `ValueError`: a label that the tokenizer cannot read.
    """
    parts = [processor.encode_prompts([group])[0] for group in question.groups]
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {"text_labels": [[name for part in parts for name in part["text_labels"][0]]]}
    for key, axes in (("input_ids", 1), ("attention_mask", 1), ("label_tokens", 2)):
        joined[key] = _padded([part[key].flatten(0, -axes - 1) for part in parts])[None]
    return joined


def _padded(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack tensors of shapes (chunks, ...) along the chunks, each padded with zeros to the largest."""
    sizes = [max(sides) for sides in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    whole = tensors[0].new_zeros((sum(map(len, tensors)), *sizes))
    start = 0
    for tensor in tensors:
        whole[(slice(start, start + len(tensor)), *map(slice, tensor.shape[1:]))] = tensor
        start += len(tensor)
    return whole


__all__ = ["UNTRAINED_THRESHOLD", "Question", "encode_question", "make_question"]
