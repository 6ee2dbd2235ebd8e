# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Where the checkpoint that comes with the package lies."""

from __future__ import annotations

from pathlib import Path


def default_checkpoint() -> Path:
    """Folder of the embedded unified checkpoint: one expert for each modality, for `from_pretrained`.

    Raises:
        `FileNotFoundError`: the package was installed without its data files.
    """
    folder = Path(__file__).parent / "checkpoints" / "unified"
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"the embedded checkpoint is missing from {folder}: reinstall med-glip")
    return folder


__all__ = ["default_checkpoint"]
