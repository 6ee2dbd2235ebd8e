# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Load a checkpoint once, then ground phrases on one picture after the other."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.image_processing_utils import BatchFeature

from .checkpoints.adapters import load_adapted
from .checkpoints.loading import is_adapter, load_checkpoint, locate
from .configuration_medglip import resolve_modality
from .defaults import UNTRAINED_THRESHOLD
from .errors import MedGlipError, UsageError, one_line
from .image_processing_medglip import modality_contradiction
from .io.image_record import ReadImage
from .modeling_medglip import MedGlipForObjectDetection
from .outputs.results import GroundedBox, GroundingResult, ImageInfo
from .outputs.single_structures import best_in_image
from .processing_medglip import UNKNOWN_LABEL, MedGlipProcessor, clean_label, split_prompt
from .questions import Question, encode_questions, make_question
from .trained_labels import TrainedLabels


MAX_LABELS = 1000
# From this probability on, pixels that look like another modality than the stated one are worth a warning; below the
# other one a guess from the pixels is.
SURE, UNSURE = 0.9, 0.7


@dataclass(frozen=True)
class Grounder:
    """A loaded checkpoint.

    Attributes:
        name: the folder's base name or the Hub id.
    """

    model: MedGlipForObjectDetection
    processor: MedGlipProcessor
    name: str
    device: torch.device

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that the checkpoint has experts for."""
        return tuple(self.model.config.modalities)

    @functools.cached_property
    def trained(self) -> TrainedLabels:
        """What the checkpoint states that it was trained with."""
        return TrainedLabels.of(self.model.config.to_dict())

    def wording(self, label: str, modality: str) -> str:
        """Return the words in which the network is asked for a label; see [`TrainedLabels.wording`]."""
        return self.trained.wording(label, modality)


# Loading -------------------------------------------------------------------------------------------------------------


def resolve_device(name: str = "auto") -> torch.device:
    """`"auto"`: CUDA, else MPS, else CPU, whichever is there first; else the named device.

    Raises:
        `UsageError`: no such device on this machine.
    """
    mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    found = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count())), *(["mps"] if mps else [])]
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in found:
        raise UsageError(f"no device {one_line(name, 40)!r} on this machine: choose auto or one of {', '.join(found)}")
    return torch.device(wanted)


def load(
    model_dir_or_id: str | Path | None = None,
    device: str = "auto",
    modality: str | None = None,
    base: str | Path | None = None,
) -> Grounder:
    """Load a checkpoint or an adapter, and its processor, for grounding.

    Args:
        model_dir_or_id: a folder, or a Hub id such as `"org/med-glip-ct"` (only then is the network asked, and only
            for what is not in the cache); the embedded checkpoint when `None`. Of a run of `training.fit.finetune` its
            folder, its `adapter/` or its `expert/`; an adapter is merged into its base, which is found by what it is.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`.
        modality: load only this modality's expert; all when `None` or `"auto"`.
        base: of an adapter whose base is neither the embedded checkpoint nor on the Hub: folder or id of the base.

    Raises:
        `CheckpointError`: missing, incomplete, or no MedGLIP checkpoint. `PickledCheckpointError`: pickled tensors.
        `UsageError`: the device or the modality does not exist here.
    """
    chosen = resolve_device(device)
    wanted = None if modality in (None, "auto") else _known_modality(str(modality))
    source, name = locate(model_dir_or_id)
    if is_adapter(source):
        adapted = load_adapted(source, f"adapter {name}", wanted, base)
        return Grounder(adapted.model.eval().to(chosen), adapted.processor, name, chosen)
    if base is not None:
        raise UsageError(f"checkpoint {name}: is not an adapter: leave out --base (base= in Python)")
    model, processor = load_checkpoint(source, name, wanted)
    return Grounder(model.eval().to(chosen), processor, name, chosen)


def _known_modality(name: str) -> str:
    try:
        return resolve_modality(name)
    except ValueError as error:
        raise UsageError(one_line(error)) from None


# Grounding -----------------------------------------------------------------------------------------------------------


def prompt_labels(prompt: str) -> list[str]:
    """The labels of a prompt, without repetitions, as the caller wrote them.

    Raises:
        `UsageError`: none, more than `MAX_LABELS`, or bytes that are no UTF-8 text.
    """
    if not prompt.isascii() and prompt.encode("utf-8", "replace").decode("utf-8") != prompt:
        raise UsageError("the prompt is not valid UTF-8 text")
    labels = [label for label in split_prompt(prompt) if clean_label(label)]
    if not labels:
        raise UsageError('the prompt is empty: name at least one label, for example "liver. spleen."')
    if len(labels) > MAX_LABELS:
        raise UsageError(f"the prompt has {len(labels)} labels, more than {MAX_LABELS}: split it")
    first: dict[str, str] = {}
    for label in labels:
        first.setdefault(clean_label(label), label)
    return list(first.values())


def asked_labels(grounder: Grounder, prompt: str, modality: str) -> list[str]:
    """Return the labels that a prompt asks for: its own or, for `"all"`, every one that the expert was trained with.

    Args:
        modality (`str`): one of `MODALITIES`; of the image.

    Raises:
        `UsageError`: as [`prompt_labels`]. `MedGlipError`: `"all"`, and the checkpoint does not say.
    """
    return grounder.trained.asked(prompt_labels(prompt), modality)


def ground_image(
    grounder: Grounder,
    image: ReadImage,
    prompt: str,
    modality: str = "auto",
    threshold: float = 0.3,
    untrained_threshold: float = UNTRAINED_THRESHOLD,
    all_boxes: bool = False,
) -> GroundingResult:
    """Find the regions of one picture that the labels of a prompt name.

    Args:
        grounder: see [`load`].
        image: see [`~modeling_medglip.io.image.read_image`].
        prompt: labels, separated by dots, commas or lines; `"all"` for every label that the expert was trained with.
        modality: a name, an alias, or `"auto"`: the header's, else what the pixels look like.
        threshold: lowest score to keep, 0 to 1.
        untrained_threshold: lowest score to keep of labels that the expert was not trained with, if that is higher.
        all_boxes: keep every box, also several of a structure that a patient has one of, and nested ones.

    Raises:
        `UsageError`: an unknown modality, no label or too many. `MedGlipError`: the checkpoint has no expert for the
        picture, or the picture cannot be used; names the file.
    """
    prompt_labels(prompt)  # a prompt without labels is found before anything else
    try:
        name, source, probability, notes = choose_modality(grounder, image, modality)
        labels = asked_labels(grounder, prompt, name)
        question = make_question(grounder.trained, labels, name)
        boxes = _boxes(grounder, image, question, name, (threshold, untrained_threshold))
    except UsageError:
        raise
    except ValueError as error:
        raise MedGlipError(f"{image.file}: {one_line(str(error).removeprefix('image 0: '))}") from error
    unknown = set(grounder.processor.unknown_labels(list(question.wordings.values())))
    notes += tuple(
        UNKNOWN_LABEL.format(one_line(label, 60)) for label in labels if question.wordings[label] in unknown
    )
    boxes = boxes if all_boxes else best_in_image(boxes, name)
    info = ImageInfo(image.file, image.width, image.height, name, image.spacing_mm)
    notes += question.notes(name, max(threshold, untrained_threshold))
    warnings = (*image.warnings, *notes)
    return GroundingResult(grounder.name, info, prompt, boxes, source, probability, warnings, question.trained)


def choose_modality(
    grounder: Grounder, image: ReadImage, modality: str = "auto"
) -> tuple[str, str, float | None, tuple[str, ...]]:
    """Which expert a picture goes to.

    Returns:
        the modality; where it comes from (`"given"`, `"header"`, `"pixels"`, or `"checkpoint"` if that has but one
        expert); the router's probability if the pixels
        decided; warnings about contradictions and doubts.

    Raises:
        `UsageError`: an unknown modality. `ValueError`: no expert for it, or the pixels cannot tell.
    """
    if modality != "auto":
        given = _known_modality(modality)
        _require_expert(grounder, given)
        return given, "given", None, _contradictions(grounder, image, given)
    if image.modality is not None:
        _require_expert(grounder, image.modality)
        return image.modality, "header", None, _contradictions(grounder, image, image.modality)
    if len(grounder.modalities) == 1:
        only = grounder.modalities[0]
        return only, "checkpoint", None, _contradictions(grounder, image, only)
    processor = grounder.processor.image_processor
    if processor.router is None:
        known = ", ".join(grounder.modalities)
        raise MedGlipError(
            f"its modality is not known and {grounder.name} cannot tell: give --modality, one of {known}"
        )
    name, probability = processor.predict_modality(image.pixels)
    _require_expert(grounder, name)
    note = f"taken for {name} with a probability of only {probability:.2f}: state it with --modality to be sure"
    return name, "pixels", probability, (note,) if probability < UNSURE else ()


def _require_expert(grounder: Grounder, modality: str) -> None:
    if modality not in grounder.modalities:
        known = ", ".join(grounder.modalities)
        raise MedGlipError(f"checkpoint {grounder.name} has no expert for {modality}: it has {known}")


def _contradictions(grounder: Grounder, image: ReadImage, stated: str) -> tuple[str, ...]:
    """Warnings when header or pixels speak against the modality that is used."""
    notes = []
    if image.modality not in (None, stated):
        notes.append(f"taken as {stated}, but its header says {image.modality}")
    else:
        view = modality_contradiction(stated, image.pixels, grounder.processor.image_processor, SURE)
        notes.extend([view] if view else [])
    return tuple(notes)


def _boxes(
    grounder: Grounder, image: ReadImage, question: Question, modality: str, thresholds: tuple[float, float]
) -> tuple[GroundedBox, ...]:
    processor = grounder.processor
    text = encode_questions(processor, [question])
    inputs = processor(
        images=image.pixels,
        modality=modality,
        photometric_interpretation=image.photometric_interpretation,
        return_tensors="pt",
    )
    inputs = BatchFeature({**text, **inputs}).to(grounder.device)
    with torch.inference_mode():
        outputs = grounder.model(**inputs)
    found = processor.post_process_grounded_object_detection(
        outputs, inputs, threshold=thresholds[0], target_sizes=[(image.height, image.width)]
    )[0]
    places = place_of_labels(list(question.labels), modality)
    return tuple(
        GroundedBox(label, score, (left, top, right - left, bottom - top), *places[label], question.trained[label])
        for label, score, (left, top, right, bottom) in question.answers(found, thresholds[1])
    )


def place_of_labels(labels: list[str], modality: str) -> dict[str, tuple[str | None, str | None, str | None]]:
    """Label -> (label_id, category, region) in the taxonomy."""
    from .taxonomy import load_taxonomy

    places: dict[str, tuple[str | None, str | None, str | None]] = {}
    for label in dict.fromkeys(labels):
        place = load_taxonomy().locate(label, modality)
        places[label] = (None, None, None) if place is None else (place.label_id, place.category, place.region)
    return places


__all__ = [
    "MAX_LABELS",
    "Grounder",
    "asked_labels",
    "choose_modality",
    "ground_image",
    "load",
    "locate",
    "place_of_labels",
    "prompt_labels",
    "resolve_device",
]
