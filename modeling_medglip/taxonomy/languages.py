# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Read phrases in German, French, Spanish and Chinese: names of labels and side words.

The data is in `languages.yaml`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .phrases import side_words


@dataclass(frozen=True)
class Language:
    """The words of one language.

    Attributes:
        sides (`dict[str, str]`): side word -> `"left"`, `"right"` or, for both, `""`.
        names (`dict[str, str]`): name of a label -> its English name.
        fillers (`tuple[str, ...]`): words without a meaning of their own, such as articles; longest first.
    """

    sides: dict[str, str]
    names: dict[str, str]
    fillers: tuple[str, ...]

    @property
    def spaced(self) -> bool:
        """Whether spaces divide the words."""
        return all(side.isascii() for side in self.sides)

    def readings(self, phrase: str) -> Iterator[str]:
        """Yield what a phrase may mean in English, if any word of it is known: `"linke Niere"` -> `"left kidney"`."""
        text = _plain(phrase)
        for tokens in [self._words(text)] if self.spaced else self._divided(text):
            words = [token for token in tokens if token not in self.sides and token not in ("left", "right")]
            shown = [token for token in tokens if token not in words]
            sides = {self.sides.get(token, token) for token in shown}
            number = next((word for word in words if word.isdecimal() and len(words) > 1), "")
            name = " ".join(word for word in words if word != number)
            # A single letter is a side only of a name of its language: "rein G".
            written_out = any(len(token) > 1 or not token.isascii() for token in shown)
            if len(sides) < 2 and name and (written_out or name in self.names):
                yield " ".join(part for part in (*sides, self.names.get(name, name), number) if part)

    def _words(self, text: str) -> list[str]:
        """Return the words of a text without articles and prepositions."""
        fillers = "|".join(map(re.escape, self.fillers))
        return side_words(re.sub(rf"\b(?:{fillers})\b", " ", text).split())

    def _divided(self, text: str) -> Iterator[list[str]]:
        """Divide a text without spaces into the side word at its start or end and the rest; longest word first."""
        for filler in self.fillers:
            text = text.removeprefix(filler).strip()
        for side in sorted(self.sides, key=len, reverse=True):
            if text.startswith(side):
                yield [side, *text.removeprefix(side).split()]
            elif text.endswith(side):
                yield [side, *text.removesuffix(side).split()]
        yield side_words(text.split())


def read_languages(document: Mapping[str, Any]) -> tuple[Language, ...]:
    """Read the parsed file.

    Args:
        document (`Mapping`): `sides` (language -> side -> words), `fillers` (language -> words), and `names` (English
            name -> language -> words).

    Raises:
        `ValueError`: a word has two meanings in one language.
    """
    languages = []
    for code, by_side in document["sides"].items():
        fillers = tuple(sorted(map(_plain, document["fillers"].get(code, ())), key=len, reverse=True))
        sides = _table((("" if side == "both" else side), words) for side, words in by_side.items())
        names = _table((english, words.get(code, ())) for english, words in document["names"].items())
        languages.append(Language(sides, names, fillers))
    return tuple(languages)


def _plain(word: str) -> str:
    """Return a word in lower case, without accents, punctuation and articles of one letter ("l'aorte")."""
    text = unicodedata.normalize("NFKD", re.sub(r"\b[dl]['’](?=\w\w)", "", word.casefold()))
    return " ".join(re.sub(r"[\W_]+", " ", "".join(c for c in text if not unicodedata.combining(c))).split())


def _table(rows: Iterable[tuple[str, Iterable[str]]]) -> dict[str, str]:
    meanings: dict[str, str] = {}
    for meaning, words in rows:
        for word in map(_plain, words):
            if meanings.setdefault(word, meaning) != meaning:
                raise ValueError(f"languages: {word!r} means {meanings[word]!r} and {meaning!r}")
    return meanings


__all__ = ["Language", "read_languages"]
