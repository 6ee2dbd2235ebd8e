# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The page in a browser: `make test-browser`, or `pytest -m browser`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


pytest.importorskip("gradio")
pytest.importorskip("playwright")

from modeling_medglip.grounding import load_grounder
from modeling_medglip.outputs.results import read_boxes, validate_boxes
from space_experts import Experts
from space_settings import MEGABYTE, Settings
from tests.spaces_demo.browser import CHROMIUM, PHONE, Visit, browser, visit
from tests.spaces_demo.serving import Served, served, volume, xray


pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Debian's Chromium at {CHROMIUM}"),
]
CHEST = "right lung. left lung. cardiomediastinum. airways."
SETTINGS = Settings(upload_bytes=4 * MEGABYTE)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(Experts((load_grounder(),), SETTINGS), SETTINGS, tmp_path_factory.mktemp("space")) as running:
        yield running


@pytest.fixture(scope="module")
def started() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture
def open_page(started: Any, space: Served) -> Iterator[Visit]:
    """A page that has asked nobody but its server and had no error when the test ends."""
    opened = visit(started, space.address)
    yield opened
    assert opened.foreign == [] and opened.troubles == []
    opened.page.context.close()


class TestImages:
    def test_upload_threshold_and_download(self, open_page: Visit, tmp_path: Path) -> None:
        page = open_page.page
        open_page.upload(xray(tmp_path))
        assert page.inner_text(".mg-modality").startswith("X-ray") and "% sure" in page.inner_text(".mg-modality")
        open_page.ask(CHEST)
        many = open_page.shown()
        assert many >= 3 and page.locator(".mg-row:visible").count() == many
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        open_page.threshold(0.995)
        few = open_page.shown()
        assert 0 < few < many and page.locator(".mg-row:visible").count() == few
        assert page.is_visible(".mg-missing [data-label=cardiomediastinum]")
        open_page.threshold(0.3)
        assert open_page.shown() == many
        page.wait_for_timeout(1500)  # the file follows
        with page.expect_download() as download:
            page.click("#mg-download")
        saved = tmp_path / download.value.suggested_filename
        download.value.save_as(saved)
        content = json.loads(saved.read_text())
        validate_boxes(content)
        assert saved.name == "xray.boxes.json" and content["schema"] == "medglip/boxes@1"
        assert len(read_boxes(saved).boxes) == many and content["prompt"] == CHEST

    def test_threshold_needs_no_answer_of_the_server(self, open_page: Visit) -> None:
        open_page.example("xray_chest")
        many = open_page.shown()
        open_page.page.context.set_offline(True)
        open_page.threshold(0.975)
        assert 0 < open_page.shown() < many
        open_page.page.context.set_offline(False)

    def test_labels_are_picked_from_the_tree(self, open_page: Visit) -> None:
        page = open_page.page
        page.click("#mg-labels button >> nth=0")
        page.fill(".mg-search", "spleen")
        page.click(".mg-pick[data-label=spleen]")
        page.fill(".mg-search", "left kidney")
        page.click(".mg-pick[data-label='left kidney']")
        prompt = page.locator("#mg-prompt textarea")
        assert prompt.input_value() == "spleen. left kidney."
        page.click(".mg-pick[data-label='left kidney']")
        assert prompt.input_value() == "spleen."
        assert page.get_attribute(".mg-pick[data-label=spleen]", "aria-pressed") == "true"
        page.click(".mg-all:has-text('Fundus')")
        assert prompt.input_value() == "optic cup. optic disc. retinal vessel."
        assert "ct" in str(page.get_attribute(".mg-pick[data-label=spleen]", "data-trained"))

    def test_two_experts(self, open_page: Visit) -> None:
        page = open_page.page
        open_page.example("xray_chest")
        page.click("#mg-second input")
        page.click("[role=option]:has-text('CT expert')")
        page.click("#mg-find")
        page.wait_for_selector(".mg-double", timeout=60_000)
        boxes = [page.locator(".mg-double .mg-stage").nth(place).bounding_box() for place in (0, 1)]
        assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]

    def test_frames_are_where_the_file_says(self, open_page: Visit, tmp_path: Path) -> None:
        open_page.example("xray_chest")
        stage = open_page.page.locator(".mg-stage").bounding_box()
        frame = open_page.page.locator(".mg-box[data-number='0']").bounding_box()
        row = open_page.page.inner_text(".mg-row[data-number='0']").split("\t")
        x, y = (float(value) for value in row[2].split(", "))
        scale = stage["width"] / 512
        assert abs(frame["x"] - stage["x"] - x * scale) < 2 and abs(frame["y"] - stage["y"] - y * scale) < 2

    def test_hostile_labels_are_words(self, open_page: Visit) -> None:
        label = "<img src=x onerror=alert(1)> ${alert(2)} {{x}} </script>"
        open_page.example("xray_chest")
        open_page.ask(label)
        open_page.threshold(0.05)
        page = open_page.page
        assert label in page.inner_text("#mg-result")
        assert page.locator("#mg-result img").count() == 1


