# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""`medglip ground --engine ray`: what an actor does, how actors are shared out, and a real cluster of two machines."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from modeling_medglip.cli import cluster
from modeling_medglip.cli.cluster import ATTEMPTS, MEMORY, GroundActor, plan_actors
from modeling_medglip.cli.ground import GroundCommand
from modeling_medglip.cli.inputs import Input
from modeling_medglip.cli.jobs import Outcome
from modeling_medglip.cli.journal import FILE
from modeling_medglip.cli.ray_connection import ADDRESS, ray_cluster
from modeling_medglip.cli.session import checkpoint_identity
from modeling_medglip.errors import MedGlipError, UsageError
from modeling_medglip.outputs.run_report import InputRecord


ROOT = Path(__file__).resolve().parents[3]
Run = Callable[..., tuple[int, str, str]]


def png(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 60), dtype=np.uint8)).save(path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


# Options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "spark"], "--engine 'spark': choose one of local, ray"),
        (["--engine", "ray", "--device", "cuda:1"], "--device cuda:1: Ray chooses the GPU of each process: give auto"),
        (["--engine", "ray", "--device", "mps"], "--device mps: Ray chooses the GPU of each process: give auto"),
        (["--jobs", "62"], "--jobs 62: one machine runs 61 processes at most: take fewer"),
        (["--jobs", "0"], "--jobs"),
    ],
    ids=str,
)
def test_wrong_options(ground: Run, tmp_path: Path, options: list[str], message: str) -> None:
    status, _, errors = ground(png(tmp_path / "a.png"), *options)
    assert status == 2 and message in errors and len(errors.splitlines()) == 1 and names(tmp_path / "out") == []


