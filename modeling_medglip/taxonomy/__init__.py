# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The label taxonomy: 198 labels in 38 anatomical categories in 6 body regions, and the phrases that mean them.

The data is in `taxonomy.yaml`, with notes on uncertain entries; it is read once, on first use.

```python
>>> from modeling_medglip.taxonomy import load_taxonomy
>>> taxonomy = load_taxonomy()
>>> taxonomy.resolve("Kidneys, left").id
'kidney_left'
>>> [label.id for label in taxonomy.resolve_term("eye")]
['eye_left', 'eye_right']
>>> taxonomy.locate("WMH").category
'head_brain'
```
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..io.text_files import load_yaml
from ..modalities import resolve_modality
from .entries import Category, Code, Entries, Label, Location, Region, read_entries
from .languages import Language, read_languages
from .phrases import names_a_side, normalize_phrase


__all__ = [
    "Category", "Code", "Label", "Location", "Region", "Taxonomy", "load_taxonomy", "means_a_side", "normalize_phrase",
]  # fmt: skip

TAXONOMY_FILE = Path(__file__).with_name("taxonomy.yaml")
# Phrases whose normal form is kept.
KEPT_PHRASES = 4096
LANGUAGES_FILE = Path(__file__).with_name("languages.yaml")
# "both kidneys" and "left and right kidney" mean what "kidney" does.
BOTH_SIDES = re.compile(r"\b(?:left and right|right and left|bilateral|bilaterally|both)\b")


