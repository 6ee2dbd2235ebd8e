# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Headers of cards: written and read as YAML, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest

from dataset_scripts.card import with_header
from hub_cards.gates.front_matter import check_header, split_card


MODEL: dict[str, Any] = {
    "license": "other", "license_name": "research-only", "license_link": "LICENSE.md", "library_name": "transformers",
    "pipeline_tag": "zero-shot-object-detection", "language": "en", "tags": ["ct"],
    "model-index": [{"name": "x", "results": [{
        "task": {"type": "object-detection"}, "dataset": {"name": "a", "type": "b"},
        "metrics": [{"type": "ap", "value": 1.5}]}]}],
}  # fmt: skip
DATASET: dict[str, Any] = {
    "pretty_name": "set", "license": "cc0-1.0", "task_categories": ["object-detection"], "language": "en",
    "size_categories": ["n<1K"], "tags": [],
    "configs": [{"config_name": "ct", "data_files": [{"split": "train", "path": "ct/train-*.parquet"}]}],
    "dataset_info": [{"config_name": "ct", "features": [], "splits": [{"name": "train", "num_examples": 1}]}],
}  # fmt: skip
SPACE: dict[str, Any] = {
    "title": "MedGLIP", "emoji": "x", "colorFrom": "blue", "colorTo": "green", "sdk": "gradio",
    "sdk_version": "6.31.0", "python_version": "3.11", "app_file": "app.py", "license": "apache-2.0",
    "models": ["org/name"],
}  # fmt: skip
FILES = {"model": ["LICENSE.md"], "dataset": ["ct/train-00000-of-00001.parquet"], "space": ["app.py"]}
GOOD = {"model": MODEL, "dataset": DATASET, "space": SPACE}


@pytest.mark.parametrize("kind", GOOD)
def test_good_headers(kind: str) -> None:
    assert check_header(kind, GOOD[kind], FILES[kind]) == []


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("model", {"license": "my-own"}, "license 'my-own' is not one of"),
        ("model", {"license_link": "gone.md"}, "is not a file of the repository"),
        ("model", {"license_name": ""}, "needs license_name and license_link"),
        ("model", {"pipeline_tag": "magic"}, "pipeline_tag 'magic' is not a task"),
        ("model", {"library_name": "peft"}, "an adapter needs base_model"),
        ("model", {"base_model": "not an id"}, "is not an id on the Hub"),
        ("model", {"datasets": ["x"]}, "'x' is not an id on the Hub"),
        ("model", {"tags": "ct"}, "tags must be a list"),
        ("model", {"telemetry": True}, "unknown key telemetry"),
        ("model", {"model-index": [{"results": []}]}, "needs a name and results"),
        ("model", {"model-index": [{"name": "x", "results": [{"task": {}}]}]}, "every result needs task"),
        ("dataset", {"task_categories": ["magic"]}, "'magic' is not a task"),
        ("dataset", {"configs": []}, "name different configs"),
        ("dataset", {"dataset_info": [{"config_name": "ct", "splits": []}]}, "name different splits"),
        ("space", {"colorFrom": "pinkish"}, "colorFrom must be one of"),
        ("space", {"sdk": "docker"}, "sdk must be gradio"),
        ("space", {"app_file": "run.py"}, "app_file 'run.py' is not a file"),
        ("space", {"sdk_version": "6"}, "sdk_version must be three numbers"),
        ("space", {"short_description": "x" * 61}, "more than 60"),
    ],
)
def test_what_is_wrong_is_named(kind: str, changes: dict[str, Any], expected: str) -> None:
    faults = check_header(kind, {**GOOD[kind], **changes}, FILES[kind])
    assert any(expected in line for line in faults), faults


@pytest.mark.parametrize(("kind", "key"), [("model", "license"), ("dataset", "configs"), ("space", "sdk_version")])
def test_what_is_missing_is_named(kind: str, key: str) -> None:
    header = {name: value for name, value in GOOD[kind].items() if name != key}
    assert f"README.md: {key} is missing" in check_header(kind, header, FILES[kind])


def test_metrics_must_be_numbers() -> None:
    (entry,) = MODEL["model-index"]
    (result,) = entry["results"]
    broken = [{**entry, "results": [{**result, "metrics": [{"type": "ap", "value": "high"}]}]}]
    assert "value that is a number" in check_header("model", {**MODEL, "model-index": broken}, FILES["model"])[0]


def test_configs_name_files_that_are_there() -> None:
    assert check_header("dataset", DATASET, ["other.parquet"])[0].endswith("no file is named ct/train-*.parquet")


def test_a_data_set_has_no_code() -> None:
    assert "Python files" in check_header("dataset", DATASET, [*FILES["dataset"], "med.py"])[0]


@pytest.mark.parametrize("value", ["a: b", "---\nlicense: mit", "x\n---\ny", '"', "- item", "{a}", "\u2028", "yes"])
def test_values_stay_values(value: str) -> None:
    header, body = split_card(with_header({"title": value, "tags": [value]}, "text"))
    assert header == {"title": value, "tags": [value]} and body.strip() == "text"


@pytest.mark.parametrize("card", ["no header", "---\na: [\n---\n", "---\n- a\n---\n", ""])
def test_no_header(card: str) -> None:
    with pytest.raises(ValueError, match="README.md"):
        split_card(card)
