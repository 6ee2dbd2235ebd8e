# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Reading volumes: NIfTI through nibabel; NRRD and MetaImage (in `volumes_itk`) through SimpleITK.

Files are not trusted: sizes are checked from the header before voxels are read, a header may not point to a file
elsewhere, and whatever a library raises becomes a [`VolumeError`]. Nothing but voxels and geometry is kept.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from .errors import MedGlipError, one_line
from .geometry import RAS_LPS, Volume
from .quiet import silent


MAX_BYTES = 2**32
PIECE = 2**22
NIFTI_ENDINGS = (".nii", ".nii.gz")
ITK_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")
# mm in a unit of NIfTI's xyzt_units; a file that states none counts in mm.
UNITS = {1: ("metres", 1000.0), 3: ("micrometres", 0.001)}
Read = TypeVar("Read")
Header = tuple[tuple[int, int, int], NDArray[np.float64]]


class VolumeError(MedGlipError):
    """A volume that cannot be used.

    Attributes:
        rule: what is wrong, as one word for reports: `"unreadable"`, `"not_3d"`, `"colour_volume"`, `"bad_affine"`,
            `"too_large"`, `"leaves_folder"`.
    """

    def __init__(self, message: str, rule: str) -> None:
        super().__init__(message)
        self.rule = rule


def is_volume_file(path: Path) -> bool:
    """Whether the name is that of a volume that [`read_volume`] reads."""
    return path.name.lower().endswith((*NIFTI_ENDINGS, *ITK_ENDINGS))


def read_volume(path: str | Path, number: int | None = None) -> Volume:
    """Read a volume.

    Args:
        path: `.nii`, `.nii.gz`, `.nrrd`, `.nhdr`, `.mha` or `.mhd`.
        number: which volume of a file that holds several (4-D), counted from 1; such files are refused without.

    Returns:
        the stored numbers with slope, intercept and affine in mm, whatever unit a NIfTI file states; of NIfTI the
        sform, or else the qform.

    Raises:
        `VolumeError`: names the file and what is wrong.
    """
    from .volumes_itk import read_itk

    return _read(Path(path), partial(_read_nifti, number=number), partial(read_itk, number=number))


def read_header(path: str | Path, number: int | None = None) -> Header:
    """Shape and affine (LPS mm) of a volume that [`read_volume`] reads, without its voxels.

    Raises:
        `VolumeError`: names the file and what is wrong.
    """
    from .volumes_itk import itk_header

    return _read(Path(path), partial(_nifti_header, number=number), partial(itk_header, number=number))


def unit_note(header: Any) -> tuple[str, ...]:
    """What should be known of the unit of a NIfTI header: nothing of mm."""
    name, factor = UNITS.get(int(header["xyzt_units"]) & 7, ("", 1.0))
    return (f"its header counts in {name}: 1 of them is taken as {factor:g} mm",) if name else ()


def _read(file: Path, nifti: Callable[[Path], Read], itk: Callable[[Path], Read]) -> Read:
    lower = file.name.lower()
    try:
        if lower.endswith(NIFTI_ENDINGS):
            return nifti(file)
        if lower.endswith(ITK_ENDINGS):
            return itk(file)
    except VolumeError as error:
        raise VolumeError(f"{one_line(file.name, 120)}: {error}", error.rule) from error
    except MemoryError:
        raise
    except Exception as error:  # damaged files make both libraries raise nearly anything
        reason = one_line(getattr(error, "strerror", None) or type(error).__name__, 80)
        raise VolumeError(f"{one_line(file.name, 120)}: is damaged or cut short ({reason})", "unreadable") from error
    known = ", ".join((*NIFTI_ENDINGS, *ITK_ENDINGS))
    raise VolumeError(f"{one_line(file.name, 120)}: is no volume of a known kind ({known})", "unreadable")


def check_shape(shape: tuple[int, ...], item_bytes: int) -> None:
    voxels = 1
    for length in shape:
        voxels *= int(length)
    if voxels < 1:
        raise VolumeError(f"has no voxels {shape}", "unreadable")
    if voxels * item_bytes > MAX_BYTES:
        raise VolumeError(f"has {voxels} voxels {shape}: more than {MAX_BYTES} bytes", "too_large")


