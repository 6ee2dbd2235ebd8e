# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Examples and batches for training."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from modeling_medglip.image_processing_medglip import MedGlipImageProcessor
from tests.modeling_medglip.tiny_checkpoint import tiny_processor
from training.data.augmentation import AugmentationRecipe, Geometry
from training.data.dataset import (
    GroundingCollator,
    GroundingDataset,
    PhraseLength,
    augmentation_flags,
    foreign_labels,
    repeat_factors,
)
from training.data.load import load_records
from training.data.prompts import PromptRecipe
from training.data.records import GroundingRecord, SourceSettings, SourceSettingsTable, chosen_labels
from training.data.unlearned import LabelSet
from training.data.vocabulary import Vocabulary

from ..tiny_data import make_data, record, settings, trunk_image


SIZE = 64
STILL = AugmentationRecipe(scale=(1, 1), aspect=(1, 1), attempts=0)


def image_processor(side: int = SIZE) -> MedGlipImageProcessor:
    names = ("ct", "mri", "fundus")
    return MedGlipImageProcessor(modality_settings={name: {"size": {"height": side, "width": side}} for name in names})


@pytest.fixture
def dataset(tmp_path: Path) -> GroundingDataset:
    records = load_records(make_data(tmp_path), settings=settings())
    train = [r for r in records if r.modality == "ct" and r.split == "train"]
    return GroundingDataset(train, image_processor(), foreign=foreign_labels(records), seed=5)


def same(first: dict, second: dict) -> bool:
    boxes = torch.equal(first["labels"]["boxes"], second["labels"]["boxes"])
    return (
        boxes
        and torch.equal(first["pixel_values"], second["pixel_values"])
        and first["text_labels"] == second["text_labels"]
    )


def test_an_example_has_what_the_collator_needs(dataset: GroundingDataset) -> None:
    for index in range(len(dataset)):
        example = dataset[index]
        boxes, classes = example["labels"]["boxes"], example["labels"]["class_labels"]
        assert example["pixel_values"].shape == (3, SIZE, SIZE) and example["pixel_values"].dtype == torch.float32
        assert float(example["pixel_values"].min()) >= -1 and float(example["pixel_values"].max()) <= 1
        assert boxes.shape == (len(classes), 4) and boxes.dtype == torch.float32 and classes.dtype == torch.int64
        assert bool((boxes >= -1e-4).all())
        assert bool((boxes[:, 2:] + 1 <= SIZE + 1e-4).all()) and all(classes < len(example["text_labels"]))
        assert example["modality"] == "ct"


def test_seed_epoch_and_index_decide_everything(dataset: GroundingDataset) -> None:
    again = GroundingDataset(dataset.records, dataset.image_processor, foreign=dataset.sampler.others, seed=5)
    assert same(dataset[3], again[3])
    other = GroundingDataset(dataset.records, dataset.image_processor, foreign=dataset.sampler.others, seed=6)
    assert not same(dataset[3], other[3])
    first = dataset[3]
    dataset.set_epoch(1)
    assert not same(first, dataset[3])
    dataset.set_epoch(0)
    assert same(first, dataset[3])


def test_weights_say_how_often_a_image_comes() -> None:
    weights = {"a": 2.5, "b": 1.0, "c": 0.5}
    records = [replace(record([[1, 1, 9, 9]], ["liver"], image_id=name), weight=w) for name, w in weights.items()]
    dataset = GroundingDataset(records, image_processor())
    seen: Counter[int] = Counter()
    for epoch in range(40):
        dataset.set_epoch(epoch)
        assert len(dataset) == 4
        seen.update(dataset._order.tolist())
    assert abs(seen[0] - 100) <= 4 and abs(seen[1] - 40) <= 4 and abs(seen[2] - 20) <= 4


