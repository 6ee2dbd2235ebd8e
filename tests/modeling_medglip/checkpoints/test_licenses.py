# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The licenses that a checkpoint states."""

from __future__ import annotations

from pathlib import Path

import pytest

from modeling_medglip.checkpoints.licenses import LICENSES_FILE, license_rows, read_licenses


@pytest.mark.parametrize(
    ("content", "sources"),
    [
        ('[{"source": "a"}, "b"]', [{"source": "a"}]),
        ('{"source": "a"}', []),
        ("no JSON", []),
        ("[" * 100_000, []),
    ],
)
def test_entries_that_are_sources(content: str, sources: list, tmp_path: Path) -> None:
    (tmp_path / LICENSES_FILE).write_text(content, encoding="utf-8")
    assert read_licenses(tmp_path / LICENSES_FILE) == sources


def test_without_a_file_there_are_none(tmp_path: Path) -> None:
    assert read_licenses(tmp_path / LICENSES_FILE) == read_licenses(None) == []


def test_code_and_weights_come_first() -> None:
    assert [row["part"] for row in license_rows([])] == ["code", "weights"]
    assert "research" in license_rows([])[1]["license"]
