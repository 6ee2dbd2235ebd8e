# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Normalize the phrases of users, label files and the taxonomy, so that they can be compared."""

from __future__ import annotations

import functools
import re
import unicodedata


_SIDES = frozenset({"left", "right"})
# Side words that mean a side wherever they stand, and short ones that do so only at an end or in brackets.
_SIDE_WORDS = {
    word: side
    for side, words in {
        "left": "left lt lft leftside leftsided sinister sinistra sinistrum",
        "right": "right rt rgt rght rightside rightsided dexter dextra dextrum",
    }.items()
    for word in words.split()
}
_SHORT_SIDES = {"l": "left", "sin": "left", "r": "right", "dex": "right", "dext": "right"}
_IN_BRACKETS = re.compile(r"[(\[{<]\s*(l|sin|r|dext?)\.?\s*[)\]}>]")
_AFTER_SIDE = frozenset({"side", "sided", "hand"})
_BEFORE_SIDE = frozenset({"on", "of", "in", "at", "to", "from", "patient"})
# "L 5" and "L-spine" are lumbar, not left.
_SPINE = frozenset({"spine", "spinal", "vertebra", "vertebral", "body", "level", "disc", "nerve", "root"})
_ARTICLES = frozenset({"a", "an", "the"})
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth".split()
_NUMBERS = {word: str(number) for number, word in enumerate(_ORDINALS, start=1)}
_IRREGULAR = {
    "atria": "atrium",
    "bronchi": "bronchus",
    "bronchie": "bronchus",
    "calculi": "calculus",
    "chiasma": "chiasm",
    "disk": "disc",
    "disks": "disc",
    "globi": "globus",
    "gray": "grey",
    "hippocampi": "hippocampus",
    "lenses": "lens",
    "nuclei": "nucleus",
    "thalami": "thalamus",
    "tumour": "tumor",
    "tumours": "tumor",
}
_NOT_PLURAL = frozenset(
    {"accumbens", "atlas", "biceps", "iliopsoas", "lens", "pancreas", "pars", "pons", "psoas", "quadriceps", "triceps"}
)


def _singular(token: str) -> str:
    """Fold one lower-case word to its singular and its American spelling."""
    token = _IRREGULAR.get(token, token).replace("tumour", "tumor")
    if len(token) > 3 and token.endswith("s") and token not in _NOT_PLURAL:
        if token.endswith("ies"):
            token = token[:-3] + "y"
        elif token.endswith("sses"):
            token = token[:-2]
        elif not token.endswith(("ss", "us", "is")):
            token = token[:-1]
    # British and Latin digraphs, and with them the plurals in -ae: oesophagus, haemorrhage, vertebrae.
    token = re.sub("(?<=.)ae$", "a", token)
    return token.replace("ae", "e").replace("oe", "e")


@functools.lru_cache(maxsize=4096)
def normalize_phrase(phrase: str) -> str:
    """Return the form in which phrases are compared.

    Lower case, singular words, American spelling, no punctuation, ordinals as numbers, the side word first:
    `"Kidneys (LEFT)"`, `"kidney on the lt. side"`, `"KidneyLeft"` and `"left-sided kidney"` -> `"left kidney"`.
    """
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", unicodedata.normalize("NFKC", phrase))
    text = text.casefold().replace("&", " and ")
    text = re.sub(r"(?<=\w)['’]s\b|\bl['’](?=\w\w)", "", text)
    text = re.sub(r"\b(\d+)(?:st|nd|rd|th)\b", r"\1", text)
    if re.search(r"\w", _IN_BRACKETS.sub(" ", text)):
        text = _IN_BRACKETS.sub(lambda match: f" {_SHORT_SIDES[match[1]]} ", text)
    tokens = [token for token in re.split(r"[\W_]+", text) if token and token not in _ARTICLES]
    tokens = [_NUMBERS.get(token) or _singular(token) for token in tokens]
    return " ".join(_side_first(tokens))


def _side_first(tokens: list[str]) -> list[str]:
    """Put the one side that the tokens name in front, as `"left"` or `"right"`, without the words that go with it."""
    tokens = side_words(tokens)
    sides = {token for token in tokens if token in _SIDES}
    if len(sides) != 1:
        return tokens
    (side,) = sides
    words: list[str] = []
    for index, token in enumerate(tokens):
        if token == side:
            rest = [other for other in tokens[index + 1 :] if other not in _AFTER_SIDE]
            while words and (words[-1] == "patient" or (not rest and words[-1] in _BEFORE_SIDE)):
                words.pop()
        elif token not in _AFTER_SIDE or tokens[index - 1] not in _SIDES | _AFTER_SIDE or index == 0:
            words.append(token)
    return [side, *words]


def side_words(tokens: list[str]) -> list[str]:
    """Write out every token that is short for a side: `["rib", "5", "l"]` -> `["rib", "5", "left"]`."""
    return [_side_word(tokens, index) for index in range(len(tokens))]


def _side_word(tokens: list[str], index: int) -> str:
    """Return the token at an index, written out if it abbreviates a side."""
    token = tokens[index]
    if token in _SIDE_WORDS:
        return _SIDE_WORDS[token]
    others = [word for word in tokens[:index] + tokens[index + 1 :] if word not in _AFTER_SIDE | _BEFORE_SIDE]
    if token not in _SHORT_SIDES or not others:
        return token
    after = [word for word in tokens[index + 1 :] if word not in _AFTER_SIDE]
    at_an_end = index == 0 or not after or tokens[index - 1] in _BEFORE_SIDE
    lumbar = token == "l" and after and all(word in _SPINE or word.isdecimal() for word in others)
    return token if lumbar or not at_an_end else _SHORT_SIDES[token]


def side_of(phrase: str) -> str | None:
    """Return the side that a phrase names, `"left"` or `"right"`; `None` for none or both.

    `"Kidney_L"`, `"lt lung"`, `"right-sided effusion"` and `"rib 5 (right)"` have one.
    """
    sides = {token for token in normalize_phrase(phrase).split() if token in _SIDES}
    return sides.pop() if len(sides) == 1 else None


def names_a_side(phrase: str) -> bool:
    """Return whether a phrase names a side, or both, so that a flip changes its meaning."""
    return any(token in _SIDES for token in normalize_phrase(phrase).split())
