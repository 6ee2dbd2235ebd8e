# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Print the end of a training run: the scores, and the next commands, ready to paste."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from modeling_medglip.checkpoints.adapters import example_prompt
from modeling_medglip.outputs.markdown import percent

from ..data.records import GroundingRecord
from .run_results import unmeasured


def closing(settings: Any, results: Mapping[str, Any], data: Any) -> str:
    """Return what a run prints at its end.

    Args:
        settings ([`~training.fit.arguments.FinetuneArguments`]): of the run.
        results (`Mapping[str, Any]`): what `results.json` holds.
        data ([`~training.fit.run_data.RunData`]): of the run; one of its images serves as an example.
    """
    return "\n".join([*scores_in_words(results), "", *next_commands(settings, results, data)])


def scores_in_words(results: Mapping[str, Any]) -> list[str]:
    """Return AP50 and AP before and after, in per cent, also of the labels of `--replay` if they were measured."""
    if reason := unmeasured(results):
        return [reason]
    count = results["images"]["validation"]
    where = f"on {count} validation image{'s' if count != 1 else ''}"
    lines = [_change(where, results["before"]["mean"], results["after"]["mean"])]
    if results["known_after"]["labels"]:
        known = "on the validation images of --replay"
        lines.append(_change(known, results["known_before"]["mean"], results["known_after"]["mean"]))
    return [*lines, "(AP50: average precision where half of the box must fit; AP: stricter; 100 % is perfect)"]


def _change(where: str, before: Mapping[str, float | None], after: Mapping[str, float | None]) -> str:
    ap50, ap = (
        f"{_whole_percent(before[name])} before, {_whole_percent(after[name])} after" for name in ("AP50", "AP")
    )
    return f"AP50 {where}: {ap50}; AP: {ap}"


def _whole_percent(value: float | None) -> str:
    return "not measured" if value is None else f"{percent(value, 0)} %"


def next_commands(settings: Any, results: Mapping[str, Any], data: Any) -> list[str]:
    """Return the commands that use the expert or adapter of a run, with its own paths.

    Args:
        settings (`Any`): of the run.
        results (`Mapping[str, Any]`): content of `results.json`.
        data (`Any`): [`~training.fit.run_data.RunData`] of the run; one of its images serves as an example.
    """
    out = str(settings.out)
    example = next((record for record in (*data.validation, *data.train) if record.labels), data.train[0])
    prompt = example_prompt(results["after"]["labels"] or example.labels)
    ground = [
        "medglip", "ground", image_file(example), "--prompt", prompt,
        "--modality", settings.modality, "--model", out,
    ]  # fmt: skip
    if not settings.lora:
        evaluate = ["python", "-m", "training.evaluate", "--model", f"{out}/expert", "--data", settings.data]
        evaluate += ["--modality", settings.modality, "--out", f"{out}/evaluation"]
        return ["Find with it:", _line(ground), "Measure it in full:", _line(evaluate)]
    base = ["--base", settings.model] if settings.model and Path(settings.model).exists() else []
    merge = ["medglip", "merge", "--model", out, "--out", f"{out}/merged", *base]
    publish = ["python", "-m", "hub_cards.publish", "--what", "adapter", "--adapter", out, "--org", "YOUR-ORG"]
    publish += ["--base", "OWNER/NAME"] if base else []
    return [
        "Find with it:", _line([*ground, *base]),
        "Write it as one checkpoint:", _line(merge),
        "Publish it (shows what would go; --yes sends it):", _line(publish),
    ]  # fmt: skip


def _line(words: Sequence[str]) -> str:
    return "  " + shlex.join(words)


def image_file(record: GroundingRecord) -> str:
    """Return the file of an image, or a placeholder where it is part of a built data set."""
    if isinstance(record.loader, partial) and record.loader.args and isinstance(record.loader.args[0], Path):
        return str(record.loader.args[0])
    return "IMAGE.png"


__all__ = ["closing", "next_commands", "scores_in_words"]
