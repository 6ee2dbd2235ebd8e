# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The Space under load: 50 users at once, and 100 open pages. Time to the answers, and the server's memory.

    python -m tests.benchmarks.bench_space [--requests 50] [--rounds 4] [--pages 100] [--out docs/space_benchmark.json]

The server is a process of its own. Every request is one image of the demo with the demo's prompt, from a client of
its own, and is timed from the upload to the boxes. Memory is what the server has resident 35 seconds after a round:
what it does not use is handed back every 30.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gradio_client import Client, handle_file
from PIL import Image

from modeling_medglip.demo.cases import demo_cases


APP = Path(__file__).resolve().parents[2] / "spaces_demo" / "app.py"
REST = 35.0
# By so much memory may have grown after the last round.
KEPT_MB = 100


@contextmanager
def running(threads: int) -> Iterator[tuple[str, int]]:
    """(address, process id) of a server that runs until the block ends."""
    settings = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen([sys.executable, str(APP)], stdout=subprocess.PIPE, text=True, env=settings)
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        if found is None:
            raise SystemExit("the Space did not start")
        yield found.group(), process.pid
    finally:
        process.terminate()
        process.wait(timeout=60)


def resident_mb(pid: int) -> float:
    """Megabytes that a process has in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return round(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024, 1)  # type: ignore[index]


def demo_images(folder: Path) -> list[tuple[Path, str]]:
    """(PNG file, prompt) of the demo's 8-bit images."""
    made = []
    for case in demo_cases():
        image = case.load()
        if image.pixels.dtype == "uint8":
            file = folder / f"{case.id}.png"
            Image.fromarray(image.pixels).save(file)
            made.append((file, case.prompt))
    return made


def ask(client: Client, file: Path, prompt: str) -> float:
    """Seconds from the upload to the boxes."""
    start = time.perf_counter()
    answer = client.predict(file=handle_file(file), prompt=prompt, api_name="/ground")
    assert answer["schema"] == "medglip/boxes@1"
    return time.perf_counter() - start


def burst(address: str, asked: list[tuple[Path, str]], count: int) -> dict[str, Any]:
    """All requests at once, from as many clients."""
    with ThreadPoolExecutor(count) as pool:
        clients = list(pool.map(lambda _: Client(address, verbose=False, httpx_kwargs={"timeout": 300}), range(count)))
        together = threading.Barrier(count)

        def one(number: int) -> float | str:
            together.wait()
            try:
                return ask(clients[number], *asked[number % len(asked)])
            except Exception as error:
                return f"{type(error).__name__}: {error}"

        start = time.perf_counter()
        answers = list(pool.map(one, range(count)))
    times = sorted(answer for answer in answers if isinstance(answer, float))
    failed = sorted({answer for answer in answers if isinstance(answer, str)})
    if not times:
        raise SystemExit(f"no request was answered: {failed}")
    return {
        "answered": len(times),
        "failures": failed,
        "seconds": round(time.perf_counter() - start, 2),
        "median_seconds": round(statistics.median(times), 2),
        "p95_seconds": round(times[min(len(times) - 1, round(0.95 * (len(times) - 1)))], 2),
    }


def open_pages(address: str, pid: int, asked: list[tuple[Path, str]], count: int) -> dict[str, Any]:
    """Load the page and hold its connections, so many times; ask meanwhile, and after all have gone."""
    parts = urlsplit(address)
    held = []
    for number in range(count):
        for path in ("/", f"/gradio_api/heartbeat/page{number}"):
            connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
            connection.request("GET", path)
            answer = connection.getresponse()
            if path == "/":
                answer.read()
                connection.close()
            else:
                held.append((connection, answer.status))
    client = Client(address, verbose=False)
    meanwhile, memory = ask(client, *asked[0]), resident_mb(pid)
    for connection, _ in held:
        connection.close()
    time.sleep(REST)
    return {
        "pages": count,
        "connections_held": len(held),
        "refused": sum(status != 200 for _, status in held),
        "answer_seconds_meanwhile": round(meanwhile, 2),
        "resident_mb_meanwhile": memory,
        "answer_seconds_afterwards": round(ask(client, *asked[0]), 2),
        "resident_mb_afterwards": resident_mb(pid),
    }


def measure(requests: int, rounds: int, pages: int, threads: int) -> dict[str, Any]:
    """Start a server, ask it, measure."""
    with tempfile.TemporaryDirectory() as folder, running(threads) as (address, pid):
        asked = demo_images(Path(folder))
        client = Client(address, verbose=False)
        alone = [ask(client, *question) for question in asked for _ in range(2)][1::2]
        time.sleep(REST)
        before = resident_mb(pid)
        bursts = []
        for _ in range(rounds):
            found = burst(address, asked, requests)
            time.sleep(REST)
            bursts.append({**found, "resident_mb_afterwards": resident_mb(pid)})
        tabs = open_pages(address, pid, asked, pages)
    memory = [entry["resident_mb_afterwards"] for entry in bursts]
    return {
        "requests_at_once": requests,
        "torch_threads": threads,
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "alone_median_seconds": round(statistics.median(alone), 2),
        "resident_mb_before": before,
        "growth_mb": round(memory[-1] - before, 1),
        "growth_mb_last_round": round(memory[-1] - memory[-2], 1) if rounds > 1 else None,
        "tolerance_mb": KEPT_MB,
        "bursts": bursts,
        "open_pages": tabs,
    }


def main() -> None:
    """Command line; status 1 if a request went unanswered or memory has grown beyond the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1, help="of each forward pass; two run at once")
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    options = parser.parse_args()
    results = measure(options.requests, options.rounds, options.pages, options.threads)
    text = json.dumps(results, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)
    unanswered = any(entry["answered"] < options.requests for entry in results["bursts"])
    sys.exit(1 if unanswered or results["growth_mb"] > KEPT_MB or results["open_pages"]["refused"] else 0)


if __name__ == "__main__":
    main()
