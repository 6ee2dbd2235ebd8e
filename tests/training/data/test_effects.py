# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What makes images of other hospitals look different, and what lies over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.data import artifacts, effects
from training.data.effects import COLORING, EFFECTS, LUMINANCE, draw_effects
from training.data.records import SourceSettingsTable


BOXES = np.array([[0.1, 0.15, 0.4, 0.5], [0.55, 0.5, 0.8, 0.95]], dtype=np.float32)
NONE = np.zeros((0, 4), dtype=np.float32)
FIELDS = {"endoscope_field", "round_field", "sector_field", "collimation"}


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_effect_keeps_shape_and_range_and_is_reproducible(name: str, channels: int) -> None:
    image = torch.rand(channels, 40, 56)
    before = image.clone()
    for seed in range(6):
        first = EFFECTS[name](image, BOXES, np.random.default_rng(seed))
        assert first.shape == (3 if name in COLORING else channels, 40, 56) and first.dtype == torch.float32
        assert float(first.min()) >= -1e-5 and float(first.max()) <= 1 + 1e-5
        assert torch.equal(first, EFFECTS[name](image, BOXES, np.random.default_rng(seed)))
    assert torch.equal(image, before), "the image itself stays"


@pytest.mark.parametrize("name", sorted(set(EFFECTS) - {"white_balance", "hue", "narrow_band", "gray"}))
def test_an_effect_changes_gray_images_too(name: str) -> None:
    image = torch.rand(1, 64, 64)
    changed = [EFFECTS[name](image, NONE, np.random.default_rng(seed)) for seed in range(4)]
    assert any(not torch.equal(image.expand_as(one), one) for one in changed)


@pytest.mark.parametrize("name", ["white_balance", "hue", "narrow_band", "gray"])
def test_colors_change_where_there_are_any(name: str) -> None:
    color, gray = torch.rand(3, 20, 20), torch.rand(1, 20, 20)
    assert not torch.allclose(EFFECTS[name](color, NONE, np.random.default_rng(0)), color, atol=1e-3)
    assert torch.equal(EFFECTS[name](gray, NONE, np.random.default_rng(0)), gray)


def test_hues_turn_at_the_same_luminance() -> None:
    image, weights = torch.rand(3, 20, 20) * 0.1 + 0.4, torch.from_numpy(LUMINANCE).float()[:, None, None]
    turned = EFFECTS["hue"](image, NONE, np.random.default_rng(1))
    torch.testing.assert_close((turned * weights).sum(0), (image * weights).sum(0), atol=2e-3, rtol=0)


def test_a_tone_curve_keeps_the_order_of_gray_levels() -> None:
    levels = torch.linspace(0, 1, 200)[None, None]
    for seed in range(10):
        curved = EFFECTS["tone_curve"](levels, NONE, np.random.default_rng(seed))[0, 0]
        assert bool((curved.diff() >= 0).all()) and float(curved[0]) == 0 and float(curved[-1]) > 0.99


def test_a_narrow_window_reaches_from_black_to_white() -> None:
    levels = torch.linspace(0, 1, 200)[None, None]
    for seed in range(10):
        curved = EFFECTS["narrow_window"](levels, NONE, np.random.default_rng(seed))[0, 0]
        assert bool((curved.diff() >= 0).all()) and float(curved.diff().max()) > 0.005
        assert ((curved > 0) & (curved < 1)).float().mean() < 1


def test_colors_of_flow_are_spots_on_gray() -> None:
    gray = torch.rand(1, 60, 80) * 0.8 + 0.1
    for seed in range(5):
        colored = EFFECTS["doppler"](gray, NONE, np.random.default_rng(seed))
        changed = (colored != gray).any(dim=0)
        assert 0 < float(changed.float().mean()) < 0.4
        assert bool((colored[:, changed].amax(0) > colored[:, changed].amin(0)).all())


def test_a_composite_shows_three_contrasts_of_one_image() -> None:
    gray = torch.rand(1, 30, 30)
    red, green, blue = EFFECTS["false_color"](gray, NONE, np.random.default_rng(0))
    assert not torch.allclose(red, green, atol=0.02) and not torch.allclose(green, blue, atol=0.02)


def test_a_tint_scales_the_channels() -> None:
    tinted = EFFECTS["tint"](torch.full((1, 4, 4), 0.8), NONE, np.random.default_rng(0))
    assert all(0.6 - 1e-6 <= float(plane.min()) == float(plane.max()) <= 0.8 for plane in tinted)
    assert float(tinted.amax() - tinted.amin()) > 0.01


def test_a_photograph_of_a_screen_has_no_black_and_a_glare_or_waves() -> None:
    flat = [
        EFFECTS["screen_photo"](torch.full((1, 40, 40), 0.5), NONE, np.random.default_rng(seed)) for seed in range(9)
    ]
    assert all(float(photo.std()) > 0.002 for photo in flat)
    photos = [EFFECTS["screen_photo"](torch.zeros(1, 40, 40), NONE, np.random.default_rng(seed)) for seed in range(9)]
    assert (
        sum(float(photo.min()) > 0.01 for photo in photos) > 5 and max(float(photo.max()) for photo in photos) > 0.25
    )


