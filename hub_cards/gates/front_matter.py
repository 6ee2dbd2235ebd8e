# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Write, read and check the YAML headers of cards, without a network.

The Hub checks headers on arrival and accepts unknown tasks silently. The identifiers below are those of the Hub that
this project uses; any other one is an error here, to be added on purpose.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub import RepoCard

from modeling_medglip.errors import one_line


LICENSES = frozenset(
    {
        "apache-2.0", "mit", "bsd-3-clause", "gpl-3.0", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-4.0",
        "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0", "cdla-permissive-2.0", "other", "unknown",
    }
)  # fmt: skip
TASKS = frozenset(
    {"object-detection", "zero-shot-object-detection", "image-segmentation", "visual-question-answering"}
)
LIBRARIES = frozenset({"transformers", "peft"})
COLORS = frozenset({"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"})
ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
# Keys that a card of this project may have: (type, must it be there). Types as in JSON.
MODEL: dict[str, tuple[type, bool]] = {
    "license": (str, True), "license_name": (str, False), "license_link": (str, False), "library_name": (str, True),
    "pipeline_tag": (str, True), "language": (str, True), "tags": (list, True), "datasets": (list, False),
    "base_model": (str, False), "model-index": (list, False), "extra_gated_prompt": (str, False),
    "extra_gated_fields": (dict, False),
}  # fmt: skip
DATASET: dict[str, tuple[type, bool]] = {
    "pretty_name": (str, True), "license": (str, True), "license_name": (str, False), "license_link": (str, False),
    "task_categories": (list, True), "language": (str, True), "size_categories": (list, True), "tags": (list, True),
    "configs": (list, True), "dataset_info": (list, True), "extra_gated_prompt": (str, False),
    "extra_gated_fields": (dict, False),
}  # fmt: skip
SPACE: dict[str, tuple[type, bool]] = {
    "title": (str, True), "emoji": (str, True), "colorFrom": (str, True), "colorTo": (str, True), "sdk": (str, True),
    "sdk_version": (str, True), "python_version": (str, True), "app_file": (str, True), "pinned": (bool, False),
    "license": (str, True), "models": (list, False), "datasets": (list, False), "short_description": (str, False),
    "suggested_hardware": (str, False), "tags": (list, False), "header": (str, False), "fullWidth": (bool, False),
}  # fmt: skip
KEYS = {"model": MODEL, "dataset": DATASET, "space": SPACE}


def split_card(card: str) -> tuple[dict[str, Any], str]:
    """Split a card into header and text.

    Args:
        card (`str`): Content of a `README.md`.

    Raises:
        `ValueError`: The card has no header, or the header is not a YAML mapping.
    """
    if not card.startswith("---\n"):
        raise ValueError("README.md has no YAML header between two lines of ---")
    try:
        parsed = RepoCard(card)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ValueError(f"README.md: its header is not a YAML mapping ({one_line(error, 100)})") from None
    return parsed.data.to_dict(), parsed.text


def check_header(kind: str, header: Mapping[str, Any], files: Sequence[str]) -> list[str]:
    """Return what is wrong with a header, one line each.

    Args:
        kind (`str`): `"model"`, `"dataset"` or `"space"`.
        header (`Mapping`): The header as [`split_card`] returns it.
        files (`Sequence[str]`): Paths in the repository.
    """
    return [f"README.md: {text}" for text in _faults(kind, header, files)]


def _faults(kind: str, header: Mapping[str, Any], files: Sequence[str]) -> Iterator[str]:
    known = KEYS[kind]
    yield from (f"unknown key {key!s:.40}" for key in header if key not in known)
    for key, (form, needed) in known.items():
        if key not in header:
            if needed:
                yield f"{key} is missing"
        elif not isinstance(header[key], form):
            yield f"{key} must be a {form.__name__}"
    if any(not isinstance(header.get(key, known[key][0]()), known[key][0]) for key in known):
        return
    yield from _license(header, files)
    yield from (f"{value!r:.60} is not an id on the Hub" for value in _ids(header) if not ID.match(str(value)))
    checks = {"model": _model, "dataset": _dataset, "space": _space}
    yield from checks[kind](header, files)


