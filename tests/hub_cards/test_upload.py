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
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("uploads")
    command = [sys.executable, "-m", "tests.hub_cards.upload_scenarios", str(folder)]
    environment = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_second_run_sends_nothing(said: dict[str, Any]) -> None:
    found = said["again"]
    assert (found["first"], found["second"], found["sent"]) == ([True], [False], [])
    assert found["commits"] == 2 and found["files"] == ALL and found["uploaded"] == 2


def test_only_what_changed_is_sent(said: dict[str, Any]) -> None:
    found = said["changed"]
    assert found["sent"] == [True] and found["uploaded"] == 1 and found["commits"] == 3
    assert "two.safetensors" not in found["files"] and "three.safetensors" in found["files"]


def test_tokens(said: dict[str, Any]) -> None:
    found = said["tokens"]
    assert found["None"].startswith("no token: log in") and "(401)" in found["hf_wrong"]
    assert "the token may not do this (403" in found["hf_reader"]
    assert found["commits"] == 0 and found["uploaded"] == 0


def test_a_run_that_broke_off_leaves_nothing_and_is_resumed(said: dict[str, Any]) -> None:
    found = said["broken_off"]
    assert found["first"].startswith("clinic/model: ") and "same command again" in found["first"]
    assert found["after"] == {"commits": 1, "files": [".gitattributes"]}, "nothing half-published"
    assert found["second"] == [True] and found["files"] == ALL
    assert found["uploaded"] == 2, "the file that was sent before is not sent again"


def test_a_commit_that_fails(said: dict[str, Any]) -> None:
    found = said["commit_fails"]
    assert "the Hub failed (500)" in found["first"] and found["after"]["files"] == [".gitattributes"]
    assert found["second"] == [True] and found["resent"] == 0 and found["files"] == ALL


def test_a_name_that_is_taken_stops_all_of_it(said: dict[str, Any]) -> None:
    found = said["taken"]
    assert found["refused"].startswith("clinic/other: is taken") and "--replace" in found["refused"]
    assert found["before"]["commits"] == 0 and found["replaced"] == [True, True]
    assert "theirs.txt" not in found["theirs"]


def test_a_tag_never_moves(said: dict[str, Any]) -> None:
    found = said["tag_taken"]
    assert "v1 already names other content" in found["refused"] and found["after"]["commits"] == 2
    assert found["next"] == [True] and found["tags"] == ["v1", "v2"]


def test_the_gate_is_shut_before_anything_is_inside_and_the_door_opened_last(said: dict[str, Any]) -> None:
    found = said["gated"]
    order = [step for step in found["order"] if step in ("create", "settings", "main")]
    assert order[:2] == ["create", "settings"] and order[-1] == "settings" and order.count("settings") == 2
    assert "main" in order[2:-1] and found["gated"] == "manual" and not found["private"] and found["sent"] == [True]


def test_a_tag_that_names_the_same_is_kept(said: dict[str, Any]) -> None:
    found = said["back_to_a_tag"]
    assert "already names other content" in found["kept"] and found["again"] == [True] and found["tags"] == 1


def test_private_things_do_not_go_into_public_places(said: dict[str, Any]) -> None:
    found = said["public_there"]
    assert "is public on the Hub, but private was requested" in found["refused"] and not found["public"]
    assert found["after"] == found["before"] and found["private"] == [False]
    assert found["opened"] == [False] and found["now"] is False


def test_a_door_that_did_not_open_is_opened_by_the_next_run(said: dict[str, Any]) -> None:
    found = said["opened_again"]
    assert "same command again" in found["first"] and found["closed"] is True
    assert found["second"] == [False] and found["private"] is False


def test_only_what_was_looked_at_is_sent(said: dict[str, Any]) -> None:
    found = said["changed_after_the_look"]
    assert "files were added or removed after the check" in found["added"]
    assert "README.md changed after the check" in found["other"] and found["commits"] == 0


def test_names_of_other_things_are_taken(said: dict[str, Any]) -> None:
    assert "is taken by this command's expert" in said["other_role"]["refused"]
    assert "did not publish" in said["somebodys_readme"]["refused"] and said["somebodys_readme"]["commits"] == 1


def test_a_space_has_its_variables(said: dict[str, Any]) -> None:
    assert said["space"] == {"sent": [True], "variables": {"MEDGLIP_MODEL": "clinic/model"}, "private": True}


def test_names_that_leave_the_repository(said: dict[str, Any]) -> None:
    found = said["names_that_leave"]
    assert found["said"] and found["commits"] == 2 and not [name for name in found["files"] if ".." in name]


def test_no_network(said: dict[str, Any]) -> None:
    assert "no connection to" in said["no_network"]["said"]


def test_offline_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set: unset it to publish"):
        upload([staged(tmp_path)], None, False, print)