def test_a_bar_shows_all_gray_levels_at_a_side() -> None:
    for seed in range(6):
        bar = EFFECTS["gray_bar"](torch.full((1, 100, 200), 0.5), NONE, np.random.default_rng(seed))[0]
        rows, columns = torch.nonzero(bar != 0.5, as_tuple=True)
        assert 18 <= int(rows.max() - rows.min()) <= 41 and int(columns.max() - columns.min()) < 8
        assert float(bar.max()) == 1 and float(bar.min()) == 0 and not 8 < int(columns[0]) < 180


def test_inverted_tissue_turns_the_order_and_leaves_air_dark() -> None:
    levels = torch.tensor([[[0.0, 0.3, 0.6, 0.9]]])
    for seed in range(10):
        air, *tissue = EFFECTS["inverted_tissue"](levels, NONE, np.random.default_rng(seed))[0, 0].tolist()
        assert air == 0 and tissue == sorted(tissue, reverse=True)


def test_black_stays_black_at_another_dynamic_range() -> None:
    for seed in range(20):
        assert not EFFECTS["dynamic_range"](torch.zeros(1, 8, 8), NONE, np.random.default_rng(seed)).any()


def test_soft_and_sharp_images() -> None:
    board = torch.tensor([[0.3, 0.7] * 16, [0.7, 0.3] * 16] * 16)[None]
    edge = torch.cat([torch.full((1, 20, 10), 0.3), torch.full((1, 20, 10), 0.7)], dim=2)
    rng = np.random.default_rng(0)
    assert float(EFFECTS["soften"](board, NONE, rng)[0, 1:-1, 1:-1].std()) < 0.02
    sharp = EFFECTS["sharpen"](edge, NONE, rng)
    assert float(sharp.max()) > 0.75 and float(sharp.min()) < 0.25 and float(sharp[0, 10, 2]) == pytest.approx(0.3)


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_field_hides_no_object(name: str) -> None:
    size, hidden = 120, 0
    y, x = np.mgrid[:size, :size] / size + 0.5 / size
    for seed in range(30):
        image = EFFECTS[name](torch.full((1, size, size), 0.5), BOXES, np.random.default_rng(seed))[0].numpy()
        hidden += int((image != 0.5).any())
        for left, top, right, bottom in BOXES:
            across, down = (2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top)
            np.testing.assert_allclose(image[across**2 + down**2 < 0.9], 0.5, atol=0.15)
    assert hidden > 15


def test_without_room_for_all_objects_there_is_no_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "ENLARGED", (1.0, 1.1))
    corners = np.array([[0.0, 0.0, 0.05, 0.05], [0.95, 0.95, 1.0, 1.0]], dtype=np.float32)
    image = torch.rand(1, 40, 40)
    for seed in range(10):
        assert torch.equal(EFFECTS["round_field"](image, corners, np.random.default_rng(seed)), image)


@pytest.mark.parametrize("paint", [artifacts.burnt_in_text, artifacts.color_chart, artifacts.gray_bar])
def test_text_and_stickers_hide_no_object(paint: effects.Effect, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_ruler", "_calipers", "_arrow"):  # thin lines, which may cross an object
        monkeypatch.setattr(artifacts, name, lambda *arguments: None)
    places: list[tuple[int, int]] = []
    for seed in range(40):
        changed = paint(torch.zeros(1, 100, 100), BOXES, np.random.default_rng(seed))[0] > 0.05
        places += [tuple(place) for place in torch.nonzero(changed).tolist()]
        for left, top, right, bottom in (BOXES * 100).astype(int).tolist():
            assert float(changed[top:bottom, left:right].float().mean()) <= 4 * artifacts.COVERED
    assert len(places) > 400 and max(np.ptp(places, axis=0)) > 90, "all over the image"


def test_effects_are_drawn_by_their_weights_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    for name in ("hair", "gray", "jpeg"):
        monkeypatch.setitem(EFFECTS, name, lambda image, boxes, rng, name=name: seen.append(name) or image)  # type: ignore[index]
    image, rng = torch.rand(1, 8, 8), np.random.default_rng(0)
    drawn = (("jpeg", 1.0), ("hair", 1.0), ("gray", 0.0))
    draw_effects(image, NONE, drawn, (2, 2), rng)
    assert seen == ["hair", "jpeg"]
    assert torch.equal(draw_effects(image, NONE, drawn, (0, 0), rng), image) and len(seen) == 2
    seen.clear()
    for _ in range(60):
        draw_effects(image, NONE, (("jpeg", 3.0), ("gray", 1.0)), (1, 1), rng)
    assert len(seen) == 60 and 35 <= seen.count("jpeg") <= 55


def test_every_modality_has_effects() -> None:
    table = SourceSettingsTable.load()
    for modality in ("ct", "mri", "xray", "ultrasound", "dermoscopy", "endoscopy", "fundus"):
        names = dict(table.of(modality, "a clinic", ["polyp"]).effects)
        assert len(names) >= 6 and set(names) <= set(EFFECTS)
