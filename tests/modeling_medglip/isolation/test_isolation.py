# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Reading in a worker process: the same values, and a crash or a hang that costs one file."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


pytest.importorskip("nibabel")
pytest.importorskip("pydicom")
pytest.importorskip("SimpleITK")

import nibabel
import SimpleITK

from modeling_medglip import cli
from modeling_medglip.errors import MedGlipError, hint_of
from modeling_medglip.io.image import read_image
from modeling_medglip.isolation import answers
from modeling_medglip.isolation import process as isolation
from modeling_medglip.isolation.process import FileReader, ReaderLimits, ReaderProcess
from modeling_medglip.volumes.geometry import PLANES
from modeling_medglip.volumes.header import UNORIENTED, VolumeError
from modeling_medglip.volumes.source import VolumeSource, open_volume

from ..dicom_files import write_multi_frame, write_series
from ..tiny_checkpoint import save_tiny_checkpoint


ROOT = Path(__file__).resolve().parents[3]
PATIENT = ReaderLimits(seconds=60)


class HostileReader(ReaderProcess):
    worker = "tests.modeling_medglip.isolation.hostile_worker"


@pytest.fixture(scope="module")
def reader() -> Iterator[ReaderProcess]:
    with ReaderProcess(PATIENT) as running:
        yield running


@pytest.fixture(scope="module")
def hostile() -> Iterator[ReaderProcess]:
    with HostileReader(ReaderLimits(seconds=60, memory_mb=1024)) as running:
        yield running


def png(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000).save(path, format="PNG")
    return path


def volume_file(path: Path) -> Path:
    array = np.arange(4 * 5 * 6, dtype=">i2").reshape(4, 5, 6)
    if path.name.endswith(".nrrd"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array.astype(np.int16)), str(path))
    else:
        image = nibabel.Nifti1Image(array, np.diag([-1.0, 1, 3, 1]))
        image.header.set_data_dtype(">i2")
        image.header.set_xyzt_units("mm")
        nibabel.save(image, path)
    return path


def same(found: VolumeSource, expected: VolumeSource) -> None:
    """Assert that two volumes are the same in every plane."""
    assert np.array_equal(found.grid.affine, expected.grid.affine)
    for name in ("name", "modality", "notes", "stacked", "dicom_slices"):
        assert getattr(found, name) == getattr(expected, name), name
    for plane in PLANES:
        pairs = list(zip(found.read_slices(plane), expected.read_slices(plane), strict=True))
        assert all(a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in pairs)
        assert np.array_equal(found.read_slice(plane, 1), expected.read_slice(plane, 1))
    first, second = found.volume(), expected.volume()
    assert np.array_equal(first.array, second.array)
    assert (first.slope, first.intercept) == (second.slope, second.intercept)


