# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Old names of modules."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from modeling_medglip.moved import MOVED, MovedModules


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_gives_what_the_new_ones_hold(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(FutureWarning, match=f"{old} has moved to {' and '.join(MOVED[old])}; the old name goes"):
        module = importlib.import_module(old)
    for new in map(importlib.import_module, MOVED[old]):
        names = [name for name, value in vars(new).items() if getattr(value, "__module__", None) == new.__name__]
        assert names and all(getattr(module, name) is getattr(new, name) for name in names)


def test_other_names_are_left_alone(tmp_path: Path) -> None:
    assert MovedModules({"a.b": ("c",)}).find_spec("a.c") is None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("modeling_medglip.never_was")


def test_the_old_name_of_load_grounder(monkeypatch: pytest.MonkeyPatch) -> None:
    from modeling_medglip import grounding

    monkeypatch.setattr(grounding, "load_grounder", lambda *args, **kwargs: (args, kwargs))
    with pytest.warns(FutureWarning, match="grounding.load is now load_grounder"):
        assert grounding.load("a", modality="ct") == (("a",), {"modality": "ct"})
