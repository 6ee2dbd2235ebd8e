# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What the full-size training would cost: operations and memory of a step are measured, hours are worked out.

    python -m training.studies.estimate --size 800 --batch 5 --epochs 30 --processes 8 --out docs/full_size.json

One training step with one image is made on this machine, at the GLIP-T size with random weights or with `--model`.
Its operations (multiplications and additions of all matrix products and convolutions, forward and backward) do not
depend on the machine; how many a card does per second does. The table therefore gives hours for several speeds, and
the speed that was measured here.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_medglip import MedGlipConfig, MedGlipForObjectDetection
from modeling_medglip.cli.scripts import script_main
from modeling_medglip.outputs.files import write_text
from modeling_medglip.outputs.markdown import table

from ..data.validation import check_options
from ..loading import load_model_and_processor
from ..old_names import ESTIMATE_OPTIONS, new_options


SCHEMA = "medglip/full_size@1"
# The images of the paper's data set, all modalities together (its abstract), and labels of a prompt as it has them.
PAPER_IMAGES = 2_720_979
LABELS = 7
# Tera-operations per second and card for which hours are given.
SPEEDS = (5.0, 10.0, 20.0, 40.0)
# Bytes per trained number: weight, gradient, and Adam's two moments, all float32.
STATE_BYTES = 16


@dataclass(frozen=True)
class StepCost:
    """One training step with one image.

    Args:
        parameters (`int`): trained numbers.
        operations (`int`): forward and backward.
        activation_bytes (`int`): stored for the backward pass, in float32.
        recomputed_bytes (`int`): the same with activation checkpointing.
        seconds (`float`): on this machine.
        device (`str`): what it ran on.
    """

    parameters: int
    operations: int
    activation_bytes: int
    recomputed_bytes: int
    seconds: float
    device: str


