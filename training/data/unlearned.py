# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Phrases that training answers with nothing: never learned in a modality, composed of known words, or nonsense.

A fifth of them, by a hash, is never used in training, so that the studies can measure unknown phrases.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from modeling_medglip.io.text_files import load_yaml
from modeling_medglip.taxonomy import load_taxonomy
from modeling_medglip.taxonomy.phrases import normalize_phrase

from .vocabulary import NUMBER, SIDES, Vocabulary


UNLEARNED_FILE = Path(__file__).with_name("unlearned_phrases.yaml")
# One phrase in so many is for measuring only.
HELD_OUT = 5
# Words that change nothing about what a phrase means: "stone in the kidney" is "kidney stone".
FILLERS = frozenset({"of", "in", "on", "at", "with", "and", "or", "to", "by", "from", "for"})
# How often each kind is drawn; a kind without phrases leaves its share to the others.
KINDS = {"label": 0.2, "finding": 0.25, "elsewhere": 0.1, "composed": 0.2, "nonsense": 0.25}
# Draws until a phrase may be asked.
ATTEMPTS = 40
SYLLABLES = ("bra", "cu", "dro", "fen", "gli", "ho", "jat", "kwe", "lum", "mo", "nif", "po", "ras", "tel", "vu", "zid")


@lru_cache(maxsize=8192)
def bag_of_words(phrase: str) -> frozenset[str]:
    """Return the normalized words of a phrase without those that change nothing, in no order."""
    words = normalize_phrase(phrase).split() or phrase.lower().split()
    return frozenset(words) - FILLERS or frozenset(words)


@lru_cache(maxsize=8192)
def is_held_out(phrase: str) -> bool:
    """Return whether a phrase is for measuring only: one in `HELD_OUT`, whatever its spelling, order and side.

    The synonyms of a label of the taxonomy are held out or trained together with it.
    """
    label = load_taxonomy().resolve(phrase)
    return _is_hashed(label.name if label else phrase)


def _is_hashed(phrase: str) -> bool:
    words = bag_of_words(phrase)
    key = " ".join(sorted(words - frozenset(SIDES) or words))
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % HELD_OUT == 0


def whole_words(tokenizer: Any) -> tuple[str, ...]:
    """Return the words of three letters and more that a tokenizer knows whole and the taxonomy does not, sorted."""
    taxonomy = load_taxonomy()
    labels = (*taxonomy.labels.values(), *taxonomy.extensions.values())
    known = {normalize_phrase(phrase) for label in labels for phrase in label.phrases}
    words = (word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha() and len(word) > 2)
    return tuple(sorted(word for word in words if normalize_phrase(word) not in known))


class LabelSet:
    """Labels of a modality, and whether phrases mean, cover or narrow one of them.

    Args:
        vocabulary ([`~training.data.vocabulary.Vocabulary`]): knows their wordings.
        labels (`Iterable[str]`): in the words of the training data.
        modality (`str`): one of `MODALITIES`.
    """

    def __init__(self, vocabulary: Vocabulary, labels: Iterable[str], modality: str) -> None:
        taxonomy, self.labels = load_taxonomy(), tuple(sorted(set(labels)))
        self._ids = {label.id for name in self.labels for label in taxonomy.candidates(name, modality)}
        self._above = {label.id for label_id in self._ids for label in taxonomy.ancestors(label_id)}
        names = [phrase for name in self.labels for phrase in vocabulary.all_wordings(name)]
        terms = [term for name in self.labels for term in vocabulary.all_terms(name)]
        self._names = frozenset(map(bag_of_words, names))
        # Without its side a wording is of both sides; what shares a wording with one of the labels is close to it.
        sideless = {words - frozenset(SIDES) for words in self._names} - self._names - {frozenset()}
        close = (words for words in _wordings(vocabulary) if not words.isdisjoint(self._names))
        self._terms = frozenset(map(bag_of_words, terms)).union(sideless, *close) - self._names
        self.bags = self._names | self._terms
        self.words: frozenset[str] = frozenset().union(*self.bags)

    def means(self, phrase: str) -> bool:
        """Return whether a phrase is a wording of one of the labels, or of one of its sides."""
        words = bag_of_words(phrase)
        if words in self._names or words - frozenset(SIDES) in self._names:
            return True
        return any(label.id in self._ids for label in load_taxonomy().candidates(phrase))

    def covers(self, phrase: str) -> bool:
        """Return whether a phrase is a term for one of the labels and others, such as its organ or its region."""
        covered = {label.id for label in load_taxonomy().resolve_term(phrase)}
        return bag_of_words(phrase) in self._terms or not covered.isdisjoint(self._ids | self._above)

    def narrows(self, phrase: str) -> bool:
        """Return whether a phrase means one of the labels, a kind of it, or says more about it."""
        taxonomy, words = load_taxonomy(), bag_of_words(phrase)
        kinds = (kind.id for label in taxonomy.candidates(phrase) for kind in taxonomy.kinds_above(label))
        return self.means(phrase) or any(name <= words for name in self._names) or not self._ids.isdisjoint(kinds)


