# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The model card: rendered from files, its figures checked, and the committed one is what its command writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hub_cards import check, evaluation_tables, model_card
from hub_cards.gates import front_matter
from hub_cards.model_card import RESULTS, main, read_measured, render_card, render_license
from hub_cards.stage.models import stage_model
from hub_cards.stage.repository import empty_folder
from modeling_medglip.checkpoints.location import default_checkpoint
from modeling_medglip.demo import phantoms
from training.evaluate import report

from .material import calibration, evaluation, staged_in, write_checkpoint, write_results


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "a|b",
    "---\nlicense: mit\n---",
    "{liver}",
    "`x`",
]


def measured_of(*modalities: str, **publication: Any) -> dict[str, Any]:
    measured = {**evaluation_tables.evaluation_of(evaluation(), list(modalities)), "calibration": calibration()}
    return {**measured, "publication": publication} if publication else measured


def test_sizes_and_times_of_the_experts_stand_in_the_card(checkpoint: Path) -> None:
    seconds = {"seconds": {"ct_abdomen": 0.05}, "peak_bytes": 2**30}
    times = {"threads": 2, "modalities": {"ct": {"onnx": seconds}, "mri": {"onnx": seconds}}}
    forms = {"modalities": {"ct": {"forms": {"onnx": {"AP50": 0.5, "AP": 0.25, "bytes": 80_000_000}}}}}
    measured = measured_of("ct")
    text = render_card(checkpoint, {**measured, "speed": times, "inference_forms": forms})
    assert "## Forms, sizes and times" in text and "| ct | onnx | 50 | 80 | 50.0 | 25.0 |" in text
    assert "## Forms, sizes and times" not in render_card(checkpoint, {**measured, "speed": times})


def with_labels(checkpoint: Path, labels: dict[str, list[str]]) -> Path:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config["label_hierarchy"] = {"trained_labels": labels}
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return checkpoint


@pytest.fixture(scope="module")
def made_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("made") / "checkpoint")


