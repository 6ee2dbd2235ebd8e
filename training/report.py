# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Markdown tables out of `results.json`: `python -m training.report results.json [--out FILE]`. No number is typed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def percent(value: float | None, digits: int = 1) -> str:
    """A share (0..1) in per cent, or a dash."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def render_markdown(results: dict[str, Any]) -> str:
    """All tables of an evaluation: the summary, then labels, wordings and sides of every modality."""
    parts = [summary_table(results)]
    for modality, result in results["modalities"].items():
        parts.append(f"### {modality}\n\n" + label_table(result))
        if result["synonyms"]:
            parts.append("Other words for the same thing, and parent terms:\n\n" + wording_table(result))
        if result["side_confusion"]["labels"]:
            parts.append("Best box on the other side:\n\n" + side_table(result))
    return "\n".join(parts)


def summary_table(results: dict[str, Any]) -> str:
    """One row per modality."""
    header = ["modality", "train images", "validation images", "AP50", "AP", "AP50, 30+ train images"]
    header += ["side confusion %", "best score, present", "absent", "foreign", "s per image"]
    rows = []
    for modality, result in results["modalities"].items():
        row = [modality, result["train_images"], result["images"], percent(result["AP50"]), percent(result["AP"])]
        row += [percent(result["AP50_well_shown"]), percent(result["side_confusion"]["share"])]
        row += [_plain(result["scores"][key]) for key in ("present", "absent", "foreign")]
        rows.append([*row, _plain(result["seconds_per_image"])])
    return table(header, rows)


def label_table(result: dict[str, Any]) -> str:
    """One row per source and label, best shown labels first within a source."""
    header = ["source: label", "train images", "validation images (boxes)", "AP50", "AP"]
    rows = []
    for source, part in result["sources"].items():
        counts = [part["train_images"], part["images"]]
        rows.append([f"**{source}**", *counts, percent(part["AP50"]), percent(part["AP"])])
        for label, entry in sorted(part["labels"].items(), key=lambda item: (-item[1]["train_images"], item[0])):
            shown = f"{entry['validation_images']} ({entry['validation_boxes']})"
            rows.append([label, entry["train_images"], shown, percent(entry["AP50"]), percent(entry["AP"])])
    return table(header, rows)


def wording_table(result: dict[str, Any]) -> str:
    """One row per wording."""
    rows = [
        [f"{row['source']}: {row['label']}", row["wording"], percent(row["AP50"]), percent(row["AP"])]
        for row in result["synonyms"]
    ]
    return table(["source: label", "asked as", "AP50", "AP"], rows)


def side_table(result: dict[str, Any]) -> str:
    """One row per sided label."""
    entries = result["side_confusion"]["labels"].items()
    rows = [[name, entry["pictures"], entry["wrong"]] for name, entry in entries]
    return table(["label", "pictures with both sides", "wrong"], rows)


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.report", description=__doc__)
    parser.add_argument("results", help="results.json of training.evaluate")
    parser.add_argument("--out", default=None, help="file to write; default: standard output")
    arguments = parser.parse_args(argv)
    try:
        text = render_markdown(json.loads(Path(arguments.results).read_text(encoding="utf-8")))
        if arguments.out:
            Path(arguments.out).write_text(text, encoding="utf-8")
        else:
            sys.stdout.write(text)
    except (OSError, ValueError) as error:
        print(f"error: {arguments.results}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
