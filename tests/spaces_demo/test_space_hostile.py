# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Hostile visitors of the served Space: requests that are turned away, and a thousand hostile uploads."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image


pytest.importorskip("gradio")
pytest.importorskip("pydicom")

import app as space_app
import space_limits
from modeling_medglip.errors import MedGlipError
from modeling_medglip.io.image import read_image
from modeling_medglip.outputs.volume_results import VolumeResult
from space_experts import Experts
from space_limits import Unread
from space_readers import READERS
from space_settings import MEGABYTE, Settings, from_environment
from tests.modeling_medglip.dicom_files import write_series
from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint
from tests.spaces_demo.serving import Served, served, tiny_experts, volume, xray


SPACE = Path(space_app.__file__).parent
SETTINGS = Settings(
    upload_bytes=MEGABYTE, cache_bytes=50 * MEGABYTE, examples=False, hosts=("space.example",), body_seconds=2
)
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("space")
    with served(tiny_experts(folder), SETTINGS, folder) as running:
        yield running


def asked(space: Served, name: str, content: bytes, modality: str = "fundus") -> str:
    """The events of `/ground` for an upload, or why it was refused."""
    status, answer = space.upload(name, content)
    if status != 200:
        return f"refused {status}: {answer}"
    file = {"path": json.loads(answer)[0], "meta": {"_type": "gradio.FileData"}}
    return space.call("ground", [file, "optic disc", modality, 0.1, "", 0])


