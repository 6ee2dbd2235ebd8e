# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Make `docs/speed.md` from what was measured: `python -m training.studies.speed_page`.

`speed.json` is made by `tests.benchmarks.bench_speed`, `inference_forms.json` by `training.studies.inference_forms`,
`startup.json` by `tests.benchmarks.bench_startup`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.outputs.files import write_text
from modeling_medglip.outputs.markdown import percent, table


DOCS = Path(__file__).parents[2] / "docs"
TIMES, ACCURACY, STARTUP, PAGE = "speed.json", "inference_forms.json", "startup.json", "speed.md"
TRAINED, EAGER = "as trained", "eager"


def accuracy_table(content: Mapping[str, Any]) -> str:
    """Return a table of AP50, AP and size of every form.

    Args:
        content (`Mapping`): of `inference_forms.json`.
    """
    rows = []
    for modality, part in content["modalities"].items():
        first = part["forms"][TRAINED]
        for form, entry in part["forms"].items():
            off = max(abs(entry[name] - first[name]) for name in ("AP50", "AP"))
            size = "" if entry["bytes"] is None else f"{entry['bytes'] / 1e6:.0f}"
            figures = [percent(entry["AP50"]), percent(entry["AP"]), f"{100 * off:.2f}", size]
            rows.append([f"{modality} ({part['images']})", form, *figures])
    return table(["expert (images)", "form", "AP50", "AP", "off by", "MB"], rows)


def times_table(times: Mapping[str, Any]) -> str:
    """Return a table of milliseconds per image, ratio to the first form, and peak memory.

    Args:
        times (`Mapping`): of `speed.json`.
    """
    rows = []
    for forms in times["modalities"].values():
        first = next(iter(forms.values()))["seconds"]
        for form, values in forms.items():
            for case, seconds in values["seconds"].items():
                peak = f"{values['peak_bytes'] / 2**20:.0f}"
                rows.append([case, form, f"{1000 * seconds:.0f}", f"{first[case] / seconds:.2f}", peak])
    return table(["demo image", "form", "ms per image", "times as fast", "peak memory, MB"], rows)


def forms_table(times: Mapping[str, Any], content: Mapping[str, Any], modalities: Sequence[str]) -> str:
    """Return a table of time, size and accuracy of every form of some experts; empty where nothing was measured.

    Args:
        times (`Mapping`): of `speed.json`.
        content (`Mapping`): of `inference_forms.json`.
        modalities (`Sequence[str]`): the experts.
    """
    rows = []
    for modality in modalities:
        forms = content["modalities"].get(modality, {"forms": {}})["forms"]
        measured = times["modalities"].get(modality, {})
        for form in (name for name in forms if name in measured):
            entry, seconds = forms[form], mean(measured[form]["seconds"].values())
            size = "" if entry["bytes"] is None else f"{entry['bytes'] / 1e6:.0f}"
            figures = [f"{1000 * seconds:.0f}", size, percent(entry["AP50"]), percent(entry["AP"])]
            rows.append([modality, form, *figures])
    header = ["expert", "form", "ms per image", "MB", "AP50", "AP"]
    return table(header, rows) if rows else ""


INTRODUCTION = """# Speed

An expert runs on a CPU in a form for inference (**eager**): batch norms and activations are part of the
convolutions, maps lie in memory with their channels last, positions and prompts are kept. Saved and trained
weights stay as they are. `medglip export` writes graphs for ONNX Runtime and OpenVINO, with `--int8` in eight
bits. Times of volumes are in [volumes.md](volumes.md), those of the full size in [results.md](results.md)."""
TIMES_SECTION = """## Milliseconds per image

Made by `python -m tests.benchmarks.bench_speed --before CHECKOUT --exported out/exported --out docs/speed.json`,
with {threads} threads: from the decoded pixels of a demo image to its boxes, with the prompt of the demo.
The forms take turns in {rounds} rounds; medians. **before** is the version before this work."""
ACCURACY_SECTION = """## The same boxes

Made by `python -m training.studies.inference_forms --data out/data`: AP50 and AP on the validation images, in
percent, means over labels. **off by** is the larger of the two differences to the expert as it was trained, in
points. **MB** is the size of an exported folder, language encoder included."""
STARTUP_SECTION = """## Start

Made by `python -m tests.benchmarks.bench_startup --out docs/startup.json`: medians of {rounds} new processes, with
{threads} threads."""


def startup_table(startup: Mapping[str, Any]) -> str:
    """Return a table of the seconds that importing, loading and commands take.

    Args:
        startup (`Mapping`): of `startup.json`.
    """
    rows = [[name, f"{seconds:.2f}"] for name, seconds in startup["seconds"].items()]
    return table(["what", "seconds"], rows)


def render_page(times: Mapping[str, Any], content: Mapping[str, Any], startup: Mapping[str, Any]) -> str:
    """Return `docs/speed.md`.

    Args:
        times (`Mapping`): of `speed.json`.
        content (`Mapping`): of `inference_forms.json`.
        startup (`Mapping`): of `startup.json`.
    """
    measured = TIMES_SECTION.format(threads=times["threads"], rounds=times["rounds"])
    starts = STARTUP_SECTION.format(threads=startup["threads"], rounds=startup["rounds"])
    parts = (
        *(INTRODUCTION, measured, times_table(times)),
        *(ACCURACY_SECTION, accuracy_table(content)),
        *(starts, startup_table(startup)),
    )
    return "\n\n".join(part.strip() for part in parts) + "\n"


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.studies.speed_page", description=__doc__)
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the measured files and of the page")
    docs = parser.parse_args(argv).docs
    measured = (json.loads((docs / name).read_text("utf-8")) for name in (TIMES, ACCURACY, STARTUP))
    write_text(docs / PAGE, render_page(*measured))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
