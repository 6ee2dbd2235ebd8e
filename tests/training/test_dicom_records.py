# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""DICOM files in COCO data: the same pixels in training as when the trained model is used; volumes are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling_medglip.reading import read_image
from tests.modeling_medglip.dicom_files import slice_dataset
from tests.modeling_medglip.tiny_checkpoint import tiny_processor
from training.coco_records import read_picture
from training.records import load_records, readable

from .tiny_data import save_coco


def write(path: Path, **fields: Any) -> tuple[int, int]:
    """Write one slice; returns its width and height."""
    dataset = slice_dataset(0, (0, 0, 0), **fields)
    dataset.save_as(path)
    return int(dataset.Columns), int(dataset.Rows)


@pytest.mark.parametrize("name", ["a.dcm", "IM0001"])
def test_ct_in_hounsfield_units(name: str, tmp_path: Path) -> None:
    size = write(tmp_path / name)
    found = read_picture(tmp_path / name, size)
    assert np.array_equal(found, read_image(tmp_path / name).pixels) and found.min() < 0


def test_dark_high_values(tmp_path: Path) -> None:
    size = write(tmp_path / "a.dcm", Modality="DX", PhotometricInterpretation="MONOCHROME1")
    served, processor = read_image(tmp_path / "a.dcm"), tiny_processor(tmp_path, ("xray",)).image_processor
    assert served.photometric_interpretation == "MONOCHROME1"
    expected = processor.normalize_image(served.pixels, "xray", photometric_interpretation="MONOCHROME1")
    found = processor.normalize_image(read_picture(tmp_path / "a.dcm", size), "xray")
    assert np.allclose(found, expected, atol=1e-6) and found.std() > 0.1


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
        read_picture(tmp_path / "a.dcm", (9, 9))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd"])
def test_volumes_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"1")
    with pytest.raises(ValueError, match=f"^{name}: is a volume: .* python -m dataset_scripts.build$"):
        read_picture(tmp_path / name, (9, 9))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(300))
    with pytest.raises(ValueError, match="^a.dcm: (?!a.dcm)"):
        read_picture(tmp_path / "a.dcm", (9, 9))
