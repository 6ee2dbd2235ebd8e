# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Weight files of a checkpoint: one of each expert and one of the language encoder.

An expert that was not trained again keeps its file byte for byte, so that nobody who has it downloads it again.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save
from torch import Tensor
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from modeling_medglip.checkpoints.location import weight_files
from modeling_medglip.modeling_medglip import AUTO_MAP, MedGlipForObjectDetection
from modeling_medglip.outputs.files import write_bytes, write_text


LANGUAGE = "language"


def shard_of(name: str) -> str:
    """Return the part of a checkpoint that a tensor belongs to: a modality, or `"language"`."""
    parts = name.removeprefix("model.").split(".")
    return parts[1] if parts[0] in ("experts", "box_heads") else LANGUAGE


def save_shards(model: MedGlipForObjectDetection, folder: Path) -> None:
    """Write configuration, weights and code of a model; weight files of before are removed.

    Args:
        model ([`~modeling_medglip.MedGlipForObjectDetection`]): in the precision of the files.
        folder (`Path`): of the checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in weight_files(folder):
        file.unlink()
    shards: dict[str, dict[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        shards.setdefault(shard_of(name), {})[name] = tensor.contiguous()
    for part, tensors in shards.items():
        # `save_file` lets nobody but its user read the file.
        write_bytes(folder / f"model-{part}.safetensors", save(tensors, metadata={"format": "pt"}))
    files = {name: f"model-{part}.safetensors" for part, tensors in shards.items() for name in tensors}
    size = sum(tensor.numel() * tensor.element_size() for tensors in shards.values() for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(files.items()))}
    write_text(folder / SAFE_WEIGHTS_INDEX_NAME, json.dumps(index, indent=1) + "\n")
    model.config.architectures = [type(model).__name__]
    model.config.auto_map = dict(AUTO_MAP)
    model.config.dtype = next(model.parameters()).dtype
    model.config.save_pretrained(folder)
    custom_object_save(model, folder, config=model.config)


__all__ = ["save_shards", "shard_of"]
