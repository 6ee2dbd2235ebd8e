# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What the console script prints: boxes as tables, one line per problem, progress bars on a terminal."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import MedGlipError, hint_of, one_line


if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from ..outputs.base import BaseResult


# Options whose names differ from those of the arguments that the library's messages advise.
FLAGS = {"number": "--volume"}
# The display of bars that is on the screen, if one is.
_shown: list[Progress] = []


def console() -> Console:
    """Return stdout as a console, wide enough for whole rows when it is not a terminal."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=160, color_system=None)


def escape(text: str) -> str:
    """Return text that rich prints as it is."""
    from rich import markup

    return markup.escape(text)


def in_flags(message: object) -> str:
    """Return an error or a warning of the library with the option for its hint: `frame=` -> `--frame`."""
    text, hint = str(message), hint_of(message)
    if hint is None:
        return text
    # Names of files come before the advice.
    before, argument, after = text.rpartition(f"{hint}=")
    flag = FLAGS.get(hint, f"--{hint.replace('_', '-')}")
    return f"{before}{flag}{after.removeprefix('True')}" if argument else text


def failure_reason(error: BaseException, name: str) -> str:
    """Return why an input or output failed, as one line.

    Args:
        error (`BaseException`): what was raised. An unexpected one is named by its type alone: its text may quote a
            header.
        name (`str`): of the input or output.
    """
    if isinstance(error, MedGlipError):
        return in_flags(error)
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return f"{name}: not enough memory"
    return f"{name}: unexpected {type(error).__name__}; --debug shows where"


def echo(text: str) -> None:
    """Print a line on stdout."""
    console().print(escape(text), soft_wrap=True, highlight=False)


def warn(kind: str, text: str) -> None:
    """Print a line on stderr, such as `medglip: warning: scan.png: ...`."""
    print(f"medglip: {kind}: {one_line(text, 500)}", file=sys.stderr, flush=True)


def fail(problem: object, status: int, debug: bool, cause: BaseException | None = None) -> int:
    """Print an error and return the exit status.

    Args:
        problem (`object`): an error, or its text.
        status (`int`): the exit status.
        debug (`bool`): print the traceback too.
        cause (`BaseException`, *optional*): whose traceback is printed, if `problem` is a text.
    """
    error = problem if isinstance(problem, BaseException) else cause
    if debug and error is not None:
        traceback.print_exception(error)
    warn("error", in_flags(problem))
    return status


def _table(columns: Sequence[str]) -> Any:
    """Return a table of rich, without lines."""
    from rich.table import Table

    return Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))


def print_result(name: str, result: BaseResult, note: str = "") -> None:
    """Print the boxes of an input as a table.

    Args:
        name (`str`): of the input, for the heading.
        result ([`BaseResult`]): the boxes.
        note (`str`, *optional*): a line below the heading.
    """
    out = console()
    out.print()
    out.print(escape(result.heading(name)), style="bold", highlight=False, soft_wrap=True)
    for text in filter(None, (note, result.to_text())):
        out.print(escape(text), highlight=False, soft_wrap=True)


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    table = _table(columns)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    console().print(table)


def progress(items: list[Any]) -> Iterator[Any]:
    """Yield the items, with a bar on stderr if there are several and stderr is a terminal."""
    yield from _bar(items, len(items), "images")


def slices(items: Iterable[Any], count: int) -> Iterator[Any]:
    """Yield the slices of a volume, with a bar as in [`progress`]."""
    yield from _bar(items, count, "slices")


def graphs(items: Iterable[Any], count: int) -> Iterator[Any]:
    """Yield the graphs of an export, with a bar as in [`progress`]."""
    yield from _bar(items, count, "graphs")


def _bar(items: Iterable[Any], count: int, description: str) -> Iterator[Any]:
    """Yield items with a bar. Bars within each other share one display, or they would overwrite each other."""
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
