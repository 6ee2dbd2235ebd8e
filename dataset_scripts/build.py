# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Build a data set from raw folders.

    python -m dataset_scripts.build --recipe dataset_scripts/recipes/real_data.yaml --raw DATA --out built/real

First a plan is shown (cases, images, bytes). Then every case is read, checked and written separately below the work
folder, so that a build can be stopped at any time and be resumed. At the end all cases are merged into `--out`.
Exit status: 0 all good, 1 something was rejected that should have been usable (see `quality/`), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.errors import one_line

from .clinical import check_clinical_keys
from .engines import ENGINES, CaseTask, process_cases
from .locks import locked
from .merge import Summary, merge, require_built_set
from .process import NO_ROOM, BuildOptions, case_folder, fingerprint, is_done
from .quality import PROFILES, RULES
from .readers import READERS, Reader, make_reader
from .recipe import Recipe, RecipeError, read_recipes
from .records import Rejected, Rejection


KEY_FILE = "pseudonyms.key"
KEY_BYTES = 32
PRIVATE_FILE = "cases.jsonl"
PRIVATE_REPORT = "rejected.jsonl"


def build(
    recipes: Sequence[Recipe],
    raw: Path,
    out: Path,
    work: Path | None = None,
    workers: int = 1,
    profile: str = "none",
    square_pixels: bool = False,
    seed: int = 0,
    name: str = "med-glip",
    echo: Callable[[str], None] = print,
    previews: bool = False,
    engine: str = "local",
    rejections: Sequence[Rejection] = (),
) -> Summary:
    """Build a data set; see the module's text.

    Args:
        recipes (`Sequence[Recipe]`): The sources.
        raw (`Path`): The folder that contains their roots.
        out (`Path`): Folder of the data set.
        work (`Path`, *optional*): Folder for finished cases, `<out>.work` when left out. It is private: `cases.jsonl`
            maps pseudonyms to files, and `rejected.jsonl` has the rows of the report in full.
        workers (`int`, *optional*, defaults to 1): Number of processes.
        profile (`str`, *optional*, defaults to `"none"`): One of `quality.PROFILES`.
        square_pixels (`bool`, *optional*, defaults to `False`): Resample the slices of volumes to square pixels.
        seed (`int`, *optional*, defaults to 0): For splits that no source decides.
        name (`str`, *optional*, defaults to `"med-glip"`): Name of the data set.
        echo (`Callable`, *optional*, defaults to `print`): Called with the plan.
        previews (`bool`, *optional*, defaults to `False`): Draw plots and contact sheets.
        engine (`str`, *optional*, defaults to `"local"`): One of `engines.ENGINES`.
        rejections (`Sequence[Rejection]`, *optional*): Rows of the report for sources that are not among the recipes.

    Raises:
        `ValueError`: No recipe fits its folder, `out` holds something else, or another build writes into `out` or
            `work`.
    """
    out = out.resolve()
    work = (work or out.with_name(f"{out.name}.work")).resolve()
    if workers < 1:
        raise ValueError(f"workers {workers}: at least 1")
    if out.resolve() == work.resolve() or out.resolve() in work.resolve().parents:
        raise ValueError("the work folder must be outside the data set: it names the raw files")
    require_built_set(out)
    with locked(out), locked(work):
        work.mkdir(parents=True, exist_ok=True)
        work.chmod(0o700)  # it tells which pseudonym is which file
        shutil.rmtree(work / "parts", ignore_errors=True)  # of builds that were killed
        options = BuildOptions(profile, square_pixels, _key(work))
        tasks, listed = plan_tasks(recipes, raw)
        _write_private(work, tasks, options)
        for folder in {task.reader.root.resolve() for task in tasks} - {raw.resolve()}:
            if out.is_relative_to(folder):
                raise ValueError(f"{out.name}: is inside the folder of a source: choose another folder")
        waiting = [
            task
            for task in tasks
            if not is_done(_folder(work, task, options), fingerprint(task.reader, task.case, options))
        ]
        echo(_plan_text(tasks, waiting))
        with _progress_bars() as watch:
            for _ in watch(process_cases(waiting, options, work, workers, engine), "cases", len(waiting)):
                pass
            folders = [_folder(work, task, options) for task in tasks]
            rows = [*rejections, *listed]
            private = work / PRIVATE_REPORT
            return merge(folders, recipes, out, rows, seed, name, progress=watch, previews=previews, private=private)


