# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The log of what was tried, with figures that the runs themselves wrote.

    python -m training.studies.training_log --name "X-ray, larger images" --run runs/xray \
        --note "What was tried and why."
    python -m training.studies.training_log --name "CT, larger" --modality ct \
        --before a/results.json --after b/results.json
    python -m training.studies.training_log

The first adds a run of `training.fit.finetune`, the second two evaluations of `training.evaluate`; all write
`docs/training-log.md` from `docs/training_log.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.errors import one_line
from modeling_medglip.outputs.files import write_text
from modeling_medglip.outputs.markdown import percent, table

from ..old_names import RENAMED, with_new_keys


SCHEMA = "medglip/training_log@1"
LOG = Path("docs/training_log.json")
PAGE = "training-log.md"


def of_run(folder: Path) -> dict[str, Any]:
    """Return what a run of `training.fit.finetune` measured, without paths.

    Raises:
        `ValueError`, `OSError`: it has no readable results.
    """
    results = _read(folder / "results.json")
    settings = results["settings"]
    recipe = {RENAMED.get(name, name): value for name, value in results["recipe"].items()}
    values = {name: recipe.get(name) for name in ("size", "epochs", "batch", "accumulate", "head_learning_rate")}
    if settings.get("lora"):
        values["lora"] = True
    return {
        "modality": settings["modality"],
        "recipe": {name: value for name, value in values.items() if value is not None},
        "images": results["images"],
        **{when: {"mean": results[when]["mean"], "labels": results[when]["labels"]} for when in ("before", "after")},
    }


def of_evaluations(before: Path, after: Path, modality: str, source: str | None = None) -> dict[str, Any]:
    """Two evaluations of the same modality, or of a source that was left out, by `training.studies.cross_source`.

    Args:
        before (`Path`): file of the first evaluation.
        after (`Path`): file of the second one.
        modality (`str`): one of `MODALITIES`.
        source (`str`, *optional*): the source that was left out; a whole evaluation without it.

    Raises:
        `ValueError`, `OSError`: one of them cannot be read or lacks the modality.
    """
    parts: dict[str, Any] = {"modality": modality, "recipe": {}}
    for when, path in (("before", before), ("after", after)):
        evaluation = _read(path)["modalities"].get(modality)
        if evaluation is None:
            raise ValueError(f"{path}: holds nothing of {modality}")
        if source is not None:
            parts["recipe"] = {name: evaluation[name] for name in ("size", "epochs")}
            parts[when] = evaluation["sources"][source]["unseen"]
            continue
        labels = {name: {key: entry[key] for key in ("AP", "AP50")} for name, entry in evaluation["labels"].items()}
        parts[when] = {"mean": {"AP": evaluation["AP"], "AP50": evaluation["AP50"]}, "labels": labels}
    return parts


def render_page(log: Mapping[str, Any]) -> str:
    """Return the page of the log in Markdown."""
    lines = [
        "# What was tried in training",
        "",
        "Made by `python -m training.studies.training_log`, from what the runs wrote.",
        "Mean over labels in per cent on the",
        "validation images, by which the choices were made: expect less elsewhere. One run each; with validation",
        "sets of a few dozen images, differences of a few points mean little.",
        "Further pages: [encoders](encoders.md), of which none replaced EfficientNet-Lite0,",
        "[sources left out](cross_source.md), [labels left out](leave_label_out.md), [phrases](listening.md).",
        "",
    ]
    rows = []
    for entry in log["entries"]:
        means = [entry[when]["mean"] for when in ("before", "after")]
        size, epochs = (f"{value:g}" if (value := entry["recipe"].get(key)) else "-" for key in ("size", "epochs"))
        figures = [percent(mean[key]) for key in ("AP50", "AP") for mean in means]
        rows.append([entry["name"], entry["modality"], size, epochs, *figures])
    header = ["what", "modality", "pixels", "epochs", "AP50 before", "after", "AP before", "after"]
    text = "\n".join(lines) + "\n" + table(header, rows) + "\n"
    return text + "".join(f"- **{entry['name']}**: {entry['note']}\n" for entry in log["entries"])


def _read(path: Path) -> Any:
    try:
        return with_new_keys(json.loads(path.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no JSON ({one_line(error, 80)})") from None


@script_main(also=(KeyError,))
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m training.studies.training_log", description=about)
    parser.add_argument("--name", help="short title of what was tried; replaces an entry of the same title")
    parser.add_argument("--note", default="", help="why, and what came of it, in words")
    parser.add_argument("--run", type=Path, help="folder of a run of training.fit.finetune")
    parser.add_argument("--before", type=Path, help="results.json of training.evaluate, instead of --run")
    parser.add_argument("--after", type=Path, help="the same, afterwards")
    parser.add_argument("--modality", help="of --before and --after")
    parser.add_argument("--source", help="which was left out, for --before and --after of cross_source")
    parser.add_argument("--log", type=Path, default=LOG)
    options = parser.parse_args(argv)
    log: dict[str, Any] = _read(options.log) if options.log.is_file() else {"schema": SCHEMA, "entries": []}
    if options.name:
        if options.run:
            entry = of_run(options.run)
        elif options.before and options.after and options.modality:
            entry = of_evaluations(options.before, options.after, options.modality, options.source)
        else:
            raise ValueError("--name needs --run, or --before, --after and --modality")
        entry = {"name": options.name, "note": options.note, **entry}
        titles = [known["name"] for known in log["entries"]]
        index = titles.index(options.name) if options.name in titles else len(titles)
        log["entries"][index : index + 1] = [entry]
        write_text(options.log, json.dumps(log, indent=1, allow_nan=False) + "\n")
    write_text(options.log.with_name(PAGE), render_page(log))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
