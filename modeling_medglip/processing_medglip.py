# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Processor of MedGLIP: prompts and their label spans, training targets, and boxes out of the model's output."""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, TextKwargs
from transformers.utils import logging

from .configuration_medglip import REFUSED_FILES, ROUTER_FILE, check_checkpoint_files
from .image_processing_medglip import MedGlipImagesKwargs, as_arrays, check_annotation, post_process_boxes


logger = logging.get_logger(__name__)

SEPARATOR = ". "
# Most labels, and most tokens of a prompt, that a processor can be set to.
MAX_TEXT = 100_000
PROCESSOR_FILES = (
    "processor_config.json", "tokenizer_config.json", "tokenizer.json", ROUTER_FILE, *REFUSED_FILES[:1],
)  # fmt: skip
UNKNOWN_LABEL = "label {!r} has no word that the language encoder knows: boxes mean nothing"
# A dot or comma between two digits belongs to a number ("1.5 cm"), any other ends a label.
# Nor does one in brackets ("kidney (lt.)").
PROMPT_PARTS = re.compile(r"(?:\([^()\n;]*\)|\[[^\[\]\n;]*\]|\{[^{}\n;]*\}|(?![;\n]|(?<!\d)[.,]|[.,](?!\d))[\s\S])+")
# A side alone is not a label, in whatever language: "Lt. kidney" and "kidney, left" are one label each.
SHORT_SIDE = "(?:l|lt|lft|r|rt|rgt|sin|dext?|li|re|izq|der|dcho|dcha)"
FOREIGN_SIDE = "(?:links|rechts|(?:link|recht)e[mnrs]?|(?:link|recht)sseitig|gauche|droite?|izquierd[oa]|derech[oa])"
LONG_SIDE = f"(?:left|right|{FOREIGN_SIDE}|[左右][侧側边邊]?)"
LONE_SIDE = re.compile(
    rf"(?:(?:on|at|in) )?(?:(?:the|a) )?(?:patient['’]s )?(?:{SHORT_SIDE}|{LONG_SIDE})[ -]?(?:sided|(?:hand )?side)?",
    re.IGNORECASE,
)
ABBREVIATED = re.compile(rf"(?:(?:the|a) )?{SHORT_SIDE}", re.IGNORECASE)
# A label that names a side takes no other one.
SIDED = re.compile(
    rf"\b(?:{LONG_SIDE}|lt|lft|rt|rgt)\b|[左右]|^(?:{SHORT_SIDE})\b|[\s(_-](?:{SHORT_SIDE})(?=\.?\W*$)", re.IGNORECASE
)
# Side words that no label was trained with: long ones wherever they stand; those of one or two letters in front
# ("l kidney", not "l5" or "l spine"), at the end or in brackets ("kidney (r)").
SIDE_IN_A_LABEL = re.compile(
    rf"\b(?:{FOREIGN_SIDE}|lt|lft|rt|rgt)\b"
    r"|^(?:[lr]|li|re)\b(?!['’])(?=\W+[^\W\d])(?!\W+(?:spin|vertebra|level|dis[ck]|nerve|root|body))"
    rf"|(?<=[\s(/-]){SHORT_SIDE}(?=\W*$|\))"
)
PROMPT_PREFIX = re.compile(r"^\s*detect\s*:", re.IGNORECASE)
PROMPT_IN_A_LIST = re.compile(r"\.\s+\S.*\.\s*$", re.DOTALL)
NOT_IN_A_LABEL = re.compile(r"[.;,\[\]{}<>_]")


# Prompts -------------------------------------------------------------------------------------------------------------


def split_prompt(prompt: str) -> list[str]:
    """Return the labels of a prompt: `"liver. spleen."`, `"Detect: liver, spleen"`, or one label per line."""
    text = PROMPT_PREFIX.sub("", prompt)
    spans = _join_lone_sides(text, [part.span() for part in PROMPT_PARTS.finditer(text) if part[0].strip()])
    return [text[begin:end].strip() for begin, end in spans]


