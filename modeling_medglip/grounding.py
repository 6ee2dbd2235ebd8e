# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Load a checkpoint once, then find what phrases name in images."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image

from .checkpoints.adapters import load_adapted
from .checkpoints.loading import is_adapter, load_checkpoint, locate
from .defaults import CT_WINDOW, UNTRAINED_THRESHOLD
from .detection import join_prompts, prepare_images, run_model
from .errors import MedGlipError, UsageError, hint_of, one_line
from .exported.runtime import is_exported, load_exported
from .image_processing_medglip import channels_first, upright_image
from .inference import fast_form
from .io.image import read_image
from .io.image_record import ReadImage
from .modality_choice import ModalityChoice, known_modality, modality_choices
from .modeling_medglip import MedGlipForObjectDetection
from .outputs.base import UNRECOGNIZED
from .outputs.results import GroundedBox, GroundingResult, ImageInfo
from .outputs.single_structures import best_in_image
from .processing_medglip import UNKNOWN_LABEL, MedGlipProcessor, clean_label, split_prompt
from .questions import Question, encode_groups, make_question
from .taxonomy import load_taxonomy
from .trained_labels import TrainedLabels


MAX_LABELS = 1000
# Encoded prompts that a loaded checkpoint keeps.
KEPT_PROMPTS = 32


@dataclass(frozen=True)
class Grounder:
    """A loaded checkpoint.

    Attributes:
        model ([`MedGlipForObjectDetection`]): in evaluation mode, on `device`.
        processor ([`MedGlipProcessor`]): its processor.
        name (`str`): the folder's base name or the Hub id.
        device (`torch.device`): where the model runs.
        compiled (`bool`): whether the model is compiled for inference.
    """

    model: MedGlipForObjectDetection
    processor: MedGlipProcessor
    name: str
    device: torch.device
    compiled: bool = False

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that the checkpoint has experts for."""
        return tuple(self.model.config.modalities)

    @functools.cached_property
    def fast(self) -> MedGlipForObjectDetection:
        """The model's form for inference, see [`~inference.fast_form`]; made once."""
        form = fast_form(self.model)
        return cast(MedGlipForObjectDetection, torch.compile(form)) if self.compiled else form

    @functools.cached_property
    def trained(self) -> TrainedLabels:
        """What the checkpoint states that it was trained with."""
        return TrainedLabels.of(self.model.config.to_dict())

    @property
    def ct_window(self) -> tuple[float, float]:
        """(center, width) in HU of the first window through which the network sees CT; overlays show the same."""
        settings = self.processor.image_processor.modality_settings.get("ct", {})
        center, width = settings.get("windows", [CT_WINDOW])[0]
        return float(center), float(width)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields: a copy makes its own form for inference, and encodes prompts with its own weights."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def wording(self, label: str, modality: str) -> str:
        """Return the words in which the network is asked for a label; see [`TrainedLabels.wording`]."""
        return self.trained.wording(label, modality)

    def encode(self, question: Question) -> dict[str, Any]:
        """Encode a prompt for any number of images; the last prompts are kept.

        Args:
            question ([`Question`]): labels in the words of one expert.

        Returns:
            `prompts` of [`Grounder.detect`]: tokens, labels and text features.

        Raises:
            `ValueError`: no label, or one that the tokenizer cannot read.
        """
        return dict(self._encoded(question.groups))

    @functools.cached_property
    def _encoded(self) -> Callable[[tuple[tuple[str, ...], ...]], dict[str, Any]]:
        return functools.lru_cache(KEPT_PROMPTS)(self._encode)

    def _encode(self, groups: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
        text = encode_groups(self.processor, [groups])
        tokens = {key: text[key].to(self.device) for key in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            return {**text, "text_features": self.fast.get_text_features(**tokens)}

    def detect(
        self,
        images: Sequence[Any],
        prompts: Sequence[Sequence[str]] | Mapping[str, Any],
        modality: str | Sequence[str],
        threshold: float = 0.3,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        photometric_interpretation: str | None = None,
    ) -> list[dict[str, Any]]:
        """Run a batch of images through the processor, the model and the post-processing.

        Args:
            images (`Sequence`): arrays, PIL images or tensors, as the image processor takes them.
            prompts (`Sequence[Sequence[str]]` or `Mapping[str, Any]`): the labels of each image, in the words for the
                network; or one prompt for all images, from [`Grounder.encode`].
            modality (`str` or `Sequence[str]`): of all images or of each, one of `MODALITIES`.
            threshold (`float`, *optional*, defaults to 0.3): lowest score to keep, 0 to 1.
            target_sizes (`Sequence[tuple[int, int]]`, *optional*): (height, width) of each image in whose pixels boxes
                are given; pixels of the network's input when left out.
            photometric_interpretation (`str`, *optional*): DICOM's, of all images.

        Returns:
            `list[dict]`: see [`MedGlipProcessor.post_process_grounded_object_detection`].

        Raises:
            `ValueError`: an image or a label that the processor refuses, or no expert for the modality.
        """
        text = dict(prompts) if isinstance(prompts, Mapping) else self.processor.encode_prompts(prompts)[0]
        features = text.pop("text_features", None)
        pixels = prepare_images(
            self.processor, images, modality, photometric_interpretation=photometric_interpretation
        )
        inputs = join_prompts(text, pixels, len(images)).to(self.device)
        outputs = run_model(self.fast, inputs, features)
        return self.processor.post_process_grounded_object_detection(
            outputs, inputs, threshold=threshold, target_sizes=target_sizes
        )


# Loading -------------------------------------------------------------------------------------------------------------


def resolve_device(name: str = "auto") -> torch.device:
    """Return the named device; for `"auto"` the first that this machine has of CUDA, MPS and CPU.

    Raises:
        `UsageError`: this machine has no such device.
    """
    mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count())), *(["mps"] if mps else [])]
    device = "cuda:0" if name == "cuda" else name
    if device not in devices:
        raise UsageError(
            f"no device {one_line(name, 40)!r} on this machine: choose auto or one of {', '.join(devices)}"
        )
    return torch.device(device)


