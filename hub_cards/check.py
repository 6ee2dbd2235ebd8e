# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Check a staged repository: `python -m hub_cards.check --kind model FOLDER`.

The gates are file names, the header, licenses of the sources, privacy, and a card that equals the one rendered from
the other files. Handwritten text may follow at the end of a card.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.errors import one_line
from training.old_names import with_new_keys

from .evaluation_tables import EVALUATION
from .gates.file_names import check_file_names
from .gates.front_matter import check_header, split_card
from .gates.privacy import check_privacy
from .model_card import render_card, render_license
from .stage import dataset
from .stage.adapters import RESULTS, adapter_card
from .stage.repository import KINDS


def check_folder(kind: str, folder: Path) -> list[str]:
    """Return why a folder must not be published as it is, one line each.

    Args:
        kind (`str`): One of `KINDS`.
        folder (`Path`): Everything that would be published.
    """
    files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    role = "adapter" if kind == "model" and "adapter_config.json" in files else kind
    faults = [*check_file_names(role, files), *check_privacy(folder)]
    if faults:
        return faults
    try:
        return _check_card(kind, role, folder, files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, StopIteration) as error:
        text = one_line(error, 120) if isinstance(error, ValueError) else type(error).__name__
        return [f"the files are not what this command writes ({text})"]


def _check_card(kind: str, role: str, folder: Path, files: Sequence[str]) -> list[str]:
    text = (folder / "README.md").read_text(encoding="utf-8")
    header, _ = split_card(text)
    faults = check_header(kind, header, files)
    if role == "dataset":
        faults += dataset.check_sources(folder)
    if role != "space" and not faults:
        faults += _differences("README.md", text, _expected(role, folder))
    if role == "model" and not faults:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        license_ = (folder / "LICENSE.md").read_text(encoding="utf-8")
        faults += _differences("LICENSE.md", license_, render_license(folder, config["modalities"]))
    return faults


def _expected(role: str, folder: Path) -> str:
    """Render the card from the other files of a folder."""
    if role == "dataset":
        header, _ = split_card((folder / "README.md").read_text(encoding="utf-8"))
        return dataset.card_of_folder(folder, header)
    if role == "adapter":
        return adapter_card(with_new_keys(json.loads((folder / RESULTS).read_text(encoding="utf-8"))))
    return render_card(folder, with_new_keys(json.loads((folder / EVALUATION).read_text(encoding="utf-8"))))


def _differences(name: str, text: str, expected: str) -> list[str]:
    """Return the first difference, unless a text equals the expected one or begins with it."""
    if text == expected or text.startswith(expected.rstrip("\n") + "\n"):
        return []
    pairs = zip(text.splitlines(), [*expected.splitlines(), *[""] * len(text.splitlines())], strict=False)
    line = next((stated for stated, rendered in pairs if stated != rendered), "a line at the end")
    return [f"{name}: {one_line(line, 100)!r} differs from the card rendered from the other files"]


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m hub_cards.check", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=KINDS, required=True)
    options = parser.parse_args(argv)
    if not options.folder.is_dir():
        raise ValueError(f"{options.folder.name}: is not a folder")
    faults = check_folder(options.kind, options.folder)
    print("\n".join(faults) if faults else "no faults")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
