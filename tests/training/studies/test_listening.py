# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The study of listening: what is asked of which images, what is counted, and the page of several files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modeling_medglip.checkpoints.location import default_checkpoint
from modeling_medglip.defaults import UNTRAINED_THRESHOLD
from modeling_medglip.grounding import load_grounder
from modeling_medglip.io.text_files import load_yaml
from modeling_medglip.outputs.markdown import percent
from modeling_medglip.outputs.results import GroundedBox
from modeling_medglip.trained_labels import TrainedLabels
from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint
from training.data.records import GroundingRecord, SourceSettings
from training.data.unlearned import LabelSet, UnlearnedPhrases, is_held_out
from training.data.vocabulary import Vocabulary
from training.studies import listening, listening_page

from ..tiny_data import make_data, record


TOKENIZER = SimpleNamespace(
    get_vocab=lambda: dict.fromkeys(("banana", "engine", "river", "garden", "stone", "window"))
)
BREAST = SourceSettings(regions=("breast", "chest"))
PRESENCE = {"benign breast tumor": 0.9, "fetal head": 0.9}
OTHERS = load_yaml(listening.ASKED.read_text(encoding="utf-8"))["others"]
BOX, ELSEWHERE = [10.0, 10.0, 30.0, 30.0], [60.0, 40.0, 90.0, 70.0]


def grounder(modality: str, *labels: str) -> Any:
    processor = SimpleNamespace(tokenizer=TOKENIZER)
    return SimpleNamespace(trained=TrainedLabels({modality: labels}), processor=processor)


def box(label: str, score: float, corners: Sequence[float] = BOX, trained: bool | None = True) -> GroundedBox:
    left, top, right, bottom = corners
    return GroundedBox(label, score, (left, top, right - left, bottom - top), trained=trained)


def answer(monkeypatch: pytest.MonkeyPatch, boxes_of: Callable[[str], list[GroundedBox]]) -> list[list[str]]:
    """Let the network answer each label with these boxes; returns the prompts, which fill as they are asked."""
    prompts: list[list[str]] = []

    def ask(
        grounder: Any, pixels: Any, labels: Sequence[str], modality: str
    ) -> dict[str, tuple[list[GroundedBox], float]]:
        prompts.append(list(labels))
        return {label: (boxes_of(label), PRESENCE.get(label, 0.2)) for label in labels}

    monkeypatch.setattr(listening, "ask", ask)
    return prompts


def breast(name: str, *labels: str) -> GroundingRecord:
    both = ["benign breast tumor", "malignant breast tumor"]
    fields = {"source": "busi", "modality": "ultrasound", "image_id": name, "settings": BREAST}
    return record([BOX] * len(labels), list(labels), both, **fields)


def test_images_come_from_all_sources_in_turn() -> None:
    records = [breast(str(number), "benign breast tumor") for number in range(3)]
    records += [breast("v", "malignant breast tumor"), replace(breast("x"), source="other")]
    records += [replace(breast("view"), view_of="v")]
    chosen = [record.image_id for record in listening.chosen_images(records, 9)]
    assert chosen[1] == "x" and {*chosen} == {"0", "1", "2", "v", "x"}
    assert [r.image_id for r in listening.chosen_images(records, 9, ["malignant breast tumor"])] == ["v"]


def test_boxes_are_counted_at_both_thresholds() -> None:
    boxes = [box("a", 0.95, trained=False), box("a", 0.5, trained=False), box("b", 0.4), box("b", 0.2)]
    assert listening.count_boxes(boxes) == {"score": 0.95, "plain": 3, "stricter": 2}
    assert listening.count_boxes([]) == {"score": 0.0, "plain": 0, "stricter": 0}


