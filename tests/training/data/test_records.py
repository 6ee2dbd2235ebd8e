# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Records: of a built data set, of a COCO file, and what is done with them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dataset_scripts.build import build
from dataset_scripts.recipe import load_recipes
from tests.dataset_scripts.raw_data import VOLUME_RECIPE, write_polyps, write_recipes, write_volumes
from training.data.coco_records import coco_files, read_image_file
from training.data.load import load_records
from training.data.records import (
    SETTINGS_FILE,
    GroundingRecord,
    SourceSettings,
    SourceSettingsTable,
    as_boxes,
    fraction_of,
    join_lungs,
    shared_patients,
    with_channels,
    without_unknown,
)

from ..tiny_data import make_data, record, save_coco, settings


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("raw")
    write_polyps(raw)
    write_volumes(raw)
    write_recipes(raw)
    (raw / "deep.yaml").write_text(
        VOLUME_RECIPE.replace("abdomen_of_mine", "deep_ct").replace("confirmed: true", "bits: 16"), encoding="utf-8"
    )
    recipes = [recipe for name in ("polyps", "abdomen", "deep") for recipe in load_recipes(raw / f"{name}.yaml")]
    build(recipes, raw, raw / "set", echo=lambda text: None)
    return raw / "set"


def _left_edges(folder: Path) -> list[float]:
    return [box[0] for record in load_records(folder, "ct", "train") for box in record.boxes.tolist()]


def _mask_of(annotation: dict[str, Any]) -> bool:
    return isinstance(annotation["segmentation"], dict)


