# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The processor: label spans, chunks, training targets, arguments, saving."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

import modeling_medglip
from modeling_medglip import MedGlipProcessor

from .tiny_processor import tiny_processor, words_of


IMAGE = np.zeros((32, 32, 3), dtype=np.uint8)
WIDE = np.zeros((50, 100, 3), dtype=np.uint8)
WORDS = ("liver", "spleen", "left kidney", "right kidney", "lung nodule", "pneumothorax", "polyp", "disc", "adenoma")


@pytest.fixture(scope="module")
def processor() -> MedGlipProcessor:
    return tiny_processor({"modality": "endoscopy"})


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
    with pytest.raises(ValueError, match="size was passed two times"):
        processor(IMAGE, "liver", size=size, images_kwargs={"size": size})


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"), reason="transformers took the truth value of arrays in groups"
)
def test_arrays_may_come_in_groups(processor: MedGlipProcessor) -> None:
    mask = np.eye(32)
    masked = processor(IMAGE, images_kwargs={"pixel_mask": mask})["pixel_mask"]
    assert torch.equal(masked, processor(IMAGE, pixel_mask=mask)["pixel_mask"])


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
