# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The command line: a few real processes, the rest through `main` in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from modeling_medglip import cli, grounding
from modeling_medglip.cli import console
from modeling_medglip.demo.cases import DemoCase, demo_cases
from modeling_medglip.io.image_record import ReadImage
from modeling_medglip.outputs.results import read_boxes
from tests.modeling_medglip.dicom_files import write_series
from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint


ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny"))


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)
    path = tmp_path / "in" / "scan.png"
    path.parent.mkdir()
    Image.fromarray(pixels).save(path)
    return path


def process(arguments: Sequence[object], cwd: Path) -> subprocess.CompletedProcess[str]:
    """A real `medglip` process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", "modeling_medglip.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=300)


class TestProcesses:
    def test_wrong_usage(self, tmp_path: Path) -> None:
        done = process(["ground", "a.png"], tmp_path)
        assert done.returncode == 2 and done.stdout == ""
        message = "Missing option '--prompt' or '--prompts'. (medglip ground --help shows the usage)"
        assert done.stderr == f"medglip: error: {message}\n"

    def test_help_needs_nothing_heavy(self, tmp_path: Path) -> None:
        # The package's own imports are left out here: what the command line itself asks for is measured.
        code = (
            "import sys, types; package = types.ModuleType('modeling_medglip'); "
            f"package.__path__ = [{str(ROOT / 'modeling_medglip')!r}]; sys.modules['modeling_medglip'] = package; "
            "from modeling_medglip.cli import main; status = main(['ground', '--help']); "
            "print({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)); sys.exit(status)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
        assert done.returncode == 0 and done.stdout.endswith("set()\n"), done.stderr
        assert "--prompt" in done.stdout and "not a medical device" not in done.stderr

    @pytest.mark.slow
    def test_demo(self, tmp_path: Path) -> None:
        done = process(["demo", "--out", tmp_path / "demo"], tmp_path)
        assert done.returncode == 0, done.stderr
        for case in demo_cases():
            result = read_boxes(tmp_path / "demo" / f"{case.id}.boxes.json")
            assert result.image.modality == case.modality
            assert (tmp_path / "demo" / f"{case.id}.png").is_file()
        assert (tmp_path / "demo" / "demo.png").is_file() and "not a medical device" in done.stdout


class Lines:
    """What `main` printed."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def medglip(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> Lines:
        capsys.readouterr()
        quicker = ["--no-isolate"] if arguments[:1] == ("ground",) else []
        status = cli.main([*(str(argument) for argument in arguments), *quicker])
        return Lines(status, *capsys.readouterr())

    return call


class TestOneInputAmongSeveral:
    def test_some_inputs_fail_and_the_others_are_done(
        self, medglip: Any, tiny: str, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        bad = tmp_path / "broken.png"
        bad.write_bytes(b"not an image")
        missing = tmp_path / "absent.dcm"
        options = ["--prompt", "liver. spleen.", "--model", tiny, "--device", "cpu", "--out", "out"]
        options += ["--threshold", "0.1", "--modality", "ct", "--report", "run.json"]
        done = medglip("ground", bad, scan, missing, scan, *options)
        assert done.status == 1
        errors = [line for line in done.err.splitlines() if "error" in line]
        assert errors[0] == "medglip: error: absent.dcm: no such file" and len(errors) == 2
        assert errors[1].startswith("medglip: error: broken.png: is not an image of a known format")
        assert "Traceback" not in done.err and "tiny on cpu" in done.out
        written = sorted(file.name for file in (tmp_path / "out").iterdir())
        assert written == ["scan-2.boxes.json", "scan-2.png", "scan.boxes.json", "scan.png"]
        assert read_boxes(tmp_path / "out" / "scan.boxes.json").image.file == "scan.png"
        report = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
        assert (report["done"], report["failed"], report["labels"]) == (2, 2, ["liver", "spleen"])
        assert str(tmp_path) not in json.dumps(report)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("DefaultCPUAllocator: can't allocate memory", "not enough memory"),
            ("sizes do not match", "unexpected RuntimeError"),
        ],
    )
    def test_a_surprise_in_one_input_leaves_the_others(
        self,
        medglip: Any,
        tiny: str,
        scan: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        text: str,
        reason: str,
    ) -> None:
        other = scan.with_name("other.png")
        other.write_bytes(scan.read_bytes())
        whole = grounding.ground_image

        def fail_once(image: Any, *rest: Any, **options: Any) -> Any:
            if image.file == scan.name:
                raise RuntimeError(text)
            return whole(image, *rest, **options)

        monkeypatch.setattr("modeling_medglip.grounding.ground_image", fail_once)
        lines = medglip("ground", scan, other, "--prompt", "liver", "--model", tiny, "--out", tmp_path / "out")
        assert lines.status == 1 and f"scan.png: {reason}" in lines.err and "Traceback" not in lines.err
        assert [path.name for path in (tmp_path / "out").glob("*.boxes.json")] == ["other.boxes.json"]


