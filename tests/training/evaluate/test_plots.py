# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Plots of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.evaluate.metrics import RECALLS
from training.evaluate.phrase_metrics import FALSE_PER_IMAGE
from training.evaluate.plots import write_plots


def part(share: float | None) -> dict[str, Any]:
    bins = [{"score": 0.2, "right": 0.3, "boxes": 9}, {"score": 0.8, "right": 0.7, "boxes": 3}]
    curve = [] if share is None else [1 - 0.5 * at for at in RECALLS]
    shares = {f"{rate:g}": share for rate in FALSE_PER_IMAGE}
    return {"froc": shares, "reliability": bins, "curve": curve, "AP50": share}


def test_all_are_drawn_again_alike(tmp_path: Path) -> None:
    results = {"modalities": {"ct": part(0.7), "mri": part(None)}}
    written = write_plots(results, tmp_path)
    assert [path.name for path in written] == ["precision_recall.png", "froc.png", "reliability.png"]
    before = [path.read_bytes() for path in written]
    assert all(len(np.unique(np.asarray(Image.open(path)))) > 20 for path in written)
    assert [path.read_bytes() for path in write_plots(results, tmp_path)] == before


def test_older_results_have_none(tmp_path: Path) -> None:
    assert write_plots({"modalities": {"ct": {"AP": 0.5}}}, tmp_path) == [] and not list(tmp_path.iterdir())
