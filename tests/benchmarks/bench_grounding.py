"""Time and memory of MedGLIP at the GLIP-T size beside two open-vocabulary detectors of transformers.

    python -m tests.benchmarks.bench_grounding [--rounds 5] [--threads 2] [--out docs/benchmark.json]
    python -m tests.benchmarks.bench_grounding --device cuda [--variants float32 bfloat16 compiled]

Random weights, one 512x512 image (OmDet-Turbo takes its own 640x640), seven labels, text encoded in every round.
On a CPU MedGLIP runs in its form for inference, as `load_grounder` runs it, and once as it is trained. Each network
lives in a process of its own and they take turns, so that a busy machine slows all of them alike: read the ratios.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from training.evaluate.tables import BASELINE, benchmark_table


LABELS = 7
# [CLS], then "word ." seven times, [SEP]: what a BERT tokenizer makes of seven one-word labels.
PROMPT = [101, *(token for label in range(LABELS) for token in (2000 + label, 1012)), 102]
SIDE, OMDET_SIDE = 512, 640
OURS, OMDET = "MedGLIP (GLIP-T size)", "OmDet-Turbo tiny (640 px)"
AS_TRAINED = f"{OURS}, as it is trained"
VARIANTS = ("float32", "bfloat16", "compiled")


@dataclass(frozen=True)
class Setting:
    """How the networks run.

    Args:
        device (`str`): for example `"cuda"`.
        side (`int`): of the image in pixels.
    """

    device: str = "cpu"
    side: int = SIDE


def image_and_prompt(setting: Setting) -> dict[str, Any]:
    """Return the inputs of MedGLIP and Grounding DINO."""
    import torch

    ids = torch.tensor([PROMPT], device=setting.device)
    pixels = torch.randn(1, 3, setting.side, setting.side, device=setting.device)
    return {"pixel_values": pixels, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


def prepared(model: Any, setting: Setting, variant: str) -> Any:
    """Return a model on its device, in bfloat16 or compiled where the variant says so."""
    import torch

    model = model.to(setting.device, torch.bfloat16 if variant == "bfloat16" else torch.float32)
    return torch.compile(model) if variant == "compiled" else model


def medglip(setting: Setting, variant: str, fast: bool = True) -> Callable[[], Any]:
    """MedGLIP: Swin-T, BERT-base, six fusion blocks."""
    from modeling_medglip import MedGlipConfig, MedGlipForObjectDetection
    from modeling_medglip.inference import fast_form

    model = MedGlipForObjectDetection(MedGlipConfig.glip_t(("ct",))).eval()
    # The form for CPUs calls oneDNN itself, which leaves a compiler nothing to fuse.
    form = fast_form(model) if fast and setting.device == "cpu" and variant == "float32" else model
    form, inputs = prepared(form, setting, variant), image_and_prompt(setting)
    return lambda: form(**inputs)


def grounding_dino(setting: Setting, variant: str) -> Callable[[], Any]:
    """Grounding DINO tiny: Swin-T, BERT-base, its default configuration."""
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    backbone = SwinConfig(
        image_size=224, embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7,
        out_indices=[2, 3, 4],
    )  # fmt: skip
    model = GroundingDinoForObjectDetection(GroundingDinoConfig(backbone_config=backbone)).eval()
    model, inputs = prepared(model, setting, variant), image_and_prompt(setting)
    inputs["pixel_values"] = inputs["pixel_values"].to(next(model.parameters()).dtype)
    return lambda: model(**inputs)


def omdet_turbo(setting: Setting, variant: str) -> Callable[[], Any]:
    """OmDet-Turbo tiny at its own image size."""
    import torch
    from transformers import OmDetTurboConfig, OmDetTurboForObjectDetection

    config = OmDetTurboConfig()
    config.cache_size = 1
    model = prepared(OmDetTurboForObjectDetection(config).eval(), setting, variant)
    words = torch.tensor([[49406, 2000 + label, 49407] for label in range(LABELS)], device=setting.device)
    task = torch.tensor([[49406, *range(2000, 2000 + LABELS), 49407]], device=setting.device)

    def run() -> Any:
        model.language_cache_class.clear() if hasattr(model.language_cache_class, "clear") else None
        return model(
            pixel_values=torch.randn(1, 3, OMDET_SIDE, OMDET_SIDE, device=setting.device),
            classes_input_ids=words,
            classes_attention_mask=torch.ones_like(words),
            tasks_input_ids=task,
            tasks_attention_mask=torch.ones_like(task),
            classes_structure=torch.tensor([LABELS], device=setting.device),
        )

    return run


NETWORKS: dict[str, Callable[[Setting, str], Callable[[], Any]]] = {
    OURS: medglip,
    BASELINE: grounding_dino,
    OMDET: omdet_turbo,
    AS_TRAINED: functools.partial(medglip, fast=False),
}


def network_names(device: str, variants: Sequence[str]) -> list[str]:
    """Return what takes turns: every network, and the first two in every other variant too."""
    names = [name for name in NETWORKS if name != AS_TRAINED or device == "cpu"]
    return names + [f"{name}, {variant}" for variant in variants[1:] for name in (OURS, BASELINE)]


def serve(name: str, threads: int, connection: Connection, setting: Setting = Setting()) -> None:
    """Run one network once per message, in a process of its own, and answer with seconds and peak memory in bytes."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    base, _, variant = (name, "", VARIANTS[0]) if name in NETWORKS else name.rpartition(", ")
    run = NETWORKS[base](setting, variant)
    accelerator = None if setting.device == "cpu" else torch.accelerator
    with torch.inference_mode():
        run()
        connection.send("ready")
        while connection.recv() == "go":
            start = time.perf_counter()
            run()
            if accelerator is not None:
                accelerator.synchronize()
            connection.send((time.perf_counter() - start, peak_bytes(setting.device)))


def peak_bytes(device: str) -> int:
    """Return the peak memory of this process on its device."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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


def parse(about: str, rounds: int) -> argparse.ArgumentParser:
    """Return the options that all benchmarks have in which networks take turns."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    return parser


def report(options: argparse.Namespace, results: dict[str, dict[str, Any]], **context: Any) -> None:
    """Write the measurements where they are asked for, and print their table."""
    if options.out:
        known = {"rounds": options.rounds, "threads": options.threads, "machine": platform.machine()}
        options.out.write_text(json.dumps({**known, **context, "networks": results}, indent=1) + "\n")
    print(benchmark_table({"networks": results}))


def run(about: str, names: Sequence[str], serve: Callable[[str, int, Connection], None], rounds: int) -> None:
    """The command line of a benchmark in which networks take turns; see [`take_turns`]."""
    options = parse(about, rounds).parse_args()
    report(options, take_turns(names, serve, options.rounds, options.threads))


def main() -> None:
    """Command line."""
    parser = parse(__doc__ or "", rounds=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, default=SIDE, help="of the image in pixels")
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, help="float32 on a CPU; on an accelerator bfloat16 and compiled too"
    )
    options = parser.parse_args()
    variants = options.variants or (VARIANTS[:1] if options.device == "cpu" else VARIANTS)
    names = network_names(options.device, list(dict.fromkeys([VARIANTS[0], *variants])))
    setting = Setting(options.device, options.side)
    results = take_turns(names, functools.partial(serve, setting=setting), options.rounds, options.threads)
    report(options, results, device=options.device, side=options.side)


if __name__ == "__main__":
    main()
