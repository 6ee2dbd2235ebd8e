# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Phrases that training answers with nothing: which are drawn, and which never."""

from __future__ import annotations

from collections import Counter
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from modeling_medglip.configuration_medglip import MODALITIES
from training.data.unlearned import KINDS, UNLEARNED_FILE, LabelSet, UnlearnedPhrases, is_held_out, whole_words
from training.data.vocabulary import Vocabulary


DOCUMENT = yaml.safe_load(UNLEARNED_FILE.read_text(encoding="utf-8"))
LEARNED = {
    "ct": ["liver", "left kidney", "right kidney", "subdural hematoma", "left rib 7", "trachea and main bronchi"],
    "mri": ["glioma", "left ventricle", "right thalamus"],
    "xray": ["lung mass", "left lung", "right lung", "cardiomediastinum"],
    "ultrasound": ["benign breast tumor", "malignant breast tumor", "fetal head"],
    "dermoscopy": ["skin lesion"],
    "endoscopy": ["polyp", "gallbladder"],
    "fundus": ["optic disc", "optic cup", "retinal vessel"],
}
WORDS = ("banana", "engine", "liver", "kidney", "window", "lesion", "river", "garden", "thing", "music")


def phrases_of(modality: str, held_out: bool = False, left_out: tuple[str, ...] = ()) -> UnlearnedPhrases:
    learned = [label for label in LEARNED[modality] if label not in left_out]
    return UnlearnedPhrases.of(modality, learned, WORDS, left_out, held_out)


def drawn(phrases: UnlearnedPhrases, count: int = 150) -> list[str]:
    return phrases.draw(count, np.random.default_rng(0))


@pytest.mark.parametrize("modality", MODALITIES)
def test_what_is_learned_is_never_drawn(modality: str) -> None:
    phrases, vocabulary = phrases_of(modality), Vocabulary.load()
    learned = {wording for label in LEARNED[modality] for wording in vocabulary.all_wordings(label)}
    terms = {term for label in LEARNED[modality] for term in vocabulary.all_terms(label)}
    assert not any(phrases.allows(phrase, kind) for phrase in learned | terms for kind in KINDS)
    asked = drawn(phrases, 60)
    assert len(asked) == 60 and not learned & set(asked)


@pytest.mark.parametrize(
    ("modality", "phrase", "kind", "allowed"),
    [
        ("ct", "optic disc", "label", True),
        ("ct", "kidney", "label", False),
        ("ct", "both kidneys", "label", False),
        ("ct", "linke Niere", "nonsense", False),
        ("ct", "intracranial hemorrhage", "label", False),
        ("ct", "stone in the left kidney", "composed", True),
        ("dermoscopy", "melanoma", "label", False),  # a lesion of the sources may be one
        ("dermoscopy", "Spitz nevus", "finding", False),
        ("dermoscopy", "psoriasis", "finding", True),
        ("dermoscopy", "birthmark", "finding", False),
        ("xray", "cardiomegaly", "finding", True),
        ("xray", "heart", "label", False),
        ("xray", "mass of the lungs", "composed", False),
        ("xray", "lung cancer", "finding", False),
        ("mri", "brain tumour", "label", False),
        ("mri", "right ventricle", "label", True),
        ("mri", "thalamic nuclei", "label", False),
        ("mri", "white matter", "label", False),
        ("ct", "renal organ", "label", False),
        ("ct", "airways", "label", False),
        ("ct", "costal bone", "label", False),
        ("xray", "heart and mediastinum", "label", False),
        ("endoscopy", "abnormal finding", "nonsense", False),
        ("endoscopy", "suspicious area", "finding", True),
        ("fundus", "spot", "nonsense", False),
    ],
)
def test_what_may_be_drawn(modality: str, phrase: str, kind: str, allowed: bool) -> None:
    either = [phrases_of(modality, held_out).allows(phrase, kind) for held_out in (False, True)]
    assert any(either) is allowed and not all(either)


