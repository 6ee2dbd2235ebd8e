# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Every block of every Markdown file is a test: it runs as written, or says why not and names nothing that is gone."""

from __future__ import annotations

import doctest
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from .hub_server import serve
from .markdown_blocks import OPTION, Block, blocks, commands, documents, options, parse, problems, prose_code
from .markdown_world import World, make_world


DOCUMENTS = documents()
BLOCKS = [block for file in DOCUMENTS for block in blocks(file)]
RUN = sorted({block.file for block in BLOCKS if block.language in ("bash", "python") and block.not_run is None})
SPACE = "spaces_demo/README.md"
# What the blocks of a file must print: the boxes that they are about, and that nothing was sent unasked.
SAID = {
    "README.md": ("liver", "left lateral ventricle", "right lateral ventricle"),
    "docs/python.md": ("optic disc",),
    "hub_cards/README.md": ("nothing was sent",),
}


class TestParser:
    def test_blocks_with_their_lines_languages_and_notes(self) -> None:
        text = "# A\n```bash\nls # x\n```\n\n1. a\n\n   <!-- not run: slow -->\n   ```python\n   a\n     b\n   ```\n"
        first, second, third = parse(text + "```\nt\n```\n", "a.md")
        assert first == Block("a.md", 2, "bash", "ls # x\n", None)
        assert second == Block("a.md", 9, "python", "a\n  b\n", "slow")
        assert (third.language, third.text, third.not_run) == ("", "t\n", None)

    def test_commands_without_comments_loops_and_assignments(self) -> None:
        text = (
            "# c\nX=1 make a  # b\nfor m in a b; do\n  y=${m%=*}\n  python -m x --a ${m#*=} \\\n  'b; c' && ls\ndone"
        )
        assert list(commands(text)) == [
            ["make", "a"], ["python", "-m", "x", "--a", "${m#*=}", "b; c"], ["ls"],
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("command", "problem"),
        [
            ("make nothing", "no target nothing"),
            ("python -m training.gone", "no module training.gone"),
            ("python -m training.fit.finetune --data a --gone", "training.fit.finetune: no option --gone"),
            ("accelerate launch -m training.fit.finetune --gone", "training.fit.finetune: no option --gone"),
            ("medglip ground a.png --gone", "modeling_medglip.cli: no option --gone"),
            ("pip install .[demo,gone]", "no extra gone"),
            ("nosuchcommand a", "no command nosuchcommand"),
            (
                "python -m training.fit.finetune --recipe training/recipes/gone.yaml",
                "no file training/recipes/gone.yaml",
            ),
        ],
    )
    def test_what_is_gone_is_named(self, command: str, problem: str) -> None:
        assert problems(command.split()) == [problem]


class TestCommands:
    @pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "bash"], ids=str)
    def test_commands_and_options_exist(self, block: Block) -> None:
        assert [problem for words in commands(block.text) for problem in problems(words)] == []

    @pytest.mark.parametrize("file", DOCUMENTS)
    def test_commands_in_the_text_exist(self, file: str) -> None:
        named = [code for code in prose_code(file) if code.startswith(("python -m ", "medglip ", "make "))]
        assert [problem for code in named for words in commands(code) for problem in problems(words)] == []

    def test_options_in_the_text_exist(self) -> None:
        """All options that the page on the command line names belong to it."""
        known = {
            option
            for name in ("ground", "demo", "merge", "export", "info", "env")
            for option in options("modeling_medglip.cli", name)
        }
        named = {code.split()[0] for code in prose_code("docs/command-line.md") if OPTION.match(code)}
        assert named and named - known == set()

    def test_every_block_has_a_known_language(self) -> None:
        assert {block.language for block in BLOCKS} <= {"bash", "python", "pycon", ""}

    def test_sessions_give_what_they_show(self) -> None:
        for block in BLOCKS:
            if block.language == "pycon":
                test = doctest.DocTestParser().get_doctest(block.text, {}, block.file, None, block.line)
                results = doctest.DocTestRunner().run(test)
                assert results.attempted and not results.failed, block


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with serve() as hub:
        yield make_world(tmp_path, hub)


@pytest.mark.documents
class TestBlocks:
    @pytest.mark.parametrize("file", [file for file in RUN if file != SPACE])
    def test_blocks_run_as_written(self, file: str, world: World) -> None:
        said = world.run_file(file)
        assert [text for text in SAID.get(file, ()) if text not in said] == []

    def test_blocks_of_the_space_run_as_written(self, world: World) -> None:
        """With the page that they ask: the small checkpoint's, at the port that they name."""
        model = {"MEDGLIP_MODEL": str(world.folder / "out" / "base")}
        app = [sys.executable, str(world.folder / "spaces_demo" / "app.py"), "--port", "7860"]
        log = (world.folder / "out" / "space.log").open("w")
        page = subprocess.Popen(app, env={**world.environment(), **model}, stdout=log, stderr=log)
        try:
            _wait(page, "http://127.0.0.1:7860", Path(log.name))
            world.run_file(SPACE)
        finally:
            page.terminate()
            page.wait(30)


def _wait(page: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Until the page answers."""
    for _ in range(600):
        assert page.poll() is None, log.read_text(encoding="utf-8")
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text(encoding="utf-8"))
