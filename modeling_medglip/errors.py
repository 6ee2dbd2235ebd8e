# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The errors that the package raises outside the remote-code files: one line, naming the input and what to do.

A message that advises to pass an argument names it as Python code, such as `frame=` or `resample=True`, and carries
the name as `hint`; the command line shows its own option instead.
"""

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from typing import Any, Literal, get_args


Hint = Literal["axes", "base", "frame", "modality", "model", "number", "out", "resample", "several_patients"]
# Arguments that messages advise to pass.
HINTS: tuple[Hint, ...] = get_args(Hint)


class MedGlipError(ValueError):
    """Something the caller can put right: a bad file, checkpoint, option or label.

    Args:
        message (`str`): one line.
        hint (`str`, *optional*): the argument that the message advises to pass, one of `HINTS`.
    """

    def __init__(self, message: str, *, hint: Hint | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the message and the attributes, whatever arguments the constructor of a subclass has."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class UsageError(MedGlipError):
    """The request itself is wrong (unknown modality, empty prompt): nothing was processed."""


class CheckpointError(UsageError):
    """A checkpoint cannot be used: it is missing, incomplete, or of another kind."""


class PickledCheckpointError(CheckpointError):
    """The checkpoint holds pickled tensors, which run code when they are read; this package reads safetensors only."""


class Advice(str):
    """A warning, or the end of a message, that may advise to pass an argument.

    Args:
        text (`str`): one line.
        hint (`str`, *optional*): the argument, one of `HINTS`.
    """

    hint: Hint | None

    def __new__(cls, text: str, hint: Hint | None = None) -> Advice:
        """Make a string that knows its hint."""
        advice = super().__new__(cls, text)
        advice.hint = hint
        return advice


def hint_of(message: object) -> Hint | None:
    """Return the hint of an error or a warning; `None` if it has none."""
    hint = getattr(message, "hint", None)
    return hint if hint in HINTS else None


def one_line(text: object, limit: int = 300) -> str:
    """Return `text` as one printable line of at most `limit` characters (control characters become spaces).

    File names and messages of other libraries pass through here before they are shown, so that a hostile name can
    neither break the line nor send codes to the terminal.
    """
    readable = str(text).encode("utf-8", "replace").decode("utf-8")
    line = " ".join("".join(c if c.isprintable() else " " for c in readable).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


# Labels without a box that text and images name; the files of boxes name all of them.
MOST_MISSING = 100


def listed(names: Sequence[str], limit: int = 80, most: int | None = None) -> str:
    """Join names for a message, with semicolons where a name holds a comma itself ("kidney, left; liver").

    Args:
        names (`Sequence[str]`): such as the labels of a prompt.
        limit (`int`, *optional*): most characters of one name.
        most (`int`, *optional*): most names that are written out; the others are counted.
    """
    shown = [one_line(name, limit) for name in names[:most]]
    mark = "; " if any("," in name for name in shown) else ", "
    more = len(names) - len(shown)
    return mark.join([*shown, f"and {more} more"] if more else shown)


def install_hint(extra: str) -> str:
    """Say how to install what an optional part needs.

    The package is not on a registry yet: on its release this is the one place to change.

    Args:
        extra (`str`): name of the optional part in `pyproject.toml`, such as `clinical`.
    """
    return f'pip install ".[{extra}]" in a clone of MedGLIP'


__all__ = [
    "HINTS",
    "Advice",
    "CheckpointError",
    "Hint",
    "MedGlipError",
    "PickledCheckpointError",
    "UsageError",
    "hint_of",
    "install_hint",
    "listed",
    "one_line",
]
