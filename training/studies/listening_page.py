# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Tables of the study of listening: what several checkpoints draw, one column each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from modeling_medglip.defaults import UNTRAINED_THRESHOLD
from modeling_medglip.image_processing_medglip import FULL_PRESENCE
from modeling_medglip.outputs.markdown import percent, plain, table

from .phrases import LOWEST, SHOWN


# Kinds of unknown phrases -> those of `UnlearnedPhrases`.
UNKNOWN = {"never learned": ("label", "finding", "elsewhere"), "composed": ("composed",), "nonsense": ("nonsense",)}
# Phrases of each kind, and labels, per image; wordings per label.
PHRASES, ABSENT, PRESENT, WORDINGS = 4, 4, 4, 4
# Of labels that the checkpoint was not trained with, the default among them.
THRESHOLDS = tuple(sorted({0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, UNTRAINED_THRESHOLD}))
# Kinds of wordings that a checkpoint does not state, though they mean a label that it was trained with.
UNSTATED = ("held out", "description")
# Rows of the table of thresholds, and what stands before a row of all modalities together.
DRAWN, KEPT, ALL = "unknown phrases with a box", "right boxes kept", "all"
# Section -> modality and row -> cell.
Columns = Mapping[str, Mapping[str, str]]
INTRODUCTION = f"""# Listening

Made by `python -m training.studies.listening`; no number is typed. At the plain threshold of {SHOWN:g}; behind the
slash with the stricter one of {UNTRAINED_THRESHOLD:g} for labels that the checkpoint states not to be trained with.
"""


class Section(NamedTuple):
    """A table of the page.

    Args:
        title (`str`): its heading.
        note (`str`): what its cells state.
        cells_of (`Callable`): figures of a modality -> row -> cell.
        pooled (`bool`): whether it also has cells of all modalities together.
        remark (`Callable`, *optional*): the section's cells by file -> what follows from them, behind the note.
    """

    title: str
    note: str
    cells_of: Callable[[Mapping[str, Any]], dict[str, str]]
    pooled: bool = False
    remark: Callable[[Mapping[str, Mapping[str, str]]], str] | None = None


def summary(results: Mapping[str, Any]) -> Columns:
    """Return what the tables state of one file: section -> modality and row -> cell.

    Args:
        results (`Mapping[str, Any]`): content of the file.
    """
    modalities = results["modalities"]
    return {
        section.title: {
            f"{name}: {plain(row)}": cell
            for name, figures in (*modalities.items(), *([(ALL, _pooled(modalities))] if section.pooled else []))
            for row, cell in section.cells_of(figures).items()
        }
        for section in SECTIONS
    }


