# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Uploads: whole or not at all, resumed, and one line for everything that a Hub may say. See upload_scenarios.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hub_cards.upload import upload

from .upload_scenarios import staged


ROOT = Path(__file__).resolve().parents[2]
ALL = [".gitattributes", ".medglip-published.json", "README.md", "one.safetensors", "two.safetensors"]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("uploads")
    command = [sys.executable, "-m", "tests.hub_cards.upload_scenarios", str(folder)]
    environment = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_second_run_sends_nothing(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["again"]
    assert (outcome["first"], outcome["second"], outcome["sent"]) == ([True], [False], [])
    assert outcome["commits"] == 2 and outcome["files"] == ALL and outcome["uploaded"] == 2


def test_only_what_changed_is_sent(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["changed"]
    assert outcome["sent"] == [True] and outcome["uploaded"] == 1 and outcome["commits"] == 3
    assert "two.safetensors" not in outcome["files"] and "three.safetensors" in outcome["files"]


def test_tokens(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["tokens"]
    assert outcome["None"].startswith("no token: log in") and "(401)" in outcome["hf_wrong"]
    assert "the token may not do this (403" in outcome["hf_reader"]
    assert outcome["commits"] == 0 and outcome["uploaded"] == 0


def test_an_interrupted_run_publishes_nothing_and_is_resumed(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["broken_off"]
    assert outcome["first"].startswith("clinic/model: ") and "same command again" in outcome["first"]
    assert outcome["after"] == {"commits": 1, "files": [".gitattributes"]}, "nothing half-published"
    assert outcome["second"] == [True] and outcome["files"] == ALL
    assert outcome["uploaded"] == 2, "the file that was sent before is not sent again"


def test_a_commit_that_fails(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["commit_fails"]
    assert "the Hub failed (500)" in outcome["first"] and outcome["after"]["files"] == [".gitattributes"]
    assert outcome["second"] == [True] and outcome["resent"] == 0 and outcome["files"] == ALL


def test_a_name_that_is_taken_stops_all_of_it(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["taken"]
    assert outcome["refused"].startswith("clinic/other: is taken") and "--replace" in outcome["refused"]
    assert outcome["before"]["commits"] == 0 and outcome["replaced"] == [True, True]
    assert "theirs.txt" not in outcome["theirs"]


def test_a_tag_never_moves(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["tag_taken"]
    assert "v1 already names other content" in outcome["refused"] and outcome["after"]["commits"] == 2
    assert outcome["next"] == [True] and outcome["tags"] == ["v1", "v2"]


def test_the_gate_is_closed_before_any_file_is_sent_and_the_repository_opened_last(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["gated"]
    order = [step for step in outcome["order"] if step in ("create", "settings", "main")]
    assert order[:2] == ["create", "settings"] and order[-1] == "settings" and order.count("settings") == 2
    assert (
        "main" in order[2:-1] and outcome["gated"] == "manual" and not outcome["private"] and outcome["sent"] == [True]
    )


def test_a_tag_of_the_same_content_stays(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["back_to_a_tag"]
    assert "already names other content" in outcome["kept"] and outcome["again"] == [True] and outcome["tags"] == 1


def test_private_files_are_not_sent_into_public_repositories(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["public_there"]
    assert "is public on the Hub, but private was requested" in outcome["refused"] and not outcome["public"]
    assert outcome["after"] == outcome["before"] and outcome["private"] == [False]
    assert outcome["opened"] == [False] and outcome["now"] is False


def test_a_repository_that_did_not_become_public_is_opened_by_the_next_run(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["opened_again"]
    assert "same command again" in outcome["first"] and outcome["closed"] is True
    assert outcome["second"] == [False] and outcome["private"] is False


def test_only_checked_files_are_sent(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["changed_after_the_look"]
    assert "files were added or removed after the check" in outcome["added"]
    assert "README.md changed after the check" in outcome["other"] and outcome["commits"] == 0


def test_names_of_other_repositories_are_taken(outcomes: dict[str, Any]) -> None:
    assert "is taken by this command's expert" in outcomes["other_role"]["refused"]
    assert (
        "did not publish" in outcomes["somebodys_readme"]["refused"] and outcomes["somebodys_readme"]["commits"] == 1
    )


def test_a_space_has_its_variables(outcomes: dict[str, Any]) -> None:
    assert outcomes["space"] == {"sent": [True], "variables": {"MEDGLIP_MODEL": "clinic/model"}, "private": True}


def test_names_that_leave_the_repository(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["names_that_leave"]
    assert outcome["message"] and outcome["commits"] == 2 and not [name for name in outcome["files"] if ".." in name]


def test_no_network(outcomes: dict[str, Any]) -> None:
    assert "no connection to" in outcomes["no_network"]["message"]


def test_offline_mode_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set: unset it to publish"):
        upload([staged(tmp_path)], None, False, print)
