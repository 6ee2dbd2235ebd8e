# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A repository as it will be on the Hub: a staged folder and its settings."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


KINDS = ("model", "dataset", "space")
GATES = ("no", "auto", "manual")
STAGE_MARKER = ".medglip-stage"
# One owner and one name, as the Hub allows them.
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")


@dataclass(frozen=True)
class Repository:
    """What is published under one name.

    Attributes:
        id (`str`): `owner/name`.
        kind (`str`): One of `KINDS`.
        folder (`Path`): Contains exactly the files to publish.
        license (`str`): In words, for people.
        role (`str`): `"expert"`, `"unified"`, `"adapter"`, `"dataset"` or `"space"`.
        private (`bool`): Whether only the owners see it.
        gated (`str`): One of `GATES`.
        variables (`dict[str, str]`): Of a Space.
        notes (`list[str]`): What a user should know before it is published.
        refusals (`list[str]`): Why it must not be published.
        checked_hashes (`dict[str, str]`): Path -> SHA-256 of the checked file; nothing else is sent.
    """

    id: str
    kind: str
    folder: Path
    license: str
    role: str
    private: bool = True
    gated: str = "no"
    variables: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    checked_hashes: dict[str, str] = field(default_factory=dict)

    def files(self) -> dict[str, Path]:
        """Return the files by their path in the repository, sorted. Links are not followed."""
        paths = [path for path in sorted(self.folder.rglob("*")) if path.is_file() and not path.is_symlink()]
        return {path.relative_to(self.folder).as_posix(): path for path in paths}

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of the files by their path in the repository."""
        digests = {}
        for path, file in self.files().items():
            with file.open("rb") as stream:
                digests[path] = hashlib.file_digest(stream, "sha256").hexdigest()
        return digests

    @property
    def bytes(self) -> int:
        """Return the size of all files."""
        return sum(path.stat().st_size for path in self.files().values())


def repository_id(owner: str, name: str) -> str:
    """Return `owner/name`.

    Args:
        owner (`str`): A user or an organization.
        name (`str`): Name of the repository.

    Raises:
        `ValueError`: The Hub does not allow one of the names.
    """
    for part in (owner, name):
        if not NAME.fullmatch(part) or ".." in part or "--" in part:
            raise ValueError(f"{part[:40]!r} is not a valid name on the Hub: letters, digits, '.', '_' and '-'")
    return f"{owner}/{name}"


def open_stage(stage: Path, inputs: Iterable[Path]) -> None:
    """Take a folder for staging: an empty one, or one that was taken before. Its content may be deleted.

    Args:
        stage (`Path`): The folder.
        inputs (`Iterable[Path]`): Files and folders that must not be in it.

    Raises:
        `ValueError`: The folder holds something else, or contains an input, or an input contains it.
    """
    folder = stage.resolve()
    for path in inputs:
        other = path.resolve()
        if folder == other or folder in other.parents or other in folder.parents:
            raise ValueError(f"--stage {stage.name}: contains {path.name} or is inside it: choose another folder")
    if stage.exists() and not stage.is_dir():
        raise ValueError(f"--stage {stage.name}: is a file: choose a folder")
    if stage.exists() and any(stage.iterdir()) and not (stage / STAGE_MARKER).is_file():
        raise ValueError(f"--stage {stage.name}: is not empty and was not made by this command: choose another folder")
    stage.mkdir(parents=True, exist_ok=True)
    (stage / STAGE_MARKER).write_text("what is here may be deleted at any time\n", encoding="utf-8")


def empty_folder(folder: Path) -> Path:
    """Create an empty folder below a stage that [`open_stage`] took."""
    if not (folder.parent / STAGE_MARKER).is_file():
        raise ValueError(f"{folder.parent.name}: was not made for staging")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


__all__ = ["GATES", "KINDS", "Repository", "empty_folder", "open_stage", "repository_id"]
