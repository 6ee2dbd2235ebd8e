# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""DICOM series, segmentations and structure sets for tests, made of pydicom's CT slice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid


SHAPE = (12, 16)  # rows, columns
AXIAL = (1.0, 0, 0, 0, 1, 0)
# A label map on the series: (columns, rows, slices).
MASK = np.zeros((16, 12, 5), np.uint8)
MASK[3:9, 2:7, 1:4] = 1


def slice_dataset(number: int, position: Sequence[float], orientation: Sequence[float] = AXIAL, **fields: Any) -> Any:
    """One CT slice of random stored numbers, 16 by 12 pixels of 0.7 by 0.9 mm."""
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    pixels = np.random.default_rng(number).integers(0, 2000, SHAPE).astype(np.int16)
    dataset.Rows, dataset.Columns = SHAPE
    dataset.PixelData = pixels.tobytes()
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = list(position), list(orientation)
    dataset.PixelSpacing, dataset.SliceThickness = [0.9, 0.7], 2.0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(number)])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.InstanceNumber = number + 1
    dataset.SpacingBetweenSlices = 2.0
    del dataset[0xFFFCFFFC]  # trailing padding of the original
    for key, value in fields.items():
        setattr(dataset, key, value)
    return dataset


def write_series(folder: Path, count: int = 5, step: Sequence[float] = (0, 0, 2.0), **fields: Any) -> list[Path]:
    """Slices from feet to head; their file names are in another order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        position = np.array([-5.0, -7.0, 40.0]) + number * np.array(step)
        path = folder / f"{(number * 3) % 7}_{number}.dcm"
        slice_dataset(number, position.tolist(), **fields).save_as(path)
        paths.append(path)
    return paths


def change(*paths: Path, **fields: Any) -> None:
    """Set fields of files; `None` deletes one."""
    for path in paths:
        dataset = pydicom.dcmread(path)
        for name, value in fields.items():
            if value is None:
                delattr(dataset, name)
            else:
                setattr(dataset, name, value)
        dataset.save_as(path)


def write_multi_frame(path: Path, slices: Sequence[Path]) -> None:
    """The slices as one enhanced CT file."""
    sources = [pydicom.dcmread(name) for name in slices]
    dataset = pydicom.dcmread(slices[0])
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.EnhancedCTImageStorage
    dataset.NumberOfFrames = len(sources)
    dataset.PixelData = b"".join(source.PixelData for source in sources)
    dataset.FrameOfReferenceUID = "1.2.3"
    dataset.DimensionOrganizationSequence, dataset.DimensionIndexSequence = [pydicom.Dataset()], [pydicom.Dataset()]
    dataset.DimensionOrganizationSequence[0].DimensionOrganizationUID = "1.2.4"
    index = dataset.DimensionIndexSequence[0]
    index.DimensionOrganizationUID = "1.2.4"
    index.DimensionIndexPointer, index.FunctionalGroupPointer = 0x00200032, 0x00209113
    shared = pydicom.Dataset()
    groups = {
        "PlaneOrientationSequence": {"ImageOrientationPatient": list(sources[0].ImageOrientationPatient)},
        "PixelMeasuresSequence": {"PixelSpacing": [0.9, 0.7], "SliceThickness": 2.0, "SpacingBetweenSlices": 2.0},
        "PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"},
    }
    for name, values in groups.items():
        setattr(shared, name, [_item(values)])
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    for number, source in enumerate(sources, start=1):
        frame = pydicom.Dataset()
        frame.PlanePositionSequence = [_item({"ImagePositionPatient": list(source.ImagePositionPatient)})]
        frame.FrameContentSequence = [_item({"DimensionIndexValues": [number]})]
        dataset.PerFrameFunctionalGroupsSequence.append(frame)
    for name in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        delattr(dataset, name)
    dataset.save_as(path)


def into_frames(path: Path, *groups: str) -> None:
    """Move functional groups that all frames of an enhanced file share into each frame."""
    dataset = pydicom.dcmread(path)
    (shared,) = dataset.SharedFunctionalGroupsSequence
    for name in groups:
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            setattr(frame, name, shared[name].value)
        delattr(shared, name)
    dataset.save_as(path)


def _item(values: dict[str, Any]) -> Any:
    item = pydicom.Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def write_segmentation(path: Path, slices: Sequence[Path], mask: np.ndarray = MASK) -> None:
    """A DICOM SEG of two segments, `mask` as "Liver" and a block as "Left kidney"."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    sources = [pydicom.dcmread(name) for name in slices]
    second = np.zeros_like(mask)
    second[11:14, 8:11, 2:4] = 1
    descriptions = [
        hd.seg.SegmentDescription(
            number, label, codes.SCT.Organ, codes.SCT.Organ, hd.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number, label in ((1, "Liver"), (2, "Left kidney"))
    ]
    frames = np.stack([part.transpose(2, 1, 0) for part in (mask, second)], axis=-1)
    hd.seg.Segmentation(
        sources, frames, hd.seg.SegmentationTypeValues.BINARY, descriptions, generate_uid(), 1, generate_uid(), 1,
        "maker", "model", "1", "0",
    ).save_as(path)  # fmt: skip


def write_structures(path: Path, contours: dict[str, list[np.ndarray]]) -> None:
    """An RTSTRUCT of closed planar contours: name -> points (n, 3) in LPS mm."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = pydicom.uid.RTStructureSetStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Modality = "RTSTRUCT"
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, parts) in enumerate(contours.items(), start=1):
        region, drawn = pydicom.Dataset(), pydicom.Dataset()
        region.ROINumber, region.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for points in parts:
            contour = pydicom.Dataset()
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [f"{value:.6g}" for value in points.ravel()]
            drawn.ContourSequence.append(contour)
        dataset.StructureSetROISequence.append(region)
        dataset.ROIContourSequence.append(drawn)
    dataset.save_as(path, enforce_file_format=True)


def dicom_image(
    pixels: np.ndarray,
    bits: tuple[int, int, int] | None = None,
    photometric: str = "MONOCHROME2",
    modality: str = "MR",
    **fields: Any,
) -> Any:
    """A data set of one image, or of frames, without a patient.

    Args:
        pixels: (rows, columns), (frames, rows, columns), or (rows, columns, 3) for a color space. bits: allocated,
            stored, high bit.
    """
    color = photometric.startswith(("RGB", "YBR"))
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = pydicom.uid.MRImageStorage
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.4", "1.2.5"
    dataset.Modality = modality
    dataset.Rows, dataset.Columns = pixels.shape[:2] if color else pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3 if color else 1, photometric
    if color:
        dataset.PlanarConfiguration = 0
    size = pixels.dtype.itemsize * 8
    allocated, stored, high = bits or ((8, 8, 7) if size == 8 else (size, 12, 11))
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, stored, high
    dataset.PixelRepresentation = 0
    dataset.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(dataset, name, value)
    return dataset


def save(dataset: Any, folder: Path, syntax: Any = pydicom.uid.ExplicitVRLittleEndian, **fields: Any) -> Path:
    """Write a data set of little-endian pixels as `a.dcm`, and set fields when its pixels are stored; `None` deletes
    one."""
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    if syntax == pydicom.uid.ExplicitVRBigEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
        size = 2 if dataset.BitsAllocated == 1 else dataset.BitsAllocated // 8  # single bits are stored in words
        dataset.PixelData = np.frombuffer(dataset.PixelData, f"u{size}").byteswap().tobytes()
    elif syntax != pydicom.uid.ExplicitVRLittleEndian:
        stored, high = dataset.BitsStored, dataset.HighBit
        if dataset.SamplesPerPixel == 1:  # all bits are compressed, also those that are not in use
            dataset.BitsStored, dataset.HighBit = dataset.BitsAllocated, dataset.BitsAllocated - 1
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.BitsStored, dataset.HighBit = stored, high
    dataset.setdefault("PixelData", b"")
    dataset["PixelData"].VR = "OB" if dataset.get("BitsAllocated") in (None, 8) else "OW"
    for name, value in fields.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    path = folder / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path
