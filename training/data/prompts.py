# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Prompts for training: which labels are asked, in which words, and which boxes each phrase must find."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
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


@dataclass(frozen=True)
class PromptRecipe:
    """How prompts are drawn.

    Args:
        all_labels (`float`): share of prompts with every annotated label; the others have a random subset.
        no_positive (`float`): share of prompts without any positive, for sources of one label.
        replace (`float`): probability that a label is asked in other words.
        parent (`float`): share of these other words that are a parent term.
        group (`float`): share of these other words that are the label's category or region in the taxonomy.
        foreign (`int`): at most so many labels of other parts of the body.
        token_budget (`int`): most tokens of a prompt, its separators counted.
    """

    all_labels: float = 0.5
    no_positive: float = 0.1
    replace: float = 0.35
    parent: float = 0.4
    group: float = 0.05
    foreign: int = 3
    token_budget: int = 240


@dataclass(frozen=True)
class Prompt:
    """A drawn prompt.

    Args:
        phrases (`tuple[str]`): in the order in which they are asked.
        boxes (`tuple[int]`): indices of the image's boxes to be found.
        classes (`tuple[int]`): for each of these, the index of its phrase.
    """

    phrases: tuple[str, ...]
    boxes: tuple[int, ...]
    classes: tuple[int, ...]


