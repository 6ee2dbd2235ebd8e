# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""COCO, Pascal VOC, YOLO and tables of boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from dataset_scripts.records import AnnotatedImage

from .reading import GRAY, MASK, read_all, reader, save


def coco(raw: Path, change: dict[str, Any] | None = None, **annotation: Any) -> tuple[list[Any], list[str]]:
    save(raw / "images" / "a.png", GRAY)
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 30, "height": 20}],
        "categories": [{"id": 7, "name": "polyp"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, **annotation}],
        **(change or {}),
    }
    (raw / "boxes.json").write_text(json.dumps(content), encoding="utf-8")
    return read_all(raw, "coco", {"annotations": "boxes.json", "images": "images"})


class TestCoco:
    def test_boxes(self, tmp_path: Path) -> None:
        (image,), _ = coco(tmp_path, bbox=[4, 3, 8, 5])
        assert isinstance(image, AnnotatedImage) and image.annotations[0].box == (4, 3, 12, 8)

    def test_run_lengths_and_polygons(self, tmp_path: Path) -> None:
        runs = coco_mask.encode(np.asfortranarray(MASK))
        for segmentation in (
            {"size": [20, 30], "counts": runs["counts"].decode()},
            {"size": [20, 30], "counts": [83, 5, *[15, 5] * 7, 372]},
            [[4, 3, 12, 3, 12, 8, 4, 8]],
        ):
            (image,), _ = coco(tmp_path, segmentation=segmentation)
            assert np.array_equal(image.annotations[0].mask, MASK == 1), segmentation

    @pytest.mark.parametrize(
        ("annotation", "rule"),
        [
            ({"segmentation": [[1, 2, 3, 4]]}, "bad_annotations"),
            ({"segmentation": [[1, 2, 3, 4, float("inf"), 5]]}, "bad_annotations"),
            ({"segmentation": [[1, 2, 3, 4, 1e9, 5]]}, "bad_annotations"),
            ({"segmentation": {"size": [5, 5], "counts": "0"}}, "size_mismatch"),
            ({"segmentation": {"size": [20, 30], "counts": 7}}, "bad_annotations"),
            ({"bbox": [1, 2]}, "bad_annotations"),
            ({}, "bad_annotations"),
        ],
    )
    def test_bad_annotations(self, tmp_path: Path, annotation: dict[str, Any], rule: str) -> None:
        ((annotation,),) = [image.annotations for image in coco(tmp_path, **annotation)[0]]
        assert (
            annotation.issue is not None
            and annotation.issue[0] == rule
            and annotation.mask is None
            and annotation.box is None
        )

    @pytest.mark.parametrize(
        ("image", "rule"),
        [
            ({"file_name": "../a.png"}, "leaves_folder"),
            ({"file_name": "b.png"}, "missing_file"),
            ({"file_name": "a.png", "width": 31, "height": 20}, "size_mismatch"),
        ],
    )
    def test_bad_images(self, tmp_path: Path, image: dict[str, Any], rule: str) -> None:
        read, listed = coco(tmp_path, {"images": [{"id": 1, **image}]}, bbox=[1, 1, 2, 2])
        assert rule in (*read, *listed) and not any(isinstance(one, AnnotatedImage) for one in read)

    def test_identifiers(self, tmp_path: Path) -> None:
        twice = [{"id": 1, "file_name": "a.png"}] * 2
        assert coco(tmp_path, {"images": twice}, bbox=[1, 1, 2, 2])[1] == ["duplicate_id"]
        assert coco(tmp_path, bbox=[1, 1, 2, 2], image_id=9)[1] == ["no_image"]
        (image,), _ = coco(tmp_path, bbox=[1, 1, 2, 2], category_id=9)
        assert image.annotations[0].label == "category 9"

    def test_splits_of_several_files(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            save(tmp_path / f"{name}.png", GRAY)
            content = {"images": [{"id": 1, "file_name": f"{name}.png"}], "categories": [], "annotations": []}
            (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")

        cases = reader(tmp_path, "coco", {"annotations": {"train": "a.json", "test": "b.json"}}).cases()
        assert [(case.key, case.split) for case in cases] == [("a.png", "train"), ("b.png", "test")]

    @pytest.mark.parametrize("text", ["{", "[]", '{"images": []}'])
    def test_invalid_coco_files(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "boxes.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="boxes.json: is not a COCO file"):
            read_all(tmp_path, "coco", {"annotations": "boxes.json"})


VOC = (
    "<annotation><size><width>30</width><height>20</height></size>"
    "<object><name>polyp</name><bndbox>{}</bndbox></object></annotation>"
)
VOC_BOX = "<xmin>5</xmin><ymin>4</ymin><xmax>12</xmax><ymax>8</ymax>"


def side_file(raw: Path, layout: str, text: str, **fields: Any) -> tuple[list[Any], list[str]]:
    save(raw / "images" / "a.png", GRAY)
    (raw / "a.txt").write_text(text, encoding="utf-8")
    return read_all(raw, layout, {"image": "images/*.png", "annotation": "{stem}.txt"}, **fields)


class TestVoc:
    def test_pixels_are_counted_from_one(self, tmp_path: Path) -> None:
        (image,), _ = side_file(tmp_path, "voc", VOC.format(VOC_BOX))
        assert (image.annotations[0].label, image.annotations[0].box) == ("polyp", (4, 3, 12, 8))

    @pytest.mark.parametrize(
        ("text", "rule"),
        [
            ("<annotation>", "bad_annotations"),
            ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "bad_annotations"),
            (VOC.format(VOC_BOX).replace("30", "31"), "size_mismatch"),
            (VOC.format("<xmin>x</xmin>"), "bad_annotations"),
        ],
    )
    def test_bad_files(self, tmp_path: Path, text: str, rule: str) -> None:
        assert side_file(tmp_path, "voc", text)[0] == [rule]

    def test_a_box_without_numbers_is_left_to_the_rules(self, tmp_path: Path) -> None:
        (image,), _ = side_file(tmp_path, "voc", VOC.format("<xmin>1</xmin>"))
        assert np.isnan(image.annotations[0].box[1])


class TestYolo:
    def test_boxes_and_polygons(self, tmp_path: Path) -> None:
        text = "0 0.5 0.5 0.2 0.1\n\n1 0.1 0.1 0.3 0.1 0.3 0.4\n"
        (image,), _ = side_file(tmp_path, "yolo", text, values={0: "polyp"})
        assert [annotation.label for annotation in image.annotations] == ["polyp", "value 1"]
        assert image.annotations[0].box == pytest.approx((12, 9, 18, 11))
        assert image.annotations[1].box == pytest.approx((3, 2, 9, 8))

    def test_a_polygon_with_an_invalid_number(self, tmp_path: Path) -> None:
        (image,), _ = side_file(tmp_path, "yolo", "0 0.1 0.1 nan 0.1 0.3 0.4\n", values={0: "polyp"})
        assert np.isnan(image.annotations[0].box).all()

    @pytest.mark.parametrize("text", ["0 0.5", "x 0.5 0.5 0.2 0.1", "0 a b c d"])
    def test_bad_lines(self, tmp_path: Path, text: str) -> None:
        assert side_file(tmp_path, "yolo", text)[0] == ["bad_annotations"]

    def test_unmatched_files(self, tmp_path: Path) -> None:
        save(tmp_path / "images" / "b.png", GRAY)
        (tmp_path / "c.txt").touch()
        assert sorted(side_file(tmp_path, "yolo", "")[1]) == ["no_image", "no_mask"]


class TestCsv:
    def table(self, raw: Path, text: str, **columns: Any) -> tuple[list[Any], list[str]]:
        Image.fromarray(GRAY).save(raw / "p1.png")
        (raw / "boxes.csv").write_text(text, encoding="utf-8")
        names = {"id": "name", "label": "finding", "box": ["x", "y", "w", "h"], **columns}
        return read_all(raw, "csv_boxes", {"table": "boxes.csv", "image": "{id}.png", "columns": names})

    @pytest.mark.parametrize(
        ("form", "numbers"), [("xyxy", "3,4,9,10"), ("xywh", "3,4,6,6"), ("shares", "0.1,0.2,0.3,0.5")]
    )
    def test_forms(self, tmp_path: Path, form: str, numbers: str) -> None:
        (image,), _ = self.table(tmp_path, f"name,finding,x,y,w,h\np1,mass,{numbers}\np1,mass,,,,\n", form=form)
        assert len(image.annotations) == 1 and image.annotations[0].box == pytest.approx((3, 4, 9, 10))

    def test_bad_tables(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="boxes.csv: KeyError"):
            self.table(tmp_path, "other\n1\n")
        for row in ("p1,mass,a,b,c,d", "p1,mass,1,2", "p1"):
            (image,), _ = self.table(tmp_path, f"name,finding,x,y,w,h\n{row}\n")
            assert image.annotations[0].issue[0] == "bad_annotations" and image.annotations[0].box is None
        assert self.table(tmp_path, "name,finding,x,y,w,h\n,mass,1,2,3,4\n") == ([], ["bad_annotations"])
        table = "name,finding,x,y,w,h\np1,mass,1,2,3,4\n,mass,1,2,3,4\n,nodule,1,2,3,4\n"
        (image,), _ = self.table(tmp_path, table)  # there may be a nodule in it
        assert [(annotation.label, annotation.box is None) for annotation in image.annotations] == [
            ("mass", False),
            ("nodule", True),
        ]
        with pytest.raises(ValueError, match="boxes.csv: Error"):  # it would swallow the rows after it
            self.table(tmp_path, 'name,finding,x,y,w,h\n"p1,mass,1,2,3,4\np1,mass,1,2,3,4\n')
        assert self.table(tmp_path, "name,finding,x,y,w,h\n../p1,mass,1,2,3,4\n")[0] == ["leaves_folder"]
