# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A repository as it will be on the Hub: a staged folder, and the settings beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path


KINDS = ("model", "dataset", "space")
GATES = ("no", "auto", "manual")
# One owner and one name, as the Hub allows them.
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")


@dataclass
class Repository:
    """What is published under one name.

    Attributes:
        id: `owner/name`. kind: one of `KINDS`. folder: holds exactly the files that go.
        license: in words, for people. private: only its owners see it. gated: one of `GATES`.
        variables: of a Space. notes: what should be known before it goes. problems: why it must not go.
    """

    id: str
    kind: str
    folder: Path
    license: str
    private: bool = True
    gated: str = "no"
    variables: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def files(self) -> dict[str, Path]:
        """Path in the repository -> file, sorted. Links are not followed."""
        found = [path for path in sorted(self.folder.rglob("*")) if path.is_file() and not path.is_symlink()]
        return {path.relative_to(self.folder).as_posix(): path for path in found}

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.files().values())


def repository_id(owner: str, name: str) -> str:
    """`owner/name`.

    Raises:
        `ValueError`: one that the Hub does not allow.
    """
    for part in (owner, name):
        if not NAME.fullmatch(part) or ".." in part or "--" in part:
            raise ValueError(f"{part[:40]!r} is no name on the Hub: letters, digits, '.', '_' and '-'")
    return f"{owner}/{name}"


__all__ = ["GATES", "KINDS", "Repository", "repository_id"]
