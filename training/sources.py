# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The labelled pictures: one record per 2-D picture, whatever the layout of its source.

A record knows which labels its source marks wherever they occur (`annotated`): only those may serve as negatives, for
an organ that nobody drew is not absent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from modeling_medglip.configuration_medglip import MODALITIES, resolve_modality
from modeling_medglip.image_processing_medglip import estimate_window

from .volumes import Volume, cut, plane_length, read_dicom_slices, read_volume, to_lps


RECIPES_FILE = Path(__file__).with_name("sources.yaml")
SPLITS = ("train", "validation")
COMPONENT_SHARE = 0.1


@dataclass(frozen=True)
class SourceRecipe:
    """What `sources.yaml` says about one source; see the comments there."""

    modality: str
    source: str
    weight: float = 1.0
    regions: tuple[str, ...] = ()
    group: str | None = None
    window: tuple[float, float] | str | None = None
    clean: bool = False
    min_pixels: int = 0
    channels: tuple[int, ...] = ()
    volume: dict[str, Any] | None = None
    horizontal_flip: bool = False
    vertical_flip: bool = False
    quarter_turns: bool = False
    rotate: bool = False
    close_ups: bool = False
    colour: bool = False


@dataclass(frozen=True)
class GroundingRecord:
    """One picture with its boxes.

    Args:
        recipe ([`SourceRecipe`]): the source it comes from.
        image_id (`str`): name within the source. patient group, split: `group`, `split` (`"train"` or `"validation"`).
        boxes (`np.ndarray` of shape `(n, 4)`): float32 xyxy pixels, continuous (width = x2 - x1).
        labels (`tuple[str]`): one per box.
        annotated (`tuple[str]`): the labels that are marked wherever they occur in this picture; others are unknown.
        size (`tuple[int, int]`): width and height in pixels.
        loader: returns the pixels: `(h, w)` or `(h, w, 3)` uint8, or `(h, w)` of Hounsfield units or raw MR values.
        is_hounsfield (`bool`): the pixels are Hounsfield units.
        weight (`float`): pictures of this record per epoch, on average.
    """

    recipe: SourceRecipe
    image_id: str
    group: str
    split: str
    boxes: NDArray[np.float32]
    labels: tuple[str, ...]
    annotated: tuple[str, ...]
    size: tuple[int, int]
    loader: Callable[[], NDArray] = field(repr=False)
    is_hounsfield: bool = False
    weight: float = 1.0

    @property
    def modality(self) -> str:
        """Modality, as in `MODALITIES`."""
        return self.recipe.modality

    @property
    def source(self) -> str:
        """Name of the source's folder."""
        return self.recipe.source

    def load(self) -> NDArray:
        """Decode the pixels."""
        return self.loader()

    def window(self, pixels: NDArray) -> tuple[float, float] | None:
        """Hounsfield units of grey 0 and grey 255 of an 8-bit CT picture, or `None` where that is not known."""
        if self.recipe.window == "per_image":
            return estimate_window(pixels if pixels.ndim == 2 else pixels[..., 1])
        return self.recipe.window if isinstance(self.recipe.window, tuple) else None


def load_recipes(path: Path = RECIPES_FILE) -> dict[str, SourceRecipe]:
    """Read the recipes; keys are `"<modality>/<source>"`.

    Raises:
        `ValueError`: an unknown modality or key.
    """
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipes = {}
    for key, given in document["sources"].items():
        modality, _, source = key.partition("/")
        values = {**document["modalities"].get(resolve_modality(modality), {}), **given}
        unknown = set(values) - set(SourceRecipe.__dataclass_fields__)
        if unknown:
            raise ValueError(f"{path.name}: {key}: unknown keys {sorted(unknown)}")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        recipes[key] = SourceRecipe(modality=modality, source=source, **values)
    return recipes


def load_records(
    data: Path | str,
    modalities: str | Iterable[str] = MODALITIES,
    split: str | None = None,
    sources: Iterable[str] | None = None,
    recipes: dict[str, SourceRecipe] | None = None,
) -> list[GroundingRecord]:
    """Read the records of the data folder.

    Args:
        data (`Path` or `str`): the folder with one folder per modality.
        modalities (`str` or names, defaults to all).
        split (`str`, *optional*): `"train"` or `"validation"`; both when not given.
        sources (names, *optional*): only these source folders.
        recipes (`dict`, *optional*): instead of the ones in `sources.yaml`.

    Raises:
        `ValueError`: no such folder, no picture found, or an unknown split.
    """
    data = Path(data)
    wanted = [resolve_modality(name) for name in ([modalities] if isinstance(modalities, str) else modalities)]
    if split is not None and split not in SPLITS:
        raise ValueError(f"split {split!r}: choose one of {', '.join(SPLITS)}")
    chosen = None if sources is None else set(sources)
    records: list[GroundingRecord] = []
    for recipe in (recipes or load_recipes()).values():
        folder = data / recipe.modality / recipe.source
        if recipe.modality in wanted and (chosen is None or recipe.source in chosen) and folder.is_dir():
            found = volume_records(folder, recipe) if recipe.volume else picture_records(folder, recipe)
            records += [record for record in found if split in (None, record.split)]
    if not records:
        names = ", ".join(wanted)
        raise ValueError(f"{data}: no pictures of {names} there; pass the folder with one folder per modality")
    return records