def _pooled(modalities: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the rows of all modalities together."""
    return {key: [row for figures in modalities.values() for row in figures[key]] for key in ("phrases", "wordings")}


def render_page(columns: Mapping[str, Columns]) -> str:
    """Return the tables of several files, one column for each.

    Args:
        columns (`Mapping[str, Mapping]`): name -> the file's [`summary`].
    """
    page = [INTRODUCTION]
    for section in SECTIONS:
        by_file = {name: column[section.title] for name, column in columns.items()}
        rows = dict.fromkeys(row for cells in by_file.values() for row in cells)
        lines = [[row, *(cells.get(row, "-") for cells in by_file.values())] for row in rows]
        note = section.note + (f" {section.remark(by_file)}" if section.remark else "")
        page.append(f"## {section.title}\n\n{note}\n\n{table(['', *map(plain, columns)], lines)}")
    return "\n".join(page)


def _phrase_cells(results: Mapping[str, Any]) -> dict[str, str]:
    rows = results["phrases"]
    kinds = {"all unknown": set(UNKNOWN), **{kind: {kind} for kind in (*UNKNOWN, "absent")}}
    return {kind: _boxes_per_image([row for row in rows if row["kind"] in names]) for kind, names in kinds.items()}


def _boxes_per_image(rows: Sequence[Mapping[str, Any]]) -> str:
    images = len({row["image"] for row in rows})
    return (
        " / ".join(f"{sum(row[key] for row in rows) / images:.2f}" for key in ("plain", "stricter")) if images else "-"
    )


def _presence_cells(results: Mapping[str, Any]) -> dict[str, str]:
    groups: dict[str, Collection[str]] = {"present": ("present",), "absent": ("absent",), "unknown": UNKNOWN}
    values = {
        name: [
            row["presence"] for row in results["phrases"] if row["kind"] in kinds and row.get("presence") is not None
        ]
        for name, kinds in groups.items()
    }
    cells = {
        name: " / ".join(f"{value:.2f}" for value in np.quantile(found, (0.1, 0.5, 0.9))) + f" of {len(found)}"
        for name, found in values.items()
        if found
    }
    for name in ("absent", "unknown"):
        if values[name] and values["present"]:
            cells[f"present over {name}"] = percent(_share_over(values["present"], values[name]), 0)
    return cells


def _share_over(high: Sequence[float], low: Sequence[float]) -> float:
    """Return the share of pairs whose first value is the higher one, the area under the curve; ties count half."""
    difference = np.subtract.outer(high, low)
    return float(np.mean(difference > 0) + np.mean(difference == 0) / 2)


def _negative_cells(results: Mapping[str, Any]) -> dict[str, str]:
    counts: dict[str, list[int]] = defaultdict(list)
    for row in results["negative_images"]:
        synthetic = row["kind"] in ("noise", "black", "white")
        counts[row["kind"] if synthetic else "other modalities"].append(row["plain"])
    return {kind: f"{np.mean(boxes):.2f}" for kind, boxes in counts.items()}


def _sibling_cells(results: Mapping[str, Any]) -> dict[str, str]:
    totals: dict[str, dict[str, int]] = defaultdict(lambda: {"objects": 0, "hit": 0, "right": 0})
    for row in results["siblings"]:
        for key in totals[row["group"]]:
            totals[row["group"]][key] += row[key]
    return {
        group: f"{total['right']} of {total['hit']} ({total['objects']} objects)"
        for group, total in totals.items()
        if total["objects"]
    }


def _other_cells(results: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"{row['label']}, not {', '.join(_marked(row))}": f"{row['drawn']}, {row['alone']} of {row['images']}"
        for row in results["others"]
    }


def _marked(row: Mapping[str, Any]) -> list[str]:
    """Return the phrases for other things; a plus is behind those that training may ask for."""
    return [phrase if phrase in row["held_out"] else f"{phrase}+" for phrase in row["others"]]


def _wording_cells(results: Mapping[str, Any]) -> dict[str, str]:
    cells: dict[str, str] = {}
    for kind in ("name", "synonym", "held out", "description"):
        rows = [row for row in results["wordings"] if row["kind"] == kind]
        asked = sum(row["images"] for row in rows)
        shares = [percent(sum(row[key] for row in rows) / asked, 0) for key in ("plain", "stricter")] if asked else []
        cells |= {kind: f"{' / '.join(shares)} of {asked}"} if asked else {}
    return cells


def _threshold_cells(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the shares that reach each threshold; files of before do not hold the scores of wordings."""
    wordings = [row for row in results["wordings"] if row["kind"] in UNSTATED and row.get("trained") is False]
    scores = {
        DRAWN: [row["score"] for row in results["phrases"] if row["kind"] in UNKNOWN],
        KEPT: [score for row in wordings for score in row["scores"]],
    }
    return {
        row: " / ".join(percent(float(np.mean(np.greater_equal(found, least)))) for least in THRESHOLDS)
        + f" of {len(found)}"
        for row, found in scores.items()
        if found
    }


def _default_threshold(by_file: Mapping[str, Mapping[str, str]]) -> str:
    """Return which threshold is the default, and its shares over all modalities in every file."""
    index, stated = THRESHOLDS.index(UNTRAINED_THRESHOLD), []
    for name, cells in by_file.items():
        found = {row: cells[f"{ALL}: {row}"] for row in (DRAWN, KEPT) if f"{ALL}: {row}" in cells}
        shares = [f"{row} {cell.split(' / ')[index].split(' ')[0]} %" for row, cell in found.items()]
        stated.append(f"{plain(name)}: {', '.join(shares) or '-'}")
    return f"The default is {UNTRAINED_THRESHOLD:g}; over all modalities it gives, {'; '.join(stated)}."


SECTIONS: tuple[Section, ...] = (
    Section(
        "Unknown phrases and absent labels",
        f"Boxes per image for up to {PHRASES} phrases of each kind; absent labels: up to {ABSENT} that are annotated"
        f" without a box or that the source cannot show, and {ABSENT} of other parts of the body.",
        _phrase_cells,
    ),
    Section(
        "Presence",
        f"The 10th, 50th and 90th percentile of the presence score of labels that the image shows (up to {PRESENT}),"
        f" of absent labels and of unknown phrases; a score of a box falls where presence is below {FULL_PRESENCE:g}."
        " Then how often, in percent, a present label has a higher one than another phrase.",
        _presence_cells,
    ),
    Section(
        "Images that show nothing of the modality",
        "Boxes per image at the plain threshold, asked for all learned labels.",
        _negative_cells,
    ),
    Section(
        "The right word",
        f"Of the objects that a box of any of these labels hits, from a score of {LOWEST:g} on: how many the right"
        " label hits with the best score.",
        _sibling_cells,
    ),
    Section(
        "Something else in the same place",
        "Images in which the label draws a box, and in which it does so alone, at the plain threshold. Training"
        " may have asked for phrases with a plus as for something that is not there.",
        _other_cells,
    ),
    Section(
        "Other words",
        f"How often the best box is right, in percent; up to {WORDINGS} wordings of each kind for a label of an"
        " image.",
        _wording_cells,
    ),
    Section(
        "The threshold for labels that were not trained",
        f"From a score of {' / '.join(f'{least:g}' for least in THRESHOLDS)} on, in percent: unknown phrases with a"
        f" box, and best boxes that are right (from {LOWEST:g} on), for held-out wordings and descriptions that the"
        " checkpoint does not state among what it was trained with.",
        _threshold_cells,
        pooled=True,
        remark=_default_threshold,
    ),
)
