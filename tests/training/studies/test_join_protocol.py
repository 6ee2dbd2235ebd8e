# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Joining runs of the protocol into one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.studies.join_protocol import join, main
from training.studies.protocol import SCHEMA


def part(modality: str, rows: dict[str, float], images: int = 9, **conditions: Any) -> dict[str, Any]:
    size = conditions.get("size", 256)
    stated = {"epochs": 2.0, "size": size, "seed": 0, **conditions}
    same = {"conditions": stated, "images": {"train": 5, "validation": images}}
    scores = {name: {"AP": ap, "AP50": ap} for name, ap in rows.items()}
    made = {name: {**same, "mean": scores[name], "well_shown": scores[name]} for name in rows}
    return {"schema": SCHEMA, "modalities": {modality: {"size": size, "epochs": 2.0, "rows": made}}}


def test_rows_come_together_in_the_tables_order() -> None:
    joined = join([part("ct", {"100 %": 0.5}), part("mri", {"zero-shot": 0.1}), part("ct", {"10 %": 0.2})], {})
    assert list(joined["modalities"]) == ["ct", "mri"]
    assert list(joined["modalities"]["ct"]["rows"]) == ["10 %", "100 %"]


def test_the_last_file_counts() -> None:
    joined = join([part("ct", {"100 %": 0.5}), part("ct", {"100 %": 0.7})], {})
    assert joined["modalities"]["ct"]["rows"]["100 %"]["mean"]["AP"] == 0.7


@pytest.mark.parametrize("other", [{"size": 512}, {"images": 8}])
def test_other_conditions_are_not_compared(other: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="ct: its rows were measured under different conditions"):
        join([part("ct", {"100 %": 0.5}), part("ct", {"10 %": 0.2}, **other)], {})


def test_images_are_compared_as_far_as_they_are_known() -> None:
    old, first, second = part("ct", {"100 %": 0.5}), *(part("ct", {"10 %": 0.2}, digest=name) for name in "ab")
    assert len(join([old, first], {})["modalities"]["ct"]["rows"]) == 2
    third = part("ct", {"zero-shot": 0.2}, digest="b")
    with pytest.raises(ValueError, match="different conditions"):
        join([old, first, third], {})
    assert len(join([old, second, third], {})["modalities"]["ct"]["rows"]) == 3


def test_a_difference_goes_with_its_rows() -> None:
    pair = "100 % against closed vocabulary"
    first = part("ct", {"100 %": 0.5, "closed vocabulary": 0.4})
    first["modalities"]["ct"]["differences"] = {pair: [0.05, 0.15]}
    assert join([first], {})["modalities"]["ct"]["differences"] == {pair: [0.05, 0.15]}
    again = part("ct", {"closed vocabulary": 0.3})
    assert join([first, again], {})["modalities"]["ct"]["differences"] == {}
    draws = {("ct", "100 %"): np.array([0.5, 0.6]), ("ct", "closed vocabulary"): np.array([0.3, 0.4])}
    assert join([first, again], draws)["modalities"]["ct"]["differences"] == {pair: [0.2, 0.2]}


def test_draws_lie_in_the_folder_of_a_run_or_in_an_older_file(tmp_path: Path) -> None:
    older, run = part("ct", {"100 %": 0.5}), part("ct", {"closed vocabulary": 0.4})
    older["modalities"]["ct"]["rows"]["100 %"]["resampled_AP"] = [0.5, None, 0.6]
    files = [tmp_path / "older.json", tmp_path / "run" / "protocol.json"]
    (tmp_path / "run" / "ct" / "closed_vocabulary").mkdir(parents=True)
    np.save(tmp_path / "run" / "ct" / "closed_vocabulary" / "resampled_AP.npy", [0.4, 0.4, 0.4])
    for file, content in zip(files, (older, run), strict=True):
        file.write_text(json.dumps(content), encoding="utf-8")
    assert main([*map(str, files), "--out", str(tmp_path / "out")]) == 0
    joined = json.loads((tmp_path / "out" / "protocol.json").read_text(encoding="utf-8"))["modalities"]["ct"]
    assert joined["differences"] == {"100 % against closed vocabulary": [0.0525, 0.1475]}
    assert "resampled_AP" not in joined["rows"]["100 %"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for number, row in enumerate(("zero-shot", "Deformable DETR")):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(part("ct", {row: 0.25})), encoding="utf-8")
    assert main([*map(str, files), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "protocol.md").read_text(encoding="utf-8")
    assert text == capsys.readouterr().out and text.count("25.0 / 25.0 (") == 2
    (tmp_path / "bad.json").write_text("{}", encoding="utf-8")
    assert main([str(tmp_path / "bad.json"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: not a protocol")


def test_the_committed_table_is_what_the_command_writes(tmp_path: Path) -> None:
    docs = Path(__file__).parents[3] / "docs"
    assert main([str(docs / "protocol.json"), "--out", str(tmp_path)]) == 0
    for name in ("protocol.json", "protocol.md"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (docs / name).read_text(encoding="utf-8")