@dataclass(frozen=True)
class UnlearnedPhrases:
    """Phrases that no training image of a modality explains.

    Args:
        modality (`str`): one of `MODALITIES`.
        learned ([`LabelSet`]): labels that training annotates; what means or covers one is never drawn.
        left_out ([`LabelSet`]): labels held out of training; what concerns one is never drawn.
        listed (`dict[str, tuple[tuple[str, ...], ...]]`): kind -> groups of phrases, such as the wordings of a label.
        parts (`tuple[tuple[str, tuple[str, ...]], ...]`): names of learned labels with the words for compositions.
        words (`tuple[str, ...]`): ordinary words that occur in no wording of a learned label.
        held_out (`bool`): the phrases for measuring, not those for training.
    """

    modality: str
    learned: LabelSet
    left_out: LabelSet
    listed: Mapping[str, tuple[tuple[str, ...], ...]]
    parts: tuple[tuple[str, tuple[str, ...]], ...]
    words: tuple[str, ...]
    held_out: bool = False

    @classmethod
    def of(
        cls,
        modality: str,
        learned: Iterable[str],
        words: Iterable[str] = (),
        left_out: Iterable[str] = (),
        held_out: bool = False,
    ) -> UnlearnedPhrases:
        """Return the unlearned phrases of a modality.

        Args:
            modality (`str`): one of `MODALITIES`.
            learned (`Iterable[str]`): labels that its training data annotates.
            words (`Iterable[str]`, *optional*): ordinary words, see [`whole_words`].
            left_out (`Iterable[str]`, *optional*): labels held out of training.
            held_out (`bool`, *optional*, defaults to `False`): the phrases for measuring, not those for training.
        """
        vocabulary, document = Vocabulary.load(), _document()
        known, absent = (LabelSet(vocabulary, labels, modality) for labels in (learned, left_out))
        excluded = known.words | absent.words | _excluded_words(modality)
        ordinary = (word for word in words if _is_hashed(word) is held_out and not bag_of_words(word) & excluded)
        findings = document["findings"]
        listed = {
            "label": _by_structure(vocabulary),
            "finding": tuple((phrase,) for phrase in (*findings[modality], *document["anywhere"])),
            "elsewhere": tuple((phrase,) for name in findings if name != modality for phrase in findings[name]),
        }
        listed = {kind: _on_side(groups, held_out) for kind, groups in listed.items()}
        return cls(modality, known, absent, listed, tuple(_parts(known.labels)), tuple(ordinary), held_out)

    def draw(self, count: int, rng: np.random.Generator, kinds: Sequence[str] = tuple(KINDS)) -> list[str]:
        """Return up to `count` different phrases.

        Args:
            count (`int`): phrases at most.
            rng (`np.random.Generator`): the source of everything random.
            kinds (`Sequence[str]`, *optional*, defaults to all of `KINDS`): kinds to draw from.
        """
        phrases: dict[frozenset[str], str] = {}
        for _ in range(ATTEMPTS * count):
            if len(phrases) == count:
                break
            kind, phrase = self.draw_any(rng, kinds)
            if self.allows(phrase, kind):
                phrases.setdefault(bag_of_words(phrase), phrase)
        return list(phrases.values())

    def draw_any(self, rng: np.random.Generator, kinds: Sequence[str] = tuple(KINDS)) -> tuple[str, str]:
        """Return a kind and a phrase of it, which may not be allowed.

        Args:
            rng (`np.random.Generator`): the source of everything random.
            kinds (`Sequence[str]`, *optional*, defaults to all of `KINDS`): kinds to draw from.
        """
        shares = np.array([KINDS[kind] for kind in kinds])
        kind = str(rng.choice(list(kinds), p=shares / shares.sum()))
        if kind == "composed" and self.parts:
            return kind, self._compose(rng)
        groups = self.listed.get(kind)
        if not groups:
            return "nonsense", self._nonsense(rng)
        return kind, _pick(_pick(groups, rng), rng)

    def _compose(self, rng: np.random.Generator) -> str:
        name, words = _pick(self.parts, rng)
        pattern = _pick(("{name} {word}", "{word} of the {name}", "{word} in the {name}"), rng)
        word = _pick(words, rng)
        return f"{word} {name}" if word in SIDES else pattern.format(name=name, word=word)

    def _nonsense(self, rng: np.random.Generator) -> str:
        """Return ordinary words, a word that does not exist, or signs."""
        form = rng.random()
        if form < 0.1 or not self.words:
            return _pick(_document()["symbols"], rng)
        if form < 0.25:
            return "".join(_pick(SYLLABLES, rng) for _ in range(rng.integers(2, 4)))
        count = 1 if form < 0.75 else int(rng.integers(2, 4))
        return " ".join(_pick(self.words, rng) for _ in range(count))

    def allows(self, phrase: str, kind: str) -> bool:
        """Return whether a phrase may be drawn: on its side of the hash, and neither learned nor left out.

        Args:
            phrase (`str`): the phrase.
            kind (`str`): one of `KINDS`; a composed one names a learned label on purpose.
        """
        held_out = map(_is_hashed, phrase.split()) if kind == "nonsense" else [is_held_out(phrase)]
        if any(side is not self.held_out for side in held_out):
            return False
        words = bag_of_words(phrase)
        if words in _excluded_phrases(self.modality) or words in self.learned.bags:
            return False
        if self.left_out.labels and (self.left_out.narrows(phrase) or self.left_out.covers(phrase)):
            return False
        return kind == "composed" or not (self.learned.means(phrase) or self.learned.covers(phrase))


