# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""COCO files as people and their tools write them: what is read all the same, and what is refused by name."""

from __future__ import annotations

import io
import json
import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from dataset_scripts.readers.coco import coco_annotation
from modeling_medglip.io import coco
from modeling_medglip.io.text_files import read_json
from training.data.coco_entries import BUILT, image_annotations
from training.data.coco_records import decode_upright, read_image_file
from training.data.load import load_records
from training.data.records import GroundingRecord
from training.fit.arguments import FinetuneArguments
from training.fit.run_data import load_data

from ..tiny_data import make_data


SIZE = (30, 20)
LIVER, SPLEEN = {"category_id": 1, "bbox": [1, 2, 3, 4]}, {"category_id": 2, "bbox": [9, 9, 5, 5]}
Change = Callable[[dict[str, Any]], Any]


def write(folder: Path, entries: list[dict[str, Any]], change: Change | None = None, **image: Any) -> Path:
    """One image with these annotations; `change` gets the content before it is written."""
    content: dict[str, Any] = {
        "images": [{"id": 5, "file_name": "a.png", "width": SIZE[0], "height": SIZE[1], **image}],
        "categories": [{"id": 1, "name": "liver"}, {"id": 2, "name": "spleen"}, {"id": 3, "name": "left kidney"}],
        "annotations": [{"id": number, "image_id": 5, **entry} for number, entry in enumerate(entries)],
    }
    if change:
        change(content)
    (folder / "list.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "list.json"


def read(folder: Path, entries: list[dict[str, Any]], change: Change | None = None, **image: Any) -> GroundingRecord:
    (item,) = load_records(write(folder, entries, change, **image), "ct")
    return item


def categories(*entries: dict[str, Any]) -> Change:
    return lambda content: content.update(categories=list(entries), annotations=[])


class TestAnnotated:
    def test_a_box_of_what_is_not_annotated(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"^list.json: 'a.png' has a box of 'spleen', which its annotated leaves"):
            read(tmp_path, [LIVER, SPLEEN], annotated=["liver"])

    def test_a_name_that_is_not_a_category(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"^list.json: annotated of 'a.png' has 'Liver', which is not a category"):
            read(tmp_path, [], annotated=["spleen", "Liver"])

    def test_files_of_the_builder_leave_labels_open(self, tmp_path: Path) -> None:
        built = {"description": f"{BUILT}, ct, train", "version": "1"}
        item = read(tmp_path, [LIVER, SPLEEN], lambda content: content.update(info=built), annotated=["liver"])
        assert item.labels == item.annotated == ("liver",) and item.boxes.tolist() == [[1, 2, 4, 6]]

    def test_the_builder_still_writes_what_it_is_known_by(self) -> None:
        import dataset_scripts.merge

        assert f'f"{BUILT}, {{modality}}' in Path(dataset_scripts.merge.__file__).read_text(encoding="utf-8")


class TestUnusableAnnotations:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"iscrowd": 1}, "1 crowd regions"),
            ({"bbox": [3, 3, 0, 4]}, "1 boxes without an area"),
            ({"bbox": [3, 3, 4, 0.0]}, "1 boxes without an area"),
            ({"bbox": [30, 3, 4, 4]}, "1 boxes without an area"),
            ({"bbox": [-9, -9, 4, 4]}, "1 boxes without an area"),
            ({"bbox": None, "segmentation": [[3, 3, 9, 3, 5, 3]]}, "1 boxes without an area"),
        ],
    )
    def test_their_label_is_open(
        self, change: dict[str, Any], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        item = read(tmp_path, [LIVER, SPLEEN, {**SPLEEN, **change}])
        assert item.labels == ("liver",) and item.annotated == ("left kidney", "liver") and len(item.boxes) == 1
        (message,) = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]
        assert message.startswith(f"list.json: left out {reason}") and message.endswith("the first in a.png")

    def test_one_warning_a_file_with_all_counts(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        crowd, flat = {**LIVER, "iscrowd": 1}, {**SPLEEN, "bbox": [1, 1, 0, 0]}
        assert read(tmp_path, [crowd, crowd, flat, {**SPLEEN, "iscrowd": 0}]).annotated == ("left kidney",)
        (message,) = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]
        assert "2 crowd regions and 1 boxes without an area" in message

    def test_a_lung_that_is_open_leaves_the_box_round_both_open(self, tmp_path: Path) -> None:
        names = ["left lung", "right lung", "lung"]
        rename: Change = lambda content: content.update(  # noqa: E731
            categories=[{"id": number + 1, "name": name} for number, name in enumerate(names)]
        )
        item = read(tmp_path, [{**LIVER, "bbox": [1, 1, 0, 0]}], rename)
        assert item.labels == () and item.annotated == ()

    def test_without_such_annotations_nothing_is_logged(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        read(tmp_path, [LIVER, {**SPLEEN, "bbox": [20, 9, 11, 12]}])
        assert not caplog.records

    def test_a_box_that_goes_a_little_beyond_its_image(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        item = read(tmp_path, [LIVER, {**SPLEEN, "bbox": [5, 9, 27, 4]}])
        assert item.boxes.tolist() == [[1, 2, 4, 6], [5, 9, 30, 13]]
        assert "1 boxes go beyond their image and are clipped, the first [5.0, 9.0, 27.0, 4.0] in 30x20 in a.png" in (
            caplog.text
        )

    def test_a_category_that_is_not_there_may_be_any(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        item = read(tmp_path, [LIVER, {**SPLEEN, "category_id": 9}])
        assert item.labels == item.annotated == ("liver",)
        assert "1 annotations of an unknown category" in caplog.text

    def test_ids_as_text_and_as_numbers_are_one(self, tmp_path: Path) -> None:
        item = read(tmp_path, [{**LIVER, "category_id": "1", "image_id": "5"}, {**SPLEEN, "category_id": 2.0}])
        assert item.labels == ("liver", "spleen")

    def test_entries_of_one_file_share_their_annotations(self, tmp_path: Path) -> None:
        def twice(content: dict[str, Any]) -> None:
            content["images"].append({**content["images"][0], "id": 6})
            content["annotations"][1]["image_id"] = 6

        assert read(tmp_path, [LIVER, SPLEEN], twice).labels == ("liver", "spleen")

    def test_images_that_cannot_be_distinguished_are_left_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def same_id(content: dict[str, Any]) -> None:
            image = content["images"][0]
            content["images"] += [{**image, "file_name": "b.png"}, {**image, "id": 6, "file_name": "c.png"}]

        item = read(tmp_path, [LIVER], same_id)
        assert item.image_id == "c.png" and not item.labels and "in several entries: 1 of them" in caplog.text


class TestOtherFormats:
    @pytest.mark.parametrize(
        ("box", "message"),
        [
            ([0.2, 0.2, 0.5, 0.5], "shares of the image"),
            ([9, 9, 29, 19], "two corners"),
            ([1, 1, 4, 4], ""),
            ([4, 2, 29, 12], "two corners"),
            ([9, 2, 8, 19], ""),
        ],
    )
    def test_boxes_that_look_like_another_format_are_named(
        self, box: list[float], message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        read(tmp_path, [{**LIVER, "bbox": box}])
        assert (message in caplog.text) if message else not caplog.records

    def test_images_without_boxes_say_nothing_of_their_format(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def more(content: dict[str, Any]) -> None:
            image = content["images"][0]
            content["images"] += [{**image, "id": 100 + n, "file_name": f"{n}.png"} for n in range(20)]

        load_records(write(tmp_path, [{**LIVER, "bbox": [0.2, 0.2, 0.5, 0.5]}], more), "ct")
        assert "boxes of 1 images have sides under 2 pixels" in caplog.text

    def test_a_image_that_is_turned_by_its_exif_tag(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 2  # a flipped image
        Image.new("L", SIZE).save(tmp_path / "a.jpg", exif=exif)
        with pytest.raises(ValueError, match="a.jpg: is turned by its EXIF orientation, .* save it upright"):
            read_image_file(tmp_path / "a.jpg", SIZE)
        exif[0x0112] = 1
        Image.new("L", SIZE).save(tmp_path / "a.jpg", exif=exif)
        assert read_image_file(tmp_path / "a.jpg", SIZE).shape == SIZE[::-1]


class TestPatients:
    def test_a_number_is_a_name(self, tmp_path: Path) -> None:
        assert read(tmp_path, [], patient=0).patient == "0"
        assert read(tmp_path, [], patient=" ", patient_id=7).patient == "7"
        assert read(tmp_path, []).patient == "a.png"

    def test_the_source_is_the_folder_that_tells_data_apart(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "clinic" / "annotations"
        folder.mkdir(parents=True)
        file = write(folder, [LIVER])
        assert load_records(file, "ct")[0].source == "clinic"
        monkeypatch.chdir(folder)
        assert load_records(file.name, "ct")[0].source == "clinic"
        assert read(folder, [LIVER], source="other").source == "other"

    def test_a_link_lies_where_it_lies(self, tmp_path: Path) -> None:
        for name in ("clinic", "store"):
            (tmp_path / name).mkdir()
        write(tmp_path / "store", [LIVER])
        (tmp_path / "clinic" / "list.json").symlink_to(tmp_path / "store" / "list.json")
        assert load_records(tmp_path / "clinic" / "list.json", "ct")[0].source == "clinic"


class TestCategories:
    def test_a_label_is_one_line_and_no_page(self, tmp_path: Path) -> None:
        assert read(tmp_path, [], categories({"id": 1, "name": " my\n polyp "})).annotated == ("my polyp",)
        persian = "\u06a9\u0644\u06cc\u0647\u200c\u0686\u067e"  # its joiner is a part of the word
        assert read(tmp_path, [], categories({"id": 1, "name": persian})).annotated == (persian,)
        with pytest.raises(ValueError, match="is too long: give it at most 200 letters"):
            read(tmp_path, [], categories({"id": 1, "name": "x" * 201}))

    @pytest.mark.parametrize(
        ("entries", "error"),
        [
            ([], "has no categories: list the labels"),
            ([{"id": 1}], "category '1' has no name"),
            ([{"id": 1, "name": " "}], "category '1' has no name"),
            ([{"id": 1, "name": None}], "category '1' has no name"),
            ([{"id": 1, "name": "liver"}, {"id": 1, "name": "spleen"}], "two categories have the id '1'"),
            ([{"id": 1, "name": "liver"}, {"id": 2, "name": "Liver"}], "'liver' and 'Liver': give them one name"),
            ([{"id": 1, "name": "liver"}, {"id": 2, "name": "liver "}], "'liver' and 'liver': give them one name"),
            ([{"id": 1, "name": "left lung"}, {"id": 2, "name": "left  lung"}], "give them one name"),
            ([{"id": "\x1b[2J" * 90}], "has no name"),
            ([{"id": 1, "name": "red \x1b[31mlabel"}], "has the character U\\+001B: take it out"),
            ([{"id": 1, "name": "a\u202eb"}], "has the character U\\+202E: take it out"),
        ],
    )
    def test_refused(self, entries: list[dict[str, Any]], error: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=error) as caught:
            read(tmp_path, [], categories(*entries))
        text = str(caught.value)
        assert text.startswith("list.json: ") and text.isprintable() and len(text) < 200

    def test_annotations_of_one_id_are_all_read(self, tmp_path: Path) -> None:
        """CVAT and others wrote 0 everywhere, or began anew in every image."""
        assert read(tmp_path, [{**LIVER, "id": 0}, {**SPLEEN, "id": 0}]).labels == ("liver", "spleen")


class TestBoxes:
    @pytest.mark.parametrize("missing", [{}, {"bbox": []}, {"bbox": None}])
    def test_round_polygons(self, missing: dict[str, Any], tmp_path: Path) -> None:
        shape = {"segmentation": [[3, 4, 9, 4, 6, 8.5], [12, 5, 15, 6, 14, 11]]}
        assert read(tmp_path, [{"category_id": 1, **missing, **shape}]).boxes.tolist() == [[3, 4, 15, 11]]

    def test_round_run_lengths(self, tmp_path: Path) -> None:
        mask = np.zeros(SIZE[::-1], np.uint8, order="F")
        mask[4:11, 3:15] = 1
        runs = coco_mask.encode(mask)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order="F"), [0]])))
        plain = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
        for counts in (runs["counts"].decode(), plain):
            shape = {"size": [20, 30], "counts": counts}
            assert read(tmp_path, [{"category_id": 1, "segmentation": shape}]).boxes.tolist() == [[3, 4, 15, 11]]

    @pytest.mark.parametrize(
        "shape",
        [
            [], {}, None, [[1, 2, 3]], [[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 5, 6, 7]], [[1, 2, 3, 4, 5, float("nan")]],
            [1, 2, 3, 4, 5, 6], {"size": [30, 20], "counts": [600]}, {"size": [20, 30], "counts": [3, 4000]},
            {"size": [20, 30], "counts": [3, -4]}, {"size": [20, 30], "counts": "ZzZzZz"}, {"size": 3, "counts": "a"},
        ],
    )  # fmt: skip
    def test_segmentations_that_are_none(self, shape: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        item = read(tmp_path, [{"category_id": 1, "segmentation": shape}, SPLEEN])
        assert item.labels == ("spleen",) and "liver" not in item.annotated
        assert "left out 1 invalid annotations" in caplog.text

    @pytest.mark.parametrize("shape", [[], [[]], {}, [[1, 2, 3]], {"size": [20, 30], "counts": "Zz"}, "a.png"])
    def test_a_box_is_used_without_a_segmentation(self, shape: Any, tmp_path: Path) -> None:
        assert read(tmp_path, [{**LIVER, "segmentation": shape}]).boxes.tolist() == [[1, 2, 4, 6]]

    def test_run_lengths_of_another_size_make_the_box_doubtful(self, tmp_path: Path) -> None:
        item = read(tmp_path, [{**LIVER, "segmentation": {"size": [40, 60], "counts": [5, 5]}}])
        assert not item.labels and "liver" not in item.annotated


class TestImages:
    @pytest.mark.parametrize("side", [None, 0, -3, True, "30", 30.5, float("nan"), float("inf"), 10**400, [30]])
    @pytest.mark.parametrize("name", ["width", "height"])
    def test_sizes_that_are_none(self, name: str, side: Any, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="^list.json: width and height of 'a.png' must be whole numbers above 0"):
            read(tmp_path, [LIVER], **{name: side})

    def test_a_size_or_name_that_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="width and height of 'a.png' must be"):
            read(tmp_path, [LIVER], lambda content: content["images"][0].pop("width"))
        with pytest.raises(ValueError, match="no labeled images of ct"):
            read(tmp_path, [LIVER], lambda content: content["images"][0].pop("file_name"))

    def test_whole_numbers_with_a_point(self, tmp_path: Path) -> None:
        assert read(tmp_path, [LIVER], width=30.0).size == SIZE

    def test_an_unknown_modality_names_the_file(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="^list.json: unknown modality 'tomato'"):
            read(tmp_path, [LIVER], modality="tomato")

    def test_a_byte_order_mark(self, tmp_path: Path) -> None:
        path = write(tmp_path, [LIVER])
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        for data in (path, tmp_path):
            assert [item.labels for item in load_records(data, "ct")] == [("liver",)]

    @pytest.mark.parametrize("text", ["[" * 200_000, '{"images": ' + "9" * 5000 + "}"])
    def test_json_that_python_refuses(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "list.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="^list.json: is not a COCO file"):
            load_records(tmp_path / "list.json", "ct")


def tiff(values: np.ndarray, kind: int) -> bytes:
    """A plain little-endian TIFF; `kind` is 1 for unsigned, 2 for signed. Pillow reads more types than it writes."""
    data, (height, width), bits = values.tobytes(), values.shape, 8 * values.itemsize
    short = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: 1,
        273: 8,
        277: 1,
        278: height,
        279: len(data),
        339: kind,
    }
    tags = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in short.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(short)) + tags + bytes(4)


class TestIntegers:
    @pytest.mark.parametrize(
        ("values", "kind"),
        [
            (np.array([[-1, 7]], "<i2"), 2), (np.array([[-5, 7]], "<i4"), 2), (np.array([[0, 65536]], "<i4"), 2),
            (np.array([[0, 2**32 - 1]], "<u4"), 1), (np.array([[0, 70000]], "<u4"), 1),
        ],
    )  # fmt: skip
    def test_outside_16_bits(self, values: np.ndarray, kind: int, tmp_path: Path) -> None:
        (tmp_path / "a.tif").write_bytes(tiff(values, kind))
        with pytest.raises(ValueError, match=r"^a.tif: has values outside 16 bits"):
            read_image_file(tmp_path / "a.tif", (2, 1))

    @pytest.mark.parametrize("code", ["<i4", "<u4", "<u2", "<i2"])
    def test_inside(self, code: str) -> None:
        values = np.array([[0, 32767 if code == "<i2" else 65535]], code)
        pixels = decode_upright(io.BytesIO(tiff(values, 1 if "u" in code else 2)), (2, 1))
        assert pixels.dtype == np.uint16 and np.array_equal(pixels, values)

    def test_deep_png(self) -> None:
        stream = io.BytesIO()
        Image.fromarray(np.array([[0, 65535]], np.uint16)).save(stream, "PNG")
        assert decode_upright(stream, (2, 1)).tolist() == [[0, 65535]]


def test_a_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large files take long."""
    parsed: list[str] = []

    def counted(path: Path, *limits: int) -> Any:
        parsed.append(path.name)
        return read_json(path, *limits)

    monkeypatch.setattr(coco, "read_json", counted)
    data = make_data(tmp_path)
    assert load_records(data, "ct") and sorted(parsed) == ["train.json", "validation.json"]
    parsed.clear()
    load_data(FinetuneArguments(str(data), "ct"))
    assert sorted(parsed) == ["train.json", "validation.json"]


def test_a_crowd_region_has_one_rule_in_training_and_in_the_data_build() -> None:
    """Its label is unknown in the image, and so is the label of a box of no category."""
    crowd = {"bbox": [1, 1, 5, 5], "iscrowd": 1, "label": "liver"}
    usable = image_annotations([crowd], (20, 20))
    assert usable.labels == [] and usable.unknown({"liver", "spleen"}) == {"liver"}
    built = coco_annotation(crowd, 20, 20)
    assert (
        built.label == "liver"
        and built.mask is None
        and built.box is None
        and built.issue == ("crowd_region", "of several objects")
    )
