# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Low-rank adapters (LoRA) for one expert.

Small matrices are trained beside the linear and convolution layers of pyramid, text layers and fusion; the prediction
heads are trained whole. `modeling_medglip.checkpoints.adapters` loads them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch import nn

from modeling_medglip.checkpoints.adapters import (
    BASE_FILE,
    PRECISIONS,
    SCHEMA,
    adapted_experts,
    fingerprint,
)
from modeling_medglip.checkpoints.location import ADAPTED_HEADS
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.outputs.files import write_text
from modeling_medglip.trained_labels import trained_labels


# Layers with an adapter, of one expert. The image and the language encoder stay as they are: nothing needs to be kept
# of their activations, which is most of the memory. Of the fusion only the text's projections: the regions' are folded
# onto the tokens by their bare weights, where an adapter beside them would not be seen.
ADAPTED = (
    r"model\.experts\.{modality}\.(pyramid\.(lateral|smooth)\.\d+|text_adapter|presence\.(?!presence_)\w+|"
    r"blocks\.\d+\.(fusion\.attention\.(l_proj|values_l_proj|out_l_proj)|text_layer\..*|dynamic_conv\..*))"
)
# The dynamic convolutions' gates have a handful of outputs: nothing to save there.
LEAST_OUTPUTS = 16


def adapted_layers(model: nn.Module, modality: str) -> list[str]:
    """Return the names of the layers that get an adapter.

    Args:
        model (`nn.Module`): with an expert for the modality.
        modality (`str`): one of `MODALITIES`.

    Raises:
        `ValueError`: the model has no such expert.
    """
    pattern = re.compile(ADAPTED.format(modality=re.escape(modality)))
    names = [
        name
        for name, module in model.named_modules()
        if pattern.fullmatch(name)
        and type(module) in (nn.Linear, nn.Conv2d)
        and module.weight.shape[0] >= LEAST_OUTPUTS
    ]
    if not names:
        raise ValueError(f"the model has no expert for {modality}")
    return names


def add_adapter(model: MedGlipForObjectDetection, modality: str, rank: int = 8) -> Any:
    """Return the model with a new adapter of one expert; everything else is frozen.

    Args:
        model ([`~modeling_medglip.MedGlipForObjectDetection`]): the base; its layers are wrapped.
        modality (`str`): of the expert.
        rank (`int`, *optional*, defaults to 8): of the matrices; their effect is scaled by two.

    Returns:
        a `peft.PeftModel`. `save_pretrained` writes the adapter alone; `merge_and_unload` gives a plain model.
    """
    from peft import LoraConfig, get_peft_model

    names = adapted_layers(model, modality)
    heads = [name for name, _ in model.named_modules() if name.endswith(ADAPTED_HEADS) and f".{modality}." in name]
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules="|".join(map(re.escape, names)),
        modules_to_save=heads,
    )
    return get_peft_model(model, config)


def save_adapter(model: Any, folder: Path) -> None:
    """Write an adapter with the fingerprint and the name of its base.

    Of a local folder only the last part is written. `./` keeps transformers from asking the Hub for that name.

    Args:
        model (`Any`): a `peft.PeftModel` of [`add_adapter`].
        folder (`Path`): where to write.
    """
    base = model.get_base_model()
    for config in model.peft_config.values():
        if Path(str(config.base_model_name_or_path)).exists():
            config.base_model_name_or_path = f"./{Path(str(config.base_model_name_or_path)).name}"
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft writes the path of the base into it
    (modality,) = adapted_experts(base)
    prints = {name: fingerprint(base, modality, kind) for name, kind in PRECISIONS.items()}
    labels = trained_labels(base.config.to_dict()).get(modality, [])
    content = {"schema": SCHEMA, "modality": modality, "base_sha256": prints, "trained_labels": labels}
    write_text(folder / BASE_FILE, json.dumps(content, indent=1) + "\n")


__all__ = [
    "adapted_layers",
    "add_adapter",
    "save_adapter",
]
