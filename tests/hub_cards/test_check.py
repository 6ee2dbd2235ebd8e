# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The check of a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub_cards import check


def test_a_folder_without_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    faults = check.check_folder("model", tmp_path)
    assert "README.md is missing" in faults and "model.safetensors is missing" in faults
    assert check.main([str(tmp_path), "--kind", "model"]) == 1
    assert "modeling_medglip.py is missing" in capsys.readouterr().out
    assert check.main([str(tmp_path / "gone"), "--kind", "model"]) == 2
    assert capsys.readouterr().err == "error: gone: is not a folder\n"
