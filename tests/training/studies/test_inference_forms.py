# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Every form of an expert is measured on the same images; the page holds what was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.checkpoints.location import default_checkpoint, weights_sha256
from modeling_medglip.inference import fast_form
from tests.modeling_medglip.tiny_checkpoint import save_convolutional, save_tiny_checkpoint
from training.studies import inference_forms
from training.studies.inference_forms import TrainedForm, exported_forms, main
from training.studies.speed_page import ACCURACY, DOCS, EAGER, PAGE, STARTUP, TIMES, TRAINED, forms_table, render_page

from ..tiny_data import make_data


def run(tmp_path: Path, *options: str) -> dict[str, Any]:
    command = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "data"), "--modality", "ct"]
    out = tmp_path / "out.json"
    assert main([*command, "--out", str(out), "--exported", str(tmp_path / "exported"), *options]) == 0
    content: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return content["modalities"]["ct"]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    save_tiny_checkpoint(tmp_path / "model")
    make_data(tmp_path / "data")
    return tmp_path


def test_the_trained_form_stays_as_it_is(inputs: Path) -> None:
    trained = TrainedForm.from_pretrained(inputs / "model").eval()
    assert fast_form(trained) is trained
    plain = MedGlipForObjectDetection.from_pretrained(inputs / "model").eval()
    assert fast_form(plain) is not plain


def test_a_second_run_measures_nothing_again(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(inputs, "--format")
    assert list(first["forms"]) == [TRAINED, EAGER] and first["images"] > 0
    assert first["forms"][EAGER]["AP"] == pytest.approx(first["forms"][TRAINED]["AP"], abs=1e-3)
    monkeypatch.delattr(inference_forms, "measure")
    assert run(inputs, "--format") == first


@pytest.mark.slow
def test_exported_forms_are_made_once_and_measured(inputs: Path) -> None:
    pytest.importorskip("onnxruntime")
    shutil.rmtree(inputs / "model")
    save_convolutional(inputs / "model")
    forms = run(inputs, "--format", "onnx")["forms"]
    assert list(forms) == [TRAINED, EAGER, "onnx", "onnx int8"]
    assert forms["onnx"]["AP"] == pytest.approx(forms[TRAINED]["AP"], abs=1e-3) and forms["onnx"]["bytes"] > 1000
    made = [(file, file.stat().st_mtime_ns) for file in sorted((inputs / "exported").rglob("*"))]
    (inputs / "out.json").unlink()
    assert run(inputs, "--format", "onnx")["forms"] == forms
    assert made == [(file, file.stat().st_mtime_ns) for file in sorted((inputs / "exported").rglob("*"))]


def test_eight_bits_come_after_single_precision() -> None:
    forms = exported_forms(("onnx", "openvino"), [1])
    assert list(forms) == ["onnx", "openvino", "onnx int8", "openvino int8"]
    assert forms["onnx"] == ("onnx", None) and forms["openvino int8"] == ("openvino", [1])


def test_the_page_states_differences_and_ratios() -> None:
    forms = {TRAINED: (0.5, None), EAGER: (0.501, None), "onnx int8": (0.49, 30_000_000)}
    parts = {form: {"AP50": ap, "AP": ap / 2, "bytes": size} for form, (ap, size) in forms.items()}
    seconds = {"before": 0.2, EAGER: 0.1}
    times = {form: {"seconds": {"ct_abdomen": value}, "peak_bytes": 2**30} for form, value in seconds.items()}
    page = render_page(
        {"threads": 2, "rounds": 3, "modalities": {"ct": times}},
        {"modalities": {"ct": {"images": 9, "forms": parts}}},
        {"threads": 2, "rounds": 5, "seconds": {"medglip --help": 0.254}},
    )
    assert "| medglip --help | 0.25 |" in page
    assert "| ct_abdomen | eager | 100 | 2.00 | 1024 |" in page
    assert "| ct (9) | eager | 50.1 | 25.1 | 0.10 |  |" in page
    assert "| ct (9) | onnx int8 | 49.0 | 24.5 | 1.00 | 30 |" in page
    short = forms_table({"modalities": {"ct": times}}, {"modalities": {"ct": {"forms": parts}}}, ["ct", "mri"])
    assert "| ct | eager | 100 |  | 50.1 | 25.1 |" in short and "onnx" not in short  # nobody timed it
    assert forms_table({"modalities": {}}, {"modalities": {}}, ["ct"]) == ""


def test_other_weights_are_measured_again(inputs: Path) -> None:
    run(inputs, "--format")
    content = json.loads((inputs / "out.json").read_text("utf-8"))
    content["modalities"]["ct"]["images"], content["weights_sha256"] = 999, "of others"
    (inputs / "out.json").write_text(json.dumps(content), "utf-8")
    assert run(inputs, "--format")["images"] < 999


def test_the_page_in_docs_holds_what_was_measured_of_the_embedded_checkpoint() -> None:
    measured = [json.loads((DOCS / name).read_text("utf-8")) for name in (TIMES, ACCURACY, STARTUP)]
    assert (DOCS / PAGE).read_text("utf-8") == render_page(*measured)
    assert measured[1]["weights_sha256"] == weights_sha256(Path(default_checkpoint()))
    for part in measured[1]["modalities"].values():
        for form in part["forms"]:  # what is on by default, and what is exported in single precision
            if "int8" not in form:
                assert abs(part["forms"][form]["AP"] - part["forms"][TRAINED]["AP"]) <= 0.001
