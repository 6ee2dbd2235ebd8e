# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Prompts for training: which labels are asked, in which words, and which boxes each phrase must find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from modeling_medglip.taxonomy.phrases import normalize_phrase

from .absent import absent_labels
from .unlearned import LabelSet, UnlearnedPhrases
from .vocabulary import Vocabulary


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
        description (`float`): probability that a label is asked by a description.
        siblings (`float`): probability that a label with a box brings along one that is easily taken for it, is
            annotated and has no box.
        unlearned (`int`): at most so many phrases that were never learned, see [`UnlearnedPhrases`].
        only_unlearned (`float`): share of prompts with nothing else.
        token_budget (`int`): most tokens of a prompt, its separators counted.
    """

    all_labels: float = 0.5
    no_positive: float = 0.1
    replace: float = 0.35
    parent: float = 0.4
    group: float = 0.05
    foreign: int = 3
    description: float = 0.0
    siblings: float = 0.0
    unlearned: int = 0
    only_unlearned: float = 0.0
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
        unlearned ([`UnlearnedPhrases`], *optional*): the phrases of the recipe's `unlearned`.
        left_out ([`LabelSet`], *optional*): labels held out of training, which no phrase may mean.
    """

    vocabulary: Vocabulary
    others: dict[str, tuple[str, ...]]
    recipe: PromptRecipe = PromptRecipe()
    token_length: Callable[[str], int] = rough_token_length
    unlearned: UnlearnedPhrases | None = None
    left_out: LabelSet | None = None

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
        present = set(labels)
        if self.recipe.only_unlearned and rng.random() < self.recipe.only_unlearned:
            unlearned = self._unlearned([], rng, at_least_one=True)
            if unlearned:
                return Prompt(tuple(phrase for phrase, _ in self._fit(unlearned, present)), (), ())
        chosen = self._choose(labels, annotated, rng)
        if self.recipe.siblings:
            chosen += self._siblings(chosen, annotated, present, rng)
        phrases = self._word(chosen, annotated, present, rng)
        everywhere = [name for names in self.others.values() for name in names]
        absent = absent_labels(everywhere, labels, annotated, regions, source_labels, self.vocabulary)
        phrases += [(phrase, ()) for phrase in self._foreign(set(absent.foreign), rng, at_least_one=not phrases)]
        phrases += self._unlearned([phrase for phrase, _ in phrases], rng, at_least_one=False)
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

    def _siblings(
        self, chosen: Sequence[str], annotated: Sequence[str], present: set[str], rng: np.random.Generator
    ) -> list[str]:
        """Return absent labels, not yet chosen, that are easily taken for the chosen ones with a box."""
        more: list[str] = []
        for label in sorted(present.intersection(chosen)):
            absent = [name for name in annotated if name not in {*present, *chosen, *more}]
            alike = [name for name in absent if self.vocabulary.are_siblings(label, name)]
            if alike and rng.random() < self.recipe.siblings:
                more.append(alike[rng.integers(len(alike))])
        return more

    def _unlearned(
        self, asked: Sequence[str], rng: np.random.Generator, at_least_one: bool
    ) -> list[tuple[str, tuple[str, ...]]]:
        """Return phrases without labels that were never learned and are not asked yet."""
        if self.unlearned is None or not self.recipe.unlearned:
            return []
        phrases = self.unlearned.draw(int(rng.integers(int(at_least_one), self.recipe.unlearned + 1)), rng)
        return [(phrase, ()) for phrase in phrases if phrase.lower() not in map(str.lower, asked)]

    def _word(
        self, chosen: Sequence[str], annotated: Sequence[str], present: set[str], rng: np.random.Generator
    ) -> list[tuple[str, tuple[str, ...]]]:
        """Return phrases with the labels of each; no label is in two phrases, and no phrase comes twice."""
        phrases: list[tuple[str, tuple[str, ...]]] = []
        used: set[str] = set()
        worded: set[str] = set()
        for label in (str(name) for name in rng.permutation(list(chosen))):
            if label in used:
                continue
            phrase, members = self._phrase(label, annotated, present, used, rng)
            if phrase.lower() in worded or (phrase != label and self._misleads(phrase, label, annotated)):
                phrase, members = label, (label,)
            if phrase.lower() in worded:
                continue
            used |= set(members)
            worded.add(phrase.lower())
            phrases.append((phrase, members))
        return phrases

    def _misleads(self, phrase: str, label: str, annotated: Sequence[str]) -> bool:
        """Whether a phrase is a wording of another annotated label, or of one that is held out of training."""
        normalized = normalize_phrase(phrase)
        if self.left_out is not None and self.left_out.narrows(phrase):
            return True
        return any(normalized in self.vocabulary.wordings(name) for name in annotated if name != label)

    def _phrase(
        self, label: str, annotated: Sequence[str], present: set[str], used: set[str], rng: np.random.Generator
    ) -> tuple[str, tuple[str, ...]]:
        """Return the words for a label, and the labels that they stand for.

        A general term is asked only where one of its labels has a box: a source that annotates some of them cannot say
        that all are absent.
        """
        descriptions = self.vocabulary.descriptions.get(label, ()) if self.recipe.description else ()
        if descriptions and rng.random() < self.recipe.description:
            return descriptions[rng.integers(len(descriptions))], (label,)
        if rng.random() >= self.recipe.replace:
            return label, (label,)
        if rng.random() < self.recipe.group:
            groups = self.vocabulary.groups(label)
            term = groups[rng.integers(len(groups))] if groups else ""
            members = tuple(name for name in annotated if term in self.vocabulary.groups(name))
            if set(members) & present and not used & set(members):
                return term, members
        if rng.random() < self.recipe.parent:
            terms = [(term, self.vocabulary.covered(term, annotated)) for term in self.vocabulary.of(label).parents]
            terms = [pair for pair in terms if self._certain(*pair, present) and not used & set(pair[1])]
            if terms:
                term, members = terms[rng.integers(len(terms))]
                words = self.vocabulary.words_of_parent(term)
                return words[rng.integers(len(words))] if rng.random() < 0.4 else term, members
        words = self.vocabulary.synonyms(label)
        return (words[rng.integers(len(words))] if words else label), (label,)

    def _certain(self, term: str, members: Sequence[str], present: set[str]) -> bool:
        """Whether the labels of a term are all that it covers, or one of them has a box."""
        return bool(set(members) & present) or bool(members and term in self.vocabulary.pairs)

    def _foreign(self, absent: set[str], rng: np.random.Generator, at_least_one: bool) -> list[str]:
        """Return wordings of labels of other parts of the body, every source as often."""
        least = int(at_least_one)
        count = int(rng.integers(least, max(self.recipe.foreign, least) + 1))
        sources = [left for names in self.others.values() if (left := [name for name in names if name in absent])]
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
