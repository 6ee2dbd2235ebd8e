# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Pieces of the Space that need no server: order of boxes, escaping, the tree, slices, settings."""

from __future__ import annotations

import html
import json
import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest


pytest.importorskip("gradio")

from modeling_medglip import default_checkpoint, load_taxonomy
from modeling_medglip.checkpoints.info import checkpoint_info
from modeling_medglip.errors import Advice, Hint, MedGlipError
from modeling_medglip.outputs.results import GroundedBox
from modeling_medglip.outputs.volume_results import VolumeBox
from modeling_medglip.volumes.geometry import (
    PLANES,
    corners_lps,
)
from modeling_medglip.volumes.source import open_volume
from space_html import boxes_table, error, figure, status, text
from space_limits import sweep
from space_messages import in_page_terms, visitor_message
from space_rows import LESION_COLORS, OUTSIDE, Row, colors_of, rows_of
from space_scene import scene, scene_data
from space_settings import MEGABYTE, from_environment
from space_sources import Source, box_in_slice, read_slice_image
from space_tree import leaves, tree
from tests.spaces_demo.serving import volume


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "\" onmouseover='alert(1)' x=\"",
    "${alert(1)} {{constructor}} `x`",
    "line\nbreak\x1b[31m",
]


def grounded(label: str, score: float, bbox: tuple[float, float, float, float]) -> GroundedBox:
    """Return a box with its location in the taxonomy."""
    location = load_taxonomy().locate(label)
    ids = (location.label_id, location.category, location.region) if location else (None, None, None)
    return GroundedBox(label, score, bbox, *ids)


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return volume(tmp_path_factory.mktemp("ball"))


