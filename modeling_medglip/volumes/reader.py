# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Read volume files slice by slice or whole: NIfTI, NRRD and MetaImage.

Files are not trusted: sizes are checked from the header before voxels are read, a header may not point to a file
elsewhere, and whatever goes wrong becomes a [`VolumeError`]. Only voxels and geometry are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import one_line
from ..io.file_endings import NIFTI_ENDINGS, NRRD_ENDINGS, SUPPORTED_VOLUME_ENDINGS, is_volume_file
from .geometry import Volume
from .header import Shape, VolumeError, VolumeHeader
from .metaimage import meta_header
from .nifti import nifti_header
from .nrrd import nrrd_header
from .voxels import decode_slices


Read = TypeVar("Read")
Header = tuple[Shape, NDArray[np.float64]]


class SliceReader(Protocol):
    """Reads the slices of a volume along its last array axis, one at a time."""

    @property
    def shape(self) -> Shape:
        """(i, j, k) voxels along the array axes."""

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4) index (i, j, k, 1) to LPS mm."""

    @property
    def sequential(self) -> bool:
        """Whether slices can only be decoded in order, so that reading one decodes all before it."""

    def read(self, first: int = 0) -> Iterator[Volume]:
        """Yield the slices from an index on, each a [`Volume`] (i, j, 1) with the affine of the whole.

        Raises:
            `VolumeError`: names the file and what is wrong, also after some slices.
        """


def stack(reader: SliceReader) -> Volume:
    """Read all slices into memory.

    Args:
        reader ([`SliceReader`]): of the volume.

    Returns:
        [`Volume`]: stored numbers with their slope and intercept, or float32 values where slices are rescaled
        differently.

    Raises:
        `VolumeError`: names the file and what is wrong.
    """
    array: NDArray[Any] = np.empty(0)
    rescale, mixed = (1.0, 0.0), False
    for index, slice_ in enumerate(reader.read()):
        if index == 0:
            rescale = slice_.slope, slice_.intercept
            array = np.empty(reader.shape, slice_.array.dtype, order="F")
        elif not mixed and (slice_.slope, slice_.intercept) != rescale:
            values: NDArray[np.float32] = np.empty(reader.shape, np.float32, order="F")
            values[:, :, :index] = Volume(array, reader.affine, *rescale).values(array[:, :, :index])
            array, rescale, mixed = values, (1.0, 0.0), True
        stored = slice_.values(slice_.array) if mixed else slice_.array
        if not mixed and not np.can_cast(stored.dtype, array.dtype):
            array = array.astype(np.result_type(array, stored))  # signed and unsigned slices, for example
        array[:, :, index] = stored[:, :, 0]
    return Volume(array, reader.affine, *rescale)


def read_volume(path: str | Path, number: int | None = None, *, detached: bool = True) -> Volume:
    """Read a volume.

    Args:
        path (`str` or `Path`): `.nii`, `.nii.gz`, `.nrrd`, `.nhdr`, `.mha` or `.mhd`.
        number (`int`, *optional*): which volume of a 4-D file, counted from 1; such files are refused without it.
        detached (`bool`, *optional*, defaults to `True`): an NRRD or MetaImage header may name a file in its folder
            that holds the voxels. Give `False` for untrusted files, such as uploads.

    Returns:
        [`Volume`]: stored numbers (i, j, k) with slope, intercept and affine in LPS mm, whatever unit the file
        states. NIfTI files are placed by the sform, else the qform.

    Raises:
        `VolumeError`: names the file and what is wrong.
    """
    return stack(open_slices(path, number, detached=detached))


def read_header(path: str | Path, number: int | None = None, *, detached: bool = False) -> Header:
    """Return shape and affine (LPS mm) of a volume that [`read_volume`] reads, without its voxels.

    Args:
        path (`str` or `Path`): as in [`read_volume`].
        number (`int`, *optional*): as in [`read_volume`].
        detached (`bool`, *optional*, defaults to `False`): as in [`read_volume`].

    Raises:
        `VolumeError`: names the file and what is wrong.
    """
    header = volume_header(path, number, detached=detached)
    return header.shape, header.affine


def volume_header(path: str | Path, number: int | None = None, *, detached: bool = False) -> VolumeHeader:
    """Return the checked header of a volume file.

    Args:
        path (`str` or `Path`): as in [`read_volume`].
        number (`int`, *optional*): as in [`read_volume`].
        detached (`bool`, *optional*, defaults to `False`): as in [`read_volume`].

    Raises:
        `VolumeError`: names the file and what is wrong.
    """
    return _named(Path(path), lambda: _header(Path(path), number, detached))


def open_slices(path: str | Path, number: int | None = None, *, detached: bool = False) -> FileSlices:
    """Return the slices of a volume file, whose header is read and checked.

    Args:
        path (`str` or `Path`): as in [`read_volume`].
        number (`int`, *optional*): as in [`read_volume`].
        detached (`bool`, *optional*, defaults to `False`): as in [`read_volume`].

    Raises:
        `VolumeError`: names the file and what is wrong.
    """
    return FileSlices(Path(path), volume_header(path, number, detached=detached))


class FileSlices:
    """The slices of a volume file, a [`SliceReader`].

    Args:
        path (`Path`): of the file that was opened, for messages.
        header ([`VolumeHeader`]): as [`volume_header`] returns it.
    """

    def __init__(self, path: Path, header: VolumeHeader) -> None:
        self._path, self.header = path, header
        self.shape, self.affine = header.shape, header.affine
        self.sequential = header.encoding != "raw"

    def read(self, first: int = 0) -> Iterator[Volume]:
        """See [`SliceReader.read`]."""
        slices = decode_slices(self.header, first)
        while (slice_ := _named(self._path, lambda: next(slices, None))) is not None:
            yield slice_


def _header(file: Path, number: int | None, detached: bool) -> VolumeHeader:
    lower = file.name.lower()
    if not is_volume_file(file):
        raise VolumeError(f"unsupported volume format: use one of {', '.join(SUPPORTED_VOLUME_ENDINGS)}", "unreadable")
    if file.exists() and not file.is_file():
        raise VolumeError("is not a regular file", "unreadable")
    if lower.endswith(NIFTI_ENDINGS):
        return nifti_header(file, number)
    return (nrrd_header if lower.endswith(NRRD_ENDINGS) else meta_header)(file, number, detached)


def _named(file: Path, read: Callable[[], Read]) -> Read:
    """Call a function; its errors name the file."""
    try:
        return read()
    except VolumeError as error:
        raise VolumeError(f"{one_line(file.name, 120)}: {error}", error.rule, hint=error.hint) from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise nearly anything for damaged files
        reason = one_line(getattr(error, "strerror", None) or type(error).__name__, 80)
        raise VolumeError(f"{one_line(file.name, 120)}: is damaged or cut short ({reason})", "unreadable") from error


__all__ = [
    "FileSlices",
    "Header",
    "SliceReader",
    "open_slices",
    "read_header",
    "read_volume",
    "stack",
    "volume_header",
]
