# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A tiny checkpoint and a few images with boxes, for tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint

from ..tiny_data import make_data


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))
