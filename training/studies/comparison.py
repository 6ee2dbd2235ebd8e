# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Two checkpoints on the same validation images, label by label.

    python -m training.studies.comparison --before runs/old/results.json --after docs/results.json

Both files are of `training.evaluate`. What the table needs of them is kept in `docs/comparison.json`; without
options the page is made from it again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.outputs.files import write_text
from modeling_medglip.outputs.markdown import percent, plain, table

from ..old_names import with_new_keys


SCHEMA = "medglip/comparison@1"
FIGURES = Path("docs/comparison.json")
MEASURES = ("AP50", "AP")
INTRODUCTION = """# Before and after

Made by `python -m training.studies.comparison` from two runs of `python -m training.evaluate`.
COCO's AP50 and AP in per cent on the validation split, of the checkpoint before (weights {before}) and of the one in
this repository (weights {after}), on the same images. Many labels have a few dozen images or less: differences of a
few points mean little there.

"""


def figures_of(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the comparison needs of an evaluation."""
    labels = {
        name: {
            label: {key: entry[key] for key in (*MEASURES, "train_images", "validation_images", "validation_boxes")}
            for label, entry in part["labels"].items()
        }
        for name, part in evaluation["modalities"].items()
    }
    return {"weights_sha256": evaluation["weights_sha256"], "labels": labels}


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of two evaluations, of the modalities that both have.

    Args:
        before (`Mapping`): as `training.evaluate` writes it.
        after (`Mapping`): the same, of another checkpoint.

    Raises:
        `ValueError`: they have no modality in common, or were not measured on the same images.
    """
    figures = {"before": figures_of(before), "after": figures_of(after)}
    first, second = (part["labels"] for part in figures.values())
    if not first.keys() & second.keys():
        raise ValueError("the two evaluations have no modality in common: measure the same ones")
    for name in first.keys() & second.keys():
        counts = [
            {label: entry["validation_boxes"] for label, entry in part[name].items()} for part in (first, second)
        ]
        if counts[0] != counts[1]:
            raise ValueError(f"{name}: the two evaluations are not of the same images: measure both on the same data")
    for part in (first, second):
        for name in part.keys() - (first.keys() & second.keys()):
            del part[name]
    return {"schema": SCHEMA, **figures}


def render_page(figures: Mapping[str, Any]) -> str:
    """Return the page in Markdown, from what [`compare`] returns."""
    parts = [figures[when]["labels"] for when in ("before", "after")]
    rows: list[list[Any]] = []
    for name, labels in parts[1].items():
        both = [part[name] for part in parts]
        means = [percent(_mean(part, key)) for key in MEASURES for part in both]
        rows.append([f"**{name}**, mean of {len(labels)} labels", "", "", *(f"**{mean}**" for mean in means)])
        rows += [
            [
                f"{name}: {plain(label)}",
                entry["train_images"],
                entry["validation_images"],
                *(percent(part[label][key]) for key in MEASURES for part in both),
            ]
            for label, entry in labels.items()
        ]
    header = ["label", "training images", "validation images", "AP50 before", "after", "AP before", "after"]
    weights = {when: str(figures[when]["weights_sha256"])[:12] for when in ("before", "after")}
    return INTRODUCTION.format(**weights) + table(header, rows)


def _mean(labels: Mapping[str, Mapping[str, float]], key: str) -> float | None:
    values = [entry[key] for entry in labels.values()]
    return sum(values) / len(values) if values else None


def _read(file: Path) -> dict[str, Any]:
    try:
        content = with_new_keys(json.loads(file.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file.name}: not JSON ({error.msg}): give a results.json of training.evaluate") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file.name}: not a results.json of training.evaluate")
    return content


@script_main(also=(KeyError,))
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m training.studies.comparison", description=about)
    parser.add_argument("--before", type=Path, help="results.json of training.evaluate, of the checkpoint before")
    parser.add_argument("--after", type=Path, help="the same, of the checkpoint afterwards, on the same data")
    parser.add_argument("--out", type=Path, default=FIGURES, help="file of the figures; the page lies beside it")
    options = parser.parse_args(argv)
    if (options.before is None) != (options.after is None):
        raise ValueError("--before and --after belong together: give both, or none to make the page again")
    if options.before:
        figures = compare(_read(options.before), _read(options.after))
        write_text(options.out, json.dumps(figures, indent=1, allow_nan=False) + "\n")
    write_text(options.out.with_suffix(".md"), render_page(_read(options.out)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
