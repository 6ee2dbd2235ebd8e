# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Results: as text, as data of other libraries, as `*.boxes.json` files; and the names of output files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from modeling_medglip.errors import MedGlipError
from modeling_medglip.io.image_record import ReadImage
from modeling_medglip.outputs.files import (
    canonical_path,
    fold_name,
    output_names,
    output_stems,
    safe_stem,
    to_json,
    write_bytes,
)
from modeling_medglip.outputs.overlay import PALETTE
from modeling_medglip.outputs.results import (
    GroundedBox,
    GroundingResult,
    ImageInfo,
    read_boxes,
    validate_boxes,
    write_boxes,
)
from modeling_medglip.outputs.volume_results import VolumeBox, VolumeInfo, VolumeResult


RESULT = GroundingResult(
    model="med-glip-unified",
    image=ImageInfo("scan.dcm", 100, 50, "ct", (0.5, 0.75)),
    prompt="Liver. new thing",
    boxes=(
        GroundedBox("Liver", 0.91237, (1.0, 2.0, 30.123456, 40.0), "liver", "abdomen_liver", "abdomen"),
        GroundedBox("new thing", 0.5, (0.0, 0.0, 100.0, 50.0)),
    ),
    warnings=("not stored",),
)


def test_content_is_the_schema_exactly() -> None:
    content = RESULT.to_dict()
    assert content == {
        "schema": "medglip/boxes@1",
        "model": "med-glip-unified",
        "image": {"file": "scan.dcm", "width": 100, "height": 50, "modality": "ct", "spacing_mm": [0.5, 0.75]},
        "prompt": "Liver. new thing",
        "boxes": [
            {
                "label": "Liver", "score": 0.9124, "bbox": [1.0, 2.0, 30.12, 40.0],
                "label_id": "liver", "category": "abdomen_liver", "region": "abdomen", "size_mm": [15.06, 30.0],
            },
            {
                "label": "new thing", "score": 0.5, "bbox": [0.0, 0.0, 100.0, 50.0],
                "label_id": None, "category": None, "region": None, "size_mm": [50.0, 37.5],
            },
        ],
    }  # fmt: skip
    assert list(content) == ["schema", "model", "image", "prompt", "boxes"]


def test_print_is_a_table() -> None:
    asked = replace(RESULT, trained={"Liver": True, "new thing": False, "spleen": True})
    untrained = replace(asked, boxes=(asked.boxes[0], replace(asked.boxes[1], trained=False)))
    assert str(untrained) == "\n".join(
        [
            "scan.dcm  [ct, 100x50]",
            "label                    score    x    y  width  height  size, mm",
            "Liver                     0.91  1.0  2.0   30.1    40.0     15 30",
            "new thing (not trained)   0.50  0.0  0.0  100.0    50.0     50 38",
            "not found: spleen",
        ]
    )
    assert str(replace(RESULT, boxes=())).splitlines()[1:] == ["nothing found above the threshold"]
    many = replace(RESULT, trained=dict.fromkeys(map(str, range(1000)), False), boxes=())
    assert str(many).splitlines()[-1].endswith(", 98, 99, and 900 more")
    assert "boxes=" in repr(RESULT)
    named = replace(RESULT, boxes=(GroundedBox("<b>", 0.5, (0, 0, 1, 1)),))
    assert "&lt;b&gt;" in named._repr_html_() and "<b>" not in named._repr_html_()


def test_print_of_a_volume() -> None:
    corners = tuple((float(x), float(y), float(z)) for z in (0, 30) for y in (0, 20) for x in (0, 10))
    box = VolumeBox("liver", 0.876, (0, 0, 0, 10, 20, 30), corners, "axial", 7, label_id="liver", trained=True)
    info = VolumeInfo("scan.nii.gz", (64, 48, 30), (1.0, 1.0, 1.0), "ct")
    result = VolumeResult("m", info, "liver. spleen", (box,), trained={"liver": True, "spleen": True})
    assert str(result).splitlines() == [
        "scan.nii.gz  [ct, 64x48x30]",
        "label  score  center, LPS mm  size, LR AP HF mm  slices",
        "liver   0.88         5 10 15           10 20 30       7",
        "not found: spleen",
    ]
    first, second = result.to_rows()
    assert (first["box_ijk"], first["center_lps_mm"]) == ([0, 0, 0, 10, 20, 30], [5, 10, 15])
    assert second["label"] == "spleen" and second["found"] is False


