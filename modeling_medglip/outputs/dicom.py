# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Write boxes of a DICOM series as a measurement report (SR, TID 1500) or a segmentation (SEG). Needs highdicom.

Both belong to the patient and the study of the series, as DICOM requires; they are the only outputs of this package
that hold patient data. Codes are SNOMED CT's where they have been checked, else the project's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MedGlipError, install_hint, one_line
from ..io.dicom import functional_item
from ..io.dicom_files import read_dicom_header
from ..io.quiet import silent
from ..taxonomy import load_taxonomy
from ..volumes.geometry import box_voxels
from ..volumes.source import VolumeSource
from .files import atomic_writer
from .run_report import package_version
from .volume_results import VolumeBox, VolumeResult


MANUFACTURER, MODEL_NAME = "MedGLIP", "med-glip"
# Coding scheme of the project's own codes; private schemes begin with 99 (PS3.16, 8.2).
SCHEME = "99MEDGLIP"
# Largest pixel data, one bit a pixel: DICOM states their length in 32 bits.
MAX_SEG_BYTES = 2**32 - 2
# Required elements that may be empty (type 2 in PS3.3), which de-identified images may lack.
MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
SR_SERIES, SEG_SERIES = 9901, 9902


def write_report(result: VolumeResult, source: VolumeSource, path: str | Path) -> Path:
    """Write a structured report with a volumetric region for every box: a rectangle in each of its slices.

    Args:
        result ([`VolumeResult`]): the boxes.
        source ([`VolumeSource`]): the DICOM series that was grounded.
        path (`str` or `Path`): the file to write.

    Raises:
        `MedGlipError`: not a DICOM series, no box, or highdicom refuses its headers; names the input.
    """
    highdicom, datasets = _datasets(source)
    if not result.boxes:
        raise MedGlipError(f"{source.name}: nothing was found, and a report needs at least one region")
    try:
        groups = [_group(box, number, source, datasets, highdicom) for number, box in enumerate(result.boxes, start=1)]
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
            manufacturer=MANUFACTURER,
            series_description="MedGLIP boxes, research use only",
        )
    except Exception as error:  # highdicom and pydicom raise nearly anything for damaged headers
        raise _refused(source, "report", error) from error
    return _write(document, path)