def test_without_augmentation_training_sees_what_serving_sees() -> None:
    """Bit for bit, whatever the modality, the depth and the size."""
    draws = np.random.default_rng(0)
    known = SourceSettings(window=(-1000.0, 400.0))
    items = [
        record(
            [[10, 10, 50, 50]], ["liver"], pixels=draws.integers(-900, 900, (80, 100), np.int16), is_hounsfield=True
        ),
        record([[10, 10, 50, 50]], ["liver"], pixels=trunk_image(), settings=known),
        record([[10, 10, 50, 50]], ["liver"], pixels=draws.integers(0, 9999, (300, 200), np.uint16), modality="mri"),
        record(
            [[1, 2, 9, 8]], ["optic disc"], pixels=draws.integers(0, 255, (90, 70, 3), np.uint8), modality="fundus"
        ),
    ]
    for item in items:
        dataset = GroundingDataset([item], image_processor(), train=False)
        example, target = dataset[0], {"boxes": item.boxes, "class_labels": [item.annotated.index(item.labels[0])]}
        served = dataset.image_processor(item.load(), modality=item.modality, annotations=[target])
        assert torch.equal(example["pixel_values"], served["pixel_values"][0])
        assert torch.equal(example["labels"]["boxes"], served["labels"][0]["boxes"])
        assert example["labels"]["class_labels"].tolist() == target["class_labels"]
        assert example["text_labels"] == list(item.annotated)


@pytest.mark.parametrize("size", [SIZE, 2 * SIZE])
def test_the_cache_costs_less_than_half_a_gray_level(size: int) -> None:
    """Of the same image, drawn for training without a change of geometry or look."""
    pixels = np.linspace(0, 60000, size * size, dtype=np.uint16).reshape(size, size)
    item = record([[10, 10, 50, 50]], ["liver"], pixels=pixels, modality="mri")
    neutral = {name: (1.0, 1.0) for name in ("brightness", "contrast", "gamma")}
    still = replace(STILL, noise_share=0.0, blur_share=0.0, **neutral)
    drawn = GroundingDataset([item], image_processor(), augmentation=still)[0]["pixel_values"]
    served = GroundingDataset([item], image_processor(), train=False)[0]["pixel_values"]
    assert float((drawn - served).abs().max()) <= (1 / 255 if size == SIZE else 0.02)


def test_measured_hounsfield_units_go_through_the_windows_of_the_image_processor() -> None:
    pixels = np.full((SIZE, SIZE), -1000, np.int16)
    pixels[10:30, 10:30] = 60
    item = record([[10, 10, 30, 30]], ["liver"], pixels=pixels, is_hounsfield=True)
    dataset = GroundingDataset([item], image_processor())
    assert dataset.image(0).display == (-160, 240), "the first window"
    still, drawn = np.random.default_rng(0), dataset.image(0).pixels.float()
    shown = dataset._windowed(drawn, (-160, 240), dataset.augmentation, still)
    expected = dataset.image_processor.normalize_image(pixels, "ct")
    assert shown.shape == (3, SIZE, SIZE) and float((shown - expected).abs().max()) < 0.3
    assert float(shown[0, 20, 20] - shown[1, 20, 20]) < -0.3, "each window its own channel"


def test_images_with_a_known_window_are_mostly_shown_through_the_windows() -> None:
    known = SourceSettings(regions=("abdomen",), window=(-1000.0, 1400.0))
    item = record([[30, 30, 90, 90]], ["liver"], pixels=trunk_image(), settings=known)
    dataset = GroundingDataset([item], image_processor(), augmentation=replace(STILL, noise_share=0.0))
    windows = 0
    for epoch in range(40):
        dataset.set_epoch(epoch)
        values = dataset[0]["pixel_values"]
        windows += not torch.equal(values[0], values[1])
    assert 26 <= windows <= 39, "mostly, but not always"
    plain = image_processor()
    plain.modality_settings["ct"]["deduce_window"] = False
    gray = GroundingDataset([replace(item, settings=replace(known, window=None))], plain, augmentation=STILL)
    assert torch.equal(gray[0]["pixel_values"][0], gray[0]["pixel_values"][1])


def test_a_stated_window_gives_hounsfield_units() -> None:
    pixels = np.full((SIZE, SIZE), 255, np.uint8)
    pixels[:32] = 0
    item = record([[10, 10, 30, 30]], ["liver"], pixels=pixels, settings=SourceSettings(window=(-1000.0, 400.0)))
    cached = GroundingDataset([item], image_processor()).image(0)
    assert cached.pixels[0, 0, 0] == -1000 and cached.pixels[0, -1, 0] == 400 and cached.display == (-1000, 400)


