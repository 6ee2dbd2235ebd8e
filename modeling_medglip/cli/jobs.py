# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Ground inputs in this process, or in several, each with a checkpoint and a reader of its own."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import MedGlipError
from ..outputs.run_report import InputRecord
from .inputs import Input
from .request import GroundRequest
from .session import load_model, quiet_libraries
from .tasks import make_task


if TYPE_CHECKING:
    from ..grounding import Grounder
    from ..isolation.process import FileReader

Work = tuple[Input, str]


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes:
        record ([`InputRecord`]): for the report.
        rows (`list[dict]`): of the table of all inputs.
        printed (`str`): what belongs on stdout.
        warned (`str`): what belongs on stderr.
    """

    record: InputRecord
    rows: list[dict[str, Any]]
    printed: str = ""
    warned: str = ""


def ground_one(request: GroundRequest, grounder: Grounder, reader: FileReader, work: Work) -> Outcome:
    """Ground an input; its boxes and problems are printed.

    Args:
        request ([`GroundRequest`]): the options of the run.
        grounder ([`Grounder`]): the loaded checkpoint.
        reader ([`FileReader`]): reads the input.
        work (`tuple[Input, str]`): the input, and the stem of the names of its files.
    """
    one, stem = work
    task = make_task(request, grounder, stem, one)
    return Outcome(task.run(one.name, one.opener(reader)), task.rows)


def reader_of(isolate: bool) -> FileReader:
    """Return what reads inputs: in a process of its own, or in this one."""
    from ..isolation.process import FileReader, ReaderProcess

    return ReaderProcess(limit_note=" (--no-isolate reads it without limits)") if isolate else FileReader()


def ground_in_processes(
    request: GroundRequest,
    works: Sequence[Work],
    jobs: int,
    threads: int,
    finished: Callable[[Work, Outcome], None],
) -> Iterator[Outcome]:
    """Yield the outcomes in the order of the inputs.

    Args:
        request ([`GroundRequest`]): the options of the run.
        works (`Sequence[tuple[Input, str]]`): inputs and the stems of the names of their files.
        jobs (`int`): number of processes.
        threads (`int`): of each process.
        finished (`Callable`): called with an input and its outcome as soon as it is done, in any order.

    Raises:
        `MedGlipError`: a process died, as when memory runs out.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_start, initargs=(request, threads))
    try:
        waiting = {pool.submit(_run, work): index for index, work in enumerate(works)}
        outcomes: dict[int, Outcome] = {}
        shown = 0
        for future in as_completed(waiting):
            index = waiting[future]
            outcomes[index] = future.result()
            finished(works[index], outcomes[index])
            while shown in outcomes:
                yield outcomes.pop(shown)
                shown += 1
    except BrokenProcessPool:
        raise MedGlipError(
            "a process of --jobs died, perhaps for want of memory: take fewer, and add --resume to go on"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


# Of a process of the pool: what it grounds with.
_started: dict[str, Any] = {}


def _start(request: GroundRequest, threads: int) -> None:
    """Load the checkpoint in a process of the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    import torch

    torch.set_num_threads(threads)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        grounder = load_model(request.model, request.device, request.modality, request.base, request.debug)
    _started.update(request=request, grounder=grounder, reader=reader_of(request.isolate).__enter__())


def _run(work: Work) -> Outcome:
    """Ground an input in a process of the pool; what it prints comes with the outcome."""
    printed, warned = io.StringIO(), io.StringIO()
    request = _started["request"]
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(warned),
        quiet_libraries(request.debug),
    ):
        outcome = ground_one(request, _started["grounder"], _started["reader"], work)
    return Outcome(outcome.record, outcome.rows, printed.getvalue(), warned.getvalue())


def show(outcome: Outcome) -> None:
    """Print what another process would have printed."""
    sys.stdout.write(outcome.printed)
    sys.stderr.write(outcome.warned)


__all__ = ["Outcome", "Work", "ground_in_processes", "ground_one", "reader_of", "show"]
