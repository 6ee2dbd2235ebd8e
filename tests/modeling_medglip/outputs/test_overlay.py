# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Overlays: colors, positions of the labels, sizes, windows."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from modeling_medglip.boxes import intersection
from modeling_medglip.errors import MOST_MISSING
from modeling_medglip.io.image_record import ReadImage
from modeling_medglip.outputs import overlay
from modeling_medglip.outputs.overlay import (
    PALETTE,
    DrawnBox,
    contact_sheet,
    display_image,
    draw_boxes,
    draw_overlay,
    drawable,
    label_colors,
    overlay_png,
)
from modeling_medglip.outputs.results import GroundedBox


def rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))


def pixels_of(image: Image.Image, color: str) -> np.ndarray:
    """Rows and columns of the pixels that have exactly this color, (n, 2)."""
    return np.argwhere((np.asarray(image) == rgb(color)).all(-1))


class TestColors:
    def test_fixed_by_the_position_in_the_prompt(self) -> None:
        colors = label_colors(["liver", "spleen", "liver"])
        assert list(colors.items()) == [("liver", PALETTE[0]), ("spleen", PALETTE[1])]
        assert label_colors([str(i) for i in range(20)])["8"] == PALETTE[0]

    def test_all_differ_also_for_the_color_blind(self) -> None:
        # the least distance of any two colors once red and green are seen as their mean
        seen = np.array([[(r + g) / 2, (r + g) / 2, b] for r, g, b in map(rgb, PALETTE)], dtype=float)
        distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
        assert distance[~np.eye(len(PALETTE), dtype=bool)].min() > 20

    @pytest.mark.parametrize("color", PALETTE)
    def test_ink_is_readable(self, color: str) -> None:
        def luminance(values: tuple[int, ...]) -> float:
            linear = [(v / 255 / 12.92) if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in values]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

        ink = {"black": 0.0, "white": 1.0}[overlay._ink(color)]
        light, dark = sorted((luminance(rgb(color)), ink), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 3  # the contrast that large letters need


def test_untrained_labels_are_dashed() -> None:
    ground = Image.new("RGB", (900, 900), "gray")
    shown = {}
    for trained in (True, False):
        box = GroundedBox("liver", 0.9, (100.0, 300.0, 700.0, 400.0), trained=trained)
        shown[trained] = draw_overlay(ground, [box], ["liver"])
    rows = {key: (np.asarray(image)[700 - 1, 120:780] == rgb(PALETTE[0])).all(-1) for key, image in shown.items()}
    assert rows[True].all() and 0.5 < rows[False].mean() < 0.8


class TestDisplay:
    def test_ct_goes_through_the_window(self) -> None:
        hounsfield = np.array([[-1000, -160, 40, 240, 3000]], dtype=np.int16)
        shown = np.asarray(display_image(ReadImage(hounsfield, "a"), "ct"))[0, :, 0]
        assert shown.tolist() == [0, 0, 128, 255, 255]
        lung = np.asarray(display_image(ReadImage(hounsfield, "a"), "ct", (-600, 1500)))[0, :, 0]
        assert lung[0] > 0

    def test_eight_bits_stay(self) -> None:
        gray = np.array([[3, 200]], dtype=np.uint8)
        assert np.asarray(display_image(ReadImage(gray, "a"), "ct"))[0, :, 0].tolist() == [3, 200]

    def test_deep_gray_is_stretched(self) -> None:
        deep = np.linspace(1000, 3000, 400).reshape(20, 20).astype(np.uint16)
        shown = np.asarray(display_image(ReadImage(deep, "a"), "mri"))
        assert shown.min() == 0 and shown.max() == 255

    def test_monochrome1_is_turned_for_display(self) -> None:
        image = ReadImage(np.array([[0, 255]], dtype=np.uint8), "a", photometric_interpretation="MONOCHROME1")
        assert np.asarray(display_image(image, "xray"))[0, :, 0].tolist() == [255, 0]

    def test_color_and_constant_images(self) -> None:
        color = np.full((2, 2, 3), (1, 2, 3), dtype=np.uint8)
        assert np.array_equal(np.asarray(display_image(ReadImage(color, "a"), "fundus")), color)
        flat = ReadImage(np.full((4, 4), 7, dtype=np.uint16), "a")
        assert display_image(flat, "mri").size == (4, 4)


class TestDrawing:
    def test_the_frame_is_where_the_box_is(self) -> None:
        box = GroundedBox("liver", 0.9, (300, 200, 200, 300))
        image = draw_overlay(Image.new("RGB", (800, 800)), [box])
        tag = (299, 165, 460, 199)
        points = pixels_of(image.crop((0, 0, 800, 800)), PALETTE[0])
        frame = points[~((points[:, 0] < tag[3] + 2) & (points[:, 0] >= tag[1]))]
        assert abs(frame[:, 1].min() - 300) <= 1 and abs(frame[:, 1].max() - 499) <= 1
        assert abs(frame[:, 0].max() - 499) <= 1

    def test_small_images_grow_and_large_ones_shrink(self) -> None:
        small = draw_overlay(Image.new("RGB", (64, 64)), [])
        assert small.width == 800 and small.height >= 800
        assert draw_overlay(Image.new("RGB", (5000, 2500)), []).width == 1600

    @pytest.mark.parametrize("size", [(1, 1), (2000, 1), (1, 2000), (3, 500)])
    def test_extreme_shapes(self, size: tuple[int, int]) -> None:
        box = GroundedBox("a long label in a narrow image", 0.5, (0, 0, *map(float, size)))
        assert draw_overlay(Image.new("RGB", size), [box], title="t", banner="b").width >= 320

    def test_labels_without_a_box_are_named_in_the_legend(self) -> None:
        plain = draw_overlay(Image.new("RGB", (800, 800)), [], ["liver"])
        more = draw_overlay(Image.new("RGB", (800, 800)), [], [f"label {i}" for i in range(40)])
        assert more.height > plain.height > 800

    def test_a_legend_names_no_more_missing_labels_than_fit(self) -> None:
        box = GroundedBox("label 499", 0.5, (3, 3, 20, 20))
        names = [f"label {index}" for index in range(1000)]
        few = draw_overlay(Image.new("RGB", (800, 800)), [box], [*names[: MOST_MISSING + 1], box.label])
        many = draw_overlay(Image.new("RGB", (800, 800)), [box], names)
        assert many.height == few.height < 2400

    def test_a_banner_is_on_top(self) -> None:
        with_banner = draw_overlay(Image.new("RGB", (800, 800)), [], banner="PHANTOM")
        without = draw_overlay(Image.new("RGB", (800, 800)), [])
        assert with_banner.height > without.height
        assert with_banner.getpixel((1, 1)) == rgb("#D55E00")

    def test_deterministic_and_without_metadata(self) -> None:
        box = GroundedBox("liver", 0.9, (3, 3, 20, 20))
        first, second = (overlay_png(draw_overlay(Image.new("RGB", (64, 64)), [box])) for _ in range(2))
        assert first == second
        assert Image.open(io.BytesIO(first)).info == {}

    def test_hostile_labels(self) -> None:
        box = GroundedBox("[red]\n\x1b[31m<b>" + "x" * 5000, 0.9, (3, 3, 20, 20))
        assert draw_overlay(Image.new("RGB", (64, 64)), [box], [box.label]).width == 800

    @pytest.mark.parametrize(
        ("label", "drawn"),
        [
            ("riñón izquierdo", "rinon izquierdo"),
            ("Gefäß, œil", "Gefass, oeil"),
            ("左肾", "left kidney"),
            ("肺（右）", "right lung"),
            ("печень", "??????"),
            ("liver\n\x1b[31m", "liver [31m"),
        ],
    )
    def test_labels_are_drawn_in_letters_that_the_font_has(self, label: str, drawn: str) -> None:
        assert drawable(label) == drawn
        images = [
            draw_overlay(Image.new("RGB", (64, 64)), [GroundedBox(text, 0.9, (3, 3, 20, 20))], [text])
            for text in (label, drawn)
        ]
        assert images[0] == images[1]


class TestLabelPositions:
    def tags(self, boxes: list[GroundedBox], size: tuple[int, int]) -> list[tuple[float, float, float, float]]:
        pen = ImageDraw.Draw(Image.new("RGB", size))
        font = ImageFont.load_default(size=16)
        frames = [box.xyxy for box in boxes]
        taken: list[tuple[float, float, float, float]] = []
        for box, frame in zip(boxes, frames, strict=True):
            tag = overlay._tag(pen, DrawnBox(frame, PALETTE[0], box.label, f" {box.score:.2f}"), frame, font, size[0])
            x, y = overlay._best_position(tag, taken, frames, size)
            taken.append((x, y, x + tag.size[0], y + tag.size[1]))
        return taken

    def test_labels_of_one_box_do_not_hide_each_other(self) -> None:
        boxes = [GroundedBox(f"label {i}", 0.9, (200, 200, 200, 200)) for i in range(6)]
        tags = self.tags(boxes, (800, 800))
        overlaps = [intersection(a, b) for i, a in enumerate(tags) for b in tags[:i]]
        assert max(overlaps) == 0

    @given(
        st.tuples(*(st.floats(*ends, allow_subnormal=False) for ends in ((0, 790), (0, 590), (1, 400), (1, 400)))),
        st.text(min_size=1, max_size=300),
    )
    def test_labels_stay_inside_the_image(self, bbox: tuple[float, ...], label: str) -> None:
        x, y, width, height = bbox
        box = GroundedBox(label, 0.5, (x, y, min(width, 800 - x), min(height, 600 - y)))
        left, top, right, bottom = self.tags([box], (800, 600))[0]
        assert left >= 0 and top >= 0 and right <= 800 and bottom <= 600


def test_draw_boxes() -> None:
    image = Image.new("RGB", (300, 200), "gray")
    draw_boxes(image, [DrawnBox((50, 40, 150, 120), "white"), DrawnBox((100, 80, 250, 180), "red", "liver")], width=1)
    pixels = np.asarray(image)
    assert (pixels[40, 50:150] == 255).all() and (pixels[119, 50:150] == 255).all()  # the first box is on top
    assert (pixels[100, 249] == (255, 0, 0)).all() and (pixels[179, 101:249] == (255, 0, 0)).all()
    assert (pixels[100, 60:99] == 128).all()  # boxes are not filled


def test_contact_sheet() -> None:
    sheet = contact_sheet([Image.new("RGB", (100, 300), "white")] * 4, columns=3, cell=120)
    assert sheet.size == (360, 240)
    assert contact_sheet([], columns=2, cell=10).size == (20, 10)
