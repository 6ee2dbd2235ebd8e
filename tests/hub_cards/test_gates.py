# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The gates: licences that open, what must not leave, and the check of a folder."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hub_cards import check, privacy
from hub_cards.licences import license_id, why_not
from hub_cards.repository import Repository, repository_id


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("CC BY 4.0", "cc-by-4.0"),
        ("README: CC BY-NC-SA 4.0", "cc-by-nc-sa-4.0"),
        ("dataset CC BY 4.0 in repo", "cc-by-4.0"),
        ("README: Apache 2.0", "apache-2.0"),
        ("CC0 (attribution file in repo)", "cc0-1.0"),
        ("README: CDLA Sharing 1.0", "cdla-sharing-1.0"),
        ("MIT", "mit"),
        ("CC BY-ND 4.0", None),
        ("CC BY-NC-ND 4.0", None),
        ("none in repo; CC BY 4.0 upstream (unverified)", None),
        ("MIT repo; data research/education only", None),
        ("Apache-2.0 repo (data not separately licensed)", None),
        ('README: "Unknown"', None),
        ("Kaggle competition terms", None),
        ("SUBMIT", None),
        ("", None),
        (None, None),
    ],
)
def test_only_known_licences_open(text: str | None, known: str | None) -> None:
    assert license_id(text) == known
    assert (why_not(text, None, True) is None) == (known is not None)


def test_access_and_confirmation_count_too() -> None:
    assert why_not("CC BY 4.0", "open", True) is None
    assert "registration" in str(why_not("CC BY 4.0", "registration", True))
    assert "not confirmed" in str(why_not("CC BY 4.0", None, False))
    assert "not known" in str(why_not("CC BY 4.0", "unknown", True))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("README.md", "see /home/doe/scans/1", "a path of this machine in line 1"),
        ("a/config.json", '{\n"model": "/mnt/pacs/DOE"}', "a path of this machine in line 2"),
        ("x.txt", "C:\\Users\\doe", "a path of Windows"),
        ("x.yaml", "series: 1.2.840.113619.2.55.3.604688119", "a DICOM identifier"),
        ("x.js", "uid = '2.25.329800735698586629295641978511506172918'", "a DICOM identifier"),
        ("x.csv", "doe@clinic.example", "an e-mail address"),
        ("scan.dcm", "x", "files of the kind .dcm are not published"),
        ("scan.nii.gz", "x", "files of the kind .gz"),
        ("weights.bin", "x", "files of the kind .bin"),
        ("notes", "x", "without an ending"),
    ],
)
def test_what_must_not_leave(name: str, text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    (found,) = privacy.findings(tmp_path)
    assert found.startswith(f"{name}: ") and said in found and "doe" not in found.lower()


@pytest.mark.parametrize(
    "text", ["pip install x==1.2.3", "https://arxiv.org/abs/1", "and/or/tmp", "1.2.840.10008.1.2.4"]
)
def test_what_may_leave(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert privacy.findings(tmp_path) == []


def png(text: str = "") -> bytes:
    stream, notes = io.BytesIO(), PngInfo()
    if text:
        notes.add_text("Patient", text)
    Image.new("L", (4, 4)).save(stream, "PNG", pnginfo=notes)
    return stream.getvalue()


def test_pictures_hold_nothing_but_pixels(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    assert privacy.findings(tmp_path) == []
    (tmp_path / "a.png").write_bytes(png("Doe"))
    assert privacy.findings(tmp_path) == ["a.png: holds metadata (tEXt)"]
    exif = Image.Exif()
    exif[0x010E] = "Doe"
    Image.new("L", (4, 4)).save(tmp_path / "b.jpg", exif=exif)
    assert "b.jpg: holds metadata" in privacy.findings(tmp_path)
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    assert "b.jpg: is no picture that can be read" in privacy.findings(tmp_path)


@pytest.mark.parametrize(
    ("patient", "picture", "said"),
    [
        ("2dbe2ad45363", png(), None),
        ("DOE^JANE", png(), "its column patient holds something else than pseudonyms"),
        ("2dbe2ad45363", png("Doe"), "a picture in it holds metadata (tEXt)"),
    ],
)
def test_tables_are_opened(patient: str, picture: bytes, said: str | None, tmp_path: Path) -> None:
    row = {"case": "00aa11bb22cc", "patient": patient, "image": {"bytes": picture, "path": "a.png"}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    assert privacy.findings(tmp_path) == ([] if said is None else [f"a.parquet: {said}"])


def test_a_schema_with_a_text_of_its_own(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"a": 1}]).replace_schema_metadata({"station": "CT-1"})
    pq.write_table(table, tmp_path / "a.parquet")
    assert privacy.findings(tmp_path) == ["a.parquet: its schema carries metadata"]


def test_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "secret.txt").write_text("x", encoding="utf-8")
    (tmp_path / "a" / "b.txt").symlink_to(tmp_path / "secret.txt")
    assert privacy.findings(tmp_path / "a") == ["b.txt: is a link"]
    assert Repository("o/n", "model", tmp_path / "a", "mit").files() == {}


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b", "<b>", "a" * 97, "a--b", "a..b"])
def test_names_that_no_hub_has(name: str) -> None:
    with pytest.raises(ValueError, match="is no name on the Hub"):
        repository_id("owner", name)
    assert repository_id("my-hospital", "med-glip-5m") == "my-hospital/med-glip-5m"


def test_a_folder_without_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    found = check.problems("model", tmp_path)
    assert "README.md is missing" in found and "*.safetensors is missing" in found
    assert check.main([str(tmp_path), "--kind", "model"]) == 1
    assert "modeling_medglip.py is missing" in capsys.readouterr().out
    assert check.main([str(tmp_path / "gone"), "--kind", "model"]) == 2
    assert capsys.readouterr().err == "error: gone: is no folder\n"


def test_odd_names_of_files(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("text", encoding="utf-8")
    (tmp_path / "a<b>.txt").write_text(json.dumps({}), encoding="utf-8")
    found = check.problems("dataset", tmp_path)
    assert any("is no name for a file" in line for line in found)
    assert any("no YAML header" in line for line in found)
