# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""`export.json`: what an exported folder holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..configuration_medglip import MODALITIES, read_json
from ..errors import CheckpointError, one_line
from ..outputs.files import to_json, write_text


SCHEMA = "medglip/exported@1"
FILE = "export.json"
ENDINGS = {"onnx": ".onnx", "openvino": ".xml"}
FORMATS = tuple(ENDINGS)
PRECISIONS = ("float32", "int8")
BOX_HEADS = "box_heads.safetensors"
TEXT_ENCODER = "text_encoder"
# Outputs of a text encoder, of an image encoder, and of a decoder.
HIDDEN = ("hidden",)
LEVELS = ("p3", "p4", "p5", "p6", "p7")
OUTPUTS = ("region_features", "token_features", "logits", "presence_logits", "pred_boxes", "centerness")


@dataclass(frozen=True)
class Manifest:
    """What an exported folder holds.

    Attributes:
        format (`str`): one of `FORMATS`.
        precision (`str`): of convolutions, one of `PRECISIONS`.
        modalities (`tuple[str, ...]`): with an image encoder and a decoder.
        source (`str`): name of the checkpoint.
        versions (`Mapping[str, str]`): of the packages that made the graphs.
        files (`Mapping[str, str]`): every other file of the folder -> its SHA-256.
    """

    format: str
    precision: str
    modalities: tuple[str, ...]
    source: str
    versions: Mapping[str, str]
    files: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Write the file into a folder."""
        write_text(folder / FILE, to_json({"schema": SCHEMA, **asdict(self)}))

    def graph(self, folder: Path, part: str) -> Path:
        """Return the file of a graph.

        Args:
            folder (`Path`): the exported folder.
            part (`str`): such as `"text_encoder"`.
        """
        return folder / f"{part}{ENDINGS[self.format]}"


def read_manifest(folder: Path, name: str) -> Manifest:
    """Read what an exported folder holds, and compare its files with their checksums.

    Args:
        folder (`Path`): the exported folder.
        name (`str`): how it is called in messages.

    Raises:
        `CheckpointError`: not written by this package, or a file that is missing or damaged.
    """
    try:
        content = read_json(folder / FILE)
        if content.pop("schema", None) != SCHEMA:
            raise ValueError(f"is not of {SCHEMA}")
        manifest = Manifest(**content)
        _check(manifest)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"checkpoint {name}: {FILE} {one_line(error, 120)}: export it again") from None
    for file, digest in manifest.files.items():
        if not (folder / file).is_file() or sha256(folder / file) != digest:
            raise CheckpointError(f"checkpoint {name}: {file} is missing or damaged: export it again")
    return manifest


def _check(manifest: Manifest) -> None:
    if manifest.format not in FORMATS or manifest.precision not in PRECISIONS:
        raise ValueError("names an unknown format or precision")
    if any(name not in MODALITIES for name in manifest.modalities):
        raise ValueError("names an unknown modality")
    parts = [TEXT_ENCODER, *(part for name in manifest.modalities for part in parts_of(name))]
    needed = {manifest.graph(Path(), part).name for part in parts} | {BOX_HEADS, "config.json"}
    if manifest.format == "openvino":
        needed |= {f"{part}.bin" for part in parts}
    if not isinstance(manifest.files, dict) or not needed <= set(manifest.files):
        raise ValueError("does not list all files")
    if any(Path(file).name != file for file in manifest.files):
        raise ValueError("names a file in another folder")


def parts_of(modality: str) -> tuple[str, str]:
    """Return the names of an expert's graphs: image encoder and decoder."""
    return f"{modality}_image_encoder", f"{modality}_decoder"


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


__all__ = [
    "BOX_HEADS",
    "FILE",
    "FORMATS",
    "HIDDEN",
    "LEVELS",
    "OUTPUTS",
    "PRECISIONS",
    "TEXT_ENCODER",
    "Manifest",
    "parts_of",
    "read_manifest",
    "sha256",
]
