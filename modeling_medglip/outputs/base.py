# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What results of images and of volumes share: their text, and their conversions to other libraries."""

from __future__ import annotations

import html
import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import MOST_MISSING, MedGlipError, listed, one_line
from ..taxonomy import load_taxonomy


SCHEMA = "medglip/boxes@1"
# Who said of which modality an input is; see `BaseResult.modality_source`.
MODALITY_SOURCES = ("given", "header", "pixels", "checkpoint", "unrecognized")
GIVEN, UNRECOGNIZED = MODALITY_SOURCES[0], MODALITY_SOURCES[-1]


class BaseResult(ABC):
    """The boxes of one input.

    Attributes:
        model (`str`): name of the checkpoint.
        image ([`ImageInfo`] or [`VolumeInfo`]): what is known of the input: `file`, `modality` ...
        prompt (`str`): as the user gave it.
        boxes (`tuple`): best score first.
        modality_source (`str`): `"given"`, `"header"`, `"pixels"`, `"checkpoint"`, or `"unrecognized"` for what
            does not look like a medical image, so that nothing was looked for.
        modality_probability (`float`, *optional*): the router's, when the pixels decided; not stored.
        warnings (`tuple[str, ...]`): one line each; not stored.
        trained (`Mapping[str, bool | None]`): asked label -> whether the expert was trained with it; `None` if the
            checkpoint does not say.
        presence (`Mapping[str, float]`): asked label -> probability that the input shows it; empty where the
            checkpoint does not say.
    """

    model: str
    image: Any
    prompt: str
    boxes: tuple[Any, ...]
    modality_source: str
    modality_probability: float | None
    warnings: tuple[str, ...]
    trained: Mapping[str, bool | None]
    presence: Mapping[str, float]

    @property
    def not_found(self) -> tuple[str, ...]:
        """The labels that were asked for and have no box, in the order of the prompt."""
        labels = {box.label for box in self.boxes}
        return tuple(label for label in self.trained if label not in labels)

    @property
    def label_values(self) -> dict[str, int]:
        """Label -> its number: 1 for the first label that was asked for, and so on."""
        labels = dict.fromkeys([*self.trained, *(box.label for box in self.boxes)])
        return {label: value for value, label in enumerate(labels, start=1)}

    @abstractmethod
    def heading(self, name: str | None = None) -> str:
        """Return the first line of the text: name of the input, modality and size."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the content of a `*.boxes.json` file."""

    @abstractmethod
    def _cells(self) -> tuple[Sequence[str], list[list[str]]]:
        """Return the columns of the text after label and score, and their cells for each box."""

    @abstractmethod
    def _position(self, box: Any) -> dict[str, Any]:
        """Return the columns of a table that say where a box is."""

    def _content(self, image: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a `*.boxes.json` file holds above its boxes.

        Args:
            image (`Mapping[str, Any]`): its entry for the input.
        """
        content = {"schema": SCHEMA, "model": self.model, "image": dict(image), "prompt": self.prompt}
        if self.modality_source != GIVEN:
            content["modality_source"] = self.modality_source
        stated: dict[str, Any] = {"trained": dict(self.trained), "not_found": list(self.not_found)}
        if self.presence:
            stated["presence"] = {label: round(value, 4) for label, value in self.presence.items()}
        return content | (stated if self.trained else {})

    def _label_ids(self, box: Any) -> dict[str, Any]:
        """Return the entries of a `*.boxes.json` file for the label of a box."""
        ids = {"label_id": box.label_id, "category": box.category, "region": box.region}
        return ids | ({"trained": box.trained} if self.trained else {})

    def to_text(self) -> str:
        """Return the boxes as lines of text, and the labels without a box below."""
        columns, cells = self._cells()
        rows = [["label", "score", *columns]]
        for box, position in zip(self.boxes, cells, strict=True):
            label = one_line(box.label, 80) + (" (not trained)" if box.trained is False else "")
            rows.append([label, f"{box.score:.2f}", *position])
        lines = text_table(rows) if self.boxes else ["nothing found above the threshold"]
        missing = [label + self._how_present(label) for label in self.not_found]
        return "\n".join([*lines, *([f"not found: {listed(missing, most=MOST_MISSING)}"] if missing else [])])

    def _how_present(self, label: str) -> str:
        return f" (presence {self.presence[label]:.2f})" if label in self.presence else ""

    def __str__(self) -> str:
        return f"{self.heading()}\n{self.to_text()}"

    def _repr_html_(self) -> str:
        """Return the text for a notebook."""
        return f"<pre>{html.escape(str(self))}</pre>"

    def to_rows(self, frame: int | None = None) -> list[dict[str, Any]]:
        """Return a row for each box, then for each label without one.

        Args:
            frame (`int`, *optional*): which frame of its file the image is, counted from 1.

        Returns:
            column -> value, as in `csv_table.COLUMNS`; columns that do not apply are missing.
        """
        common = {"file": one_line(self.image.file, 120), "modality": self.image.modality, "frame": frame}
        rows = []
        for box in self.boxes:
            about = {"label": box.label, "label_id": box.label_id, "trained": box.trained}
            rows.append({**common, **about, "found": True, "score": round(box.score, 4), **self._position(box)})
        for label in self.not_found:
            entry = load_taxonomy().locate(label, self.image.modality)
            about = {"label": label, "label_id": entry and entry.label_id, "trained": self.trained[label]}
            rows.append({**common, **about, "found": False})
        return rows

    def to_pandas(self) -> Any:
        """Return the rows of [`to_rows`] as a `pandas.DataFrame`.

        Raises:
            `MedGlipError`: pandas is not installed.
        """
        from .csv_table import COLUMNS

        return optional_library("pandas").DataFrame(self.to_rows(), columns=list(COLUMNS))


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of text with aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def optional_library(name: str) -> Any:
    """Import a library that the package does not need itself.

    Raises:
        `MedGlipError`: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MedGlipError(f"{name} is not installed: pip install {name}") from None


__all__ = ["SCHEMA", "BaseResult", "optional_library", "text_table"]
