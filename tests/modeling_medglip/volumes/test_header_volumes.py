# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Headers of NRRD and MetaImage files, compared with SimpleITK where that is right."""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from modeling_medglip.volumes.header import UNORIENTED, UNSPACED, VolumeError
from modeling_medglip.volumes.reader import read_header, read_volume
from modeling_medglip.volumes.source import open_volume


ARRAY = np.arange(120, dtype="<i2").reshape(6, 5, 4)
VOXELS = ARRAY.tobytes("F")
LPS = "space: LPS\nspace directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (1,2,3)\n"
BASE = {"type": "short", "dimension": "3", "sizes": "6 5 4", "encoding": "raw", "endian": "little"}


def nrrd(path: Path, lines: str = LPS, voxels: bytes = VOXELS, **base: str | None) -> Path:
    fields = "".join(f"{name}: {value}\n" for name, value in {**BASE, **base}.items() if value is not None)
    path.write_bytes(f"NRRD0005\n{fields}{lines}\n".encode() + voxels)
    return path


def meta(path: Path, lines: str = "", voxels: bytes = VOXELS, kind: str = "MET_SHORT", size: str = "6 5 4") -> Path:
    head = f"ObjectType = Image\nNDims = {len(size.split())}\nDimSize = {size}\n{lines}ElementType = {kind}\n"
    path.write_bytes(f"{head}ElementDataFile = LOCAL\n".encode() + voxels)
    return path


def assert_as_itk(path: Path) -> None:
    image = SimpleITK.ReadImage(str(path))
    volume = read_volume(path)
    assert np.array_equal(volume.array, SimpleITK.GetArrayFromImage(image).T)
    assert volume.array.dtype == SimpleITK.GetArrayFromImage(image).dtype
    for index in ((0, 0, 0), (5, 4, 3)):
        np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], image.TransformIndexToPhysicalPoint(index))


def as_text(array: np.ndarray) -> bytes:
    return " ".join(str(value) for value in array.ravel(order="F")).encode()


@pytest.mark.parametrize(
    "lines",
    [
        LPS,
        LPS.replace("LPS", "left-posterior-superior"),
        LPS.replace("LPS", "RAS"),
        LPS.replace("LPS", "Right-Anterior-Superior"),
        LPS.replace("LPS", "LAS"),
        LPS.replace("LPS", "3D-right-handed"),
        "space: RAS\nspace directions: (0,-2,0) (0.6,0,0.8) (-2.4,0,1.8)\nspace origin: (-10,20.5,1e2)\n",
        "space: LPS\nspace directions: (1, 0, 0) (0, 2, 0) (0, 0, 3)\n",
        LPS + "kinds: domain domain domain\ncenterings: cell cell node\nmeasurement frame: (1,0,0) (0,1,0) (0,0,1)\n",
        LPS + "# space: RAS\nkey:=space origin: (9,9,9)\ncontent: a: b = c\n",
        "spacings: 2 3 4\n",
        "spacings: 2 3 4\naxis mins: 10 20 30\n",
        "spacings: 2 3 4\naxis mins: 10 20 30\ncenters: node node node\n",
        "spacings: 2 3 4\naxismins: 10 20 30\ncenters: cell cell cell\n",
        "",
    ],
)
def test_places_in_space(lines: str, tmp_path: Path) -> None:
    assert_as_itk(nrrd(tmp_path / "a.nrrd", lines))
    crlf = (tmp_path / "a.nrrd").read_bytes().partition(b"\n\n")
    (tmp_path / "b.nrrd").write_bytes(crlf[0].replace(b"\n", b"\r\n") + b"\r\n\r\n" + crlf[2])
    assert np.array_equal(read_volume(tmp_path / "b.nrrd").array, ARRAY)


