# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Checks before anything is read or written: numbers out of range, too many broken images, nothing to measure.

`huggingface_hub.dataclasses.strict` would check the same ranges. Its errors name a class, not the recipe's file or the
option, and do not advise; values that YAML read as text would end as wrong types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modeling_medglip.errors import one_line

from .augmentation import SURROUNDINGS
from .records import GroundingRecord, readable


# Share of the images that may be broken before a run stops.
MOST_BROKEN = 0.01
# Beyond it floats skip whole numbers, and neither not-a-number nor infinity is below it.
LARGEST = float(2**53)


@dataclass(frozen=True)
class Rule:
    """Condition of a value.

    Args:
        hint (`str`): what to do instead, the end of the error.
        fits (`Callable`): whether a value is valid.
    """

    hint: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _is_whole(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int)


def _whole(low: int, high: int | None = None) -> Rule:
    most = LARGEST if high is None else high
    words = f"of {low} or more" if high is None else f"from {low} to {high}"
    return Rule(f"choose a whole number {words}", lambda value: _is_whole(value) and low <= value <= most)


def _pair(part: Rule, what: str) -> Rule:
    """Return the rule for the two ends of a range."""

    def fits(value: Any) -> bool:
        listed = isinstance(value, list | tuple) and len(value) == 2
        return listed and all(map(part.fits, value)) and value[0] <= value[1]

    return Rule(f"give two {what}, the smaller one first", fits)


def _one_of(*names: str) -> Rule:
    return Rule(f"choose {' or '.join(names)}", lambda value: value in names)


def _or_none(rule: Rule) -> Rule:
    return Rule(rule.hint, lambda value: value is None or rule.fits(value))


