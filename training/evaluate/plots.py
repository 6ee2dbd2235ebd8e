# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Plots of an evaluation: precision and recall, free-response ROC and reliability of all experts, from its JSON."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modeling_medglip.outputs.files import write_bytes

from .metrics import RECALLS
from .phrase_metrics import FALSE_PER_IMAGE


def write_plots(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `precision_recall.png`, `froc.png` and `reliability.png`; none for results without their figures.

    Args:
        results (`Mapping[str, Any]`): content of `results.json`.
        folder (`Path`): where to write.
    """
    needed = {"curve", "froc", "reliability"}
    parts = {name: part for name, part in results["modalities"].items() if needed <= set(part)}
    if not parts:
        return []
    return [
        write_bytes(folder / "precision_recall.png", precision_recall_plot(parts)),
        write_bytes(folder / "froc.png", froc_plot(parts)),
        write_bytes(folder / "reliability.png", reliability_plot(parts)),
    ]


def precision_recall_plot(parts: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Plot mean precision over labels at IoU 0.50, by recall."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, part in parts.items():
        if part["curve"]:
            label = f"{name}, AP50 {100 * part['AP50']:.1f}"
            axes.plot([100 * at for at in RECALLS], [100 * value for value in part["curve"]], label=label)
    axes.set(xlabel="recall, %", ylabel="precision, %", xlim=(0, 100), ylim=(0, 101), title="Mean over labels")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    return png_of(figure)


def froc_plot(parts: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Plot the share of the true boxes found, by false boxes per image."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, part in parts.items():
        shares = [part["froc"][f"{count:g}"] for count in FALSE_PER_IMAGE]
        if None not in shares:
            axes.plot(FALSE_PER_IMAGE, [100 * share for share in shares], marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(FALSE_PER_IMAGE, [f"{count:g}" for count in FALSE_PER_IMAGE])
    axes.set(xlabel="false boxes per image", ylabel="true boxes found, %", ylim=(0, 101), title="FROC, all labels")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return png_of(figure)


def reliability_plot(parts: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Plot the share of right boxes by score; calibrated scores are on the diagonal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="gray", linestyle=":")
    for name, part in parts.items():
        bins = part["reliability"]
        axes.plot([entry["score"] for entry in bins], [entry["right"] for entry in bins], marker="o", label=name)
    axes.set(xlabel="score", ylabel="share of right boxes", xlim=(0, 1), ylim=(0, 1.01), title="Reliability")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return png_of(figure)


def png_of(figure: Any) -> bytes:
    """Return a figure of matplotlib as PNG, the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
