# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A Space that is served for tests, on a free port of this machine, and files to upload to it."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nibabel
import numpy as np
from PIL import Image

from modeling_medglip.demo import phantoms
from space_experts import Experts, load_experts
from space_settings import Settings
from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint


@dataclass(frozen=True)
class Served:
    """A running Space: its address, the folder of its uploads, its checkpoints."""

    address: str
    cache: Path
    experts: Experts

    def files(self) -> list[Path]:
        """Every file that it keeps for visitors."""
        return [path for path in self.cache.rglob("*") if path.is_file()]

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Any:
        """(status, body) of a request whose path is sent as it is."""
        parts = urlsplit(self.address)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def call(self, endpoint: str, data: list[Any]) -> str:
        """The events of an endpoint that is called without gradio's client, which changes what it is given."""
        body = json.dumps({"data": data}).encode("utf-8")
        status, answer = self.request(
            "POST", f"/gradio_api/call/{endpoint}", body, {"Content-Type": "application/json"}
        )
        assert status == 200, answer
        _, events = self.request("GET", f"/gradio_api/call/{endpoint}/{json.loads(answer)['event_id']}")
        return str(events.decode("utf-8"))

    def upload(self, name: str, content: bytes) -> Any:
        """(status, answer) of an upload under any name."""
        head = f'--frontier\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode("utf-8") + content + b"\r\n--frontier--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=frontier"}
        status, answer = self.request("POST", "/gradio_api/upload", body, kind)
        return status, answer.decode("utf-8")


def tiny_experts(folder: Path, settings: Settings | None = None) -> Experts:
    """A very small checkpoint with experts for CT and fundus; everything looks like fundus to its router."""
    model = str(save_tiny_checkpoint(folder / "tiny"))
    return load_experts(Settings(model=model) if settings is None else settings)


@contextmanager
def served(experts: Experts, settings: Settings, folder: Path) -> Iterator[Served]:
    """A Space that runs in a thread until the block ends."""
    from space_page import build_page, serve_page

    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "cache")
    known = replace(experts, settings=settings)
    page = build_page(settings, known, folder)
    try:
        _, address, _ = serve_page(page, settings, folder / "cache", prevent_thread_lock=True)
        yield Served(address.rstrip("/"), folder / "cache", known)
    finally:
        page.close()
        os.environ.pop("GRADIO_TEMP_DIR")
        if before is not None:
            os.environ["GRADIO_TEMP_DIR"] = before


def xray(folder: Path, name: str = "xray.png") -> Path:
    """The chest phantom as a PNG file."""
    Image.fromarray(phantoms.chest_radiograph().pixels).save(folder / name)
    return folder / name


def volume(folder: Path, name: str = "ct.nii.gz", shape: tuple[int, ...] = (40, 36, 12)) -> Path:
    """Noise around a bright ball, 2 x 2 x 5 mm, that runs to the right, the front and the head (RAS)."""
    rng = np.random.default_rng(0)
    grid = np.indices(shape[:3])
    middle = np.array(shape[:3]).reshape(3, 1, 1, 1) / 2
    ball = (((grid - middle) * np.array([2, 2, 5]).reshape(3, 1, 1, 1)) ** 2).sum(axis=0) < 20**2
    voxels = (rng.normal(0, 20, shape[:3]) + 200 * ball).astype(np.int16)
    stacked = voxels if len(shape) == 3 else np.stack([voxels] * shape[3], axis=-1)
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    affine[:3, 3] = (-40, -36, 100)
    nibabel.save(nibabel.Nifti1Image(stacked, affine), folder / name)
    return folder / name