def example(model: MedGlipForObjectDetection, size: int, device: str) -> dict[str, Any]:
    """Return a batch of one random image with `LABELS` labels, three of them with a box.

    Args:
        model (`MedGlipForObjectDetection`): its vocabulary and modality are used.
        size (`int`): side of the image in pixels.
        device (`str`): of the tensors.
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    words = [token for number in range(LABELS) for token in (3 + number, 1)]
    tokens = torch.zeros(1, LABELS, len(words), device=device)
    tokens[0, range(LABELS), range(0, len(words), 2)] = 1
    boxes = torch.tensor([[0.1, 0.1, 0.4, 0.4], [0.5, 0.2, 0.9, 0.7], [0.3, 0.6, 0.5, 0.8]], device=device) * size
    return {
        "pixel_values": torch.randn(1, 3, size, size, device=device),
        "input_ids": torch.tensor([words], device=device) % vocabulary,
        "attention_mask": torch.ones(1, len(words), dtype=torch.long, device=device),
        "label_tokens": tokens,
        "labels": [{"boxes": boxes, "class_labels": torch.tensor([0, 2, 5], device=device)}],
        "modality": [model.config.modalities[0]],
    }


def saved_bytes(model: MedGlipForObjectDetection, batch: dict[str, Any]) -> int:
    """Return the bytes that a forward pass stores for the backward pass, each storage once, without the weights.

    Args:
        model (`MedGlipForObjectDetection`): in training mode.
        batch (`dict[str, Any]`): of [`example`].
    """
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}
    alive: list[torch.Tensor] = []  # a storage that is freed could come again under the same address

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**batch)
    return sum(saved.values())


def measure_step(model: MedGlipForObjectDetection, size: int, device: str = "cpu") -> StepCost:
    """Make a training step and measure it.

    Args:
        model ([`MedGlipForObjectDetection`]): with everything that shall be trained; it is put into training mode.
        size (`int`): side of the image in pixels.
        device (`str`, *optional*, defaults to `"cpu"`): for the time and the memory.
    """
    torch.manual_seed(0)
    # Counted on the processor, whose deformable convolution is made of operations that the counter knows.
    with FlopCounterMode(display=False) as counter:
        model.train().to("cpu")(**example(model, size, "cpu")).loss.backward()
    model.zero_grad()
    model.to(device)
    batch = example(model, size, device)
    start = time.perf_counter()
    model(**batch).loss.backward()
    if device != "cpu":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    plain = saved_bytes(model, batch)
    model.activation_checkpointing_enable()
    recomputed = saved_bytes(model, batch)
    model.activation_checkpointing_disable()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return StepCost(trained, counter.get_total_flops(), plain, recomputed, seconds, device)


def hours(cost: StepCost, images: int, epochs: float, processes: int, speed: float) -> float:
    """Return the hours of a training.

    Args:
        cost ([`StepCost`]): of a step with one image.
        images (`int`): per epoch.
        epochs (`float`): how often every image is shown.
        processes (`int`): number of cards.
        speed (`float`): tera-operations per second on each card.
    """
    return cost.operations * images * epochs / (speed * 1e12 * processes) / 3600


def memory(cost: StepCost, batch: int, shards: int = 1, recomputed: bool = False) -> float:
    """Return the gigabytes on one card, in float32: weights, gradients and moments, and the activations of a batch.

    Weights, gradients and moments are divided by `shards`. Memory of libraries comes on top.

    Args:
        cost (`StepCost`): of a step with one image.
        batch (`int`): images per card.
        shards (`int`, *optional*, defaults to `1`): cards that share weights, gradients and moments.
        recomputed (`bool`, *optional*, defaults to `False`): with activation checkpointing.
    """
    each = cost.recomputed_bytes if recomputed else cost.activation_bytes
    return (cost.parameters * STATE_BYTES / shards + batch * each) / 1e9


def render_page(content: dict[str, Any]) -> str:
    """Return the page of the estimate in Markdown."""
    cost, plan = StepCost(**content["step"]), content["plan"]
    measured = cost.operations / cost.seconds / 1e12
    lines = [
        "# The full-size training, estimated",
        "",
        "Made by `python -m training.studies.estimate`.",
        "Measured: the operations of one training step with one image of",
        f"{plan['size']} x {plan['size']} pixels and {LABELS} labels (forward and backward, everything trained), and",
        "the bytes that its backward pass needs. Hours and memory are worked out from these; no training of this size",
        "was run.",
        "",
        f"- {cost.parameters / 1e6:.1f} million parameters, {cost.operations / 1e12:.2f} tera-operations per image",
        f"- on this machine ({cost.device}): {cost.seconds:.1f} s, {measured:.2f} tera-operations per second",
        "",
        f"{plan['images']:,} images, {plan['epochs']:g} epochs, {plan['processes']} cards. Each of the seven",
        "experts has the images of its own modality, so these are the hours of all seven together:",
        "",
    ]  # fmt: skip
    given = (plan["images"], plan["epochs"], plan["processes"])
    alone = f"{hours(cost, plan['images'], plan['epochs'], 1, measured):,.0f}"
    rows: list[list[Any]] = [["this machine, alone", f"{measured:.2f}", alone]]
    rows += [
        [f"{plan['processes']} cards, each", f"{speed:g}", f"{hours(cost, *given, speed):,.0f}"] for speed in SPEEDS
    ]
    text = "\n".join(lines) + "\n" + table(["computed by", "tera-operations per second", "hours"], rows)
    batch, cards = plan["batch"], plan["processes"]
    ways = [
        ["one copy per card (`launch/ddp.yaml`)", 1, False],
        ["the same, activations recomputed (`--checkpointing true`)", 1, True],
        ["sharded (`launch/fsdp.yaml`)", cards, False],
        ["the same, activations recomputed", cards, True],
    ]
    rows = [[name, f"{memory(cost, batch, shards, again):.1f}"] for name, shards, again in ways]
    text += f"\nMemory of one card with {batch} images, all in float32 (bfloat16 about halves what the images need);\n"
    text += "what is recomputed, one layer at a time, and what the libraries take for themselves come on top:\n\n"
    return text + table(["way", "GB"], rows)


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m training.studies.estimate", description=about)
    parser.add_argument("--model", help="checkpoint folder or id (default: the GLIP-T size, random weights)")
    parser.add_argument("--size", type=int, default=800, help="side of the input images in pixels")
    parser.add_argument("--batch", type=int, default=5, help="images per card and step")
    parser.add_argument("--epochs", type=float, default=30)
    parser.add_argument("--processes", type=int, default=8, help="cards")
    parser.add_argument("--images", type=int, default=PAPER_IMAGES, help="per epoch, all experts together")
    parser.add_argument("--out", type=Path, help="JSON file; the same as Markdown is written beside it")
    options = parser.parse_args(new_options(sys.argv[1:] if argv is None else argv, ESTIMATE_OPTIONS))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    check_options(vars(options))
    if options.model:
        model, _ = load_model_and_processor(options.model)
    else:
        model = MedGlipForObjectDetection(MedGlipConfig.glip_t())
    cost = measure_step(model, options.size, device)
    plan = {name: getattr(options, name) for name in ("size", "batch", "epochs", "processes", "images")}
    content = {"schema": SCHEMA, "plan": plan, "step": asdict(cost)}
    text = render_page(content)
    if options.out:
        write_text(options.out, json.dumps(content, indent=1, allow_nan=False) + "\n")
        write_text(options.out.with_suffix(".md"), text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
