# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The words in which the network is asked, for every sided label and every way to write a side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modeling_medglip.checkpoints.location import default_checkpoint
from modeling_medglip.processing_medglip import split_prompt
from modeling_medglip.questions import make_question
from modeling_medglip.taxonomy import Label, load_taxonomy
from modeling_medglip.trained_labels import TrainedLabels, trained_labels
from training.data.wordings import trained_wordings


CONFIG = json.loads((Path(default_checkpoint()) / "config.json").read_text(encoding="utf-8"))
STATED = trained_labels(CONFIG)
TRAINED = TrainedLabels.of(CONFIG)
TAXONOMY = load_taxonomy()
SIDED = [label for label in (*TAXONOMY.labels.values(), *TAXONOMY.extensions.values()) if label.laterality]
# {0}: the name without its side; {1}: the side's word, {2} its letter, {3} its short form, {4} Latin's.
FORMS = (
    "{1} {0}", "{0} {1}", "{0}, {1}", "{0} ({1})", "the {1} {0}", "{1}-sided {0}", "{1} sided {0}", "{0} on the {1}",
    "{0} of the {1} side", "{0} on the {1}-hand side", "{0} (on the {1})", "{1}_{0}", "{0}_{1}", "{0}-{1}",
    "{0} [{1}]", "{2} {0}", "{0} {2}", "{2}. {0}", "{0}, {2}", "{0} ({2})", "{0} ({2}.)", "{0} [{2}]", "{2}_{0}",
    "{0}_{2}", "{3} {0}", "{0} {3}", "{3}. {0}", "{0} ({3})", "{0} ({3}.)", "{0}, {3}.", "{3}-{0}", "the {3} {0}",
    "{0} {4}.", "{0} ({4}.)", "{0} on the patient's {1}", "{0}, {1}-sided", "{0}, {1} side",
    "the {3}. {0}", "{0} {{{2}.}}",
)  # fmt: skip


def written(label: Label) -> list[str]:
    """A label's name in all forms, small and in capitals."""
    side = str(label.laterality)
    base = " ".join(word for word in label.name.split() if word != side)
    short = {"left": ("L", "lt", "sin"), "right": ("R", "rt", "dext")}[side]
    forms = [form.format(base, side, *short) for form in FORMS]
    return [*forms, *(form.upper() for form in forms)]


@pytest.mark.parametrize("label", SIDED, ids=lambda label: label.id)
def test_every_form_of_a_sided_label_is_that_label(label: Label) -> None:
    wrong = [form for form in written(label) if TAXONOMY.resolve(form) != label]
    assert not wrong


def test_every_form_is_one_label_of_a_prompt() -> None:
    for form in written(TAXONOMY.label("kidney_left")):
        assert split_prompt(f"liver; {form}; spleen")[1] == form.rstrip(".")
        assert split_prompt(f"liver; {form}.")[1:] == [form.rstrip(".")]


@pytest.mark.parametrize("separator", [". ", "; ", ", ", "\n"])
def test_two_sided_labels_in_a_row_keep_their_sides(separator: str) -> None:
    left = [form for form in written(TAXONOMY.label("kidney_left")) if not form.endswith(".")]
    right = [form for form in written(TAXONOMY.label("kidney_right")) if not form.endswith(".")]
    for first, second in [*zip(left, right, strict=True), *zip(left, right[5:] + right[:5], strict=True)]:
        labels = split_prompt(f"{first}{separator}{second}")
        assert [TRAINED.wording(label, "ct") for label in labels] == ["left kidney", "right kidney"], (first, second)


@pytest.mark.parametrize("modality", STATED)
def test_the_network_gets_the_words_of_its_training(modality: str) -> None:
    for name in STATED[modality]:
        label = TAXONOMY.resolve(name, modality)
        assert TRAINED.wording(name.upper(), modality) == name
        if label is not None and label.laterality:
            assert {TRAINED.wording(form, modality) for form in written(label)} == {name}


