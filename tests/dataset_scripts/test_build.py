# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""From raw folders to COCO and Parquet, whole: contents, resuming, privacy, the command."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import get_dataset_config_names, load_dataset
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from dataset_scripts.build import build, main
from dataset_scripts.readers import READERS
from dataset_scripts.recipe import Recipe, load_recipes
from modeling_medglip.taxonomy import load_taxonomy

from .raw_data import CANARY, write_polyps, write_recipes, write_volumes


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    write_polyps(folder)
    write_volumes(folder)
    write_recipes(folder)
    return folder


@pytest.fixture(scope="module")
def recipes(raw: Path) -> list[Recipe]:
    return [recipe for name in ("polyps", "abdomen") for recipe in load_recipes(raw / f"{name}.yaml")]


@pytest.fixture(scope="module")
def built(raw: Path, recipes: list[Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "set"
    summary = build(recipes, raw, out, echo=lambda text: None)
    assert not summary.failed and set(summary.rejected) == {"empty_slice", "incomplete_header"}
    return out


def coco_files(out: Path) -> dict[str, COCO]:
    result = {}
    for path in sorted(out.glob("coco/*/*.json")):
        with contextlib.redirect_stdout(io.StringIO()):
            result[f"{path.parent.name}/{path.stem}"] = COCO(path)
    return result


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def kill_build(arguments: list[str], work: Path, cases: int) -> None:
    """Start a build, and kill it and its workers as soon as a number of cases is finished."""
    process = get_context("fork").Process(target=_build_in_group, args=(arguments,))
    process.start()
    while process.is_alive() and len(list(work.glob("cases/*/*/*/case.json"))) < cases:
        time.sleep(0.005)
    os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _build_in_group(arguments: list[str]) -> None:
    os.setsid()
    main(arguments)


class TestContents:
    def test_every_box_is_its_masks(self, built: Path) -> None:
        checked = 0
        for coco in coco_files(built).values():
            for entry in coco.dataset["annotations"]:
                rows, columns = np.nonzero(np.asarray(coco_mask.decode(entry["segmentation"])))
                box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
                assert entry["bbox"] == box and entry["area"] == len(rows)
                checked += 1
        assert checked > 60

    def test_positions_are_in_the_patient_frame(self, built: Path) -> None:
        """However a file orders its axes: the liver lies on the patient's right, image left; all volumes alike."""
        boxes: dict[str, set[tuple[float, ...]]] = {}
        for coco in coco_files(built).values():
            names = {entry["id"]: entry["name"] for entry in coco.dataset["categories"]}
            for entry in coco.dataset["annotations"]:
                image = coco.imgs[entry["image_id"]]
                if image.get("plane") == "axial" and image["index"] == 3:
                    boxes.setdefault(names[entry["category_id"]], set()).add(tuple(entry["bbox"]))
        assert boxes == {"liver": {(2, 4, 10, 10)}, "left kidney": {(16, 12, 4, 5)}}

    def test_images_are_the_volumes_through_the_window(self, built: Path, raw: Path) -> None:
        import nibabel

        image = np.asarray(nibabel.load(raw / "abdomen" / f"{CANARY}_0_ct.nii.gz").dataobj)
        expected = np.rint((image[:, :, 3].T.astype(np.float32) + 160) * 255 / 400).clip(0, 255).astype(np.uint8)
        coco = coco_files(built)["ct/train"]
        images = [
            np.asarray(Image.open(built / "coco" / "ct" / "images" / entry["file_name"]))
            for entry in coco.dataset["images"]
            if entry.get("plane") == "axial" and entry["index"] == 3
        ]
        assert any(np.array_equal(image, expected) for image in images)

    def test_lesions_know_their_organ_and_what_is_annotated(self, built: Path) -> None:
        entries = coco_files(built)["ct/train"].dataset
        lesion = next(entry for entry in entries["annotations"] if entry.get("label_id") == "liver_tumor")
        assert lesion["parent_label"] == "liver" and lesion["parent_box"] and lesion["source_label"] == "liver tumour"
        assert entries["images"][0]["annotated"] == ["left kidney", "liver", "liver tumor", "thing"]

    def test_coco_and_parquet_agree(self, built: Path) -> None:
        for name, coco in coco_files(built).items():
            modality, split = name.split("/")
            rows = pq.read_table(next((built / modality).glob(f"{split}-*.parquet"))).to_pylist()
            assert [row["image_id"] for row in rows] == [entry["id"] for entry in coco.dataset["images"]]
            for row, entry in zip(rows, coco.dataset["images"], strict=True):
                assert (
                    row["image"]["bytes"] == (built / "coco" / modality / "images" / entry["file_name"]).read_bytes()
                )
                theirs = coco.loadAnns(row["objects"]["id"])
                assert row["objects"]["bbox"] == [result["bbox"] for result in theirs]
                assert row["objects"]["category"] == [result["category_id"] for result in theirs]
                assert row["objects"]["segmentation"] == [result["segmentation"]["counts"] for result in theirs]

    def test_load_dataset(self, built: Path, tmp_path: Path) -> None:
        assert sorted(get_dataset_config_names(str(built))) == ["ct", "endoscopy", "labels"]
        images = load_dataset(str(built), "ct", cache_dir=str(tmp_path))
        assert set(images) == {"train", "validation"}
        row = images["train"][0]
        classes = images["train"].features["objects"]["category"].feature
        assert row["image"].size == (row["width"], row["height"]) and row["modality"] == "ct"
        assert classes.int2str(row["objects"]["category"][0]) in ("liver", "left kidney", "thing", "liver tumor")
        streamed = next(iter(load_dataset(str(built), "ct", split="train", streaming=True)))
        assert streamed["objects"]["bbox"] == row["objects"]["bbox"]
        labels = load_dataset(str(built), "labels", split="train", cache_dir=str(tmp_path))
        taxonomy = load_taxonomy()
        assert len(labels) == len(taxonomy.labels) + len(taxonomy.extensions) + 1 and labels[-1]["name"] == "thing"
        assert [labels[number]["name"] for number in range(len(labels))] == classes.names

    def test_a_set_that_is_built_again_is_not_answered_with_the_older_one(self, raw: Path, tmp_path: Path) -> None:
        """`datasets` caches folders by name and `dataset_info`: here other pseudonyms under equal counts."""
        (recipe,) = load_recipes(raw / "polyps.yaml")
        patients = []
        for number in range(2):
            out = tmp_path / str(number) / "set"
            build([recipe], raw, out, echo=lambda text: None)
            table = load_dataset(str(out), "endoscopy", split="train", cache_dir=str(tmp_path / "cache"))
            patients.append(set(table["patient"]))
        assert len(patients[0]) == len(patients[1]) and not patients[0] & patients[1]

    def test_patients_and_official_splits(self, built: Path) -> None:
        patients: dict[str, set[str]] = {}
        for name, coco in coco_files(built).items():
            for entry in coco.dataset["images"]:
                patients.setdefault(entry["patient"], set()).add(name)
        assert len(patients) == 5 and all(len(splits) == 1 for splits in patients.values())
        assert len({entry["case"] for entry in coco_files(built)["ct/validation"].dataset["images"]}) == 1

    def test_report_statistics_and_card(self, built: Path) -> None:
        report = json.loads((built / "quality" / "report.json").read_text(encoding="utf-8"))
        rows = [
            json.loads(line) for line in (built / "quality" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        assert sum(result["abdomen_of_mine"] for result in report["rejected"].values()) == len(rows)
        counts = {
            (row["by"], row["value"]): row
            for row in pq.read_table(built / "statistics" / "counts.parquet").to_pylist()
        }
        assert counts["modality", "ct"]["boxes"] + counts["modality", "endoscopy"]["boxes"] == report["annotations"]
        assert counts["name", "polyp"]["boxes"] == 8 and counts["granularity", "lesion"]["masks"] > 8
        text = (built / "README.md").read_text(encoding="utf-8")
        assert "| Polyps of mine | endoscopy | CC0 |" in text and "not known" in text
        assert "| polyp | 4 | 8 | 8 |" in (built / "statistics" / "README.md").read_text(encoding="utf-8")


class TestPrivacy:
    def test_no_canary_in_any_byte(self, built: Path) -> None:
        needle = re.compile(CANARY.encode(), re.IGNORECASE)
        for name, content in tree(built).items():
            assert not needle.search(name.encode()) and not needle.search(content), name
        images = [content for name, content in tree(built).items() if name.endswith(".png")]
        assert images and not any(b"tEXt" in content or b"eXIf" in content for content in images)

    def test_the_private_list_stays_beside_the_set(self, built: Path) -> None:
        private = built.with_name("set.work")
        assert CANARY in (private / "cases.jsonl").read_text(encoding="utf-8")
        assert (private / "pseudonyms.key").stat().st_mode & 0o077 == 0

    def test_names_of_masks_that_no_recipe_knows_stay_private(self, raw: Path, tmp_path: Path) -> None:
        folder = tmp_path / "raw" / "p1"
        folder.mkdir(parents=True)
        shutil.copy(next((raw / "abdomen").glob("*_0_ct.nii.gz")), folder / "ct.nii.gz")
        for name in ("liver", CANARY):
            shutil.copy(next((raw / "abdomen").glob("*_0_seg.nii.gz")), folder / f"{name}.nii.gz")
        recipe = Recipe(
            "mine", "ct", "volume_masks", files={"image": "*/ct.nii.gz", "mask": "{folder}/*.nii.gz"},
            labels={"liver": "liver"},
        )  # fmt: skip
        summary = build([recipe], tmp_path / "raw", tmp_path / "set", echo=lambda text: None)
        assert summary.rejected["undefined_label"]["mine"] > 0 and summary.images > 0
        assert not any(CANARY.encode() in content for content in tree(tmp_path / "set").values())
        assert CANARY in (tmp_path / "set.work" / "rejected.jsonl").read_text(encoding="utf-8")

    def test_another_key_gives_other_pseudonyms(
        self, raw: Path, recipes: list[Recipe], tmp_path: Path, built: Path
    ) -> None:
        build(recipes, raw, tmp_path / "set", echo=lambda text: None)
        ours = {entry["case"] for coco in coco_files(tmp_path / "set").values() for entry in coco.dataset["images"]}
        theirs = {entry["case"] for coco in coco_files(built).values() for entry in coco.dataset["images"]}
        assert len(ours) == len(theirs) and not ours & theirs
        counts = [
            {name: len(coco.imgs) for name, coco in coco_files(out).items()} for out in (built, tmp_path / "set")
        ]
        assert counts[0] == counts[1], "the splits do not hang on the key"
        cards = [(out / "README.md").read_text(encoding="utf-8") for out in (built, tmp_path / "set")]
        hashes = [card.partition("Patients of each split")[2].splitlines()[0] for card in cards]
        assert hashes[0] == hashes[1]

    def test_the_work_folder_must_be_outside_the_set(self, raw: Path, recipes: list[Recipe], tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="work folder must be outside"):
            build(recipes, raw, tmp_path, tmp_path / "work")


class TestResuming:
    def test_a_stopped_build_ends_with_the_same_bytes(
        self, raw: Path, recipes: list[Recipe], built: Path, tmp_path: Path
    ) -> None:
        """Some cases lost, one half-written, leftovers of a merge: the next run mends all of it."""
        shutil.copytree(built.with_name("set.work"), tmp_path / "set.work")
        cases = sorted((tmp_path / "set.work" / "cases").glob("*/*/*"))
        for folder in cases[::3]:
            shutil.rmtree(folder)
        (cases[1] / "case.json").write_text('{"half', encoding="utf-8")
        (tmp_path / "set.work" / "parts" / "abc").mkdir(parents=True)
        (tmp_path / ".set.new" / "ct").mkdir(parents=True)
        build(recipes, raw, tmp_path / "set", echo=lambda text: None)
        assert tree(tmp_path / "set") == tree(built)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "set.work"]

    @pytest.mark.skipif(sys.platform == "win32", reason="needs process groups")
    def test_killed_at_any_moment(self, raw: Path, built: Path, tmp_path: Path) -> None:
        """Real processes, killed without warning, then one that may finish; two workers."""
        work = tmp_path / "set.work"
        work.mkdir()
        shutil.copy(built.with_name("set.work") / "pseudonyms.key", work)
        arguments = ["--recipe", str(raw / "polyps.yaml"), str(raw / "abdomen.yaml"), "--raw", str(raw)]
        arguments += ["--out", str(tmp_path / "set"), "--workers", "2", "--no-previews"]
        for cases in (1, 4):
            kill_build(arguments, work, cases)
            assert not (tmp_path / "set").exists()
        assert main(arguments) == 0
        assert tree(tmp_path / "set") == tree(built)

    def test_nothing_is_done_twice(self, raw: Path, recipes: list[Recipe], built: Path, tmp_path: Path) -> None:
        shutil.copytree(built.with_name("set.work"), tmp_path / "set.work")
        message: list[str] = []
        build(recipes, raw, tmp_path / "set", echo=message.append)
        assert message == ["7 cases of 2 sources; 0 to do, 0.0 MB to read, at most 0 images"]

    def test_the_plan_counts_images_from_headers(self, raw: Path, recipes: list[Recipe], tmp_path: Path) -> None:
        message: list[str] = []
        build(recipes, raw, tmp_path / "set", echo=message.append)
        slices, frames = 3 * (12 + 5), 4  # axial every slice, coronal every fourth of 20
        assert message[0].startswith("7 cases of 2 sources; 7 to do, ")
        assert message[0].endswith(f" MB to read, at most {slices + frames} images")

    def test_files_that_changed_are_read_again(self, raw: Path, tmp_path: Path) -> None:
        shutil.copytree(raw / "polyps", tmp_path / "polyps")
        (recipe,) = load_recipes(raw / "polyps.yaml")
        image = next((tmp_path / "polyps" / "images").iterdir())
        whole, count = image.read_bytes(), len(list((tmp_path / "polyps" / "images").iterdir()))
        for content, images in ((whole[:100], count - 1), (whole, count)):
            image.write_bytes(content)
            assert build([recipe], tmp_path, tmp_path / "set", echo=lambda text: None).images == images

    def test_lists_that_changed_are_read_again(self, tmp_path: Path) -> None:
        raw = tmp_path / "raw"
        raw.mkdir()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)).save(raw / "a.png")
        files = {"manifest": "list.json"}
        recipe = Recipe("mine", "endoscopy", "manifest", files=files, labels={"polyp": "polyp"}, confirmed=True)
        for box in ([1, 1, 9, 9], [20, 10, 5, 5]):
            entry = {"image": "a.png", "split": "train", "objects": [{"label": "polyp", "bbox_xywh": box}]}
            (raw / "list.json").write_text(json.dumps({"images": [entry]}), encoding="utf-8")
            build([recipe], raw, tmp_path / "set", echo=lambda text: None)
            (coco,) = coco_files(tmp_path / "set").values()
            assert [entry["bbox"] for entry in coco.dataset["annotations"]] == [box]

    def test_other_options_are_done_anew(self, raw: Path, recipes: list[Recipe], tmp_path: Path) -> None:
        build(recipes, raw, tmp_path / "set", echo=lambda text: None)
        summary = build(recipes, raw, tmp_path / "set", profile="paper", echo=lambda text: None)
        assert summary.rejected["min_area"]["abdomen_of_mine"] > 0


class TestCommand:
    def run(self, raw: Path, out: Path, *more: str) -> int:
        recipes = [str(raw / "polyps.yaml"), str(raw / "abdomen.yaml")]
        return main(["--recipe", *recipes, "--raw", str(raw), "--out", str(out), "--no-previews", *more])

    def test_status_1_when_something_is_rejected(
        self, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        spoilt = tmp_path / "raw"
        shutil.copytree(raw, spoilt)
        volume = next((spoilt / "abdomen").glob("*_0_ct.nii.gz"))
        volume.write_bytes(volume.read_bytes()[:200])
        next((spoilt / "polyps" / "masks").iterdir()).unlink()
        assert self.run(spoilt, tmp_path / "set") == 1
        printed = capsys.readouterr().out
        assert "unreadable (the file is damaged" in printed and "no_mask" in printed
        rows = (tmp_path / "set" / "quality" / "rows.jsonl").read_text(encoding="utf-8")
        assert CANARY not in rows and '"rule": "unreadable"' in rows

    def test_a_source_whose_list_is_broken_leaves_the_others(
        self, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "raw").mkdir()
        shutil.copytree(raw / "polyps", tmp_path / "raw" / "polyps")
        (tmp_path / "raw" / "list.json").write_text("{", encoding="utf-8")
        broken = "recipes:\n- {source: broken, modality: ct, layout: coco, files: {annotations: list.json}}\n"
        broken += "- {source: gone, modality: ct, layout: manifest, files: {manifest: nowhere.json}}\n"
        (tmp_path / "broken.yaml").write_text(broken, encoding="utf-8")
        arguments = [
            "--recipe",
            str(tmp_path / "broken.yaml"),
            str(raw / "polyps.yaml"),
            "--raw",
            str(tmp_path / "raw"),
        ]
        assert main([*arguments, "--out", str(tmp_path / "set"), "--no-previews"]) == 1
        printed = capsys.readouterr()
        assert "bad_annotations" in printed.out and "missing_file" in printed.out and "4 images" in printed.out
        assert "broken: list.json: is not a COCO file" in printed.err

    def test_names_that_are_not_utf_8(self, raw: Path, tmp_path: Path) -> None:
        shutil.copytree(raw / "polyps", tmp_path / "raw" / "polyps")
        for folder, end in (("images", ""), ("masks", "_mask")):
            path = next((tmp_path / "raw" / "polyps" / folder).glob(f"*0_0{end}.png"))
            path.rename(path.with_name(f"a\udcff{end}.png"))
        (recipe,) = load_recipes(raw / "polyps.yaml")
        summary = build([recipe], tmp_path / "raw", tmp_path / "set", echo=lambda text: None)
        assert summary.images == 4 and not summary.failed

    def test_one_source(self, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn: list[Path] = []
        monkeypatch.setattr("dataset_scripts.merge.write_previews", drawn.append)
        recipes = ["--recipe", str(raw / "polyps.yaml"), str(raw / "abdomen.yaml")]
        arguments = [*recipes, "--raw", str(raw), "--out", str(tmp_path / "set"), "--source", "polyps_of_mine"]
        assert main(arguments) == 0
        assert not (tmp_path / "set" / "ct").exists()
        assert drawn == [tmp_path / ".set.new"], "previews are drawn before the set is moved into place"
        assert main([*arguments, "--no-pictures"]) == 0 and len(drawn) == 1, "the old spelling of --no-previews"
        assert self.run(raw, tmp_path / "set", "--source", "nonsense") == 2

    def test_a_folder_with_other_content_is_not_changed(
        self, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "thesis.txt").touch()
        assert self.run(raw, tmp_path / "set") == 2
        assert "was not made by this command" in capsys.readouterr().err
        assert (tmp_path / "set" / "thesis.txt").exists() and not (tmp_path / "set.work").exists()
        assert self.run(raw, tmp_path / "set" / "thesis.txt") == 2
        assert "is a file: choose a folder" in capsys.readouterr().err

    def test_no_room_is_one_line(
        self, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def full(*arguments: Any) -> None:
            raise OSError(28, "No space left on device", str(tmp_path / "set" / "x.png"))

        monkeypatch.setattr("dataset_scripts.merge.CocoWriter.add", full)
        assert self.run(raw, tmp_path / "set") == 2
        assert capsys.readouterr().err == "error: No space left on device: x.png\n"

    def test_a_full_disk_is_not_the_fault_of_a_case(
        self, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def full(*arguments: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr("dataset_scripts.process.png", full)
            assert self.run(raw, tmp_path / "set") == 2
        assert capsys.readouterr().err == "error: No space left on device\n"
        assert self.run(raw, tmp_path / "set") == 0

    @pytest.mark.parametrize("content", ["", "no key\n", "abcd\n"])
    def test_a_damaged_key_is_refused(
        self, raw: Path, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "set.work").mkdir()
        (tmp_path / "set.work" / "pseudonyms.key").write_text(content, encoding="ascii")
        assert self.run(raw, tmp_path / "set") == 2
        assert capsys.readouterr().err.startswith("error: pseudonyms.key: holds no key; put the right one back")

    def test_the_work_folder_is_its_owners(self, raw: Path, tmp_path: Path) -> None:
        assert self.run(raw, tmp_path / "set", "--no-previews") == 0
        assert (tmp_path / "set.work").stat().st_mode & 0o077 == 0
        assert (tmp_path / "set.work" / "pseudonyms.key").stat().st_mode & 0o077 == 0

    def test_a_source_without_files_is_named(
        self, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("images", "masks"):
            (tmp_path / "raw" / "polyps" / name).mkdir(parents=True)
        arguments = ["--recipe", str(raw / "polyps.yaml"), "--raw", str(tmp_path / "raw")]
        assert main([*arguments, "--out", str(tmp_path / "set"), "--no-previews"]) == 1
        assert (
            "no_cases (a source in whose folder no file fits the recipe): polyps_of_mine 1" in capsys.readouterr().out
        )

    def test_not_into_a_source(self, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(raw, raw / "polyps" / "set") == 2
        assert "set: is inside the folder of a source" in capsys.readouterr().err
        assert self.run(raw, raw.with_name("out"), "--workers", "0") == 2
        assert "workers 0: at least 1" in capsys.readouterr().err

    @pytest.mark.parametrize("arguments", [[], ["--recipe", "a.yaml"], ["--profile", "unknown"]])
    def test_wrong_usage(self, arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2

    def test_layouts(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--layouts"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(":")[0] for line in lines] == list(READERS)
        assert all(len(line.partition(": ")[2]) > 15 for line in lines)


def test_square_pixels(raw: Path, recipes: list[Recipe], tmp_path: Path) -> None:
    chosen: list[Any] = [recipe for recipe in recipes if recipe.modality == "ct"]
    build(chosen, raw, tmp_path / "set", square_pixels=True, echo=lambda text: None)
    sizes = {
        (row["plane"], row["width"], row["height"])
        for row in coco_files(tmp_path / "set")["ct/train"].dataset["images"]
    }
    assert sizes == {("axial", 24, 20), ("coronal", 24, 24)}


class TestBrokenSources:
    """A source that cannot be used costs itself, not the build."""

    GOOD = "polyps.yaml"

    @pytest.mark.parametrize(
        "text",
        [
            "files: &f {a: *f}\nsource: x\nlayout: coco\nmodality: ct\n",
            "a0: &a0 [x, x]\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)),
            "[" * 5000,
            "source: x\nlayout: coco\nmodality: ct\nfiles: {annotations: a}\nwindow: [0, 1.0e+999]\n",
            "source: x\nlayout: coco\nmodality: ct\nfiles: {annotations: a}\nmin_pixels: 1" + "0" * 400 + "\n",
            f"source: x\nlayout: coco\nmodality: ct\nroot: {'r' * 5000}\nfiles: {{annotations: a}}\n",
            f"source: x\nlayout: mask_folder\nmodality: ct\nfiles: {{image: {'r' * 5000}, mask: m}}\n",
            "source: x\nlayout: mask_folder\nmodality: ct\nfiles: {image: 'a**b', mask: m}\n",
            "source: x\nlayout: yolo\nmodality: ct\nfiles: {image: '{id:>1000000000}', annotation: m}\n",
            f"source: x\nlayout: coco\nmodality: ct\nfiles: {{annotations: {'a' * 5000}}}\n",
            "source: x\nlayout: voc\nmodality: ct\nfiles: {annotation: 1, image: 2}\nclinical: {1: a, b: c}\n",
            "source: x\nlayout: csv_boxes\nmodality: ct\nfiles: {table: t, image: i, columns: {box: [1, 2, 3, 4]}}\n",
            "1: 2\nsource: x\nb: c\n",
            "source: x\nsource: y\n",
            "\x00\x01\x02",
        ],
    )
    def test_costs_itself(self, raw: Path, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
        write_recipes(raw)
        (tmp_path / "broken.yaml").write_text(text, encoding="utf-8")
        recipes = [str(tmp_path / "broken.yaml"), str(raw / self.GOOD)]
        out = tmp_path / "set"
        arguments = ["--raw", str(raw), "--out", str(out), "--no-previews"]
        assert main(["--recipe", *recipes, *arguments]) == 1
        printed = capsys.readouterr()
        assert "4 images with" in printed.out and "Traceback" not in printed.err
        rejected = json.loads((out / "quality" / "report.json").read_text(encoding="utf-8"))["rejected"]
        assert {source for row in rejected.values() for source in row} & {"x", "broken.yaml"}
        assert main(["--recipe", recipes[0], *arguments]) in (1, 2), "alone it does not succeed"
