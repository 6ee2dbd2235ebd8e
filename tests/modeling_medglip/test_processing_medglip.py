# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The processor: prompt forms, label spans, chunks, training targets, post-processing, saving."""

from __future__ import annotations

import ast
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

import modeling_medglip
from modeling_medglip import MedGlipProcessor
from modeling_medglip.image_processing_medglip import (
    clip_legacy,
    label_scores,
    nms_per_label,
    phrase_tokens,
    post_process_boxes,
)
from modeling_medglip.processing_medglip import (
    clean_label,
    prompts_per_image,
    spell_out_side,
    split_prompt,
    unique_labels,
)

from .tiny_processor import made_up_outputs, tiny_processor


IMAGE = np.zeros((32, 32, 3), dtype=np.uint8)
WIDE = np.zeros((50, 100, 3), dtype=np.uint8)
WORDS = ("liver", "spleen", "left kidney", "right kidney", "lung nodule", "pneumothorax", "polyp", "disc", "adenoma")


@pytest.fixture(scope="module")
def processor() -> MedGlipProcessor:
    return tiny_processor({"modality": "endoscopy"})


def words_of(processor: MedGlipProcessor, batch: Any, image: int = 0, chunk: int = 0) -> list[str]:
    """What each label row marks, decoded."""
    tokens = batch["label_tokens"] if batch["label_tokens"].ndim == 4 else batch["label_tokens"][:, None]
    ids = batch["input_ids"] if batch["input_ids"].ndim == 3 else batch["input_ids"][:, None]
    rows = tokens[image, chunk]
    return [processor.tokenizer.decode(ids[image, chunk][row]) for row in rows[rows.any(-1)]]


# Prompts -------------------------------------------------------------------------------------------------------------


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


# Spans ---------------------------------------------------------------------------------------------------------------


def test_spans_hold_every_word_piece_and_no_punctuation(processor: MedGlipProcessor) -> None:
    batch = processor(IMAGE, "Liver. left kidney. pneumothorax. adenoma.")
    assert words_of(processor, batch) == ["liver", "left kidney", "pneumothorax", "adenoma"]
    marked = batch["label_tokens"][0]
    assert marked.sum(0).max() == 1
    left = processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0][~marked.any(0)])
    assert left == ["[CLS]", ".", ".", ".", ".", "[SEP]"]
    assert batch["label_tokens"].dtype == torch.bool and batch["text_labels"] == [
        ["Liver", "left kidney", "pneumothorax", "adenoma"]
    ]


def test_a_label_in_a_list_keeps_its_dots_and_commas(processor: MedGlipProcessor) -> None:
    batch = processor(IMAGE, ["Kidney, lower pole", "nodule 1.5 cm"])
    assert batch["text_labels"] == [["Kidney, lower pole", "nodule 1.5 cm"]]
    assert words_of(processor, batch) == ["kidney lower pole", "nodule 1 5 cm"]


def test_special_tokens_in_labels_are_words(processor: MedGlipProcessor) -> None:
    batch = processor(IMAGE, ["[SEP]", "[MASK] liver"])
    special = processor.tokenizer.sep_token_id, processor.tokenizer.mask_token_id
    assert [int((batch["input_ids"] == token).sum()) for token in special] == [1, 0]
    assert words_of(processor, batch) == ["sep", "mask liver"]


def test_a_label_of_unknown_words_is_warned_of(processor: MedGlipProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr("modeling_medglip.processing_medglip.logger.warning", warnings.append)
    processor(text=["печень", "liver печень", "spleen"])
    assert warnings == ["label 'печень' has no word that the language encoder knows: boxes mean nothing"]


def test_final_separator(processor: MedGlipProcessor) -> None:
    glip = tiny_processor({"modality": "endoscopy"}, final_separator=False)
    assert processor.tokenizer.decode(processor(IMAGE, "liver. spleen")["input_ids"][0]).endswith("spleen. [SEP]")
    assert glip.tokenizer.decode(glip(IMAGE, "liver. spleen.")["input_ids"][0]).endswith("spleen [SEP]")


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9, unique=True))
def test_spans_in_any_order(labels: list[str]) -> None:
    processor = tiny_processor()
    encoded, positions = processor.encode_prompts([labels])
    assert words_of(processor, encoded) == labels and positions == [list(range(len(labels)))]


