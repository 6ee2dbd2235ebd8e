# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Read and check the entries of the label taxonomy, which are frozen dataclasses."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar


GRANULARITIES = ("organ", "substructure", "lesion", "other")
# The one source of codes that has been checked, see `meta.codes` in the file.
VERIFIED_BASIS = "totalsegmentator_csv"
CODE_SYSTEMS = {"sct": "SNOMED CT", "uberon": "UBERON", "fma": "FMA", "radlex": "RadLex"}


@dataclass(frozen=True, slots=True)
class Code:
    """An identifier of a label in a terminology.

    Attributes:
        system (`str`): `"SNOMED CT"`, `"UBERON"`, `"FMA"` or `"RadLex"`.
        value (`str`): the identifier, for example `"10200004"`.
        basis (`str`): where it comes from; `"recalled"` means from memory.
        verified (`bool`): whether it was checked against its source.
        modifier (`str`, *optional*): SNOMED CT code of the side that goes with it.
    """

    system: str
    value: str
    basis: str
    verified: bool
    modifier: str | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """One of the 6 body regions. `attested_in_paper` is false where the name is this project's inference."""

    id: str
    name: str
    attested_in_paper: bool
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Category:
    """One of the 38 anatomical categories; `region` is the id of the region it lies in."""

    id: str
    name: str
    region: str


@dataclass(frozen=True, slots=True)
class Label:
    """A structure that can be grounded.

    Attributes:
        id (`str`): such as `"kidney_left"`.
        name (`str`): such as `"left kidney"`.
        category (`str`, *optional*): id of the category; `None` for some extensions only.
        region (`str`, *optional*): id of the region; `None` for some extensions only.
        granularity (`str`): `"organ"`, `"substructure"`, `"lesion"` or `"other"`.
        laterality (`str`, *optional*): `"left"` or `"right"`, the patient's.
        parent (`str`, *optional*): id of the label that this one is a part of or is found in.
        kind_of (`str`, *optional*): id of the label that this one is a special case of.
        synonyms (`tuple[str, ...]`): other phrases and abbreviations.
        modalities (`tuple[str, ...]`): where it is usually seen, as in `MODALITIES`; a draft.
        imed_names (`tuple[str, ...]`): raw names of the IMed-361M vocabulary that were merged into this label.
        codes (`tuple[Code, ...]`): identifiers in terminologies.
        note (`str`, *optional*): what is uncertain about it.
        extension (`bool`): whether it lies outside the 198.
        several (`bool`, *optional*): whether a patient has more than one; `None` goes by the granularity.
    """

    id: str
    name: str
    granularity: str
    category: str | None = None
    region: str | None = None
    laterality: str | None = None
    parent: str | None = None
    kind_of: str | None = None
    synonyms: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    imed_names: tuple[str, ...] = ()
    codes: tuple[Code, ...] = ()
    note: str | None = None
    extension: bool = False
    several: bool | None = None

    @property
    def single(self) -> bool:
        """Whether a patient has one of it only."""
        return self.granularity in ("organ", "substructure") if self.several is None else not self.several

    @property
    def phrases(self) -> tuple[str, ...]:
        """Everything that resolves to this label: its name, its id, its synonyms and its raw names."""
        return tuple(dict.fromkeys((self.name, self.id, *self.synonyms, *self.imed_names)))


@dataclass(frozen=True, slots=True)
class Location:
    """Location of a phrase in the taxonomy: ids, each `None` where the phrase leaves it open."""

    label_id: str | None
    category: str | None
    region: str | None


Entry = TypeVar("Entry", Region, Category, Label)


class Entries(NamedTuple):
    """The content of the file by id, in the file's order; `labels` with the extensions."""

    regions: dict[str, Region]
    categories: dict[str, Category]
    labels: dict[str, Label]


def read_entries(document: Mapping[str, Any]) -> Entries:
    """Turn the parsed file into entries.

    Args:
        document (`Mapping`): with the keys `regions`, `categories`, `labels` and, if any, `extensions`.

    Raises:
        `ValueError`: an id is repeated or refers to nothing, or a value is unknown.
    """
    regions = _by_id(Region(**_tuples(row)) for row in document["regions"])
    categories = _by_id(Category(**row) for row in document["categories"])
    rows = [(row, False) for row in document["labels"]] + [(row, True) for row in document.get("extensions", ())]
    entries = Entries(regions, categories, _by_id(_label(row, categories, extension) for row, extension in rows))
    for category in categories.values():
        _refers("region", category.region, regions, category.id)
    for label in entries.labels.values():
        _check_label(label, entries)
    return entries


def _by_id(entries: Iterable[Entry]) -> dict[str, Entry]:
    unique: dict[str, Entry] = {}
    for entry in entries:
        if entry.id in unique:
            raise ValueError(f"taxonomy: two entries share the id {entry.id}")
        unique[entry.id] = entry
    return unique


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


def _label(row: Mapping[str, Any], categories: Mapping[str, Category], extension: bool) -> Label:
    values = _tuples(row)
    category = categories.get(values.get("category", ""))
    values.setdefault("region", category.region if category else None)
    return Label(**{**values, "codes": _codes(row.get("codes", {})), "extension": extension})


def _codes(row: Mapping[str, str]) -> tuple[Code, ...]:
    codes = []
    for key, system in CODE_SYSTEMS.items():
        if key in row:
            basis = row.get(f"{key}_basis", "recalled")
            codes.append(Code(system, row[key], basis, basis == VERIFIED_BASIS, row.get(f"{key}_modifier")))
    return tuple(codes)


def _check_label(label: Label, entries: Entries) -> None:
    """Refuse references to nothing, unknown values and loops."""
    if label.category is not None or not label.extension:
        _refers("category", label.category, entries.categories, label.id)
    if label.region is not None:
        _refers("region", label.region, entries.regions, label.id)
    if label.granularity not in GRANULARITIES or label.laterality not in (None, "left", "right"):
        raise ValueError(f"taxonomy: unknown granularity or laterality of {label.id}")
    seen = {label.id}
    while above := label.kind_of or label.parent:
        _refers("label", above, entries.labels, label.id)
        if above in seen:
            raise ValueError(f"taxonomy: {above} is above itself")
        seen.add(above)
        label = entries.labels[above]


def _refers(kind: str, target: str | None, known: Container[str], source: str) -> None:
    if target not in known:
        raise ValueError(f"taxonomy: {source} refers to the {kind} {target!r}, which does not exist")