@dataclass(frozen=True)
class Taxonomy:
    """The whole taxonomy with its look-ups. Made by [`load_taxonomy`].

    Attributes:
        regions (`Mapping[str, Region]`): id -> region, read-only.
        categories (`Mapping[str, Category]`): id -> category, read-only.
        labels (`Mapping[str, Label]`): id -> label, read-only; the 198.
        extensions (`Mapping[str, Label]`): id -> label outside the 198, read-only.
        ambiguous (`Mapping[str, tuple[str, ...]]`): phrases with several meanings, and the ids of those labels.
    """

    regions: Mapping[str, Region]
    categories: Mapping[str, Category]
    labels: Mapping[str, Label]
    extensions: Mapping[str, Label]
    ambiguous: Mapping[str, tuple[str, ...]]
    _phrases: Mapping[str, tuple[str, ...]] = field(repr=False)
    _groups: Mapping[str, tuple[str, ...]] = field(repr=False)
    _languages: tuple[Language, ...] = field(default=(), repr=False)

    def label(self, label_id: str) -> Label:
        """Return the label or extension of that exact id.

        Raises:
            `ValueError`: an unknown id.
        """
        label = self.labels.get(label_id) or self.extensions.get(label_id)
        if label is None:
            raise ValueError(f"no label has the id {label_id[:60]!r}; `resolve` looks up phrases")
        return label

    def candidates(self, phrase: str, modality: str | None = None) -> tuple[Label, ...]:
        """Return every label that a phrase may mean: none, one, or several if it is known to be ambiguous.

        Args:
            phrase (`str`): a name, synonym, abbreviation or id in any spelling of case, plural, hyphens and side.
            modality (`str`, *optional*): keeps those usual in this modality, if any is.
        """
        labels = tuple(map(self.label, self._phrases.get(self._key(phrase), ())))
        return _usual(labels, modality) or labels

    def resolve(self, phrase: str, modality: str | None = None) -> Label | None:
        """Return the one label that a phrase means, or `None` if it means none or, in this modality, several.

        Args:
            phrase (`str`): as in [`Taxonomy.candidates`].
            modality (`str`, *optional*): as in [`Taxonomy.candidates`].
        """
        labels = self.candidates(phrase, modality)
        return labels[0] if len(labels) == 1 else None

    def resolve_term(self, phrase: str, modality: str | None = None) -> tuple[Label, ...]:
        """Return all labels that a term covers, in the order of the file; empty if it is unknown.

        A label covers itself and its kinds (`"kidney"` both kidneys); a name without its side both sides; a group
        (`"rib"`, `"lesion"`), a category or a region all its members.

        Args:
            phrase (`str`): as in [`Taxonomy.candidates`].
            modality (`str`, *optional*): keeps those usual in this modality; here this may leave none.
        """
        key = self._key(phrase)
        ids = self._phrases.get(key)
        labels = tuple(map(self.label, self._groups.get(key, ()) if ids is None else self._with_kinds(ids)))
        return _usual(labels, modality)

    def locate(self, phrase: str, modality: str | None = None) -> Location | None:
        """Return label, category and region of a phrase, or `None` if it is outside the taxonomy.

        A term that covers several labels has no label id, and a category or region only if all of them share it.

        Args:
            phrase (`str`): as in [`Taxonomy.candidates`].
            modality (`str`, *optional*): prefers labels usual in this modality.
        """
        label = self.resolve(phrase, modality)
        if label is not None:
            return Location(label.id, label.category, label.region)
        covered = self.candidates(phrase, modality) or self.resolve_term(phrase)
        if not covered:
            return None
        first = covered[0]
        category = first.category if all(label.category == first.category for label in covered) else None
        region = first.region if all(label.region == first.region for label in covered) else None
        return Location(None, category, region)

    def english(self, phrase: str) -> str | None:
        """Return what the taxonomy takes a phrase for if it knows it only in another form, else `None`.

        Such forms are names in other languages (`"linke Niere"` -> `"left kidney"`) and both sides of a pair
        (`"both kidneys"` -> `"kidney"`).
        """
        key = self._key(phrase)
        return None if key == normalize_phrase(phrase) else key

    @functools.cached_property
    def _key(self) -> Callable[[str], str]:
        """As [`_read`], of phrases seen before without reading them again."""
        return functools.lru_cache(KEPT_PHRASES)(self._read)

    def _read(self, phrase: str) -> str:
        """Return the normal form under which the taxonomy lists a phrase, its plain normal form if it does not."""
        plain = normalize_phrase(phrase)
        foreign = (reading for language in self._languages for reading in language.readings(phrase))
        keys = map(normalize_phrase, (plain, BOTH_SIDES.sub(" ", plain), *foreign))
        return next((key for key in keys if key in self._phrases or key in self._groups), plain)

    def ancestors(self, label_id: str) -> tuple[Label, ...]:
        """Return the labels above one, nearest first: along `kind_of` where there is one, else along `parent`."""
        labels: list[Label] = []
        label = self.label(label_id)
        while above := label.kind_of or label.parent:
            label = self.label(above)
            labels.append(label)
        return tuple(labels)

    def kinds_above(self, label: Label) -> Iterable[Label]:
        """Yield the labels that one is a kind of, nearest first."""
        while label.kind_of:
            label = self.label(label.kind_of)
            yield label

    def in_category(self, category_id: str) -> tuple[Label, ...]:
        """Return the labels of a category, extensions last.

        Raises:
            `ValueError`: an unknown id.
        """
        if category_id not in self.categories:
            raise ValueError(f"no category has the id {category_id[:60]!r}: one of {', '.join(self.categories)}")
        return tuple(label for label in self._all_labels() if label.category == category_id)

    def unverified_codes(self) -> tuple[tuple[Label, Code], ...]:
        """Return every code that nobody has checked against its terminology, with its label."""
        return tuple((label, code) for label in self._all_labels() for code in label.codes if not code.verified)

    def _all_labels(self) -> Iterable[Label]:
        yield from self.labels.values()
        yield from self.extensions.values()

    def _with_kinds(self, ids: Iterable[str]) -> tuple[str, ...]:
        asked = set(ids)
        return tuple(
            label.id
            for label in self._all_labels()
            if label.id in asked or not asked.isdisjoint(kind.id for kind in self.kinds_above(label))
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Read-only mappings cannot be pickled, which processes of a `DataLoader` need where they are not forked.
        *parts, languages = (getattr(self, part.name) for part in fields(self))
        return _read_only, (languages, *map(dict, parts))


def _read_only(languages: tuple[Language, ...], *parts: dict[str, Any]) -> Taxonomy:
    values: list[Any] = [*map(MappingProxyType, parts), languages]
    return Taxonomy(*values)


def _usual(labels: tuple[Label, ...], modality: str | None) -> tuple[Label, ...]:
    """Return the labels that are usual in a modality, all of them without one."""
    if modality is None:
        return labels
    name = resolve_modality(modality)
    return tuple(label for label in labels if name in label.modalities)


@functools.cache
def load_taxonomy() -> Taxonomy:
    """Return the packaged taxonomy, reading it on the first call."""
    languages = read_languages(load_yaml(LANGUAGES_FILE.read_text(encoding="utf-8")))
    return replace(taxonomy_from_document(load_yaml(TAXONOMY_FILE.read_text(encoding="utf-8"))), _languages=languages)


def means_a_side(phrase: str) -> bool:
    """Return whether a phrase names a side or abbreviates one (`"LV"`), so that a flip changes what it means."""
    return names_a_side(phrase) or any(names_a_side(label.name) for label in load_taxonomy().candidates(phrase))


def taxonomy_from_document(document: Mapping[str, Any]) -> Taxonomy:
    """Build a taxonomy from the parsed file.

    Args:
        document (`Mapping`): with the keys `regions`, `categories`, `labels` and, if any, `extensions`, `terms`,
            `ambiguous`.

    Raises:
        `ValueError`: an entry is wrong (see [`read_entries`]), a group has no members, or a phrase means two labels
            without being listed as ambiguous.
    """
    entries = read_entries(document)
    ambiguous = {row["phrase"]: tuple(row["labels"]) for row in document.get("ambiguous", ())}
    for phrase, ids in ambiguous.items():
        if unknown := [label_id for label_id in ids if label_id not in entries.labels]:
            raise ValueError(f"taxonomy: the ambiguous phrase {phrase!r} names {unknown[0]}, which does not exist")
    labels = entries.labels.values()
    return Taxonomy(
        regions=MappingProxyType(entries.regions),
        categories=MappingProxyType(entries.categories),
        labels=MappingProxyType({label.id: label for label in labels if not label.extension}),
        extensions=MappingProxyType({label.id: label for label in labels if label.extension}),
        ambiguous=MappingProxyType(ambiguous),
        _phrases=MappingProxyType(_phrase_index(labels, ambiguous)),
        _groups=MappingProxyType(_group_index(document.get("terms", ()), entries)),
    )


def _phrase_index(labels: Iterable[Label], ambiguous: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Map each normalized phrase to the ids it means."""
    index = {normalize_phrase(phrase): ids for phrase, ids in ambiguous.items()}
    listed = frozenset(index)
    for label in labels:
        for phrase in label.phrases:
            key = normalize_phrase(phrase)
            if key in listed:
                continue
            if index.setdefault(key, (label.id,)) != (label.id,):
                raise ValueError(f"taxonomy: {phrase!r} means {index[key][0]} and {label.id}; list it as ambiguous")
    return index


def _group_index(terms: Iterable[Mapping[str, Any]], entries: Entries) -> dict[str, tuple[str, ...]]:
    """Map each normalized term to the ids it covers. The first wins: named groups, pairs, categories, regions."""
    labels = tuple(entries.labels.values())
    groups: dict[str, tuple[str, ...]] = {}
    for row in terms:
        members = _members(row, labels)
        for phrase in (row["name"], *row.get("synonyms", ())):
            groups[normalize_phrase(phrase)] = members
    for key, ids in _pairs(labels).items():
        groups.setdefault(key, ids)
    for category in entries.categories.values():
        ids = tuple(label.id for label in labels if label.category == category.id)
        inner = category.name.partition("(")[2].rstrip(")")
        for phrase in (category.name, category.id, inner):
            groups.setdefault(normalize_phrase(phrase), ids)
    for region in entries.regions.values():
        ids = tuple(label.id for label in labels if label.region == region.id)
        for phrase in (region.name, region.id, *region.synonyms):
            groups.setdefault(normalize_phrase(phrase), ids)
    return groups


def _pairs(labels: Iterable[Label]) -> dict[str, tuple[str, ...]]:
    """Map each phrase of a sided label, less its side, to the ids of both sides."""
    pairs: dict[str, tuple[str, ...]] = {}
    for label in labels:
        for key in dict.fromkeys(map(normalize_phrase, label.phrases)) if label.laterality else ():
            base = key.removeprefix(f"{label.laterality} ")
            pairs[base] = (*pairs.get(base, ()), label.id)
    return {base: ids for base, ids in pairs.items() if len(ids) > 1}


def _members(row: Mapping[str, Any], labels: Iterable[Label]) -> tuple[str, ...]:
    """Return the ids of a group, in the order of the file."""
    patterns = row.get("members", ())
    ids = tuple(
        label.id
        for label in labels
        if label.granularity == row.get("granularity") or any(fnmatchcase(label.id, pattern) for pattern in patterns)
    )
    unused = [pattern for pattern in patterns if not any(fnmatchcase(label_id, pattern) for label_id in ids)]
    if unused or not ids:
        raise ValueError(f"taxonomy: the term {row['name']} has no member {', '.join(unused) or 'at all'}")
    return ids
