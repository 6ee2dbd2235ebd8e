# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""One record per annotated image, whether it comes from a built data set or from a COCO file.

A record knows which labels its source annotates wherever they occur (`annotated`). Only those serve as negatives: an
organ that nobody drew may be there.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.errors import one_line
from modeling_medglip.io.text_files import load_yaml
from modeling_medglip.taxonomy import means_a_side

from ..old_names import SOURCE_SETTINGS, with_new_names
from .effects import EFFECTS
from .outlines import Outlines


logger = logging.getLogger(__name__)
SETTINGS_FILE = Path(__file__).with_name("source_settings.yaml")
# What `make data` builds.
DEFAULT_DATA = os.environ.get("MEDGLIP_DATA", "out/data")
SPLITS = ("train", "validation", "test")
# Where a label with a side forbids flips and turns: in all images of its source, in its image, nowhere.
SIDES = ("source", "image", "none")
# What reading a broken image raises.
UNREADABLE = (OSError, ValueError, SyntaxError)
LUNG, LUNG_SIDES = "lung", ("left lung", "right lung")


@dataclass(frozen=True)
class SourceSettings:
    """How training treats a source; see the comments in `source_settings.yaml`."""

    weight: float = 1.0
    regions: tuple[str, ...] = ()
    window: tuple[float, float] | str | None = None
    channels: tuple[int, ...] = ()
    horizontal_flip: bool = False
    vertical_flip: bool = False
    quarter_turns: bool = False
    rotate: bool = False
    close_ups: bool = False
    color: bool = False
    turns: bool = False
    zoom_out: tuple[float, float] | None = None
    sides: str = "source"
    effects: tuple[tuple[str, float], ...] = ()
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class GroundingRecord:
    """One image with its boxes.

    Args:
        modality (`str`): as in `MODALITIES`.
        source (`str`): where it comes from.
        image_id (`str`): unique within the source.
        view_of (`str`, *optional*): the image of which a single channel is shown.
        patient (`str`): all images of one patient share it.
        split (`str`): one of `SPLITS`.
        boxes (`np.ndarray` of shape `(n, 4)`): float32 xyxy pixels, continuous (width = x2 - x1).
        labels (`tuple[str]`): one per box.
        annotated (`tuple[str]`): the labels that are annotated wherever they occur in this image, among them all with
            boxes; other labels are unknown.
        source_labels (`tuple[str]`): all labels of its source, also those that are left open here or left out by the
            user: of these none is certain to be absent. Those of `annotated` when not given.
        size (`tuple[int, int]`): width and height in pixels.
        loader (`Callable[[], np.ndarray]`): returns the pixels: `(h, w)` or `(h, w, 3)` uint8 or uint16, or `(h, w)`
            int16 of Hounsfield units.
        is_hounsfield (`bool`): the pixels are Hounsfield units.
        settings ([`SourceSettings`]): how training treats the source.
        weight (`float`): images of this record per epoch, on average.
        in_subset (`bool`): belongs to the data set's own tenth.
        outlines (`dict`): box, as a tuple -> points on the outline of its object in pixels, where it has a mask.
    """

    modality: str
    source: str
    image_id: str
    patient: str
    split: str
    boxes: NDArray[np.float32]
    labels: tuple[str, ...]
    annotated: tuple[str, ...]
    size: tuple[int, int]
    loader: Callable[[], NDArray] = field(repr=False)
    is_hounsfield: bool = False
    settings: SourceSettings = SourceSettings()
    weight: float = 1.0
    in_subset: bool = False
    view_of: str | None = None
    source_labels: tuple[str, ...] = ()
    outlines: Outlines = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        # A label with boxes that may not be asked would be learned as background, or stop an evaluation.
        if not set(self.labels) <= set(self.annotated):
            extra = ", ".join(sorted(set(self.labels) - set(self.annotated)))
            raise ValueError(one_line(f"{self.image_id}: has boxes of labels that are not annotated in it: {extra}"))

    @property
    def image_key(self) -> tuple[str, str]:
        """Source and name of the image; several records may be views of one."""
        return self.source, self.view_of or self.image_id

    @property
    def possible_labels(self) -> tuple[str, ...]:
        """All labels of the source, sorted: any of them may be in the image."""
        return tuple(sorted({*self.source_labels, *self.annotated}))

    @property
    def excluded_labels(self) -> tuple[str, ...]:
        """Labels of other sources that no image of this one can show."""
        possible = self.possible_labels
        return tuple(label for label in self.settings.absent if label not in possible)

    def unit_outlines(self) -> list[NDArray[np.float32] | None]:
        """Return the outline of each box in units of the image, `None` for objects without one."""
        size = np.array(self.size, dtype=np.float32)
        found = (self.outlines.get(tuple(box)) for box in self.boxes.tolist())
        return [None if points is None else np.divide(points, size, dtype=np.float32) for points in found]

    def load(self) -> NDArray:
        """Decode the pixels."""
        return self.loader()


