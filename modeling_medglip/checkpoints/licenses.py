# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The licenses of a checkpoint: the code, the weights, and the training data that `licenses.json` lists."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import one_line


LICENSES_FILE = "licenses.json"


def read_licenses(file: Path | None) -> list[dict[str, Any]]:
    """Return the training sources in a `licenses.json`; none if the file is missing or invalid.

    Returns:
        `list[dict]`: usually with `source`, `upstream`, `modality`, `license` and `remarks`.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file is not None else []
    except (OSError, ValueError, RecursionError):
        return []
    return [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []


def license_rows(sources: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return one row per part with its license: the code, the weights, and every source of training images."""
    rows = [
        {"part": "code", "license": "Apache-2.0", "modality": "", "remarks": "this package"},
        {
            "part": "weights", "license": "research use only", "modality": "",
            "remarks": "trained on the sources below, several of which allow research only",
        },
    ]  # fmt: skip
    for source in sources:
        upstream = f"{source.get('upstream', '')} ({source.get('source', '')})".strip()
        row = {key: one_line(source.get(key, ""), 200) for key in ("license", "modality", "remarks")}
        rows.append({"part": one_line(upstream, 120), **row})
    return rows


__all__ = ["LICENSES_FILE", "license_rows", "read_licenses"]