class TestUsage:
    def test_no_command_and_unknown_ones(self, medglip: Any) -> None:
        for arguments in ((), ("nonsense",), ("ground", "--nonsense")):
            lines = medglip(*arguments)
            assert lines.status == 2 and lines.err.count("\n") == 1 and lines.out == ""

    def test_help_and_version(self, medglip: Any) -> None:
        lines = medglip("--help")
        assert lines.status == 0 and all(name in lines.out for name in ("demo", "ground", "merge", "info", "env"))
        assert "not a medical device" in lines.out
        assert medglip("--version").out.startswith("med-glip ")

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            (["--prompt", ""], "the prompt is empty"),
            (["--prompt", " . "], "the prompt is empty"),
            (
                ["--prompt", ". ".join(map(str, range(100_000, 110_000)))],
                "the prompt has 10000 labels, more than 1000",
            ),
            (["--prompt", "liver", "--modality", "pet"], "unknown modality 'pet': choose one of ct, mri"),
            (["--prompt", "liver", "--modality", "mri"], "no expert for mri"),
            (["--prompt", "liver", "--device", "gpu:0"], "--device 'gpu:0': choose auto"),
            (["--prompt", "liver", "--threshold", "1.5"], "--threshold"),
            (["--prompt", "liver", "--threshold", "many"], "--threshold"),
            (["--prompt", "liver", "--frame", "0"], "--frame"),
        ],
    )
    def test_bad_options(
        self, medglip: Any, tiny: str, scan: Path, tmp_path: Path, options: list[str], problem: str
    ) -> None:
        lines = medglip("ground", scan, "--model", tiny, "--out", tmp_path / "out", *options)
        assert lines.status == 2 and problem in lines.err
        assert lines.err.count("\n") == 1 and len(lines.err) < 600 and "Traceback" not in lines.err

    def test_bad_checkpoints(self, medglip: Any, tiny: str, scan: Path, tmp_path: Path) -> None:
        pickled = tmp_path / "old"
        pickled.mkdir()
        (pickled / "config.json").write_text('{"model_type": "med-glip"}', encoding="utf-8")
        (pickled / "pytorch_model.bin").touch()
        for model, problem in ((tmp_path / "absent", "no such folder"), (pickled, "pickled")):
            lines = medglip("ground", scan, "--prompt", "liver", "--out", tmp_path / "out", "--model", model)
            assert lines.status == 2 and problem in lines.err and lines.err.count("\n") == 1

    def test_an_output_folder_that_is_a_file(self, medglip: Any, tiny: str, scan: Path) -> None:
        lines = medglip("ground", scan, "--prompt", "liver", "--model", tiny, "--out", scan)
        assert lines.status == 2 and "--out scan.png: cannot be made" in lines.err

    def test_debug_shows_the_traceback(self, medglip: Any, tmp_path: Path, scan: Path) -> None:
        arguments = ["ground", scan, "--prompt", "liver", "--model", tmp_path / "absent", "--out", tmp_path / "out"]
        lines = medglip(*arguments, "--debug")
        assert lines.status == 2 and "Traceback" in lines.err
        assert lines.err.splitlines()[-1].startswith("medglip: error: checkpoint")

    def test_surprises_are_one_line_too(self, medglip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def surprise() -> None:
            raise RuntimeError("first\nsecond")

        monkeypatch.setattr("modeling_medglip.cli.info.environment", surprise)
        lines = medglip("env")
        assert lines.status == 1
        assert lines.err == "medglip: error: unexpected RuntimeError: first second (--debug shows where)\n"

    def test_interruption(self, medglip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("modeling_medglip.cli.info.environment", interrupt)
        lines = medglip("env")
        assert lines.status == 130 and lines.err == "medglip: error: interrupted\n"


class TestGround:
    def test_all_good(self, medglip: Any, tiny: str, scan: Path, tmp_path: Path) -> None:
        before = scan.read_bytes()
        options = ["--prompt", "optic disc. [new] thing", "--model", tiny, "--out", scan.parent, "--threshold", "0.1"]
        options += ["--untrained-threshold", "0.1"]
        lines = medglip("ground", scan, *options)
        assert lines.status == 0 and lines.err.count("\n") == 1
        assert "scan.png: not trained in fundus: [new] thing" in lines.err
        assert "[new] thing (not trained)" in lines.out and "optic disc (not trained)" not in lines.out
        assert "scan.png  [fundus, 60x40]" in lines.out and "[new] thing" in lines.out
        assert "not a medical device" in lines.out
        assert scan.read_bytes() == before
        assert sorted(file.name for file in scan.parent.iterdir()) == ["scan-2.boxes.json", "scan-2.png", "scan.png"]
        first = (scan.parent / "scan-2.boxes.json").read_bytes()
        assert medglip("ground", scan, *options).status == 0
        assert (scan.parent / "scan-2.boxes.json").read_bytes() == first

    @pytest.mark.parametrize(
        ("report", "problem"),
        [
            ("in/scan.png", "is an input or a result"),
            ("in/../in/scan.png", "is an input or a result"),
            ("out/scan.boxes.json", "is an input or a result"),
            ("in", "is a folder"),
            ("out", "is a folder"),
            ("out/scan.png/run.json", "or below one"),
            ("pipe", "is not a plain file"),
        ],
    )
    def test_a_report_never_overwrites(
        self, medglip: Any, tiny: str, scan: Path, tmp_path: Path, report: str, problem: str
    ) -> None:
        before = scan.read_bytes()
        os.mkfifo(tmp_path / "pipe")
        arguments = ["--model", tiny, "--prompt", "liver", "--out", tmp_path / "out", "--report", tmp_path / report]
        lines = medglip("ground", scan, *arguments)
        assert lines.status == 2 and problem in lines.err
        assert scan.read_bytes() == before and not (tmp_path / "out").exists()

    @pytest.mark.parametrize("prompt", ["", " . ", "li\udce9ver"])
    def test_a_bad_prompt_leaves_no_folder(self, medglip: Any, scan: Path, tmp_path: Path, prompt: str) -> None:
        lines = medglip("ground", scan, "--prompt", prompt, "--out", tmp_path / "out")
        assert lines.status == 2 and "prompt" in lines.err and not (tmp_path / "out").exists()

    def test_nothing_found_is_not_a_failure(self, medglip: Any, tiny: str, scan: Path, tmp_path: Path) -> None:
        options = ["--prompt", "liver", "--model", tiny, "--out", tmp_path / "out", "--threshold", "1"]
        lines = medglip("ground", scan, *options)
        assert lines.status == 0 and "nothing found" in lines.out
        assert read_boxes(tmp_path / "out" / "scan.boxes.json").boxes == ()

    def test_contradictions_are_warnings(self, medglip: Any, tiny: str, scan: Path, tmp_path: Path) -> None:
        options = ["--prompt", "liver", "--model", tiny, "--out", tmp_path / "out", "--modality", "ct"]
        lines = medglip("ground", scan, *options)
        assert lines.status == 0
        warning = "medglip: warning: scan.png: taken as ct, but the pixels look like fundus (probability 0.99)\n"
        assert lines.err == warning

    def test_hostile_names(self, medglip: Any, tiny: str, scan: Path, tmp_path: Path) -> None:
        hostile = scan.with_name("[red]x\x1b[31m\n..png")
        scan.rename(hostile)
        lines = medglip("ground", hostile, "--prompt", "liver", "--model", tiny, "--out", tmp_path / "out")
        assert lines.status == 0 and "\x1b" not in lines.out and "[red]x" in lines.out
        assert {file.name for file in (tmp_path / "out").iterdir()} == {
            "red-x-31m.boxes.json",
            "red-x-31m.png",
        }

    def test_no_bar_without_a_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert list(console.progress([1, 2, 3])) == [1, 2, 3]
        assert capsys.readouterr() == ("", "")


class TestDemo:
    def test_one_missing_package_does_not_stop_the_rest(
        self, medglip: Any, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def absent() -> ReadImage:
            from modeling_medglip.demo.cases import package_file

            return read(package_file("no_such_package", "a.png"))

        def read(path: Path) -> ReadImage:
            raise AssertionError(path)

        gray = np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)
        cases = (
            DemoCase("good", "ct", "liver.", "A source.", lambda: ReadImage(gray, "good.png")),
            DemoCase("drawn", "fundus", "liver.", "Phantom.", lambda: ReadImage(gray, "drawn.png"), is_phantom=True),
            DemoCase("gone", "ct", "liver.", "Another source.", absent),
            DemoCase("other", "mri", "liver.", "No expert for it.", absent),
        )
        monkeypatch.setattr("modeling_medglip.demo.cases.demo_cases", lambda: cases)
        lines = medglip("demo", "--model", tiny, "--out", tmp_path / "demo", "--threshold", "0.1")
        assert lines.status == 1 and 'pip install ".[demo]" in a clone' in lines.err
        written = {file.name for file in (tmp_path / "demo").iterdir()}
        assert written == {"good.boxes.json", "good.png", "drawn.boxes.json", "drawn.png", "demo.png"}
        heights = [Image.open(tmp_path / "demo" / name).height for name in ("good.png", "drawn.png")]
        assert heights[1] > heights[0]  # the phantom's bar
        assert "2 of 3 images done" in lines.out


class TestInfo:
    @pytest.fixture(autouse=True)
    def checkpoint(self, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("modeling_medglip.checkpoints.location.default_checkpoint", lambda: Path(tiny))

    def test_table(self, medglip: Any) -> None:
        lines = medglip("info")
        assert lines.status == 0 and "liver, spleen" in lines.out and "198 labels" in lines.out
        assert "unverified codes" in lines.out and "not a medical device" in lines.out

    def test_json(self, medglip: Any) -> None:
        content = json.loads(medglip("info", "--json").out)
        assert content["modalities"] == ["ct", "fundus"]
        assert content["labels"] == {"ct": ["liver", "spleen"], "fundus": ["optic disc"]}
        assert content["taxonomy"]["categories"] == 38

    def test_licenses(self, medglip: Any) -> None:
        lines = medglip("info", "--licenses")
        assert "Apache-2.0" in lines.out and "Set A (set_a)" in lines.out and "CC0" in lines.out


def test_env_names_no_folder(medglip: Any) -> None:
    lines = medglip("env")
    assert lines.status == 0 and "torch: " in lines.out and "telemetry: none, ever" in lines.out
    assert str(Path.home()) + "/" not in lines.out and str(ROOT) not in lines.out


class TestVolumes:
    def run(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
        status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    def test_a_nifti_file_and_a_dicom_folder(
        self, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        volume = np.random.default_rng(0).integers(-1000, 1000, (30, 24, 5)).astype(np.int16)
        affine = np.diag([-1.0, -1, 3, 1])
        affine[:3, 3] = [10, 12, -7]
        nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "scan.nii.gz")
        write_series(tmp_path / "study" / "one")
        out = tmp_path / "out"
        given = ["--prompt", "liver. spleen.", "--model", tiny, "--threshold", "0.0", "--modality", "ct", "--out", out]
        status, output, errors = self.run(capsys, "ground", tmp_path / "scan.nii.gz", tmp_path / "study", *given)
        assert (status, errors) == (0, ""), errors
        assert "scan.nii.gz: 5 axial slices" in output and "study: 5 axial slices" in output
        assert sorted(path.name for path in out.iterdir()) == [
            "scan.boxes.json",
            "scan.png",
            "study.boxes.json",
            "study.png",
        ]
        content = json.loads((out / "study.boxes.json").read_text(encoding="utf-8"))
        assert content["image"]["depth"] == 5 and content["image"]["spacing_mm"] == [0.7, 0.9, 2.0]
        assert all(len(box["corners_lps_mm"]) == 8 for box in content["boxes"])
        assert read_boxes(out / "scan.boxes.json").boxes

    def test_other_planes_and_the_report(self, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        nibabel.save(nibabel.Nifti1Image(np.ones((8, 9, 10), np.int16), np.eye(4)), tmp_path / "scan.nii")
        given = ["--prompt", "liver", "--model", tiny, "--modality", "ct", "--out", tmp_path / "out", "--no-isolate"]
        report = tmp_path / "run.json"
        status, output, _ = self.run(
            capsys, "ground", tmp_path / "scan.nii", *given, "--plane", "coronal", "--report", report
        )
        assert status == 0 and "9 coronal slices" in output
        assert json.loads(report.read_text(encoding="utf-8"))["done"] == 1
        status, _, errors = self.run(capsys, "ground", tmp_path / "scan.nii", *given, "--plane", "slanted")
        assert status == 2 and "choose one of axial" in errors

    def test_files_for_other_programs(self, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_series(tmp_path / "study", FrameOfReferenceUID="1.2.3.4", PatientName="Doe^Jane")
        nibabel.save(nibabel.Nifti1Image(np.ones((8, 9, 3), np.int16), np.eye(4)), tmp_path / "scan.nii")
        out = tmp_path / "out"
        given = [
            "--prompt",
            "liver",
            "--model",
            tiny,
            "--threshold",
            "0.0",
            "--modality",
            "ct",
            "--out",
            out,
            "--no-isolate",
        ]
        kinds = [part for kind in ("slicer", "nifti", "sr", "seg", "slicer") for part in ("--write", kind)]
        status, _, errors = self.run(capsys, "ground", tmp_path / "study", *given, *kinds)
        assert status == 0, errors
        endings = ("boxes.json", "boxes.nii.gz", "labels.ctbl", "mrk.json", "png", "seg.dcm", "sr.dcm")
        assert sorted(path.name for path in out.iterdir()) == [f"study.{ending}" for ending in endings]
        with_name = [path.name for path in out.iterdir() if b"Doe" in path.read_bytes()]
        assert sorted(with_name) == ["study.seg.dcm", "study.sr.dcm"], "patient data in DICOM alone"
        status, _, errors = self.run(capsys, "ground", tmp_path / "scan.nii", *given, "--write", "sr")
        assert status == 1 and "scan.nii: is not a DICOM series" in errors
        status, _, errors = self.run(capsys, "ground", tmp_path / "scan.nii", *given, "--write", "stl")
        assert status == 2 and "choose of slicer, nifti, sr, seg" in errors

    def test_bad_volumes_are_named_and_the_others_done(
        self, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "broken.nii").write_bytes(b"no volume")
        (tmp_path / "empty").mkdir()
        write_series(tmp_path / "two", PatientID="A")
        write_series(tmp_path / "two" / "more", PatientID="B", SeriesInstanceUID="1.2.3")
        nibabel.save(nibabel.Nifti1Image(np.ones((8, 9, 3), np.int16), np.eye(4)), tmp_path / "good.nii")
        names = ["broken.nii", "empty", "two", "good.nii"]
        given = ["--prompt", "liver", "--model", tiny, "--modality", "ct", "--out", tmp_path / "out", "--no-isolate"]
        status, output, errors = self.run(capsys, "ground", *(tmp_path / name for name in names), *given)
        assert status == 1 and "good.nii  [ct, 8x9x3]" in output
        assert [line for line in errors.splitlines() if "error" in line] == [
            "medglip: error: empty: holds no image, volume or DICOM series (0 other files)",
            "medglip: error: two: holds files of 2 patients: give a folder for each, or pass --several-patients",
            "medglip: error: broken.nii: is not a NIfTI file",
        ]
        status, output, _ = self.run(capsys, "ground", tmp_path / "two", *given, "--several-patients")
        assert status == 0 and "two-" in output
