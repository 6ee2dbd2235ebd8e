# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The Parquet table of a run: the rows of the CSV table, with their types."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError, install_hint
from .csv_table import COLUMNS, FLAGS, LISTS, TEXT
from .files import write_bytes


def require_parquet() -> Any:
    """Import pyarrow.

    Raises:
        `UsageError`: it is not installed.
    """
    try:
        return importlib.import_module("pyarrow")
    except ImportError:
        raise UsageError(f"Parquet tables need pyarrow: {install_hint('table')}") from None


def write_parquet(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write the table, whole or not at all: text as it is, numbers in double precision, lists as lists.

    Args:
        rows (`Iterable[Mapping[str, Any]]`): column -> value, see `to_rows` of the results.
        path (`Path`): the file.

    Raises:
        `UsageError`: pyarrow is not installed.
    """
    arrow = require_parquet()
    parquet = importlib.import_module("pyarrow.parquet")
    types = {name: arrow.float64() for name in COLUMNS}
    types |= {name: arrow.string() for name in TEXT} | {name: arrow.bool_() for name in FLAGS}
    types |= {name: arrow.list_(arrow.float64()) for name in LISTS} | {"frame": arrow.int64()}
    content = [{name: row.get(name) for name in COLUMNS} for row in rows]
    table = arrow.Table.from_pylist(content, arrow.schema(list(types.items())))
    sink = arrow.BufferOutputStream()
    parquet.write_table(table, sink)
    write_bytes(path, sink.getvalue().to_pybytes())


__all__ = ["require_parquet", "write_parquet"]
