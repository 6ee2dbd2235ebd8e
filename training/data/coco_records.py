# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Make records of COCO data: of a JSON file, or of a folder with one file, or with one per split."""

from __future__ import annotations

import atexit
import logging
import mmap
import os
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.errors import MedGlipError, one_line
from modeling_medglip.io.coco import (
    MOST_DOUBTFUL,
    CocoFile,
    image_folders,
    other_format,
    read_coco,
    shown,
    stated_boxes,
)
from modeling_medglip.io.dicom_files import open_plain
from modeling_medglip.io.file_endings import DICOM_ENDINGS, VOLUME_ENDINGS
from modeling_medglip.io.image import decode_image, read_orientation
from modeling_medglip.io.image_orientation import drawn_on_stored, upright_boxes
from modeling_medglip.io.image_record import ReadImage
from modeling_medglip.isolation.process import ReaderLimits, ReaderProcess
from modeling_medglip.modalities import resolve_modality

from .coco_entries import annotated_labels, image_annotations, is_built, label_names, stated_size
from .outlines import Outlines, outlines_by_box
from .records import (
    SPLITS,
    GroundingRecord,
    SourceSettingsTable,
    as_boxes,
    join_lungs,
    random_key,
    with_channels,
    without_unknown,
)


logger = logging.getLogger(__name__)
# File names by which a folder's splits are known.
SPLIT_NAMES = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "test": "test"}
SPLIT_NAMES |= {"validation": "validation"}
COCO_LISTS = (b'"images"', b'"annotations"', b'"categories"')
# Every fifth patient of a file without splits becomes validation.
HELD_OUT = 5
TIFF_STARTS = (b"II", b"MM")
# Generous, since training keeps the machine busy.
LIMITS = ReaderLimits(seconds=60)
_READERS: dict[int, ReaderProcess] = {}


def is_coco(data: Path) -> bool:
    """Whether a path is a COCO file or a folder with one."""
    return data.suffix.lower() == ".json" or (data.is_dir() and bool(coco_files(data)))


def coco_files(folder: Path) -> dict[Path, str | None]:
    """Return the COCO files of a folder, or of its `annotations` folder, with the split in each name.

    If names hold splits, the other files are left out; else only a single file counts.
    """
    paths = [path for part in (folder, folder / "annotations") for path in sorted(part.glob("*.json"))]
    splits = {path: _split_of(path.stem) for path in paths if _looks_like_coco(path)}
    named = {path: split for path, split in splits.items() if split is not None}
    return dict(named) if named else splits if len(splits) == 1 else {}


def _split_of(stem: str) -> str | None:
    words = stem.lower().replace("-", "_").split("_")
    return next(
        (SPLIT_NAMES[word.rstrip("0123456789")] for word in words if word.rstrip("0123456789") in SPLIT_NAMES), None
    )


