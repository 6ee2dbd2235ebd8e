# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""`medglip export`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .console import echo, graphs, progress, warn
from .options import Base, Debug, Model, usage_error
from .session import load_model, quiet_libraries


if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ExportCommand:
    """Write an expert as graphs of ONNX or OpenVINO, which run faster; `--model DIR` then runs them."""

    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder for the graphs.")]
    modality: Annotated[str, typer.Option("--modality", help="ct, mri ...; all for every expert.")] = "all"
    format: Annotated[Literal["onnx", "openvino"], typer.Option("--format", help="onnx or openvino.")] = "onnx"
    model: Model = None
    base: Base = None
    int8: Annotated[
        Path | None,
        typer.Option("--int8", metavar="DIR", help="Eight-bit convolutions; images to learn ranges from."),
    ] = None
    debug: Debug = False

    def run(self) -> int:
        """Export and return the exit status."""
        if self.out.exists():
            raise usage_error(f"--out {self.out.name}: exists: name a new folder", "export")
        with quiet_libraries(self.debug):
            images = None if self.int8 is None else list(_read(self.int8))
            grounder = load_model(
                self.model, "cpu", None if self.modality == "all" else self.modality, self.base, self.debug
            )
            from ..exported.graphs import export_model

            manifest = export_model(
                grounder.model, grounder.processor, self.out, self.format, grounder.name, images, graphs
            )
        size = sum(file.stat().st_size for file in self.out.iterdir()) / 1e6
        echo(f"{', '.join(manifest.modalities)} as {manifest.format} ({manifest.precision}), {size:.0f} MB")
        echo(f"written to {self.out}: use it with --model {self.out}")
        return 0


def _read(folder: Path) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the pixels of the images of a folder; those that cannot be read are named and passed over.

    Raises:
        `UsageError`: the folder holds no image that can be read.
    """
    from ..errors import MedGlipError
    from ..exported.quantization import spread
    from ..io.file_endings import is_volume_file
    from ..io.folders import sort_folder
    from ..isolation.process import ReaderProcess

    files = [file for file in sort_folder(folder).files if not is_volume_file(file)] if folder.is_dir() else []
    some = False
    with ReaderProcess() as reader:
        for file in progress(spread(files)):
            try:
                pixels = reader.read_image(file).pixels
            except MedGlipError as error:
                warn("warning", str(error))
                continue
            some = True
            yield pixels
    if not some:
        raise usage_error(f"--int8 {folder.name}: is not a folder with images", "export")


__all__ = ["ExportCommand"]