class TestBuiltSets:
    def test_they_say_what_the_coco_files_say(self, built: Path) -> None:
        records = load_records(built)
        assert {(r.modality, r.source) for r in records} >= {("ct", "deep_ct"), ("endoscopy", "polyps_of_mine")}
        for modality in ("ct", "endoscopy"):
            for split in ("train", "validation"):
                path = built / "coco" / modality / f"{split}.json"
                chosen = [r for r in records if (r.modality, r.split) == (modality, split)]
                content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"images": []}
                assert len(chosen) == len(content["images"])
                names = {entry["id"]: entry["name"] for entry in content.get("categories", ())}
                for item, image in zip(chosen, content["images"], strict=True):
                    annotations = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
                    assert item.labels == tuple(names[entry["category_id"]] for entry in annotations)
                    assert np.array_equal(item.boxes, as_boxes([entry["bbox"] for entry in annotations], item.size))
                    assert item.annotated == tuple(sorted(image["annotated"])) and item.patient == image["patient"]
                    pixels = np.asarray(Image.open(path.parent / "images" / image["file_name"]))
                    assert item.source == "deep_ct" or np.array_equal(item.load(), pixels)
                    masks = [tuple(b) for b, e in zip(item.boxes.tolist(), annotations, strict=True) if _mask_of(e)]
                    assert set(item.outlines) == (set(masks) if split == "train" else set())

    def test_deep_ct_is_in_hounsfield_units(self, built: Path) -> None:
        deep = [r for r in load_records(built, "ct") if r.source == "deep_ct"]
        flat = [r for r in load_records(built, "ct") if r.source == "abdomen_of_mine"]
        assert all(r.is_hounsfield and r.load().dtype == np.int16 for r in deep)
        assert not any(r.is_hounsfield for r in flat)
        values = np.concatenate([r.load().ravel() for r in deep])
        assert -160 < values.min() < -100 < 80 < values.max() < 160

    def test_boxes_of_what_was_left_open_are_left_out(self, built: Path, tmp_path: Path) -> None:
        shutil.copytree(built, tmp_path / "opened")
        (file,) = (tmp_path / "opened" / "endoscopy").glob("train*.parquet")
        table = pq.read_table(file)
        rows = table["annotated"].to_pylist()
        annotated = next(number for number, records in enumerate(table["objects"].to_pylist()) if len(records["bbox"]))
        column = pa.array(
            [[] if number == annotated else row for number, row in enumerate(rows)], pa.list_(pa.string())
        )
        position = table.schema.get_field_index("annotated")
        pq.write_table(table.set_column(position, table.schema.field(position), column), file)
        records = [item for item in load_records(tmp_path / "opened", "endoscopy", "train") if not item.annotated]
        assert records and all(item.labels == () and item.boxes.shape == (0, 4) for item in records)

    def test_a_set_that_was_built_again_is_read_again(self, built: Path, tmp_path: Path) -> None:
        """With the same card, which is all that the library's own cache looks at."""
        first, second = tmp_path / "a" / "set", tmp_path / "b" / "set"
        shutil.copytree(built, first)
        shutil.copytree(built, second)
        before = _left_edges(first)
        for folder in (second, first):  # elsewhere under the same name, and in the same place
            (path,) = (folder / "ct").glob("train-*.parquet")
            table = pq.read_table(path)
            rows = [{**row, "bbox": [[x + 1, *y] for x, *y in row["bbox"]]} for row in table["objects"].to_pylist()]
            objects = pa.array(rows, table.schema.field("objects").type)
            pq.write_table(table.set_column(table.column_names.index("objects"), "objects", objects), path)
            assert _left_edges(folder) == [edge + 1 for edge in before]

    def test_damaged_tables(self, built: Path, tmp_path: Path) -> None:
        shutil.copytree(built, tmp_path / "set")
        for path in (tmp_path / "set" / "ct").glob("*.parquet"):
            path.write_bytes(b"PAR1 torn")
        with pytest.raises(ValueError, match="ct cannot be read: build the data set again"):
            load_records(tmp_path / "set", "ct")

    def test_a_tenth_is_the_sets_own(self, built: Path) -> None:
        train = load_records(built, "endoscopy", "train")
        assert fraction_of(train, 0.1) == [r for r in train if r.in_subset] != []

    @pytest.mark.parametrize("data", ["/no/folder", "./none", "a/b/c"])
    def test_no_folder(self, data: str) -> None:
        with pytest.raises(ValueError, match="no such folder; give a built data set"):
            load_records(data)

    def test_folders_that_are_not_data_sets(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="cannot be read as a data set"):
            load_records(tmp_path)

    def test_no_such_modality_or_split(self, built: Path) -> None:
        with pytest.raises(ValueError, match="no labeled images of mri there"):
            load_records(built, "mri")
        with pytest.raises(ValueError, match="choose one of train, validation, test"):
            load_records(built, split="val")


