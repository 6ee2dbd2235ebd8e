"""A training step of MedGLIP at the GLIP-T size beside Grounding DINO of transformers.

    python -m tests.benchmarks.bench_training [--rounds 3] [--threads 2] [--out docs/training_benchmark.json]

One 512x512 image, seven labels, four boxes; random weights, everything trained, with the language encoder: forward,
loss, backward, gradient clipping, AdamW. As in `bench_grounding` every network has a process of its own and they take
turns: read the ratios.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from .bench_grounding import LABELS, PROMPT, SIDE, run


# Four structures of the usual sizes: xyxy pixels and label.
BOXES = ([40, 60, 200, 220], [300, 80, 420, 190], [150, 300, 190, 350], [260, 260, 500, 480])
CLASSES = [0, 2, 3, 6]


def medglip(checkpointing: bool = False) -> tuple[Any, Callable[[], Any]]:
    """MedGLIP: Swin-T, BERT-base, six fusion blocks; returns the model and a function for its loss."""
    import torch

    from modeling_medglip import MedGlipConfig, MedGlipForObjectDetection

    model = MedGlipForObjectDetection(MedGlipConfig.glip_t(("ct",))).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    boxes = torch.tensor(BOXES, dtype=torch.float32)
    spans = torch.zeros(1, LABELS, len(PROMPT))
    for label in range(LABELS):
        spans[0, label, 1 + 2 * label] = 1
    inputs = {
        "pixel_values": torch.randn(1, 3, SIDE, SIDE),
        "input_ids": torch.tensor([PROMPT]),
        "attention_mask": torch.ones(1, len(PROMPT), dtype=torch.long),
        "label_tokens": spans,
        "labels": [{"boxes": boxes, "class_labels": torch.tensor(CLASSES)}],
    }
    return model, lambda: model(**inputs).loss


def medglip_checkpointing() -> tuple[Any, Callable[[], Any]]:
    """The same, activations recomputed."""
    return medglip(checkpointing=True)


def grounding_dino() -> tuple[Any, Callable[[], Any]]:
    """Grounding DINO tiny: Swin-T, BERT-base, its default configuration."""
    import torch
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    backbone = SwinConfig(
        image_size=224, embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7,
        out_indices=[2, 3, 4],
    )  # fmt: skip
    model = GroundingDinoForObjectDetection(GroundingDinoConfig(backbone_config=backbone)).train()
    corners = torch.tensor(BOXES, dtype=torch.float32) / SIDE
    boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
    inputs = {
        "pixel_values": torch.randn(1, 3, SIDE, SIDE),
        "input_ids": torch.tensor([PROMPT]),
        "attention_mask": torch.ones(1, len(PROMPT), dtype=torch.long),
        "labels": [{"boxes": boxes, "class_labels": torch.tensor(CLASSES)}],
    }
    return model, lambda: model(**inputs).loss


NETWORKS: dict[str, Callable[[], tuple[Any, Callable[[], Any]]]] = {
    "MedGLIP (GLIP-T size)": medglip,
    "the same, activations recomputed": medglip_checkpointing,
    "Grounding DINO tiny": grounding_dino,
}


def serve(name: str, threads: int, connection: Connection) -> None:
    """A process with one network: makes a step per message and answers with seconds and peak memory in bytes."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, loss_of = NETWORKS[name]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, foreach=True)

    def step() -> None:
        optimizer.zero_grad()
        loss = loss_of()
        if not torch.isfinite(loss):
            raise ValueError(f"{name}: the loss is {float(loss)}")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    step()
    connection.send("ready")
    while connection.recv() == "go":
        start = time.perf_counter()
        step()
        seconds = time.perf_counter() - start
        connection.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


if __name__ == "__main__":
    run(__doc__ or "", list(NETWORKS), serve, rounds=3)
