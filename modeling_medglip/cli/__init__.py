# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The console script `medglip`: demo, ground, merge, info, env.

Exit status: 0 all good, 1 some input failed (its reason on stderr, the others done), 2 wrong usage. What takes long to
import is imported inside the commands, so that `--help` is there at once.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..defaults import UNTRAINED_THRESHOLD
from ..errors import MedGlipError, UsageError, install_hint, one_line
from ..outputs.run_report import RESEARCH_USE, InputRecord
from .console import complain, fail, print_rows, progress, say
from .jobs import Input, Job, Options, VolumeJob, expand
from .options import (
    check_axes,
    check_device,
    check_modality,
    check_out,
    check_port,
    check_table,
    checked_frame,
    checked_plane,
    checked_prompt,
    known_kinds,
)


if TYPE_CHECKING:
    from ..grounding import Grounder
    from ..isolation.process import Reader

app = typer.Typer(
    name="medglip",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[
    str | None, typer.Option("--model", metavar="DIR_OR_ID", help="Checkpoint, adapter or run: a folder, or a Hub id.")
]
Base = Annotated[
    str | None, typer.Option("--base", metavar="DIR_OR_ID", help="Of an adapter: what it was trained on.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
Threshold = Annotated[float, typer.Option("--threshold", min=0.0, max=1.0, help="Lowest score to keep.")]
UntrainedThreshold = Annotated[
    float,
    typer.Option("--untrained-threshold", min=0.0, max=1.0, help="The same for labels it was not trained with."),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for overlays and boxes.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    program: Any = typer.main.get_command(app)
    try:
        status = program.main(args=arguments, prog_name="medglip", standalone_mode=False)
        return fail("interrupted", 130, False) if status == 130 else int(status or 0)
    except MedGlipError as error:
        return fail(error, 2 if isinstance(error, UsageError) else 1, debug)
    except (KeyboardInterrupt, typer.Abort):
        return fail("interrupted", 130, False)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is not None:  # the command line itself was wrong
            chosen = next((f"medglip {name}" for name in arguments[:1] if name in program.commands), "medglip")
            command = getattr(getattr(error, "ctx", None), "command_path", chosen)
            return fail(f"{message()} ({command} --help shows the usage)", int(getattr(error, "exit_code", 2)), debug)
        return fail(f"unexpected {type(error).__name__}: {one_line(error)} (--debug shows where)", 1, debug)


def _show_version(wanted: bool) -> None:
    if wanted:
        from ..outputs.run_report import package_version

        typer.echo(f"med-glip {package_version()}")
        raise typer.Exit


@app.callback(epilog=RESEARCH_USE)
def _general(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version.")
    ] = False,
) -> None:
    """Find what phrases name in medical images: boxes with labels and scores."""


# Commands ------------------------------------------------------------------------------------------------------------


@app.command()
def ground(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="Images, DICOM, NIfTI, NRRD; folders of them and of DICOM series."),
    ],
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help='Labels, for example "liver. spleen."; all asks for every trained one.'),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="Text file with a label per line, instead.")
    ] = None,
    modality: Annotated[str, typer.Option("--modality", help="auto, ct, mri, ultrasound, xray ...")] = "auto",
    model: Model = None,
    base: Base = None,
    threshold: Threshold = 0.3,
    untrained_threshold: UntrainedThreshold = UNTRAINED_THRESHOLD,
    out: Out = Path("out"),
    device: Device = "auto",
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write a JSON manifest.")] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write one table with the boxes of all inputs.")
    ] = None,
    frame: Annotated[
        str | None,
        typer.Option("--frame", metavar="N|all", help="Frame of a file with several, or all of them."),
    ] = None,
    every: Annotated[
        int | None, typer.Option("--every", min=1, help="Of --frame all: only every so many frames.")
    ] = None,
    plane: Annotated[
        str | None, typer.Option("--plane", help="Of volumes: axial, coronal, sagittal; all asks for agreement.")
    ] = None,
    volume: Annotated[int | None, typer.Option("--volume", min=1, help="Which volume of a 4-D file.")] = None,
    axes: Annotated[
        str | None,
        typer.Option(
            "--axes",
            help="Of volumes whose header is wrong: where the axes run, LPS, RAS ... mm of boxes follow them, from "
            "where the header puts the first voxel; label maps and markups stay on the file's own header.",
        ),
    ] = None,
    write: Annotated[
        list[str] | None,
        typer.Option("--write", help="Of volumes, also: slicer, nifti, sr, seg; several times for several."),
    ] = None,
    resample: Annotated[
        bool,
        typer.Option("--resample", help="Take DICOM series with uneven, missing or damaged slices, interpolated."),
    ] = False,
    several_patients: Annotated[
        bool, typer.Option("--several-patients", help="Take a DICOM folder with files of several patients.")
    ] = False,
    isolate: Annotated[
        bool, typer.Option("--isolate/--no-isolate", help="Read inputs in a process of its own, with limits.")
    ] = True,
    all_boxes: Annotated[
        bool,
        typer.Option(
            "--all-boxes", help="Keep every box. Without it an organ that a patient has one of has one box, the best."
        ),
    ] = False,
    debug: Debug = False,
) -> int:
    """Ground phrases on images and volumes: writes NAME.png (overlay) and NAME.boxes.json for every input."""
    start = time.perf_counter()
    asked, kinds, which = checked_prompt(prompt, prompts), known_kinds(write or ()), checked_frame(frame, every)
    check_modality(modality)
    check_device(device)
    check_axes(axes)
    check_out(out)
    options = {"prompt": asked, "modality": modality, "threshold": threshold, "device": device, "frame": which}
    options |= {"untrained_threshold": untrained_threshold, "all_boxes": all_boxes, "every": every}
    of_volumes = {"plane": checked_plane(plane), "volume": volume, "axes": axes, "write": list(kinds)}
    of_volumes |= {"resample": resample, "several_patients": several_patients}
    given = tuple("--" + name.replace("_", "-") for name, value in of_volumes.items() if value)
    with _quiet(debug), _reader(isolate) as reader:
        selection = Options(several_patients, resample, volume, which, given, every or 1)
        jobs, records = expand(inputs, selection, debug, reader)
        stems = _stems(jobs, [*inputs, *([prompts] if prompts else [])], out, report, csv)
        labels = _labels(asked) if jobs else []
        _make_folder(out)
        failed, rows, grounder, interrupted = len(records), list[dict[str, Any]](), None, False
        try:
            grounder = _loaded(model, device, modality, base, debug) if jobs else None
            for found, stem in progress(list(zip(jobs, stems, strict=True))):
                assert grounder is not None  # there are jobs
                kind = Job if found.open is None else VolumeJob
                job = kind(grounder, out, stem, asked, labels, modality, threshold, debug)
                job.untrained_threshold, job.all_boxes, job.frame = untrained_threshold, all_boxes, found.frame
                if isinstance(job, VolumeJob):
                    job.plane, job.kinds, job.axes = plane, kinds, axes
                records.append(job.run(found.name, found.open or partial(reader.read_image, found.file, found.frame)))
                rows += job.rows
        except KeyboardInterrupt:
            interrupted = True
            rest = jobs[len(records) - failed :]
            records += [InputRecord(one_line(found.name, 120), "not done", 0.0) for found in rest]
    if report is not None:
        _write_report(report, grounder, {**options, **of_volumes}, labels, records, time.perf_counter() - start)
    if csv is not None:
        _write_csv(csv, rows)
    status = _finish(records, out)
    return 130 if interrupted else status


