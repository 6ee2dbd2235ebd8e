# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Names of files from annotation files."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset_scripts.records import Rejected, inside


@pytest.mark.parametrize("name", ["..", "a/../../b", "/etc/passwd", "a\\b", "a\0b"])
def test_names_that_climb(tmp_path: Path, name: str) -> None:
    with pytest.raises(Rejected) as error:
        inside(tmp_path, name)
    assert error.value.rule == "leaves_folder"
