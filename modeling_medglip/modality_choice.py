# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Choose the expert that an image goes to: as stated, by its header, or by its pixels and the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from .configuration_medglip import resolve_modality
from .defaults import ALL_LABELS
from .errors import Advice, MedGlipError, UsageError, one_line
from .image_processing_medglip import OTHER, modality_contradiction, uncertainty_warning
from .io.image_record import ReadImage
from .processing_medglip import MedGlipProcessor
from .trained_labels import TrainedLabels


# What the probability of a modality is multiplied by, at least, when its expert knows none of the prompt's labels; and
# how many labels are looked at.
UNKNOWN_LABEL_FACTOR = 0.1
MOST_TIE_BREAKERS = 20
# Source of the choice for an image that does not look like a medical one: nothing is searched for.
UNRECOGNIZED = "unrecognized"


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
            [`UNRECOGNIZED`].
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
        labels (`Sequence[str]`, *optional*): of the prompt: a modality whose expert knows none of them is less likely.

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
    probabilities = _with_labels(grounder, processor.modality_probabilities(image.pixels, every=True), labels)
    source = UNRECOGNIZED if probabilities.get(OTHER, 0.0) >= processor.router_warning else "pixels"
    choices = []
    for name in sorted(grounder.modalities, key=lambda name: -probabilities.get(name, 0.0))[:2]:
        note = uncertainty_warning(probabilities, name, processor.router_warning)
        notes = () if note is None else (Advice(note, "modality"),)
        choices.append(ModalityChoice(name, source, probabilities.get(name, 0.0), notes))
    # An expert that does not state its labels cannot be asked for all of them.
    second = len(choices) == 2 and (list(labels) != [ALL_LABELS] or bool(grounder.trained.labels(choices[1].name)))
    return choices if second and choices[0].warnings and source != UNRECOGNIZED else choices[:1]


def _with_labels(grounder: Experts, probabilities: Mapping[str, float], labels: Sequence[str]) -> dict[str, float]:
    """Return the router's probabilities, less for modalities whose experts know few labels of the prompt.

    Whether it is a medical image at all is for the pixels alone.
    """
    shares = {name: _known_share(grounder.trained, labels, name) for name in grounder.modalities}
    if not (most := max(shares.values())):
        return dict(probabilities)
    factors = {name: max(share / most, UNKNOWN_LABEL_FACTOR) for name, share in shares.items()}
    weights = {name: value * factors.get(name, 1.0) for name, value in probabilities.items() if name != OTHER}
    total, others = sum(weights.values()), {name: value for name, value in probabilities.items() if name == OTHER}
    rest = 1 - sum(others.values())
    return {name: weight * rest / total for name, weight in weights.items()} | others if total else dict(probabilities)


def _known_share(trained: TrainedLabels, labels: Sequence[str], modality: str) -> float:
    """Return the share of labels that an expert was trained with; 1 where it does not say, or for `"all"`."""
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
    "UNRECOGNIZED",
    "Experts",
    "ModalityChoice",
    "choose_modality",
    "known_modality",
    "modality_choices",
]