class TestRequests:
    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("evil.example", 421), ("localhost.evil.example:7860", 421), ("192.0.2.7", 421), ("", 421),
            ("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:7860", 200), ("space.example", 200),
            ("SPACE.example:443", 200),
        ],
    )  # fmt: skip
    def test_host(self, space: Served, host: str, status: int) -> None:
        found, body = space.request("GET", "/config", headers={"Host": host})
        assert found == status and (status == 200 or b"another name" in body)

    def test_hosts_of_the_environment(self) -> None:
        settings = from_environment({"SPACE_HOST": "me-space.hf.space", "MEDGLIP_HOSTS": "a.example, b.example"})
        assert settings.hosts == ("me-space.hf.space", "a.example", "b.example")

    @pytest.mark.parametrize(
        "path",
        [
            "/gradio_api/file=http://a.example/x", "/gradio_api/file=HTTPS://a.example/x",
            "/gradio_api/file=ftp://a.example/x", "/gradio_api/file=//a.example/x",
            "/gradio_api/file=%68ttp%3A%2F%2Fa.example/x", "/gradio_api/file=\\\\a.example\\x",
            "/gradio_api/proxy=http://a.example/x", "/gradio_api/proxy=https://a.hf.space/x",
            "/gradio_api/file/http://a.example/x", "/gradio_api/FILE/%68ttps:%2f/a.example/x",
            "/gradio_api/file=%0Ahttp://a.example/x",
        ],
    )  # fmt: skip
    def test_no_name_is_looked_up(self, space: Served, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        names: list[Any] = []
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: names.append(host))
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(space.address).port, timeout=60)
        connection.sock = socket.socket()
        connection.sock.connect(("127.0.0.1", urlsplit(space.address).port))
        connection.request("GET", path)
        assert connection.getresponse().status == 403 and names == []
        connection.close()

    @pytest.mark.parametrize(
        "path",
        [
            "process_recording", "run-history/connect", "run-history/buckets", "runs", "deep_link", "vibe-code",
            "dev/reload", "profiling/summary", "stream/1/2/3/playlist.m3u8", "component_server",
        ],
    )  # fmt: skip
    def test_what_the_page_does_not_need_is_not_there(self, space: Served, path: str) -> None:
        """Gradio gives recordings of strangers to FFmpeg, and acts on the Hub."""
        for method in ("GET", "POST"):
            status, body = space.request(method, f"/gradio_api/{path}")
            assert status == 403 and b"page, endpoints and uploads only" in body

    def test_uploads_do_not_fill_the_disk(self, space: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(space_limits, "folder_bytes", lambda _: 49 * MEGABYTE)
        assert space.upload("small.png", b"x")[0] == 200
        assert space.upload("large.png", bytes(MEGABYTE))[0] == 507
        head = {"Content-Type": "multipart/form-data; boundary=x", "Transfer-Encoding": "chunked"}
        status, answer = space.request("POST", "/gradio_api/upload", b"0\r\n\r\n", head)
        assert status == 507 and b"no room for another upload" in answer

    def test_answers_that_nobody_fetches(self, space: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(space_limits, "MAX_UNREAD", 10)
        for number in range(30):
            name = "same" if number % 2 else f"session {number}"
            body = json.dumps({"data": [], "session_hash": name}).encode()
            assert space.request("POST", "/gradio_api/call/labels", body, JSON)[0] == 200
        assert "event: complete" in space.call("labels", [])
        assert len(Unread.waiting) <= 10 >= sum(queue.qsize() for queue in set(Unread.waiting))

    @pytest.mark.parametrize("path", ["queue/join", "call/labels"])
    def test_name_of_a_session(self, space: Served, path: str) -> None:
        body = json.dumps({"data": [], "fn_index": 0, "session_hash": "x" * 1000}).encode()
        status, answer = space.request("POST", f"/gradio_api/{path}", body, JSON)
        assert status == 400 and b"longer than 100 characters" in answer

    @pytest.mark.parametrize("position", [0, 1, 4])
    def test_no_component_fetches_an_address(
        self, space: Served, position: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Gradio fetches a file for any component, for text too."""
        names: list[Any] = []
        monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", lambda *a: names.append(a))
        data: list[Any] = [None, "liver", "ct", 0.3, "", 0]
        data[position] = {"path": "http://a.example/x.png", "meta": {"_type": "gradio.FileData"}}
        events = space.call("ground", data)
        assert "event: error" in events and "addresses are not fetched" in events and names == []

    @pytest.mark.parametrize("path", ["queue/join", "run/ground", "call/ground", "run/predict"])
    @pytest.mark.parametrize("chunked", [True, False])
    def test_large_json(self, space: Served, path: str, chunked: bool) -> None:
        pieces = [b'{"data": ["', b"x" * MEGABYTE, b"x" * 1000, b'"]}']
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(space.address).port, timeout=60)
        try:
            body: Any = iter(pieces) if chunked else b"".join(pieces)
            connection.request("POST", f"/gradio_api/{path}", body, JSON, encode_chunked=chunked)
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (413, b"The request is too large: at most 1024 kB.")
        except (BrokenPipeError, ConnectionResetError):  # refused before all of it was sent
            pass
        finally:
            connection.close()

    def test_body_that_does_not_come(self, space: Served) -> None:
        with socket.create_connection(("127.0.0.1", int(urlsplit(space.address).port or 0)), timeout=60) as line:
            line.sendall(b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            answer = b"".join(iter(lambda: line.recv(2**16), b""))
        assert b" 408 " in answer and b"took longer than 2 s to arrive" in answer


class TestUploads:
    @pytest.mark.parametrize(
        ("parts", "status", "reason"),
        [
            ('name="files"\r\n\r\nno file', 400, "The upload holds no file"),
            ('name="files"; filename="..."\r\n\r\nx', 200, "["),
            ('name="files"; filename="/"\r\n\r\nx', 200, "["),
            ('name="files"; filename=".."\r\n\r\nx', 400, "Invalid file name"),
            ('name="files"; filename="***"\r\n\r\nx', 200, "["),
            ('name="note"\r\n\r\n' + "x" * 70_000, 400, "A field of the upload is longer than"),
            ('name="files"; filename=""\r\n\r\nx', 200, "["),
        ],
    )
    def test_parts(self, space: Served, parts: str, status: int, reason: str) -> None:
        body = f"--frontier\r\nContent-Disposition: form-data; {parts}\r\n--frontier--\r\n".encode()
        kind = {"Content-Type": "multipart/form-data; boundary=frontier"}
        found, answer = space.request("POST", "/gradio_api/upload", body, kind)
        assert found == status and reason in answer.decode()
        assert status != 200 or all(Path(path).is_file() for path in json.loads(answer))

    @pytest.mark.parametrize("kind", ['name="files"; filename="a.png"', 'name="note"'])
    def test_many_parts(self, space: Served, kind: str) -> None:
        body = f"--f\r\nContent-Disposition: form-data; {kind}\r\n\r\nx\r\n".encode() * 9 + b"--f--\r\n"
        status, answer = space.request(
            "POST", "/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=f"}
        )
        assert status == 400 and b"Too many" in answer

    def test_long_name(self, space: Served, tmp_path: Path) -> None:
        assert "boxes" in asked(space, "x" * 4000 + ".png", xray(tmp_path).read_bytes())

    def test_empty_file(self, space: Served) -> None:
        assert "a.png: is empty" in asked(space, "a.png", b"")

    def test_header_that_points_elsewhere(self, space: Served) -> None:
        header = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: /etc/passwd\n\n"
        events = asked(space, "a.nhdr", header)
        assert "event: error" in events and "a.nhdr: " in events and "unexpected" not in events


class TestFailures:
    def test_decoder_that_crashes(self, space: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It costs the request, not the server."""
        content = xray(tmp_path).read_bytes()
        with monkeypatch.context() as patch:
            READERS.close()
            patch.setattr(
                "modeling_medglip.isolation.process.ReaderProcess.worker",
                "tests.modeling_medglip.isolation.hostile_worker",
            )
            assert "crash.png: its decoder crashed" in asked(space, "crash.png", content)
        READERS.close()
        assert "boxes" in asked(space, "good.png", content)

    def test_files_are_read_by_workers_only(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from space_sources import Source

        def here(*_: Any) -> None:
            raise AssertionError("decoded in the server")

        file = xray(tmp_path)
        monkeypatch.setattr("modeling_medglip.io.image.decode_image", here)
        for name in ("read_image", "open_volume", "read_header"):
            monkeypatch.setattr(f"modeling_medglip.isolation.process.{name}", here)
        assert Source(file).read_image().width > 0
        source = Source(volume(tmp_path)).volume(Settings())
        assert source.read_slice("coronal", 3).shape == (12, 40)

    def test_file_that_was_never_uploaded(self, space: Served) -> None:
        file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
        events = space.call("ground", [file, "liver", "ct", 0.3, "", 0])
        assert "the file is not on the server: upload it again" in events

    @pytest.mark.parametrize("data", [[None] * 6, [{}, 1, [], "x", {}, "y"], ["x", "y", "z", 9, "", 0], []])
    def test_arguments_of_other_kinds(self, space: Served, data: list[Any]) -> None:
        status, answer = space.request("POST", "/gradio_api/call/ground", json.dumps({"data": data}).encode(), JSON)
        if status == 200:
            _, events = space.request("GET", f"/gradio_api/call/ground/{json.loads(answer)['event_id']}")
            assert b"event: error" in events and b"data: null" not in events
        else:
            assert status in (400, 422, 500) and answer not in (b"", b"Internal Server Error")

    def test_image_takes_too_long(self, space: Served, tmp_path: Path) -> None:
        experts = replace(space.experts, settings=replace(SETTINGS, seconds=0))
        with pytest.raises(MedGlipError, match="took longer than 0 s here: ask for fewer labels"):
            experts.find(read_image(xray(tmp_path)), "liver", "ct")

    def test_volume_takes_too_long(self, space: Served, tmp_path: Path) -> None:
        source = READERS.open_volume(volume(tmp_path))
        experts = replace(space.experts, settings=replace(SETTINGS, volume_seconds=-1))
        with pytest.raises(MedGlipError, match="took longer than"):
            experts.find_in_volume(source, "liver", "ct", None)

    def test_volume_of_one_slice(self, space: Served, tmp_path: Path) -> None:
        from space_handlers import _slider

        file = volume(tmp_path, "one.nii.gz", (40, 36, 1))
        assert "boxes" in asked(space, "one.nii.gz", file.read_bytes(), "ct")
        assert _slider(1, 0)["maximum"] == 2 and _slider(1, 0)["interactive"] is False
        assert _slider(5, 4)["maximum"] == 5 and _slider(5, 4)["value"] == 5
        result = Experts(space.experts.grounders, SETTINGS).find_in_volume(
            READERS.open_volume(file), "liver", "ct", "axial"
        )
        assert isinstance(result, VolumeResult) and result.slices == 1
        assert result.open_volume is None, "the state of a session holds no volume"


class TestFolders:
    def test_folders_of_killed_servers_are_deleted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        for name in ("medglip-space-killed", "medglip-space-running", "medglip-space-nolock", "other"):
            (tmp_path / name / "cache").mkdir(parents=True)
            if name != "medglip-space-nolock":
                (tmp_path / name / "lock").touch()
        (tmp_path / "medglip-space-link").symlink_to(tmp_path / "other")
        with (tmp_path / "medglip-space-running" / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with space_app.server_folder() as own:
                names = {path.name for path in tmp_path.iterdir()}
                assert names == {
                    "medglip-space-running",
                    "medglip-space-nolock",
                    "medglip-space-link",
                    "other",
                    own.name,
                }
        assert not own.exists()


# A thousand hostile uploads ------------------------------------------------------------------------------------------


def seeds(folder: Path) -> dict[str, bytes]:
    """name -> a valid file of every kind."""
    import SimpleITK

    xray(folder)
    write_series(folder / "series", count=1)
    volume(folder, "ct.nii.gz", (12, 10, 4))
    volume(folder, "ct.nii", (12, 10, 4))
    array = np.arange(12 * 10 * 4, dtype=np.int16).reshape(4, 10, 12)
    for name in ("ct.nrrd", "ct.mha"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(folder / name))
    deep = Image.fromarray((np.arange(64 * 48, dtype=np.uint16) * 20).reshape(48, 64))
    for name in ("deep.png", "deep.tif"):
        deep.save(folder / name)
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(folder / "color.jpg")
    files = [path for path in folder.iterdir() if path.is_file()]
    files += sorted((folder / "series").iterdir())[:1]
    return {path.name if path.suffix else f"{path.name}.dcm": path.read_bytes() for path in sorted(files)}


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A file with bytes changed, cut, doubled or left out, mostly in its header."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        position = rng.randrange(min(len(data), rng.choice([64, 400, 10**9])) or 1) if data else 0
        kind = rng.randrange(6)
        if kind == 0:
            data[position : position + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            data[position : position + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x80"])
        elif kind == 2:
            del data[position:]
        elif kind == 3:
            data[position:position] = data[position : position + rng.randint(1, 200)]
        elif kind == 4:
            del data[position : position + rng.randint(1, 50)]
        else:
            data[position:position] = rng.choice([b"9" * 40, b"-1", b"nan", b"\n" * 99, b"../../etc/passwd"])
    return bytes(data)


def hostile_uploads(folder: Path, count: int) -> Iterator[tuple[str, bytes]]:
    """(name, content), the same ones in every run."""
    rng, valid = random.Random(17), list(seeds(folder).items())
    fixed = [
        ("a.png", b""), ("notes.txt", b"text"), ("a.dcm", b"text"), ("a.nii.gz", b"\x1f\x8b" + b"x" * 99),
        ("x" * 5000 + ".png", b"x"), ("." * 300, b"x"), ("a.nrrd", b"NRRD0004\n" + b"#" * 200_000), ("", b"x"),
        ("a.nhdr", b"NRRD0004\ndata file: /etc/passwd\n\n"), ("\u202egnp.exe", b"x"),
        ("a.tif", b"II*\0" + b"\xff" * 99),
    ]  # fmt: skip
    for number in range(count):
        if number % 20 == 0:
            yield fixed[number // 20 % len(fixed)]
            continue
        name, content = valid[number % len(valid)]
        yield name, mutated(content, rng)


def memory_mb(pid: int) -> int:
    """Resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found.group(1)) // 1024


def test_bytes_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(bytes(1000))
    (tmp_path / "d").symlink_to("/dev/zero")
    assert 1000 <= space_limits.folder_bytes(tmp_path) - 2 * (tmp_path / "a").stat().st_size < 1100


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thousand_hostile_uploads(tmp_path: Path) -> None:
    """The same process serves on, with the same memory, and answers rightly in between."""
    settings = {"MEDGLIP_MODEL": str(save_tiny_checkpoint(tmp_path / "tiny")), "TMPDIR": str(tmp_path)}
    settings["PYTHONPATH"] = str(SPACE.parent)
    count = int(os.environ.get("HOSTILE_UPLOADS", "1000"))
    process = subprocess.Popen(
        [sys.executable, str(SPACE / "app.py")], env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = re.findall(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0]
        running = Served(address, tmp_path, None)  # type: ignore[arg-type]
        (tmp_path / "in").mkdir()
        good = xray(tmp_path / "in", "good.png").read_bytes()
        kinds: Counter[str] = Counter()
        expected = asked(running, "good.png", good)
        assert "event: complete" in expected and '"boxes": [{' in expected
        before, start = 0, time.monotonic()
        for number, (name, content) in enumerate(hostile_uploads(tmp_path / "in", count)):
            if number == count // 20:  # what is loaded once is loaded
                before = memory_mb(process.pid)
            answer = asked(running, name, content)
            kind = "refused" if answer.startswith("refused") else answer.partition("\n")[0]
            kinds["unexpected" if "unexpected" in answer else kind] += 1
            assert "data: null" not in answer and "Internal Server Error" not in answer, (name, answer)
            if number % 50 == 49:
                assert asked(running, "good.png", good) == expected
                kinds["good"] += 1
        after = memory_mb(process.pid)
        summary = f"{dict(kinds)}; {before} MB, then {after} MB; {time.monotonic() - start:.0f} s"
        sys.stdout.write(f"{count} uploads to process {process.pid}: {summary}\n")
        assert process.poll() is None and after - before < 100, summary
        assert set(kinds) <= {"refused", "event: complete", "event: error", "good"}, summary
    finally:
        process.terminate()
        process.wait(timeout=120)
