# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""`python -m tests.fuzz --minutes 1`: damage inputs, read them, print what happened. Exit status 1 on any fault."""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from modeling_medglip.isolation.process import FileReader

from .server import (
    BATCH,
    CONTAINED,
    CRASH,
    EXCEPTION,
    FAULTS,
    HANG,
    MEMORY,
    REFUSED,
    SOUND,
    Tally,
    contain,
    run,
    write_input,
)  # fmt: skip
from .targets import TARGETS, Target, load_modules


COLUMNS = (SOUND, REFUSED, CONTAINED, EXCEPTION, CRASH, HANG, MEMORY)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the harness and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: %(default)s)")
    parser.add_argument("--inputs", type=int, help="stop after this many inputs instead")
    parser.add_argument("--seed", type=int, default=0, help="other inputs for another seed (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: %(default)s)")
    parser.add_argument("--target", action="append", choices=[target.name for target in TARGETS], help="only these")
    parser.add_argument("--replay", metavar="TARGET:NUMBER", help="read one input in this process, with its traceback")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="folder for inputs with faults and counts")
    options = parser.parse_args(argv)
    if options.replay:
        return replay(options.replay, options.seed, options.out)
    targets = [target for target in TARGETS if not options.target or target.name in options.target]
    load_modules(targets)
    start = time.monotonic()

    def goes_on(tally: Tally) -> bool:
        if options.inputs is not None:
            return sum(tally.counts.values()) < options.inputs
        return time.monotonic() - start < 60 * options.minutes

    scratch = Path(tempfile.mkdtemp(prefix="medglip-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        tally = run(batches(targets), options.seed, scratch, options.jobs, goes_on)
        contain(tally, targets, options.seed, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return report(tally, targets, options.seed, time.monotonic() - start, options.out)


def batches(targets: Sequence[Target]) -> Iterator[tuple[Target, range]]:
    """Batches of all targets in turn, without end."""
    for start in itertools.count(0, BATCH):
        for target in targets:
            yield target, range(start, start + BATCH)


def report(tally: Tally, targets: Sequence[Target], seed: int, seconds: float, out: Path) -> int:
    """Print the table and the faults, write both and the inputs that showed them; the exit status."""
    print(f"{'target':16}" + "".join(f"{name:>11}" for name in COLUMNS))
    for target in targets:
        print(f"{target.name:16}" + "".join(f"{tally.count(target.name, kind):11}" for kind in COLUMNS))
    by_name = {target.name: target for target in targets}
    shown: set[tuple[str, str]] = set()
    for fault in tally.faults:
        folder = out / fault.kind / f"{fault.target}-{seed}-{fault.number}"
        write_input(by_name[fault.target].input(seed, fault.number), folder)
        location = fault.detail.split(" ", 2)[:2]
        if (fault.target, str(location)) not in shown:
            print(f"{fault.kind}: {fault.target}:{fault.number} {fault.detail}")
        shown.add((fault.target, str(location)))
    counts = {target.name: {kind: tally.count(target.name, kind) for kind in COLUMNS} for target in targets}
    content = {"seed": seed, "seconds": round(seconds), "inputs": sum(tally.counts.values()), "counts": counts}
    out.mkdir(parents=True, exist_ok=True)
    (out / "counts.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{content['inputs']} inputs in {seconds:.0f} s, {len(tally.faults)} faults; inputs with faults in {out}")
    return 1 if any(tally.count(target.name, kind) for target in targets for kind in FAULTS) else 0


def replay(name: str, seed: int, out: Path) -> int:
    """Read one input again, in this process."""
    target_name, _, number = name.rpartition(":")
    (target,) = [target for target in TARGETS if target.name == target_name]
    folder = out / "replay"
    files = target.input(seed, int(number))
    write_input(files, folder)
    print(f"input in {folder}", flush=True)
    try:
        target.read(folder, FileReader())
    except target.errors as error:
        print(f"refused: {error}")
        return 0
    print("read")
    return 0


__all__ = ["main"]


if __name__ == "__main__":
    sys.exit(main())
