# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Where a checkpoint or an adapter is, and the model and processor of a checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from transformers.utils import cached_file

from ..configuration_medglip import check_checkpoint_files
from ..errors import CheckpointError, MedGlipError, PickledCheckpointError, one_line
from ..modeling_medglip import CONVERT_PICKLE, PICKLED, MedGlipForObjectDetection
from ..processing_medglip import MedGlipProcessor
from .location import ADAPTER_FILES, embedded_checkpoint, weight_files


NOT_AT_HAND = "neither in the cache nor to be had from the Hub: check the name, or give the folder of a copy"
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
CONFIG_FILE = ADAPTER_FILES[0]


def locate(model_dir_or_id: str | Path | None) -> tuple[Path | str, str]:
    """Find a checkpoint or an adapter: (folder or Hub id, name to show).

    Raises:
        `CheckpointError`: there is none. `PickledCheckpointError`: it holds pickled tensors.
    """
    if model_dir_or_id is None:
        folder = embedded_checkpoint()
        _check_folder(folder, f"med-glip-{folder.name}")
        return folder, f"med-glip-{folder.name}"
    text = str(model_dir_or_id)
    path = Path(text).expanduser()
    name = one_line(path.resolve().name if path.exists() else text, 120)
    if path.is_dir():
        path = outcome_folder(path)
        if path.name in ("adapter", "expert") and (path.parent / "results.json").is_file():
            name = one_line(path.resolve().parent.name, 120)  # of the run
        if not (path / "adapter_config.json").exists():
            _check_folder(path, name)
        return path, name
    if path.exists():
        if any(path.match(pattern) for pattern in PICKLED):
            raise _pickled(name, name)
        raise CheckpointError(f"checkpoint {name}: give the folder that holds config.json, not a file in it")
    if isinstance(model_dir_or_id, str) and HUB_ID.match(text) and not text.endswith((".bin", ".pt", ".safetensors")):
        return text, text
    raise CheckpointError(f"checkpoint {name}: no such folder, and no Hub id of the form org/name")


def _pickled(name: str, file: str) -> PickledCheckpointError:
    return PickledCheckpointError(
        f"checkpoint {name}: {file} is pickled, which can run code when it is read; {CONVERT_PICKLE}"
    )


def _check_folder(folder: Path, name: str) -> None:
    """Check the files of a checkpoint folder before anything is loaded from it."""
    try:
        check_checkpoint_files(folder)
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {name}: the folder has no config.json") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {name}: {one_line(error)}") from None
    if kind != "med-glip":
        raise CheckpointError(f"checkpoint {name}: is a {one_line(kind, 40)!r} model, not med-glip")
    if not weight_files(folder):
        pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
        if pickled:
            raise _pickled(name, one_line(pickled[0], 60))
        raise CheckpointError(f"checkpoint {name}: the folder has no .safetensors file")
    for file in ("processor_config.json", "tokenizer_config.json"):
        if not (folder / file).is_file():
            raise CheckpointError(f"checkpoint {name}: the folder has no {file}: save the processor there too")


def outcome_folder(folder: Path) -> Path:
    """Return the adapter or the expert in a run's folder; the folder itself if it is not a run."""
    if not (folder / "config.json").exists() and not (folder / CONFIG_FILE).exists():
        for name, file in (("adapter", CONFIG_FILE), ("expert", "config.json")):
            if (folder / name / file).exists():
                return folder / name
    return folder


def is_adapter(source: Path | str) -> bool:
    """Return whether a folder or a Hub id holds an adapter."""
    if isinstance(source, Path):
        return (source / CONFIG_FILE).exists()
    return file_on_hub(source, CONFIG_FILE) is not None


def file_on_hub(name: str, file: str) -> Path | None:
    """Return the path of a repository's file in the cache; `None` if it is not available.

    Args:
        name (`str`): a Hub id.
        file (`str`): name of the file in it.
    """
    try:
        path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):
        return None
    return None if path is None else Path(path)


def load_checkpoint(
    source: Path | str, name: str, modality: str | None = None
) -> tuple[MedGlipForObjectDetection, MedGlipProcessor]:
    """Load the model and the processor of a checkpoint, in single precision on the CPU.

    Args:
        source (`Path` or `str`): a folder or Hub id, as [`locate`] gives it.
        name (`str`): how the checkpoint is called in messages.
        modality (`str`, *optional*): load only this modality's expert.

    Raises:
        `CheckpointError`: incomplete, damaged, or not available.
    """
    options: dict[str, Any] = {"local_files_only": isinstance(source, Path)}
    processor = None
    try:
        # A checkpoint's code never runs, and the user is not asked whether it may.
        processor = MedGlipProcessor.from_pretrained(source, trust_remote_code=False, **options)
        if modality is not None:
            options["modalities"] = [modality]
        model = MedGlipForObjectDetection.from_pretrained(source, use_safetensors=True, dtype=torch.float32, **options)
    except MedGlipError:
        raise
    except Exception as error:  # broken files make transformers and safetensors raise nearly anything
        reason = _reason(error, source)
        if isinstance(source, str) and isinstance(error, OSError) and processor is not None:
            raise CheckpointError(f"checkpoint {name}: has no .safetensors weights that can be read") from error
        if isinstance(source, str) and isinstance(error, OSError):
            # This sentence of transformers speaks of folders only.
            known = "" if reason.startswith("Can't load") else f" ({reason})"
            raise CheckpointError(f"checkpoint {name}: {NOT_AT_HAND}{known}") from error
        raise CheckpointError(f"checkpoint {name}: cannot be loaded ({reason})") from error
    return model, processor


def _reason(error: Exception, source: Path | str) -> str:
    """Return the first sentence of a message, without the folder that the checkpoint lies in."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # Validators put the field on the first line, what is wrong with it on the next.
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    for part in (f"checkpoint {source}", f"{source}/", str(source)):
        text = text.replace(part, "" if part.endswith("/") else "it")
    return one_line(text, 220)


__all__ = ["CONFIG_FILE", "HUB_ID", "file_on_hub", "is_adapter", "load_checkpoint", "locate", "outcome_folder"]
