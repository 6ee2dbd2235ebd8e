# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Dataset and collator of one modality: records -> normalized, augmented images with prompts and boxes.

The image processor normalizes, windows and standardizes here as it does when the model is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from modeling_medglip.errors import one_line
from modeling_medglip.image_processing_medglip import (
    MedGlipImageProcessor,
    channels_first,
    deduced_hounsfield,
    luminance,
)
from modeling_medglip.taxonomy import means_a_side

from .augmentation import (
    IDENTITY,
    AugmentationFlags,
    AugmentationRecipe,
    Geometry,
    draw_geometry,
    shrunk,
    visible_share,
)
from .effects import draw_effects
from .image_cache import CachedImage, ImageCache
from .negative_images import NegativeImages
from .photometry import display_values, draw_photometry, draw_window
from .prompts import PromptRecipe, PromptSampler, rough_token_length
from .records import UNREADABLE, GroundingRecord, image_error
from .unlearned import LabelSet, UnlearnedPhrases
from .validation import too_many
from .vocabulary import Vocabulary


# Decoded images stay in memory at this multiple of the input side: zooming in needs more pixels than the input has.
CACHE_SIDE = 1.35
CACHE_BYTES = 2 << 30
AIR_HU = -1000.0
# Range of int16, in which HU are cached.
LOWEST_HU, HIGHEST_HU = -32000, 32000
logger = logging.getLogger(__name__)
_has_side = lru_cache(maxsize=4096)(means_a_side)


