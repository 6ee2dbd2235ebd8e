# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Images in which an expert must find nothing: those of other modalities, noise, flat images, shapes and text."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .image_cache import CachedImage, ImageCache
from .records import UNREADABLE, GroundingRecord, image_error, random_key


# Modalities that show the same organs alike: an image of one does not prove that the labels of the other are absent.
ALIKE = (frozenset({"ct", "mri"}),)
SYNTHETIC_SHARE = 0.4
# Photographs and pages that come with scikit-image, where it is installed.
PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "horse.png", "hubble_deep_field.jpg", "logo.png", "moon.png", "motorcycle_left.png",
    "page.png", "rocket.jpg", "text.png",
)  # fmt: skip
MOST_IMAGES = 240

Pixels = NDArray[Any]
logger = logging.getLogger(__name__)


class NegativeImages:
    """Draws images that show nothing of one modality.

    Args:
        records (`Sequence[GroundingRecord]`): images of all modalities; those that may show the same are left out, and
            of the others at most `MOST_IMAGES`, as many of each modality, are used.
        modality (`str`): of the expert.
        share (`float`): of the training images that are replaced.
        load (`Callable`): decodes a record to `(1 or 3, h, w)` in [0, 1].
        cache ([`ImageCache`]): keeps the decoded records.
    """

    def __init__(
        self,
        records: Sequence[GroundingRecord],
        modality: str,
        share: float,
        load: Callable[[GroundingRecord], torch.Tensor],
        cache: ImageCache,
    ) -> None:
        self.share, self._load, self._cache = share, load, cache
        self._records = chosen_records(records, modality)
        # Shared with the loader's processes, as in the data set: 1 for an image that is broken.
        self._broken = torch.zeros(len(self._records), dtype=torch.uint8).share_memory_()

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> torch.Tensor:
        """Return an image, float `(1 or 3, h, w)` in [0, 1]: a synthetic one of `size`, or a record as it is.

        In the place of a record that cannot be read there is a synthetic one.

        Args:
            size (`tuple[int, int]`): height and width.
            rng (`np.random.Generator`): the source of everything random.
        """
        if not self._records or rng.random() < SYNTHETIC_SHARE:
            return torch.from_numpy(synthetic_image(size, rng))
        image = self._image(int(rng.integers(len(self._records))))
        if image is None:
            return torch.from_numpy(synthetic_image(size, rng))
        return image.pixels.float().div_(255)

    def _image(self, index: int) -> CachedImage | None:
        """Return the decoded record `index`, `None` if it is broken, which is logged once."""
        if self._broken[index]:
            return None
        record = self._records[index]
        try:
            return self._cache.get(("negative", index), partial(self._decode, record))
        except UNREADABLE as error:
            self._broken[index] = 1
            logger.warning("left out: %s", image_error(record.image_id, error))
            return None

    def _decode(self, record: GroundingRecord) -> CachedImage:
        return CachedImage((self._load(record) * 255).round_().clamp_(0, 255).byte())

    def broken(self) -> list[GroundingRecord]:
        """Return the records that were broken so far, in this process and in those of the loader."""
        return [self._records[index] for index in self._broken.nonzero()[:, 0].tolist()]


