"""Time and memory of MedGLIP at the GLIP-T size beside two open-vocabulary detectors of transformers.

    python -m tests.benchmarks.bench_grounding [--rounds 5] [--threads 2] [--out docs/benchmark.json]

Random weights, one 512x512 image (OmDet-Turbo takes its own 640x640), seven labels, text encoded in every round.
Each network lives in a process of its own and they take turns, so that a busy machine slows all of them alike: read
the ratios.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from training.evaluate.tables import benchmark_table


LABELS = 7
# [CLS], then "word ." seven times, [SEP]: what a BERT tokenizer makes of seven one-word labels.
PROMPT = [101, *(token for label in range(LABELS) for token in (2000 + label, 1012)), 102]
SIDE, OMDET_SIDE = 512, 640


def medglip() -> Callable[[], Any]:
    """MedGLIP: Swin-T, BERT-base, six fusion blocks."""
    import torch

    from modeling_medglip import MedGlipConfig, MedGlipForObjectDetection

    model = MedGlipForObjectDetection(MedGlipConfig.glip_t(("ct",))).eval()
    inputs = {"pixel_values": torch.randn(1, 3, SIDE, SIDE), "input_ids": torch.tensor([PROMPT])}
    return lambda: model(**inputs, attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long))


def grounding_dino() -> Callable[[], Any]:
    """Grounding DINO tiny: Swin-T, BERT-base, its default configuration."""
    import torch
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    backbone = SwinConfig(
        image_size=224, embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7,
        out_indices=[2, 3, 4],
    )  # fmt: skip
    model = GroundingDinoForObjectDetection(GroundingDinoConfig(backbone_config=backbone)).eval()
    inputs = {"pixel_values": torch.randn(1, 3, SIDE, SIDE), "input_ids": torch.tensor([PROMPT])}
    return lambda: model(**inputs, attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long))


def omdet_turbo() -> Callable[[], Any]:
    """OmDet-Turbo tiny at its own image size."""
    import torch
    from transformers import OmDetTurboConfig, OmDetTurboForObjectDetection

    config = OmDetTurboConfig()
    config.cache_size = 1
    model = OmDetTurboForObjectDetection(config).eval()
    words = torch.tensor([[49406, 2000 + label, 49407] for label in range(LABELS)])
    task = torch.tensor([[49406, *range(2000, 2000 + LABELS), 49407]])

    def run() -> Any:
        model.language_cache_class.clear() if hasattr(model.language_cache_class, "clear") else None
        return model(
            pixel_values=torch.randn(1, 3, OMDET_SIDE, OMDET_SIDE),
            classes_input_ids=words,
            classes_attention_mask=torch.ones_like(words),
            tasks_input_ids=task,
            tasks_attention_mask=torch.ones_like(task),
            classes_structure=torch.tensor([LABELS]),
        )

    return run


NETWORKS: dict[str, Callable[[], Callable[[], Any]]] = {
    "MedGLIP (GLIP-T size)": medglip,
    "Grounding DINO tiny": grounding_dino,
    "OmDet-Turbo tiny (640 px)": omdet_turbo,
}


def serve(name: str, threads: int, connection: Connection) -> None:
    """A process with one network: runs it once per message and answers with seconds and peak memory in bytes."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    run = NETWORKS[name]()
    with torch.inference_mode():
        run()
        connection.send("ready")
        while connection.recv() == "go":
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
            connection.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def take_turns(
    names: Sequence[str], serve: Callable[[str, int, Connection], None], rounds: int, threads: int
) -> dict[str, dict[str, Any]]:
    """Seconds of every round and peak memory of every network, the networks taking turns.

    Args:
        serve: what a process of its own does for one of the names; see [`serve`].
    """
    context = multiprocessing.get_context("spawn")
    workers = {}
    for name in names:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(name, threads, theirs), daemon=True)
        process.start()
        ours.recv()
        workers[name] = (ours, process)
    results: dict[str, dict[str, Any]] = {name: {"seconds": [], "peak_bytes": 0} for name in names}
    for _ in range(rounds):
        for name, (connection, _process) in workers.items():
            connection.send("go")
            seconds, peak = connection.recv()
            results[name]["seconds"].append(seconds)
            results[name]["peak_bytes"] = peak
    for connection, process in workers.values():
        connection.send("stop")
        process.join()
    return results


def run(about: str, names: Sequence[str], serve: Callable[[str, int, Connection], None], rounds: int) -> None:
    """The command line of a benchmark in which networks take turns; see [`take_turns`]."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    options = parser.parse_args()
    results = take_turns(names, serve, options.rounds, options.threads)
    if options.out:
        context = {"rounds": options.rounds, "threads": options.threads, "machine": platform.machine()}
        options.out.write_text(json.dumps({**context, "networks": results}, indent=1) + "\n")
    print(benchmark_table({"networks": results}))


if __name__ == "__main__":
    run(__doc__ or "", list(NETWORKS), serve, rounds=5)
