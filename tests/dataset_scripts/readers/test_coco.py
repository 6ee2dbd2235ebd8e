# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""COCO files as exporters write them, through the build: no box is lost, and nothing is claimed that nobody knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from dataset_scripts.build import main


CATEGORIES = [{"id": 1, "name": "liver"}, {"id": 2, "name": "spleen"}]
IMAGES = [{"id": number, "file_name": f"{number}.png", "width": 60, "height": 40} for number in (1, 2)]
BOX: dict[str, Any] = {"category_id": 1, "bbox": [10, 8, 20, 15], "iscrowd": 0}
ANNOTATIONS = [{**BOX, "id": number, "image_id": number} for number in (1, 2)]
FILES = {"annotations": "boxes.json", "images": "images"}
Result = tuple[int, dict[str, list[str]], dict[str, list[str]], set[str]]


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(20, 200, (40, 60)).astype(np.uint8)


def build(
    folder: Path,
    *more: dict[str, Any],
    files: dict[str, Any] | None = None,
    location: str = "boxes.json",
    encode: Callable[[str], bytes] = str.encode,
    **content: Any,
) -> Result:
    """The exit status, the labels boxed and annotated in each image, and the rules of the report."""
    raw = folder / "raw"
    (raw / "images").mkdir(parents=True)
    for image in IMAGES:
        Image.fromarray(pixels(image["id"])).save(raw / "images" / image["file_name"])
    text = json.dumps({"images": IMAGES, "categories": CATEGORIES, "annotations": [*ANNOTATIONS, *more], **content})
    (raw / location).parent.mkdir(exist_ok=True)
    (raw / location).write_bytes(encode(text))
    recipe = {
        "source": "mine", "modality": "ultrasound", "layout": "coco", "files": files or FILES, "confirmed": True,
        "labels": {"liver": "liver", "spleen": "spleen"},
    }  # fmt: skip
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    out = folder / "set"
    status = main(["--recipe", str(folder / "mine.yaml"), "--raw", str(raw), "--out", str(out), "--no-previews"])
    return (status, *what_is_written(out))


