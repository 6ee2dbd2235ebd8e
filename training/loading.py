# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Load checkpoints for the commands, with errors of one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modeling_medglip.checkpoints.loading import outcome_folder
from modeling_medglip.errors import CheckpointError, one_line
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.processing_medglip import MedGlipProcessor


# The checkpoint that comes with the package.
EMBEDDED = Path(__file__).parent.parent / "modeling_medglip" / "checkpoints" / "unified"


def load_model_and_processor(
    name: str, modalities: Sequence[str] | None = None
) -> tuple[MedGlipForObjectDetection, MedGlipProcessor]:
    """Return model and processor of a folder or an id on the Hub.

    Args:
        name (`str`): the folder or id.
        modalities (`Sequence[str]`, *optional*): the experts to load; all when not given.

    Raises:
        `CheckpointError`: it cannot be loaded; names it and says why.
    """
    folder = outcome_folder(Path(name))
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{name}: is an adapter: give the checkpoint that it was trained on, or `medglip merge` them"
        )
    if folder.is_dir() and not (folder / "config.json").exists():
        raise CheckpointError(f"{name}: holds no checkpoint (no config.json)")
    chosen = {} if modalities is None else {"modalities": list(modalities)}
    try:
        source = str(folder) if folder.is_dir() else name
        model = MedGlipForObjectDetection.from_pretrained(source, **chosen)
        return model, MedGlipProcessor.from_pretrained(source)
    except Exception as error:  # broken files make transformers and safetensors raise nearly anything
        raise CheckpointError(f"{name}: cannot be loaded: {one_line(error, 200)}") from None
