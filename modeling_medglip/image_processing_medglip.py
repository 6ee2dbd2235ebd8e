# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Image processor of MedGLIP: intensities per modality, resizing, padding, boxes out of the model's output.

It also holds the modality router, since all that travels with a checkpoint lies in four files.
"""

import copy
import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torchvision.ops import nms
from transformers import AutoBackbone, TimmBackboneConfig
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME, cached_file, logging

from .configuration_medglip import (
    HUB_OPTIONS,
    MODALITIES,
    ROUTER_FILE,
    check_checkpoint_files,
    check_settings,
    resolve_modality,
)


logger = logging.get_logger(__name__)

# An image of this size takes about 2 GB while it is prepared.
MAX_PIXELS = 2**26
# Longest side in pixels of the model's input.
MAX_SIDE = 4096
# Formats that are plain images. Pillow knows others that start programs (EPS) or that nobody needs here.
IMAGE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
# Bits that detectors and cameras store a gray level in.
BIT_DEPTHS = (8, 10, 12, 14, 16)
INTENSITIES = ("hounsfield", "percentile", "nonzero_percentile", "range")
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
CANDIDATES_PER_LEVEL = 1000
# A label that is at least this probably in the image keeps the scores of its boxes: they tell look-alikes apart better
# than its presence does.
FULL_PRESENCE = 0.1
# The presence logit of an expert without a presence head: its probability is exactly 1 in float32.
PRESENT_LOGIT = 50.0
# What the router tells apart: a class of its own for what is not an image of any modality.
OTHER = "other"
# What the probability of a modality is multiplied by, at least, when its expert knows none of the prompt's labels.
UNKNOWN_LABEL_FACTOR = 0.1
ROUTER_CLASSES = (*MODALITIES, OTHER)
ROUTER_BACKBONE = "efficientnet_lite0"
# Probability below which its choice is unsure, unless a checkpoint states another one.
ROUTER_WARNING = 0.7
# Stages of it, the last ones of those it has weights for, whose maps are pooled.
ROUTER_STAGES = 3
# Side in pixels of the input of the router's encoder.
ROUTER_INPUT = 128
ROUTER_SIDE = 96
ROUTER_GRID = 8
ROUTER_SAMPLED_SIDE = 192
MAX_ROUTER_BYTES = 2**24
# Only Hounsfield units hold large negative values; this share of such pixels settles the modality without the router.
HOUNSFIELD_NEGATIVE = -200
HOUNSFIELD_SHARE = 0.02
# Deducing the window of a CT image: HU of its two peaks, how much further from air soft tissue lies than
# fat, and the ranges that windows have.
AIR_HU, SOFT_TISSUE_HU = -1000.0, 50.0
FAT_STEP = (1.08, 1.35)
PLAUSIBLE_HU = (-3600.0, 6000.0)
# What is added to HU in unsigned files, and the HU per gray level and distance within which one of them is meant.
OFFSETS = (1024.0, 32768.0)
UNIT_STEP = (0.8, 1.25)
OFF_BY = 250.0


def _settings(side: int, intensity: str, **extra: Any) -> dict[str, Any]:
    base = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "channel_order": "RGB", "percentiles": [0.5, 99.5]}
    return {"size": {"height": side, "width": side}, "intensity": intensity, **base, **extra}


DEFAULT_MODALITY_SETTINGS: dict[str, dict[str, Any]] = {
    "ct": _settings(384, "hounsfield", windows=[[40, 400], [-600, 1500], [400, 1800]], deduce_window=True),
    "mri": _settings(288, "nonzero_percentile"),
    "ultrasound": _settings(288, "percentile"),
    "xray": _settings(288, "percentile"),
    "dermoscopy": _settings(256, "range"),
    "endoscopy": _settings(256, "range"),
    "fundus": _settings(320, "range"),
}


class MedGlipImageProcessorKwargs(ImagesKwargs, total=False):
    """Settings of [`MedGlipImageProcessor`] beyond those of every image processor."""

    modality: Any
    modality_settings: dict[str, dict[str, Any]] | None
    size_divisor: int
    return_pixel_mask: bool
    router: Any
    router_warning: float


class MedGlipImagesKwargs(MedGlipImageProcessorKwargs, total=False):
    """Arguments of [`MedGlipImageProcessor.preprocess`]: its settings, and what belongs to single images."""

    pixel_mask: Any
    photometric_interpretation: Any
    volume_statistics: Any


# Reading one image -------------------------------------------------------------------------------------------------


def _array_from_pil(image: Image.Image) -> np.ndarray:
    """Return a PIL image of any mode as an array `(h, w)`, `(h, w, 3)` or `(h, w, 4)` of the file's bit depth."""
    if _is_misread(image):
        raise ValueError(MISREAD)
    key = image.info.get("transparency")
    if isinstance(key, str):  # a text of the file that has this name
        image, key = image.copy(), None
        del image.info["transparency"]
    if image.mode in ("PA", "LA", "La", "RGBa") or (image.mode in ("1", "L", "RGB", "P") and key is not None):
        image = image.convert("RGBA")
    elif image.mode in ("1", "P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    array = np.asarray(image)
    if image.mode.startswith("I;16") and isinstance(key, int):
        array = np.where(array == key, array.dtype.type(0), array)
    if array.dtype == np.int32 and array.min(initial=0) >= 0 and array.max(initial=0) <= 65535:
        return array.astype(np.uint16)  # Pillow's way to hold a 16-bit PGM
    return array.astype(array.dtype.newbyteorder("="), copy=False)


MISREAD = (
    "Pillow changes the pixels of this kind of PNG or TIFF: pass modeling_medglip.read_image(path).pixels, or save it "
    "as an 8-bit or 16-bit PNG without alpha"
)


def _is_misread(image: Image.Image) -> bool:
    """Return whether Pillow reduces, inverts or swaps the numbers of the file that an image comes from."""
    if (tags := getattr(image, "tag_v2", None)) is not None:
        bits, sample_format = max(tags.get(258, (1,))), max(tags.get(339, (1,)))
        white_is_zero, planes = tags.get(262, 0) == 0, tags.get(284, 1) == 2
        swapped = tags.prefix == b"MM" and tags.get(259, 1) != 1 and (bits == 32 or sample_format == 2)
        unsupported = (bits, sample_format) in ((8, 2), (32, 1))
        return swapped or unsupported or (planes and image.mode == "LA") or (bits > 8 and (white_is_zero or planes))
    raw_modes = {str(tile.args) for tile in getattr(image, "tile", ())}
    return "LA;16B" in raw_modes or ("transparency" in image.info and bool(raw_modes & {"L;2", "L;4", "RGB;16B"}))


def upright_image(image: Image.Image) -> Image.Image:
    """Return a PIL image turned upright by its EXIF tag, as transformers' `load_image` does.

    Raises:
        `ValueError`: it has too many pixels, or Pillow changes the numbers of its file.
    """
    _check_pixels(image.height, image.width)
    if _is_misread(image):
        raise ValueError(MISREAD)
    return ImageOps.exif_transpose(image)


def _open_image(path: str | Path) -> Image.Image:
    """Open a local image file, turned upright by its EXIF tag; refuse addresses on the network."""
    if str(path).startswith(("http://", "https://", "ftp://", "data:")):
        raise ValueError(f"{str(path)[:80]}: images are read from files only; download it first")
    Image.init()  # or Pillow does not know all of the formats yet
    name = Path(path).name
    try:
        # By its name Pillow would map a turned TIFF into memory with its sides swapped.
        with open(path, "rb") as stream, Image.open(stream, formats=IMAGE_FORMATS) as image:
            return upright_image(image)
    except Image.UnidentifiedImageError:
        raise ValueError(f"{name}: cannot be read as an image (none of {', '.join(IMAGE_FORMATS)})") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name}: cannot be read as an image (more than {MAX_PIXELS} pixels)") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    except Exception as error:  # damaged files make Pillow raise nearly anything, with the whole path in its messages
        reason = getattr(error, "strerror", None) or "damaged or cut short"
        raise ValueError(f"{name}: cannot be read as an image ({reason})") from None


# From this share of white pixels on, a gray image in RGB has probably lost levels.
WHITE_SHARE = 0.5
LOST_LEVELS = (
    "most of a gray image is pure white: transformers' load_image and PIL's convert('RGB') cut the levels of 16-bit "
    "files off at 255. Import modeling_medglip before the pipeline is made, or pass the path or the file's own numbers"
)


def lost_levels(image: Any) -> bool:
    """Return whether a PIL image in RGB looks like a 16-bit gray file whose levels were cut off at 255."""
    if not isinstance(image, Image.Image) or image.mode != "RGB":
        return False
    array = np.asarray(image)
    white = (array == 255).all(-1)
    return bool(white.mean() > WHITE_SHARE and (array == array[..., :1]).all())


def _check_pixels(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"the image has no pixels ({width}x{height})")
    if height * width > MAX_PIXELS:
        raise ValueError(f"the image has {height * width} pixels ({width}x{height}), more than {MAX_PIXELS}")


def _channel_axis(shape: tuple[int, ...], is_tensor: bool, input_data_format: str | None) -> int:
    """Return the index of the channel axis of a 3-D array: last for arrays, first for tensors when both could be."""
    if input_data_format is not None:
        return 0 if "first" in str(getattr(input_data_format, "value", input_data_format)).lower() else 2
    order = (0, 2) if is_tensor else (2, 0)
    for axis in order:
        if shape[axis] in (1, 3, 4):
            return axis
    raise ValueError(f"an array of shape {tuple(shape)} is not an image: pass (h, w), (h, w, 3) or (3, h, w)")


