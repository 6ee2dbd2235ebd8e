# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Read images and DICOM files: valid, damaged and hostile ones."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from modeling_medglip.demo.cases import package_file
from modeling_medglip.errors import MedGlipError, listed, one_line
from modeling_medglip.io import dicom_files
from modeling_medglip.io import image as reading
from modeling_medglip.io.image import read_image


pydicom = pytest.importorskip("pydicom")


def dicom_test_file(name: str) -> Path:
    return package_file("pydicom", "data", "test_files", name)


def save_dicom(path: Path, pixels: np.ndarray, **tags: Any) -> Path:
    """A small DICOM file with the given pixels and header fields."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    dataset.SOPClassUID, dataset.SOPInstanceUID = pydicom.uid.CTImageStorage, "1.2.3"
    dataset.PatientName, dataset.PatientID = "CANARY^NAME", "CANARY-ID"
    dataset.Rows, dataset.Columns = pixels.shape[-2:] if pixels.shape[-1] != 3 else pixels.shape[-3:-1]
    dataset.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "RGB" if dataset.SamplesPerPixel == 3 else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


GRAY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


class TestImages:
    @pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
    def test_gray_images_keep_their_numbers(self, tmp_path: Path, ending: str) -> None:
        Image.fromarray(GRAY).save(tmp_path / f"a.{ending}")
        image = read_image(tmp_path / f"a.{ending}")
        assert image.pixels.dtype == np.uint8 and np.array_equal(image.pixels, GRAY)
        assert (image.width, image.height, image.file) == (8, 6, f"a.{ending}")
        assert image.modality is None and image.spacing_mm is None and image.warnings == ()

    def test_jpeg_in_color(self, tmp_path: Path) -> None:
        Image.new("RGB", (20, 10), (200, 30, 40)).save(tmp_path / "a.jpg", quality=95)
        image = read_image(tmp_path / "a.jpg")
        assert image.pixels.shape == (10, 20, 3)
        assert np.abs(image.pixels.astype(int) - [200, 30, 40]).max() < 4

    @pytest.mark.parametrize("ending", ["png", "tif"])
    def test_sixteen_bits_stay_sixteen_bits(self, tmp_path: Path, ending: str) -> None:
        deep = GRAY.astype(np.uint16) * 250
        Image.fromarray(deep).save(tmp_path / f"a.{ending}")
        image = read_image(tmp_path / f"a.{ending}")
        assert image.pixels.dtype.itemsize == 2 and np.array_equal(image.pixels, deep)

    def test_big_endian_tiff(self, tmp_path: Path) -> None:
        image = Image.new("I;16B", (2, 1))
        image.frombytes(struct.pack(">2H", 258, 40000))
        image.save(tmp_path / "a.tif")
        assert read_image(tmp_path / "a.tif").pixels.tolist() == [[258, 40000]]

    def test_transparency_becomes_black(self, tmp_path: Path) -> None:
        Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png").pixels.max() == 0

    @pytest.mark.parametrize("mode", ["1", "P", "LA", "CMYK"])
    def test_other_modes_become_gray_or_rgb(self, tmp_path: Path, mode: str) -> None:
        name = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
        Image.new("L", (5, 4), 255).convert("RGB").convert(mode if mode != "LA" else "L").convert(mode).save(name)
        pixels = read_image(name).pixels
        assert pixels.dtype == np.uint8 and pixels.shape[:2] == (4, 5) and pixels.min() == 255

    def test_exif_orientation_is_applied(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(GRAY).save(tmp_path / "a.jpg", exif=exif)
        image = read_image(tmp_path / "a.jpg")
        assert (image.width, image.height) == (6, 8)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation_and_size_are_known_without_decoding(self, tmp_path: Path, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(GRAY).save(tmp_path / "a.jpg", exif=exif)
        image = read_image(tmp_path / "a.jpg")
        with (tmp_path / "a.jpg").open("rb") as stream:
            assert reading.read_orientation(stream) == (orientation, (image.width, image.height))
        assert (image.width, image.height) == ((8, 6) if orientation < 5 else (6, 8))

    def test_first_page_is_used_with_a_warning(self, tmp_path: Path) -> None:
        pages = [Image.new("L", (4, 4), value) for value in (10, 20, 30)]
        pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
        image = read_image(tmp_path / "a.tif")
        assert image.pixels.max() == 10 and "3 frames" in image.warnings[0]
        chosen = read_image(tmp_path / "a.tif", frame=2)
        assert chosen.pixels.max() == 20 and chosen.warnings == ()
        with pytest.raises(MedGlipError, match="no frame 4: it holds 3"):
            read_image(tmp_path / "a.tif", frame=4)

    def test_links_are_followed(self, tmp_path: Path) -> None:
        Image.fromarray(GRAY).save(tmp_path / "a.png")
        (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
        assert read_image(tmp_path / "link.png").file == "link.png"

    def test_nan_is_refused(self, tmp_path: Path) -> None:
        values = np.ones((4, 4), dtype=np.float32)
        values[1, 1] = np.nan
        Image.fromarray(values).save(tmp_path / "a.tif")
        with pytest.raises(MedGlipError, match="a.tif: the image holds NaN"):
            read_image(tmp_path / "a.tif")


def huge_png(width: int, height: int) -> bytes:
    """The start of a PNG that claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


