# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Several processes, as `accelerate launch` starts them: which device, who writes, and who measures which pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import distributed


Value = TypeVar("Value")


def process_state() -> Any:
    """`accelerate.PartialState` of this process: its `device`, `is_main_process`, `wait_for_everyone()`."""
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


def shards_weights() -> bool:
    """Whether `accelerate launch` was told to shard the weights (FSDP)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def worker_message(error: BaseException) -> str:
    """Return the message of an error without the traceback that a process of a `DataLoader` puts into it."""
    text = str(error)
    if not (text.startswith("Caught ") and "\nOriginal Traceback" in text):
        return text
    kind, _, message = text.strip().rpartition("\n")[2].partition(": ")
    return message or kind


def own_share(count: int) -> list[int]:
    """Which of `count` things this process takes: every process equally many, so that all make the same calls; some
    come twice where the numbers do not divide. All of them with one process."""
    if not distributed.is_initialized() or not count:
        return list(range(count))
    world, rank = distributed.get_world_size(), distributed.get_rank()
    each = -(-count // world)
    return [(rank * each + number) % count for number in range(each)]


def united(own: dict[str, str]) -> dict[str, str]:
    """What the processes know, put together, in every process."""
    if not distributed.is_initialized():
        return own
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, own)
    return {key: value for part in parts for key, value in part.items()}


def gathered(places: Sequence[int], values: Sequence[Value]) -> list[Value]:
    """What all processes found for their [`own_share`], in order, in every process."""
    if not distributed.is_initialized():
        return list(values)
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, list(zip(places, values, strict=True)))
    found: dict[int, Value] = {place: value for part in parts for place, value in part}
    return [found[place] for place in sorted(found)]
