# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Which expert an image is grounded with: given, from the header, or recognized in the pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modeling_medglip import ground_volume, grounding
from modeling_medglip.errors import MedGlipError, hint_of
from modeling_medglip.grounding import Grounder, ground_image, load_grounder
from modeling_medglip.io.image_record import ReadImage
from modeling_medglip.modality_choice import choose_modality, modality_choices
from modeling_medglip.outputs.base import UNRECOGNIZED
from modeling_medglip.outputs.results import GroundedBox, validate_boxes
from modeling_medglip.trained_labels import TrainedLabels
from modeling_medglip.volumes.geometry import Volume
from tests.modeling_medglip.tiny_checkpoint import biased_router, save_tiny_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def grounder(folder: Path) -> Grounder:
    return load_grounder(folder, "cpu")


def sample_image(**fields: Any) -> ReadImage:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)
    return ReadImage(pixels, "scan.png", **fields)


class TestModality:
    def test_given_header_or_pixels(self, grounder: Grounder) -> None:
        assert choose_modality(grounder, sample_image(), "CT")[:2] == ("ct", "given")
        assert choose_modality(grounder, sample_image(modality="ct"))[:2] == ("ct", "header")
        name, source, probability, notes = choose_modality(grounder, sample_image())
        assert (name, source, notes) == ("fundus", "pixels", ()) and probability == pytest.approx(0.99, abs=1e-3)

    def test_contradictions_are_reported(self, grounder: Grounder) -> None:
        notes = choose_modality(grounder, sample_image(modality="ct"))[3]
        assert len(notes) == 1 and "pixels look like fundus (probability 0.99)" in notes[0]
        notes = choose_modality(grounder, sample_image(modality="fundus"), "ct")[3]
        assert notes == ("taken as ct, but its header says fundus",)
        assert choose_modality(grounder, sample_image(modality="fundus"))[3] == ()

    def test_the_only_expert_may_be_contradicted(self, folder: Path) -> None:
        alone = load_grounder(folder, "cpu", "ct")
        name, source, probability, notes = choose_modality(alone, sample_image())
        assert (name, source, probability) == ("ct", "checkpoint", None)
        assert notes == ("taken as ct, but the pixels look like fundus (probability 0.99)",)

    def test_an_unsure_choice_is_reported(self, grounder: Grounder, monkeypatch: pytest.MonkeyPatch) -> None:
        processor = grounder.processor.image_processor
        monkeypatch.setattr(processor, "router", biased_router("ct", 0.6))
        name, _, _, notes = choose_modality(grounder, sample_image())
        assert name == "ct" and "only 0.60: state it with modality=" in notes[0] and hint_of(notes[0]) == "modality"
        monkeypatch.setattr(processor, "router_warning", 0.5)
        assert choose_modality(grounder, sample_image())[3] == ()
        assert choose_modality(grounder, sample_image(modality="fundus"))[3] == ()

    def test_an_unsure_choice_names_the_two_likeliest_and_both_are_tried(
        self, grounder: Grounder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(grounder.processor.image_processor, "router", biased_router("ct", 0.6))
        first, second = modality_choices(grounder, sample_image())
        assert (first.name, second.name) == ("ct", "fundus") and first == choose_modality(grounder, sample_image())
        assert first.warnings[0].startswith("may be fundus (probability 0.40): taken for ct")
        assert second.warnings[0].startswith("may be ct (probability 0.60): taken for fundus")
        assert len(modality_choices(grounder, sample_image(), "ct")) == 1
        assert len(modality_choices(grounder, sample_image(), labels=["all"])) == 2
        parts = {name: getattr(grounder, name) for name in ("name", "modalities", "processor")}
        partly = SimpleNamespace(**parts, trained=TrainedLabels({"ct": ("liver",)}))
        assert len(modality_choices(partly, sample_image(), labels=["all"])) == 1, "nothing is known of fundus"

        def boxes(grounder: Grounder, image: ReadImage, question: Any, modality: str, thresholds: Any) -> Any:
            found = GroundedBox("spot", scores[modality], (0, 0, 5, 5))
            return ((found,) if scores[modality] else ()), {"spot": scores[modality]}

        monkeypatch.setattr(grounding, "_boxes", boxes)
        for scores, chosen in (({"ct": 0.5, "fundus": 0.7}, "ct"), ({"ct": 0.4, "fundus": 0.7}, "fundus")):
            result = ground_image(sample_image(), "spot", model=grounder)
            assert (result.image.modality, result.presence) == (chosen, {"spot": scores[chosen]})
            assert f"taken for {chosen} with" in result.warnings[0]
        scores = {"ct": 0.0, "fundus": 0.0}
        assert ground_image(sample_image(), "spot", model=grounder).image.modality == "ct"
        # The router does not know the second expert.
        monkeypatch.setattr(grounder.processor.image_processor, "router", biased_router("ct", 0.6, ("ct", "mri")))
        scores = {"ct": 0.5, "fundus": 0.7}
        assert ground_image(sample_image(), "spot", model=grounder).image.modality == "ct"

    def test_the_prompt_breaks_ties(self, grounder: Grounder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(grounder.processor.image_processor, "router", biased_router("ct", 0.6))
        name, source, probability, notes = choose_modality(grounder, sample_image(), labels=["optic disc"])
        assert (name, source, probability) == ("fundus", "pixels", pytest.approx(0.4)), "the pixels' alone"
        assert notes[0].startswith("may be ct (probability 0.60): taken for fundus with a probability of only 0.40")
        assert choose_modality(grounder, sample_image(), labels=["liver"]).probability == pytest.approx(0.6)
        for neutral in (["liver", "optic disc"], ["no such thing"], ["all"], []):
            choice = choose_modality(grounder, sample_image(), labels=neutral)
            assert (choice.name, choice.probability) == ("ct", pytest.approx(0.6))
        for sure in (0.75, 0.99):
            monkeypatch.setattr(grounder.processor.image_processor, "router", biased_router("ct", sure))
            choice = choose_modality(grounder, sample_image(), labels=["optic disc"])
            assert (choice.name, choice.warnings) == ("ct", ()), "the pixels decide"

    def test_the_prompt_does_not_say_whether_it_is_a_medical_image(
        self, grounder: Grounder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        router = biased_router("other", 0.6, ("ct", "fundus", "other"))
        monkeypatch.setattr(grounder.processor.image_processor, "router", router)
        choice = choose_modality(grounder, sample_image(), labels=["optic disc"])
        assert (choice.name, choice.source) == ("fundus", "pixels")
        assert choice.probability == pytest.approx(0.2)
        assert choice.warnings[0].startswith("may not be a medical image (probability 0.60): taken for fundus")

    @pytest.mark.parametrize(("other", "level"), [(0.0, 0.0), (0.31, 0.3), (0.45, 0.7)])
    def test_an_image_is_refused_only_where_that_is_likeliest_and_believed(
        self, grounder: Grounder, monkeypatch: pytest.MonkeyPatch, other: float, level: float
    ) -> None:
        rest = {"ct": (1 - other) * 0.9, "fundus": (1 - other) * 0.1}
        seen = rest | ({"other": other} if other else {})
        processor = grounder.processor.image_processor
        monkeypatch.setattr(processor, "modality_probabilities", lambda *_, **__: seen)
        monkeypatch.setattr(processor, "router_warning", level)
        assert choose_modality(grounder, sample_image()).source == "pixels"
        assert processor.route(sample_image().pixels, "auto") == ("ct", False)

    def test_the_second_expert_need_not_be_able_to_take_the_image(
        self, grounder: Grounder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(grounder.processor.image_processor, "router", biased_router("ct", 0.6))
        values = replace(sample_image(), pixels=sample_image().pixels.astype(np.float32) * 5 - 900)
        with pytest.raises(MedGlipError, match="outside an image's range"):
            ground_image(values, "liver", "fundus", grounder)
        result = ground_image(values, "liver", model=grounder)
        assert result.image.modality == "ct" and result.modality_source == "pixels"

    def test_nothing_is_drawn_in_what_is_no_medical_image(
        self, grounder: Grounder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        router = biased_router("other", 0.95, ("ct", "fundus", "other"))
        monkeypatch.setattr(grounder.processor.image_processor, "router", router)
        result = ground_image(sample_image(), "liver", model=grounder, threshold=0.1)
        assert result.boxes == () and result.modality_source == UNRECOGNIZED and result.image.modality == "ct"
        assert result.warnings[0] == (
            "does not look like a medical image of ct, fundus: state modality= to try anyway"
        )
        assert hint_of(result.warnings[0]) == "modality" and len(result.warnings) == 1
        assert len(ground_image(sample_image(), "no such thing", model=grounder).warnings) == 1
        content = result.to_dict()
        assert content["modality_source"] == UNRECOGNIZED
        validate_boxes(content)
        with pytest.raises(MedGlipError, match="modality_source must be one of given, header"):
            validate_boxes({**content, "modality_source": "guess"})
        stated = ground_image(sample_image(), "liver", "ct", grounder, threshold=0.1)
        assert stated.boxes and stated.modality_source == "given"
        assert stated.warnings[0] == (
            "taken as ct, but the pixels do not look like a medical image of a known kind (probability 0.95)"
        )
        assert ground_image(sample_image(modality="ct"), "liver", model=grounder, threshold=0.1).boxes
        volume = ground_volume(Volume(np.zeros((20, 20, 3), np.uint8), np.eye(4)), "liver", model=grounder)
        assert volume.boxes == () and volume.modality_source == UNRECOGNIZED and volume.slices == 0
        assert volume.to_dict()["modality_source"] == UNRECOGNIZED and len(volume.warnings) == 1
        validate_boxes(volume.to_dict())

    def test_a_volume_whose_middle_is_empty_is_recognized_beside_it(
        self, grounder: Grounder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def seen(image: np.ndarray, every: bool) -> dict[str, float]:
            return {"ct": 0.05, "fundus": 0.9, "other": 0.05} if image.max() else {"ct": 0.05, "other": 0.95}

        monkeypatch.setattr(grounder.processor.image_processor, "modality_probabilities", seen)
        values = np.zeros((20, 20, 8), np.uint8)
        values[5:9, 5:9, :3] = 200
        volume = ground_volume(Volume(values, np.eye(4)), "optic disc", model=grounder)
        assert (volume.image.modality, volume.modality_source, volume.slices) == ("fundus", "pixels", 8)

    def test_without_router_or_expert(self, grounder: Grounder, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(MedGlipError, match="tiny has no expert for mri: it has ct, fundus"):
            choose_modality(grounder, sample_image(modality="mri"))
        monkeypatch.setattr(grounder.processor.image_processor, "router", None)
        with pytest.raises(MedGlipError, match="give modality=, one of ct, fundus"):
            choose_modality(grounder, sample_image())