def _join_lone_sides(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join parts that are nothing but a side to the label before ("kidney, left") or behind them ("Lt. kidney")."""
    words = [text[begin:end].strip() for begin, end in spans]
    lone = [bool(LONE_SIDE.fullmatch(word)) for word in words]
    if not any(lone):
        return spans
    gaps = [text[end:begin] for (_, end), (begin, _) in pairwise(spans)]
    stops = ["\n" if "\n" in gap else gap.strip() for gap in gaps]
    between = [stop for stop, *two in zip(stops, lone, lone[1:], strict=False) if not any(two)]
    # The commas tell "liver. kidney, L. spleen" from "liver, spleen, L. kidney". No side is left over if that can be.
    follows = bool(between) and not any("," in stop for stop in between)
    joined = max((_joined_sides(words, lone, stops, choice) for choice in (follows, not follows)), key=len)
    starts = [index for index in range(len(spans)) if index not in joined]
    return [(spans[start][0], spans[end - 1][1]) for start, end in pairwise([*starts, len(spans)])]


def _joined_sides(words: Sequence[str], lone: Sequence[bool], stops: Sequence[str], follows: bool) -> set[int]:
    """Return the parts that belong to the part before them.

    Args:
        words (`Sequence[str]`): the parts of a prompt.
        lone (`Sequence[bool]`): whether each is nothing but a side.
        stops (`Sequence[str]`): the separators between the parts.
        follows (`bool`): whether "kidney, L. spleen" means the kidney's side.
    """
    free = [not alone and not SIDED.search(word.replace("_", " ")) for alone, word in zip(lone, words, strict=True)]
    joined = set()
    for index in (index for index, alone in enumerate(lone) if alone):
        before, after = stops[index - 1] if index else "", stops[index] if index < len(stops) else ""
        clear = follows or after != "." or not ABBREVIATED.fullmatch(words[index])
        if index and free[index - 1] and (before == "," or (before == "." and not after)) and clear:
            joined.add(index)
            free[index - 1] = False
        elif after in (".", ",") and free[index + 1]:
            joined.add(index + 1)
            free[index + 1] = False
    return joined


def clean_label(label: str) -> str:
    """Return a label in lower case, with single spaces, free of separators and of brackets."""
    return " ".join(NOT_IN_A_LABEL.sub(" ", label).lower().split())


def spell_out_side(label: str) -> str:
    """Return a label as the tokenizer sees it: clean, its side a whole English word, as labels are trained.

    `"kidney (L)"` becomes `"kidney (left)"`. GLIP has no such step; no other word is changed.
    """
    return SIDE_IN_A_LABEL.sub(lambda side: "left" if side[0][0] in "lsgi" else "right", clean_label(label))


def prompts_per_image(text: Any, count: int, batched: bool) -> list[list[str]]:
    """Return the labels of every image, as the caller wrote them.

    Args:
        text (`str`, `list[str]` or `list[list[str]]`): one prompt for all images, split at separators; the labels of a
            single image, or for a list of images of the same length one prompt each; or a list of labels per image.
        count (`int`): number of images.
        batched (`bool`): whether the images came as a list.

    Raises:
        `ValueError`: the number of prompts is not that of the images, or it holds something else than strings.
    """
    if isinstance(text, str):
        return [split_prompt(text)] * count
    if not isinstance(text, (list, tuple)):
        raise ValueError(f"text must be a string or a list, not {type(text).__name__}")
    flat = all(isinstance(part, str) for part in text)
    if flat and count == 1 and not (batched and len(text) == 1):
        # ["liver. spleen."] is a prompt in a list, as detectors of transformers take it
        return [split_prompt(text[0]) if len(text) == 1 and PROMPT_IN_A_LIST.search(text[0]) else list(text)]
    if len(text) != count:
        hint = "pass a list of labels for each image, or one string for all" if flat else "pass one per image"
        raise ValueError(f"{count} images but {len(text)} prompts: {hint}")
    prompts = [split_prompt(part) if isinstance(part, str) else list(part) for part in text]
    if not all(isinstance(label, str) for prompt in prompts for label in prompt):
        raise ValueError("every label must be a string")
    return prompts


def unique_labels(labels: Sequence[str], max_labels: int) -> tuple[list[str], list[str], list[int]]:
    """Return labels without repetitions.

    Args:
        labels (`Sequence[str]`): as the caller wrote them.
        max_labels (`int`): most labels.

    Returns:
        the labels as the caller wrote them, as the tokenizer sees them, and the position of each given label in both.

    Raises:
        `ValueError`: no label, an empty one, or more than `max_labels`.
    """
    if not labels:
        raise ValueError('the prompt is empty: name at least one label, for example "liver. spleen."')
    if len(labels) > max_labels:
        raise ValueError(f"the prompt has {len(labels)} labels, more than {max_labels}; split it")
    first: dict[str, int] = {}
    unique, positions = [], []
    for label in labels:
        cleaned = spell_out_side(label)
        if not cleaned:
            raise ValueError(f"the label {label!r} is empty")
        if cleaned not in first:
            first[cleaned] = len(first)
            unique.append(label)
        positions.append(first[cleaned])
    return unique, list(first), positions


def join_labels(labels: Sequence[str], final_separator: bool) -> tuple[str, np.ndarray]:
    """Return the prompt `"a. b. c"`, with a last dot if asked, and the character spans `(labels, 2)` in it."""
    spans, position = [], 0
    for label in labels:
        spans.append((position, position + len(label)))
        position += len(label) + len(SEPARATOR)
    return SEPARATOR.join(labels) + (SEPARATOR.strip() if final_separator else ""), np.array(spans)


class MedGlipProcessorKwargs(ProcessingKwargs, total=False):
    """Keyword arguments of [`MedGlipProcessor`]; see its `__call__`."""

    images_kwargs: MedGlipImagesKwargs  # type: ignore[misc]
    # Read by the oldest transformers that is supported, 5.20.
    _defaults = {}  # type: ignore[misc, var-annotated]


class MedGlipProcessor(ProcessorMixin):
    r"""
    Joins a [`MedGlipImageProcessor`] and a tokenizer.

    Args:
        image_processor ([`MedGlipImageProcessor`]): prepares images.
        tokenizer (`PreTrainedTokenizerFast`): encodes prompts; a fast one, whose offsets give the labels' tokens.
        max_labels (`int`, *optional*, defaults to 1000): most labels per image.
        max_text_tokens (`int`, *optional*, defaults to 256): most tokens per prompt, special ones included; labels
            beyond go into further prompts ("chunks") that share one pass of the image encoder.
        final_separator (`bool`, *optional*, defaults to `True`): close the last label with a dot too. GLIP has none.
    """

    valid_processor_kwargs = MedGlipProcessorKwargs  # type: ignore[assignment]

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        max_labels: int = 1000,
        max_text_tokens: int = 256,
        final_separator: bool = True,
    ) -> None:
        if not hasattr(type(image_processor), "predict_modality"):
            raise ValueError("the image processor must be a MedGlipImageProcessor")
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError("the tokenizer must be a fast one: label spans need its character offsets")
        for name, value in (("max_labels", max_labels), ("max_text_tokens", max_text_tokens)):
            if not isinstance(value, int) or not 0 < value <= MAX_TEXT:
                raise ValueError(f"{name} must be a whole number of 1 to {MAX_TEXT}, not {value!r}")
        super().__init__(image_processor, tokenizer)
        self.max_labels = max_labels
        self.max_text_tokens = max_text_tokens
        self.final_separator = final_separator

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a processor as `ProcessorMixin.from_pretrained` does, after its files are checked.

        Code of the checkpoint runs only where the caller passes `trust_remote_code=True`.

        Args:
            pretrained_model_name_or_path (`str` or `Path`): a folder or a Hub id.
            args (`Any`): see `ProcessorMixin.from_pretrained`.
            kwargs (`Any`): see `ProcessorMixin.from_pretrained`.

        Raises:
            `ValueError`: see [`check_checkpoint_files`], or the files do not describe a processor.
            `OSError`: the files are missing.
        """
        check_checkpoint_files(pretrained_model_name_or_path, PROCESSOR_FILES, **kwargs)
        if kwargs.get("trust_remote_code") is None:
            kwargs["trust_remote_code"] = False  # or transformers asks on the terminal
        try:
            processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
            processor.tokenizer("a.")  # a damaged one fails only when it is called
            return processor
        except (OSError, ValueError, ImportError):
            raise
        except Exception as error:  # tokenizers raise bare exceptions
            raise ValueError(f"{pretrained_model_name_or_path}: its processor cannot be loaded: {error}") from error

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write the settings, and the image processor's router beside them."""
        super().to_json_file(json_file_path)
        self.image_processor.save_router(Path(json_file_path))

    @property
    def model_input_names(self) -> list[str]:
        """Names of everything that a batch may hold for the model."""
        text = ["input_ids", "attention_mask", "label_tokens", "text_labels"]
        return [*self.image_processor.model_input_names, *text]

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        modality: str | Sequence[str] | None = None,
        annotations: Any = None,
        labels: Any = None,
        **kwargs: Any,  # with `Unpack`, type checkers would refuse the flat names
    ) -> BatchFeature:
        """Return the model's batch for images and prompts: `model(**processor(images=image, text="liver. spleen."))`.

        Args:
            images (`Any`, *optional*): one image or a list (see [`MedGlipImageProcessor`]).
            text (`str`, `list[str]` or `list[list[str]]`, *optional*): `"liver. spleen."` for all images; `["liver",
                "spleen"]`, the labels of a single image; for a list of images one prompt each; or a list of labels for
                each image. A label in a list may hold dots and commas; only a single `["liver. spleen."]`, of several
                parts that all end with a dot, is a prompt.
            modality (`str` or `list[str]`, *optional*): for all images or for each; an alias or `"auto"` will do.
            annotations (`dict` or `list[dict]`, *optional*): for training, per image `boxes` (n, 4), xyxy pixels of
                the original image with x2 = x + width, and `class_labels` (n,), positions in that image's labels or
                the labels themselves.
            labels (`dict` or `list[dict]`, *optional*): another name of `annotations`.
            kwargs ([`MedGlipProcessorKwargs`], *optional*): arguments of the image processor and of the tokenizer, by
                their own names or in the groups `images_kwargs`, `text_kwargs` and `common_kwargs`. `device` moves the
                whole batch. `padding` and `truncation` have no effect: prompts are padded to the longest, and labels
                that do not fit go into further chunks.

        Returns:
            what the image processor gives, `input_ids` and `attention_mask` (B, T), `label_tokens` bool (B, L, T)
            (with a further axis of chunks, (B, C, T) and (B, C, L, T), if the labels do not fit one prompt), and
            `text_labels`, the labels as the caller wrote them, once each.

        Raises:
            `ValueError`: an empty prompt, too many labels, prompts or annotations that do not fit the images, a box
                outside its image, and what the image processor refuses.
            `TypeError`: an unknown argument.
        """
        if images is None and text is None:
            raise ValueError("give images, text or both")
        options = self._options(kwargs)
        modality = options.pop("modality", None) if modality is None else modality
        if images is None:
            self._check_modality(modality)
        batched = isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4
        count = len(images) if batched else 1
        targets = _listed_annotations(labels if annotations is None else annotations, count)
        data: dict[str, Any] = {}
        if text is not None:
            encoded, positions = self.encode_prompts(prompts_per_image(text, count, batched))
            data.update(encoded)
            if targets is not None:
                targets = [
                    {**target, "class_labels": class_indices(target["class_labels"], positions[index], names, index)}
                    for index, (target, names) in enumerate(zip(targets, encoded["text_labels"], strict=True))
                ]
        if images is not None:
            data.update(self.image_processor(images, modality=modality, annotations=targets, **options))
        if options.get("return_tensors") not in (None, "pt"):
            return BatchFeature(as_arrays(data))
        batch = BatchFeature(data)
        return batch if options.get("device") is None else batch.to(options["device"])

    def _options(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the image processor's arguments, from their group or by their own names.

        Raises:
            `TypeError`: an unknown argument.
        """
        groups = MedGlipProcessorKwargs.__annotations__
        known = {*groups, "common_kwargs", *groups["images_kwargs"].__annotations__}
        for name in kwargs:
            if name not in known and name not in TextKwargs.__annotations__:
                raise TypeError(f"MedGlipProcessor got an unexpected keyword argument {name!r}")
        merged = self._merge_kwargs(MedGlipProcessorKwargs, **kwargs)  # type: ignore[arg-type]
        return merged["images_kwargs"]

    def _check_modality(self, modality: str | Sequence[str] | None) -> None:
        """Check the modality of images that come later.

        Raises:
            `ValueError`: an unknown modality.
        """
        for name in [modality] if isinstance(modality, str) else modality or ():
            if name != "auto":
                self.image_processor.resolve(name)

    def encode_prompts(self, prompts: Sequence[Sequence[str]]) -> tuple[dict[str, Any], list[list[int]]]:
        """Return the text part of the batch, and for each given label its position among the unique ones.

        Args:
            prompts (`Sequence[Sequence[str]]`): the labels of every image.

        Raises:
            `ValueError`: naming the image, for an empty prompt, an empty or overlong label, or too many labels.
        """
        entries: dict[tuple[str, ...], tuple[list[str], list[int], list[tuple[list[int], np.ndarray]]]] = {}
        for index, prompt in enumerate(prompts):
            if tuple(prompt) in entries:
                continue
            try:
                labels, cleaned, positions = unique_labels(prompt, self.max_labels)
                for label in self.unknown_labels(labels):
                    logger.warning(UNKNOWN_LABEL.format(label[:60]))
                entries[tuple(prompt)] = labels, positions, [self._encode(part) for part in self._chunks(cleaned)]
            except ValueError as error:
                raise ValueError(f"prompt of image {index}: {error}" if len(prompts) > 1 else str(error)) from None
        rows = [entries[tuple(prompt)] for prompt in prompts]
        data = self._pad([chunks for _, _, chunks in rows])
        return {**data, "text_labels": [list(labels) for labels, _, _ in rows]}, [row[1] for row in rows]

    def _chunks(self, labels: list[str]) -> list[list[str]]:
        """Cut a list of labels into prompts of at most `max_text_tokens` tokens, in order."""
        closed = [label + SEPARATOR.strip() for label in labels]
        lengths = [len(ids) for ids in self.tokenizer(closed, add_special_tokens=False)["input_ids"]]
        budget = self.max_text_tokens - self.tokenizer.num_special_tokens_to_add() + (not self.final_separator)
        chunks: list[list[str]] = []
        room = 0
        for label, length in zip(labels, lengths, strict=True):
            if length < 2:
                raise ValueError(f"the label {label!r} holds nothing that the tokenizer knows")
            if length > budget:
                raise ValueError(f"the label {label[:40]!r} has {length - 1} tokens, more than a prompt holds")
            if length > room:
                chunks.append([])
                room = budget
            chunks[-1].append(label)
            room -= length
        return chunks

    def _encode(self, labels: list[str]) -> tuple[list[int], np.ndarray]:
        """Return the token ids of one prompt (T,), and bool (L, T): the tokens in each label's characters."""
        prompt, spans = join_labels(labels, self.final_separator)
        encoding = self.tokenizer(prompt, return_offsets_mapping=True)
        begin, end = np.array(encoding["offset_mapping"]).T
        inside = (begin[None] < spans[:, 1:]) & (end[None] > spans[:, :1]) & (end > begin)[None]
        return encoding["input_ids"], inside

    def unknown_labels(self, labels: Sequence[str]) -> list[str]:
        """Return the labels without a single word that the language encoder knows: boxes for them mean nothing."""
        words = self.tokenizer([clean_label(label) for label in labels], add_special_tokens=False)["input_ids"]
        special = {self.tokenizer.unk_token_id, self.tokenizer.convert_tokens_to_ids(SEPARATOR.strip())}
        return [label for label, ids in zip(labels, words, strict=True) if set(ids) <= special]

    def _pad(self, prompts: list[list[tuple[list[int], np.ndarray]]]) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `attention_mask` and `label_tokens` of the chunks of every image, padded."""
        flat = [chunk for chunks in prompts for chunk in chunks]
        shape = len(prompts), max(map(len, prompts)), max(len(ids) for ids, _ in flat)
        input_ids = torch.full(shape, self.tokenizer.pad_token_id or 0)
        attention_mask = torch.zeros(shape, dtype=torch.int64)
        label_tokens = torch.zeros(*shape[:2], max(len(inside) for _, inside in flat), shape[2], dtype=torch.bool)
        for row, chunks in enumerate(prompts):
            for column, (ids, inside) in enumerate(chunks):
                input_ids[row, column, : len(ids)] = torch.tensor(ids)
                attention_mask[row, column, : len(ids)] = 1
                label_tokens[row, column, : len(inside), : len(ids)] = torch.from_numpy(inside)
        data = {"input_ids": input_ids, "attention_mask": attention_mask, "label_tokens": label_tokens}
        return {key: value[:, 0] for key, value in data.items()} if shape[1] == 1 else data

    def post_process_grounded_object_detection(
        self,
        outputs: Any,
        inputs: Any = None,
        threshold: float = 0.3,
        target_sizes: Any = None,
        nms_threshold: float = 0.6,
        max_detections: int = 100,
        pre_nms_threshold: float = 0.05,
        legacy_boxes: bool = False,
        *,
        input_ids: torch.Tensor | None = None,
        box_threshold: float | None = None,
        text_threshold: float | None = None,
    ) -> list[dict[str, Any]]:
        """Return boxes with scores and the caller's own labels.

        Args:
            outputs ([`MedGlipObjectDetectionOutput`]): what the model gave.
            inputs (`BatchFeature` or `Tensor`): the batch that the processor made for it; or its `input_ids`, from
                which labels are read back in lower case.
            threshold (`float`, *optional*, defaults to 0.3): see [`~image_processing_medglip.post_process_boxes`], as
                for the next five.
            target_sizes (`Sequence[Sequence[int]]`, *optional*): height and width of the original images, in whose
                pixels boxes are given.
            nms_threshold (`float`, *optional*, defaults to 0.6): largest overlap of two boxes of one label.
            max_detections (`int`, *optional*, defaults to 100): most boxes per image.
            pre_nms_threshold (`float`, *optional*, defaults to 0.05): lowest label score of a candidate.
            legacy_boxes (`bool`, *optional*, defaults to `False`): GLIP's own numbers.
            input_ids (`Tensor`, *optional*): Grounding DINO's name of `inputs`.
            box_threshold (`float`, *optional*): Grounding DINO's name of `threshold`.
            text_threshold (`float`, *optional*): Grounding DINO's, without effect: a box belongs to one whole label.

        Returns:
            per image, best first: `scores` (n,), `boxes` (n, 4) xyxy pixels where width = x2 - x1, `labels` (n,)
            positions in `inputs["text_labels"]`, `text_labels` list of n strings; of a model with a presence head also
            `presence`, label -> probability that the image shows it.

        Raises:
            `ValueError`: the inputs are not those of the outputs, or the outputs are not finite.
        """
        if box_threshold is not None:
            warnings.warn("box_threshold is Grounding DINO's name: use threshold", FutureWarning, stacklevel=2)
            threshold = box_threshold
        if text_threshold is not None:
            warnings.warn(
                "text_threshold has no effect: a box belongs to one whole label", FutureWarning, stacklevel=2
            )
        inputs = input_ids if inputs is None else inputs
        if isinstance(inputs, torch.Tensor):
            inputs = self._read_back(inputs, len(outputs.logits))
        if inputs is None or "label_tokens" not in inputs:
            raise ValueError("inputs hold no label_tokens: pass the batch that the processor made for these outputs")
        results = post_process_boxes(
            outputs,
            torch.as_tensor(inputs["label_tokens"]),
            threshold,
            target_sizes,
            nms_threshold,
            max_detections,
            pre_nms_threshold,
            legacy_boxes,
            input_sizes=inputs.get("input_sizes"),
        )
        names = inputs["text_labels"]
        return [_named(result, names[index]) for index, result in enumerate(results)]

    def _read_back(self, input_ids: torch.Tensor, batch: int) -> dict[str, Any]:
        """Return `label_tokens` and `text_labels` of token ids (1 or B, T) or (1 or B, C, T)."""
        ids = input_ids[:, None] if input_ids.ndim == 2 else input_ids
        special = {*self.tokenizer.all_special_ids} - {self.tokenizer.unk_token_id}
        ends = ids.new_tensor([*special, self.tokenizer.convert_tokens_to_ids(SEPARATOR.strip())])
        words = ~torch.isin(ids, ends)
        starts = words.clone()
        starts[..., 1:] &= ~words[..., :-1]
        number = starts.long().cumsum(-1) * words
        tokens = number[..., None, :] == torch.arange(1, int(number.max()) + 1, device=ids.device)[:, None]
        names = [
            [
                self.tokenizer.decode(row[inside])
                for row, labels in zip(rows, chunks, strict=True)
                for inside in labels
                if inside.any()
            ]
            for rows, chunks in zip(ids, tokens, strict=True)
        ]
        repeats = batch if len(ids) == 1 else 1
        return {"label_tokens": tokens.repeat(repeats, 1, 1, 1), "text_labels": names * repeats}


def _named(result: dict[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """Return the result of one image with the caller's own labels."""
    named = {**result, "text_labels": [labels[label] for label in result["labels"].tolist()]}
    if "presence" in result:
        named["presence"] = dict(zip(labels, result["presence"].tolist(), strict=True))
    return named


def _listed_annotations(annotations: Any, count: int) -> list[dict[str, Any]] | None:
    """Return one annotation per image, or `None` without any.

    Raises:
        `ValueError`: there are more or fewer than images, or one is not an annotation.
    """
    targets = [annotations] if isinstance(annotations, dict) else annotations
    if targets is not None and len(targets) != count:
        raise ValueError(f"{count} images but annotations of {len(targets)}")
    for index, target in enumerate(targets or ()):
        check_annotation(target, f"image {index}")
    return targets


def class_indices(class_labels: Any, positions: list[int], labels: list[str], image: int) -> list[int]:
    """Return the class labels of an annotation as positions among the unique labels.

    Args:
        class_labels (`Any`): positions in the given labels, or the labels themselves.
        positions (`list[int]`): of each given label, its position among the unique ones.
        labels (`list[str]`): the unique labels.
        image (`int`): index of the image, for messages.

    Raises:
        `ValueError`: naming the image, when a label is not in its prompt.
    """
    cleaned = {spell_out_side(label): position for position, label in enumerate(labels)}
    indices = []
    for value in class_labels.tolist() if hasattr(class_labels, "tolist") else class_labels:
        if isinstance(value, str) and spell_out_side(value) in cleaned:
            indices.append(cleaned[spell_out_side(value)])
        elif not isinstance(value, str) and 0 <= int(value) < len(positions):
            indices.append(positions[int(value)])
        else:
            raise ValueError(f"image {image}: the class label {value!r} is not among the labels of its prompt")
    return indices


MedGlipProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["MedGlipProcessor"]
