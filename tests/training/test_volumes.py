# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Reading volumes and cutting them in radiological display convention."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from training.volumes import Volume, cut, plane_length, read_dicom_slices, read_volume, to_lps

from .tiny_data import save_nrrd


RNG = np.random.default_rng(0)
ARRAY = RNG.integers(-1000, 1000, (5, 4, 3)).astype(np.int16)


def test_nifti_axes_come_from_the_affine(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(ARRAY, np.diag([-2.0, 1.0, 1.0, 1.0])), path)
    volume = read_volume(path)
    assert volume.axcodes == "LAS"
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert read_volume(path, "RPI").axcodes == "RPI"


def test_nrrd_axes_come_from_the_space_directions(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    save_nrrd(path, ARRAY, "(0.8,0,0) (0,-0.8,0) (0,0,6)")
    volume = read_volume(path)
    assert volume.axcodes == "LAS"
    np.testing.assert_array_equal(volume.array, ARRAY)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.mha: training reads volumes from"):
        read_volume(tmp_path / "a.mha")
    path = tmp_path / "b.nrrd"
    path.write_bytes(b"something else\n\n")
    with pytest.raises(ValueError, match=r"b\.nrrd: not an NRRD file"):
        read_volume(path)


def test_turning_to_lps_and_back() -> None:
    lps = to_lps(Volume(ARRAY, "RAS"))
    np.testing.assert_array_equal(lps, ARRAY[::-1, ::-1, :])
    np.testing.assert_array_equal(to_lps(Volume(ARRAY.transpose(2, 0, 1), "ILP")), ARRAY[:, :, ::-1])
    with pytest.raises(ValueError, match="do not name three different directions"):
        to_lps(Volume(ARRAY, "RLS"))


def test_planes_are_shown_as_a_radiologist_looks_at_them() -> None:
    array = np.zeros((6, 5, 4), np.uint8)
    array[0, 0, 3] = 1  # the patient's right, front, head
    assert np.argwhere(cut(array, "axial", 3)).tolist() == [[0, 0]]
    assert np.argwhere(cut(array, "coronal", 0)).tolist() == [[0, 0]]
    assert np.argwhere(cut(array, "sagittal", 0)).tolist() == [[0, 0]]
    assert cut(array, "axial", 0).shape == (5, 6) and cut(array, "coronal", 0).shape == (4, 6)
    assert [plane_length(array, plane) for plane in ("axial", "coronal", "sagittal")] == [4, 5, 6]
    with pytest.raises(ValueError, match="choose axial, coronal or sagittal"):
        cut(array, "oblique", 0)


def test_dicom_slices_are_sorted_and_in_hounsfield_units(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    paths = []
    for index, height in enumerate((5.0, 0.0)):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
        dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 2, 3, 16, 16, 15
        dataset.PixelRepresentation, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, 1, "MONOCHROME2"
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, height]
        dataset.PixelData = (np.arange(6, dtype=np.int16) + 10 * index).tobytes()
        paths.append(tmp_path / f"{index}.dcm")
        pydicom.dcmwrite(paths[-1], dataset, enforce_file_format=True)
    volume = read_dicom_slices(paths)
    assert volume.axcodes == "LPS" and volume.array.shape == (3, 2, 2)
    np.testing.assert_array_equal(cut(volume.array, "axial", 0), np.arange(6).reshape(2, 3) + 10 - 1024)
