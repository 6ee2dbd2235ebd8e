# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Choose the expert that an image goes to: as stated, by its header, or by its pixels and the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from .configuration_medglip import resolve_modality
from .defaults import ALL_LABELS
from .errors import Advice, MedGlipError, UsageError, one_line
from .image_processing_medglip import by_likelihood, is_unrecognized, modality_contradiction, uncertainty_warning
from .io.image_record import ReadImage
from .outputs.base import UNRECOGNIZED
from .processing_medglip import MedGlipProcessor
from .trained_labels import TrainedLabels


# Labels of a prompt that are looked at when the pixels leave the modality open.
MOST_TIE_BREAKERS = 20


class Experts(Protocol):
    """What a choice asks of a [`~modeling_medglip.grounding.Grounder`]."""

    @property
    def name(self) -> str:
        """Name of the checkpoint."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that it has experts for."""

    @property
    def processor(self) -> MedGlipProcessor:
        """Its processor, with the router."""

    @property
    def trained(self) -> TrainedLabels:
        """What it was trained with."""


class ModalityChoice(NamedTuple):
    """The expert that an image goes to.

    Attributes:
        name (`str`): one of `MODALITIES`.
        source (`str`): `"given"`, `"header"`, `"pixels"`, `"checkpoint"` if that has one expert only, or
            `"unrecognized"`.
        probability (`float` or `None`): the router's, if the pixels decided.
        warnings (`tuple[str, ...]`): what speaks against the choice, one line each.
    """

    name: str
    source: str
    probability: float | None
    warnings: tuple[str, ...]


def known_modality(name: str) -> str:
    """Return the canonical name of a modality.

    Raises:
        `UsageError`: an unknown name.
    """
    try:
        return resolve_modality(name)
    except ValueError as error:
        raise UsageError(one_line(error)) from None


def choose_modality(
    grounder: Experts, image: ReadImage, modality: str = "auto", labels: Sequence[str] = ()
) -> ModalityChoice:
    """Choose the expert that an image goes to.

    Args:
        grounder ([`~modeling_medglip.grounding.Grounder`]): the loaded checkpoint.
        image ([`ReadImage`]): pixels, and what the header of its file states.
        modality (`str`, *optional*, defaults to `"auto"`): a name or an alias; `"auto"` takes the header's, else that
            of the only expert, else what the pixels look like.
        labels (`Sequence[str]`, *optional*): of the prompt: where the pixels leave it open, a modality whose expert
            knows none of them is less likely.

    Raises:
        `UsageError`: an unknown modality. `MedGlipError`: no expert for it, or the pixels cannot tell.
    """
    return modality_choices(grounder, image, modality, labels)[0]


def modality_choices(
    grounder: Experts, image: ReadImage, modality: str = "auto", labels: Sequence[str] = ()
) -> list[ModalityChoice]:
    """Return the experts to try on an image, the likeliest first: a second one only where the pixels leave it open.

    Args:
        grounder ([`~modeling_medglip.grounding.Grounder`]): as for [`choose_modality`].
        image ([`ReadImage`]): as for [`choose_modality`].
        modality (`str`, *optional*, defaults to `"auto"`): as for [`choose_modality`].
        labels (`Sequence[str]`, *optional*): as for [`choose_modality`].

    Raises:
        `UsageError` and `MedGlipError`: as [`choose_modality`].
    """
    only = grounder.modalities[0] if len(grounder.modalities) == 1 else None
    stated = {
        "given": None if modality == "auto" else known_modality(modality),
        "header": image.modality,
        "checkpoint": only,
    }
    for source, name in stated.items():
        if name is not None:
            _require_expert(grounder, name)
            return [ModalityChoice(name, source, None, _contradictions(grounder, image, name))]
    processor = grounder.processor.image_processor
    if processor.router is None:
        known = ", ".join(grounder.modalities)
        message = f"its modality is not known and {grounder.name} cannot tell: give modality=, one of {known}"
        raise MedGlipError(message, hint="modality")
    probabilities, sure = processor.modality_probabilities(image.pixels, every=True), processor.router_warning
    source = UNRECOGNIZED if is_unrecognized(probabilities, sure) else "pixels"
    shares = known_shares(grounder.trained, labels, grounder.modalities)
    choices = []
    for name in by_likelihood(probabilities, grounder.modalities, shares, sure)[:2]:
        note = uncertainty_warning(probabilities, name, sure)
        notes = () if note is None else (Advice(note, "modality"),)
        choices.append(ModalityChoice(name, source, probabilities.get(name, 0.0), notes))
    # An expert that does not state its labels cannot be asked for all of them.
    second = len(choices) == 2 and (list(labels) != [ALL_LABELS] or bool(grounder.trained.labels(choices[1].name)))
    return choices if second and choices[0].warnings and source != UNRECOGNIZED else choices[:1]


def known_shares(trained: TrainedLabels, labels: Sequence[str], modalities: Sequence[str]) -> dict[str, float]:
    """Return, by modality, the share of labels that its expert was trained with; 1 where it does not say.

    Args:
        trained ([`TrainedLabels`]): what the checkpoint was trained with.
        labels (`Sequence[str]`): of a prompt; `"all"` is known to every expert.
        modalities (`Sequence[str]`): that there are experts for.
    """
    return {name: _known_share(trained, labels, name) for name in modalities}


def _known_share(trained: TrainedLabels, labels: Sequence[str], modality: str) -> float:
    known = [trained.knows(label, modality) for label in labels[:MOST_TIE_BREAKERS]]
    return 1.0 if not known or None in known or list(labels) == [ALL_LABELS] else sum(map(bool, known)) / len(known)


def _require_expert(grounder: Experts, modality: str) -> None:
    if modality not in grounder.modalities:
        known = ", ".join(grounder.modalities)
        raise MedGlipError(f"checkpoint {grounder.name} has no expert for {modality}: it has {known}")


def _contradictions(grounder: Experts, image: ReadImage, stated: str) -> tuple[str, ...]:
    """Return warnings when header or pixels speak against the modality that is used."""
    if image.modality not in (None, stated):
        return (f"taken as {stated}, but its header says {image.modality}",)
    processor = grounder.processor.image_processor
    view = modality_contradiction(stated, image.pixels, processor)
    return (view,) if view else ()


__all__ = [
    "Experts",
    "ModalityChoice",
    "choose_modality",
    "known_modality",
    "known_shares",
    "modality_choices",
]
