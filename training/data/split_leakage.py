# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Find images that are trained on in one data set and held out in another."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Sequence

import numpy as np
from tqdm.auto import tqdm

from .records import UNREADABLE, GroundingRecord


logger = logging.getLogger(__name__)
# From so many images on it is shown how far the comparison is.
MANY = 200


def check_apart(new: Sequence[GroundingRecord], older: Sequence[GroundingRecord]) -> None:
    """Check that no image of `--data` and `--replay` is trained on in one and held out in the other.

    Sources have arbitrary names, and a built data set renames its patients, so the pixels are compared too. The same
    pixels are detected, in gray or in color; compressed or cropped copies are not.

    Args:
        new (`Sequence[GroundingRecord]`): records of `--data`.
        older (`Sequence[GroundingRecord]`): records of `--replay`.

    Raises:
        `ValueError`: there are such images, or patients of one source and one name.
    """
    pairs = [(_split(new, True), _split(older, False)), (_split(older, True), _split(new, False))]
    if both := sum(len(_named_patients(train) & _named_patients(rest)) for train, rest in pairs):
        raise ValueError(
            f"{both} patients are trained on in one of --data and --replay and held out in the other; if they are "
            "others of the same name, give their images another source"
        )
    if same := sum(_same_images(train, rest) for train, rest in pairs):
        raise ValueError(f"{same} images are trained on in one of --data and --replay and held out in the other")
    names = [({patient for _, patient in _named_patients(part)} for part in pair) for pair in pairs]
    alike = sum(len(trained & held_out) for trained, held_out in names)
    if alike:
        logger.warning("%d patients of --data and --replay have the same name: are they others?", alike)


def _split(records: Sequence[GroundingRecord], train: bool) -> list[GroundingRecord]:
    return [record for record in records if (record.split == "train") == train and record.view_of is None]


def _named_patients(records: Sequence[GroundingRecord]) -> set[tuple[str, str]]:
    """Return source and name of the patients that the data name.

    Other patients have the file name of their image, which many data sets share.
    """
    return {(record.source, record.patient) for record in records if record.patient != record.image_id}


def _same_images(train: Sequence[GroundingRecord], rest: Sequence[GroundingRecord]) -> int:
    """Return how many images of one size have the same pixels; sizes of one side only are not decoded."""
    sizes = {record.size for record in train} & {record.size for record in rest}
    held_out, trained = ([record for record in part if record.size in sizes] for part in (rest, train))
    compared = [*held_out, *trained]
    quiet = len(compared) < MANY or not sys.stderr.isatty()
    looks = [_look(record) for record in tqdm(compared, "comparing images", disable=quiet, leave=False)]
    return len((set(looks[: len(held_out)]) & set(looks[len(held_out) :])) - {None})


def _look(record: GroundingRecord) -> bytes | None:
    """Return a digest of the pixels, `None` for images that are unreadable or of a single value."""
    try:
        pixels = record.load()
    except UNREADABLE:
        return None
    if pixels.size == 0 or (pixels == pixels.flat[0]).all():
        return None
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():  # gray that was stored as color
        pixels = np.ascontiguousarray(pixels[..., 0])
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()
