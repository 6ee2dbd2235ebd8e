# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Adapter repositories: what `python -m training.fit.finetune --lora` left, with a card made from its results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset_scripts.card import with_header
from modeling_medglip.checkpoints.adapters import base_record, embedded_base, example_prompt
from modeling_medglip.modalities import resolve_modality
from modeling_medglip.outputs.files import write_text
from modeling_medglip.outputs.markdown import percent, plain, table
from training.old_names import with_new_keys

from ..gates.front_matter import ID
from ..model_card import GATE_TEXT, TEMPLATES
from .repository import Repository, empty_folder


FILES = (
    "adapter_config.json", "adapter_model.safetensors", "medglip_adapter.json", "processor_config.json",
    "tokenizer.json", "tokenizer_config.json", "router.safetensors",
)  # fmt: skip
RESULTS = "results.json"
EMBEDDED = "the checkpoint that comes with the package `med-glip`"


def stage_adapter(
    run: Path, repo: str, folder: Path, base: str | None = None, private: bool = True, gated: str = "no"
) -> Repository:
    """Write an adapter's repository into an empty folder.

    Args:
        run: of `training.fit.finetune --lora`: `adapter/` and `results.json`. base: id of the base on the Hub, instead
            of what the adapter says; not needed where the base is the embedded checkpoint. folder: below a stage.

    Raises:
        `ValueError`: the run holds no adapter, or its base is neither an id on the Hub nor the embedded checkpoint.
    """
    config, results = _read(run)
    known = _base(run, str(base or config.get("base_model_name_or_path")), given=base is not None)
    empty_folder(folder)
    for name in FILES:
        if (run / "adapter" / name).is_file():
            shutil.copyfile(run / "adapter" / name, folder / name)
    # Never a folder of this machine, and nothing that transformers would look for on the Hub.
    named = {**config, "base_model_name_or_path": known or "./embedded"}
    write_text(folder / "adapter_config.json", json.dumps(named, indent=2) + "\n")
    parts = ("schema", "images", "before", "after", "known_before", "known_after")
    kept = {key: results[key] for key in parts if key in results}
    kept["publication"] = {"repo": repo, "base": known, "gated": gated != "no"}
    kept["modality"] = resolve_modality(str(results["settings"]["modality"]))
    write_text(folder / RESULTS, json.dumps(kept, indent=1) + "\n")
    write_text(folder / "LICENSE.md", (TEMPLATES / "adapter_license.md").read_text(encoding="utf-8"))
    write_text(folder / "README.md", adapter_card(kept))
    return Repository(repo, "model", folder, "research only", "adapter", private, gated)


def _base(run: Path, said: str, given: bool) -> str | None:
    """The base's id on the Hub; `None` where it is the embedded checkpoint, by its content."""
    if ID.match(said):
        return said
    record = None if given else base_record(run / "adapter", run.name)
    if record is None or embedded_base(record) is None:
        raise ValueError(f"{run.name}: its base {said[:40]!r} is not an id on the Hub: give it with --base owner/name")
    return None


def _read(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The adapter's configuration and the run's results."""
    try:
        config = json.loads((run / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
        results = with_new_keys(json.loads((run / RESULTS).read_text(encoding="utf-8")))
        complete = {"settings", "images", "before", "after"} <= set(results) and "labels" in results["after"]
    except (OSError, ValueError, TypeError):
        complete = False
    if not complete:
        raise ValueError(f"{run.name}: holds no adapter and its results: give the folder of a run with --lora")
    return config, results


def adapter_card(results: Mapping[str, Any]) -> str:
    """The card of an adapter, from the results of its run and where it is published."""
    own = results["publication"]
    header: dict[str, Any] = {
        "license": "other", "license_name": "research-only", "license_link": "LICENSE.md", "library_name": "peft",
        **({"base_model": own["base"]} if own["base"] else {}),
        "pipeline_tag": "zero-shot-object-detection", "language": "en",
        "tags": ["medical-imaging", "visual-grounding", "glip", "lora", results["modality"]],
        **(GATE_TEXT if own["gated"] else {}),
    }  # fmt: skip
    body = (TEMPLATES / "adapter.md").read_text(encoding="utf-8").format(
        name=own["repo"].rsplit("/", 1)[-1],
        repo=own["repo"],
        base="[{0}](https://huggingface.co/{0})".format(own["base"]) if own["base"] else EMBEDDED,
        prompt=example_prompt(results["after"]["labels"]),
        modality=results["modality"],
        train=int(results["images"]["train"]),
        validation=int(results["images"]["validation"]),
        own=_own(results),
        known=_known(results),
    )  # fmt: skip
    return with_header(header, body)


def scores_table(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """AP50 and AP of every label, before and after, in per cent."""
    rows = [(plain(name), before["labels"].get(name, {}), after["labels"][name]) for name in after["labels"]]
    cells = [
        [name, *(percent(part.get(key)) for key in ("AP50", "AP") for part in (first, last))]
        for name, first, last in [*rows, ("**mean**", before["mean"], after["mean"])]
    ]
    return table(["label", "AP50 before", "after", "AP before", "after"], cells)


def _own(results: Mapping[str, Any]) -> str:
    if not results["after"]["labels"]:
        return "Nothing was measured: no validation image has a box.\n"
    return scores_table(results["before"], results["after"])


def _known(results: Mapping[str, Any]) -> str:
    after = results.get("known_after") or {"labels": {}}
    if not after["labels"]:
        return "What it forgot of the base's labels was not measured.\n"
    return "Labels of the base:\n\n" + scores_table(results["known_before"], after)


__all__ = ["RESULTS", "adapter_card", "scores_table", "stage_adapter"]
