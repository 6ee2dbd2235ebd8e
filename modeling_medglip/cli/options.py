# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Options that several commands share, and checks of options before PyTorch is imported or a process is started."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import UsageError, one_line
from ..modalities import resolve_modality


Model = Annotated[
    str | None, typer.Option("--model", metavar="DIR_OR_ID", help="Checkpoint, adapter or run: a folder, or a Hub id.")
]
Base = Annotated[
    str | None, typer.Option("--base", metavar="DIR_OR_ID", help="Of an adapter: what it was trained on.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
Threshold = Annotated[float, typer.Option("--threshold", min=0.0, max=1.0, help="Lowest score to keep.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for overlays and boxes.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")]

MAX_PROMPTS_BYTES = 2**20
ENGINES = ("local", "ray")
# What Windows can wait for.
MAX_PROCESSES = 61
PLANES = ("axial", "coronal", "sagittal", "all")
DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,3})?")
# The two directions of each axis of the patient.
DIRECTIONS = ("LR", "PA", "SI")
# Characters that do not make a label by themselves.
NO_LABEL = re.compile(r"[.;,\[\]<>_\s]+")
TABLE_SUFFIXES = {"--report": ".json", "--csv": ".csv", "--parquet": ".parquet"}
COMMENT = re.compile(r"(?:^|\s)#.*")


def usage_error(problem: object, command: str = "ground") -> UsageError:
    """Return the error of a wrong option; it points to the help of the command."""
    return UsageError(f"{one_line(problem)} (medglip {command} --help shows the usage)")


def checked_prompt(prompt: str | None, prompts: Path | None) -> str:
    """Return the prompt: that of `--prompt`, or the lines of the file of `--prompts`.

    Raises:
        `UsageError`: none or both are given, the file cannot be read, or there is no label.
    """
    if prompt is None and prompts is None:
        raise usage_error("Missing option '--prompt' or '--prompts'.")
    if prompt is not None and prompts is not None:
        raise usage_error("--prompt and --prompts: give one of them")
    text = prompt if prompts is None else read_prompts(prompts)
    assert text is not None
    if not text.isascii() and text.encode("utf-8", "replace").decode("utf-8") != text:
        raise usage_error("the prompt is not valid UTF-8 text")
    if not NO_LABEL.sub("", text):
        where = (
            "the prompt is empty" if prompts is None else f"--prompts {one_line(prompts.name, 120)}: holds no label"
        )
        raise usage_error(f'{where}: name at least one label, for example "liver. spleen."')
    return text


def read_prompts(path: Path) -> str:
    """Return the labels of a text file (UTF-8, with or without a byte order mark), one a line, without `#` comments.

    Raises:
        `UsageError`: the file is missing, too large, or no UTF-8 text; names it.
    """
    name = f"--prompts {one_line(path.name, 120)}"
    try:
        if path.exists() and not path.is_file():
            raise usage_error(f"{name}: is not a plain file")
        with path.open("rb") as stream:
            content = stream.read(MAX_PROMPTS_BYTES + 1)
    except FileNotFoundError:
        raise usage_error(f"{name}: no such file") from None
    except OSError as error:
        raise usage_error(f"{name}: cannot be read ({one_line(error.strerror)})") from None
    if len(content) > MAX_PROMPTS_BYTES:
        raise usage_error(f"{name}: has more than {MAX_PROMPTS_BYTES} bytes")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise usage_error(f"{name}: is not UTF-8 text: save it as UTF-8") from None
    return "\n".join(filter(None, (COMMENT.sub("", line).strip() for line in lines)))


def check_modality(name: str) -> None:
    """Raise `UsageError` unless a name is `"auto"` or that of a modality."""
    try:
        if name != "auto":
            resolve_modality(name)
    except ValueError as error:
        raise usage_error(error) from None


def check_device(name: str) -> None:
    """Raise `UsageError` for a name that no device has; whether this machine has the device is known later."""
    if not DEVICE.fullmatch(name.strip().lower()):
        raise usage_error(f"--device {one_line(name, 40)!r}: choose auto, cpu, cuda, cuda:1 or mps")


def check_engine(engine: str, jobs: int | None, device: str) -> None:
    """Raise `UsageError` for an engine that does not exist, or that cannot do what `--jobs` and `--device` ask for."""
    if engine not in ENGINES:
        raise usage_error(f"--engine {one_line(engine, 40)!r}: choose one of {', '.join(ENGINES)}")
    if engine == "local" and (jobs or 1) > MAX_PROCESSES:
        raise usage_error(f"--jobs {jobs}: one machine runs {MAX_PROCESSES} processes at most: take fewer")
    if engine == "ray" and device.strip().lower() not in ("auto", "cpu", "cuda"):
        problem = f"--device {one_line(device, 40)}: Ray chooses the GPU of each process"
        raise usage_error(f"{problem}: give auto, cpu or cuda with --engine ray")


