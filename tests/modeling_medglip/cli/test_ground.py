# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Runs of `medglip ground` over folders, frames and tables, and runs that are interrupted."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from modeling_medglip.checkpoints.location import folder_sha256
from modeling_medglip.cli.journal import FILE, Journal
from modeling_medglip.errors import MedGlipError
from modeling_medglip.outputs import files, overlay, volume_results
from modeling_medglip.outputs.csv_table import COLUMNS, to_csv

from ..dicom_files import write_series
from ..tiny_checkpoint import save_tiny_checkpoint


Run = Callable[..., tuple[int, str, str]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)).save(path)
    return path


def nifti(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.arange(216, dtype=np.int16).reshape(8, 9, 3), np.diag([-1, -1, 2, 1])), path)
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


# Folders -------------------------------------------------------------------------------------------------------------


def test_a_mixed_folder_is_sorted(ground: Run, tmp_path: Path) -> None:
    study = tmp_path / "study"
    nifti(study / "b" / "scan.nii.gz"), png(study / "b" / "film.jpg"), png(study / "a" / "film.png")
    write_series(study / "ct")
    nifti(study / "old.boxes.nii.gz"), png(study / "old.png")
    for name in ("old.boxes.json", "old.mrk.json", "notes.txt", ".hidden.png", ".cache/c.png", "old.sr.dcm"):
        (study / name).parent.mkdir(exist_ok=True)
        (study / name).write_text("{}", encoding="utf-8")
    status, output, errors = ground(study)
    assert status == 0, errors
    left_out = [line for line in errors.splitlines() if "left out" in line]
    assert left_out == ["medglip: warning: study: 1 files that are not images left out"]
    stems = ("film-2", "film", "scan", "study")
    assert names(tmp_path / "out") == sorted(f"{stem}.{end}" for stem in stems for end in ("boxes.json", "png"))
    places = [output.index(f"{name}  [ct") for name in ("study", "film.png", "film.jpg", "scan.nii.gz")]
    assert places == sorted(places)


def test_a_folder_of_images_and_other_files(ground: Run, tmp_path: Path) -> None:
    png(tmp_path / "films" / "a.png"), (tmp_path / "films" / "notes.txt").write_text("x", encoding="utf-8")
    status, _, errors = ground(tmp_path / "films")
    assert status == 0 and names(tmp_path / "out") == ["a.boxes.json", "a.png"]
    message = "medglip: warning: films: 1 files that are neither images nor volumes left out"
    assert message in errors.splitlines()


def test_dicom_images_without_a_place_are_images(ground: Run, tmp_path: Path) -> None:
    for number in range(2):
        path = write_series(tmp_path / "films", count=1, Modality="DX", PatientID=f"P{number}")[0]
        dataset = pydicom.dcmread(path)
        del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
        dataset.save_as(path.with_name(f"film{number}.dcm"))
        path.unlink()
    status, output, errors = ground(tmp_path / "films")
    assert status == 0, errors
    assert "film0.dcm  [ct, 16x12]" in output and "film1.dcm  [ct, 16x12]" in output


def test_a_folder_may_hold_the_tables_but_no_table_replaces_a_slice(ground: Run, tmp_path: Path) -> None:
    (first, *_) = write_series(tmp_path / "study")
    before = first.read_bytes()
    for _ in range(2):
        tables = ("--csv", tmp_path / "study" / "t.csv", "--report", tmp_path / "study" / "run.json")
        assert ground(tmp_path / "study", *tables)[0] == 0
    assert rows(tmp_path / "study" / "t.csv")
    for option in ("--csv", "--report"):
        status, _, errors = ground(tmp_path / "study", option, first)
        assert status == 2 and "is an input or a result" in errors and first.read_bytes() == before


def test_what_is_missing_is_called_missing(ground: Run, tmp_path: Path) -> None:
    status, _, errors = ground(*(tmp_path / name for name in ("a.nii.gz", "a.png", "stduy")))
    assert status == 1 and errors.splitlines() == [
        "medglip: error: a.nii.gz: no such file",
        "medglip: error: a.png: no such file",
        "medglip: error: stduy: no such file or folder",
    ]


# Frames --------------------------------------------------------------------------------------------------------------


