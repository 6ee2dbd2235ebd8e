# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Splits by patient; what shares pixels stays together."""

from __future__ import annotations

import random

import pytest

from dataset_scripts.splits import NEAR_BITS, Groups, Similar, SplitImage, hash_fraction, make_splits, split_hash


def seen(
    name: str, split: str | None = None, sha: str | None = None, look: int | None = None, compare: bool = True
) -> SplitImage:
    value = random.Random(name).getrandbits(256) if look is None else look
    return SplitImage(("family", name), split, sha or name, f"{value:064x}", compare)


def test_patients_keep_to_one_split_and_official_ones_come_first() -> None:
    images = [seen(f"p{n}", sha=f"{n}-{k}") for n in range(400) for k in range(3)]
    images += [seen("official", "validation"), seen("official_test", "test")]
    splits = make_splits(images)
    counts = {name: list(splits.split.values()).count(name) for name in ("train", "validation", "test")}
    assert counts["test"] == 1 and splits.split["family", "official"] == "validation"
    assert 20 < counts["validation"] < 65 and counts["train"] > 300
    assert 20 < len(splits.subset) < 65 and all(splits.split[patient] == "train" for patient in splits.subset)


def test_splits_do_not_depend_on_the_order_and_on_other_images() -> None:
    images = [seen(f"p{n}") for n in range(60)]
    first = make_splits(images, seed=3)
    shuffled = images[:30][::-1]
    again = make_splits(shuffled, seed=3)
    assert all(first.split[patient] == split for patient, split in again.split.items())
    assert make_splits(images, seed=4).split != first.split


def test_the_same_pixels_join_patients_on_the_held_out_side() -> None:
    splits = make_splits([seen("a", "train", "x"), seen("b", "validation", "x"), seen("b", "validation", "y")])
    assert set(splits.split.values()) == {"validation"}
    assert splits.joined == ((("family", "a"), ("family", "b"), "same pixels"),)
    assert splits.moved == (("family", "a"),)


def test_images_that_look_the_same_join_patients() -> None:
    near, far = (1 << NEAR_BITS) - 1, (1 << (NEAR_BITS + 60)) - 1
    splits = make_splits(
        [seen("a", look=0), seen("b", look=near), seen("c", look=far), seen("d", look=0, compare=False)]
    )
    assert splits.joined == ((("family", "a"), ("family", "b"), "looks the same"),)


def test_similar_finds_all_near_hashes() -> None:
    """Against all pairs, for hashes with up to `NEAR_BITS` bits turned over at random places."""
    chance = random.Random(0)
    base = [chance.getrandbits(256) for _ in range(40)]
    values = base + [value ^ sum(1 << bit for bit in chance.sample(range(256), NEAR_BITS)) for value in base]
    similar, result = Similar(), 0
    for number, value in enumerate(values):
        result += len(similar.add(f"{value:064x}", ("f", str(number))))
    assert result == len(base)


def test_families_of_several_sources_are_not_drawn_for_validation() -> None:
    images = [seen(f"p{n}") for n in range(100)]
    assert "validation" in make_splits(images).split.values()
    assert set(make_splits(images, shared=frozenset({"family"})).split.values()) == {"train"}


def test_groups() -> None:
    groups = Groups()
    assert groups.join(("f", "b"), ("f", "c")) and groups.join(("f", "c"), ("f", "a"))
    assert not groups.join(("f", "a"), ("f", "b")) and groups.find(("f", "c")) == ("f", "a")
    assert groups.find(("f", "z")) == ("f", "z")


def test_draws_are_even_and_hashes_follow_the_patients() -> None:
    numbers = [hash_fraction(0, "split", ("f", str(n))) for n in range(2000)]
    assert sum(numbers) / 2000 == pytest.approx(0.5, abs=0.03)
    assert split_hash([("a", "b"), ("c", "d")]) == split_hash([("c", "d"), ("a", "b")]) != split_hash([("a", "b")])
