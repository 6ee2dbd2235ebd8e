# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Sharing work among processes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch._utils import ExceptionWrapper

from training.fit import processes


def test_one_process_takes_everything() -> None:
    assert processes.process_share(3) == [0, 1, 2] and processes.process_share(0) == []
    assert processes.gather_values([0, 1], ["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize(("count", "world"), [(7, 2), (8, 2), (1, 4), (10, 3), (2, 8)])
def test_everything_is_taken_and_all_make_as_many_calls(
    count: int, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = []
    for rank in range(world):
        state = SimpleNamespace(num_processes=world, process_index=rank)
        monkeypatch.setattr(processes, "process_state", lambda state=state: state)
        shares.append(processes.process_share(count))
    assert len({len(share) for share in shares}) == 1 and {i for share in shares for i in share} == set(range(count))
    pairs = [(number, f"found {number}") for share in shares for number in share]
    monkeypatch.setattr(processes, "gather_object", lambda local: pairs)
    values = processes.gather_values(shares[0], [f"found {number}" for number in shares[0]])
    assert values == [f"found {number}" for number in range(count)]


def test_processes_tell_each_other_what_they_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.merge_entries({"a": "empty"}) == {"a": "empty"}
    monkeypatch.setattr(processes, "gather_object", lambda local: [*local, {"b": "torn"}])
    assert processes.merge_entries({"a": "empty"}) == {"a": "empty", "b": "torn"}


def test_an_error_of_a_loader_s_process_is_shown_without_its_traceback() -> None:
    assert processes.worker_message(ValueError("2 images: mend the data")) == "2 images: mend the data"
    try:
        raise ValueError("2 images: mend the data")
    except ValueError:
        caught = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(ValueError, match="Caught ValueError") as raised:
        caught.reraise()
    assert processes.worker_message(raised.value) == "2 images: mend the data"
    bare = ValueError("Caught KeyError in DataLoader worker process 0.\nOriginal Traceback (most recent):\nKeyError")
    assert processes.worker_message(bare) == "KeyError"


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("True", True), ("false", False), (None, False)])
def test_sharding_is_what_the_launcher_says(
    value: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    if value is not None:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", value)
    assert processes.shards_weights() == expected
