# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The comparison in small: rows are run once, stored, and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint
from training.fit.finetune import load_base
from training.studies import protocol
from training.studies.baselines.deformable_detr import DeformableDetrDetector

from ..tiny_data import make_data


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny networks in the place of the recipe's."""
    checkpoint = save_tiny_checkpoint(tmp_path / "checkpoint")

    def base(settings: Any, recipe: Any) -> Any:
        settings.model = str(checkpoint)
        return load_base(settings, recipe)

    def small(labels: Any) -> DeformableDetrDetector:
        return DeformableDetrDetector(labels, width=64, layers=1, queries=10, pretrained=False)

    monkeypatch.setattr(protocol, "load_base", base)
    monkeypatch.setattr(protocol, "DeformableDetrDetector", small)
    return make_data(tmp_path / "data")


@pytest.mark.slow
def test_all_rows(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "MIN_PATIENTS", 1)
    arguments = [
        "--data",
        str(tiny),
        "--modality",
        "CT",
        "--epochs",
        "1",
        "--size",
        "64",
        "--out",
        str(tmp_path / "out"),
    ]
    assert protocol.main(arguments) == 0
    printed = capsys.readouterr().out
    measured = json.loads((tmp_path / "out" / "protocol.json").read_text(encoding="utf-8"))
    rows = measured["modalities"]["ct"]["rows"]
    assert list(rows) == list(protocol.ROWS)
    assert rows["zero-shot"]["images"] == {"train": 0, "validation": 1, "broken": 0}
    assert rows["10 %"]["images"]["train"] < rows["100 %"]["images"]["train"] == 3
    assert all(set(row["labels"]) == {"left kidney", "right kidney"} for row in rows.values())
    draws = protocol.draws_of(measured, tmp_path / "out")
    assert len(draws) == len(rows) and all(drawn.shape == (protocol.DRAWS,) for drawn in draws.values())
    assert len(measured["modalities"]["ct"]["differences"]) == len(protocol.PAIRS)
    assert "- ct, 100 %, plain against closed vocabulary: " in printed
    assert len({json.dumps(row["conditions"]) for row in rows.values()}) == 1
    assert printed == (tmp_path / "out" / "protocol.md").read_text(encoding="utf-8") and "| ct | 64 | 1 |" in printed


