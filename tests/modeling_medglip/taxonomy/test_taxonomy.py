# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The packaged taxonomy: its counts, its notes, and what phrases mean in it."""

from __future__ import annotations

import copy
import dataclasses
import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from modeling_medglip.configuration_medglip import MODALITIES
from modeling_medglip.taxonomy import TAXONOMY_FILE, Location, Taxonomy, load_taxonomy, taxonomy_from_document


TAXONOMY = load_taxonomy()
EVERY_LABEL = [*TAXONOMY.labels.values(), *TAXONOMY.extensions.values()]
# Each phrase that means exactly one label, with that label's id.
PHRASES = [
    (phrase, label.id) for label in EVERY_LABEL for phrase in label.phrases if len(TAXONOMY.candidates(phrase)) == 1
]


def ids(phrase: str, modality: str | None = None) -> list[str]:
    return [label.id for label in TAXONOMY.resolve_term(phrase, modality)]


class TestContents:
    def test_counts_of_the_paper(self) -> None:
        assert (len(TAXONOMY.labels), len(TAXONOMY.categories), len(TAXONOMY.regions)) == (198, 38, 6)

    def test_ids_are_unique_and_plain(self) -> None:
        assert len({label.id for label in EVERY_LABEL}) == len(EVERY_LABEL)
        assert all(re.fullmatch(r"[a-z0-9_]+|vertebra_[CTLS]\d+", label.id) for label in EVERY_LABEL)

    def test_every_label_hangs_in_the_tree(self) -> None:
        for label in TAXONOMY.labels.values():
            assert label.category is not None and label.region == TAXONOMY.categories[label.category].region
        used = {label.category for label in TAXONOMY.labels.values()}
        assert used == set(TAXONOMY.categories)
        assert {category.region for category in TAXONOMY.categories.values()} == set(TAXONOMY.regions)

    def test_granularities_of_the_198(self) -> None:
        kinds = [label.granularity for label in TAXONOMY.labels.values()]
        assert {kind: kinds.count(kind) for kind in sorted(set(kinds))} == {
            "lesion": 22,
            "organ": 76,
            "other": 1,
            "substructure": 99,
        }

    def test_modalities_are_the_package_s(self) -> None:
        for label in EVERY_LABEL:
            assert label.modalities and set(label.modalities) <= set(MODALITIES), label.id

    def test_each_raw_name_belongs_to_one_label(self) -> None:
        raw = [name for label in EVERY_LABEL for name in label.imed_names]
        assert len(raw) == len(set(raw)) == 237
        assert [label.id for label in TAXONOMY.labels.values() if not label.imed_names] == ["hypoxic_ischemic_lesion"]

    def test_sides_come_in_pairs(self) -> None:
        other_side = {"left": "right", "right": "left"}
        sided = {label.id for label in EVERY_LABEL if label.laterality}
        unpaired = {one for one in sided if re.sub("left|right", lambda side: other_side[side[0]], one) not in sided}
        # Anatomy has these on one side only, or only that side is named.
        assert unpaired == {
            "atrial_appendage_left",
            "left_ventricular_myocardium",
            "left_ventricular_myocardial_edema",
            "left_ventricular_myocardial_scar",
            "lung_middle_lobe_right",
        }

    def test_entries_cannot_be_changed(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            TAXONOMY.label("liver").name = "spleen"  # type: ignore[misc]
        with pytest.raises(TypeError):
            TAXONOMY.labels["liver"] = TAXONOMY.label("spleen")  # type: ignore[index]

    def test_a_copy_for_another_process_is_equal_and_cannot_be_changed(self) -> None:
        other = copy.deepcopy(TAXONOMY)  # goes the way of pickling
        assert other == TAXONOMY and other is not TAXONOMY
        with pytest.raises(TypeError):
            other.labels["liver"] = TAXONOMY.label("spleen")  # type: ignore[index]

    def test_read_once(self) -> None:
        assert load_taxonomy() is TAXONOMY


class TestNotes:
    def test_only_the_checked_source_counts_as_verified(self) -> None:
        for label in EVERY_LABEL:
            for code in label.codes:
                assert code.verified == (code.basis == "totalsegmentator_csv")
                assert code.system == "SNOMED CT" or not code.verified

    def test_unverified_codes(self) -> None:
        unverified = [(label.id, code.system, code.value) for label, code in TAXONOMY.unverified_codes()]
        assert ("rectum", "SNOMED CT", "34402009") in unverified
        assert ("liver", "UBERON", "UBERON:0002107") in unverified
        assert ("liver", "SNOMED CT", "10200004") not in unverified
        assert [system for _, system, _ in unverified].count("SNOMED CT") == 3

    def test_side_modifier_of_codes(self) -> None:
        left, right = (TAXONOMY.label(f"kidney_{side}").codes[0] for side in ("left", "right"))
        assert (left.value, left.modifier) == ("64033007", "7771000")
        assert (right.value, right.modifier) == ("64033007", "24028007")

    def test_notes_and_inferred_names_stay_visible(self) -> None:
        assert "union class" in (TAXONOMY.label("prostate_and_uterus").note or "")
        assert [region.id for region in TAXONOMY.regions.values() if not region.attested_in_paper] == ["skin"]
        meta = yaml.safe_load(TAXONOMY_FILE.read_text(encoding="utf-8"))["meta"]
        assert meta["status"].startswith("Draft") and "UNVERIFIED" in meta["codes"]


class TestResolve:
    @pytest.mark.parametrize(
        ("phrase", "label_id"),
        [
            ("WMH", "white_matter_hyperintensity"),
            ("White matter hyperintensities", "white_matter_hyperintensity"),
            ("IVC", "inferior_vena_cava"),
            ("LV", "heart_ventricle_left"),
            ("rv", "heart_ventricle_right"),
            ("LA", "heart_atrium_left"),
            ("RA", "heart_atrium_right"),
            ("CSF", "cerebrospinal_fluid"),
            ("GB", "gallbladder"),
            ("gall bladder", "gallbladder"),
            ("left suprarenal gland", "adrenal_gland_left"),
            ("Kidneys, left", "kidney_left"),
            ("kidney", "kidney"),
            ("adenoma", "polyp"),
            ("tumour of the breast", None),
            ("breast tumours", "breast_tumor"),
            ("L1", "vertebra_L1"),
            ("twelfth thoracic vertebra", "vertebra_T12"),
            ("12th right rib", "rib_right_12"),
            ("left lower lobe", "lung_lower_lobe_left"),
            ("portal vein and splenic vein", "portal_vein_and_splenic_vein"),
            ("lower grade glioma", "glioma"),
            ("edema", None),
            ("eye", None),
            ("unicorn", None),
            ("", None),
        ],
    )
    def test_phrases(self, phrase: str, label_id: str | None) -> None:
        label = TAXONOMY.resolve(phrase)
        assert (label and label.id) == label_id

    @pytest.mark.parametrize("label", EVERY_LABEL, ids=lambda label: label.id)
    def test_name_and_id_mean_the_label(self, label: Any) -> None:
        assert TAXONOMY.resolve(label.name) is label
        assert TAXONOMY.resolve(label.id) is label
        assert TAXONOMY.label(label.id) is label

    def test_every_synonym_means_one_label_or_is_listed_as_ambiguous(self) -> None:
        several = {phrase for label in EVERY_LABEL for phrase in label.phrases} - {phrase for phrase, _ in PHRASES}
        assert several == {"edema"}
        assert set(TAXONOMY.ambiguous) == {"edema", "OD", "OC"}

    @given(st.sampled_from(PHRASES), st.sampled_from([str.upper, str.title, str.lower]), st.sampled_from(" _-"))
    def test_spelling_does_not_matter(self, entry: tuple[str, str], case: Any, gap: str) -> None:
        phrase, label_id = entry
        label = TAXONOMY.resolve(f" the {case(phrase)}.".replace(" ", gap))
        assert label is not None and label.id == label_id

    @given(st.sampled_from([label for label in EVERY_LABEL if label.name.startswith(("left ", "right "))]))
    def test_side_word_may_stand_last_or_be_short(self, label: Any) -> None:
        side, _, rest = label.name.partition(" ")
        for phrase in (f"{rest}, {side}", f"{rest} {side[0].upper()}", f"{side[0]}t {rest}"):
            assert TAXONOMY.resolve(phrase) is label

    @given(st.text(max_size=60))
    def test_any_text_gives_an_answer(self, phrase: str) -> None:
        label = TAXONOMY.resolve(phrase)
        location = TAXONOMY.locate(phrase)
        assert (label is None) or (location is not None and location.label_id == label.id)

    def test_modality_settles_what_is_ambiguous(self) -> None:
        assert TAXONOMY.resolve("OD") is None
        assert [label.id for label in TAXONOMY.candidates("OD")] == ["optic_disc", "eye_right"]
        disc = TAXONOMY.resolve("OD", "fundus")
        assert disc is not None and disc.id == "optic_disc"
        # It does not hide a label from a modality where it is unusual.
        assert TAXONOMY.resolve("polyp", "CT") is TAXONOMY.label("polyp")

    def test_unknown_modality(self) -> None:
        with pytest.raises(ValueError, match="choose one of ct, mri"):
            TAXONOMY.resolve("OD", "smell")

    def test_label_wants_an_id(self) -> None:
        with pytest.raises(ValueError, match="no label has the id 'Liver'"):
            TAXONOMY.label("Liver")


class TestTerms:
    def test_kinds_and_sides(self) -> None:
        assert ids("kidneys") == ["kidney", "kidney_left", "kidney_right"]
        assert ids("left kidney") == ["kidney_left"]
        assert ids("eye") == ["eye_left", "eye_right"]
        assert ids("hippocampi") == ["hippocampus_left", "hippocampus_right"]
        assert ids("breast tumor") == ["breast_tumor", "benign_breast_tumor", "malignant_breast_tumor"]
        assert ids("subdural hematoma") == ["subdural_hematoma"]
        assert len(ids("ICH")) == 6

    def test_parts_are_not_kinds(self) -> None:
        assert ids("brain") == ["brain"]
        assert "kidney_tumor" not in ids("kidney")

    def test_groups(self) -> None:
        assert len(ids("ribs")) == 24 and len(ids("left ribs")) == 12
        assert ids("lumbar spine") == [f"vertebra_L{number}" for number in range(1, 7)]
        assert {"polyp", "skin_lesion", "lung_nodule"} <= set(ids("lesion"))
        assert all(TAXONOMY.label(label_id).granularity == "lesion" for label_id in ids("lesions"))

    def test_groups_in_a_modality(self) -> None:
        assert ids("lesion", "dermoscopy")[0] == "skin_lesion"
        assert {TAXONOMY.label(label_id).kind_of for label_id in ids("lesion", "dermoscopy")[1:]} == {"skin_lesion"}
        assert ids("lesion", "endoscopy") == ["polyp"]
        assert ids("nodule", "US") == ["thyroid_nodule"]
        assert ids("rib", "fundus") == []

    def test_categories_and_regions(self) -> None:
        assert ids("abdomen (liver)") == ids("abdomen_liver") == ["liver", "liver_tumor"]
        assert set(ids("ear")) == {label.id for label in TAXONOMY.in_category("head_ear")}
        assert {TAXONOMY.label(label_id).region for label_id in ids("thorax")} == {"chest"}
        for category in TAXONOMY.categories.values():
            assert ids(category.name) == [label.id for label in TAXONOMY.in_category(category.id)]

    def test_unknown(self) -> None:
        assert ids("unicorn") == []
        with pytest.raises(ValueError, match="no category has the id 'abdomen'"):
            TAXONOMY.in_category("abdomen")

    def test_ancestors(self) -> None:
        assert [label.id for label in TAXONOMY.ancestors("lung_upper_lobe_left")] == ["lung_left", "lung"]
        assert [label.id for label in TAXONOMY.ancestors("glioma")] == ["brain_tumor", "brain"]
        assert TAXONOMY.ancestors("liver") == ()


class TestLocate:
    def test_one_label(self) -> None:
        assert TAXONOMY.locate("Polyps") == Location("polyp", "abdomen_colon", "abdomen")

    def test_shared_category_of_several(self) -> None:
        assert TAXONOMY.locate("eye") == Location(None, "head_eye", "head")
        assert TAXONOMY.locate("abdomen") == Location(None, None, "abdomen")
        assert TAXONOMY.locate("edema") == Location(None, None, None)

    def test_outside(self) -> None:
        assert TAXONOMY.locate("unicorn") is None
        assert TAXONOMY.locate("fetal head") == Location("fetal_head", None, None)


class TestBadFile:
    @pytest.fixture
    def document(self) -> dict[str, Any]:
        return copy.deepcopy(
            {
                "regions": [{"id": "abdomen", "name": "abdomen", "attested_in_paper": True}],
                "categories": [{"id": "abdomen_liver", "name": "abdomen (liver)", "region": "abdomen"}],
                "labels": [
                    {"id": name, "name": name, "category": "abdomen_liver", "granularity": "organ"}
                    for name in ("liver", "spleen")
                ],
            }
        )

    def test_small_one_is_read(self, document: dict[str, Any]) -> None:
        taxonomy = taxonomy_from_document(document)
        assert isinstance(taxonomy, Taxonomy) and list(taxonomy.labels) == ["liver", "spleen"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"labels": {"id": "spleen"}}, "two entries share the id spleen"),
            ({"labels": {"category": "hat"}}, "liver refers to the category 'hat'"),
            ({"labels": {"parent": "hat"}}, "liver refers to the label 'hat'"),
            ({"labels": {"parent": "liver"}}, "liver is above itself"),
            ({"labels": {"kind_of": "liver"}}, "liver is above itself"),
            ({"labels": {"granularity": "big"}}, "unknown granularity or laterality of liver"),
            ({"labels": {"laterality": "up"}}, "unknown granularity or laterality of liver"),
            ({"labels": {"synonyms": ["Spleens"]}}, "'spleen' means liver and spleen"),
            ({"categories": {"region": "hat"}}, "abdomen_liver refers to the region 'hat'"),
        ],
    )
    def test_faults(self, document: dict[str, Any], change: dict[str, dict[str, Any]], message: str) -> None:
        for part, values in change.items():
            document[part][0].update(values)
        with pytest.raises(ValueError, match=message):
            taxonomy_from_document(document)

    def test_fault_in_an_extension(self, document: dict[str, Any]) -> None:
        document["extensions"] = [{"id": "hat", "name": "hat", "granularity": "other", "region": "hat"}]
        with pytest.raises(ValueError, match="hat refers to the region 'hat'"):
            taxonomy_from_document(document)

    def test_ambiguous_phrase_without_a_label(self, document: dict[str, Any]) -> None:
        document["ambiguous"] = [{"phrase": "X", "labels": ["liver", "hat"]}]
        with pytest.raises(ValueError, match="the ambiguous phrase 'X' names hat"):
            taxonomy_from_document(document)

    @pytest.mark.parametrize("term", [{"members": ["liver", "hat_*"]}, {"granularity": "lesion"}])
    def test_term_without_members(self, document: dict[str, Any], term: dict[str, Any]) -> None:
        document["terms"] = [{"name": "group", **term}]
        with pytest.raises(ValueError, match="the term group has no member"):
            taxonomy_from_document(document)
