# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""DICOM files in COCO data: the same pixels in training as when the trained model is used; volumes are refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modeling_medglip.io.image import read_image
from modeling_medglip.isolation.process import ReaderProcess
from tests.modeling_medglip.dicom_files import slice_dataset
from tests.modeling_medglip.tiny_checkpoint import tiny_processor
from training.data import coco_records
from training.data.coco_records import orientation_of, read_image_file
from training.data.load import load_records
from training.data.records import readable

from ..tiny_data import save_coco


def write(path: Path, **fields: Any) -> tuple[int, int]:
    """Write one slice; returns its width and height."""
    dataset = slice_dataset(0, (0, 0, 0), **fields)
    dataset.save_as(path)
    return int(dataset.Columns), int(dataset.Rows)


@pytest.mark.parametrize("name", ["a.dcm", "IM0001"])
def test_ct_in_hounsfield_units(name: str, tmp_path: Path) -> None:
    size = write(tmp_path / name)
    pixels = read_image_file(tmp_path / name, size)
    assert np.array_equal(pixels, read_image(tmp_path / name).pixels) and pixels.min() < 0


def test_dark_high_values(tmp_path: Path) -> None:
    size = write(tmp_path / "a.dcm", Modality="DX", PhotometricInterpretation="MONOCHROME1")
    served, processor = read_image(tmp_path / "a.dcm"), tiny_processor(tmp_path, ("xray",)).image_processor
    assert served.photometric_interpretation == "MONOCHROME1"
    expected = processor.normalize_image(served.pixels, "xray", photometric_interpretation="MONOCHROME1")
    image = processor.normalize_image(read_image_file(tmp_path / "a.dcm", size), "xray")
    assert np.allclose(image, expected, atol=1e-6) and image.std() > 0.1


def test_records_of_a_coco_file(tmp_path: Path) -> None:
    width, height = write(tmp_path / "a.dcm")
    image = {"file_name": "a.dcm", "width": width, "height": height}
    data = save_coco(tmp_path, "train.json", [image], [[("liver", [1.0, 1.0, 4.0, 4.0])]])
    records = load_records(data, "ct")
    broken: dict[str, str] = {}
    assert readable(records, broken) == records and not broken and len(records) == 1
    assert records[0].load().shape == (height, width)


def test_another_size_is_refused(tmp_path: Path) -> None:
    width, height = write(tmp_path / "a.dcm")
    with pytest.raises(ValueError, match=f"^a.dcm: is {width}x{height}, its entry says 9x9"):
        read_image_file(tmp_path / "a.dcm", (9, 9))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd"])
def test_volumes_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"1")
    with pytest.raises(ValueError, match=f"^{name}: unsupported volume file: .* python -m dataset_scripts.build$"):
        read_image_file(tmp_path / name, (9, 9))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(300))
    with pytest.raises(ValueError, match="^a.dcm: (?!a.dcm)"):
        read_image_file(tmp_path / "a.dcm", (9, 9))


@pytest.mark.parametrize("name", ["a.dcm", "a.png"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=f"^{name}: is not a plain file"):
        read_image_file(tmp_path / name, (9, 9))
    assert orientation_of(tmp_path / name, (9, 9)) == 1


class Hostile(ReaderProcess):
    """Its decoders do what the name of the file says."""

    worker = "tests.modeling_medglip.isolation.hostile_worker"


@pytest.mark.parametrize("ending", [".dcm", ".tif"])
def test_a_crash_of_a_decoder_costs_that_image(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = []
    for name in ("crash", "sound"):
        file = tmp_path / f"{name}{ending}"
        size = write(file)
        if ending == ".tif":
            Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[::-1])).save(file)
        images.append({"file_name": file.name, "width": size[0], "height": size[1]})
    data = save_coco(tmp_path, "train.json", images, [[("liver", [1.0, 1.0, 4.0, 4.0])]] * 2)
    with Hostile() as reader:
        monkeypatch.setitem(coco_records._READERS, os.getpid(), reader)
        broken: dict[str, str] = {}
        whole = readable(load_records(data, "ct"), broken)
    assert [record.image_id for record in whole] == [f"sound{ending}"]
    assert list(broken.values()) == [
        f"crash{ending}: its decoder crashed (SIGABRT): the file is damaged, or malicious"
    ]