def _license(header: Mapping[str, Any], files: Sequence[str]) -> Iterator[str]:
    license_ = header.get("license")
    if license_ not in LICENSES:
        yield f"license {license_!r:.40} is not one of {', '.join(sorted(LICENSES))}"
    link = header.get("license_link")
    if license_ == "other" and "sdk" not in header and not (header.get("license_name") and link):
        yield "license other needs license_name and license_link"
    if link and "://" not in link and link not in files:
        yield f"license_link {link!r:.40} is not a file of the repository"


def _ids(header: Mapping[str, Any]) -> list[Any]:
    base = header.get("base_model")
    return [*([base] if base else []), *header.get("datasets", ()), *header.get("models", ())]


def _model(header: Mapping[str, Any], files: Sequence[str]) -> Iterator[str]:
    if header.get("pipeline_tag") not in TASKS:
        yield f"pipeline_tag {header.get('pipeline_tag')!r:.40} is not a task of this project"
    if header.get("library_name") not in LIBRARIES:
        yield f"library_name must be one of {', '.join(sorted(LIBRARIES))}"
    # `medglip_adapter.json` knows the base by its content, also the one that comes with the package.
    if header.get("library_name") == "peft" and "base_model" not in header and "medglip_adapter.json" not in files:
        yield "an adapter needs base_model"
    for entry in header.get("model-index", ()):
        yield from _index_entry(entry)


def _index_entry(entry: Any) -> Iterator[str]:
    """Yield what is wrong with an entry of `model-index`: name, and results of task, dataset and metrics."""
    if not isinstance(entry, dict) or not isinstance(entry.get("results"), list) or not entry.get("name"):
        yield "model-index: every entry needs a name and results"
        return
    for result in entry["results"]:
        keys = ("task", "dataset", "metrics")
        parts: list[Any] = [result.get(key) for key in keys] if isinstance(result, dict) else [None]
        if not all(parts) or "type" not in parts[0] or not {"name", "type"} <= set(parts[1]):
            yield "model-index: every result needs task (type), dataset (name, type) and metrics"
        elif any(not isinstance(metric.get("value"), (int, float)) or "type" not in metric for metric in parts[2]):
            yield "model-index: every metric needs a type and a value that is a number"


def _dataset(header: Mapping[str, Any], files: Sequence[str]) -> Iterator[str]:
    yield from (
        f"{task!r:.40} is not a task of this project"
        for task in header.get("task_categories", ())
        if task not in TASKS
    )
    configs = {str(entry.get("config_name")): entry for entry in header.get("configs", ())}
    info = {str(entry.get("config_name")): entry for entry in header.get("dataset_info", ())}
    if set(configs) != set(info):
        yield "configs and dataset_info name different configs"
    for name, entry in configs.items():
        splits = {str(part.get("split")): str(part.get("path")) for part in entry.get("data_files", ())}
        for split, pattern in splits.items():
            if not any(fnmatch.fnmatchcase(file, pattern) for file in files):
                yield f"config {name}, {split}: no file is named {pattern}"
        if {str(row["name"]) for row in info.get(name, {}).get("splits", ())} != set(splits):
            yield f"config {name}: data_files and dataset_info name different splits"
    if any(file.endswith(".py") for file in files):
        yield "a data set with Python files is not loaded any more"


def _space(header: Mapping[str, Any], files: Sequence[str]) -> Iterator[str]:
    for key in ("colorFrom", "colorTo"):
        if header.get(key) not in COLORS:
            yield f"{key} must be one of {', '.join(sorted(COLORS))}"
    if header.get("sdk") != "gradio":
        yield "sdk must be gradio"
    if header.get("app_file") not in files:
        yield f"app_file {header.get('app_file')!r:.40} is not a file of the repository"
    if not re.fullmatch(r"\d+\.\d+\.\d+", str(header.get("sdk_version"))):
        yield "sdk_version must be three numbers"
    if len(str(header.get("short_description", ""))) > 60:
        yield "short_description has more than 60 characters"


__all__ = ["LICENSES", "check_header", "split_card"]
