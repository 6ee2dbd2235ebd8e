# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The checkpoint that the package carries, on the images of the demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import pipeline

import modeling_medglip
from modeling_medglip import MedGlipForObjectDetection, MedGlipProcessor, default_checkpoint
from modeling_medglip.checkpoints.location import weight_files
from modeling_medglip.configuration_medglip import MODALITIES
from modeling_medglip.demo.cases import IMAGES, DemoCase, demo_cases, package_file
from modeling_medglip.io.image import read_image


CASES = {case.id: case for case in demo_cases()}
# What the demo shows, and how well each box must fit (intersection over union with the known box).
FITS = {
    ("ct_abdomen", "liver"): 0.8,
    ("ct_abdomen", "spleen"): 0.7,
    ("ct_abdomen", "aorta"): 0.7,
    ("mri_brain", "right lateral ventricle"): 0.5,
    ("mri_brain", "left lateral ventricle"): 0.5,
    ("mri_brain", "right thalamus"): 0.5,
    ("mri_brain", "left thalamus"): 0.5,
    ("mri_brain", "right caudate"): 0.5,
    ("mri_brain", "left caudate"): 0.5,
    ("ultrasound_head", "fetal head"): 0.8,
    ("xray_chest", "right lung"): 0.8,
    ("xray_chest", "left lung"): 0.8,
    ("fundus_retina", "optic disc"): 0.7,
    ("dermoscopy_lesion", "skin lesion"): 0.8,
    ("endoscopy_phantom", "polyp"): 0.7,
}


def overlap(first: Any, other: Any) -> float:
    """Intersection over union of two xyxy boxes."""
    width = max(0.0, min(first[2], other[2]) - max(first[0], other[0]))
    height = max(0.0, min(first[3], other[3]) - max(first[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, other)]
    return width * height / (sum(areas) - width * height)


class Grounder:
    """Model and processor, asked for phrases in a demo image."""

    def __init__(self) -> None:
        self.model = MedGlipForObjectDetection.from_pretrained(default_checkpoint()).eval()
        self.processor = MedGlipProcessor.from_pretrained(default_checkpoint())

    def outputs(self, pixels: np.ndarray, labels: list[str], modality: str | None) -> tuple[Any, Any]:
        inputs = self.processor(pixels, labels, modality=modality)
        with torch.inference_mode():
            return self.model(**inputs), inputs

    def __call__(
        self, pixels: np.ndarray, labels: list[str], modality: str | None, threshold: float = 0.3
    ) -> dict[str, list[tuple[float, list[float]]]]:
        """Label -> (score, box), best first."""
        outputs, inputs = self.outputs(pixels, labels, modality)
        (found,) = self.processor.post_process_grounded_object_detection(
            outputs, inputs, threshold=threshold, target_sizes=[pixels.shape[:2]]
        )
        rows = zip(found["text_labels"], found["scores"].tolist(), found["boxes"].tolist(), strict=True)
        result: dict[str, list[tuple[float, list[float]]]] = {label: [] for label in labels}
        for label, score, box in rows:
            result[label].append((score, box))
        return result

    def case(self, case: DemoCase) -> dict[str, list[tuple[float, list[float]]]]:
        labels = [label.strip() for label in case.prompt.split(".") if label.strip()]
        return self(case.load().pixels, labels, case.modality)


@pytest.fixture(scope="module")
def ground() -> Grounder:
    return Grounder()


class TestFiles:
    def test_safetensors_only_and_small(self) -> None:
        files = [path for path in default_checkpoint().rglob("*") if path.is_file()]
        assert {path.suffix for path in files} == {".safetensors", ".json", ".md"}
        weights = [path.stat().st_size for path in files if path.suffix == ".safetensors"]
        assert max(weights) <= 48e6 and sum(weights) <= 98e6

    def test_half_precision_in_the_file_single_in_memory(self, ground: Grounder) -> None:
        for path in weight_files(default_checkpoint()):
            with safe_open(path, framework="pt") as tensors:
                kinds = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118
            assert kinds <= {"F16", "I64"}
        assert {parameter.dtype for parameter in ground.model.parameters()} == {torch.float32}

    def test_one_expert_for_each_modality(self, ground: Grounder) -> None:
        assert set(ground.model.config.modalities) == set(MODALITIES)
        assert set(ground.processor.image_processor.modality_settings) == set(MODALITIES)
        assert set(ground.model.config.label_hierarchy["trained_labels"]) == set(MODALITIES)
        for name in MODALITIES:
            assert ground.model.config.expert_head_config(name).score_calibration is not None

    def test_no_path_of_another_machine(self) -> None:
        for path in default_checkpoint().glob("*.json"):
            text = path.read_text(encoding="utf-8")
            assert "/work" not in text and "/home" not in text and "_name_or_path" not in json.loads(text)


class TestBoxes:
    @pytest.mark.parametrize(("case", "label"), FITS, ids=[f"{case}-{label}" for case, label in FITS])
    def test_the_best_box_is_the_right_one(self, ground: Grounder, case: str, label: str) -> None:
        found = ground.case(CASES[case])[label]
        assert found, "not found at the default threshold"
        assert overlap(found[0][1], CASES[case].true_boxes[label]) >= FITS[case, label]

    @pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.id)
    def test_boxes_are_inside_the_image(self, ground: Grounder, case: DemoCase) -> None:
        image = case.load()
        for found in ground.case(case).values():
            for score, (left, top, right, bottom) in found:
                assert 0.3 < score <= 1
                assert 0 <= left < right <= image.width and 0 <= top < bottom <= image.height

    def test_nothing_is_found_where_nothing_is(self, ground: Grounder) -> None:
        node = read_image(package_file("pydicom", "data", "test_files", "examples_rgb_color.dcm"), frame=1)
        assert not any(ground(node.pixels, ["fetal head", "polyp", "optic disc"], "ultrasound").values())
        assert not ground.case(CASES["ct_abdomen"])["left kidney"]

    def test_a_flipped_radiograph_swaps_the_lungs(self, ground: Grounder) -> None:
        pixels, labels = CASES["xray_chest"].load().pixels, ["right lung", "left lung"]
        plain, flipped = (ground(image, labels, "xray") for image in (pixels, pixels[:, ::-1].copy()))
        for label in labels:
            middles = [(found[label][0][1][0] + found[label][0][1][2]) / 2 for found in (plain, flipped)]
            assert all((middle < pixels.shape[1] / 2) == (label == "right lung") for middle in middles)


