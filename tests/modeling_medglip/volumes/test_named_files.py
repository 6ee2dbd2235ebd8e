# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Headers of NRRD and MetaImage files that name other files: what they point to is never opened."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from dataset_scripts.readers.volumes import read_labelmap
from dataset_scripts.records import Rejected
from modeling_medglip.volumes.header import VolumeError
from modeling_medglip.volumes.inputs import as_source
from modeling_medglip.volumes.reader import read_header, read_volume
from modeling_medglip.volumes.source import open_volume


VOXELS = np.arange(120, dtype="<i2").reshape(6, 5, 4)
SECRET = b"\x07\x07" * 120
NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 6 5 4\nencoding: raw\nendian: little\n"
META = "ObjectType = Image\nNDims = 3\nDimSize = 6 5 4\nElementType = MET_SHORT\n"
# Headers that lead some reader to /x (which stands for a file outside the folder).
TRICKS = {
    "nrrd": [
        NRRD + "data file: /x\n",
        NRRD + "data file: ../secret.raw\n",
        NRRD + "data file: ./../secret.raw\n",
        NRRD + "data file: .././secret.raw\n",
        NRRD + "data file: link.raw\n",
        NRRD + "datafile: /x\n",
        NRRD + "DATA FILE:/x\n",
        NRRD + "Data File :   /x\n",
        NRRD + " data file: /x\n",
        NRRD + "\tdata file: /x\n",
        NRRD + "\x0cdata file: /x\n",
        NRRD + "# a\rdata file: /x\n",
        NRRD + "# a\x0bdata file: /x\n",
        NRRD + "# a\x85data file: /x\n",
        NRRD + "# a\u2028data file: /x\n",
        NRRD + "# a\x00\ndata file: /x\n",
        NRRD + "data file: \x00/x\n",
        NRRD + "data file: LIST\n/x\n",
        NRRD + "data file: LIST 2\n/x\n/x\n",
        NRRD + "data file: %d/../../x 1 4 1\n",
        NRRD + "data file: s%03d.raw 1 4 1 2\n",
        NRRD + "data file: d.raw\ndata file: /x\n",
        NRRD + "data file: /x\ndatafile: d.raw\n",
        NRRD + "data file: ..\\secret.raw\n",
        NRRD + "data file: ~/x\n",
        NRRD + "data file: file:///x\n",
        NRRD + "# " + "c" * 70000 + "\ndata file: /x\n",
        NRRD + "# comment\n" * 7000 + "data file: /x\n",
        "\n" + NRRD + "data file: /x\n",
        "\ufeff" + NRRD + "data file: /x\n",
        NRRD.replace("\n", "\r\n") + "data file: /x\r\n",
        NRRD.replace("\n", "\r") + "data file: /x\r",
    ],
    "meta": [
        META + "ElementDataFile = /x\n",
        META + "ElementDataFile : /x\n",
        META + "ElementDataFile: /x\n",
        META + "ElementDataFile=/x\n",
        META + " ElementDataFile = /x\n",
        META + "\x0cElementDataFile = /x\n",
        META + "\nElementDataFile = /x\n",
        META + "\r\n\r\nElementDataFile = /x\n",
        META + "Comment = a\rElementDataFile = /x\n",
        META + "Comment = a\u2029ElementDataFile = /x\n",
        META + "ElementDataFile = /x\x00LOCAL\n",
        META + "ElementDataFile = ../secret.raw\n",
        META + "ElementDataFile = link.raw\n",
        META + "ElementDataFile = ..\n",
        META + "ElementDataFile = \n",
        META + "ElementDataFile = LIST\n/x\n",
        META + "ElementDataFile = List 2\n/x\n/x\n",
        META + "ElementDataFile = %d/../../x 1 4 1\n",
        META + "ElementDataFile = s%03d.raw 1 4 1\n",
        META + "elementdatafile = /x\nElementDataFile = /x\n",
        META + "Comment = c\n" * 2 + "ElementDataFile = /x\n",
        META + "Comment = " + "c" * 70000 + "\nElementDataFile = /x\n",
        META + "".join(f"Key{number} = c\n" for number in range(7000)) + "ElementDataFile = /x\n",
        META.replace("\n", "\r\n") + "ElementDataFile = /x\r\n",
    ],
}
CASES = [
    (ending, text)
    for kind, endings in (("nrrd", (".nrrd", ".nhdr")), ("meta", (".mha", ".mhd")))
    for ending in endings
    for text in TRICKS[kind]
]
READERS: dict[str, Callable[[Path], Any]] = {
    "read_header": read_header,
    "read_volume": read_volume,
    "open_volume": lambda path: open_volume(path).volume(),
    "open_volume_detached": lambda path: open_volume(path, detached=True).volume(),
    "ground_volume": lambda path: as_source(path).volume(),
    "data_build": lambda path: read_labelmap(str(path)),
}
_opened: list[str] = []
sys.addaudithook(lambda event, args: _opened.append(os.path.realpath(args[0])) if _is_watched(event, args) else None)
_watching = False


