# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Markdown of pages and cards: tables of numbers, and untrusted text, such as labels, escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import one_line


SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~])")


def plain(text: object) -> str:
    """Escape text for a table or a line of Markdown: one line, no HTML, no links, no further column.

    Underscores within words stay: they mean nothing there. Addresses do not become links.
    """
    escaped = SPECIAL.sub(r"\\\1", html.escape(one_line(str(text), 200), quote=False))
    inert = escaped.replace("://", "&#58;//").replace("@", "&#64;")
    inert = re.sub(r"\b(www)\.", r"\1&#46;", inert, flags=re.IGNORECASE)
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", inert)


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share (0..1) in percent, or a dash."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def with_interval(value: float | None, edges: Sequence[float] | None) -> str:
    """Return a share in percent with its 95 % interval, where that was measured."""
    return percent(value) if edges is None else f"{percent(value)} ({percent(edges[0])} to {percent(edges[1])})"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], numbers: bool = True) -> str:
    """Return a Markdown table whose first column is text.

    Args:
        header (`Sequence[str]`): Names of the columns.
        rows (`Iterable[Sequence]`): One cell per column.
        numbers (`bool`, *optional*, defaults to `True`): Align the other columns to the right.
    """
    lines = [header, ["---", *["---:" if numbers else "---"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


__all__ = ["percent", "plain", "table", "with_interval"]
