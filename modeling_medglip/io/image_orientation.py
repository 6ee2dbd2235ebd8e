# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Turn pixels, masks and boxes upright by EXIF orientation, and decide which annotations turn with their image.

The decoder always gives the upright image. Annotation tools differ in whether they drew on the upright image or on the
stored one; only the size that comes with the annotations can tell.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import MedGlipError


class AmbiguousOrientationError(MedGlipError):
    """Nothing says whether annotations belong to the stored or to the upright image."""


# From this orientation on, width and height are swapped.
FIRST_TRANSPOSED = 5


def upright(array: NDArray, orientation: int) -> NDArray:
    """Turn a stored image or mask upright.

    Args:
        array (`np.ndarray` of shape `(h, w, ...)`): Rows and columns as they are stored.
        orientation (`int`): EXIF orientation, 1 to 8.

    Returns:
        `np.ndarray`: A contiguous array of shape `(h, w, ...)`, of `(w, h, ...)` from orientation 5 on.
    """
    if orientation >= FIRST_TRANSPOSED:
        array = array.swapaxes(0, 1)
    # As if the transposed image were stored: which of its axes run backwards.
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def upright_boxes(boxes: NDArray, orientation: int, size: tuple[int, int]) -> NDArray:
    """Turn boxes of a stored image upright.

    Args:
        boxes (`np.ndarray` of shape `(n, 4)`): Corners xyxy in continuous pixels of the stored image.
        orientation (`int`): EXIF orientation, 1 to 8.
        size (`tuple[int, int]`): Width and height of the stored image.

    Returns:
        `np.ndarray` of shape `(n, 4)`: Corners xyxy in pixels of the upright image, of the same type.
    """
    corners = boxes.reshape(-1, 2, 2)
    sides = np.asarray(size, dtype=boxes.dtype)
    if orientation >= FIRST_TRANSPOSED:
        corners, sides = corners[..., ::-1], sides[::-1]
    backwards = np.array([orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)])
    corners = np.where(backwards, sides - corners, corners)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(boxes.dtype)


def drawn_on_stored(orientation: int, size: tuple[int, int], stated: tuple[int, int] | None) -> bool:
    """Return whether annotations belong to the stored image rather than to the upright one.

    Args:
        orientation (`int`): EXIF orientation of the image, 1 to 8.
        size (`tuple[int, int]`): Width and height of the upright image.
        stated (`tuple[int, int]`, *optional*): Width and height that come with the annotations.

    Raises:
        `AmbiguousOrientationError`: the sizes cannot tell.
    """
    if orientation == 1:
        return False
    stored = (size[1], size[0])
    if orientation >= FIRST_TRANSPOSED and stored != size and stated is not None and stated in (size, stored):
        return stated == stored
    raise AmbiguousOrientationError(
        "is turned by its EXIF orientation, and nothing says whether its annotations are: save it upright, with "
        "annotations to match"
    )


__all__ = ["AmbiguousOrientationError", "drawn_on_stored", "upright", "upright_boxes"]
