# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The words of training prompts: wordings of every label, terms that cover several, and where in the body they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from modeling_medglip.taxonomy import Taxonomy, load_taxonomy
from modeling_medglip.taxonomy.phrases import normalize_phrase


SYNONYMS_FILE = Path(__file__).with_name("synonyms.yaml")
SIDES = ("left", "right")
ANYWHERE = "any"
# What an image of one part of the body may show besides.
TRUNK, HEAD = frozenset({"abdomen", "chest", "spine", "pelvis", "breast"}), frozenset({"brain", "eye", "head_neck"})
NECK, FETUS = frozenset({"head_neck"}), frozenset({"fetus"})
BESIDE = (
    (TRUNK, TRUNK | {"head_neck", "limb", "colon", "fetus"}),
    (HEAD, HEAD | {"spine"}),
    (NECK, NECK | {"chest", "limb"}),
    (FETUS, TRUNK | HEAD | {"limb"}),
)
# What counts ribs and vertebrae.
NUMBER = re.compile(r"[CTLS]?\d+")


@dataclass(frozen=True)
class LabelWords:
    """Other words for a label.

    Args:
        synonyms (`tuple[str]`): other wordings with the same meaning.
        parents (`tuple[str]`): terms that cover it and possibly others.
        regions (`frozenset[str]`): where in the body it can be.
    """

    synonyms: tuple[str, ...]
    parents: tuple[str, ...]
    regions: frozenset[str]


