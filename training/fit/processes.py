# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Share work among the processes that `accelerate launch` starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object


Value = TypeVar("Value")


def process_state() -> PartialState:
    """Return the `accelerate.PartialState` of this process, on the CPU where there is no GPU."""
    return PartialState(cpu=not torch.cuda.is_available())


def shards_weights() -> bool:
    """Whether `accelerate launch` shards the weights (FSDP)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def worker_message(error: BaseException) -> str:
    """Return the message of an error without the traceback that a process of a `DataLoader` puts into it."""
    text = str(error)
    if not (text.startswith("Caught ") and "\nOriginal Traceback" in text):
        return text
    kind, _, message = text.strip().rpartition("\n")[2].partition(": ")
    return message or kind


def process_share(count: int) -> list[int]:
    """Return which of `count` items this process takes.

    Every process takes equally many, so that all make the same calls. If the numbers do not divide, some items are
    taken twice.
    """
    state = process_state()
    each = -(-count // state.num_processes)
    return [(state.process_index * each + number) % count for number in range(each)]


def merge_entries(local: dict[str, str]) -> dict[str, str]:
    """Return the entries of all processes, in every process."""
    return {key: value for part in gather_object([local]) for key, value in part.items()}


def gather_values(index: Sequence[int], values: Sequence[Value]) -> list[Value]:
    """Return the values of all processes for their [`process_share`], in order, in every process.

    Args:
        index (`Sequence[int]`): the items of this process.
        values (`Sequence[Value]`): one per item.
    """
    by_index: dict[int, Value] = dict(gather_object(list(zip(index, values, strict=True))))
    return [by_index[number] for number in sorted(by_index)]
