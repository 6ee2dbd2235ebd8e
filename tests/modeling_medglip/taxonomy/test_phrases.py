# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The normal form of phrases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_medglip.taxonomy.phrases import normalize_phrase


@pytest.mark.parametrize(
    ("phrase", "normal"),
    [
        ("Liver", "liver"),
        ("  the LIVER. ", "liver"),
        ("kidney_left", "left kidney"),
        ("Kidneys (LEFT)", "left kidney"),
        ("kidney, left", "left kidney"),
        ("Eye_L", "left eye"),
        ("L eye", "left eye"),
        ("rt. lung", "right lung"),
        ("rib_left_1", "left rib 1"),
        ("upper lobe of the left lung", "left upper lobe of lung"),
        ("1st left rib", "left 1 rib"),
        ("First left rib", "left 1 rib"),
        ("lower-grade gliomas", "lower grade glioma"),
        ("vertebrae L1", "vertebra l1"),
        ("main bronchi", "main bronchus"),
        ("opacities", "opacity"),
        ("breast masses", "breast mass"),
        ("testis", "testis"),
        ("pancreas", "pancreas"),
        ("gluteus maximus", "gluteus maximus"),
        ("oesophagus", "esophagus"),
        ("Haemorrhage", "hemorrhage"),
        ("oedema", "edema"),
        ("tumours", "tumor"),
        ("gray matter", "grey matter"),
        ("optic disk", "optic disc"),
        ("Calot’s triangle", "calot triangle"),
        ("prostate/uterus", "prostate uterus"),
        ("portal & splenic veins", "portal and splenic vein"),
        ("ＬＩＶＥＲ", "liver"),
        ("left and right lung", "left and right lung"),
        ("kidney on the left-hand side", "left kidney"),
        ("kidney of the rt. side", "right kidney"),
        ("left-sided pleural effusion", "left pleural effusion"),
        ("left kidney (left)", "left kidney"),
        ("rib 5 (L)", "left rib 5"),
        ("lower lobe of L lung", "left lower lobe of lung"),
        ("ren dext.", "right ren"),
        ("right side of the liver", "right of liver"),
        ("L-spine", "l spine"),
        ("L 5", "l 5"),
        ("L 5th rib", "left 5 rib"),
        ("LV", "lv"),
        ("l'oreille", "oreille"),
        ("L", "l"),
        ("", ""),
        (" . , ", ""),
    ],
)
def test_normal_form(phrase: str, normal: str) -> None:
    assert normalize_phrase(phrase) == normal


@given(st.text(max_size=80))
def test_normal_form_is_clean_and_stable(phrase: str) -> None:
    normal = normalize_phrase(phrase)
    assert normal == " ".join(normal.split())
    assert not set(normal) & set("_.,;:()-/\n\t")
    # Case and the white space and punctuation around a phrase never matter.
    assert normalize_phrase(f" ({phrase}). ") == normal


@given(st.lists(st.sampled_from(["lung", "rib", "upper", "lobe", "3"]), min_size=1, max_size=4), st.data())
def test_place_of_the_side_word_does_not_matter(words: list[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(words)))
    sided = [*words[:place], "right", *words[place:]]
    assert normalize_phrase("_".join(sided)) == normalize_phrase(" ".join(["right", *words]))
