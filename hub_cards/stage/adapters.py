# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Stage the repository of an adapter of `python -m training.fit.finetune --lora`, with a card of its results."""

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
    """Write the repository of an adapter into an empty folder.

    Args:
        run (`Path`): Folder that `training.fit.finetune --lora` wrote, with `adapter/` and `results.json`.
        repo (`str`): `owner/name`.
        folder (`Path`): A folder below a stage.
        base (`str`, *optional*): Id of the base on the Hub, instead of the one that the adapter names; not needed
            where the base is the embedded checkpoint.
        private (`bool`, *optional*, defaults to `True`): Whether only the owners see the repository.
        gated (`str`, *optional*, defaults to `"no"`): One of `GATES`.

    Raises:
        `ValueError`: The run has no adapter, or its base is neither an id on the Hub nor the embedded checkpoint.
    """
    config, results = _read(run)
    known = _base(run, str(base or config.get("base_model_name_or_path")), given=base is not None)
    empty_folder(folder)
    for name in FILES:
        if (run / "adapter" / name).is_file():
            shutil.copyfile(run / "adapter" / name, folder / name)
    # Not a local folder, and nothing that transformers would look for on the Hub.
    named = {**config, "base_model_name_or_path": known or "./embedded"}
    write_text(folder / "adapter_config.json", json.dumps(named, indent=2) + "\n")
    parts = ("schema", "images", "before", "after", "known_before", "known_after")
    stated = {key: results[key] for key in parts if key in results}
    stated["publication"] = {"repo": repo, "base": known, "gated": gated != "no"}
    stated["modality"] = resolve_modality(str(results["settings"]["modality"]))
    write_text(folder / RESULTS, json.dumps(stated, indent=1) + "\n")
    write_text(folder / "LICENSE.md", (TEMPLATES / "adapter_license.md").read_text(encoding="utf-8"))
    write_text(folder / "README.md", adapter_card(stated))
    return Repository(repo, "model", folder, "research only", "adapter", private, gated)


def _base(run: Path, name: str, given: bool) -> str | None:
    """Return the id of the base on the Hub; `None` where it is the embedded checkpoint, by its content."""
    if ID.match(name):
        return name
    record = None if given else base_record(run / "adapter", run.name)
    if record is None or embedded_base(record) is None:
        raise ValueError(f"{run.name}: its base {name[:40]!r} is not an id on the Hub: give it with --base owner/name")
    return None


def _read(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the adapter's configuration and the results of the run."""
    try:
        config = json.loads((run / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
        results = with_new_keys(json.loads((run / RESULTS).read_text(encoding="utf-8")))
        complete = {"settings", "images", "before", "after"} <= set(results) and "labels" in results["after"]
    except (OSError, ValueError, TypeError):
        complete = False
    if not complete:
        raise ValueError(
            f"{run.name}: does not contain an adapter and its results: give the folder of a run with --lora"
        )
    return config, results


def adapter_card(results: Mapping[str, Any]) -> str:
    """Return the card of an adapter, from the results of its run and its publication."""
    publication = results["publication"]
    header: dict[str, Any] = {
        "license": "other", "license_name": "research-only", "license_link": "LICENSE.md", "library_name": "peft",
        **({"base_model": publication["base"]} if publication["base"] else {}),
        "pipeline_tag": "zero-shot-object-detection", "language": "en",
        "tags": ["medical-imaging", "visual-grounding", "glip", "lora", results["modality"]],
        **(GATE_TEXT if publication["gated"] else {}),
    }  # fmt: skip
    body = (TEMPLATES / "adapter.md").read_text(encoding="utf-8").format(
        name=publication["repo"].rsplit("/", 1)[-1],
        repo=publication["repo"],
        base="[{0}](https://huggingface.co/{0})".format(publication["base"]) if publication["base"] else EMBEDDED,
        prompt=example_prompt(results["after"]["labels"]),
        modality=results["modality"],
        train=int(results["images"]["train"]),
        validation=int(results["images"]["validation"]),
        scores=_scores(results),
        base_scores=_base_scores(results),
    )  # fmt: skip
    return with_header(header, body)


def scores_table(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return a table of AP50 and AP of every label in percent, before and after training.

    Args:
        before (`Mapping`): Figures by label and their mean, before training.
        after (`Mapping`): The same after training.
    """
    rows = [(plain(name), before["labels"].get(name, {}), after["labels"][name]) for name in after["labels"]]
    cells = [
        [name, *(percent(part.get(key)) for key in ("AP50", "AP") for part in (first, last))]
        for name, first, last in [*rows, ("**mean**", before["mean"], after["mean"])]
    ]
    return table(["label", "AP50 before", "after", "AP before", "after"], cells)


def _scores(results: Mapping[str, Any]) -> str:
    if not results["after"]["labels"]:
        return "Not measured: no validation image has a box.\n"
    return scores_table(results["before"], results["after"])


def _base_scores(results: Mapping[str, Any]) -> str:
    after = results.get("known_after") or {"labels": {}}
    if not after["labels"]:
        return "The labels of the base were not measured again.\n"
    return "Labels of the base:\n\n" + scores_table(results["known_before"], after)


__all__ = ["RESULTS", "adapter_card", "scores_table", "stage_adapter"]
