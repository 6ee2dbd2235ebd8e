# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Where cases are processed: in this process, in several, or on a Ray cluster. The outcome is the same."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from modeling_medglip.errors import install_hint

from .process import Options, process_case
from .readers import Reader
from .records import Case


ENGINES = ("local", "ray")
# Cases that each worker of a cluster has waiting, so that none is idle and the head does not hold all of them.
IN_FLIGHT = 4


@dataclass(frozen=True)
class Job:
    """One case of one source."""

    reader: Reader
    case: Case


def run(jobs: Sequence[Job], options: Options, work: Path, workers: int = 1, engine: str = "local") -> Iterator[None]:
    """Process all cases; yields once for each that is done.

    Args:
        jobs, options: what to do. work: the work folder; for `ray` every node must see it under the same path.
        workers: processes of the local engine; of Ray's cluster all CPUs are used.

    Raises:
        `ValueError`: another engine, or Ray is not installed.
    """
    if engine == "ray":
        yield from _on_ray(jobs, options, work)
    elif engine != "local":
        raise ValueError(f"engine {engine!r}: choose one of {', '.join(ENGINES)}")
    elif workers < 2 or len(jobs) < 2:
        for job in jobs:
            _process(job, options, work)
            yield None
    else:
        yield from _in_processes(jobs, options, work, workers)


def _process(job: Job, options: Options, work: Path) -> None:
    process_case(job.reader, job.case, options, work)


def _in_processes(jobs: Sequence[Job], options: Options, work: Path, workers: int) -> Iterator[None]:
    # A fork has all imports already; elsewhere they take seconds per worker.
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    chunk = max(1, min(32, len(jobs) // (8 * workers)))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        yield from pool.map(_process, jobs, [options] * len(jobs), [work] * len(jobs), chunksize=chunk)


def _one_thread() -> None:
    """Workers share the machine: none of them starts threads of its own."""
    os.environ.update(OMP_NUM_THREADS="1", ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS="1")


def _on_ray(jobs: Iterable[Job], options: Options, work: Path) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise ValueError(f"--engine ray needs Ray: {install_hint('scale')}") from None
    if not ray.is_initialized():
        ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    remote = ray.remote(num_cpus=1, max_retries=3)(_process)
    room = IN_FLIGHT * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting: Iterator[Any] = iter(jobs)
    running = [remote.remote(job, options, work) for job in islice(waiting, room)]
    while running:
        done, running = ray.wait(running, num_returns=1)
        ray.get(done)
        running += [remote.remote(job, options, work) for job in islice(waiting, 1)]
        yield None


__all__ = ["ENGINES", "Job", "run"]