def test_unknown_phrases_are_for_measuring_and_absent_labels_are_proved_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts = answer(monkeypatch, lambda label: [box(label, 0.6, trained=False)])
    learned = ("benign breast tumor", "fetal head", "malignant breast tumor", "ovarian tumor")
    records = {"ultrasound": [breast("a", "benign breast tumor")]}
    rows = listening.study_phrases(grounder("ultrasound", *learned), records, "ultrasound", 5)
    by_kind = {kind: [row["phrase"] for row in rows if row["kind"] == kind] for kind in (*listening.UNKNOWN, "absent")}
    assert set(by_kind["absent"]) == {"malignant breast tumor", "fetal head", "ovarian tumor"}
    assert all(map(is_held_out, (*by_kind["never learned"], *by_kind["composed"]))) and by_kind["composed"]
    assert [row["phrase"] for row in rows if row["kind"] == "present"] == ["benign breast tumor"]
    assert len(prompts) == 5 and all((row["plain"], row["stricter"]) == (1, 0) for row in rows)
    cells = listening_page._phrase_cells({"phrases": rows})
    assert cells["absent"] == "3.00 / 0.00"
    asked = sum(len(by_kind[kind]) for kind in listening.UNKNOWN)
    assert cells["all unknown"] == f"{asked}.00 / 0.00" and asked > 8
    presence = listening_page._presence_cells({"phrases": rows})
    assert presence["present"] == "0.90 / 0.90 / 0.90 of 1" and presence["absent"] == "0.20 / 0.20 / 0.76 of 3"
    assert presence["present over absent"] == percent(2.5 / 3, 0) and presence["present over unknown"] == "100"
    assert listening_page._presence_cells({"phrases": [{"kind": "absent"}]}) == {}, "an older file"


def test_labels_that_a_source_cannot_show_are_asked_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, lambda label: [])
    laparoscopy = SourceSettings(regions=("abdomen",), absent=("polyp",))
    records = {"endoscopy": [record([BOX], ["gallbladder"], modality="endoscopy", settings=laparoscopy)]}
    rows = listening.study_phrases(grounder("endoscopy", "gallbladder", "polyp"), records, "endoscopy", 1)
    assert [row["phrase"] for row in rows if row["kind"] == "absent"] == ["polyp"]


def test_images_that_show_nothing_are_of_other_modalities(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = answer(monkeypatch, lambda label: [box(label, 0.6)])
    units = np.linspace(-1000, 1000, 400, dtype=np.int16).reshape(20, 20)
    hounsfield = record([], [], ["liver"], modality="ct", pixels=units)
    records = {"ct": [hounsfield], "mri": [record([], [], ["glioma"], modality="mri")], "ultrasound": [breast("a")]}
    images = listening.negative_images(records, "ultrasound")
    assert {kind: len(found) for kind, found in images.items()} == {
        "noise": 4, "black": 1, "white": 1, "ct": 1, "mri": 1,
    }  # fmt: skip
    assert all(pixels.dtype == np.uint8 for found in images.values() for pixels in found)
    assert (images["ct"][0].min(), images["ct"][0].max()) == (0, 255), "as an export to 8 bits"
    assert "mri" not in listening.negative_images(records, "ct"), "may show the same organs"
    rows = listening.study_negative_images(grounder("ultrasound", "fetal head", "nerve"), records, "ultrasound")
    assert prompts[0] == ["fetal head", "nerve"] and all(row["plain"] == 2 for row in rows)
    cells = listening_page._negative_cells({"negative_images": rows})
    assert cells == {"noise": "2.00", "black": "2.00", "white": "2.00", "other modalities": "2.00"}


def test_the_best_box_over_the_siblings_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {"benign breast tumor": 0.7, "malignant breast tumor": 0.6}
    answer(monkeypatch, lambda label: [box(label, 0.99, ELSEWHERE), box(label, scores[label])])
    records = [breast("a", "benign breast tumor"), breast("b", "malignant breast tumor"), breast("c")]
    rows = listening.study_siblings(grounder("ultrasound"), records, "ultrasound", [list(scores)], 5)
    assert [(row["objects"], row["hit"], row["right"]) for row in rows] == [(1, 1, 1), (1, 1, 0)]
    assert list(listening_page._sibling_cells({"siblings": rows}).values()) == ["1 of 2 (2 objects)"]


def test_something_else_in_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {"polyp": 0.8, "cancer": 0.4, "ulcer": 0.2}
    answer(monkeypatch, lambda label: [box(label, scores[label])])
    records = [record([BOX], ["polyp"], modality="endoscopy")]
    others = {"polyp": ["cancer", "ulcer"]}
    (row,) = listening.study_others(grounder("endoscopy", "polyp"), records, "endoscopy", others, 5)
    assert (row["images"], row["drawn"], row["alone"], row["others"]) == (1, 1, 0, {"cancer": 1, "ulcer": 0})
    scores["cancer"] = 0.1
    (row,) = listening.study_others(grounder("endoscopy", "polyp"), records, "endoscopy", others, 5)
    assert row["alone"] == 1
    assert not row["held_out"] and list(listening_page._other_cells({"others": [row]})) == [
        "polyp, not cancer+, ulcer+"
    ]
    assert list(listening_page._other_cells({"others": [{**row, "held_out": ["ulcer"]}]})) == [
        "polyp, not cancer+, ulcer"
    ]


@pytest.mark.parametrize(("modality", "label"), [(name, label) for name in OTHERS for label in OTHERS[name]])
def test_phrases_for_something_else_are_not_learned_and_some_are_for_measuring(modality: str, label: str) -> None:
    trained = TrainedLabels.of(json.loads((Path(default_checkpoint()) / "config.json").read_text(encoding="utf-8")))
    own = LabelSet(Vocabulary.load(), [label], modality)
    unlearned = UnlearnedPhrases.of(modality, trained.labels(modality), held_out=True)
    phrases = OTHERS[modality][label]
    assert label in trained.labels(modality) and len(set(phrases)) == len(phrases)
    for phrase in phrases:
        assert trained.knows(phrase, modality) is False and not own.covers(phrase) and not own.narrows(phrase)
    measured = [phrase for phrase in phrases if is_held_out(phrase)]
    assert 2 <= len(measured) <= 3 and all(unlearned.allows(phrase, "finding") for phrase in measured)
    assert len(measured) < len(phrases), "and some that training may have asked for"


def test_wordings_hit_if_their_best_box_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "polyp": [box("polyp", 0.8)], "bowel polyp": [box("bowel polyp", 0.5, trained=False)],
        "colorectal growth": [box("colorectal growth", 0.9, ELSEWHERE), box("colorectal growth", 0.8)],
    }  # fmt: skip
    answer(monkeypatch, lambda label: answers.get(label, []))
    records = [record([BOX], ["polyp"], modality="endoscopy")]
    rows = listening.study_wordings(grounder("endoscopy", "polyp"), records, "endoscopy", 5)
    hits = {row["phrase"]: (row["kind"], row["plain"], row["stricter"]) for row in rows}
    assert hits["polyp"] == ("name", 1, 1) and hits["bowel polyp"] == ("held out", 1, 0)
    assert hits["colorectal growth"] == ("held out", 0, 0)
    assert {row["kind"] for row in rows} == {"name", "synonym", "description", "held out"}
    cells = listening_page._wording_cells({"wordings": rows})
    assert cells["name"] == "100 / 100 of 1" and cells["held out"] == "33 / 0 of 3"


