# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Bad input from end to end: each gets its named rule, what is good stays, and the exit status is 1.

The tests of the readers look at the details; here the whole command runs on a folder with one good and one bad case.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dataset_scripts.build import main
from dataset_scripts.quality import EXPECTED, RULES
from tests.modeling_medglip.dicom_files import change as change_files
from tests.modeling_medglip.dicom_files import write_segmentation, write_series

from .raw_data import body


VALUES = {1: "liver", 2: "left kidney", 3: "tumour", 4: "thing"}
LABELS = {"liver": "liver", "left kidney": "kidney_left", "tumour": "liver_tumor", "thing": "open", "polyp": "polyp"}
VOLUME_FILES = {"image": "*_ct.nii.gz", "labelmap": "{stem}_seg.nii.gz"}
DICOM_FILES = {"slices": "*/ct/*", "seg": "{folder}/../seg.dcm"}
LABELS |= {"Liver": "liver", "Left kidney": "kidney_left"}


def built(raw: Path, layout: str, files: dict[str, Any], modality: str = "ct") -> tuple[int, set[str], int]:
    """Exit status, rules of the report, and images of the set that the command makes of `raw`."""
    out = raw.with_name(f"{raw.name}.set")
    recipe = {
        "source": "mine", "modality": modality, "layout": layout, "files": files, "values": VALUES, "labels": LABELS,
        "confirmed": True,
    }  # fmt: skip
    path = raw.with_name(f"{raw.name}.yaml")
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    status = main(["--recipe", str(path), "--raw", str(raw), "--out", str(out), "--no-previews"])
    report = json.loads((out / "quality" / "report.json").read_text(encoding="utf-8"))
    return status, set(report["rejected"]), report["images"]


def nifti(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def volume_pair(folder: Path, name: str) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    image, labels, affine = body(0)
    paths = folder / f"{name}_ct.nii.gz", folder / f"{name}_seg.nii.gz"
    for array, path in zip((image, labels), paths, strict=True):
        nifti(array, affine, path)
    return paths


# What is done to the second of two volumes, and the rule that names it --------------------------------------------


def cut_short(image: Path, labels: Path) -> None:
    image.write_bytes(image.read_bytes()[:-2000])


def wrong_magic(image: Path, labels: Path) -> None:
    image.write_bytes(gzip.compress(b"NOT A NIFTI" * 100))


def no_gzip_at_all(image: Path, labels: Path) -> None:
    image.write_bytes(b"PK\x03\x04" + bytes(1000))


def four_axes(image: Path, labels: Path) -> None:
    nifti(np.zeros((6, 5, 4, 3), np.int16), np.eye(4), image)


def colors(image: Path, labels: Path) -> None:
    nifti(np.zeros((6, 5, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])), np.eye(4), image)


def singular(image: Path, labels: Path) -> None:
    file = nibabel.load(image)
    file.header.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), 1)
    nibabel.save(nibabel.Nifti1Image(np.asarray(file.dataobj), None, file.header), image)


def another_size(image: Path, labels: Path) -> None:
    _, array, affine = body(0)
    nifti(array[:-1], affine, labels)


def another_place(image: Path, labels: Path) -> None:
    _, array, affine = body(0)
    affine[0, 3] += 40
    nifti(array, affine, labels)


def unknown_value(image: Path, labels: Path) -> None:
    _, array, affine = body(0)
    array[array == 4] = 77
    nifti(array, affine, labels)


def fractions(image: Path, labels: Path) -> None:
    _, array, affine = body(0)
    nifti(array * np.float32(0.37), affine, labels)


def negative_values(image: Path, labels: Path) -> None:
    _, array, affine = body(0)
    nifti(-array.astype(np.int16), affine, labels)


def no_numbers(image: Path, labels: Path) -> None:
    _, array, affine = body(0)
    nifti(np.where(array > 0, np.nan, 0).astype(np.float32), affine, labels)


