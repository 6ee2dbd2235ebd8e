# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The fenced blocks of Markdown files, their commands, and what is wrong with a command, without running it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import re
import shlex
import shutil
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
SOURCE_FOLDERS = ("modeling_medglip", "dataset_scripts", "training", "hub_cards", "spaces_demo")
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", flags=re.MULTILINE | re.DOTALL
)
NOT_RUN = re.compile(r"<!-- not run: (.+) -->\s*\Z")
OPTION = re.compile(r"--[a-z][\w-]*")
INSTALLERS = ("pip", "python3.11")  # of an environment that a reader makes; never started here
SHELL = {"for", "do", "done"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its file below the repository, the line of its fence, and why it is not run, if it is not."""

    file: str
    line: int
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def documents() -> list[str]:
    """Every Markdown file of the repository but templates, which are filled in first."""
    found = [path for folder in ("", "docs", *SOURCE_FOLDERS) for path in (ROOT / folder).glob("*.md")]
    found += (ROOT / "modeling_medglip" / "checkpoints").glob("*/*.md")
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def blocks(file: str) -> list[Block]:
    """The blocks of a file, in its order."""
    return parse((ROOT / file).read_text(encoding="utf-8"), file)


def parse(text: str, file: str) -> list[Block]:
    """The blocks of a text; `<!-- not run: REASON -->` on the line before a block says why it is not run."""
    found = []
    for match in FENCE.finditer(text):
        before = text[: match.start()]
        note = NOT_RUN.search(before)
        inside = textwrap.dedent(match["text"])
        found.append(Block(file, before.count("\n") + 1, match["language"], inside, note and note[1]))
    return found


def prose_code(file: str) -> list[str]:
    """What stands in backticks outside of blocks."""
    text = FENCE.sub("", (ROOT / file).read_text(encoding="utf-8"))
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


# Commands ------------------------------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a shell script as words: without comments, loops and assignments."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(re.sub(r"(^|\s)#.*", "", line), posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, ""
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word.strip(";|&"):
                words.append(word)
                continue
            while words and (words[0] in SHELL or re.match(r"\w+=", words[0])):
                words = [] if words[0] == "for" else words[1:]
            if words:
                yield words
            words = []


def problems(words: list[str]) -> list[str]:
    """What does not exist of a command: itself, its module, make target, file, extra or option."""
    name, arguments = Path(words[0]).name, words[1:]
    paths = [word for word in arguments if word.split("/")[0] in SOURCE_FOLDERS and "/" in word]
    found = [f"no file {path}" for path in paths if not (ROOT / path).exists()]
    if name == "make":
        targets = [word for word in arguments if "=" not in word]
        return found + [f"no target {target}" for target in targets if target not in make_targets()]
    if "-m" in arguments:
        number = arguments.index("-m") + 1
        module = arguments[number]
        own = module.split(".")[0] in (*SOURCE_FOLDERS, "tests")
        return found + (_unknown_options(module, arguments[number + 1 :]) if own else [])
    if name == "medglip":
        return found + _unknown_options("modeling_medglip.cli", arguments)
    if name in INSTALLERS:
        asked = re.findall(r"(?:^|\s)(?:\.|med-glip)\[([\w,]+)\]", " ".join(arguments))
        return found + [f"no extra {extra}" for text in asked for extra in text.split(",") if extra not in extras()]
    return found + ([] if shutil.which(name) else [f"no command {name}"])


def _unknown_options(module: str, arguments: list[str]) -> list[str]:
    command = arguments[0] if module.endswith(".cli") and arguments and arguments[0][0] != "-" else None
    asked = [word.split("=")[0] for word in arguments if OPTION.match(word)]
    try:
        known = options(module, command)
    except ImportError:
        return [f"no module {module}"]
    return [f"{module}: no option {word}" for word in asked if word not in known]


@cache
def options(module: str, command: str | None = None) -> frozenset[str]:
    """The options of a module or of a command of its, as `--help` names them.

    Raises:
        `ImportError`: there is no such module.
    """
    if module.startswith("tests."):  # most of these take no help: their text names their options
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ImportError(module)
        return frozenset(OPTION.findall(Path(spec.origin).read_text(encoding="utf-8")))
    found = importlib.import_module(module)
    main = (found if hasattr(found, "main") else importlib.import_module(f"{module}.__main__")).main
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([*([command] if command else []), "--help"])
    found = frozenset(OPTION.findall(said.getvalue()))
    assert "--help" in found, f"{module} {command or ''}: says nothing of its options"
    return found


@cache
def make_targets() -> frozenset[str]:
    """The targets of the Makefile."""
    return frozenset(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))


@cache
def extras() -> frozenset[str]:
    """The optional parts of the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return frozenset(project["optional-dependencies"])
