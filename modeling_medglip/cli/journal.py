# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What a run has done so far, a line for each input, so that a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..outputs.run_report import InputRecord
from .inputs import Input


SCHEMA = "medglip/progress@1"
FILE = "progress.jsonl"


class Journal:
    """The file `progress.jsonl` of a folder of results: settings first, then the inputs that are done.

    A line is written after the files of its input. A run that is killed in between grounds that input again and writes
    the same files, so that no box is lost or listed twice.

    Args:
        folder (`Path`): of the results.
        settings (`Mapping[str, Any]`): all that decides what is found, as JSON holds it.

    Raises:
        `UsageError`: the file is of a run with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder, self._path = folder, folder / FILE
        self._head = {"schema": SCHEMA, "settings": json.loads(json.dumps(settings))}
        self._entries: dict[str, dict[str, Any]] = {}
        lines = self._read()
        if lines and lines[0] != self._head:
            raise UsageError(
                f"--resume: {FILE} in {folder.name} is of a run with another prompt, model or option: name a new --out"
            )
        self._entries = {str(line.get("key")): line for line in lines[1:]}
        if not lines:
            self._path.write_text("", encoding="utf-8")
            self._append(self._head)

    def _read(self) -> list[dict[str, Any]]:
        """Return the lines that were written whole."""
        if not self._path.is_file():
            return []
        lines = []
        for text in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:  # cut off when the run was killed
                continue
            if isinstance(line, dict):
                lines.append(line)
        return lines

    def done(self, one: Input, stem: str) -> tuple[InputRecord, list[dict[str, Any]]] | None:
        """Return record and rows of an input that is done and whose files are there, or `None`.

        Args:
            one ([`Input`]): the input.
            stem (`str`): of the names of its files.
        """
        entry = self._entries.get(_key(one))
        if entry is None or entry.get("stem") != stem or entry.get("changed") != _changed(one):
            return None
        try:
            record = InputRecord(**{name: _frozen(value) for name, value in entry["record"].items()})
            rows = list(entry["rows"])
        except (KeyError, TypeError, AttributeError):
            return None
        return (record, rows) if all((self._folder / name).is_file() for name in record.outputs) else None

    def add(self, one: Input, stem: str, record: InputRecord, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write down an input that is done; others are tried again by the next run.

        Args:
            one ([`Input`]): the input.
            stem (`str`): of the names of its files.
            record ([`InputRecord`]): what became of it.
            rows (`Sequence[Mapping[str, Any]]`): of the table of all inputs.
        """
        if record.status == "done":
            about = {"key": _key(one), "stem": stem, "changed": _changed(one)}
            self._append({**about, "record": asdict(record), "rows": list(rows)})

    def _append(self, content: Mapping[str, Any]) -> None:
        with self._path.open("rb+") as stream:
            end = stream.seek(0, os.SEEK_END)
            cut = b""
            if end:
                stream.seek(end - 1)
                cut = b"" if stream.read(1) == b"\n" else b"\n"
            stream.write(cut + json.dumps(content).encode("utf-8") + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


def _key(one: Input) -> str:
    """Return what tells inputs apart without naming a folder."""
    name = f"{os.path.realpath(one.path)}|{one.frame}"
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _changed(one: Input) -> int | None:
    """Return when a file was changed, in nanoseconds; `None` for what is no single file, such as a series."""
    return one.file.stat().st_mtime_ns if one.file.is_file() else None


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


__all__ = ["FILE", "Journal"]
