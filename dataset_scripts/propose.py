# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Suggest a label map for a new source; a person reads it, corrects it and writes `confirmed: true`.

    python -m dataset_scripts.propose --modality ct --names names.txt --out labels.yaml
    python -m dataset_scripts.propose --modality ct --names "Leber, spleen_L, GTVp"

A name that the taxonomy knows in some spelling is mapped. For the others the nearest labels are listed, by spelling
and by the language encoder of the embedded checkpoint, and the line stays `open`: nothing is guessed silently.
With `--llm ID_OR_DIR` a language model of transformers chooses among the nearest; its choice goes into the comment.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.modalities import resolve_modality
from modeling_medglip.outputs.files import write_text
from modeling_medglip.taxonomy import load_taxonomy
from modeling_medglip.taxonomy.entries import Label
from modeling_medglip.taxonomy.phrases import normalize_phrase

from .recipe import OPEN


SUGGESTIONS = 3
PARENTHESES = re.compile(r"\(([^)]*)\)")
# Weight of the spelling beside the meaning, where there is a language encoder.
SPELLING = 0.5
# Phrases that the language encoder reads at once.
BATCH = 32


@dataclass(frozen=True)
class Proposal:
    """A suggested line of a label map.

    Attributes:
        name (`str`): Name that the source uses.
        target (`str`): A taxonomy id, or `"open"`.
        sure (`bool`): Whether the taxonomy knows the name.
        nearest (`tuple[tuple[str, float], ...]`): Id and likeness (0 to 1) of other labels, best first.
        chosen (`str`, *optional*): Id that a language model chose among the nearest, or `"none"`.
    """

    name: str
    target: str
    sure: bool
    nearest: tuple[tuple[str, float], ...] = ()
    chosen: str | None = None


def propose(names: Sequence[str], modality: str, with_language: bool = True) -> list[Proposal]:
    """Return a proposal for every name, in the order given.

    Args:
        names (`Sequence[str]`): Labels of a source.
        modality (`str`): Narrows the meaning of ambiguous names.
        with_language (`bool`, *optional*, defaults to `True`): Compare meanings as well, with the language encoder of
            the embedded checkpoint.
    """
    name = resolve_modality(modality)
    return [_propose(text, name, with_language) for text in dict.fromkeys(names)]


def _propose(name: str, modality: str, with_language: bool) -> Proposal:
    for reading in readings(name):
        label = load_taxonomy().resolve(reading, modality)
        if label is not None:
            return Proposal(name, label.id, True)
    scores = _spelling_scores(name)
    if with_language:
        scores = SPELLING * scores + (1 - SPELLING) * _meaning_scores(name)
    # Do not suggest the wrong side of a pair.
    side = next((word for word in normalize_phrase(name).split() if word in ("left", "right")), None)
    labels = _labels()
    order = [i for i in np.argsort(-scores) if side is None or labels[i].laterality in (None, side)][:SUGGESTIONS]
    return Proposal(name, OPEN, False, tuple((labels[i].id, round(float(scores[i]), 2)) for i in order))


def ask(proposals: Sequence[Proposal], generate: Callable[[str], str]) -> list[Proposal]:
    """Let a language model choose a label for every name that is not sure.

    Args:
        proposals (`Sequence[Proposal]`): The proposals.
        generate (`Callable[[str], str]`): Prompt -> answer. Only a number of the list counts; all else is `"none"`.
    """
    return [entry if entry.sure else replace(entry, chosen=_choice(entry, generate)) for entry in proposals]


def _choice(entry: Proposal, generate: Callable[[str], str]) -> str:
    names = [load_taxonomy().label(label).name for label, _ in entry.nearest]
    listed = "\n".join(f"{number}. {name}" for number, name in enumerate(names, start=1))
    question = f"In a medical image data set a structure is called {entry.name[:80]!r}. Which of these is the same?"
    match = re.search(r"\d+", generate(f"{question}\n{listed}\n0. none of them\nAnswer with the number only: "))
    number = int(match.group()) if match else 0
    return entry.nearest[number - 1][0] if 0 < number <= len(names) else "none"


def language_model(source: str) -> Callable[[str], str]:
    """Load a language model of transformers, from a folder or the Hub, that answers briefly and without sampling."""
    from transformers import pipeline

    generator = pipeline("text-generation", model=source)
    return lambda prompt: generator(prompt, max_new_tokens=5, do_sample=False, return_full_text=False)[0][
        "generated_text"
    ]


