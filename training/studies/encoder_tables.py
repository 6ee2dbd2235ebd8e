# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The tables of `docs/encoders.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from modeling_medglip.outputs.markdown import percent, plain, table


# The encoder with which the others are compared, and the name of the split that is not of another source.
FIRST = "lite0"
VALIDATION = "validation"


def costs_table(entry: Mapping[str, Any]) -> str:
    """Return a table of size, epochs and times of every encoder.

    Args:
        entry (`Mapping`): of one modality in `encoders.json`.
    """
    rows = []
    for name, encoder in entry["encoders"].items():
        cost, done = encoder["cost"], list(encoder["rows"].values())
        epochs = f"{done[0]['conditions']['epochs']:g}" if done else "-"
        minutes = f"{mean(row['cpu_seconds'] for row in done) / 60:.1f}" if done else "-"
        rows.append(
            [
                name,
                cost["size"],
                epochs,
                minutes,
                f"{cost['step_seconds']:.2f}",
                f"{cost['image_seconds']:.3f}",
                f"{cost['image_ratio']:.2f}",
                f"{cost['megabytes']:.1f}",
            ]
        )
    header = ["encoder", "pixels", "epochs", "CPU minutes", "s per step", "s per image", f"times {FIRST}", "MB"]
    return table(header, rows)


def figures_table(entry: Mapping[str, Any]) -> str:
    """Return a table of AP50 / AP of every encoder, on the sources left out and on the validation split.

    Args:
        entry (`Mapping`): see [`costs_table`].
    """
    encoders = {name: list(encoder["rows"].values()) for name, encoder in entry["encoders"].items() if encoder["rows"]}
    sources = next(iter(encoders.values()))[0]["sources"] if encoders else {}
    left_out = [source for source in sources if source != VALIDATION]
    rows = []
    for name, done in encoders.items():
        by_seed = ", ".join(_mean([row], left_out) for row in done)
        rows.append([name, by_seed, _mean(done, left_out), *(_mean(done, [source]) for source in sources)])
    header = [f"{plain(source)} ({row['images']} images)" for source, row in sources.items()]
    return table(["encoder", "left out, by seed", "left out, mean", *header], rows)


def best(entry: Mapping[str, Any]) -> str:
    """Return which encoder is best on the sources left out, by each figure.

    Args:
        entry (`Mapping`): see [`costs_table`].
    """
    means = {}
    for name, encoder in entry["encoders"].items():
        parts = [
            part["mean"]
            for row in encoder["rows"].values()
            for source, part in row["sources"].items()
            if source != VALIDATION
        ]
        if parts:
            means[name] = {key: mean(part[key] for part in parts) for key in ("AP50", "AP")}
    if not means:
        return ""
    found = ", ".join(f"by {key} **{max(means, key=lambda name: means[name][key])}**" for key in ("AP50", "AP"))
    return f"Best on the sources left out: {found}.\n"


def _mean(rows: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> str:
    """Return the mean AP50 / AP over rows and sources in per cent."""
    means = [row["sources"][source]["mean"] for row in rows for source in sources]
    return " / ".join(percent(mean(entry[key] for entry in means)) for key in ("AP50", "AP"))
