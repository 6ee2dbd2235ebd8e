# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Other libraries' own messages, which may quote header values, names of patients among them, are not passed on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent(library: str) -> Iterator[None]:
    """No message of a library's logger, and no warning, while this lasts; what matters of them is told by us.

    Args:
        library: the logger's name, such as `"pydicom"`.
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
