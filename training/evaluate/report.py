# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The page of results, made from measured files alone: `python -m training.evaluate.report docs/results.json`.

Beside `results.json` (of `training.evaluate`) it takes, where they lie in the same folder, `router.json` (of
`training.fit.router`), `calibration.json` (of `training.fit.calibration`), and `benchmark.json`
and `training_benchmark.json` (of the benchmarks). No number is typed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.errors import MedGlipError
from modeling_medglip.io.text_files import read_json
from modeling_medglip.outputs.files import write_text
from modeling_medglip.outputs.markdown import plain

from ..old_names import with_new_keys
from .tables import (
    benchmark_table,
    calibration_table,
    hierarchy_table,
    label_table,
    measures_table,
    router_table,
    side_table,
    summary_table,
    threshold_table,
    wording_table,
)
from .tta import AVERAGED


# Parts of the page that other commands measure, and their tables.
BESIDE = {
    "router": router_table,
    "benchmark": benchmark_table,
    "calibration": calibration_table,
    "training_benchmark": benchmark_table,
}
MAX_BYTES = 2**26
TEMPLATES = Path(__file__).parent.parent / "templates"


def render_page(results: dict[str, Any], beside: Mapping[str, Any] | None = None) -> str:
    """Return the page of results in Markdown.

    Args:
        results (`dict[str, Any]`): of `training.evaluate`. If they are of the embedded checkpoint, the page is
            `docs/results.md`, else it holds them alone.
        beside (`Mapping[str, Any]`, *optional*): what else was measured, by the names of `BESIDE`; the page says which
            part is missing.
    """
    measures, tables = (TEMPLATES / "measures.md").read_text(encoding="utf-8"), render_markdown(results)
    if not results.get("embedded", True):  # results of before November 2026 do not say
        text = (TEMPLATES / "evaluation.md").read_text(encoding="utf-8")
        return text.format(measures=measures, tables=tables, **_title(results))
    measured = beside or {}
    parts = {name: make(measured[name]) if measured.get(name) else "Not measured.\n" for name, make in BESIDE.items()}
    text = (TEMPLATES / "results.md").read_text(encoding="utf-8")
    return text.format(measures=measures, tables=tables, **parts)


def _title(results: Mapping[str, Any]) -> dict[str, str]:
    """Return name and digest of what was measured: the checkpoint, or the adapter on it."""
    model, adapter = plain(str(results["model"])), results.get("adapter")
    if adapter is None:
        digest = results["weights_sha256"]
        return {"name": model, "weights": f"weights {digest[:12]}" if digest else "weights as the Hub has them"}
    name = f"{model} with the adapter {plain(adapter['name'])}"
    return {"name": name, "weights": f"adapter {adapter['weights_sha256'][:12]}"}


def render_markdown(results: dict[str, Any]) -> str:
    """Return all tables of an evaluation: the summary, then labels, wordings and sides of every modality."""
    notes = "".join(f"Averaged with {what}.\n\n" for way, what in AVERAGED.items() if results.get(way))
    if broken := results.get("broken"):  # results of before November 2026 do not say
        notes += f"Left out, as they cannot be read: {broken}.\n\n"
    if both := results.get("shared_patients"):
        notes += f"Patients that are in the training split of the data, too: {both}; the figures flatter.\n\n"
    parts = [
        "## Summary\n\n" + notes + summary_table(results["modalities"]),
        f"At the default threshold{_fitted(results)}:\n\n" + threshold_table(results["modalities"]),
    ]
    measured = {name: part for name, part in results["modalities"].items() if "hierarchy" in part}
    if measured:
        parts.append("Other measures:\n\n" + measures_table(measured))
        pairs = hierarchy_table(measured)
        parts += ["Parts and wholes among the boxes over the threshold:\n\n" + pairs] if pairs else []
    for modality, result in results["modalities"].items():
        parts.append(f"## {modality}\n\n" + label_table(result))
        if result["synonyms"]:
            parts.append("Other wordings of labels, and parent terms:\n\n" + wording_table(result))
        if result["side_confusion"]["labels"]:
            parts.append("Best box on the other side:\n\n" + side_table(result))
    return "\n".join(parts)


def _fitted(results: Mapping[str, Any]) -> str:
    fitted = ", on the images to whose changed copies the two calibration numbers per expert were fitted"
    return fitted if results.get("embedded", True) else ""


def write_page(results_file: Path, page: Path) -> None:
    """Write the page made of `results_file` and of what was measured beside it.

    Args:
        results_file (`Path`): `results.json` of `training.evaluate`.
        page (`Path`): Markdown file to write.

    Raises:
        `MedGlipError`: a file cannot be read, or does not hold the results of `training.evaluate`.
    """
    files = {name: results_file.with_name(f"{name}.json") for name in BESIDE}
    beside = {name: with_new_keys(read_json(file, MAX_BYTES)) for name, file in files.items() if file.is_file()}
    try:
        text = render_page(with_new_keys(read_json(results_file, MAX_BYTES)), beside)
    except (KeyError, TypeError, AttributeError):
        raise MedGlipError(f"{results_file.name}: is not a file that training.evaluate writes") from None
    write_text(page, text)


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    name, task = "python -m training.evaluate.report", "Make the page of results."
    parser = argparse.ArgumentParser(prog=name, description=task)
    parser.add_argument("results", type=Path, help="results.json of training.evaluate")
    parser.add_argument("--out", type=Path, help="file to write; default: results.md beside it")
    arguments = parser.parse_args(argv)
    write_page(arguments.results, arguments.out or arguments.results.with_suffix(".md"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
