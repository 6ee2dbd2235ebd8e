# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What the modality router learns from."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_medglip.image_processing_medglip import OTHER
from modeling_medglip.volumes.geometry import Volume
from tests.modeling_medglip.test_router import GRAY, RNG, SCANNER
from training.fit import router_images
from training.fit.router_images import RouterImage


def image(kind: str, source: str = "a", size: int = 1) -> RouterImage:
    return RouterImage(kind, source, lambda rng: GRAY[None], size=size)


def test_every_kind_is_drawn_as_often() -> None:
    images = [image("ct") for _ in range(9)] + [image("endoscopy")]
    drawn = router_images.draw(images, 20, -0.5, np.random.default_rng(0))
    assert [images[index].kind for index in drawn] == ["ct"] * 20 + ["endoscopy"] * 20


@pytest.mark.parametrize(("power", "share"), [(0.0, 0.9), (-1.0, 0.5)])
def test_sources_are_drawn_by_a_power_of_their_size(power: float, share: float) -> None:
    images = [image(OTHER, "phantom", size=90), *(image(OTHER, "photographs") for _ in range(10))]
    drawn = router_images.draw(images, 2000, power, np.random.default_rng(0))
    assert np.mean([index == 0 for index in drawn]) == pytest.approx(share, abs=0.04)


def test_display_values() -> None:
    rng, gray = np.random.default_rng(0), GRAY[None].astype(np.float32)
    windows = [router_images.prepared(SCANNER[None].astype(np.float32), True, rng) for _ in range(20)]
    assert all(shown.dtype == np.float32 and 0 <= shown.min() < 0.3 for shown in windows)
    assert all(0.85 < shown.max() <= 1 for shown in windows)
    means = [float(shown.mean()) for shown in windows]
    assert max(means) - min(means) > 0.1, "in several windows"
    np.testing.assert_allclose(router_images.prepared(gray * 8, False, rng), gray / 255, atol=0.02)
    np.testing.assert_allclose(router_images.prepared(gray, False, rng), gray / 255, atol=1e-6)


def test_images_are_shrunk_and_kept() -> None:
    loads: list[int] = []

    def load(rng: np.random.Generator) -> np.ndarray:
        loads.append(1)
        return RNG.integers(0, 256, (1, 300, 900), dtype=np.uint8)

    big, cache = RouterImage("ct", "a", load), {}
    shown = [router_images.shown(big, RNG, False, cache) for _ in range(2)]
    assert shown[0].shape == (1, 75, 224) and np.array_equal(*shown) and len(loads) == 1
    phantom = RouterImage(OTHER, "noise", lambda rng: rng.random((1, 9, 9), dtype=np.float32), size=5)
    assert not np.array_equal(*(router_images.shown(phantom, RNG, False, cache) for _ in range(2)))


@pytest.fixture
def volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the volume of CT slices whose voxels are twice as high as wide, and two loose images."""
    array = RNG.integers(-900, 900, (8, 12, 20)).astype(np.int16)
    monkeypatch.setattr(router_images, "read_volume", lambda path: Volume(array, np.diag([1.0, 1.0, 2.0, 1.0])))
    modality, source, name = router_images.PROJECTED
    (tmp_path / modality / source).mkdir(parents=True)
    (tmp_path / modality / source / name).touch()
    modality, source, pattern = router_images.LOOSE[0]
    (tmp_path / modality / source / "images").mkdir(parents=True)
    for number in range(2):
        Image.fromarray(GRAY).save(tmp_path / modality / source / pattern.replace("*", str(number)))
    return tmp_path


def test_slices_and_projections_of_volumes(volumes: Path) -> None:
    images = list(router_images.of_volumes(volumes))
    counts = Counter((one.kind, one.source) for one in images)
    assert counts == {
        ("ct", "totalsegmentator_example"): 5,
        ("mri", "ct_in_the_contrast_of_mri"): 5,
        ("mri", "acdc_slices"): 2,
        ("xray", "projections"): 30,
    }
    loaded = [one.load(RNG) for one in images if one.source != "ct_in_the_contrast_of_mri"]
    assert [array.shape for array in loaded[:5]] == [(1, 40, 12)] * 2 + [(1, 40, 8)] * 3
    assert [array.shape for array in loaded[5:8]] == [(1, *GRAY.shape)] * 2 + [(1, 20, 8)]
    assert all(one.is_hounsfield == (one.kind == "ct") for one in images)
    without = {one.source for one in router_images.of_volumes(volumes, {"acdc_slices"})}
    assert without == {"totalsegmentator_example", "ct_in_the_contrast_of_mri", "projections"}
    assert list(router_images.of_volumes(volumes / "none")) == []


def test_bone_is_bright_in_a_projection() -> None:
    hounsfield = np.full((4, 30, 30), -1000.0)
    hounsfield[:, 5:25, 5:25] = 40
    hounsfield[:, 10:20, 7:11] = 1200
    (shown,) = router_images.projection(hounsfield, 0)
    assert shown[:, 0].max() < 1 and (shown[:, 8] > 1.2 * shown[:, 18]).all() and shown[0, 18] > 100


def test_photographs_of_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(router_images, "INSTALLED", (("no_such_package", ""),))
    folder = tmp_path / "mate-backgrounds" / "usr"
    folder.mkdir(parents=True)
    Image.new("RGB", (120, 130)).save(folder / "wall.jpg")
    Image.new("RGB", (20, 20)).save(folder / "icon.png")
    (folder / "torn.png").write_bytes(b"torn")
    images = list(router_images.of_packages(tmp_path))
    assert {one.kind for one in images} == {OTHER}
    (wall,) = (one for one in images if one.source == "wallpapers")
    assert wall.load(RNG).shape == (3, 130, 120)
    (warning,) = caplog.messages
    absent = [name for name in router_images.FOLDERS if name != "mate-backgrounds"]
    assert warning == f"{tmp_path}: no images of {', '.join(absent)} there: the router learns without them"


def test_the_packages_are_those_that_the_documents_fetch() -> None:
    text = (Path(router_images.__file__).parents[1] / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (names,) = re.findall(r"^for name in (.+); do$", text, flags=re.MULTILINE)
    assert names.split() == list(router_images.FOLDERS)


def test_photographs_that_are_kept_for_tests_are_left_out() -> None:
    pytest.importorskip("skimage")
    names = {path.stem for path in router_images.sample_images()}
    assert {"camera", "chelsea"} <= names and not names & {"astronaut", "page", "retina"}


def test_bone_and_air_are_dark_and_fat_is_bright_in_the_contrast_of_mri() -> None:
    bone, air, fat, muscle = router_images.as_mri(np.array([[[1500, -1000, -80, 60]]], np.float32), RNG)[0, 0]
    assert max(bone, air) < 0.04 < 0.12 < muscle and fat > 0.47


def test_phantoms_of_breasts_are_xrays() -> None:
    kinds = {one.source: one.kind for one in router_images.phantoms()}
    assert kinds["mammogram_phantoms"] == "xray" and kinds["head_phantoms"] == "ct" and kinds["histology"] == OTHER
