# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The manifest of a run, and what `medglip env` prints."""

from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path

import pytest

from modeling_medglip.outputs import run_report
from modeling_medglip.outputs.run_report import (
    InputRecord,
    build_run_report,
    environment,
    package_version,
    taxonomy_counts,
    versions,
)


def test_report_is_a_pure_function() -> None:
    done = InputRecord("a.png", "done", 0.12345, ("a.boxes.json", "a.png"), 2, "ct", "header", ("unsure",))
    failed = InputRecord("b.png", "failed", 0.1, error="b.png: no such file")
    arguments = {
        "model": "tiny", "device": "cpu", "options": {"threshold": 0.3}, "labels": ["liver"],
        "records": [done, failed], "seconds": 1.23456, "versions": {"torch": "2"},
    }  # fmt: skip
    report = build_run_report(**arguments)
    assert report == build_run_report(**arguments) == json.loads(json.dumps(report))
    assert report["schema"] == "medglip/run@1"
    assert (report["done"], report["failed"], report["seconds"]) == (1, 1, 1.235)
    assert report["outputs"] == ["a.boxes.json", "a.png"]
    assert report["inputs"][0] == {
        "file": "a.png", "status": "done", "seconds": 0.123, "outputs": ["a.boxes.json", "a.png"], "boxes": 2,
        "modality": "ct", "modality_source": "header", "warnings": ["unsure"], "error": None,
    }  # fmt: skip
    assert report["inputs"][1]["error"] == "b.png: no such file"


def test_versions() -> None:
    found = versions()
    assert found["torch"] and found["python"].count(".") == 2 and "med-glip" in found
    assert package_version("no-such-distribution-at-all") == "not installed"


def test_environment_names_no_person_and_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    found = environment()
    assert found["HF_HUB_OFFLINE"] == "1" and found["TRANSFORMERS_OFFLINE"] == "not set"
    assert int(found["torch threads"]) >= 1
    text = "\n".join(found.values())
    assert socket.gethostname() not in text and str(Path.home()) + "/" not in text
    assert getpass.getuser() not in text.split()


def test_taxonomy_counts() -> None:
    counts = taxonomy_counts()
    assert (counts["labels"], counts["categories"], counts["regions"]) == (198, 38, 6)
    assert counts["unverified codes"] > 0


def test_notice() -> None:
    assert "not a medical device" in run_report.RESEARCH_USE