class TestTheSameValues:
    def test_image(self, reader: ReaderProcess, tmp_path: Path) -> None:
        path = png(tmp_path / "deep.png")
        found, expected = reader.read_image(path), read_image(path)
        assert np.array_equal(found.pixels, expected.pixels) and found.pixels.dtype == expected.pixels.dtype
        assert (found.file, found.warnings, found.modality) == (expected.file, expected.warnings, expected.modality)

    def test_hints(self, reader: ReaderProcess, tmp_path: Path) -> None:
        frames = [Image.new("L", (8, 6), gray) for gray in (0, 255)]
        frames[0].save(tmp_path / "cine.tif", save_all=True, append_images=frames[1:])
        (warning,) = reader.read_image(tmp_path / "cine.tif").warnings
        assert str(warning).endswith("(choose another with frame=)") and hint_of(warning) == "frame"
        nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)), tmp_path / "a.nii")
        (note,) = reader.open_volume(tmp_path / "a.nii").notes
        assert note == UNORIENTED and hint_of(note) == "axes"
        nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2, 3), np.int16), np.diag([1, 1, 2, 1])), tmp_path / "b.nii")
        with pytest.raises(VolumeError, match="number=") as caught:
            reader.open_volume(tmp_path / "b.nii")
        assert caught.value.hint == "number"

    def test_dicom_image(self, reader: ReaderProcess, tmp_path: Path) -> None:
        path = write_series(tmp_path / "series")[0]
        found, expected = reader.read_image(path), read_image(path)
        assert np.array_equal(found.pixels, expected.pixels)
        assert found.spacing_mm == expected.spacing_mm and found.modality == "ct"

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd"])
    def test_volume(self, reader: ReaderProcess, tmp_path: Path, name: str) -> None:
        path = volume_file(tmp_path / name)
        found, expected = reader.open_volume(path), open_volume(path)
        same(found, expected)
        if expected.nifti_header is not None:
            assert found.nifti_header.binaryblock == expected.nifti_header.binaryblock
        for source in (found, expected):
            source.state_axes("RPS")
        same(found, expected)

    def test_series(self, reader: ReaderProcess, tmp_path: Path) -> None:
        write_series(tmp_path / "study")
        (found,), (expected,) = reader.find_series(tmp_path / "study"), FileReader().find_series(tmp_path / "study")
        assert found == expected
        same(reader.open_series(found, "study"), FileReader().open_series(expected, "study"))

    def test_multi_frame_file(self, reader: ReaderProcess, tmp_path: Path) -> None:
        path = tmp_path / "enhanced.dcm"
        write_multi_frame(path, write_series(tmp_path / "slices"))
        assert reader.holds_slices(path) and not reader.holds_slices(png(tmp_path / "a.png"))
        series = isolation.FoundSeries((path,))
        same(reader.open_series(series, path.name), FileReader().open_series(series, path.name))

    def test_relative_paths_follow_the_parent(
        self, reader: ReaderProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        png(tmp_path / "a.png")
        monkeypatch.chdir(tmp_path)
        assert reader.read_image(Path("a.png")).width == 8

    def test_errors_are_the_readers_own(self, reader: ReaderProcess, tmp_path: Path) -> None:
        (tmp_path / "text.png").write_text("text")
        (tmp_path / "half.nii").write_bytes(volume_file(tmp_path / "a.nii").read_bytes()[:400])
        calls: list[Any] = [
            lambda one: one.read_image(tmp_path / "text.png"),
            lambda one: one.read_image(tmp_path / "missing.png"),
            lambda one: one.open_volume(tmp_path / "half.nii").volume(),
            lambda one: one.find_series(tmp_path),
        ]
        for call in calls:
            with pytest.raises(MedGlipError) as expected:
                call(FileReader())
            with pytest.raises(MedGlipError) as found:
                call(reader)
            assert str(found.value) == str(expected.value) and type(found.value) is type(expected.value)

    def test_a_volume_outlives_its_worker(self, reader: ReaderProcess, tmp_path: Path) -> None:
        path = volume_file(tmp_path / "a.nii.gz")
        source, count = reader.open_volume(path), 0
        for (index, values), (other, expected) in zip(
            source.read_slices("axial"), open_volume(path).read_slices("axial"), strict=True
        ):
            assert index == other and np.array_equal(values, expected)
            count += 1  # noqa: SIM113
            if count == 3:
                reader.close()
        others = [reader.open_volume(volume_file(tmp_path / f"{number}.nii")) for number in range(3)]
        assert len(others) == 3 and np.array_equal(source.volume().array, open_volume(path).volume().array)


class TestHostileDecoders:
    @pytest.mark.parametrize(
        ("behavior", "reason"),
        [
            ("crash", "its decoder crashed (SIGABRT): the file is damaged, or malicious"),
            ("exit", "its decoder crashed (status 7): the file is damaged, or malicious"),
            ("surprise", "cannot be read (unexpected RuntimeError)"),
            ("lie", "its decoder gave an invalid answer"),
            ("dates", "its decoder crashed"),
        ],
    )
    @pytest.mark.skipif(sys.platform == "win32", reason="names of signals")
    def test_costs_one_file(self, hostile: ReaderProcess, tmp_path: Path, behavior: str, reason: str) -> None:
        with pytest.raises(MedGlipError) as caught:
            hostile.read_image(png(tmp_path / f"{behavior}.png"))
        assert str(caught.value).startswith(f"{behavior}.png: {reason}")
        assert hostile.read_image(png(tmp_path / "good.png")).width == 8

    @pytest.mark.skipif(sys.platform != "linux", reason="the limit of Linux")
    def test_memory(self, hostile: ReaderProcess, tmp_path: Path) -> None:
        with pytest.raises(MedGlipError, match=r"^memory.png: needs more than 1024 MB to read$"):
            hostile.read_image(png(tmp_path / "memory.png"))
        assert hostile.read_image(png(tmp_path / "good.png")).width == 8

    def test_hang(self, hostile: ReaderProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert hostile.read_image(png(tmp_path / "good.png")).width == 8
        with monkeypatch.context() as patch:
            patch.setattr(hostile, "limits", ReaderLimits(seconds=0.2))
            patch.setattr(hostile, "limit_note", " (try --no-isolate)")
            with pytest.raises(MedGlipError, match=r"^hang.png: took longer than 0 s to read \(try --no-isolate\)$"):
                hostile.read_image(png(tmp_path / "hang.png"))
        assert hostile.read_image(png(tmp_path / "good.png")).width == 8

    def test_what_libraries_print_is_not_an_answer(self, hostile: ReaderProcess, tmp_path: Path) -> None:
        assert hostile.read_image(png(tmp_path / "print.png")).width == 8

    def test_series_stay_in_their_folder(self, hostile: ReaderProcess, tmp_path: Path) -> None:
        with pytest.raises(MedGlipError, match="its decoder gave an invalid answer"):
            hostile.find_series(tmp_path)

    @pytest.mark.skipif(sys.platform == "win32", reason="has no such figures")
    def test_a_large_parent_does_not_make_workers_grow(self, hostile: ReaderProcess, tmp_path: Path) -> None:
        ballast = np.ones(100 * 2**20, np.uint8)
        hostile.close()
        pids = {hostile.read_image(png(tmp_path / "good.png")) and hostile.pid for _ in range(3)}
        answer, _ = hostile.request("good.png", [], "read_image", {"path": str(tmp_path / "good.png"), "frame": None})
        assert len(pids) == 1 and 0 < answer["peak_mb"] < memory_mb() and ballast.all()

    def test_a_worker_that_does_not_start(self, tmp_path: Path) -> None:
        class Missing(ReaderProcess):
            worker = "tests.modeling_medglip.no_such_module"

        with Missing() as running, pytest.raises(MedGlipError, match="^the process that reads files did not start$"):
            running.read_image(png(tmp_path / "good.png"))

    def test_a_grown_worker_is_replaced(self, hostile: ReaderProcess, tmp_path: Path) -> None:
        hostile.read_image(png(tmp_path / "good.png"))
        before, hostile._grown = hostile.pid, True
        hostile.read_image(png(tmp_path / "good.png"))
        assert hostile.pid != before

    @pytest.mark.parametrize(
        "header",
        [
            b"[" * 100_000,
            b'{"shape": [2, 2], "dtype": "|O"}',
            b'{"shape": [2, 2], "dtype": "V8"}',
            b'{"shape": [-1, -8], "dtype": "|u1"}',
            b'{"shape": [1, 1, 1, 1], "dtype": "|u1"}',
            b'{"shape": 3}',
            b'{"peak_mb": []}',
            b'{"error": 1}',
            b"[]",
            b"\xff",
        ],
    )
    def test_invalid_answers(self, header: bytes) -> None:
        stream = io.BytesIO(len(header).to_bytes(4, "big") + header + bytes(64))
        with pytest.raises(EOFError):
            answers.received(stream, 2**20)

    def test_large_image(self, hostile: ReaderProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hostile, "limits", ReaderLimits(seconds=60, answer_mb=1))
        Image.new("L", (2**10, 2**10 + 1)).save(tmp_path / "large.png")
        with pytest.raises(MedGlipError, match="^large.png: has more than 1 MB of pixels$"):
            hostile.read_image(tmp_path / "large.png")

    def test_overlong_answer(self) -> None:
        with pytest.raises(EOFError):
            answers.received(io.BytesIO(b"\xff" * 8), 2**20)

    @pytest.mark.skipif(sys.platform == "win32", reason="signals")
    def test_the_worker_ends_with_its_parent(self) -> None:
        script = (
            "import sys, time\nfrom modeling_medglip.isolation.process import ReaderProcess\n"
            "print(ReaderProcess().pid, flush=True)\ntime.sleep(60)"
        )
        parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
        deadline = time.monotonic() + 30
        while _runs(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _runs(worker)


def memory_mb() -> int:
    """Resident memory of this process."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak // (2**20 if sys.platform == "darwin" else 1024))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("option", ["--isolate", "--no-isolate"])
def test_command_line(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A decoder that crashes costs one input: the others are done, the report is written, the status is 1."""
    monkeypatch.setattr(ReaderProcess, "worker", HostileReader.worker)
    model = save_tiny_checkpoint(tmp_path / "tiny")
    inputs = [png(tmp_path / "in" / f"{name}.png") for name in ("crash", "good")]
    given = ["--prompt", "liver", "--modality", "ct", "--model", model, "--out", tmp_path / "out"]
    status = cli.main([str(part) for part in ["ground", *inputs, option, *given, "--report", tmp_path / "run.json"]])
    report = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    isolated = option == "--isolate"
    assert (status, report["done"], report["failed"]) == ((1, 1, 1) if isolated else (0, 2, 0))
    errors = capsys.readouterr().err
    assert ("medglip: error: crash.png: its decoder crashed" in errors) is isolated and "Traceback" not in errors


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.dcm")
    assert not isolation._may_be_dicom(tmp_path / "a.dcm")
