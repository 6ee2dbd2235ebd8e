# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The served Space, asked by programs: answers, bad input, limits, and what is left behind."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest


pytest.importorskip("gradio_client")
pytest.importorskip("gradio")

from gradio_client import Client, handle_file

import space_limits
from modeling_medglip import load_taxonomy
from modeling_medglip.demo.cases import package_file
from modeling_medglip.grounding import ground_image
from modeling_medglip.io.image import read_image
from modeling_medglip.outputs.results import validate_boxes
from modeling_medglip.volume_grounding import ground_volume
from space_experts import Experts
from space_settings import MEGABYTE, Settings
from tests.spaces_demo.serving import Served, served, tiny_experts, volume, xray


SETTINGS = Settings(upload_bytes=2 * MEGABYTE, labels=20, slices=64, sweep_seconds=1, keep_seconds=6, examples=False)
ADDRESS = {"meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The tiny checkpoint, served with small limits; a file lives for six seconds."""
    folder = tmp_path_factory.mktemp("space")
    with served(tiny_experts(folder), SETTINGS, folder) as running:
        yield running


@pytest.fixture(scope="module")
def client(space: Served) -> Client:
    return Client(space.address, verbose=False, httpx_kwargs={"timeout": 60})


def refusal(client: Client, file: Path, prompt: str = "optic disc.", endpoint: str = "/ground", **more: Any) -> str:
    """Return the error message that a program gets."""
    with pytest.raises(Exception, match=".") as caught:
        client.predict(file=handle_file(file), prompt=prompt, api_name=endpoint, **more)
    return str(caught.value)


class TestAnswers:
    def test_image(self, client: Client, space: Served, tmp_path: Path) -> None:
        """The same boxes as the package's, with what the modality rests on."""
        file = xray(tmp_path)
        answer = client.predict(file=handle_file(file), prompt="optic disc. cup", threshold=0.4, api_name="/ground")
        expected = ground_image(read_image(file), "optic disc. cup", model=space.experts.main, threshold=0.4).to_dict()
        assert expected["boxes"] and {key: answer[key] for key in expected} == expected
        assert answer["modality_source"] == "pixels" and answer["modality_probability"] > 0.9
        validate_boxes(answer)

    def test_names_of_the_parameters(self, client: Client) -> None:
        endpoints = client.view_api(return_format="dict")["named_endpoints"]
        names = {name: [entry["parameter_name"] for entry in found["parameters"]] for name, found in endpoints.items()}
        shared = ["threshold", "plane"]
        assert names == {
            "/ground": ["file", "prompt", "modality", *shared, "slice_number"],
            "/compare": ["file", "prompt", "modality", "second", *shared, "slice_number"],
            "/ground_volume": ["file", "prompt", "modality", *shared],
            "/labels": [],
        }

    def test_stated_modality(self, client: Client, tmp_path: Path) -> None:
        answer = client.predict(file=handle_file(xray(tmp_path)), prompt="liver", modality="CT", api_name="/ground")
        assert (answer["image"]["modality"], answer["modality_source"]) == ("ct", "given")
        assert answer["modality_probability"] is None

    def test_dicom_takes_the_modality_of_its_header(self, client: Client) -> None:
        file = package_file("pydicom", "data", "test_files", "CT_small.dcm")
        answer = client.predict(file=handle_file(file), prompt="aorta", api_name="/ground")
        assert (answer["image"]["modality"], answer["modality_source"]) == ("ct", "header")
        assert answer["image"]["file"] == "CT_small.dcm"
        assert "CompressedSamples" not in json.dumps(answer)  # the patient's name in the header

    def test_two_experts(self, client: Client, tmp_path: Path) -> None:
        first, second = client.predict(
            file=handle_file(xray(tmp_path)), prompt="liver", modality="fundus", second="ct", api_name="/compare"
        )
        assert (first["image"]["modality"], second["image"]["modality"]) == ("fundus", "ct")
        assert first["boxes"] != second["boxes"]

    def test_volume(self, client: Client, space: Served, tmp_path: Path) -> None:
        file = volume(tmp_path)
        answer = client.predict(
            file=handle_file(file), prompt="liver", modality="ct", threshold=0.2, api_name="/ground_volume"
        )
        found = ground_volume(file, "liver", "ct", space.experts.main, threshold=0.15)
        kept_boxes = [box for box in found.boxes if box.score >= 0.2]
        assert kept_boxes and len(answer["boxes"]) == len(kept_boxes)
        assert np.allclose(answer["boxes"][0]["corners_lps_mm"], kept_boxes[0].corners_lps_mm, atol=1e-3)
        assert answer["plane"] == "axial" and answer["image"]["depth"] == 12

    def test_slice_of_a_volume(self, client: Client, tmp_path: Path) -> None:
        asked: dict[str, Any] = {"file": handle_file(volume(tmp_path)), "prompt": "liver", "modality": "ct"}
        axial = client.predict(**asked, api_name="/ground")
        coronal = client.predict(**asked, plane="coronal", slice_number=3, api_name="/ground")
        assert (axial["image"]["width"], axial["image"]["height"]) == (40, 36)
        assert (coronal["image"]["width"], coronal["image"]["height"]) == (40, 12)
        assert coronal["image"]["spacing_mm"] == [2.0, 5.0]

    def test_labels(self, client: Client) -> None:
        rows = client.predict(api_name="/labels")
        assert {row["label_id"] for row in rows} >= set(load_taxonomy().labels)
        assert [row["label"] for row in rows if row["trained"] == ["fundus"]] == ["optic disc"]


class TestBadInput:
    def test_text_that_is_called_png(self, client: Client, tmp_path: Path) -> None:
        (tmp_path / "notes.png").write_text("not an image at all")
        assert refusal(client, tmp_path / "notes.png").endswith("give a PNG, JPEG, TIFF or DICOM file")

    def test_half_a_png(self, client: Client, tmp_path: Path) -> None:
        whole = xray(tmp_path).read_bytes()
        (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
        assert "half.png: is a damaged PNG file" in refusal(client, tmp_path / "half.png")

    def test_dicom_without_pixels(self, client: Client) -> None:
        message = refusal(client, package_file("pydicom", "data", "test_files", "rtplan.dcm"))
        assert "rtplan.dcm: " in message and "Traceback" not in message

    def test_nifti_with_four_axes(self, client: Client, tmp_path: Path) -> None:
        file = volume(tmp_path, "many.nii.gz", (8, 8, 4, 3))
        for endpoint in ("/ground", "/ground_volume"):
            assert "many.nii.gz: has 4 axes" in refusal(client, file, endpoint=endpoint)

    def test_too_many_slices(self, client: Client, tmp_path: Path) -> None:
        file = volume(tmp_path, "long.nii.gz", (8, 8, 65))
        message = refusal(client, file, endpoint="/ground_volume", plane="axial")
        assert "has 65 slices, more than 64" in message

    def test_image_where_a_volume_is_asked_for(self, client: Client, tmp_path: Path) -> None:
        assert "is not a volume" in refusal(client, xray(tmp_path), endpoint="/ground_volume")

    @pytest.mark.parametrize(
        ("prompt", "reason"),
        [(" . ", "the prompt is empty"), (". ".join(f"label {n}" for n in range(21)), "21 labels, more than 20")],
    )
    def test_prompts(self, client: Client, tmp_path: Path, prompt: str, reason: str) -> None:
        assert reason in refusal(client, xray(tmp_path), prompt)

    @pytest.mark.parametrize(
        ("more", "reason"),
        [
            ({"modality": "<b>x</b>"}, "unknown modality"),
            ({"endpoint": "/compare", "second": "9:ct"}, "choose one of the list"),
            ({"endpoint": "/compare", "second": ""}, "name the second expert"),
            ({"endpoint": "/compare", "second": "mri"}, "no expert for mri"),
        ],
    )
    def test_choices(self, client: Client, tmp_path: Path, more: dict[str, Any], reason: str) -> None:
        assert reason in refusal(client, xray(tmp_path), **more)

    def test_unknown_plane(self, client: Client, tmp_path: Path) -> None:
        assert "plane 'up': choose one of" in refusal(client, volume(tmp_path), plane="up")

    def test_hostile_labels_come_back_as_they_are(self, client: Client, tmp_path: Path) -> None:
        label = "<img src=x onerror=alert(1)> [x](javascript:alert)"
        answer = client.predict(file=handle_file(xray(tmp_path)), prompt=label, threshold=0.1, api_name="/ground")
        assert set(answer["trained"]) == {label} and {box["label"] for box in answer["boxes"]} <= {label}

    @pytest.mark.parametrize("name", ["../../../outside.png", "..\\\\outside.png", "<img src=x>.png", "a/b/c.png"])
    def test_file_names_do_not_leave_the_folder(self, space: Served, tmp_path: Path, name: str) -> None:
        before = set(tmp_path.parent.rglob("*outside*"))
        status, answer = space.upload(name, xray(tmp_path).read_bytes())
        assert status == 200
        (stored,) = (Path(path).resolve() for path in json.loads(answer))
        assert stored.is_relative_to(space.cache.resolve()) and "<" not in stored.name
        assert set(tmp_path.parent.rglob("*outside*")) - before <= {stored}


class TestLimits:
    def test_upload_that_says_it_is_too_large_is_refused_unread(self, space: Served) -> None:
        """Two gigabytes are announced; not a byte of them is sent, or waited for."""
        start = time.monotonic()
        kind = {"Content-Type": "multipart/form-data; boundary=frontier", "Content-Length": str(2**31)}
        status, answer = space.request("POST", "/gradio_api/upload", b"", kind)
        assert (status, answer) == (413, b"The file is too large: at most 2 MB can be uploaded.")
        assert time.monotonic() - start < 5

    def test_upload_that_is_too_large_after_all(self, space: Served) -> None:
        """Slightly over the limit, so that only reading tells."""
        status, answer = space.upload("large.png", b"x" * (2 * MEGABYTE + 10_000))
        assert status == 413 and "maximum allowed size" in answer

    def test_volume_with_too_many_voxels(self, tmp_path: Path) -> None:
        from space_sources import Source

        with pytest.raises(ValueError, match=r"ct.nii.gz: has \(40, 36, 12\) voxels, more than 100"):
            Source(volume(tmp_path)).volume(Settings(voxels=100))

    def test_full_queue_turns_requests_away(self, tmp_path: Path, space: Served) -> None:
        gate = threading.Event()

        class Waiting(Experts):
            def find(self, *args: Any) -> Any:
                assert gate.wait(60)
                return super().find(*args)

        settings = Settings(waiting=1, at_once=1, examples=False)
        file = handle_file(xray(tmp_path))
        with served(Waiting(space.experts.grounders, settings), settings, tmp_path / "full") as small:
            client = Client(small.address, verbose=False, httpx_kwargs={"timeout": 60})
            jobs = [client.submit(file=file, prompt="disc", api_name="/ground") for _ in range(5)]
            deadline = time.monotonic() + 30
            while not any(job.done() for job in jobs) and time.monotonic() < deadline:
                time.sleep(0.05)
            gate.set()
            reasons = [str(job.exception(timeout=60) or "") for job in jobs]
        failed = [reason for reason in reasons if reason]
        assert 0 < len(failed) < 5 and all("queue" in reason.lower() for reason in failed)


class TestSecrets:
    @pytest.mark.parametrize(
        "path",
        [
            "/gradio_api/file=/etc/passwd",
            "/gradio_api/file=../../../../etc/passwd",
            "/gradio_api/file=%2e%2e/%2e%2e/etc/passwd",
            f"/gradio_api/file={Path(__file__).resolve()}",
        ],
    )
    def test_files_of_the_server_are_not_served(self, space: Served, path: str) -> None:
        status, body = space.request("GET", path)
        assert status in (403, 404) and b"root:" not in body

    @pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", str(Path(__file__).resolve())])
    def test_a_path_is_not_an_upload(self, space: Served, path: str) -> None:
        events = space.call("ground", [{"path": path, **ADDRESS}, "liver", "ct", 0.3, "", 0])
        assert "event: error" in events and "boxes" not in events

    def test_addresses_are_not_fetched(self, space: Served) -> None:
        own = f"{space.address}/config"
        events = space.call("ground", [{"path": own, "url": own, **ADDRESS}, "liver", "ct", 0.3, "", 0])
        assert "event: error" in events and "complete" not in events

    def test_page_may_load_from_its_own_server_only(self, space: Served) -> None:
        import urllib.request

        with urllib.request.urlopen(space.address, timeout=60) as answer:
            policy = answer.headers["Content-Security-Policy"]
            page = answer.read().decode("utf-8")
        assert "default-src 'self'" in policy and "http" not in policy
        assert "not a medical device" in page

    def test_events_of_the_page_are_not_endpoints(self, space: Served) -> None:
        status, body = space.request("GET", "/gradio_api/info")
        assert status == 200 and set(json.loads(body)["named_endpoints"]) == {
            "/ground", "/compare", "/ground_volume", "/labels",
        }  # fmt: skip

    def test_nothing_is_left_after_a_request(
        self, client: Client, space: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = set(Path(tempfile.gettempdir()).glob("medglip-*"))
        client.predict(file=handle_file(xray(tmp_path, "private.png")), prompt="disc", api_name="/ground")
        private = handle_file(volume(tmp_path, "private.nii.gz"))
        client.predict(file=private, prompt="disc", modality="ct", api_name="/ground_volume")
        assert [path for path in space.files() if "private" in path.name]
        later = SimpleNamespace(time=lambda: time.time() + SETTINGS.keep_seconds, monotonic=time.monotonic)
        monkeypatch.setattr(space_limits, "time", later)
        deadline = time.monotonic() + 30
        while space.files() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert space.files() == []
        assert set(Path(tempfile.gettempdir()).glob("medglip-*")) <= before
