# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Boxes that were written as DICOM and read back are the same; and a difference would be seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modeling_medglip.volumes.dicom_folder import find_series, open_series
from modeling_medglip.volumes.geometry import empty_grid
from modeling_medglip.volumes.source import VolumeSource
from tests.modeling_medglip.dicom_files import write_series
from tests.modeling_medglip.outputs.test_slicer import made_box, made_result
from training.studies import report_roundtrip
from training.studies.report_roundtrip import roundtrip


@pytest.fixture
def source(tmp_path: Path) -> VolumeSource:
    write_series(tmp_path / "scan", count=3, FrameOfReferenceUID="1.2.3.4")
    return open_series(find_series(tmp_path / "scan")[0], "scan")


def test_the_same_boxes_come_back(source: VolumeSource) -> None:
    boxes = (
        made_box(source.grid, (2, 3, 0, 9, 8, 2), "liver", 0.9),
        made_box(source.grid, (4.0, 1.4, 0, 6.0, 5.0, 3), "spleen", 0.8),
    )
    distances = roundtrip(made_result(source.grid, *boxes), source, 0.3)
    assert distances is not None and distances["boxes"] == 2 and distances["report_mm"] < 1e-5
    assert distances["segmentation_voxels"] == pytest.approx(0.4, abs=0.15)  # 1.4 is between two voxels


def test_faint_boxes_are_left_out(source: VolumeSource) -> None:
    boxes = (
        made_box(source.grid, (2, 3, 0, 9, 8, 2), "liver", 0.9),
        made_box(source.grid, (1, 1, 0, 2, 2, 2), "x", 0.1),
    )
    distances = roundtrip(made_result(source.grid, *boxes), source, 0.3)
    assert distances is not None and distances["boxes"] == 1
    assert roundtrip(made_result(source.grid, *boxes), source, 0.95) is None


def test_a_box_that_moved_would_be_seen(source: VolumeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    regions_of = report_roundtrip._regions
    monkeypatch.setattr(
        report_roundtrip, "_regions", lambda *arguments: [part + 3.0 for part in regions_of(*arguments)]
    )
    result = made_result(source.grid, made_box(source.grid, (2, 3, 0, 9, 8, 2), "liver", 0.9))
    distances = roundtrip(result, source, 0.3)
    assert distances is not None and distances["report_mm"] == pytest.approx(3.0)


def test_only_series_are_written() -> None:
    grid = empty_grid((4, 4, 4), np.eye(4))
    assert roundtrip(made_result(grid, made_box(grid, (0, 0, 0, 1, 1, 1))), VolumeSource(grid), 0.3) is None
