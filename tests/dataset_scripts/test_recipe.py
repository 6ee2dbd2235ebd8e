# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Recipes: the shipped ones, and what is wrong with others."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

from dataset_scripts.labels import annotated_labels, is_instance_label, map_label
from dataset_scripts.readers import READERS, make_reader
from dataset_scripts.recipe import RECIPES_FOLDER, Recipe, RecipeError, load_recipes
from dataset_scripts.records import Rejected


GOOD = "source: a\nmodality: ct\nlayout: manifest\n"


def recipe(tmp_path: Path, text: str):  # type: ignore[no-untyped-def]
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipes(path)


@pytest.mark.parametrize("path", sorted(RECIPES_FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes(path: Path) -> None:
    for shipped in load_recipes(path):
        assert shipped.layout in READERS and shipped.labels
        assert shipped.confirmed == (path.stem == "real_data"), "only what somebody has seen is confirmed"
        for name, target in shipped.labels.items():
            if target != "exclude":
                assert map_label(shipped, name).source_label == name


def test_defaults_and_several_recipes(tmp_path: Path) -> None:
    text = "defaults: {layout: manifest, confirmed: true}\nrecipes:\n- {source: a, modality: MR}\n"
    text += "- {source: kvasir_seg}\n"
    first, second = recipe(tmp_path, text)
    assert (first.modality, second.modality) == ("mri", "endoscopy") and first.confirmed
    assert second.family == "Kvasir-SEG" and "research" in (second.license or "") and first.license is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "is not a recipe"),
        ("source: [", "cannot be read"),
        ("source: a\nlayout: manifest\n", "say which modality"),
        ("source: a\nmodality: pet\nlayout: manifest\n", "unknown modality"),
        ("source: A/b\nmodality: ct\nlayout: manifest\n", "lower-case"),
        ("source: a\nmodality: ct\n", "layout is missing"),
        (GOOD + "labels: {liver: lever}\n", "the taxonomy has no 'lever'"),
        (GOOD + "lables: {}\n", "unknown keys lables"),
        (GOOD + "planes: {oblique: 1}\n", "planes are axial"),
        (GOOD + "planes: {axial: 0}\n", "whole number from 1"),
        (GOOD + "window: [5, 5]\n", "two growing numbers"),
        (GOOD + "patient: 'abc'\n", "needs a group"),
        (GOOD + "splits: {dev: ['*']}\n", "splits are train"),
        (
            "recipes:\n- {source: a, modality: ct, layout: manifest}\n- {source: a, modality: ct, layout: manifest}",
            "twice",
        ),
    ],
)
def test_bad_recipes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        recipe(tmp_path, text)
    assert str(error.value).startswith("recipe.yaml: ") and "\n" not in str(error.value)


def test_a_missing_file() -> None:
    with pytest.raises(ValueError, match="nowhere.yaml: cannot be read"):
        load_recipes("/nowhere.yaml")


