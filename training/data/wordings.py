# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The phrases, beside the labels themselves, that training prompts use; a checkpoint states them.

`python -m training.data.wordings DIR` writes them into the `config.json` of a checkpoint that states
its trained labels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.taxonomy.phrases import normalize_phrase
from modeling_medglip.trained_labels import TrainedLabels

from .vocabulary import Vocabulary


def trained_wordings(labels: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str | None]]:
    """Return the phrases of training prompts that the taxonomy does not already lead to a trained label.

    Descriptions are left out: nobody types one word by word, and a checkpoint looks up whole phrases. They would make
    the list four times as long.

    Args:
        labels (`Mapping[str, Sequence[str]]`): modality -> trained labels.

    Returns:
        modality -> phrase -> the label that it means, `None` for a term that covers several.
    """
    vocabulary, stated = Vocabulary.load(), TrainedLabels(labels)
    wordings: dict[str, dict[str, str | None]] = {}
    for modality, names in labels.items():
        phrases: dict[str, tuple[str, str | None]] = {}
        for name in names:
            words = vocabulary.of(name)
            meanings = [
                *((word, name) for word in vocabulary.synonyms(name)),
                *((word, None) for parent in words.parents for word in vocabulary.words_of_parent(parent)),
            ]
            for word, meaning in meanings:
                if not stated.knows(word, modality):
                    phrases.setdefault(normalize_phrase(word), (word, meaning))
        wordings[modality] = dict(sorted(phrases.values(), key=lambda pair: pair[0]))
    return wordings


@script_main(also=(KeyError,))
def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.data.wordings", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder with config.json")
    file = parser.parse_args(argv).checkpoint / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    hierarchy = config["label_hierarchy"]
    hierarchy["wordings"] = trained_wordings(hierarchy["trained_labels"])
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