# 2-D sources ---------------------------------------------------------------------------------------------------------


def picture_records(folder: Path, recipe: SourceRecipe) -> list[GroundingRecord]:
    """Records of a source with an `annotations.json`."""
    entries = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))["images"]
    vocabulary = {item["label"] for entry in entries for item in entry["objects"]}
    records = []
    for entry in entries:
        boxes, labels, doubtful = _entry_boxes(folder, recipe, entry)
        boxes, labels, annotated = derive_lungs(boxes, labels, vocabulary - doubtful)
        path = folder / entry["image"]
        views = (None, *recipe.channels)
        for view in views if entry["split"] == "train" else (None,):
            records.append(
                GroundingRecord(
                    recipe=recipe,
                    image_id=entry["image"] if view is None else f"{entry['image']}#{view}",
                    group=str(entry.get("video_id") or entry.get("source_id") or _group(path.name, recipe)),
                    split=entry["split"],
                    boxes=boxes,
                    labels=labels,
                    annotated=annotated,
                    size=(entry["width"], entry["height"]),
                    loader=partial(read_picture, path, view),
                    weight=recipe.weight / len(views) if entry["split"] == "train" else 1.0,
                )
            )
    return records


def _entry_boxes(
    folder: Path, recipe: SourceRecipe, entry: dict[str, Any]
) -> tuple[NDArray[np.float32], tuple[str, ...], set[str]]:
    boxes, labels, doubtful = [], [], set()
    for item in entry["objects"]:
        x, y, width, height = item["bbox_xywh"]
        box, area = [x, y, x + width, y + height], item.get("area")
        if recipe.clean:
            mask = np.asarray(Image.open(folder / item["mask"]).convert("L")) > 127
            (box,), area = mask_boxes(mask), int(mask.sum())
        if area is not None and area < recipe.min_pixels:
            doubtful.add(item["label"])
            continue
        boxes.append(box)
        labels.append(item["label"])
    return _as_boxes(boxes, (entry["width"], entry["height"])), tuple(labels), doubtful - set(labels)


