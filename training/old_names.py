# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Old spellings of recipe keys, options and keys of written files, which are still read through one release."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any


# Old spelling -> new, of recipes and of the options of `training.fit.finetune`. The identity of a run is its digest in
# the old spelling.
RENAMED = {
    "head_rate": "head_learning_rate",
    "backbone_rate": "backbone_learning_rate",
    "language_rate": "language_learning_rate",
    "min_rate": "min_learning_rate_ratio",
    "remember": "distillation",
    "pictures": "max_images",
    "optimisation": "optimization",
}
# Settings of sources.
SOURCE_SETTINGS = {"colour": "color"}
# Options of the other commands.
EVALUATE_OPTIONS = {"pictures": "worst-cases", "mirror": "flip-tta"}
ESTIMATE_OPTIONS = {"pictures": "images"}
# Keys of files that hold measurements, such as `results.json`.
KEYS = {"pictures": "images", "picture_seconds": "image_seconds", "mirror": "flip_tta"}
# Keys of entries that are named after a label, a source or a modality, whose names stay.
ENTRY_KEYS = {"labels", "AP", "iou", "wrong"}


def new_options(words: Sequence[str], renamed: Mapping[str, str]) -> list[str]:
    """Return the words of a command line with the old names of options replaced.

    Args:
        words (`Sequence[str]`): arguments of the command. A `FutureWarning` names each old option among them.
        renamed (`Mapping[str, str]`): old name -> new name, both without leading dashes.
    """
    return [_new_option(word, renamed) for word in words]


def _new_option(word: str, renamed: Mapping[str, str]) -> str:
    option, equals, value = word.partition("=")
    name = option.removeprefix("--").replace("-", "_")
    negation = "no_" if name.startswith("no_") else ""
    new = renamed.get(name.removeprefix(negation)) if option.startswith("--") else None
    if new is None:
        return word
    warnings.warn(f"{option} is now --{negation}{new}; the old name goes with the next release", FutureWarning, 3)
    return f"--{negation}{new}{equals}{value}"


def with_new_names(values: Mapping[str, Any], file: str, renamed: Mapping[str, str] = RENAMED) -> dict[str, Any]:
    """Return a section of a file with old names replaced, and warn of each.

    Args:
        values (`Mapping[str, Any]`): the section.
        file (`str`): name of the file, for the warnings.
        renamed (`Mapping[str, str]`, *optional*, defaults to `RENAMED`): old name -> new name.
    """
    for old in renamed.keys() & values.keys():
        warnings.warn(
            f"{file}: {old} is now {renamed[old]}; the old name goes with the next release", FutureWarning, 2
        )
    return {renamed.get(name, name): value for name, value in values.items()}


def with_old_names(values: Any) -> Any:
    """Return nested dictionaries in the old spelling of [`RENAMED`], in which digests of earlier runs were made."""
    old = {new: name for name, new in RENAMED.items()}
    if not isinstance(values, dict):
        return values
    return {old.get(name, name): with_old_names(value) for name, value in values.items()}


def with_new_keys(content: Any) -> Any:
    """Return the content of a JSON file of measurements with old [`KEYS`] replaced, at every depth."""
    if isinstance(content, list):
        return [with_new_keys(value) for value in content]
    if not isinstance(content, dict):
        return content
    return {_new_key(key, value): with_new_keys(value) for key, value in content.items()}


def _new_key(key: str, value: Any) -> str:
    is_entry = isinstance(value, dict) and ENTRY_KEYS & value.keys()
    return key if is_entry else KEYS.get(key, key)
