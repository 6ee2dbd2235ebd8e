# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Ground inputs in this process, or in several, each with a checkpoint and a reader of its own."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..errors import MedGlipError
from ..outputs.run_report import InputRecord
from .inputs import Input
from .request import GroundRequest
from .session import load_model, quiet_libraries
from .tasks import make_task


if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

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

    def to_json(self) -> str:
        """Return what [`Outcome.from_json`] reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """Return the outcome that another machine wrote as JSON."""
        content = json.loads(text)
        record: dict[str, Any] = content["record"]
        record |= {name: tuple(record[name]) for name in ("outputs", "warnings")}
        return cls(**{**content, "record": InputRecord(**record)})


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


class Worker:
    """Grounds inputs in a process beside the first one, with a checkpoint and a reader of its own.

    Args:
        request ([`GroundRequest`]): the options of the run.
        threads (`int`): of PyTorch.

    Raises:
        `MedGlipError`: the checkpoint cannot be loaded.
    """

    def __init__(self, request: GroundRequest, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            self._grounder = load_model(request.model, request.device, request.modality, request.base, request.debug)
        self._request, self._reader = request, reader_of(request.isolate).__enter__()

    def ground(self, work: Work) -> Outcome:
        """Ground an input; what it prints comes with the outcome."""
        printed, warned = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(warned),
            quiet_libraries(self._request.debug),
        ):
            outcome = ground_one(self._request, self._grounder, self._reader, work)
        return Outcome(outcome.record, outcome.rows, printed.getvalue(), warned.getvalue())


def ground_in_processes(
    request: GroundRequest, works: Sequence[Work], jobs: int, threads: int
) -> Generator[tuple[int, Outcome], None, None]:
    """Yield the index of an input and its outcome as soon as it is done, in any order.

    When the caller stops, its processes end at once. Those of a caller that is killed end within a second.

    Args:
        request ([`GroundRequest`]): the options of the run.
        works (`Sequence[tuple[Input, str]]`): inputs and the stems of the names of their files.
        jobs (`int`): number of processes.
        threads (`int`): of each process.

    Raises:
        `MedGlipError`: a process died, as when memory runs out.
    """
    context = multiprocessing.get_context("spawn")
    ended = context.Event()
    pool = ProcessPoolExecutor(jobs, context, initializer=_start, initargs=(request, threads, ended))
    try:
        waiting = {pool.submit(_run, work): index for index, work in enumerate(works)}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    except BrokenProcessPool:
        further = ", then the same command goes on" if request.resume else ""
        raise MedGlipError(
            f"one of the {jobs} processes died, as when memory runs out: take fewer --jobs{further}"
        ) from None
    finally:
        ended.set()
        pool.shutdown(cancel_futures=True)


# Of a process of the pool: what it grounds with.
_started: list[Worker] = []


def _start(request: GroundRequest, threads: int, ended: Event) -> None:
    """Load the checkpoint in a process of the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    threading.Thread(target=_end_with, args=(ended,), daemon=True).start()
    _started.append(Worker(request, threads))


def _end_with(ended: Event) -> None:
    """End this process when the run ends or its first process is gone; its reader then ends by itself."""
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive() and not ended.wait(1.0):
        pass
    os._exit(1)


def _run(work: Work) -> Outcome:
    """Ground an input in a process of the pool."""
    return _started[0].ground(work)


def show(outcome: Outcome) -> None:
    """Print what another process would have printed."""
    sys.stdout.write(outcome.printed)
    sys.stderr.write(outcome.warned)


__all__ = ["Outcome", "Work", "Worker", "ground_in_processes", "ground_one", "reader_of", "show"]