@pytest.mark.parametrize(("sides", "sided", "free"), [("image", False, True), ("none", True, True)])
def test_labels_of_an_image_decide_on_flips(sides: str, sided: bool, free: bool) -> None:
    allowed = SourceSettings(horizontal_flip=True, turns=True, rotate=True, sides=sides)
    for label, expected in (("left ventricle", sided), ("myocardium", free)):
        item = record([[1, 1, 9, 9]], [label], ["left ventricle", "myocardium"], settings=allowed)
        outlined = replace(item, outlines={(1.0, 1.0, 9.0, 9.0): np.array([[1, 1], [9, 9]], np.float32)})
        flags = augmentation_flags(outlined)
        assert flags.horizontal_flip is flags.turns is expected and flags.rotate
        assert not augmentation_flags(item).turns, "the box of a turned object is not known"


@pytest.mark.parametrize("modality", ["ct", "mri", "fundus"])
def test_a_recipe_asks_for_effects(modality: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (80, 100), np.uint8)
    allowed = SourceSettingsTable.load().of(modality, "a clinic", [])
    item = record([[20, 20, 60, 50]], ["liver"], pixels=pixels, modality=modality, settings=allowed)
    quiet = replace(STILL, noise_share=0.0, blur_share=0.0)
    plain = GroundingDataset([item], image_processor(), augmentation=quiet)
    changed = GroundingDataset([item], image_processor(), augmentation=replace(quiet, effects=(2, 3)))
    assert not torch.allclose(plain[0]["pixel_values"], changed[0]["pixel_values"], atol=0.02)
    assert same(changed[0], GroundingDataset([item], image_processor(), augmentation=changed.augmentation)[0])
    assert torch.equal(plain[0]["labels"]["boxes"], changed[0]["labels"]["boxes"])


def test_a_label_that_is_mostly_cut_off_is_not_asked() -> None:
    item = record(
        [[0, 0, 40, 40], [80, 0, 100, 40], [10, 50, 30, 70]],
        ["liver", "spleen", "aorta"],
        ["aorta", "liver", "spleen"],
    )
    dataset = GroundingDataset([item], image_processor())
    boxes = item.boxes / np.array([100, 80, 100, 80], np.float32)
    gone = Geometry(np.eye(2), np.array([-0.35, 0.0])).map_boxes(boxes)
    visible, labels, annotated = dataset._visible(item, gone)
    assert labels == ["spleen"] and annotated == ["aorta", "spleen"], (
        "aorta left the image, an eighth of the liver is seen"
    )
    np.testing.assert_allclose(visible, [[0.45, 0, 0.65, 0.5]], atol=1e-6)


def test_a_label_that_was_left_out_is_never_asked() -> None:
    both = record([[10, 10, 50, 50]], ["liver"], ["liver", "brain tumor"])
    item = replace(both, source_labels=both.annotated)
    for records, asked in ((chosen_labels([item], None, ["brain tumor"]), False), ([both], True)):
        (chosen,) = records
        foreign = {"mri/other": ("brain tumor", "brain tumour", "optic disc")}
        data = GroundingDataset([chosen], image_processor(), 64, foreign=foreign)
        words = set()
        for epoch in range(60):
            data.set_epoch(epoch)
            words |= set(data[0]["text_labels"])
        assert bool({"brain tumor", "brain tumour"} & words) is asked


def test_what_a_source_cannot_show_is_asked_and_has_no_box() -> None:
    shown = record([[10, 10, 40, 40]], ["gallbladder"], settings=SourceSettings(absent=("polyp", "gallbladder")))
    dataset = GroundingDataset([shown], image_processor(), prompts=PromptRecipe(replace=0, foreign=0, all_labels=1))
    example = dataset[0]
    assert sorted(example["text_labels"]) == ["gallbladder", "polyp"]
    assert {example["text_labels"][label] for label in example["labels"]["class_labels"].tolist()} == {"gallbladder"}
    left_out = LabelSet(Vocabulary.load(), ["polyp"], "endoscopy")
    dataset = GroundingDataset([shown], image_processor(), prompts=dataset.sampler.recipe, left_out=left_out)
    assert dataset[0]["text_labels"] == ["gallbladder"], "held out of training"


def test_the_images_in_memory_are_given_back() -> None:
    data = GroundingDataset([record([[10, 10, 50, 50]], ["liver"], ["liver"])], image_processor(), 64)
    first, room = data.image(0), data._cache.room
    assert data.image(0) is first
    data.release()
    assert data._cache.room > room and data.image(0) is not first and data._cache.room == room


