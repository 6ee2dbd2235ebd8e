# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Where the checkpoint that comes with the package lies."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, one_line


# Modules that an adapter may hold whole, by the end of their names.
ADAPTED_HEADS = ("box_projection", "centerness_projection", "text_projection", "presence_projection")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "medglip_adapter.json")
# As `configuration_medglip.py` has it; a test keeps them equal.
ROUTER_FILE = "router.safetensors"
# Settings of an adapter that may differ from peft's defaults; others can read pickles, import modules or copy layers.
ADAPTER_SETTINGS = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "base_model_name_or_path",
    "inference_mode", "auto_mapping", "peft_type", "peft_version", "revision",
)  # fmt: skip
MAX_RANK, MAX_LAYER_NAMES, MAX_HEADS = 1024, 2**17, 100
# Names of layers with dots escaped, joined by "|": no repetition, so that matching takes no time.
LAYER_NAMES = re.compile(r"(\w|\\\.|\\-|\|)+")


def default_checkpoint() -> Path:
    """Return the folder of the embedded unified checkpoint: one expert for each modality, for `from_pretrained`.

    Raises:
        `FileNotFoundError`: the package was installed without its data files.
    """
    folder = Path(__file__).parent / "unified"
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"the embedded checkpoint is missing from {folder}: reinstall med-glip")
    return folder


def embedded_checkpoint() -> Path:
    """Return the folder of the embedded checkpoint, see [`default_checkpoint`].

    Raises:
        `CheckpointError`: the package was installed without it.
    """
    try:
        return default_checkpoint()
    except FileNotFoundError:
        message = "the embedded checkpoint is missing: reinstall med-glip, or give model="
        raise CheckpointError(message, hint="model") from None


def weight_files(folder: Path) -> list[Path]:
    """Return a model's weight files in the order of their names, without the router's."""
    return sorted(path for path in folder.glob("*.safetensors") if path.name != ROUTER_FILE)


def weights_sha256(folder: Path) -> str:
    """Return the SHA-256 of a checkpoint's weights: it says which model a measurement is of."""
    digest = hashlib.sha256()
    for path in weight_files(folder):
        _add(path, digest)
    return digest.hexdigest()


def folder_sha256(folder: Path) -> str:
    """Return the SHA-256 of all files of a checkpoint that decide what it finds: weights, graphs, settings, router."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".json", ".onnx", ".xml", ".bin"):
            digest.update(path.name.encode())
            _add(path, digest)
    return digest.hexdigest()


def _add(path: Path, digest: Any) -> None:
    with path.open("rb") as stream:
        while piece := stream.read(2**22):
            digest.update(piece)


def check_adapter(source: str | Path, name: str | None = None) -> tuple[Path, dict[str, Any]]:
    """Check an adapter's files and settings before peft reads them.

    Args:
        source (`str` or `Path`): a folder or a Hub id.
        name (`str`, *optional*): how it is called in messages; folder or id if not given.

    Returns:
        the folder that holds its files, and its settings.

    Raises:
        `CheckpointError`: no adapter, no safetensors, or settings that reach beyond low-rank matrices and heads.
    """
    from ..configuration_medglip import check_checkpoint_files, read_json

    config, weights, _ = ADAPTER_FILES
    try:
        folder = check_checkpoint_files(source, ADAPTER_FILES)
        if folder is None or not (folder / config).is_file():
            raise ValueError("holds no adapter")
        if not (folder / weights).is_file():
            raise ValueError(f"its weights cannot be read: no {weights}, and pickled ones are not opened")
        settings = read_json(folder / config)
        if problem := _adapter_problem(settings):
            raise ValueError(f"holds no adapter ({problem})")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{name or source}: {one_line(error)}") from None
    return folder, settings


def _adapter_problem(settings: dict[str, Any]) -> str | None:
    """Return what is wrong with an adapter's settings; `None` if nothing is."""
    from peft import LoraConfig

    if settings.get("peft_type") != "LORA":
        return f"peft_type is {one_line(settings.get('peft_type'), 40)}, not LORA"
    rank, layers, heads = settings.get("r"), settings.get("target_modules"), settings.get("modules_to_save") or []
    if type(rank) is not int or not 0 < rank <= MAX_RANK:
        return f"its rank is not 1 to {MAX_RANK}"
    if not isinstance(layers, str) or len(layers) > MAX_LAYER_NAMES or not LAYER_NAMES.fullmatch(layers):
        return "its target_modules are not a pattern of plain names"
    if (
        not isinstance(heads, list)
        or len(heads) > MAX_HEADS
        or not all(str(head).rpartition(".")[2] in ADAPTED_HEADS for head in heads)
    ):
        return f"its modules_to_save are not among {', '.join(ADAPTED_HEADS)}"
    defaults = {field.name: field.default for field in dataclasses.fields(LoraConfig)}
    for key, value in settings.items():
        if key not in ADAPTER_SETTINGS and value not in (None, False, {}, []) and value != defaults.get(key):
            return f"its setting {one_line(key, 40)} is not allowed"
    return None


__all__ = [
    "ROUTER_FILE",
    "check_adapter",
    "default_checkpoint",
    "embedded_checkpoint",
    "folder_sha256",
    "weight_files",
    "weights_sha256",
]
