# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Publish experts, checkpoint, data set, adapters and the Space on a Hub.

    python -m hub_cards.publish --what experts,dataset,space --org my-hospital          # shows what would be sent
    python -m hub_cards.publish --what experts,dataset,space --org my-hospital --yes    # sends it

Everything is staged in a folder first and goes through the gates: licenses, privacy, cards. Without `--yes` nothing
leaves the machine. Repositories are private unless `--public` is given. A second run sends only what has changed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modeling_medglip.cli.scripts import fail_script, script_main
from modeling_medglip.errors import one_line
from modeling_medglip.modalities import resolve_modality

from .check import check_folder
from .stage.models import UNIFIED
from .stage.repository import GATES, Repository, open_stage, repository_id


WHAT = ("experts", "unified", "dataset", "space", "adapter")


def stage_all(options: argparse.Namespace) -> list[Repository]:
    """Stage and check everything that is requested, models first.

    Raises:
        `ValueError`, `OSError`: Something cannot be staged; the message names it.
    """
    inputs = [options.checkpoint, options.results, options.data, *([options.adapter] if options.adapter else [])]
    open_stage(options.stage, inputs)
    what = list(options.what)
    if "space" in what and not options.space_model and "unified" not in what:
        what.append("unified")  # the Space loads it
    staged: list[Repository] = []
    for part in WHAT:
        if part in what:
            print(f"staging: {part}", file=sys.stderr)
            try:
                staged += _staged(part, options)
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                text = one_line(error, 80)
                raise ValueError(f"{part}: an input is not complete ({type(error).__name__} {text})") from None
    _distinct(staged)
    return [
        replace(
            repository, checked_hashes=repository.hashes(), refusals=check_folder(repository.kind, repository.folder)
        )
        for repository in staged
    ]


def _distinct(staged: Sequence[Repository]) -> None:
    """Refuse two repositories of one name, or in one folder."""
    names = [f"{repository.kind} {repository.id}" for repository in staged]
    folders = [str(repository.folder) for repository in staged]
    for values in (names, folders):
        twice = next((index for index, value in enumerate(values) if values.count(value) > 1), None)
        if twice is not None:
            raise ValueError(
                f"{staged[twice].id}: two repositories have this name: rename one, such as with --adapter-name"
            )


def _staged(what: str, options: argparse.Namespace) -> list[Repository]:
    stage: Path = options.stage
    visibility = {"private": not options.public, "gated": options.gated}
    if what in ("experts", "unified"):
        from .model_card import check_weights, read_measured
        from .stage.models import model_repositories

        evaluation = read_measured(options.results)
        check_weights(options.checkpoint, evaluation)
        modalities = options.modality or _modalities(options.checkpoint)
        unified, datasets = what == "unified", _datasets(options)
        return model_repositories(
            options.checkpoint, modalities, options.org, stage, evaluation, unified, datasets, **visibility
        )
    if what == "dataset":
        from .stage.dataset import stage_dataset

        repo = repository_id(options.org, options.dataset_name)
        folder = stage / f"dataset-{options.dataset_name}"
        return [stage_dataset(options.data, repo, folder, **visibility, with_all=options.all_sources)]
    if what == "space":
        from .stage.space import stage_space

        model = options.space_model or repository_id(options.org, UNIFIED)
        name = repository_id(options.org, options.space_name)
        return [stage_space(name, str(model), stage / f"space-{options.space_name}", visibility["private"])]
    from .stage.adapters import stage_adapter

    if options.adapter is None:
        raise ValueError("--what adapter needs --adapter RUN, the folder of a run with --lora")
    name = options.adapter_name or f"med-glip-lora-{options.adapter.resolve().name}"
    return [stage_adapter(options.adapter, repository_id(options.org, name), stage / name, options.base, **visibility)]


def _datasets(options: argparse.Namespace) -> dict[str, str]:
    """Return the id of the data set by modality, where it is published too and has images of the modality."""
    if "dataset" not in options.what:
        return {}
    from .stage.dataset import shared_modalities

    return dict.fromkeys(shared_modalities(options.data), repository_id(options.org, options.dataset_name))


def _modalities(checkpoint: Path) -> list[str]:
    from modeling_medglip.checkpoints.info import checkpoint_info

    return [str(name) for name in checkpoint_info(checkpoint)["modalities"]]


# What is shown -------------------------------------------------------------------------------------------------------


