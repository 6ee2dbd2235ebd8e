"""Ground demo images for `bench_speed`: names on stdin, seconds on stdout, at the end the peak memory in bytes.

    python ground_worker.py MODEL MODALITY THREADS

It uses nothing but what every version of the package has, so that PYTHONPATH chooses which one is timed. Linux only:
elsewhere the peak memory has another unit.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from typing import Any


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not reach the answers
    import torch

    from modeling_medglip import ground_image, load_grounder
    from modeling_medglip.demo.cases import demo_cases

    model, modality, threads = sys.argv[1:4]
    torch.set_num_threads(int(threads))
    with contextlib.suppress(ImportError):  # as the command line does
        from modeling_medglip.inference import keep_freed_memory

        keep_freed_memory()
    options: dict[str, Any] = {"compile": True} if model == "compiled" else {}
    grounder = load_grounder(None if model in ("embedded", "compiled") else model, "cpu", modality, **options)
    cases = {case.id: (case.load(), case.prompt, case.modality) for case in demo_cases()}
    for line in sys.stdin:
        image, prompt, modality = cases[line.strip()]
        start = time.perf_counter()
        ground_image(image, prompt, modality, model=grounder)
        print(time.perf_counter() - start, file=answers, flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=answers, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
