# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Exported folders: the same boxes as the checkpoint's, whatever the sizes; damaged ones are refused in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling_medglip import cli
from modeling_medglip.errors import CheckpointError, UsageError
from modeling_medglip.exported import manifest
from modeling_medglip.exported.graphs import export_model
from modeling_medglip.exported.runtime import MedGlipExportedModel, full_mask
from modeling_medglip.grounding import Grounder, ground_image, load_grounder
from modeling_medglip.volume_grounding import ground_volume
from modeling_medglip.volumes.geometry import Volume
from tests.modeling_medglip.tiny_checkpoint import save_convolutional, save_tiny_checkpoint


pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Grounder:
    return load_grounder(save_convolutional(tmp_path_factory.mktemp("checkpoint") / "tiny"), "cpu", "ct")


@pytest.fixture(scope="module")
def folders(tiny: Grounder, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Format -> exported folder, made once."""
    root = tmp_path_factory.mktemp("exported")

    def folder(name: str) -> Path:
        pytest.importorskip(RUNTIMES[name])
        if not (root / name).exists():
            export_model(tiny.model, tiny.processor, root / name, name)
        return root / name

    return folder


def pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(-1000, 1000, (height, width)).astype(np.int16)


def assert_same_boxes(tiny: Grounder, exported: Grounder) -> None:
    assert isinstance(exported.model, MedGlipExportedModel) and exported.fast is exported.model
    for (height, width), prompt in [((64, 64), "liver"), ((40, 90), "spleen. liver."), ((130, 70), "liver. kidney.")]:
        image = pixels(height, width)
        ours, theirs = (
            ground_image(image, prompt, "ct", model=one, threshold=0.0, untrained_threshold=0.0, all_boxes=True)
            for one in (tiny, exported)
        )
        assert len(ours.boxes) == len(theirs.boxes) > 0 and ours.presence == pytest.approx(theirs.presence, abs=1e-3)
        for first, second in zip(ours.boxes, theirs.boxes, strict=True):
            assert first.label == second.label and first.score == pytest.approx(second.score, abs=1e-3)
            assert first.bbox == pytest.approx(second.bbox, abs=0.1)


def test_boxes_are_those_of_the_checkpoint(tiny: Grounder, folders: Callable[[str], Path]) -> None:
    assert_same_boxes(tiny, load_grounder(folders("onnx")))


@pytest.mark.slow
def test_boxes_of_openvino_are_those_of_the_checkpoint(tiny: Grounder, folders: Callable[[str], Path]) -> None:
    assert_same_boxes(tiny, load_grounder(folders("openvino")))


def test_batches_of_several_sizes_and_long_prompts(tiny: Grounder, folders: Callable[[str], Path]) -> None:
    exported = load_grounder(folders("onnx"))
    images = [pixels(64, 64), pixels(64, 64), pixels(50, 80)]
    prompts = [[f"thing {letter}" for letter in "abcdefgh"]] * 3
    ours, theirs = (one.detect(images, prompts, "ct", 0.0) for one in (tiny, exported))
    for first, second in zip(ours, theirs, strict=True):
        torch.testing.assert_close(first["scores"], second["scores"], atol=1e-3, rtol=0)
        torch.testing.assert_close(first["boxes"], second["boxes"], atol=0.1, rtol=0)


def test_a_volume_runs_too(tiny: Grounder, folders: Callable[[str], Path]) -> None:
    volume = Volume(np.stack([pixels(40, 36)] * 4, -1), np.diag([1.0, 1.0, 3.0, 1.0]))
    exported = load_grounder(folders("onnx"))
    ours, theirs = (ground_volume(volume, "liver", "ct", model=one, threshold=0.0) for one in (tiny, exported))
    assert [box.label for box in ours.boxes] == [box.label for box in theirs.boxes] != []
    np.testing.assert_allclose(ours.boxes[0].box_ijk, theirs.boxes[0].box_ijk, atol=0.1)


def test_the_decoder_states_boxes_for_other_programs(tiny: Grounder, folders: Callable[[str], Path]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = folders("onnx")
    open_graph = [onnxruntime.InferenceSession(folder / f"{part}.onnx") for part in manifest.parts_of("ct")]
    inputs = tiny.processor(pixels(64, 64), "liver", modality="ct")
    with torch.inference_mode():
        expected = tiny.model(**inputs)
        text = tiny.model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
    text = text._replace(text_mask=full_mask(text.text_mask, text.hidden.shape[1]))
    levels = open_graph[0].run(None, {"pixel_values": inputs["pixel_values"].numpy()})
    values = {**dict(zip(manifest.LEVELS, levels, strict=True)), **{k: v.numpy() for k, v in text._asdict().items()}}
    found = dict(zip(manifest.OUTPUTS, open_graph[1].run(list(manifest.OUTPUTS), values), strict=True))
    for name in ("logits", "pred_boxes", "centerness"):
        np.testing.assert_allclose(found[name], expected[name].numpy(), atol=1e-3, rtol=1e-4)


@pytest.mark.slow
def test_eight_bits_are_calibrated_and_close(tiny: Grounder, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    images = [pixels(64, 64 + step) for step in range(5)]
    made = export_model(tiny.model, tiny.processor, tmp_path / "small", "onnx", "tiny", images)
    assert made.precision == "int8" and json.loads((tmp_path / "small" / "export.json").read_text())["source"]
    exported = load_grounder(tmp_path / "small")
    ours, theirs = (one.detect([images[0]], [["liver"]], "ct", 0.0)[0] for one in (tiny, exported))
    assert not torch.equal(ours["scores"][:5], theirs["scores"][:5])
    torch.testing.assert_close(ours["scores"][:5], theirs["scores"][:5], atol=0.1, rtol=0)


@pytest.mark.slow
def test_the_command_line_exports_and_runs(tmp_path: Path, tiny: Grounder, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    checkpoint = str(save_convolutional(tmp_path / "tiny"))
    out = tmp_path / "graphs"
    assert cli.main(["export", "--model", checkpoint, "--modality", "ct", "--out", str(out)]) == 0
    assert "ct as onnx (float32)" in capsys.readouterr().out
    image = tmp_path / "scan.png"
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60), dtype=np.uint8)).save(image)
    ground = ["ground", str(image), "--prompt", "liver", "--modality", "ct", "--threshold", "0"]
    results = []
    for model, folder in ((checkpoint, "a"), (str(out), "b")):
        assert cli.main([*ground, "--model", model, "--out", str(tmp_path / folder)]) == 0
        results.append(json.loads((tmp_path / folder / "scan.boxes.json").read_text())["boxes"])
    assert len(results[0]) == len(results[1]) > 0
    assert cli.main(["export", "--model", checkpoint, "--out", str(out)]) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--int8", "nowhere"], "is not a folder with images"),
        (["--format", "tflite"], "openvino"),
        (["--modality", "sonar"], "sonar"),
    ],
)
def test_wrong_requests(
    tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = str(save_convolutional(tmp_path / "tiny"))
    capsys.readouterr()
    assert cli.main(["export", "--model", checkpoint, "--out", "new", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1 and not (tmp_path / "new").exists()


def test_one_expert_for_eight_bits_and_no_second_export(
    tmp_path: Path, folders: Callable[[str], Path], tiny: Grounder
) -> None:
    swin = load_grounder(save_tiny_checkpoint(tmp_path / "swin"), "cpu")
    exported = load_grounder(folders("onnx"))
    both = load_grounder(save_convolutional(tmp_path / "tiny"), "cpu")
    with pytest.raises(UsageError, match="one expert"):
        export_model(both.model, both.processor, tmp_path / "a", "onnx", "both", [pixels(64, 64)])
    with pytest.raises(UsageError, match="Swin"):
        export_model(swin.model, swin.processor, tmp_path / "a")
    with pytest.raises(UsageError, match="exported already"):
        export_model(exported.model, exported.processor, tmp_path / "b")
    with pytest.raises(UsageError, match="no expert|fundus"):
        load_grounder(folders("onnx"), modality="fundus")
    with pytest.raises(UsageError, match="copy its folder"):
        load_grounder(folders("onnx")).model.save_pretrained(tmp_path / "c")


def damaged(folder: Path, change: Callable[[Path], None], tmp_path: Path) -> Path:
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    change(copied)
    return copied


def edit(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "export.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "ct_decoder.onnx").unlink(), "ct_decoder.onnx is missing or damaged"),
        (
            lambda folder: (folder / "ct_decoder.onnx").write_bytes(b"no graph"),
            "ct_decoder.onnx is missing or damaged",
        ),
        (lambda folder: (folder / "export.json").write_text("{"), "export.json"),
        (lambda folder: (folder / "export.json").write_text("[1]"), "export.json"),
        (edit(schema="other"), "export.json"),
        (edit(format="pickle"), "unknown format"),
        (edit(files={}), "does not list all files"),
        (edit(files=[1]), "does not list all files"),
        (edit(modalities=["../ct"]), "export.json"),
        (edit(surprise=1), "export.json"),
        (
            lambda folder: (folder / "router.safetensors").write_bytes(b"no"),
            "router.safetensors is missing",
        ),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "med-glip"}'), "config.json is missing"),
    ],
)
def test_damaged_folders_are_refused(
    folders: Callable[[str], Path], tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_grounder(damaged(folders("onnx"), change, tmp_path))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_graph_that_is_none_is_an_error_of_one_line(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = damaged(folders("onnx"), lambda copied: (copied / "ct_decoder.onnx").write_bytes(b"no graph"), tmp_path)
    content = json.loads((folder / "export.json").read_text())
    content["files"]["ct_decoder.onnx"] = manifest.sha256(folder / "ct_decoder.onnx")
    (folder / "export.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_grounder(folder)


def test_a_graph_reads_no_file_outside_its_folder(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """ONNX may keep tensors in other files; one that names a file elsewhere must not be read."""
    onnx = pytest.importorskip("onnx")
    (tmp_path / "secret.bin").write_bytes(bytes(2**22))

    def change(folder: Path) -> None:
        model = onnx.load(folder / "ct_image_encoder.onnx")
        tensor = next(tensor for tensor in model.graph.initializer if len(tensor.raw_data) > 100)
        onnx.external_data_helper.set_external_data(tensor, "../secret.bin")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        (folder / "ct_image_encoder.onnx").write_bytes(model.SerializeToString())

    folder = damaged(folders("onnx"), change, tmp_path)
    content = json.loads((folder / "export.json").read_text())
    content["files"]["ct_image_encoder.onnx"] = manifest.sha256(folder / "ct_image_encoder.onnx")
    (folder / "export.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_grounder(folder)


def test_experts_that_the_manifest_does_not_name_are_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """Their graphs would have no checksum."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "modalities": ["ct", "mri"]}))
        content = json.loads((folder / "export.json").read_text())
        content["files"]["config.json"] = manifest.sha256(folder / "config.json")
        (folder / "export.json").write_text(json.dumps(content))

    with pytest.raises(CheckpointError, match="different experts"):
        load_grounder(damaged(folders("onnx"), change, tmp_path))


def test_graphs_run_on_the_processor_alone(folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for options in ({"device": "cuda"}, {"compile": True}):
        with pytest.raises(UsageError, match="runs on the CPU"):
            load_grounder(folders("onnx"), **options)


def test_openvino_is_imported_without_its_telemetry() -> None:
    pytest.importorskip("openvino")
    code = (
        "import sys; from modeling_medglip.exported.runtime import import_openvino; import_openvino(); "
        "print([name for name in sys.modules if name.startswith('openvino_telemetry') and sys.modules[name]])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


SIGNALED = """
import signal, sys
from pathlib import Path
import torch
from modeling_medglip.exported.runtime import import_openvino, open_openvino
openvino = import_openvino()
from openvino import opset13
given = opset13.parameter([-1, 3], name="given")
openvino.save_model(openvino.Model([opset13.relu(given)], [given]), sys.argv[1])
graphs = [open_openvino(Path(sys.argv[1]), ["kept"]) for _ in range(2)]
print([graph({"given": torch.tensor([[-1.0, 0.0, 2.0]])})["kept"].tolist() for graph in graphs])
while graphs:
    del graphs[0]
handled = []
signal.signal(signal.SIGUSR1, lambda *arguments: handled.append(1))
signal.raise_signal(signal.SIGUSR1)
print(handled)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_process_outlives_signals_after_its_graphs_are_gone(tmp_path: Path) -> None:
    """Cores of OpenVINO that are deleted in the order in which they were made leave a dangling signal stack."""
    pytest.importorskip("openvino")
    command = [sys.executable, "-X", "faulthandler", "-c", SIGNALED, str(tmp_path / "graph.xml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split("\n")[1]) == (0, "[1]"), done.stderr
    assert done.stdout.startswith("[[[0.0, 0.0, 2.0]]")