def load_grounder(
    model_dir_or_id: str | Path | None = None,
    device: str = "auto",
    modality: str | None = None,
    base: str | Path | None = None,
    compile: bool = False,
) -> Grounder:
    """Load a checkpoint or an adapter, and its processor, for grounding.

    Args:
        model_dir_or_id (`str` or `Path`, *optional*): a folder, or a Hub id such as `"org/med-glip-ct"` (only then is
            the network used, and only for what is not in the cache); the embedded checkpoint when `None`. Of a run of
            `training.fit.finetune` its folder, its `adapter/` or its `expert/`; an adapter is merged into its base,
            which is found by its checksum.
        device (`str`, *optional*, defaults to `"auto"`): `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`.
        modality (`str`, *optional*): load only this modality's expert; all when `None` or `"auto"`.
        base (`str` or `Path`, *optional*): of an adapter whose base is neither the embedded checkpoint nor on the Hub:
            folder or id of the base.
        compile (`bool`, *optional*, defaults to `False`): compile the model with `torch.compile` when it is first
            used, and again for images of another size; on a CPU this needs a C++ compiler.

    Raises:
        `CheckpointError`: missing, incomplete, or not a MedGLIP checkpoint. `PickledCheckpointError`: pickled tensors.
        `UsageError`: the device or the modality does not exist here.
    """
    chosen = resolve_device(device)
    expert = None if modality in (None, "auto") else known_modality(str(modality))
    source, name = locate(model_dir_or_id)
    if is_adapter(source):
        adapted = load_adapted(source, f"adapter {name}", expert, base)
        return Grounder(adapted.model.eval().to(chosen), adapted.processor, name, chosen, compile)
    if base is not None:
        raise UsageError(f"checkpoint {name}: is not an adapter: leave out base=", hint="base")
    if is_exported(source):
        if compile or (device != "auto" and chosen.type != "cpu"):
            raise UsageError(f"checkpoint {name}: is exported: it runs on the CPU, and is not compiled")
        exported, processor = load_exported(Path(source), name, expert)
        return Grounder(exported, processor, name, torch.device("cpu"))
    model, processor = load_checkpoint(source, name, expert)
    return Grounder(model.eval().to(chosen), processor, name, chosen, compile)


def load(*args: Any, **kwargs: Any) -> Grounder:
    """Load a checkpoint by the old name of [`load_grounder`]."""
    message = "modeling_medglip.grounding.load is now load_grounder; the old name goes with the next release"
    warnings.warn(message, FutureWarning, stacklevel=2)
    return load_grounder(*args, **kwargs)


# Grounding -----------------------------------------------------------------------------------------------------------


