# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Which labels a training prompt asks, in which words, and which boxes each phrase must find."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import yaml

from dataset_scripts.recipe import RECIPES_FOLDER, load_recipes
from modeling_medglip.taxonomy import load_taxonomy
from modeling_medglip.taxonomy.phrases import normalize_phrase
from training.data.prompts import PromptRecipe, PromptSampler
from training.data.records import SourceSettingsTable
from training.data.unlearned import LabelSet, UnlearnedPhrases
from training.data.vocabulary import SYNONYMS_FILE, LabelWords, Vocabulary


DOCUMENT = {
    "labels": {
        "polyp": {"synonyms": ["adenoma"], "parents": ["lesion"], "regions": ["colon"]},
        "ulcer": {"synonyms": ["mucosal defect"], "parents": ["lesion"], "regions": ["colon"]},
        "optic disc": {"synonyms": ["papilla"], "parents": [], "regions": ["eye"]},
        "nerve": {"synonyms": [], "parents": [], "regions": ["any"]},
    },
    "sided": {
        "kidney": {"synonyms": ["renal organ"], "plural": "kidneys", "parents": [], "regions": ["abdomen"]},
        "ventricle": {"synonyms": [], "abbreviation": "V", "parents": [], "regions": ["chest"]},
    },
    "parents": {"lesion": ["lesions"]},
}
VOCABULARY = Vocabulary(DOCUMENT)
OTHERS = {"endoscopy/a": ("polyp",), "fundus/b": ("optic disc",), "ultrasound/c": ("nerve",)}


def sampler(**recipe: float) -> PromptSampler:
    return PromptSampler(VOCABULARY, OTHERS, PromptRecipe(**recipe))  # type: ignore[arg-type]


def draws(sampler_: PromptSampler, labels: list[str], annotated: list[str], region: str = "abdomen", count: int = 300):
    rng = np.random.default_rng(0)
    return [sampler_.draw(labels, annotated, [region], rng) for _ in range(count)]


def test_sided_labels_get_words_parents_and_partners() -> None:
    assert VOCABULARY.synonyms("left kidney") == ("left renal organ", "kidney, left", "kidney on the left")
    assert VOCABULARY.synonyms("right ventricle")[-1] == "RV"
    assert VOCABULARY.partner("left kidney") == "right kidney" and VOCABULARY.partner("right kidney") == "left kidney"
    assert VOCABULARY.partner("kidney") is None and VOCABULARY.partner("left behind") is None


def test_a_term_for_both_sides_needs_both_annotated() -> None:
    assert VOCABULARY.covered("kidney", ["left kidney", "liver"]) == ()
    both = ["left kidney", "polyp", "right kidney"]
    assert VOCABULARY.covered("kidney", both) == ("left kidney", "right kidney") == VOCABULARY.covered("kidneys", both)
    assert VOCABULARY.covered("lesion", ["polyp", "ulcer", "optic disc"]) == ("polyp", "ulcer")


def test_the_same_seed_gives_the_same_prompts() -> None:
    labels = ["left kidney", "right kidney", "polyp"]
    assert draws(sampler(), labels, labels) == draws(sampler(), labels, labels)


def test_seeds_give_these_prompts() -> None:
    """What a seed draws must not change unnoticed: a run that goes on would draw other prompts than before."""
    others = {
        "endoscopy/a": ("polyp", "ulcer"),
        "fundus/b": ("optic disc", "papilla"),
        "ultrasound/c": ("nerve",),
        "ct/d": ("left kidney", "right kidney", "left ventricle"),
    }
    asked = PromptSampler(VOCABULARY, others, PromptRecipe(replace=0.5, siblings=0.5))
    images: list[tuple[list[str], list[str], list[str], list[str]]] = [
        (["polyp"], ["polyp", "ulcer"], ["colon"], []),
        (["left kidney"], ["left kidney", "right kidney"], [], []),
        ([], ["optic disc"], [], ["optic disc", "nerve"]),
        ([], ["ulcer"], ["skin"], ["optic disc"]),
    ]
    drawn = []
    for number, (labels, annotated, regions, source_labels) in enumerate(images):
        for seed in range(2):
            rng = np.random.default_rng([number, seed])
            prompt = asked.draw(labels, annotated, regions, rng, source_labels)
            drawn.append((*prompt.phrases, *prompt.classes, int(rng.integers(1000))))
    assert drawn == [
        ("polyp", "left ventricle", "mucosal defect", "right kidney", 0, 394),
        ("polyp", "ulcer", "left kidney", "papilla", 0, 960),
        ("papilla", "kidneys", 1, 549),
        ("right kidney", "papilla", "optic disc", "kidney, left", 3, 675),
        ("papilla", "LV", 55),
        ("optic disc", 205),
        ("polyp", 801),
        ("right kidney", "mucosal defect", "kidney on the right", 931),
    ]