class TestWords:
    @pytest.mark.parametrize(
        ("case", "label", "wordings"),
        [
            ("endoscopy_phantom", "polyp", ["adenoma", "lesion"]),
            ("dermoscopy_lesion", "skin lesion", ["mole", "nevus", "lesion"]),
            ("ultrasound_head", "fetal head", ["head of the fetus", "fetal skull"]),
            ("fundus_retina", "optic disc", ["optic nerve head", "papilla"]),
        ],
    )
    def test_synonyms_and_parent_terms(self, ground: Grounder, case: str, label: str, wordings: list[str]) -> None:
        pixels, modality = CASES[case].load().pixels, CASES[case].modality
        for wording in wordings:
            found = ground(pixels, [wording], modality)[wording]
            assert found and overlap(found[0][1], CASES[case].true_boxes[label]) >= 0.5, wording

    @pytest.mark.parametrize(
        ("case", "absent"),
        [
            ("fundus_retina", ["liver", "polyp", "fetal head"]),
            ("endoscopy_phantom", ["optic disc", "left lung", "fetal head"]),
            ("xray_chest", ["polyp", "optic disc", "skin lesion"]),
            ("ultrasound_head", ["polyp", "optic disc", "liver"]),
        ],
    )
    def test_what_is_not_there_is_not_found(self, ground: Grounder, case: str, absent: list[str]) -> None:
        found = ground(CASES[case].load().pixels, absent, CASES[case].modality)
        assert not any(found.values())

    def test_the_order_of_the_labels_changes_nothing(self, ground: Grounder) -> None:
        pixels, labels = CASES["xray_chest"].load().pixels, ["right lung", "left lung", "airways"]
        one, other = ground(pixels, labels, "xray"), ground(pixels, labels[::-1], "xray")
        for label in labels:
            (score, box), (second_score, second_box) = one[label][0], other[label][0]
            assert score == pytest.approx(second_score, abs=1e-4) and box == pytest.approx(second_box, abs=0.1)


@pytest.fixture(scope="module")
def finder(ground: Grounder) -> Any:
    """The pipeline of transformers with the loaded model."""
    processor = ground.processor
    parts = {"tokenizer": processor.tokenizer, "image_processor": processor.image_processor, "processor": processor}
    return pipeline("zero-shot-object-detection", model=ground.model, **parts)


class TestStockPipeline:
    @pytest.mark.parametrize(
        ("case", "label"),
        [("xray_chest", "right lung"), ("endoscopy_phantom", "polyp"), ("xray_chest", "left lung")],
    )
    def test_a_dot_changes_little_and_gives_the_processor_s_score(
        self, ground: Grounder, finder: Any, case: str, label: str
    ) -> None:
        pixels, modality = CASES[case].load().pixels, CASES[case].modality
        (score, box), *_ = ground(pixels, [label], modality)[label]
        image = Image.fromarray(pixels)
        with_dot, bare = (finder(image, candidate_labels=[text])[0] for text in (f"{label}.", label))
        assert with_dot["score"] == bare["score"] == pytest.approx(score, abs=0.01)
        assert with_dot["box"] == bare["box"] and overlap(list(bare["box"].values()), box) > 0.95


