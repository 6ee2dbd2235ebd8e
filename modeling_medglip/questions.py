# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The labels of a prompt in the words of the network, and the boxes it finds with the labels of the user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .errors import listed
from .processing_medglip import MedGlipProcessor, spell_out_side
from .trained_labels import TrainedLabels


# Labels that one warning names; the result has all of them.
MOST_NAMES = 12
Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class Question:
    """The labels of one prompt in the words of one expert.

    Attributes:
        labels (`tuple[str, ...]`): as the user wrote them.
        wordings (`Mapping[str, str]`): label -> the words for the network; several labels may share one.
        groups (`tuple[tuple[str, ...], ...]`): wordings that are asked together, in a fixed order: those that the
            expert was trained with, then every other one by itself, so that it does not disturb them.
        trained (`Mapping[str, bool | None]`): label -> whether the expert was trained with it, see
            [`TrainedLabels.knows`].
        wider (`Mapping[str, str]`): label -> the trained label that the network takes it for, if there is one.
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

    def answers(
        self, result: Mapping[str, Any], untrained_threshold: float = 0
    ) -> Iterator[tuple[str, float, Rectangle]]:
        """Yield label, score and box (left, top, right, bottom) of every result, in the order of the results.

        Args:
            result (`Mapping`): of one image, as `post_process_grounded_object_detection` returns it.
            untrained_threshold (`float`, *optional*): lowest score of labels that the expert was not trained with.
        """
        rows = zip(result["text_labels"], result["scores"].tolist(), result["boxes"].tolist(), strict=True)
        for wording, score, (left, top, right, bottom) in rows:
            for label in self.labels:
                if self.wordings[label] == wording and (score >= untrained_threshold or label not in self.untrained):
                    yield label, score, (left, top, right, bottom)

    def presence(self, result: Mapping[str, Any]) -> dict[str, float]:
        """Return label -> probability that the image shows it; empty where the checkpoint does not say.

        Args:
            result (`Mapping`): of one image, as `post_process_grounded_object_detection` returns it.
        """
        known = result.get("presence", {})
        return {label: known[self.wordings[label]] for label in self.labels if self.wordings[label] in known}

    def notes(self, modality: str, untrained_threshold: float) -> tuple[str, ...]:
        """Return a warning that names the labels that the expert was not trained with, if there are any.

        Args:
            modality (`str`): of the expert.
            untrained_threshold (`float`): lowest score of boxes for these labels.
        """
        if not self.untrained:
            return ()
        names = [
            label[:60] + (f" (not distinguished from {self.wider[label]})" if label in self.wider else "")
            for label in self.untrained
        ]
        shown = f"boxes for them may mean nothing and are shown from a score of {untrained_threshold:g} on"
        return (f"not trained in {modality}: {listed(names, 120, MOST_NAMES)}: {shown}",)


def make_question(trained: TrainedLabels, labels: Sequence[str], modality: str) -> Question:
    """Put labels into the words of a checkpoint.

    Args:
        trained ([`TrainedLabels`]): what the checkpoint knows.
        labels (`Sequence[str]`): the user's, without repetitions; `"all"` alone asks for every trained label.
        modality (`str`): of the expert that is asked.

    Raises:
        `MedGlipError`: `"all"`, and the checkpoint does not state its labels.
    """
    labels = trained.asked(labels, modality)
    first: dict[str, str] = {}
    wordings, known, wider = {}, {}, {}
    for label in labels:
        wording = trained.wording(label, modality)
        wordings[label] = first.setdefault(spell_out_side(wording), wording)
        known[label] = trained.knows(label, modality)
        if name := trained.wider(label, modality):
            wider[label] = name
    alone = {wordings[label] for label in labels if known[label] is False}
    together = tuple(sorted(set(first.values()) - alone))
    groups = ([together] if together else []) + [(wording,) for wording in sorted(alone)]
    return Question(tuple(labels), wordings, tuple(groups), known, wider)


def encode_groups(processor: MedGlipProcessor, groups: Sequence[Sequence[tuple[str, ...]]]) -> dict[str, Any]:
    """Tokenize the groups of a question for each image of a batch, as chunks of the prompt.

    Args:
        processor ([`MedGlipProcessor`]): of the checkpoint.
        groups (`Sequence[Sequence[tuple[str, ...]]]`): [`Question.groups`] for each image.

    Returns:
        as [`MedGlipProcessor.encode_prompts`]: `input_ids`, `attention_mask`, `label_tokens` and `text_labels`.

    Raises:
        `ValueError`: no label, or one that the tokenizer cannot read.
    """
    encoded = [[processor.encode_prompts([group])[0] for group in asked or ((),)] for asked in groups]
    data: dict[str, Any] = {
        "text_labels": [[name for part in parts for name in part["text_labels"][0]] for parts in encoded]
    }
    for key, axes in (("input_ids", 1), ("attention_mask", 1), ("label_tokens", 2)):
        chunks = [[chunk for part in parts for chunk in part[key].flatten(0, -axes - 1)] for parts in encoded]
        data[key] = _padded([_padded(chunks_of_image) for chunks_of_image in chunks])
    return {key: value[:, 0] if key != "text_labels" and value.shape[1] == 1 else value for key, value in data.items()}


def _padded(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack tensors, each padded with zeros at its ends to the largest."""
    whole = tensors[0].new_zeros(
        (len(tensors), *(max(sides) for sides in zip(*(t.shape for t in tensors), strict=True)))
    )
    for row, tensor in zip(whole, tensors, strict=True):
        row[tuple(map(slice, tensor.shape))] = tensor
    return whole


__all__ = ["Question", "encode_groups", "make_question"]
