# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Low-rank adapters (LoRA) for one expert: small matrices beside the linear and convolution layers of pyramid, text
layers and fusion; the prediction heads are trained whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.results import write_text


SCHEMA = "medglip/adapter@1"
BASE_FILE = "medglip_adapter.json"


# Layers with an adapter, of one expert. The image and the language encoder stay as they are: nothing needs to be kept
# of their activations, which is most of the memory. Of the fusion only the text's projections: the regions' are folded
# onto the tokens by their bare weights, where an adapter beside them would not be seen.
ADAPTED = (
    r"model\.experts\.{modality}\.(pyramid\.(lateral|smooth)\.\d+|text_adapter|"
    r"blocks\.\d+\.(fusion\.attention\.(l_proj|values_l_proj|out_l_proj)|text_layer\..*|dynamic_conv\..*))"
)
# Modules that are trained whole and saved with the adapter.
HEADS = ("box_projection", "centerness_projection", "text_projection")
# The dynamic convolutions' gates have a handful of outputs: nothing to save there.
LEAST_OUTPUTS = 16


def adapted_layers(model: nn.Module, modality: str) -> list[str]:
    """Names of the layers that get an adapter.

    Raises:
        `ValueError`: the model has no such expert.
    """
    pattern = re.compile(ADAPTED.format(modality=re.escape(modality)))
    found = [
        name
        for name, module in model.named_modules()
        if pattern.fullmatch(name)
        and type(module) in (nn.Linear, nn.Conv2d)
        and module.weight.shape[0] >= LEAST_OUTPUTS
    ]
    if not found:
        raise ValueError(f"the model has no expert for {modality}")
    return found


def add_adapter(model: MedGlipForObjectDetection, modality: str, rank: int = 8) -> Any:
    """The model with a new adapter of one expert; everything else is frozen.

    Args:
        rank (`int`): of the matrices; their effect is scaled by two.

    Returns:
        a `peft.PeftModel`. `save_pretrained` writes the adapter alone; `merge_and_unload` gives a plain model.
    """
    from peft import LoraConfig, get_peft_model

    names = adapted_layers(model, modality)
    heads = [name for name, _ in model.named_modules() if name.endswith(HEADS) and f".{modality}." in name]
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules="|".join(map(re.escape, names)),
        modules_to_save=heads,
    )
    return get_peft_model(model, config)


def save_adapter(model: Any, folder: Path) -> None:
    """Write an adapter, what its base is by content, and the base's name: of a folder on this machine only its last
    part, for where somebody's files lie is nobody else's business."""
    base = model.get_base_model()
    for config in model.peft_config.values():
        if Path(str(config.base_model_name_or_path)).exists():
            config.base_model_name_or_path = Path(str(config.base_model_name_or_path)).name
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's, with the base's path
    names = sorted(name for name, module in base.named_modules() if hasattr(module, "lora_A"))
    content = {"schema": SCHEMA, "base_sha256": fingerprint(base, names), "layers": names}
    write_text(folder / BASE_FILE, json.dumps(content, indent=1) + "\n")


def fingerprint(model: nn.Module, layers: Sequence[str]) -> str:
    """SHA-256 of the weights of some layers, without their adapters."""
    digest = hashlib.sha256()
    for name in layers:
        module = model.get_submodule(name)
        weight: Any = getattr(module, "base_layer", module).weight
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_adapter(model: MedGlipForObjectDetection, folder: Path | str) -> Any:
    """A base model with a saved adapter.

    Raises:
        `ValueError`: the folder holds none, or one for another base.
    """
    from peft import PeftConfig, PeftModel

    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, OSError, TypeError, KeyError):
        raise ValueError(f"{folder}: holds no adapter") from None
    _check_base(model, Path(folder))
    pattern = re.compile(str(getattr(config, "target_modules", "")))
    if not any(pattern.fullmatch(name) for name, _ in model.named_modules()):
        raise ValueError(f"{folder}: an adapter for another base: none of its layers is in this model")
    try:
        return PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, KeyError, ValueError) as error:  # sizes that differ
        raise ValueError(f"{folder}: an adapter for another base ({type(error).__name__})") from None


def _check_base(model: nn.Module, folder: Path) -> None:
    """Compare a float32 base with what the adapter says of its own; other precisions cannot be compared.

    Raises:
        `ValueError`: they differ.
    """
    file = folder / BASE_FILE
    if not file.is_file() or next(model.parameters()).dtype != torch.float32:
        return
    told = json.loads(file.read_text(encoding="utf-8"))
    layers = [str(name) for name in told.get("layers", ())]
    known = {name for name, _ in model.named_modules()}
    if not set(layers) <= known or fingerprint(model, layers) != told.get("base_sha256"):
        raise ValueError(f"{folder}: an adapter for another base: its layers or weights are not this model's")
