# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Load records from a built data set (folder or Hub id), a COCO JSON file, or a folder with one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from modeling_medglip.modalities import MODALITIES, resolve_modality

from .coco_records import coco_records, is_coco
from .records import SPLITS, GroundingRecord, SourceSettingsTable
from .set_records import set_records


def load_records(
    data: Path | str,
    modalities: str | Iterable[str] = MODALITIES,
    split: str | None = None,
    settings: SourceSettingsTable | None = None,
    unstated: str | None = None,
) -> list[GroundingRecord]:
    """Return the records of a data set.

    Args:
        data (`Path` or `str`): a built data set (folder or Hub id), a COCO JSON file, or a folder with one.
        modalities (`str` or names, defaults to all): the records of these alone.
        split (`str`, *optional*): one of `SPLITS`; all when not given.
        settings ([`SourceSettingsTable`], *optional*): instead of the ones in `source_settings.yaml`.
        unstated (`str`, *optional*): the modality of images of a COCO file that state none; the only one of
            `modalities` when not given.

    Raises:
        `ValueError`: no such folder, no image in it, or an unknown split.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split {split!r}: choose one of {', '.join(SPLITS)}")
    names = [resolve_modality(name) for name in ([modalities] if isinstance(modalities, str) else modalities)]
    table = settings or SourceSettingsTable.load()
    whole = coco_records(data, names, table, unstated) if is_coco(Path(data)) else set_records(data, names, table)
    records = [record for record in whole if split in (None, record.split)]
    if not records:
        raise ValueError(f"{data}: no {split or 'labeled'} images of {', '.join(names)} there")
    return records


__all__ = ["load_records"]
