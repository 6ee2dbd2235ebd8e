# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Names of labels in German, French, Spanish and Chinese, and the side words that go with them.

The data is in `taxonomy_languages.yaml`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Languages:
    """Words of other languages that the taxonomy understands.

    Attributes:
        sides: side word -> `"left"`, `"right"` or, for both, `""`.
        names: name of a label -> its English name.
        articles: words that change nothing.
    """

    sides: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    articles: frozenset[str] = frozenset()

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Languages:
        """Read the parsed file.

        Args:
            document (`Mapping`): `sides` (language -> side -> words), `articles` (language -> words), and `names`
                (English name -> language -> words).

        Raises:
            `ValueError`: a word has two meanings.
        """
        articles = frozenset(_plain(word) for words in document["articles"].values() for word in words)
        sides: dict[str, str] = {}
        names: dict[str, str] = {}
        for by_side in document["sides"].values():
            for side, words in by_side.items():
                _add(sides, words, "" if side == "both" else side)
        for english, by_language in document["names"].items():
            for words in by_language.values():
                _add(names, [" ".join(_without(articles, word)) for word in words], english)
        return cls(sides, names, articles)

    def english(self, phrase: str) -> str | None:
        """Return a phrase in English, or `None` if no word of it is known: `"linke Niere"` -> `"left kidney"`."""
        tokens = _without(self.articles, " ".join(self._tokens(phrase)))
        sides = {self.sides[token] for token in tokens if token in self.sides}
        words = [token for token in tokens if token not in self.sides]
        number = f" {words.pop()}" if len(words) > 1 and words[-1].isdecimal() else ""
        name = " ".join(words)
        if len(sides) > 1 or not words or not (sides or name in self.names):
            return None
        return f"{''.join(sides)} {self.names.get(name, name)}{number}".strip()

    def _tokens(self, phrase: str) -> list[str]:
        """The plain words of a phrase; Chinese, which has no spaces, gets one behind its side word."""
        text = _plain(phrase)
        for word in sorted((side for side in self.sides if not side.isascii()), key=len, reverse=True):
            if text.startswith(word):
                return [word, *text.removeprefix(word).split()]
        return text.split()


def _plain(word: str) -> str:
    """Lower case, no accents, no punctuation."""
    text = unicodedata.normalize("NFKD", word.casefold())
    return " ".join(re.sub(r"[\W_]+", " ", "".join(c for c in text if not unicodedata.combining(c))).split())


def _without(articles: frozenset[str], phrase: str) -> list[str]:
    return [token for token in _plain(phrase).split() if token not in articles]


def _add(table: dict[str, str], words: list[str], meaning: str) -> None:
    for word in words:
        if table.setdefault(_plain(word), meaning) != meaning:
            raise ValueError(f"languages: {word!r} means {table[_plain(word)]!r} and {meaning!r}")


__all__ = ["Languages"]