def test_wordings_keep_the_scores_of_right_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    word = "raised growth on the wall of the colon"
    corners = {"polyp": BOX, "bowel polyp": BOX, word: BOX, "colorectal growth": ELSEWHERE}
    answer(monkeypatch, lambda label: [box(label, 0.123456, corners[label])] if label in corners else [])
    monkeypatch.setattr(Vocabulary.load(), "descriptions", {"polyp": (word,)})
    records = [record([BOX], ["polyp"], modality="endoscopy", image_id=name) for name in "ab"]
    rows = listening.study_wordings(grounder("endoscopy", "polyp"), records, "endoscopy", 5)
    found = {row["phrase"]: (row["kind"], row["trained"], row["scores"]) for row in rows}
    assert found["polyp"] == ("name", True, [0.1235, 0.1235])
    assert found["bowel polyp"] == ("held out", False, [0.1235, 0.1235])
    assert found[word] == ("description", False, [0.1235, 0.1235])
    assert found["colorectal growth"] == ("held out", False, []), "its best box is wrong"


def threshold_results(unknown: list[float], kept: list[float]) -> dict[str, Any]:
    wordings = [
        {"kind": "held out", "trained": False, "scores": kept[:1]},
        {"kind": "description", "trained": False, "scores": kept[1:]},
        {"kind": "held out", "trained": True, "scores": [1.0]},
        {"kind": "synonym", "trained": False, "scores": [1.0]},
    ]
    kinds = ("never learned", "composed", "nonsense")
    phrases = [{"kind": kinds[number % 3], "score": score} for number, score in enumerate(unknown)]
    return {"phrases": [*phrases, {"kind": "absent", "score": 1.0}], "wordings": wordings}


