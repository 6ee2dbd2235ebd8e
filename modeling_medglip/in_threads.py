# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Work on a row of items in threads: the next one read ahead, several in the network at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch


Item = TypeVar("Item")
Result = TypeVar("Result")

# Most items that are in the network at once, each of which takes memory.
MAX_WORKERS = 8


def workers_of(device: torch.device) -> int:
    """Return how many images to run through the network at once.

    On a CPU one image for each of PyTorch's threads is faster than one image for all of them: those wait for each
    other after every layer.

    Args:
        device (`torch.device`): where the model runs.
    """
    return min(torch.get_num_threads(), MAX_WORKERS) if device.type == "cpu" else 1


def ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """Yield items; the next one is computed in a thread of its own while the caller works on one.

    Args:
        items (`Iterator`): of anything but `None`.
    """
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Generator[Result, None, None]:
    """Yield the results of a function in the order of its items, which are taken as they are needed.

    Args:
        function (`Callable`): called in several threads at once, among which PyTorch's threads are divided.
        items (`Iterable`): its arguments.
        workers (`int`): number of threads; the function runs in the caller's where it is 1.
    """
    if workers == 1:
        yield from map(function, items)
        return
    threads = torch.get_num_threads()
    share = partial(torch.set_num_threads, max(1, threads // workers))
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, initializer=share) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            torch.set_num_threads(threads)  # the number is shared by the threads of some libraries


__all__ = ["ahead", "in_threads", "workers_of"]
