# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Adapters (LoRA) of one expert: read them, find their base, load both together, and merge them into a checkpoint.

`training.fit.lora` makes and saves them. An adapter is a folder with `adapter_config.json`,
`adapter_model.safetensors`, `medglip_adapter.json` (what its base is, by content) and a processor.
peft is imported when one is loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn

from ..errors import CheckpointError, UsageError, install_hint, one_line
from ..modalities import MODALITIES
from ..modeling_medglip import MedGlipForObjectDetection
from ..outputs.files import write_text
from ..processing_medglip import MedGlipProcessor
from .licenses import LICENSES_FILE, read_licenses
from .loading import HUB_ID, file_on_hub, is_adapter, load_checkpoint, locate
from .location import ADAPTER_FILES, check_adapter


logger = logging.getLogger(__name__)
SCHEMA = "medglip/adapter@2"
BASE_FILE = ADAPTER_FILES[2]
NEEDS_PEFT = f"an adapter needs the package peft: {install_hint('adapter')}"
# Settings of the heads that decide where boxes are, beside the weights.
SETTINGS = (
    "anchor_sizes", "anchor_strides", "positions", "region_norm", "conv_type", "groups", "fusion_heads", "text_heads",
)  # fmt: skip
# In which a base may be loaded and still be known.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What peft puts around the layers that it adapts: the base's own weights go by their own names.
WRAPPERS = (".base_layer", ".original_module")
MAX_LABELS = 10_000


@dataclass(frozen=True)
class BaseRecord:
    """What an adapter states of its base.

    Attributes:
        modality (`str`): of the expert that is adapted.
        fingerprints (`Mapping[str, str]`): precision -> what [`fingerprint`] gives for the base.
        trained_labels (`tuple[str, ...]`): what expert and adapter were trained to find; empty if not stated.
    """

    modality: str
    fingerprints: Mapping[str, str]
    trained_labels: tuple[str, ...] = ()