def _is_watched(event: str, args: tuple[Any, ...]) -> bool:
    return _watching and event == "open" and isinstance(args[0], (str, bytes, os.PathLike))


@pytest.fixture
def opened() -> Iterator[list[str]]:
    global _watching
    _opened.clear()
    _watching = True
    yield _opened
    _watching = False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.raw").write_bytes(SECRET)
    made = tmp_path / "in"
    made.mkdir()
    (made / "link.raw").symlink_to(tmp_path / "secret.raw")
    (made / "d.raw").write_bytes(VOXELS.tobytes("F"))
    for number in range(1, 5):
        (made / f"s{number:03d}.raw").symlink_to(tmp_path / "secret.raw")
    return made


@pytest.mark.parametrize("reader", READERS)
def test_what_a_header_points_to_is_never_opened(reader: str, folder: Path, opened: list[str]) -> None:
    secret = os.path.realpath(folder.parent / "secret.raw")
    for number, (ending, text) in enumerate(CASES):
        path = folder / f"{number}{ending}"
        content = text.replace("/x", secret).encode()
        path.write_bytes(content + b"\n" + VOXELS.tobytes("F"))
        with pytest.raises((VolumeError, Rejected)) as error:
            READERS[reader](path)
        assert "\n" not in str(error.value), text
    assert secret not in opened and any(name.endswith("0.nrrd") for name in opened)


@pytest.mark.parametrize("name", ["d.nhdr", "d.mhd", "dot.nhdr", "dot.mhd"])
def test_a_plain_name_beside_the_header_only_where_allowed(name: str, folder: Path, opened: list[str]) -> None:
    voxels = "./d.raw" if name.startswith("dot") else "d.raw"
    text = NRRD + f"data file: {voxels}\n" if name.endswith("nhdr") else META + f"ElementDataFile = {voxels}\n"
    (folder / name).write_text(text, encoding="utf-8")
    for reader in ("read_header", "open_volume"):
        with pytest.raises(VolumeError, match="has its voxels in another file, .*: convert it") as error:
            READERS[reader](folder / name)
        assert error.value.rule == "leaves_folder"
    assert os.path.realpath(folder / "d.raw") not in opened
    for reader in ("read_volume", "open_volume_detached", "ground_volume", "data_build"):
        assert np.array_equal(READERS[reader](folder / name).array, VOXELS)
    assert np.array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / name))).T, VOXELS)


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo, lambda path: None])
@pytest.mark.parametrize("named", [True, False])
def test_only_regular_files_are_opened(make: Callable[[Path], None], named: bool, folder: Path) -> None:
    path = folder / ("e.raw" if named else "e.mha")
    make(path)
    if named:
        path = folder / "e.mhd"
        path.write_text(META + "ElementDataFile = e.raw\n", encoding="utf-8")
    with pytest.raises(VolumeError, match="not a file in its folder|not a regular file|No such file"):
        read_volume(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.hdr", "a.img"])
def test_pairs_of_files_are_refused(name: str, folder: Path, opened: list[str]) -> None:
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Pair(VOXELS, np.eye(4)), folder / "b.hdr")
    os.rename(folder / "b.img", folder / "a.img")
    (folder / name).write_bytes((folder / "b.hdr").read_bytes())
    for read in (read_header, read_volume, open_volume):
        with pytest.raises(VolumeError, match="header of a pair|unsupported volume format"):
            read(folder / name)
