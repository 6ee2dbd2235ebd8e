# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What the page answers to its visitors, asked without a browser, and how the Space is started."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from PIL import Image


gradio = pytest.importorskip("gradio")

from modeling_medglip import cli  # noqa: E402
from modeling_medglip.configuration_medglip import MODALITIES  # noqa: E402
from modeling_medglip.grounding import ground_image, load_grounder  # noqa: E402
from modeling_medglip.io.image import read_image  # noqa: E402
from modeling_medglip.outputs.results import read_boxes  # noqa: E402
from space_api import content  # noqa: E402
from space_examples import VOLUME, gallery, make_examples  # noqa: E402
from space_experts import Experts, above, load_experts  # noqa: E402
from space_handlers import Handlers, Parts  # noqa: E402
from space_settings import FAINTEST, Settings  # noqa: E402
from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint  # noqa: E402
from tests.spaces_demo.serving import tiny_experts, volume, xray  # noqa: E402


ROOT = Path(__file__).resolve().parents[2]
SPACE = ROOT / "spaces_demo"


class Part(str):
    """Stands for a component."""

    GRADIO_CACHE = ""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Experts:
    return tiny_experts(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def embedded() -> Experts:
    return Experts((load_grounder(),), Settings())


@pytest.fixture
def handlers(tiny: Experts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Handlers:
    monkeypatch.setattr(Part, "GRADIO_CACHE", str(tmp_path / "cache"))
    return Handlers(tiny, {}, Parts(**{name: Part(name) for name in Parts.__dataclass_fields__}))  # type: ignore


def open_boxes(html: str) -> int:
    """Frames that are not hidden."""
    return len(re.findall(r'<div class="mg-box [^>]*data-number="\d+" style', html))


class TestImages:
    def test_threshold_hides_what_a_search_at_that_threshold_does_not_find(
        self, tiny: Experts, tmp_path: Path
    ) -> None:
        """One search down to the faintest score, cut, is the search with the higher threshold."""
        tiny = replace(tiny, settings=replace(tiny.settings, untrained_threshold=0.0))
        image = read_image(xray(tmp_path))
        (all_of_them,) = tiny.find(image, "optic disc. cup. vessel", "fundus")
        assert all_of_them.open_image is None, "the state of a session holds no pixels"
        scores = sorted({box.score for box in all_of_them.boxes})
        middle = (scores[len(scores) // 2] + scores[len(scores) // 2 - 1]) / 2
        for threshold in (FAINTEST, middle, 0.99):
            direct = ground_image(
                image, "optic disc. cup. vessel", "fundus", tiny.main, threshold=threshold, untrained_threshold=0.0
            )
            assert above(all_of_them, threshold) == direct
        assert len(all_of_them.boxes) > len(above(all_of_them, middle).boxes) > 0

    def test_upload_find_and_move_the_threshold(self, handlers: Handlers, tmp_path: Path) -> None:
        opened = handlers.uploaded(str(xray(tmp_path)), 0.3)
        assert "mg-stage" in opened["result"] and open_boxes(opened["result"]) == 0
        assert opened["slices"]["visible"] is False and "99% sure" in opened["status"]
        found = handlers.find(opened["shown"], "optic disc", "auto", "", 0.42)
        shown = found["shown"]
        kept_boxes = above(shown.results[0], 0.42).boxes
        assert open_boxes(found["result"]) == len(kept_boxes) > 0
        moved = handlers.thresholded(shown, 0.5)
        file = read_boxes(moved["download"]["value"])
        assert file.boxes == tuple(box for box in read_boxes(found["download"]["value"]).boxes if box.score >= 0.5)
        assert Path(moved["download"]["value"]).name == "xray.boxes.json"
        assert "result" not in moved  # the page's own script does that, at once

    def test_two_experts_side_by_side(self, handlers: Handlers, tmp_path: Path) -> None:
        shown = handlers.uploaded(str(xray(tmp_path)), 0.3)["shown"]
        found = handlers.find(shown, "liver", "fundus", "0:ct", 0.3)
        assert found["result"].count("<figure") == 2 and "mg-double" in found["result"]
        assert "Fundus expert of tiny" in found["result"] and "CT expert of tiny" in found["result"]
        files = [read_boxes(found[name]["value"]) for name in ("download", "download_second")]
        assert [file.image.modality for file in files] == ["fundus", "ct"]

    def test_two_checkpoints_on_one_image(self, tiny: Experts, tmp_path: Path) -> None:
        other = save_tiny_checkpoint(tmp_path / "other")
        both = load_experts(Settings(model=str(other), others=(str(other),)))
        both = replace(both, grounders=(tiny.main, both.grounders[1]))
        assert both.second_choices() == [
            ("None", ""), ("CT expert of tiny", "0:ct"), ("Fundus expert of tiny", "0:fundus"),
            ("CT expert of other", "1:ct"), ("Fundus expert of other", "1:fundus"),
        ]  # fmt: skip
        found = both.find(read_image(xray(tmp_path)), "optic disc", "auto", "1:fundus")
        assert [result.model for result in found] == ["tiny", "other"]

    def test_bad_upload_is_reported_and_escaped(self, handlers: Handlers, tmp_path: Path) -> None:
        file = tmp_path / "<img src=x onerror=alert(1)>.png"
        file.write_text("nothing")
        answer = handlers.uploaded(str(file), 0.3)
        assert "is not an image of a known format" in answer["status"] and "<img" not in answer["status"]
        assert str(tmp_path) not in answer["status"] and answer["shown"] is None

    def test_unforeseen_problem_names_no_path(
        self, handlers: Handlers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def broken(*_: Any) -> None:
            raise RuntimeError("at /secret/place")

        monkeypatch.setattr("space_handlers.open_source", broken)
        answer = handlers.uploaded(str(xray(tmp_path)), 0.3)
        assert "unexpected RuntimeError on the server" in answer["status"] and "secret" not in answer["status"]
        assert "/secret/place" in capsys.readouterr().err

    @pytest.mark.parametrize("prompt", ["", " . , "])
    def test_empty_prompt(self, handlers: Handlers, tmp_path: Path, prompt: str) -> None:
        shown = handlers.uploaded(str(xray(tmp_path)), 0.3)["shown"]
        assert "the prompt is empty" in handlers.find(shown, prompt, "auto", "", 0.3)["status"]

    def test_nothing_uploaded(self, handlers: Handlers) -> None:
        assert "no image is open" in handlers.find(None, "liver", "auto", "", 0.3)["status"]
        assert "no volume" in handlers.find_all(None, "liver", "auto", 0.3)["status"]
        assert handlers.moved(None, "axial", 3, 0.3).keys() == {"status"}
        assert handlers.uploaded(None, 0.3)["shown"] is None


class TestVolumes:
    def test_slices(self, handlers: Handlers, tmp_path: Path) -> None:
        opened = handlers.uploaded(str(volume(tmp_path)), 0.3)
        shown = opened["shown"]
        assert opened["slices"]["visible"] and opened["index"]["maximum"] == 12 and opened["index"]["value"] == 7
        assert (shown.plane, shown.index, dict(shown.counts)["coronal"]) == ("axial", 6, 36)
        moved = handlers.moved(shown, "axial", 2, 0.3)
        assert moved["shown"].index == 1 and moved["shown"].uri != shown.uri
        turned = handlers.moved(shown, "coronal", 30, 0.3)
        assert turned["shown"].size == (40, 12) and turned["index"]["maximum"] == 36
        assert turned["shown"].ratio == pytest.approx(40 * 2 / (12 * 5))
        assert handlers.moved(shown, "axial", 999, 0.3)["shown"].index == 11

    def test_find_in_slice_names_the_slice_in_the_file(self, handlers: Handlers, tmp_path: Path) -> None:
        shown = handlers.uploaded(str(volume(tmp_path)), 0.3)["shown"]
        found = handlers.find(shown, "liver", "ct", "", 0.3)
        assert Path(found["download"]["value"]).name == "ct-axial-7.boxes.json"
        assert handlers.moved(found["shown"], "axial", 3, 0.3)["shown"].results == ()

    def test_whole_volume(self, handlers: Handlers, tmp_path: Path) -> None:
        shown = handlers.uploaded(str(volume(tmp_path)), 0.3)["shown"]
        found = handlers.find_all(shown, "liver", "ct", 0.2)
        boxes = found["shown"].volume.boxes
        assert boxes and found["result"].count("data-plane") == len(boxes) and "data-scene" in found["result"]
        content = json.loads(Path(found["download"]["value"]).read_text())
        assert content["schema"] == "medglip/boxes@1"
        assert len(content["boxes"]) == len([box for box in boxes if box.score >= 0.2])
        # the boxes stay while slices change, and a row of the table leads to its best slice
        event = SimpleNamespace(plane="axial", index=str(boxes[0].best[0].index))
        jumped = handlers.jumped(found["shown"], event, 0.0)  # type: ignore[arg-type]
        assert jumped["shown"].index == boxes[0].best[0].index and jumped["shown"].volume is not None
        assert 'data-number="0" style' in jumped["result"].split("<table>")[0]

    @pytest.mark.parametrize("event", [{}, {"plane": "up", "index": "1"}, {"plane": "axial", "index": "-1"}])
    def test_senseless_jumps(self, handlers: Handlers, tmp_path: Path, event: dict[str, str]) -> None:
        shown = handlers.uploaded(str(volume(tmp_path)), 0.3)["shown"]
        assert handlers.jumped(shown, SimpleNamespace(**event), 0.3).keys() == {"status"}  # type: ignore[arg-type]

    def test_four_axes(self, handlers: Handlers, tmp_path: Path) -> None:
        answer = handlers.uploaded(str(volume(tmp_path, "many.nii.gz", (8, 8, 4, 3))), 0.3)
        assert "has 4 axes (8, 8, 4, 3), not three</div>" in answer["status"]

    def test_warnings_name_no_argument(self, handlers: Handlers, tmp_path: Path) -> None:
        image = nibabel.Nifti1Image(np.zeros((8, 8, 4), np.int16), None)
        nibabel.save(image, tmp_path / "a.nii")
        answer = handlers.uploaded(str(tmp_path / "a.nii"), 0.3)
        warning = "its header says nothing of orientation: left and right may be wrong"
        assert f'<div class="mg-warning">{warning}</div>' in answer["status"]
        found = handlers.find(answer["shown"], "liver", "ct", "", 0.3)
        assert f'<div class="mg-warning">{warning}</div>' in found["status"]

    def test_warnings_of_the_endpoints_name_no_argument(self, tiny: Experts, tmp_path: Path) -> None:
        page = Image.new("L", (40, 30), 90)
        page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
        (result,) = tiny.find(read_image(tmp_path / "a.tif"), "optic disc", "fundus")
        assert content(result, 0.3)["warnings"][0] == "holds 2 frames; only the first is used"


class TestExamples:
    def test_every_modality_has_one_and_is_recognized(self, embedded: Experts, tmp_path: Path) -> None:
        """With the embedded checkpoint; the volume comes from nilearn."""
        examples = make_examples(embedded, tmp_path)
        assert {example.modality for example in examples.values()} == set(MODALITIES)
        assert list(examples)[-1] == VOLUME and gallery(examples).count("<button") == len(examples)
        handlers = Handlers(
            embedded, examples, Parts(**{name: Part(name) for name in Parts.__dataclass_fields__})  # type: ignore
        )  # fmt: skip
        Part.GRADIO_CACHE = str(tmp_path / "cache")
        event = SimpleNamespace(example="xray_chest")
        answer = handlers.example(event, 0.3)  # type: ignore[arg-type]
        assert "X-ray" in answer["status"] and "% sure" in answer["status"]
        assert open_boxes(answer["result"]) >= 2 and answer["prompt"].startswith("right lung")

    def test_unknown_example(self, handlers: Handlers) -> None:
        answer = handlers.example(SimpleNamespace(example="<b>x</b>"), 0.3)  # type: ignore[arg-type]
        assert "unknown example" in answer["status"]

    def test_missing_packages_leave_examples_out(
        self, tiny: Experts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert set(make_examples(tiny, tmp_path)) == {"ct_abdomen"}


class TestStarting:
    def test_front_matter(self) -> None:
        front = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
        assert (front["sdk"], front["app_file"], front["license"]) == ("gradio", "app.py", "apache-2.0")
        assert gradio.__version__.split(".")[:2] == front["sdk_version"].split(".")[:2]
        assert len(front["short_description"]) <= 60

    def test_no_file_of_the_package_imports_gradio(self) -> None:
        for file in (ROOT / "modeling_medglip").glob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not [name for name in names if name.split(".")[0] in ("gradio", "gradio_client")], file.name

    @pytest.mark.parametrize(("missing", "hint"), [("clone", "run this from a clone"), ("gradio", 'pip install ".')])
    def test_command_says_what_is_missing(
        self,
        missing: str,
        hint: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        if missing == "clone":
            monkeypatch.setattr(cli.demo, "SPACE", tmp_path / "spaces_demo" / "app.py")
        else:
            monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert cli.main(["demo", "--space"]) == 2
        answer = capsys.readouterr().err
        assert hint in answer and answer.count("\n") == 1

    def test_command_hands_over_port_and_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        started: list[Any] = []

        def run(command: list[str], env: dict[str, str]) -> Any:
            started.extend([command, env])
            return SimpleNamespace(returncode=0)

        monkeypatch.setattr(subprocess, "run", run)
        assert cli.main(["demo", "--space", "--port", "8123", "--model", "org/name"]) == 0
        assert started[0] == [sys.executable, str(SPACE / "app.py"), "--port", "8123"]
        assert started[1]["MEDGLIP_MODEL"] == "org/name"

    @pytest.mark.slow
    @pytest.mark.parametrize("command", [["app.py"], ["-m", "spaces_demo.app"]])
    def test_both_ways_of_starting(self, command: list[str], tmp_path: Path) -> None:
        folder = SPACE if command == ["app.py"] else ROOT
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            (address,) = re.findall(r"http://127\.0\.0\.1:\d+/", line)
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert answer.status == 200
            assert list(tmp_path.glob("medglip-space-*"))
        finally:
            process.terminate()
            process.wait(timeout=60)
        assert list(tmp_path.iterdir()) == []  # nothing of it stays behind

    @pytest.mark.slow
    def test_unusable_checkpoint(self, tmp_path: Path) -> None:
        """One line, no traceback, status 2."""
        settings = {**os.environ, "MEDGLIP_MODEL": str(tmp_path / "nothing")}
        done = subprocess.run(
            [sys.executable, str(SPACE / "app.py")], env=settings, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "nothing: no such folder, and no Hub id" in done.stderr
