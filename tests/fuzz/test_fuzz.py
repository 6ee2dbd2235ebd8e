# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The harness finds what it looks for, and some inputs of every target pass."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from modeling_medglip.isolation.process import FileReader
from tests.fuzz import server
from tests.fuzz.__main__ import main
from tests.fuzz.mutators import raw_bytes
from tests.fuzz.server import CONTAINED, CRASH, EXCEPTION, HANG, MEMORY, REFUSED, SOUND, Tally, contain, run
from tests.fuzz.targets import TARGETS, Target, load_modules


def planted(folder: Path, _: FileReader) -> None:
    """A reader with every fault, chosen by the content of its input."""
    kind = (folder / "a").read_bytes()
    if kind == b"refused":
        raise ValueError("damaged")
    if kind == b"exception":
        raise KeyError("undocumented")
    if kind == b"crash":
        os.abort()
    if kind == b"hang":
        time.sleep(60)
    if kind == b"memory":
        bytearray(2**40)


KINDS = (SOUND, REFUSED, EXCEPTION, CRASH, HANG, MEMORY)


def run_planted(kinds: tuple[str, ...], scratch: Path) -> Tally:
    class Planted(Target):
        def input(self, seed: int, number: int) -> dict[str, bytes]:
            return {"a": kinds[number].encode()}

    target = Planted("planted", lambda: [{}], raw_bytes, "*", planted, (ValueError,))
    return run(iter([(target, range(len(kinds)))]), 0, scratch, 1, lambda _: True)


def test_every_fault_is_found_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS", 1.0)
    tally = run_planted((*KINDS, SOUND), tmp_path)
    found = {kind: tally.count("planted", kind) for kind in KINDS}
    assert found == {SOUND: 2, REFUSED: 1, EXCEPTION: 1, CRASH: 1, HANG: 1, MEMORY: 1}
    assert {(fault.number, fault.kind) for fault in tally.faults} == {(KINDS.index(k), k) for k in KINDS[2:]}
    details = {fault.kind: fault.detail for fault in tally.faults}
    assert details[EXCEPTION].startswith("KeyError tests/fuzz/test_fuzz.py:")
    assert details[CRASH] == "SIGABRT"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_inputs_depend_on_seed_and_number_only(target: Target) -> None:
    inputs = [target.input(1, number) for number in range(5)]
    assert inputs == [target.input(1, number) for number in range(5)]
    assert inputs != [target.input(2, number) for number in range(5)]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_sound_inputs_are_read(target: Target, tmp_path: Path) -> None:
    """Seeds that a reader refuses would leave most of it untried."""
    for number, files in enumerate(target.seeds()):
        assert server.read_once(target, files, tmp_path / str(number)) == (SOUND, ""), list(files)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_inputs_are_refused(target: Target, tmp_path: Path) -> None:
    load_modules([target])
    tally = run(iter([(target, range(25))]), 17, tmp_path, 1, lambda _: True)
    contain(tally, [target], 17, tmp_path)
    assert tally.faults == []
    assert sum(tally.counts.values()) == 25


def test_command_writes_counts_and_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--inputs", "30", "--jobs", "1", "--target", "boxes-json", "--out", str(tmp_path)])
    assert status == 0
    assert (tmp_path / "counts.json").is_file()
    assert "boxes-json" in capsys.readouterr().out
    assert main(["--replay", "boxes-json:3", "--out", str(tmp_path)]) == 0
    assert len(list((tmp_path / "replay").iterdir())) == 1


def test_what_a_worker_process_contains_is_not_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hang of this harness's own process, and none in the worker."""
    monkeypatch.setattr(server, "SECONDS", 1.0)

    def read(folder: Path, reader: FileReader) -> None:
        if type(reader) is FileReader:
            os.abort()
        reader.read_image(folder / "a")

    target = Target("planted", lambda: [{"a": b"no image"}], lambda _, content: content, "*", read, decodes=True)
    tally = run(iter([(target, range(2))]), 0, tmp_path, 1, lambda _: True)
    assert tally.count("planted", CRASH) == 2
    contain(tally, [target], 0, tmp_path)
    assert (tally.count("planted", CRASH), tally.count("planted", CONTAINED), tally.faults) == (0, 2, [])
