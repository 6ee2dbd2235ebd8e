# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Decode what visitors upload, in worker processes only."""

from __future__ import annotations

import threading
from pathlib import Path

from modeling_medglip.io.image_record import ReadImage
from modeling_medglip.isolation.process import ReaderLimits, ReaderProcess
from modeling_medglip.volumes.reader import Header
from modeling_medglip.volumes.source import VolumeSource


# Together the workers take 3 x (1.5 + 2) GB at most, whatever is uploaded.
WORKERS = 3
LIMITS = ReaderLimits(memory_mb=1536, volume_mb=2048, answer_mb=128)


class ReaderPool:
    """Pool of workers, started when they are needed. A request goes to an idle worker, if there is one.

    Args:
        size (`int`, *optional*, defaults to 3): most workers.
        limits ([`ReaderLimits`], *optional*): of each worker.
    """

    def __init__(self, size: int = WORKERS, limits: ReaderLimits = LIMITS) -> None:
        self._size, self._limits = size, limits
        self._readers: list[ReaderProcess] = []
        self._lock = threading.Lock()

    def read_image(self, path: Path) -> ReadImage:
        """See [`~modeling_medglip.io.image.read_image`]."""
        return self._reader().read_image(path)

    def read_header(self, path: Path) -> Header:
        """See [`~modeling_medglip.volumes.reader.read_header`]."""
        return self._reader().read_header(path)

    def open_volume(self, path: Path) -> VolumeSource:
        """See [`~modeling_medglip.volumes.source.open_volume`]; the volume stays with its worker."""
        return self._reader().open_volume(path)

    def start(self) -> None:
        """Start the first worker, so that the first visitor does not wait for it."""
        self._reader()

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            for reader in self._readers:
                reader.close()
            self._readers.clear()

    def _reader(self) -> ReaderProcess:
        """Return the idle worker unused for longest; else a new one, or the one that got its request first."""
        with self._lock:
            idle = [reader for reader in self._readers if not reader.is_busy]
            if not idle and len(self._readers) < self._size:
                self._readers.append(ReaderProcess(self._limits))
                return self._readers[-1]
            chosen = (idle or self._readers)[0]
            self._readers.remove(chosen)
            self._readers.append(chosen)
            return chosen


READERS = ReaderPool()
