# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Errors: they advise arguments, which the command line shows as its options."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import modeling_medglip
from modeling_medglip import ground_image, ground_volume, load_grounder
from modeling_medglip.checkpoints.adapters import merge_adapter
from modeling_medglip.cli import COMMANDS, main
from modeling_medglip.cli.console import in_flags
from modeling_medglip.errors import HINTS, Advice, CheckpointError, Hint, MedGlipError, hint_of
from modeling_medglip.io.coco_shapes import AnnotationError
from modeling_medglip.volumes.header import VolumeError


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
        ("frame=.png: choose with frame=", "frame", "frame=.png: choose with --frame"),
        ("model=1.png: cannot be read", None, "model=1.png: cannot be read"),
        ("out=: is empty", None, "out=: is empty"),
    ],
)
def test_hints(message: str, hint: Hint | None, shown: str) -> None:
    for advice in (MedGlipError(message, hint=hint), CheckpointError(message, hint=hint), Advice(message, hint)):
        assert str(advice) == message and in_flags(advice) == shown
        for copied in (copy.deepcopy(advice), pickle.loads(pickle.dumps(advice))):  # noqa: S301
            assert str(copied) == message and hint_of(copied) == hint
    assert hint_of(message) is None and in_flags(message) == message


def every_error(kind: type[MedGlipError] = MedGlipError) -> Iterator[type[MedGlipError]]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from every_error(subclass)


ERRORS = sorted(
    (kind for kind in every_error() if kind.__module__.startswith(PACKAGE.name)), key=lambda kind: kind.__name__
)


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_pass_between_processes(kind: type[MedGlipError]) -> None:
    values = {"message": "scan.nii: 2 frames", "rule": "too_large", "reason": "2 frames", "hint": "frame"}
    names = inspect.signature(kind).parameters
    error = kind(**{name: values.get(name, name) for name in names})
    error.add_note("in the second study")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for copied in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error), copy.deepcopy(error)):  # noqa: S301
            assert type(copied) is kind and copied.args == error.args and str(copied) == str(error)
            assert vars(copied) == vars(error) and set(names) - {"message"} <= set(vars(copied))


def test_errors_with_a_rule_are_among_them() -> None:
    assert {VolumeError, AnnotationError, CheckpointError} <= set(ERRORS)
    copied = pickle.loads(pickle.dumps(VolumeError("scan.nii: 9 GB", "too_large", hint="resample")))  # noqa: S301
    assert (str(copied), copied.rule, copied.hint) == ("scan.nii: 9 GB", "too_large", "resample")


@pytest.mark.parametrize("name", ["model=1.png", "model=.png", "frame=.png"])
def test_names_of_files_are_shown_as_they_are(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--prompt", "liver", "--no-isolate", "--out", str(tmp_path / "out")]
    assert main(["ground", str(tmp_path / name), *options]) == 1
    assert capsys.readouterr().err == f"medglip: error: {name}: no such file\n"


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
    assert {in_flags(Advice(f"{name}=", name)) for name in HINTS} <= options


def test_messages_carry_the_hint_that_they_name() -> None:
    advised = re.compile(rf"(?<!\w)({'|'.join(HINTS)})=(?:True\b|(?!\w))")
    for path in PACKAGE.rglob("*.py"):
        if path.name == "image_processing_medglip.py" or path.parent.name == "cli":
            continue  # a remote-code file raises ValueError; the command line names its options
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        named = {found[1] for text in texts if "\n" not in text for found in advised.finditer(text)}
        assert named <= set(texts), path


def test_only_the_command_line_names_its_options() -> None:
    named = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {found[0]}"
        for path in PACKAGE.rglob("*.py")
        if "cli" not in path.relative_to(PACKAGE).parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and (found := FLAG.search(node.value))
    ]
    assert named == []
