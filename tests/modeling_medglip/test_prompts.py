# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Prompts: their labels, sides, repetitions, and the forms that callers write them in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_medglip import MedGlipProcessor
from modeling_medglip.processing_medglip import (
    clean_label,
    prompts_per_image,
    spell_out_side,
    split_prompt,
    unique_labels,
)

from .tiny_processor import tiny_processor, words_of


IMAGE = np.zeros((32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def processor() -> MedGlipProcessor:
    return tiny_processor({"modality": "endoscopy"})


@pytest.mark.parametrize(
    ("prompt", "labels"),
    [
        ("liver. spleen.", ["liver", "spleen"]),
        ("liver. spleen", ["liver", "spleen"]),
        ("Detect: Liver, left  kidney", ["Liver", "left  kidney"]),
        ("liver;spleen\nleft kidney", ["liver", "spleen", "left kidney"]),
        ("liver.spleen", ["liver", "spleen"]),
        ("nodule of 1.5 cm. liver", ["nodule of 1.5 cm", "liver"]),
        ("nodule 5, liver", ["nodule 5", "liver"]),
        ("kidney, left-sided. the lt. kidney", ["kidney, left-sided", "the lt. kidney"]),
        ("kidney, L. kidney, R.", ["kidney, L", "kidney, R"]),
        ("liver, spleen, L. kidney", ["liver", "spleen", "L. kidney"]),
        ("liver, kidney, L. kidney, R.", ["liver", "kidney, L", "kidney, R"]),
        ("liver. kidney, L. spleen", ["liver", "kidney, L", "spleen"]),
        ("liver. spleen. L. kidney, R. kidney.", ["liver", "spleen", "L. kidney", "R. kidney"]),
        ("kidney, L. rt kidney_R", ["kidney, L", "rt kidney_R"]),
        ("kidney, lt., liver", ["kidney, lt", "liver"]),
        ("kidney [L.]. kidney {R.}", ["kidney [L.]", "kidney {R.}"]),
        ("Niere, links; re. Niere", ["Niere, links", "re. Niere"]),
        ("L\nkidney", ["L", "kidney"]),
        (" . ; ", []),
        ("", []),
    ],
)
def test_split_prompt(prompt: str, labels: list[str]) -> None:
    assert split_prompt(prompt) == labels


@given(st.text(max_size=40))
def test_split_labels_have_no_outer_spaces(prompt: str) -> None:
    assert all(label and label == label.strip() and ";" not in label for label in split_prompt(prompt))


@pytest.mark.parametrize(
    ("label", "cleaned"),
    [
        ("  Left\tKidney ", "left kidney"),
        ("nodule, lower pole.", "nodule lower pole"),
        ("[SEP] liver", "sep liver"),
        ("<s>_x", "s x"),
        ("liver {1}", "liver 1"),
        ("...", ""),
    ],
)
def test_clean_label(label: str, cleaned: str) -> None:
    assert clean_label(label) == cleaned


@pytest.mark.parametrize(
    ("label", "spelled"),
    [
        ("Kidney (L)", "kidney (left)"),
        ("lt. kidney", "left kidney"),
        ("R kidney", "right kidney"),
        ("kidney_R", "kidney right"),
        ("lower lobe of rt lung", "lower lobe of right lung"),
        ("kidney dext.", "kidney right"),
        ("(L) kidney", "(left) kidney"),
        ("L5", "l5"),
        ("L 5", "l 5"),
        ("L-spine", "l-spine"),
        ("l'oreille", "l'oreille"),
        ("left kidney", "left kidney"),
        ("L", "l"),
        ("linke Lunge", "left lunge"),
        ("Lunge, re.", "lunge right"),
        ("li. Lunge", "left lunge"),
        ("poumon droit", "poumon right"),
        ("riñón izq.", "riñón left"),
        ("left lingual gyrus", "left lingual gyrus"),
    ],
)
def test_spell_out_side(label: str, spelled: str) -> None:
    assert spell_out_side(label) == spelled


@pytest.mark.parametrize("entry", [{"image_id": 1, "annotations": [{"bbox": [1, 2, 30, 40], "category_id": 0}]}, [1]])
def test_annotations_of_another_form_are_refused_in_one_line(processor: MedGlipProcessor, entry: Any) -> None:
    with pytest.raises(ValueError, match=r"^image 0: expected is \{'boxes': x1, y1, x2, y2 in pixels"):
        processor([IMAGE], ["liver"], annotations=[entry])
    with pytest.raises(ValueError, match=r"expected is \{'boxes': x1, y1, x2, y2 in pixels"):
        processor.image_processor([IMAGE], annotations=[entry])


def test_the_tokenizer_sees_sides_in_full_and_the_caller_their_own_words(processor: MedGlipProcessor) -> None:
    annotations = {"boxes": [[0, 0, 9, 9]], "class_labels": ["right kidney"]}
    batch = processor(IMAGE, ["Lt. kidney", "kidney R", "rt kidney"], annotations=annotations)
    assert words_of(processor, batch) == ["left kidney", "kidney right", "right kidney"]
    assert batch["text_labels"] == [["Lt. kidney", "kidney R", "rt kidney"]]
    assert batch["labels"][0]["class_labels"].tolist() == [2]


@pytest.mark.parametrize(
    ("text", "count", "batched", "prompts"),
    [
        ("a. b", 1, False, [["a", "b"]]),
        ("a. b", 2, True, [["a", "b"], ["a", "b"]]),
        (["a", "b, c"], 1, False, [["a", "b, c"]]),
        (["a", "b"], 1, True, [["a", "b"]]),
        (["a, b"], 1, False, [["a, b"]]),
        (["a. b."], 1, True, [["a", "b"]]),
        (["a. b."], 1, False, [["a", "b"]]),
        (["a."], 1, False, [["a."]]),
        (["a, b."], 1, False, [["a, b."]]),
        (["a. b.", "c"], 2, True, [["a", "b"], ["c"]]),
        ([["a", "b, c"], ["d"]], 2, True, [["a", "b, c"], ["d"]]),
        ([["a. b", "c"]], 1, False, [["a. b", "c"]]),
        (("a. b", ["c"]), 2, True, [["a", "b"], ["c"]]),
    ],
)
def test_forms_of_text(text: Any, count: int, batched: bool, prompts: list[list[str]]) -> None:
    assert prompts_per_image(text, count, batched) == prompts


@pytest.mark.parametrize(
    ("text", "count", "message"),
    [
        (["a", "b", "c"], 2, "2 images but 3 prompts: pass a list of labels for each image"),
        ([["a"]], 2, "2 images but 1 prompts"),
        ([["a"], ["b"]], 1, "1 images but 2 prompts"),
        ([["a", 3], ["b"]], 2, "every label must be a string"),
        (7, 1, "text must be a string or a list"),
    ],
)
def test_text_that_does_not_fit(text: Any, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prompts_per_image(text, count, count > 1)


def test_repeated_labels_are_asked_once() -> None:
    labels, cleaned, positions = unique_labels(["Liver", "spleen", "liver ", "kidney"], 10)
    assert labels == ["Liver", "spleen", "kidney"] and positions == [0, 1, 0, 2]
    assert cleaned == ["liver", "spleen", "kidney"]
    assert unique_labels(["liver", "spleen"], 2)[0] == ["liver", "spleen"], "as many as are allowed"


@pytest.mark.parametrize(
    ("prompt", "labels"),
    [
        ("Lt. kidney. Rt. kidney.", ["Lt. kidney", "Rt. kidney"]),
        ("kidney, left. spleen", ["kidney, left", "spleen"]),
        ("kidney, left, spleen, L. lung", ["kidney, left", "spleen", "L. lung"]),
        ("liver, lt. kidney", ["liver", "lt. kidney"]),
        ("kidney (Lt.). spleen", ["kidney (Lt.)", "spleen"]),
        ("1) liver. 2) spleen (a. b", ["1) liver", "2) spleen (a", "b"]),
        ("left. right.", ["left", "right"]),
    ],
)
def test_a_side_is_not_a_label_of_its_own(prompt: str, labels: list[str]) -> None:
    assert split_prompt(prompt) == labels