def channels_first(image: Any, input_data_format: str | None = None) -> np.ndarray:
    """Return any image as an array of its own numbers.

    Args:
        image (`PIL.Image`, `np.ndarray`, `Tensor`, `str` or `Path`): a PIL image of any mode, an array or tensor
            `(h, w)`, `(h, w, c)` or `(c, h, w)` with c of 1, 3 or 4, or the path of a file.
        input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"`; guessed when not given.

    Returns:
        `(1 or 3, h, w)`.

    Raises:
        `ValueError`: not an image, no pixels, too many pixels, or values that are not finite numbers.
    """
    is_tensor = isinstance(image, torch.Tensor)
    if isinstance(image, (str, Path)):
        image = _open_image(image)
    if isinstance(image, Image.Image):
        _check_pixels(image.height, image.width)
        array, input_data_format = _array_from_pil(image), "channels_last"
    elif isinstance(image, torch.Tensor):
        tensor = image.detach().cpu()
        array = (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()
    elif isinstance(image, np.ndarray):
        array = image
    else:
        raise ValueError(f"{type(image).__name__} is not an image; pass a PIL image, an array, a tensor or a path")
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3):
        raise ValueError(f"an array of type {array.dtype} and shape {array.shape} is not an image")
    if array.ndim == 3:
        array = np.moveaxis(array, _channel_axis(array.shape, is_tensor, input_data_format), 0)
    else:
        array = array[None]
    _check_pixels(*array.shape[1:])
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("the image holds NaN or infinite values; replace them first")
    array = array.astype(np.uint8) * 255 if array.dtype == np.bool_ else array
    return _drop_alpha(array) if array.shape[0] == 4 else array


def _drop_alpha(array: np.ndarray) -> np.ndarray:
    """Return `(4, h, w)` as `(3, h, w)` over black, the background of medical images."""
    full = float(np.iinfo(array.dtype).max) if array.dtype.kind in "ui" else 1.0
    alpha = array[3].astype(np.float32) / full
    if alpha.min() >= 1:
        return array[:3]
    colors = array[:3] * alpha
    return (colors.round() if array.dtype.kind in "ui" else colors).astype(array.dtype)


def luminance(array: np.ndarray) -> np.ndarray:
    """Return `(1 or 3, h, w)` as float32 `(h, w)`; exact where the three channels are equal."""
    planes = array.astype(np.float32)
    if len(planes) == 1 or (np.array_equal(array[0], array[1]) and np.array_equal(array[0], array[2])):
        return planes[0]
    return np.tensordot(LUMINANCE, planes, axes=1)


def unit_range(array: np.ndarray) -> np.ndarray:
    """Scale image values to float32 in [0, 1].

    Floats stay as they are or are divided by 255. Whole numbers are divided by the largest number of the smallest of
    the `BIT_DEPTHS` that holds them, since 12-bit images come in 16-bit files. Scale the dark frames of a series
    yourself.

    Raises:
        `ValueError`: values below 0, or floats above 255.
    """
    values = array.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if array.dtype.kind == "f":
        full = 1.0 if high <= 1.0 else 255.0
    else:
        full = next((2.0**bits - 1 for bits in BIT_DEPTHS if high < 2**bits), 65535.0)
    if low < 0 or high > full:
        raise ValueError(f"values {low:g} to {high:g} are outside an image's range; scale them to 0..1 or 0..255")
    return values / full


def has_gray_levels(array: np.ndarray) -> bool:
    """Return whether numbers are gray levels (unsigned, or floats in [0, 1]) and not units that may be negative."""
    if array.dtype.kind == "u":
        return True
    return array.dtype.kind == "f" and float(array.min()) >= 0 and float(array.max()) <= 1


def estimate_window(pixels: np.ndarray) -> tuple[float, float] | None:
    """Estimate the Hounsfield units of gray 0 and gray 255 of a CT image.

    Two peaks of the smoothed gray histogram are used: air around the patient (-1000 HU) and soft tissue (about 50 HU).
    For wide windows it is good to about 50 HU, enough to look through other windows; a narrow window is taken for a
    wider one.

    Args:
        pixels (`np.ndarray` of shape `(h, w)`, uint8): the image.

    Returns:
        low and high in HU, or `None` when the image has no two clear peaks.
    """
    counts = np.bincount(pixels.ravel(), minlength=256).astype(np.float64)
    counts[0] = min(counts[0], counts[1])  # padding outside the field of view
    smooth = _smooth(counts)
    dark = [i for i in range(150) if smooth[i] >= max(smooth[max(i - 1, 0)], smooth[i + 1], 0.1 * smooth.max())]
    if not dark and (pixels == 0).mean() < 0.02:
        return None
    air = dark[0] if dark else 0
    soft = _soft_tissue_peak(pixels, smooth, air, 1e-3 * counts.sum())
    if soft is None:
        return None
    step = (SOFT_TISSUE_HU - AIR_HU) / (soft - air)
    low, high = AIR_HU - air * step, AIR_HU + (255 - air) * step
    return (low, high) if low >= PLAUSIBLE_HU[0] and high <= PLAUSIBLE_HU[1] else None


def deduced_hounsfield(array: np.ndarray) -> np.ndarray | None:
    """Return approximate HU of a CT image in gray levels, or `None` when they cannot be deduced.

    Deeper images than 8 bits often hold HU plus an offset, 1024 or (DeepLesion) 32768; where the estimated window
    has about one HU per gray level, the offset that fits is taken instead.

    Args:
        array (`np.ndarray` of shape `(1 or 3, h, w)`): gray levels.

    Returns:
        float32 `(h, w)`.
    """
    gray = luminance(array)
    low, high = 0.0, 255.0 if array.dtype == np.uint8 else 1.0
    if array.dtype.kind == "u" and array.dtype != np.uint8:
        low, high = float(gray.min()), float(max(np.percentile(gray, 99.9), gray.min() + 1))
    levels = (gray - low) * np.float32(255 / (high - low))
    shown = levels.round().clip(0, 255).astype(np.uint8)
    window = estimate_window(shown)
    if window is None:
        return None
    step = (window[1] - window[0]) / (high - low)
    offset = min(OFFSETS, key=lambda offset: abs(window[0] - (low - offset)))
    if array.dtype.kind == "u" and UNIT_STEP[0] < step < UNIT_STEP[1] and abs(window[0] - (low - offset)) < OFF_BY:
        return gray - offset
    finest = shown.astype(np.float32) if array.dtype.kind == "f" else levels
    return window[0] + finest * ((window[1] - window[0]) / 255)


def _smooth(counts: np.ndarray) -> np.ndarray:
    """Smooth a histogram by a Gaussian of two gray levels."""
    kernel = np.exp(-0.5 * (np.arange(-8, 9) / 2.0) ** 2)
    return np.convolve(np.pad(counts, 8, mode="edge"), kernel / kernel.sum(), mode="valid")


def _soft_tissue_peak(pixels: np.ndarray, smooth: np.ndarray, air: int, least: float) -> int | None:
    """Return the gray level of soft tissue: the highest peak, or the next one where the highest is fat."""
    bright = air + 0.4 * (np.quantile(pixels[pixels > air], 0.98) - air) if (pixels > air).any() else 255.0
    peaks = [i for i in range(air + 20, 254) if smooth[i - 1] < smooth[i] >= smooth[i + 1] and i > bright]
    main = max(peaks, key=lambda i: smooth[i], default=air)
    if main == air or smooth[main] < least:
        return None
    beyond = [i for i in peaks if FAT_STEP[0] < (i - air) / (main - air) < FAT_STEP[1]]
    return max((i for i in beyond if smooth[i] > 0.15 * smooth[main]), key=lambda i: smooth[i], default=main)


def resized_size(height: int, width: int, size: dict[str, int]) -> tuple[int, int]:
    """Return height and width in pixels after resizing.

    Args:
        height (`int`): of the image, in pixels.
        width (`int`): of the image, in pixels.
        size (`dict[str, int]`): `{"height", "width"}` are taken exactly. `{"shortest_edge", "longest_edge"}` follow
            GLIP's arithmetic: the short side becomes `shortest_edge` unless the long one would exceed
            `longest_edge`, and the other side is truncated.

    Raises:
        `ValueError`: other keys.
    """
    if size.get("height") and size.get("width"):
        return int(size["height"]), int(size["width"])
    short, long = min(height, width), max(height, width)
    target, limit = size.get("shortest_edge"), size.get("longest_edge")
    if not target:
        raise ValueError(f"size must hold height and width, or shortest_edge (and longest_edge), not {size}")
    if limit and long / short * target > limit:
        target = round(limit * short / long)
    target = max(int(target), 1)
    if short == target:
        return height, width
    other = int(target * long / short)
    return (other, target) if height > width else (target, other)


