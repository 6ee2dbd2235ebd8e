# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Suggestions for label maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dataset_scripts.propose import as_yaml, ask, language_model, main, propose, readings
from dataset_scripts.recipe import load_recipes


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("KidneyLeft", "kidney_left"),
        ("kidney_left", "kidney_left"),
        ("cervical vertebrae 1 (C1)", "vertebra_C1"),
        ("pulmonary mass", "lung_mass"),
    ],
)
def test_known_names_in_other_spellings(name: str, target: str) -> None:
    (result,) = propose([name], "CT", with_language=False)
    assert (result.target, result.sure) == (target, True)


def test_unknown_names_stay_open_with_suggestions() -> None:
    typo, unknown = propose(["left kydney", "GTVp"], "ct", with_language=False)
    assert typo.target == unknown.target == "open" and not typo.sure
    assert typo.nearest[0][0] == "kidney_left" and len(typo.nearest) == 3
    assert not any(label.endswith("_right") for label, _ in typo.nearest)


def test_meanings_count_too() -> None:
    """By its letters a pulmonary vessel is nearer to a mass (which is called pulmonary mass too) than to an artery."""
    (spelling,) = propose(["pulmonary vessel"], "ct", with_language=False)
    (meaning,) = propose(["pulmonary vessel"], "ct")
    by_letters, by_meaning = ([label for label, _ in result.nearest] for result in (spelling, meaning))
    assert by_letters.index("lung_mass") < by_letters.index("pulmonary_artery")
    assert by_meaning.index("pulmonary_artery") < by_meaning.index("lung_mass")


@pytest.mark.parametrize(
    ("answer", "chosen"),
    [("1", "kidney_left"), (" 1. left kidney", "kidney_left"), ("0", "none"), ("9", "none"), ("?", "none")],
)
def test_a_language_model_chooses_among_the_nearest_only(answer: str, chosen: str) -> None:
    asked: list[str] = []

    def generate(prompt: str) -> str:
        asked.append(prompt)
        return answer

    liver, typo = ask(propose(["liver", "left kydney"], "ct", with_language=False), generate)
    assert liver.chosen is None and typo.chosen == chosen and typo.target == "open"
    assert len(asked) == 1 and "1. left kidney\n" in asked[0]
    assert f"the language model says {chosen}" in as_yaml([liver, typo])


def test_a_real_language_model_answers(tmp_path: Path) -> None:
    """A tiny one with random weights: what it says is worth nothing, but it is asked and read."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["<unk>", *"0123456789", "none"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<unk>").save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **sizes)).save_pretrained(tmp_path)
    (result,) = ask(propose(["left kydney"], "ct", with_language=False), language_model(str(tmp_path)))
    assert result.chosen in ("none", *(label for label, _ in result.nearest))


def test_readings() -> None:
    assert readings("Heart_LV (left)") == ["Heart_LV (left)", "Heart LV (left)", "Heart LV", "left"]


def test_the_map_is_unconfirmed_yaml(tmp_path: Path) -> None:
    names = ["liver", "left kydney", 'a: "name" # here', "left kydney"]
    text = as_yaml(propose(names, "ct", with_language=False))
    content = yaml.safe_load(text)
    assert content["confirmed"] is False and list(content["labels"]) == names[:3]
    assert content["labels"]["liver"] == "liver" and "nearest: kidney_left" in text
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("source: a\nmodality: ct\nlayout: manifest\n" + text, encoding="utf-8")
    assert not load_recipes(recipe)[0].confirmed


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.txt").write_text("liver\n\nspleen\n", encoding="utf-8")
    out = tmp_path / "map.yaml"
    assert main(["--modality", "ct", "--names", str(tmp_path / "names.txt"), "--out", str(out), "--no-language"]) == 0
    assert yaml.safe_load(out.read_text(encoding="utf-8"))["labels"] == {"liver": "liver", "spleen": "spleen"}
    assert "2 of 2 names" in capsys.readouterr().err
    assert main(["--modality", "ct", "--names", "liver, spleen", "--no-language"]) == 0
    assert '"spleen": spleen' in capsys.readouterr().out
    assert main(["--modality", "pet", "--names", "liver"]) == 2
    assert main(["--modality", "ct", "--names", " , "]) == 2