def plan_tasks(recipes: Sequence[Recipe], raw: Path) -> tuple[list[CaseTask], list[Rejection]]:
    """Return the cases of all sources, in the order that decides their numbers, and what the readers rejected.

    Args:
        recipes (`Sequence[Recipe]`): The sources.
        raw (`Path`): The folder that contains their roots.

    Raises:
        `ValueError`: No source can be read.
    """
    tasks: list[CaseTask] = []
    rejections: list[Rejection] = []
    readers = 0
    for recipe in recipes:
        try:
            reader = make_reader(recipe, raw)
            check_clinical_keys(recipe.clinical, reader.root)
        except (ValueError, OSError) as error:
            if len(recipes) == 1:
                raise ValueError(_of_source(recipe, error)) from None
            rejections.append(_left_out(recipe.source, _of_source(recipe, error)))
            continue
        readers += 1
        tasks += _tasks_of(reader)
        rejections += reader.rejections
    if recipes and not readers:
        raise ValueError("no source can be read")
    return tasks, rejections


def _tasks_of(reader: Reader) -> list[CaseTask]:
    """Return the cases of one source; a failure is a row of the report and affects this source only."""
    try:
        cases = reader.cases()
    except Rejected as error:
        reader.reject(error.rule, error.value)
    except ValueError as error:
        print(f"warning: {one_line(error)}", file=sys.stderr)
        reader.reject("bad_annotations", "the source's list cannot be read")
    except Exception as error:
        if getattr(error, "errno", None) in NO_ROOM:
            raise
        print(f"warning: {reader.recipe.source}: its list cannot be read", file=sys.stderr)
        reader.reject("bad_source", type(error).__name__)
    else:
        if not cases and not reader.rejections:
            reader.reject("no_cases")
        return [CaseTask(reader, case) for case in cases]
    return []


def _of_source(recipe: Recipe, error: Exception) -> str:
    text = one_line(getattr(error, "strerror", None) or error)
    return text if text.startswith(f"{recipe.source}: ") else f"{recipe.source}: {text}"


def _left_out(source: str, reason: str) -> Rejection:
    """Say why a source is left out, and return its row of the report."""
    print(f"warning: {reason}: this source is left out", file=sys.stderr)
    return Rejection(source, "", "listing", "bad_source")


def _folder(work: Path, task: CaseTask, options: BuildOptions) -> Path:
    return case_folder(work, task.reader.recipe, options, task.case)


def _key(work: Path) -> bytes:
    """Return the key of the pseudonyms in a work folder; create it once, so that pseudonyms stay the same.

    Raises:
        `ValueError`: The file does not contain a key.
    """
    path = work / KEY_FILE
    if not path.exists():
        part = work / f".{KEY_FILE}.part"
        part.touch(0o600)
        part.write_text(secrets.token_hex(KEY_BYTES) + "\n", encoding="ascii")
        os.replace(part, path)
    try:
        key = bytes.fromhex(path.read_bytes().decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"{path.name}: holds no key; put the right one back, or remove it for new pseudonyms")
    return key


def _write_private(work: Path, tasks: Iterable[CaseTask], options: BuildOptions) -> None:
    """Write which pseudonym is which raw file, into the work folder only."""
    part = work / f".{PRIVATE_FILE}.part"
    with part.open("w", encoding="utf-8", errors="surrogateescape") as stream:
        for task in tasks:
            row = {
                "source": task.reader.recipe.source,
                "case": _folder(work, task, options).name,
                "file": task.case.key,
            }
            stream.write(json.dumps(row, ensure_ascii=True) + "\n")
    os.replace(part, work / PRIVATE_FILE)


