"""Time per image of the embedded experts, before and after: as it is, compiled, exported, in eight bits.

    git worktree add --detach out/before COMMIT
    python -m tests.benchmarks.bench_speed --before out/before --exported out/exported [--out docs/speed.json]

Every variant is a process of its own; they answer one after the other, round by round, so that a busy machine slows
all of them alike. A time goes from the decoded pixels of a demo image to its boxes. The prompt is the same in every
round, as it is for a folder of images. `training.studies.inference_forms` makes the exported folders.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from modeling_medglip.demo.cases import demo_cases
from modeling_medglip.modalities import MODALITIES
from modeling_medglip.outputs.files import write_text
from training.studies.speed_page import EAGER, times_table


SCHEMA = "medglip/speed@1"
ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("ground_worker.py")
# Images that a process grounds before the next one has its turn; the second half counts.
BURST = 6
BEFORE = "before"


class Worker:
    """A process that grounds demo images."""

    def __init__(self, model: str, modality: str, threads: int, root: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, str(WORKER), model, modality, str(threads)]
        self.process: Any = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
        )

    def ground(self, case: str) -> float:
        """Seconds for one image."""
        self.process.stdin.write(case + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def peak(self) -> int:
        """Peak memory in bytes; the process ends."""
        self.process.stdin.close()
        return int(self.process.stdout.readline())

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()


def measure_modality(
    variants: dict[str, tuple[str, Path]], modality: str, cases: Sequence[str], rounds: int, threads: int
) -> Any:
    """Seconds per image and peak memory of every variant."""
    workers = {name: Worker(model, modality, threads, root) for name, (model, root) in variants.items()}
    try:
        return _measured(workers, cases, rounds)
    finally:
        for worker in workers.values():
            worker.end()


def _measured(workers: dict[str, Worker], cases: Sequence[str], rounds: int) -> dict[str, Any]:
    seconds: dict[str, dict[str, list[float]]] = {name: {case: [] for case in cases} for name in workers}
    for index in range(rounds + 1):
        for case in cases:
            for name, worker in workers.items():
                taken = [worker.ground(case) for _ in range(BURST)][BURST // 2 :]
                if index:
                    seconds[name][case] += taken
    return {
        name: {
            "seconds": {case: median(times) for case, times in seconds[name].items()},
            "peak_bytes": worker.peak(),
        }
        for name, worker in workers.items()
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All modalities that are asked for."""
    found: dict[str, Any] = {"schema": SCHEMA, "rounds": options.rounds, "threads": options.threads, "modalities": {}}
    for modality in options.modality:
        cases = [case.id for case in demo_cases() if case.modality == modality]
        variants = {BEFORE: ("embedded", options.before)} if options.before else {}
        variants |= {EAGER: ("embedded", ROOT)}
        variants |= {"compiled": ("compiled", ROOT)} if options.compiled else {}
        folders = sorted((options.exported / modality).glob("*")) if options.exported else []
        variants |= {folder.name: (str(folder), ROOT) for folder in folders}
        found["modalities"][modality] = measure_modality(variants, modality, cases, options.rounds, options.threads)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=lambda name: Path(name).absolute(), help="checkout of an earlier commit")
    parser.add_argument("--modality", nargs="+", choices=MODALITIES, default=list(MODALITIES))
    parser.add_argument("--exported", type=lambda name: Path(name).absolute(), help="folder of exported folders")
    parser.add_argument("--compiled", action="store_true", help="also with torch.compile, which needs a C++ compiler")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    options = parser.parse_args()
    found = measure(options)
    if options.out:
        write_text(options.out, json.dumps(found, indent=1) + "\n")
    print(times_table(found))


if __name__ == "__main__":
    main()
