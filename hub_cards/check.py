# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The gates of a staged repository: `python -m hub_cards.check --kind model FOLDER`.

Header, figures against the evaluation file, files that a model, a data set or a Space needs, and what must not leave.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modeling_medglip.errors import one_line

from . import front_matter, measured, privacy
from .adapters import check_adapter
from .experts import CODE
from .repository import KINDS


# What a repository of each kind cannot be without.
NEEDED = {
    "model": ("README.md", "LICENSE.md", "config.json", "processor_config.json", "licenses.json", *CODE),
    "adapter": ("README.md", "LICENSE.md", "adapter_config.json", "adapter_model.safetensors", "results.json"),
    "dataset": ("README.md", "label_hierarchy.json"),
    "space": ("README.md", "app.py", "requirements.txt", "modeling_medglip/__init__.py"),
}


def problems(kind: str, folder: Path) -> list[str]:
    """Why a folder must not go out as it is, one line each.

    Args:
        kind: one of `KINDS`. folder: everything that would be published.
    """
    files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    adapter = kind == "model" and "adapter_config.json" in files
    missing = [name for name in NEEDED["adapter" if adapter else kind] if name not in files]
    if kind == "model" and not any(name.endswith(".safetensors") for name in files):
        missing.append("*.safetensors")
    found = [f"{name} is missing" for name in missing]
    if "README.md" in files:
        found += _card(kind, folder, files, adapter)
    return [*found, *_names(files), *privacy.findings(folder)]


def _card(kind: str, folder: Path, files: Sequence[str], adapter: bool) -> list[str]:
    try:
        header, _ = front_matter.split((folder / "README.md").read_text(encoding="utf-8"))
    except ValueError as error:
        return [str(error)]
    found = front_matter.problems(kind, header, files)
    if adapter:
        return [*found, *(check_adapter(folder) if "results.json" in files else [])]
    return [*found, *(measured.check(folder) if kind == "model" else [])]


def _names(files: Sequence[str]) -> list[str]:
    """Names that break Markdown, YAML or somebody's file system."""
    odd = [name for name in files if not name.isascii() or any(char in name for char in '\\:*?"<>|\n\r\t')]
    return [f"{one_line(name, 60)!r} is no name for a file that others download" for name in odd]


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