def test_rows_that_are_done_stay(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--data", str(tiny), "--modality", "ct", "--size", "64", "--row", "zero-shot", "--out", str(tmp_path)]
    assert protocol.main(arguments) == 0
    before = (tmp_path / "protocol.json").read_bytes()
    monkeypatch.setattr(protocol, "run_row", lambda *arguments: pytest.fail("it is done"))
    assert protocol.main(arguments) == 0 and (tmp_path / "protocol.json").read_bytes() == before


def test_rows_of_other_images_or_another_recipe_are_not_put_beside(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--modality", "ct", "--size", "64", "--row", "zero-shot", "--out", str(tmp_path / "out")]
    assert protocol.main([*arguments, "--data", str(tiny)]) == 0
    path = tiny / "train.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["annotations"][0]["bbox"][2] += 1
    path.write_text(json.dumps(content), encoding="utf-8")
    capsys.readouterr()
    assert protocol.main([*arguments, "--data", str(tiny)]) == 2
    assert "measured with other images or settings before" in capsys.readouterr().err


def test_a_patient_on_both_sides_stops_it(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in tiny.glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        for image in content["images"]:
            image |= {"patient": "one", "source": "same"}
        path.write_text(json.dumps(content), encoding="utf-8")
    arguments = ["--data", str(tiny), "--modality", "ct", "--size", "64", "--out", str(tmp_path / "out")]
    assert protocol.main([*arguments, "--row", "zero-shot"]) == 2
    assert "1 patients are in training and validation" in capsys.readouterr().err


def test_a_row_goes_on_from_its_own_checkpoint_only(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(tiny), "--modality", "ct", "--size", "64", "--row", "100 %", "--out", str(tmp_path)]
    assert protocol.main([*arguments, "--epochs", "1"]) == 0
    (tmp_path / "protocol.json").unlink()
    assert protocol.main([*arguments, "--epochs", "2"]) == 2
    assert "holds a run with other data, settings or weights" in capsys.readouterr().err


def test_negative_images_are_those_of_other_modalities(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def make(train: Any, everything: Any, processor: Any, recipe: Any, seed: int, elsewhere: Any) -> Any:
        used.extend(one.image_id for one in elsewhere)
        return make_dataset(train, everything, processor, recipe, seed, elsewhere)

    make_dataset = protocol.make_dataset
    monkeypatch.setattr(protocol, "make_dataset", make)
    options = ["--data", str(tiny), "--modality", "ct", "--size", "64", "--epochs", "1", "--row", "100 %"]
    assert protocol.main([*options, "--out", str(tmp_path / "plain")]) == 0 and not used
    assert protocol.main([*options, "--like", "foreign", "--out", str(tmp_path / "like")]) == 0
    assert used == ["a.png"]


def test_broken_images_are_counted_and_nothing_to_measure_stops_it(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny / "validation.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    first = content["images"][0]
    content["images"].append({**first, "id": 99, "file_name": "broken.png", "patient": "other"})
    (tiny / "images" / "broken.png").write_bytes(b"\x89PNG")
    path.write_text(json.dumps(content), encoding="utf-8")
    arguments = ["--data", str(tiny), "--size", "64", "--row", "zero-shot", "--out", str(tmp_path / "out")]
    assert protocol.main([*arguments, "--modality", "ct"]) == 0
    measured = json.loads((tmp_path / "out" / "protocol.json").read_text(encoding="utf-8"))
    assert measured["modalities"]["ct"]["rows"]["zero-shot"]["images"] == {"train": 0, "validation": 1, "broken": 1}
    for number in range(2):
        entry = {"id": 100 + number, "file_name": f"broken{number}.png", "patient": f"other{number}"}
        content["images"].append({**first, **entry})
        (tiny / "images" / f"broken{number}.png").write_bytes(b"\x89PNG")
    path.write_text(json.dumps(content), encoding="utf-8")
    assert protocol.main([*arguments, "--modality", "ct"]) == 2
    assert "3 of 4 images cannot be read: mend the data" in capsys.readouterr().err
    content["images"], content["annotations"] = content["images"][:2], content["annotations"][:2]
    path.write_text(json.dumps(content), encoding="utf-8")
    arguments[-1] = str(tmp_path / "other")
    assert protocol.main([*arguments, "--modality", "ct", "fundus"]) == 2
    assert "fundus: no validation image has a box, so there is nothing to measure on" in capsys.readouterr().err
    assert not (tmp_path / "other").exists(), "found before anything was trained"


@pytest.mark.parametrize(("option", "value"), [("epochs", "0"), ("size", "17"), ("seed", "-1"), ("threads", "-1")])
def test_options_out_of_range(option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(tmp_path / "none"), "--modality", "ct", "--out", str(tmp_path / "out")]
    assert protocol.main([*arguments, f"--{option}", value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --{option} {value}: choose a ") and not list(tmp_path.iterdir())


def test_one_line_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert protocol.main(["--data", str(tmp_path / "none"), "--modality", "ct", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_cells() -> None:
    row = {"mean": {"AP": 0.5, "AP50": 0.75}, "well_shown": {"AP": None, "AP50": None}}
    assert protocol._cell(row) == "50.0 / 75.0" and protocol._cell(None) == "-"
    assert protocol._cell({**row, "well_shown": {"AP": 0.6, "AP50": 0.8}}) == "50.0 / 75.0 (60.0 / 80.0)"


def test_differences_have_intervals_and_a_verdict() -> None:
    def row(ap: float, spread: float) -> dict[str, Any]:
        # off by 0.02, as draws with replacement are
        drawn = [ap + 0.02 + spread * (number - 50) / 50 for number in range(101)]
        labels = {name: {"AP": ap + gap} for name, gap in (("liver", 0.0), ("spleen", ap / 10))}
        return {"mean": {"AP": ap, "AP50": ap}, "labels": labels, "resampled_AP": drawn}

    def compared(**changed: Any) -> list[str]:
        rows = {"100 %": row(0.5, 0.1), "closed vocabulary": row(0.4, 0.1), "Deformable DETR": row(0.51, 0.0)}
        entry: dict[str, Any] = {"rows": rows | changed}
        draws = protocol.draws_of({"modalities": {"ct": entry}}, Path())
        return protocol._compared("ct", {**entry, "differences": protocol.differences("ct", entry["rows"], draws)})

    lines = compared()
    assert lines[0] == "- ct, 100 % against closed vocabulary: +10.0 (+10.0 to +10.0), better"
    assert lines[1].startswith("- ct, 100 % against Deformable DETR: -1.0 (-10.5 to +8.5), no difference")
    worse = compared(**{"closed vocabulary": row(0.7, 0.1)})[0]
    assert worse.endswith(": -20.0 (-20.0 to -20.0), worse; most on spleen (-22), liver (-20)")
    assert "hardly begun to learn" in compared(**{"Deformable DETR": row(0.009, 0.0)})[1]
    assert compared(**{"100 %": {"mean": {"AP": 0.5, "AP50": 0.5}}}) == []
    assert protocol._compared("ct", {"rows": {}}) == []


def test_rows_without_a_digest_of_their_images_are_named() -> None:
    scores = {"mean": {"AP": 0.1, "AP50": 0.2}, "well_shown": {"AP": 0.1, "AP50": 0.2}}
    stated = {"epochs": 1, "size": 64, "seed": 0, "images": "ab", "recipe": "cd"}
    rows = {name: {**scores, "conditions": stated} for name in ("zero-shot", "10 %")}
    measured = {"modalities": {name: {"size": 64, "epochs": 1, "rows": dict(rows)} for name in ("ct", "mri", "xray")}}
    assert "earlier versions" not in protocol.render_page(measured)
    for name in ("mri", "xray"):
        measured["modalities"][name]["rows"]["10 %"] = {**scores, "conditions": {"epochs": 1, "size": 64, "seed": 0}}
    assert "\nRows of mri, xray were measured by earlier versions" in protocol.render_page(measured)


def test_the_last_line_is_the_mean_over_modalities() -> None:
    def entry(ap: float, *names: str) -> dict[str, Any]:
        scores = {"AP": ap, "AP50": 2 * ap}
        return {"size": 64, "epochs": 1, "rows": {name: {"mean": scores, "well_shown": scores} for name in names}}

    measured = {"modalities": {"ct": entry(0.1, "zero-shot", "10 %"), "mri": entry(0.2, "zero-shot")}}
    assert "| **mean** |  |  | 15.0 / 30.0 | - | - | - | - | - |" in protocol.render_page(measured)
    assert "mean** |" not in protocol.render_page({"modalities": {"ct": entry(0.1, "zero-shot")}})


def test_the_committed_table_is_what_the_command_writes() -> None:
    docs = Path(__file__).parents[3] / "docs"
    measured = json.loads((docs / "protocol.json").read_text(encoding="utf-8"))
    assert (docs / "protocol.md").read_text(encoding="utf-8") == protocol.render_page(measured)
