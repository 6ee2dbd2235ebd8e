# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The settings of the Space, from environment variables, and its limits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from modeling_medglip.defaults import UNTRAINED_THRESHOLD


MEGABYTE = 2**20
# Lowest scores of boxes that are searched; the threshold hides some of them. Boxes of single slices with lower scores
# would be linked into structures that reach too far, so volumes start higher.
FAINTEST, FAINTEST_IN_VOLUMES, THRESHOLD = 0.05, 0.15, 0.3


@dataclass(frozen=True)
class Settings:
    """Settings of one server.

    Attributes:
        model (`str`, *optional*): checkpoint folder or Hub id; the embedded checkpoint when `None`.
        others (`tuple[str, ...]`): further checkpoints, for the comparison.
        upload_bytes (`int`): largest upload.
        cache_bytes (`int`): most bytes of all stored uploads together.
        voxels (`int`): most voxels of a volume.
        slices (`int`): most slices of a volume, in the plane that is searched.
        labels (`int`): most labels of a prompt.
        untrained_threshold (`float`): lowest score of labels that a checkpoint was not trained with.
        sweep_seconds (`int`): seconds between two searches for unused files.
        keep_seconds (`int`): seconds after which an unused file is deleted.
        waiting (`int`): most requests in the queue; further ones are refused.
        at_once (`int`): images that are grounded at the same time; volumes are grounded one by one.
        seconds (`float`): longest time to ground an image.
        volume_seconds (`float`): longest time to ground a volume.
        body_seconds (`float`): longest time for a request to arrive.
        json_bytes (`int`): largest request that is not an upload.
        hosts (`tuple[str, ...]`): names under which the server answers, besides those of this machine.
        sessions (`int`): most pages whose results are stored.
        examples (`bool`): whether the page has examples.
    """

    model: str | None = None
    others: tuple[str, ...] = ()
    upload_bytes: int = 256 * MEGABYTE
    cache_bytes: int = 8192 * MEGABYTE
    voxels: int = 2**28
    slices: int = 1024
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
    """Return the settings of the environment.

    `MEDGLIP_MODEL` and `MEDGLIP_MAX_UPLOAD_MB` hold one value; `MEDGLIP_COMPARE` and `MEDGLIP_HOSTS` several, with
    commas between. Hugging Face sets `SPACE_HOST`.

    Args:
        environment (`Mapping[str, str]`, *optional*): the variables; those of this process by default.
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
    """Suppress progress bars and log messages of transformers on the server's terminal."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
