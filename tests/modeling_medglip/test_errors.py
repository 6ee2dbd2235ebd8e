# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Errors: they advise arguments, which the command line shows as its options."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import modeling_medglip
from modeling_medglip import ground_image, ground_volume, load_grounder
from modeling_medglip.checkpoints.adapters import merge_adapter
from modeling_medglip.cli import COMMANDS
from modeling_medglip.cli.console import in_flags
from modeling_medglip.errors import HINTS, CheckpointError, MedGlipError


PACKAGE = Path(modeling_medglip.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


@pytest.mark.parametrize(
    ("message", "hint", "shown"),
    [
        ("holds 3 frames (choose with frame=)", "frame", "holds 3 frames (choose with --frame)"),
        ("give modality=, one of ct, mri", "modality", "give --modality, one of ct, mri"),
        ("choose a volume from 1 to 2 (number=)", "number", "choose a volume from 1 to 2 (--volume)"),
        ("or pass several_patients=True", "several_patients", "or pass --several-patients"),
        ("interpolate them (resample=True)", "resample", "interpolate them (--resample)"),
        ("a.png: frame=3 and timeframe= are no advice", None, "a.png: frame=3 and timeframe= are no advice"),
    ],
)
def test_hints(message: str, hint: str | None, shown: str) -> None:
    assert MedGlipError(message).hint == CheckpointError(message).hint == hint
    assert in_flags(message) == shown


def test_hints_are_arguments_and_options() -> None:
    arguments = {
        name
        for function in (ground_image, ground_volume, load_grounder, merge_adapter)
        for name in inspect.signature(function).parameters
    }
    options = {
        f"--{name.replace('_', '-')}"
        for command in COMMANDS.values()
        for name in inspect.signature(command).parameters
    } | {"--out"}
    assert set(HINTS) <= arguments
    assert {in_flags(f"{name}=") for name in HINTS} <= options


def test_only_the_command_line_names_its_options() -> None:
    named = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {found[0]}"
        for path in PACKAGE.rglob("*.py")
        if "cli" not in path.relative_to(PACKAGE).parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and (found := FLAG.search(node.value))
    ]
    assert named == []
