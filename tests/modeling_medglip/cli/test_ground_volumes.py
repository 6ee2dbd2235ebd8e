# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The command line on volumes: options, outputs that fail one by one, names, and what never reaches a message."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from modeling_medglip import ground_volume
from modeling_medglip.cli import console
from modeling_medglip.errors import MedGlipError, UsageError
from modeling_medglip.grounding import load_grounder

from ..dicom_files import write_multi_frame, write_series


Run = Callable[..., tuple[int, str, str]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def nifti(path: Path, shape: tuple[int, ...] = (8, 9, 3)) -> Path:
    nibabel.save(nibabel.Nifti1Image(np.ones(shape, np.int16), np.diag([-1, -1, 2, 1])), path)
    return path


def series(folder: Path, **fields: Any) -> list[Path]:
    return write_series(folder, FrameOfReferenceUID="1.2.3.4", PatientName="Doe^Jane", PatientID="SECRET77", **fields)


@pytest.fixture
def enhanced(tmp_path: Path) -> Path:
    path = tmp_path / "enhanced.dcm"
    write_multi_frame(path, series(tmp_path / "slices"))
    return path


# Inputs --------------------------------------------------------------------------------------------------------------


def test_a_multi_frame_file_is_a_volume(ground: Run, enhanced: Path, tmp_path: Path) -> None:
    status, output, errors = ground(enhanced, "--write", "seg", "--write", "nifti")
    assert (status, errors) == (0, "") and "enhanced.dcm: 5 axial slices" in output
    endings = ("boxes.json", "boxes.nii.gz", "labels.ctbl", "png", "seg.dcm")
    assert names(tmp_path / "out") == [f"enhanced.{end}" for end in endings]


def test_a_frame_of_it_is_an_image(ground: Run, enhanced: Path, tmp_path: Path) -> None:
    status, output, _ = ground(enhanced, "--frame", 2)
    assert status == 0 and "enhanced.dcm  [ct, 16x12]" in output
    assert "depth" not in json.loads((tmp_path / "out" / "enhanced.boxes.json").read_text(encoding="utf-8"))["image"]


@pytest.mark.parametrize(
    "option",
    [("--plane", "axial"), ("--write", "nifti"), ("--axes", "LPS"), ("--volume", 1), ("--resample",)],
)
def test_options_of_volumes_are_not_for_images(option: tuple[Any, ...], ground: Run, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "a.png")
    status, _, errors = ground(tmp_path / "a.png", *option)
    assert (status, errors) == (
        2, f"medglip: error: {option[0]} is for volumes, and a.png is an image: ground it in a run of its own\n",
    )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_options_of_images_are_not_for_volumes(ground: Run, tmp_path: Path) -> None:
    series(tmp_path / "study")
    for path in (nifti(tmp_path / "a.nii"), tmp_path / "study"):
        status, _, errors = ground(path, "--frame", 1)
        assert status == 2 and f"--frame is for images, and {path.name} is a volume" in errors
    status, _, errors = ground(tmp_path / "study", "--volume", 1)
    assert status == 2 and "--volume is for 4-D files, and study is DICOM" in errors


def test_series_of_one_number_have_names_of_their_own(ground: Run, tmp_path: Path) -> None:
    for number in range(3):
        series(tmp_path / "1.2.study" / str(number), SeriesInstanceUID=f"1.2.{number}", SeriesNumber=4, count=2)
    status, output, _ = ground(tmp_path / "1.2.study")
    assert status == 0 and all(
        f"{name}: 2 axial" in output for name in ("1.2.study-4", "1.2.study-4-2", "1.2.study-4-3")
    )
    stems = ("1.2.study-4", "1.2.study-4-2", "1.2.study-4-3")
    assert names(tmp_path / "out") == sorted(f"{stem}.{end}" for stem in stems for end in ("boxes.json", "png"))


def test_a_surprise_in_a_folder_is_reported_without_its_words(
    ground: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series(tmp_path / "study")

    def surprise(*arguments: object) -> None:
        raise RuntimeError("Doe^Jane has SECRET77")

    monkeypatch.setattr("modeling_medglip.isolation.process.find_series", surprise)
    status, output, errors = ground(tmp_path / "study", nifti(tmp_path / "good.nii"))
    assert status == 1 and "good.nii  [ct, 8x9x3]" in output
    assert "Doe" not in errors and "SECRET" not in errors
    assert errors.splitlines()[0] == "medglip: error: study: unexpected RuntimeError; --debug shows where"


def test_a_corrupt_field_leaves_the_other_inputs(ground: Run, tmp_path: Path) -> None:
    paths = series(tmp_path / "study", NumberOfFrames=12)
    for path in paths:
        content = path.read_bytes()
        place = content.find(b"\x28\x00\x08\x00IS\x02\x00")
        path.write_bytes(content[: place + 8] + b"JD" + content[place + 10 :])
    status, output, errors = ground(tmp_path / "study", nifti(tmp_path / "good.nii"))
    assert status == 1 and "good.nii  [ct" in output and "its NumberOfFrames is not a whole number" in errors
    assert "JD" not in errors and errors.count("error: ") == 1


# Outputs -------------------------------------------------------------------------------------------------------------


KINDS = tuple(part for kind in ("slicer", "nifti", "sr", "seg") for part in ("--write", kind))


def test_reports_are_refused_before_anything_is_grounded(ground: Run, tmp_path: Path) -> None:
    status, output, errors = ground(nifti(tmp_path / "a.nii"), *KINDS)
    message = "a.nii: is not a DICOM series, which sr and seg refer to: leave out --write sr"
    assert (status, errors) == (1, f"medglip: error: {message}\n") and "slices" not in output
    assert names(tmp_path / "out") == []


def test_one_output_that_fails_leaves_the_others(ground: Run, tmp_path: Path) -> None:
    for path in series(tmp_path / "study"):
        dataset = pydicom.dcmread(path)
        del dataset.StudyInstanceUID  # which a report cannot do without
        dataset.save_as(path)
    report = tmp_path / "run.json"
    status, output, errors = ground(tmp_path / "study", *KINDS, "--report", report)
    assert status == 1 and errors.count("can be made of its headers") == 2 and "Doe" not in errors
    endings = ("boxes.json", "boxes.nii.gz", "labels.ctbl", "mrk.json", "png")
    assert names(tmp_path / "out") == [f"study.{end}" for end in endings]
    (record,) = json.loads(report.read_text(encoding="utf-8"))["inputs"]
    assert record["status"] == "failed" and "no report can be made" in record["error"]
    assert sorted(record["outputs"]) == names(tmp_path / "out") and "study  [ct" in output


def test_nothing_found_is_not_a_failure(ground: Run, tmp_path: Path) -> None:
    series(tmp_path / "study")
    status, output, errors = ground(tmp_path / "study", *KINDS, threshold=1.0)
    assert status == 0 and "nothing found" in output
    assert errors.splitlines() == [
        f"medglip: warning: study: nothing was found: no {kind} is written, which cannot be empty"
        for kind in ("sr", "seg")
    ]
    endings = ("boxes.json", "boxes.nii.gz", "labels.ctbl", "mrk.json")
    assert names(tmp_path / "out") == [f"study.{end}" for end in endings]
    assert not np.asarray(nibabel.load(tmp_path / "out" / "study.boxes.nii.gz").dataobj).any()


def test_a_resampled_series_is_reported_on_its_own_slices(ground: Run, tmp_path: Path) -> None:
    series(tmp_path / "study", count=7)[3].unlink()
    status, _, errors = ground(tmp_path / "study")
    assert status == 1 and "or interpolate them (--resample)" in errors
    status, output, errors = ground(tmp_path / "study", "--resample", *KINDS)
    assert status == 0 and "7 axial slices" in output
    assert errors == "medglip: warning: study: resampled: 7 even slices from 6\n"
    assert {"study.sr.dcm", "study.seg.dcm"} <= set(names(tmp_path / "out"))


def test_the_report_holds_all_options(ground: Run, tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii", (8, 9, 3, 2))
    given = (
        "--plane",
        "coronal",
        "--volume",
        2,
        "--axes",
        "RAS",
        "--write",
        "slicer",
        "--report",
        tmp_path / "run.json",
    )
    status, output, errors = ground(tmp_path / "a.nii", *given)
    assert status == 0 and "9 coronal slices" in output, errors
    options = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["options"]
    expected = {"plane": "coronal", "volume": 2, "axes": "RAS", "write": ["slicer"], "resample": False}
    expected |= {"several_patients": False, "frame": None, "threshold": 0.0, "prompt": "liver", "modality": "ct"}
    assert {name: options[name] for name in expected} == expected


def test_the_json_says_what_its_numbers_count(ground: Run, tmp_path: Path) -> None:
    ground(nifti(tmp_path / "a.nii"))
    meaning = json.loads((tmp_path / "out" / "a.boxes.json").read_text(encoding="utf-8"))["meaning"]
    assert (
        set(meaning) == {"box_ijk", "corners_lps_mm", "size_lps_mm", "label_values", "best_slices"}
        and "plane" in meaning["best_slices"]
    )


# In Python -----------------------------------------------------------------------------------------------------------


def test_folders_and_files_of_dicom_in_python(tiny: str, enhanced: Path, tmp_path: Path) -> None:
    model = load_grounder(tiny)
    for path in (enhanced, tmp_path / "slices"):
        assert ground_volume(path, "liver", "ct", model=model).image.shape == (16, 12, 5)
    four = nifti(tmp_path / "a.nii", (8, 9, 3, 2))
    assert ground_volume(four, "liver", "ct", model=model, number=2).image.shape == (8, 9, 3)
    with pytest.raises(MedGlipError, match="choose a volume from 1 to 2"):
        ground_volume(four, "liver", "ct", model=model)
    with pytest.raises(UsageError, match="slices: number chooses a volume of a 4-D file, and this is DICOM"):
        ground_volume(tmp_path / "slices", "liver", "ct", model=model, number=1)
    one = sorted((tmp_path / "slices").iterdir())[0]
    with pytest.raises(MedGlipError, match=f"{one.name}: holds no slices with a position in space: give"):
        ground_volume(one, "liver", "ct", model=model)
    series(tmp_path / "slices" / "more", SeriesInstanceUID="1.2.3", SeriesNumber=9)
    with pytest.raises(MedGlipError, match=r"slices: holds 2 series \(numbers 1, 9\): choose one with .*find_series"):
        ground_volume(tmp_path / "slices", "liver", "ct", model=model)


# Bars ----------------------------------------------------------------------------------------------------------------


def test_a_bar_within_another_shares_its_display(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    inner = []
    for _ in console.progress(["a", "b"]):
        for _ in console.slices(range(3), 3):
            (display,) = console._shown
            inner.append(sorted(task.description for task in display.tasks))
        assert [task.description for task in display.tasks] == ["images"], "gone when it is done"
    assert inner == [["images", "slices"]] * 6 and console._shown == []