def test_a_close_up_that_cuts_everything_is_not_taken() -> None:
    """Nothing could be asked of it."""
    item = record(
        [[0, 30, 30, 42], [60, 10, 100, 62]], ["a stone of mine"] * 2, settings=SourceSettings(close_ups=True)
    )
    close, plain = AugmentationRecipe(close_share=1.0), PromptRecipe(foreign=0, no_positive=0)
    made = GroundingDataset([item], image_processor(), augmentation=close, prompts=plain)
    for epoch in range(600):
        made.set_epoch(epoch)
        assert made[0]["text_labels"] == ["a stone of mine"]


def test_the_cache_ends_where_its_room_does() -> None:
    loads: Counter[str] = Counter()

    def image(name: str) -> GroundingRecord:
        def load() -> np.ndarray:
            loads[name] += 1
            return np.zeros((50, 40), np.uint8)

        made = record([[5, 5, 20, 20]], ["liver"], modality="mri", image_id=name, pixels=np.zeros((50, 40), np.uint8))
        return replace(made, loader=load)

    records = [image("a"), image("b"), image("c")]
    dataset = GroundingDataset(records, image_processor(), cache_bytes=2 * 50 * 40)
    for _ in range(2):
        assert all(dataset.image(number).pixels.shape == (1, 50, 40) for number in range(3))
    assert loads == {"a": 1, "b": 1, "c": 2}


def test_large_images_are_shrunk_in_the_cache_and_decoded_once() -> None:
    calls = []
    pixels = np.zeros((400, 300), np.uint8)
    item = record([[1, 1, 200, 200]], ["liver"], pixels=pixels)
    item = replace(item, loader=lambda: calls.append(1) or pixels)
    dataset = GroundingDataset([item], image_processor())
    dataset.preload()
    dataset[0], dataset[0]
    assert len(calls) == 1 and max(dataset.image(0).pixels.shape) == int(1.35 * SIZE)


def test_records_of_one_modality_only() -> None:
    both = [record([], [], ["liver"]), record([], [], ["optic disc"], modality="fundus")]
    with pytest.raises(ValueError, match="records of one modality"):
        GroundingDataset(both, image_processor())
    with pytest.raises(ValueError, match="records of one modality"):
        GroundingDataset([], image_processor())


def test_the_collator_makes_the_models_batch(tmp_path: Path) -> None:
    processor = tiny_processor(tmp_path, ("ct",))
    items = [
        record([[10, 10, 30, 30]], ["left kidney"]),
        record([[5, 5, 50, 50], [50, 5, 95, 50]], ["liver", "spleen"]),
    ]
    dataset = GroundingDataset(items, processor.image_processor, train=False)
    batch = GroundingCollator(processor)([dataset[0], dataset[1]])
    assert batch["pixel_values"].shape == (2, 3, 64, 64) and batch["modality"] == ["ct", "ct"]
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["label_tokens"].shape[::2]
    assert batch["text_labels"] == [["left kidney"], ["liver", "spleen"]]
    assert batch["label_tokens"].any(-1).tolist() == [[True, False], [True, True]]
    assert batch["labels"][1]["class_labels"].tolist() == [0, 1]
    direct = processor(images=[i.load() for i in items], text=batch["text_labels"], modality="ct")
    assert torch.equal(batch["input_ids"], direct["input_ids"]) and torch.equal(
        batch["label_tokens"], direct["label_tokens"]
    )


def test_the_collator_joins_phrases_that_read_the_same(tmp_path: Path) -> None:
    processor = tiny_processor(tmp_path, ("ct",))
    example = {
        "pixel_values": torch.zeros(3, 8, 8),
        "text_labels": ["liver", "Liver", "spleen"],
        "labels": {"boxes": torch.zeros(3, 4), "class_labels": torch.tensor([1, 2, 0])},
        "modality": "ct",
    }
    batch = GroundingCollator(processor)([example])
    assert batch["text_labels"] == [["liver", "spleen"]] and batch["labels"][0]["class_labels"].tolist() == [0, 1, 0]


