# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What can be set for the Space, by environment variables, and its limits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from modeling_medglip.defaults import UNTRAINED_THRESHOLD


MEGABYTE = 2**20
# Boxes are looked for down to these scores; the threshold hides some of what was found. Fainter boxes of single slices
# would be linked into structures that reach too far, so volumes start higher.
FAINTEST, FAINTEST_IN_VOLUMES, THRESHOLD = 0.05, 0.15, 0.3


@dataclass(frozen=True)
class Settings:
    """Settings of one server.

    Attributes:
        model: checkpoint folder or Hub id; the embedded checkpoint when `None`.
        others: further checkpoints, for the comparison.
        upload_bytes: larger uploads are refused. cache_bytes: of all uploads that are kept. voxels, pictures: of a
            volume, likewise. labels: of a prompt.
        untrained_threshold: lowest score of labels that a checkpoint was not trained with.
        sweep_seconds, keep_seconds: how often files are looked at, and when an unused one is deleted.
        waiting: requests in the queue, beyond which new ones are turned away. at_once: pictures that are grounded at
            the same time; volumes go one by one.
        seconds, volume_seconds: that grounding an image, or a volume, may take. body_seconds: that a request may take
            to arrive. json_bytes: of requests that are no upload.
        hosts: names under which the server answers, besides those of this machine.
        sessions: pages whose results are remembered. examples: whether the page has any.
    """

    model: str | None = None
    others: tuple[str, ...] = ()
    upload_bytes: int = 256 * MEGABYTE
    cache_bytes: int = 8192 * MEGABYTE
    voxels: int = 2**28
    pictures: int = 1024
    labels: int = 150
    untrained_threshold: float = UNTRAINED_THRESHOLD
    sweep_seconds: int = 30
    keep_seconds: int = 900
    waiting: int = 100
    at_once: int = 2
    seconds: float = 120
    volume_seconds: float = 900
    body_seconds: float = 600
    json_bytes: int = MEGABYTE
    hosts: tuple[str, ...] = ()
    sessions: int = 300
    examples: bool = True


def from_environment(environment: Mapping[str, str] | None = None) -> Settings:
    """`MEDGLIP_MODEL`, `MEDGLIP_COMPARE` and `MEDGLIP_HOSTS` (several with commas between), `MEDGLIP_MAX_UPLOAD_MB`;
    `SPACE_HOST`, which Hugging Face sets.
    """
    values = os.environ if environment is None else environment
    others = _parts(values.get("MEDGLIP_COMPARE", ""))
    hosts = _parts(f"{values.get('SPACE_HOST', '')},{values.get('MEDGLIP_HOSTS', '')}")
    megabytes = values.get("MEDGLIP_MAX_UPLOAD_MB", "")
    size = int(megabytes) * MEGABYTE if megabytes.isdecimal() and int(megabytes) else Settings.upload_bytes
    return Settings(values.get("MEDGLIP_MODEL") or None, others, size, hosts=hosts)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def quiet() -> None:
    """No bars and no advice of other libraries on the server's terminal."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