def cine(path: Path, count: int = 5) -> Path:
    frames = [Image.fromarray(np.full((40, 60), 20 * number, np.uint8)) for number in range(1, count + 1)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


@pytest.mark.parametrize("name", ["cine.gif", "cine.tif"])
def test_all_frames(name: str, ground: Run, tmp_path: Path) -> None:
    status, output, errors = ground(cine(tmp_path / name), "--frame", "all", "--every", 2, "--csv", tmp_path / "t.csv")
    assert status == 0, errors
    stems = [f"cine-f000{frame}" for frame in (1, 3, 5)]
    assert names(tmp_path / "out") == sorted(f"{stem}.{end}" for stem in stems for end in ("boxes.json", "png"))
    assert f"{name} frame 3  [ct, 60x40]" in output and "only the first is used" not in errors
    content = json.loads((tmp_path / "out" / "cine-f0003.boxes.json").read_text(encoding="utf-8"))
    assert content["image"]["file"] == name
    assert next(row["frame"] for row in rows(tmp_path / "t.csv")) == "1"
    assert {row["frame"] for row in rows(tmp_path / "t.csv")} == {"1", "3", "5"}


def test_too_many_frames(ground: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeling_medglip.cli.inputs.MAX_FRAMES", 2)
    status, _, errors = ground(cine(tmp_path / "cine.gif"), "--frame", "all")
    message = "medglip: error: cine.gif: has 5 frames, more than 2: take fewer, --every 3"
    assert status == 1 and errors.splitlines() == [message]


# Prompts and tables --------------------------------------------------------------------------------------------------


def test_labels_of_a_file_and_the_table(ground: Run, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\ufeffliver\n# no label\n=cmd|x\n", encoding="utf-8")
    given = ("--prompts", tmp_path / "labels.txt", "--csv", tmp_path / "t.csv")
    inputs = (png(tmp_path / "a.png"), nifti(tmp_path / "b.nii"))
    status, _, errors = ground(*inputs, *given, prompt="")
    assert status == 0, errors
    table = rows(tmp_path / "t.csv")
    assert tuple(table[0]) == COLUMNS and {row["file"] for row in table} == {"a.png", "b.nii"}
    assert {row["label"] for row in table} == {"liver", "'=cmd|x"}
    film = next(row for row in table if row["file"] == "a.png" and row["found"] == "1")
    (box, *_) = json.loads((tmp_path / "out" / "a.boxes.json").read_text(encoding="utf-8"))["boxes"]
    assert [float(film[key]) for key in ("x", "y", "width", "height")] == box["bbox"]
    assert float(film["score"]) == box["score"] and film["box_ijk"] == ""
    scan = next(row for row in table if row["file"] == "b.nii" and row["found"] == "1")
    (box, *_) = json.loads((tmp_path / "out" / "b.boxes.json").read_text(encoding="utf-8"))["boxes"]
    assert json.loads(scan["box_ijk"]) == box["box_ijk"] and json.loads(scan["size_lps_mm"]) == box["size_lps_mm"]
    assert len(json.loads(scan["center_lps_mm"])) == 3 and scan["x"] == ""


def test_the_table_lists_what_was_not_found(ground: Run, tmp_path: Path) -> None:
    ground(png(tmp_path / "a.png"), "--csv", tmp_path / "t.csv", prompt="liver. spleen.", threshold=1.0)
    (first, second) = rows(tmp_path / "t.csv")
    assert (first["label"], first["label_id"], first["found"], first["score"]) == ("liver", "liver", "0", "")
    assert second["label"] == "spleen" and second["modality"] == "ct"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", " =1", "\uff1d1"])
def test_cells_are_not_formulas(text: str) -> None:
    (row,) = list(csv.DictReader(io.StringIO(to_csv([{"label": text, "score": -0.5, "found": True}]), newline="")))
    assert row["label"].startswith("'") and row["score"] == "-0.5" and row["found"] == "1"


@pytest.mark.parametrize("other", ["a.png", "out/a.boxes.json", "out/a.labels.ctbl", "run.json"])
def test_a_table_never_overwrites(other: str, ground: Run, tmp_path: Path) -> None:
    given = ("--csv", tmp_path / other, "--report", tmp_path / "run.json")
    status, _, errors = ground(png(tmp_path / "a.png"), *given)
    assert status == 2 and errors.count("\n") == 1 and "--csv" in errors
    assert not (tmp_path / "out").exists() and Image.open(tmp_path / "a.png").size == (60, 40)


def test_a_table_never_overwrites_the_prompts(ground: Run, tmp_path: Path) -> None:
    prompts = tmp_path / "labels.csv"
    prompts.write_text("liver\n", encoding="utf-8")
    status, _, errors = ground(png(tmp_path / "a.png"), "--prompts", prompts, "--csv", prompts, prompt="")
    assert (
        status == 2 and "--csv labels.csv: is an input" in errors and prompts.read_text(encoding="utf-8") == "liver\n"
    )


def test_all_trained_labels(ground: Run, tmp_path: Path) -> None:
    status, _, errors = ground(png(tmp_path / "a.png"), nifti(tmp_path / "b.nii"), prompt="All.")
    assert status == 0, errors
    for name in ("a", "b"):
        content = json.loads((tmp_path / "out" / f"{name}.boxes.json").read_text(encoding="utf-8"))
        assert content["trained"] == {"liver": True, "spleen": True} and content["prompt"] == "All."


# Label maps ----------------------------------------------------------------------------------------------------------


def test_label_maps_say_which_value_is_which_label(ground: Run, tmp_path: Path) -> None:
    status, _, errors = ground(nifti(tmp_path / "a.nii"), "--write", "nifti", prompt="left kidney. liver.")
    assert status == 0, errors
    values = {"left kidney": 1, "liver": 2}
    content = json.loads((tmp_path / "out" / "a.boxes.json").read_text(encoding="utf-8"))
    assert content["label_values"] == values
    image: Any = nibabel.load(tmp_path / "out" / "a.boxes.nii.gz")
    (extension,) = image.header.extensions
    assert extension.get_code() == 6
    assert json.loads(extension.text.rstrip("\0"))["label_values"] == {"1": "left kidney", "2": "liver"}
    best = max(content["boxes"], key=lambda box: box["score"])
    i1, j1, k1, i2, j2, k2 = best["box_ijk"]
    middle = tuple(int((low + high) / 2) for low, high in ((i1, i2), (j1, j2), (k1, k2)))
    assert np.asarray(image.dataobj)[middle] == values[best["label"]]
    lines = (tmp_path / "out" / "a.labels.ctbl").read_text(encoding="utf-8").splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["0", "background"], ["1", "left_kidney"], ["2", "liver"]]
    assert all(len(line.split()) == 6 for line in lines[1:])


# Interruptions and failures ------------------------------------------------------------------------------------------


def test_an_interruption_keeps_what_was_done(ground: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [png(tmp_path / f"{name}.png") for name in "abc"]
    whole = overlay.draw_overlay

    def interrupt(image: Any, boxes: Any, labels: Any, title: str, banner: str) -> Any:
        if title.endswith("b.png"):
            raise KeyboardInterrupt
        return whole(image, boxes, labels, title, banner)

    monkeypatch.setattr(overlay, "draw_overlay", interrupt)
    status, _, errors = ground(*inputs, "--report", tmp_path / "run.json", "--csv", tmp_path / "t.csv")
    assert status == 130 and errors.splitlines()[-1] == "medglip: error: interrupted"
    report = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    found = [(record["file"], record["status"]) for record in report["inputs"]]
    assert found == [("a.png", "done"), ("b.png", "not done"), ("c.png", "not done")]
    assert (report["done"], report["failed"], report["not_done"]) == (1, 0, 2)
    assert names(tmp_path / "out") == ["a.boxes.json", "a.png"]
    assert {row["file"] for row in rows(tmp_path / "t.csv")} == {"a.png"}


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_failed_image_leaves_no_half_output(
    interrupted: bool, ground: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = files.os.replace

    def fail(part: Path, target: Path) -> None:
        if str(target).endswith(".png"):
            raise KeyboardInterrupt if interrupted else OSError(28, "No space left on device")
        whole(part, target)

    monkeypatch.setattr(files.os, "replace", fail)
    for path in (png(tmp_path / "a.png"), nifti(tmp_path / "b.nii")):
        status, _, errors = ground(path)
        assert status == (130 if interrupted else 1)
        assert "interrupted" in errors or f"{path.stem}.png: cannot be written (No space left on device)" in errors
    assert names(tmp_path / "out") == []


def test_an_invalid_result_leaves_nothing(ground: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise MedGlipError("b.boxes.json: box 0: lies outside")

    monkeypatch.setattr(volume_results, "validate_boxes", refuse)
    status, _, errors = ground(nifti(tmp_path / "b.nii"))
    assert status == 1 and "lies outside" in errors and names(tmp_path / "out") == []


# Many inputs ---------------------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on(ground: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done stays as it is, what failed or changed is done again, and tables hold all of it once."""
    inputs = [png(tmp_path / f"{name}.png") for name in "abc"]
    whole = overlay.draw_overlay
    drawn: list[str] = []

    def interrupt(image: Any, boxes: Any, labels: Any, title: str, banner: str) -> Any:
        drawn.append(title[-5:])
        if title.endswith("b.png") and len(drawn) == 2:
            raise KeyboardInterrupt
        return whole(image, boxes, labels, title, banner)

    monkeypatch.setattr(overlay, "draw_overlay", interrupt)
    table = ["--csv", tmp_path / "t.csv", "--resume"]
    assert ground(*inputs, *table)[0] == 130 and drawn == ["a.png", "b.png"]
    with (tmp_path / "out" / FILE).open("a") as journal:
        journal.write('{"key": "cut o')
    status, output, _ = ground(*inputs, *table, "--report", tmp_path / "run.json")
    assert status == 0 and drawn == ["a.png", "b.png", "b.png", "c.png"] and "1 of 3 inputs were done before" in output
    whole_table = rows(tmp_path / "t.csv")
    assert {row["file"] for row in whole_table} == {"a.png", "b.png", "c.png"}
    assert ground(*inputs, *table)[0] == 0 and len(drawn) == 4 and rows(tmp_path / "t.csv") == whole_table
    png(tmp_path / "a.png")
    os.utime(tmp_path / "a.png", (1, 1))
    (tmp_path / "out" / "c.png").unlink()
    assert ground(*inputs, *table)[0] == 0 and drawn[4:] == ["a.png", "c.png"]
    report = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert [record["status"] for record in report["inputs"]] == ["done"] * 3


def test_a_run_with_other_settings_is_not_continued(ground: Run, tmp_path: Path) -> None:
    image = png(tmp_path / "a.png")
    assert ground(image, "--resume")[0] == 0
    status, _, errors = ground(image, "--resume", "--all-boxes")
    assert status == 2 and "name a new --out" in errors and errors.count("medglip: error") == 1
    assert ground(image, "--all-boxes")[0] == 0, "without --resume everything is done anew"


@pytest.mark.parametrize("content", ["\n\n", "[]", '{"schema": "other"}', "\x00\xff", "[" * 100_000], ids=len)
def test_a_journal_without_a_head_is_refused(ground: Run, tmp_path: Path, content: str) -> None:
    (tmp_path / "out").mkdir()
    journal = tmp_path / "out" / FILE
    journal.write_text(content, encoding="utf-8")
    status, _, errors = ground(png(tmp_path / "a.png"), "--resume")
    assert status == 2 and "is damaged: name a new --out" in errors
    assert journal.read_text(encoding="utf-8") == content, "it may be of another program"


ENTRIES = [
    {"record": None}, {"record": []}, {"rows": [1]}, {"rows": [{"score": "high"}]}, {"rows": [{"other": 1}]},
    {"rows": [{"box_ijk": ["x"]}]}, {"state": 1}, {"rows": None},
]  # fmt: skip
RECORDS = [{"seconds": "x"}, {"outputs": ["../../etc/passwd"]}, {"outputs": []}, {"status": "failed"}, {"more": 1}]


@pytest.mark.parametrize("change", ENTRIES, ids=str)
def test_entries_of_a_journal_are_checked(ground: Run, tmp_path: Path, change: dict[str, Any]) -> None:
    """What does not hold what this program writes is done again."""
    assert_done_again(ground, tmp_path, lambda entry: {**entry, **change})


@pytest.mark.parametrize("change", RECORDS, ids=str)
def test_records_of_a_journal_are_checked(ground: Run, tmp_path: Path, change: dict[str, Any]) -> None:
    assert_done_again(ground, tmp_path, lambda entry: {**entry, "record": {**entry["record"], **change}})


def assert_done_again(ground: Run, tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    image = png(tmp_path / "a.png")
    table = ["--csv", tmp_path / "t.csv", "--resume"]
    assert ground(image, *table)[0] == 0
    expected, journal = rows(tmp_path / "t.csv"), tmp_path / "out" / FILE
    head, entry = journal.read_text(encoding="utf-8").splitlines()
    journal.write_text(f"{head}\n{json.dumps(change(json.loads(entry)))}\n", encoding="utf-8")
    status, output, _ = ground(image, *table)
    assert status == 0 and "done before" not in output and rows(tmp_path / "t.csv") == expected


def test_what_another_run_wrote_over_is_not_done(ground: Run, tmp_path: Path) -> None:
    first, second = png(tmp_path / "x" / "a.png"), png(tmp_path / "y" / "a.png")
    for image in (first, second):
        assert "done before" not in ground(image, "--resume")[1]
    assert "done before" not in ground(first, "--resume")[1], "the files were of the second one"
    assert "1 of 1 inputs were done before" in ground(first, "--resume")[1]
    assert ground(first, "--all-boxes")[0] == 0 and not (tmp_path / "out" / FILE).exists()
    assert "done before" not in ground(first, "--resume")[1]


def test_a_series_with_other_slices_is_done_again(ground: Run, tmp_path: Path) -> None:
    write_series(tmp_path / "ct")
    files = sorted((tmp_path / "ct").iterdir())
    assert ground(tmp_path / "ct", "--resume")[0] == 0
    assert "1 of 1 inputs were done before" in ground(tmp_path / "ct", "--resume")[1]
    os.utime(files[0], (1, 1))
    assert "done before" not in ground(tmp_path / "ct", "--resume")[1]
    files[-1].unlink()
    assert "done before" not in ground(tmp_path / "ct", "--resume")[1]


def test_a_volume_whose_voxels_lie_in_another_file(ground: Run, tmp_path: Path) -> None:
    (tmp_path / "v.raw").write_bytes(np.arange(216, dtype=np.int16).tobytes())
    header = "ObjectType = Image\nNDims = 3\nDimSize = 8 9 3\nElementType = MET_SHORT\nElementDataFile = v.raw\n"
    (tmp_path / "v.mhd").write_text(header)
    assert ground(tmp_path / "v.mhd", "--resume")[0] == 0
    assert "1 of 1 inputs were done before" in ground(tmp_path / "v.mhd", "--resume")[1]
    os.utime(tmp_path / "v.raw", (1, 1))
    assert "done before" not in ground(tmp_path / "v.mhd", "--resume")[1]


def test_a_checkpoint_with_other_settings_is_another_model(tmp_path: Path) -> None:
    checkpoint = save_tiny_checkpoint(tmp_path / "tiny")
    before = folder_sha256(checkpoint)
    for file in ("config.json", "processor_config.json", "router.safetensors"):
        whole = (checkpoint / file).read_bytes()
        (checkpoint / file).write_bytes(whole + b" ")
        assert folder_sha256(checkpoint) != before
        (checkpoint / file).write_bytes(whole)
    (checkpoint / "README.md").write_text("a card", encoding="utf-8")
    assert folder_sha256(checkpoint) == before


def test_a_full_disk_keeps_the_tables(ground: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, written = Journal._append, []

    def append(self: Journal, content: Any) -> None:
        written.append(content)
        if len(written) == 3:
            raise MedGlipError("cannot be written")
        whole(self, content)

    monkeypatch.setattr(Journal, "_append", append)
    inputs = [png(tmp_path / f"{name}.png") for name in "abc"]
    status, _, errors = ground(*inputs, "--resume", "--csv", tmp_path / "t.csv")
    assert status == 1 and errors.splitlines()[-1] == "medglip: error: cannot be written"
    assert {row["file"] for row in rows(tmp_path / "t.csv")} == {"a.png"}


def test_parquet_holds_the_rows_with_their_types(ground: Run, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    inputs = [png(tmp_path / "a.png"), nifti(tmp_path / "b.nii")]
    assert ground(inputs[0], "--csv", tmp_path / "t.csv", "--parquet", tmp_path / "t.parquet")[0] == 0
    table = parquet.read_table(tmp_path / "t.parquet")
    text = rows(tmp_path / "t.csv")
    assert table.column_names == list(text[0]) and table.num_rows == len(text)
    assert [str(kind) for kind in table.schema.types][:8] == ["string"] * 4 + ["bool"] * 2 + ["double"] * 2
    scores = [float(row["score"]) for row in text if row["score"]]
    assert [score for score in table.column("score").to_pylist() if score is not None] == pytest.approx(scores)
    assert ground(inputs[1], "--parquet", tmp_path / "v.parquet")[0] == 0
    boxes = parquet.read_table(tmp_path / "v.parquet").column("box_ijk").to_pylist()
    assert any(box and len(box) == 6 for box in boxes)
    status, _, errors = ground(inputs[0], "--csv", tmp_path / "t.csv", "--parquet", tmp_path / "t.csv")
    assert status == 2 and len(errors.strip().splitlines()) == 1


def command_with_jobs(folder: Path, checkpoint: Path, out: Path, jobs: int) -> list[str]:
    return [
        sys.executable, "-m", "modeling_medglip.cli", "ground", str(folder), "--prompt", "liver", "--model",
        str(checkpoint), "--modality", "ct", "--threshold", "0", "--jobs", str(jobs), "--out", str(out), "--csv",
        str(out.with_suffix(".csv")), "--resume",
    ]  # fmt: skip


@pytest.mark.slow
def test_processes_give_what_one_process_gives(tmp_path: Path) -> None:
    """Same files, same rows in the same order; a bad input costs itself; nothing is printed twice."""
    checkpoint = save_tiny_checkpoint(tmp_path / "tiny")
    folder = tmp_path / "in"
    for name in "abcd":
        png(folder / f"{name}.png")
    (folder / "e.png").write_bytes(b"no image")
    nifti(folder / "v.nii")
    for jobs in (1, 3):
        command = command_with_jobs(folder, checkpoint, tmp_path / str(jobs), jobs)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "5 of 6 images done" in done.stdout and done.stderr.count("e.png") == 1
        assert [line for line in done.stdout.splitlines() if line.startswith("a.png")] != []
    assert rows(tmp_path / "1.csv") == rows(tmp_path / "3.csv") and names(tmp_path / "1") == names(tmp_path / "3")
    for name in "abcd":
        one, several = (json.loads((tmp_path / jobs / f"{name}.boxes.json").read_text()) for jobs in "13")
        assert len(one["boxes"]) == len(several["boxes"]) > 0
        for first, second in zip(one["boxes"], several["boxes"], strict=True):
            assert first["bbox"] == pytest.approx(second["bbox"], abs=0.1)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1 and "5 of 6 inputs were done before" in again.stdout
    assert rows(tmp_path / "3.csv") == rows(tmp_path / "1.csv")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_processes_end_with_the_first_one(tmp_path: Path, how: signal.Signals) -> None:
    """However the run ends, none of its processes goes on, and the next run does the rest."""
    checkpoint, folder = save_tiny_checkpoint(tmp_path / "tiny"), tmp_path / "in"
    for number in range(60):
        png(folder / f"{number:02d}.png")
    command = command_with_jobs(folder, checkpoint, tmp_path / "out", 2)
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    journal = tmp_path / "out" / FILE
    try:
        wait_for(lambda: journal.is_file() and journal.read_bytes().count(b"\n") > 3)
        others = descendants(run.pid)
        assert len(others) > 2
        os.kill(run.pid, how)
        run.wait(timeout=60)
    finally:
        run.kill()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in others))
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "inputs were done before" in again.stdout
    found = rows(tmp_path / "out.csv")
    assert len({row["file"] for row in found}) == 60
    assert len([name for name in names(tmp_path / "out") if name.endswith(".boxes.json")]) == 60


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """Processes below one, from Linux's /proc."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    own = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return own + [below for child in own for below in descendants(child)]


def test_parquet_without_its_package_is_refused_before_any_work(
    ground: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, errors = ground(png(tmp_path / "a.png"), "--parquet", tmp_path / "t.parquet")
    assert status == 2 and "pyarrow" in errors and names(tmp_path / "out") == []
