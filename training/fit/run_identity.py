# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Identity of a run, which resumes only from checkpoints of the same run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from modeling_medglip.errors import one_line
from modeling_medglip.outputs.files import write_text

from ..data.records import GroundingRecord
from ..old_names import with_old_names


FILE = "run.json"


def run_identity(
    settings: Mapping[str, Any],
    records: Sequence[GroundingRecord],
    model: nn.Module,
    elsewhere: Sequence[GroundingRecord] = (),
) -> str:
    """Return the SHA-256 of settings, training records (names, boxes, labels), starting weights and negative images.

    Args:
        settings (`Mapping[str, Any]`): what the weights depend on.
        records (`Sequence[GroundingRecord]`): training records.
        model (`nn.Module`): with its starting weights.
        elsewhere (`Sequence[GroundingRecord]`, *optional*): images of other modalities that negative images are taken
            from. Without any the identity is the one of before there were such images.
    """
    digest = hashlib.sha256(json.dumps(with_old_names(dict(settings)), sort_keys=True, default=str).encode())
    for record in records:
        entry = (record.source, record.image_id, record.labels, record.annotated, record.weight)
        digest.update(repr(entry).encode("utf-8", "surrogatepass"))
        digest.update(record.boxes.tobytes())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    for record in elsewhere:  # by their names: of these images nothing but the pixels is shown
        digest.update(repr((record.modality, record.source, record.image_id)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def claim(out: Path, identity: str) -> None:
    """Reserve a folder for this run.

    Args:
        out (`Path`): folder of the run.
        identity (`str`): of [`run_identity`].

    Raises:
        `ValueError`: it holds checkpoints of another run, from which this one would resume.
    """
    file = out / FILE
    try:
        known = json.loads(file.read_text(encoding="utf-8"))["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        known = None
    if known != identity and any(out.glob("checkpoint-*")):
        name = one_line(out.name, 60)
        raise ValueError(f"{name}: holds a run with other data, settings or weights: choose another --out")
    write_text(file, json.dumps({"identity": identity}) + "\n")
