# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""EXIF orientation in every reader of the data build, and in training: annotations turn with their image, or the file
is left out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dataset_scripts.records import AnnotatedImage
from modeling_medglip.io.image_orientation import upright, upright_boxes
from training.data.load import load_records
from training.data.records import readable

from .reading import read_all


STORED_SIZE = (30, 20)
BOX = (4.0, 3.0, 12.0, 8.0)
TURNED, DOUBTFUL = (5, 6, 7, 8), (2, 3, 4)
MASK = np.zeros(STORED_SIZE[::-1], np.uint8)
MASK[3:8, 4:12] = 1
GRAY = np.random.default_rng(0).integers(0, 256, MASK.shape).astype(np.uint8)


def save(path: Path, array: np.ndarray, orientation: int | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    exif = image.getexif()
    if orientation is not None:
        exif[0x0112] = orientation
    image.save(path, exif=exif)


def right_box(orientation: int, stated: tuple[int, int]) -> list[float]:
    """The upright box, of one that was drawn on the image of a stated size."""
    if stated != STORED_SIZE:
        return list(BOX)
    return upright_boxes(np.array([BOX]), orientation, STORED_SIZE)[0].tolist()


def found_box(result: list[Any], orientation: int) -> list[float]:
    (image,) = result
    assert isinstance(image, AnnotatedImage), image
    assert np.array_equal(image.pixels, upright(GRAY, orientation))
    (annotation,) = image.annotations
    assert annotation.box is not None
    return list(annotation.box)


def coco(folder: Path, stated: tuple[int, int], **annotation: Any) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": stated[0], "height": stated[1]}],
        "categories": [{"id": 1, "name": "liver"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **annotation}],
    }
    (folder / "list.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "list.json"


XYWH = {"bbox": [4, 3, 8, 5]}
POLYGON = {"segmentation": [[4, 3, 12, 3, 12, 8, 4, 8]], **XYWH}


class TestCoco:
    @pytest.mark.parametrize("orientation", TURNED)
    @pytest.mark.parametrize("stated", [STORED_SIZE, STORED_SIZE[::-1]])
    def test_boxes_turn_in_build_and_training(self, tmp_path: Path, orientation: int, stated: tuple[int, int]) -> None:
        save(tmp_path / "a.png", GRAY, orientation)
        listed = coco(tmp_path, stated, **XYWH)
        result, _ = read_all(tmp_path, "coco", {"annotations": "list.json"})
        assert found_box(result, orientation) == right_box(orientation, stated)
        (record,) = load_records(listed, "ct")
        assert np.array_equal(record.load(), upright(GRAY, orientation)) and record.size == STORED_SIZE[::-1]
        assert record.boxes.tolist() == [right_box(orientation, stated)]

    @pytest.mark.parametrize("orientation", TURNED)
    def test_polygons_turn(self, tmp_path: Path, orientation: int) -> None:
        save(tmp_path / "a.png", GRAY, orientation)
        coco(tmp_path, STORED_SIZE, **POLYGON)
        ((image,), _) = read_all(tmp_path, "coco", {"annotations": "list.json"})
        assert isinstance(image, AnnotatedImage)
        assert np.array_equal(image.annotations[0].mask, upright(MASK == 1, orientation))

    @pytest.mark.parametrize("orientation", DOUBTFUL)
    def test_what_cannot_be_decided_is_left_out(
        self, tmp_path: Path, orientation: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        save(tmp_path / "a.png", GRAY, orientation)
        listed = coco(tmp_path, STORED_SIZE, **XYWH)
        assert read_all(tmp_path, "coco", {"annotations": "list.json"})[0] == ["exif_orientation"]
        broken: dict[str, str] = {}
        with caplog.at_level(logging.WARNING):
            assert readable(load_records(listed, "ct"), broken) == []
        assert "a.png" in broken and "a.png: is turned by its EXIF orientation" in caplog.text
        assert "save it upright" in caplog.text

    def test_another_size(self, tmp_path: Path) -> None:
        save(tmp_path / "a.png", GRAY, 6)
        listed = coco(tmp_path, (31, 20), **XYWH)
        assert read_all(tmp_path, "coco", {"annotations": "list.json"})[0] == ["size_mismatch"]
        with pytest.raises(ValueError, match="a.png: is 20x30, its entry says 31x20"):
            load_records(listed, "ct")[0].load()


VOC = "<a>{}<object><name>liver</name><bndbox>{}</bndbox></object></a>"
CORNERS = "<xmin>5</xmin><ymin>4</ymin><xmax>12</xmax><ymax>8</ymax>"


class TestVoc:
    FILES = {"image": "*.png", "annotation": "{stem}.xml"}

    @pytest.mark.parametrize("orientation", TURNED)
    @pytest.mark.parametrize("stated", [STORED_SIZE, STORED_SIZE[::-1]])
    def test_size_decides(self, tmp_path: Path, orientation: int, stated: tuple[int, int]) -> None:
        save(tmp_path / "a.png", GRAY, orientation)
        size = f"<size><width>{stated[0]}</width><height>{stated[1]}</height></size>"
        (tmp_path / "a.xml").write_text(VOC.format(size, CORNERS))
        assert found_box(read_all(tmp_path, "voc", self.FILES)[0], orientation) == right_box(orientation, stated)

    @pytest.mark.parametrize("orientation", [*TURNED, *DOUBTFUL])
    def test_without_a_size(self, tmp_path: Path, orientation: int) -> None:
        save(tmp_path / "a.png", GRAY, orientation)
        (tmp_path / "a.xml").write_text(VOC.format("", CORNERS))
        assert read_all(tmp_path, "voc", self.FILES)[0] == ["exif_orientation"]


@pytest.mark.parametrize("orientation", [*TURNED, *DOUBTFUL])
def test_formats_without_sizes_are_left_out(tmp_path: Path, orientation: int) -> None:
    save(tmp_path / "a.png", GRAY, orientation)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.2 0.2")
    files: dict[str, Any] = {"image": "*.png", "annotation": "{stem}.txt"}
    assert read_all(tmp_path, "yolo", files, values={0: "liver"})[0] == ["exif_orientation"]
    (tmp_path / "t.csv").write_text("id,label,a,b,c,d\na,liver,4,3,12,8\n")
    columns = {"id": "id", "label": "label", "box": ["a", "b", "c", "d"]}
    files = {"table": "t.csv", "image": "{id}.png", "columns": columns}
    assert read_all(tmp_path, "csv_boxes", files)[0] == ["exif_orientation"]
    manifest = {"images": [{"image": "a.png", "objects": [{"label": "liver", "bbox_xywh": [4, 3, 8, 5]}]}]}
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    assert read_all(tmp_path, "manifest", {"manifest": "m.json"})[0] == ["exif_orientation"]


class TestMasks:
    FILES = {"image": "images/*.png", "mask": "masks/{stem}.png", "label": "liver"}

    def read(self, folder: Path) -> Any:
        (result,) = read_all(folder, "mask_folder", self.FILES)[0]
        return result

    @pytest.mark.parametrize("orientation", [*DOUBTFUL, *TURNED])
    def test_a_mask_with_the_same_orientation(self, tmp_path: Path, orientation: int) -> None:
        save(tmp_path / "images" / "a.png", GRAY, orientation)
        save(tmp_path / "masks" / "a.png", MASK, orientation)
        result = self.read(tmp_path)
        assert np.array_equal(result.pixels, upright(GRAY, orientation))
        assert np.array_equal(result.annotations[0].mask, upright(MASK == 1, orientation))

    @pytest.mark.parametrize("orientation", TURNED)
    @pytest.mark.parametrize("turned", [False, True])
    def test_a_mask_without_an_orientation(self, tmp_path: Path, orientation: int, turned: bool) -> None:
        save(tmp_path / "images" / "a.png", GRAY, orientation)
        save(tmp_path / "masks" / "a.png", upright(MASK, orientation) if turned else MASK, None)
        assert np.array_equal(self.read(tmp_path).annotations[0].mask, upright(MASK == 1, orientation))

    @pytest.mark.parametrize(("image", "mask"), [(2, None), (3, None), (4, None), (6, 8), (None, 3), (None, 6)])
    def test_what_cannot_be_decided(self, tmp_path: Path, image: int | None, mask: int | None) -> None:
        save(tmp_path / "images" / "a.png", GRAY, image)
        save(tmp_path / "masks" / "a.png", MASK, mask)
        assert self.read(tmp_path) == "exif_orientation"

    def test_a_label_map_of_two_bits(self, tmp_path: Path) -> None:
        save(tmp_path / "images" / "a.png", GRAY, None)
        (tmp_path / "masks").mkdir()
        Image.fromarray(MASK).save(tmp_path / "masks" / "a.png", bits=2)
        files = {"image": "images/*.png", "mask": "masks/{stem}.png"}
        ((result,), _) = read_all(tmp_path, "mask_folder", files, values={1: "liver"})
        assert isinstance(result, AnnotatedImage) and [annotation.label for annotation in result.annotations] == [
            "liver"
        ]