class PageParser(HTMLParser):
    """Collect the tags and attributes that a browser would see."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words.append(data)


class TestRows:
    def test_lesions_stand_under_the_organ_they_lie_in(self) -> None:
        boxes = [
            grounded("left lung", 0.6, (100, 0, 80, 200)),
            grounded("right lung", 0.9, (0, 0, 80, 200)),
            grounded("lung nodule", 0.5, (120, 40, 10, 10)),
            grounded("liver", 0.7, (0, 220, 100, 60)),
        ]
        rows = rows_of(boxes, ["left lung", "right lung", "lung nodule", "liver"])
        assert [(row.box.label, row.inside) for row in rows] == [
            ("right lung", None), ("left lung", None), ("lung nodule", "left lung"), ("liver", None),
        ]  # fmt: skip
        assert [row.kind for row in rows] == ["organ", "organ", "lesion", "organ"]

    def test_lesion_outside_every_organ_is_not_nested(self) -> None:
        boxes = [grounded("left lung", 0.6, (100, 0, 80, 200)), grounded("lung nodule", 0.5, (10, 40, 10, 10))]
        assert [row.inside for row in rows_of(boxes, [])] == [None, None]

    def test_lesion_is_not_put_into_an_organ_of_another_kind(self) -> None:
        boxes = [grounded("liver", 0.9, (0, 0, 200, 200)), grounded("lung nodule", 0.5, (10, 40, 10, 10))]
        assert [(row.box.label, row.inside) for row in rows_of(boxes, [])] == [("liver", None), ("lung nodule", None)]

    def test_groups_stay_together_whatever_the_scores(self) -> None:
        names = [("left lung", 0.9), ("liver", 0.8), ("right lung", 0.2), ("a made-up thing", 0.1), ("spleen", 0.15)]
        rows = rows_of([grounded(name, score, (0, 0, 9, 9)) for name, score in names], [])
        regions = [row.region for row in rows]
        assert regions == sorted(regions, key=regions.index) and len(set(regions)) == 3
        assert rows[-1].region == OUTSIDE and rows[-1].kind == "phrase"

    def test_lesions_have_colors_of_their_own(self) -> None:
        boxes = [grounded(name, 0.5, (0, 0, 9, 9)) for name in ("left lung", "lung nodule", "pleural effusion")]
        colors = colors_of(["lung nodule", "left lung", "pleural effusion"], boxes)
        assert {name for name, color in colors.items() if color in LESION_COLORS} >= {"lung nodule"}
        assert colors["left lung"] not in LESION_COLORS

    def test_number_is_the_position_by_score(self) -> None:
        boxes = [grounded("liver", 0.2, (0, 0, 9, 9)), grounded("spleen", 0.8, (0, 0, 9, 9))]
        assert {row.box.label: row.number for row in rows_of(boxes, [])} == {"spleen": 0, "liver": 1}


class TestHtml:
    @pytest.mark.parametrize("value", HOSTILE)
    def test_text_holds_no_markup(self, value: str) -> None:
        escaped = text(value)
        assert not set(escaped) & set("<>\"'`${}\n\x1b")
        assert html.unescape(escaped) == " ".join(re.sub("[\n\x1b]", " ", value).split())

    @pytest.mark.parametrize("value", HOSTILE)
    def test_no_label_or_file_name_becomes_a_tag(self, value: str) -> None:
        rows = rows_of([grounded(value, 0.5, (1, 1, 5, 5)), grounded("liver", 0.4, (1, 1, 5, 5))], [value])
        content = figure("data:image/webp;base64,AA", (10, 10), 1.0, rows, 0.3, value)
        content += boxes_table(rows, [value], 0.3) + error(value) + status("CT", "pixels", 0.5, value, [value], value)
        seen = PageParser(content)
        known = {"figure", "figcaption", "div", "img", "span", "b", "br", "i", "small"}
        assert set(seen.tags) <= known | {"table", "thead", "tbody", "tr", "th", "td"}
        assert [value for name, value in seen.attributes if name == "src"] == ["data:image/webp;base64,AA"]
        assert not [name for name, _ in seen.attributes if name.startswith("on")]
        shown = " ".join(re.sub("[\n\x1b]", " ", value).split())
        assert any(shown in words for words in seen.words)

    def test_boxes_below_the_threshold_are_hidden_from_the_start(self) -> None:
        rows = rows_of([grounded("liver", 0.5, (1, 1, 5, 5)), grounded("spleen", 0.2, (2, 2, 5, 5))], [])
        content = figure("", (10, 10), 1.0, rows, 0.3)
        assert re.findall(r'data-score="([\d.]+)" data-number="\d"( hidden)?', content) == [
            ("0.500000", ""), ("0.200000", " hidden"),
        ]  # fmt: skip

    def test_frames_lie_where_the_boxes_are(self) -> None:
        rows = rows_of([grounded("liver", 0.5, (20, 10, 50, 30))], [])
        assert "left:10.000%;top:10.000%;width:25.000%;height:30.000%" in figure("", (200, 100), 2.0, rows, 0.3)

    def test_confidence_is_shown(self) -> None:
        assert "from the pixels, 87% sure" in status("CT", "pixels", 0.87, "a.png")
        assert "sure" not in status("CT", "header", None, "a.png")


class TestMessages:
    @pytest.mark.parametrize(
        ("message", "hint", "shown"),
        [
            ("a.png: its modality is not known and tiny cannot tell: give modality=, one of ct, fundus", "modality",
             "a.png: its modality is not known and tiny cannot tell: choose it under Modality"),
            ("taken for ct with a probability of only 0.60: state it with modality= to be sure", "modality",
             "taken for ct with a probability of only 0.60: choose it under Modality"),
            ("holds 5 frames; only the first is used (choose another with frame=)", "frame",
             "holds 5 frames; only the first is used"),
            ("a.dcm: its frames state no positions: ground its frames one by one (frame=)", "frame",
             "a.dcm: its frames state no positions"),
            ("its header says nothing of orientation: left and right may be wrong; state the axes (axes=) to be sure",
             "axes", "its header says nothing of orientation: left and right may be wrong"),
            ("a.nii: has 4 axes (8, 8, 4, 3), not three: choose a volume from 1 to 3 (number=)", "number",
             "a.nii: has 4 axes (8, 8, 4, 3), not three"),
            ("a: b.dcm cannot be read, and may be a slice: repair or remove it, or leave it out (resample=True)",
             "resample", "a: b.dcm cannot be read, and may be a slice: repair or remove it"),
            ("a: holds files of 2 patients: give a folder for each, or pass several_patients=True", "several_patients",
             "a: holds files of 2 patients: give a folder for each"),
            ("x, frame=.dcm: holds 5 frames: ground its frames one by one (frame=)", "frame",
             "x, frame=.dcm: holds 5 frames"),
            ("frame=1.png: is not an image", None, "frame=1.png: is not an image"),
        ],
    )  # fmt: skip
    def test_controls_of_the_page_take_the_place_of_arguments(
        self, message: str, hint: Hint | None, shown: str
    ) -> None:
        assert in_page_terms(Advice(message, hint)) == shown
        assert visitor_message(MedGlipError(message, hint=hint)) == shown


class TestTree:
    def test_covers_every_label_and_every_trained_one(self) -> None:
        trained = checkpoint_info(default_checkpoint())["labels"]
        found = leaves(trained)
        assert {leaf.label_id for leaf in found} >= set(load_taxonomy().labels)
        for modality, names in trained.items():
            names_shown = {leaf.name for leaf in found if modality in leaf.trained}
            assert names_shown == set(names)

    def test_labels_stand_in_their_category(self) -> None:
        leaf = next(leaf for leaf in leaves({}) if leaf.label_id == "kidney_left")
        assert (leaf.name, leaf.region, leaf.category, leaf.trained) == (
            "left kidney", "abdomen", "abdomen (kidney)", (),
        )  # fmt: skip

    def test_buttons(self) -> None:
        seen = PageParser(tree({"ct": ["liver", "spleen"], "mri": ["<b>unknown</b>"]}))
        names = [value for name, value in seen.attributes if name == "data-label"]
        assert {"liver", "spleen", "<b>unknown</b>"} <= set(names) and "b" not in seen.tags
        assert ("data-labels", "liver. spleen.") in seen.attributes


class TestSlices:
    @pytest.mark.parametrize("plane", PLANES)
    def test_box_of_the_ball_encloses_it_in_every_slice(self, ball: Path, plane: str) -> None:
        source = open_volume(ball)
        bright = np.argwhere(source.volume().array > 100)
        ijk = (*(float(v) for v in bright.min(axis=0)), *(float(v) for v in bright.max(axis=0) + 1))
        box = VolumeBox("ball", 0.5, ijk, tuple(map(tuple, corners_lps(source.grid, ijk))), plane, 3)  # type: ignore
        size = source.grid.array.shape
        seen = 0
        for index in range({"axial": size[2], "coronal": size[1], "sagittal": size[0]}[plane]):
            rows, columns = np.where(read_slice_image(source, plane, index).pixels > 100)
            cut = box_in_slice(box, source.grid, plane, index)
            assert (cut is None) == (len(rows) == 0)
            if cut is not None:
                left, top, right, bottom = cut.xyxy
                assert left <= columns.min() and columns.max() + 1 <= right
                assert top <= rows.min() and rows.max() + 1 <= bottom
                seen += 1
        assert seen > 5

    def test_scene_is_centered_and_in_millimeters(self, ball: Path) -> None:
        source = open_volume(ball)
        ijk = (18.0, 16.0, 5.0, 22.0, 20.0, 7.0)
        box = VolumeBox("<b>", 0.5, ijk, tuple(map(tuple, corners_lps(source.grid, ijk))), "axial", 3)  # type: ignore
        rows = [Row(0, box, "lesion", "", "", "#FF0000")]
        data = scene_data(source.grid, {"axial": "data:x"}, rows, 0.3)
        (entry,) = data["boxes"]
        axes = np.array(data["axes"])
        assert sorted(np.abs(axes).max(axis=1)) == [2.0, 2.0, 5.0]
        sides = np.linalg.norm(axes, axis=1) * (np.array(entry["high"]) - entry["low"])
        assert sides.tolist() == [8.0, 8.0, 10.0]
        assert np.allclose(np.array(data["high"]) - data["low"], [40, 36, 12]) and not entry["untrained"]
        assert data["slices"] == ["", "", "data:x"]

    def test_scene_escapes_labels(self, ball: Path) -> None:
        grid = open_volume(ball).grid
        box = VolumeBox(HOSTILE[1], 0.5, (1, 1, 1, 2, 2, 2), ((0.0, 0.0, 0.0),) * 8, "axial", 1)
        seen = PageParser(scene(grid, {}, [Row(0, box, "organ", "", "", "#FF0000")], 0.3))
        assert "script" not in seen.tags
        stored = json.loads(str(dict(seen.attributes)["data-scene"]))
        assert stored["boxes"][0]["label"] == HOSTILE[1][:60]


class TestSettings:
    def test_environment(self) -> None:
        given = {"MEDGLIP_MODEL": "org/a", "MEDGLIP_COMPARE": "org/b, ,c", "MEDGLIP_MAX_UPLOAD_MB": "12"}
        settings = from_environment(given)
        assert (settings.model, settings.others, settings.upload_bytes) == ("org/a", ("org/b", "c"), 12 * MEGABYTE)

    @pytest.mark.parametrize("size", ["", "0", "-3", "much"])
    def test_senseless_sizes_leave_the_limit(self, size: str) -> None:
        assert from_environment({"MEDGLIP_MAX_UPLOAD_MB": size}).upload_bytes == 256 * MEGABYTE

    def test_nothing_set_means_the_embedded_checkpoint(self) -> None:
        assert (from_environment({}).model, from_environment({"MEDGLIP_MODEL": ""}).model) == (None, None)


def test_sweeping_spares_what_is_in_use(tmp_path: Path) -> None:
    old, new, link = tmp_path / "a" / "old.png", tmp_path / "a" / "new.png", tmp_path / "link"
    old.parent.mkdir()
    for file in (old, new):
        file.write_bytes(b"x")
    link.symlink_to(old)
    time.sleep(0.3)
    os.utime(new)
    sweep(tmp_path, 0.2)
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", new]


def test_upload_that_was_deleted_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="deleted from the server: upload the file again"):
        Source(tmp_path / "gone.png").read_image()


@pytest.mark.parametrize("name", ["a.nhdr", "a.mhd"])
def test_an_upload_cannot_name_another_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "d.raw").write_bytes(bytes(27))
    head = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 3 3 3\nencoding: raw\ndata file: d.raw\n"
    if name == "a.mhd":
        head = "NDims = 3\nDimSize = 3 3 3\nElementType = MET_UCHAR\nElementDataFile = d.raw\n"
    (tmp_path / name).write_text(head, encoding="utf-8")
    source = Source(tmp_path / name)
    for read in (source.volume_grid, lambda: source.volume(from_environment({}))):
        with pytest.raises(MedGlipError, match="has its voxels in another file"):
            read()
