# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""`medglip info` and `medglip env`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ..outputs.run_report import RESEARCH_USE, environment, package_version, taxonomy_counts
from .console import echo, print_rows
from .options import Debug


LICENSE_COLUMNS = ("part", "license", "modality", "remarks")


@dataclass(frozen=True)
class InfoCommand:
    """What is installed: version, embedded checkpoint, labels it was trained with, taxonomy."""

    licenses: Annotated[bool, typer.Option("--licenses", help="Licenses of code, weights and training data.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
    debug: Debug = False

    def run(self) -> int:
        """Print and return the exit status."""
        from ..checkpoints.info import checkpoint_info
        from ..checkpoints.location import embedded_checkpoint

        folder = embedded_checkpoint()
        content: dict[str, Any] = {"version": package_version(), "checkpoint": folder.name, **checkpoint_info(folder)}
        content |= {"taxonomy": taxonomy_counts(), "notice": RESEARCH_USE}
        if self.as_json:
            typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
        elif self.licenses:
            print_rows(LICENSE_COLUMNS, [[row[name] for name in LICENSE_COLUMNS] for row in content["licenses"]])
        else:
            _print_info(content)
        return 0


@dataclass(frozen=True)
class EnvCommand:
    """Versions, devices and settings, to paste into a bug report. Names no host, user or folder."""

    debug: Debug = False

    def run(self) -> int:
        """Print and return the exit status."""
        for key, value in environment().items():
            typer.echo(f"{key}: {value}")
        return 0


def _print_info(content: dict[str, Any]) -> None:
    echo(f"med-glip {content['version']}, embedded checkpoint {content['checkpoint']} ({content['weights_mb']} MB)")
    rows = [
        [modality, str(len(labels := content["labels"].get(modality, []))), ", ".join(labels) or "not stated"]
        for modality in content["modalities"]
    ]
    print_rows(["modality", "labels", "trained with"], rows)
    echo("taxonomy: " + ", ".join(f"{count} {name}" for name, count in content["taxonomy"].items()))
    echo(RESEARCH_USE)


__all__ = ["EnvCommand", "InfoCommand"]