def test_plain_prompts_ask_everything_or_a_subset_with_its_boxes() -> None:
    annotated = ["left kidney", "polyp", "right kidney", "ulcer"]
    prompts = draws(sampler(replace=0.0, foreign=0), ["polyp", "left kidney", "polyp"], annotated)
    for prompt in prompts:
        assert set(prompt.phrases) <= set(annotated) and len(set(prompt.phrases)) == len(prompt.phrases)
        pairs = {(box, prompt.phrases[index]) for box, index in zip(prompt.boxes, prompt.classes, strict=True)}
        expected = {(0, "polyp"), (1, "left kidney"), (2, "polyp")}
        assert pairs == {(box, name) for box, name in expected if name in prompt.phrases}
    full = sum(len(prompt.phrases) == 4 for prompt in prompts)
    assert 0.45 < full / len(prompts) < 0.75
    assert len({prompt.phrases for prompt in prompts if len(prompt.phrases) == 4}) > 10, "the order is shuffled"


def test_only_annotated_labels_are_negatives() -> None:
    prompts = draws(sampler(replace=0.0, foreign=0), ["polyp"], ["polyp", "ulcer"])
    assert {phrase for prompt in prompts for phrase in prompt.phrases} == {"polyp", "ulcer"}


def test_foreign_labels_cannot_be_in_the_image() -> None:
    prompts = draws(sampler(replace=0.0), ["polyp"], ["polyp"], "colon")
    words = Counter(phrase for prompt in prompts for phrase in prompt.phrases)
    assert set(words) == {"polyp", "optic disc"}, "polyp is of this region, a nerve may be anywhere"
    assert VOCABULARY.foreign(["eye"], ["polyp", "nerve", "optic disc", "unheard of"]) == ("polyp",)


def test_sources_of_one_label_get_prompts_without_a_positive() -> None:
    prompts = draws(sampler(no_positive=0.2), ["polyp"], ["polyp"], "colon")
    empty = [prompt for prompt in prompts if not prompt.boxes]
    assert 0.12 < len(empty) / len(prompts) < 0.28
    assert all(prompt.phrases for prompt in empty)


def test_parent_terms_get_the_boxes_of_all_their_labels() -> None:
    prompts = draws(
        sampler(replace=1.0, parent=1.0, foreign=0, all_labels=1.0), ["polyp", "ulcer", "polyp"], ["polyp", "ulcer"]
    )
    assert {prompt.phrases for prompt in prompts} == {("lesion",), ("lesions",)}
    assert all(prompt.boxes == (0, 1, 2) and prompt.classes == (0, 0, 0) for prompt in prompts)


def test_general_terms_are_not_negatives_but_both_sides_are() -> None:
    asked = sampler(replace=1.0, parent=1.0, foreign=0, all_labels=1.0)
    absent = {phrase for prompt in draws(asked, [], ["polyp", "ulcer"], "colon") for phrase in prompt.phrases}
    assert absent == {"adenoma", "mucosal defect"}, "a lesion of another kind may be there"
    sides = {p for prompt in draws(asked, [], ["left kidney", "right kidney"]) for p in prompt.phrases}
    assert "kidneys" in sides


def test_what_was_cut_off_is_not_a_foreign_label() -> None:
    others = {"a": ("polyp", "papilla", "optic disc", "left kidney")}
    asked = PromptSampler(VOCABULARY, others, PromptRecipe(replace=0.0, foreign=3))
    rng = np.random.default_rng(0)
    prompts = [asked.draw([], [], ["skin"], rng, ["optic disc"]) for _ in range(100)]
    assert {phrase for prompt in prompts for phrase in prompt.phrases} == {"polyp", "left kidney"}