def test_prompts_of_several_images_are_padded(processor: MedGlipProcessor) -> None:
    batch = processor([IMAGE, IMAGE], ["liver. spleen. left kidney.", "polyp"])
    assert batch["label_tokens"].shape[:2] == (2, 3)
    assert batch["label_tokens"][1].any(-1).tolist() == [True, False, False]
    assert words_of(processor, batch, 1) == ["polyp"]
    assert batch["attention_mask"].sum(1).tolist() == [9, 4]
    assert (batch["input_ids"][1][batch["attention_mask"][1] == 0] == processor.tokenizer.pad_token_id).all()
    alone = processor(IMAGE, "polyp")
    assert torch.equal(alone["input_ids"][0], batch["input_ids"][1, :4])


def test_what_detectors_of_transformers_are_called_with(processor: MedGlipProcessor) -> None:
    plain = processor(IMAGE, "liver. spleen.")
    for batch in (
        processor(images=IMAGE, text=["liver. spleen."], padding=True, truncation=True),
        processor(images=[IMAGE], text=[["liver", "spleen"]], padding="longest", return_tensors="pt"),
    ):
        assert batch["text_labels"] == plain["text_labels"] == [["liver", "spleen"]]
        assert torch.equal(batch["input_ids"], plain["input_ids"])


def test_text_alone_and_images_alone(processor: MedGlipProcessor) -> None:
    assert set(processor(text="liver")) == {"input_ids", "attention_mask", "label_tokens", "text_labels"}
    assert set(processor(IMAGE)) == {"pixel_values", "pixel_mask", "image_sizes", "modality"}
    with pytest.raises(ValueError, match="give images, text or both"):
        processor()


def test_numpy_output(processor: MedGlipProcessor) -> None:
    batch = processor(IMAGE, "liver", return_tensors="np")
    assert all(isinstance(batch[name], np.ndarray) for name in ("pixel_values", "input_ids", "label_tokens"))


# Chunks --------------------------------------------------------------------------------------------------------------


def test_labels_that_do_not_fit_one_prompt_are_split() -> None:
    processor = tiny_processor({"modality": "endoscopy"}, max_text_tokens=12)
    batch = processor([IMAGE, IMAGE], [list(WORDS), ["liver"]])
    assert batch["input_ids"].shape[:2] == batch["label_tokens"].shape[:2] == (2, 3)
    assert batch["input_ids"].shape[2] <= 12
    assert [word for chunk in range(3) for word in words_of(processor, batch, 0, chunk)] == list(WORDS)
    assert batch["attention_mask"][1, 1:].sum() == 0 and not batch["label_tokens"][1, 1:].any()
    assert words_of(processor, batch, 1, 0) == ["liver"]


@given(st.integers(6, 40), st.booleans())
def test_chunks_fill_their_prompts(max_text_tokens: int, final_separator: bool) -> None:
    processor = tiny_processor(max_text_tokens=max_text_tokens, final_separator=final_separator)
    encoded, _ = processor.encode_prompts([WORDS])
    ids = encoded["input_ids"] if encoded["input_ids"].ndim == 3 else encoded["input_ids"][:, None]
    assert ids.shape[2] <= max_text_tokens
    assert [word for chunk in range(ids.shape[1]) for word in words_of(processor, encoded, 0, chunk)] == list(WORDS)


def test_a_prompt_that_fits_exactly_is_not_split() -> None:
    assert tiny_processor(max_text_tokens=6).encode_prompts([["liver", "spleen"]])[0]["input_ids"].shape == (1, 6)
    short = tiny_processor(max_text_tokens=5, final_separator=False)
    assert short.encode_prompts([["liver", "spleen"]])[0]["input_ids"].shape == (1, 5)
    assert tiny_processor(max_text_tokens=5).encode_prompts([["liver", "spleen"]])[0]["input_ids"].shape == (1, 2, 4)


