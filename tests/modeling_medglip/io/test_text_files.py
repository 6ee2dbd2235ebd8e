# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Text, JSON and YAML of unknown origin: read within bounds, one error type."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml

from modeling_medglip.errors import MedGlipError
from modeling_medglip.io.text_files import load_yaml, read_json, read_text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[" * 100 + b"]" * 100, "nested more than 64 levels"),
        (b'{"a":' * 100_000, "nested more than 64 levels"),
        (b'{"a": 1, "a": 2}', "a key occurs twice"),
        (b"9" * 5000, "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"", "not valid JSON"),
    ],
)
def test_json_that_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(MedGlipError, match=f"^a.json: .*{problem}") as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_json_within_the_bounds(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [[1e999]]}')
    assert read_json(tmp_path / "a.json") == {"a": [[float("inf")]]}


def test_size_and_kind_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 11, encoding="utf-8")
    assert read_text(tmp_path / "a.txt", 11) == "x" * 11
    with pytest.raises(MedGlipError, match="^a.txt: has more than 10 bytes"):
        read_text(tmp_path / "a.txt", 10)
    for name in ("b\0.txt", "\ud800.txt", "x" * 5000, "none.txt"):
        with pytest.raises(MedGlipError, match="cannot be read"):
            read_text(tmp_path / name)
    with pytest.raises(MedGlipError, match="is not a regular file"):
        read_text(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes in folders")
def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(MedGlipError, match="^a.json: is not a regular file"):
        read_json(tmp_path / "a.json")


ALIASES = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))
MERGES = "\n".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 10))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("files: &f {a: *f}", "stands inside its own anchor"),
        (f"a0: &a0 [x]\n{ALIASES}", "more than 500000 values"),
        (f"a0: &a0 {{x: 1}}\n{MERGES}", "more than 500000 values"),
        ("[" * 100 + "]" * 100, "nested more than 64 levels"),
        ("[" * 100_000, "nest"),
        ("a: 1\nb: 2\na: 3", "'a' occurs twice"),
        ("x: 2001-99-99", "cannot be read"),
        ("x: !!int abc", "cannot be read"),
        ("x: !!timestamp x", "cannot be read"),
        ("x: !!bool perhaps", "cannot be read"),
        ("x: " + "9" * 5000, "cannot be read"),
        ("x: \ud800", "cannot be read"),
        ("x: \0", "character"),
        ("{[a]: b}", "unhashable"),
        ("!!python/object/apply:os.getcwd []", "constructor"),
    ],
)
def test_yaml_that_is_refused(text: str, problem: str) -> None:
    with pytest.raises(yaml.YAMLError, match=problem):
        load_yaml(text)


def test_yaml_with_aliases() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: [*a, *a]"
    assert load_yaml(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": [{"x": 1, "y": 2}] * 2}
