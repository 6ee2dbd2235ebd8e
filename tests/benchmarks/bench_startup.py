"""Time to import the package, to load the embedded checkpoint, and of commands as processes.

    python -m tests.benchmarks.bench_startup [--rounds 5] [--threads 2] [--out docs/startup.json]

Everything is timed in new processes, which take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from modeling_medglip.demo.cases import demo_cases
from training.studies.speed_page import startup_table


# Each prints the seconds of its steps.
IMPORTS = """
import time
start = time.perf_counter()
import torch
first = time.perf_counter()
import modeling_medglip
second = time.perf_counter()
modeling_medglip.load_grounder, modeling_medglip.ground_image
print(first - start, second - first, time.perf_counter() - second)
"""
LOADING = """
import time
from modeling_medglip import MedGlipForObjectDetection, MedGlipProcessor, default_checkpoint
start = time.perf_counter()
MedGlipForObjectDetection.from_pretrained(default_checkpoint())
MedGlipProcessor.from_pretrained(default_checkpoint())
print(time.perf_counter() - start)
"""
STEPS = {
    IMPORTS: ("import torch", "import modeling_medglip after it", "import what it needs to ground, when that is used"),
    LOADING: ("load all experts and the processor",),
}


def run(words: list[str], threads: int) -> tuple[float, str]:
    """Seconds of a process, and what it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, check=False)
    if done.returncode not in (0, 2):  # 2 is a usage error, which is timed too
        raise RuntimeError(done.stderr[-500:])
    return time.perf_counter() - start, done.stdout


def commands(folder: Path) -> dict[str, list[str]]:
    """What a user types -> words."""
    case = next(case for case in demo_cases() if case.modality == "xray")
    Image.fromarray(case.load().pixels).save(folder / "small.png")
    ground = ["ground", str(folder / "small.png"), "--prompt", "lung.", "--modality", "xray", "--out", str(folder)]
    return {
        "medglip --version": ["--version"],
        "medglip --help": ["--help"],
        "medglip ground, without a prompt": ["ground", "small.png"],
        "medglip ground, one small PNG": ground,
    }


def measure(rounds: int, threads: int) -> dict[str, Any]:
    """Median seconds of everything."""
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for _ in range(rounds):
            for code, steps in STEPS.items():
                printed = run(["-c", code], threads)[1].split()
                for step, value in zip(steps, printed[-len(steps) :], strict=True):
                    seconds.setdefault(step, []).append(float(value))
            for typed, words in commands(Path(name)).items():
                seconds.setdefault(typed, []).append(run(["-m", "modeling_medglip.cli", *words], threads)[0])
    return {"rounds": rounds, "threads": threads, "seconds": {step: median(times) for step, times in seconds.items()}}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    options = parser.parse_args()
    results = measure(options.rounds, options.threads)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(startup_table(results))


if __name__ == "__main__":
    main()
