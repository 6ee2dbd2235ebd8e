# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The CSV table of a run: a row for each box, and for each label that has none."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any


# Lists are written as JSON, in the units and frames of `*.boxes.json`.
COLUMNS = (
    "file", "modality", "label", "label_id", "trained", "found", "score", "x", "y", "width", "height", "box_ijk",
    "center_lps_mm", "size_mm", "size_lps_mm", "frame",
)  # fmt: skip
# Spreadsheets take cells that begin like this for formulas.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


TEXT = ("file", "modality", "label", "label_id")
FLAGS = ("trained", "found")
LISTS = ("box_ijk", "center_lps_mm", "size_mm", "size_lps_mm")


def is_row(row: Any) -> bool:
    """Return whether a value read from a file is a row: known columns, each of its type or empty."""
    return isinstance(row, dict) and all(
        name in COLUMNS and (value is None or _fits(name, value)) for name, value in row.items()
    )


def _fits(name: str, value: Any) -> bool:
    if name in TEXT:
        return isinstance(value, str)
    if name in FLAGS:
        return isinstance(value, bool)
    if name in LISTS:
        return isinstance(value, list) and all(type(number) in (int, float) for number in value)
    return type(value) is int if name == "frame" else type(value) in (int, float)


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the text of a table: a heading and the rows, booleans as 1 and 0.

    Text that a spreadsheet would take for a formula gets an apostrophe before it; numbers stay numbers.

    Args:
        rows (`Iterable[Mapping[str, Any]]`): column -> value, see `to_rows` of the results.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in COLUMNS])
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, list):
        return json.dumps(value)
    if isinstance(value, str) and (value.startswith(FORMULA) or value.lstrip().startswith(FORMULA)):
        return f"'{value}"
    return value


__all__ = ["COLUMNS", "FLAGS", "LISTS", "TEXT", "is_row", "to_csv"]