POSITIVE = Rule("choose a number above 0", lambda value: _is_number(value) and value > 0)
NOT_NEGATIVE = Rule("choose a number of 0 or more", lambda value: _is_number(value) and value >= 0)
SHARE = Rule("choose a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
PART = Rule("choose a number above 0 and at most 1", lambda value: _is_number(value) and 0 < value <= 1)
DECAY = Rule("choose a number from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1)
ANGLE = Rule("choose a number from 0 to 180", lambda value: _is_number(value) and 0 <= value <= 180)
SWITCH = Rule("choose true or false", lambda value: isinstance(value, bool))
COUNT = _whole(1)
PROCESSES = _whole(0, 1024)
# What the image processor pads to; other sizes would be seen otherwise when the expert is used.
SIZE = Rule(
    "choose a multiple of 32 from 32 to 4096",
    lambda value: _is_whole(value) and 32 <= value <= 4096 and value % 32 == 0,
)
NAMES = Rule("name at least one label", lambda value: bool(value) and all(str(name).strip() for name in value))
FACTORS = _pair(POSITIVE, "numbers above 0")

# Options of the command lines; those that are not given (None) are not looked at.
OPTIONS: Mapping[str, Rule] = {
    "epochs": POSITIVE,
    "batch": COUNT,
    "batch-size": COUNT,
    "accumulate": COUNT,
    "size": SIZE,
    "anchor_scale": POSITIVE,
    "head_learning_rate": POSITIVE,
    "rank": _whole(1, 1024),
    "fraction": PART,
    "max_images": COUNT,
    "images": COUNT,
    "copies": COUNT,
    "limit": COUNT,
    "replay_share": NOT_NEGATIVE,
    "labels": NAMES,
    "exclude": NAMES,
    "known": NAMES,
    "replay_exclude": NAMES,
    "keep": _one_of("best", "last"),
    "seed": _whole(0, 2**32 - 1),
    "threads": PROCESSES,
    "workers": PROCESSES,
    "processes": COUNT,
    "draws": COUNT,
    "steps": COUNT,
}
OPTIMIZATION: Mapping[str, Rule] = {
    "optimizer": _one_of("adamw", "adam"),
    "head_learning_rate": NOT_NEGATIVE,
    "backbone_learning_rate": NOT_NEGATIVE,
    "language_learning_rate": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "warmup_steps": _whole(0),
    "min_learning_rate_ratio": SHARE,
    "gradient_clip": NOT_NEGATIVE,
    "ema_decay": DECAY,
    "frozen_stages": _whole(0),
}
EXPERT: Mapping[str, Rule] = {
    "batch": COUNT,
    "epochs": POSITIVE,
    "size": _or_none(SIZE),
    "anchor_scale": _or_none(POSITIVE),
    "accumulate": COUNT,
    "checkpointing": SWITCH,
}
PROMPTS: Mapping[str, Rule] = {
    **dict.fromkeys(("all_labels", "no_positive", "replace", "parent", "group"), SHARE),
    **dict.fromkeys(("description", "siblings", "only_unlearned"), SHARE),
    **dict.fromkeys(("foreign", "unlearned"), _whole(0)),
    "token_budget": _whole(3),
}
AUGMENTATION: Mapping[str, Rule] = {
    **dict.fromkeys(("scale", "aspect", "close_scale", "empty_scale"), FACTORS),
    **dict.fromkeys(("brightness", "contrast", "gamma", "channel_gain"), FACTORS),
    "saturation": _pair(NOT_NEGATIVE, "numbers of 0 or more"),
    **dict.fromkeys(("keep", "drop", "light", "noise_level"), SHARE),
    **dict.fromkeys(("close_share", "empty_share", "rotate_share", "blur_share", "noise_share"), SHARE),
    **dict.fromkeys(("light_share", "coarse_share", "jpeg_share"), SHARE),
    "rotate_degrees": ANGLE,
    "coarse": _pair(PART, "numbers above 0 and at most 1"),
    "jpeg_quality": _pair(_whole(1, 100), "whole numbers from 1 to 100"),
    "attempts": COUNT,
    **dict.fromkeys(("plain_share", "zoom_out_share", "turn_share", "hounsfield_share", "smallest"), SHARE),
    "surroundings": Rule(
        f"give a list of {', '.join(SURROUNDINGS)}",
        lambda value: isinstance(value, list | tuple) and bool(value) and set(map(str, value)) <= set(SURROUNDINGS),
    ),
    "effects": _pair(_whole(0), "whole numbers"),
    "hounsfield_jitter": Rule(
        "give two numbers of 0 or more, a share and HU",
        lambda value: isinstance(value, list | tuple) and len(value) == 2 and all(map(NOT_NEGATIVE.fits, value)),
    ),
}
HEAD: Mapping[str, Rule] = {
    "presence_dim": _whole(0, 4096),
    **dict.fromkeys(("presence_loss_weight", "contrast_loss_weight", "box_loss_weight"), NOT_NEGATIVE),
}
SECTIONS: Mapping[str, Mapping[str, Rule]] = {
    "head": HEAD,
    "optimization": OPTIMIZATION,
    "augmentation": AUGMENTATION,
    "prompts": PROMPTS,
}


def check(values: Mapping[str, Any], rules: Mapping[str, Rule], before: str) -> None:
    """Check the values that have a rule.

    Args:
        values (`Mapping[str, Any]`): the values by name.
        rules (`Mapping[str, Rule]`): the rules by name.
        before (`str`): text before a name in the error: `--`, or a file and a colon.

    Raises:
        `ValueError`: a value is out of its range.
    """
    for name, value in values.items():
        rule = rules.get(name)
        if rule is not None and not rule.fits(value):
            raise ValueError(f"{before}{name} {_shown(value)}: {rule.hint}{_as_text(value)}")


def check_options(values: Mapping[str, Any]) -> None:
    """Check the options of a command line.

    Raises:
        `ValueError`: a value out of its range.
    """
    check({name: value for name, value in values.items() if value is not None}, OPTIONS, "--")


def check_recipe(file: str, document: Mapping[str, Any]) -> None:
    """Check the numbers of a recipe as they are in its file. The shape of the file is not checked here.

    Args:
        file (`str`): name of the recipe, for errors.
        document (`Mapping[str, Any]`): content of its file.

    Raises:
        `ValueError`: a value is out of its range.
    """
    before = f"{file}: "
    check(document, {"balance": SHARE, "negative_images": SHARE}, before)
    for section, rules in SECTIONS.items():
        if isinstance(values := document.get(section), dict):
            check(values, rules, before)
    experts = document.get("experts")
    for values in experts.values() if isinstance(experts, dict) else ():
        if isinstance(values, dict):
            check(values, EXPERT, before)


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "empty" if value is None else str(value).lower()
    return one_line(f"{value:g}" if isinstance(value, float) else repr(value), 60)


def _as_text(value: Any) -> str:
    """Return a hint where YAML read a number as text, as it does with 1e-3."""
    try:
        return f", written without quotes and with a point: {float(value):.1e}" if isinstance(value, str) else ""
    except ValueError:
        return ""


def too_many(broken: int, total: int) -> bool:
    """Whether more images are broken than a run tolerates; one always is.

    Args:
        broken (`int`): number of broken images.
        total (`int`): number of all images.
    """
    return broken > max(1, MOST_BROKEN * total)


def stop_if_broken(broken: int, total: int, data: str) -> None:
    """Stop a run with a larger share of broken images than `MOST_BROKEN`.

    Args:
        broken (`int`): number of broken images.
        total (`int`): number of all images.
        data (`str`): name of the data, for errors.

    Raises:
        `ValueError`: there are too many.
    """
    if too_many(broken, total):
        raise ValueError(f"{data}: {broken} of {total} images cannot be read: mend the data")


def readable_enough(records: Sequence[GroundingRecord], broken: dict[str, str], data: str) -> list[GroundingRecord]:
    """Return the records whose images can be decoded, and add the others to `broken` with the reason.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        broken (`dict[str, str]`): receives the images that cannot be read, with the reason.
        data (`str`): name of the data, for errors.

    Raises:
        `ValueError`: too many cannot be decoded.
    """
    whole = readable(records, broken)
    stop_if_broken(len(records) - len(whole), len(records), data)
    return whole


def nothing_to_measure(images: int, with_a_box: bool) -> str:
    """Return why so many validation images cannot be measured, empty if they can.

    Args:
        images (`int`): number of validation images.
        with_a_box (`bool`): whether one of them has a box.
    """
    if not images:
        return "no validation images"
    return "" if with_a_box else "no validation image has a box"
