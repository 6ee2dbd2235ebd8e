# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What `medglip info` states of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import MedGlipError, one_line
from ..trained_labels import trained_labels
from .licenses import LICENSES_FILE, license_rows, read_licenses
from .location import weight_files


def checkpoint_info(folder: Path) -> dict[str, Any]:
    """Return modalities, labels per modality, size and licenses of a checkpoint folder, from its JSON files alone.

    Raises:
        `MedGlipError`: config.json is missing or unreadable.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise MedGlipError(f"checkpoint {one_line(folder.name)}: config.json is missing or cannot be read")
    weights = sum(file.stat().st_size for file in weight_files(folder))
    return {
        "modalities": [str(name) for name in config.get("modalities", ())],
        "labels": trained_labels(config),
        "weights_mb": round(weights / 1e6, 1),
        "licenses": license_rows(read_licenses(folder / LICENSES_FILE)),
    }


__all__ = ["checkpoint_info"]
