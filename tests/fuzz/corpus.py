# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Sound inputs of every kind, made in code. A seed is a folder: relative file name -> content."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import yaml
from PIL import Image


Files = dict[str, bytes]

WIDTH, HEIGHT = 32, 24
GRAY = (np.add.outer(np.arange(HEIGHT) * 5, np.arange(WIDTH) * 3) % 256).astype(np.uint8)
COLOR = np.stack([GRAY, 255 - GRAY, GRAY // 2], axis=2)
VOLUME = np.arange(6 * 5 * 4, dtype=np.int16).reshape(4, 5, 6)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


@cache
def images() -> tuple[Files, ...]:
    """Two-dimensional images of the formats that Pillow writes."""
    gray, color = Image.fromarray(GRAY), Image.fromarray(COLOR)
    deep = Image.fromarray(GRAY.astype(np.uint16) * 200)
    clear = Image.fromarray(np.dstack([COLOR, GRAY]))
    turned = Image.Exif()
    turned[0x0112] = 6
    single: dict[str, bytes] = {
        "gray.png": _saved(gray, "PNG"),
        "color.png": _saved(color, "PNG"),
        "deep.png": _saved(deep, "PNG"),
        "clear.png": _saved(clear, "PNG"),
        "palette.png": _saved(color.quantize(16), "PNG", transparency=3),
        "bit.png": _saved(gray.convert("1"), "PNG"),
        "gray.jpg": _saved(gray, "JPEG"),
        "color.jpg": _saved(color, "JPEG", exif=turned),
        "cmyk.jpg": _saved(color.convert("CMYK"), "JPEG"),
        "gray.tif": _saved(gray, "TIFF"),
        "deep.tif": _saved(deep, "TIFF"),
        "float.tif": _saved(Image.fromarray(GRAY.astype(np.float32) / 255), "TIFF"),
        "packed.tif": _saved(color, "TIFF", compression="tiff_lzw"),
        "deflated.tif": _saved(color, "TIFF", compression="tiff_adobe_deflate"),
        "pages.tif": _saved(gray, "TIFF", save_all=True, append_images=[gray, gray]),
        "frames.gif": _saved(gray, "GIF", save_all=True, append_images=[gray, color.convert("L")]),
        "color.bmp": _saved(color, "BMP"),
        "color.webp": _saved(color, "WEBP"),
        "gray.pgm": _saved(gray, "PPM"),
    }
    return tuple({name: content} for name, content in single.items())


def _dataset(pixels: np.ndarray, **values: Any) -> Any:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SeriesNumber = "1.2.3", "1.2.3.4", 7
    dataset.Modality, dataset.PatientID, dataset.PhotometricInterpretation = "CT", "X", "MONOCHROME2"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = *pixels.shape[:2], 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation, dataset.RescaleSlope, dataset.RescaleIntercept = 0, 1, -1024
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [1, 1], 2
    for name, value in values.items():
        setattr(dataset, name, value)
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
    return dataset


def _written(dataset: Any) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _compressed(syntax: str) -> Iterator[Any]:
    """The data set in one transfer syntax, if an installed library can encode it."""
    dataset = _dataset(GRAY.astype(np.uint16) * 16)
    try:
        dataset.compress(syntax, generate_instance_uid=False)
    except (NotImplementedError, RuntimeError, ValueError):
        return
    yield dataset


@cache
def dicom_images() -> tuple[Files, ...]:
    """Single DICOM images: gray, color, palette and one-bit, stored plainly and in each compression written here."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

    gray = _dataset(GRAY.astype(np.uint16) * 16)
    byte: dict[str, Any] = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "Modality": "US"}
    color = _dataset(COLOR, **byte, PhotometricInterpretation="RGB", SamplesPerPixel=3, PlanarConfiguration=0)
    palette = _dataset(GRAY, **byte, PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        setattr(palette, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(palette, f"{name}PaletteColorLookupTableData", np.arange(256, dtype="<u2").tobytes())
    bits = _dataset(np.packbits(GRAY > 99, bitorder="little")[None], BitsAllocated=1, BitsStored=1, HighBit=0)
    bits.Rows, bits.Columns = GRAY.shape
    deflated = _dataset(GRAY.astype(np.uint16))
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    packed = [one for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless) for one in _compressed(syntax)]
    return tuple({"a.dcm": _written(one)} for one in (gray, color, palette, bits, deflated, _jpeg(), *packed))


def _jpeg() -> Any:
    """A baseline JPEG inside DICOM."""
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit

    dataset = _dataset(GRAY, BitsAllocated=8, BitsStored=8, HighBit=7, Modality="US")
    dataset.PixelData = encapsulate([_saved(Image.fromarray(GRAY), "JPEG")])
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return dataset


@cache
def dicom_folders() -> tuple[Files, ...]:
    """DICOM series: one file per slice, and an enhanced multi-frame file."""
    slices = {
        f"{number}.dcm": _written(
            _dataset(
                GRAY.astype(np.uint16) * 16,
                ImagePositionPatient=[0, 0, 2 * number],
                SOPInstanceUID=f"1.2.3.4.5.{number}",
                InstanceNumber=number + 1,
            )
        )
        for number in range(4)
    }
    return slices, {"enhanced.dcm": _written(_enhanced())}


def _enhanced() -> Any:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence
    from pydicom.uid import EnhancedCTImageStorage

    def group(name: str, **values: Any) -> Dataset:
        item, holder = Dataset(), Dataset()
        for key, value in values.items():
            setattr(item, key, value)
        setattr(holder, name, Sequence([item]))
        return holder

    dataset = _dataset(np.concatenate([GRAY.astype(np.uint16)] * 3), SOPClassUID=EnhancedCTImageStorage)
    dataset.Rows, dataset.NumberOfFrames = HEIGHT, 3
    shared = group("PixelMeasuresSequence", PixelSpacing=[1, 1], SliceThickness=2)
    shared.update(group("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 1, 0]))
    frames = [group("PlanePositionSequence", ImagePositionPatient=[0, 0, 2 * number]) for number in range(3)]
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return dataset


@cache
def niftis() -> tuple[Files, ...]:
    """NIfTI-1 and -2, plain and packed, with an extension, and in 4-D."""
    import nibabel

    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    first = nibabel.Nifti1Image(VOLUME.T, affine)
    first.set_sform(affine, code=1)
    first.set_qform(affine, code=1)
    second = nibabel.Nifti2Image(VOLUME.T, affine)
    several = nibabel.Nifti1Image(np.stack([VOLUME.T] * 3, axis=-1), affine)
    noted = nibabel.Nifti1Image(VOLUME.T.astype(np.float32), affine)
    noted.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"a comment"))
    plain = [image.to_bytes() for image in (first, second, several, noted)]
    return *({"v.nii": content} for content in plain), {"v.nii.gz": gzip.compress(plain[0])}


NRRD = """NRRD0005
# made in code
type: short
dimension: 3
space: left-posterior-superior
sizes: 6 5 4
space directions: (1,0,0) (0,1,0) (0,0,2)
kinds: domain domain domain
endian: little
encoding: raw
space origin: (1,2,3)
space units: "mm" "mm" "mm"
"""
META = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 1 2 3
CenterOfRotation = 0 0 0
AnatomicalOrientation = LPS
ElementSpacing = 1 1 2
DimSize = 6 5 4
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""


@cache
def header_volumes() -> tuple[Files, ...]:
    """NRRD and MetaImage, attached and detached, plain and packed."""
    voxels = VOLUME.astype("<i2").tobytes()
    packed = NRRD.replace("encoding: raw", "encoding: gzip")
    return (
        {"v.nrrd": NRRD.encode() + b"\n" + voxels},
        {"v.nrrd": packed.encode() + b"\n" + gzip.compress(voxels)},
        {"v.nhdr": (NRRD + "data file: v.raw\n").encode(), "v.raw": voxels},
        {"v.mha": META.encode() + voxels},
        {"v.mhd": META.replace("LOCAL", "v.raw").encode(), "v.raw": voxels},
    )


def _coco() -> dict[str, Any]:
    box, polygon = [4, 5, 10, 8], [[4, 5, 14, 5, 14, 13, 4, 13]]
    runs = {"size": [HEIGHT, WIDTH], "counts": [100, 8, 16, 8, HEIGHT * WIDTH - 132]}
    return {
        "info": {"modality": "ultrasound"},
        "images": [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in (1, 2, 3)],
        "categories": [{"id": 1, "name": "liver"}, {"id": 2, "name": "spleen"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 80, "iscrowd": 0},
            {"id": 2, "image_id": 2, "category_id": 2, "bbox": box, "area": 80, "segmentation": polygon},
            {"id": 3, "image_id": 3, "category_id": 1, "bbox": box, "area": 16, "segmentation": runs, "iscrowd": 1},
        ],
    }


@cache
def coco_sets() -> tuple[Files, ...]:
    """A COCO file with boxes, polygons and run lengths, and its images."""
    image = _saved(Image.fromarray(GRAY), "PNG")
    return ({"boxes.json": json.dumps(_coco()).encode(), **{f"{number}.png": image for number in (1, 2, 3)}},)


VOC = """<annotation><size><width>32</width><height>24</height></size>
<object><name>liver</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>12</xmax><ymax>15</ymax></bndbox></object>
</annotation>
"""


@cache
def side_files() -> tuple[Files, ...]:
    """Images with Pascal VOC, YOLO and CSV boxes; the file `kind` says which."""
    image = _saved(Image.fromarray(GRAY), "PNG")
    table = "id,label,x1,y1,x2,y2\na,liver,3,4,12,15\na,spleen,1,1,5,5\n"
    return (
        {"a.png": image, "a.xml": VOC.encode()},
        {"a.png": image, "a.txt": b"0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.4 0.1 0.4 0.4 0.1 0.4\n"},
        {"a.png": image, "t.csv": table.encode()},
    )


RECIPE = {
    "source": "mysource",
    "modality": "ultrasound",
    "layout": "coco",
    "files": {"annotations": "boxes.json", "images": "."},
    "labels": {"liver": "liver", "spleen": "spleen"},
    "values": {1: "liver"},
    "splits": {"train": ["a*"]},
    "planes": {"axial": 2},
    "window": [0, 100],
    "clinical": {"table": "t.csv", "id": "id", "age": "age"},
    "card": {"name": "a set", "license": "CC0-1.0"},
    "confirmed": True,
}


@cache
def recipes() -> tuple[Files, ...]:
    """Recipes of the data build."""
    several = {"defaults": {"confirmed": True}, "recipes": [RECIPE, {**RECIPE, "source": "other", "layout": "voc"}]}
    return tuple({"r.yaml": yaml.safe_dump(content).encode()} for content in (RECIPE, several))


@cache
def box_files() -> tuple[Files, ...]:
    """A `*.boxes.json` file as the command line writes it."""
    box = {"label": "liver", "score": 0.9, "bbox": [1, 2, 3, 4], "label_id": "liver", "category": None, "region": None}
    image = {"file": "a.png", "width": WIDTH, "height": HEIGHT, "modality": "ct", "spacing_mm": [1, 1]}
    content = {"schema": "medglip/boxes@1", "model": "m", "image": image, "prompt": "liver", "boxes": [box, box]}
    return ({"a.boxes.json": json.dumps(content).encode()},)
