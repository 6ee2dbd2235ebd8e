# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Suggestions for label maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dataset_scripts.propose import as_yaml, main, propose, readings
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
    (found,) = propose([name], "CT", with_language=False)
    assert (found.target, found.sure) == (target, True)


def test_unknown_names_stay_open_with_suggestions() -> None:
    typo, odd = propose(["left kydney", "GTVp"], "ct", with_language=False)
    assert typo.target == odd.target == "open" and not typo.sure
    assert typo.nearest[0][0] == "kidney_left" and len(typo.nearest) == 3
    assert not any(label.endswith("_right") for label, _ in typo.nearest)


def test_meanings_count_too() -> None:
    """By its letters a pulmonary vessel is nearer to a mass (which is called pulmonary mass too) than to an artery."""
    (spelling,) = propose(["pulmonary vessel"], "ct", with_language=False)
    (meaning,) = propose(["pulmonary vessel"], "ct")
    by_letters, by_meaning = ([label for label, _ in found.nearest] for found in (spelling, meaning))
    assert by_letters.index("lung_mass") < by_letters.index("pulmonary_artery")
    assert by_meaning.index("pulmonary_artery") < by_meaning.index("lung_mass")


def test_readings() -> None:
    assert readings("Heart_LV (left)") == ["Heart_LV (left)", "Heart LV (left)", "Heart LV", "left"]


def test_the_map_is_yaml_that_nobody_has_confirmed(tmp_path: Path) -> None:
    names = ["liver", "left kydney", 'odd: "name" # here', "left kydney"]
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