class TestRefusals:
    def refused(self, path: Path) -> str:
        with pytest.raises(MedGlipError) as caught:
            read_image(path)
        message = str(caught.value)
        assert "\n" not in message and message.startswith(one_line(path.name)) and str(path.parent) not in message
        return message

    def test_missing_empty_folder_and_text(self, tmp_path: Path) -> None:
        assert "no such file" in self.refused(tmp_path / "absent.png")
        (tmp_path / "empty.png").touch()
        assert "is empty" in self.refused(tmp_path / "empty.png")
        (tmp_path / "series").mkdir()
        assert "folder" in self.refused(tmp_path / "series")
        (tmp_path / "note.png").write_text("not an image", encoding="utf-8")
        assert "not an image of a known format" in self.refused(tmp_path / "note.png")

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.NRRD", "a.mha"])
    def test_volumes_are_grounded_as_volumes(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"x")
        assert "ground it as a volume" in self.refused(tmp_path / name)

    @pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (16385, 16385)])
    def test_bombs_are_refused_from_the_header(self, tmp_path: Path, size: tuple[int, int]) -> None:
        (tmp_path / "bomb.png").write_bytes(huge_png(*size))
        assert "pixels" in self.refused(tmp_path / "bomb.png")

    def test_no_pixels(self, tmp_path: Path) -> None:
        (tmp_path / "zero.png").write_bytes(huge_png(0, 7))
        self.refused(tmp_path / "zero.png")
        with pytest.raises(MedGlipError, match="no pixels"):
            reading.check_pixels(0, 7)

    def test_the_most_pixels(self) -> None:
        reading.check_pixels(2**13, 2**13)
        with pytest.raises(MedGlipError, match="more than 67108864"):
            reading.check_pixels(2**13, 2**13 + 1)

    def test_large_files_are_refused_unread(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reading, "MAX_BYTES", 100)
        (tmp_path / "a.png").write_bytes(b"\0" * 101)
        assert "101 bytes, more than 100" in self.refused(tmp_path / "a.png")

    def test_special_files(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.png")
        assert "not a plain file" in self.refused(tmp_path / "pipe.png")

    def test_unreadable_loop_of_links(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").symlink_to(tmp_path / "a.png")
        assert "cannot be read" in self.refused(tmp_path / "a.png")

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF"])
    def test_files_cut_short(self, tmp_path: Path, kind: str) -> None:
        buffer = io.BytesIO()
        Image.effect_noise((64, 64), 60).save(buffer, format=kind)
        path = tmp_path / f"cut.{kind.lower()}"
        path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        assert "damaged" in self.refused(path) or "cannot be read" in self.refused(path)

    def test_names_cannot_write_to_the_terminal(self, tmp_path: Path) -> None:
        path = tmp_path / "a\x1b[31m\nb.png"
        assert "\x1b" not in self.refused(path)

    def test_scripts_are_not_started(self, tmp_path: Path) -> None:
        (tmp_path / "a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n")
        assert "not an image of a known format" in self.refused(tmp_path / "a.eps")

    @given(st.binary(max_size=400), st.sampled_from(["a.png", "a.dcm", "a.tif"]))
    def test_any_bytes_are_read_or_refused(self, tmp_path_factory: Any, content: bytes, name: str) -> None:
        path = tmp_path_factory.mktemp("fuzz") / name
        path.write_bytes(content)
        self.refused(path)

    @given(st.integers(0, 39_000), st.integers(1, 255))
    def test_a_changed_byte_never_breaks_out(self, tmp_path_factory: Any, place: int, change: int) -> None:
        content = bytearray(dicom_test_file("CT_small.dcm").read_bytes())
        content[place] ^= change
        path = tmp_path_factory.mktemp("fuzz") / "a.dcm"
        path.write_bytes(content)
        try:
            assert read_image(path).pixels.size
        except MedGlipError as error:
            assert "\n" not in str(error)


class TestDicom:
    def test_ct_is_in_hounsfield_units(self) -> None:
        image = read_image(dicom_test_file("CT_small.dcm"))
        assert image.modality == "ct" and image.spacing_mm == (0.661468, 0.661468)
        assert image.pixels.dtype == np.int16 and image.pixels.shape == (128, 128)
        raw = pydicom.dcmread(dicom_test_file("CT_small.dcm")).pixel_array
        assert np.array_equal(image.pixels, raw.astype(int) - 1024)

    def test_mr_and_ultrasound(self) -> None:
        assert read_image(dicom_test_file("MR_small.dcm")).modality == "mri"
        image = read_image(dicom_test_file("examples_rgb_color.dcm"))
        assert image.modality == "ultrasound" and image.pixels.shape == (240, 320, 3)

    def test_encodings_agree(self) -> None:
        plain = read_image(dicom_test_file("MR_small.dcm")).pixels
        for other in (
            "MR_small_RLE.dcm",
            "MR_small_bigendian.dcm",
            "MR_small_implicit.dcm",
            "MR_small_jp2klossless.dcm",
        ):
            assert np.array_equal(read_image(dicom_test_file(other)).pixels, plain), other

    def test_palette_and_ybr_become_rgb(self) -> None:
        palette = read_image(dicom_test_file("examples_palette.dcm"))
        assert palette.pixels.shape == (350, 800, 3) and palette.pixels.dtype == np.uint8
        bars = read_image(dicom_test_file("SC_ybr_full_422_uncompressed.dcm")).pixels
        assert bars[5, 50].tolist() == [254, 0, 0]

    def test_frames(self) -> None:
        first = read_image(dicom_test_file("examples_ybr_color.dcm"))
        assert "30 frames" in first.warnings[0]
        last = read_image(dicom_test_file("examples_ybr_color.dcm"), frame=30)
        assert last.warnings == () and not np.array_equal(first.pixels, last.pixels)
        with pytest.raises(MedGlipError, match="no frame 31"):
            read_image(dicom_test_file("examples_ybr_color.dcm"), frame=31)

    def test_deep_color_uses_the_bits_stored(self) -> None:
        deep, plain = (read_image(dicom_test_file(name)).pixels for name in ("SC_rgb_rle_16bit.dcm", "SC_rgb_rle.dcm"))
        assert deep.dtype == np.uint8 and np.abs(deep.astype(int) - plain).max() <= 1

    def test_monochrome1_is_passed_on_not_inverted(self, tmp_path: Path) -> None:
        path = save_dicom(tmp_path / "a.dcm", GRAY, Modality="DX", PhotometricInterpretation="MONOCHROME1")
        image = read_image(path)
        assert image.photometric_interpretation == "MONOCHROME1" and image.modality == "xray"
        assert np.array_equal(image.pixels, GRAY)

    def test_spacing_is_x_then_y(self, tmp_path: Path) -> None:
        path = save_dicom(tmp_path / "a.dcm", GRAY, Modality="MR", PixelSpacing=[0.5, 2.0])
        assert read_image(path).spacing_mm == (2.0, 0.5)
        save_dicom(path, GRAY, Modality="MR", PixelSpacing=[0, 2.0])
        assert read_image(path).spacing_mm is None

    def test_fractional_rescale(self, tmp_path: Path) -> None:
        path = save_dicom(tmp_path / "a.dcm", GRAY, Modality="CT", RescaleSlope=0.5, RescaleIntercept=-10)
        pixels = read_image(path).pixels
        assert pixels.dtype == np.float32 and np.allclose(pixels, GRAY * 0.5 - 10)
        save_dicom(path, GRAY, Modality="CT", RescaleSlope=0, RescaleIntercept=-10)
        with pytest.raises(MedGlipError, match="rescale"):
            read_image(path)

    @pytest.mark.parametrize(("kind", "source"), [(np.int16, "taken from the numbers"), (np.uint16, "estimated")])
    def test_ct_without_rescale_is_reported(self, tmp_path: Path, kind: type, source: str) -> None:
        path = save_dicom(tmp_path / "a.dcm", GRAY.astype(kind), Modality="CT")
        assert f"no rescale slope: HU are {source}" in read_image(path).warnings[0]

    def test_enhanced_files_keep_values_in_their_groups(self, tmp_path: Path) -> None:
        def item(**fields: Any) -> Any:
            dataset = pydicom.Dataset()
            for name, value in fields.items():
                setattr(dataset, name, value)
            return dataset

        frames = [
            item(PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=-1000 * number)])
            for number in (1, 2)
        ]
        shared = [item(PixelMeasuresSequence=[item(PixelSpacing=[0.7, 0.8])])]
        path = save_dicom(
            tmp_path / "a.dcm", np.stack([GRAY, GRAY]).astype(np.int16), Modality="CT", NumberOfFrames=2,
            PerFrameFunctionalGroupsSequence=frames, SharedFunctionalGroupsSequence=shared,
        )  # fmt: skip
        image = read_image(path, frame=2)
        assert np.array_equal(image.pixels, GRAY.astype(int) - 2000) and image.spacing_mm == (0.8, 0.7)

    def test_without_preamble_and_meta_header(self, tmp_path: Path) -> None:
        dataset = pydicom.dcmread(save_dicom(tmp_path / "a.dcm", GRAY, Modality="MR"))
        del dataset.file_meta
        dataset.preamble = None
        path = tmp_path / "b.dcm"
        pydicom.dcmwrite(path, dataset, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[128:132] != b"DICM"
        assert np.array_equal(read_image(path).pixels, GRAY)

    def test_other_modalities_are_named(self, tmp_path: Path) -> None:
        image = read_image(save_dicom(tmp_path / "a.dcm", GRAY, Modality="NM"))
        assert image.modality is None and "NM" in image.warnings[0]
        assert read_image(save_dicom(tmp_path / "a.dcm", GRAY, Modality="OT")).warnings == ()
        path = save_dicom(tmp_path / "a.dcm", GRAY, Modality="XXXXXXXX")
        path.write_bytes(path.read_bytes().replace(b"XXXXXXXX", b"X\x1b[31mYZ"))
        hostile = read_image(path)
        assert hostile.modality is None and hostile.warnings == ()

    @pytest.mark.parametrize("name", ["liver_1frame.dcm", "rtdose.dcm", "rtplan.dcm", "test-SR.dcm"])
    def test_files_that_are_not_images(self, name: str) -> None:
        with pytest.raises(MedGlipError, match="DICOM"):
            read_image(dicom_test_file(name))

    def test_cut_short(self) -> None:
        with pytest.raises(MedGlipError, match="MR_truncated.dcm: its pixels cannot be decoded: damaged"):
            read_image(dicom_test_file("MR_truncated.dcm"))

    def test_nothing_of_the_patient_is_kept(self, tmp_path: Path) -> None:
        image = read_image(save_dicom(tmp_path / "a.dcm", GRAY, Modality="CT", StudyDescription="CANARY"))
        assert "CANARY" not in repr(image)

    def test_messages_do_not_quote_the_header(self, tmp_path: Path) -> None:
        path = save_dicom(tmp_path / "a.dcm", GRAY, Modality="CT")
        path.write_bytes(path.read_bytes().replace(b"MONOCHROME2", b"CANARY-NAME"))
        with pytest.raises(MedGlipError) as caught:
            read_image(path)
        assert "CANARY" not in str(caught.value)

    def test_deflated_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert read_image(dicom_test_file("image_dfl.dcm")).pixels.shape == (512, 512)
        monkeypatch.setattr(dicom_files, "MAX_HEADER_BYTES", 1 << 12)
        monkeypatch.setattr(dicom_files, "MAX_INFLATED_BYTES", 1 << 17)
        with pytest.raises(MedGlipError, match="inflates to more than"):
            read_image(dicom_test_file("image_dfl.dcm"))

    def test_huge_sizes_are_refused_from_the_header(self, tmp_path: Path) -> None:
        path = save_dicom(tmp_path / "a.dcm", GRAY, Modality="CT", Rows=65535, Columns=65535)
        with pytest.raises(MedGlipError, match="pixels"):
            read_image(path)

    def test_missing_decoder_names_the_hint(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Missing:
            available_plugins: tuple[str, ...] = ()

        monkeypatch.setattr(pydicom.pixels, "get_decoder", lambda syntax: Missing())
        with pytest.raises(MedGlipError, match=r'pip install "\.\[clinical\]" in a clone'):
            read_image(dicom_test_file("MR_small_RLE.dcm"))

    @pytest.mark.parametrize(
        ("name", "shape", "mean"),
        [
            ("MR_small_jpeg_ls_lossless.dcm", (64, 64), 518.88),
            ("MR_small_jp2klossless.dcm", (64, 64), 518.88),
            ("MR_small_RLE.dcm", (64, 64), 518.88),
            ("SC_rgb_jpeg_gdcm.dcm", (100, 100, 3), 127.7),
            ("SC_rgb_jpeg_dcmtk.dcm", (100, 100, 3), 127.73),
        ],
    )
    def test_compressed_pixels(self, name: str, shape: tuple[int, ...], mean: float) -> None:
        """JPEG-LS, JPEG 2000, RLE, JPEG lossless and baseline: what the extra `clinical` brings decoders for."""
        pytest.importorskip("gdcm")
        pixels = read_image(dicom_test_file(name)).pixels
        assert pixels.shape == shape and float(pixels.mean()) == pytest.approx(mean, abs=0.05)

    @pytest.mark.parametrize(
        ("orientation", "usual"),
        [
            ([1, 0, 0, 0, 1, 0], True),
            ([0.98, 0.1, 0.17, -0.1, 0.99, 0], True),
            ([1, 0, 0, 0, 0, -1], True),
            ([0, 1, 0, 0, 0, -1], True),
            ([-1, 0, 0, 0, 1, 0], False),
            ([-1, 0, 0, 0, -1, 0], False),
            ([0, 1, 0, 1, 0, 0], False),
            ([1, 0, 0, 0, 0, 1], False),
        ],
    )
    def test_a_flipped_or_rotated_slice_is_warned_of(
        self, tmp_path: Path, orientation: list[float], usual: bool
    ) -> None:
        image = read_image(save_dicom(tmp_path / "a.dcm", GRAY, Modality="MR", ImageOrientationPatient=orientation))
        assert any("left and right may be swapped" in text for text in image.warnings) != usual

    def test_missing_pydicom_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        path = dicom_test_file("CT_small.dcm")
        monkeypatch.setitem(sys.modules, "pydicom", None)
        with pytest.raises(MedGlipError, match=r'pip install "\.\[clinical\]" in a clone'):
            read_image(path)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([[-5, 300]], dtype=np.int64), np.int16),
        (np.array([[0.0, 40000.0]]), np.uint16),
        (np.array([[0, 400]], dtype=">u2"), np.uint16),
        (np.array([[0, 400]], dtype=np.int32), np.uint16),
        (np.array([[0.5, 1.0]]), np.float32),
        (np.array([[-1, 70000]], dtype=np.int32), np.float32),
        (np.array([[1, 2]], dtype=">i2"), np.int16),
    ],
)
def test_compact_keeps_the_numbers(values: np.ndarray, kind: type) -> None:
    small = reading.compact(values)
    assert small.dtype == kind and small.dtype.isnative and np.array_equal(small, values)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([[0, 400]], dtype=np.uint16), np.int16),
        (np.array([[0, 40000]], dtype=np.uint16), np.float32),
        (np.array([[0.0, 400.0]]), np.int16),
    ],
)
def test_measured_numbers_never_look_like_gray_levels(values: np.ndarray, kind: type) -> None:
    measured = reading.compact(values, signed=True)
    assert measured.dtype == kind and np.array_equal(measured, values)


