# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Whether images that are trained on in one data set are held out in another."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Sequence

import numpy as np
from tqdm.auto import tqdm

from .records import GroundingRecord


logger = logging.getLogger(__name__)
UNREADABLE = (OSError, ValueError, SyntaxError)
# From so many images on it is shown how far the comparison is.
MANY = 200


def check_apart(own: Sequence[GroundingRecord], older: Sequence[GroundingRecord]) -> None:
    """Look for images of --data and --replay that are trained on in one and held out in the other.

    Folders call their sources as they like, and a built data set names its patients anew; so the images themselves
    are compared too: the same pixels, in grey or in colour, are found, compressed or cropped anew they are not.

    Raises:
        `ValueError`: there are some, or patients of one source and one name.
    """
    pairs = [(_split(own, True), _split(older, False)), (_split(older, True), _split(own, False))]
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
    """Source and name of the patients that somebody named; others go by their images' file names, which many
    data sets have in common."""
    return {(record.source, record.patient) for record in records if record.patient != record.image_id}


def _same_images(train: Sequence[GroundingRecord], rest: Sequence[GroundingRecord]) -> int:
    """How many images of one size have the same pixels; of a size that only one side has, none is decoded."""
    sizes = {record.size for record in train} & {record.size for record in rest}
    held_out, trained = ([record for record in part if record.size in sizes] for part in (rest, train))
    compared = [*held_out, *trained]
    quiet = len(compared) < MANY or not sys.stderr.isatty()
    looks = [_look(record) for record in tqdm(compared, "comparing images", disable=quiet, leave=False)]
    return len((set(looks[: len(held_out)]) & set(looks[len(held_out) :])) - {None})


def _look(record: GroundingRecord) -> bytes | None:
    """A digest of the pixels; `None` of what cannot be read, and of an image of nothing, of which many are alike."""
    try:
        pixels = record.load()
    except UNREADABLE:
        return None
    if pixels.size == 0 or (pixels == pixels.flat[0]).all():
        return None
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():  # grey that was stored as colour
        pixels = np.ascontiguousarray(pixels[..., 0])
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()
