# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Where the checkpoint that comes with the package lies."""

from __future__ import annotations

import hashlib
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


def weights_sha256(folder: Path) -> str:
    """SHA-256 of a checkpoint's safetensors files, in the order of their names: which weights a measurement is of."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            while piece := stream.read(2**22):
                digest.update(piece)
    return digest.hexdigest()


__all__ = ["default_checkpoint", "weights_sha256"]