class TestVolumes:
    def test_slider_moves_through_the_slices(self, open_page: Visit, tmp_path: Path) -> None:
        page = open_page.page
        open_page.upload(volume(tmp_path))
        assert "axial slice 7 of 12" in page.inner_text("#mg-status")
        before = page.get_attribute(".mg-stage img", "src")
        page.fill("#mg-slice input[type=number]", "2")
        page.keyboard.press("Enter")
        page.wait_for_selector("#mg-status :text('axial slice 2 of 12')")
        assert page.get_attribute(".mg-stage img", "src") != before
        page.click("#mg-slices label:has-text('sagittal')")
        page.wait_for_selector("#mg-status :text('of 40')")

    def test_boxes_in_space(self, open_page: Visit) -> None:
        page = open_page.page
        open_page.example("mri_volume")
        page.click("#mg-find-all")
        page.wait_for_selector(".mg-space canvas", timeout=180_000)
        page.wait_for_timeout(500)
        canvas = page.locator(".mg-space canvas")
        count = int(canvas.get_attribute("data-boxes"))
        assert count == page.locator(".mg-row:visible").count() > 0
        seen = canvas.screenshot()
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 100, box["y"] + 100)
        page.mouse.down()
        page.mouse.move(box["x"] + 180, box["y"] + 120)
        page.mouse.up()
        assert canvas.screenshot() != seen
        page.locator(".mg-row:visible").first.click()
        page.wait_for_selector("#mg-slices")
        page.wait_for_timeout(1500)
        assert open_page.shown() > 0
        open_page.threshold(0.99)
        assert int(canvas.get_attribute("data-boxes")) == 0


class TestTrouble:
    def test_bad_upload_is_reported(self, open_page: Visit, tmp_path: Path) -> None:
        file = tmp_path / "notes.png"
        file.write_text("not an image")
        open_page.upload(file)
        message = open_page.page.inner_text("#mg-status")
        assert "notes.png: is not an image of a known format: give a PNG, JPEG, TIFF or DICOM file" in message
        assert "Traceback" not in open_page.page.content() and str(tmp_path) not in message

    def test_too_large_upload_is_reported(self, open_page: Visit, tmp_path: Path) -> None:
        file = tmp_path / "large.png"
        file.write_bytes(b"x" * (6 * MEGABYTE))
        open_page.page.set_input_files("#mg-upload input[type=file]", str(file))
        open_page.page.wait_for_selector(":text('maximum allowed size'), :text('too large')", timeout=30_000)

    def test_nothing_asked(self, open_page: Visit, tmp_path: Path) -> None:
        open_page.upload(xray(tmp_path))
        open_page.page.click("#mg-find")
        open_page.page.wait_for_selector("#mg-status :text('the prompt is empty')")


class TestPhone:
    def test_nothing_is_wider_than_the_page(self, started: Any, space: Served, tmp_path: Path) -> None:
        opened = visit(started, space.address, PHONE, is_mobile=True, has_touch=True, device_scale_factor=2)
        opened.example("ct_abdomen")
        opened.page.wait_for_timeout(1500)
        width, inner = opened.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert width == inner == PHONE[0]
        bottom = opened.page.locator(".mg-stage").bounding_box()
        assert 0 <= bottom["y"] < PHONE[1]  # the page has scrolled to the answer
        notice = opened.page.locator(".mg-notice").bounding_box()
        assert notice["y"] == 0 and "not a medical device" in opened.page.inner_text(".mg-notice")
        assert opened.foreign == [] and opened.troubles == []
