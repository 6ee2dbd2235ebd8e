# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The manifest of a run, and what `medglip env` and `medglip info` print: plain data, without PyTorch models.

Nothing here names a host, a user or a folder.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import one_line


REPORT_SCHEMA = "medglip/run@1"
PACKAGES = ("torch", "torchvision", "transformers", "timm", "safetensors", "numpy", "Pillow", "pydicom")
OFFLINE_FLAGS = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
RESEARCH_USE = "Research use only, not a medical device."


@dataclass(frozen=True)
class InputRecord:
    """What became of one input.

    Args:
        file (`str`): base name.
        status (`str`): `"done"`, `"failed"`, or `"not done"` if the run was interrupted before its end.
        seconds (`float`): for reading, grounding and writing.
        outputs (`tuple[str, ...]`): base names of the written files.
        boxes (`int`): number of boxes.
        modality (`str`, *optional*): the expert.
        modality_source (`str`, *optional*): why it was chosen: `"given"`, `"header"`, `"pixels"`, `"checkpoint"` or
            `"unrecognized"`.
        warnings (`tuple[str, ...]`): one line each.
        error (`str`, *optional*): the reason of a failure.
    """

    file: str
    status: str
    seconds: float
    outputs: tuple[str, ...] = ()
    boxes: int = 0
    modality: str | None = None
    modality_source: str | None = None
    warnings: tuple[str, ...] = ()
    error: str | None = None


def is_record(value: Any) -> bool:
    """Return whether a value read from a file holds the fields of an [`InputRecord`], each of its type."""
    if not isinstance(value, dict) or set(value) != {field.name for field in fields(InputRecord)}:
        return False
    lists = all(
        isinstance(value[name], list) and all(isinstance(text, str) for text in value[name])
        for name in ("outputs", "warnings")
    )
    optional = ("modality", "modality_source", "error")
    texts = all(value[name] is None or isinstance(value[name], str) for name in optional)
    named = isinstance(value["file"], str) and isinstance(value["status"], str)
    return lists and texts and named and type(value["boxes"]) is int and type(value["seconds"]) in (int, float)


def build_run_report(
    *,
    model: str,
    device: str,
    options: Mapping[str, Any],
    labels: Sequence[str],
    records: Sequence[InputRecord],
    seconds: float,
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Build the manifest of one run of `medglip ground`; a pure function of its arguments.

    Args:
        model (`str`): name of the checkpoint.
        device (`str`): where it ran.
        options (`Mapping[str, Any]`): of the command line.
        labels (`Sequence[str]`): of the prompt.
        records (`Sequence[InputRecord]`): what became of every input.
        seconds (`float`): duration of the run.
        versions (`Mapping[str, str]`): see [`versions`].
    """
    inputs = []
    for record in records:
        entry = asdict(record)
        entry.update(seconds=round(record.seconds, 3), outputs=list(record.outputs), warnings=list(record.warnings))
        inputs.append(entry)
    return {
        "schema": REPORT_SCHEMA,
        "versions": dict(versions),
        "model": model,
        "device": device,
        "options": dict(options),
        "labels": list(labels),
        "inputs": inputs,
        "outputs": [name for record in records for name in record.outputs],
        "done": sum(record.status == "done" for record in records),
        "failed": sum(record.status == "failed" for record in records),
        "not_done": sum(record.status == "not done" for record in records),
        "seconds": round(seconds, 3),
        "notice": RESEARCH_USE,
    }


def package_version(name: str = "med-glip") -> str:
    """Return the installed version of a distribution, or `"not installed"`."""
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of the libraries that matter to results."""
    return {
        "med-glip": package_version(),
        "python": platform.python_version(),
        **{name: package_version(name) for name in PACKAGES},
    }


def environment() -> dict[str, str]:
    """Return what a bug report needs: versions, system, devices, threads, offline flags. Imports torch."""
    import torch

    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        **versions(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": str(os.cpu_count()),
        "torch threads": str(torch.get_num_threads()),
        "cuda devices": ", ".join(cuda) or "none",
        "mps": "available" if torch.backends.mps.is_available() else "not available",
        **{flag: one_line(os.environ.get(flag, "not set"), 20) for flag in OFFLINE_FLAGS},
        "telemetry": "none, ever",
    }


def taxonomy_counts() -> dict[str, int]:
    """Return the sizes of the label taxonomy, and how many of its codes are unverified."""
    from ..taxonomy import load_taxonomy

    taxonomy = load_taxonomy()
    return {
        "labels": len(taxonomy.labels),
        "categories": len(taxonomy.categories),
        "regions": len(taxonomy.regions),
        "unverified codes": len(taxonomy.unverified_codes()),
    }


__all__ = [
    "RESEARCH_USE",
    "InputRecord",
    "build_run_report",
    "environment",
    "package_version",
    "taxonomy_counts",
    "versions",
]