def _on_side(groups: Sequence[Sequence[str]], held_out: bool) -> tuple[tuple[str, ...], ...]:
    """Return the groups that are for measuring only, or what the others have for training.

    A wording whose synonyms are for training is for nothing: it would not measure a phrase that nobody knows.
    """
    if held_out:
        return tuple(tuple(group) for group in groups if all(map(is_held_out, group)))
    sides = (tuple(phrase for phrase in group if not is_held_out(phrase)) for group in groups)
    return tuple(filter(None, sides))


def _pick(values: Sequence[Any], rng: np.random.Generator) -> Any:
    return values[int(rng.integers(len(values)))]


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    """Return the content of `unlearned_phrases.yaml`."""
    document: dict[str, Any] = load_yaml(UNLEARNED_FILE.read_text(encoding="utf-8"))
    return document


@lru_cache(maxsize=8)
def _excluded_phrases(modality: str) -> frozenset[frozenset[str]]:
    """Return the word bags that are never drawn in a modality."""
    document = _document()
    return frozenset(map(bag_of_words, (*document["close"][modality], *document["generic"])))


@lru_cache(maxsize=8)
def _excluded_words(modality: str) -> frozenset[str]:
    """Return the words that are never part of nonsense in a modality."""
    return frozenset().union(*_excluded_phrases(modality))


@lru_cache(maxsize=4)
def _wordings(vocabulary: Vocabulary) -> tuple[frozenset[frozenset[str]], ...]:
    """Return the word bags of every label that the taxonomy or the vocabulary knows."""
    taxonomy = load_taxonomy()
    phrases = [label.phrases for label in (*taxonomy.labels.values(), *taxonomy.extensions.values())]
    phrases += [vocabulary.all_wordings(name) for name in vocabulary.words]
    return tuple(frozenset(map(bag_of_words, wordings)) for wordings in phrases)


@lru_cache(maxsize=1)
def _by_structure(vocabulary: Vocabulary) -> tuple[tuple[str, ...], ...]:
    """Return the wordings of all labels that anyone knows, grouped by name without side and number.

    So that 24 ribs are not drawn 24 times as often as the liver.
    """
    taxonomy = load_taxonomy()
    groups: dict[str, dict[str, None]] = {}
    labels = {label.name: label.synonyms for label in (*taxonomy.labels.values(), *taxonomy.extensions.values())}
    for name, synonyms in (*labels.items(), *((name, words.synonyms) for name, words in vocabulary.words.items())):
        base = " ".join(word for word in name.split() if word not in SIDES and not NUMBER.fullmatch(word))
        groups.setdefault(base, {}).update(dict.fromkeys((name, *synonyms)))
    return tuple(map(tuple, groups.values()))


def _parts(labels: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the learned labels with the findings, parts and sides that none of them has."""
    document = _document()
    for name in labels:
        location = load_taxonomy().locate(name)
        category = location.category if location else None
        groups = document["composed"]
        fitting = [group for group in groups if name in group.get("labels", ())]
        fitting = fitting or [group for group in groups if category in group.get("categories", ())]
        for group in fitting[:1]:
            sides = SIDES if name in document["unsided"] else ()
            yield name, (*group["findings"], *group["parts"], *sides)
