# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What the command line finds out before PyTorch is imported."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_medglip import cli
from modeling_medglip.cli.options import check_port, checked_frame, checked_prompt, read_prompts
from modeling_medglip.errors import UsageError


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        (b"liver\nleft kidney\n", ["liver", "left kidney"]),
        ("\ufeffLeber\r\n\r\n  Milz \r\n".encode(), ["Leber", "Milz"]),
        (b"# organs\nliver # the large one\n\t# nothing\nspleen", ["liver", "spleen"]),
    ],
)
def test_prompt_files(content: bytes, labels: list[str], tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    assert checked_prompt(None, tmp_path / "labels.txt").split("\n") == labels


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "holds no label"),
        (b"# liver\n ; \n", "holds no label"),
        ("liver".encode("utf-16"), "is not UTF-8 text: save it as UTF-8"),
        (b"liver\n" * 200_000, "has more than 1048576 bytes"),
    ],
)
def test_bad_prompt_files(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(UsageError) as error:
        checked_prompt(None, tmp_path / "labels.txt")
    assert str(error.value).startswith(f"--prompts labels.txt: {problem}") and "\n" not in str(error.value)


def test_prompt_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--prompts absent.txt: no such file \(medglip ground --help"):
        read_prompts(tmp_path / "absent.txt")
    with pytest.raises(UsageError, match="is not a plain file"):
        read_prompts(tmp_path)
    with pytest.raises(UsageError, match="give one of them"):
        checked_prompt("liver", tmp_path / "labels.txt")


@pytest.mark.parametrize(("given", "frame"), [(None, None), ("all", "all"), ("1", 1), ("0012", 12)])
def test_frames(given: str | None, frame: object) -> None:
    assert checked_frame(given, None) == frame


@pytest.mark.parametrize("given", ["0", "-1", "ALL", "1.5", "", "9" * 5000, "\u0663"])
def test_bad_frames(given: str) -> None:
    with pytest.raises(UsageError, match="--frame .*: give a number from 1 on, or all"):
        checked_frame(given, None)


def test_a_taken_port_is_reported_with_another_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"--port {port}: cannot be used .*: try --port \d+"):
            check_port(port)
    check_port(port)
    check_port(None)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--nonsense"], "No such option: --nonsense (medglip --help shows the usage)"),
        (["ground", "a.png", "--nonsense"], "No such option: --nonsense"),
        (["ground", "a.png"], "Missing option '--prompt' or '--prompts'."),
        (["ground", "a.png", "--prompt", " ; "], "the prompt is empty"),
        (["ground", "a.png", "--prompt", "liver", "--modality", "pet"], "unknown modality 'pet'"),
        (["ground", "a.png", "--prompt", "liver", "--write", "stl"], "--write 'stl': choose of slicer"),
        (["ground", "a.png", "--prompt", "liver", "--frame", "last"], "--frame 'last': give a number"),
        (["ground", "a.png", "--prompt", "liver", "--plane", "slanted"], "--plane 'slanted': choose one of axial"),
        (["ground", "a.png", "--prompts", "absent.txt"], "--prompts absent.txt: no such file"),
        (["ground", "a.png", "--prompt", "liver", "--every", "2"], "--every is for --frame all"),
        (["ground", "a.png", "--prompt"], "Option '--prompt' requires an argument"),
        (["ground", "a.png", "--prompt", "liver", "--device", "tpu"], "--device 'tpu': choose auto, cpu, cuda"),
        (["ground", "a.png", "--prompt", "liver", "--axes", "LPR"], "--axes 'LPR': give three letters such as LPS"),
        (["ground", "a.png", "--prompt", "liver", "--axes", "LP"], "--axes 'LP': give three letters"),
        (["ground", "a.png", "--prompt", "liver", "--out", f"{__file__}/x"], "--out x: cannot be made"),
        (["demo", "--port", "many"], "--port"),
    ],
)
def test_wrong_options_point_to_the_help(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    out, errors = capsys.readouterr()
    command = f"medglip {arguments[0]}" if arguments[0] in ("ground", "demo") else "medglip"
    assert out == "" and problem in errors and errors.endswith(f"({command} --help shows the usage)\n")
    assert errors.count("\n") == 1


def test_wrong_options_need_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from modeling_medglip.cli import main\n"
        "for end in (['--version'], ['ground', 'a.png'], ['ground', 'a.png', '--prompt', 'x', '--write', 'stl'],\n"
        "            ['ground', 'a.png', '--prompt', 'x', '--modality', 'pet'],\n"
        "            ['ground', 'a.png', '--prompt', 'x', '--axes', 'x'],\n"
        "            ['ground', 'a.png', '--prompt', 'x', '--device', 'x']): main(end)\n"
        "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'rich', 'yaml', 'modeling_medglip.isolation.process'}\n"
        "print(heavy & set(sys.modules))"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=root)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "set()", done.stderr
