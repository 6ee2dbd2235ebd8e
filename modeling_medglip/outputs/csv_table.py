# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The table of `medglip ground --csv`: a row for each box, and for each label that has none."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..taxonomy import load_taxonomy


if TYPE_CHECKING:
    from .results import GroundedBox, GroundingResult
    from .volume_results import VolumeBox, VolumeResult

Row = dict[str, Any]
# Lists are written as JSON, in the units and frames of `*.boxes.json`.
COLUMNS = (
    "file", "modality", "label", "label_id", "trained", "found", "score", "x", "y", "width", "height", "box_ijk",
    "center_lps_mm", "size_mm", "size_lps_mm", "frame",
)  # fmt: skip
# Spreadsheets take cells that begin like this for formulas.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def table_rows(result: GroundingResult | VolumeResult, file: str, frame: int | None = None) -> list[Row]:
    """Return the rows of one result.

    Args:
        file (`str`): base name of the input.
        frame (`int`, *optional*): which frame of the file was asked for, counted from 1.

    Returns:
        column -> value; columns that do not apply are missing. Boxes come first, then labels without one.
    """
    common = {"file": file, "modality": result.image.modality, "frame": frame}
    spacing = getattr(result.image, "spacing_mm", None)
    rows = [{**common, **_of_box(box), **_place(box, spacing)} for box in result.boxes]
    for label in result.not_found:
        place = load_taxonomy().locate(label, result.image.modality)
        known = {"label": label, "label_id": None if place is None else place.label_id}
        rows.append({**common, **known, "trained": result.trained.get(label), "found": False})
    return rows


def _of_box(box: GroundedBox | VolumeBox) -> Row:
    score = round(box.score, 4)
    return {"label": box.label, "label_id": box.label_id, "trained": box.trained, "found": True, "score": score}


def _place(box: Any, spacing: Sequence[float] | None) -> Row:
    """Where a box lies: pixels of an image, or voxels and mm of a volume."""
    if hasattr(box, "box_ijk"):
        return {
            "box_ijk": _numbers(box.box_ijk),
            "center_lps_mm": _numbers(box.centre_lps_mm),
            "size_lps_mm": _numbers(box.size_lps_mm),
        }
    x, y, width, height = (round(value, 2) for value in box.bbox)
    place: Row = {"x": x, "y": y, "width": width, "height": height}
    return place | ({"size_mm": _numbers(box.size_mm(spacing))} if spacing else {})


def _numbers(values: Iterable[float]) -> str:
    return json.dumps([round(float(value), 2) for value in values])


def to_csv(rows: Iterable[Row]) -> str:
    """Return the text of a table: a heading and the rows, truth values as 1 and 0.

    Text that a spreadsheet would take for a formula gets an apostrophe before it; numbers stay numbers.
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
    if isinstance(value, str) and (value.startswith(FORMULA) or value.lstrip().startswith(FORMULA)):
        return f"'{value}"
    return value


__all__ = ["COLUMNS", "table_rows", "to_csv"]