def readings(name: str) -> list[str]:
    """Return the spellings of a name to look up: as it is, without the parentheses, and their content alone."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " "))
    inner = PARENTHESES.findall(words)
    spellings = [name, words, PARENTHESES.sub(" ", words), *inner]
    return list(dict.fromkeys(text.strip() for text in spellings if text.strip()))


@functools.cache
def _labels() -> tuple[Label, ...]:
    taxonomy = load_taxonomy()
    return (*taxonomy.labels.values(), *taxonomy.extensions.values())


def _spelling_scores(name: str) -> NDArray[np.float64]:
    """Return the likeness of a name to the best phrase of every label, as difflib measures it."""
    plain = normalize_phrase(name)
    return np.array(
        [
            max(difflib.SequenceMatcher(None, plain, normalize_phrase(phrase)).ratio() for phrase in label.phrases)
            for label in _labels()
        ]
    )


def _meaning_scores(name: str) -> NDArray[np.float64]:
    """Return the cosine of a name and every label's name in the language encoder, 0 where negative."""
    return np.clip(_embed([name.replace("_", " ").lower()])[0] @ _label_embeddings().T, 0, None)


@functools.cache
def _label_embeddings() -> NDArray[np.float64]:
    return _embed([label.name for label in _labels()])


def _embed(phrases: Sequence[str]) -> NDArray[np.float64]:
    """Return the mean of the words' features, of length 1: (phrases, width)."""
    import torch

    model, processor = _language()
    rows = []
    for start in range(0, len(phrases), BATCH):
        prompts = [[phrase if phrase.strip() else "unknown"] for phrase in phrases[start : start + BATCH]]
        batch, _ = processor.encode_prompts(prompts)
        with torch.inference_mode():
            hidden = model.get_text_features(batch["input_ids"], batch["attention_mask"]).hidden
        for features, label_tokens in zip(hidden, batch["label_tokens"], strict=True):
            mean = features[label_tokens[0]].mean(0).double().numpy()
            rows.append(mean / np.linalg.norm(mean))
    return np.stack(rows)


@functools.cache
def _language() -> tuple[Any, Any]:
    from modeling_medglip import MedGlipModel, MedGlipProcessor, default_checkpoint

    folder = default_checkpoint()
    return MedGlipModel.from_pretrained(folder, modalities=["ct"]).eval(), MedGlipProcessor.from_pretrained(folder)


def as_yaml(proposals: Sequence[Proposal]) -> str:
    """Return the `labels:` part of a recipe, unconfirmed, with suggestions as comments."""
    lines = [
        "# Read every line, put the right id (or open, or exclude), then set confirmed to true.",
        "confirmed: false",
        "labels:",
    ]
    for entry in proposals:
        nearest = ", ".join(f"{label} {score}" for label, score in entry.nearest)
        choice = "" if entry.chosen is None else f"; the language model says {entry.chosen}"
        comment = "" if entry.sure else f"  # not known; nearest: {nearest}{choice}"
        lines.append(f"  {_quoted(entry.name)}: {entry.target}{comment}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Quote text as a YAML string."""
    import json

    return json.dumps(text, ensure_ascii=False)


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m dataset_scripts.propose", description="Suggest a label map.")
    parser.add_argument("--names", required=True, help="a text file with a name per line, or names with commas")
    parser.add_argument("--modality", required=True)
    parser.add_argument("--out", type=Path, help="file to write (default: print)")
    parser.add_argument("--llm", metavar="ID_OR_DIR", help="language model that chooses among the nearest")
    parser.add_argument("--no-language", action="store_true", help="compare spellings only")
    options = parser.parse_args(argv)
    proposals = propose(_read_names(options.names), options.modality, not options.no_language)
    if options.llm:
        proposals = ask(proposals, language_model(options.llm))
    if options.out is None:
        print(as_yaml(proposals), end="")
    else:
        write_text(options.out, as_yaml(proposals))
    known = sum(entry.sure for entry in proposals)
    print(f"{known} of {len(proposals)} names are known to the taxonomy", file=sys.stderr)
    return 0


def _read_names(given: str) -> list[str]:
    """Return the names of a text file with a name per line, or of a text with commas."""
    path = Path(given)
    if not path.is_file() and (path.suffix or "/" in given):
        raise ValueError(f"{given}: no such file; give a file of names, or names with commas")
    text = path.read_text(encoding="utf-8") if path.is_file() else given.replace(",", "\n")
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise ValueError("--names holds no name")
    return names


if __name__ == "__main__":
    raise SystemExit(main())
