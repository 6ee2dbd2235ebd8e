# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Check every byte that would be published for what points to a person or a machine.

Names of patients are unknown to this check. It accepts only files whose kind and content it can read to the end (text,
JSON, safetensors, and Parquet with the columns of a built set). Text burned into pixels is not detected.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dataset_scripts.verify import png_metadata


PATTERNS = {
    "a path of this machine": re.compile(
        r"(?<![\w./])(?:file:/)?\\?/(?:home|Users|root|mnt|media|srv|data|work|tmp|var|scratch|nfs|opt|export|Volumes)"
        r"\\?/[\w.-]+"
    ),
    "a file's address": re.compile(r"file:///?\w"),
    "a path of Windows": re.compile(r"(?<!\w)[A-Za-z]:(?:\\{1,2}\w|/(?!/)\w)"),
    "a DICOM identifier": re.compile(  # of an object, not of the standard itself
        r"(?<![\d.])(?!1\.2\.840\.10008\.)[0-2](?:\.\d+){6,}(?![\d.])|(?<![\d.])2\.25\.\d{10,}"
    ),
    "an e-mail address": re.compile(r"(?<![\w.])[\w.+-]+@[\w-]+\.[A-Za-z]{2,}(?![\w.])"),
    "a token": re.compile(r"\bhf_[A-Za-z0-9]{20,}"),
}
HEX = re.compile(r"[0-9a-f]{12}")
WORD = re.compile(r"[a-z0-9][a-z0-9_]{0,79}|")
LABEL_ID = re.compile(r"[a-z0-9_]{1,80}(?:_[CTLS]\d{1,2})?|")
# Columns of a built set's Parquet files with text, and the form of their values; `None`: a label or a word of a
# source, which is searched for the patterns only. A test compares the columns with those of the builder.
TEXT_COLUMNS: dict[str, re.Pattern[str] | None] = {
    "source": WORD,
    "modality": WORD,
    "case": HEX,
    "patient": HEX,
    "plane": WORD,
    "age_band": re.compile(r"\d0?-\d?9|90\+|"),
    "sex": re.compile(r"female|male|other|"),
    "diagnosis": None,
    "history": None,
    "annotated": None,
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "objects.label_id": LABEL_ID,
    "objects.source_label": None,
    "objects.anatomy": WORD,
    "objects.region": WORD,
    "objects.granularity": WORD,
    "objects.side": WORD,
    "objects.parent_label": None,
    "label_id": LABEL_ID,
    "anatomy": WORD,
    "region": WORD,
    "granularity": WORD,
    "side": WORD,
    "name": None,
    "parent": None,
    "kind_of": None,
    "synonyms": None,
    "codes": None,
}
NUMBER_COLUMNS = frozenset(
    {
        "image_id", "width", "height", "index", "origin", "right", "down", "window", "subset_10", "class_id",
        "extension", "objects.id", "objects.bbox", "objects.category", "objects.area", "objects.area_fraction",
        "objects.component_count", "objects.instance_index", "objects.instance_count", "objects.parent_box",
    }
)  # fmt: skip
# Run lengths of masks, in the alphabet of COCO.
SEGMENTATION = "objects.segmentation"
# SHA-256 of the demo images, whose licenses modeling_medglip/demo/images/LICENSES.md states.
DEMO_IMAGES = {
    "chest_phantom.png": "6cea9c3b5bd45360807d2abd2284723c1c2e55b34153f9b1f3f408a6d8a02c48",
    "ct_abdomen.dcm": "c9dd8d41ba76aa35e336e7ac78abe8fe623cda8b69990b12ad6aa178fc502a24",
    "dermoscopy_lesion.jpg": "c013725d623ae0af7bdaf3e254fe02b7d3999663cce1ab8460b27bc5180b9940",
    "endoscopy_phantom.png": "d666fec4cb0e1ee582a6024944cb9e793a594991d594399f2f56af6cbb01e571",
    "ultrasound_fetal_head.jpg": "491de5c1d7c58a1219247a206f3ffde884d41e388e7f4dc6f04737059ab7ce83",
    "xray_chest.jpg": "5eeea0af7849e6a6842dc691b0fff42f308713a4faab491996da7b3605e4c89b",
}
LONGEST_TEXT = 50_000_000
LONGEST_HEADER = 100_000_000


def check_privacy(folder: Path) -> list[str]:
    """Return one line for everything in a folder that must not be published, with the name of the file."""
    faults = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            faults.append(f"{name}: is a link")
        elif path.is_file():
            faults += [f"{name}: {what}" for what in of_file(path)]
    return faults


