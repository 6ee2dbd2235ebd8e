# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Records of private data in COCO JSON: a file, or a folder with one file, or with one per split."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modeling_medglip.configuration_medglip import resolve_modality
from modeling_medglip.errors import one_line
from modeling_medglip.reading import MAX_PIXELS, PICTURE_FORMATS

from .records import SPLITS, GroundingRecord, HintTable, as_boxes, drawn, join_lungs, with_channels


# File names by which a folder's splits are known.
SPLIT_NAMES = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "test": "test"}
SPLIT_NAMES |= {"validation": "validation"}
# Of a single file without splits every fifth patient is kept for validation.
HELD_OUT = 5


def is_coco(data: Path) -> bool:
    """Whether a path is a COCO file or a folder with one."""
    return data.suffix.lower() == ".json" or (data.is_dir() and bool(coco_files(data)))


def coco_files(folder: Path) -> dict[Path, str | None]:
    """COCO files of a folder or its `annotations` folder, with the split that their names say.

    Where files say splits, others are left out; else there must be one only.
    """
    paths = [path for part in (folder, folder / "annotations") for path in sorted(part.glob("*.json"))]
    found = {path: _split_of(path.stem) for path in paths if _looks_like_coco(path)}
    named = {path: split for path, split in found.items() if split is not None}
    return dict(named) if named else found if len(found) == 1 else {}


def _split_of(stem: str) -> str | None:
    words = stem.lower().replace("-", "_").split("_")
    return next(
        (SPLIT_NAMES[word.rstrip("0123456789")] for word in words if word.rstrip("0123456789") in SPLIT_NAMES), None
    )


def _looks_like_coco(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content)


def coco_records(data: Path | str, modalities: list[str], hints: HintTable) -> list[GroundingRecord]:
    """All records of some modalities. Labels go by the categories' names, never by their numbers.

    Of a picture may be told, in its entry: `modality`, `source`, `patient` (or `patient_id`), `split`, `annotated` (a
    list of category names; default: all categories of the file).

    Raises:
        `ValueError`: names the file and what is wrong.
    """
    path = Path(data)
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    files = coco_files(path) if path.is_dir() else {path: _split_of(path.stem)}
    records: list[GroundingRecord] = []
    for file, split in files.items():
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            records += _file_records(content, file, split, modalities, hints)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{file.name}: is no COCO file ({type(error).__name__} {error})") from None
    return records


def _file_records(
    content: dict[str, Any], file: Path, split: str | None, modalities: list[str], hints: HintTable
) -> Iterable[GroundingRecord]:
    names = {entry["id"]: str(entry["name"]).strip() for entry in content["categories"]}
    marks: dict[Any, list[tuple[str, list[float]]]] = {image["id"]: [] for image in content["images"]}
    if len(marks) != len(content["images"]):
        raise ValueError(f"{file.name}: two pictures have one id")
    for entry in content["annotations"]:
        if entry["image_id"] not in marks or entry["category_id"] not in names:
            raise ValueError(
                f"{file.name}: annotation {entry.get('id')} names a picture or category that is not there"
            )
        box = _box(entry, file)
        if (mark := (names[entry["category_id"]], box)) not in marks[entry["image_id"]]:
            marks[entry["image_id"]].append(mark)
    vocabulary = set(names.values())
    found: list[GroundingRecord] = []
    for image in content["images"]:
        modality = _modality(image, content, modalities, file)
        if modality in modalities:
            record = _record(image, marks[image["id"]], vocabulary, modality, split, file, hints)
            found += with_channels(join_lungs(record, vocabulary))
    return _with_splits(found)


def _box(entry: dict[str, Any], file: Path) -> list[float]:
    try:
        box = [float(side) for side in entry["bbox"]]
    except (KeyError, TypeError, ValueError):
        box = []
    if len(box) != 4 or not np.isfinite(box).all() or box[2] <= 0 or box[3] <= 0:
        raise ValueError(
            f"{file.name}: annotation {entry.get('id')} has no box of four finite numbers with a width and a height"
        )
    return box


def _modality(image: dict[str, Any], content: dict[str, Any], modalities: list[str], file: Path) -> str:
    said = image.get("modality") or content.get("info", {}).get("modality")
    if said:
        return resolve_modality(str(said))
    if len(modalities) != 1:
        raise ValueError(f"{file.name}: does not say its modality: give one with --modality")
    return modalities[0]


