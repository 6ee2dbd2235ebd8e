# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""One source left out at a time: which are, what they are judged by, and that nothing of them is trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint
from training.data.load import load_records
from training.data.records import GroundingRecord
from training.fit.finetune import load_base
from training.fit.recipe import load_recipe
from training.studies import cross_source

from ..tiny_data import make_data, record, save_coco, trunk_image


def _record(source: str, split: str, labels: list[str], name: str = "a") -> GroundingRecord:
    boxes = [[5.0, 5.0, 20.0, 20.0]] * len(labels)
    return replace(record(boxes, labels, source=source, image_id=name), split=split)


def test_only_labels_that_another_source_trains_are_shared() -> None:
    records = [
        _record("first", "train", ["liver", "spleen"]),
        _record("second", "train", ["liver", "aorta"]),
        _record("third", "validation", ["aorta", "spleen"]),
        _record("fourth", "train", ["pancreas"]),
    ]
    assert cross_source.shared_labels(records) == {
        "first": ("liver",),
        "second": ("liver",),
        "third": ("aorta", "spleen"),
    }


def test_a_source_is_judged_by_its_validation_images() -> None:
    records = [
        _record("first", "train", ["liver", "spleen"], "a"),
        replace(_record("first", "train", ["liver"], "a#1"), view_of="a"),
        _record("first", "validation", ["liver", "spleen"], "b"),
        _record("first", "validation", ["spleen"], "c"),
        _record("second", "train", ["liver"], "d"),
    ]
    images = cross_source.judged(records, "first", ["liver"])
    assert [(r.image_id, r.labels, r.annotated) for r in images] == [("b", ("liver",), ("liver",))]
    assert [r.image_id for r in cross_source.judged(records[:2], "first", ["liver"])] == ["a"]


@pytest.mark.parametrize("source", ["../../x", "/tmp/x", "everything", "", "a b", "a/b", "Krankenhaus Süd", ".."])
def test_a_source_is_a_folder_below(source: str, tmp_path: Path) -> None:
    name = cross_source.folder_name(source)
    assert (tmp_path / name).parent == tmp_path and name not in ("", ".", "..", "everything")
    assert cross_source.folder_name("rimone_r1_disc") == "rimone_r1_disc"
    assert len({cross_source.folder_name(other) for other in ("a b", "a_b", "a/b")}) == 3


def make_sources(folder: Path) -> Path:
    """Two sources of CT that share the liver; the second has no validation images."""
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    sources_of = {"train": ["first", "first", "second", "second"], "validation": ["first"]}
    for split, sources in sources_of.items():
        images, objects = [], []
        for number, source in enumerate(sources):
            name = f"{split}{number}.png"
            Image.fromarray(trunk_image((48, 40))).save(folder / "images" / name)
            labels = ["liver"] if source == "second" else ["liver", "spleen"]
            entry = {"file_name": name, "width": 48, "height": 40, "modality": "ct", "patient": name}
            images.append({**entry, "source": source, "annotated": labels})
            objects.append([(label, [5.0, 5.0, 20.0, 20.0]) for label in labels])
        save_coco(folder, f"{split}.json", images, objects)
    return folder


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny network in the place of the recipe's."""
    checkpoint = save_tiny_checkpoint(tmp_path / "checkpoint")

    def base(settings: Any, recipe: Any) -> Any:
        settings.model = str(checkpoint)
        return load_base(settings, recipe)

    monkeypatch.setattr(cross_source, "load_base", base)


