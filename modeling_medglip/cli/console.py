# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What the console script says: boxes as tables, one line per problem, progress bars on a terminal."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import listed, one_line


if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from ..demo.cases import DemoCase
    from ..outputs.results import GroundedBox, GroundingResult
    from ..outputs.volume_results import VolumeBox, VolumeResult


# The display of bars that is on the screen, if one is.
_shown: list[Progress] = []


def console() -> Console:
    """Standard output; wide enough for whole rows when it is no terminal."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=160, color_system=None)


def escape(text: str) -> str:
    """Return text that rich prints as it is."""
    from rich import markup

    return markup.escape(text)


def say(text: str) -> None:
    """Print one line of text on stdout."""
    console().print(escape(text), soft_wrap=True, highlight=False)


def complain(kind: str, text: object) -> None:
    """One line on stderr."""
    print(f"medglip: {kind}: {one_line(text, 500)}", file=sys.stderr, flush=True)


def fail(problem: object, status: int, debug: bool, cause: BaseException | None = None) -> int:
    """Print an error, with its traceback if `debug`, and return the exit status."""
    error = problem if isinstance(problem, BaseException) else cause
    if debug and error is not None:
        traceback.print_exception(error)
    complain("error", problem)
    return status


def _table(columns: Sequence[str]) -> Any:
    """A table of rich, without lines."""
    from rich.table import Table

    return Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))


def print_boxes(name: str, result: GroundingResult, case: DemoCase | None) -> None:
    """Print the table of an image's boxes."""
    heading = f"{name}  [{result.image.modality}, {result.image.width}x{result.image.height}]"
    out = console()
    out.print()
    out.print(escape(heading), style="bold", highlight=False, soft_wrap=True)
    if case is not None:
        out.print(escape(case.source), highlight=False, soft_wrap=True, style="magenta" if case.is_phantom else "")
    spacing = result.image.spacing_mm
    columns = ("label", "score", "x", "y", "width", "height", *(["size, mm"] if spacing else []))
    rows = []
    for box in result.boxes:
        size = [" ".join(f"{value:.0f}" for value in box.size_mm(spacing))] if spacing else []
        rows.append((_shown_label(box), f"{box.score:.2f}", *(f"{value:.1f}" for value in box.bbox), *size))
    _print_found(out, columns, rows, result.not_found)


def _print_found(
    out: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], not_found: Sequence[str]
) -> None:
    """Print the boxes as a table, and below it what was asked for and not found."""
    if rows:
        table = _table(columns)
        for column in table.columns[1:]:
            column.justify, column.no_wrap = "right", True
        for row in rows:
            table.add_row(*row)
        out.print(table)
    else:
        out.print("nothing found above the threshold", style="dim")
    if not_found:
        out.print(escape(f"not found: {listed(not_found)}"), style="dim", highlight=False, soft_wrap=True)


def _shown_label(box: GroundedBox | VolumeBox) -> str:
    """A box's label, marked if the checkpoint was not trained with it."""
    return escape(one_line(box.label, 80)) + (" (not trained)" if box.trained is False else "")


def print_volume_boxes(name: str, result: VolumeResult) -> None:
    """Print the table of a volume's boxes."""
    shape = "x".join(map(str, result.image.shape))
    out = console()
    out.print()
    out.print(escape(f"{name}  [{result.image.modality}, {shape}]"), style="bold", highlight=False, soft_wrap=True)
    columns = ("label", "score", "center, LPS mm", "size, LR AP HF mm", "slices")
    rows = []
    for box in result.boxes:
        cells = [" ".join(f"{value:.0f}" for value in values) for values in (box.centre_lps_mm, box.size_lps_mm)]
        rows.append((_shown_label(box), f"{box.score:.2f}", *cells, str(box.slices)))
    _print_found(out, columns, rows, result.not_found)


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    table = _table(columns)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    console().print(table)


def progress(items: list[Any]) -> Iterator[Any]:
    """The items one by one, with a bar on stderr while there are several and somebody watches."""
    yield from _bar(items, len(items), "images")


def slices(pictures: Iterable[Any], count: int) -> Iterator[Any]:
    """The pictures of a volume, likewise."""
    yield from _bar(pictures, count, "slices")


def _bar(items: Iterable[Any], count: int, description: str) -> Iterator[Any]:
    """Bars within each other share one display, or they would overwrite each other."""
    if count < 2 or not sys.stderr.isatty():
        yield from items
        return
    if _shown:
        task = _shown[-1].add_task(description, total=count)
        try:
            yield from _shown[-1].track(items, total=count, task_id=task)
        finally:
            _shown[-1].remove_task(task)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        _shown.append(bar)
        try:
            yield from bar.track(items, total=count, description=description)
        finally:
            _shown.remove(bar)