def base_record(folder: Path, name: str) -> BaseRecord | None:
    """Return what an adapter states of its base; `None` if it states nothing.

    Args:
        folder (`Path`): of the adapter.
        name (`str`): how the adapter is called in messages.

    Raises:
        `CheckpointError`: the statement is invalid.
    """
    if not (folder / BASE_FILE).is_file():
        return None
    try:
        content = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))
        schema, modality, known = content["schema"], str(content["modality"]), dict(content["base_sha256"])
        labels = tuple(str(label) for label in content.get("trained_labels", ()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        schema, modality, known, labels = None, "", {}, ()
    if schema != SCHEMA or modality not in MODALITIES or len(labels) > MAX_LABELS:
        raise CheckpointError(f"{name}: its {BASE_FILE} is not of {SCHEMA}: train the adapter again")
    return BaseRecord(modality, known, labels)


# The base ------------------------------------------------------------------------------------------------------------


def adapted_experts(base: nn.Module) -> list[str]:
    """Return the modalities whose expert has an adapter."""
    names = [name for name, module in base.named_modules() if hasattr(module, "lora_A")]
    return sorted({name.split(".experts.", 1)[1].split(".", 1)[0] for name in names if ".experts." in name})


def fingerprint(model: Any, modality: str, precision: torch.dtype = torch.float32) -> str:
    """Return the SHA-256 of what one expert's boxes come from.

    This is its weights and the shared ones, without adapters, and the settings of its heads. Settings of the encoders
    that change no weight's shape do not count.

    Args:
        model ([`MedGlipForObjectDetection`] or `peft.PeftModel`): the model.
        modality (`str`): of the expert, one of `MODALITIES`.
        precision (`torch.dtype`, *optional*, defaults to `torch.float32`): to which weights are rounded.
    """
    head = model.config.expert_head_config(modality)
    settings = [[name, list(value) if isinstance(value := getattr(head, name), tuple) else value] for name in SETTINGS]
    digest = hashlib.sha256(json.dumps(settings).encode())
    others = set(MODALITIES) - {modality}
    for name, tensor in sorted(_own_weights(model).items()):
        if others.isdisjoint(name.split(".")):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            rounded = tensor.detach().cpu().to(precision) if tensor.is_floating_point() else tensor.detach().cpu()
            digest.update(rounded.flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _own_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return name -> tensor of a model without its adapters."""
    weights = {}
    for name, tensor in model.state_dict().items():
        if "lora_" in name or ".modules_to_save." in name:
            continue
        for part in WRAPPERS:
            name = name.replace(part, "")
        weights[name] = tensor
    return weights


def forget_calibration(model: MedGlipForObjectDetection, modality: str) -> None:
    """Remove the calibration of an expert's scores, which does not hold after further training.

    `training.fit.calibration` measures a new one.

    Args:
        model ([`MedGlipForObjectDetection`]): the model, changed in place.
        modality (`str`): of the expert.
    """
    if model.config.expert_head_config(modality).score_calibration is not None:
        model.update_head_config(modality, score_calibration=None)


def _check_base(model: MedGlipForObjectDetection, record: BaseRecord, name: str) -> None:
    """Compare a base with what the adapter states of its own.

    Raises:
        `CheckpointError`: they differ.
    """
    precision = next(model.parameters()).dtype
    kind = str(precision).removeprefix("torch.")
    if kind not in record.fingerprints:
        logger.warning("%s: cannot check in %s whether this is its base", one_line(name, 80), kind)
    elif (
        record.modality not in model.config.modalities
        or fingerprint(model, record.modality, precision) != record.fingerprints[kind]
    ):
        raise CheckpointError(f"{name}: an adapter for another base: its layers or weights are not this model's")


# Loading -------------------------------------------------------------------------------------------------------------


def load_adapter(model: MedGlipForObjectDetection, folder: Path | str, name: str | None = None) -> Any:
    """Put a saved adapter on its base.

    The base's calibration of scores is removed from the adapted expert, whose scores differ. The configuration gets
    the labels that the adapter was trained with.

    Args:
        model ([`MedGlipForObjectDetection`]): the base.
        folder (`Path` or `str`): of this machine, or an id on the Hub.
        name (`str`, *optional*): how it is called in messages; the folder or id if not given.

    Returns:
        a `peft.PeftModel`; `merge_and_unload` gives a plain model.

    Raises:
        `CheckpointError`: no adapter, a damaged one, or one for another base. `UsageError`: peft is missing.
    """
    _require_peft()
    from peft import PeftModel

    text = name or str(folder)
    files, settings = check_adapter(folder, text)
    record = base_record(files, text)
    if record is not None:
        _check_base(model, record, text)
    pattern = re.compile(settings["target_modules"])
    if not any(pattern.fullmatch(layer) for layer, _ in model.named_modules()):
        raise CheckpointError(f"{text}: an adapter for another base: none of its layers is in this model")
    try:
        adapted = PeftModel.from_pretrained(model, str(files))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{text}: its weights cannot be read ({one_line(error, 80)})") from None
    except (RuntimeError, KeyError, ValueError, TypeError) as error:  # sizes that differ
        raise CheckpointError(f"{text}: an adapter for another base ({type(error).__name__})") from None
    for modality in adapted_experts(model):
        forget_calibration(model, modality)
    if record is not None and record.trained_labels:
        model.config.set_label_hierarchy({record.modality: sorted(record.trained_labels)})
    return adapted


def _require_peft() -> None:
    """Raise `UsageError` where peft is missing."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise UsageError(NEEDS_PEFT) from None


class Adapted(NamedTuple):
    """An expert with its adapter merged in, its processor, and where the base came from (folder or Hub id)."""

    model: MedGlipForObjectDetection
    processor: MedGlipProcessor
    base: Path | str


def load_adapted(
    source: Path | str, name: str, modality: str | None = None, base: str | Path | None = None
) -> Adapted:
    """Load an adapter with its base for grounding.

    Args:
        source (`Path` or `str`): the adapter's folder or Hub id.
        name (`str`): how the adapter is called in messages.
        modality (`str`, *optional*): which the caller wants; must be the adapter's.
        base (`str` or `Path`, *optional*): the base's folder or Hub id; see [`find_base`].

    Raises:
        `CheckpointError`: see [`load_adapter`] and [`find_base`]; or the modality is another one. `UsageError`: peft
            is missing.
    """
    _require_peft()
    folder, settings = check_adapter(source, name)
    record = base_record(folder, name)
    if record is None:
        raise CheckpointError(f"{name}: has no {BASE_FILE}: it was not made by training.fit.finetune")
    if modality not in (None, record.modality):
        raise CheckpointError(f"{name}: is for {record.modality}, not for {modality}")
    local = isinstance(source, Path)
    try:
        processor = MedGlipProcessor.from_pretrained(source, trust_remote_code=False, local_files_only=local)
    except Exception as error:  # broken files make transformers raise nearly anything
        reason = one_line(str(error).replace(f"{source}/", "").replace(str(source), "it"), 200)
        raise CheckpointError(f"{name}: its processor cannot be loaded ({reason})") from None
    model, origin = find_base(settings.get("base_model_name_or_path"), record, name, base)
    return Adapted(load_adapter(model, folder, name).merge_and_unload(), processor, origin)


def embedded_base(record: BaseRecord) -> MedGlipForObjectDetection | None:
    """Return the embedded checkpoint's expert, if that is what an adapter was trained on; else `None`."""
    try:
        embedded, _ = load_checkpoint(*locate(None), record.modality)
    except CheckpointError:  # installed without, or without this expert
        return None
    return embedded if fingerprint(embedded, record.modality) == record.fingerprints.get("float32") else None


def find_base(
    stated_base: Any, record: BaseRecord, name: str, base: str | Path | None = None
) -> tuple[MedGlipForObjectDetection, Path | str]:
    """Load an adapter's base: the given one, else the embedded checkpoint if that is it, else what it names on a Hub.

    Args:
        stated_base (`str`, *optional*): what the adapter's settings name as its base.
        record ([`BaseRecord`]): what it states of its base's content.
        name (`str`): how the adapter is called in messages.
        base (`str` or `Path`, *optional*): folder or Hub id.

    Returns:
        the base, with the adapted expert alone, and its folder or Hub id.

    Raises:
        `CheckpointError`: none of them is available.
    """
    if base is not None:
        source, base_name = locate(base)
        return load_checkpoint(source, base_name, record.modality)[0], source
    if (embedded := embedded_base(record)) is not None:
        return embedded, locate(None)[0]
    if isinstance(stated_base, str) and HUB_ID.match(stated_base) and not Path(stated_base).exists():
        return load_checkpoint(stated_base, stated_base, record.modality)[0], stated_base
    known = f" ({one_line(stated_base, 60)!r})" if isinstance(stated_base, str) else ""
    message = f"{name}: its base{known} is not the embedded checkpoint: give its folder or id as base="
    raise CheckpointError(message, hint="base")


def example_prompt(labels: Iterable[str]) -> str:
    """Return a prompt of two of some labels, fit for a command that people paste."""
    plain = dict.fromkeys(label for label in labels if re.fullmatch(r"[\w ,-]{1,60}", label))
    return ". ".join([*plain][:2]) or "your label"


# Merging -------------------------------------------------------------------------------------------------------------


def merge_adapter(source: str | Path, out: Path, base: str | Path | None = None) -> Path:
    """Write an adapter and its base as one plain checkpoint, which loads everywhere and finds the same boxes.

    Args:
        source (`str` or `Path`): adapter, run's folder or Hub id.
        out (`Path`): new or empty folder.
        base (`str` or `Path`, *optional*): see [`find_base`].

    Returns:
        `out`, with weights (safetensors), configuration, processor and `licenses.json`.

    Raises:
        `UsageError`: the folder is not empty or cannot be made. `CheckpointError`: no adapter, or its base is missing.
    """
    adapter, name = locate(source)
    if not is_adapter(adapter):
        raise CheckpointError(f"checkpoint {name}: is not an adapter: there is nothing to merge")
    shown = one_line(out.name, 80)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{shown}: is not empty: choose a new folder (out=)", hint="out")
    merged = load_adapted(adapter, f"adapter {name}", base=base)
    try:
        out.mkdir(parents=True, exist_ok=True)
        merged.model.save_pretrained(out)
        merged.processor.save_pretrained(out)
        rows = _licenses(merged.base, merged.model.config.modalities[0], name)
        write_text(out / LICENSES_FILE, json.dumps(rows, indent=1) + "\n")
    except OSError as error:
        reason = one_line(error.strerror or error)
        message = f"{shown}: cannot be written ({reason}): choose another folder (out=)"
        raise UsageError(message, hint="out") from None
    return out


def _licenses(base: Path | str, modality: str, name: str) -> list[dict[str, Any]]:
    """Return the licenses of the base's training images, and a row for the adapter's, which only its owner knows."""
    file = base / LICENSES_FILE if isinstance(base, Path) else file_on_hub(base, LICENSES_FILE)
    sources = [source for source in read_licenses(file) if source.get("modality") in (None, modality)]
    adapter = {"source": name, "upstream": "images of the adapter", "modality": modality}
    return [*sources, {**adapter, "license": "not stated", "remarks": "known to those who trained the adapter"}]


__all__ = [
    "BASE_FILE",
    "PRECISIONS",
    "SCHEMA",
    "adapted_experts",
    "base_record",
    "embedded_base",
    "example_prompt",
    "fingerprint",
    "forget_calibration",
    "load_adapted",
    "load_adapter",
    "merge_adapter",
]
