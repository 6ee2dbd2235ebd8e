# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Suppress log messages of other libraries, which may quote header values such as patient names."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent(library: str) -> Iterator[None]:
    """Suppress the log messages of a library, and all warnings, inside the block.

    Args:
        library (`str`): Name of the logger, such as `"pydicom"`.
    """
    logger = logging.getLogger(library)
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


__all__ = ["silent"]
