# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Number the classes of a built set: every label of the taxonomy in its order, then the open labels that occur."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from modeling_medglip.taxonomy import Taxonomy, load_taxonomy
from modeling_medglip.taxonomy.entries import Label


@dataclass(frozen=True)
class Classes:
    """The classes of a set.

    Attributes:
        names (`tuple[str, ...]`): In the order of their numbers; unique.
        rows (`tuple[dict, ...]`): The config `labels`, one dictionary per class (see `schema.LABEL_COLUMNS`).
    """

    names: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]


def make_classes(open_labels: Iterable[str]) -> Classes:
    """Return all labels of the taxonomy, then the open ones in alphabetical order."""
    taxonomy = load_taxonomy()
    rows = [_row(label, taxonomy) for label in (*taxonomy.labels.values(), *taxonomy.extensions.values())]
    known = {row["name"] for row in rows}
    rows += [_open_row(name) for name in sorted(set(open_labels) - known)]
    for number, row in enumerate(rows):
        row["class_id"] = number
    return Classes(tuple(row["name"] for row in rows), tuple(rows))


def _row(label: Label, taxonomy: Taxonomy) -> dict[str, Any]:
    codes = [f"{code.system}:{code.value}{'' if code.verified else '?'}" for code in label.codes]
    return {
        "class_id": 0,
        "name": label.name,
        "label_id": label.id,
        "anatomy": label.category or "",
        "region": label.region or "",
        "granularity": label.granularity,
        "side": label.laterality or "",
        "parent": label.parent or "",
        "kind_of": label.kind_of or "",
        "extension": label.extension,
        "synonyms": list(label.synonyms),
        "codes": codes,
    }


def _open_row(name: str) -> dict[str, Any]:
    empty = dict.fromkeys(("label_id", "anatomy", "region", "side", "parent", "kind_of"), "")
    return {
        "class_id": 0,
        "name": name,
        **empty,
        "granularity": "other",
        "extension": True,
        "synonyms": [],
        "codes": [],
    }


__all__ = ["Classes", "make_classes"]
