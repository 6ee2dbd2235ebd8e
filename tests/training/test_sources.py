# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Records of 2-D sources and of volumes, on made-up data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modeling_medglip.configuration_medglip import MODALITIES
from training import sources
from training.sources import SourceRecipe, estimate_window, load_recipes, load_records, mask_boxes

from .tiny_data import disc, make_data, recipes, save_labels, save_source, save_volume, trunk_picture


def grey_picture(name: str, objects: dict, split: str = "train") -> dict:
    return {"name": f"images/{name}.png", "pixels": np.zeros((40, 60), np.uint8), "split": split, "objects": objects}


def records_of(folder: Path, recipe: SourceRecipe, split: str | None = None) -> list[sources.GroundingRecord]:
    return load_records(folder, recipe.modality, split, recipes={f"{recipe.modality}/{recipe.source}": recipe})


def test_records_have_boxes_split_patient_and_annotated_labels(tmp_path: Path) -> None:
    found = load_records(make_data(tmp_path), recipes=recipes())
    train = [record for record in found if record.source == "organs" and record.split == "train"]
    assert [record.group for record in train] == ["P0", "P1", "P2"]
    assert all(record.annotated == ("left kidney", "liver", "right kidney") for record in train)
    assert train[0].labels == ("left kidney", "right kidney")
    np.testing.assert_array_equal(train[0].boxes[0], [30, 14, 42, 26])
    np.testing.assert_array_equal(train[2].boxes, [[4, 6, 24, 18]])
    assert train[0].weight == 2.0 and train[0].load().shape == (40, 48) and train[0].size == (48, 40)
    assert {record.modality for record in found} == {"ct", "fundus"}


def test_selection_by_modality_split_and_source(tmp_path: Path) -> None:
    data = make_data(tmp_path)
    assert {r.modality for r in load_records(data, "CT", recipes=recipes())} == {"ct"}
    assert {r.split for r in load_records(data, split="validation", recipes=recipes())} == {"validation"}
    assert {r.source for r in load_records(data, sources=["discs"], recipes=recipes())} == {"discs"}
    with pytest.raises(ValueError, match="no pictures of mri"):
        load_records(data, "mri", recipes=recipes())
    with pytest.raises(ValueError, match="choose one of train, validation"):
        load_records(data, split="test", recipes=recipes())


def test_both_lungs_give_the_box_round_them_and_one_alone_does_not(tmp_path: Path) -> None:
    left, right = [30, 5, 20, 25], [5, 8, 20, 24]
    pictures = [
        grey_picture("both", {"left lung": left, "right lung": right}),
        grey_picture("one", {"left lung": left}),
        grey_picture("merged", {"lungs": [5, 5, 45, 27]}),
    ]
    save_source(tmp_path / "ct" / "lungs", pictures)
    both, one, merged = records_of(tmp_path, SourceRecipe("ct", "lungs"))
    assert both.labels == ("left lung", "right lung", "lungs")
    np.testing.assert_array_equal(both.boxes[2], [5, 5, 50, 32])
    assert "lungs" not in one.annotated and "right lung" in one.annotated
    assert merged.annotated == ("lungs",), "where only the union is marked the sides are unknown, not absent"


def test_extra_views_share_the_weight_and_only_train(tmp_path: Path) -> None:
    colour = np.stack([np.full((20, 20), value, np.uint8) for value in (10, 90, 30)], axis=-1)
    objects = {"lower grade glioma": [2, 2, 8, 8]}
    pictures = [{"name": f"images/{s}.png", "pixels": colour, "split": s, "objects": objects} for s in sources.SPLITS]
    save_source(tmp_path / "mri" / "flair", pictures)
    found = records_of(tmp_path, SourceRecipe("mri", "flair", channels=(1,)))
    assert [(r.split, r.weight) for r in found] == [("train", 0.5), ("train", 0.5), ("validation", 1.0)]
    assert found[0].load().shape == (20, 20, 3)
    np.testing.assert_array_equal(found[1].load(), colour[..., 1])


def test_cleaned_boxes_leave_out_specks_and_small_labels_become_unknown(tmp_path: Path) -> None:
    shape = disc((60, 40), (20, 20), 8)
    shape[2:4, 50:52] = True
    speck = np.zeros((40, 60), bool)
    speck[30:32, 40:42] = True
    save_source(tmp_path / "ct" / "heart", [grey_picture("a", {"aorta": shape, "left atrium": speck})])
    (record,) = records_of(tmp_path, SourceRecipe("ct", "heart", clean=True, min_pixels=50))
    np.testing.assert_array_equal(record.boxes, [[12, 12, 28, 28]])
    assert record.annotated == ("aorta",)