class GroundingDataset(Dataset):
    """Images of one modality with prompts.

    Args:
        records (`Sequence[GroundingRecord]`): all of one modality.
        image_processor ([`MedGlipImageProcessor`]): its normalization, input size, mean and deviation are used.
        size (`int` or `(height, width)`, *optional*): input size; the image processor's when not given.
        train (`bool`, defaults to `True`): augment, draw prompts and balance the sources; else every image exactly as
            the image processor prepares it, asked for every label that its source annotates.
        seed (`int`, defaults to 0): with the epoch and the index it decides everything random.
        prompts ([`PromptRecipe`], *optional*): how prompts are drawn.
        augmentation ([`AugmentationRecipe`], *optional*): how images are augmented.
        foreign (`dict[str, tuple[str, ...]]`, *optional*): source -> labels, for negatives of other body parts.
        token_length (`Callable[[str], int]`, *optional*): tokens of a phrase with its separator.
        cache_bytes (`int`): decoded images, negative ones too, stay in memory up to so many bytes, in each process;
            the others are decoded again.
        negatives (`tuple[float, Sequence[GroundingRecord]]`, *optional*): share of the images that are replaced by one
            that shows nothing of the modality, and the records of all modalities that these are taken from.
        unlearned ([`UnlearnedPhrases`], *optional*): phrases that are answered with nothing.
        left_out ([`LabelSet`], *optional*): labels held out of training.
        balance (`float`): labels that fewer than this share of the images show come more often, see
            [`repeat_factors`]; 0 leaves it at the weights of the sources.

    Raises:
        `ValueError`: no records, or records of several modalities.
    """

    def __init__(
        self,
        records: Sequence[GroundingRecord],
        image_processor: MedGlipImageProcessor,
        size: int | tuple[int, int] | None = None,
        train: bool = True,
        seed: int = 0,
        prompts: PromptRecipe | None = None,
        augmentation: AugmentationRecipe | None = None,
        foreign: dict[str, tuple[str, ...]] | None = None,
        token_length: Callable[[str], int] = rough_token_length,
        cache_bytes: int = CACHE_BYTES,
        balance: float = 0.0,
        negatives: tuple[float, Sequence[GroundingRecord]] = (0.0, ()),
        unlearned: UnlearnedPhrases | None = None,
        left_out: LabelSet | None = None,
    ) -> None:
        modalities = {record.modality for record in records}
        if len(modalities) != 1:
            raise ValueError(f"a dataset needs records of one modality, not of {sorted(modalities) or 'none'}")
        self.records, self.modality = list(records), modalities.pop()
        factors = repeat_factors(self.records, balance)
        self._weights = np.array([r.weight for r in self.records], np.float64) * factors
        self.image_processor, self.train, self.seed, self.epoch = image_processor, train, seed, 0
        settings = image_processor.modality_settings[self.modality]
        size = size or (settings["size"]["height"], settings["size"]["width"])
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else size
        self.augmentation = augmentation or AugmentationRecipe()
        self.sampler = PromptSampler(
            Vocabulary.load(), foreign or {}, prompts or PromptRecipe(), token_length, unlearned, left_out
        )
        self._cache = ImageCache(cache_bytes)
        self._negatives = NegativeImages(negatives[1], self.modality, negatives[0], self._negative_pixels, self._cache)
        # Shared with the loader's processes, which start anew every epoch: 1 for an image that is broken.
        self._broken = torch.zeros(len(self.records), dtype=torch.uint8).share_memory_()
        self._order: NDArray[np.int64] = np.arange(len(self.records))
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch: which images come how often (by the weights of their records) is drawn anew.

        The length stays the same.
        """
        self.epoch = epoch
        if self.train:
            weights = np.cumsum(self._weights)
            count = max(1, round(weights[-1]))
            start = np.random.default_rng([self.seed, epoch]).random()
            self._order = np.searchsorted(weights, (np.arange(count) + start) * weights[-1] / count, side="right")
            self._order = np.minimum(self._order, len(self.records) - 1)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one example.

        Returns:
            `dict`: `pixel_values` of shape `(3, h, w)`, `text_labels`, `labels` (boxes xyxy in input pixels, where
            width = x2 - x1 + 1, and `class_labels`) and `modality`.
        """
        number = int(self._order[index])
        if not self.train:
            return self._as_served(self.records[number])
        record, image = self._whole(number)
        rng = np.random.default_rng([self.seed, self.epoch, index, 1])
        if self._negatives.share and rng.random() < self._negatives.share:
            return self._negative(record, rng)
        boxes = (record.boxes / np.array(record.size * 2)).astype(np.float32)
        recipe = self.augmentation.for_one_image(rng)
        geometry = draw_geometry(boxes, augmentation_flags(record), recipe, rng, record.size)
        visible, labels, annotated = self._visible(record, geometry.map_boxes(boxes, record.unit_outlines()))
        if record.annotated and not annotated:  # a close-up cut all of it: there would be nothing to ask
            geometry = IDENTITY
            visible, labels, annotated = self._visible(record, boxes)
        annotated += [label for label in record.excluded_labels if not self._is_left_out(label)]
        prompt = self.sampler.draw(labels, annotated, record.settings.regions, rng, record.possible_labels)
        return {
            "pixel_values": self._pixels(record, image, geometry, visible, recipe, rng),
            "text_labels": list(prompt.phrases),
            "labels": self._targets(visible[list(prompt.boxes)], list(prompt.classes)),
            "modality": self.modality,
        }

    def _is_left_out(self, label: str) -> bool:
        """Return whether a label means one that is held out of training, or a kind of it."""
        left_out = self.sampler.left_out
        return left_out is not None and left_out.narrows(label)

    def shown(self, index: int) -> GroundingRecord:
        """Return the record that example `index` of this epoch comes from, if it can be read."""
        return self.records[int(self._order[index])]

    def _negative(self, record: GroundingRecord, rng: np.random.Generator) -> dict[str, Any]:
        """Return an image that shows nothing of the modality, asked for what the source of a record annotates."""
        prompt = self.sampler.draw([], record.annotated, record.settings.regions, rng)
        recipe, nothing = self.augmentation.for_one_image(rng), np.zeros((0, 4), np.float32)
        geometry = draw_geometry(nothing, replace(augmentation_flags(record), close_ups=False), recipe, rng)
        values = self._negatives.draw(self.size, rng)
        values = geometry.resample(values, self.size, surroundings=recipe.draw_surroundings(rng))
        return {
            "pixel_values": self._changed(values, nothing, record, recipe, rng),
            "text_labels": list(prompt.phrases),
            "labels": self._targets(nothing, []),
            "modality": self.modality,
        }

    def _negative_pixels(self, record: GroundingRecord) -> torch.Tensor:
        """Return an image of another modality as it would be exported to 8 bits: `(1 or 3, h, w)` in [0, 1]."""
        return self._shrink(torch.from_numpy(display_values(channels_first(record.load()))))

    def _as_served(self, record: GroundingRecord) -> dict[str, Any]:
        """Return what the image processor makes of a record, with every annotated label asked as it is."""
        classes = [record.annotated.index(label) for label in record.labels]
        height, width = self.size
        batch = self.image_processor(
            record.load(),
            modality=self.modality,
            annotations=[{"boxes": record.boxes, "class_labels": classes}],
            size={"height": height, "width": width},
        )
        return {
            "pixel_values": batch["pixel_values"][0],
            "text_labels": list(record.annotated),
            "labels": batch["labels"][0],
            "modality": self.modality,
        }

    def _whole(self, number: int) -> tuple[GroundingRecord, CachedImage]:
        """Return a record with its image, or the next one that can be read. Broken ones are named once and counted.

        Raises:
            `ValueError`: more than `validation.MOST_BROKEN` of the images are broken.
        """
        for index in (*range(number, len(self.records)), *range(number)):
            try:
                return self.records[index], self.image(index)
            except UNREADABLE as error:
                self._report_broken(index, error)
        raise ValueError("no image can be read: mend the data")

    def _report_broken(self, index: int, error: Exception) -> None:
        if not self._broken[index]:
            self._broken[index] = 1
            logger.warning("left out: %s", image_error(self.records[index].image_id, error))
        count = int(self._broken.sum())
        if too_many(count, len(self.records)):
            first = self.records[int(self._broken.argmax())].image_id
            raise ValueError(
                f"{count} of {len(self.records)} images cannot be read: mend the data; "
                f"the first is {one_line(first, 80)}"
            )

    def broken(self) -> dict[str, str]:
        """Return the images that were broken so far, by this process and those of the loader, with the reason."""
        records = [self.records[index] for index in self._broken.nonzero()[:, 0].tolist()]
        negatives = {f"{one.modality}/{one.source}/{one.image_id}": one for one in self._negatives.broken()}
        return {record.image_id: self._reason(record, self._decode) for record in records} | {
            name: self._reason(record, self._negative_pixels) for name, record in negatives.items()
        }

    @staticmethod
    def _reason(record: GroundingRecord, decode: Callable[[GroundingRecord], Any]) -> str:
        try:
            decode(record)
        except UNREADABLE as error:
            return one_line(error, 120)
        return "could not be read at first"

    def preload(self) -> None:
        """Decode every image now instead of at its first use."""
        for number in range(len(self.records)):
            self._whole(number)

    def release(self) -> None:
        """Free the memory of the decoded images."""
        self._cache.clear()

    def image(self, number: int) -> CachedImage:
        """Return the decoded image of record `number`, which stays in memory while there is room."""
        return self._cache.get(number, partial(self._decode, self.records[number]))

    def _decode(self, record: GroundingRecord) -> CachedImage:
        pixels = record.load()
        hounsfield = self._hounsfield(record, pixels) if self.modality == "ct" else None
        if hounsfield is None:
            image = self._shrink(self.image_processor.normalize_image(pixels, self.modality))
            image = image[:1] if torch.equal(image[0], image[1]) and torch.equal(image[0], image[2]) else image
            return CachedImage((image * 255).round_().clamp_(0, 255).byte())
        settings = self.image_processor.modality_settings["ct"]
        if record.is_hounsfield:
            center, width = settings["windows"][0]
            display = (center - width / 2, center + width / 2)
        else:  # as it came, stretched by its percentiles
            low, high = np.percentile(hounsfield, settings["percentiles"])
            display = (float(low), float(max(high, low + 1)))
        values = self._shrink(torch.from_numpy(hounsfield)[None]).round_().clamp_(LOWEST_HU, HIGHEST_HU)
        return CachedImage(values.short(), display)

    @staticmethod
    def _hounsfield(record: GroundingRecord, pixels: NDArray) -> NDArray[np.float32] | None:
        """Return a CT image `(h, w)` in HU: measured ones, or gray levels through the window of the source.

        `None` where the window is not known: the image processor then decides. It knows no window of a source itself.
        """
        array, window = channels_first(pixels), record.settings.window
        if record.is_hounsfield:
            return luminance(array)
        if array.dtype != np.uint8 or window is None:
            return None
        if isinstance(window, str):  # each image has its own
            return deduced_hounsfield(array)
        low, high = window
        return low + luminance(array) * np.float32((high - low) / 255)

    def _shrink(self, image: torch.Tensor) -> torch.Tensor:
        return shrunk(image, int(CACHE_SIDE * max(self.size)))

    def _visible(
        self, record: GroundingRecord, boxes: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], list[str], list[str]]:
        """Return the clipped boxes, their labels, and the labels that can still be asked.

        A label with a box of which too little is left can be neither positive nor negative.
        """
        share = visible_share(boxes)
        cut = {label for label, part in zip(record.labels, share, strict=True) if 0 < part < self.augmentation.drop}
        index = [i for i, label in enumerate(record.labels) if share[i] > 0 and label not in cut]
        annotated = [label for label in record.annotated if label not in cut]
        return np.clip(boxes[index], 0, 1), [record.labels[i] for i in index], annotated

    def _pixels(
        self,
        record: GroundingRecord,
        image: CachedImage,
        geometry: Geometry,
        boxes: NDArray[np.float32],
        recipe: AugmentationRecipe,
        rng: np.random.Generator,
    ) -> torch.Tensor:
        """Return the normalized pixels; `boxes` are the visible ones, in units of the image."""
        if image.display is None:
            values = image.pixels.float().div_(255)
            values = geometry.resample(values, self.size, surroundings=recipe.draw_surroundings(rng))
        else:
            hounsfield = image.pixels.float()
            hounsfield = geometry.resample(hounsfield, self.size, float(hounsfield.min()))
            values = self._windowed(hounsfield, image.display, recipe, rng)
        return self._changed(values, boxes, record, recipe, rng)

    def _changed(
        self,
        values: torch.Tensor,
        boxes: NDArray[np.float32],
        record: GroundingRecord,
        recipe: AugmentationRecipe,
        rng: np.random.Generator,
    ) -> torch.Tensor:
        """Return the standardized pixels of an image `(1 or 3, h, w)` in [0, 1] after effects and photometry."""
        if recipe.effects[1] and record.settings.effects:
            values = draw_effects(values, boxes, record.settings.effects, recipe.effects, rng)
        values = draw_photometry(values, record.settings.color, recipe, rng)
        return self.image_processor.standardize(values.expand(3, -1, -1), self.modality).contiguous()

    def _windowed(
        self,
        hounsfield: torch.Tensor,
        display: tuple[float, float],
        recipe: AugmentationRecipe,
        rng: np.random.Generator,
    ) -> torch.Tensor:
        """Return `(1 or 3, h, w)` in [0, 1]: HU through the windows of the image processor, or through a drawn one."""
        if rng.random() >= recipe.hounsfield_share:
            low, high = draw_window(display, rng)
            return ((hounsfield - low) / (high - low)).clamp_(0, 1)
        stretch, offset = recipe.hounsfield_jitter
        gain, shift = 1 + rng.uniform(-stretch, stretch), AIR_HU + rng.uniform(-offset, offset)
        return self.image_processor.normalize_image((hounsfield - AIR_HU) * gain + shift, self.modality)

    def _targets(self, boxes: NDArray[np.float32], classes: list[int]) -> dict[str, torch.Tensor]:
        """Return boxes `(n, 4)`, xyxy in units of the image, in input pixels where width = x2 - x1 + 1.

        The image processor's own conversion refuses boxes within the first pixel, which a close-up can leave.
        """
        height, width = self.size
        pixels = boxes * np.array([width, height] * 2, dtype=np.float32) - np.array([0, 0, 1, 1], dtype=np.float32)
        return {
            "boxes": torch.from_numpy(pixels.astype(np.float32)).reshape(-1, 4),
            "class_labels": torch.tensor(classes, dtype=torch.int64),
        }


