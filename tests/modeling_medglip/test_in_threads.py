# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Results come in the order of the items, whatever thread computes them; errors come through and threads end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from modeling_medglip.in_threads import MAX_WORKERS, ahead, in_threads, workers_of


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before, running = torch.get_num_threads(), threading.active_count()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)
    assert threading.active_count() == running


def test_the_next_item_is_computed_before_it_is_asked_for() -> None:
    computed = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for index, event in enumerate(computed):
            event.set()
            yield index
        raise ValueError("damaged")

    read = ahead(items())
    assert next(read) == 0 and computed[1].wait(10)
    assert next(read) == 1 and computed[2].wait(10) and next(read) == 2
    with pytest.raises(ValueError, match="damaged"):
        next(read)
    assert list(ahead(iter([5]))) == [5] and list(ahead(iter([]))) == []


def test_workers_share_the_threads() -> None:
    together = threading.Barrier(3, timeout=10)  # breaks unless three items are worked on at once

    def work(item: int) -> tuple[int, int]:
        together.wait()
        return item, torch.get_num_threads()

    assert list(in_threads(work, range(6), 3)) == [(item, 1) for item in range(6)]
    assert torch.get_num_threads() == 3
    assert list(in_threads(lambda item: (item, torch.get_num_threads()), [1, 2], 1)) == [(1, 3), (2, 3)]


def test_items_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for index in range(100):
            taken.append(index)
            yield index

    results = in_threads(lambda item: item, items(), 2)
    assert next(results) == 0 and len(taken) <= 3
    results.close()
    assert len(taken) <= 3 and torch.get_num_threads() == 3


def test_an_error_comes_in_its_turn() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("slice 2")
        return item

    results = in_threads(work, range(9), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="slice 2"):
        next(results)
    assert torch.get_num_threads() == 3


def test_a_processor_takes_an_image_for_each_thread_and_an_accelerator_one() -> None:
    assert workers_of(torch.device("cpu")) == 3 and workers_of(torch.device("cuda")) == 1
    torch.set_num_threads(4 * MAX_WORKERS)
    assert workers_of(torch.device("cpu")) == MAX_WORKERS
