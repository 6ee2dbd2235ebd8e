# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Kinds of files by their names."""

from __future__ import annotations

from pathlib import Path


IMAGE_ENDINGS = (
    ".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
VIDEO_ENDINGS = (".mp4", ".m4v", ".mov", ".avi")
DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
NIFTI_ENDINGS = (".nii", ".nii.gz")
NRRD_ENDINGS = (".nrrd", ".nhdr")
META_ENDINGS = (".mha", ".mhd")
SUPPORTED_VOLUME_ENDINGS = (*NIFTI_ENDINGS, *NRRD_ENDINGS, *META_ENDINGS)
VOLUME_ENDINGS = (*SUPPORTED_VOLUME_ENDINGS, ".img", ".hdr", ".mgz")
# Of what `medglip ground` writes.
OUTPUT_ENDINGS = (".boxes.json", ".boxes.nii.gz", ".mrk.json", ".sr.dcm", ".seg.dcm", ".labels.ctbl")


def is_volume_file(path: Path) -> bool:
    """Return whether a file has the name of a volume that [`~volumes.reader.read_volume`] reads."""
    return path.name.lower().endswith(SUPPORTED_VOLUME_ENDINGS)


__all__ = [
    "DICOM_ENDINGS",
    "IMAGE_ENDINGS",
    "META_ENDINGS",
    "NIFTI_ENDINGS",
    "NRRD_ENDINGS",
    "OUTPUT_ENDINGS",
    "SUPPORTED_VOLUME_ENDINGS",
    "VIDEO_ENDINGS",
    "VOLUME_ENDINGS",
    "is_volume_file",
]