def one_image(folder: Path, objects: list[tuple[str, list[float]]], **image: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("L", (30, 20), 9).save(folder / "a.png")
    return save_coco(folder, "list.json", [{"file_name": "a.png", "width": 30, "height": 20, **image}], [objects])


class TestCoco:
    def test_a_folder_of_splits(self, tmp_path: Path) -> None:
        records = load_records(make_data(tmp_path), settings=settings())
        assert [(r.modality, r.split, r.patient) for r in records] == [
            ("ct", "train", "P0"), ("ct", "train", "P1"), ("ct", "train", "P2"), ("fundus", "train", "a"),
            ("ct", "validation", "P9"), ("fundus", "validation", "b"),
        ]  # fmt: skip
        first = records[0]
        assert first.labels == ("left kidney", "right kidney") and first.boxes[0].tolist() == [30, 14, 42, 26]
        assert first.annotated == ("left kidney", "liver", "right kidney") and first.weight == 2
        assert first.load().shape == (40, 48)
        assert [r.modality for r in load_records(tmp_path, "fundus", "train", settings())] == ["fundus"]

    def test_labels_go_by_name_whatever_the_ids(self, tmp_path: Path) -> None:
        """0-based, 1-based and with holes, in another order: the same records."""
        labels = []
        for number, ids in enumerate(([0, 1], [1, 2], [70, 3])):
            path = one_image(tmp_path / str(number), [("liver", [1, 2, 3, 4]), ("spleen", [9, 9, 5, 5])])
            content = json.loads(path.read_text(encoding="utf-8"))
            old = {entry["id"]: new for entry, new in zip(content["categories"], ids, strict=True)}
            for entry in content["annotations"]:
                entry["category_id"] = old[entry["category_id"]]
            content["categories"] = [{**e, "id": old[e["id"]]} for e in reversed(content["categories"])]
            path.write_text(json.dumps(content), encoding="utf-8")
            (item,) = load_records(path, "ct")
            labels.append((item.labels, item.boxes.tolist(), item.annotated))
        assert labels[0] == labels[1] == labels[2]

    def test_duplicate_boxes_count_once(self, tmp_path: Path) -> None:
        path = one_image(tmp_path, [("liver", [1, 2, 3, 4])] * 3 + [("liver", [2, 2, 3, 4])])
        (item,) = load_records(path, "ct")
        assert len(item.boxes) == 2

    def test_patients_are_held_out_where_nothing_says_a_split(self, tmp_path: Path) -> None:
        images = [{"file_name": f"{n}.png", "width": 9, "height": 9, "patient": str(n // 2)} for n in range(20)]
        path = save_coco(tmp_path, "all.json", images, [[("liver", [1, 1, 2, 2])]] * 20)
        records = load_records(path, "ct")
        held = {r.patient for r in records if r.split == "validation"}
        assert len(held) == 2 and not held & {r.patient for r in records if r.split == "train"}
        assert [r.split for r in load_records(path, "ct")] == [r.split for r in records]

    def test_a_modality_is_needed(self, tmp_path: Path) -> None:
        path = one_image(tmp_path, [("liver", [1, 2, 3, 4])])
        with pytest.raises(ValueError, match=r"list.json: names no modality: give one, or write it"):
            load_records(path)
        assert load_records(one_image(tmp_path, [("liver", [1, 2, 3, 4])], modality="CT"))[0].modality == "ct"

    @pytest.mark.parametrize(
        "box",
        [
            [1, 1, -2, 4],
            [1, 1, float("nan"), 4],
            [1, 1, 4],
            ["a", 1, 1, 1],
            [10**400, 1, 1, 1],
            [1e300, 1, 1, 1],
            "1234",
        ],
    )
    def test_boxes_that_are_none_leave_their_label_open(
        self, tmp_path: Path, box: list[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        (item,) = load_records(one_image(tmp_path, [("liver", box)]), "ct")
        assert not item.labels and "liver" not in item.annotated and "list.json: left out 1 " in caplog.text

    @pytest.mark.parametrize("name", ["../a.png", "/etc/hostname", "b/../../a.png"])
    def test_names_that_leave_the_folder(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ValueError, match="leaves the data folder"):
            load_records(one_image(tmp_path, [("liver", [1, 2, 3, 4])], file_name=name), "ct")

    @pytest.mark.parametrize("text", ["{", "[]", '{"images": 3, "annotations": [], "categories": []}', "\xff"])
    def test_files_that_are_not_coco(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "list.json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=r"list.json: is not a COCO file"):
            load_records(tmp_path / "list.json", "ct")

    def test_annotations_without_an_image_are_named(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = one_image(tmp_path, [("liver", [1, 2, 3, 4])])
        content = json.loads(path.read_text(encoding="utf-8"))
        lost = {**content["annotations"][0], "image_id": 99}
        path.write_text(json.dumps({**content, "annotations": [*content["annotations"], lost]}), encoding="utf-8")
        assert len(load_records(path, "ct")) == 1
        assert "list.json: an annotation of no image: 1 of them" in caplog.text

    @pytest.mark.parametrize("image", [None, "a.png", [5], 1e300])
    def test_an_annotation_of_an_unknown_image_leaves_its_label_open(
        self, tmp_path: Path, image: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = one_image(tmp_path, [("liver", [1, 2, 3, 4])])
        content = json.loads(path.read_text(encoding="utf-8"))
        content["categories"].append({"id": 70, "name": "stomach"})
        for number in (content["annotations"][0]["category_id"], 70):
            content["annotations"].append({"image_id": image, "category_id": number, "bbox": [1, 2, 3, 4]})
        path.write_text(json.dumps(content), encoding="utf-8")
        (item,) = load_records(path, "ct")
        assert item.labels == ("liver",) and "liver" in item.annotated and "stomach" not in item.annotated
        assert "an annotation of an unknown image" in caplog.text

    def test_images_that_cannot_be_read_are_named(self, tmp_path: Path) -> None:
        Image.new("L", (8, 8)).save(tmp_path / "a.png")
        (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
        with pytest.raises(ValueError, match="b.png: is a damaged PNG file"):
            read_image_file(tmp_path / "b.png", (8, 8))
        with pytest.raises(ValueError, match="a.png: is 8x8, its entry says 9x8"):
            read_image_file(tmp_path / "a.png", (9, 8))
        Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(tmp_path / "c.png")
        assert read_image_file(tmp_path / "c.png", (8, 8)).dtype == np.uint16

    def test_folders_with_several_unnamed_files_are_not_coco_folders(self, tmp_path: Path) -> None:
        one_image(tmp_path, [])
        assert list(coco_files(tmp_path).values()) == [None]
        (tmp_path / "second.json").write_bytes((tmp_path / "list.json").read_bytes())
        assert coco_files(tmp_path) == {}
        (tmp_path / "instances_val2017.json").write_bytes((tmp_path / "list.json").read_bytes())
        assert list(coco_files(tmp_path).values()) == ["validation"]


class TestHints:
    def test_a_side_in_a_label_forbids_flips(self) -> None:
        table = SourceSettingsTable(
            {"modalities": {"fundus": {"horizontal_flip": True, "vertical_flip": True, "rotate": True}}}
        )
        assert table.of("fundus", "mine", ["optic disc"]).horizontal_flip
        sided = table.of("fundus", "mine", ["optic disc", "left macula"])
        assert not (sided.horizontal_flip or sided.vertical_flip or sided.quarter_turns) and sided.rotate

    def test_a_source_says_what_a_side_in_a_label_forbids(self) -> None:
        flips = {"horizontal_flip": True, "turns": True}
        sources = {sides: {**flips, "sides": sides} for sides in ("source", "image", "none")}
        table = SourceSettingsTable({"sources": sources})
        for sides, free in (("source", False), ("image", True), ("none", True)):
            of_source = table.of("mri", sides, ["left ventricle", "myocardium"])
            assert of_source.horizontal_flip is of_source.turns is free
        with pytest.raises(ValueError, match="unknown sides never: choose one of source, image, none"):
            SourceSettingsTable({"sources": {"mine": {"sides": "never"}}})

    def test_unknown_effects(self) -> None:
        table = SourceSettingsTable({"modalities": {"mri": {"effects": {"ringing": 2, "jpeg": 0.5}}}})
        assert table.of("mri", "mine", []).effects == (("ringing", 2), ("jpeg", 0.5))
        with pytest.raises(ValueError, match="settings for mri: unknown effects ghosts"):
            SourceSettingsTable({"modalities": {"mri": {"effects": {"ghosts": 1}}}})

    @pytest.mark.parametrize("label", ["LV", "RA", "RUL", "left kidney"])
    def test_a_side_behind_an_abbreviation_too(self, label: str) -> None:
        settings = SourceSettingsTable.load().of("ultrasound", "a clinic", ["heart", label])
        assert (
            not settings.horizontal_flip
            and SourceSettingsTable.load().of("ultrasound", "a clinic", ["heart"]).horizontal_flip
        )

    def test_a_source_goes_before_its_modality(self) -> None:
        document = {"modalities": {"ct": {"weight": 3.0}}, "sources": {"mine": {"weight": 0.5, "regions": ["chest"]}}}
        assert SourceSettingsTable(document).of("ct", "mine", []) == SourceSettings(weight=0.5, regions=("chest",))
        assert SourceSettingsTable(document).of("ct", "other", []).weight == 3

    def test_unknown_keys(self) -> None:
        with pytest.raises(ValueError, match="settings for mine: unknown keys colors"):
            SourceSettingsTable({"sources": {"mine": {"colors": True}}})

    def test_the_shipped_hints_are_of_the_shipped_sources(self) -> None:
        from dataset_scripts.recipe import RECIPES_FOLDER

        known = {recipe.source for recipe in load_recipes(RECIPES_FOLDER / "real_data.yaml")}
        assert set(SourceSettingsTable.load(SETTINGS_FILE).sources) == known


LUNGS = ["left lung", "lung", "right lung"]


def lungs(labels: list[str], annotated: list[str] = LUNGS) -> GroundingRecord:
    return record([[10 * number, 0, 10 * number + 20, 30] for number in range(len(labels))], labels, annotated)


def test_lungs() -> None:
    both = join_lungs(lungs(["left lung", "right lung"], ["left lung", "right lung"]), set(LUNGS))
    assert both.labels[-1] == "lung" and both.boxes[-1].tolist() == [0, 0, 30, 30]
    assert both.annotated == tuple(LUNGS) and not both.outlines
    sides = lungs(["left lung", "right lung"])
    points = {tuple(box): np.array([box[:2], box[2:]], np.float32) for box in sides.boxes.tolist()}
    outlined = join_lungs(replace(sides, outlines=points), set(LUNGS)).outlines
    assert outlined[0.0, 0.0, 30.0, 30.0].tolist() == [[0, 0], [20, 30], [10, 0], [30, 30]] and len(outlined) == 3
    only = lungs(["lung"])
    assert join_lungs(only, {"lung"}) is only


@pytest.mark.parametrize(
    ("labels", "annotated"),
    [
        (["lung"], ["lung"]),
        (["left lung"], ["left lung", "right lung"]),
        (["lung", "left lung"], ["left lung", "lung"]),
        (["right lung", "lung"], ["lung", "right lung"]),
        (["right lung", "lung", "left lung"], LUNGS),
        ([], LUNGS),
    ],
)
def test_what_is_known_of_lungs(labels: list[str], annotated: list[str]) -> None:
    joined = join_lungs(lungs(labels), set(LUNGS))
    assert joined.annotated == tuple(annotated) and joined.labels == tuple(labels)


@given(
    st.lists(st.sampled_from([*LUNGS, "liver"]), max_size=5),
    st.sets(st.sampled_from([*LUNGS, "liver"])),
    st.sets(st.sampled_from([*LUNGS, "liver"])),
)
def test_boxes_are_of_known_labels_and_nothing_becomes_absent(
    with_box: list[str], stated: set[str], unknown: set[str]
) -> None:
    boxes = np.arange(4 * len(with_box), dtype=np.float32).reshape(-1, 4)
    labels, known_boxes, annotated = without_unknown(with_box, boxes, sorted(stated), unknown)
    assert not unknown & {*labels, *annotated} and len(labels) == len(known_boxes)
    assert set(annotated) - set(labels) <= stated - set(with_box) - unknown
    item = record(known_boxes.tolist(), list(labels), list(annotated))
    joined = join_lungs(item, {*LUNGS, "liver"})
    assert set(joined.labels) <= set(joined.annotated) and len(joined.boxes) == len(joined.labels)
    assert set(joined.annotated) - set(joined.labels) <= set(annotated) - set(labels)
    opened = unknown | (set(with_box) - stated)
    if opened & {"left lung", "right lung"} and "lung" not in joined.labels:
        assert "lung" not in joined.annotated, "an unknown side may be all that is seen of the lungs"


def test_boxes_of_what_is_not_annotated_are_not_a_record() -> None:
    with pytest.raises(ValueError, match="a: has boxes of labels that are not annotated in it: spleen"):
        record([[1, 1, 5, 5], [2, 2, 4, 4]], ["liver", "spleen"], ["liver"])


def test_views_of_single_channels() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    item = record([], [], ["liver"], pixels=pixels, settings=SourceSettings(channels=(1,)))
    assert with_channels(item) == [item], "not of validation images"
    import dataclasses

    plain, view = with_channels(dataclasses.replace(item, split="train", weight=1.0))
    assert plain.weight == view.weight == 0.5 and view.image_id == "a#1"
    assert np.array_equal(view.load(), pixels[..., 1])


def test_fractions_keep_patients_together_and_grow() -> None:
    records = [record([], [], ["liver"], source=f"s{n % 2}", patient=str(n // 4), image_id=str(n)) for n in range(80)]
    small, large = fraction_of(records, 0.2), fraction_of(records, 0.5)
    names = [{r.image_id for r in part} for part in (small, large)]
    assert names[0] < names[1] and 0.15 < len(small) / 80 < 0.25
    for source in ("s0", "s1"):
        patients = {r.patient for r in small if r.source == source}
        assert all((r.patient in patients) == (r in small) for r in records if r.source == source)
    assert len(fraction_of(records, 1e-6)) == 4 and fraction_of(records, 1) == records
    with pytest.raises(ValueError, match="fraction 0: choose a number above 0"):
        fraction_of(records, 0)


@pytest.mark.parametrize(("stated", "expected"), [("Test", "test"), (" VAL ", "validation"), ("Training", "train")])
def test_splits_are_known_in_any_spelling(stated: str, expected: str, tmp_path: Path) -> None:
    entry = {"file_name": "a.png", "width": 8, "height": 8, "split": stated}
    file = save_coco(tmp_path, "set.json", [entry], [[("liver", [1.0, 1.0, 4.0, 4.0])]])
    assert [record.split for record in load_records(file, "ct")] == [expected]


@pytest.mark.parametrize("stated", ["dev", "holdout", 7])
def test_an_unknown_split_is_refused(stated: object, tmp_path: Path) -> None:
    entry = {"file_name": "a.png", "width": 8, "height": 8, "split": stated}
    file = save_coco(tmp_path, "set.json", [entry], [[("liver", [1.0, 1.0, 4.0, 4.0])]])
    with pytest.raises(ValueError, match="unknown split"):
        load_records(file, "ct")


def test_what_is_annotated_is_a_list(tmp_path: Path) -> None:
    entry = {"file_name": "a.png", "width": 8, "height": 8}
    objects = [[("liver", [1.0, 1.0, 4.0, 4.0])]]
    (none,) = load_records(save_coco(tmp_path, "a.json", [{**entry, "annotated": []}], [[]], labels=["liver"]), "ct")
    assert none.annotated == ()
    with pytest.raises(ValueError, match="must be a list of labels"):
        load_records(save_coco(tmp_path, "b.json", [{**entry, "annotated": "spleen"}], objects), "ct")


def test_a_tenth_keeps_a_patient_of_every_source_and_lies_in_larger_shares() -> None:
    records = [
        replace(
            record([], [], ["liver"], source=source, image_id=f"{source}{n}", patient=f"p{n}"), in_subset=subset(n)
        )
        for source, subset in (("with", lambda n: n in (3, 7)), ("without", lambda n: False))
        for n in range(20)
    ]
    tenth, third = ({(r.source, r.patient) for r in fraction_of(records, share)} for share in (0.1, 0.3))
    assert {p for s, p in tenth if s == "with"} == {"p3", "p7"} and len({p for s, p in tenth if s == "without"}) == 2
    assert tenth < third


def test_shared_patients_are_counted() -> None:
    one, other = record([], [], ["liver"], patient="a"), record([], [], ["liver"], patient="a")
    assert shared_patients([one, replace(other, split="train")]) == 1 and shared_patients([one, other]) == 0


@pytest.mark.parametrize(("fraction", "patients"), [(0.23, 2), (0.27, 3)])
def test_the_share_of_patients_is_rounded(fraction: float, patients: int) -> None:
    records = [record([], [], ["liver"], source="s", patient=str(n), image_id=str(n)) for n in range(10)]
    assert len(fraction_of(records, fraction)) == patients
