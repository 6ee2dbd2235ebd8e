# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Runs readers on damaged inputs in forked processes, so that a crash, a hang or an overrun costs one input."""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modeling_medglip.isolation.process import FileReader, ReaderProcess

from .corpus import Files
from .targets import Target


SECONDS = 10.0
MEGABYTES = 2048
BATCH = 200
ROOT = Path(__file__).resolve().parents[2]
SOUND, REFUSED, CONTAINED = "sound", "refused", "contained"
EXCEPTION, CRASH, HANG, MEMORY = "exception", "crash", "hang", "memory"
FAULTS = (EXCEPTION, CRASH, HANG, MEMORY)


@dataclass(frozen=True)
class Outcome:
    """What became of one input: `kind` as above; `detail` names the exception and the line that raised it."""

    target: str
    number: int
    kind: str
    detail: str = ""


@dataclass
class Tally:
    """Counts by target and kind, and the inputs that showed a fault."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self.counts[outcome.target, outcome.kind] += 1
        if outcome.kind in FAULTS:
            self.faults.append(outcome)

    def replace(self, fault: Outcome, kind: str) -> None:
        """Count a fault as something else."""
        self.faults.remove(fault)
        self.counts[fault.target, fault.kind] -= 1
        self.counts[fault.target, kind] += 1

    def count(self, target: str, kind: str) -> int:
        """How many inputs of a target had an outcome of a kind."""
        return self.counts[target, kind]


class Batch:
    """A forked process that works through some inputs of a target and reports each over a pipe."""

    def __init__(self, target: Target, seed: int, numbers: range, scratch: Path) -> None:
        self.target, self.seed, self.numbers, self.current = target, seed, numbers, numbers.start
        self.folder = scratch / f"{target.name}-{numbers.start}"
        self.pending = b""
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(read)
            try:
                _serve(target, seed, numbers, self.folder, write)
            finally:  # a fault of the harness itself must not run the parent's code twice
                os._exit(4)
        os.close(write)
        self.pipe = read
        self.deadline = time.monotonic() + SECONDS

    @property
    def rest(self) -> range:
        """The numbers after the one that ended the process."""
        return range(self.current + 1, self.numbers.stop)

    def outcomes(self) -> Iterator[Outcome]:
        """Read the reports that have arrived."""
        data = os.read(self.pipe, 65536)
        if data:
            self.deadline = time.monotonic() + SECONDS
        *lines, self.pending = (self.pending + data).split(b"\n")
        for line in lines:
            number, kind, detail = line.decode("utf-8", "replace").split("\t", 2)
            if kind == "start":
                self.current = int(number)
            else:
                yield Outcome(self.target.name, int(number), kind, detail)
        if not data:
            self.deadline = -1.0

    def end(self, late: bool) -> Outcome | None:
        """Collect the process; what ended it before its time, if anything."""
        if late:
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pipe)
        shutil.rmtree(self.folder, ignore_errors=True)
        if late:
            return Outcome(self.target.name, self.current, HANG, f"over {SECONDS:g} s")
        if os.WIFSIGNALED(status):
            return Outcome(self.target.name, self.current, CRASH, signal.Signals(os.WTERMSIG(status)).name)
        code = os.waitstatus_to_exitcode(status)
        return Outcome(self.target.name, self.current, CRASH, f"exit status {code}") if code else None


def _serve(target: Target, seed: int, numbers: range, folder: Path, pipe: int) -> None:
    """In the forked process: read every input, then leave without running the parent's clean-up."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What is mapped already, libraries mostly, does not count.
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEGABYTES * 2**20,) * 2)
    sys.setrecursionlimit(1000)
    status = 0
    for number in numbers:
        os.write(pipe, f"{number}\tstart\t\n".encode())
        kind, detail = read_once(target, target.input(seed, number), folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        if peak > MEGABYTES:
            kind, detail = MEMORY, f"{peak} MB"
        os.write(pipe, f"{number}\t{kind}\t{detail}\n".encode("utf-8", "replace"))
        if peak > MEGABYTES:  # the peak stays: the next input needs a new process
            status = 3
            break
    os._exit(status)


def read_once(target: Target, files: Files, folder: Path, reader: FileReader | None = None) -> tuple[str, str]:
    """Write one input and read it; what became of it, and the exception if it was none of the documented ones."""
    write_input(files, folder)
    try:
        target.read(folder, reader or FileReader())
        return SOUND, ""
    except target.errors:
        return REFUSED, ""
    except MemoryError as error:
        return MEMORY, _where(error)
    except BaseException as error:  # whatever else comes out is a fault
        return EXCEPTION, _where(error)


def write_input(files: Files, folder: Path) -> None:
    """Write the files of one input into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _where(error: BaseException) -> str:
    """Type of an exception and the last line of this repository that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if frame.filename.startswith(str(ROOT)) and "/.venv/" not in frame.filename]
    frames = [frame for frame in frames if "/tests/fuzz/" not in frame.filename] or frames
    location = f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} {location} {' '.join(str(error).split())[:100]}"


def run(
    work: Iterator[tuple[Target, range]], seed: int, scratch: Path, jobs: int, goes_on: Callable[[Tally], bool]
) -> Tally:
    """Work through batches in `jobs` processes at a time, as long as `goes_on` says so."""
    tally, running = Tally(), dict[int, Batch]()
    while True:
        while len(running) < jobs and goes_on(tally) and (item := next(work, None)) is not None:
            batch = Batch(item[0], seed, item[1], scratch)
            running[batch.pipe] = batch
        if not running:
            return tally
        ready, _, _ = select.select(list(running), [], [], 0.5)
        for pipe in ready:
            for outcome in running[pipe].outcomes():
                tally.add(outcome)
        for pipe, batch in list(running.items()):
            ended, late = batch.deadline < 0, 0 < batch.deadline < time.monotonic()
            if not (ended or late):
                continue
            del running[pipe]
            fault = batch.end(late)
            if fault is None:
                continue
            if fault.kind != CRASH or not fault.detail.startswith("exit status 3"):
                tally.add(fault)
            if batch.rest and goes_on(tally):
                again = Batch(batch.target, seed, batch.rest, scratch)
                running[again.pipe] = again


def contain(tally: Tally, targets: Sequence[Target], seed: int, scratch: Path) -> None:
    """Read what ended, occupied or filled a process again as the package does, in a worker process.

    An error of the documented kind there is right: the input cost nothing but itself.
    """
    decoders = {target.name: target for target in targets if target.decodes}
    with ReaderProcess() as reader:
        for fault in [fault for fault in tally.faults if fault.kind != EXCEPTION and fault.target in decoders]:
            target = decoders[fault.target]
            kind, _ = read_once(target, target.input(seed, fault.number), scratch / "contained", reader)
            if kind in (SOUND, REFUSED):
                tally.replace(fault, CONTAINED)