def test_training_and_measuring_share_no_phrase() -> None:
    trained, measured = set(drawn(phrases_of("endoscopy"))), set(drawn(phrases_of("endoscopy", held_out=True), 50))
    assert trained and measured and not trained & measured
    assert is_held_out("stone in the kidney") == is_held_out("Kidney stones") == is_held_out("left kidney stone")
    assert is_held_out("bladder") == is_held_out("urinary bladder"), "synonyms share their fate"
    listed = {phrase for phrases in DOCUMENT["findings"].values() for phrase in phrases}
    assert 0.1 < sum(map(is_held_out, listed)) / len(listed) < 0.3


def test_no_wording_is_measured_whose_synonym_is_trained_with() -> None:
    trained, measured = (phrases_of("endoscopy", side).listed["label"] for side in (False, True))
    assert any("brainstem" in group for group in trained) and is_held_out("midbrain pons and medulla")
    assert len(measured) > 20 and not any("midbrain pons and medulla" in group for group in measured)
    assert all(map(is_held_out, (phrase for group in measured for phrase in group)))


def test_all_kinds_are_drawn() -> None:
    phrases, rng = phrases_of("endoscopy"), np.random.default_rng(0)
    kinds = Counter(phrases.draw_any(rng)[0] for _ in range(400))
    assert set(kinds) == set(KINDS) and min(kinds.values()) > 20
    asked = drawn(phrases)
    assert set(DOCUMENT["symbols"]) & set(asked) and {"banana", "engine"} & set(" ".join(asked).split())
    assert any(phrase.startswith(("left polyp", "right polyp")) or phrase.endswith("polyp") for phrase in asked)


def test_ordinary_words_of_learned_labels_are_no_nonsense() -> None:
    either = {*phrases_of("ct").words, *phrases_of("ct", held_out=True).words}
    assert either == {"banana", "engine", "window", "river", "garden", "music"}
    vocabulary = dict.fromkeys(("banana", "##ana", "of", "Äpfel", "x-ray", "liver", "livers", "zebra", "[PAD]"))
    tokenizer = SimpleNamespace(get_vocab=lambda: vocabulary)
    assert whole_words(tokenizer) == ("banana", "zebra")


def test_a_label_that_is_left_out_is_not_drawn_in_any_words() -> None:
    phrases, all_learned = phrases_of("endoscopy", left_out=("polyp",)), phrases_of("endoscopy")
    for phrase in ("polyp", "colorectal polyp", "polypoid lesion", "gastric polyp", "stalk of the polyp"):
        assert not phrases.allows(phrase, "finding") and not phrases.allows(phrase, "composed")
    assert not any("polyp" in phrase for phrase in drawn(phrases))
    assert any("polyp" in phrase for phrase in drawn(all_learned))
    skin = UnlearnedPhrases.of("dermoscopy", [], WORDS, ["skin lesion"])
    assert not skin.allows("melanoma", "label"), "a kind of it"


def test_a_set_of_labels_knows_wordings_terms_and_kinds() -> None:
    labels = LabelSet(Vocabulary.load(), ["glioma", "left lung"], "mri")
    assert labels.means("LGG") and labels.means("lung, left") and not labels.means("brain tumor")
    assert labels.covers("brain tumor") and labels.covers("lungs") and not labels.covers("liver")
    assert labels.narrows("glioblastoma") and labels.narrows("recurrent glioma") and not labels.narrows("tumor")


def test_phrases_can_be_sent_to_other_processes() -> None:
    phrases = phrases_of("fundus")
    assert drawn(ForkingPickler.loads(ForkingPickler.dumps(phrases)), 20) == drawn(phrases, 20)


def test_without_words_there_are_other_phrases() -> None:
    assert len(drawn(UnlearnedPhrases.of("fundus", []), 50)) == 50
    assert phrases_of("ct").draw(0, np.random.default_rng(0)) == []


def test_the_file_lists_no_phrase_twice() -> None:
    assert set(DOCUMENT["findings"]) == set(DOCUMENT["close"]) == set(MODALITIES)
    for phrases in (*DOCUMENT["findings"].values(), DOCUMENT["anywhere"], DOCUMENT["symbols"]):
        assert len(set(phrases)) == len(phrases) and all(isinstance(phrase, str) for phrase in phrases)
