# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The committed page of the adapter's figures."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks.bench_adapter import page


def test_the_committed_page_is_what_the_command_writes() -> None:
    docs = Path(__file__).parents[3] / "docs"
    assert (docs / "adapter.md").read_text(encoding="utf-8") == page(
        json.loads((docs / "adapter.json").read_text(encoding="utf-8"))
    )
