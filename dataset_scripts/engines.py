# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Process cases in one process, in several, or on a Ray cluster. The outcome is the same.

Decoders of other projects may crash or hang on a damaged file. Where processes are forked, no case is processed in
this one: a case that ends its process, or takes too long, is recorded as unreadable, and the build goes on.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from modeling_medglip.cli.ray_connection import ray_cluster

from .process import BuildOptions, process_case, record_failure
from .readers import Reader
from .records import Case


ENGINES = ("local", "ray")
# Cases that wait for each worker of a cluster, so that none is idle and the head does not hold all of them.
IN_FLIGHT = 4
FORKS = sys.platform == "linux"
# CPU seconds that a case may take, and more for every MiB of its files.
SECONDS, SECONDS_PER_MB = 120.0, 3.0
CRASHED = "a decoder crashed on it, or took too long"


@dataclass(frozen=True)
class CaseTask:
    """One case of one source."""

    reader: Reader
    case: Case


def process_cases(
    tasks: Sequence[CaseTask], options: BuildOptions, work: Path, workers: int = 1, engine: str = "local"
) -> Iterator[None]:
    """Process all cases, and yield once for each that is done.

    Args:
        tasks (`Sequence[CaseTask]`): The cases.
        options ([`BuildOptions`]): Options of the build.
        work (`Path`): The work folder; for `ray` every node must see it under the same path.
        workers (`int`, *optional*, defaults to 1): Processes of the local engine; Ray uses all CPUs of its cluster.
        engine (`str`, *optional*, defaults to `"local"`): One of `ENGINES`.

    Raises:
        `ValueError`: An unknown engine, or Ray is not installed.
    """
    if engine == "ray":
        yield from _on_ray(tasks, options, work)
    elif engine != "local":
        raise ValueError(f"engine {engine!r}: choose one of {', '.join(ENGINES)}")
    elif FORKS or (workers > 1 and len(tasks) > 1):
        yield from _in_processes(tasks, options, work, workers)
    else:
        for task in tasks:
            _process([task], options, work)
            yield None


def _process(tasks: Sequence[CaseTask], options: BuildOptions, work: Path) -> None:
    """Process cases. One that runs out of memory is recorded as unreadable; one that takes too long ends a worker."""
    for task in tasks:
        if FORKS:
            size = sum(stat.st_size for _, stat in task.reader.files(task.case))
            signal.setitimer(signal.ITIMER_PROF, SECONDS + SECONDS_PER_MB * size / 2**20)
        try:
            process_case(task.reader, task.case, options, work)
        except MemoryError:
            record_failure(task.reader, task.case, options, work, "not enough memory")
        finally:
            if FORKS:
                signal.setitimer(signal.ITIMER_PROF, 0)


def _in_processes(tasks: Sequence[CaseTask], options: BuildOptions, work: Path, workers: int) -> Iterator[None]:
    size = max(1, min(32, len(tasks) // (8 * workers)))
    waiting = [tasks[start : start + size] for start in range(0, len(tasks), size)][::-1]
    while waiting:
        with _pool(workers) as pool:
            running: dict[Future[None], Sequence[CaseTask]] = {}
            broken = False
            while running or (waiting and not broken):
                while waiting and not broken and len(running) < 2 * workers:
                    try:
                        running[pool.submit(_process, waiting[-1], options, work)] = waiting[-1]
                        waiting.pop()
                    except BrokenProcessPool:
                        broken = True
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    chunk = running.pop(done)
                    if isinstance(done.exception(), BrokenProcessPool):
                        broken = True
                        for task in chunk:
                            _process_alone(task, options, work)
                    else:
                        done.result()
                    yield from [None] * len(chunk)


def _process_alone(task: CaseTask, options: BuildOptions, work: Path) -> None:
    """Process a case of which it is not known whether it ended a process of several."""
    with _pool(1) as pool:
        try:
            pool.submit(_process, [task], options, work).result()
        except BrokenProcessPool:
            record_failure(task.reader, task.case, options, work, CRASHED)


def _pool(workers: int) -> ProcessPoolExecutor:
    # A fork has all imports already; elsewhere they take seconds per worker.
    return ProcessPoolExecutor(workers, mp_context=get_context("fork" if FORKS else "spawn"), initializer=_one_thread)


def _one_thread() -> None:
    """Limit the libraries of a worker to one thread, since workers share the machine."""
    os.environ.update(OMP_NUM_THREADS="1", ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS="1")


def _on_ray(tasks: Iterable[CaseTask], options: BuildOptions, work: Path) -> Iterator[None]:
    with ray_cluster() as ray:
        remote: Any = ray.remote(num_cpus=1, max_retries=3)(_process)
        room = IN_FLIGHT * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting: Iterator[Any] = iter(tasks)
        running = {remote.remote([task], options, work): task for task in islice(waiting, room)}
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            task = running.pop(done)
            try:
                ray.get(done)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                record_failure(task.reader, task.case, options, work, CRASHED)
            running |= {remote.remote([task], options, work): task for task in islice(waiting, 1)}
            yield None


__all__ = ["ENGINES", "CaseTask", "process_cases"]
