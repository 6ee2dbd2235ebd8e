# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Reading volumes: NIfTI (`nifti`), NRRD (`nrrd`) and MetaImage (`metaimage`).

Files are not trusted: sizes are checked from the header before voxels are read, a header may not point to a file
elsewhere, and whatever goes wrong becomes a [`VolumeError`]. Nothing but voxels and geometry is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import one_line
from .geometry import Volume
from .header import MAX_BYTES, Shape, VolumeError, VolumeHeader
from .metaimage import meta_header
from .nifti import nifti_header
from .nrrd import nrrd_header
from .voxels import VolumeSlices


NIFTI_ENDINGS = (".nii", ".nii.gz")
NRRD_ENDINGS = (".nrrd", ".nhdr")
META_ENDINGS = (".mha", ".mhd")
ENDINGS = (*NIFTI_ENDINGS, *NRRD_ENDINGS, *META_ENDINGS)
Read = TypeVar("Read")
Header = tuple[Shape, NDArray[np.float64]]


def is_volume_file(path: Path) -> bool:
    """Whether the name is that of a volume that [`read_volume`] reads."""
    return path.name.lower().endswith(ENDINGS)


def read_volume(path: str | Path, number: int | None = None, *, detached: bool = True) -> Volume:
    """Read a volume.

    Args:
        path (`str` or `Path`): `.nii`, `.nii.gz`, `.nrrd`, `.nhdr`, `.mha` or `.mhd`.
        number (`int`, *optional*): which volume of a file that holds several (4-D), counted from 1; such files are
            refused without.
        detached (`bool`, *optional*, defaults to `True`): an NRRD or MetaImage header may name a file beside it that
            holds the voxels. Give `False` for files of strangers, such as uploads.

    Returns:
        the stored numbers with slope, intercept and affine in LPS mm, whatever unit a file states; of NIfTI by the
        sform, or else the qform.

    Raises:
        `VolumeError`: names the file and what is wrong.
    """
    return VolumeFile(Path(path), volume_header(path, number, detached=detached)).whole()


def read_header(path: str | Path, number: int | None = None, *, detached: bool = False) -> Header:
    """Return shape and affine (LPS mm) of a volume that [`read_volume`] reads, without its voxels.

    Args:
        detached (`bool`, *optional*, defaults to `False`): as in [`read_volume`].

    Raises:
        `VolumeError`: names the file and what is wrong.
    """
    header = volume_header(path, number, detached=detached)
    return header.shape, header.affine


def volume_header(path: str | Path, number: int | None = None, *, detached: bool = False) -> VolumeHeader:
    """Return the checked header of a volume file.

    Args:
        detached (`bool`, *optional*, defaults to `False`): as in [`read_volume`].

    Raises:
        `VolumeError`: names the file and what is wrong.
    """
    return _named(Path(path), lambda: _header(Path(path), number, detached))


class VolumeFile:
    """The voxels of a volume file; errors name the file.

    Args:
        path (`Path`): of the file that was opened.
        header ([`VolumeHeader`]): what [`volume_header`] gave.
    """

    def __init__(self, path: Path, header: VolumeHeader) -> None:
        self._path, self._slices = path, VolumeSlices(header)

    def whole(self) -> Volume:
        """Return all of it, as [`read_volume`] does.

        Raises:
            `VolumeError`: names the file and what is wrong.
        """
        return _named(self._path, self._slices.whole)

    def read(self, first: int = 0) -> Iterator[Volume]:
        """Yield the slices along the last axis from an index on, each a [`Volume`] (i, j, 1).

        Raises:
            `VolumeError`: as [`whole`], also after some slices.
        """
        slices = self._slices.read(first)
        while (found := _named(self._path, lambda: next(slices, None))) is not None:
            yield found


def _header(file: Path, number: int | None, detached: bool) -> VolumeHeader:
    lower = file.name.lower()
    if not lower.endswith(ENDINGS):
        raise VolumeError(f"is no volume of a known kind ({', '.join(ENDINGS)})", "unreadable")
    if file.exists() and not file.is_file():
        raise VolumeError("is not a regular file", "unreadable")
    if lower.endswith(NIFTI_ENDINGS):
        return nifti_header(file, number)
    return (nrrd_header if lower.endswith(NRRD_ENDINGS) else meta_header)(file, number, detached)


def _named(file: Path, read: Callable[[], Read]) -> Read:
    """What a reader gives; its errors name the file."""
    try:
        return read()
    except VolumeError as error:
        raise VolumeError(f"{one_line(file.name, 120)}: {error}", error.rule) from error
    except MemoryError:
        raise
    except Exception as error:  # damaged files make decoders raise nearly anything
        reason = one_line(getattr(error, "strerror", None) or type(error).__name__, 80)
        raise VolumeError(f"{one_line(file.name, 120)}: is damaged or cut short ({reason})", "unreadable") from error


__all__ = [
    "MAX_BYTES",
    "Header",
    "VolumeError",
    "VolumeFile",
    "VolumeHeader",
    "is_volume_file",
    "read_header",
    "read_volume",
    "volume_header",
]