def test_the_threshold_is_judged_by_what_it_hides_and_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, UNTRAINED_THRESHOLD} == set(listening_page.THRESHOLDS)
    thresholds = [0.3, 0.9, 0.95]
    monkeypatch.setattr(listening_page, "THRESHOLDS", thresholds)
    monkeypatch.setattr(listening_page, "UNTRAINED_THRESHOLD", 0.9)
    (section,) = [section for section in listening_page.SECTIONS if section.pooled]
    monkeypatch.setattr(listening_page, "SECTIONS", (section,))
    ct, mri = threshold_results([0.3, 0.1, 0.92, 0.0], [0.9, 0.96]), threshold_results([0.2], [0.1])
    new = listening_page.summary({"modalities": {"ct": ct, "mri": mri}})
    for row in mri["wordings"]:  # as before scores were kept
        del row["trained"], row["scores"]
    old = listening_page.summary({"modalities": {"mri": mri}})
    assert section.title == "The threshold for labels that were not trained"
    assert new[section.title] == {
        "ct: unknown phrases with a box": "50.0 / 25.0 / 0.0 of 4",
        "ct: right boxes kept": "100.0 / 100.0 / 50.0 of 2",
        "mri: unknown phrases with a box": "0.0 / 0.0 / 0.0 of 1",
        "mri: right boxes kept": "0.0 / 0.0 / 0.0 of 1",
        "all: unknown phrases with a box": "40.0 / 20.0 / 0.0 of 5",
        "all: right boxes kept": "66.7 / 66.7 / 33.3 of 3",
    }
    page = listening_page.render_page({"old": old, "new": new})
    assert "| mri: right boxes kept | - | 0.0 / 0.0 / 0.0 of 1 |" in page
    assert (
        "The default is 0.9; over all modalities it gives, old: unknown phrases with a box 0.0 %;"
        " new: unknown phrases with a box 20.0 %, right boxes kept 66.7 %." in page
    )


def test_a_checkpoint_is_measured_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PHRASES", "ABSENT", "NEGATIVES", "WORDINGS"):
        monkeypatch.setattr(listening, name, 1)
    checkpoint, data = save_tiny_checkpoint(tmp_path / "tiny"), make_data(tmp_path / "data")
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config["label_hierarchy"] = {"trained_labels": {"ct": ["left kidney", "right kidney", "liver"]}}
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    options = ["--data", str(data), "--model", str(checkpoint), "--images", "1", "--modality", "ct"]
    assert listening.main([*options, "--out", str(before)]) == 0
    results = json.loads(before.read_text(encoding="utf-8"))
    assert list(results["modalities"]) == ["ct"] and results["modalities"]["ct"]["images"] == 1
    assert {row["kind"] for row in results["modalities"]["ct"]["negative_images"]} >= {"noise", "fundus"}
    results["modalities"]["mri"] = results["modalities"]["ct"]
    after.write_text(json.dumps(results), encoding="utf-8")
    monkeypatch.setattr(listening, "measure", lambda *asked: [("ct", results["modalities"]["ct"])])
    assert listening.main([*options, "--out", str(after)]) == 0
    assert list(json.loads(after.read_text(encoding="utf-8"))["modalities"]) == ["ct", "mri"], "others stay"
    both, measured = tmp_path / "both.json", after.read_bytes()
    assert listening.main(["--page", str(before), str(after), "--out", str(after)]) == 2
    assert "after.json: holds what was measured" in capsys.readouterr().err and after.read_bytes() == measured
    assert listening.main(["--page", str(before), str(after), "--out", str(both)]) == 0
    page = both.with_suffix(".md").read_text(encoding="utf-8")
    assert listening_page.render_page(json.loads(both.read_text(encoding="utf-8"))["columns"]) == page
    assert "ct: unknown phrases with a box" in page and f"The default is {UNTRAINED_THRESHOLD:g}; over all" in page
    assert "|  | before | after |" in page and "| mri: absent | - | " in page and page in capsys.readouterr().out
    before.write_text("[]", encoding="utf-8")
    assert listening.main(["--page", str(before)]) == 2
    assert "before.json: not a file of this study" in capsys.readouterr().err


def test_the_network_is_asked_through_the_api(tmp_path: Path) -> None:
    loaded = load_grounder(str(save_tiny_checkpoint(tmp_path / "tiny")))
    pixels = np.zeros((40, 48), np.uint8)
    asked = listening.ask(loaded, pixels, ["liver", "kidney (L)", "? ?"], "ct")
    assert all(presence is None or 0 <= presence <= 1 for _, presence in asked.values())
    assert listening.ask(loaded, pixels, [], "ct") == {}
    found = listening.find_boxes(loaded, pixels, ["liver", "kidney (L)", "? ?"], "ct")
    assert set(found) == {"liver", "kidney (L)", "? ?"}
    assert all(box.score >= listening.LOWEST for boxes in found.values() for box in boxes)


def test_the_page_in_docs_holds_what_was_measured() -> None:
    docs = Path(__file__).parents[3] / "docs"
    columns = json.loads((docs / "listening.json").read_text(encoding="utf-8"))["columns"]
    assert (docs / "listening.md").read_text(encoding="utf-8") == listening_page.render_page(columns)