def test_the_cache_of_words_does_not_grow_with_the_prompts() -> None:
    vocabulary, rng = Vocabulary(DOCUMENT), np.random.default_rng(0)
    chosen = PromptSampler(vocabulary, OTHERS, PromptRecipe(replace=1.0))
    names = [*vocabulary.words, *(f"thing {number}" for number in range(10))]
    for _ in range(300):
        annotated = [str(name) for name in rng.permutation(names)[: rng.integers(1, len(names))]]
        chosen.draw(annotated[:3], annotated, ["abdomen"], rng)
    assert len(vocabulary._wordings) <= len(names)


def test_what_was_asked_before_changes_nothing() -> None:
    vocabulary = Vocabulary(DOCUMENT, load_taxonomy())
    names = tuple(vocabulary.words)
    assert vocabulary.of("lung nodule").parents and tuple(vocabulary.words) == names


@pytest.mark.parametrize("parent", [0.0, 0.5, 1.0])
def test_no_label_is_asked_under_two_phrases(parent: float) -> None:
    labels = ["left kidney", "right kidney", "polyp", "ulcer"]
    terms = {"left kidney": {"kidney", "kidneys"}, "right kidney": {"kidney", "kidneys"}}
    terms |= {"polyp": {"lesion", "lesions"}, "ulcer": {"lesion", "lesions"}}
    for prompt in draws(sampler(replace=0.6, parent=parent, foreign=0), labels, labels):
        assert len(set(prompt.boxes)) == len(prompt.boxes)
        for label, parents in terms.items():
            wordings = {label, *VOCABULARY.synonyms(label)}
            assert len([phrase for phrase in prompt.phrases if phrase in wordings | parents]) <= 1
        for phrase in set(prompt.phrases) & {"kidney", "kidneys"}:
            assert [
                box for box, index in zip(prompt.boxes, prompt.classes, strict=True) if prompt.phrases[index] == phrase
            ] == [0, 1]


def test_a_synonym_that_is_another_label_is_not_asked() -> None:
    document = {"labels": {
        "airways": {"synonyms": ["trachea"], "parents": [], "regions": ["chest"]},
        "trachea": {"synonyms": ["windpipe"], "parents": [], "regions": ["chest"]},
    }}  # fmt: skip
    chosen = PromptSampler(Vocabulary(document), {}, PromptRecipe(replace=1.0, foreign=0))
    for prompt in draws(chosen, ["airways", "trachea"], ["airways", "trachea"]):
        for box, index in zip(prompt.boxes, prompt.classes, strict=True):
            assert prompt.phrases[index] in (("airways",), ("trachea", "windpipe"))[box]


def test_an_absent_label_is_not_asked_in_words_of_a_present_one() -> None:
    vocabulary = Vocabulary.load()
    present = {" ".join(word.lower().split()) for word in ("Polyp", *vocabulary.synonyms("Polyp"))}
    chosen = PromptSampler(vocabulary, {}, PromptRecipe(replace=1.0, parent=0.0, foreign=0, all_labels=1.0))
    for prompt in draws(chosen, ["Polyp"], ["Polyp", "adenoma"], "colon"):
        (positive,) = prompt.classes
        assert not {p.lower() for index, p in enumerate(prompt.phrases) if index != positive} & (present - {"adenoma"})


def test_what_is_there_is_asked_before_what_is_not() -> None:
    names = [f"thing {number}" for number in range(40)]
    recipe = PromptRecipe(token_budget=20, replace=0.0, all_labels=1.0, foreign=0)
    sampler = PromptSampler(VOCABULARY, {}, recipe, token_length=lambda phrase: 3)
    for seed in range(20):
        prompt = sampler.draw(["thing 3", "thing 7"], names, (), np.random.default_rng(seed))
        assert len(prompt.phrases) == 6 and {"thing 3", "thing 7"} <= set(prompt.phrases)
        assert [prompt.phrases[index] for index in prompt.classes] == ["thing 3", "thing 7"]