def _record(
    image: dict[str, Any],
    marks: list[tuple[str, list[float]]],
    vocabulary: set[str],
    modality: str,
    split: str | None,
    file: Path,
    hints: HintTable,
) -> GroundingRecord:
    size = (int(image["width"]), int(image["height"]))
    source = str(image.get("source") or file.parent.name)
    own = hints.of(modality, source, vocabulary)
    said = image.get("split") or split
    return GroundingRecord(
        modality=modality,
        source=source,
        image_id=str(image["file_name"]),
        patient=str(image.get("patient") or image.get("patient_id") or image["file_name"]),
        split=_split(said, file) if said else "",
        boxes=as_boxes([box for _, box in marks], size),
        labels=tuple(name for name, _ in marks),
        annotated=_annotated(image, vocabulary, file),
        size=size,
        loader=partial(read_picture, _picture_path(file, str(image["file_name"])), size),
        hints=own,
        weight=own.weight,
    )


def _split(said: Any, file: Path) -> str:
    """One of `SPLITS` by any of its names; pictures that somebody held out must not slip into training."""
    found = SPLIT_NAMES.get(str(said).strip().lower())
    if found is None:
        known = ", ".join(sorted(SPLIT_NAMES))
        raise ValueError(f"{file.name}: split {one_line(said, 40)!r} is not known: {known}")
    return found


def _annotated(image: dict[str, Any], vocabulary: set[str], file: Path) -> tuple[str, ...]:
    """The labels that are marked wherever they occur in a picture: what its entry lists, else all."""
    said = image.get("annotated")
    if said is None:
        return tuple(sorted(vocabulary))
    if not isinstance(said, list) or not all(isinstance(name, str) for name in said):
        raise ValueError(f"{file.name}: annotated of {one_line(image['file_name'], 60)!r} must be a list of labels")
    return tuple(sorted(set(said)))


def _picture_path(file: Path, name: str) -> Path:
    """The picture beside its COCO file, in `images/`, or above an `annotations/` folder; never elsewhere."""
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise ValueError(f"{file.name}: picture {name!r} leaves the data folder")
    roots = [file.parent, *([file.parent.parent] if file.parent.name == "annotations" else [])]
    places = [root / part / name for root in roots for part in (".", "images", file.stem)]
    return next((place for place in places if place.is_file()), places[0])


def _with_splits(records: list[GroundingRecord]) -> list[GroundingRecord]:
    """Records without a split: every `HELD_OUT`th patient of the shuffled list is kept for validation."""
    loose = sorted({record.patient for record in records if record.split not in SPLITS}, key=lambda n: drawn(n))
    held = set(loose[::HELD_OUT]) if len(loose) > 1 else set()
    return [
        record
        if record.split in SPLITS
        else replace(record, split="validation" if record.patient in held else "train")
        for record in records
    ]


def read_picture(path: Path, size: tuple[int, int]) -> NDArray:
    """Decode a picture file to uint8 or uint16 `(h, w)` or `(h, w, 3)`.

    Raises:
        `ValueError`: it cannot be read, or has another size than its entry says; names the file.
    """
    try:
        with path.open("rb") as stream:
            return decode_picture(stream, size)
    except _OtherSize as error:
        raise ValueError(f"{path.name}: {error}") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path.name}: cannot be read ({type(error).__name__})") from None


class _OtherSize(ValueError):
    """A picture has not the size that its entry says."""


def decode_picture(stream: BinaryIO, size: tuple[int, int]) -> NDArray:
    """Decode a picture of a known kind to uint8 or uint16 `(h, w)` or `(h, w, 3)`.

    Raises:
        `ValueError`, `OSError`, `SyntaxError`: it is another kind of file, too large, damaged, or of another size.
    """
    try:
        with Image.open(stream, formats=PICTURE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"more than {MAX_PIXELS} pixels")
            deep = image.mode.startswith("I")
            plain = image.mode in ("L", "RGB", "F") or deep
            array = np.asarray(image if plain else image.convert("RGB"))
    except Image.DecompressionBombError:
        raise ValueError(f"more than {MAX_PIXELS} pixels") from None
    if array.shape[1::-1] != size:
        raise _OtherSize(f"is {array.shape[1]}x{array.shape[0]}, its entry says {size[0]}x{size[1]}")
    return array.astype(np.uint16) if deep else array