def test_phrase_length_counts_tokens_and_a_separator(tmp_path: Path) -> None:
    length = PhraseLength(tiny_processor(tmp_path, ("ct",)).tokenizer)
    assert length("liver") == 2 and length("left kidney") == 3


def test_drawn_prompts_keep_to_the_token_budget(tmp_path: Path) -> None:
    processor = tiny_processor(tmp_path, ("ct",))
    labels = ["left kidney", "right kidney", "liver", "spleen"]
    item = record([[5, 5, 20, 20]] * 4, labels)
    length = PhraseLength(processor.tokenizer)
    recipe = PromptRecipe(token_budget=8, replace=0.0, all_labels=1.0)
    dataset = GroundingDataset([item], processor.image_processor, prompts=recipe, token_length=length)
    for epoch in range(10):
        dataset.set_epoch(epoch)
        batch = GroundingCollator(processor)([dataset[0]])
        assert batch["input_ids"].shape[1] <= 8


def test_images_of_rare_labels_come_more_often() -> None:
    common = [record([[5, 5, 20, 20]], ["liver"], ["liver", "spleen"], image_id=f"c{n}") for n in range(16)]
    rare = record([[5, 5, 20, 20]] * 2, ["liver", "spleen"], image_id="r")
    empty = record([], [], ["liver", "spleen"], image_id="e")
    records = [*common, rare, empty]
    np.testing.assert_array_equal(repeat_factors(records, 0.0), 1.0)
    factors = repeat_factors(records, 0.5)
    np.testing.assert_allclose(factors, [1.0] * 16 + [(0.5 * 18) ** 0.5, 1.0])  # the spleen is in 1 of 18
    dataset = GroundingDataset(records, image_processor(), balance=0.5)
    assert len(dataset) == 20 and len(GroundingDataset(records, image_processor())) == 18
    seen: Counter[int] = Counter()
    for epoch in range(10):
        dataset.set_epoch(epoch)
        seen.update(dataset._order.tolist())
    assert 28 <= seen[16] <= 32 and all(9 <= seen[number] <= 11 for number in (*range(16), 17))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_with_values_that_are_not_finite_are_named_and_skipped(value: float) -> None:
    pixels = np.zeros((40, 50), np.float32)
    pixels[3, 4] = value
    records = [
        record([[1, 1, 20, 20]], ["liver"], modality="mri", image_id=name, pixels=array)
        for name, array in (("broken", pixels), ("whole", np.ones((40, 50), np.float32)))
    ]
    dataset = GroundingDataset(records, image_processor())
    example = dataset[0]
    assert torch.isfinite(example["pixel_values"]).all()
    assert dataset.broken() == {"broken": "the image holds NaN or infinite values; replace them first"}


def test_a_data_set_can_be_sent_to_a_process_that_is_not_forked(tmp_path: Path) -> None:
    data, processor = make_data(tmp_path), tiny_processor(tmp_path, ("ct",))
    records = load_records(str(data), "ct")
    length = PhraseLength(processor.tokenizer)
    dataset = GroundingDataset(
        records, processor.image_processor, foreign=foreign_labels(records), token_length=length
    )
    assert len(dataset[0]["text_labels"]) and ForkingPickler.dumps(dataset)
    assert ForkingPickler.dumps(GroundingCollator(processor))


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_of_a_loader_count_broken_images_together(start: str) -> None:
    whole, bad = np.ones((40, 50), np.float32), np.full((40, 50), np.nan, np.float32)
    records = [
        record([[1, 1, 20, 20]], ["liver"], modality="mri", image_id=str(n), pixels=bad if n in (1, 4) else whole)
        for n in range(200)
    ]
    dataset = GroundingDataset(records, image_processor())
    subset = torch.utils.data.Subset(dataset, [0, 1, 4, 5])  # two loaders of two images, a broken one in each
    loader = DataLoader(subset, batch_size=2, num_workers=2, multiprocessing_context=start, collate_fn=list)
    for epoch in range(2):
        assert [len(batch) for batch in loader] == [2, 2]
        assert list(dataset.broken()) == ["1", "4"], epoch
    assert not any(np.isnan(example["pixel_values"].numpy()).any() for batch in loader for example in batch)
    dataset.records[7] = records[1]
    with pytest.raises(ValueError, match="3 of 200 images cannot be read: mend the data; the first is 1"):
        dataset[7]
