# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Two evaluations side by side, label by label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.studies import comparison


def evaluation(digest: str, **scores: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """An evaluation with AP50 and AP of the labels of each modality."""
    counts = {"train_images": 40, "validation_images": 7, "validation_boxes": 9}
    return {
        "weights_sha256": digest * 64,
        "modalities": {
            name: {"labels": {label: {"AP50": ap50, "AP": ap, **counts} for label, (ap50, ap) in labels.items()}}
            for name, labels in scores.items()
        },
    }


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    old = evaluation("a", ct={"liver": (0.8, 0.5), "spleen": (0.6, 0.3)}, mri={"brain": (1.0, 0.9)})
    new = evaluation("b", ct={"liver": (0.9, 0.6), "spleen": (0.5, 0.35)})
    for name, content in (("old", old), ("new", new)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return [str(tmp_path / name) for name in ("old.json", "new.json", "comparison.json")]


def run(files: list[str]) -> int:
    before, after, out = files
    return comparison.main(["--before", before, "--after", after, "--out", out])


def test_labels_and_their_mean(files: list[str]) -> None:
    assert run(files) == 0
    page = Path(files[2]).with_suffix(".md").read_text(encoding="utf-8")
    assert "| **ct**, mean of 2 labels |  |  | **70.0** | **70.0** | **40.0** | **47.5** |" in page
    assert "| ct: liver | 40 | 7 | 80.0 | 90.0 | 50.0 | 60.0 |" in page
    assert "brain" not in page and "weights aaaaaaaaaaaa" in page and "weights bbbbbbbbbbbb" in page


def test_the_page_is_made_again_from_what_is_kept(files: list[str]) -> None:
    run(files)
    page = Path(files[2]).with_suffix(".md")
    written = page.read_bytes()
    page.unlink()
    assert comparison.main(["--out", files[2]]) == 0 and page.read_bytes() == written


def test_what_cannot_be_compared(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert comparison.main(["--before", files[0]]) == 2
    assert "--before and --after belong together" in capsys.readouterr().err
    Path(files[1]).write_text(json.dumps(evaluation("b", xray={"lung": (1, 1)})), encoding="utf-8")
    assert run(files) == 2 and "no modality in common" in capsys.readouterr().err
    other = evaluation("b", ct={"liver": (0.9, 0.6), "spleen": (0.5, 0.35)})
    other["modalities"]["ct"]["labels"]["liver"]["validation_boxes"] = 10
    Path(files[1]).write_text(json.dumps(other), encoding="utf-8")
    assert run(files) == 2 and "ct: the two evaluations are not of the same images" in capsys.readouterr().err
    for content in ("{", "[]"):
        Path(files[1]).write_text(content, encoding="utf-8")
        assert run(files) == 2 and "new.json: not " in capsys.readouterr().err


def test_the_page_in_docs_holds_what_was_measured() -> None:
    docs = Path(__file__).parents[3] / "docs"
    figures = json.loads((docs / "comparison.json").read_text(encoding="utf-8"))
    assert (docs / "comparison.md").read_text(encoding="utf-8") == comparison.render_page(figures)