class SourceSettingsTable:
    """Settings by source, which default to those of its modality.

    Args:
        document (`dict`): `modalities` and `sources`, as in `source_settings.yaml`.

    Raises:
        `ValueError`: an unknown key.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.modalities, self.sources = (
            {name: with_new_names(entry, f"settings for {name}", SOURCE_SETTINGS) for name, entry in part.items()}
            for part in (document.get("modalities", {}), document.get("sources", {}))
        )
        for name, entry in {**self.modalities, **self.sources}.items():
            unknown = sorted(set(entry) - set(SourceSettings.__dataclass_fields__))
            if unknown:
                raise ValueError(f"settings for {name}: unknown keys {', '.join(unknown)}")
            if unknown := sorted(set(entry.get("effects", {})) - set(EFFECTS)):
                raise ValueError(f"settings for {name}: unknown effects {', '.join(unknown)}")
            if (sides := entry.get("sides", SIDES[0])) not in SIDES:
                raise ValueError(f"settings for {name}: unknown sides {sides}: choose one of {', '.join(SIDES)}")

    @classmethod
    @lru_cache(maxsize=4)
    def load(cls, path: Path = SETTINGS_FILE) -> SourceSettingsTable:
        """Read a file once."""
        return cls(load_yaml(path.read_text(encoding="utf-8")))

    def of(self, modality: str, source: str, labels: Iterable[str]) -> SourceSettings:
        """Return the settings of a source with these labels. Nothing is flipped where a label has a side in the image.

        Args:
            modality (`str`): one of `MODALITIES`.
            source (`str`): name of the source.
            labels (`Iterable[str]`): all labels of the source.
        """
        values = {**self.modalities.get(modality, {}), **self.sources.get(source, {})}
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        values["effects"] = tuple(values.get("effects", {}).items())
        if values.get("sides", SIDES[0]) == "source" and any(map(means_a_side, labels)):
            values |= dict.fromkeys(("horizontal_flip", "vertical_flip", "quarter_turns", "turns"), False)
        return SourceSettings(**values)


def as_boxes(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return boxes [x, y, width, height] as float32 xyxy `(n, 4)`, clipped to an image of `size` (width, height).

    Args:
        boxes (`Sequence[Sequence[float]]`): [x, y, width, height] in pixels.
        size (`tuple[int, int]`): width and height of the image in pixels.
    """
    array = np.asarray(boxes, dtype=np.float32).reshape(-1, 4).copy()
    array[:, 2:] += array[:, :2]
    return np.clip(array, 0, np.array([*size, *size], dtype=np.float32))


def join_lungs(record: GroundingRecord, vocabulary: set[str]) -> GroundingRecord:
    """Return the record with `lung` (the box around both) consistent with `left lung` and `right lung`.

    If both sides have a box, the box around both is added. If `lung` has one, a side without a box is unknown, not
    absent. If one side has one, but not `lung`, then `lung` is unknown.

    Args:
        record (`GroundingRecord`): the record.
        vocabulary (`set[str]`): all labels of the source. Without both sides the record is returned as it is.
    """
    if not set(LUNG_SIDES) <= vocabulary:
        return record
    sides = set(LUNG_SIDES) & set(record.labels)
    if LUNG in record.labels or len(sides) < 2:
        unknown = set(LUNG_SIDES) - sides if LUNG in record.labels else {LUNG} if sides else set()
        return replace(record, annotated=tuple(name for name in record.annotated if name not in unknown))
    both = record.boxes[[name in LUNG_SIDES for name in record.labels]]
    union = np.concatenate([both[:, :2].min(axis=0), both[:, 2:].max(axis=0)])
    parts = [record.outlines.get(tuple(box)) for box in both.tolist()]
    known = [points for points in parts if points is not None]
    outline = {tuple(union.tolist()): np.concatenate(known)} if len(known) == len(parts) else {}
    return replace(
        record,
        outlines={**record.outlines, **outline},
        boxes=np.concatenate([record.boxes, union[None]]),
        labels=(*record.labels, LUNG),
        annotated=tuple(sorted({*record.annotated, LUNG})),
    )


def without_unknown(
    labels: Sequence[str], boxes: NDArray[np.float32], annotated: Sequence[str], unknown: Iterable[str] = ()
) -> tuple[tuple[str, ...], NDArray[np.float32], tuple[str, ...]]:
    """Return labels, boxes and `annotated` without labels that are not annotated wherever they occur.

    Their boxes are left out too, since the model would learn their other occurrences as background.

    Args:
        labels (`Sequence[str]`): one per box.
        boxes (`np.ndarray` of shape `(n, 4)`): xyxy pixels.
        annotated (`Sequence[str]`): labels that are annotated wherever they occur.
        unknown (`Iterable[str]`, *optional*): further unknown labels, whether they are `annotated` or not.
    """
    opened = {*unknown, *(set(labels) - set(annotated))}
    if opened & {LUNG, *LUNG_SIDES}:
        # Where a lung is left open, neither its side nor the box round both is certain to be absent.
        opened |= {LUNG, *LUNG_SIDES} - set(labels)
    known = set(annotated) - opened
    indices = [number for number, label in enumerate(labels) if label in known]
    return tuple(labels[number] for number in indices), boxes[indices], tuple(sorted(known))