def of_file(path: Path) -> Iterator[str]:
    """Yield what must not be published in one file."""
    readers: dict[str, Callable[[Path], Iterator[str]]] = {
        ".json": _of_json, ".safetensors": _of_tensors, ".parquet": _of_table, ".typed": _of_marker,
        **dict.fromkeys((".png", ".jpg", ".dcm"), _of_demo_image),
        **dict.fromkeys((".md", ".yaml", ".txt", ".py", ".css", ".js"), of_text),
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        yield f"files of the kind {path.suffix or 'without an ending'} are not published"
        return
    yield from reader(path)


def of_text(path: Path) -> Iterator[str]:
    """Yield what in a text file is not UTF-8, or points to a person or a machine."""
    if path.stat().st_size > LONGEST_TEXT:
        yield f"is a text of more than {LONGEST_TEXT} bytes"
        return
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        yield "is not UTF-8 text"
        return
    if any(ord(char) < 32 and char not in "\t\n\r" for char in text):
        yield "is not text: it holds control characters"
        return
    for what, pattern in {**PATTERNS, **_local_names()}.items():
        match = pattern.search(text)
        if match is not None:
            yield f"holds {what} in line {text.count(chr(10), 0, match.start()) + 1}"


def _of_marker(path: Path) -> Iterator[str]:
    if path.stat().st_size:
        yield "is not empty"


def _of_demo_image(path: Path) -> Iterator[str]:
    """Yield a fault unless an image is, byte by byte, a demo image that was looked at and has a stated license."""
    if hashlib.sha256(path.read_bytes()).hexdigest() != DEMO_IMAGES.get(path.name):
        yield "is not an image of the package"


def _of_json(path: Path) -> Iterator[str]:
    faults = list(of_text(path))
    yield from faults
    if not faults:
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            yield "is not JSON"


def _of_tensors(path: Path) -> Iterator[str]:
    """Yield a fault unless the JSON header of a safetensors file accounts for every byte and has no metadata."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(LONGEST_HEADER, size - 8):
            yield "is not a safetensors file"
            return
        try:
            header = json.loads(stream.read(length))
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            yield "is not a safetensors file"
            return
    if max(ends, default=0) + 8 + length != size:
        yield "holds more than its header says"
    if set(header.get("__metadata__") or {}) - {"format"}:
        yield "carries metadata"


def _local_names() -> dict[str, re.Pattern[str]]:
    """Return patterns of the names of this machine and its user, unless they are common words."""
    names = {"the name of this machine": socket.gethostname(), "the name of its user": getpass.getuser()}
    common = {"root", "user", "ubuntu", "runner", "admin", "localhost", "main", "model"}
    return {
        what: re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
        for what, name in names.items()
        if len(name) > 4 and name.lower() not in common
    }


# Parquet -------------------------------------------------------------------------------------------------------------


def _of_table(path: Path) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        if schema.metadata or set(file.metadata.metadata or {}) - {b"ARROW:schema"}:
            yield "its schema carries metadata"
            return
        known = {*TEXT_COLUMNS, *NUMBER_COLUMNS, SEGMENTATION, "image"}
        unknown = [name for name, _ in _columns(schema) if name not in known]
        if unknown:
            yield f"has the column {unknown[0][:40]!r}, which no built set has"
            return
        for group in range(file.num_row_groups):
            fault = next(_of_rows(file.read_row_group(group)), None)
            if fault is not None:
                yield fault
                return
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        yield "is not a readable Parquet file"


def _columns(schema: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and field of every column, those of `objects` with that prefix."""
    for field in schema:
        if field.name == "objects":
            yield from ((f"objects.{inner.name}", inner) for inner in field.type)
        else:
            yield field.name, field


def _of_rows(table: Any) -> Iterator[str]:
    for name in table.schema.names:
        column = table[name]
        if name == "image":
            yield from _of_images(table)
        elif name == "objects":
            for part in column.to_pylist():
                yield from (text for key, value in part.items() for text in _of_values(f"objects.{key}", value))
        elif name in TEXT_COLUMNS:
            yield from _of_values(name, column.to_pylist())


def _of_values(name: str, values: Any) -> Iterator[str]:
    """Yield what is wrong with the texts of a column, including those in nested lists."""
    if isinstance(values, list):
        for value in values:
            yield from _of_values(name, value)
    elif isinstance(values, str):
        form = TEXT_COLUMNS.get(name)
        if form is not None and not form.fullmatch(values):
            what = "something else than pseudonyms" if form is HEX else "something else than it should"
            yield f"its column {name} holds {what}"
        for what, pattern in PATTERNS.items():
            if name != SEGMENTATION and pattern.search(values):
                yield f"its column {name} holds {what}"
    elif isinstance(values, bytes):
        yield f"its column {name} holds bytes"


def _of_images(table: Any) -> Iterator[str]:
    """Yield a fault unless images are PNG files of nothing but pixels, named by their case."""
    cases = table["case"].to_pylist() if "case" in table.schema.names else []
    for number, image in enumerate(table["image"].to_pylist()):
        content, name = (image or {}).get("bytes"), (image or {}).get("path") or ""
        case = cases[number] if number < len(cases) else ""
        if not re.fullmatch(rf"(?:{re.escape(str(case))}[\w-]*\.png)?", name):
            yield "an image in it has a name that is not its case's"
        if not content:
            yield "an image in it is missing"
        else:
            yield from (f"an image in it {what}" for what in png_metadata(content))


__all__ = ["check_privacy", "of_file"]
