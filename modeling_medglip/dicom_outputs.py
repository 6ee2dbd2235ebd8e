# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Boxes of a DICOM series as DICOM: a measurement report (SR, TID 1500), and a segmentation (SEG). Through highdicom.

Both belong to the patient and the study of the series, as DICOM wants it: they are the only outputs of this package
that hold anything of the patient. Codes are SNOMED CT's where somebody has checked them, else the project's own.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import MedGlipError, one_line
from .results import write_bytes
from .run_report import package_version
from .taxonomy import load_taxonomy
from .volume_outputs import voxels
from .volume_results import VolumeBox, VolumeResult
from .volume_source import VolumeSource


MAKER, PRODUCT = "MedGLIP", "med-glip"
# Codes of our own, by the rule for private schemes (PS3.16, 8.2: 99 at the beginning).
SCHEME = "99MEDGLIP"
MAX_SEG_BYTES = 2**31
SR_SERIES, SEG_SERIES = 9901, 9902


def write_report(result: VolumeResult, source: VolumeSource, path: str | Path) -> Path:
    """Write a structured report with a volumetric region for every box: a rectangle in each of its slices.

    Raises:
        `MedGlipError`: no DICOM series, no box, or highdicom refuses its headers; names the input.
    """
    highdicom, datasets = _datasets(source)
    if not result.boxes:
        raise MedGlipError(f"{source.name}: nothing was found, and a report without a region is none")
    try:
        places = _places(source, datasets)
        groups = [_group(box, number, places, highdicom) for number, box in enumerate(result.boxes, start=1)]
        report = highdicom.sr.MeasurementReport(
            observation_context=_observer(result, highdicom),
            procedure_reported=_code("363679005", "SCT", "Imaging procedure", highdicom),
            imaging_measurements=groups,
            title=_code("126000", "DCM", "Imaging Measurement Report", highdicom),
        )
        document = highdicom.sr.Comprehensive3DSR(
            evidence=datasets,
            content=report,
            series_number=SR_SERIES,
            series_instance_uid=highdicom.UID(),
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=MAKER,
            series_description="MedGLIP boxes, research use only",
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise _refused(source, "report", error) from error
    return _write(document, path)


def write_segmentation(result: VolumeResult, source: VolumeSource, path: str | Path) -> Path:
    """Write a segmentation with a segment for every box, filled.

    Raises:
        `MedGlipError`: no DICOM series, no box, too many voxels, or highdicom refuses its headers; names the input.
    """
    highdicom, datasets = _datasets(source)
    columns, rows, slices = (int(length) for length in source.grid.array.shape)
    if not result.boxes:
        raise MedGlipError(f"{source.name}: nothing was found, and a segmentation without a segment is none")
    if columns * rows * slices * len(result.boxes) > MAX_SEG_BYTES:
        raise MedGlipError(f"{source.name}: {len(result.boxes)} segments of {slices} slices are too many voxels")
    try:
        frames = [frame for _, frame in _places(source, datasets)]
        order = range(slices) if frames[0] is None else np.argsort([int(frame or 0) for frame in frames])
        masks = np.zeros((slices, rows, columns, len(result.boxes)), np.uint8)
        for number, box in enumerate(result.boxes):
            i, j, k = voxels(box, source.grid.array.shape)
            masks[k, j, i, number] = 1
        masks = masks[list(order)]  # as the file has its frames
        algorithm = highdicom.AlgorithmIdentificationSequence(
            MAKER, _code("123109", "DCM", "Artificial Intelligence", highdicom), package_version()
        )
        segments = [
            highdicom.seg.SegmentDescription(
                segment_number=number,
                segment_label=one_line(f"{box.label} {number}", 64),
                segmented_property_category=_category(box, highdicom),
                segmented_property_type=_concept(box, highdicom),
                algorithm_type="AUTOMATIC",
                algorithm_identification=algorithm,
            )
            for number, box in enumerate(result.boxes, start=1)
        ]
        document = highdicom.seg.Segmentation(
            source_images=datasets,
            pixel_array=masks,
            segmentation_type="BINARY",
            segment_descriptions=segments,
            series_instance_uid=highdicom.UID(),
            series_number=SEG_SERIES,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=PRODUCT,
            software_versions=package_version(),
            device_serial_number="none",
            series_description="MedGLIP boxes, research use only",
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise _refused(source, "segmentation", error) from error
    return _write(document, path)


def _datasets(source: VolumeSource) -> tuple[Any, list[Any]]:
    """highdicom, and the headers of the series in the order of its slices."""
    if not source.dicom_files:
        raise MedGlipError(f"{source.name}: is no DICOM series, which reports and segmentations refer to")
    try:
        import highdicom
        import pydicom
    except ModuleNotFoundError:
        raise MedGlipError('writing DICOM needs highdicom: pip install "med-glip[clinical]"') from None
    datasets = [pydicom.dcmread(file, stop_before_pixels=True) for file in source.dicom_files]
    for dataset in datasets:
        if "SpecificCharacterSet" in dataset and not dataset.SpecificCharacterSet:
            del dataset.SpecificCharacterSet  # empty means the default, which highdicom does not know
    return highdicom, datasets


def _places(source: VolumeSource, datasets: Sequence[Any]) -> list[tuple[Any, int | None]]:
    """For every slice of the volume the image that holds it, and its frame (from 1) in a multi-frame one."""
    slices = int(source.grid.array.shape[2])
    if len(datasets) == slices and "PerFrameFunctionalGroupsSequence" not in datasets[0]:
        return [(dataset, None) for dataset in datasets]
    (dataset,) = datasets
    groups = dataset.PerFrameFunctionalGroupsSequence
    positions = np.array([group.PlanePositionSequence[0].ImagePositionPatient for group in groups], dtype=np.float64)
    affine = source.grid.affine
    origins = affine[:3, 3] + np.arange(slices)[:, None] * affine[:3, 2]
    distance = np.linalg.norm(origins[:, None] - positions[None], axis=2)
    nearest = distance.argmin(axis=1)
    if len(set(nearest.tolist())) < slices or distance.min(axis=1).max() > 0.1:
        raise ValueError("slices without a frame of their own")
    return [(dataset, int(frame) + 1) for frame in nearest]


def _refused(source: VolumeSource, kind: str, error: Exception) -> MedGlipError:
    # What highdicom says may quote the header.
    return MedGlipError(f"{source.name}: no {kind} can be made of its headers ({type(error).__name__})")


def _group(box: VolumeBox, number: int, places: Sequence[tuple[Any, int | None]], highdicom: Any) -> Any:
    """The box as a volumetric region: the same rectangle in every slice that it covers."""
    x1, y1, _, x2, y2, _ = box.box_ijk
    # Pixel (0, 0) of a picture covers 0 to 1 here as there (PS3.3 C.18.6.1.2).
    rectangle = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]], dtype=np.float64)
    regions = []
    for dataset, frame in (places[index] for index in slices_of(box)):
        frames = None if frame is None else [frame]
        image = highdicom.sr.SourceImageForRegion.from_source_image(dataset, referenced_frame_numbers=frames)
        regions.append(highdicom.sr.ImageRegion("POLYLINE", rectangle, image))
    score = highdicom.sr.Measurement(
        name=_code("score", SCHEME, "Detection score", highdicom),
        value=round(box.score, 4),
        unit=_code("1", "UCUM", "no units", highdicom),
    )
    return highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=highdicom.sr.TrackingIdentifier(
            uid=highdicom.UID(), identifier=one_line(f"{box.label} {number}", 64)
        ),
        referenced_regions=regions,
        finding_type=_concept(box, highdicom),
        finding_category=_category(box, highdicom),
        algorithm_id=highdicom.sr.AlgorithmIdentification(name=MAKER, version=package_version()),
        measurements=[score],
    )