@pytest.mark.parametrize(
    ("phrase", "modality", "wording"),
    [
        ("LV", "mri", "left ventricle"),
        ("RA", "ct", "right atrium"),
        ("L5", "ct", "L5"),
        ("T1 lesion", "mri", "T1 lesion"),
        ("L-spine", "ct", "L-spine"),
        ("kidneys", "ct", "kidneys"),
        ("both lungs", "xray", "lung"),
        ("left and right lungs", "ct", "lung"),
        ("lungs", "xray", "lung"),
        ("lt kidney", "xray", "left kidney"),
        ("vertebra L 1", "ct", "vertebra L 1"),
        ("windpipe", "xray", "airway"),
        ("heart", "xray", "cardiomediastinum"),
        ("Lt. lung field", "xray", "left lung"),
        ("the left kidney please", "ct", "the left kidney please"),
        ("linke Niere", "ct", "left kidney"),
        ("rein gauche", "ct", "left kidney"),
        ("riñón izquierdo", "mri", "left kidney"),
        ("左肾", "ct", "left kidney"),
        ("右侧肺", "xray", "right lung"),
        ("Nieren", "ct", "kidney"),
        ("il rene sinistro", "ct", "il rene sinistro"),
        ("Niere L", "ct", "left kidney"),
        ("Niere, links", "ct", "left kidney"),
        ("Niere der linken Seite", "ct", "left kidney"),
        ("Rippe 7 li.", "ct", "left rib 7"),
        ("linke Kammer", "mri", "left ventricle"),
        ("rein (G)", "ct", "left kidney"),
        ("rein D", "ct", "right kidney"),
        ("de l'oreillette droite", "ct", "right atrium"),
        ("côte gauche 7", "ct", "left rib 7"),
        ("poumon du côté droit", "xray", "right lung"),
        ("riñón der.", "ct", "right kidney"),
        ("pulmón (izdo.)", "xray", "left lung"),
        ("der Niere", "ct", "kidney"),
        ("肾左", "ct", "left kidney"),
        ("左边的肾", "ct", "left kidney"),
        ("左侧脑室", "mri", "left lateral ventricle"),
        ("右侧侧脑室", "mri", "right lateral ventricle"),
        ("linke und rechte Niere", "ct", "linke und rechte Niere"),
        ("KidneyLeft", "ct", "left kidney"),
        ("rgt lung", "xray", "right lung"),
    ],
)
def test_wording(phrase: str, modality: str, wording: str) -> None:
    assert TRAINED.wording(phrase, modality) == wording


@pytest.mark.parametrize(
    ("phrase", "modality", "known"),
    [
        ("left lung", "xray", True),
        ("heart", "xray", True),
        ("lungs", "xray", True),
        ("kidney", "ct", True),
        ("lesion", "endoscopy", True),
        ("LV", "mri", True),
        ("liver", "xray", False),
        ("lt kidney", "xray", False),
        ("cardiomegaly", "xray", False),
        ("kidney stone", "ct", False),
        ("melanoma", "dermoscopy", False),
        ("nothing", "ct", False),
        ("il rene sinistro", "ct", False),
    ],
)
def test_what_is_known(phrase: str, modality: str, known: bool) -> None:
    assert TRAINED.knows(phrase, modality) is known
    assert TrainedLabels({}).knows(phrase, modality) is None


def test_a_kind_of_a_trained_label_is_not_distinguished() -> None:
    assert TRAINED.wider("melanoma", "dermoscopy") == "skin lesion"
    assert TRAINED.wider("GBM", "mri") == "glioma"
    assert TRAINED.wider("melanoma", "xray") is None
    assert TRAINED.wider("nevus", "dermoscopy") is None
    assert TRAINED.wider("lt. pleural effusion", "xray") == "pleural effusion"
    assert TRAINED.wider("unicorn", "xray") is None


def test_the_wordings_are_those_of_training() -> None:
    assert CONFIG["label_hierarchy"]["wordings"] == trained_wordings(STATED)


def test_a_checkpoint_that_states_nothing_gets_sides_written_out() -> None:
    unstated = TrainedLabels({})
    assert unstated.wording("lt kidney", "ct") == "left kidney"
    assert unstated.wording("hepar", "ct") == "hepar"


def test_the_warning_keeps_what_it_means_however_many_labels_it_names() -> None:
    labels = ["kidney, left", *(f"unicorn {number}" for number in range(40))]
    (note,) = make_question(TRAINED, labels, "xray").notes("xray", 0.9)
    assert (
        note.startswith("not trained in xray: kidney, left; unicorn 0; ") and "; and 29 more: boxes for them" in note
    )
    assert len(note) < 500, "the command line cuts longer ones"


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({}, {}),
        ({"label_hierarchy": None}, {}),
        ({"label_hierarchy": {"ct": {"liver": {}, "aorta": {}}}}, {"ct": ["aorta", "liver"]}),
        ({"trained_labels": {"ct": ["a"]}, "label_hierarchy": {"mri": ["b"]}}, {"ct": ["a"]}),
        ({"trained_labels": ["a"]}, {}),
    ],
)
def test_where_labels_are_stated(config: dict, labels: dict) -> None:
    assert trained_labels(config) == labels