def chosen_records(records: Sequence[GroundingRecord], modality: str) -> list[GroundingRecord]:
    """Return training images of the modalities that look different, as many of each, in a fixed order.

    Args:
        records (`Sequence[GroundingRecord]`): images of all modalities.
        modality (`str`): of the expert.
    """
    alike = frozenset({modality}).union(*(group for group in ALIKE if modality in group))
    others = sorted({record.modality for record in records} - alike)
    chosen: list[GroundingRecord] = []
    for name in others:
        images = [r for r in records if r.modality == name and r.split == "train" and r.view_of is None]
        images.sort(key=lambda record: random_key(f"{record.source}/{record.image_id}"))
        chosen += images[: MOST_IMAGES // len(others)]
    return chosen


def _flat(size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    levels = (np.zeros(3), np.ones(3), np.full(3, rng.random()), rng.random(3))[rng.integers(4)]
    return np.broadcast_to(levels[:, None, None], (3, *size)).astype(np.float32)


def _noise(size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    channels = int(rng.choice([1, 3]))
    if rng.random() < 0.5:
        return rng.random((channels, *size), dtype=np.float32)
    return 0.5 + rng.standard_normal((channels, *size), dtype=np.float32) * np.float32(rng.uniform(0.02, 0.3))


def smooth_noise(white: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Return white noise `(..., h, w)` after a filter that divides amplitudes by the frequency to a power.

    Args:
        white (`np.ndarray` of shape `(..., h, w)`): the noise.
        power (`float`): 0 leaves it as it is, 2 makes smooth clouds.
    """
    size = white.shape[-2:]
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None])
    frequency[0, 0] = np.inf
    return np.fft.irfft2(np.fft.rfft2(white) * frequency**-power, s=size)


def _clouds(size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """Noise whose power falls with the frequency, as in photographs."""
    channels = int(rng.choice([1, 3]))
    values = smooth_noise(rng.standard_normal((channels, *size)), rng.uniform(0.6, 2))
    return (0.5 + values / values.std() * rng.uniform(0.1, 0.3)).astype(np.float32)


def _gradient(size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    y, x = np.linspace(-1, 1, size[0])[:, None], np.linspace(-1, 1, size[1])[None]
    slopes, offset = rng.uniform(-0.5, 0.5, (3, 3)), rng.random(3)
    planes = slopes[:, 0, None, None] * x + slopes[:, 1, None, None] * y + slopes[:, 2, None, None] * (x**2 + y**2)
    return (planes + offset[:, None, None]).astype(np.float32)


def _stripes(size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    y, x = np.mgrid[: size[0], : size[1]]
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 60)
    wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) * 2 * np.pi / period)
    wave = np.sign(wave) if rng.random() < 0.5 else wave
    if rng.random() < 0.4:
        wave = wave * np.sign(np.sin((np.cos(angle) * y - np.sin(angle) * x) * 2 * np.pi / period))
    return (0.5 + 0.5 * rng.uniform(0.2, 1) * wave)[None].astype(np.float32)


def _page(size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """Lines of text, dark on light or the other way round."""
    page = Image.new("L", size[::-1], 255)
    draw, height = ImageDraw.Draw(page), int(rng.integers(9, 24))
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz      ABCDEFGH0123456789.,-"))
    for top in range(height, size[0] - height, int(height * 1.5)):
        text = "".join(rng.choice(letters, int(rng.integers(5, 60))))
        draw.text((height, top), text, fill=int(rng.integers(0, 90)), font_size=height)
    values = np.asarray(page, np.float32)[None] / 255
    return 1 - values if rng.random() < 0.3 else values


def _shapes(size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """Rectangles, ellipses and lines in flat colors."""
    image = Image.new("RGB", size[::-1], tuple(int(v) for v in rng.integers(0, 256, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 12))):
        color = tuple(int(value) for value in rng.integers(0, 256, 3))
        left, right = sorted(rng.uniform(0, size[1], 2).tolist())
        top, bottom = sorted(rng.uniform(0, size[0], 2).tolist())
        shape = (draw.rectangle, draw.ellipse, draw.line)[rng.integers(3)]
        shape((left, top, right, bottom), fill=color)
    return np.asarray(image, np.float32).transpose(2, 0, 1) / 255


@lru_cache(maxsize=1)
def photographs() -> tuple[Path, ...]:
    """Return the files of [`PHOTOGRAPHS`] on this machine."""
    spec = find_spec("skimage")
    folder = Path(spec.submodule_search_locations[0]) / "data" if spec and spec.submodule_search_locations else None
    files = (folder / name for name in PHOTOGRAPHS) if folder else ()
    return tuple(file for file in files if file.is_file())


def _photograph(size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """A part of a photograph, at least half of each side."""
    files = photographs()
    with Image.open(files[rng.integers(len(files))]) as file:
        image = file.convert("RGB")
    width, height = image.size
    left, top = rng.uniform(0, width / 2), rng.uniform(0, height / 2)
    box = (left, top, rng.uniform(left + width / 2, width), rng.uniform(top + height / 2, height))
    resized = image.resize(size[::-1], Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized, np.float32).transpose(2, 0, 1) / 255


SYNTHETIC: Mapping[str, Callable[[tuple[int, int], np.random.Generator], Pixels]] = {
    "flat": _flat,
    "noise": _noise,
    "clouds": _clouds,
    "gradient": _gradient,
    "stripes": _stripes,
    "page": _page,
    "shapes": _shapes,
    "photograph": _photograph,
}


def synthetic_image(
    size: tuple[int, int], rng: np.random.Generator, kinds: Sequence[str] = tuple(SYNTHETIC)
) -> Pixels:
    """Return noise, a flat or shaded image, shapes, text or a photograph: float32 `(1 or 3, h, w)` in [0, 1].

    Args:
        size (`tuple[int, int]`): height and width.
        rng (`np.random.Generator`): the source of everything random.
        kinds (`Sequence[str]`, *optional*, defaults to all): names of [`SYNTHETIC`], of which one is drawn;
            photographs only where they are installed.
    """
    drawn = [SYNTHETIC[name] for name in kinds if name != "photograph" or photographs()]
    image = drawn[rng.integers(len(drawn))](size, rng)
    if rng.random() < 0.3:
        image = image * np.float32(rng.uniform(0.5, 1)) + rng.normal(0, rng.uniform(0, 0.1), image.shape)
    return image.clip(0, 1).astype(np.float32)


__all__ = ["SYNTHETIC", "NegativeImages", "synthetic_image"]