def test_the_token_budget_holds() -> None:
    chosen = PromptSampler(
        VOCABULARY, OTHERS, PromptRecipe(token_budget=9, replace=0.0), token_length=lambda phrase: 3
    )
    labels = ["left kidney", "right kidney", "polyp", "ulcer"]
    assert max(len(prompt.phrases) for prompt in draws(chosen, labels, labels)) == 2
    tight = PromptSampler(VOCABULARY, OTHERS, PromptRecipe(token_budget=1), token_length=lambda phrase: 3)
    assert {len(prompt.phrases) for prompt in draws(tight, labels, labels)} == {1}


def test_an_image_without_findings_is_asked_for_negatives() -> None:
    for prompt in draws(sampler(replace=0.0), [], ["polyp", "ulcer"], "colon"):
        assert prompt.boxes == () and prompt.phrases


def test_the_shipped_words_cover_the_shipped_sources() -> None:
    vocabulary = Vocabulary.load()
    assert "adenoma" in vocabulary.synonyms("polyp") and "lesion" in vocabulary.words["polyp"].parents
    assert vocabulary.covered("kidney", ["left kidney", "right kidney"]) == ("left kidney", "right kidney")
    assert "GBM" not in vocabulary.synonyms("glioma"), "excluded from the taxonomy's synonyms"
    assert "heart myocardium" in vocabulary.synonyms("myocardium"), "comes from the taxonomy"
    sources = SourceSettingsTable.load().sources
    regions = {region for entry in sources.values() for region in entry["regions"]} | {"any"}
    for name, words in list(vocabulary.words.items()):
        if not (words.regions or words.synonyms):  # asked for by another test, and not known
            continue
        assert words.regions <= regions and words.regions, name
        assert name not in words.synonyms and not set(words.synonyms) & set(words.parents), name


def test_every_wording_of_the_check_is_known() -> None:
    vocabulary = Vocabulary.load()
    checks = yaml.safe_load(SYNONYMS_FILE.read_text(encoding="utf-8"))["check"]
    sources = {(recipe.modality, recipe.source) for recipe in load_recipes(RECIPES_FOLDER / "real_data.yaml")}
    for modality, entries in checks.items():
        for entry in entries:
            assert (modality, entry["source"]) in sources
            assert entry["label"] in vocabulary.words and entry["wordings"]


def test_labels_that_are_not_listed_come_from_the_taxonomy() -> None:
    vocabulary = Vocabulary.load()
    assert "rib" in vocabulary.of("left rib 1").parents and "vertebra" in vocabulary.of("vertebra L1").parents
    assert vocabulary.of("left kidney cyst").parents == ("kidney cyst", "lesion", "abnormality")
    assert "abdomen" in vocabulary.of("left kidney cyst").regions
    assert vocabulary.of("a thing of mine") == LabelWords((), (), frozenset())
    assert vocabulary.covered("rib", ["left rib 1", "right rib 1", "liver"]) == ("left rib 1", "right rib 1")


def test_regions_of_a_image_are_known_only_if_all_its_labels_are() -> None:
    vocabulary = Vocabulary.load()
    assert vocabulary.regions(["optic disc"]) == ("brain", "eye", "head_neck", "spine")
    beside = vocabulary.regions(["liver", "spleen"])
    assert {"abdomen", "chest", "breast", "spine", "pelvis", "limb", "head_neck"} <= set(beside)
    assert not vocabulary.foreign(beside, ["heart", "lung nodule", "pancreas", "breast tumor"])
    assert vocabulary.foreign(beside, ["optic disc", "liver"]) == ("optic disc",)
    head = vocabulary.regions(["fetal head"])
    assert not vocabulary.foreign(head, ["left thalamus", "heart", "stomach", "spine", "rib"])
    assert vocabulary.foreign(head, ["melanoma", "polyp"]) == vocabulary.foreign(head, ["melanoma"])
    assert not vocabulary.foreign(vocabulary.regions(["parotid gland"]), ["trachea", "esophagus", "aorta"])
    assert not vocabulary.foreign(vocabulary.regions(["polyp"]), ["stomach", "esophagus", "duodenum"])
    assert vocabulary.regions(["liver", "a thing of mine"]) == () and vocabulary.regions([]) == ()
    assert vocabulary.foreign((), ["optic disc"]) == () and vocabulary.foreign(("abdomen",), ["optic disc"])


