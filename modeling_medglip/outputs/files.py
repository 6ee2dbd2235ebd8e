# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Names of result files, and atomic writing."""

from __future__ import annotations

import json
import os
import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import MedGlipError, one_line


RESERVED_STEMS = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def to_json(content: Any) -> str:
    """Return JSON for people: indented, but lists of numbers on one line."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    # A line break never occurs inside a JSON string, so only lists match.
    return re.sub(r"\[\n\s+([-\d.,e+\s]+?)\n\s+\]", lambda match: f"[{' '.join(match[1].split())}]", text) + "\n"


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file atomically (UTF-8), making its folder if needed.

    Args:
        path (`str` or `Path`): the file.
        text (`str`): its content.

    Raises:
        `MedGlipError`: the file cannot be written.
    """
    return write_bytes(path, text.encode("utf-8", "replace"))


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file atomically, making its folder if needed.

    Args:
        path (`str` or `Path`): the file.
        content (`bytes`): its content.

    Raises:
        `MedGlipError`: names the file that cannot be written.
    """
    write_files({Path(path): content})
    return Path(path)


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together: all of them or, after a failure or an interruption, none.

    Args:
        contents (`Mapping[Path, bytes]`): what each file holds; folders are made if needed.

    Raises:
        `MedGlipError`: names the file that cannot be written.
    """
    parts = {path: path.with_name(f".medglip-{secrets.token_hex(8)}.part") for path in contents}
    placed = set[Path]()
    path = Path()
    try:
        for path, part in parts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(contents[path])
        for path, part in parts.items():
            os.replace(part, path)
            placed.add(path)
    except OSError as error:
        raise MedGlipError(f"{one_line(path.name)}: cannot be written ({one_line(error.strerror)})") from error
    finally:
        for file, part in parts.items():
            with suppress(OSError):  # the folder may not exist
                part.unlink(missing_ok=True)
                if len(placed) < len(parts) and file in placed:
                    file.unlink(missing_ok=True)


@contextmanager
def atomic_writer(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file that is written piece by piece and appears only when the block ends without an error.

    Args:
        path (`str` or `Path`): the file; its folder is made if needed.

    Raises:
        `MedGlipError`: names the file that cannot be written.
    """
    target = Path(path)
    part = target.with_name(f".medglip-{secrets.token_hex(8)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as stream:
                yield cast(BinaryIO, stream)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise MedGlipError(f"{one_line(target.name)}: cannot be written ({one_line(error.strerror)})") from error


def safe_stem(name: str) -> str:
    """Return the stem of a file name, fit for any file system: letters, digits, `.`, `-`, `_`, at most 100 bytes."""
    readable = unicodedata.normalize("NFKC", name.encode("utf-8", "replace").decode("utf-8"))
    stem = Path(readable.replace("\\", "/")).name
    stem = stem[:-7] if stem.lower().endswith(".nii.gz") else Path(stem).stem
    slug = re.sub(r"-+", "-", "".join(c if c.isalnum() or c in "._-" else "-" for c in stem)).strip(".-")
    while len(slug.encode("utf-8")) > 100:
        slug = slug[:-1]
    slug = slug.rstrip(".-") or "image"
    return f"{slug}-image" if slug.split(".")[0].lower() in RESERVED_STEMS else slug


def output_stems(inputs: Iterable[str | Path], folder: str | Path) -> list[str]:
    """Return a stem for the outputs of every input, in order: no two alike, and none that would overwrite an input.

    The second input of a stem gets `-2` and so on, so that a second run gives the same names.

    Args:
        inputs (`Iterable[str | Path]`): the files.
        folder (`str` or `Path`): of the outputs.
    """
    paths = [Path(item) for item in inputs]
    occupied, taken = {canonical_path(path) for path in paths}, set[str]()
    stems = []
    for path in paths:
        base = safe_stem(path.name)
        stem, number = base, 1
        while fold_name(stem) in taken or any(
            canonical_path(Path(folder) / end) in occupied for end in all_output_names(stem)
        ):
            number += 1
            stem = f"{base}-{number}"
        taken.add(fold_name(stem))
        stems.append(stem)
    return stems


def output_names(stem: str) -> tuple[str, str]:
    """Return the names of the two files of one image: (`<stem>.boxes.json`, `<stem>.png`)."""
    return f"{stem}.boxes.json", f"{stem}.png"


def volume_output_names(stem: str) -> dict[str, str]:
    """Return kind -> name of the further files that the boxes of a volume can be written to."""
    endings = {"slicer": "mrk.json", "nifti": "boxes.nii.gz", "sr": "sr.dcm", "seg": "seg.dcm"}
    return {kind: f"{stem}.{ending}" for kind, ending in endings.items()}


def color_table_name(stem: str) -> str:
    """Return the name of the color table, which lists the value of every label in a label map."""
    return f"{stem}.labels.ctbl"


def all_output_names(stem: str) -> tuple[str, ...]:
    """Return the names of all files that may be written for one input."""
    return (*output_names(stem), *volume_output_names(stem).values(), color_table_name(stem))


def canonical_path(path: str | Path) -> str:
    """Return the form of a path that all its spellings share, also where file systems ignore case or Unicode form."""
    try:
        resolved = os.path.realpath(path)
    except OSError:  # a link on the way that may not be read
        resolved = os.path.abspath(path)
    return fold_name(os.path.normcase(resolved))


def fold_name(name: str) -> str:
    """Return a name as file systems of macOS and Windows compare it: without case, in decomposed Unicode form.

    Applied everywhere, since a disk of such a system may be mounted anywhere.
    """
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


__all__ = [
    "RESERVED_STEMS",
    "all_output_names",
    "atomic_writer",
    "canonical_path",
    "color_table_name",
    "fold_name",
    "output_names",
    "output_stems",
    "safe_stem",
    "to_json",
    "volume_output_names",
    "write_bytes",
    "write_files",
    "write_text",
]