@pytest.mark.parametrize(
    ("units", "expected", "noted"),
    [
        ('"mm" "mm" "mm"', [1, 2, 3, 1, 2, 3], False),
        ('"um" "um" "um"', [1e-3, 2e-3, 3e-3, 1e-3, 2e-3, 3e-3], False),
        ('"\u00b5m" "\u03bcm" "microns"', [1e-3, 2e-3, 3e-3, 1e-3, 2e-3, 3e-3], False),
        ('"cm" "mm" "m"', [10, 2, 3000, 10, 2, 3000], False),
        ("cm cm cm", [10, 20, 30, 10, 20, 30], False),
        ('"" "" ""', [1, 2, 3, 1, 2, 3], False),
        ('"mm"', [1, 2, 3, 1, 2, 3], True),
        ('"inch" "mm" "mm"', [1, 2, 3, 1, 2, 3], True),
    ],
)
def test_units_of_space_become_mm(units: str, expected: list[float], noted: bool, tmp_path: Path) -> None:
    source = open_volume(nrrd(tmp_path / "a.nrrd", LPS + f"space units: {units}\n"))
    found = [*source.grid.spacing, *source.grid.affine[:3, 3]]
    assert found == pytest.approx(expected) and any("unit" in note for note in source.notes) == noted


def test_units_of_spacings_become_mm(tmp_path: Path) -> None:
    lines = 'spacings: 1 2 3\naxis mins: 4 5 6\ncenters: node node node\nunits: "cm" "mm" "um"\n'
    grid = open_volume(nrrd(tmp_path / "a.nrrd", lines)).grid
    assert [*grid.spacing, *grid.affine[:3, 3]] == pytest.approx([10, 2, 3e-3, 40, 5, 6e-3])


@pytest.mark.parametrize(
    ("space", "warned"),
    [
        ("space: LPS", False), ("space: ras", False), ("space: left-anterior-superior", False),
        ("space: 3D-right-handed", True), ("space: 3D-left-handed", True), ("space: scanner-xyz", True),
        ("space dimension: 3", True), ("# nothing", True),
    ],
)  # fmt: skip
def test_spaces_without_anatomy_are_warned_of(space: str, warned: bool, tmp_path: Path) -> None:
    assert (UNORIENTED in open_volume(nrrd(tmp_path / "a.nrrd", LPS.replace("space: LPS", space))).notes) == warned


