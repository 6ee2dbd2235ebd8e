# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The model card of the embedded checkpoint: `python -m training.card`.

Written from the checkpoint's own files and the measured results, so that no number in it is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .assemble import EMBEDDED
from .report import percent, router_table, summary_table, table, threshold_table


RESULTS = Path(__file__).parent.parent / "docs" / "results.json"
TEMPLATE = Path(__file__).parent / "templates" / "card.md"


def render_card(checkpoint: Path, results: dict[str, Any], router: dict[str, Any]) -> str:
    """The card of a checkpoint folder.

    Args:
        checkpoint: with `config.json` and `licenses.json`.
        results, router: what `training.evaluate` and `training.router` measured.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    licenses = json.loads((checkpoint / "licenses.json").read_text(encoding="utf-8"))
    size = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    vocabulary = config["label_hierarchy"]["trained_labels"]
    return TEMPLATE.read_text(encoding="utf-8").format(
        modalities=", ".join(config["modalities"]),
        parts=parts_of(config, size),
        summary=summary_table(results),
        at_threshold=threshold_table(results),
        shown=results["well_shown"],
        labels=label_table(results),
        router=router_table(router),
        sources=table(
            ["source", "upstream set", "modality", "licence"],
            [[row[key] for key in ("source", "upstream", "modality", "license")] for row in licenses],
        ),
        vocabulary="\n".join(f"- **{name}**: {', '.join(labels)}" for name, labels in vocabulary.items()),
    )


def parts_of(config: dict[str, Any], size: int) -> str:
    """Rows on the architecture, out of the configuration."""
    text, head, backbone = config["text_config"], config["head_config"], config["backbone_config"]
    rows = [
        ("image encoders", f"{backbone['backbone']} (timm), started from ImageNet weights"),
        ("language encoder", f"the first {text['num_hidden_layers']} layers of all-MiniLM-L6-v2, frozen, shared"),
        ("fusion", f"{head['num_blocks']} blocks of {head['channels']} channels, {head['conv_type']} convolutions"),
        ("tensors", f"{size / 1e6:.1f} MB of safetensors"),
    ]
    return "\n".join(f"| {name} | {value} |" for name, value in rows)


def label_table(results: dict[str, Any]) -> str:
    """One row per well shown label of every modality, all its sources together."""
    rows = []
    for modality, result in results["modalities"].items():
        shown = [item for item in result["labels"].items() if item[1]["train_images"] >= results["well_shown"]]
        for label, entry in sorted(shown, key=lambda item: -item[1]["AP50"]):
            counts = [entry["train_images"], entry["validation_images"]]
            rows.append([f"{modality}: {label}", *counts, percent(entry["AP50"]), percent(entry["AP"])])
    return table(["label", "train images", "validation images", "AP50", "AP"], rows)


def write_card(checkpoint: Path, results: Path) -> Path:
    """Write `README.md` into the checkpoint's folder, from `results` and the `router.json` beside it.

    Raises:
        `OSError`, `ValueError`: a file cannot be read.
    """
    measured, router = (
        json.loads(path.read_text(encoding="utf-8")) for path in (results, results.with_name("router.json"))
    )
    card = checkpoint / "README.md"
    card.write_text(render_card(checkpoint, measured, router), encoding="utf-8")
    return card


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.card", description="Write the checkpoint's model card.")
    parser.add_argument("--checkpoint", type=Path, default=EMBEDDED)
    parser.add_argument("--results", type=Path, default=RESULTS, help="results.json; router.json lies beside it")
    options = parser.parse_args(argv)
    try:
        print(write_card(options.checkpoint, options.results).name)
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {options.checkpoint.name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
