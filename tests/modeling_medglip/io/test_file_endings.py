# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Kinds of files by their names."""

from __future__ import annotations

from pathlib import Path

from modeling_medglip.io.file_endings import is_volume_file


def test_names_of_volumes() -> None:
    assert is_volume_file(Path("A.NII.gz")) and is_volume_file(Path("b.mhd"))
    assert not is_volume_file(Path("c.png")) and not is_volume_file(Path("d.mgz"))