def _plan_text(tasks: Sequence[CaseTask], waiting: Sequence[CaseTask]) -> str:
    size = sum(stat.st_size for task in waiting for _, stat in task.reader.files(task.case))
    images = sum(task.reader.image_count(task.case) for task in waiting)
    sources = len({task.reader.recipe.source for task in tasks})
    to_do = f"{len(waiting)} to do, {size / 1e6:.1f} MB to read, at most {images} images"
    return f"{len(tasks)} cases of {sources} sources; {to_do}"


@contextmanager
def _progress_bars() -> Iterator[Callable[[Iterable[Any], str, int], Iterable[Any]]]:
    """Show progress bars on stderr inside the block if it is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        yield lambda items, text, total: bar.track(items, total=total, description=text)


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dataset_scripts.build", description="Raw folders -> COCO and Parquet."
    )
    parser.add_argument("--recipe", type=Path, nargs="+", help="recipe files; see dataset_scripts/recipe.py")
    parser.add_argument("--raw", type=Path, help="folder with the raw data")
    parser.add_argument("--out", type=Path, help="folder for the data set")
    parser.add_argument("--work", type=Path, help="private folder for finished cases (default: OUT.work)")
    parser.add_argument("--workers", type=int, default=1, help="processes of the local engine")
    parser.add_argument("--engine", choices=ENGINES, default="local", help="ray: a cluster that shares the folders")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="none", help="least share of an annotation")
    parser.add_argument("--square-pixels", action="store_true", help="resample images of volumes to square pixels")
    parser.add_argument("--seed", type=int, default=0, help="for splits that no source decides")
    parser.add_argument("--name", default="med-glip", help="name of the data set")
    parser.add_argument("--source", action="append", help="only this source of the recipes (may be repeated)")
    parser.add_argument("--no-previews", "--no-pictures", action="store_true", help="no plots and contact sheets")
    parser.add_argument("--layouts", action="store_true", help="list the layouts of raw folders")
    options = parser.parse_args(argv)
    if options.layouts:
        print("\n".join(f"{name}: {(reader.__doc__ or '').splitlines()[0]}" for name, reader in READERS.items()))
        return 0
    for key in ("recipe", "raw", "out"):
        if getattr(options, key) is None:
            parser.error(f"--{key} is needed")
    recipes, broken = _read_recipes(options.recipe, options.source)
    summary = build(
        recipes,
        options.raw,
        options.out,
        work=options.work,
        workers=options.workers,
        profile=options.profile,
        square_pixels=options.square_pixels,
        seed=options.seed,
        name=options.name,
        previews=not options.no_previews,
        engine=options.engine,
        rejections=broken,
    )
    _print_summary(summary, options.out)
    return 1 if summary.failed else 0


def _read_recipes(paths: Sequence[Path], sources: Sequence[str] | None) -> tuple[list[Recipe], list[Rejection]]:
    """Return the chosen recipes, and rows of the report for those that cannot be used.

    Raises:
        `ValueError`: No recipe can be used, or a chosen one does not exist.
    """
    recipes: list[Recipe] = []
    errors: list[RecipeError] = []
    for path in paths:
        good, bad = read_recipes(path)
        recipes += good
        errors += bad
    if errors and not recipes:
        raise errors[0]
    chosen = _chosen(recipes, sources)
    return chosen, [_left_out(error.source, str(error)) for error in errors if not sources or error.source in sources]


def _chosen(recipes: list[Recipe], sources: Sequence[str] | None) -> list[Recipe]:
    names = [recipe.source for recipe in recipes]
    unknown = [source for source in sources or () if source not in names]
    if unknown:
        raise ValueError(f"no recipe for {', '.join(unknown)}: there are {', '.join(names)}")
    if len({(recipe.source, recipe.modality) for recipe in recipes}) != len(recipes):
        raise ValueError("two recipes for one source and modality")
    return [recipe for recipe in recipes if not sources or recipe.source in sources]


def _print_summary(summary: Summary, out: Path) -> None:
    for rule, by_source in summary.rejected.items():
        rows = ", ".join(f"{source} {count}" for source, count in by_source.items())
        print(f"{rule} ({RULES[rule][1]}): {rows}")
    print(f"{summary.images} images with {summary.annotations} boxes in {out}")


if __name__ == "__main__":
    raise SystemExit(main())
