# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What a run has done so far, a line for each input, so that a run that was killed goes on where it was."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import MedGlipError, UsageError, one_line
from ..outputs.csv_table import is_row
from ..outputs.files import all_output_names
from ..outputs.run_report import InputRecord, is_record
from .inputs import Input


SCHEMA = "medglip/progress@1"
FILE = "medglip.progress.jsonl"


class Journal:
    """The file `medglip.progress.jsonl` of a folder of results: settings first, then the inputs that are done.

    A line is written after the files of its input. A run that is killed in between grounds that input again and writes
    the same files, so that no box is lost or listed twice.

    Args:
        folder (`Path`): of the results.
        settings (`Mapping[str, Any]`): all that decides what is found, as JSON holds it.

    Raises:
        `UsageError`: the file is of a run with other settings, or of another program. `MedGlipError`: it cannot be
        read or written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder, self._path = folder, folder / FILE
        self._states: dict[str, str] = {}
        # By the stem of the files: what another input wrote over has to be done again.
        self._entries: dict[str, dict[str, Any]] = {}
        head = {"schema": SCHEMA, "settings": json.loads(json.dumps(settings))}
        lines = self._read()
        if lines is None:
            self._append(head)
            return
        if not lines or lines[0].get("schema") != SCHEMA:
            raise UsageError(f"--resume: {FILE} in {one_line(folder.name, 60)} is damaged: name a new --out")
        if lines[0] != head:
            raise UsageError(
                f"--resume: {FILE} in {one_line(folder.name, 60)} is of a run with another prompt, model or option:"
                " name a new --out"
            )
        self._entries = {str(line["stem"]): line for line in lines[1:] if "stem" in line}

    def _read(self) -> list[dict[str, Any]] | None:
        """Return the lines that were written whole; `None` if the file is missing or empty."""
        try:
            text = self._path.read_bytes().decode("utf-8", "replace") if self._path.exists() else ""
        except OSError as error:
            raise _unusable("read", error) from None
        if not text:
            return None
        lines = []
        for part in text.splitlines():
            try:
                line = json.loads(part)
            except (ValueError, RecursionError):  # cut off when the run was killed
                continue
            if isinstance(line, dict):
                lines.append(line)
        return lines

    def done(self, one: Input, stem: str) -> tuple[InputRecord, list[dict[str, Any]]] | None:
        """Return record and rows of an input that is done and whose files are there, or `None`.

        Args:
            one ([`Input`]): the input, whose files are looked at now: what changes later is not what is grounded.
            stem (`str`): of the names of its files.
        """
        self._states[stem] = state = _state(one)
        entry = self._entries.get(stem)
        if entry is None or entry.get("state") != state:
            return None
        record, rows = entry.get("record"), entry.get("rows")
        if not isinstance(record, dict) or not is_record(record):
            return None
        if not isinstance(rows, list) or not all(map(is_row, rows)):
            return None
        known = set(all_output_names(stem))
        if record["status"] != "done" or not record["outputs"] or not set(record["outputs"]) <= known:
            return None
        if not all((self._folder / name).is_file() for name in record["outputs"]):
            return None
        lists = {name: tuple(record[name]) for name in ("outputs", "warnings")}
        return InputRecord(**{**record, **lists}), rows

    def add(self, stem: str, record: InputRecord, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write down an input that is done; others are tried again by the next run.

        Args:
            stem (`str`): of the names of its files; [`Journal.done`] was asked for it before it was grounded.
            record ([`InputRecord`]): what became of it.
            rows (`Sequence[Mapping[str, Any]]`): of the table of all inputs.

        Raises:
            `MedGlipError`: the file cannot be written.
        """
        if record.status == "done":
            self._append({"stem": stem, "state": self._states[stem], "record": asdict(record), "rows": list(rows)})

    def _append(self, content: Mapping[str, Any]) -> None:
        line = json.dumps(content).encode("utf-8") + b"\n"
        try:
            with self._path.open("ab+") as stream:
                if stream.tell():
                    stream.seek(-1, os.SEEK_END)
                    line = line if stream.read(1) == b"\n" else b"\n" + line
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise _unusable("written", error) from None


def forget(folder: Path) -> None:
    """Delete the file of an earlier run, whose results are written over.

    Args:
        folder (`Path`): of the results.

    Raises:
        `MedGlipError`: it cannot be deleted.
    """
    try:
        (folder / FILE).unlink(missing_ok=True)
    except OSError as error:
        raise _unusable("deleted", error) from None


def _unusable(verb: str, error: OSError) -> MedGlipError:
    return MedGlipError(f"{FILE}: cannot be {verb} ({one_line(error.strerror)}): name another --out")


def _state(one: Input) -> str:
    """Return what tells an input and its present content from others, without naming a folder."""
    digest = hashlib.sha256(repr((one.frame, one.volume[0] if one.volume else "")).encode())
    for file in sorted(_files(one)):
        try:
            found = file.stat()
        except OSError:  # reading it will say why
            continue
        about = f"{os.path.realpath(file)}|{found.st_size}|{found.st_mtime_ns}"
        digest.update(about.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _files(one: Input) -> Iterable[Path]:
    """Return the files that an input is read from; of a volume file also those beside it that may hold its voxels."""
    from ..volumes.dicom_folder import FoundSeries

    series = next((part for part in one.volume[1] if isinstance(part, FoundSeries)), None) if one.volume else None
    if series is not None:
        return series.files
    if one.volume is None:
        return [one.file]
    return {one.file, *one.file.parent.glob(f"{glob.escape(one.file.name.partition('.')[0])}.*")}


__all__ = ["FILE", "Journal", "forget"]
