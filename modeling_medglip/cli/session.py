# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What the commands that run a network share: quiet libraries, the loaded checkpoint, the folder, the last lines."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError, one_line
from ..outputs.run_report import RESEARCH_USE, InputRecord
from .console import echo, warn


if TYPE_CHECKING:
    from ..grounding import Grounder


@contextmanager
def quiet_libraries(debug: bool) -> Iterator[None]:
    """Suppress warnings and log messages of other libraries inside the block, unless `debug` is set."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if debug:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The package's own warnings come with the results.
        loggers = [logging.getLogger(name) for name in ("huggingface_hub", "modeling_medglip")]
        levels = [logger.level for logger in loggers]
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def quiet_transformers(debug: bool) -> None:
    """Suppress warnings and loading bars of transformers, unless `debug` is set. Imports PyTorch."""
    from transformers.utils import logging as transformers_logging

    if not debug:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()


def load_model(
    model: str | None,
    device: str,
    modality: str | None = None,
    base: str | None = None,
    debug: bool = False,
    print_device: bool = True,
) -> Grounder:
    """Load a checkpoint and print its name and device.

    Args:
        model (`str`, *optional*): see [`~modeling_medglip.load_grounder`], as for the next three.
        device (`str`): where the model runs.
        modality (`str`, *optional*): the only expert to load.
        base (`str`, *optional*): of an adapter.
        debug (`bool`, *optional*, defaults to `False`): show what transformers logs.
        print_device (`bool`, *optional*, defaults to `True`): print its device too.
    """
    if model is not None and (Path(model).expanduser() / "export.json").is_file():
        # Or the idle threads of PyTorch would take the processors from those of the graphs.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quiet_transformers(debug)
    from ..grounding import load_grounder
    from ..inference import keep_freed_memory

    keep_freed_memory()
    grounder = load_grounder(model, device, modality, base)
    echo(f"{grounder.name} on {grounder.device}" if print_device else grounder.name)
    if not grounder.trained.stated:
        warn("warning", f"{grounder.name} does not state what it was trained with: no label is held back")
    return grounder


def checkpoint_identity(model: str | None, base: str | None) -> dict[str, str | None]:
    """Return the version of the package and the checksums of a checkpoint and its base, wherever their files lie.

    Args:
        model (`str`, *optional*): see [`~modeling_medglip.load_grounder`].
        base (`str`, *optional*): of an adapter.
    """
    from ..outputs.run_report import package_version

    digests = {"model": _digest(model), "base": None if base is None else _digest(base)}
    return {**digests, "version": package_version()}


def _digest(model: str | None) -> str:
    """Return the checksum of a checkpoint's files."""
    from ..checkpoints.loading import CONFIG_FILE, file_on_hub, locate
    from ..checkpoints.location import folder_sha256

    source, _ = locate(model)
    if isinstance(source, Path):
        return folder_sha256(source)
    file = file_on_hub(source, "config.json") or file_on_hub(source, CONFIG_FILE)
    return source if file is None else folder_sha256(file.parent)


def make_folder(out: Path) -> None:
    """Make the folder of the results.

    Raises:
        `UsageError`: that is not possible.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {one_line(out.name)}: cannot be made ({one_line(error.strerror)})") from None


def finish(records: Sequence[InputRecord], out: Path) -> int:
    """Print the last lines of a run and return its exit status.

    Args:
        records (`Sequence[InputRecord]`): what became of every input.
        out (`Path`): the folder of the results.
    """
    done = [record for record in records if record.status == "done"]
    echo("")
    if done:
        mean = sum(record.seconds for record in done) / len(done)
        echo(f"{len(done)} of {len(records)} images done, {mean:.2f} s each; written to {out}")
    echo(RESEARCH_USE)
    return 0 if len(done) == len(records) else 1


__all__ = ["checkpoint_identity", "finish", "load_model", "make_folder", "quiet_libraries", "quiet_transformers"]