def slices_of(box: VolumeBox) -> range:
    """The slices whose centres lie in a box."""
    k = voxels(box, (2**31, 2**31, 2**31))[2]
    return range(k.start, k.stop)


def _observer(result: VolumeResult, highdicom: Any) -> Any:
    device = highdicom.sr.DeviceObserverIdentifyingAttributes(
        uid=highdicom.UID(), name=one_line(result.model, 64), manufacturer_name=MAKER, model_name=PRODUCT
    )
    kind = _code("121007", "DCM", "Device", highdicom)
    return highdicom.sr.ObservationContext(observer_device_context=highdicom.sr.ObserverContext(kind, device))


def _category(box: VolumeBox, highdicom: Any) -> Any:
    label = load_taxonomy().resolve(box.label)
    if label is not None and label.granularity == "lesion":
        return _code("49755003", "SCT", "Morphologically abnormal structure", highdicom)
    return _code("123037004", "SCT", "Anatomical structure", highdicom)


def _concept(box: VolumeBox, highdicom: Any) -> Any:
    """What was found, as a code: SNOMED CT's if it is checked, else one of our own with the caller's words."""
    label = load_taxonomy().resolve(box.label)
    meaning = one_line(box.label, 64)
    if label is None:
        return _code("phrase", SCHEME, meaning, highdicom)
    checked = [code for code in label.codes if code.system == "SNOMED CT" and code.verified]
    # A side is a modifier in SNOMED CT; without it the code would say less than the label.
    if checked and checked[0].modifier is None:
        return _code(checked[0].value, "SCT", one_line(label.name, 64), highdicom)
    return _code(one_line(label.id, 16), SCHEME, meaning, highdicom)


def _code(value: str, scheme: str, meaning: str, highdicom: Any) -> Any:
    return highdicom.sr.CodedConcept(value=value, scheme_designator=scheme, meaning=meaning)


def _write(document: Any, path: str | Path) -> Path:
    buffer = io.BytesIO()
    document.save_as(buffer)
    return write_bytes(path, buffer.getvalue())


__all__ = ["slices_of", "write_report", "write_segmentation"]
