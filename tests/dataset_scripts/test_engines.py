# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""One process, several, and a Ray cluster of two nodes give the same bytes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from dataset_scripts import engines
from dataset_scripts.build import build
from dataset_scripts.engines import process_cases
from dataset_scripts.process import BuildOptions
from dataset_scripts.readers import READERS
from dataset_scripts.readers.masks import MaskFolderReader
from dataset_scripts.recipe import Recipe, load_recipes
from dataset_scripts.records import AnnotatedImage, Case

from .raw_data import write_polyps, write_recipes, write_volumes
from .test_build import tree


KEY = "00" * 32 + "\n"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    write_polyps(folder, 6)
    write_volumes(folder, 4)
    return folder


@pytest.fixture(scope="module")
def recipes(raw: Path) -> list[Recipe]:
    return [recipe for path in write_recipes(raw) for recipe in load_recipes(path)]


def built(recipes: list[Recipe], raw: Path, folder: Path, **options: object) -> dict[str, bytes]:
    (folder / "set.work").mkdir(parents=True)
    (folder / "set.work" / "pseudonyms.key").write_text(KEY, encoding="ascii")
    build(recipes, raw, folder / "set", echo=lambda text: None, **options)  # type: ignore[arg-type]
    return tree(folder / "set")


def test_processes(recipes: list[Recipe], raw: Path, tmp_path: Path) -> None:
    one = built(recipes, raw, tmp_path / "one")
    assert built(recipes, raw, tmp_path / "three", workers=3) == one and len(one) > 30


def test_unknown_engines_and_ray_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="choose one of local, ray"):
        list(process_cases([], BuildOptions(), tmp_path, engine="spark"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="needs Ray: pip install"):
        list(process_cases([], BuildOptions(), tmp_path, engine="ray"))


@pytest.mark.distributed
def test_a_cluster_of_two_nodes(
    recipes: list[Recipe], raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Workers find the project and this test's readers where this process does.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    one = built(recipes, raw, tmp_path / "one")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
        assert len([node for node in ray.nodes() if node["Alive"]]) == 2
        assert built(recipes, raw, tmp_path / "ray", engine="ray") == one
    finally:
        ray.shutdown()
        cluster.shutdown()


class _Harmful(MaskFolderReader):
    """Does what a decoder may do on a file, by the name of the case."""

    def read(self, case: Case) -> AnnotatedImage:
        kind = Path(case.key).stem[-1]
        if kind == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "2":
            raise MemoryError
        while kind == "3":
            pass
        return super().read(case)


@pytest.mark.skipif(not engines.FORKS, reason="cases are processed in this process")
def test_a_case_that_ends_its_process_costs_that_case(
    raw: Path, recipes: list[Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(READERS, "mask_folder", _Harmful)
    monkeypatch.setattr(engines, "SECONDS", 1.0)
    polyps = [recipe for recipe in recipes if recipe.layout == "mask_folder"]
    summary = build(polyps, raw, tmp_path / "set", echo=lambda text: None)
    assert (summary.images, summary.rejected) == (3, {"unreadable": {polyps[0].source: 3}})
    rows = (tmp_path / "set.work" / "rejected.jsonl").read_text(encoding="utf-8")
    assert rows.count("a decoder crashed on it, or took too long") == 2 and rows.count("not enough memory") == 1
    monkeypatch.setitem(READERS, "mask_folder", MaskFolderReader)  # and tried again
    assert build(polyps, raw, tmp_path / "set", echo=lambda text: None).images == 6