def resize_image(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize a float image `(c, h, w)` to `size` (height, width), bilinear with antialiasing."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return torch.nn.functional.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]


def _resize_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize a bool mask `(h, w)` to `size` (height, width) by the nearest pixel."""
    return torch.nn.functional.interpolate(mask[None, None].float(), size=size, mode="nearest-exact")[0, 0] > 0.5


# The modality router -------------------------------------------------------------------------------------------------
#
# A classifier of modalities for `modality="auto"` (`MedGlipRouter`). `training/fit/router.py` trains it. Its weights
# travel in `router.safetensors` beside the settings (`read_router`, `write_router`). It runs in milliseconds on any
# CPU, before an expert is chosen. `router_features` and the functions before it are for the routers of older
# checkpoints.


def looks_like_hounsfield(array: np.ndarray) -> bool:
    """Return whether raw numbers `(c, h, w)` are Hounsfield units: nothing else has many large negative values."""
    if array.dtype.kind not in "if":
        return False
    return float((array < HOUNSFIELD_NEGATIVE).mean()) > HOUNSFIELD_SHARE


def _router_sample(array: np.ndarray) -> np.ndarray:
    """Thin out `(c, h, w)` until the shorter side is below twice `ROUTER_SAMPLED_SIDE`; float32."""
    step = max(1, min(array.shape[1:]) // ROUTER_SAMPLED_SIDE)
    return array[:, ::step, ::step].astype(np.float32)


def _router_image(sample: np.ndarray) -> np.ndarray:
    """Return raw `(1 or 3, h, w)` as float64 `(3, ROUTER_SIDE, ROUTER_SIDE)` in [0, 1] between its percentiles."""
    small = resize_image(torch.from_numpy(sample), (ROUTER_SIDE, ROUTER_SIDE)).numpy()
    low, high = np.percentile(luminance(small), [0.5, 99.5])
    stretched = ((small - low) / max(float(high - low), 1e-6)).clip(0, 1)
    return np.broadcast_to(stretched, (3, ROUTER_SIDE, ROUTER_SIDE)).astype(np.float64)


def _blocks(plane: np.ndarray, grid: int) -> np.ndarray:
    """Return the means over the grid x grid blocks of a square plane, flattened."""
    step = len(plane) // grid
    return plane[: grid * step, : grid * step].reshape(grid, step, grid, step).mean((1, 3)).ravel()


def _color_features(image: np.ndarray) -> list[np.ndarray]:
    """Describe the colors of an image `(3, side, side)` in [0, 1]: shares of colored pixels, moments, thumbnails."""
    red, green, blue = image
    saturation = image.max(0) - image.min(0)
    colored = [(saturation > level).mean() for level in (0.02, 0.1, 0.3)]
    shares = [((red - green) > 0.1).mean(), ((red - blue) > 0.2).mean(), ((blue - red) > 0.05).mean()]
    moments = [saturation.mean(), saturation.std(), (red - green).mean(), (green - blue).mean(), (red - green).std()]
    return [np.array(colored + shares + moments), _blocks(red - green, 4), _blocks(green - blue, 4)]


def _gray_features(gray: np.ndarray) -> list[np.ndarray]:
    """Describe the brightness `(side, side)` in [0, 1]: histogram, rings, corners, edges, borders, thumbnail."""
    histogram = np.histogram(gray, bins=16, range=(0, 1))[0] / gray.size
    axis = np.linspace(-1, 1, len(gray))
    ring = np.minimum((np.hypot(axis[:, None], axis[None]) * 6).astype(int), 7)
    radial = [gray[ring == index].mean() for index in range(8)]
    border = np.concatenate([gray[:4], gray[-4:], gray[:, :4].T, gray[:, -4:].T]).ravel()
    ends = (slice(10), slice(-10, None))
    corners = [gray[rows, columns].mean() for rows in ends for columns in ends]
    down, across = np.abs(np.diff(gray, axis=0)), np.abs(np.diff(gray, axis=1))
    second = [np.abs(np.diff(gray, 2, axis=axis)).mean() for axis in (0, 1)]
    edges = [down.mean(), across.mean(), down.std(), across.std(), (across < 0.004).mean(), *second]
    borders = [(border < 0.04).mean(), border.mean(), border.std()]
    whole = [(gray < 0.04).mean(), gray.mean(), gray.std(), np.abs(gray - gray[:, ::-1]).mean()]
    return [histogram, np.array(radial + corners + edges + borders + whole), _blocks(gray, ROUTER_GRID)]


def _orientations(gray: np.ndarray, cells: int = 3, bins: int = 6) -> np.ndarray:
    """Return the share of the gradients' magnitude by cell and direction: `(cells * cells * bins,)`."""
    down, across = np.gradient(gray)
    direction = (np.arctan2(down, across) % np.pi / np.pi * bins).astype(int) % bins
    cell = np.arange(len(gray)) * cells // len(gray)
    index = (cell[:, None] * cells + cell[None]) * bins + direction
    histogram = np.bincount(index.ravel(), np.hypot(across, down).ravel(), cells * cells * bins)
    return histogram / (histogram.sum() + 1e-6)


def _texture(gray: np.ndarray, step: int = 8) -> np.ndarray:
    """Describe the spread within small blocks, and how it goes with their brightness (speckle grows with it)."""
    count = len(gray) // step
    blocks = gray.reshape(count, step, count, step).transpose(0, 2, 1, 3).reshape(count * count, -1)
    mean, spread = blocks.mean(1), blocks.std(1)
    ratio = spread[mean > 0.1] / mean[mean > 0.1] if (mean > 0.1).any() else np.zeros(1)
    together = ((mean - mean.mean()) * (spread - spread.mean())).mean() / max(mean.std() * spread.std(), 1e-6)
    quantiles = [*np.percentile(spread, [10, 50, 90]), *np.percentile(ratio, [10, 50, 90])]
    return np.array([*quantiles, together, (spread < 0.01).mean()])


def _grain(sample: np.ndarray) -> np.ndarray:
    """Describe the finest detail: its strength, and its correlation with itself one to three pixels away."""
    gray = luminance(sample)
    smooth = torch.nn.functional.avg_pool2d(torch.from_numpy(gray)[None], 3, 1, 1, count_include_pad=False)[0].numpy()
    low, high = np.percentile(gray, [0.5, 99.5])
    detail = ((gray - smooth) / max(float(high - low), 1e-6)).astype(np.float64)
    power = (detail * detail).mean() + 1e-8
    shifted = [(detail[lag:] * detail[:-lag], detail[:, lag:] * detail[:, :-lag]) for lag in (1, 2, 3)]
    correlations = [float(part.mean()) / power if part.size else 0.0 for pair in shifted for part in pair]
    return np.array([*correlations, np.sqrt(power), (np.abs(detail) < 0.002).mean()])


def router_features(image: Any, input_data_format: str | None = None) -> np.ndarray:
    """Return numbers that tell modalities apart, whatever the units.

    They describe color, histogram, radial profile, borders, edges and their directions, texture, grain, and a coarse
    thumbnail.

    Args:
        image (`Any`): as for [`channels_first`].
        input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"` for arrays.

    Returns:
        float64 `(features,)`.
    """
    sample = _router_sample(channels_first(image, input_data_format))
    image = _router_image(sample)
    gray = np.tensordot(LUMINANCE.astype(np.float64), image, axes=1)
    parts = [*_color_features(image), *_gray_features(gray), _orientations(gray), _texture(gray), _grain(sample)]
    return np.concatenate(parts)


class MedGlipRouter:
    """A classifier of modalities: pooled features of a small encoder, then a perceptron.

    The encoder is the first stages of EfficientNet-Lite0, as many as there are weights for; without any, as in older
    checkpoints, the features are those of [`router_features`].

    Args:
        classes (`Sequence[str]`): names of the last layer's rows, of `ROUTER_CLASSES`.
        mean (`np.ndarray` of shape `(features,)`): of the features.
        scale (`np.ndarray` of shape `(features,)`): their standard deviations.
        layers (`Sequence[Mapping[str, np.ndarray]]`): `weight` (out, in) and `bias` (out,) of each layer.
        encoder (`Mapping[str, np.ndarray]`, *optional*): the encoder's weights by their names in timm.

    Raises:
        `ValueError`: the tables do not fit together.
    """

    def __init__(
        self,
        classes: Sequence[str],
        mean: Any,
        scale: Any,
        layers: Sequence[Mapping[str, Any]],
        encoder: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            self.mean, self.scale = (np.asarray(table, dtype=np.float64) for table in (mean, scale))
            self.layers = [{k: np.asarray(layer[k], dtype=np.float64) for k in ("weight", "bias")} for layer in layers]
            self.encoder = {name: np.asarray(table, dtype=np.float32) for name, table in (encoder or {}).items()}
            self.classes = [name if name == OTHER else resolve_modality(name) for name in classes]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the router's tables are damaged ({error})") from None
        width = self.mean.shape
        fits = len(width) == 1 and self.scale.shape == width
        for layer in self.layers:
            weight, bias = layer["weight"], layer["bias"]
            fits = fits and weight.ndim == 2 and weight.shape[1:] == width and bias.shape == weight.shape[:1]
            width = bias.shape
        if not fits or width != (len(self.classes),) or len(set(self.classes)) != len(self.classes):
            raise ValueError("the router's tables do not fit together")
        tables: list[Any] = [self.mean, self.scale, *self.encoder.values()]
        tables += [table for layer in self.layers for table in layer.values()]
        if not all(np.isfinite(table).all() for table in tables) or not (self.scale > 0).all():
            raise ValueError("the router's tables are damaged (numbers that are not finite, or a scale of 0)")

    @functools.cached_property
    def network(self) -> Any:
        """The encoder with its weights, made when it is first asked for.

        Raises:
            `ValueError`: the weights are not those of its stages.
        """
        numbers = [name.split(".")[1] for name in self.encoder if name.startswith("blocks.")]
        stages = 1 + max((int(number) for number in numbers if number.isdecimal()), default=0)
        config = TimmBackboneConfig(
            backbone=ROUTER_BACKBONE, out_indices=list(range(5)), use_pretrained_backbone=False
        )
        with torch.device("meta"):
            network = AutoBackbone.from_config(config)._backbone.eval()
        del network.blocks[stages:]
        try:
            tensors = {name: torch.from_numpy(table.copy()) for name, table in self.encoder.items()}
            missing, unexpected = network.load_state_dict(tensors, strict=False, assign=True)
        except RuntimeError as error:
            raise ValueError(f"the router's encoder is damaged ({error})") from None
        if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
            raise ValueError("the router's encoder lacks weights, or has some of another network")
        return network

    def features(self, image: Any, input_data_format: str | None = None) -> np.ndarray:
        """Return what the perceptron sees of an image: float64 `(features,)`, whatever the units.

        Args:
            image (`Any`): as for [`channels_first`].
            input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"` for arrays.
        """
        if not self.encoder:
            return router_features(image, input_data_format)
        pixels = router_pixels(channels_first(image, input_data_format))
        return self.pooled(pixels[None])[0].double().numpy()

    @torch.inference_mode()
    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return mean, standard deviation and maximum of the feature maps of the last stages.

        Args:
            pixels (`Tensor` of shape `(n, 3, h, w)`): see [`router_pixels`].

        Returns:
            `(n, features)`.
        """
        hidden, parts = self.network.bn1(self.network.conv_stem(pixels)), []
        for stage in self.network.blocks:
            hidden = stage(hidden)
            parts.append(torch.cat([hidden.mean((2, 3)), hidden.std((2, 3)), hidden.amax((2, 3))], 1))
        return torch.cat(parts[-ROUTER_STAGES:], 1)

    def scores(self, image: Any, input_data_format: str | None = None) -> dict[str, float]:
        """Return the scores before the softmax, by class.

        Args:
            image (`Any`): as for [`channels_first`].
            input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"` for arrays.
        """
        return self.classify(self.features(image, input_data_format))

    def classify(self, features: np.ndarray) -> dict[str, float]:
        """Return the perceptron's scores of features `(features,)` before the softmax, by class."""
        hidden = ((features - self.mean) / self.scale).clip(-6, 6)
        for number, layer in enumerate(self.layers):
            hidden = np.maximum(hidden, 0) if number else hidden
            hidden = layer["weight"] @ hidden + layer["bias"]
        return dict(zip(self.classes, hidden.tolist(), strict=True))


def router_pixels(array: np.ndarray) -> torch.Tensor:
    """Return raw `(1 or 3, h, w)` as the router's encoder sees it: `(3, ROUTER_INPUT, ROUTER_INPUT)` in [-1, 1]."""
    step = max(1, min(array.shape[1:]) // (2 * ROUTER_INPUT))
    sample = torch.from_numpy(array[:, ::step, ::step].astype(np.float32))
    small = resize_image(sample, (ROUTER_INPUT, ROUTER_INPUT)).numpy()
    low, high = np.percentile(luminance(small), [0.5, 99.5])
    stretched = ((small - low) / max(float(high - low), 1e-6)).clip(0, 1)
    return torch.from_numpy(np.array(np.broadcast_to(stretched, (3, *stretched.shape[1:])), dtype=np.float32)) * 2 - 1


def read_router(file: str | Path) -> MedGlipRouter:
    """Read the weights of a modality router.

    Args:
        file (`str` or `Path`): safetensors with `mean` and `scale` (features,), `layers.N.weight` and `layers.N.bias`,
            `classes`, the rows of the last layer as indices into `ROUTER_CLASSES`, and `encoder.*`, see
            [`MedGlipRouter`].

    Raises:
        `ValueError`: the file is too large, damaged, or its tensors do not fit together.
    """
    if Path(file).stat().st_size > MAX_ROUTER_BYTES:
        raise ValueError(f"{ROUTER_FILE} has more than {MAX_ROUTER_BYTES} bytes")
    try:
        tables = load_file(file)
        indices = tables.pop("classes").tolist()
        if not all(0 <= index < len(ROUTER_CLASSES) for index in indices):
            raise IndexError("a class is out of range")
        names = [ROUTER_CLASSES[index] for index in indices]
        encoder = {name[8:]: tables.pop(name) for name in list(tables) if name.startswith("encoder.")}
        count = sum(name.endswith(".weight") for name in tables)
        layers = [{key: tables[f"layers.{index}.{key}"] for key in ("weight", "bias")} for index in range(count)]
        mean, scale = tables["mean"], tables["scale"]
    except (SafetensorError, OSError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{ROUTER_FILE} is damaged ({error})") from None
    return MedGlipRouter(names, mean, scale, layers, encoder)


def write_router(file: str | Path, router: MedGlipRouter) -> None:
    """Write the weights of a modality router.

    Args:
        file (`str` or `Path`): safetensors; the encoder in float16, the rest in float32.
        router ([`MedGlipRouter`]): as [`read_router`] gives it.
    """
    tables = {"mean": router.mean, "scale": router.scale}
    for index, layer in enumerate(router.layers):
        tables |= {f"layers.{index}.{key}": layer[key] for key in ("weight", "bias")}
    # safetensors stores the memory as it lies, also of arrays in another order.
    tensors = {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in tables.items()}
    encoder = {f"encoder.{name}": table for name, table in router.encoder.items()}
    tensors |= {name: np.ascontiguousarray(table, dtype=np.float16) for name, table in encoder.items()}
    classes = np.array([ROUTER_CLASSES.index(name) for name in router.classes], dtype=np.int64)
    Path(file).write_bytes(save({"classes": classes, **tensors}))  # `save_file` lets nobody but its user read it


def softmax_of(scores: dict[str, float]) -> dict[str, float]:
    """Return the softmax over the values of a dictionary."""
    weights = {name: math.exp(score - max(scores.values())) for name, score in scores.items()}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def is_unrecognized(probabilities: Mapping[str, float], sure: float) -> bool:
    """Return whether an image is taken for no medical one: that class is the likeliest, and believed.

    Args:
        probabilities (`Mapping[str, float]`): by class of the router.
        sure (`float`): probability from which a class is believed.
    """
    return OTHER in probabilities and probabilities[OTHER] >= max(sure, *probabilities.values())


def by_likelihood(
    probabilities: Mapping[str, float], modalities: Sequence[str], known: Mapping[str, float], sure: float
) -> list[str]:
    """Return modalities, the likeliest first; the prompt counts only where the pixels leave it open.

    Args:
        probabilities (`Mapping[str, float]`): by class of the router.
        modalities (`Sequence[str]`): that there are experts for.
        known (`Mapping[str, float]`): modality -> share of the prompt's labels that its expert was trained with.
        sure (`float`): probability from which a class is believed.
    """
    values, factors = {name: probabilities.get(name, 0.0) for name in modalities}, dict[str, float]()
    if max(values.values()) < sure and (most := max(known.values(), default=0.0)):
        factors = {name: max(share / most, UNKNOWN_LABEL_FACTOR) for name, share in known.items()}
    return sorted(modalities, key=lambda name: -values[name] * factors.get(name, 1.0))


def uncertainty_warning(probabilities: Mapping[str, float], name: str, sure: float) -> str | None:
    """Return one line of warning when an image is hardly of the modality that it is taken for, else `None`.

    Args:
        probabilities (`Mapping[str, float]`): by class of the router.
        name (`str`): the modality.
        sure (`float`): probability from which a class is believed.
    """
    if is_unrecognized(probabilities, sure):
        kinds = ", ".join(key for key in probabilities if key != OTHER)
        return f"does not look like a medical image of {kinds}: state modality= to try anyway"
    if probabilities.get(name, 0.0) >= sure:
        return None
    second = max((key for key in probabilities if key != name), key=lambda key: probabilities[key], default=None)
    what = "not be a medical image" if second == OTHER else f"be {second}"
    may_be = "" if second is None else f"may {what} (probability {probabilities[second]:.2f}): "
    only = f"taken for {name} with a probability of only {probabilities.get(name, 0.0):.2f}"
    return f"{may_be}{only}: state it with modality= to be sure"


def modality_contradiction(
    stated: str, image: Any, processor: "MedGlipImageProcessor", sure: float = 0.9
) -> str | None:
    """Return one line of warning when the pixels contradict what a header or a user states, else `None`.

    Args:
        stated (`str`): modality or alias, for example DICOM's `Modality`.
        image (`Any`): the image, as for `normalize_image`.
        processor ([`MedGlipImageProcessor`]): with router weights; without them there is no warning.
        sure (`float`, *optional*, defaults to 0.9): probability from which the router's view counts.
    """
    if processor.router is None:
        return None
    views = processor.modality_probabilities(image, every=True)
    name = max(views, key=lambda key: views[key])
    if name == resolve_modality(stated) or views[name] < sure:
        return None
    look = "do not look like a medical image of a known kind" if name == OTHER else f"look like {name}"
    return f"taken as {resolve_modality(stated)}, but the pixels {look} (probability {views[name]:.2f})"


# Annotations ---------------------------------------------------------------------------------------------------------


def scale_annotation(
    annotation: dict[str, Any], shape: tuple[int, int], target: tuple[int, int]
) -> dict[str, torch.Tensor]:
    """Return the annotation of an image for its resized copy.

    Args:
        annotation (`dict[str, Any]`): `boxes` (n, 4), xyxy pixels with x2 = x + width, and `class_labels` (n,).
        shape (`tuple[int, int]`): height and width of the image in pixels.
        target (`tuple[int, int]`): height and width of the resized image.

    Returns:
        `boxes` (n, 4), xyxy pixels in GLIP's convention (width = x2 - x1 + 1), and `class_labels` (n,).

    Raises:
        `ValueError`: a box is not finite, has no area or lies more than half a pixel outside the image.
    """
    check_annotation(annotation, "annotations")
    boxes = torch.as_tensor(np.asarray(annotation["boxes"], dtype=np.float32)).reshape(-1, 4)
    classes = torch.as_tensor(annotation["class_labels"], dtype=torch.int64).reshape(-1)
    if len(boxes) != len(classes):
        raise ValueError(f"{len(boxes)} boxes but {len(classes)} class_labels")
    if looks_normalized(boxes):
        raise ValueError(NORMALIZED)
    height, width = shape
    limit = boxes.new_tensor([width, height, width, height])
    for number, box in enumerate(boxes):
        text = f"box {number} {[round(float(value), 2) for value in box]}"
        if not torch.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
            raise ValueError(f"{text} has no area; boxes are x1, y1, x2, y2 in pixels")
        if (box < -0.5).any() or (box > limit + 0.5).any():
            raise ValueError(f"{text} lies outside the image of {width}x{height} pixels")
    scale = boxes.new_tensor([target[1] / width, target[0] / height] * 2)
    boxes = boxes.clamp(min=0).minimum(limit) * scale - boxes.new_tensor([0, 0, 1, 1])
    return {"boxes": boxes, "class_labels": classes}


def _as_batch(images: Any) -> tuple[list[Any], bool]:
    """Return a list of single images and whether a batch was given: a list, or a 4-D array or tensor."""
    if isinstance(images, (list, tuple)):
        return list(images), True
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        return list(images), True
    return [images], False


def _per_image(value: Any, count: int, batched: bool, name: str) -> list[Any]:
    """Spread an argument over the images: a list gives one value per image, anything else holds for every image."""
    if not isinstance(value, (list, tuple)) and not (batched and getattr(value, "ndim", 0) == 3):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{count} images but {len(value)} values of {name}: pass one per image")
    return list(value)


def _limits_per_image(limits: Any, count: int) -> list[Any]:
    """Spread limits over the images: one (low, high) holds for all, a list gives a pair or `None` for each."""
    if limits is None or (len(limits) == 2 and all(isinstance(value, (int, float)) for value in limits)):
        return [limits] * count
    return _per_image(list(limits), count, True, "volume_statistics")


NORMALIZED = (
    "the boxes all lie within 0..1, as DETR's normalized ones do; expected are x1, y1, x2, y2 in pixels, not shares "
    "of the image and not center, width, height"
)
EXPECTED_ANNOTATION = (
    "expected is {'boxes': x1, y1, x2, y2 in pixels, 'class_labels': positions in the prompt}, and no COCO entry"
)


def check_annotation(annotation: Any, name: str) -> None:
    """Refuse what is not an annotation of an image.

    Args:
        annotation (`Any`): to be a mapping with `boxes` and `class_labels`.
        name (`str`): what the message begins with.

    Raises:
        `ValueError`: with the form that is expected.
    """
    if not isinstance(annotation, Mapping) or not {"boxes", "class_labels"} <= set(annotation):
        raise ValueError(f"{name}: {EXPECTED_ANNOTATION}")


def looks_normalized(boxes: torch.Tensor) -> bool:
    """Return whether the boxes `(n, 4)` are shares of the image's size: all within 0..1, not all whole numbers."""
    inside = (boxes >= 0) & (boxes <= 1)
    return len(boxes) > 0 and bool(inside.all()) and bool((boxes != boxes.round()).any())


# Boxes out of the model's output -------------------------------------------------------------------------------------


def label_scores(logits: torch.Tensor, label_tokens: torch.Tensor) -> torch.Tensor:
    """Return the mean probability of each label's tokens.

    Args:
        logits (`Tensor` of shape `(chunks, regions, tokens)`): before the sigmoid.
        label_tokens (`Tensor` of shape `(chunks, labels, tokens)`, bool): the tokens of each label.

    Returns:
        `(chunks, regions, labels)` in [0, 1]; 0 for labels without tokens.
    """
    weights = label_tokens.to(logits.device, torch.float32)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
    return logits.float().sigmoid() @ weights.transpose(1, 2)


def presence_scores(presence_logits: torch.Tensor, label_tokens: torch.Tensor) -> torch.Tensor:
    """Return the probability that an image shows each label, from the mean logit of the label's tokens.

    Args:
        presence_logits (`Tensor` of shape `(chunks, tokens)`): before the sigmoid.
        label_tokens (`Tensor` of shape `(chunks, labels, tokens)`, bool): the tokens of each label.

    Returns:
        `(chunks, labels)` in [0, 1].
    """
    weights = label_tokens.to(presence_logits.device, torch.float32)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
    return (weights @ presence_logits.float()[..., None]).squeeze(-1).sigmoid()


def _candidates(
    scores: torch.Tensor, centerness: torch.Tensor, level_sizes: Sequence[int], pre_nms_threshold: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the best `CANDIDATES_PER_LEVEL` pairs of region and label of every level and chunk.

    Args:
        scores (`Tensor` of shape `(chunks, regions, labels)`): from [`label_scores`].
        centerness (`Tensor` of shape `(chunks, regions)`): after the sigmoid; pairs are ranked by score * centerness.
        level_sizes (`Sequence[int]`): regions of each level.
        pre_nms_threshold (`float`): pairs with a score up to this are left out.

    Returns:
        chunk, region and label index, and sqrt(score * centerness), each of shape `(candidates,)`.
    """
    ranking = torch.where(scores > pre_nms_threshold, scores * centerness[..., None], -1.0)
    labels, start, candidates = scores.shape[-1], 0, []
    for size in level_sizes:
        flat = ranking[:, start : start + size].flatten(1)
        best, order = flat.topk(min(CANDIDATES_PER_LEVEL, flat.shape[1]), dim=1)
        chunk, rank = (best >= 0).nonzero(as_tuple=True)
        order = order[chunk, rank]
        region = start + torch.div(order, labels, rounding_mode="floor")
        candidates.append((chunk, region, order % labels, best[chunk, rank].sqrt()))
        start += size
    chunk, region, label, score = (torch.cat(part) for part in zip(*candidates, strict=True))
    return chunk, region, label, score


def calibrated(score: torch.Tensor, calibration: torch.Tensor | None) -> torch.Tensor:
    """Return scores as chances of being right: sigmoid(slope * logit + intercept) (Platt, 1999).

    Args:
        score (`Tensor` of shape `(n,)`): in [0, 1].
        calibration (`Tensor` of shape `(2,)`, *optional*): slope and intercept; without it scores stay as they are.
    """
    if calibration is None:
        return score
    slope, intercept = calibration.to(score.device, torch.float32)
    return (slope * score.logit(eps=1e-6) + intercept).sigmoid()


def nms_per_label(boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return the indices that survive non-maximum suppression within each label, best score first.

    torchvision's `batched_nms` adds an offset per label to the coordinates, which rounds them in float32.

    Args:
        boxes (`Tensor` of shape `(n, 4)`): xyxy pixels where width = x2 - x1.
        scores (`Tensor` of shape `(n,)`): of the boxes.
        labels (`Tensor` of shape `(n,)`): index of each box's label.
        threshold (`float`): boxes of one label that overlap a better one by more (intersection over union) go.
    """
    survivors = [torch.empty(0, dtype=torch.int64, device=boxes.device)]
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        survivors.append(members[nms(boxes[members], scores[members], threshold)])
    indices = torch.cat(survivors)
    return indices[scores[indices].argsort(descending=True, stable=True)]


@torch.no_grad()
def post_process_boxes(
    outputs: Any,
    label_tokens: torch.Tensor,
    threshold: float = 0.3,
    target_sizes: Any = None,
    nms_threshold: float = 0.6,
    max_detections: int = 100,
    pre_nms_threshold: float = 0.05,
    legacy_boxes: bool = False,
    input_sizes: Any = None,
) -> list[dict[str, torch.Tensor]]:
    """Apply GLIP's post-processing to every image of a batch.

    Args:
        outputs ([`MedGlipObjectDetectionOutput`]): with `logits` (B, R, T), `centerness` (B, R), `pred_boxes`
            (B, R, 4), `input_sizes` (B, 2) and `spatial_shapes` (levels, 2). With C chunks of labels R is C times the
            regions, chunk after chunk. `presence_logits` (B, T) or (B, C, T), where there are any, give each label's
            probability of being in the image. `score_calibration` (B, 2), where there is one, turns final scores into
            chances of being right.
        label_tokens (`Tensor` of shape `(B, L, T)` or `(B, C, L, T)`, bool): the tokens of each label.
        threshold (`float`, *optional*, defaults to 0.3): the final score that a box must exceed: sqrt(label score *
            centerness), times presence / `FULL_PRESENCE` where the label's presence is below that, and calibrated.
        target_sizes (`Sequence[Sequence[int]]` or `Tensor` of shape `(B, 2)`, *optional*): height and width of the
            original images; without them boxes are in pixels of the model's input.
        nms_threshold (`float`, *optional*, defaults to 0.6): boxes of one label that overlap a better one by more
            (intersection over union) go.
        max_detections (`int`, *optional*, defaults to 100): most boxes per image.
        pre_nms_threshold (`float`, *optional*, defaults to 0.05): the label score that a candidate must exceed.
        legacy_boxes (`bool`, *optional*, defaults to `False`): GLIP's own numbers, where width = x2 - x1 + 1, instead
            of width = x2 - x1.
        input_sizes (`Tensor` of shape `(B, 2)`, *optional*): height and width of the images in the input, instead of
            the outputs' own.

    Returns:
        per image `scores` (n,), `labels` (n,) (label index; chunk after chunk), `boxes` (n, 4) xyxy, best first; no
        gradients. Of an expert with a presence head also `presence` (labels,), each label's probability of being in
        the image.

    Raises:
        `ValueError`: outputs, label tokens and sizes do not fit together, or the outputs are not finite.
    """
    tokens = label_tokens if label_tokens.ndim == 4 else label_tokens[:, None]
    _check_outputs(outputs, tokens, target_sizes)
    shapes = getattr(outputs, "spatial_shapes", None)
    whole = [outputs.logits.shape[1] // tokens.shape[1]]
    levels = whole if shapes is None else [int(rows) * int(columns) for rows, columns in shapes]
    sizes = outputs.input_sizes if input_sizes is None else input_sizes
    results = []
    for index in range(len(tokens)):
        size = int(sizes[index][0]), int(sizes[index][1])
        boxes, score, label = _scored_boxes(outputs, index, tokens[index], levels, size, pre_nms_threshold)
        keep = nms_per_label(boxes, score, label, nms_threshold)[:max_detections]
        keep = keep[score[keep] > threshold]
        boxes = boxes[keep] - boxes.new_tensor([0, 0, 1, 1]) if legacy_boxes else boxes[keep]
        if target_sizes is not None:
            boxes = boxes * scale_to(target_sizes[index], size, boxes)
        result = {"scores": score[keep], "labels": label[keep], "boxes": boxes}
        if (presence := _presence(outputs, index, tokens[index])) is not None:
            result["presence"] = presence[tokens[index].any(-1)]
        results.append(result)
    return results


def _check_outputs(outputs: Any, tokens: torch.Tensor, target_sizes: Any) -> None:
    """Refuse outputs that do not belong to the label tokens `(B, C, L, T)` or to the sizes, or are not finite."""
    batch, chunks = tokens.shape[:2]
    logits = outputs.logits
    if len(logits) != batch or logits.shape[1] % chunks or logits.shape[-1] != tokens.shape[-1]:
        raise ValueError(f"the outputs {tuple(logits.shape)} do not belong to the label tokens {tuple(tokens.shape)}")
    presence = getattr(outputs, "presence_logits", None)
    numbers = (logits, outputs.centerness, *(() if presence is None else (presence,)))
    if not all(bool(torch.isfinite(tensor).all()) for tensor in numbers):
        raise ValueError("the model gave numbers that are not finite: its weights or its precision are at fault")
    if isinstance(target_sizes, (int, float)):
        raise ValueError("target_sizes holds (height, width) for each image, not a number: pass it by its name")
    if target_sizes is not None and len(target_sizes) != batch:
        raise ValueError(f"{batch} images but {len(target_sizes)} target_sizes")


def _presence(outputs: Any, index: int, tokens: torch.Tensor) -> torch.Tensor | None:
    """Return the presence (chunks, labels) of one image's labels; `None` of an expert without a presence head."""
    logits = getattr(outputs, "presence_logits", None)
    if logits is None or bool((logits[index] == PRESENT_LOGIT).all()):
        return None
    return presence_scores(logits[index].view(len(tokens), -1), tokens)


def _scored_boxes(
    outputs: Any,
    index: int,
    tokens: torch.Tensor,
    levels: list[int],
    size: tuple[int, int],
    pre_nms_threshold: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return boxes (n, 4) where width = x2 - x1, final scores (n,) and labels (n,) of one image before suppression."""
    chunks, regions = len(tokens), sum(levels)
    scores = label_scores(outputs.logits[index].view(chunks, regions, -1), tokens)
    centerness = outputs.centerness[index].float().sigmoid().view(chunks, regions)
    chunk, region, label, score = _candidates(scores, centerness, levels, pre_nms_threshold)
    counts = tokens.any(-1).sum(-1)
    first_label = (counts.cumsum(0) - counts).to(label.device)
    if (presence := _presence(outputs, index, tokens)) is not None:
        score = score * (presence[chunk, label] / FULL_PRESENCE).clamp(max=1)
    calibration = getattr(outputs, "score_calibration", None)
    score = calibrated(score, None if calibration is None else calibration[index])
    boxes = clip_legacy(outputs.pred_boxes[index].float().view(chunks, regions, 4)[chunk, region], size)
    return boxes + boxes.new_tensor([0, 0, 1, 1]), score, label + first_label[chunk]


def clip_legacy(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Clip boxes `(n, 4)` in GLIP's convention to an image of `size` (height, width): 0..width-1, 0..height-1."""
    return boxes.clamp(min=0).minimum(boxes.new_tensor([size[1], size[0], size[1], size[0]]) - 1)


def scale_to(target: Any, size: tuple[int, int], boxes: torch.Tensor) -> torch.Tensor:
    """Return the factors `(4,)` from xyxy pixels of an image of `size` to those of `target`.

    Args:
        target (`Any`): height and width in pixels.
        size (`tuple[int, int]`): height and width in pixels.
        boxes (`Tensor`): whose type and device the factors take.
    """
    height, width = (float(side) for side in target)
    return boxes.new_tensor([width / size[1], height / size[0]] * 2)


def phrase_tokens(outputs: Any) -> torch.Tensor:
    """Return the label tokens of outputs for one phrase per image that came from the bare tokenizer: bool `(B, 1, T)`.

    These are all tokens but the special first and last one, and but padding and separators where the outputs hold
    their `label_token_mask`.
    """
    logits, mask = outputs.logits, getattr(outputs, "label_token_mask", None)
    real = torch.ones_like(logits[:, 0], dtype=torch.bool) if mask is None else mask.bool()
    position = real.cumsum(1)
    return (real & (position > 1) & (position < position[:, -1:]))[:, None]


def _extent(mask: torch.Tensor) -> tuple[int, int]:
    """Return the last row and column, counted from 1, of a bool mask `(h, w)`."""
    if not mask.any():
        raise ValueError("a pixel mask leaves nothing of its resized image")
    rows, columns = (int(mask.any(axis).nonzero()[-1]) + 1 for axis in (1, 0))
    return rows, columns


def as_arrays(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch whose tensors are NumPy arrays."""
    return {key: value.cpu().numpy() if isinstance(value, torch.Tensor) else value for key, value in data.items()}


def _router_of(router: Any) -> MedGlipRouter | None:
    """Return a router as it is, or made of its tables.

    Raises:
        `ValueError`: tables are missing or damaged.
    """
    if router is None or hasattr(router, "classify"):
        return router
    try:
        return MedGlipRouter(**router)
    except TypeError as error:
        raise ValueError(f"the router's tables are damaged ({error})") from None


class MedGlipImageProcessor(TorchvisionBackend):
    r"""
    Turns medical images of any modality into a batch for MedGLIP.

    Args:
        modality (`str`, *optional*, defaults to `"auto"`): what an image is when the call does not say so; with
            `"auto"` the router decides.
        modality_settings (`dict[str, dict]`, *optional*): for every modality the checkpoint knows: `size`
            (`{"height", "width"}` stretches, `{"shortest_edge", "longest_edge"}` keeps the shape), `intensity` (one of
            `"hounsfield"`, `"percentile"`, `"nonzero_percentile"`, `"range"`), `percentiles` (low, high in per cent),
            `windows` (center and width in HU: three become the channels, a single one fills all), `deduce_window`
            (whether CT images of gray levels are turned back into approximate HU, see `estimate_window`), `mean` and
            `std` per channel after scaling to [0, 1], and `channel_order` (`"RGB"` or `"BGR"`; mean and std are in
            that order). Keys left out take the modality's defaults.
        size_divisor (`int`, *optional*, defaults to 32): the padded height and width are multiples of it.
        return_pixel_mask (`bool`, *optional*, defaults to `True`): give the model a pixel mask and the images' sizes,
            so that padding takes no part. In GLIP it does.
        router ([`MedGlipRouter`] or `dict` of its arguments, *optional*): the modality classifier, see
            [`read_router`]. A saved processor has it in `router.safetensors`; older ones had it in their JSON file.
        router_warning (`float`, *optional*, defaults to 0.7): below this probability the router's choice is unsure,
            and is logged as a warning.
        kwargs (`Any`): settings of every image processor, such as `do_resize`.
    """

    model_input_names = ["pixel_values", "pixel_mask", "image_sizes", "modality"]
    valid_kwargs = MedGlipImageProcessorKwargs
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_pad = True
    return_tensors = "pt"

    def __init__(
        self,
        modality: str = "auto",
        modality_settings: dict[str, dict[str, Any]] | None = None,
        size_divisor: int = 32,
        return_pixel_mask: bool = True,
        router: MedGlipRouter | dict[str, Any] | None = None,
        router_warning: float = ROUTER_WARNING,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{key: value for key, value in kwargs.items() if key not in ("backend", "use_fast")})
        given = DEFAULT_MODALITY_SETTINGS if modality_settings is None else modality_settings
        self.modality_settings = {resolve_modality(name): self._complete(name, part) for name, part in given.items()}
        if not self.modality_settings:
            raise ValueError("modality_settings is empty: name at least one modality")
        if not 1 <= int(size_divisor) <= MAX_SIDE:
            raise ValueError(f"size_divisor must be 1 to {MAX_SIDE}, not {size_divisor}")
        self.size_divisor = int(size_divisor)
        self.return_pixel_mask = return_pixel_mask
        self.router = _router_of(router)
        if not isinstance(router_warning, (int, float)) or not 0 <= router_warning <= 1:
            raise ValueError(f"router_warning must be a number from 0 to 1, not {str(router_warning)[:60]!r}")
        self.router_warning = router_warning
        self.set_modality(modality)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load a processor as `ImageProcessingMixin.from_pretrained` does, after its files are checked.

        Args:
            pretrained_model_name_or_path (`str` or `Path`): a folder or a Hub id.
            kwargs (`Any`): see `ImageProcessingMixin.from_pretrained`.

        Raises:
            `ValueError`: see [`check_checkpoint_files`].
        """
        names = ("processor_config.json", "preprocessor_config.json", ROUTER_FILE)
        check_checkpoint_files(pretrained_model_name_or_path, names, **kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def get_image_processor_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the settings of a checkpoint, with the weights of its router, and the arguments that are left.

        Args:
            pretrained_model_name_or_path (`str` or `Path`): a folder, a file or a Hub id.
            kwargs (`Any`): see `ImageProcessingMixin.get_image_processor_dict`.
        """
        hub = {key: kwargs[key] for key in HUB_OPTIONS if kwargs.get(key) is not None}
        settings, left = super().get_image_processor_dict(pretrained_model_name_or_path, **kwargs)
        source = Path(str(pretrained_model_name_or_path))
        folder = str(source.parent if source.is_file() else pretrained_model_name_or_path)
        file = cached_file(folder, ROUTER_FILE, _raise_exceptions_for_missing_entries=False, **hub)
        if file is not None and settings.get("router") is None:
            settings = {**settings, "router": read_router(file)}
        return settings, left

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that differ from the class's own; the router's weights are in a file of their own."""
        settings = super().to_dict()
        settings.pop("router", None)
        general = ImagesKwargs.__annotations__
        return {k: v for k, v in settings.items() if k not in general or v != getattr(type(self), k, None)}

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write the settings; in a checkpoint, the router beside them."""
        super().to_json_file(json_file_path)
        self.save_router(Path(json_file_path))

    def save_router(self, settings: Path) -> None:
        """Write `router.safetensors` beside a checkpoint's settings; remove it where this processor has no router.

        Args:
            settings (`Path`): the JSON file of the settings. Beside files of other names nothing is touched.
        """
        file = settings.with_name(ROUTER_FILE)
        if settings.name not in (IMAGE_PROCESSOR_NAME, PROCESSOR_NAME):
            return
        if self.router is None:
            file.unlink(missing_ok=True)
        else:
            write_router(file, self.router)

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make a processor of its settings as `ImageProcessingMixin.from_dict` does.

        Args:
            image_processor_dict (`dict[str, Any]`): the settings.
            kwargs (`Any`): settings that go before them.

        Raises:
            `ValueError`: a setting is of a wrong type or out of all proportion.
        """
        check_settings(image_processor_dict, "processor_config.json")
        try:
            return super().from_dict(image_processor_dict, **kwargs)
        except ValueError:
            raise
        except Exception as error:  # a wrong type makes nearly anything
            raise ValueError(f"processor_config.json does not describe an image processor: {error}") from error

    @staticmethod
    def _complete(name: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of one modality with the defaults filled in, checked."""
        settings = {**copy.deepcopy(DEFAULT_MODALITY_SETTINGS[resolve_modality(name)]), **copy.deepcopy(given)}
        for key, choices in (("intensity", INTENSITIES), ("channel_order", ("RGB", "BGR"))):
            if settings[key] not in choices:
                raise ValueError(f"{key} of {name} must be one of {', '.join(choices)}, not {settings[key]!r}")
        if settings["intensity"] == "hounsfield" and len(settings.get("windows") or ()) not in (1, 3):
            raise ValueError(f"{name} needs one or three windows of center and width in HU")
        sides = [side for side in settings["size"].values() if side is not None]
        if not all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in sides):
            raise ValueError(f"size of {name} must hold sides of 1 to {MAX_SIDE} pixels, not {settings['size']}")
        resized_size(1, 1, settings["size"])
        for key in ("mean", "std", "percentiles"):
            numbers = np.asarray(settings[key], dtype=np.float64)
            if numbers.shape != ((2,) if key == "percentiles" else (3,)) or not np.isfinite(numbers).all():
                raise ValueError(f"{key} of {name} must be {3 - (key == 'percentiles')} finite numbers")
        if np.asarray(settings.get("windows") or [[0, 1]], dtype=np.float64).shape[1:] != (2,):
            raise ValueError(f"windows of {name} must be pairs of center and width in HU")
        return settings

    def resolve(self, modality: str) -> str:
        """Return the canonical name of a modality that this processor has settings for.

        Raises:
            `ValueError`: it has none; the message lists the choices.
        """
        name = resolve_modality(modality)
        if name not in self.modality_settings:
            choices = ", ".join(self.modality_settings)
            raise ValueError(f"this checkpoint has no expert for {name}: choose one of {choices}")
        return name

    def set_modality(self, modality: str, size: int | None = None) -> None:
        """Set what an image is when the call does not say so.

        Args:
            modality (`str`): a name or an alias that this processor has settings for; with `"auto"` the router
                decides.
            size (`int`, *optional*): also stretch images of this modality to a square of so many pixels.

        Raises:
            `ValueError`: it has no settings for the modality.
        """
        self.modality = modality if modality == "auto" else self.resolve(modality)
        if size is not None:
            self.modality_settings[self.resolve(modality)]["size"] = {"height": size, "width": size}

    # Intensities -----------------------------------------------------------------------------------------------------

    def volume_statistics(self, volume: Any, modality: str, mask: Any = None) -> tuple[float, float]:
        """Return the lowest and highest intensity of a whole volume, for `normalize_image` of its slices.

        Args:
            volume (`np.ndarray` or `Tensor` of any shape): in the slices' own units.
            modality (`str`): decides the percentiles and whether zeros count (not for MRI).
            mask (`np.ndarray` of the volume's shape, bool, *optional*): only what it covers counts.

        Raises:
            `ValueError`: an unknown modality, or values that are not finite.
        """
        values = np.asarray(volume, dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError("the volume holds NaN or infinite values; replace them first")
        return self._range(values if mask is None else values[np.asarray(mask, dtype=bool)], self.resolve(modality))

    def _range(self, values: np.ndarray, modality: str) -> tuple[float, float]:
        settings = self.modality_settings[modality]
        if settings["intensity"] == "nonzero_percentile":
            values = values[values != 0]
        if values.size == 0:
            return 0.0, 0.0
        low, high = np.percentile(values, settings["percentiles"])
        if high <= low:
            low, high = values.min(), values.max()
        return float(low), float(high)

    def normalize_image(
        self,
        image: Any,
        modality: str,
        pixel_mask: Any = None,
        volume_statistics: tuple[float, float] | None = None,
        photometric_interpretation: str | None = None,
        input_data_format: str | None = None,
    ) -> torch.Tensor:
        """Return one image as float32 `(3, h, w)` in [0, 1], before resizing and before mean and standard deviation.

        Args:
            image (`PIL.Image`, `np.ndarray`, `Tensor`, `str` or `Path`): CT arrays that are signed, or of floats that
                leave [0, 1], are Hounsfield units; unsigned ones of any depth are gray levels with a window or an
                offset (1024, 32768) that is deduced.
            modality (`str`): a modality or an alias, not `"auto"`.
            pixel_mask (`np.ndarray` of shape `(h, w)`, *optional*): true where the image is real. Statistics come from
                there; outside is 0.
            volume_statistics (`tuple[float, float]`, *optional*): what the method of that name gave for the volume.
            photometric_interpretation (`str`, *optional*): DICOM's; `"MONOCHROME1"` inverts the gray levels.
            input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"` for arrays.

        Raises:
            `ValueError`: an unknown modality, or not an image (see `channels_first`).
        """
        settings = self.modality_settings[self.resolve(modality)]
        array = channels_first(image, input_data_format)
        mask = self._check_mask(pixel_mask, array.shape[1:])
        if settings["intensity"] == "range":
            planes = unit_range(array)
        elif settings["intensity"] == "hounsfield" and (units := self._hounsfield(array, settings)) is not None:
            planes = self._windows(units, settings["windows"])
        else:
            inverted = str(photometric_interpretation).strip().upper() == "MONOCHROME1"
            planes = self._stretch(luminance(array), self.resolve(modality), mask, volume_statistics, inverted)
        planes = planes if mask is None else planes * mask
        return torch.from_numpy(np.array(np.broadcast_to(planes, (3, *planes.shape[1:])), dtype=np.float32))

    def _stretch(
        self,
        gray: np.ndarray,
        modality: str,
        mask: np.ndarray | None,
        limits: tuple[float, float] | None,
        inverted: bool,
    ) -> np.ndarray:
        """Return gray levels `(h, w)` as `(1, h, w)` in [0, 1] between limits, or the image's own percentiles."""
        if limits is None:
            inside = gray if mask is None else gray[mask]
            if inverted:
                gray, inside = (float(inside.max()) + float(inside.min()) - part for part in (gray, inside))
                inverted = False
            limits = self._range(inside, modality)
        low, high = limits
        stretched = ((gray - low) / max(high - low, 1e-12))[None].clip(0, 1)
        return 1 - stretched if inverted else stretched

    @staticmethod
    def _hounsfield(array: np.ndarray, settings: dict[str, Any]) -> np.ndarray | None:
        """Return `(h, w)` in HU: measured, or deduced from gray levels; `None` when that cannot be done."""
        if not has_gray_levels(array):
            return luminance(array)
        return deduced_hounsfield(array) if settings.get("deduce_window") else None

    @staticmethod
    def _windows(hounsfield: np.ndarray, windows: list[list[float]]) -> np.ndarray:
        """Return `(h, w)` in HU as `(windows, h, w)` in [0, 1], for windows of center and width in HU."""
        return np.stack([((hounsfield - center) / width + 0.5).clip(0, 1) for center, width in windows])

    @staticmethod
    def _check_mask(pixel_mask: Any, shape: tuple[int, ...]) -> np.ndarray | None:
        if pixel_mask is None:
            return None
        mask = np.asarray(pixel_mask).squeeze() > 0
        if mask.shape != tuple(shape):
            raise ValueError(f"the pixel mask has shape {mask.shape}, the image {tuple(shape)}")
        if not mask.any():
            raise ValueError("the pixel mask leaves nothing of the image")
        return mask

    def standardize(self, image: torch.Tensor, modality: str) -> torch.Tensor:
        """Apply channel order, mean and standard deviation of a modality.

        Args:
            image (`Tensor` of shape `(3, h, w)`): RGB in [0, 1].
            modality (`str`): a modality or an alias.
        """
        settings = self.modality_settings[self.resolve(modality)]
        mean, std = (image.new_tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
        return ((image.flip(0) if settings["channel_order"] == "BGR" else image) - mean) / std

    # The batch -------------------------------------------------------------------------------------------------------

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Turn paths and PIL images into upright PIL images; others stay as they are.

        Args:
            image_url_or_urls (`Any`): an image, or a list.

        Raises:
            `ValueError`: an address on the network, or a file that cannot be read as an image.
        """
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(image) for image in image_url_or_urls]
        if isinstance(image_url_or_urls, Image.Image):
            return upright_image(image_url_or_urls)
        return _open_image(image_url_or_urls) if isinstance(image_url_or_urls, (str, Path)) else image_url_or_urls

    def preprocess(  # type: ignore[misc]
        self,
        images: Any,
        modality: str | Sequence[str] | None = None,
        pixel_mask: Any = None,
        annotations: Any = None,
        photometric_interpretation: str | Sequence[str | None] | None = None,
        volume_statistics: Any = None,
        **kwargs: Unpack[MedGlipImageProcessorKwargs],
    ) -> BatchFeature:
        """Return the batch of one or several images.

        Args:
            images (`Any`): one image or a list of images of any size and modality (see `normalize_image`).
            modality (`str` or `list[str]`, *optional*): for all or for each; the processor's own if not given.
            pixel_mask (`np.ndarray` of shape `(h, w)` or a list, *optional*): true where the image counts; in a list
                `None` for a whole image.
            annotations (`dict` or `list[dict]`, *optional*): per image `boxes` (n, 4), xyxy pixels of the image with
                x2 = x + width, and `class_labels` (n,).
            photometric_interpretation (`str` or `list[str]`, *optional*): see `normalize_image`.
            volume_statistics (`tuple[float, float]` or a list, *optional*): see `normalize_image`.
            size (`dict`, *optional*): instead of the modality's own.
            do_resize (`bool`, *optional*, defaults to `True`): resize.
            do_rescale (`bool`, *optional*, defaults to `True`): `False` means the images are `(3, h, w)` in [0, 1]
                already.
            do_normalize (`bool`, *optional*, defaults to `True`): subtract the mean, divide by the standard deviation.
            do_pad (`bool`, *optional*, defaults to `True`): pad to a common size, a multiple of `size_divisor`;
                `False` needs images of one size.
            device (`str` or `torch.device`, *optional*): where images are resized and the batch is made.
            input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"` for arrays.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"` or `"np"`.
            kwargs ([`MedGlipImageProcessorKwargs`], *optional*): these arguments and the processor's settings.

        Returns:
            `pixel_values` (B, 3, H, W) float32, zero wherever `pixel_mask` is; `pixel_mask` (B, H, W) int64, and
            `image_sizes`, the height and width of its extents as a list of B pairs; `modality`, a list of B names;
            with annotations `labels`, a list of `{"boxes": (n, 4) xyxy pixels of the padded input where width = x2 -
            x1 + 1, "class_labels": (n,)}`. `input_sizes` (B, 2) appears only where a mask hides the right or lower
            border of an image.

        Raises:
            `ValueError`: naming the number of the image and what is wrong with it.
            `TypeError`: an unknown argument.
        """
        for name in kwargs:
            if name not in self.valid_kwargs.__annotations__:
                raise TypeError(f"{type(self).__name__}.preprocess() got an unexpected keyword argument {name!r}")
        per_image = {
            "pixel_mask": pixel_mask,
            "annotations": annotations,
            "photometric_interpretation": photometric_interpretation,
            "volume_statistics": volume_statistics,
        }
        return super().preprocess(images, image_like_kwargs=per_image, modality=modality, **kwargs)

    def _validate_preprocess_kwargs(self, **kwargs: Any) -> None:
        """Check nothing more: mean, standard deviation and scale belong to each modality's settings."""

    def _preprocess_image_like_inputs(
        self,
        images: Any,
        *,
        modality: Any,
        pixel_mask: Any,
        annotations: Any,
        photometric_interpretation: Any,
        volume_statistics: Any,
        **kwargs: Any,
    ) -> BatchFeature:
        """Return the batch; `kwargs` are the same for all images."""
        images, batched = _as_batch(images)
        if not images:
            raise ValueError("no image was given")
        count = len(images)
        options = zip(
            images,
            _per_image(modality, count, batched, "modality"),
            _per_image(pixel_mask, count, batched, "pixel_mask"),
            _per_image(annotations, count, batched, "annotations"),
            _per_image(photometric_interpretation, count, batched, "photometric_interpretation"),
            _limits_per_image(volume_statistics, count),
            strict=True,
        )
        if any(lost_levels(image) for image in images):
            logger.warning(LOST_LEVELS)
        prepared = []
        for index, (image, name, mask, annotation, photometric, limits) in enumerate(options):
            try:
                name = self.choose_modality(image, name)
                data_format = kwargs["input_data_format"]
                pixels = (
                    self.normalize_image(image, name, mask, limits, photometric, data_format)
                    if kwargs["do_rescale"]
                    else torch.from_numpy(channels_first(image, data_format).astype(np.float32))
                )
                prepared.append(self._prepare(pixels.to(kwargs["device"]), name, mask, annotation, kwargs))
            except ValueError as error:
                raise ValueError(f"image {index}: {error}") from None
        return self._collate(prepared, kwargs)

    def _prepare(
        self,
        image: torch.Tensor,
        modality: str,
        pixel_mask: Any,
        annotation: dict[str, Any] | None,
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Resize and standardize one image `(3, h, w)` in [0, 1].

        Returns:
            `pixels` (3, h', w'), bool `mask` (h', w'), `modality`, and the scaled annotation as `labels`.
        """
        shape = (image.shape[1], image.shape[2])
        size = options["size"] or self.modality_settings[modality]["size"]
        target = resized_size(*shape, size) if options["do_resize"] else shape
        pixels = resize_image(image, target)
        pixels = self.standardize(pixels, modality) if options["do_normalize"] else pixels
        checked = self._check_mask(pixel_mask, shape)
        mask = torch.ones(target, dtype=torch.bool, device=image.device)
        if checked is not None:
            mask = _resize_mask(torch.from_numpy(checked).to(image.device), target)
        labels = None if annotation is None else scale_annotation(annotation, shape, target)
        return {"pixels": pixels * mask, "mask": mask, "modality": modality, "labels": labels}

    def _collate(self, prepared: list[dict[str, Any]], options: Mapping[str, Any]) -> BatchFeature:
        """Pad right and bottom with zeros to the largest size, rounded up to `size_divisor`."""
        sizes = torch.tensor([tuple(part["mask"].shape) for part in prepared])
        if not options["do_pad"] and len(sizes.unique(dim=0)) > 1:
            raise ValueError("images of different sizes make no batch without padding: leave do_pad out")
        divisor = options["size_divisor"] if options["do_pad"] else 1
        height, width = (-(-int(side) // divisor) * divisor for side in sizes.amax(0))
        device = prepared[0]["pixels"].device
        pixel_values = torch.zeros(len(prepared), 3, height, width, device=device)
        pixel_mask = torch.zeros(len(prepared), height, width, dtype=torch.int64, device=device)
        for index, part in enumerate(prepared):
            rows, columns = part["mask"].shape
            pixel_values[index, :, :rows, :columns] = part["pixels"]
            pixel_mask[index, :rows, :columns] = part["mask"]
        data: dict[str, Any] = {"pixel_values": pixel_values, "modality": [part["modality"] for part in prepared]}
        if options["return_pixel_mask"]:
            data["pixel_mask"] = pixel_mask
            data["image_sizes"] = [_extent(part["mask"]) for part in prepared]
        hidden_border = any(not (part["mask"][-1].any() and part["mask"][:, -1].any()) for part in prepared)
        if hidden_border or not options["return_pixel_mask"]:
            data["input_sizes"] = sizes
        if any(part["labels"] is not None for part in prepared):
            data["labels"] = [part["labels"] for part in prepared]
        return BatchFeature(data if options["return_tensors"] in (None, "pt") else as_arrays(data))

    def post_process_object_detection(
        self, outputs: Any, threshold: float = 0.1, target_sizes: Any = None
    ) -> list[dict[str, torch.Tensor]]:
        """Return the boxes of one phrase per image, as the stock `zero-shot-object-detection` pipeline asks for them.

        Args:
            outputs ([`MedGlipObjectDetectionOutput`]): for prompts that hold one phrase each.
            threshold (`float`, *optional*, defaults to 0.1): see [`post_process_boxes`].
            target_sizes (`Sequence[Sequence[int]]`, *optional*): see [`post_process_boxes`].

        Returns:
            per image `scores` (n,), `boxes` (n, 4) xyxy pixels, `labels` (n,) zeros; best first.
        """
        return post_process_boxes(outputs, phrase_tokens(outputs), threshold, target_sizes)

    # The modality ----------------------------------------------------------------------------------------------------

    def choose_modality(self, image: Any, modality: str | None = None) -> str:
        """Return the modality to use: the given one, else the processor's own; for `"auto"` the router's.

        Args:
            image (`Any`): as for `normalize_image`.
            modality (`str`, *optional*): a modality, an alias or `"auto"`.
        """
        return self.route(image, modality)[0]

    def route(
        self, image: Any, modality: str | None = None, known: Mapping[str, float] | None = None
    ) -> tuple[str, bool]:
        """Return the modality to use, as [`choose_modality`], and whether the router takes it for no medical image.

        Args:
            image (`Any`): as for `normalize_image`.
            modality (`str`, *optional*): a modality, an alias or `"auto"`.
            known (`Mapping[str, float]`, *optional*): modality -> share of the prompt's labels that its expert was
                trained with; it counts where the router is not sure.
        """
        modality = modality or self.modality
        if modality != "auto":
            return self.resolve(modality), False
        if len(self.modality_settings) == 1:
            only = next(iter(self.modality_settings))
            if note := modality_contradiction(only, image, self):
                logger.warning(f"the checkpoint's only expert is for {only}: {note}")
            return only, False
        probabilities = self.modality_probabilities(image, every=True)
        name = by_likelihood(probabilities, list(self.modality_settings), known or {}, self.router_warning)[0]
        if note := uncertainty_warning(probabilities, name, self.router_warning):
            logger.warning(note)
        return name, is_unrecognized(probabilities, self.router_warning)

    def predict_modality(self, image: Any) -> tuple[str, float]:
        """Return the modality of this checkpoint that the pixels look like, and its probability between 0 and 1.

        Raises:
            `ValueError`: the processor holds no router weights, or the image is invalid.
        """
        probabilities = self.modality_probabilities(image)
        name = max(probabilities, key=lambda key: probabilities[key])
        return name, probabilities[name]

    def modality_probabilities(
        self, image: Any, input_data_format: str | None = None, every: bool = False
    ) -> dict[str, float]:
        """Return the probability of every modality of this checkpoint from the pixels alone; they sum to 1.

        Args:
            image (`Any`): as for `normalize_image`.
            input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"` for arrays.
            every (`bool`, *optional*, defaults to `False`): of all classes that the router knows instead; among them,
                in newer ones, `"other"` for what is not an image of any modality.

        Raises:
            `ValueError`: the processor holds no router weights, or the image is invalid.
        """
        known = list(self.router.classes) if every and self.router else list(self.modality_settings)
        if self.router is None:
            raise ValueError(f"this processor has no router: pass modality=, one of {', '.join(known)}")
        array = channels_first(image, input_data_format)
        if "ct" in known and looks_like_hounsfield(array):
            return {name: float(name == "ct") for name in known}
        scores = self.router.scores(array, "channels_first")
        return softmax_of({name: score for name, score in scores.items() if name in known})


MedGlipImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["MedGlipImageProcessor"]