@pytest.mark.parametrize("missing", ["ray", "ray.data"])
def test_ray_that_is_missing(ground: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    status, _, errors = ground(png(tmp_path / "a.png"), "--engine", "ray")
    assert status == 2 and names(tmp_path / "out") == []
    message = 'medglip: error: --engine ray needs Ray: pip install ".[scale]" in a clone of MedGLIP'
    assert errors.splitlines() == [message]


def test_the_package_and_the_local_engine_do_not_import_ray() -> None:
    code = "import sys, modeling_medglip, modeling_medglip.cli; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "nonsense", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv(ADDRESS, address.format(port=free.getsockname()[1]))
        start = time.monotonic()
        with pytest.raises(UsageError, match=f"^--engine ray: {ADDRESS} ") as error, ray_cluster():
            pass
    assert "\n" not in str(error.value) and time.monotonic() - start < 30


# Plans ---------------------------------------------------------------------------------------------------------------

LARGE = {"CPU": 8.0, "memory": 100.0 * MEMORY}
GPU = {"CPU": 16.0, "memory": 100.0 * MEMORY, "GPU": 2.0}


@pytest.mark.parametrize(
    ("machines", "jobs", "device", "expected"),
    [
        ([LARGE, LARGE], 1000, "auto", (16, 1, False)),
        ([LARGE, LARGE], 4, "auto", (4, 4, False)),
        ([LARGE, LARGE], 3, "auto", (3, 4, False)),
        ([LARGE, {"CPU": 2.0, "memory": 100.0 * MEMORY}], 2, "cpu", (2, 4, False)),
        ([{"CPU": 8.0, "memory": 2.5 * MEMORY}], 1000, "cpu", (2, 4, False)),
        ([LARGE, GPU], 1000, "auto", (2, 8, True)),
        ([LARGE, GPU, GPU], 3, "cuda", (3, 8, True)),
        ([LARGE, GPU], 1000, "cpu", (24, 1, False)),
        ([LARGE, {"memory": 1.0}], 1, "cpu", (1, 8, False)),
    ],
)
def test_plans(machines: list[dict[str, float]], jobs: int, device: str, expected: tuple[int, int, bool]) -> None:
    plan = plan_actors(machines, jobs, device)
    assert (plan.actors, plan.cpus, plan.gpu) == expected


def test_plans_without_room() -> None:
    with pytest.raises(UsageError, match="no machine of the Ray cluster has a GPU"):
        plan_actors([LARGE], 1, "cuda")
    for machines in ([], [{"CPU": 4.0, "memory": 0.5 * MEMORY}]):
        with pytest.raises(MedGlipError, match="a processor and 1.5 GB of memory"):
            plan_actors(machines, 1, "auto")


# Actors --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def actor(tiny: str, tmp_path: Path) -> Callable[..., GroundActor]:
    """An actor for images of the test's folder `in`, whose names are given."""

    def make(*inputs: str, **changes: Any) -> GroundActor:
        (tmp_path / "out" / "notes").mkdir(parents=True, exist_ok=True)
        request = GroundCommand([], "liver", modality="ct", model=tiny, threshold=0.0, out=tmp_path / "out")
        works = [(Input(tmp_path / "in" / name, name), Path(name).stem) for name in inputs]
        given = {"identity": checkpoint_identity(tiny, None), "folder": tmp_path / "out" / "notes", **changes}
        return GroundActor(request, works, 1, **given)

    return make


def results(actor: GroundActor, *indices: int) -> list[str]:
    rows = list(actor({"index": np.array(indices)}))
    assert [row["index"] for row in rows] == [[index] for index in indices]
    return [row["content"][0] for row in rows]


def test_an_actor_grounds_a_batch(actor: Callable[..., GroundActor], tmp_path: Path) -> None:
    png(tmp_path / "in" / "a.png"), png(tmp_path / "in" / "c.png")
    (tmp_path / "in" / "b.png").write_bytes(b"no image")
    first, second = map(cluster._outcome, results(actor("a.png", "b.png", "c.png"), 0, 1))
    assert first.record.status == "done" and first.record.outputs == ("a.boxes.json", "a.png") and first.rows
    assert "a.png  [ct, 60x40]" in first.printed
    assert second.record.status == "failed" and second.warned.startswith("medglip: error: b.png: ")
    assert names(tmp_path / "out") == ["a.boxes.json", "a.png", "notes"] and names(tmp_path / "out" / "notes") == []


def test_an_input_that_ends_its_process_costs_itself(actor: Callable[..., GroundActor], tmp_path: Path) -> None:
    png(tmp_path / "in" / "a.png"), png(tmp_path / "in" / "b.png")
    one = actor("a.png", "b.png")
    notes = [tmp_path / "out" / "notes" / f"{index}.{number}" for index in range(2) for number in range(ATTEMPTS)]
    for note in notes[:-1]:  # the second has an attempt left
        note.touch()
    first, second = map(cluster._outcome, results(one, 0, 1))
    assert first.record.status == "failed" and f"ended its process {ATTEMPTS} times" in str(first.record.error)
    assert first.warned.splitlines() == [f"medglip: error: {first.record.error}"]
    assert second.record.status == "done" and names(tmp_path / "out" / "notes") == []


def test_machines_that_differ(actor: Callable[..., GroundActor], tiny: str, tmp_path: Path) -> None:
    png(tmp_path / "in" / "a.png")
    right = checkpoint_identity(tiny, None)
    for changes, message in (
        ({"folder": tmp_path / "elsewhere"}, "does not see --out out: name a folder that all machines share"),
        ({"identity": {**right, "version": "0.0"}}, "has another version of MedGLIP: every machine needs the same"),
        ({"identity": {**right, "model": "0"}}, "has another checkpoint: every machine needs the same"),
    ):
        (content,) = results(actor("a.png", **changes), 0)
        with pytest.raises(MedGlipError, match=f"^machine .* of the Ray cluster: {message}$"):
            cluster._outcome(content)
    assert names(tmp_path / "out") == ["notes"]


def test_wrong_usage_and_full_disks_end_the_run(
    actor: Callable[..., GroundActor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = actor("a.png")
    for error, kind, message in (
        (UsageError("no such frame", hint="frame"), UsageError, "no such frame"),
        (MedGlipError("a.png: lost"), MedGlipError, "a.png: lost"),
        (OSError(28, "No space left on device"), MedGlipError, r"--out out: cannot be written to \(No space left"),
    ):

        def fail(work: object, error: Exception = error) -> Outcome:
            raise error

        monkeypatch.setattr(one._worker, "ground", fail)
        with pytest.raises(kind, match=message):
            cluster._outcome(results(one, 0)[0])


def test_outcomes_pass_as_json() -> None:
    record = InputRecord("a\udcff.png", "done", 0.1, ("a.png",), 2, "ct", "given", ("one", "two"))
    outcome = Outcome(record, [{"file": "a", "score": 0.1 + 0.2, "trained": True, "box_ijk": [1.0, 2.0]}], "ü", "\x00")
    assert Outcome.from_json(outcome.to_json()) == outcome


# A cluster -----------------------------------------------------------------------------------------------------------

MACHINE: dict[str, Any] = {"num_cpus": 1, "memory": 4 * MEMORY, "object_store_memory": 2**27}


@pytest.fixture(scope="module")
def two_machines() -> Iterator[Any]:
    """A cluster of two machines with one processor each, as far as Ray can tell."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # The actors find this working tree where this process does.
        patch.setenv("PYTHONPATH", str(ROOT))
        machines = Cluster(initialize_head=True, head_node_args={**MACHINE, "include_dashboard": False})
        try:
            machines.add_node(**MACHINE)
            machines.wait_for_nodes()
            yield machines
        finally:
            machines.shutdown()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 48 images, a volume, and a file that is damaged."""
    folder = tmp_path_factory.mktemp("inputs")
    for number in range(48):
        png(folder / f"{number:02d}.png", number)
    nibabel.save(nibabel.Nifti1Image(np.arange(216, dtype=np.int16).reshape(8, 9, 3), np.eye(4)), folder / "v.nii")
    (folder / "z.png").write_bytes(b"no image")
    return folder


def command(inputs: Path, tiny: str, out: Path, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "modeling_medglip.cli", "ground", os.path.relpath(inputs), "--prompt", "liver",
        "--model", tiny, "--modality", "ct", "--threshold", "0", "--out", os.path.relpath(out), "--csv",
        str(out.with_suffix(".csv")), "--parquet", str(out.with_suffix(".parquet")), "--resume", *options,
    ]  # fmt: skip


def run(arguments: list[str], address: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, ADDRESS: address}
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=280, check=False)


def table(out: Path) -> list[dict[str, str]]:
    with out.with_suffix(".csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def assert_same(found: Path, expected: Path) -> None:
    """Every input is in the tables once, and all is as one process writes it."""
    import pyarrow.parquet as parquet

    assert table(found) == table(expected)
    assert parquet.read_table(found.with_suffix(".parquet")).num_rows == len(table(expected))
    written = [name for name in names(found) if not name.startswith(".")]
    assert written == names(expected) and ".medglip" not in " ".join(names(found))
    for path in expected.glob("*.boxes.json"):
        one, other = (json.loads((folder / path.name).read_text(encoding="utf-8")) for folder in (expected, found))
        assert other["boxes"] == one["boxes"]


@pytest.fixture(scope="module")
def local(inputs: Path, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process writes."""
    out = tmp_path_factory.mktemp("local") / "out"
    done = run(command(inputs, tiny, out))
    assert done.returncode == 1 and "49 of 50 images done" in done.stdout, done.stderr
    return out


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return value


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def at_work(out: Path) -> set[int]:
    """Processes of actors that ground an input now, which their notes name."""
    found = set()
    for note in out.glob(".medglip-*.cluster/*"):
        try:
            found |= {int(note.read_text().split()[1])}
        except (OSError, IndexError):  # done meanwhile, or not written yet
            continue
    return found


@pytest.mark.distributed
def test_two_machines_give_what_one_process_gives(
    two_machines: Any, inputs: Path, tiny: str, local: Path, tmp_path: Path
) -> None:
    arguments, out = command(inputs, tiny, tmp_path / "out", "--engine", "ray"), tmp_path / "out"
    environment = {**os.environ, ADDRESS: two_machines.address}
    with subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        machines = set[int]()
        while process.poll() is None:
            machines |= {parent(pid) for pid in at_work(out)} - {0}
            time.sleep(0.02)
        output, errors = process.communicate()
    assert process.returncode == 1 and "49 of 50 images done" in output, errors
    assert "Ray cluster of 2 machines: actors 2, CPUs of each 1, GPUs of each 0" in output
    raylets = {info.process.pid for node in two_machines.list_all_nodes() for info in node.all_processes["raylet"]}
    assert machines == raylets and len(raylets) == 2, "both machines grounded"
    assert [line for line in errors.splitlines() if "warning" not in line] == [
        "medglip: error: z.png: is not an image of a known format: give a PNG, JPEG, TIFF or DICOM file"
    ]
    assert_same(out, local)
    again = run(command(inputs, tiny, out))
    assert again.returncode == 1 and "49 of 50 inputs were done before" in again.stdout, "the engine does not matter"
    assert_same(out, local)


@pytest.mark.distributed
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_goes_on(
    two_machines: Any, inputs: Path, tiny: str, local: Path, tmp_path: Path, how: signal.Signals
) -> None:
    """The actors end with the first process, and the same command does the rest, on the cluster or without it."""
    arguments, out = command(inputs, tiny, tmp_path / "out", "--engine", "ray"), tmp_path / "out"
    environment = {**os.environ, ADDRESS: two_machines.address}
    process = subprocess.Popen(
        arguments,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A shell that runs the tests in the background lets them ignore interruptions.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    journal = out / FILE
    actors = set[int]()

    def some_done() -> bool:
        actors.update(at_work(out))
        return journal.is_file() and journal.read_bytes().count(b"\n") > 4

    wait_for(some_done)
    os.kill(process.pid, how)
    process.wait(timeout=30)
    assert actors
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in actors), 30)
    done = journal.read_bytes().count(b"\n") - 1
    assert done < 49
    again = run(arguments, two_machines.address)
    assert again.returncode == 1 and f"{done} of 50 inputs were done before" in again.stdout, again.stderr
    assert_same(out, local)


@pytest.mark.distributed
def test_a_lost_machine_costs_no_input(
    two_machines: Any, inputs: Path, tiny: str, local: Path, tmp_path: Path
) -> None:
    arguments, out = command(inputs, tiny, tmp_path / "out", "--engine", "ray"), tmp_path / "out"
    third = two_machines.add_node(**MACHINE)
    environment = {**os.environ, ADDRESS: two_machines.address}
    with subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        raylets = {info.process.pid for info in third.all_processes["raylet"]}
        wait_for(lambda: raylets & {parent(pid) for pid in at_work(out)})
        two_machines.remove_node(third, allow_graceful=False)
        output, errors = process.communicate(timeout=200)
    assert process.returncode == 1 and "49 of 50 images done" in output, errors
    assert_same(out, local)