def bomb(image: Path, labels: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape((32767, 32767, 500))
    header.set_sform(np.eye(4), 1)
    image.write_bytes(gzip.compress(header.binaryblock + bytes(2**20)))


def zip_bomb(image: Path, labels: Path) -> None:
    with zipfile.ZipFile(image, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ct.nii", bytes(2**22))


def no_labels(image: Path, labels: Path) -> None:
    labels.unlink()


def no_volume(image: Path, labels: Path) -> None:
    image.unlink()


def link_out(image: Path, labels: Path) -> None:
    target = image.parent.parent / "elsewhere_ct.nii.gz"
    image.rename(target)
    image.symlink_to(target)


VOLUMES: list[tuple[Callable[[Path, Path], None], str]] = [
    (cut_short, "unreadable"), (wrong_magic, "unreadable"), (no_gzip_at_all, "unreadable"), (four_axes, "not_3d"),
    (colors, "colour_volume"), (singular, "bad_affine"), (another_size, "size_mismatch"),
    (another_place, "affine_mismatch"), (unknown_value, "undefined_label"), (fractions, "undefined_label"),
    (negative_values, "undefined_label"), (no_numbers, "not_finite"), (bomb, "too_large"), (zip_bomb, "unreadable"),
    (no_labels, "no_mask"), (no_volume, "no_image"), (link_out, "leaves_folder"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "rule"), VOLUMES, ids=lambda value: getattr(value, "__name__", None))
def test_volumes(tmp_path: Path, spoil: Callable[[Path, Path], None], rule: str) -> None:
    raw = tmp_path / "raw"
    volume_pair(raw, "good")
    spoil(*volume_pair(raw, "spoilt"))
    status, rules, images = built(raw, "volume_labelmap", VOLUME_FILES)
    assert status == 1 and rule in rules and images >= 7
    assert "unreadable" not in rules or rule == "unreadable"


# DICOM ------------------------------------------------------------------------------------------------------------


def missing_slice(folder: Path) -> None:
    sorted(folder.glob("*_2.dcm"))[0].unlink()


def another_in_its_place(folder: Path) -> None:
    first, second = (pydicom.dcmread(next(folder.glob(f"*_{number}.dcm"))) for number in (1, 2))
    second.ImagePositionPatient = first.ImagePositionPatient
    second.save_as(folder / "again.dcm")


def two_series(folder: Path) -> None:
    for number in (3, 4):
        path = next(folder.glob(f"*_{number}.dcm"))
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID = "1.2.3.4"
        dataset.save_as(path)


def no_position(folder: Path) -> None:
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.ImagePositionPatient
        dataset.save_as(path)


def text_files(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_text("no DICOM", encoding="utf-8")


def pixels_cut_short(folder: Path) -> None:
    path = next(folder.iterdir())
    path.write_bytes(path.read_bytes()[:-100])


def another_modality(folder: Path) -> None:
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.Modality = "MR"
        dataset.save_as(path)


def segmentation_of_another(folder: Path) -> None:
    other = folder.parent.parent / "other"
    paths = write_series(other, step=(0, 0, 7.0), ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    shutil.rmtree(other)
    del paths
    (folder.parent / "seg.dcm").write_bytes(b"DICM" * 50)


SERIES: list[tuple[Callable[[Path], None], str]] = [
    (missing_slice, "missing_slices"), (another_in_its_place, "duplicate_slices"), (two_series, "mixed_series"),
    (no_position, "no_geometry"), (text_files, "unreadable"), (pixels_cut_short, "unreadable"),
    (another_modality, "modality_mismatch"), (segmentation_of_another, "unreadable"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "rule"), SERIES, ids=lambda value: getattr(value, "__name__", None))
def test_series(tmp_path: Path, spoil: Callable[[Path], None], rule: str) -> None:
    raw = tmp_path / "raw"
    for name in ("good", "spoilt"):
        write_segmentation(raw / name / "seg.dcm", write_series(raw / name / "ct"))
    spoil(raw / "spoilt" / "ct")
    status, rules, images = built(raw, "dicom_series", DICOM_FILES)
    assert status == 1 and rule in rules and images == 3


def test_a_tilted_gantry_is_reported_and_used(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_segmentation(raw / "a" / "seg.dcm", write_series(raw / "a" / "ct", step=(0, 0.6, 1.9)))
    assert built(raw, "dicom_series", DICOM_FILES) == (0, {"empty_slice", "gantry_tilt"}, 3)


MOSAIC = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]


def test_a_mosaic_is_left_out(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_segmentation(raw / "a" / "seg.dcm", write_series(raw / "a" / "ct", ImageType=MOSAIC))
    status, rules, _ = built(raw, "dicom_series", DICOM_FILES)
    assert (status, rules) == (1, {"mosaic"})


def test_what_a_header_leaves_out_is_reported(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_segmentation(raw / "a" / "seg.dcm", paths := write_series(raw / "a" / "ct"))
    change_files(*paths, PhotometricInterpretation=None)
    assert built(raw, "dicom_series", DICOM_FILES) == (0, {"empty_slice", "incomplete_header"}, 3)


# COCO -------------------------------------------------------------------------------------------------------------

IMAGES = [{"id": number, "file_name": f"{number}.png", "width": 30, "height": 20} for number in (1, 2)]
GOOD = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [2, 2, 5, 5]}


def second(**change: Any) -> dict[str, Any]:
    return {"annotations": [GOOD, {**GOOD, "id": 2, "image_id": 2, **change}]}


def second_image(**change: Any) -> dict[str, Any]:
    return {"images": [IMAGES[0], {**IMAGES[1], **change}], **second()}


COCO: list[tuple[str, dict[str, Any], str]] = [
    ("negative", second(bbox=[4, 4, -3, 5]), "bad_box"),
    ("no number", second(bbox=[4, 4, float("nan"), 5]), "bad_box"),
    ("without end", second(bbox=[4, 4, float("inf"), 5]), "bad_box"),
    ("outside", second(bbox=[40, 4, 5, 5]), "bad_box"),
    ("across the border", second(bbox=[20, 4, 25, 5]), "bad_box"),
    ("no area", second(bbox=[4, 4, 0, 5]), "bad_box"),
    ("text", second(bbox=["a", 4, 5, 5]), "bad_annotations"),
    ("duplicate annotation", {"annotations": [GOOD, GOOD]}, "duplicate_id"),
    ("duplicate image", {"images": [*IMAGES, IMAGES[0]]}, "duplicate_id"),
    ("unknown category", second(category_id=99), "undefined_label"),
    ("unknown image", second(image_id=99), "no_image"),
    ("climbs", second_image(file_name="../../secret.png"), "leaves_folder"),
    ("absolute", second_image(file_name="/etc/hostname"), "leaves_folder"),
    ("backslash", second_image(file_name="..\\secret.png"), "leaves_folder"),
    ("link", second_image(file_name="link.png"), "leaves_folder"),
    ("not there", second_image(file_name="none.png"), "missing_file"),
    ("another size", second_image(width=31), "size_mismatch"),
    ("image bomb", second_image(file_name="bomb.png"), "too_large"),
    ("mask", second_image(file_name="mask.png"), "mask_like"),
    ("damaged", second_image(file_name="damaged.png"), "unreadable"),
]


@pytest.mark.parametrize(("change", "rule"), [row[1:] for row in COCO], ids=[row[0] for row in COCO])
def test_coco(tmp_path: Path, change: dict[str, Any], rule: str) -> None:
    raw = tmp_path / "raw"
    write_coco(raw, change)
    status, rules, images = built(raw, "coco", {"annotations": "list.json"}, "endoscopy")
    assert status == 1 and rule in rules and images >= 1


def write_coco(raw: Path, change: dict[str, Any]) -> None:
    raw.mkdir()
    random = np.random.default_rng(0)
    for name in ("1.png", "2.png", "../secret.png", "damaged.png"):
        Image.fromarray(random.integers(0, 256, (20, 30), dtype=np.uint8)).save(raw / name)
    Image.fromarray(np.eye(20, 30, dtype=np.uint8) * 255).save(raw / "mask.png")
    (raw / "damaged.png").write_bytes((raw / "damaged.png").read_bytes()[:100])
    header = (raw / "1.png").read_bytes()
    (raw / "bomb.png").write_bytes(huge_png(header))
    (raw / "link.png").symlink_to(raw.parent / "secret.png")
    content = {"images": IMAGES, "categories": [{"id": 7, "name": "polyp"}], **second(), **change}
    (raw / "list.json").write_text(json.dumps(content), encoding="utf-8")


def huge_png(content: bytes) -> bytes:
    """A PNG whose header states 60,000 x 60,000 pixels."""
    import zlib

    head = content[12:16] + (60000).to_bytes(4, "big") * 2 + content[24:29]
    return content[:12] + head + zlib.crc32(head).to_bytes(4, "big") + content[33:]


# Whatever bytes come -----------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-5, 40),
    st.floats(allow_subnormal=False),
    st.text(max_size=3),
    st.none(),
    st.lists(st.integers(), max_size=2),
)
ENTRY = st.fixed_dictionaries(
    {}, optional={
        "id": NUMBERS, "image_id": NUMBERS, "category_id": NUMBERS, "bbox": st.lists(NUMBERS, max_size=5) | NUMBERS,
        "segmentation": NUMBERS | st.lists(st.lists(NUMBERS, max_size=7), max_size=2),
        "file_name": st.text(max_size=8) | NUMBERS, "width": NUMBERS, "height": NUMBERS, "name": NUMBERS,
    },
)  # fmt: skip
# Each example is a whole build; `make fuzz` tries many more.
FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def outcome(folder: Path, layout: str, files: dict[str, Any], modality: str = "ct") -> None:
    """The command ends with status 0 or 1, rules of its list only, and status 1 wherever something is wrong."""
    status, rules, _ = built(folder, layout, files, modality)
    assert rules <= set(RULES) and status == (1 if rules - EXPECTED else 0)
    for path in folder.parent.glob(f"{folder.name}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


class TestAnyBytes:
    @FEW
    @given(entries=st.lists(ENTRY, max_size=3), where=st.sampled_from(["images", "annotations", "categories"]))
    def test_coco_lists(
        self, tmp_path_factory: pytest.TempPathFactory, entries: list[dict[str, Any]], where: str
    ) -> None:
        raw = tmp_path_factory.mktemp("coco") / "raw"
        content: dict[str, Any] = {"images": IMAGES, "categories": [{"id": 7, "name": "polyp"}], **second()}
        write_coco(raw, {where: [*content[where], *entries]})
        outcome(raw, "coco", {"annotations": "list.json"}, "endoscopy")

    @FEW
    @given(geometry=st.integers(0, 2000), change=st.binary(min_size=1, max_size=8), which=st.booleans())
    def test_volumes(
        self, tmp_path_factory: pytest.TempPathFactory, geometry: int, change: bytes, which: bool
    ) -> None:
        raw = tmp_path_factory.mktemp("volume") / "raw"
        path = volume_pair(raw, "spoilt")[which]
        content = bytearray(gzip.decompress(path.read_bytes()))
        content[geometry : geometry + len(change)] = change
        path.write_bytes(gzip.compress(bytes(content), 1))
        outcome(raw, "volume_labelmap", VOLUME_FILES)

    @FEW
    @given(geometry=st.integers(128, 5000), change=st.binary(min_size=1, max_size=8), slice_=st.booleans())
    def test_series(
        self, tmp_path_factory: pytest.TempPathFactory, geometry: int, change: bytes, slice_: bool
    ) -> None:
        raw = tmp_path_factory.mktemp("series") / "raw"
        paths = write_series(raw / "a" / "ct")
        write_segmentation(raw / "a" / "seg.dcm", paths)
        path = paths[0] if slice_ else raw / "a" / "seg.dcm"
        content = bytearray(path.read_bytes())
        content[geometry : geometry + len(change)] = change
        path.write_bytes(content)
        outcome(raw, "dicom_series", DICOM_FILES)

    @FEW
    @given(
        text=st.text(max_size=60) | st.from_regex(r"\A([0-3] ){1,2}(0?\.\d+ ?){3,7}\Z"),
        layout=st.sampled_from(["voc", "yolo"]),
    )
    def test_side_files(self, tmp_path_factory: pytest.TempPathFactory, text: str, layout: str) -> None:
        raw = tmp_path_factory.mktemp("side") / "raw"
        write_coco(raw, {})
        (raw / "1.txt").write_bytes(text.encode("utf-8", "replace"))
        outcome(raw, layout, {"image": "1.png", "annotation": "{stem}.txt"}, "endoscopy")

    @FEW
    @given(row=st.lists(st.text(alphabet=st.characters(codec="utf-8"), max_size=6), max_size=7))
    def test_tables(self, tmp_path_factory: pytest.TempPathFactory, row: list[str]) -> None:
        raw = tmp_path_factory.mktemp("table") / "raw"
        write_coco(raw, {})
        lines = ["id,label,a,b,c,d", "1,polyp,2,2,9,9", ",".join(row)]
        (raw / "boxes.csv").write_bytes("\n".join(lines).encode("utf-8", "replace"))
        columns = {"id": "id", "label": "label", "box": ["a", "b", "c", "d"]}
        outcome(raw, "csv_boxes", {"table": "boxes.csv", "image": "{id}.png", "columns": columns}, "endoscopy")


def test_names_of_other_encodings(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    image, labels = volume_pair(raw, "good")
    os.rename(os.fsencode(image), os.fsencode(raw) + b"/\xe9t\xe9_ct.nii.gz")
    os.rename(os.fsencode(labels), os.fsencode(raw) + b"/\xe9t\xe9_seg.nii.gz")
    assert built(raw, "volume_labelmap", VOLUME_FILES) == (0, {"empty_slice", "incomplete_header"}, 7)


def rows_of(raw: Path) -> list[dict[str, Any]]:
    """All images of the set that `built` made of a folder."""
    content: list[dict[str, Any]] = []
    for path in raw.with_name(f"{raw.name}.set").glob("coco/*/*.json"):
        content += json.loads(path.read_text(encoding="utf-8"))["images"]
    return content


class TestRejectedAnnotations:
    """What is turned away is still there: its label must not be called absent."""

    @pytest.mark.parametrize("box", [[4, 4, -3, 5], [40, 4, 5, 5], [4, 4, 0, 5]])
    def test_bad_boxes(self, tmp_path: Path, box: list[int]) -> None:
        raw = tmp_path / "raw"
        write_coco(raw, second(bbox=box))
        _, rules, images = built(raw, "coco", {"annotations": "list.json"}, "endoscopy")
        names = {row["file_name"]: row.get("annotated", []) for row in rows_of(raw)}
        assert images == 2 and "empty_mask" not in rules
        assert sorted("polyp" in annotated for annotated in names.values()) == [False, True]
        assert all("liver" in annotated for annotated in names.values()), "the others are known to be absent"

    def test_labels_without_a_name(self, tmp_path: Path) -> None:
        raw = tmp_path / "raw"
        write_coco(raw, second(category_id=99))
        _, rules, images = built(raw, "coco", {"annotations": "list.json"}, "endoscopy")
        assert images == 1 and "undefined_label" in rules and "empty_mask" not in rules

    def test_values_outside_the_map_do_not_remove_other_labels(self, tmp_path: Path) -> None:
        raw = tmp_path / "raw"
        unknown_value(*volume_pair(raw, "spoilt"))
        built(raw, "volume_labelmap", VOLUME_FILES)
        for row in rows_of(raw):
            # The unknown value is in slice 5 only, where it may be anything that is not result there.
            assert ("polyp" in row["annotated"]) == (row["index"] != 5) and "liver" in row["annotated"]


@pytest.mark.parametrize("word", ["Training", "TRAIN_CANARY", " val ", ""])
def test_words_for_splits(tmp_path: Path, word: str) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    random = np.random.default_rng(0)
    for name in ("1.png", "2.png"):
        Image.fromarray(random.integers(0, 256, (20, 30), dtype=np.uint8)).save(raw / name)
    lines = ["id,label,a,b,c,d,part", "1,polyp,2,2,9,9,train", f"2,polyp,2,2,9,9,{word}"]
    (raw / "boxes.csv").write_text("\n".join(lines), encoding="utf-8")
    columns = {"id": "id", "label": "label", "box": ["a", "b", "c", "d"], "split": "part"}
    files = {"table": "boxes.csv", "image": "{id}.png", "columns": columns}
    status, rules, images = built(raw, "csv_boxes", files, "endoscopy")
    assert images == 2 and (status, rules) == ((1, {"bad_annotations"}) if "CANARY" in word else (0, set()))
    assert (raw.with_name("raw.set") / "coco" / "endoscopy" / "validation.json").exists() == (word == " val ")


@pytest.mark.parametrize("entry", [{"category_id": 7, "bbox": [1, 1, 2, 2], "id": 9}, {"id": []}, 3])
def test_one_bad_annotation_leaves_the_others(tmp_path: Path, entry: Any) -> None:
    raw = tmp_path / "raw"
    write_coco(raw, {"annotations": [*second()["annotations"], entry]})
    rules = {"bad_annotations"} if entry == 3 or "bbox" in entry else {"bad_annotations", "undefined_label"}
    assert built(raw, "coco", {"annotations": "list.json"}, "endoscopy") == (1, rules, 2)
