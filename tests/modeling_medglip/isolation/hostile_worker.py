# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A worker whose decoders crash, hang, take memory or lie, as the name of the image says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.isolation import worker


class HostileOperations(worker.Operations):
    """Reads images whose names say nothing else."""

    def read_image(self, path: str, frame: int | None) -> tuple[dict[str, Any], NDArray | None]:
        behavior = Path(path).stem
        if behavior == "crash":
            os.abort()
        if behavior == "exit":
            os._exit(7)
        if behavior == "hang":
            while True:
                pass
        if behavior == "memory":
            np.ones(2**31)
        if behavior == "surprise":
            raise RuntimeError("Doe^Jane")
        if behavior == "print":
            os.write(1, b"\x00" * 1000)
        answer, pixels = super().read_image(path, frame)
        if behavior == "lie":
            answer["image"]["spacing_mm"] = ["x", None]
        return answer, np.zeros((2, 3), "M8[D]") if behavior == "dates" else pixels

    def find_series(
        self, folder: str, several_patients: bool, resample: bool, required: bool
    ) -> tuple[dict[str, Any], None]:
        return {"series": [{"files": ["../outside.dcm"], "number": 1, "notes": [], "flat": False}]}, None


def serve(memory_mb: int, volume_mb: int) -> None:
    """See [`~modeling_medglip.isolation.worker.serve`]."""
    worker.PRELOADED = ()  # a quicker start
    worker.serve(memory_mb, volume_mb, HostileOperations)