def prompt_labels(prompt: str) -> list[str]:
    """Return the labels of a prompt, without repetitions, as the caller wrote them.

    Raises:
        `UsageError`: no label, more than `MAX_LABELS`, or invalid UTF-8.
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
        grounder ([`Grounder`]): the loaded checkpoint.
        prompt (`str`): see [`prompt_labels`].
        modality (`str`): of the image, one of `MODALITIES`.

    Raises:
        `UsageError`: as [`prompt_labels`]. `MedGlipError`: `"all"`, and the checkpoint does not say.
    """
    return grounder.trained.asked(prompt_labels(prompt), modality)


def ground_image(
    image: str | Path | Image.Image | np.ndarray | ReadImage,
    prompt: str,
    modality: str = "auto",
    model: str | Path | Grounder | None = None,
    device: str = "auto",
    *,
    threshold: float = 0.3,
    untrained_threshold: float = UNTRAINED_THRESHOLD,
    all_boxes: bool = False,
    frame: int | None = None,
) -> GroundingResult:
    """Find the regions of one image that the labels of a prompt name.

    Args:
        image (`str`, `Path`, `PIL.Image.Image`, `np.ndarray` or [`ReadImage`]): a file (PNG, JPEG, TIFF, DICOM ...),
            a PIL image, turned upright by its EXIF tag; or pixels: (height, width), or (height, width, 3) in RGB.
        prompt (`str`): labels, separated by dots, commas or lines; `"all"` for every label that the expert was
            trained with.
        modality (`str`, *optional*, defaults to `"auto"`): a name or an alias; `"auto"` takes the header's, else what
            the pixels look like.
        model (`str`, `Path` or [`Grounder`], *optional*): checkpoint or adapter, folder or id, or what
            `load_grounder` returned, which saves loading for every image; the embedded checkpoint when `None`.
        device (`str`, *optional*, defaults to `"auto"`): see [`load_grounder`].
        threshold (`float`, *optional*, defaults to 0.3): lowest score to keep, 0 to 1.
        untrained_threshold (`float`, *optional*, defaults to 0.9): lowest score to keep of labels that the expert was
            not trained with, if that is higher.
        all_boxes (`bool`, *optional*, defaults to `False`): keep every box, also several of a structure that a patient
            has one of, and nested ones.
        frame (`int`, *optional*): of a file that holds several, counted from 1.

    Returns:
        [`GroundingResult`]: boxes in pixels of the image, best first.

    Raises:
        `UsageError`: an unknown modality, no label or too many. `MedGlipError`: the image cannot be read or used, or
        the checkpoint has no expert for it; names the file.
    """
    prompt_labels(prompt)  # a prompt without labels is reported before anything is read or loaded
    read = _read(image, frame)
    grounder = as_grounder(model, device, modality)
    try:
        labels, thresholds = prompt_labels(prompt), (threshold, untrained_threshold)
        choices = modality_choices(grounder, read, modality, labels)
        answers = _answers(grounder, read, labels, choices, thresholds)
        choice, question, boxes, presence = max(answers, key=_plausibility)
    except UsageError:
        raise
    except ValueError as error:
        text = one_line(str(error).removeprefix("image 0: "))
        raise MedGlipError(f"{read.file}: {text}", hint=hint_of(error)) from error
    notes: tuple[str, ...] = ()
    if choice.source != UNRECOGNIZED:  # nothing was asked
        notes = _unknown_labels(grounder, question) + question.notes(choice.name, max(threshold, untrained_threshold))
    return GroundingResult(
        model=grounder.name,
        image=ImageInfo(read.file, read.width, read.height, choice.name, read.spacing_mm),
        prompt=prompt,
        boxes=boxes if all_boxes else best_in_image(boxes, choice.name),
        modality_source=choice.source,
        modality_probability=choice.probability,
        warnings=(*read.warnings, *choice.warnings, *notes),
        trained=question.trained,
        presence=presence,
        open_image=functools.partial(_read, image, frame),
    )


class _Answer(NamedTuple):
    """What one expert finds: its choice, the question to it, boxes, and each label's presence."""

    choice: ModalityChoice
    question: Question
    boxes: tuple[GroundedBox, ...]
    presence: Mapping[str, float]


def _answers(
    grounder: Grounder,
    image: ReadImage,
    labels: Sequence[str],
    choices: Sequence[ModalityChoice],
    thresholds: tuple[float, float],
) -> list[_Answer]:
    """Ask the experts that are tried; only the likeliest must be able to take the image."""
    answers = [_answer(grounder, image, labels, choices[0], thresholds)]
    for choice in choices[1:]:
        with contextlib.suppress(ValueError):  # such as the values of an MR slice, which no photograph has
            answers.append(_answer(grounder, image, labels, choice, thresholds))
    return answers


