# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What a checkpoint was trained to find, and the words in which its network is asked for a phrase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .phrases import normalize_phrase
from .taxonomy import load_taxonomy


class TrainedLabels:
    """The labels that a checkpoint states in its configuration.

    Args:
        by_modality (`Mapping[str, Sequence[str]]`): modality -> labels in the words of the training data; empty for a
            checkpoint that states none.
    """

    def __init__(self, by_modality: Mapping[str, Sequence[str]]) -> None:
        self._by_phrase: dict[str, dict[str, str]] = {}
        self._by_id: dict[str, dict[str, str]] = {}
        for modality, labels in by_modality.items():
            self._by_phrase[modality] = {normalize_phrase(label): label for label in labels}
            known = ((load_taxonomy().resolve(label, modality), label) for label in labels)
            self._by_id[modality] = {found.id: label for found, label in known if found is not None}

    def wording(self, phrase: str, modality: str) -> str:
        """Return the words in which the network is asked for a phrase.

        A phrase that means one label gets the wording of the training data or, if the label has a side, the name in
        the taxonomy; what is known in another language gets its English name. Other phrases stay as they are.

        Args:
            phrase (`str`): as the user wrote it.
            modality (`str`): one of `MODALITIES`.
        """
        own = self._by_phrase.get(modality, {}).get(normalize_phrase(phrase))
        if own is not None:
            return own
        label = load_taxonomy().resolve(phrase, modality)
        if label is None:
            return load_taxonomy().english(phrase) or phrase
        trained = self._by_id.get(modality, {}).get(label.id)
        named = label.name if label.laterality else load_taxonomy().english(phrase) or phrase
        return trained or named


__all__ = ["TrainedLabels"]