def test_mask_boxes_of_instances_and_of_the_whole() -> None:
    mask = disc((60, 40), (12, 12), 6) | disc((60, 40), (45, 25), 6)
    assert mask_boxes(mask) == [[6.0, 6.0, 51.0, 31.0]]
    assert mask_boxes(mask, instances=True) == [[6.0, 6.0, 18.0, 18.0], [39.0, 19.0, 51.0, 31.0]]


def volume_source(folder: Path, **spec: object) -> SourceRecipe:
    """A RAS volume of 20 x 16 x 6 voxels; a mark on the patient's right, in front, in slices 2 and 3."""
    labels = np.zeros((20, 16, 6), np.uint8)
    labels[14:18, 10:15, 2:4] = 1
    labels[1:2, 1:2, 2] = 2
    image = np.where(labels == 1, 40, -1000).astype(np.int16)
    base = folder / "ct" / "volumes"
    save_volume(base, "one", image, labels)
    save_volume(base, "two", image, labels)
    save_labels(base, {"1": "liver", "2": "spleen"}, ["one"], ["two"])
    volume = {"image": "*_image.nii.gz", "label": "{stem}_label.nii.gz", "planes": {"axial": 1}, **spec}
    return SourceRecipe("ct", "volumes", weight=0.5, volume=volume)


def test_slices_show_the_patients_right_on_the_left(tmp_path: Path) -> None:
    found = records_of(tmp_path, volume_source(tmp_path, hounsfield=True, min_pixels=3))
    assert [(r.split, r.image_id) for r in found[:2]] == [("train", "one:axial:2"), ("train", "one:axial:3")]
    np.testing.assert_array_equal(found[0].boxes, [[2, 1, 6, 6]])
    assert found[0].size == (20, 16) and found[0].is_hounsfield and found[0].load()[3, 4] == 40
    assert found[0].annotated == ("liver",), "a single voxel of spleen is neither positive nor negative"
    assert found[1].annotated == ("liver", "spleen")
    assert [record.weight for record in found if record.split == "validation"] == [1.0, 1.0]


def test_a_wrong_header_can_be_overruled(tmp_path: Path) -> None:
    found = records_of(tmp_path, volume_source(tmp_path, axcodes="LPS"))
    np.testing.assert_array_equal(found[0].boxes[found[0].labels.index("liver")], [14, 10, 18, 15])


def test_labels_are_renamed_and_joined() -> None:
    table = {1: "lung_upper_lobe_left", 2: "lung_lower_lobe_left", 3: "rib_left_1", 4: "femur_left"}
    renamed = sources.rename_labels(table, {"lung_*_left": "left lung", "rib_*": "rib"})
    assert renamed == {1: "left lung", 2: "left lung", 3: "rib"}
    assert sources.rename_labels(table, {"*": "*"}) == table == sources.rename_labels(table, None)


@pytest.mark.parametrize("fat", [0.1, 0.3])
@pytest.mark.parametrize(("low", "high"), [(-1000, 1400), (-1024, 3000), (-3024, 1200)])
def test_the_window_of_a_stretched_picture_is_estimated(fat: float, low: float, high: float) -> None:
    window = estimate_window(trunk_picture((256, 256), fat, low, high))
    assert window is not None
    step = (window[1] - window[0]) / 255
    for hounsfield in (-100, 50, 400):
        grey = (hounsfield - low) / (high - low) * 255
        assert abs(window[0] + grey * step - hounsfield) < 80


def test_no_window_where_there_are_no_two_peaks() -> None:
    assert estimate_window(np.zeros((50, 50), np.uint8)) is None
    assert estimate_window(np.full((50, 50), 200, np.uint8)) is None


def test_a_record_knows_its_window(tmp_path: Path) -> None:
    make_data(tmp_path)
    fixed = records_of(tmp_path, SourceRecipe("ct", "organs", window=(-1000, 400)))[0]
    assert fixed.window(fixed.load()) == (-1000, 400)
    unknown = records_of(tmp_path, SourceRecipe("ct", "organs"))[0]
    assert unknown.window(unknown.load()) is None


def test_the_shipped_recipes_are_consistent() -> None:
    shipped = load_recipes()
    assert {recipe.modality for recipe in shipped.values()} == set(MODALITIES)
    assert all(recipe.regions and recipe.weight > 0 for recipe in shipped.values())
    for recipe in shipped.values():
        if recipe.modality in ("ct", "mri", "xray"):
            assert not (recipe.horizontal_flip or recipe.vertical_flip or recipe.quarter_turns), recipe.source


def test_a_misspelt_recipe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipes.yaml"
    path.write_text("modalities: {}\nsources:\n  ct/x: {wieght: 1}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="recipes.yaml: ct/x: unknown keys .*wieght"):
        load_recipes(path)
