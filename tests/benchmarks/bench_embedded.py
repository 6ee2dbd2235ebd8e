"""Time to load the embedded checkpoint, and to ground the demo's images with it.

    python -m tests.benchmarks.bench_embedded [--rounds 5] [--threads 2] [--out docs/embedded.json]

Loading is timed in new processes, from the first import of the package on and from the call of `from_pretrained` on.
A image's time goes from its decoded pixels to its boxes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Any

from training.evaluate.tables import embedded_table


def load(threads: int) -> dict[str, float]:
    """Seconds for the imports and for `from_pretrained`, in a process that has imported nothing yet."""
    start = time.perf_counter()
    import torch

    from modeling_medglip import MedGlipForObjectDetection, MedGlipProcessor, default_checkpoint

    torch.set_num_threads(threads)
    imported = time.perf_counter()
    MedGlipForObjectDetection.from_pretrained(default_checkpoint())
    MedGlipProcessor.from_pretrained(default_checkpoint())
    return {"import": imported - start, "load": time.perf_counter() - imported}


def ground(threads: int, rounds: int) -> dict[str, list[float]]:
    """Demo image -> seconds of every round, after one that is not counted."""
    import torch

    from modeling_medglip import MedGlipForObjectDetection, MedGlipProcessor, default_checkpoint
    from modeling_medglip.demo.cases import demo_cases

    torch.set_num_threads(threads)
    model = MedGlipForObjectDetection.from_pretrained(default_checkpoint()).eval()
    processor = MedGlipProcessor.from_pretrained(default_checkpoint())
    images = {case.id: (case.load().pixels, case.prompt, case.modality) for case in demo_cases()}
    seconds: dict[str, list[float]] = {name: [] for name in images}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, (pixels, prompt, modality) in images.items():
                start = time.perf_counter()
                inputs = processor(pixels, prompt, modality=modality)
                processor.post_process_grounded_object_detection(
                    model(**inputs), inputs, target_sizes=[pixels.shape[:2]]
                )
                seconds[name].append(time.perf_counter() - start)
    return {name: times[1:] for name, times in seconds.items()}


def measure(rounds: int, threads: int) -> dict[str, Any]:
    """Median seconds of everything."""
    context = multiprocessing.get_context("spawn")
    loads = []
    for _ in range(rounds):
        with context.Pool(1) as pool:
            loads.append(pool.apply(load, (threads,)))
    with context.Pool(1) as pool:
        images = pool.apply(ground, (threads, rounds))
    return {
        "rounds": rounds,
        "threads": threads,
        "import_seconds": statistics.median(entry["import"] for entry in loads),
        "load_seconds": statistics.median(entry["load"] for entry in loads),
        "image_seconds": {name: statistics.median(times) for name, times in images.items()},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    options = parser.parse_args()
    results = measure(options.rounds, options.threads)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(embedded_table(results))


if __name__ == "__main__":
    main()