@app.command()
def demo(
    out: Out = Path("out/demo"),
    model: Model = None,
    threshold: Threshold = 0.3,
    device: Device = "auto",
    space: Annotated[bool, typer.Option("--space", help="Serve the page of the Space at 127.0.0.1 instead.")] = False,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="For --space.")] = None,
    debug: Debug = False,
) -> int:
    """Ground phrases on an image of every modality: real ones from installed packages, and phantoms."""
    if space:
        return _serve_space(model, port)
    _make_folder(out)
    with _quiet(debug):
        grounder = _loaded(model, device, None, None, debug)
        from ..demo.cases import demo_cases
        from ..grounding import prompt_labels
        from ..outputs.files import write_bytes
        from ..outputs.overlay import contact_sheet, overlay_png

        cases = [case for case in demo_cases() if case.modality in grounder.modalities]
        records, pictures = [], []
        for case in progress(cases):
            labels = prompt_labels(case.prompt)
            job = Job(grounder, out, case.id, case.prompt, labels, case.modality, threshold, debug, case)
            records.append(job.run(case.id, case.load))
            pictures.extend(job.pictures)
        if pictures:
            write_bytes(out / "demo.png", overlay_png(contact_sheet(pictures, columns=min(4, len(pictures)))))
            say(f"all overlays on one sheet: {out / 'demo.png'}")
    return _finish(records, out)


@app.command()
def merge(
    model: Annotated[str, typer.Option("--model", metavar="DIR_OR_ID", help="Adapter, or the run that made it.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder for the checkpoint.")],
    base: Base = None,
    debug: Debug = False,
) -> int:
    """Write an adapter and its base as one checkpoint, which loads everywhere a checkpoint does."""
    with _quiet(debug):
        _quiet_transformers(debug)
        from ..checkpoints.adapters import merge_adapter

        merge_adapter(model, out, base)
    say(f"written to {out}: use it with --model {out}")
    return 0