def _looks_like_coco(path: Path) -> bool:
    """Whether a file names the three lists of COCO. It is not parsed, which takes long for large files."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return all(text.find(key) >= 0 for key in COCO_LISTS)
    except (OSError, ValueError):  # not readable, or empty
        return False


def coco_records(
    data: Path | str, modalities: list[str], settings: SourceSettingsTable, unstated: str | None = None
) -> list[GroundingRecord]:
    """Return all records of some modalities. Labels are the categories' names, never their numbers.

    An image entry may hold `modality`, `source`, `patient` (or `patient_id`), `split` and `annotated`, a list of
    category names that defaults to all categories of the file. A crowd region, or an annotation that cannot be used,
    makes its label unknown in its image; a warning counts them.

    Args:
        data (`Path` or `str`): a COCO file, or a folder with one or several.
        modalities (`list[str]`): the records of these alone.
        settings (`SourceSettingsTable`): how training treats the sources.
        unstated (`str`, *optional*): the modality of images that state none; the only one of `modalities` when not
            given.

    Raises:
        `ValueError`: names the file and what is wrong.
    """
    path = Path(data)
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    files = coco_files(path) if path.is_dir() else {path: _split_of(path.stem)}
    records: list[GroundingRecord] = []
    for file, split in files.items():
        records += _CocoRecords(read_coco(file), file, split, settings, unstated).records(modalities)
    return records


@dataclass
class _CocoRecords:
    """Makes the records of one file."""

    coco: CocoFile
    file: Path
    split: str | None
    settings: SourceSettingsTable
    unstated: str | None = None
    vocabulary: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)
    clipped: list[str] = field(default_factory=list)
    suspects: Counter[str] = field(default_factory=Counter)
    first: str = ""

    def records(self, modalities: list[str]) -> list[GroundingRecord]:
        self.vocabulary = label_names(self.coco)
        records: list[GroundingRecord] = []
        for image in self.coco.images:
            modality = self._modality(image, modalities)
            if modality in modalities:
                record = self._record(image, self.coco.annotations[image["id"]], modality)
                records += with_channels(join_lungs(record, self.vocabulary))
        self._warn(len({record.image_key for record in records if record.labels}))
        return _with_splits(records)

    def _warn(self, annotated: int) -> None:
        """Warn of what the file holds and training does not use; `annotated` is the number of images with boxes."""
        name = one_line(self.file.name, 80)
        for problem, count in Counter(self.coco.problems).items():
            logger.warning("%s: %s: %d of them", name, problem[1], count)
        if self.left_out:
            reasons = " and ".join(f"{count} {reason}" for reason, count in self.left_out.items())
            logger.warning(
                "%s: left out %s, of labels that are unknown there now, the first in %s", name, reasons, self.first
            )
        if self.clipped:
            logger.warning(
                "%s: %d boxes go beyond their image and are clipped, the first %s",
                name, len(self.clipped), self.clipped[0],
            )  # fmt: skip
        for reason, count in self.suspects.items():
            if count > MOST_DOUBTFUL * annotated:
                logger.warning("%s: boxes of %d images %s", name, count, reason)

    def _modality(self, image: dict[str, Any], modalities: list[str]) -> str:
        stated = image.get("modality") or self.coco.info.get("modality")
        if stated:
            try:
                return resolve_modality(str(stated))
            except ValueError as error:
                raise ValueError(f"{self.file.name}: {one_line(error)}") from None
        if self.unstated:
            return self.unstated
        if len(modalities) != 1:
            raise ValueError(f"{self.file.name}: names no modality: give one, or write it into its images")
        return modalities[0]

    def _record(self, image: dict[str, Any], entries: list[dict[str, Any]], modality: str) -> GroundingRecord:
        size = stated_size(image, self.file)
        name = str(image["file_name"])
        source = _first_given(image.get("source"), _folder_of(self.file))
        settings = self.settings.of(modality, source, self.vocabulary)
        split = image.get("split") or self.split
        labels, boxes, annotated, outlines = self._known(image, entries, size)
        path = _image_path(self.file, name)
        if (orientation := orientation_of(path, size)) != 1:
            boxes, size, outlines = upright_boxes(boxes, orientation, size), size[::-1], {}
        return GroundingRecord(
            modality=modality,
            source=source,
            image_id=name,
            patient=_first_given(image.get("patient"), image.get("patient_id"), name),
            split=_split(split, self.file) if split else "",
            boxes=boxes,
            labels=labels,
            annotated=annotated,
            size=size,
            loader=partial(read_image_file, path, size),
            source_labels=tuple(sorted(self.vocabulary)),
            settings=settings,
            weight=settings.weight,
            outlines=outlines,
        )

    def _known(
        self, image: dict[str, Any], entries: list[dict[str, Any]], size: tuple[int, int]
    ) -> tuple[tuple[str, ...], NDArray[np.float32], tuple[str, ...], Outlines]:
        """Return labels, boxes and annotated labels, without those that are unknown in this image, and outlines."""
        usable = image_annotations(entries, size)
        annotated = annotated_labels(image, self.vocabulary, self.file)
        if (extra := sorted(set(usable.labels) - set(annotated))) and not is_built(self.coco):
            raise ValueError(
                f"{self.file.name}: {shown(image['file_name'])} has a box of {shown(extra[0])}, which its annotated "
                "leaves out: add it there, or take the box out"
            )
        for (reason, _), count in usable.left_out.items():
            self.first = self.first or one_line(image["file_name"], 60)
            self.left_out[reason] += count
        self.clipped += [f"{box} in {one_line(image['file_name'], 60)}" for box in usable.clipped]
        if looks := other_format(stated_boxes(entries), size):
            self.suspects[looks] += 1
        boxes = as_boxes(usable.boxes.tolist(), size)
        unplaced = self.coco.unplaced
        anywhere = self.vocabulary if None in unplaced else {label for label in unplaced if label is not None}
        unknown = usable.unknown(self.vocabulary) | (anywhere - set(usable.labels))
        outlines = outlines_by_box(boxes, usable.shapes)
        return *without_unknown(usable.labels, boxes, annotated, unknown), outlines


def _first_given(*values: Any) -> str:
    """Return the first value that is not empty, as text; 0 is not empty."""
    return next((text for value in values if value is not None and (text := str(value).strip())), "")


def _folder_of(file: Path) -> str:
    """Return the name of the folder of a COCO file, or of the folder above if that is `annotations`."""
    folder = file.parent.resolve()
    return folder.parent.name if folder.name == "annotations" else folder.name


def _split(stated: Any, file: Path) -> str:
    """Return one of `SPLITS` by any of its names. An unknown name is an error, lest held-out images be trained on."""
    split = SPLIT_NAMES.get(str(stated).strip().lower())
    if split is None:
        known = ", ".join(sorted(SPLIT_NAMES))
        raise ValueError(f"{file.name}: unknown split {one_line(stated, 40)!r}: choose one of {known}")
    return split


def _image_path(file: Path, name: str) -> Path:
    """Return the path of an image in one of [`image_folders`], never outside them."""
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise ValueError(f"{file.name}: image {shown(name)} leaves the data folder")
    paths = [folder / name for folder in image_folders(file)]
    return next((path for path in paths if path.is_file()), paths[0])


def _with_splits(records: list[GroundingRecord]) -> list[GroundingRecord]:
    """Return the records with splits: of those without one, every `HELD_OUT`th patient becomes validation."""
    loose = sorted({record.patient for record in records if record.split not in SPLITS}, key=lambda n: random_key(n))
    held = set(loose[::HELD_OUT]) if len(loose) > 1 else set()
    return [
        record
        if record.split in SPLITS
        else replace(record, split="validation" if record.patient in held else "train")
        for record in records
    ]


def read_image_file(path: Path, size: tuple[int, int]) -> NDArray:
    """Decode an image file, upright, as it is read when the trained model is used.

    Args:
        path (`Path`): a PNG, JPEG, TIFF or the like, or a DICOM file (of several frames the first).
        size (`tuple[int, int]`): width and height of the upright image, as its entry says.

    Returns:
        `np.ndarray` of shape `(h, w)` or `(h, w, 3)`: uint8, uint16, or float32 as the file has it; CT from DICOM in
        HU, other DICOM with high values bright.

    Raises:
        `ValueError`: it cannot be read, is a volume, or has another size than its entry says, or values outside 16
            bits, or nothing says whether its annotations turn with it; names the file.
    """
    if path.name.lower().endswith(VOLUME_ENDINGS):
        raise ValueError(
            f"{path.name}: unsupported volume file: make images and boxes of it with python -m dataset_scripts.build"
        )
    try:
        with open_plain(path) as stream:
            start = stream.read(132)
            stream.seek(0)
            if start[128:] == b"DICM" or path.suffix.lower() in DICOM_ENDINGS:
                return _dicom_pixels(_reader().read_image(path), size)
            if start[:2] in TIFF_STARTS:
                return _fitting(_reader().read_image(path), size)
            return decode_upright(stream, size)
    except MedGlipError as error:
        text = str(error)
        raise ValueError(text if text.startswith(f"{path.name}: ") else f"{path.name}: {text}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name}: cannot be read ({type(error).__name__})") from None


def read_picture(path: Path, size: tuple[int, int]) -> NDArray:
    """Return what [`read_image_file`] reads, whose old name this is."""
    warnings.warn("read_picture is now read_image_file; the old name goes with the next release", FutureWarning, 2)
    return read_image_file(path, size)


def _reader() -> ReaderProcess:
    """Return the worker that decodes file formats whose decoders may crash or hang on damaged files."""
    if os.getpid() not in _READERS:  # processes of a loader are forks
        _READERS[os.getpid()] = reader = ReaderProcess(LIMITS)
        atexit.register(reader.close)
    return _READERS[os.getpid()]


def _dicom_pixels(image: ReadImage, size: tuple[int, int]) -> NDArray:
    """Return the pixels of a DICOM image, inverted for MONOCHROME1, whose high values are dark.

    Raises:
        `MedGlipError`: it has another size (width, height) than its entry says.
    """
    if size != (image.width, image.height):
        raise MedGlipError(f"is {image.width}x{image.height}, its entry says {size[0]}x{size[1]}")
    if image.photometric_interpretation != "MONOCHROME1" or image.modality == "ct":
        return image.pixels
    pixels = image.pixels.astype(np.float32)
    return pixels.max() + pixels.min() - pixels


def decode_upright(stream: IO[bytes], size: tuple[int, int]) -> NDArray:
    """Decode an image of `size` (width, height), upright; see [`read_image_file`].

    Args:
        stream (`IO[bytes]`): the content of the file.
        size (`tuple[int, int]`): width and height of the upright image, as its entry states them.

    Raises:
        `MedGlipError`: as [`read_image_file`], without the name of a file.
    """
    return _fitting(decode_image(stream), size)


def _fitting(image: ReadImage, size: tuple[int, int]) -> NDArray:
    """Return the pixels of an image of `size`, upright. Raises as [`decode_upright`]."""
    upright_size = (image.width, image.height)
    fits = size in (upright_size, upright_size[::-1])
    if not fits or drawn_on_stored(image.orientation, upright_size, size) or size != upright_size:
        raise MedGlipError(f"is {image.width}x{image.height}, its entry says {size[0]}x{size[1]}")
    if image.pixels.min() < 0 or image.pixels.max() > 65535:
        raise MedGlipError("has values outside 16 bits: save it with whole numbers from 0 to 65535")
    return image.pixels


def orientation_of(path: Path, size: tuple[int, int]) -> int:
    """Return the EXIF orientation that turns the annotations of an image upright.

    It is 1 where they are upright, and where the file cannot be read: decoding it raises the error.

    Args:
        path (`Path`): the image.
        size (`tuple[int, int]`): width and height of the image that its annotations were drawn on.
    """
    try:
        with open_plain(path) as stream:
            orientation, upright_size = read_orientation(stream)
        return orientation if drawn_on_stored(orientation, upright_size, size) else 1
    except (OSError, ValueError):
        return 1