def made_volume(array: np.ndarray, affine: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> Volume:
    try:
        return Volume(array, affine, slope, intercept)
    except ValueError as error:
        raise VolumeError(str(error), "bad_affine") from None


def _read_nifti(file: Path, number: int | None = None) -> Volume:
    with _opened(file) as stream:
        image, shape = _nifti_image(file, stream, number)
        if len(_lengths(image)) > 3:
            return _one_of_several(file, number or 1)
        array = np.asanyarray(image.dataobj.get_unscaled()).reshape(shape)
        slope, intercept = scaling(image)
    return made_volume(array, lps_affine(image), slope, intercept)


def _one_of_several(file: Path, number: int) -> Volume:
    """One volume of a 4-D file, slice by slice, so that the others are not in memory with it."""
    shape, affine = read_header(file, number)
    array, line = np.empty(0), (1.0, 0.0)
    for place, slab in enumerate(NiftiSlabs(file, number).read()):
        if place == 0:
            array, line = np.empty(shape, slab.array.dtype, order="F"), (slab.slope, slab.intercept)
        array[:, :, place] = slab.array[:, :, 0]
    return Volume(array, affine, *line)


def _lengths(image: Any) -> tuple[int, ...]:
    """The lengths of a NIfTI image's axes, without those of length 1 beyond the third."""
    shape = tuple(int(length) for length in image.shape)
    return (*shape[:3], *(length for length in shape[3:] if length != 1))


def _nifti_header(file: Path, number: int | None = None) -> Header:
    with _opened(file) as stream:
        image, shape = _nifti_image(file, stream, number)
    return shape, checked_affine(lps_affine(image))


def lps_affine(image: Any) -> NDArray[np.float64]:
    """(4, 4) index -> LPS mm of an image of nibabel, by the unit that its header states."""
    affine = RAS_LPS @ np.asarray(image.affine, dtype=np.float64)
    header: Any = getattr(image, "header", None)
    if isinstance(getattr(header, "structarr", None), np.ndarray) and "xyzt_units" in header.keys():
        affine[:3] *= UNITS.get(int(header["xyzt_units"]) & 7, ("", 1.0))[1]
    return affine


def nifti_header(path: str | Path) -> Any:
    """nibabel's header of a NIfTI file that [`read_header`] has accepted, as it is stored."""
    file = Path(path)
    with _opened(file) as stream:
        return _stored_header(_nifti_class(file, _nibabel()), stream)


class NiftiSlabs:
    """The slices along the last axis of a NIfTI file, one after the other; one is in memory at a time.

    Args:
        file, number: what [`read_header`] has accepted.
    """

    def __init__(self, file: Path, number: int | None = None) -> None:
        self.file, self.number = file, number

    def whole(self) -> Volume:
        """All of it, as [`read_volume`] gives it."""
        return read_volume(self.file, self.number)

    def read(self, first: int = 0) -> Iterator[Volume]:
        """Slices from one on, each a [`Volume`] (i, j, 1) with the affine of the whole.

        Raises:
            `VolumeError`: names the file and what is wrong, also in the middle of it.
        """
        reader = self._slabs(first)
        while True:
            found = _read(self.file, lambda _: next(reader, None), lambda _: None)
            if found is None:
                return
            yield found

    def _slabs(self, first: int) -> Iterator[Volume]:
        with _opened(self.file) as stream:
            image, (width, height, depth) = _nifti_image(self.file, stream, self.number)
            dtype, offset = image.dataobj.dtype, int(image.dataobj.offset)
            slope, intercept = scaling(image)
            affine = lps_affine(image)
            size = width * height * dtype.itemsize
            before = ((self.number or 1) - 1) * depth
            stream.seek(offset + (before + first) * size)
            for number in range(first, depth):
                content = stream.read(size)
                while len(content) < size and (more := stream.read(size - len(content))):
                    content += more
                if len(content) < size:
                    raise VolumeError(f"ends in slice {number} of {depth}", "unreadable")
                array = np.frombuffer(content, dtype).reshape((width, height, 1), order="F")
                yield made_volume(array, affine, slope, intercept)


def scaling(image: Any) -> tuple[float, float]:
    """Slope and intercept of a NIfTI image."""
    slope, intercept = (float(value) for value in (image.dataobj.slope, image.dataobj.inter))
    return (slope, intercept) if np.isfinite([slope, intercept]).all() and slope else (1.0, 0.0)


def _nifti_image(file: Path, stream: BinaryIO, number: int | None = None) -> tuple[Any, tuple[int, int, int]]:
    """nibabel's image of an open file, checked by its header, and the shape of a volume; no voxel is read."""
    nibabel = _nibabel()
    kind = _nifti_class(file, nibabel)
    _check_spacing(_stored_header(kind, stream))
    holder = nibabel.FileHolder(fileobj=cast(Any, stream))
    # A packed file cannot be mapped, but nibabel finds that out only after unpacking all of it once.
    mapped = not _is_packed(file)
    with silent("nibabel.global"):
        image: Any = kind.from_file_map({"header": holder, "image": holder}, mmap=mapped)
    shape = _lengths(image)
    if image.dataobj.dtype.fields is not None or image.dataobj.dtype.kind not in "buif":
        raise VolumeError(f"holds {image.dataobj.dtype} voxels, not numbers", "colour_volume")
    if len(shape) not in (3, 4):
        raise VolumeError(f"has {len(shape)} axes {shape}, not three", "not_3d")
    count = shape[3] if len(shape) == 4 else 1
    if number is None and count > 1:
        raise VolumeError(f"has 4 axes {shape}, not three: choose a volume from 1 to {count} (--volume)", "not_3d")
    if number is not None and not 1 <= number <= count:
        raise VolumeError(f"has {count} volumes, none of the number {number}", "not_3d")
    check_shape(shape[:3], image.dataobj.dtype.itemsize)
    return image, (shape[0], shape[1], shape[2])


def _nibabel() -> Any:
    try:
        import nibabel
    except ModuleNotFoundError:
        raise VolumeError('reading NIfTI needs nibabel: pip install "med-glip[clinical]"', "unreadable") from None
    return nibabel


def _stored_header(kind: Any, stream: BinaryIO) -> Any:
    """The header as it is stored; nibabel's images have a mended one, whose zero spacing is 1."""
    stream.seek(0)
    with silent("nibabel.global"):
        header = kind.header_class.from_fileobj(stream, check=False)
    stream.seek(0)
    return header


def _check_spacing(header: Any) -> None:
    """Refuse a spacing of zero or less, where no sform gives another."""
    spacing = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if int(header["sform_code"]) <= 0 and not (np.isfinite(spacing).all() and spacing.min() > 0):
        told = " ".join(f"{value:g}" for value in spacing)
        raise VolumeError(f"states voxels of {told} mm (pixdim): mend its header, or convert it anew", "bad_affine")


def checked_affine(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine, if it can be that of a volume.

    Raises:
        `VolumeError`: it is singular or not finite.
    """
    made_volume(np.zeros((1, 1, 1), np.uint8), affine)
    return affine


def _nifti_class(file: Path, nibabel: Any) -> Any:
    """NIfTI-1 or NIfTI-2, by the size that the header begins with."""
    with _opened(file) as stream:
        start = stream.read(4)
    lengths = {int.from_bytes(start, order) for order in ("little", "big")}
    if 348 in lengths:
        return nibabel.Nifti1Image
    if 540 in lengths:
        return nibabel.Nifti2Image
    raise VolumeError("is no NIfTI file", "unreadable")


def _opened(file: Path) -> BinaryIO:
    """The bytes of a file, unpacked if they are gzip's, whatever its name says; by isa-l, several times as fast, where
    it is there."""
    if not _is_packed(file):
        return file.open("rb")
    try:
        from isal import igzip

        stream = igzip.open(file, "rb")
    except ModuleNotFoundError:
        stream = gzip.open(file, "rb")
    return cast(BinaryIO, _InPieces(stream))


def _is_packed(file: Path) -> bool:
    """Whether a file begins as gzip does."""
    with file.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


class _InPieces(io.BufferedIOBase):
    """Fills a large buffer piece by piece; the streams below would unpack all of it first and then copy it."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def readinto(self, buffer: Any) -> int:
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view):
            piece = self.stream.read(min(PIECE, len(view) - done))
            if not piece:
                break
            view[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def read(self, size: int | None = -1) -> bytes:
        return self.stream.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        return self.stream.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.stream.close()
        super().close()


__all__ = [
    "NiftiSlabs",
    "VolumeError",
    "is_volume_file",
    "lps_affine",
    "nifti_header",
    "read_header",
    "read_volume",
    "scaling",
    "unit_note",
]
