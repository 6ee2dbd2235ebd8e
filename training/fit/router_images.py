# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The images that the modality router learns from: built data sets, raw volumes, packages' images, phantoms.

Images that are not medical come from packages, each under its own license, and are not stored here: the sample images
of scikit-image and scikit-learn (BSD, some CC0), Matplotlib (PSF-like) and Gradio (Apache-2.0), where they are
installed; and the unpacked files of the Debian packages in `FOLDERS` below a folder that is given. Absent ones are
left out, of those packages with a warning.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import rotate

from modeling_medglip.image_processing_medglip import OTHER, ROUTER_CLASSES, channels_first, resize_image
from modeling_medglip.volumes.geometry import Volume, extract_slice, slice_count, slice_spacing, to_lps
from modeling_medglip.volumes.reader import read_volume

from ..data.augmentation import shrunk
from ..data.negative_images import photographs
from ..data.photometry import display_values, draw_window
from ..data.records import GroundingRecord
from .router_augmentation import Pixels, augment
from .router_phantoms import MEDICAL, NOT_MEDICAL, Rng


LARGEST_SIDE = 224
# Images that a phantom counts as when sources are drawn.
PHANTOM_SIZE = 100
MOST_PER_PACKAGE = 500
SMALLEST_SIDE = 100
# Hounsfield units shown as black and as white, from which the window of a CT slice is drawn.
CT_DISPLAY = (-1000.0, 1000.0)
# Volumes whose slices in further planes join: modality, source, file and planes. The first one's header says RAS where
# its axes run left, down, front: what is axial there by the header is coronal.
VOLUMES = (
    ("mri", "voxelmorph_brain", "brain_t1_image.nii.gz", ("sagittal", "axial")),
    ("mri", "pyradiomics_brain", "brain1_image.nrrd", ("sagittal", "coronal")),
    ("mri", "pyradiomics_brain", "brain2_image.nrrd", ("sagittal", "coronal")),
    ("ct", "totalsegmentator_example", "example_ct.nii.gz", ("sagittal", "coronal")),
)
# Built data sets leave these out as yet: modality, source and pattern of the files.
LOOSE = (("mri", "acdc_slices", "images/*.jpg"),)
# Sources that are made from another one, or share images with it: they are left out together.
FAMILIES = (
    frozenset({"totalsegmentator_example", "ct_in_the_contrast_of_mri", "projections"}),
    frozenset({"covid_cxr_seg", "covid_cxr_lung_boxes"}),
)
# Made-up sources, not hospitals.
MADE_UP = {*MEDICAL, "ct_in_the_contrast_of_mri", "projections"}
PROJECTED = ("ct", "totalsegmentator_example", "example_ct.nii.gz")
# Photographs of scikit-image that only tests use.
KEPT_FOR_TESTS = ("astronaut", "page")
# Other packages that are installed for other ends: name, and folder in it.
INSTALLED = (
    ("sklearn", "datasets/images"),
    ("matplotlib", "mpl-data/sample_data"),
    ("gradio", "media_assets/images"),
)
# Debian packages, unpacked: wallpapers and stamps are photographs and drawings, the rest screenshots and photographs.
FOLDERS = {
    "tuxpaint-stamps-default": "photographs",  # GPL-2+ and public domain
    "mate-backgrounds": "wallpapers",  # GPL-2+, CC-BY-SA
    "lomiri-wallpapers-16.04": "wallpapers",  # CC-BY-SA-3.0
    "lomiri-wallpapers-20.04": "wallpapers",  # CC-BY-SA-4.0
    "ukui-wallpapers": "wallpapers",  # CC-BY-SA-4.0
    "labelme-examples": "scenes",  # GPL-3
    "gimp-help-en": "screenshots",  # GFDL-1.2+
    "gnome-user-docs": "screenshots",  # CC-BY-SA-3.0
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RouterImage:
    """One image, or a phantom that is new every time.

    Attributes:
        kind (`str`): one of `ROUTER_CLASSES`.
        source (`str`): all images of one hospital or package share it.
        load (`Callable[[np.random.Generator], np.ndarray]`): returns `(c, h, w)` in its own units, of a phantom in
            [0, 1].
        is_hounsfield (`bool`): the pixels are Hounsfield units.
        size (`int`): how many images it stands for.
    """

    kind: str
    source: str
    load: Callable[[Rng], NDArray[Any]]
    is_hounsfield: bool = False
    size: int = 1


def prepared(image: NDArray[Any], is_hounsfield: bool, rng: Rng) -> Pixels:
    """Return raw pixels `(c, h, w)` in [0, 1]: Hounsfield units in a random window, others as exports show them.

    Args:
        image (`np.ndarray` of shape `(c, h, w)`): in its own units.
        is_hounsfield (`bool`): the pixels are Hounsfield units.
        rng (`np.random.Generator`): draws the window.
    """
    if not is_hounsfield:
        return display_values(image)
    low, high = draw_window(CT_DISPLAY, rng)
    return ((image - low) / (high - low)).clip(0, 1).astype(np.float32)


def shown(image: RouterImage, rng: Rng, augmented: bool, cache: dict[int, NDArray[Any]] | None = None) -> Pixels:
    """Return an image, or a varied copy: float32 `(1 or 3, h, w)` in [0, 1].

    Args:
        image ([`RouterImage`]): what is shown.
        rng (`np.random.Generator`): of window, phantom and variation.
        augmented (`bool`): vary it.
        cache (`dict[int, np.ndarray]`, *optional*): keeps loaded images, by identity.
    """
    if image.size > 1:
        pixels = image.load(rng)
    else:
        cache = {} if cache is None else cache
        if id(image) not in cache:
            values = torch.from_numpy(channels_first(image.load(rng)).astype(np.float32))
            cache[id(image)] = shrunk(values, LARGEST_SIDE).numpy()
        pixels = prepared(cache[id(image)], image.is_hounsfield, rng)
    return augment(pixels, image.kind, rng) if augmented else pixels


# Medical images ------------------------------------------------------------------------------------------------------


def of_records(records: Iterable[GroundingRecord]) -> list[RouterImage]:
    """Return the images of records, without single channels of others."""
    whole = (record for record in records if record.view_of is None)
    return [RouterImage(r.modality, r.source, partial(_load, r), r.is_hounsfield) for r in whole]


def _load(record: GroundingRecord, rng: Rng) -> NDArray[Any]:
    return record.load()


def of_volumes(folder: Path, built: Container[str] = ()) -> Iterator[RouterImage]:
    """Yield what the raw volumes add: slices in other planes, loose images, and projections like radiographs.

    Args:
        folder (`Path`): `<modality>/<source>/<file>`; absent files give none.
        built (`Container[str]`, *optional*): sources whose loose images the data set has already.
    """
    for modality, source, name, planes in VOLUMES:
        if (path := folder / modality / source / name).is_file():
            yield from _slices(modality, source, to_lps(read_volume(path)), planes)
    for modality, source, pattern in LOOSE:
        for path in sorted((folder / modality / source).glob(pattern)) if source not in built else ():
            yield RouterImage(modality, source, partial(_read, path))
    if (path := folder.joinpath(*PROJECTED)).is_file():
        yield from _projections(to_lps(read_volume(path)))


def _slices(modality: str, source: str, volume: Volume, planes: Sequence[str]) -> Iterator[RouterImage]:
    """Yield every other slice of the middle half of a volume; those of CT in the contrast of MRI, too."""
    for plane in planes:
        length = slice_count(volume, plane)
        for index in range(length // 4, 3 * length // 4, 2):
            pixels = square_pixels(volume, plane, index)
            yield RouterImage(modality, source, partial(_same, pixels), modality == "ct")
            if modality == "ct":
                yield RouterImage("mri", "ct_in_the_contrast_of_mri", partial(as_mri, pixels), size=2)


def _projections(volume: Volume) -> Iterator[RouterImage]:
    """Yield a CT volume, projected from all sides, as X-ray images."""
    slices = [volume.values(extract_slice(volume, "axial", i)[0]) for i in range(slice_count(volume, "axial"))]
    hounsfield = np.stack(slices)
    for angle in range(0, 180, 6):
        yield RouterImage("xray", "projections", partial(_same, projection(hounsfield, angle)))


def _same(pixels: NDArray[Any], rng: Rng) -> NDArray[Any]:
    return pixels


def square_pixels(volume: Volume, plane: str, index: int) -> NDArray[np.float32]:
    """Return a slice of an LPS volume as `(1, h, w)` whose pixels are as high as wide."""
    pixels = volume.values(extract_slice(volume, plane, index)[0]).astype(np.float32)[None]
    across, down = slice_spacing(volume, plane)
    fine = min(across, down)
    size = round(pixels.shape[1] * down / fine), round(pixels.shape[2] * across / fine)
    return resize_image(torch.from_numpy(np.ascontiguousarray(pixels)), size).numpy()


def as_mri(hounsfield: NDArray[np.float32], rng: Rng) -> Pixels:
    """Return a CT slice `(1, h, w)` in a random contrast of MRI: bone and air dark, fat bright."""
    fat, muscle, organ, marrow = rng.uniform((0.5, 0.15, 0.25, 0.15), (1.0, 0.5, 0.8, 0.6))
    knots = (-1000, -200, -100, -60, 10, 60, 110, 250, 600, 1500)
    tones = (0, 0.02, fat, fat, muscle * 0.8, muscle, organ, marrow, 0.08, 0.02)
    return np.interp(hounsfield, knots, tones).astype(np.float32)


def projection(hounsfield: NDArray[Any], angle: float) -> NDArray[np.float32]:
    """Return CT slices, summed from one side, as an image `(1, h, w)` like a radiograph: bone is bright.

    Args:
        hounsfield (`np.ndarray` of shape `(slices, rows, columns)`): HU, the head last.
        angle (`float`): of the turn around the axis of the body, in degrees.
    """
    attenuation = (hounsfield.astype(np.float32) / 1000 + 1).clip(0, 2.5)
    paths = rotate(attenuation, angle, axes=(1, 2), reshape=False, order=1).sum(1)[::-1]
    return 255 * (1 - np.exp(-paths / np.quantile(paths, 0.9)))[None].astype(np.float32)


# Images that are not medical ----------------------------------------------------------------------------------------


def of_packages(folder: Path) -> Iterator[RouterImage]:
    """Yield photographs, drawings and screenshots that packages ship.

    Args:
        folder (`Path`): where the Debian packages of `FOLDERS` are unpacked, each in a folder of its name.
    """
    for path in sample_images():
        yield RouterImage(OTHER, "sample_images", partial(_read, path))
    found = {package: image_files(folder / package) for package in FOLDERS}
    if absent := [package for package, files in found.items() if not files]:
        logger.warning("%s: no images of %s there: the router learns without them", folder, ", ".join(absent))
    for package, files in found.items():
        source = FOLDERS[package]
        chosen = np.random.default_rng(0).permutation(len(files))[:MOST_PER_PACKAGE]
        yield from (RouterImage(OTHER, source, partial(_read, files[index])) for index in chosen)


def sample_images() -> list[Path]:
    """Return the sample images of installed packages."""
    files = [path for path in photographs() if path.stem not in KEPT_FOR_TESTS]
    for package, inside in INSTALLED:
        spec = find_spec(package)
        roots = spec.submodule_search_locations if spec else None
        files += [path for root in roots or () for path in image_files(Path(root) / inside)]
    return files


def _read(path: Path, rng: Rng) -> NDArray[Any]:
    return channels_first(path)


def image_files(folder: Path) -> list[Path]:
    """Return the PNG and JPEG files below a folder that are readable and not icons."""
    files = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg") or path.is_symlink():
            continue
        try:
            with Image.open(path) as image:
                if min(image.size) >= SMALLEST_SIDE and max(image.size) < 6000:
                    files.append(path)
        except OSError:
            continue
    return files


def phantoms() -> list[RouterImage]:
    """Return the phantoms of medical images and of others."""
    made = [RouterImage(OTHER, name, draw_one, size=PHANTOM_SIZE) for name, draw_one in NOT_MEDICAL.items()]
    return [RouterImage(kind, name, one, size=PHANTOM_SIZE) for name, (kind, one) in MEDICAL.items()] + made


# Samples -------------------------------------------------------------------------------------------------------------


def draw(images: Sequence[RouterImage], count: int, power: float, rng: Rng) -> list[int]:
    """Return the indices of `count` images of every kind; large sources count less than their size.

    Args:
        images (`Sequence[RouterImage]`): of any kinds.
        count (`int`): of each kind.
        power (`float`): the chance of an image is its source's size to this power: 0 treats images alike, -1 sources.
        rng (`np.random.Generator`): draws.
    """
    sizes: Counter[tuple[str, str]] = Counter()
    for image in images:
        sizes[image.kind, image.source] += image.size
    drawn: list[int] = []
    for kind in ROUTER_CLASSES:
        members = [index for index, image in enumerate(images) if image.kind == kind]
        if members:
            weight = np.array([images[i].size * sizes[kind, images[i].source] ** power for i in members])
            drawn += rng.choice(members, count, p=weight / weight.sum()).tolist()
    return drawn