def write_segmentation(result: VolumeResult, source: VolumeSource, path: str | Path) -> Path:
    """Write a segmentation with a filled segment for every box; empty frames are left out.

    To keep one frame in memory, highdicom makes the header from masks of one pixel per slice, and the rectangles of
    the boxes replace its pixels.

    Args:
        result ([`VolumeResult`]): the boxes.
        source ([`VolumeSource`]): the DICOM series that was grounded.
        path (`str` or `Path`): the file to write.

    Raises:
        `MedGlipError`: not a DICOM series, no box, too many voxels, or highdicom refuses its headers; names the input.
    """
    highdicom, datasets = _datasets(source)
    if not result.boxes:
        raise MedGlipError(f"{source.name}: nothing was found, and a segmentation needs at least one segment")
    columns, rows = (int(length) for length in source.grid.array.shape[:2])
    covered = [covered_slices(box, source) for box in result.boxes]
    size = -(-sum(len(slices) for slices in covered) * rows * columns // 8)
    if size > MAX_SEG_BYTES:
        raise MedGlipError(f"{source.name}: {len(result.boxes)} segments of {size} bytes are more than a file holds")
    try:
        document = _segmentation(result.boxes, covered, source, datasets, highdicom)
        numbers = [
            int(functional_item(document, frame, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            for frame in range(int(document.NumberOfFrames))
        ]
        document.Rows, document.Columns = rows, columns
        rectangles = [_rectangle(box, (rows, columns)) for box in result.boxes]
        document.PixelData = _packed(rectangles[number - 1] for number in numbers)
    except Exception as error:  # highdicom and pydicom raise nearly anything for damaged headers
        raise _refused(source, "segmentation", error) from error
    return _write(document, path)


def _segmentation(
    boxes: Sequence[VolumeBox],
    covered: Sequence[Sequence[int]],
    source: VolumeSource,
    datasets: Sequence[Any],
    highdicom: Any,
) -> Any:
    """Return the data set of a segmentation with one pixel per frame.

    Args:
        boxes (`Sequence[VolumeBox]`): one segment each.
        covered (`Sequence[Sequence[int]]`): the slices of each box.
        source ([`VolumeSource`]): the series.
        datasets (`Sequence[pydicom.Dataset]`): headers of its files.
        highdicom (`ModuleType`): the module.
    """
    used = sorted({number for slices in covered for number in slices})
    by_frame = source.dicom_slices[0].frame is not None
    # All frames of a multi-frame file, in its own order; only the needed ones of single files.
    order = (
        sorted(range(len(source.dicom_slices)), key=lambda n: source.dicom_slices[n].frame or 0) if by_frame else used
    )
    masks = np.zeros((len(order), 1, 1, len(boxes)), np.uint8)
    for number, slices in enumerate(covered):
        masks[np.isin(order, list(slices)), 0, 0, number] = 1
    images = list(datasets) if by_frame else [datasets[number] for number in used]
    sizes = [(image.Rows, image.Columns) for image in images]
    for image in images:
        image.Rows = image.Columns = 1
    try:
        return highdicom.seg.Segmentation(
            source_images=images,
            pixel_array=masks,
            segmentation_type="BINARY",
            segment_descriptions=_segments(boxes, highdicom),
            series_instance_uid=highdicom.UID(),
            series_number=SEG_SERIES,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MODEL_NAME,
            software_versions=package_version(),
            device_serial_number="none",
            series_description="MedGLIP boxes, research use only",
            omit_empty_frames=True,
        )
    finally:
        for image, size in zip(images, sizes, strict=True):
            image.Rows, image.Columns = size


def _segments(boxes: Sequence[VolumeBox], highdicom: Any) -> list[Any]:
    """Return the description of a segment for every box."""
    algorithm = highdicom.AlgorithmIdentificationSequence(
        MANUFACTURER, _code("123109", "DCM", "Artificial Intelligence", highdicom), package_version()
    )
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=one_line(f"{box.label} {number}", 64),
            segmented_property_category=_category(box, highdicom),
            segmented_property_type=_concept(box, highdicom),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, box in enumerate(boxes, start=1)
    ]


def _rectangle(box: VolumeBox, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the mask (rows, columns) of 0 and 1 of a box in each of its slices."""
    i, j, _ = box_voxels(box.box_ijk, (shape[1], shape[0], 1))
    mask = np.zeros(shape, np.uint8)
    mask[j, i] = 1
    return mask


def _packed(frames: Iterable[NDArray[np.uint8]]) -> bytes:
    """Pack frames of 0 and 1 as one bit per pixel, without gaps, to an even number of bytes (PS3.5 8.1.1)."""
    packed, rest = bytearray(), np.zeros(0, np.uint8)
    for frame in frames:
        bits = np.concatenate([rest, frame.ravel()])
        whole = len(bits) // 8 * 8
        packed += np.packbits(bits[:whole], bitorder="little").tobytes()
        rest = bits[whole:]
    packed += np.packbits(rest, bitorder="little").tobytes()
    packed += b"\0" * (len(packed) % 2)
    return bytes(packed)


def _datasets(source: VolumeSource) -> tuple[Any, list[Any]]:
    """Return highdicom, and the headers of the series' files in the order of its slices."""
    if not source.dicom_slices:
        raise MedGlipError(f"{source.name}: is not a DICOM series, which reports and segmentations refer to")
    try:
        import highdicom
    except ModuleNotFoundError:
        raise MedGlipError(f"writing DICOM needs highdicom: {install_hint('clinical')}") from None
    try:
        with silent("pydicom"):
            datasets = [read_dicom_header(file) for file in source.dicom_files]
            for dataset in datasets:
                _complete(dataset)
    except Exception as error:  # pydicom raises nearly anything for damaged files
        raise _refused(source, "report or segmentation", error) from error
    return highdicom, datasets


def _complete(dataset: Any) -> None:
    """Add empty values that de-identified files lack, and shared functional groups where highdicom expects them."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    for keyword in ("PixelMeasuresSequence", "PlaneOrientationSequence") if shared is not None else ():
        if keyword not in shared and (item := functional_item(dataset, 0, keyword)) is not None:
            setattr(shared, keyword, [item])
    for keyword in MAY_BE_EMPTY:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    if "SpecificCharacterSet" in dataset and not dataset.SpecificCharacterSet:
        del dataset.SpecificCharacterSet  # an empty value means the default, which highdicom refuses


def _refused(source: VolumeSource, kind: str, error: Exception) -> MedGlipError:
    # highdicom's message may quote the header.
    return MedGlipError(f"{source.name}: no {kind} can be made of its headers ({type(error).__name__})")


def _group(box: VolumeBox, number: int, source: VolumeSource, datasets: Sequence[Any], highdicom: Any) -> Any:
    """Return a box as a volumetric region: the same rectangle in every slice that it covers."""
    x1, y1, _, x2, y2, _ = box.box_ijk
    # Pixel (0, 0) covers 0 to 1, as in PS3.3 C.18.6.1.2.
    rectangle = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]], dtype=np.float64)
    regions = []
    for index in covered_slices(box, source):
        frame = source.dicom_slices[index].frame
        dataset, frames = (datasets[index], None) if frame is None else (datasets[0], [frame])
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
        algorithm_id=highdicom.sr.AlgorithmIdentification(name=MANUFACTURER, version=package_version()),
        measurements=[score],
    )


def covered_slices(box: VolumeBox, source: VolumeSource) -> list[int]:
    """Return the slices of the series whose centers lie in a box, or else the nearest one.

    Args:
        box ([`VolumeBox`]): in voxels of the series' volume.
        source ([`VolumeSource`]): the series.
    """
    low, high = box.box_ijk[2] - 0.5, box.box_ijk[5] - 0.5
    positions = [slice_.position for slice_ in source.dicom_slices]
    inside = [number for number, position in enumerate(positions) if low <= position < high]
    return inside or [min(range(len(positions)), key=lambda number: abs(positions[number] - (low + high) / 2))]


def _observer(result: VolumeResult, highdicom: Any) -> Any:
    device = highdicom.sr.DeviceObserverIdentifyingAttributes(
        uid=highdicom.UID(), name=one_line(result.model, 64), manufacturer_name=MANUFACTURER, model_name=MODEL_NAME
    )
    kind = _code("121007", "DCM", "Device", highdicom)
    return highdicom.sr.ObservationContext(observer_device_context=highdicom.sr.ObserverContext(kind, device))


def _category(box: VolumeBox, highdicom: Any) -> Any:
    label = load_taxonomy().resolve(box.label)
    if label is not None and label.granularity == "lesion":
        return _code("49755003", "SCT", "Morphologically abnormal structure", highdicom)
    return _code("123037004", "SCT", "Anatomical structure", highdicom)


def _concept(box: VolumeBox, highdicom: Any) -> Any:
    """Return the code of a box's label: SNOMED CT's if it is checked, else the project's own."""
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
    with atomic_writer(path) as stream:
        document.save_as(stream)
    return Path(path)


__all__ = ["covered_slices", "write_report", "write_segmentation"]