def test_a_term_that_means_an_annotated_label_is_not_a_parent() -> None:
    vocabulary = Vocabulary.load()
    sides = ["left lung", "right lung"]
    assert vocabulary.covered("lungs", sides) == ("left lung", "right lung")
    assert vocabulary.covered("lungs", [*sides, "lung"]) == ()


def test_categories_and_regions_stand_for_all_their_labels() -> None:
    vocabulary = Vocabulary.load()
    assert vocabulary.groups("left lung") == ("chest (lung)", "chest (thorax)")
    assert vocabulary.groups("aorta") == ("chest (great vessels)", "chest (thorax)")
    assert vocabulary.groups("nothing known") == ()
    annotated = ["aorta", "left lung", "liver", "right lung"]
    asked = PromptSampler(vocabulary, {}, PromptRecipe(replace=1.0, group=1.0, foreign=0, all_labels=1.0))
    rng, seen = np.random.default_rng(0), set()
    for _ in range(200):
        prompt = asked.draw(["left lung", "right lung", "aorta"], annotated, ["chest"], rng)
        by_phrase = {prompt.phrases[index]: [] for index in prompt.classes}
        for box, index in zip(prompt.boxes, prompt.classes, strict=True):
            by_phrase[prompt.phrases[index]].append(box)
        if "chest (thorax)" in by_phrase and not {"chest (lung)", "chest (great vessels)"} & set(prompt.phrases):
            assert by_phrase["chest (thorax)"] == [0, 1, 2]
        if "chest (lung)" in by_phrase:
            assert by_phrase["chest (lung)"] == [0, 1]
        seen |= set(prompt.phrases)
    assert {"chest (lung)", "chest (thorax)"} <= seen and "abdomen (liver)" not in seen, "nothing of it is there"


def test_without_a_taxonomy_there_are_no_groups() -> None:
    assert VOCABULARY.groups("polyp") == ()
    assert draws(sampler(replace=1.0, group=1.0), ["polyp"], ["polyp"], "colon")


def test_a_prompt_is_never_empty() -> None:
    asked = sampler(foreign=0, replace=0.0, all_labels=1.0)
    assert {prompt.phrases for prompt in draws(asked, [], [], "abdomen", 20)} <= {("polyp",), ("optic disc",)}
    assert all(
        prompt.phrases == ("polyp",) for prompt in draws(asked, ["polyp"], ["polyp"], "colon", 20) if prompt.boxes
    )


LISTENING = PromptRecipe(replace=0.0, foreign=0, unlearned=4, only_unlearned=0.2)


def test_unlearned_phrases_are_asked_beside_labels_and_alone() -> None:
    unlearned = UnlearnedPhrases.of("endoscopy", ["polyp"], ["banana", "engine", "river"])
    asked = PromptSampler(VOCABULARY, {}, LISTENING, unlearned=unlearned)
    prompts = draws(asked, ["polyp"], ["polyp", "ulcer"], "colon")
    others = [[phrase for phrase in prompt.phrases if phrase not in ("polyp", "ulcer")] for prompt in prompts]
    assert {len(phrases) for phrases in others} == {0, 1, 2, 3, 4}
    assert all(prompt.phrases[index] == "polyp" for prompt in prompts for index in prompt.classes)
    alone = [prompt for prompt, phrases in zip(prompts, others, strict=True) if len(phrases) == len(prompt.phrases)]
    assert 0.1 < len(alone) / len(prompts) < 0.3 and not any(prompt.boxes for prompt in alone)


def test_without_the_recipe_nothing_unlearned_is_asked() -> None:
    unlearned = UnlearnedPhrases.of("endoscopy", ["polyp"], ["banana"])
    plain = PromptSampler(VOCABULARY, OTHERS, PromptRecipe())
    assert draws(
        PromptSampler(VOCABULARY, OTHERS, PromptRecipe(), unlearned=unlearned), ["polyp"], ["polyp"]
    ) == draws(plain, ["polyp"], ["polyp"])


