# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The options of `medglip ground`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..defaults import UNTRAINED_THRESHOLD
from .options import (
    Base,
    Debug,
    Device,
    Model,
    Out,
    Threshold,
    check_axes,
    check_device,
    check_engine,
    check_modality,
    check_out,
    checked_frame,
    checked_plane,
    checked_prompt,
    known_kinds,
)


# Options that are for volumes alone.
VOLUME_OPTIONS = ("plane", "volume", "axes", "write", "resample", "several_patients")


@dataclass(frozen=True)
class GroundRequest:
    """One call of `medglip ground`; the help of the command explains the fields."""

    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="Images, DICOM, NIfTI, NRRD; folders of them and of DICOM series."),
    ]
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help='Labels, for example "liver. spleen."; all asks for every trained one.'),
    ] = None
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="Text file with a label per line, instead.")
    ] = None
    modality: Annotated[str, typer.Option("--modality", help="auto, ct, mri, ultrasound, xray ...")] = "auto"
    model: Model = None
    base: Base = None
    threshold: Threshold = 0.3
    untrained_threshold: Annotated[
        float,
        typer.Option("--untrained-threshold", min=0.0, max=1.0, help="The same for labels it was not trained with."),
    ] = UNTRAINED_THRESHOLD
    out: Out = Path("out")
    device: Device = "auto"
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write a JSON manifest.")] = None
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write one table with the boxes of all inputs.")
    ] = None
    parquet: Annotated[Path | None, typer.Option("--parquet", metavar="FILE", help="Write that table as Parquet.")] = (
        None
    )
    frame: Annotated[
        str | None,
        typer.Option("--frame", metavar="N|all", help="Frame of a file with several, or all of them."),
    ] = None
    every: Annotated[int | None, typer.Option("--every", min=1, help="Of --frame all: only every so many frames.")] = (
        None
    )
    plane: Annotated[
        str | None, typer.Option("--plane", help="Of volumes: axial, coronal, sagittal; all asks for agreement.")
    ] = None
    volume: Annotated[int | None, typer.Option("--volume", min=1, help="Which volume of a 4-D file.")] = None
    axes: Annotated[
        str | None,
        typer.Option(
            "--axes",
            help="Of volumes whose header is wrong: where the axes run, LPS, RAS ... mm of boxes follow them, from "
            "where the header puts the first voxel; label maps and markups stay on the file's own header.",
        ),
    ] = None
    write: Annotated[
        list[str] | None,
        typer.Option("--write", help="Of volumes, also: slicer, nifti, sr, seg; several times for several."),
    ] = None
    resample: Annotated[
        bool,
        typer.Option("--resample", help="Take DICOM series with uneven, missing or damaged slices, interpolated."),
    ] = False
    several_patients: Annotated[
        bool, typer.Option("--several-patients", help="Take a DICOM folder with files of several patients.")
    ] = False
    isolate: Annotated[
        bool, typer.Option("--isolate/--no-isolate", help="Read inputs in a process of its own, with limits.")
    ] = True
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", min=1, help="Inputs that are grounded at the same time: 1; on a Ray cluster as many as fit."
        ),
    ] = None
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            help="local; ray: the cluster of RAY_ADDRESS (host:port), whose machines share the folders of inputs, "
            "--model and --out.",
        ),
    ] = "local"
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where an earlier run with --resume ended or was killed."),
    ] = False
    all_boxes: Annotated[
        bool,
        typer.Option(
            "--all-boxes", help="Keep every box. Without it an organ that a patient has one of has one box, the best."
        ),
    ] = False
    debug: Debug = False

    @functools.cached_property
    def asked(self) -> str:
        """The prompt, from the command line or its file."""
        return checked_prompt(self.prompt, self.prompts)

    @functools.cached_property
    def frames(self) -> int | Literal["all"] | None:
        """The wanted frame, counted from 1, or `"all"`."""
        return checked_frame(self.frame, self.every)

    @functools.cached_property
    def kinds(self) -> tuple[str, ...]:
        """The further files that are written for volumes."""
        return known_kinds(self.write or ())

    def check(self) -> None:
        """Check the options before anything slow is imported.

        Raises:
            `UsageError`: names the first wrong option.
        """
        _ = self.asked, self.kinds, self.frames
        check_modality(self.modality)
        check_device(self.device)
        check_axes(self.axes)
        checked_plane(self.plane)
        check_out(self.out)
        check_engine(self.engine, self.jobs, self.device)
        if self.engine == "ray":
            from .ray_connection import require_ray

            require_ray()
        if self.parquet is not None:
            from ..outputs.parquet_table import require_parquet

            require_parquet()

    def stated(self) -> dict[str, Any]:
        """Return what the manifest states of the options; it names no file."""
        names = ("modality", "threshold", "device", "untrained_threshold", "all_boxes", "every", *VOLUME_OPTIONS)
        options = {name: getattr(self, name) for name in names}
        return {"prompt": self.asked, "frame": self.frames, **options, "write": list(self.kinds)}


__all__ = ["VOLUME_OPTIONS", "GroundRequest"]
