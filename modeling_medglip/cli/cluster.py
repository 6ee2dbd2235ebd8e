# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Ground inputs on the machines of a Ray cluster.

The machines share the folders of inputs and results. Inputs have to be shared anyway, and what a machine writes by
itself passes neither the network of the first machine nor its memory; only what became of each input comes back.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import secrets
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import MedGlipError, UsageError, one_line
from ..outputs.run_report import InputRecord
from .console import echo, fail, in_flags
from .jobs import Outcome, Work, Worker
from .ray_connection import ray_cluster
from .request import GroundRequest
from .session import checkpoint_identity


# Memory of an actor, which decides how many of them fit on a machine.
MEMORY = 3 * 2**29
# Inputs that an actor takes at a time. Volumes are taken one by one: the last ones would keep one actor busy alone.
MAX_BATCH = 8
# How often an input may end the process that grounds it, or be on a machine that is lost.
ATTEMPTS = 3


@dataclass(frozen=True)
class ActorPlan:
    """How the work is shared.

    Attributes:
        actors (`int`): number of them.
        cpus (`int`): processors of each.
        gpu (`bool`): each has a GPU.
    """

    actors: int
    cpus: int
    gpu: bool


def plan_actors(machines: Sequence[Mapping[str, float]], jobs: int, device: str) -> ActorPlan:
    """Return how many actors fit, `jobs` at most, and with how many processors each.

    Args:
        machines (`Sequence[Mapping[str, float]]`): resources of each, as Ray names them.
        jobs (`int`): most actors.
        device (`str`): `"cpu"`, `"cuda"`, or `"auto"` for GPUs if the cluster has some.

    Raises:
        `UsageError`: the cluster has no GPU, and `device` asks for one. `MedGlipError`: nothing fits.
    """
    gpu = device != "cpu" and any(machine.get("GPU", 0) >= 1 for machine in machines)
    if device == "cuda" and not gpu:
        raise UsageError("--device cuda: no machine of the Ray cluster has a GPU: leave it out")

    def room(cpus: int) -> int:
        """Return how many actors with so many processors fit."""
        limits = {"CPU": cpus, "memory": MEMORY, **({"GPU": 1} if gpu else {})}
        return sum(min(int(one.get(name, 0) // need) for name, need in limits.items()) for one in machines)

    actors = min(jobs, room(1))
    if actors < 1:
        raise MedGlipError("the Ray cluster has no machine with a processor and 1.5 GB of memory: add one")
    most = int(max(machine.get("CPU", 0) for machine in machines))
    return ActorPlan(actors, max(cpus for cpus in range(1, most + 1) if room(cpus) >= actors), gpu)


def ground_on_cluster(request: GroundRequest, works: Sequence[Work]) -> Generator[tuple[int, Outcome], None, None]:
    """Yield the index of an input and its outcome as soon as it is done, in any order.

    When the caller stops or is killed, Ray ends its actors. An input that was on a lost machine is grounded again on
    another one, and its outcome comes once.

    Args:
        request ([`GroundRequest`]): the options of the run.
        works (`Sequence[tuple[Input, str]]`): inputs, with absolute paths, and the stems of the names of their files.

    Raises:
        `UsageError`: Ray is not installed, the cluster cannot be used, or the request does not fit an input.
        `MedGlipError`: a machine cannot ground.
    """
    if not works:
        return
    with ray_cluster(request.debug) as ray, _shared_folder(request.out) as folder:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        plan = plan_actors(machines, min(request.jobs or len(works), len(works)), request.device.strip().lower())
        _show(plan, len(machines))
        try:
            with contextlib.closing(_outcomes(ray, plan, _for_actors(request, plan.gpu), works, folder)) as outcomes:
                yield from outcomes
        except ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            further = ", then the same command goes on" if request.resume else ""
            raise MedGlipError(f"the Ray cluster failed ({one_line(lines[-1], 200)}): mend it{further}") from None


def _show(plan: ActorPlan, machines: int) -> None:
    where = f"cluster of {machines} machines" if machines > 1 else "on one machine"
    echo(f"Ray {where}: actors {plan.actors}, CPUs of each {plan.cpus}, GPUs of each {int(plan.gpu)}")


def _for_actors(request: GroundRequest, gpu: bool) -> GroundRequest:
    """Return a request that means the same in another folder."""
    model, base = (
        str(Path(name).expanduser().absolute()) if name and Path(name).expanduser().exists() else name
        for name in (request.model, request.base)
    )
    device = request.device if gpu else "cpu"
    located = replace(request, inputs=[], out=request.out.absolute(), model=model, base=base, device=device)
    return replace(located, prompt=request.asked, prompts=None)


@contextlib.contextmanager
def _shared_folder(out: Path) -> Iterator[Path]:
    """Make a folder for notes of a run, which every machine has to see; its name was never there before."""
    for left in out.glob(".medglip-*.cluster"):  # of runs that were killed
        shutil.rmtree(left, ignore_errors=True)
    folder = out.absolute() / f".medglip-{secrets.token_hex(8)}.cluster"
    try:
        folder.mkdir()
    except OSError as error:
        raise MedGlipError(
            f"--out {one_line(out.name, 120)}: cannot be written to ({one_line(error.strerror)})"
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _outcomes(
    ray: Any, plan: ActorPlan, request: GroundRequest, works: Sequence[Work], folder: Path
) -> Generator[tuple[int, Outcome], None, None]:
    """Let Ray Data map batches of indices to outcomes, which come back one by one."""
    _set_context(ray.data.DataContext.get_current())
    size = 1 if any(one.volume for one, _ in works) else max(1, min(MAX_BATCH, len(works) // (4 * plan.actors)))
    identity = checkpoint_identity(request.model, request.base)
    # Blocks that are there already need no processor to make them, which actors may hold all of.
    indices = [{"index": index} for index in range(len(works))]
    rows = ray.data.from_items(indices, override_num_blocks=-(-len(works) // size))
    results = rows.map_batches(
        GroundActor,
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=plan.actors),
        fn_constructor_args=(request, list(works), plan.cpus, identity, folder),
        num_cpus=plan.cpus,
        num_gpus=1 if plan.gpu else None,
        memory=MEMORY,
    )
    with contextlib.closing(iter(results.iter_batches(batch_size=None, prefetch_batches=0))) as batches:
        for batch in batches:
            yield from zip(batch["index"].tolist(), map(_outcome, batch["content"].tolist()), strict=True)


def _set_context(context: Any) -> None:
    """Set how Ray Data runs: silently, with every outcome sent as soon as it is there, and without a limit of time."""
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1
    context.execution_no_progress_timeout_s = -1


def _outcome(content: str) -> Outcome:
    """Return the outcome that an actor sent. Raises what the actor could not go on with."""
    kind, _, text = content.partition(" ")
    if kind == "done":
        return Outcome.from_json(text)
    raise (UsageError if kind == "usage" else MedGlipError)(text)


class GroundActor:
    """Grounds batches of inputs on a machine of the cluster.

    Args:
        request ([`GroundRequest`]): the options of the run, with absolute paths.
        works (`Sequence[tuple[Input, str]]`): all inputs and the stems of the names of their files.
        threads (`int`): of PyTorch.
        identity (`Mapping[str, str]`): of package and checkpoint, see [`~session.checkpoint_identity`].
        folder (`Path`): of the notes of the run.
    """

    def __init__(
        self,
        request: GroundRequest,
        works: Sequence[Work],
        threads: int,
        identity: Mapping[str, str | None],
        folder: Path,
    ) -> None:
        self._request, self._works, self._folder = request, works, folder
        self._problem: str | None = None
        try:
            self._check(identity)
            self._worker = Worker(request, threads)
        except MedGlipError as error:  # Ray would show its traceback
            self._problem = f"machine {one_line(platform.node(), 60)} of the Ray cluster: {in_flags(error)}"

    def _check(self, identity: Mapping[str, str | None]) -> None:
        """Refuse a machine that would find something else, or write elsewhere."""
        if not self._folder.is_dir():
            raise MedGlipError(f"does not see --out {self._request.out.name}: name a folder that all machines share")
        local = checkpoint_identity(self._request.model, self._request.base)
        names = {"version": "version of MedGLIP", "model": "checkpoint", "base": "base of the adapter"}
        for name, value in identity.items():
            if local[name] != value:
                raise MedGlipError(f"has another {names[name]}: every machine needs the same")

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[dict[str, list[Any]]]:
        """Yield what became of every input of a batch."""
        for index in batch["index"].tolist():
            yield {"index": [index], "content": [self._ground(index)]}

    def _ground(self, index: int) -> str:
        if self._problem is not None:
            return f"failed {self._problem}"
        try:
            with self._attempt(index) as allowed:
                outcome = self._worker.ground(self._works[index]) if allowed else self._given_up(index)
        except UsageError as error:
            return f"usage {in_flags(error)}"
        except MedGlipError as error:
            return f"failed {in_flags(error)}"
        except OSError as error:
            name = one_line(self._request.out.name, 120)
            return f"failed --out {name}: cannot be written to ({one_line(error.strerror)})"
        return f"done {outcome.to_json()}"

    def _given_up(self, index: int) -> Outcome:
        name = one_line(self._works[index][0].name, 120)
        reason = f"{name}: ended its process {ATTEMPTS} times, as when memory runs out: take fewer --jobs"
        with contextlib.redirect_stderr(io.StringIO()) as warned:
            fail(reason, 1, False)
        return Outcome(InputRecord(name, "failed", 0.0, error=reason), [], warned=warned.getvalue())

    @contextlib.contextmanager
    def _attempt(self, index: int) -> Iterator[bool]:
        """Note that an input is being grounded, until it is; `False` if that ended too many processes before."""
        notes = [self._folder / f"{index}.{number}" for number in range(ATTEMPTS)]
        note = next((note for note in notes if not note.exists()), None)
        if note is not None:
            note.write_text(f"{platform.node()} {os.getpid()}\n", encoding="utf-8")
        yield note is not None
        for note in notes:
            note.unlink(missing_ok=True)


__all__ = ["ActorPlan", "GroundActor", "ground_on_cluster", "plan_actors"]