def augmentation_flags(record: GroundingRecord) -> AugmentationFlags:
    """Return what may be done to an image: its source's settings, less what a side in one of its labels forbids.

    Turns by any angle need the outline of every object.
    """
    settings = record.settings
    flags = AugmentationFlags(**{field.name: getattr(settings, field.name) for field in fields(AugmentationFlags)})
    if any(tuple(box) not in record.outlines for box in record.boxes.tolist()):
        flags = replace(flags, turns=False)
    return flags.with_sides() if settings.sides == "image" and any(map(_has_side, record.labels)) else flags


def repeat_factors(records: Sequence[GroundingRecord], balance: float) -> NDArray[np.float64]:
    """Return the repeat factor of every record, `(records,)`, by which images of rare labels come more often.

    It is the largest of `sqrt(balance / share)` over the labels of an image, at least 1, where `share` is that of the
    images with the label (repeat factor sampling, Gupta et al., LVIS, 2019).

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        balance (`float`): share of the images below which a label counts as rare, 0 to 1.
    """
    shown: dict[str, float] = {}
    for record in records:
        for label in set(record.labels):
            shown[label] = shown.get(label, 0.0) + record.weight
    total = sum(record.weight for record in records)
    factors = {label: max(1.0, (balance * total / weight) ** 0.5) for label, weight in shown.items() if weight}
    return np.array([max((factors.get(label, 1.0) for label in record.labels), default=1.0) for record in records])