def _as_boxes(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> NDArray[np.float32]:
    array = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    return np.clip(array, 0, np.array([*size, *size], dtype=np.float32))


def _group(name: str, recipe: SourceRecipe) -> str:
    match = re.match(recipe.group, name) if recipe.group else None
    return match.group(1) if match else Path(name).stem


def read_picture(path: Path, channel: int | None = None) -> NDArray:
    """Decode a picture file to uint8 `(h, w)` or `(h, w, 3)`; with `channel`, that one alone as `(h, w)`."""
    with Image.open(path) as image:
        array = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return array if channel is None else np.ascontiguousarray(array[..., channel])


def derive_lungs(
    boxes: NDArray[np.float32], labels: tuple[str, ...], vocabulary: set[str]
) -> tuple[NDArray[np.float32], tuple[str, ...], tuple[str, ...]]:
    """Keep `lungs` (the box round both) consistent with `left lung` and `right lung`.

    Both sides marked: the box round both is added. Only `lungs` marked: the sides are unknown, not absent. One side
    marked: `lungs` is unknown.

    Returns:
        boxes, labels and the annotated labels in alphabetical order.
    """
    annotated = set(vocabulary)
    sides = [labels.index(name) for name in ("left lung", "right lung") if name in labels]
    if "lungs" in labels:
        annotated -= {"left lung", "right lung"}
    elif len(sides) == 2:
        both = boxes[[i for i, name in enumerate(labels) if name in ("left lung", "right lung")]]
        union = np.concatenate([both[:, :2].min(axis=0), both[:, 2:].max(axis=0)])
        boxes, labels = np.concatenate([boxes, union[None]]), (*labels, "lungs")
        annotated.add("lungs")
    elif sides:
        annotated -= {"lungs"}
    return boxes, labels, tuple(sorted(annotated))


# Volumes -------------------------------------------------------------------------------------------------------------


def volume_records(folder: Path, recipe: SourceRecipe) -> list[GroundingRecord]:
    """Records of a source of volumes: every slice of the recipe's planes that shows at least one label."""
    names = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    splits = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
    records: list[GroundingRecord] = []
    for stem, image, labelmap, table in _volume_pairs(folder, recipe, names):
        split = next((s for s in SPLITS if any(stem.startswith(Path(name).name) for name in splits[s])), None)
        if split is not None:
            records += _cut_records(recipe, stem, split, to_lps(image), to_lps(labelmap), table)
    return records


def _volume_pairs(
    folder: Path, recipe: SourceRecipe, names: dict[str, Any]
) -> list[tuple[str, Volume, Volume, dict[int, str]]]:
    spec = recipe.volume or {}
    if "slices" in spec:
        return [_labelled_slices(folder, spec, names)]
    table = {int(value): name for value, name in names.items()}
    pairs = []
    for path in sorted(folder.glob(spec["image"])):
        stem = re.sub(r"(_image)?\.(nii\.gz|nii|nrrd)$", "", path.name)
        label = folder / spec["label"].format(stem=stem)
        pairs.append((stem, read_volume(path, spec.get("axcodes")), read_volume(label, spec.get("axcodes")), table))
    return pairs


def _labelled_slices(
    folder: Path, spec: dict[str, Any], names: dict[str, Any]
) -> tuple[str, Volume, Volume, dict[int, str]]:
    paths = sorted(folder.glob(spec["slices"]))
    image = read_dicom_slices(paths)
    merged = np.zeros(image.array.shape, np.int16)
    table: dict[int, str] = {}
    for file_name in spec["label"]:
        part = read_volume(folder / file_name).array
        for value, name in names[file_name].items():
            merged[part == int(value)] = int(value)
            table[int(value)] = name
    return paths[0].name, image, Volume(merged, "LPS"), table


def _cut_records(
    recipe: SourceRecipe, stem: str, split: str, image: NDArray, labelmap: NDArray, table: dict[int, str]
) -> list[GroundingRecord]:
    spec = recipe.volume or {}
    names = rename_labels(table, spec.get("rename"))
    present = set(np.unique(labelmap).tolist())
    vocabulary = {name for value, name in names.items() if value in present}
    hounsfield = bool(spec.get("hounsfield"))
    records = []
    for plane, step in spec["planes"].items():
        for index in range(0, plane_length(image, plane), step):
            marks = cut(labelmap, plane, index)
            boxes, labels, doubtful = _slice_boxes(marks, names, spec)
            if not labels:
                continue
            size = (marks.shape[1], marks.shape[0])
            array, kept, annotated = derive_lungs(_as_boxes(boxes, size), labels, vocabulary - doubtful)
            records.append(
                GroundingRecord(
                    recipe=recipe,
                    image_id=f"{stem}:{plane}:{index}",
                    group=_group(f"{stem}_", recipe),
                    split=split,
                    boxes=array,
                    labels=kept,
                    annotated=annotated,
                    size=size,
                    loader=partial(_copy, cut(image, plane, index)),
                    is_hounsfield=hounsfield,
                    weight=recipe.weight if split == "train" else 1.0,
                )
            )
    return records


def _copy(array: NDArray) -> NDArray:
    return array.copy()


def rename_labels(table: dict[int, str], patterns: dict[str, str] | None) -> dict[int, str]:
    """Apply a recipe's `rename` patterns in their order; without patterns the table is returned as it is.

    The target `*` keeps the name. Names that match no pattern are left out.
    """
    if patterns is None:
        return dict(table)
    renamed = {}
    for value, name in table.items():
        target = next((target for pattern, target in patterns.items() if fnmatch(name, pattern)), None)
        if target is not None:
            renamed[value] = name if target == "*" else target
    return renamed


def _slice_boxes(
    marks: NDArray, names: dict[int, str], spec: dict[str, Any]
) -> tuple[list[list[float]], tuple[str, ...], set[str]]:
    """Boxes and labels of one slice of a label map, and the labels too small to tell."""
    values: dict[str, list[int]] = {}
    for value in np.unique(marks).tolist():
        if value in names:
            values.setdefault(names[value], []).append(value)
    boxes: list[list[float]] = []
    labels: list[str] = []
    doubtful = set()
    for name, members in values.items():
        mask = np.isin(marks, members)
        if int(mask.sum()) < spec.get("min_pixels", 1):
            doubtful.add(name)
            continue
        found = mask_boxes(mask, instances=name in spec.get("instances", ()))
        boxes += found
        labels += [name] * len(found)
    return boxes, tuple(labels), doubtful


def mask_boxes(mask: NDArray[np.bool_], instances: bool = False, share: float = COMPONENT_SHARE) -> list[list[float]]:
    """Boxes (xyxy, continuous) of a mask, leaving out components smaller than `share` of the largest.

    Args:
        mask (`np.ndarray` of shape `(h, w)`): not empty.
        instances (`bool`, defaults to `False`): one box per component instead of one round all of them.
    """
    components, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    areas = np.bincount(components.ravel())[1:]
    slices = ndimage.find_objects(components)
    kept = [s for s, area in zip(slices, areas, strict=True) if area >= share * areas.max()]
    boxes = [[float(x.start), float(y.start), float(x.stop), float(y.stop)] for y, x in kept]
    if instances:
        return boxes
    array = np.array(boxes)
    return [[*array[:, :2].min(axis=0).tolist(), *array[:, 2:].max(axis=0).tolist()]]


# Hounsfield units of 8-bit pictures ----------------------------------------------------------------------------------