def test_a_label_brings_along_an_absent_sibling() -> None:
    annotated = ["left kidney", "optic disc", "polyp", "right kidney", "ulcer"]
    asked = sampler(replace=0.0, foreign=0, all_labels=0.0, siblings=1.0)
    for prompt in draws(asked, ["polyp", "left kidney"], annotated):
        for label, sibling in (("polyp", "ulcer"), ("left kidney", "right kidney")):
            assert label not in prompt.phrases or sibling in prompt.phrases
    both = draws(asked, ["polyp", "ulcer"], ["polyp", "ulcer"])
    assert all(len(set(prompt.phrases)) == len(prompt.phrases) for prompt in both)


def test_descriptions_have_a_share_of_their_own() -> None:
    vocabulary = Vocabulary({**DOCUMENT, "descriptions": {"polyp": ["bump on the wall"], "ulcer": ["hole in it"]}})
    asked = PromptSampler(vocabulary, {}, PromptRecipe(replace=0.0, foreign=0, all_labels=1.0, description=0.4))
    words = Counter()
    for prompt in draws(asked, ["polyp"], ["polyp", "ulcer"], "colon"):
        words.update(prompt.phrases)
        assert all(prompt.phrases[index] in ("polyp", "bump on the wall") for index in prompt.classes)
    assert set(words) == {"polyp", "ulcer", "bump on the wall", "hole in it"}
    assert 80 < words["bump on the wall"] < 160
    silent = PromptSampler(vocabulary, {}, PromptRecipe(replace=1.0, parent=0.0, foreign=0, all_labels=1.0))
    assert "bump on the wall" not in {p for prompt in draws(silent, ["polyp"], ["polyp"]) for p in prompt.phrases}


def test_a_term_for_a_label_that_is_left_out_is_not_asked() -> None:
    both = ["left kidney", "right kidney"]
    recipe = PromptRecipe(replace=1.0, parent=1.0, foreign=0, all_labels=1.0)
    asked = PromptSampler(VOCABULARY, {}, recipe)
    assert {p for prompt in draws(asked, both, both) for p in prompt.phrases} == {"kidney", "kidneys"}
    held_out = LabelSet(VOCABULARY, ["kidney"], "ct")
    left_out = PromptSampler(VOCABULARY, {}, recipe, left_out=held_out)
    assert {p for prompt in draws(left_out, both, both) for p in prompt.phrases} == set(both)


def test_the_wordings_for_measuring_are_in_no_prompt() -> None:
    vocabulary = Vocabulary.load()
    for label, wordings in vocabulary.held_out.items():
        words = (label, *vocabulary.synonyms(label), *vocabulary.descriptions.get(label, ()))
        assert not set(map(normalize_phrase, wordings)) & set(map(normalize_phrase, words)), label
    assert "polyp" in vocabulary.held_out


def test_a_wording_for_measuring_is_not_taken_from_the_taxonomy() -> None:
    document = {**DOCUMENT, "held_out": {"endoscopy/a": {"polyp": ["polypoid lesion"]}}}
    assert "polypoid lesion" in Vocabulary(DOCUMENT, load_taxonomy()).synonyms("polyp")
    assert "polypoid lesion" not in Vocabulary(document, load_taxonomy()).synonyms("polyp")


def test_descriptions_are_of_one_label_and_of_all_that_are_listed() -> None:
    vocabulary, document = Vocabulary.load(), yaml.safe_load(SYNONYMS_FILE.read_text(encoding="utf-8"))
    described = {label for label, words in vocabulary.descriptions.items() if words}
    sides = {f"{side} {base}" for base in document["sided"] for side in ("left", "right")}
    assert not (document["labels"].keys() | sides) - described
    pairs = {(normalize_phrase(word), label) for label in described for word in vocabulary.descriptions[label]}
    words = {word for word, _ in pairs}
    assert len(words) == len(pairs), "no two labels share one"
    names = {normalize_phrase(word) for label in vocabulary.words for word in (label, *vocabulary.synonyms(label))}
    assert not names & words
    assert vocabulary.descriptions["left kidney"][0] == "bean-shaped organ on the left of the spine"
    assert not any("{" in word for label in described for word in vocabulary.descriptions[label])
