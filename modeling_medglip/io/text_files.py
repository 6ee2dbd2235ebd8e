# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Text and JSON files of unknown origin, read within bounds and with one error type."""

from __future__ import annotations

import json
from pathlib import Path
from stat import S_ISREG
from typing import Any

from ..errors import MedGlipError, one_line


MAX_TEXT_BYTES = 2**22
# Nested lists and objects. Deeper content would exhaust the stack of whoever walks through it.
MAX_DEPTH = 64


def read_text(path: str | Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Raises:
        `MedGlipError`: see [`read_bounded`]; or the file is not UTF-8.
    """
    try:
        return read_bounded(path, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise MedGlipError(f"{one_line(Path(path).name, 120)}: is not UTF-8 text") from None


def read_bounded(path: str | Path, max_bytes: int) -> bytes:
    """Read a file whose size is bounded.

    Args:
        path (`str` or `Path`): a regular file; pipes and devices are refused before they are opened.
        max_bytes (`int`): largest size.

    Raises:
        `MedGlipError`: the file cannot be read or is too large.
    """
    file = Path(path)
    name = one_line(file.name, 120)
    try:
        stat = file.stat()
        if not S_ISREG(stat.st_mode):
            raise MedGlipError(f"{name}: is not a regular file")
        if stat.st_size > max_bytes:
            raise MedGlipError(f"{name}: has more than {max_bytes} bytes")
        with file.open("rb") as stream:
            content = stream.read(max_bytes + 1)
    except MedGlipError:
        raise
    except (OSError, ValueError) as error:  # a `ValueError` for names that no file can have
        raise MedGlipError(f"{name}: cannot be read ({one_line(getattr(error, 'strerror', error), 100)})") from None
    if len(content) > max_bytes:
        raise MedGlipError(f"{name}: has more than {max_bytes} bytes")
    return content


def read_json(path: str | Path, max_bytes: int = MAX_TEXT_BYTES, finite: bool = False) -> Any:
    """Read a JSON file.

    A key that occurs twice in an object is refused, since Python would keep only the last value. Numbers such as
    `1e999` come as infinite: the caller checks the numbers it uses.

    Args:
        path (`str` or `Path`): a regular file. max_bytes (`int`, *optional*): largest size.
        finite (`bool`, *optional*): refuse the words `NaN` and `Infinity`, which JSON does not have.

    Raises:
        `MedGlipError`: the file cannot be read, is not JSON, repeats a key, or is nested too deeply.
    """
    name = one_line(Path(path).name, 120)
    raw = read_bounded(path, max_bytes)
    try:
        text = raw.decode("utf-8-sig")
        words = _no_constant if finite else None
        content = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=words)
        if not _depth_within(content, MAX_DEPTH):
            raise RecursionError
    except RecursionError:
        raise MedGlipError(f"{name}: is not valid JSON (nested more than {MAX_DEPTH} levels deep)") from None
    except ValueError as error:
        raise MedGlipError(f"{name}: is not valid JSON ({one_line(error, 100)})") from None
    return content


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key occurs twice in an object")
    return content


def _depth_within(content: Any, limit: int) -> bool:
    """Whether lists and objects are nested at most `limit` levels deep, found without recursion."""
    level = [content]
    for _ in range(limit + 1):
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return True
    return False


__all__ = ["MAX_DEPTH", "MAX_TEXT_BYTES", "read_bounded", "read_json", "read_text"]