def _answer(
    grounder: Grounder,
    image: ReadImage,
    labels: Sequence[str],
    choice: ModalityChoice,
    thresholds: tuple[float, float],
) -> _Answer:
    """Ask an expert; nothing is searched for in an unrecognized image."""
    question = make_question(grounder.trained, labels, choice.name)
    if choice.source == UNRECOGNIZED:
        return _Answer(choice, question, (), {})
    return _Answer(choice, question, *_boxes(grounder, image, question, choice.name, thresholds))


def _plausibility(answer: _Answer) -> float:
    """Return the probability of the expert times the score of its best box."""
    probability = 1.0 if answer.choice.probability is None else answer.choice.probability
    return probability * max((box.score for box in answer.boxes), default=0.0)


def _unknown_labels(grounder: Grounder, question: Question) -> tuple[str, ...]:
    """Return a warning for every label that the tokenizer cannot read."""
    unknown = set(grounder.processor.unknown_labels(list(question.wordings.values())))
    labels = [label for label in question.labels if question.wordings[label] in unknown]
    return tuple(UNKNOWN_LABEL.format(one_line(label, 60)) for label in labels)


def as_grounder(model: Any, device: str = "auto", modality: str = "auto") -> Grounder:
    """Return a loaded checkpoint: the given one, or that of a folder or id.

    Args:
        model ([`Grounder`], `str`, `Path` or `None`): see [`load_grounder`].
        device (`str`, *optional*, defaults to `"auto"`): see [`load_grounder`].
        modality (`str`, *optional*, defaults to `"auto"`): see [`load_grounder`].

    Raises:
        `UsageError`: `model` is something else. Others as [`load_grounder`].
    """
    if isinstance(model, Grounder):
        return model
    if model is not None and not isinstance(model, (str, Path)):
        raise UsageError(f"model: give a folder, an id or a Grounder, not a {type(model).__name__}")
    return load_grounder(model, device, modality)


def _read(image: Any, frame: int | None) -> ReadImage:
    """Read a file, or take pixels that the caller has already."""
    if isinstance(image, ReadImage):
        return image
    if isinstance(image, (str, Path)):
        return read_image(image, frame)
    if isinstance(image, Image.Image):
        return ReadImage(_pixels(image), "image")
    if isinstance(image, np.ndarray):
        return ReadImage(image, "image")
    raise UsageError(f"image: give a file, a PIL image or a NumPy array, not a {type(image).__name__}")


def _pixels(image: Image.Image) -> np.ndarray:
    """Return an upright PIL image in its own numbers: (height, width), or (height, width, 3)."""
    try:
        planes = channels_first(upright_image(image))
    except ValueError as error:
        raise MedGlipError(f"image: {one_line(error)}") from None
    return planes[0] if len(planes) == 1 else np.moveaxis(planes, 0, -1)


def _boxes(
    grounder: Grounder, image: ReadImage, question: Question, modality: str, thresholds: tuple[float, float]
) -> tuple[tuple[GroundedBox, ...], dict[str, float]]:
    """Return the boxes of one image over the thresholds (of trained labels, of others), and each label's presence."""
    results = grounder.detect(
        [image.pixels],
        grounder.encode(question),
        modality,
        thresholds[0],
        [(image.height, image.width)],
        image.photometric_interpretation,
    )
    taxonomy = locate_labels(question.labels, modality)
    boxes = tuple(
        GroundedBox(label, score, (left, top, right - left, bottom - top), *taxonomy[label], question.trained[label])
        for label, score, (left, top, right, bottom) in question.answers(results[0], thresholds[1])
    )
    return boxes, question.presence(results[0])


def locate_labels(labels: Sequence[str], modality: str) -> dict[str, tuple[str | None, str | None, str | None]]:
    """Return label -> (label_id, category, region) in the taxonomy; `None` for a phrase outside it.

    Args:
        labels (`Sequence[str]`): in any language of the taxonomy.
        modality (`str`): of the image, one of `MODALITIES`.
    """
    entries = {label: load_taxonomy().locate(label, modality) for label in labels}
    return {
        label: (None, None, None) if entry is None else (entry.label_id, entry.category, entry.region)
        for label, entry in entries.items()
    }


__all__ = [
    "MAX_LABELS",
    "Grounder",
    "as_grounder",
    "asked_labels",
    "ground_image",
    "load",
    "load_grounder",
    "locate_labels",
    "prompt_labels",
    "resolve_device",
]
