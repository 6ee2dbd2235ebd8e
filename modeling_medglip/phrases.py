# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""How the phrases of users, label files and the taxonomy are compared."""

from __future__ import annotations

import functools
import re
import unicodedata


_SIDES = frozenset({"left", "right"})
_SIDE_ABBREVIATIONS = {"l": "left", "lt": "left", "r": "right", "rt": "right"}
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
    `"Kidneys (LEFT)"` -> `"left kidney"`.
    """
    text = unicodedata.normalize("NFKC", phrase).casefold().replace("&", " and ")
    text = re.sub(r"(?<=\w)['’]s\b", "", text)
    text = re.sub(r"\b(\d+)(?:st|nd|rd|th)\b", r"\1", text)
    tokens = [token for token in re.split(r"[\W_]+", text) if token and token not in _ARTICLES]
    tokens = [_NUMBERS.get(token) or _singular(token) for token in tokens]
    if len(tokens) > 1:
        for position in (0, -1):
            tokens[position] = _SIDE_ABBREVIATIONS.get(tokens[position], tokens[position])
    sides = [token for token in tokens if token in _SIDES]
    if len(sides) == 1:
        tokens.remove(sides[0])
        tokens.insert(0, sides[0])
    return " ".join(tokens)


def side_of(phrase: str) -> str | None:
    """The side that a phrase names, `"left"` or `"right"`; `None` for none or both.

    `"Kidney_L"`, `"lt lung"`, `"right-sided effusion"` and `"rib 5 (right)"` have one.
    """
    found = {token for token in normalize_phrase(phrase).split() if token in _SIDES}
    return found.pop() if len(found) == 1 else None


def names_a_side(phrase: str) -> bool:
    """Whether a phrase names a side, or both: what it means is then another thing in a mirror."""
    return any(token in _SIDES for token in normalize_phrase(phrase).split())