@pytest.fixture
def checkpoint(made_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that the test may change."""
    return shutil.copytree(made_checkpoint, tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def staged(made_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    stage = staged_in(tmp_path_factory.mktemp("stage"))
    measured = {**evaluation(made_checkpoint), "calibration": calibration()}
    publication = {"repo": "org/med-glip", "dataset": None, "gated": False}
    stage_model(made_checkpoint, ["ct", "fundus"], empty_folder(stage / "med-glip"), measured, publication)
    return stage / "med-glip"


@pytest.fixture
def folder(staged: Path, tmp_path: Path) -> Path:
    """The complete folder of a repository, which the test may change."""
    return shutil.copytree(staged, tmp_path / "med-glip")


def test_every_part_comes_from_a_file(checkpoint: Path) -> None:
    text = render_card(checkpoint, measured_of("ct", "fundus", repo="org/med-glip", dataset="org/set"))
    assert "| ct: liver | 40 | 5 (5) | 90.0 | 45.0 |" in text and "| ct | 80 | 12 | 70.0 (58.3 to 71.4) |" in text
    assert "| ct | 51 | 0.210 | 0.040 | 0.060 |" in text and "| fundus | 51 | 0.210 | - | 0.060 |" in text
    assert "| ct: spleen | 40 | 5 | 50.0 |" in text and "other side of the patient in 25.0 %" in text
    assert "0.50 false boxes per image without anything (4 images)" in text
    assert "| set_ct | Set \\| ct | ct | CC0 |" in text, "a bar in a source's name does not start a column"
    assert "| ct: liver | liver |" in text and "arXiv:2508.10528" in text
    assert "not a medical device" in text.lower() and "--model org/med-glip " in text
    header, _ = front_matter.split_card(text)
    assert header["datasets"] == ["org/set"] and "{" not in text.replace("{label}", "")


def test_an_expert_states_only_its_figures(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    (checkpoint / "config.json").write_text(json.dumps({**config, "modalities": ["fundus"]}), encoding="utf-8")
    text = render_card(checkpoint, measured_of("fundus", repo="org/med-glip-fundus", gated=True))
    assert (
        "optic disc" in text and "liver" not in text.split("Finds what phrases", 1)[1].split("## Architecture", 1)[1]
    )
    header, _ = front_matter.split_card(text)
    metrics = header["model-index"][0]["results"][0]["metrics"]
    assert [(row["name"], row["value"]) for row in metrics] == [("AP", 47.5), ("AP50", 95.0), ("AP75", 23.75)]
    assert header["extra_gated_prompt"] and 'text="optic disc."' in text
    assert front_matter.check_header("model", header, ["LICENSE.md"]) == []


@pytest.mark.parametrize("label", HOSTILE)
def test_labels_of_others_are_text(label: str, checkpoint: Path) -> None:
    measured = measured_of("ct", "fundus", repo="org/med-glip")
    measured["modalities"]["ct"]["labels"][label] = measured["modalities"]["ct"]["labels"]["spleen"]
    text = render_card(with_labels(checkpoint, {"ct": [label, "liver"]}), measured)
    header, body = front_matter.split_card(text)
    assert header["license"] == "other" and "<img" not in body.split("```", 2)[2] and "\n---\n" not in body
    assert "](javascript" not in body.replace("\\]\\(javascript", "")
    rows = [line for line in body.splitlines() if line.startswith("| ct: ")]
    assert all(line.replace("\\|", "").count("|") in (5, 6) for line in rows)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("| 90.0 | 45.0 |", "| 99.0 | 45.0 |"),
        ("70.0 (58.3", "80.0 (58.3"),
        ("value: 70.0", "value: 97.0"),
        ("| ct | 51 | 0.210 | 0.040 |", "| ct | 51 | 0.210 | 0.010 |"),
        ("| ct | 0.3 | 80.0 |", "| ct | 0.3 | 90.0 |"),
        ("at least 30 training images", "at least 3 training images"),
        ("license_name: research-only", "license_name: free"),
        ("| set_ct |", "| set_other |"),
        ("## Limitations", "<!--\n## Limitations"),
        ("## Limitations", "<details>\n## Limitations"),
    ],
)
def test_a_card_that_its_files_do_not_give_fails(old: str, new: str, folder: Path) -> None:
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8")
    assert check.check_folder("model", folder) == [] and old in text
    card.write_text(text.replace(old, new), encoding="utf-8")
    (fault,) = check.check_folder("model", folder)
    assert fault.startswith("README.md: ")


def test_words_by_hand_may_follow(folder: Path) -> None:
    card = folder / "README.md"
    card.write_text(card.read_text(encoding="utf-8") + "\n## At our hospital\n\nAsk us.\n", encoding="utf-8")
    assert check.check_folder("model", folder) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("evaluation.json", "{}", "the files are not what this command writes"),
        ("evaluation.json", "[1]", "the files are not what this command writes"),
        ("licenses.json", "[]", "names no source of ct, fundus"),
        ("LICENSE.md", "Do what you like", "LICENSE.md: 'Do what you like'"),
        ("README.md", "no header", "no YAML header"),
    ],
)
def test_files_that_do_not_belong_together(name: str, content: str, message: str, folder: Path) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    assert any(message in line for line in check.check_folder("model", folder)), check.check_folder("model", folder)


@pytest.mark.parametrize("name", ["evaluation.json", "tokenizer.json", "modeling_medglip.py"])
def test_what_is_missing_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    assert check.check_folder("model", folder) == [f"{name} is missing"]


def test_figures_of_other_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    measured = evaluation(checkpoint)
    model_card.check_weights(checkpoint, measured)
    for other in ({**measured, "weights_sha256": "0" * 64}, {**measured, "weights_sha256": None}, {"modalities": {}}):
        with pytest.raises(ValueError, match="not of these weights: measure it with"):
            model_card.check_weights(checkpoint, other)
    for way in ("flip", "scale"):
        with pytest.raises(ValueError, match=f"averages several predictions of an image: .* without --{way}-tta"):
            model_card.check_weights(checkpoint, {**measured, f"{way}_tta": True})


def test_labels_without_a_figure(checkpoint: Path) -> None:
    measured = measured_of("ct", "fundus", repo="org/x")
    measured["modalities"]["ct"]["labels"]["spleen"] |= {"AP50": None, "AP": None}
    assert "| ct: spleen | 40 | 5 (5) | - | - |" in render_card(checkpoint, measured)


def test_what_was_not_measured_is_named() -> None:
    with pytest.raises(ValueError, match="does not have mri"):
        evaluation_tables.evaluation_of(evaluation(), ["mri"])
    with pytest.raises(ValueError, match="are not an evaluation"):
        evaluation_tables.evaluation_of({"schema": "x", "modalities": {}}, [])


def test_the_license_names_every_source(checkpoint: Path) -> None:
    text = render_license(checkpoint, ["ct"])
    assert "set_ct" in text and "set_fundus" not in text and "research use only" in text


def test_the_command(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--checkpoint", str(checkpoint), "--results", str(write_results(tmp_path / "measured", checkpoint))]
    assert main(arguments) == 0 and (checkpoint / "README.md").is_file() and (checkpoint / "LICENSE.md").is_file()
    (checkpoint / "config.json").unlink()
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_the_committed_pages_are_what_the_commands_write(tmp_path: Path) -> None:
    embedded = Path(default_checkpoint())
    measured = read_measured(RESULTS)
    model_card.check_weights(embedded, measured)
    assert (embedded / "README.md").read_text(encoding="utf-8") == render_card(embedded, measured)
    assert (embedded / "LICENSE.md").read_text(encoding="utf-8") == render_license(
        embedded, list(measured["modalities"])
    )
    again = tmp_path / "results.md"
    report.write_page(model_card.RESULTS, again)
    assert RESULTS.with_suffix(".md").read_text(encoding="utf-8") == again.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_usage_of_a_published_card_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded checkpoint's folder stands in the place of the repository's id."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(phantoms.chest_radiograph().pixels).save("scan.png")
    code = model_card.HUB_USAGE.format(repo=default_checkpoint(), first="xray", prompt="left lung. right lung.")
    names: dict[str, Any] = {}
    exec(code, names)
    assert set(names["results"][0]["text_labels"]) == {"left lung", "right lung"}
