# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Read text, JSON and YAML of unknown origin within bounds."""

from __future__ import annotations

import json
from pathlib import Path
from stat import S_ISREG
from typing import Any

import yaml

from ..errors import MedGlipError, one_line


MAX_TEXT_BYTES = 2**22
# Nested lists and objects. Deeper content would exhaust the stack of whoever walks through it.
MAX_DEPTH = 64
# libyaml where PyYAML has it: ten times as fast.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Scalars, lists and mappings of a document whose aliases are written out.
MAX_NODES = 500_000
# PyYAML's constructors raise these for values such as `2001-99-99` or `!!int x`.
_CONSTRUCTOR_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError)


def read_text(path: str | Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Args:
        path (`str` or `Path`): A regular file.
        max_bytes (`int`, *optional*): Largest size.

    Raises:
        `MedGlipError`: See [`read_bounded`]; or the file is not UTF-8.
    """
    try:
        return read_bounded(path, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise MedGlipError(f"{one_line(Path(path).name, 120)}: is not UTF-8 text") from None


def read_bounded(path: str | Path, max_bytes: int) -> bytes:
    """Read a file whose size is bounded.

    Args:
        path (`str` or `Path`): A regular file; pipes and devices are refused before they are opened.
        max_bytes (`int`): Largest size.

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
        path (`str` or `Path`): A regular file.
        max_bytes (`int`, *optional*): Largest size.
        finite (`bool`, *optional*, defaults to `False`): Refuse the words `NaN` and `Infinity`, which JSON does not
            have.

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
    """Return whether lists and objects are nested at most `limit` levels deep, without recursion."""
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


class _Loader(_SafeLoader):
    """Safe loader that refuses a key that occurs twice in a mapping, where PyYAML keeps the last value."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        if isinstance(node, yaml.MappingNode):
            keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len(set(keys)) < len(keys):
                twice = next(value for tag, value in keys if keys.count((tag, value)) > 1)
                raise yaml.YAMLError(f"the key {one_line(twice, 40)!r} occurs twice")
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """Return the one document of a YAML text as plain data; no code in it runs.

    Args:
        text (`str`): The document.

    Raises:
        `yaml.YAMLError`: the text is not YAML, is nested too deeply, has an alias inside its own anchor, grows
            beyond `MAX_NODES` values by its aliases, or repeats a key.
    """
    try:
        _check_size(text)
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except _CONSTRUCTOR_ERRORS as error:
        raise yaml.YAMLError(f"a value that cannot be read ({one_line(error, 100)})") from None


def _check_size(text: str) -> None:
    """Count the values of a text with its aliases written out, before any value is constructed."""
    sizes: dict[str, int] = {}
    still_open: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in still_open):
                raise yaml.YAMLError(f"the alias *{one_line(event.anchor, 40)} stands inside its own anchor")
            count += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            still_open.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = still_open.pop()
            if anchor:
                sizes[anchor] = count - before
        if count > MAX_NODES:
            raise yaml.YAMLError(f"more than {MAX_NODES} values")
        if len(still_open) > MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {MAX_DEPTH} levels deep")


__all__ = ["MAX_DEPTH", "MAX_TEXT_BYTES", "load_yaml", "read_bounded", "read_json", "read_text"]