class Vocabulary:
    """Labels with their wordings, from `synonyms.yaml` and the label taxonomy of the package.

    Args:
        document (`dict`): `labels`, `sided`, `parents` and `excluded`, as in that file.
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
        for name, entry in document.get("labels", {}).items():
            self._add(name, entry["synonyms"], entry["parents"], entry["regions"])
        for base, entry in document.get("sided", {}).items():
            self._add_sided(base, entry)

    def _add(self, name: str, synonyms: Sequence[str], parents: Sequence[str], regions: Sequence[str]) -> None:
        known = self._taxonomy.resolve(name) if self._taxonomy else None
        words = [*synonyms, *((known.name, *known.synonyms) if known else ())]
        refused = {word.lower() for word in (name, *parents, *self._excluded.get(name, ()))}
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


def rough_token_length(phrase: str) -> int:
    """Estimate the tokens of a phrase and its separator without a tokenizer, rather too many than too few."""
    return 2 * len(phrase.split()) + 1


@dataclass(frozen=True)
class PromptSampler:
    """Draws prompts for images.

    Args:
        vocabulary ([`Vocabulary`]): labels to draw from.
        others (`dict[str, Sequence[str]]`): source -> its labels, from which negatives of other body parts are taken.
        recipe ([`PromptRecipe`]): how they are drawn.
        token_length (`Callable[[str], int]`, *optional*): number of tokens of a phrase with its separator; guessed
            when not given.
    """

    vocabulary: Vocabulary
    others: dict[str, tuple[str, ...]]
    recipe: PromptRecipe = PromptRecipe()
    token_length: Callable[[str], int] = rough_token_length

    def draw(
        self,
        labels: Sequence[str],
        annotated: Sequence[str],
        regions: Sequence[str],
        rng: np.random.Generator,
        source_labels: Sequence[str] = (),
    ) -> Prompt:
        """Draw one prompt.

        Args:
            labels (`Sequence[str]`): one per box of the image.
            annotated (`Sequence[str]`): labels annotated wherever they occur; those without a box are negatives.
            regions (`Sequence[str]`): body parts in the image; empty: those that the labels can be in.
            rng (`np.random.Generator`): the source of everything random.
            source_labels (`Sequence[str]`, *optional*): what may be in the image though it is not asked, such as
                labels that were cut off at its border; the annotated ones when not given.
        """
        present, known = set(labels), tuple(source_labels or annotated)
        chosen = self._choose(labels, annotated, rng)
        phrases = self._word(chosen, annotated, present, rng)
        regions = regions or self.vocabulary.regions(known)
        phrases += [(phrase, ()) for phrase in self._foreign(regions, known, rng, at_least_one=not phrases)]
        if not phrases:  # nothing is known to be absent either
            phrases = self._word(annotated, annotated, present, rng)
        order = rng.permutation(len(phrases))
        asked = self._fit([phrases[i] for i in order], present)
        owner = {label: index for index, (_, members) in enumerate(asked) for label in members}
        boxes = tuple(index for index, label in enumerate(labels) if label in owner)
        return Prompt(tuple(phrase for phrase, _ in asked), boxes, tuple(owner[labels[index]] for index in boxes))

    def _choose(self, labels: Sequence[str], annotated: Sequence[str], rng: np.random.Generator) -> list[str]:
        present = [name for name in annotated if name in set(labels)]
        absent = [name for name in annotated if name not in set(labels)]
        if len(annotated) == 1:
            return [] if rng.random() < self.recipe.no_positive else list(annotated)
        if rng.random() < self.recipe.all_labels:
            return list(annotated)
        keep = rng.integers(1, len(present) + 1) if present else 0
        deny = rng.integers(0, len(absent) + 1) if present else rng.integers(1, len(absent) + 1) if absent else 0
        picks = [*rng.permutation(present)[:keep], *rng.permutation(absent)[:deny]]
        return [str(name) for name in picks]

    def _word(
        self, chosen: Sequence[str], annotated: Sequence[str], present: set[str], rng: np.random.Generator
    ) -> list[tuple[str, tuple[str, ...]]]:
        """Return phrases with the labels of each; no label is in two phrases, and no phrase comes twice."""
        phrases: list[tuple[str, tuple[str, ...]]] = []
        used: set[str] = set()
        spoken: set[str] = set()
        for label in (str(name) for name in rng.permutation(list(chosen))):
            if label in used:
                continue
            phrase, members = self._phrase(label, annotated, present, used, rng)
            if phrase.lower() in spoken or (phrase != label and self._means_another(phrase, label, annotated)):
                phrase, members = label, (label,)
            if phrase.lower() in spoken:
                continue
            used |= set(members)
            spoken.add(phrase.lower())
            phrases.append((phrase, members))
        return phrases

    def _means_another(self, phrase: str, label: str, annotated: Sequence[str]) -> bool:
        """Whether a phrase is a wording of another annotated label, so that it may be wrong for this one."""
        normalized = normalize_phrase(phrase)
        return any(normalized in self.vocabulary.wordings(name) for name in annotated if name != label)

    def _phrase(
        self, label: str, annotated: Sequence[str], present: set[str], used: set[str], rng: np.random.Generator
    ) -> tuple[str, tuple[str, ...]]:
        """Return the words for a label, and the labels that they stand for.

        A general term is asked only where one of its labels has a box: a source that annotates some of them cannot say
        that all are absent.
        """
        if rng.random() >= self.recipe.replace:
            return label, (label,)
        if rng.random() < self.recipe.group:
            groups = self.vocabulary.groups(label)
            term = groups[rng.integers(len(groups))] if groups else ""
            members = tuple(name for name in annotated if term in self.vocabulary.groups(name))
            if set(members) & present and not used & set(members):
                return term, members
        if rng.random() < self.recipe.parent:
            terms = [(term, self.vocabulary.covered(term, annotated)) for term in self.vocabulary._parents(label)]
            terms = [pair for pair in terms if self._certain(*pair, present) and not used & set(pair[1])]
            if terms:
                term, members = terms[rng.integers(len(terms))]
                words = (term, *self.vocabulary.parent_words.get(term, ()))
                return words[rng.integers(len(words))] if rng.random() < 0.4 else term, members
        words = self.vocabulary.synonyms(label)
        return (words[rng.integers(len(words))] if words else label), (label,)

    def _certain(self, term: str, members: Sequence[str], present: set[str]) -> bool:
        """Whether the labels of a term are all that it covers, or one of them has a box."""
        return bool(set(members) & present) or bool(members and term in self.vocabulary.pairs)

    def _foreign(
        self, regions: Sequence[str], known: tuple[str, ...], rng: np.random.Generator, at_least_one: bool
    ) -> list[str]:
        least = int(at_least_one)
        count = int(rng.integers(least, max(self.recipe.foreign, least) + 1))
        others = (self.vocabulary.foreign(regions, names) for names in self.others.values())
        meant = frozenset().union(*map(self.vocabulary.wordings, known))
        sources = [left for names in others if (left := [n for n in names if normalize_phrase(n) not in meant])]
        phrases: list[str] = []
        for _ in range(count if sources else 0):
            names = sources[rng.integers(len(sources))]
            name = names[rng.integers(len(names))]
            words = self.vocabulary.synonyms(name)
            phrase = words[rng.integers(len(words))] if words and rng.random() < self.recipe.replace else name
            if phrase not in phrases:
                phrases.append(phrase)
        return phrases

    def _fit(self, phrases: list[tuple[str, tuple[str, ...]]], present: set[str]) -> list[tuple[str, tuple[str, ...]]]:
        """Return as many phrases, in their order, as fit the token budget; at least one.

        Phrases with a box come first: a source with many labels would teach little besides what is absent.
        """
        order = sorted(range(len(phrases)), key=lambda index: not present & set(phrases[index][1]))
        total = 2
        chosen: list[int] = []
        for index in order:
            length = self.token_length(phrases[index][0])
            if not chosen or total + length <= self.recipe.token_budget:
                total += length
                chosen.append(index)
        return [phrases[index] for index in sorted(chosen)]
