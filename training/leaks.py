# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Whether pictures that are trained on in one data set are held out in another."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

import numpy as np
from tqdm.auto import tqdm

from .records import GroundingRecord


logger = logging.getLogger(__name__)
UNREADABLE = (OSError, ValueError, SyntaxError)
# From so many pictures on it is shown how far the comparison is.
MANY = 200


def check_apart(own: Sequence[GroundingRecord], older: Sequence[GroundingRecord]) -> None:
    """Look for pictures of --data and --replay that are trained on in one and held out in the other.

    Folders call their sources as they like, and a built data set names its patients anew; so the pictures themselves
    are compared too: the same pixels, in grey or in colour, are found, compressed or cropped anew they are not.

    Raises:
        `ValueError`: there are some, or patients of one source and one name.
    """
    pairs = [(_split(own, True), _split(older, False)), (_split(older, True), _split(own, False))]
    if both := sum(len(_named_patients(train) & _named_patients(rest)) for train, rest in pairs):
        raise ValueError(
            f"{both} patients are trained on in one of --data and --replay and held out in the other; if they are "
            "others of the same name, give their pictures another source"
        )
    if same := sum(len(_looks(train, rest) & _looks(rest, train)) for train, rest in pairs):
        raise ValueError(f"{same} pictures are trained on in one of --data and --replay and held out in the other")
    alike = sum(len({one.patient for one in train} & {other.patient for other in rest}) for train, rest in pairs)
    if alike:
        logger.warning("%d patients of --data and --replay have the same name: are they others?", alike)


def _split(records: Sequence[GroundingRecord], train: bool) -> list[GroundingRecord]:
    return [record for record in records if (record.split == "train") == train and record.view_of is None]


def _named_patients(records: Sequence[GroundingRecord]) -> set[tuple[str, str]]:
    """Source and name of the patients that somebody named; others go by their pictures' file names, which many
    data sets have in common."""
    return {(record.source, record.patient) for record in records if record.patient != record.image_id}


def _looks(records: Sequence[GroundingRecord], others: Sequence[GroundingRecord]) -> set[bytes]:
    """Digests of the pixels of those that can be read, and that have the size of one of the others."""
    sizes = {record.size for record in others}
    compared = [record for record in records if record.size in sizes]
    found = set()
    for record in tqdm(compared, "comparing pictures", disable=len(compared) < MANY, leave=False):
        try:
            pixels = record.load()
        except UNREADABLE:
            continue
        if pixels.size == 0 or (pixels == pixels.flat[0]).all():  # of nothing: many may be alike
            continue
        if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():  # grey that was stored as colour
            pixels = np.ascontiguousarray(pixels[..., 0])
        found.add(hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest())
    return found