def test_old_name_of_the_center() -> None:
    corners = tuple((float(x), float(y), float(z)) for z in (0, 30) for y in (0, 20) for x in (0, 10))
    with pytest.warns(FutureWarning, match="is now center_lps_mm; the old name goes with the next release"):
        assert VolumeBox("liver", 0.9, (0, 0, 0, 1, 1, 1), corners, "axial", 1).centre_lps_mm == (5, 10, 15)


def test_coco() -> None:
    content = replace(RESULT, trained={"spleen": True, "Liver": True, "new thing": False}).to_coco(image_id=7)
    assert content["categories"] == [
        {"id": 1, "name": "spleen"},
        {"id": 2, "name": "Liver"},
        {"id": 3, "name": "new thing"},
    ]
    assert content["images"] == [{"id": 7, "file_name": "scan.dcm", "width": 100, "height": 50}]
    first = content["annotations"][0]
    assert first == {
        "id": 1, "image_id": 7, "category_id": 2, "bbox": [1.0, 2.0, 30.123456, 40.0], "area": 30.123456 * 40,
        "iscrowd": 0, "score": 0.91237,
    }  # fmt: skip
    json.dumps(content)


def test_rows() -> None:
    rows = replace(RESULT, trained={"Liver": True, "new thing": False, "left kidney": True}).to_rows(frame=3)
    assert [row["label"] for row in rows] == ["Liver", "new thing", "left kidney"]
    assert rows[0] == {
        "file": "scan.dcm", "modality": "ct", "frame": 3, "label": "Liver", "label_id": "liver", "trained": None,
        "found": True, "score": 0.9124, "x": 1.0, "y": 2.0, "width": 30.12, "height": 40.0, "size_mm": [15.06, 30.0],
    }  # fmt: skip
    assert rows[2]["label_id"] == "kidney_left" and rows[2]["found"] is False and "x" not in rows[2]


def test_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = RESULT.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and frame["score"].tolist() == [0.9124, 0.5]
    assert list(replace(RESULT, boxes=(), trained={}).to_pandas()["score"]) == []


def test_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=lambda **fields: fields))
    detections = replace(RESULT, trained={"new thing": False, "Liver": True}).to_supervision()
    np.testing.assert_allclose(detections["xyxy"], [[1, 2, 31.123456, 42], [0, 0, 100, 50]], rtol=1e-6)
    assert detections["class_id"].tolist() == [1, 0] and detections["confidence"].tolist() == pytest.approx(
        [0.91237, 0.5]
    )
    assert detections["data"]["class_name"].tolist() == ["Liver", "new thing"]
    assert replace(RESULT, boxes=()).to_supervision()["xyxy"].shape == (0, 4)


@pytest.mark.parametrize(("library", "convert"), [("pandas", "to_pandas"), ("supervision", "to_supervision")])
def test_missing_libraries_are_named(library: str, convert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MedGlipError, match=f"^{library} is not installed: pip install {library}$"):
        getattr(RESULT, convert)()


def test_plot() -> None:
    with pytest.raises(MedGlipError, match="scan.dcm: the result has no image: give it to plot"):
        RESULT.plot()
    image = ReadImage(np.zeros((50, 100), np.uint8), "scan.dcm")
    given, opened = RESULT.plot(image), replace(RESULT, open_image=lambda: image).plot()
    assert given == opened and given.width == 800
    assert (np.asarray(given) == ImageColor.getrgb(PALETTE[0])).all(-1).any()
    assert replace(RESULT, open_image=lambda: image) == RESULT
    lying = Image.new("L", (50, 100))
    lying.getexif()[0x0112] = 6  # to be turned by a quarter: 100 x 50 when upright
    assert RESULT.plot(lying) == RESULT.plot(lying.transpose(Image.Transpose.ROTATE_270))


