# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Boxes of a DICOM series written as a report and as a segmentation, and read back by highdicom."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.io.dicom_files import read_dicom_header
from modeling_medglip.outputs.dicom import write_report, write_segmentation
from modeling_medglip.outputs.volume_results import VolumeResult
from modeling_medglip.volumes.segmentations import read_segmentation
from modeling_medglip.volumes.source import VolumeSource


def roundtrip(result: VolumeResult, source: VolumeSource, threshold: float) -> dict[str, Any] | None:
    """Write, read back and compare.

    Args:
        result (`VolumeResult`): of the series.
        source (`VolumeSource`): the series.
        threshold (`float`): boxes with this score or a higher one count.

    Returns:
        `boxes`: how many there are. `report_mm`: the largest distance of an edge of a region in the report (SR) from
        that of its box, in the slices' plane. `segmentation_voxels`: the same of a segment (SEG), which is made of
        whole voxels. `None` without a DICOM series, or without boxes.
    """
    boxes = tuple(box for box in result.boxes if box.score >= threshold)
    if not source.dicom_files or not boxes:
        return None
    reported = replace(result, boxes=boxes)
    with tempfile.TemporaryDirectory() as folder:
        report = write_report(reported, source, Path(folder) / "a.sr.dcm")
        regions = _regions(report, source)
        segments = read_segmentation(write_segmentation(reported, source, Path(folder) / "a.seg.dcm"))
    if len(regions) != len(boxes) or len(segments) != len(boxes):
        raise ValueError(f"{source.name}: {len(boxes)} boxes, {len(regions)} regions, {len(segments)} segments")
    report_mm, voxels = 0.0, 0.0
    for box, points, (mask, _) in zip(boxes, regions, segments, strict=True):
        corners = np.array(box.corners_lps_mm)
        report_mm = max(report_mm, _apart(points, corners))
        indices = np.argwhere(mask.array)
        ends = np.array([[*(indices.min(axis=0) - 0.5), 1], [*(indices.max(axis=0) + 0.5), 1]]) @ mask.affine.T
        voxels = max(voxels, _apart(ends[:, :3], corners) / float(np.sort(source.grid.spacing)[1]))
    return {"boxes": len(boxes), "report_mm": report_mm, "segmentation_voxels": voxels}


def _regions(report: Path, source: VolumeSource) -> list[NDArray[np.float64]]:
    """Of every region of a report the points (n, 3) of its outlines, in LPS mm."""
    import highdicom

    images = {str(header.SOPInstanceUID): header for header in map(read_dicom_header, source.dicom_files)}
    regions = []
    content: Any = highdicom.sr.srread(report).content
    for group in content.get_volumetric_roi_measurement_groups():
        points = []
        for region in group.roi:
            instance = region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            transform = highdicom.spatial.ImageToReferenceTransformer.for_image(images[str(instance)])
            points.append(transform(region.value))
        regions.append(np.concatenate(points))
    return regions


def _apart(points: NDArray[np.float64], corners: NDArray[np.float64]) -> float:
    """Return the largest distance of two sets' edges along the first two axes of the patient, in mm."""
    low = np.abs(points[:, :2].min(axis=0) - corners[:, :2].min(axis=0)).max()
    return float(max(low, np.abs(points[:, :2].max(axis=0) - corners[:, :2].max(axis=0)).max()))


__all__ = ["roundtrip"]
