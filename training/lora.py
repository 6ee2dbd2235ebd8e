# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Low-rank adapters (LoRA) for one expert: small matrices beside the linear and convolution layers of pyramid, text
layers and fusion; the prediction heads are trained whole."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn

from modeling_medglip.checkpoint import ADAPTED_HEADS, check_adapter
from modeling_medglip.errors import one_line
from modeling_medglip.modalities import MODALITIES
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.results import write_text


logger = logging.getLogger(__name__)
SCHEMA = "medglip/adapter@2"
BASE_FILE = "medglip_adapter.json"
# Of the heads, what is no weight and yet decides where boxes are.
SETTINGS = (
    "anchor_sizes", "anchor_strides", "positions", "region_norm", "conv_type", "groups", "fusion_heads", "text_heads",
)  # fmt: skip
# In which a base may be loaded and still be known.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What peft puts around the layers that it adapts: the base's own weights go by their own names.
WRAPPERS = (".base_layer", ".original_module")

# Layers with an adapter, of one expert. The image and the language encoder stay as they are: nothing needs to be kept
# of their activations, which is most of the memory. Of the fusion only the text's projections: the regions' are folded
# onto the tokens by their bare weights, where an adapter beside them would not be seen.
ADAPTED = (
    r"model\.experts\.{modality}\.(pyramid\.(lateral|smooth)\.\d+|text_adapter|"
    r"blocks\.\d+\.(fusion\.attention\.(l_proj|values_l_proj|out_l_proj)|text_layer\..*|dynamic_conv\..*))"
)
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
    """Write an adapter, what its base is by content, and the base's name: of a folder on this machine only its last
    part, for where somebody's files lie is nobody else's business."""
    base = model.get_base_model()
    for config in model.peft_config.values():
        if Path(str(config.base_model_name_or_path)).exists():
            config.base_model_name_or_path = Path(str(config.base_model_name_or_path)).name
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's, with the base's path
    (modality,) = adapted_experts(base)
    prints = {name: fingerprint(base, modality, kind) for name, kind in PRECISIONS.items()}
    content = {"schema": SCHEMA, "modality": modality, "base_sha256": prints}
    write_text(folder / BASE_FILE, json.dumps(content, indent=1) + "\n")


def adapted_experts(base: nn.Module) -> list[str]:
    """The modalities whose expert has an adapter."""
    names = [name for name, module in base.named_modules() if hasattr(module, "lora_A")]
    return sorted({name.split(".experts.", 1)[1].split(".", 1)[0] for name in names if ".experts." in name})


def fingerprint(model: Any, modality: str, precision: torch.dtype = torch.float32) -> str:
    """SHA-256 of what one expert's boxes come from: its weights and the shared ones, without adapters, rounded to a
    precision, and the settings of its heads. Settings of the encoders that change no weight's shape are not told."""
    head = model.config.expert_head_config(modality)
    told = [[name, list(value) if isinstance(value := getattr(head, name), tuple) else value] for name in SETTINGS]
    digest = hashlib.sha256(json.dumps(told).encode())
    others = set(MODALITIES) - {modality}
    for name, tensor in sorted(_own_weights(model).items()):
        if others.isdisjoint(name.split(".")):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            rounded = tensor.detach().cpu().to(precision) if tensor.is_floating_point() else tensor.detach().cpu()
            digest.update(rounded.flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _own_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Name -> tensor of a model as it is without its adapters."""
    found = {}
    for name, tensor in model.state_dict().items():
        if "lora_" in name or ".modules_to_save." in name:
            continue
        for part in WRAPPERS:
            name = name.replace(part, "")
        found[name] = tensor
    return found


def load_adapter(model: MedGlipForObjectDetection, folder: Path | str) -> Any:
    """A base model with a saved adapter. The base's calibration of scores is taken off the adapted expert, for its
    scores are others now.

    Args:
        folder: of this machine, or an id on the Hub.

    Raises:
        `ValueError`: there is none, a damaged one, or one for another base.
    """
    from peft import PeftModel

    files, settings = check_adapter(folder)
    _check_base(model, files)
    pattern = re.compile(settings["target_modules"])
    layers = [name for name, _ in model.named_modules() if pattern.fullmatch(name)]
    if not layers:
        raise ValueError(f"{folder}: an adapter for another base: none of its layers is in this model")
    try:
        adapted = PeftModel.from_pretrained(model, str(files))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder}: its weights cannot be read ({one_line(error, 80)})") from None
    except (RuntimeError, KeyError, ValueError) as error:  # sizes that differ
        raise ValueError(f"{folder}: an adapter for another base ({type(error).__name__})") from None
    for modality in adapted_experts(model):
        forget_calibration(model, modality)
    return adapted


def forget_calibration(model: MedGlipForObjectDetection, modality: str) -> None:
    """Take off the line that made the scores of an expert chances of being right, before it was trained further;
    `training.calibration` measures a new one."""
    if model.config.expert_head_config(modality).score_calibration is not None:
        overrides = cast(dict[str, Any], model.config.expert_overrides)
        overrides.setdefault(modality, {}).setdefault("head_config", {})["score_calibration"] = None


def _check_base(model: MedGlipForObjectDetection, folder: Path) -> None:
    """Compare a base with what the adapter says of its own.

    Raises:
        `ValueError`: they differ, or the adapter does not say it in a way that is understood.
    """
    file = folder / BASE_FILE
    if not file.is_file():
        return
    precision = next(model.parameters()).dtype
    name = str(precision).removeprefix("torch.")
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        schema, modality, known = told["schema"], str(told["modality"]), dict(told["base_sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        schema, modality, known = None, "", {}
    if schema != SCHEMA:
        raise ValueError(f"{folder}: its {BASE_FILE} is not of {SCHEMA}: train the adapter again")
    if name not in known:
        logger.warning("%s: whether this is its base cannot be told in %s", one_line(folder, 80), name)
    elif modality not in model.config.modalities or fingerprint(model, modality, precision) != known[name]:
        raise ValueError(f"{folder}: an adapter for another base: its layers or weights are not this model's")
