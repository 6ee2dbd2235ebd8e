# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The gates of a staged repository: `python -m hub_cards.check --kind model FOLDER`.

Its header, files that have no place there, sources that may not be passed on, what must not leave, and a card that is
what the files beside it give. Text by hand may follow at the end of a card.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from modeling_medglip.errors import one_line

from . import dataset_files, front_matter, names, privacy
from .adapters import RESULTS, adapter_card
from .measured import EVALUATION
from .model_card import render_card, render_license
from .repository import KINDS


def problems(kind: str, folder: Path) -> list[str]:
    """Why a folder must not go out as it is, one line each.

    Args:
        kind: one of `KINDS`. folder: everything that would be published.
    """
    files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    role = "adapter" if kind == "model" and "adapter_config.json" in files else kind
    found = [*names.problems(role, files), *privacy.findings(folder)]
    if found:
        return found
    try:
        return _card(kind, role, folder, files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, StopIteration) as error:
        text = one_line(error, 120) if isinstance(error, ValueError) else type(error).__name__
        return [f"the files are not what this command writes ({text})"]


def _card(kind: str, role: str, folder: Path, files: Sequence[str]) -> list[str]:
    text = (folder / "README.md").read_text(encoding="utf-8")
    header, _ = front_matter.split(text)
    found = front_matter.problems(kind, header, files)
    if role == "dataset":
        found += dataset_files.check(folder)
    if role != "space" and not found:
        found += _differences("README.md", text, _expected(role, folder))
    if role == "model" and not found:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        license_ = (folder / "LICENSE.md").read_text(encoding="utf-8")
        found += _differences("LICENSE.md", license_, render_license(folder, config["modalities"]))
    return found


def _expected(role: str, folder: Path) -> str:
    """The card that a folder's files give."""
    if role == "dataset":
        header, _ = front_matter.split((folder / "README.md").read_text(encoding="utf-8"))
        return dataset_files.render_card(folder, header)
    if role == "adapter":
        return adapter_card(json.loads((folder / RESULTS).read_text(encoding="utf-8")))
    return render_card(folder, json.loads((folder / EVALUATION).read_text(encoding="utf-8")))


def _differences(name: str, text: str, expected: str) -> list[str]:
    """Nothing if a text is what is expected, or begins with it."""
    if text == expected or text.startswith(expected.rstrip("\n") + "\n"):
        return []
    pairs = zip(text.splitlines(), [*expected.splitlines(), *[""] * len(text.splitlines())], strict=False)
    line = next((own for own, other in pairs if own != other), "a line at the end")
    return [f"{name}: {one_line(line, 100)!r} is not what the files beside it give"]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m hub_cards.check", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=KINDS, required=True)
    options = parser.parse_args(argv)
    if not options.folder.is_dir():
        print(f"error: {one_line(options.folder.name)}: is no folder", file=sys.stderr)
        return 2
    found = problems(options.kind, options.folder)
    print("\n".join(found) if found else "nothing wrong")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
