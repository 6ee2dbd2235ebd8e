# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The profile of the full-size model and the networks that the benchmark runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import bench_grounding, profile_grounding
from tests.modeling_medglip.tiny_model import tiny_config
from training.evaluate.tables import BASELINE


def test_the_committed_page_is_what_the_command_writes() -> None:
    docs = Path(__file__).parents[3] / "docs"
    found = json.loads((docs / "profile.json").read_text(encoding="utf-8"))
    assert (docs / "profile.md").read_text(encoding="utf-8") == profile_grounding.page(found)


def test_every_operator_counts_for_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        profile_grounding, "PROMPT", [2, *(token for label in range(7) for token in (3 + label, 1)), 1]
    )
    found = profile_grounding.measure(64, 1, tiny_config())
    for parts in found.values():
        assert {profile_grounding.SAMPLING, profile_grounding.PRODUCTS, "image encoder", "text encoder"} <= set(parts)
        assert all(milliseconds > 0 for milliseconds in parts.values())


def test_variants_are_added_to_both_networks_of_the_same_size() -> None:
    cpu = bench_grounding.network_names("cpu", ["float32"])
    assert cpu == [bench_grounding.OURS, BASELINE, bench_grounding.OMDET, bench_grounding.AS_TRAINED]
    cuda = bench_grounding.network_names("cuda", bench_grounding.VARIANTS)
    assert bench_grounding.AS_TRAINED not in cuda
    assert {f"{BASELINE}, bfloat16", f"{bench_grounding.OURS}, compiled"} <= set(cuda)