def test_write_and_read_again(tmp_path: Path) -> None:
    path = write_boxes(RESULT, tmp_path / "new" / "scan.boxes.json")
    again = read_boxes(path)
    assert again.to_dict() == RESULT.to_dict()
    assert [file.name for file in path.parent.iterdir()] == ["scan.boxes.json"]
    before = path.read_bytes()
    assert write_boxes(RESULT, path).read_bytes() == before and b"not stored" not in before


def test_numbers_of_a_box_stand_on_one_line() -> None:
    text = to_json({"bbox": [1.5, -2, 3e-7], "names": ["[\n 1 ]", "b"], "empty": []})
    assert '"bbox": [1.5, -2, 3e-07]' in text
    assert json.loads(text) == {"bbox": [1.5, -2, 3e-7], "names": ["[\n 1 ]", "b"], "empty": []}


def test_corners() -> None:
    assert GroundedBox("a", 1.0, (1, 2, 3, 4)).xyxy == (1, 2, 4, 6)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MedGlipError, match="a.boxes.json: cannot be written"):
        write_boxes(RESULT, tmp_path / "file" / "a.boxes.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(MedGlipError, match="folder: cannot be written"):
        write_bytes(tmp_path / "folder", b"x")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    content = json.loads(json.dumps(RESULT.to_dict()))
    change(content)
    return content


BAD: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("is not a medglip/boxes@1 file", lambda c: c.update(schema="medglip/boxes@2")),
    ("model must be", lambda c: c.pop("model")),
    ("prompt must be", lambda c: c.update(prompt=None)),
    ("image must be", lambda c: c.update(image=[])),
    ("image.file", lambda c: c["image"].update(file=3)),
    ("image.width", lambda c: c["image"].update(width=0)),
    ("image.height", lambda c: c["image"].update(height=True)),
    ("image.modality must be one of ct", lambda c: c["image"].update(modality="CT")),
    ("image.spacing_mm", lambda c: c["image"].update(spacing_mm=[0.5, -1])),
    ("image.spacing_mm", lambda c: c["image"].update(spacing_mm="ab")),
    ("boxes must be a list", lambda c: c.update(boxes={})),
    ("box 1: must be an object", lambda c: c["boxes"].__setitem__(1, 5)),
    ("box 0: label", lambda c: c["boxes"][0].update(label=" ")),
    ("box 0: score", lambda c: c["boxes"][0].update(score=1.2)),
    ("box 0: score", lambda c: c["boxes"][0].update(score=True)),
    ("box 0: bbox must be four", lambda c: c["boxes"][0].update(bbox=[1, 2, 3])),
    ("box 0: bbox must be four", lambda c: c["boxes"][0].update(bbox=[1, 2, 3, float("nan")])),
    ("box 0: bbox must have a width", lambda c: c["boxes"][0].update(bbox=[1, 2, 0, 5])),
    ("box 0: bbox .* outside its image of 100x50", lambda c: c["boxes"][0].update(bbox=[90, 2, 20, 5])),
    ("box 0: bbox .* outside", lambda c: c["boxes"][0].update(bbox=[-3, 2, 20, 5])),
    ("box 0: label_id", lambda c: c["boxes"][0].pop("label_id")),
    ("box 0: region", lambda c: c["boxes"][0].update(region=4)),
]


