# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Join several runs of the protocol, such as one per modality or row, into one table.

    python -m training.studies.join_protocol docs/protocol.json runs/*/protocol.json --out docs

Rows of one modality must have been measured on the same images of one size, for as many epochs, with one seed. If
several files have a row, the last one counts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.outputs.files import write_text

from ..old_names import with_new_keys
from .protocol import ROWS, SCHEMA, Draws, agree, differences, draws_of, render_page


def join(parts: Sequence[Mapping[str, Any]], draws: Draws) -> dict[str, Any]:
    """Return all rows of several measured protocols.

    Args:
        parts (`Sequence[Mapping[str, Any]]`): contents of `protocol.json`; later ones replace rows of earlier ones.
        draws (`Draws`): see [`~training.studies.protocol.draws_of`]; differences of rows with draws are computed anew.

    Raises:
        `ValueError`: a part is not a protocol, or rows of a modality were measured under different conditions.
    """
    joined: dict[str, Any] = {"schema": SCHEMA, "modalities": {}}
    for part in parts:
        if part.get("schema") != SCHEMA:
            raise ValueError("not a protocol that this command can read")
        for modality, entry in part["modalities"].items():
            known = joined["modalities"].setdefault(modality, {**entry, "rows": {}, "differences": {}})
            known["rows"].update(entry["rows"])
            # A difference from a row that this part replaces is one no longer.
            still = {
                pair: edges
                for pair, edges in known["differences"].items()
                if not set(pair.split(" against ")) & set(entry["rows"])
            }
            known["differences"] = still | entry.get("differences", {})
    for modality, entry in joined["modalities"].items():
        measured = [(row["conditions"], row["images"]["validation"]) for row in entry["rows"].values()]
        if any(number != other or not agree(one, two) for (one, number), (two, other) in combinations(measured, 2)):
            raise ValueError(f"{modality}: its rows were measured under different conditions: keep those of one")
        entry["rows"] = {name: entry["rows"][name] for name in ROWS if name in entry["rows"]}
        entry["differences"] |= differences(modality, entry["rows"], draws)
    return joined


@script_main(also=(KeyError, TypeError, AttributeError))
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.studies.join_protocol", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for protocol.json and protocol.md")
    options = parser.parse_args(argv)
    parts = [with_new_keys(json.loads(path.read_text(encoding="utf-8"))) for path in options.files]
    draws: Draws = {}
    for part, path in zip(parts, options.files, strict=True):
        draws |= draws_of(part, path.parent)
    joined = join(parts, draws)
    write_text(options.out / "protocol.json", json.dumps(joined, indent=1, allow_nan=False) + "\n")
    write_text(options.out / "protocol.md", render_page(joined))
    print(render_page(joined), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