@pytest.mark.parametrize("name", ["big.tif", "little.tif", "gray.png", "gray.pgm"])
def test_sixteen_bits_of_every_format_are_gray_levels(tmp_path: Path, name: str) -> None:
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30) * 50
    if name == "big.tif":
        big = Image.frombytes("I;16B", (30, 20), deep.astype(">u2").tobytes())
        big.save(tmp_path / name)
    else:
        Image.fromarray(deep if name != "gray.pgm" else deep.astype(np.int32)).save(tmp_path / name)
    pixels = read_image(tmp_path / name).pixels
    assert pixels.dtype == np.uint16 and np.array_equal(pixels, deep)


def test_compact_refuses_what_single_precision_cannot_hold() -> None:
    with pytest.raises(MedGlipError, match="single precision"):
        reading.compact(np.array([[1e300, 0.0]]))


def test_names_with_commas_are_listed_with_semicolons() -> None:
    assert listed(["liver", "spleen"]) == "liver, spleen"
    assert listed(["kidney, left", "liver"]) == "kidney, left; liver"
    assert listed(["x" * 90, "b", "c"], 10, 2) == "xxxxxxx..., b, and 1 more"


def test_one_line() -> None:
    assert one_line("a\n\tb\x1b[0m") == "a b [0m"
    assert one_line("x" * 400) == "x" * 297 + "..."
    assert one_line("bad \udcff name") == "bad ? name"
