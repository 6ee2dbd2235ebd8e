"""Where the time of an image goes at the GLIP-T size, as the model is trained and in its form for inference on CPUs.

    python -m tests.benchmarks.profile_grounding [--side 800] [--rounds 5] [--threads 1] [--out docs/profile.json]

Random weights, one square image, seven labels, text encoded in every round. The two forms take turns in one process,
under `torch.profiler`; of every part the median over the rounds counts. The page is written beside the JSON file.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from modeling_medglip import MedGlipConfig, MedGlipForObjectDetection, inference
from modeling_medglip import modeling_medglip as modeling
from modeling_medglip.inference import fast_form, keep_freed_memory
from modeling_medglip.outputs.files import write_text
from modeling_medglip.outputs.markdown import percent, table
from modeling_medglip.processing_medglip import MedGlipProcessor

from .bench_grounding import LABELS, PROMPT


SCHEMA = "medglip/profile@1"
COMMAND = "python -m tests.benchmarks.profile_grounding --out docs/profile.json"
TRAINED, FAST = "as it is trained", "form for CPUs"
SAMPLING = "deformable convolutions: sampling"
PRODUCTS = "deformable convolutions: products"
REST = "anchors, boxes, the rest"


def in_part(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does the same as part of the profile."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with record_function(f"part:{name}"):
            return function(*args, **kwargs)

    return run


def name_parts(model: MedGlipForObjectDetection) -> None:
    """Name the parts of a model with one expert; a module inside another one counts for itself."""
    expert = cast(Any, next(iter(model.model.experts.values())))
    modules: list[tuple[str, nn.Module]] = [
        ("text encoder", model.model.text_model),
        ("image encoder", expert.backbone),
        ("feature pyramid", expert.pyramid),
        ("alignment", expert.alignment),
    ]
    for block in expert.blocks:
        head = block.dynamic_conv
        modules += [("cross-attention", block.fusion), ("text layers", block.text_layer)]
        modules += [
            ("dynamic heads: norms, attention, activation", head),
            ("offsets of the convolutions", head.offset),
        ]
        modules += [(PRODUCTS, conv) for conv in (head.conv_coarse, head.conv_same, head.conv_fine)]
    for name, module in modules:
        module.forward = in_part(name, module.forward)


def part_milliseconds(profiler: Any) -> dict[str, float]:
    """Return the milliseconds of every part: those of all operators that run in it and in no part inside it."""
    parts: dict[str, float] = defaultdict(float)
    for event in profiler.events():
        if event.name.startswith("part:"):
            continue
        parent = event.cpu_parent
        while parent is not None and not parent.name.startswith("part:"):
            parent = parent.cpu_parent
        parts[parent.name.removeprefix("part:") if parent else REST] += event.self_cpu_time_total / 1000
    return dict(parts)


def measure(side: int, rounds: int, config: MedGlipConfig | None = None) -> dict[str, dict[str, float]]:
    """Return the median milliseconds of every part of both forms.

    Args:
        side (`int`): of the image in pixels.
        rounds (`int`): how often each form is measured.
        config ([`MedGlipConfig`], *optional*): of one expert; GLIP-T's size by default.
    """
    model = MedGlipForObjectDetection(config or MedGlipConfig.glip_t(("ct",))).eval()
    forms = {TRAINED: model, FAST: fast_form(model)}
    for form in forms.values():
        name_parts(form)
    sampling = in_part(SAMPLING, modeling.sample_taps)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in forms}
    with patch.object(modeling, "sample_taps", sampling), patch.object(inference, "sample_taps", sampling):
        for _ in range(rounds + 1):
            for name, form in forms.items():
                found[name].append(profiled(form, side))
    return {
        name: {part: median(one.get(part, 0.0) for one in times[1:]) for part in times[0]}
        for name, times in found.items()
    }


def profiled(model: MedGlipForObjectDetection, side: int) -> dict[str, float]:
    """Return the milliseconds of every part for one image."""
    pixels = torch.randn(1, 3, side, side)
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        ground(model, pixels)
    return part_milliseconds(profiler)


def ground(model: MedGlipForObjectDetection, pixels: torch.Tensor) -> Any:
    """Return the boxes of one image."""
    ids = torch.tensor([PROMPT])
    outputs = model(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids))
    label_tokens = torch.zeros(1, LABELS, len(PROMPT), dtype=torch.bool)
    for label in range(LABELS):
        label_tokens[0, label, 1 + 2 * label] = True
    inputs = {"label_tokens": label_tokens, "text_labels": [[f"label {label}" for label in range(LABELS)]]}
    post_process = in_part("post-processing", MedGlipProcessor.post_process_grounded_object_detection)
    return post_process(cast(Any, None), outputs, inputs, threshold=0.3)


def page(found: Mapping[str, Any]) -> str:
    """Return the page in Markdown."""
    forms = found["milliseconds"]
    trained, fast = forms[TRAINED], forms[FAST]
    totals = {name: sum(parts.values()) for name, parts in forms.items()}
    rows = [
        [part, f"{trained[part]:.0f}", percent(trained[part] / totals[TRAINED]),
         f"{fast.get(part, 0.0):.0f}", percent(fast.get(part, 0.0) / totals[FAST])]
        for part in sorted(trained, key=lambda part: -trained[part])
    ]  # fmt: skip
    rows.append(["all", f"{totals[TRAINED]:.0f}", percent(1.0), f"{totals[FAST]:.0f}", percent(1.0)])
    side = found["side"]
    return (
        "# Where the time of the full-size model goes\n\n"
        f"Made by `{COMMAND}`: Swin-T, BERT-base, six fusion blocks, random weights,\n"
        f"one image of {side} x {side} pixels, seven labels, the prompt encoded for every image, on a processor "
        f"without accelerator.\nThreads: {found['threads']}. Milliseconds of the operators of each part under "
        f"`torch.profiler`, medians of {found['rounds']} rounds in which the two forms take turns.\n"
        "`load_grounder` runs the form for CPUs on machines without an accelerator; its outputs differ from the "
        "model's by rounding alone.\n\n" + table(["part", f"{TRAINED}, ms", "%", f"{FAST}, ms", "%"], rows)
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file; the same as Markdown is written beside it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    sizes = {"side": options.side, "rounds": options.rounds, "threads": options.threads}
    found = {"schema": SCHEMA, **sizes, "milliseconds": measure(options.side, options.rounds)}
    if options.out:
        write_text(options.out, json.dumps(found, indent=1) + "\n")
        write_text(options.out.with_suffix(".md"), page(found))
    print(page(found), end="")


if __name__ == "__main__":
    main()
