# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What must not leave: a last look at every byte that would be published.

It knows nothing of patients' names. It looks for where they come from: kinds of files that carry headers, metadata in
pictures, paths and names of this machine, identifiers of DICOM, addresses; and pictures of sets without pseudonyms.
"""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any


# Everything else is refused: images with headers, pickles, archives.
ENDINGS = frozenset(
    {
        ".md", ".json", ".yaml", ".txt", ".py", ".typed", ".safetensors", ".parquet", ".png", ".jpg", ".css", ".csv",
        ".jsonl", ".js",
    }
)  # fmt: skip
TEXTS = frozenset({".md", ".json", ".yaml", ".txt", ".py", ".css", ".csv", ".jsonl", ".js"})
PSEUDONYM = re.compile(r"^[0-9a-f]{8,64}$")
PATTERNS = {
    "a path of this machine": re.compile(
        r"(?<![\w/.:])(?:/(?:home|Users|root|mnt|media|srv|data|work|tmp|var|scratch|nfs)/[\w.-]+)"
    ),
    "a path of Windows": re.compile(r"(?<!\w)[A-Za-z]:\\\\?(?:Users|Documents)\b"),
    "a DICOM identifier": re.compile(  # of an object; those of the standard itself are nobody's
        r"(?<![\d.])(?:(?!1\.2\.840\.10008\.)1\.[23]\.\d{3,}(?:\.\d+){4,}|2\.25\.\d{10,})"
    ),
    "an e-mail address": re.compile(r"(?<![\w.])[\w.+-]+@[\w-]+\.[A-Za-z]{2,}(?![\w.])"),
}
# Parts of PNG files that hold nothing but pixels.
PIXELS_ONLY = frozenset({b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"pHYs", b"sRGB", b"gAMA"})
# Columns of a set's Parquet files in which every value must be a pseudonym.
PSEUDONYMS = ("case", "patient")
LONGEST_TEXT = 50_000_000


def findings(folder: Path) -> list[str]:
    """One line for everything that must not leave in a folder, with the name of the file."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found.append(f"{name}: is a link")
        elif path.is_file():
            found += [f"{name}: {what}" for what in _of_file(path)]
    return found


def _of_file(path: Path) -> Iterator[str]:
    ending = path.suffix.lower()
    if path.name == ".gitattributes":
        return
    if ending not in ENDINGS:
        yield f"files of the kind {ending or 'without an ending'} are not published"
    elif ending in TEXTS:
        yield from _of_text(path)
    elif ending in (".png", ".jpg"):
        yield from picture_metadata(path.read_bytes())
    elif ending == ".parquet":
        yield from _of_table(path)


def _of_text(path: Path) -> Iterator[str]:
    if path.stat().st_size > LONGEST_TEXT:
        yield f"is a text of more than {LONGEST_TEXT} bytes"
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    for what, pattern in {**PATTERNS, **_own_names()}.items():
        match = pattern.search(text)
        if match is not None:
            yield f"holds {what} in line {text.count(chr(10), 0, match.start()) + 1}"


def _own_names() -> dict[str, re.Pattern[str]]:
    """Who and where this machine is, unless that is a word of its own."""
    names = {"the name of this machine": socket.gethostname(), "the name of its user": getpass.getuser()}
    common = {"root", "user", "ubuntu", "runner", "admin", "localhost", "main", "model"}
    return {
        what: re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
        for what, name in names.items()
        if len(name) > 4 and name.lower() not in common
    }


def picture_metadata(content: bytes) -> Iterator[str]:
    """What a picture holds beside pixels."""
    from PIL import Image

    if content[:8] == b"\x89PNG\r\n\x1a\n":
        odd = sorted(kind.decode("latin-1") for kind in set(_png_chunks(content)) - PIXELS_ONLY)
        if odd:
            yield f"holds metadata ({', '.join(odd)})"
        return
    try:
        with Image.open(BytesIO(content)) as picture:
            if picture.getexif() or {"comment", "icc_profile", "xmp"} & set(picture.info):
                yield "holds metadata"
    except OSError:
        yield "is no picture that can be read"


def _png_chunks(content: bytes) -> Iterator[bytes]:
    place = 8
    while place + 8 <= len(content):
        yield content[place + 4 : place + 8]
        place += 12 + int.from_bytes(content[place : place + 4], "big")


def _of_table(path: Path) -> Iterator[str]:
    """A Parquet file: its own metadata, pseudonyms, and the pictures in it."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    if set(file.schema_arrow.metadata or {}) - {b"huggingface"}:
        yield "its schema carries metadata"
    names = file.schema_arrow.names
    wanted = [name for name in (*PSEUDONYMS, "image") if name in names]
    for group in range(file.num_row_groups if wanted else 0):
        rows: list[dict[str, Any]] = file.read_row_group(group, columns=wanted).to_pylist()
        for row in rows:
            odd = [name for name in PSEUDONYMS if name in names and not PSEUDONYM.fullmatch(str(row[name]))]
            if odd:
                yield f"its column {odd[0]} holds something else than pseudonyms"
                return
            metadata = next(picture_metadata(row["image"]["bytes"]), None) if "image" in names else None
            if metadata is not None:
                yield f"a picture in it {metadata}"
                return


__all__ = ["findings", "picture_metadata"]
