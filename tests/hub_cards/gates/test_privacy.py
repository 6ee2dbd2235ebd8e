# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What must not leave: text, tensors, tables and images."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

import modeling_medglip
from dataset_scripts.schema import COLUMNS, LABEL_COLUMNS, OBJECT_COLUMNS
from dataset_scripts.verify import png_metadata
from hub_cards.gates import privacy
from hub_cards.stage.repository import Repository


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("README.md", "see /home/doe/scans/1", "a path of this machine in line 1"),
        ("a/config.json", '{\n"model": "/mnt/pacs/DOE"}', "a path of this machine in line 2"),
        ("x.txt", "model:/home/doe", "a path of this machine"),
        ("x.json", '"\\/home\\/doe"', "a path of this machine"),
        ("x.txt", "file:///home/doe", "in line 1"),
        ("x.txt", "C:\\Users\\doe", "a path of Windows"),
        ("x.txt", "D:/scans", "a path of Windows"),
        ("x.yaml", "series: 1.2.840.113619.2.55.3.604688119", "a DICOM identifier"),
        ("x.yaml", "series: 1.3.12.2.1107.5.1.4", "a DICOM identifier"),
        ("x.yaml", "series: 1.3.6.1.4.1.14519.5", "a DICOM identifier"),
        ("x.js", "uid = '2.25.329800735698586629295641978511506172918'", "a DICOM identifier"),
        ("x.css", "doe@clinic.example", "an e-mail address"),
        ("x.json", '"hf_' + "a" * 34 + '"', "a token"),
        ("x.json", "not json", "is not JSON"),
        ("x.txt", "a\0b", "control characters"),
        ("scan.dcm", "x", "is not an image of the package"),
        ("scan.nii.gz", "x", "files of the kind .gz"),
        ("weights.bin", "x", "files of the kind .bin"),
        ("scan.png", "x", "is not an image of the package"),
        ("notes", "x", "without an ending"),
        ("py.typed", "x", "is not empty"),
        ("model.safetensors", "x" * 100, "is not a safetensors file"),
        ("a.parquet", "x" * 100, "is not a readable Parquet file"),
    ],
)
def test_what_must_not_leave(name: str, text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    faults = privacy.check_privacy(tmp_path)
    assert faults and all(line.startswith(f"{name}: ") and "doe" not in line.lower() for line in faults)
    assert any(expected in line for line in faults), faults


@pytest.mark.parametrize(
    "text",
    ["pip install x==1.2.3", "https://arxiv.org/abs/1", "and/or/tmp", "1.2.840.10008.1.2.4", "https://x.org/data/y"],
)
def test_what_may_leave(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert privacy.check_privacy(tmp_path) == []


def test_text_is_utf_8(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("Doe".encode("utf-16"))
    assert privacy.check_privacy(tmp_path) == ["x.txt: is not UTF-8 text"]


def test_names_of_the_machine_and_its_user_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy.socket, "gethostname", lambda: "ward7-ct")
    (tmp_path / "x.md").write_text("made on ward7-ct", encoding="utf-8")
    assert privacy.check_privacy(tmp_path) == ["x.md: holds the name of this machine in line 1"]


@pytest.mark.parametrize(
    ("metadata", "tail", "expected"),
    [(None, b"", []), ({"format": "pt"}, b"", []), ({"note": "Doe"}, b"", ["m.safetensors: carries metadata"]),
     (None, b"DICM", ["m.safetensors: holds more than its header says"])],
)  # fmt: skip
def test_tensors_and_nothing_else(metadata: dict | None, tail: bytes, expected: list[str], tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(3)}, path, metadata=metadata)
    path.write_bytes(path.read_bytes() + tail)
    assert privacy.check_privacy(tmp_path) == expected


def png(text: str = "") -> bytes:
    stream, notes = io.BytesIO(), PngInfo()
    if text:
        notes.add_text("Patient", text)
    Image.new("L", (4, 4)).save(stream, "PNG", pnginfo=notes)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png(), []),
        (png("Doe"), ["holds metadata (tEXt)"]),
        (png() + b"DICM", ["holds more than its pixels, or is cut short"]),
        (png() + b"\0\0\0\4IDATDoe!\0\0\0\0", ["holds more than its pixels, or is cut short"]),
        (png()[:-4], ["holds more than its pixels, or is cut short"]),
        (b"\xff\xd8\xff", ["is not a PNG file"]),
    ],
)
def test_images_have_nothing_but_pixels(content: bytes, expected: list[str]) -> None:
    assert list(png_metadata(content)) == expected


