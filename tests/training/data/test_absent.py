# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Which labels are certainly not in an image: the same for training prompts, evaluation and studies."""

from __future__ import annotations

from dataclasses import replace

from training.data.absent import AbsentLabels, absent_labels, labels_absent_from
from training.data.records import SourceSettings

from ..tiny_data import record


BOX = [10.0, 10.0, 30.0, 30.0]
KIDNEY = record([BOX], ["left kidney"], ["left kidney", "liver"])
NOTHING = AbsentLabels((), ())


def test_a_label_is_absent_where_it_is_annotated_without_a_box_or_of_another_part_of_the_body() -> None:
    absent = labels_absent_from(KIDNEY, ["spleen", "optic disc", "liver", "left kidney"])
    assert absent == (("liver",), ("optic disc",)), "nobody annotated the spleen"
    anywhere = replace(KIDNEY, settings=SourceSettings())
    assert labels_absent_from(anywhere, ["optic disc", "spleen"]).foreign == ("optic disc",), "regions of its labels"


def test_no_label_of_the_source_is_absent_because_of_its_place() -> None:
    opened = replace(KIDNEY, annotated=("left kidney",), source_labels=("liver", "optic disc"))
    assert labels_absent_from(opened, ["liver", "optic disc"]) == NOTHING
    assert labels_absent_from(opened, ["optic nerve head"]) == NOTHING, "in other words"
    head = record([], [], [], settings=SourceSettings(), source_labels=("brain tumor",))
    assert labels_absent_from(head, ["liver"]).foreign == ("liver",), "regions of labels that are not annotated"


def test_what_a_source_cannot_show_is_absent() -> None:
    settings = SourceSettings(regions=("abdomen",), absent=("polyp", "liver"))
    shown = replace(KIDNEY, settings=settings)
    assert labels_absent_from(shown, ["polyp"]).annotated == ("polyp",)
    assert shown.possible_labels == ("left kidney", "liver") and shown.excluded_labels == ("polyp",)
    opened = replace(shown, annotated=("left kidney",), source_labels=("liver",))
    assert labels_absent_from(opened, ["liver"]) == NOTHING, "its source has it all the same"


def test_nothing_is_foreign_where_the_regions_are_not_known() -> None:
    assert absent_labels(["optic disc"], [], ["a thing of mine"], ()) == NOTHING
    assert absent_labels(["optic disc"], [], ["a thing of mine"], ("abdomen",)).foreign == ("optic disc",)