@pytest.mark.parametrize(("problem", "change"), BAD)
def test_what_is_wrong_is_named(problem: str, change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(MedGlipError, match=f"^a.json: {problem}"):
        validate_boxes(changed(change), "a.json")


def test_more_keys_are_allowed() -> None:
    validate_boxes(changed(lambda c: c["boxes"][0].update(box_ijk=[1, 2, 3, 4, 5, 6])))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not valid JSON"),
        (b"[1, 2]", "not a medglip/boxes@1 file"),
        (b'{"schema": NaN}', "NaN is not a number"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(MedGlipError, match=f"a.json: .*{problem}") as caught:
        read_boxes(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MedGlipError, match="a.json: cannot be read"):
        read_boxes(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("scan.dcm", "scan"),
        ("scan.nii.gz", "scan"),
        (".nii.gz", "image"),
        ("two words (1).png", "two-words-1"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\evil.png", "evil"),
        ("C:\\x\\y.png", "y"),
        (".png", "png"),
        ("...", "image"),
        ("", "image"),
        ("con.png", "con-image"),
        ("a\x00\n\x1b.png", "a"),
        ("röntgen.png", "röntgen"),
        ("<img onerror=1>.png", "img-onerror-1"),
    ],
)
def test_safe_stems(name: str, stem: str) -> None:
    assert safe_stem(name) == stem


@given(st.text())
def test_a_stem_is_one_plain_name(name: str) -> None:
    stem = safe_stem(name)
    assert stem and not stem.startswith((".", "-")) and len(stem.encode()) <= 110
    assert not set(stem) & set('/\\:*?"<>|\n\0') and Path(stem).name == stem


def test_equal_stems_get_numbers(tmp_path: Path) -> None:
    inputs = ["a/scan.png", "b/scan.dcm", "c/SCAN.jpg", "scan-2.png"]
    stems = output_stems(inputs, tmp_path)
    assert stems == ["scan", "scan-2", "SCAN-3", "scan-2-2"]
    assert stems == output_stems(inputs, tmp_path)


def test_an_input_is_never_overwritten(tmp_path: Path) -> None:
    inputs = [tmp_path / "scan.png", tmp_path / "other.dcm"]
    for path in inputs:
        path.touch()
    assert output_stems(inputs, tmp_path) == ["scan-2", "other"]
    assert output_stems([tmp_path / "x" / ".." / "scan.png"], tmp_path) == ["scan-2"]


@pytest.mark.parametrize(
    "name", ["scan.png", "scan.PNG", "Scan.Png", "re\u0301.png", "r\u00e9.PNG", "stra\u00dfe.png"]
)
def test_no_output_is_an_input_where_names_ignore_case_or_form(tmp_path: Path, name: str) -> None:
    (stem,) = output_stems([tmp_path / name], tmp_path)
    assert fold_name(name) not in {fold_name(output) for output in output_names(stem)}


def test_outputs_differ_where_names_ignore_case_or_form(tmp_path: Path) -> None:
    inputs = ["a/re\u0301.png", "b/r\u00e9.png", "c/R\u00c9.png", "d/stra\u00dfe.png", "e/STRASSE.png"]
    stems = output_stems(inputs, tmp_path)
    assert len({fold_name(stem) for stem in stems}) == len(inputs)
    assert canonical_path(tmp_path / "Report.JSON") == canonical_path(tmp_path / "report.json")


def test_output_names() -> None:
    assert output_names("scan") == ("scan.boxes.json", "scan.png")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c["image"].update(width=10**400), "image.width must be"),
        (lambda c: c["image"].update(spacing_mm=[1, 10**400]), "image.spacing_mm must be"),
        (lambda c: c["boxes"][0].update(score=10**400), "score must be"),
        (lambda c: c["boxes"][0].update(bbox=[1, 1, 10**400, 1]), "bbox must be four numbers"),
        (lambda c: c["image"].update(modality=["ct"]), "image.modality must be"),
    ],
)
def test_numbers_that_no_float_can_hold(change: Callable[[Any], Any], problem: str) -> None:
    with pytest.raises(MedGlipError, match=problem):
        validate_boxes(changed(change), "a.json")