def test_a_whole_comparison(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[set[str]] = []

    def make(train: Any, *others: Any, **more: Any) -> Any:
        trained.append({r.source for r in train})
        return cross_source_dataset(train, *others, **more)

    cross_source_dataset = cross_source.make_dataset
    monkeypatch.setattr(cross_source, "make_dataset", make)
    out = tmp_path / "out"
    arguments = ["--data", str(make_sources(tmp_path / "data")), "--modality", "CT", "--epochs", "1"]
    arguments += ["--size", "64", "--out", str(out)]
    assert cross_source.main(arguments) == 0
    assert trained == [{"second"}, {"first", "second"}, {"first"}]
    rows = json.loads((out / "cross_source.json").read_text(encoding="utf-8"))["modalities"]["ct"]["sources"]
    assert rows["first"]["labels"] == ["liver"] and rows["first"]["images"] == 1
    assert rows["first"]["broken"] == rows["second"]["broken"] == 0
    assert set(rows["first"]["seen"]["labels"]) == set(rows["first"]["unseen"]["labels"]) == {"liver"}
    assert rows["second"]["images"] == 2 and "seen" not in rows["second"]
    printed = capsys.readouterr().out
    assert "| ct: second | 1 | 2 | 1 |" in printed and printed == (out / "cross_source.md").read_text(encoding="utf-8")
    assert cross_source.main(arguments) == 0 and len(trained) == 3


def test_negative_images_are_those_of_other_modalities(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[list[tuple[str, str]]] = []

    def make(*arguments: Any, **more: Any) -> Any:
        used.append([(one.modality, one.image_id) for one in more["elsewhere"]])
        return make_dataset(*arguments, **more)

    make_dataset = cross_source.make_dataset
    monkeypatch.setattr(cross_source, "make_dataset", make)
    data, recipe = make_data(tmp_path / "data"), load_recipe("embedded").changed(["ct"], size=64, epochs=1)
    train = [one for one in load_records(data, "ct") if one.split == "train"]
    with_negatives = replace(recipe, negative_images=0.5)
    cross_source.trained_on(train, str(data), "ct", with_negatives, tmp_path / "out", 0)
    cross_source.trained_on(train, str(data), "ct", recipe, tmp_path / "none", 0)
    assert used == [[("fundus", "a.png")], []]
    path = data / "train.json"
    path.write_text(path.read_text(encoding="utf-8").replace("a.png", "c.png"), encoding="utf-8")
    (data / "images" / "a.png").rename(data / "images" / "c.png")
    with pytest.raises(ValueError, match="out: holds a run with other data"):
        cross_source.trained_on(train, str(data), "ct", with_negatives, tmp_path / "out", 0)
    cross_source.trained_on(train, str(data), "ct", recipe, tmp_path / "none", 0)


def test_a_study_goes_on_with_its_own_settings_and_images_only(
    tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = make_sources(tmp_path / "data"), tmp_path / "out"
    arguments = ["--data", str(data), "--modality", "ct", "--epochs", "1", "--size", "64", "--out", str(out)]
    assert cross_source.main(arguments) == 0
    before = (out / "cross_source.json").read_bytes()
    refused = "error: ct, first: measured with other images or settings before: choose another --out"
    recipe = Path(cross_source.__file__).parents[1] / "recipes" / "embedded.yaml"
    other = tmp_path / "other.yaml"
    other.write_text(
        recipe.read_text(encoding="utf-8").replace("head_learning_rate: 1.0e-3", "head_learning_rate: 2.0e-3")
    )
    for more in (["--epochs", "2"], ["--size", "96"], ["--seed", "1"], ["--recipe", str(other)]):
        assert cross_source.main([*arguments, *more]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == refused
    content = json.loads((data / "train.json").read_text(encoding="utf-8"))
    content["annotations"][0]["bbox"][2] += 1
    (data / "train.json").write_text(json.dumps(content), encoding="utf-8")
    assert cross_source.main(arguments) == 2 and capsys.readouterr().err.splitlines()[-1] == refused
    assert (out / "cross_source.json").read_bytes() == before
    # Nor are checkpoints of another training taken for this one's where no row was written yet.
    (out / "cross_source.json").unlink()
    assert cross_source.main(arguments) == 2
    assert "holds a run with other data, settings or weights" in capsys.readouterr().err


def test_rows_of_before_recipes_were_named_stay(tiny: None, tmp_path: Path) -> None:
    data, out = make_sources(tmp_path / "data"), tmp_path / "out"
    arguments = ["--data", str(data), "--modality", "ct", "--epochs", "1", "--size", "64", "--out", str(out)]
    assert cross_source.main(arguments) == 0
    measured = json.loads((out / "cross_source.json").read_text(encoding="utf-8"))
    for row in measured["modalities"]["ct"]["sources"].values():
        row["conditions"] = {name: row["conditions"][name] for name in ("epochs", "size", "seed")}
        del row["broken"]
    (out / "cross_source.json").write_text(json.dumps(measured), encoding="utf-8")
    assert cross_source.main(arguments) == 0
    assert json.loads((out / "cross_source.json").read_text(encoding="utf-8")) == measured


def test_broken_images_are_counted(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = make_sources(tmp_path / "data"), tmp_path / "out"
    path = data / "validation.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["images"].append({**content["images"][0], "id": 99, "file_name": "broken.png", "patient": "other"})
    (data / "images" / "broken.png").write_bytes(b"\x89PNG")
    path.write_text(json.dumps(content), encoding="utf-8")
    arguments = ["--data", str(data), "--modality", "ct", "--epochs", "1", "--size", "64", "--out", str(out)]
    assert cross_source.main(arguments) == 0
    rows = json.loads((out / "cross_source.json").read_text(encoding="utf-8"))["modalities"]["ct"]["sources"]
    assert (rows["first"]["images"], rows["first"]["broken"], rows["second"]["broken"]) == (1, 1, 0)
    (data / "images" / "validation0.png").write_bytes(b"\x89PNG")
    arguments[-1] = str(tmp_path / "other")
    assert cross_source.main(arguments) == 2
    assert "first: 2 of 2 images cannot be read: mend the data" in capsys.readouterr().err


def test_options_out_of_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(tmp_path / "none"), "--modality", "ct", "--out", str(tmp_path / "out")]
    assert cross_source.main([*arguments, "--epochs", "nan"]) == 2
    assert capsys.readouterr().err.startswith("error: --epochs nan: choose a number above 0 (")


def test_sources_without_a_common_label_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data(tmp_path / "data")
    assert cross_source.main(["--data", str(data), "--modality", "ct", "--out", str(tmp_path / "out")]) == 2
    assert "no two sources of ct share a label" in capsys.readouterr().err
    sources = make_sources(tmp_path / "sources")
    spot = {"modality": "fundus", "source": "discs", "annotated": ["optic disc"], "width": 48, "height": 40}
    content = json.loads((sources / "train.json").read_text(encoding="utf-8"))
    (sources / "images" / "spot.png").write_bytes((sources / "images" / "train0.png").read_bytes())
    content["images"].append({"id": 98, "file_name": "spot.png", "patient": "x", **spot})
    content["categories"].append({"id": 97, "name": "optic disc"})
    content["annotations"].append({"id": 98, "image_id": 98, "category_id": 97, "bbox": [5.0, 5.0, 9.0, 9.0]})
    (sources / "train.json").write_text(json.dumps(content), encoding="utf-8")
    arguments = ["--data", str(sources), "--modality", "ct", "fundus", "--out", str(tmp_path / "out")]
    assert cross_source.main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "no two sources of fundus share a label" in line
    assert not (tmp_path / "out").exists(), "found before anything was trained"


def test_the_page_in_docs_holds_what_was_measured() -> None:
    docs = Path(__file__).parents[3] / "docs"
    files = sorted((docs / "cross_source").glob("*.json"))
    measured = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    assert list(measured) == ["embedded", "foreign"], "recipes, the second by --like"
    assert (docs / "cross_source.md").read_text(encoding="utf-8") == cross_source.render_page(measured)


def test_the_page_of_several_trainings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def saved(name: str, sources: dict[str, float]) -> str:
        rows = {
            source: {"labels": ["liver"], "images": 3, "unseen": {"mean": {"AP50": ap50, "AP": 0.25}}}
            for source, ap50 in sources.items()
        }
        entry = {"epochs": 8.0, "size": 64, "sources": rows}
        content = {"schema": cross_source.SCHEMA, "modalities": {"ct": entry}}
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        return str(tmp_path / name)

    files = [saved("before.json", {"first": 0.5, "second": 0.75}), saved("after.json", {"first": 0.625})]
    assert cross_source.main(["--page", *files, "--out", str(tmp_path)]) == 0
    page = (tmp_path / "cross_source.md").read_text(encoding="utf-8")
    assert page == capsys.readouterr().out and "| source | training | labels |" in page
    rows = [line for line in page.splitlines() if line.startswith("| ct")]
    assert rows == [
        "| ct: first | before | 1 | 3 | 8 | 50.0 | - | 25.0 | - |",
        "| ct: first | after | 1 | 3 | 8 | 62.5 | - | 25.0 | - |",
        "| ct: second | before | 1 | 3 | 8 | 75.0 | - | 25.0 | - |",
    ]
    (tmp_path / "after.json").write_text("[]", encoding="utf-8")
    assert cross_source.main(["--page", *files, "--out", str(tmp_path)]) == 2
    assert "error: after.json: not a file of this study: give a cross_source.json" in capsys.readouterr().err


def test_a_study_needs_a_modality(capsys: pytest.CaptureFixture[str]) -> None:
    assert cross_source.main(["--data", "none"]) == 2
    assert capsys.readouterr().err == "error: no modality: name some with --modality, such as ct mri\n"
