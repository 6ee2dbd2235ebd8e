# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Whether pictures that are trained on in one data set are held out in another."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence

from .records import GroundingRecord, shared_patients


logger = logging.getLogger(__name__)
UNREADABLE = (OSError, ValueError, SyntaxError)


def check_apart(own: Sequence[GroundingRecord], older: Sequence[GroundingRecord]) -> None:
    """Look for pictures of --data and --replay that are trained on in one and held out in the other.

    Folders call their sources as they like, so patients are compared by their names alone, too; as these may be alike
    by chance, the pictures behind them decide.

    Raises:
        `ValueError`: there are some.
    """
    if both := shared_patients([*own, *older]):
        raise ValueError(f"{both} patients are trained on in one of --data and --replay and held out in the other")
    alike = 0
    for trained, held_out in ((own, older), (older, own)):
        train = [record for record in trained if record.split == "train" and record.view_of is None]
        rest = [record for record in held_out if record.split != "train"]
        names = {record.patient for record in train} & {record.patient for record in rest}
        alike += len(names)
        known = _looks(record for record in rest if record.patient in names)
        if same := len(known & _looks(record for record in train if record.patient in names)):
            raise ValueError(f"{same} pictures are trained on in one of --data and --replay and held out in the other")
    if alike:
        logger.warning("%d patients of --data and --replay have the same name: are they others?", alike)


def _looks(records: Iterable[GroundingRecord]) -> set[bytes]:
    """Digests of the pixels of those that can be read."""
    found = set()
    for record in records:
        try:
            pixels = record.load()
        except UNREADABLE:
            continue
        found.add(hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode() + pixels.tobytes()).digest())
    return found
