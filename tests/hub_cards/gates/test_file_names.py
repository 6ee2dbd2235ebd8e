# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Which files a repository may have."""

from __future__ import annotations

import pytest

from hub_cards.gates import file_names


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("model", "DOE_JANE_1970.json"), ("model", "sub/config.json"), ("model", "model.safetensors.txt"),
        ("dataset", "ct/train.parquet"), ("dataset", "recipes/DOE.yaml"), ("dataset", "med.py"),
        ("dataset", "a<b>.json"), ("space", "scan.py"), ("space", "modeling_medglip/checkpoints/x.safetensors"),
        ("adapter", "optimizer.pt"),
    ],
)  # fmt: skip
def test_unknown_files(role: str, name: str) -> None:
    needed = list(file_names.NEEDED[role]) + (["model.safetensors"] if role == "model" else [])
    assert file_names.check_file_names(role, needed) == []
    assert role not in ("model", "adapter") or file_names.check_file_names(role, [*needed, "router.safetensors"]) == []
    (fault,) = file_names.check_file_names(role, [*needed, name])
    assert "does not belong in the repository" in fault


def test_a_router_does_not_replace_the_weights() -> None:
    files = [*file_names.NEEDED["model"], "router.safetensors"]
    assert file_names.check_file_names("model", files) == ["model.safetensors is missing"]
