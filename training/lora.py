# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Low-rank adapters (LoRA) for one expert: small matrices beside the linear and convolution layers of pyramid, text
layers and fusion; the prediction heads are trained whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import nn

from modeling_medglip.modeling_medglip import MedGlipForObjectDetection


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
    pattern = re.compile(str(getattr(config, "target_modules", "")))
    if not any(pattern.fullmatch(name) for name, _ in model.named_modules()):
        raise ValueError(f"{folder}: an adapter for another base: none of its layers is in this model")
    try:
        return PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, KeyError, ValueError) as error:  # sizes that differ
        raise ValueError(f"{folder}: an adapter for another base ({type(error).__name__})") from None