# Bad prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the prompt is empty"),
        (" . ", "the prompt is empty"),
        ([], "the prompt is empty"),
        (["liver", " "], "the label ' ' is empty"),
        (["liver", "\u200b"], "holds nothing that the tokenizer knows"),
        ([f"label {number}" for number in range(10_000)], "10000 labels, more than 1000"),
        (["liver " * 300], "has 300 tokens"),
    ],
)
def test_bad_prompts(processor: MedGlipProcessor, text: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        processor(IMAGE, text)
    assert "\n" not in str(error.value)


def test_bad_prompts_name_their_image(processor: MedGlipProcessor) -> None:
    with pytest.raises(ValueError, match="prompt of image 1: the prompt is empty"):
        processor([IMAGE, IMAGE], ["liver", ""])


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a fast one"):
        MedGlipProcessor(tiny_processor().image_processor, None)


# Targets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["annotations", "labels"])
@pytest.mark.parametrize("classes", [[2, 0], ["POLYP", "liver"], torch.tensor([2, 0]), np.array([2, 0])])
def test_targets(processor: MedGlipProcessor, name: str, classes: Any) -> None:
    target = {"boxes": [[0, 0, 100, 50], [10, 5, 20, 10]], "class_labels": classes}
    batch = processor(WIDE, ["liver", "spleen", "polyp"], size={"height": 100, "width": 100}, **{name: [target]})
    (label,) = batch["labels"]
    assert label["class_labels"].tolist() == [2, 0]
    assert label["boxes"].tolist() == [[0, 0, 99, 99], [10, 10, 19, 19]]


def test_targets_of_repeated_labels_move_to_the_first(processor: MedGlipProcessor) -> None:
    target = {"boxes": [[0, 0, 5, 5]] * 3, "class_labels": [0, 1, 2]}
    batch = processor(IMAGE, ["liver", "Liver", "polyp"], annotations=target)
    assert batch["labels"][0]["class_labels"].tolist() == [0, 0, 1] and batch["text_labels"] == [["liver", "polyp"]]


@pytest.mark.parametrize("wrong", [[1], [-1], ["spleen"]])
def test_classes_outside_the_prompt(processor: MedGlipProcessor, wrong: list[Any]) -> None:
    targets = [{"boxes": [], "class_labels": []}, {"boxes": [[0, 0, 5, 5]], "class_labels": wrong}]
    with pytest.raises(ValueError, match="image 1: the class label .* is not among the labels"):
        processor([IMAGE, IMAGE], "liver", annotations=targets)


def test_targets_must_fit_the_images(processor: MedGlipProcessor) -> None:
    target = {"boxes": [[0, 0, 99, 5]], "class_labels": [0]}
    with pytest.raises(ValueError, match="image 1: box 0 .* lies outside the image of 32x32"):
        processor([WIDE, IMAGE], "liver", annotations=[target, target])
    with pytest.raises(ValueError, match="2 images but annotations of 1"):
        processor([IMAGE, IMAGE], "liver", annotations=[target])


# Post-processing -----------------------------------------------------------------------------------------------------


def test_label_scores_are_means_of_probabilities() -> None:
    logits = torch.tensor([[[0.0, 2.0, -1.0, 5.0]]])
    tokens = torch.tensor([[[False, True, True, False], [True, False, False, False], [False] * 4]])
    expected = [(torch.sigmoid(torch.tensor(2.0)) + torch.sigmoid(torch.tensor(-1.0))) / 2, 0.5, 0]
    torch.testing.assert_close(label_scores(logits, tokens)[0, 0], torch.tensor(expected))


def test_found_boxes_come_back_in_the_original(processor: MedGlipProcessor) -> None:
    inputs = processor(WIDE, ["Liver", "Left kidney, lower pole"], size={"height": 64, "width": 64})
    outputs = made_up_outputs(inputs, [[0, 0, 31, 31], [16, 8, 70, 70]], [1, 0], [0.9, 0.5])
    (result,) = processor.post_process_grounded_object_detection(outputs, inputs, 0.3, target_sizes=[(50, 100)])
    assert result["text_labels"] == ["Left kidney, lower pole", "Liver"] and result["labels"].tolist() == [1, 0]
    torch.testing.assert_close(result["scores"], torch.tensor([0.9, 0.5]))
    torch.testing.assert_close(result["boxes"], torch.tensor([[0.0, 0, 50, 25], [25, 6.25, 100, 50]]))
    as_tensor = processor.post_process_grounded_object_detection(outputs, inputs, 0.3, torch.tensor([[50, 100]]))
    assert torch.equal(as_tensor[0]["boxes"], result["boxes"])


def test_legacy_boxes_and_input_pixels(processor: MedGlipProcessor) -> None:
    inputs = processor(WIDE, "liver", size={"height": 64, "width": 64})
    outputs = made_up_outputs(inputs, [[-3, 8, 70, 31]], [0], [0.9])
    legacy = processor.post_process_grounded_object_detection(outputs, inputs, legacy_boxes=True)
    assert legacy[0]["boxes"].tolist() == [[0, 8, 63, 31]]
    plain = processor.post_process_grounded_object_detection(outputs, inputs)
    assert plain[0]["boxes"].tolist() == [[0, 8, 64, 32]]
    half = processor.post_process_grounded_object_detection(
        outputs, inputs, legacy_boxes=True, target_sizes=[(32, 32)]
    )
    assert half[0]["boxes"].tolist() == [[0, 4, 31.5, 15.5]]


def test_calibrated_scores_are_chances(processor: MedGlipProcessor) -> None:
    inputs = processor(IMAGE, "liver. spleen")
    boxes = [[0, 0, 31, 31], [10, 10, 50, 50], [0, 0, 9, 9]]
    outputs = made_up_outputs(inputs, boxes, [0, 1, 0], [0.9, 0.5, 0.3])
    (plain,) = processor.post_process_grounded_object_detection(outputs, inputs, threshold=0.0)
    outputs.score_calibration = torch.tensor([[2.0, -1.0]])
    (found,) = processor.post_process_grounded_object_detection(outputs, inputs, threshold=0.0)
    expected = 1 / (1 + math.e * ((1 - plain["scores"]) / plain["scores"]) ** 2)
    torch.testing.assert_close(found["scores"], expected)
    assert torch.equal(found["boxes"], plain["boxes"]) and found["text_labels"] == plain["text_labels"]
    (few,) = processor.post_process_grounded_object_detection(outputs, inputs, threshold=0.3)
    assert len(few["scores"]) == 1, "the threshold counts chances: 0.5 has become 0.27"


def test_labels_never_suppress_each_other(processor: MedGlipProcessor) -> None:
    inputs = processor(IMAGE, "liver. spleen")
    box, near = [10.0, 10, 50, 50], [11.0, 10, 50, 50]
    outputs = made_up_outputs(inputs, [box, near, box, near], [0, 0, 1, 1], [0.9, 0.8, 0.7, 0.6])
    (result,) = processor.post_process_grounded_object_detection(outputs, inputs)
    assert result["text_labels"] == ["liver", "spleen"]
    assert len(processor.post_process_grounded_object_detection(outputs, inputs, nms_threshold=1.0)[0]["scores"]) == 4


def test_nms_counts_pixels_as_glip_does() -> None:
    legacy = torch.tensor([[0.0, 0, 9, 9], [0.0, 0, 9, 4]])
    scores, labels = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
    assert nms_per_label(legacy + torch.tensor([0, 0, 1, 1]), scores, labels, 0.5).tolist() == [0, 1]
    assert nms_per_label(legacy + torch.tensor([0, 0, 1, 1]), scores, labels, 0.49).tolist() == [0]
    assert nms_per_label(legacy[:0], scores[:0], labels[:0], 0.6).shape == (0,)


@given(st.integers(0, 2**16), st.integers(1, 30))
def test_nms_equals_the_plain_rule(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 10
    boxes = torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 10], dim=1)
    scores, labels = torch.rand(count, generator=generator), torch.randint(3, (count,), generator=generator)
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        others = [other for other in kept if labels[other] == labels[index]]
        if all(overlap(boxes[index], boxes[other]) <= 0.5 for other in others):
            kept.append(index)
    assert nms_per_label(boxes, scores, labels, 0.5).tolist() == kept


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Intersection over union of two xyxy boxes."""
    sides = (torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2])).clamp(min=0)
    areas = [float((box[2:] - box[:2]).prod()) for box in (one, other)]
    return float(sides.prod()) / (sum(areas) - float(sides.prod()))


def test_thresholds_and_limits(processor: MedGlipProcessor) -> None:
    inputs = processor(IMAGE, "liver")
    boxes = [[20.0 * place, 0, 20 * place + 10, 10] for place in range(10)]
    scores = [0.04, 0.06, 0.2, 0.31, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    outputs = made_up_outputs(inputs, boxes, [0] * 10, scores)

    def found(**options: Any) -> list[float]:
        (result,) = processor.post_process_grounded_object_detection(outputs, inputs, **options)
        return [round(score, 4) for score in result["scores"].tolist()]

    assert found() == scores[:2:-1]
    assert found(threshold=0.0) == scores[:0:-1]
    assert found(threshold=0.0, pre_nms_threshold=0.0)[-2:] != [0.2, 0.06]
    assert found(threshold=0.0, max_detections=2) == [0.9, 0.8]
    assert found(threshold=0.95) == []


def test_the_candidate_threshold_is_on_the_label_score_alone(processor: MedGlipProcessor) -> None:
    inputs = processor(IMAGE, "liver")
    outputs = made_up_outputs(inputs, [[0, 0, 9, 9]], [0], [0.9])
    outputs.centerness[:] = torch.tensor(0.01).logit()
    (result,) = processor.post_process_grounded_object_detection(outputs, inputs, threshold=0.0)
    assert result["scores"].tolist() == pytest.approx([(0.9 * 0.01) ** 0.5])


def test_each_level_gives_at_most_a_thousand_candidates() -> None:
    outputs = SimpleNamespace(
        logits=torch.zeros(1, 1504, 1),
        centerness=torch.zeros(1, 1504),
        pred_boxes=torch.tensor([0.0, 0, 9, 9]).expand(1, 1504, 4),
        input_sizes=torch.tensor([[64, 64]]),
        spatial_shapes=torch.tensor([[30, 50], [2, 2]]),
    )
    tokens = torch.ones(1, 1, 1, dtype=torch.bool)
    (result,) = post_process_boxes(outputs, tokens, 0.0, nms_threshold=1.0, max_detections=5000)
    assert len(result["scores"]) == 1004


def test_chunks_of_labels_keep_their_names() -> None:
    processor = tiny_processor({"modality": "endoscopy"}, max_text_tokens=12)
    inputs = processor(IMAGE, list(WORDS))
    first = int(inputs["label_tokens"][0, 0].any(-1).sum())
    outputs = made_up_outputs(inputs, [[0, 0, 20, 20], [30, 30, 60, 60]], [0, 1], [0.9, 0.8], chunk=1)
    (result,) = processor.post_process_grounded_object_detection(outputs, inputs)
    assert result["text_labels"] == list(WORDS[first : first + 2])
    assert result["boxes"].tolist() == [[0, 0, 21, 21], [30, 30, 61, 61]]


def test_results_of_one_image_do_not_leak_into_the_next(processor: MedGlipProcessor) -> None:
    inputs = processor([IMAGE, WIDE], "liver")
    outputs = made_up_outputs(inputs, [[0, 0, 9, 9]], [0], [0.9])
    sizes = [(32, 32), (50, 100)]
    first, second = processor.post_process_grounded_object_detection(outputs, inputs, target_sizes=sizes)
    assert first["text_labels"] == ["liver"] and second["text_labels"] == [] and second["boxes"].shape == (0, 4)


def test_a_mask_over_the_border_does_not_move_the_boxes(processor: MedGlipProcessor) -> None:
    mask = np.ones((50, 100))
    mask[40:] = 0
    inputs = processor(WIDE, "liver", pixel_mask=mask, size={"height": 100, "width": 200})
    outputs = made_up_outputs(inputs, [[0, 0, 99, 49]], [0], [0.9])
    assert outputs.input_sizes.tolist() == [[80, 200]]
    (result,) = processor.post_process_grounded_object_detection(outputs, inputs, target_sizes=[(50, 100)])
    assert result["boxes"].tolist() == [[0, 0, 50, 25]]


def test_half_precision_outputs(processor: MedGlipProcessor) -> None:
    inputs = processor(IMAGE, "liver. spleen")
    outputs = made_up_outputs(inputs, [[0, 0, 31, 31]], [1], [0.9])
    for name in ("logits", "centerness", "pred_boxes"):
        setattr(outputs, name, getattr(outputs, name).to(torch.bfloat16))
    (result,) = processor.post_process_grounded_object_detection(outputs, inputs)
    assert result["text_labels"] == ["spleen"] and result["scores"].dtype == torch.float32


def test_clip_legacy() -> None:
    assert clip_legacy(torch.tensor([[-5.0, -1, 99, 70]]), (64, 96)).tolist() == [[0, 0, 95, 63]]


@pytest.mark.parametrize("field", ["logits", "centerness"])
def test_broken_numbers_are_not_taken_for_nothing_found(processor: MedGlipProcessor, field: str) -> None:
    inputs = processor(WIDE, "polyp.")
    outputs = made_up_outputs(inputs, [[1, 1, 50, 50]], [0], [0.9])
    getattr(outputs, field).flatten()[0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        processor.post_process_grounded_object_detection(outputs, inputs)


def test_outputs_that_do_not_belong_to_the_inputs(processor: MedGlipProcessor) -> None:
    inputs = processor(IMAGE, "liver")
    outputs = made_up_outputs(inputs, [[0, 0, 9, 9]], [0], [0.9])
    with pytest.raises(ValueError, match="do not belong"):
        processor.post_process_grounded_object_detection(outputs, processor(IMAGE, "liver. spleen. polyp"))
    with pytest.raises(ValueError, match="1 images but 2 target_sizes"):
        processor.post_process_grounded_object_detection(outputs, inputs, target_sizes=[(1, 1)] * 2)
    with pytest.raises(ValueError, match="hold no label_tokens"):
        processor.post_process_grounded_object_detection(outputs, processor(IMAGE))


def test_phrases_of_the_bare_tokenizer(processor: MedGlipProcessor) -> None:
    outputs = SimpleNamespace(logits=torch.zeros(2, 3, 6))
    assert phrase_tokens(outputs).tolist() == [[[False, True, True, True, True, False]]] * 2
    outputs.label_token_mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    assert phrase_tokens(outputs)[1].tolist() == [[False, True, False, False, False, False]]


def test_image_processor_post_processing(processor: MedGlipProcessor) -> None:
    inputs = processor(IMAGE, "polyp", size={"height": 64, "width": 64})
    outputs = made_up_outputs(inputs, [[0, 0, 31, 31]], [0], [0.5])
    outputs.logits = outputs.logits[..., [0, 1, 3]]
    found = processor.image_processor.post_process_object_detection(outputs, 0.1, torch.tensor([[32, 32]]))
    assert found[0]["boxes"].tolist() == [[0, 0, 16, 16]] and found[0]["scores"].tolist() == pytest.approx([0.5])
    outputs.score_calibration = torch.tensor([[1.0, 1.0]])
    (found,) = processor.image_processor.post_process_object_detection(outputs)
    assert found["scores"].tolist() == pytest.approx([1 / (1 + math.exp(-1))])


# Saving --------------------------------------------------------------------------------------------------------------


def test_saved_and_loaded(tmp_path: Path) -> None:
    ours = tiny_processor({"modality": "mri", "router_warning": 0.4}, max_labels=7, final_separator=False)
    ours.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, MedGlipProcessor) and again.max_labels == 7 and not again.final_separator
    assert again.image_processor.to_dict() == ours.image_processor.to_dict()
    theirs, mine = again(IMAGE, "liver. polyp"), ours(IMAGE, "liver. polyp")
    assert all(torch.equal(theirs[name], mine[name]) for name in ("pixel_values", "input_ids", "label_tokens"))
    stored = json.loads((tmp_path / "processor_config.json").read_text())
    assert stored["image_processor"]["modality_settings"]["mri"]["percentiles"] == [0.5, 99.5]
    assert AutoImageProcessor.from_pretrained(tmp_path).modality == "mri"
    assert AutoTokenizer.from_pretrained(tmp_path).is_fast


def test_arguments_may_come_in_groups(processor: MedGlipProcessor) -> None:
    size = {"height": 64, "width": 64}
    flat = processor(IMAGE, "liver", modality="ct", size=size, do_pad=False)
    grouped = processor(IMAGE, "liver", images_kwargs={"modality": "ct", "size": size, "do_pad": False})
    assert torch.equal(flat["pixel_values"], grouped["pixel_values"]) and grouped["modality"] == ["ct"]
    arrays = processor(IMAGE, "liver", text_kwargs={"padding": "longest"}, common_kwargs={"return_tensors": "np"})
    assert isinstance(arrays["pixel_values"], np.ndarray) and isinstance(arrays["input_ids"], np.ndarray)
    mask = np.eye(32)
    masked = processor(IMAGE, images_kwargs={"pixel_mask": mask})["pixel_mask"]
    assert torch.equal(masked, processor(IMAGE, pixel_mask=mask)["pixel_mask"])
    with pytest.raises(ValueError, match="size was passed two times"):
        processor(IMAGE, "liver", size=size, images_kwargs={"size": size})


@pytest.mark.parametrize("arguments", [{"sizes": 3}, {"images_kwarg": {}}, {"text": "liver", "treshold": 1}])
def test_unknown_arguments_are_refused(processor: MedGlipProcessor, arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="MedGlipProcessor got an unexpected keyword argument"):
        processor(IMAGE, **arguments)


def test_the_device_is_that_of_the_whole_batch(processor: MedGlipProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(processor.image_processor), "preprocess", lambda *args, **kwargs: {})
    assert processor(IMAGE, "liver", device="meta")["input_ids"].device.type == "meta"


def test_input_names(processor: MedGlipProcessor) -> None:
    batch = processor(IMAGE, "liver")
    assert set(batch) == set(processor.model_input_names)


def test_batches_move_between_devices_and_types(processor: MedGlipProcessor) -> None:
    batch = processor(IMAGE, "liver").to(torch.float16)
    assert batch["pixel_values"].dtype == torch.float16 and batch["input_ids"].dtype == torch.int64
    assert batch["text_labels"] == [["liver"]] and batch["modality"] == ["endoscopy"]


def test_a_saved_processor_carries_its_code(tmp_path: Path) -> None:
    tiny_processor().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "processor_config.json").read_text())
    assert stored["auto_map"]["AutoProcessor"] == "processing_medglip.MedGlipProcessor"
    code = stored["image_processor"]["auto_map"]["AutoImageProcessor"]
    assert code == "image_processing_medglip.MedGlipImageProcessor"
    files = {"configuration_medglip.py", "image_processing_medglip.py", "processing_medglip.py"}
    assert files <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("name", ["image_processing_medglip", "processing_medglip"])
def test_remote_code_imports_only_what_travels_with_it(name: str) -> None:
    source = (Path(modeling_medglip.__file__).parent / f"{name}.py").read_text()
    imported = {
        f".{node.module}" if node.level else (node.module or "").split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
    }
    imported |= {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    flat = {".configuration_medglip"} | ({".image_processing_medglip"} if name == "processing_medglip" else set())
    libraries = {"torch", "torchvision", "transformers", "safetensors", "numpy", "PIL"}
    assert imported <= flat | libraries | set(sys.stdlib_module_names)


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
def test_a_side_is_no_label_of_its_own(prompt: str, labels: list[str]) -> None:
    assert split_prompt(prompt) == labels