ROW = {"case": "00aa11bb22cc", "patient": "2dbe2ad45363", "image": {"bytes": png(), "path": "00aa11bb22cc_3.png"}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"patient": "DOE^JANE"}, "its column patient holds something else than pseudonyms"),
        ({"case": "19700101"}, "its column case holds something else than pseudonyms"),
        ({"patient_name": "Doe"}, "has the column 'patient_name', which no built set has"),
        ({"image": {"bytes": png("Doe"), "path": None}}, "an image in it holds metadata (tEXt)"),
        ({"image": {"bytes": png(), "path": "DOE.png"}}, "an image in it has a name that is not its case's"),
        ({"image": {"bytes": None, "path": None}}, "an image in it is missing"),
        ({"sex": "Jane"}, "its column sex holds something else than it should"),
        ({"diagnosis": "see /home/doe"}, "its column diagnosis holds a path of this machine"),
        ({"synonyms": ["a", "doe@clinic.example"]}, "its column synonyms holds an e-mail address"),
        ({"name": b"bytes"}, "its column name holds bytes"),
        ({"objects": {"source_label": ["1.3.12.2.1107.5.1.4"]}}, "its column objects.source_label holds a DICOM id"),
        ({"objects": {"note": ["x"]}}, "has the column 'objects.note', which no built set has"),
    ],
)
def test_tables_are_opened(changes: dict, expected: str | None, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{**ROW, **changes}]), tmp_path / "a.parquet")
    faults = privacy.check_privacy(tmp_path)
    assert faults == [] if expected is None else len(faults) == 1 and expected in faults[0], faults


def test_a_schema_with_metadata(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"width": 1}]).replace_schema_metadata({"station": "CT-1"})
    pq.write_table(table, tmp_path / "a.parquet")
    assert privacy.check_privacy(tmp_path) == ["a.parquet: its schema carries metadata"]


def test_the_columns_are_the_builders() -> None:
    texts, numbers = set(), set()
    tables = {**COLUMNS, **LABEL_COLUMNS, **{f"objects.{name}": column for name, column in OBJECT_COLUMNS.items()}}
    for name, (arrow, _, _) in tables.items():
        if name not in ("image", privacy.SEGMENTATION):
            (texts if "string" in str(arrow) else numbers).add(name)
    assert texts == set(privacy.TEXT_COLUMNS) and numbers == set(privacy.NUMBER_COLUMNS)


def test_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "secret.txt").write_text("x", encoding="utf-8")
    (tmp_path / "a" / "b.txt").symlink_to(tmp_path / "secret.txt")
    assert privacy.check_privacy(tmp_path / "a") == ["b.txt: is a link"]
    assert Repository("o/n", "model", tmp_path / "a", "mit", "expert").files() == {}


def test_images_leave_only_if_the_package_carries_them(tmp_path: Path) -> None:
    folder = Path(modeling_medglip.__file__).parent / "demo" / "images"
    assert set(privacy.DEMO_IMAGES) == {path.name for path in folder.iterdir() if path.suffix != ".md"}
    assert [fault for name in privacy.DEMO_IMAGES for fault in privacy.of_file(folder / name)] == []
    packaged = folder / "xray_chest.jpg"
    copy = tmp_path / packaged.name
    copy.write_bytes(packaged.read_bytes())
    assert list(privacy.of_file(copy)) == []
    copy.write_bytes(packaged.read_bytes() + b"x")
    assert list(privacy.of_file(copy)) == ["is not an image of the package"]
    (tmp_path / "scan.dcm").write_bytes(b"DICM")
    assert list(privacy.of_file(tmp_path / "scan.dcm")) == ["is not an image of the package"]