def check_axes(axes: str | None) -> None:
    """Raise `UsageError` unless three letters say where three axes run."""
    pairs = [next((pair for pair in DIRECTIONS if letter in pair), "") for letter in (axes or "LPS").upper()]
    if sorted(pairs) != sorted(DIRECTIONS):
        raise usage_error(f"--axes {one_line(axes, 40)!r}: give three letters such as LPS or RAS, one of each pair")


def check_out(out: Path) -> None:
    """Raise `UsageError` for a folder that can neither be used nor made."""
    existing = next((parent for parent in (out, *out.absolute().parents) if parent.exists()), out)
    if not existing.is_dir():
        raise usage_error(
            f"--out {one_line(out.name, 120)}: cannot be made ({one_line(existing.name, 120)} is a file)"
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise usage_error(f"--out {one_line(out.name, 120)}: cannot be written to")


def checked_plane(plane: str | None) -> str | None:
    """Return a plane that exists. Raises `UsageError` for others."""
    if plane is not None and plane not in PLANES:
        raise usage_error(f"--plane {one_line(plane, 40)!r}: choose one of {', '.join(PLANES)}")
    return plane


def checked_frame(frame: str | None, every: int | None) -> int | Literal["all"] | None:
    """Return what `--frame` asks for: a number from 1 on, or `"all"`.

    Raises:
        `UsageError`: something else, or `--every` without `--frame all`.
    """
    if every is not None and frame != "all":
        raise usage_error("--every is for --frame all")
    if frame is None or frame == "all":
        return "all" if frame else None
    if not (frame.isascii() and frame.isdigit() and 0 < len(frame) < 10 and int(frame) > 0):
        raise usage_error(f"--frame {one_line(frame, 40)!r}: give a number from 1 on, or all")
    return int(frame)


def known_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return what `--write` asks for, once each.

    Raises:
        `UsageError`: something that is not written.
    """
    from ..outputs.files import volume_output_names

    known = tuple(volume_output_names(""))
    for kind in kinds:
        if kind not in known:
            raise usage_error(f"--write {one_line(kind, 40)!r}: choose of {', '.join(known)}")
    return tuple(dict.fromkeys(kinds))


def check_table(option: str, path: Path | None, taken: Iterable[Path], out: Path) -> None:
    """Refuse a file of `--report` or `--csv` that cannot be written, or would overwrite something.

    Args:
        option (`str`): `"--report"` or `"--csv"`.
        path (`Path`, *optional*): the file; nothing is checked without one.
        taken (`Iterable[Path]`): inputs and results of the run.
        out (`Path`): the folder of the results.

    Raises:
        `UsageError`: names the option and the file.
    """
    from ..outputs.files import canonical_path

    if path is None:
        return
    name = f"{option} {one_line(path.name, 120)}"
    above = {canonical_path(parent) for parent in (path, *path.absolute().parents)}
    # A folder of inputs may hold the table, whose suffix is that of no input.
    in_inputs = path.suffix.lower() == TABLE_SUFFIXES[option]
    if above & {canonical_path(other) for other in taken if not (in_inputs and other.is_dir())}:
        raise usage_error(f"{name}: is an input or a result of this run, or below one: choose another name")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise usage_error(f"{name}: is not a plain file")
    if path.is_dir() or canonical_path(path) in {canonical_path(parent) for parent in (out, *out.absolute().parents)}:
        raise usage_error(f"{name}: is a folder: give a file")
    folder = next((parent for parent in path.absolute().parents if parent.exists()), path.parent)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise usage_error(f"{name}: its folder cannot be written to")


def check_port(port: int | None) -> None:
    """Raise `UsageError` if a port of 127.0.0.1 is taken."""
    if port is None:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if os.name == "posix":  # elsewhere the option lets two programs share a port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason = one_line(error.strerror)
            other = port + 1 if port < 2**16 - 1 else port - 1
            problem = f"--port {port}: cannot be used ({reason}): try --port {other}, or leave it out for a free one"
            raise usage_error(problem, "demo") from None


__all__ = [
    "Base",
    "Debug",
    "Device",
    "Model",
    "Out",
    "Threshold",
    "check_axes",
    "check_device",
    "check_engine",
    "check_modality",
    "check_out",
    "check_port",
    "check_table",
    "checked_frame",
    "checked_plane",
    "checked_prompt",
    "known_kinds",
    "read_prompts",
    "usage_error",
]