@app.command()
def info(
    licenses: Annotated[bool, typer.Option("--licenses", help="Licences of code, weights and training data.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> int:
    """What is installed: version, embedded checkpoint, labels it was trained with, taxonomy."""
    from ..outputs.run_report import checkpoint_info, embedded_checkpoint, package_version, taxonomy_counts

    folder = embedded_checkpoint()
    content: dict[str, Any] = {"version": package_version(), "checkpoint": folder.name, **checkpoint_info(folder)}
    content["taxonomy"] = taxonomy_counts()
    content["notice"] = RESEARCH_USE
    if as_json:
        typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
    elif licenses:
        print_rows(["part", "license", "modality", "remarks"], [list(row.values()) for row in _ordered(content)])
    else:
        _print_info(content)
    return 0


@app.command()
def env(debug: Debug = False) -> int:
    """Versions, devices and settings, to paste into a bug report. Names no host, user or folder."""
    from ..outputs.run_report import environment

    for key, value in environment().items():
        typer.echo(f"{key}: {value}")
    return 0


def _print_info(content: dict[str, Any]) -> None:
    say(f"med-glip {content['version']}, embedded checkpoint {content['checkpoint']} ({content['weights_mb']} MB)")
    rows = [
        [modality, str(len(labels := content["labels"].get(modality, []))), ", ".join(labels) or "not stated"]
        for modality in content["modalities"]
    ]
    print_rows(["modality", "labels", "trained with"], rows)
    say("taxonomy: " + ", ".join(f"{count} {name}" for name, count in content["taxonomy"].items()))
    say(RESEARCH_USE)


def _ordered(content: dict[str, Any]) -> list[dict[str, str]]:
    return [{key: row[key] for key in ("part", "license", "modality", "remarks")} for row in content["licenses"]]


def _serve_space(model: str | None, port: int | None) -> int:
    """Run the Space of this clone until it is stopped."""
    script = Path(__file__).resolve().parent.parent.parent / "spaces_demo" / "app.py"
    if not script.is_file():
        raise UsageError("--space: the Space is not part of the installed package: run this from a clone")
    if importlib.util.find_spec("gradio") is None:
        raise UsageError(f"--space: needs gradio: {install_hint('space')}")
    check_port(port)
    settings = {**os.environ, **({"MEDGLIP_MODEL": model} if model else {})}
    command = [sys.executable, str(script), *(["--port", str(port)] if port else [])]
    return subprocess.run(command, env=settings).returncode


# Around a run --------------------------------------------------------------------------------------------------------


@contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """Other libraries' warnings and loading bars stay off the terminal unless asked for."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if debug:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # our own warnings come with the results
        loggers = [logging.getLogger(name) for name in ("huggingface_hub", "modeling_medglip")]
        levels = [logger.level for logger in loggers]
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _reader(isolate: bool) -> Reader:
    from ..isolation.process import Reader, ReaderProcess

    return ReaderProcess(hint=" (--no-isolate reads it without limits)") if isolate else Reader()


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {one_line(out.name)}: cannot be made ({one_line(error.strerror)})") from None


def _stems(
    jobs: Sequence[Input], inputs: Sequence[Path], out: Path, report: Path | None, csv: Path | None
) -> list[str]:
    """The stem of every input's outputs. Refuses tables that would overwrite something, before any work."""
    from ..outputs.files import all_output_names, canonical_path, output_stems

    stems = output_stems([job.path for job in jobs], out)
    taken = [*inputs, *(job.file for job in jobs), *(out / name for stem in stems for name in all_output_names(stem))]
    check_table("--report", report, taken, out)
    check_table("--csv", csv, taken, out)
    if report is not None and csv is not None and canonical_path(report) == canonical_path(csv):
        raise UsageError("--report and --csv: name the same file")
    return stems


def _labels(prompt: str) -> list[str]:
    from ..grounding import prompt_labels

    return prompt_labels(prompt)


def _quiet_transformers(debug: bool) -> None:
    """Keep the warnings and loading bars of transformers off the terminal. Imports PyTorch."""
    from transformers.utils import logging as transformers_logging

    if not debug:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()


def _loaded(model: str | None, device: str, modality: str | None, base: str | None, debug: bool) -> Grounder:
    """Load the checkpoint and say which one it is."""
    _quiet_transformers(debug)
    from ..grounding import load

    grounder = load(model, device, modality, base)
    say(f"{grounder.name} on {grounder.device}")
    if not grounder.trained.stated:
        complain("warning", f"{grounder.name} does not state what it was trained with: no label is held back")
    return grounder


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    from ..outputs.csv_table import to_csv
    from ..outputs.files import write_text

    write_text(path, to_csv(rows))


def _write_report(
    path: Path,
    grounder: Grounder | None,
    options: dict[str, Any],
    labels: list[str],
    records: list[InputRecord],
    seconds: float,
) -> None:
    from ..outputs.files import to_json, write_text
    from ..outputs.run_report import build_run_report, versions

    content = build_run_report(
        model="not loaded" if grounder is None else grounder.name,
        device="none" if grounder is None else str(grounder.device),
        options=options,
        labels=labels,
        records=records,
        seconds=seconds,
        versions=versions(),
    )
    write_text(path, to_json(content))


def _finish(records: Sequence[InputRecord], out: Path) -> int:
    """The last lines, and the exit status."""
    done = [record for record in records if record.status == "done"]
    say("")
    if done:
        mean = sum(record.seconds for record in done) / len(done)
        say(f"{len(done)} of {len(records)} images done, {mean:.2f} s each; written to {out}")
    say(RESEARCH_USE)
    return 0 if len(done) == len(records) else 1