@pytest.mark.parametrize(
    ("encoding", "voxels"),
    [
        ("raw", VOXELS), ("gzip", gzip.compress(VOXELS)), ("gz", gzip.compress(VOXELS)),
        ("ascii", as_text(ARRAY)), ("text", as_text(ARRAY)), ("hex", VOXELS.hex().encode()),
        ("bzip2", bz2.compress(VOXELS)), ("bz2", bz2.compress(VOXELS)),
    ],
)  # fmt: skip
def test_encodings(encoding: str, voxels: bytes, tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.nrrd", voxels=voxels, encoding=encoding)
    assert np.array_equal(read_volume(path).array, ARRAY)
    slices = dict(open_volume(path).read_slices("axial"))
    assert all(np.array_equal(slices[k], ARRAY[:, :, k].T) for k in range(4))
    assert np.array_equal(open_volume(path).read_slice("axial", 2), ARRAY[:, :, 2].T)
    path.write_bytes(path.read_bytes()[: -len(voxels) // 2])
    with pytest.raises(VolumeError, match="is damaged or cut short"):
        read_volume(path)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("uchar", "u1"), ("int8", "i1"), ("unsigned short", "u2"), ("int", "i4"), ("uint32_t", "u4"), ("long long", "i8"),
     ("uint64", "u8"), ("float", "f4"), ("double", "f8")],
)  # fmt: skip
@pytest.mark.parametrize("endian", ["little", "big"])
def test_types_of_nrrd(name: str, dtype: str, endian: str, tmp_path: Path) -> None:
    voxels = ARRAY.astype(np.dtype(dtype).newbyteorder(">" if endian == "big" else "<")).tobytes("F")
    assert_as_itk(nrrd(tmp_path / "a.nrrd", voxels=voxels, type=name, endian=endian))


@pytest.mark.parametrize(
    ("lines", "voxels"),
    [
        ("byte skip: 5\n", b"12345" + VOXELS),
        ("byteskip: -1\n", b"12345" + VOXELS),
        ("line skip: 2\n", b"one\ntwo\n" + VOXELS),
        ("line skip: 1\nbyte skip: 3\n", b"one\n123" + VOXELS),
    ],
)
def test_skips(lines: str, voxels: bytes, tmp_path: Path) -> None:
    assert_as_itk(nrrd(tmp_path / "a.nrrd", LPS + lines, voxels))


def test_bytes_are_skipped_after_unpacking(tmp_path: Path) -> None:
    packed = gzip.compress(b"12345" + VOXELS)
    assert_as_itk(nrrd(tmp_path / "a.nrrd", LPS + "byte skip: 5\n", packed, encoding="gzip"))


@pytest.mark.parametrize("kind", ["list", "time", "none", "???", ""])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("number", [1, 3])
def test_one_volume_of_a_series(kind: str, first: bool, number: int, tmp_path: Path) -> None:
    several = np.random.default_rng(0).integers(0, 99, (3, 6, 5, 4) if first else (6, 5, 4, 3)).astype("<i2")
    axes = ["domain"] * 3
    axes.insert(0 if first else 3, kind)
    kinds = f"kinds: {' '.join(axes)}\n" if kind else ""
    vectors = "none (1,0,0) (0,2,0) (0,0,3)" if first else "(1,0,0) (0,2,0) (0,0,3) none"
    lines = f"space: LPS\nspace directions: {vectors}\n{kinds}"
    sizes = " ".join(map(str, several.shape))
    path = nrrd(tmp_path / "a.nrrd", lines, several.tobytes("F"), dimension="4", sizes=sizes)
    with pytest.raises(VolumeError, match="choose a volume from 1 to 3"):
        read_header(path)
    expected = several[number - 1] if first else several[..., number - 1]
    assert np.array_equal(read_volume(path, number).array, expected)
    source = open_volume(path, number)
    assert source.grid.spacing == pytest.approx([1, 2, 3])
    assert np.array_equal(source.read_slice("axial", 1), expected[:, :, 1].T)


@pytest.mark.parametrize("kind", ["vector", "RGB-color", "3-color", "complex", "covariant-vector", "3D-matrix"])
@pytest.mark.parametrize("directions", [True, False])
def test_components_of_voxels_are_not_volumes(kind: str, directions: bool, tmp_path: Path) -> None:
    lines = f"kinds: {kind} domain domain domain\n"
    lines += "space: LPS\nspace directions: none (1,0,0) (0,2,0) (0,0,3)\n" if directions else ""
    path = nrrd(tmp_path / "a.nrrd", lines, VOXELS * 3, dimension="4", sizes="3 6 5 4")
    with pytest.raises(VolumeError, match="holds 3 numbers per voxel"):
        read_volume(path, 1)


@pytest.mark.parametrize(
    ("lines", "base", "message"),
    [
        (LPS, {"endian": None}, "does not state its endian"),
        (LPS, {"type": "char"}, "unknown type, 'char'"),
        (LPS, {"type": "block"}, "unknown type"),
        (LPS, {"type": None}, "unknown type"),
        (LPS, {"encoding": "zstd"}, "unknown encoding"),
        (LPS, {"sizes": "6 5"}, "3 whole numbers as sizes"),
        (LPS, {"sizes": "6 -5 4"}, "has no voxels"),
        (LPS, {"sizes": "6 5 4e0"}, "3 whole numbers as sizes"),
        (LPS, {"sizes": "6 5 " + "9" * 5000}, "3 whole numbers as sizes"),
        (LPS, {"sizes": "99999999999 99999999999 99999999999"}, "more than 4294967296 bytes"),
        (LPS, {"sizes": "1 1 100000"}, "more than 32768 along an axis"),
        (LPS, {"sizes": "60 50 40"}, "is damaged or cut short"),
        (LPS, {"dimension": "2", "sizes": "6 5"}, "does not state 2 directions"),
        ("", {"dimension": "2", "sizes": "6 5"}, "has 2 spatial axes"),
        (LPS, {"dimension": "17"}, "states 17 axes"),
        (LPS, {"dimension": "0"}, "states 0 axes"),
        (LPS + "sizes: 6 5 4\n", {}, "states sizes twice"),
        (LPS + "Space Origin: (9,9,9)\n", {}, "states Space Origin twice"),
        (LPS + "line skip: -1\n", {}, "line skip of -1"),
        (LPS + "line skip: 999999999\n", {}, "line skip of 999999999"),
        (LPS + "byte skip: -2\n", {}, "an invalid byte skip"),
        (LPS + "byte skip: 99999999999\n", {}, "is damaged or cut short"),
        (LPS + "byte skip: -1\n", {"encoding": "gzip"}, "an invalid byte skip"),
        (LPS + "no field\n", {}, "an invalid line in its header"),
        (LPS + "a" * 20000 + ": b\n", {}, "more than 16384 bytes in line"),
        (LPS.replace("LPS", "x" * 5000), {}, "unknown space"),
        (LPS.replace("LPS", "LPST"), {}, "unknown space"),
        (LPS.replace("(1,0,0)", "(nan,0,0)"), {}, "3 finite numbers as space directions"),
        (LPS.replace("(1,0,0)", "(1e400,0,0)"), {}, "3 finite numbers as space directions"),
        (LPS.replace("(1,0,0)", "(1,0)"), {}, "3 finite numbers as space directions"),
        (LPS.replace("(1,0,0)", "1,0,0"), {}, "does not state 3 directions"),
        (LPS.replace("(1,0,0)", "(0,4,0)"), {}, "singular"),
        (LPS.replace("(1,0,0)", "(1e300,0,0)"), {}, "an impossible size or position"),
        (LPS.replace("(1,2,3)", "(1e300,2,3)"), {}, "an impossible size or position"),
        ("spacings: 1 inf 1\n", {}, "3 finite numbers as spacings"),
        ("spacings: 1 1\n", {}, "does not state 3 spacings"),
    ],
)
def test_nrrd_headers_that_are_refused(
    lines: str, base: dict[str, str | None], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = nrrd(tmp_path / "a.nrrd", lines, **base)
    with pytest.raises(VolumeError, match=message) as error:
        open_volume(path)
    assert len(str(error.value)) < 300 and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fill", [b"# c\n", b"c:=d\n"])
def test_the_length_of_a_header_is_bounded(fill: bytes, tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.nrrd")
    head, _between, voxels = path.read_bytes().partition(b"\n\n")
    room = 2**16 - len(head) - 2
    path.write_bytes(head + b"\n" + fill * (room // len(fill) - 1) + b"\n" + voxels)
    assert np.array_equal(read_volume(path).array, ARRAY)
    path.write_bytes(head + b"\n" + fill * (room // len(fill) + 2) + b"\n" + voxels)
    with pytest.raises(VolumeError, match="more than 65536 bytes of header"):
        read_volume(path)


# MetaImage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        "ElementSpacing = 1 2 3\nOffset = 4 5 6\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n",
        "ElementSpacing = 1 2 3\nPosition = 4 5 6\nRotation = 0 1 0 -1 0 0 0 0 1\n",
        "ElementSize = 1 2 3\nOrigin = 4 5 6\nOrientation = 0 0 1 1 0 0 0 1 0\n",
        "ElementSpacing = 1 2 3\nElementSize = 9 9 9\nAnatomicalOrientation = LPS\n",
        "Offset = 4 5 6\nCenterOfRotation = 0 0 0\nModality = MET_MOD_CT\n",
        "TransformMatrix = 0.6 0.8 0 -0.8 0.6 0 0 0 1\nElementSpacing = 0.5 0.5 4\n",
        "BinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n0008|0005 = ISO_IR 100\n",
        "HeaderSize = -1\n",
    ],
)
def test_places_of_meta_images(lines: str, tmp_path: Path) -> None:
    path = meta(tmp_path / "a.mha", lines)
    assert_as_itk(path)
    notes = open_volume(path).notes
    assert (UNORIENTED in notes) == (
        not any(word in lines for word in ("TransformM", "\nRotation =", "\nOrientation = 0"))
    )
    assert (UNSPACED in notes) == ("Element" not in lines)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), ("um", 1e-3), ("cm", 10.0), ("?", 1.0)])
def test_units_of_distance_become_mm(unit: str, factor: float, tmp_path: Path) -> None:
    lines = f"DistanceUnits = {unit}\nElementSpacing = 1 2 3\nOffset = 4 5 6\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
    source = open_volume(meta(tmp_path / "a.mha", lines))
    assert [*source.grid.spacing, *source.grid.affine[:3, 3]] == pytest.approx(np.array([1, 2, 3, 4, 5, 6]) * factor)
    assert source.notes == ()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("MET_CHAR", "i1"), ("MET_UCHAR", "u1"), ("MET_USHORT", "u2"), ("MET_INT", "i4"), ("MET_LONG", "i4"),
     ("MET_ULONG", "u4"), ("MET_LONG_LONG", "i8"), ("MET_FLOAT", "f4"), ("MET_DOUBLE", "f8")],
)  # fmt: skip
@pytest.mark.parametrize("order", ["", "BinaryDataByteOrderMSB = True\n", "ElementByteOrderMSB = True\n"])
def test_types_of_meta_images(kind: str, dtype: str, order: str, tmp_path: Path) -> None:
    voxels = ARRAY.astype(np.dtype(dtype).newbyteorder(">" if order else "<")).tobytes("F")
    assert_as_itk(meta(tmp_path / "a.mha", order, voxels, kind))


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress])
def test_packed_meta_images(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    packed = pack(VOXELS)
    lines = f"CompressedData = True\nCompressedDataSize = {len(packed)}\n"
    assert_as_itk(meta(tmp_path / "a.mha", lines, packed))
    (tmp_path / "a.zraw").write_bytes(packed)
    head = meta(tmp_path / "b.mhd", lines, b"").read_bytes().replace(b"LOCAL", b"a.zraw")
    (tmp_path / "b.mhd").write_bytes(head)
    assert_as_itk(tmp_path / "b.mhd")
    with pytest.raises(VolumeError, match="in another file"):
        open_volume(tmp_path / "b.mhd")


@pytest.mark.parametrize("size", [0, 7, -1])
def test_a_header_in_the_other_file(size: int, tmp_path: Path) -> None:
    (tmp_path / "d.raw").write_bytes(b"x" * (7 if size else 0) + VOXELS)
    path = meta(tmp_path / "a.mhd", f"HeaderSize = {size}\n", b"")
    path.write_bytes(path.read_bytes().replace(b"LOCAL", b"d.raw"))
    assert_as_itk(path)


@pytest.mark.parametrize("number", [1, 2])
def test_one_volume_of_a_meta_image(number: int, tmp_path: Path) -> None:
    several = np.random.default_rng(0).integers(0, 99, (6, 5, 4, 2)).astype("<i2")
    lines = "HeaderSize = -1\nElementSpacing = 1 2 3 9\nOffset = 4 5 6 9\n"
    path = meta(tmp_path / "a.mha", lines, several.tobytes("F"), size="6 5 4 2")
    assert np.array_equal(read_volume(path, number).array, several[..., number - 1])
    assert open_volume(path, number).grid.spacing == pytest.approx([1, 2, 3])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("BinaryData = False\n", "holds its voxels as text"),
        ("BinaryData = perhaps\n", "where True or False belongs"),
        ("ElementNumberOfChannels = 3\n", "holds 3 numbers per voxel"),
        ("ElementNumberOfChannels = 0\n", "holds 0 numbers per voxel"),
        ("ObjectSubType = Image\nObjectSubType = Image\n", "states ObjectSubType twice"),
        ("Offset = 1 2 3\nPosition = 4 5 6\n", "states offset in two ways"),
        ("Offset = 1 2\n", "3 finite numbers as offset"),
        ("ElementSpacing = 1 nan 1\n", "3 finite numbers as elementspacing"),
        ("ElementSpacing = 1 1e400 1\n", "3 finite numbers as elementspacing"),
        ("TransformMatrix = 1 0 0 1 0 0 0 0 1\n", "singular"),
        ("HeaderSize = 3\n", "begin in its header"),
        ("HeaderSize = -2\n", "HeaderSize of -2"),
        ("HeaderSize = 99999\n", "is damaged or cut short"),
        ("HeaderSize = -1\nCompressedData = True\n", "HeaderSize of -1"),
        ("CompressedData = True\n", "is damaged or cut short"),
        ("\n", "an invalid line in its header"),
    ],
)
def test_meta_headers_that_are_refused(lines: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=message):
        read_volume(meta(tmp_path / "a.mha", lines))