def with_channels(record: GroundingRecord) -> list[GroundingRecord]:
    """Return the record and, for training, single channels of it as further views that share its weight."""
    if record.split != "train" or not record.settings.channels:
        return [record]
    weight = record.weight / (1 + len(record.settings.channels))
    views = [replace(record, weight=weight)]
    for channel in record.settings.channels:
        name, loader = f"{record.image_id}#{channel}", _Channel(record.loader, channel)
        views.append(replace(record, image_id=name, view_of=record.image_id, loader=loader, weight=weight))
    return views


@dataclass(frozen=True)
class _Channel:
    loader: Callable[[], NDArray]
    channel: int

    def __call__(self) -> NDArray:
        return np.ascontiguousarray(self.loader()[..., self.channel])


def readable(records: Sequence[GroundingRecord], broken: dict[str, str]) -> list[GroundingRecord]:
    """Return the records whose images can be decoded, and add the others to `broken` with the reason.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        broken (`dict[str, str]`): receives the images that cannot be read, with the reason.
    """
    whole = []
    for record in records:
        try:
            pixels = record.load()
            if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
                raise ValueError("has pixels that are not finite numbers")
            whole.append(record)
        except UNREADABLE as error:
            broken[record.image_id] = one_line(error, 120)
            logger.warning("left out: %s", image_error(record.image_id, error))
    return whole


def image_error(image_id: str, error: BaseException) -> str:
    """Return a line that names an image and what is wrong with it.

    Args:
        image_id (`str`): name of the image.
        error (`BaseException`): what reading it raised.
    """
    text = str(error)
    return one_line(text if text.startswith(Path(image_id).name) else f"{image_id}: {text}", 200)


def annotated_labels(records: Iterable[GroundingRecord]) -> set[str]:
    """Return the labels that one of the records annotates."""
    return {label for record in records for label in record.annotated}


def chosen_labels(
    records: Sequence[GroundingRecord], only: Sequence[str] | None, without: Sequence[str] | None
) -> list[GroundingRecord]:
    """Return the records with some labels only, or without some; the other labels become unknown.

    Images without an annotated label are left out.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        only (`Sequence[str]`): the labels to choose; all when not given.
        without (`Sequence[str]`): labels to leave out.

    Raises:
        `ValueError`: a label that no record has, or none is left.
    """
    known = annotated_labels(records)
    unknown = sorted({*(only or ()), *(without or ())} - known)
    if unknown:
        raise ValueError(f"no image has the label {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    chosen = (set(only) if only else known) - set(without or ())
    if not chosen:
        raise ValueError(f"all labels are left out: {', '.join(sorted(known))}")
    selected = []
    for record in records:
        indices = [number for number, label in enumerate(record.labels) if label in chosen]
        annotated = tuple(label for label in record.annotated if label in chosen)
        if annotated:
            labels = tuple(record.labels[number] for number in indices)
            selected.append(replace(record, boxes=record.boxes[indices], labels=labels, annotated=annotated))
    return selected


def fraction_of(records: Sequence[GroundingRecord], fraction: float, seed: int = 0) -> list[GroundingRecord]:
    """Return the training records of a share of the patients of every source; for 0.1 the tenth of the data set.

    Every source keeps at least one patient. A smaller share is a part of every larger one.

    Args:
        records (`Sequence[GroundingRecord]`): training records.
        fraction (`float`): share of the patients, above 0 and at most 1.
        seed (`int`, *optional*, defaults to `0`): of everything random.

    Raises:
        `ValueError`: a share that is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction {fraction:g}: choose a number above 0, at most 1")
    if fraction == 1:
        return list(records)
    by_source: dict[tuple[str, str], set[str]] = {}
    subset: set[tuple[str, str, str]] = set()
    for record in records:
        by_source.setdefault((record.modality, record.source), set()).add(record.patient)
        if record.in_subset:
            subset.add((record.modality, record.source, record.patient))
    chosen = set()
    for source, patients in by_source.items():
        # The tenth of the data set comes first, so that it is a part of every larger share.
        order = sorted(patients, key=lambda name: ((*source, name) not in subset, random_key(name, seed)))
        in_subset = sum((*source, name) in subset for name in order)
        count = in_subset if fraction == 0.1 and in_subset else max(1, round(fraction * len(order)))
        chosen |= {(*source, name) for name in order[:count]}
    return [record for record in records if (record.modality, record.source, record.patient) in chosen]


def shared_patients(records: Sequence[GroundingRecord]) -> int:
    """Return how many patients have images both in training and in validation or test."""
    parts: dict[bool, set[tuple[str, str]]] = {True: set(), False: set()}
    for record in records:
        parts[record.split == "train"].add((record.source, record.patient))
    return len(parts[True] & parts[False])


def random_key(name: str, seed: int = 0) -> bytes:
    """Return a deterministic pseudo-random sort key.

    Args:
        name (`str`): what is sorted.
        seed (`int`, *optional*, defaults to `0`): another seed gives another order.
    """
    return hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogatepass")).digest()