def what_is_written(out: Path) -> tuple[dict[str, list[str]], dict[str, list[str]], set[str]]:
    boxes: dict[str, list[str]] = {}
    annotated: dict[str, list[str]] = {}
    for file in sorted(out.glob("coco/*/*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        for image in content["images"]:
            # Images are known again by their pixels: the build gives them other names.
            array = np.asarray(Image.open(next(file.parent.rglob(image["file_name"]))))
            name = next(str(entry["id"]) for entry in IMAGES if np.array_equal(array, pixels(entry["id"])))
            entries = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
            boxes[name] = sorted(names[entry["category_id"]] for entry in entries)
            annotated[name] = image.get("annotated", [])
    report = out / "quality" / "report.json"
    rules = set(json.loads(report.read_text(encoding="utf-8"))["rejected"]) if report.exists() else set()
    return boxes, annotated, rules


ALL = {"1": ["liver"], "2": ["liver"]}
BOTH = {"1": ["liver", "spleen"], "2": ["liver", "spleen"]}


@pytest.mark.parametrize("number", [0, None, "a", 1.5, [3], {"a": 1}])
def test_ids_of_annotations_are_not_used(tmp_path: Path, number: Any) -> None:
    status, boxes, annotated, rules = build(tmp_path, annotations=[{**entry, "id": number} for entry in ANNOTATIONS])
    assert (status, boxes, annotated, rules) == (0, ALL, BOTH, set())


def test_annotations_without_ids(tmp_path: Path) -> None:
    without = [{key: value for key, value in entry.items() if key != "id"} for entry in ANNOTATIONS]
    assert build(tmp_path, annotations=without) == (0, ALL, BOTH, set())


def test_a_byte_order_mark(tmp_path: Path) -> None:
    assert build(tmp_path, encode=lambda text: text.encode("utf-8-sig")) == (0, ALL, BOTH, set())


def test_ids_as_text_and_as_numbers_are_one(tmp_path: Path) -> None:
    mixed = [{**ANNOTATIONS[0], "category_id": "1"}, {**ANNOTATIONS[1], "image_id": "2"}]
    assert build(tmp_path, annotations=mixed) == (0, ALL, BOTH, set())


@pytest.mark.parametrize("number", ["0002", "2.0", " 2 ", 2.0])
def test_numbers_in_other_writings_are_one(tmp_path: Path, number: Any) -> None:
    mixed = [ANNOTATIONS[0], {**ANNOTATIONS[1], "image_id": number}]
    assert build(tmp_path, annotations=mixed) == (0, ALL, BOTH, set())


LOST = {**BOX, "category_id": 2}


@pytest.mark.parametrize("image", [None, "2.png", True, [2], 1e300, -2, ""])
def test_an_annotation_of_an_unknown_image_leaves_its_label_open(tmp_path: Path, image: Any) -> None:
    """It may be of any image that has no box of it."""
    valid = {**BOX, "category_id": 2, "image_id": 2}
    status, boxes, annotated, rules = build(tmp_path, valid, {**LOST, "image_id": image})
    assert (status, rules, boxes) == (1, {"bad_annotations"}, {"1": ["liver"], "2": ["liver", "spleen"]})
    assert annotated == {"1": ["liver"], "2": ["liver", "spleen"]}


def test_an_annotation_of_an_unknown_image_and_category_leaves_all_labels_open(tmp_path: Path) -> None:
    status, boxes, annotated, rules = build(tmp_path, {"bbox": [10, 8, 20, 15]})
    assert (status, boxes, annotated) == (1, ALL, {"1": ["liver"], "2": ["liver"]}) and "bad_annotations" in rules


def test_images_may_be_taken_out_of_the_list(tmp_path: Path) -> None:
    assert build(tmp_path, {**LOST, "image_id": 77}) == (1, ALL, BOTH, {"no_image"})


@pytest.mark.parametrize(
    "categories",
    [
        [{"id": 1, "name": "liver"}, {"id": 1, "name": "spleen"}],
        [{"id": 1, "name": "liver"}, {"id": "1", "name": "spleen"}],
        [{"id": 1}],
        [{"name": "liver"}],
        [3],
        {"1": "liver"},
        None,
    ],
)
def test_ambiguous_categories(tmp_path: Path, categories: Any) -> None:
    status, boxes, _, rules = build(tmp_path, categories=categories)
    assert status == 1 and not boxes and "bad_annotations" in rules


FLAT = [[96.65, 48.33, 96.65, 48.33, 97.68, 48.33, 97.68, 48.33]]
OPEN: list[tuple[dict[str, Any], str]] = [
    ({"segmentation": FLAT, "area": 0.0, "bbox": [6.65, 8.33, 1.03, 0.0]}, "bad_box"),
    ({"segmentation": FLAT, "bbox": None}, "bad_box"),
    ({"bbox": [10, 8, float("nan"), 5]}, "bad_box"),
    ({"bbox": [10, 8, 1e308, 5]}, "bad_box"),
    ({"bbox": [10, 8, 10**400, 5]}, "bad_box"),
    ({"bbox": [10, 8, -5, 5]}, "bad_box"),
    ({"bbox": [50, 8, 30, 5]}, "bad_box"),
    ({"bbox": ["10", "8", "5", "5"]}, "bad_annotations"),
    ({"bbox": [10, 8, 5]}, "bad_annotations"),
    ({"bbox": None, "keypoints": [10, 8, 2]}, "bad_annotations"),
    ({"bbox": [], "segmentation": [[1, 2, 3]]}, "bad_annotations"),
    ({"segmentation": {"size": [60, 40], "counts": [2400]}}, "size_mismatch"),
    ({"bbox": None, "segmentation": {"size": [40, 60], "counts": "T1d0\u00e9"}}, "bad_annotations"),
    ({"bbox": None, "segmentation": {"size": [40, 60], "counts": [3, 10**30]}}, "bad_annotations"),
]


@pytest.mark.parametrize(("change", "rule"), OPEN)
def test_what_is_not_understood_leaves_its_label_open(tmp_path: Path, change: dict[str, Any], rule: str) -> None:
    unknown = {"image_id": 1, "category_id": 2, "bbox": [5, 5, 9, 9], **change}
    status, boxes, annotated, rules = build(tmp_path, unknown)
    assert status == 1 and rule in rules <= {rule, "box_format"} and boxes == ALL
    assert annotated == {"1": ["liver"], "2": ["liver", "spleen"]}


def test_a_crowd_region_leaves_its_label_open(tmp_path: Path) -> None:
    crowd = {"image_id": 1, "category_id": 2, "iscrowd": 1, "segmentation": {"size": [40, 60], "counts": [9, 99]}}
    assert build(tmp_path, crowd) == (0, ALL, {**BOTH, "1": ["liver"]}, {"crowd_region"})


def test_run_lengths_as_a_list_may_leave_out_the_last_background(tmp_path: Path) -> None:
    mask = {"image_id": 1, "category_id": 2, "segmentation": {"size": [40, 60], "counts": [410, 20, 20, 20]}}
    assert build(tmp_path, mask) == (0, {**ALL, "1": ["liver", "spleen"]}, BOTH, set())


def test_an_unknown_category_may_be_any(tmp_path: Path) -> None:
    status, boxes, annotated, rules = build(tmp_path, {**BOX, "image_id": 1, "category_id": 9})
    assert (status, boxes, rules) == (1, ALL, {"undefined_label"}) and annotated["1"] == ["liver"]


def test_a_box_that_goes_a_little_beyond_its_image(tmp_path: Path) -> None:
    wide = {"image_id": 1, "category_id": 2, "bbox": [30, 5, 32, 9]}
    status, boxes, annotated, rules = build(tmp_path, wide)
    assert (status, boxes["1"], annotated, rules) == (0, ["liver", "spleen"], BOTH, {"clipped_box"})
    row = json.loads((tmp_path / "set" / "quality" / "rows.jsonl").read_text(encoding="utf-8"))
    assert row["value"] == "spleen: [30.0, 5.0, 62.0, 14.0] in 60x40" and row["case"]


def test_an_image_in_two_entries_keeps_the_annotations_of_both(tmp_path: Path) -> None:
    twice = [*IMAGES, {**IMAGES[0], "id": 7}]
    status, boxes, annotated, rules = build(tmp_path, {**BOX, "image_id": 7, "category_id": 2}, images=twice)
    assert (status, boxes["1"], annotated, rules) == (1, ["liver", "spleen"], BOTH, {"duplicate_id"})


def test_two_images_of_one_id_are_left_out(tmp_path: Path) -> None:
    status, boxes, _, rules = build(tmp_path, images=[IMAGES[0], {**IMAGES[1], "id": 1}])
    assert status == 1 and not boxes and "duplicate_id" in rules


@pytest.mark.parametrize("side", [0, -3, "60", 60.5, 1e999, True, [60]])
def test_images_with_invalid_sizes_are_rejected(tmp_path: Path, side: Any) -> None:
    status, boxes, _, rules = build(tmp_path, images=[IMAGES[0], {**IMAGES[1], "width": side}])
    assert (status, boxes, rules) == (1, {"1": ["liver"]}, {"bad_annotations"})


@pytest.mark.parametrize("name", ["x" * 5000, "\ud800.png", "a\0.png", " ", 3])
def test_names_that_no_file_can_have_cost_their_image(tmp_path: Path, name: Any) -> None:
    status, boxes, _, rules = build(tmp_path, images=[IMAGES[0], {**IMAGES[1], "file_name": name}])
    assert status == 1 and boxes == {"1": ["liver"]} and rules <= {"bad_annotations", "missing_file", "leaves_folder"}


@pytest.mark.parametrize("box", [[0.2, 0.2, 0.5, 0.5], [9, 9, 59, 39]])
def test_boxes_in_another_format_are_named(tmp_path: Path, box: list[float]) -> None:
    status, _, _, rules = build(tmp_path, annotations=[{**entry, "bbox": box} for entry in ANNOTATIONS])
    assert status == 1 and "box_format" in rules


@pytest.mark.parametrize("location", ["boxes.json", "annotations/boxes.json"])
def test_images_are_found_beside_the_file(tmp_path: Path, location: str) -> None:
    assert build(tmp_path, files={"annotations": location}, location=location)[:2] == (0, ALL)


def test_the_searched_folders_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, boxes, _, rules = build(tmp_path, files={**FILES, "images": "scans"})
    assert status == 1 and not boxes and rules == {"missing_file"}
    message = capsys.readouterr().err
    assert "mine: boxes.json: 2 of 2 images are missing: looked in scans of '.'" in message


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1000 + "]" * 1000,
        "[" * 100_000,
        '{"images": 1e999, "annotations": NaN, "categories": [1e999]}',
        '{"images": ' + "9" * 5000 + "}",
        '{"images": [], "annotations": [], "categories": [], "annotations": []}',
        '{"images": [], "categories": []}',
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
        "",
    ],
)
def test_a_file_that_is_not_coco_is_named(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, boxes, _, rules = build(tmp_path, encode=lambda _: text.encode("latin-1"))
    assert status == 1 and not boxes and rules == {"bad_annotations"}
    assert "warning: mine: boxes.json: is not a COCO file (" in capsys.readouterr().err
