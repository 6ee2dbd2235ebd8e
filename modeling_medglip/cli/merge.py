# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""`medglip merge`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from .console import echo
from .options import Base, Debug
from .session import quiet_libraries, quiet_transformers


@dataclass(frozen=True)
class MergeCommand:
    """Write an adapter and its base as one checkpoint, which loads everywhere a checkpoint does."""

    model: Annotated[str, typer.Option("--model", metavar="DIR_OR_ID", help="Adapter, or the run that made it.")]
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder for the checkpoint.")]
    base: Base = None
    debug: Debug = False

    def run(self) -> int:
        """Merge and return the exit status."""
        with quiet_libraries(self.debug):
            quiet_transformers(self.debug)
            from ..checkpoints.adapters import merge_adapter

            merge_adapter(self.model, self.out, self.base)
        echo(f"written to {self.out}: use it with --model {self.out}")
        return 0


__all__ = ["MergeCommand"]