class TestTokens:
    def test_every_token_has_an_embedding(self, ground: Grounder) -> None:
        rows = ground.model.model.text_model.get_input_embeddings().weight.shape[0]
        assert len(ground.processor.tokenizer) == rows == ground.model.config.text_config.vocab_size

    @pytest.mark.parametrize("text", ["polyp", "polyp.", " polyp ", "polyp. "])
    def test_every_text_is_closed_by_one_dot(self, ground: Grounder, text: str) -> None:
        tokenizer = ground.processor.tokenizer
        assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])[-3:] == ["##p", ".", "[SEP]"]
        assert tokenizer(" ")["input_ids"] == tokenizer("")["input_ids"]

    def test_letters_of_all_scripts_and_long_labels_are_read(self, ground: Grounder) -> None:
        labels = ["печень", "肝臓", "λευκή ουσία", "fémur", "very " * 90 + "long", *(f"label {n}" for n in range(60))]
        found = ground(CASES["fundus_retina"].load().pixels, [*labels, "optic disc"], "fundus")
        assert overlap(found["optic disc"][0][1], CASES["fundus_retina"].true_boxes["optic disc"]) > 0.5


class TestExperts:
    @pytest.mark.parametrize("case", ["endoscopy_phantom", "xray_chest"])
    def test_an_expert_alone_gives_the_same(self, ground: Grounder, case: str) -> None:
        modality, pixels = CASES[case].modality, CASES[case].load().pixels
        expert = MedGlipForObjectDetection.from_pretrained(default_checkpoint(), modalities=[modality]).eval()
        assert expert.config.modalities == [modality]
        whole, inputs = ground.outputs(pixels, ["polyp", "left lung"], modality)
        with torch.inference_mode():
            alone = expert(**inputs)
        torch.testing.assert_close(alone.logits, whole.logits)
        torch.testing.assert_close(alone.score_calibration, whole.score_calibration)

    @torch.inference_mode()
    def test_a_mixed_batch_equals_one_by_one(self, ground: Grounder) -> None:
        names = ["fundus_retina", "endoscopy_phantom", "xray_chest"]
        images, modalities = [CASES[name].load().pixels for name in names], [CASES[name].modality for name in names]
        prompts = [["optic disc", "optic cup"], ["polyp"], ["left lung", "airways", "right lung"]]
        inputs = ground.processor(images, prompts, modality=modalities)
        sizes = [image.shape[:2] for image in images]
        together = ground.processor.post_process_grounded_object_detection(
            ground.model(**inputs), inputs, target_sizes=sizes
        )
        for index, found in enumerate(together):
            alone = ground(images[index], prompts[index], modalities[index])
            assert len(found["scores"]) == sum(len(rows) for rows in alone.values()) > 0
            for label, score, box in zip(found["text_labels"], found["scores"], found["boxes"], strict=True):
                matches = [row for row in alone[label] if overlap(row[1], box.tolist()) > 0.98]
                assert matches and matches[0][0] == pytest.approx(score.item(), abs=0.01)


class TestRouter:
    @pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.id)
    def test_the_modality_of_the_demo_images(self, ground: Grounder, case: DemoCase) -> None:
        name, probability = ground.processor.image_processor.predict_modality(case.load().pixels)
        assert name == case.modality and 0.5 < probability <= 1


def test_licenses_of_every_modality() -> None:
    rows = json.loads((default_checkpoint() / "licenses.json").read_text(encoding="utf-8"))
    assert {row["modality"] for row in rows} == set(MODALITIES) and all(row["license"] for row in rows)


def test_the_folder_is_a_path() -> None:
    assert isinstance(default_checkpoint(), Path)


def test_the_readme_shows_what_a_result_prints(ground: Grounder) -> None:
    page = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    shown = page.split("prints as\n\n```\n")[1].split("\n```")[0].split()
    loaded = modeling_medglip.Grounder(ground.model, ground.processor, "embedded", torch.device("cpu"))
    result = modeling_medglip.ground_image(IMAGES / "ct_abdomen.dcm", "liver. spleen. left kidney.", model=loaded)
    printed = str(result).split()
    assert len(printed) == len(shown)
    for word, expected in zip(printed, shown, strict=True):
        if word != expected:  # the last digits differ between processors
            assert float(word) == pytest.approx(float(expected), rel=0.01)