def _descriptions(document: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    """Return the descriptions of every label; those with `{side}` are of the labels of both sides."""
    descriptions: dict[str, tuple[str, ...]] = {}
    for name, words in document.items():
        patterns = [word for word in words if "{side}" in word]
        by_label = {name: [word for word in words if word not in patterns]}
        for side in SIDES if patterns else ():
            by_label[f"{side} {name}"] = [pattern.format(side=side) for pattern in patterns]
        for label, described in by_label.items():
            descriptions[label] = (*descriptions.get(label, ()), *described)
    return descriptions


class Vocabulary:
    """Labels with their wordings, from `synonyms.yaml` and the label taxonomy of the package.

    Args:
        document (`dict`): the parts of that file.
        taxonomy ([`~modeling_medglip.taxonomy.Taxonomy`], *optional*): adds the synonyms that it knows.
    """

    def __init__(self, document: dict[str, Any], taxonomy: Taxonomy | None = None) -> None:
        self._taxonomy = taxonomy
        self._excluded: dict[str, list[str]] = document.get("excluded", {})
        self._regions_of_categories: dict[str, list[str]] = document.get("places", {})
        self.words: dict[str, LabelWords] = {}
        # Of labels that are not listed; apart from them, so that what was asked before changes nothing.
        self._looked_up: dict[str, LabelWords] = {}
        self._groups: dict[str, tuple[str, ...]] = {}
        self._wordings: dict[str, frozenset[str]] = {}
        self.pairs: dict[str, tuple[str, str]] = {}
        self.parent_words = {name: tuple(words) for name, words in document.get("parents", {}).items()}
        self.descriptions = _descriptions(document.get("descriptions", {}))
        self.held_out: dict[str, tuple[str, ...]] = {}
        for by_label in document.get("held_out", {}).values():
            for name, words in by_label.items():
                self.held_out[name] = (*self.held_out.get(name, ()), *words)
        for name, entry in document.get("labels", {}).items():
            self._add(name, entry["synonyms"], entry["parents"], entry["regions"])
        for base, entry in document.get("sided", {}).items():
            self._add_sided(base, entry)

    def _add(self, name: str, synonyms: Sequence[str], parents: Sequence[str], regions: Sequence[str]) -> None:
        known = self._taxonomy.resolve(name) if self._taxonomy else None
        words = [*synonyms, *((known.name, *known.synonyms) if known else ())]
        others = (*parents, *self._excluded.get(name, ()), *self.held_out.get(name, ()))
        refused = {word.lower() for word in (name, *others)}
        unique: dict[str, str] = {}
        for word in words:
            if word.lower() not in refused:
                unique.setdefault(word.lower(), word)
        self.words[name] = LabelWords(tuple(unique.values()), tuple(parents), frozenset(regions))

    def _add_sided(self, base: str, entry: dict[str, Any]) -> None:
        regions, plural = entry["regions"], entry.get("plural")
        words = [*entry["synonyms"], *entry.get("both", ()), *([plural] if plural else [])]
        self._add(base, words, entry["parents"], regions)
        for side in SIDES:
            words = [f"{side} {word}" for word in entry["synonyms"]] + [f"{base}, {side}", f"{base} on the {side}"]
            if "abbreviation" in entry:
                words.append(f"{side[0].upper()}{entry['abbreviation']}")
            self._add(f"{side} {base}", words, [base, *([plural] if plural else []), *entry["parents"]], regions)
        self.pairs[base] = (f"left {base}", f"right {base}")
        if plural:
            self.pairs[plural] = self.pairs[base]

    @classmethod
    @lru_cache(maxsize=4)
    def load(cls, path: Path = SYNONYMS_FILE) -> Vocabulary:
        """Read the file once, with the package's taxonomy."""
        return cls(yaml.safe_load(path.read_text(encoding="utf-8")), load_taxonomy())

    def of(self, label: str) -> LabelWords:
        """Return the words of a label: those of the vocabulary, else of the taxonomy; none for unknown labels."""
        if label in self.words:
            return self.words[label]
        if label not in self._looked_up:
            self._looked_up[label] = self._from_taxonomy(label)
        return self._looked_up[label]

    def _from_taxonomy(self, name: str) -> LabelWords:
        entry = self._taxonomy.resolve(name) if self._taxonomy else None
        if entry is None or self._taxonomy is None:
            return LabelWords((), (), frozenset())
        kinds = [label.name for label in self._taxonomy.ancestors(entry.id) if label.id == entry.kind_of]
        base = " ".join(word for word in entry.name.split() if word not in SIDES and not NUMBER.fullmatch(word))
        if base != entry.name and base not in kinds and entry in self._taxonomy.resolve_term(base):
            kinds.append(base)
        general = ["lesion", "abnormality"] if entry.granularity == "lesion" else []
        synonyms = [word for word in (entry.name, *entry.synonyms) if word.lower() != name.lower()]
        regions = self._regions_of_categories.get(entry.category or "", ())
        return LabelWords(tuple(synonyms), tuple(kinds + general), frozenset(regions))

    def groups(self, label: str) -> tuple[str, ...]:
        """Return the names of a label's category and region in the taxonomy, such as `chest (lung)`.

        Names that mean a label themselves are left out.
        """
        if label not in self._groups:
            location = self._taxonomy.locate(label) if self._taxonomy else None
            names: list[str] = []
            if location is not None and self._taxonomy is not None:
                names += [self._taxonomy.categories[location.category].name] if location.category else []
                names += [self._taxonomy.regions[location.region].name] if location.region else []
            self._groups[label] = tuple(n for n in names if self._taxonomy and not self._taxonomy.candidates(n))
        return self._groups[label]

    def synonyms(self, label: str) -> tuple[str, ...]:
        """Return other wordings of a label."""
        return self.of(label).synonyms

    def wordings(self, label: str) -> frozenset[str]:
        """Return all wordings of a label, normalized for comparison."""
        if label not in self._wordings:
            self._wordings[label] = frozenset(map(normalize_phrase, (label, *self.synonyms(label))))
        return self._wordings[label]

    def all_wordings(self, label: str) -> tuple[str, ...]:
        """Return whatever means a label: its name, synonyms, descriptions and the wordings that are for measuring."""
        return (label, *self.synonyms(label), *self.descriptions.get(label, ()), *self.held_out.get(label, ()))

    def all_terms(self, label: str) -> tuple[str, ...]:
        """Return whatever covers a label and possibly others: its parent terms in all words, and its groups."""
        parents = self.of(label).parents
        words = (word for term in parents for word in (*self.words_of_parent(term), *self.synonyms(term)))
        return (*words, *self.groups(label))

    def words_of_parent(self, term: str) -> tuple[str, ...]:
        """Return a parent term and its other wordings."""
        return (term, *self.parent_words.get(term, ()))

    def are_siblings(self, label: str, other: str) -> bool:
        """Return whether two labels are easily taken for each other: sides of a pair, kinds of one, or of one organ.

        Args:
            label (`str`): a label.
            other (`str`): another one.
        """
        if other == self.partner(label) or set(self.of(label).parents) & set(self.of(other).parents):
            return True
        return bool(set(self.groups(label)[:1]) & set(self.groups(other)[:1]))

    def regions(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return the body parts that an image with these labels may show, with the neighboring parts.

        Empty if one of the labels is unknown.
        """
        by_label = [self.of(label).regions for label in labels]
        if not all(by_label):
            return ()
        regions: frozenset[str] = frozenset().union(*by_label)
        wider = [more for part, more in BESIDE if regions & part]
        return tuple(sorted(regions.union(*wider)))

    def covered(self, parent: str, annotated: Sequence[str]) -> tuple[str, ...]:
        """Return the annotated labels that a parent term covers; none where it cannot be used.

        A term for both sides needs both sides annotated.

        Args:
            parent (`str`): the term.
            annotated (`Sequence[str]`): labels that are annotated in the image.
        """
        if any(parent.lower() in map(str.lower, self.synonyms(name)) for name in annotated):
            return ()  # it means one of these labels already
        if parent in self.pairs and not set(self.pairs[parent]) <= set(annotated) | {parent}:
            return ()
        return tuple(name for name in annotated if name == parent or parent in self._parents(name))

    def _parents(self, label: str) -> tuple[str, ...]:
        return self.of(label).parents

    def partner(self, label: str) -> str | None:
        """Return the same structure on the other side of the body, or `None`."""
        side, _, base = label.partition(" ")
        if base in self.pairs and side in SIDES:
            return f"{SIDES[1 - SIDES.index(side)]} {base}"
        return None

    def foreign(self, regions: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
        """Return those of `labels` that cannot be in an image of these regions; none if the regions are unknown.

        Args:
            regions (`Sequence[str]`): body parts in the image.
            labels (`Sequence[str]`): to choose from.
        """
        seen = {ANYWHERE, *regions}
        candidates = ((name, self.of(name).regions) for name in labels if regions)
        return tuple(name for name, possible in candidates if possible and not possible & seen)