class TestLabels:
    TEXT = GOOD + "labels: {Leber: liver, Left_Thing: open, noise: exclude, tumour: liver_tumor}\n"

    def test_names_of_the_source_stay(self, tmp_path: Path) -> None:
        (mine,) = recipe(tmp_path, self.TEXT)
        liver, thing = map_label(mine, "Leber"), map_label(mine, "Left_Thing")
        assert (liver.name, liver.label_id, liver.region, liver.source_label) == ("liver", "liver", "abdomen", "Leber")
        assert (thing.name, thing.label_id, thing.side, thing.extension) == ("left thing", None, "left", True)
        assert annotated_labels(mine) == ["left thing", "liver", "liver tumor"]

    @pytest.mark.parametrize(("name", "rule"), [("other", "undefined_label"), ("noise", "excluded_label")])
    def test_labels_left_out(self, tmp_path: Path, name: str, rule: str) -> None:
        (mine,) = recipe(tmp_path, self.TEXT)
        with pytest.raises(Rejected) as error:
            map_label(mine, name)
        assert error.value.rule == rule and error.value.value == name

    def test_instances(self, tmp_path: Path) -> None:
        (mine,) = recipe(tmp_path, self.TEXT)
        assert is_instance_label(mine, map_label(mine, "tumour")) and not is_instance_label(
            mine, map_label(mine, "Leber")
        )
        (mine,) = recipe(tmp_path, self.TEXT + "instances: [Leber]\n")
        assert not is_instance_label(mine, map_label(mine, "tumour")) and is_instance_label(
            mine, map_label(mine, "Leber")
        )


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    (first,), (same,), (other,) = (recipe(tmp_path, GOOD + extra) for extra in ("", "", "min_pixels: 3\n"))
    assert first.fingerprint == same.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("labels:", "labels must be a mapping of text to text"),
        ("labels: {1: polyp}", "labels must be a mapping of text to text"),
        ("labels: {no: open}", "quote numbers, yes and no"),
        ("labels: {polyp: [polyp]}", "labels must be"),
        ("files:", "files must be a mapping"),
        ("files: {image: a, mask: {1: b}}", "files must be a mapping"),
        ("patient: '([a-z'", "patient must be a regular expression"),
        ("patient: '((a+)+)$'", "patient must be a regular expression without repeated groups"),
        ("window: 5", "window must be two numbers"),
        ("window: [a, b]", "window must be two numbers"),
        ("planes: [axial]", "planes must be a mapping"),
        ("card: hello", "card must be a mapping"),
        ("instances: polyp", "instances must be a list of labels"),
        ("min_pixels: ten", "min_pixels must be a whole number"),
        ("min_component_fraction: 2", "min_component_fraction must be a number from 0 to 1"),
        ("splits: {train: abc}", "splits must be a mapping of splits to lists"),
        ("bits: 12", "bits must be 8 or 16"),
        ("confirmed: perhaps", "confirmed must be true or false"),
    ],
)
def test_values_of_another_kind_are_named(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"source: mine\nmodality: ct\nlayout: mask_folder\n{change}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"mine.yaml: mine: .*{message}"):
        load_recipes(path)


@pytest.mark.parametrize("text", ["recipes: [foo]", "recipes: {a: b}", "defaults: 3\nrecipes: []"])
def test_documents_that_are_not_recipes(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="mine.yaml: recipes are a list of mappings"):
        load_recipes(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"image": "/images/*.png", "mask": "m"}, "is absolute"),
        ({"image": "**/" * 4 + "*.png", "mask": "m"}, "has more than 3 of"),
        ({"image": "*.png", "mask": "{number}.png"}, "has a placeholder other than"),
        ({"image": "*.png", "mask": "{stem.png"}, "has a placeholder other than"),
        ({"image": "*.png", "mask": "m", "masks": "n"}, "knows no files masks, only image, mask, label, colors"),
    ],
)
def test_patterns_that_cannot_work(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=f"mine: .*{message}"):
        make_reader(Recipe("mine", "ct", "mask_folder", files=files), tmp_path)


def test_one_source_of_two_modalities(tmp_path: Path) -> None:
    row = "{source: chaos, modality: %s, layout: mask_folder}"
    (tmp_path / "a.yaml").write_text(f"recipes: [{row % 'ct'}, {row % 'mri'}]", encoding="utf-8")
    assert [recipe.modality for recipe in load_recipes(tmp_path / "a.yaml")] == ["ct", "mri"]
    (tmp_path / "b.yaml").write_text(f"recipes: [{row % 'ct'}, {row % 'ct'}]", encoding="utf-8")
    with pytest.raises(ValueError, match="chaos ct occurs twice"):
        load_recipes(tmp_path / "b.yaml")


def test_the_old_key_of_small_components_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("source: mine\nmodality: ct\nlayout: coco\nspecks: 0.05\n", encoding="utf-8")
    with pytest.warns(FutureWarning, match="specks is now min_component_fraction"):
        (recipe,) = load_recipes(path)
    assert recipe.min_component_fraction == 0.05


def test_errors_of_recipes_pass_between_processes() -> None:
    error = RecipeError("brats: no reader", "brats")
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301
        assert (str(copied), copied.source) == ("brats: no reader", "brats")
