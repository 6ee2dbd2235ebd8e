# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Split by patient: official splits first, and everything that shares pixels in one split.

Patients that share an image (or one that looks the same) form a group. A group with an official split takes its most
held-out one; the others are drawn by a keyed hash of the group, so that the same seed gives the same split whatever
else is in the set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


VALIDATION_SHARE = 0.1
SUBSET_SHARE = 0.1
# Most held out first.
ORDER = ("test", "validation", "train")
# Images whose 256-bit hashes differ in at most so many bits look the same. Measured on 3,700 images of 36 sets:
# copies in other sizes differ in 0 to 12, frames of one lesion in 0 to some 20, fundus photographs of different people
# in 18 and more. A wider net would tie different people together, pair by pair, into one huge group.
NEAR_BITS = 16
HASH_PARTS = 16

Patient = tuple[str, str]


@dataclass(frozen=True)
class SplitImage:
    """What splitting needs to know of one image.

    Attributes:
        patient (`tuple[str, str]`): Family and split key.
        split (`str`, *optional*): The official split.
        sha256 (`str`): Of the pixels.
        perceptual_hash (`str`): Of the pixels, 256 bits in hexadecimal digits.
        compare (`bool`): Whether to compare perceptual hashes; not for slices, which are alike across patients.
    """

    patient: Patient
    split: str | None
    sha256: str
    perceptual_hash: str
    compare: bool


class Groups:
    """Disjoint sets of patients (union-find)."""

    def __init__(self) -> None:
        self.above: dict[Patient, Patient] = {}

    def find(self, patient: Patient) -> Patient:
        """Return the name of a patient's group: its smallest member."""
        self.above.setdefault(patient, patient)
        root = patient
        while self.above[root] != root:
            root = self.above[root]
        while self.above[patient] != root:
            self.above[patient], patient = root, self.above[patient]
        return root

    def join(self, first: Patient, second: Patient) -> bool:
        """Put two patients in one group, and return whether they were apart.

        Args:
            first (`tuple[str, str]`): A patient.
            second (`tuple[str, str]`): Another patient.
        """
        low, high = sorted((self.find(first), self.find(second)))
        self.above[high] = low
        return low != high


@dataclass(frozen=True)
class Splits:
    """The split of every patient.

    Attributes:
        split (`Mapping[Patient, str]`): Patient -> `"train"`, `"validation"` or `"test"`.
        subset (`frozenset[Patient]`): Patients of the 10 % subset of the training split.
        joined (`tuple[tuple[Patient, Patient, str], ...]`): Pairs of patients that were put in one group, with the
            reason: `"same pixels"` or `"looks the same"`.
        moved (`tuple[Patient, ...]`): Patients whose official split was changed by their group.
    """

    split: Mapping[Patient, str]
    subset: frozenset[Patient]
    joined: tuple[tuple[Patient, Patient, str], ...]
    moved: tuple[Patient, ...]


def make_splits(images: Iterable[SplitImage], seed: int = 0, shared: frozenset[str] = frozenset()) -> Splits:
    """Group and split the patients of all images.

    Args:
        images (`Iterable[SplitImage]`): In any order.
        seed (`int`, *optional*, defaults to 0): For splits that no source decides.
        shared (`frozenset[str]`, *optional*): Families with several sources in the set. Nobody can tell which of their
            patients are the same, so none of them is drawn for validation.
    """
    groups, official = Groups(), dict[Patient, str]()
    by_sha: dict[str, Patient] = {}
    similar = Similar()
    joined: list[tuple[Patient, Patient, str]] = []
    for image in images:
        groups.find(image.patient)
        if image.split is not None:
            official[image.patient] = min(image.split, official.get(image.patient, "train"), key=ORDER.index)
        other = by_sha.setdefault(image.sha256, image.patient)
        if groups.join(other, image.patient):
            joined.append((other, image.patient, "same pixels"))
        if image.compare:
            for other in similar.add(image.perceptual_hash, image.patient):
                if groups.join(other, image.patient):
                    joined.append((other, image.patient, "looks the same"))
    return _assign(groups, official, joined, seed, shared)


def _assign(
    groups: Groups,
    official: Mapping[Patient, str],
    joined: list[tuple[Patient, Patient, str]],
    seed: int,
    shared: frozenset[str],
) -> Splits:
    held_out: dict[Patient, str] = {}
    for patient, stated in official.items():
        root = groups.find(patient)
        held_out[root] = min(stated, held_out.get(root, "train"), key=ORDER.index)
    split: dict[Patient, str] = {}
    subset: set[Patient] = set()
    for patient in sorted(groups.above):
        root = groups.find(patient)
        held = root[0] not in shared and hash_fraction(seed, "split", root) < VALIDATION_SHARE
        split[patient] = held_out.get(root, "validation" if held else "train")
        if split[patient] == "train" and hash_fraction(seed, "subset", root) < SUBSET_SHARE:
            subset.add(patient)
    moved = tuple(patient for patient in sorted(official) if split[patient] != official[patient])
    return Splits(split, frozenset(subset), tuple(joined), moved)


def hash_fraction(seed: int, purpose: str, patient: Patient) -> float:
    """Return a number from 0 to 1 that depends on nothing but its arguments.

    Args:
        seed (`int`): Seed of the splits.
        purpose (`str`): Makes the numbers of one patient independent.
        patient (`tuple[str, str]`): Family and split key.
    """
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{patient[0]}\0{patient[1]}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class Similar:
    """Find hashes that differ in at most `NEAR_BITS` bits, without comparing all pairs.

    Only hashes that share one of `HASH_PARTS` pieces of 16 bits are compared. Nearly all hashes with so few different
    bits share one.
    """

    def __init__(self) -> None:
        self.buckets: dict[tuple[int, int], list[tuple[int, Patient]]] = {}

    def add(self, text: str, patient: Patient) -> list[Patient]:
        """Add the hash of an image, and return the patients of similar images, one entry each.

        Args:
            text (`str`): Perceptual hash in hexadecimal digits.
            patient (`tuple[str, str]`): Family and split key.
        """
        value = int(text, 16)
        similar: dict[Patient, None] = {}
        for part in range(HASH_PARTS):
            bucket = self.buckets.setdefault((part, value >> (16 * part) & 0xFFFF), [])
            for other, owner in bucket:
                if owner != patient and (value ^ other).bit_count() <= NEAR_BITS:
                    similar[owner] = None
            bucket.append((value, patient))
        return list(similar)


def split_hash(patients: Iterable[Patient]) -> str:
    """Return a short hash of which patients are in a split, for the card."""
    text = "\n".join(sorted(f"{family}\0{name}" for family, name in patients))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


__all__ = ["SplitImage", "Splits", "hash_fraction", "make_splits", "split_hash"]