def describe(repository: Repository) -> str:
    """Return a repository as text: settings, every file with its size, gates."""
    files = repository.files()
    visibility = "private" if repository.private else "public"
    gate = f", gated ({repository.gated})" if repository.gated != "no" else ""
    lines = [
        f"{repository.kind} {repository.id}: {visibility}{gate}, license: {repository.license}, "
        f"{len(files)} files, {repository.bytes / 1e6:.1f} MB"
    ]
    lines += [f"  {format_size(path.stat().st_size):>9}  {one_line(name, 100)}" for name, path in files.items()]
    lines += [f"  variable {name} = {value}" for name, value in repository.variables.items()]
    lines += [f"  note: {note}" for note in repository.notes]
    lines += [f"  REFUSED: {one_line(refusal, 200)}" for refusal in repository.refusals]
    if not repository.refusals:
        lines.append("  gates passed: licenses, privacy, card")
    return "\n".join(lines)


def format_size(number: int) -> str:
    """Return a number of bytes with a unit, such as `"2.5 MB"`."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number = number / 1000  # type: ignore[assignment]
    return f"{number:.1f} GB"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    from modeling_medglip.checkpoints.location import default_checkpoint

    from .model_card import RESULTS

    made = argparse.ArgumentParser(prog="python -m hub_cards.publish", description=(__doc__ or "").split("\n")[0])
    made.add_argument("--what", type=_whats, required=True, help=f"of {', '.join(WHAT)}; several with commas")
    made.add_argument("--org", required=True, help="who owns the repositories on the Hub")
    made.add_argument("--yes", action="store_true", help="send it; without this nothing leaves the machine")
    made.add_argument("--public", action="store_true", help="everybody may see the repositories (default: private)")
    made.add_argument("--gated", choices=GATES, default="no", help="ask those who download for agreement")
    made.add_argument("--tag", type=_tag, help="name of a revision, such as v0.1.0")
    made.add_argument("--replace", action="store_true", help="replace repositories that this command did not make")
    made.add_argument("--modality", nargs="+", type=_modality, help="experts to publish (default: all)")
    made.add_argument("--checkpoint", type=Path, default=Path(default_checkpoint()), help="where the experts are")
    made.add_argument("--results", type=Path, default=RESULTS, help="the evaluation for their cards")
    made.add_argument("--data", type=Path, default=Path("out/data"), help="built data set")
    made.add_argument("--dataset-name", default="med-glip-5m")
    made.add_argument(
        "--all-sources", action="store_true", help="also sources that may not be redistributed (private only)"
    )
    made.add_argument("--space-name", default="med-glip")
    made.add_argument("--space-model", help="id of the checkpoint that the Space loads")
    made.add_argument("--adapter", type=Path, help="folder of a run of training.fit.finetune --lora")
    made.add_argument("--adapter-name")
    made.add_argument("--base", help="id of the adapter's base on the Hub")
    made.add_argument("--stage", type=Path, default=Path("out/publish"), help="folder for the files to send")
    return made


def _whats(text: str) -> list[str]:
    asked = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in asked if name not in WHAT]
    if unknown or not asked:
        raise argparse.ArgumentTypeError(f"choose of {', '.join(WHAT)}")
    return asked


def _hide_progress_bars() -> None:
    """Hide the progress bars of transformers, one for every expert."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _modality(text: str) -> str:
    try:
        return resolve_modality(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(one_line(error, 200)) from None


def _tag(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}", text) or ".." in text or text in ("main", "HEAD"):
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not a valid revision name: letters, digits, '.', '_' and '-'"
        )
    return text


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 1 if a gate refuses, 2 for wrong usage or an error of the Hub."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    options = make_parser().parse_args(argv)
    repository_id(options.org, "name")
    _hide_progress_bars()
    repositories = stage_all(options)
    for repository in repositories:
        print(describe(repository), end="\n\n")
    total = sum(repository.bytes for repository in repositories)
    print(f"{len(repositories)} repositories, {format_size(total)}; staged in {options.stage}")
    if any(repository.refusals for repository in repositories):
        return fail_script("nothing was sent: correct what is REFUSED above", 1)
    if not options.yes:
        print("nothing was sent: this was a dry run, --yes sends it")
        return 0
    from .upload import upload

    for result in upload(repositories, options.tag, options.replace, print):
        print(f"{result.id}: {'new commit' if result.new else 'unchanged at'} {result.commit[:10]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
