# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The labels that a checkpoint was trained with, and the words in which its network is asked for a phrase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from .defaults import ALL_LABELS
from .errors import MedGlipError
from .taxonomy import load_taxonomy
from .taxonomy.phrases import normalize_phrase, side_of


def trained_labels(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return modality -> labels that the checkpoint was trained with, as its configuration states them."""
    hierarchy = config.get("label_hierarchy")
    stated = config.get("trained_labels") or (hierarchy or {}).get("trained_labels") or hierarchy or {}
    if not isinstance(stated, dict):
        return {}
    return {
        str(modality): sorted(str(label) for label in labels)
        for modality, labels in stated.items()
        if isinstance(labels, (list, dict))
    }


class TrainedLabels:
    """The labels and wordings that a checkpoint states in its configuration.

    Args:
        labels (`Mapping[str, Sequence[str]]`): modality -> labels in the words of the training data; empty for a
            checkpoint that states none.
        wordings (`Mapping[str, Mapping[str, str | None]]`, *optional*): modality -> further phrases of the training
            prompts, each with the label that it means, `None` if it covers several.
    """

    def __init__(
        self,
        labels: Mapping[str, Sequence[str]],
        wordings: Mapping[str, Mapping[str, str | None]] = MappingProxyType({}),
    ) -> None:
        self._labels = {modality: tuple(names) for modality, names in labels.items()}
        self._by_phrase: dict[str, dict[str, str]] = {}
        self._by_id: dict[str, dict[str, str]] = {}
        for modality, names in labels.items():
            other = {normalize_phrase(phrase): label or phrase for phrase, label in wordings.get(modality, {}).items()}
            self._by_phrase[modality] = other | {normalize_phrase(name): name for name in names}
            known = ((load_taxonomy().resolve(name, modality), name) for name in names)
            self._by_id[modality] = {label.id: name for label, name in known if label is not None}

    @property
    def stated(self) -> bool:
        """Whether the checkpoint states any label."""
        return bool(self._by_phrase)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> TrainedLabels:
        """Return the labels that a configuration, as a dictionary, states under `label_hierarchy`."""
        hierarchy = config.get("label_hierarchy")
        wordings = hierarchy.get("wordings") if isinstance(hierarchy, dict) else None
        return cls(trained_labels(config), wordings if isinstance(wordings, dict) else {})

    def labels(self, modality: str) -> tuple[str, ...]:
        """Return the labels that the expert of a modality was trained with; none if the checkpoint does not say."""
        return self._labels.get(modality, ())

    def asked(self, labels: Sequence[str], modality: str) -> list[str]:
        """Return the labels to ask for: the given ones or, for `"all"` alone, every trained label of the expert.

        Args:
            labels (`Sequence[str]`): of a prompt.
            modality (`str`): of the expert, one of `MODALITIES`.

        Raises:
            `MedGlipError`: `"all"`, and the checkpoint does not say.
        """
        if [normalize_phrase(label) for label in labels] != [ALL_LABELS]:
            return list(labels)
        if not self.labels(modality):
            raise MedGlipError(f"the checkpoint does not state its labels for {modality}: name them instead of all")
        return list(self.labels(modality))

    def wording(self, phrase: str, modality: str) -> str:
        """Return the words in which the network is asked for a phrase.

        A phrase that means one label gets the wording of the training data or, if the label has a side, the name in
        the taxonomy; what is known in another language gets its English name. Other phrases stay as they are.

        Args:
            phrase (`str`): as the user wrote it.
            modality (`str`): one of `MODALITIES`.
        """
        stated = self._by_phrase.get(modality, {}).get(normalize_phrase(phrase))
        if stated is not None:
            return stated
        english = load_taxonomy().english(phrase) or phrase
        label = load_taxonomy().resolve(phrase, modality)
        if label is None:
            return english
        return self._by_id.get(modality, {}).get(label.id) or (label.name if label.laterality else english)

    def knows(self, phrase: str, modality: str) -> bool | None:
        """Return whether the expert of a modality was trained with what a phrase means; `None` if it does not say.

        A term that covers trained labels, such as `"kidney"`, counts as trained.

        Args:
            phrase (`str`): as the user wrote it.
            modality (`str`): of the expert, one of `MODALITIES`.
        """
        if not self._by_phrase.get(modality):
            return None
        if normalize_phrase(self.wording(phrase, modality)) in self._by_phrase[modality]:
            return True
        covered = load_taxonomy().resolve_term(phrase, modality)
        return any(label.id in self._by_id[modality] for label in covered)

    def wider(self, phrase: str, modality: str) -> str | None:
        """Return the trained label that an untrained phrase is a kind or a side of; `None` if there is none.

        The network cannot distinguish the two: `"melanoma"` -> `"skin lesion"`, `"left pleural effusion"` ->
        `"pleural effusion"`.

        Args:
            phrase (`str`): as the user wrote it.
            modality (`str`): of the expert, one of `MODALITIES`.
        """
        if self.knows(phrase, modality) is not False:
            return None
        label = load_taxonomy().resolve(phrase, modality)
        if label is None:
            base = normalize_phrase(phrase).removeprefix(f"{side_of(phrase)} ")
            return self.wording(base, modality) if self.knows(base, modality) else None
        above = (self._by_id[modality].get(kind.id) for kind in load_taxonomy().kinds_above(label))
        return next(filter(None, above), None)


__all__ = ["TrainedLabels"]
