# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Decoded images in memory, up to a number of bytes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CachedImage:
    """A decoded image of moderate size.

    Args:
        pixels (`torch.Tensor`): uint8 of shape `(1 or 3, h, w)`, where 255 is 1.0, since float32 would fill the cache
            four times as fast; or int16 of shape `(1, h, w)` in HU.
        display (`tuple[float, float]`, *optional*): HU shown as black and as white; only of images in HU.
    """

    pixels: torch.Tensor
    display: tuple[float, float] | None = None


class ImageCache:
    """Keeps decoded images while there is room.

    Args:
        limit (`int`): bytes of all images together; further ones are decoded at every use.
    """

    def __init__(self, limit: int) -> None:
        self.room = self._limit = limit
        self._images: dict[Hashable, CachedImage] = {}

    def get(self, key: Hashable, decode: Callable[[], CachedImage]) -> CachedImage:
        """Return an image.

        Args:
            key (`Hashable`): names the image.
            decode (`Callable[[], CachedImage]`): called if the image is not in memory.
        """
        if key in self._images:
            return self._images[key]
        image = decode()
        size = image.pixels.numel() * image.pixels.element_size()
        if size <= self.room:
            self._images[key] = image
            self.room -= size
        return image

    def clear(self) -> None:
        """Free the memory of all images."""
        self._images.clear()
        self.room = self._limit
