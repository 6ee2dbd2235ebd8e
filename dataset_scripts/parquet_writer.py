# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Write the Parquet shards of a split, in row groups that are small enough to stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


ROWS_PER_GROUP = 100
BYTES_PER_GROUP = 32 * 2**20
BYTES_PER_SHARD = 400 * 2**20


class ParquetWriter:
    """Write `<folder>/<split>-00000-of-00003.parquet` ...

    Args:
        folder (`Path`): Folder of the config.
        split (`str`): Split, part of the file names.
        schema (`pa.Schema`): See `schema.arrow_schema`.
    """

    def __init__(self, folder: Path, split: str, schema: pa.Schema) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.split, self.schema = folder, split, schema
        self.rows = 0
        self._shards: list[Path] = []
        self._file: pq.ParquetWriter | None = None
        self._group: list[dict[str, Any]] = []
        self._group_bytes = self._shard_bytes = 0

    def add(self, row: dict[str, Any], size: int = 0) -> None:
        """Add a row.

        Args:
            row (`dict`): Values by column.
            size (`int`, *optional*, defaults to 0): Number of bytes of the large values.
        """
        self._group.append(row)
        self._group_bytes += size
        self.rows += 1
        if len(self._group) >= ROWS_PER_GROUP or self._group_bytes >= BYTES_PER_GROUP:
            self._flush()

    def add_table(self, table: pa.Table) -> None:
        """Write rows of the schema as a separate row group."""
        self._flush()
        self.rows += table.num_rows
        self._write(table, table.nbytes)

    def close(self) -> list[Path]:
        """Close the last shard, rename all shards with their number, and return their paths."""
        self._flush()
        if self._file is None and not self._shards:
            self._open()
        if self._file is not None:
            self._file.close()
        count = len(self._shards)
        named = [self.folder / f"{self.split}-{number:05d}-of-{count:05d}.parquet" for number in range(count)]
        for part, target in zip(self._shards, named, strict=True):
            part.rename(target)
        return named

    def _open(self) -> pq.ParquetWriter:
        if self._file is None:
            path = self.folder / f".{self.split}-{len(self._shards):05d}.part"
            self._shards.append(path)
            self._shard_bytes = 0
            # PNG does not get smaller: only masks are worth packing. A page index lets readers fetch single rows.
            packed = {"objects.segmentation.list.element": "zstd"}
            self._file = pq.ParquetWriter(path, self.schema, compression=packed, write_page_index=True)
        return self._file

    def _flush(self) -> None:
        if not self._group:
            return
        self._write(pa.Table.from_pylist(self._group, schema=self.schema), self._group_bytes)
        self._group, self._group_bytes = [], 0

    def _write(self, table: pa.Table, size: int) -> None:
        self._open().write_table(table)
        self._shard_bytes += size
        if self._shard_bytes >= BYTES_PER_SHARD and self._file is not None:
            self._file.close()
            self._file = None


__all__ = ["ParquetWriter"]