def foreign_labels(records: Sequence[GroundingRecord]) -> dict[str, tuple[str, ...]]:
    """Return the labels of every source, from which [`PromptSampler`] draws negatives of other body parts."""
    by_source: dict[str, set[str]] = {}
    for record in records:
        by_source.setdefault(f"{record.modality}/{record.source}", set()).update(record.annotated)
    return {source: tuple(sorted(labels)) for source, labels in by_source.items()}


class GroundingCollator:
    """Collates examples of a [`GroundingDataset`] into the batch that the model takes.

    Args:
        processor ([`~modeling_medglip.MedGlipProcessor`]): its prompt encoding is used.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch, without a pixel mask since all images have the same size.

        Returns:
            `dict`: `pixel_values` (B, 3, H, W), `input_ids` and `attention_mask` (B, T), `label_tokens` (B, L, T),
            `text_labels`, `labels` and `modality`.
        """
        encoded, positions = self.processor.encode_prompts([example["text_labels"] for example in examples])
        targets = [example["labels"] for example in examples]
        labels = [
            {"boxes": target["boxes"], "class_labels": torch.tensor(indices)[target["class_labels"]]}
            for target, indices in zip(targets, positions, strict=True)
        ]
        return {
            "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
            **encoded,
            "labels": labels,
            "modality": [example["modality"] for example in examples],
        }


class PhraseLength:
    """Counts the tokens of a phrase with its separator, and caches the counts."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._seen: dict[str, int] = {}

    def __call__(self, phrase: str) -> int:
        """Return the number of tokens of `phrase` followed by a full stop."""
        if phrase not in self._seen:
            self._seen[phrase] = len(self.tokenizer(f"{phrase}.", add_special_tokens=False)["input_ids"])
        return self._seen[phrase]
