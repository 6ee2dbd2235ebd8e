# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Loading checkpoints, good and bad, and grounding one image."""

from __future__ import annotations

import inspect
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from modeling_medglip import ground_volume, grounding
from modeling_medglip.errors import CheckpointError, MedGlipError, PickledCheckpointError, UsageError
from modeling_medglip.grounding import (
    Grounder,
    ground_image,
    load_grounder,
    prompt_labels,
    resolve_device,
)
from modeling_medglip.io.image import read_image
from modeling_medglip.io.image_record import ReadImage
from modeling_medglip.outputs.results import validate_boxes
from modeling_medglip.questions import make_question
from modeling_medglip.trained_labels import TrainedLabels
from tests.modeling_medglip.image_files import chunk, png, tiff
from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint


GRAY = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)
DEEP = GRAY.astype(np.uint16) * 200
EXIF = Image.Exif()
EXIF[0x0112] = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def grounder(folder: Path) -> Grounder:
    return load_grounder(folder, "cpu")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may spoil."""
    return Path(shutil.copytree(folder, tmp_path / "spoilt"))


def sample_image(**fields: Any) -> ReadImage:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)
    return ReadImage(pixels, "scan.png", **fields)


class TestLoading:
    def test_a_folder(self, grounder: Grounder) -> None:
        assert grounder.name == "tiny" and grounder.modalities == ("ct", "fundus")
        assert not grounder.model.training and grounder.device.type == "cpu"

    def test_one_expert_only(self, folder: Path) -> None:
        alone = load_grounder(str(folder), "cpu", "OP")
        assert alone.modalities == ("fundus",)
        assert not any(".ct." in name for name, _ in alone.model.named_parameters())

    def test_every_bad_checkpoint_is_a_usage_error(self) -> None:
        assert issubclass(PickledCheckpointError, CheckpointError) and issubclass(CheckpointError, UsageError)

    @pytest.mark.parametrize(
        "source", ["/nowhere/at/all", "./nowhere", "nowhere", "a/b/c", "a/../b", "org/model.bin", ""]
    )
    def test_nothing_there(self, source: str) -> None:
        with pytest.raises(CheckpointError, match="no such folder|no config.json"):
            load_grounder(source, "cpu")

    def test_hub_ids_are_asked_for_by_name_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def refuse(source: Any, **options: Any) -> None:
            asked.append((source, options))
            raise OSError("couldn't connect\nmore lines")

        monkeypatch.setattr(grounding.MedGlipProcessor, "from_pretrained", refuse)
        with pytest.raises(
            CheckpointError, match="^checkpoint org/name: neither in the cache .* a copy .couldn't connect.$"
        ):
            load_grounder("org/name", "cpu")
        assert asked == [("org/name", {"local_files_only": False, "trust_remote_code": False})]

    def test_folders_never_ask_the_network(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: dict[str, Any] = {}
        monkeypatch.setattr(grounding.MedGlipProcessor, "from_pretrained", lambda source, **kw: seen.update(kw))
        monkeypatch.setattr(
            grounding.MedGlipForObjectDetection, "from_pretrained", lambda *a, **kw: torch.nn.Identity()
        )
        load_grounder(folder, "cpu")
        assert seen == {"local_files_only": True, "trust_remote_code": False}

    def test_a_folder_without_config(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="no config.json"):
            load_grounder(tmp_path, "cpu")

    @pytest.mark.parametrize(("content", "problem"), [("{", "cannot be read"), ("[]", "cannot be read")])
    def test_a_broken_config(self, copy: Path, content: str, problem: str) -> None:
        (copy / "config.json").write_text(content, encoding="utf-8")
        with pytest.raises(CheckpointError, match=f"checkpoint spoilt: config.json {problem}"):
            load_grounder(copy, "cpu")

    def test_a_wrong_value_is_named(self, copy: Path) -> None:
        config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
        config["head_config"]["conv_type"] = "other"
        (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(CheckpointError, match="conv_type must be 'deformable' or 'plain', got 'other'"):
            load_grounder(copy, "cpu")

    @pytest.mark.parametrize("name", ["processor_config.json", "tokenizer_config.json"])
    def test_a_folder_without_its_processor(self, copy: Path, name: str) -> None:
        (copy / name).unlink()
        with pytest.raises(CheckpointError, match=f"spoilt: the folder has no {name}: save the processor"):
            load_grounder(copy, "cpu")

    def test_another_kind_of_model(self, copy: Path) -> None:
        (copy / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
        with pytest.raises(CheckpointError, match="'bert' model, not med-glip"):
            load_grounder(copy, "cpu")

    def test_a_file_instead_of_its_folder(self, folder: Path) -> None:
        with pytest.raises(CheckpointError, match="give the folder"):
            load_grounder(folder / "config.json", "cpu")

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.ckpt"])
    def test_pickles_are_refused_unopened(self, copy: Path, name: str) -> None:
        marker = copy / "marker"

        class Bomb:
            def __reduce__(self) -> Any:
                return Path.touch, (marker,)

        (copy / "model.safetensors").unlink()
        (copy / name).write_bytes(pickle.dumps(Bomb()))
        for source in (copy, copy / name):
            with pytest.raises(PickledCheckpointError, match="pickled.*convert it to safetensors"):
                load_grounder(source, "cpu")
        assert not marker.exists()

    def test_code_in_a_checkpoint_is_never_run(self, copy: Path) -> None:
        marker = copy / "marker"
        (copy / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n", encoding="utf-8")
        for name, key in (("tokenizer_config.json", "AutoTokenizer"), ("processor_config.json", "AutoImageProcessor")):
            content = json.loads((copy / name).read_text(encoding="utf-8"))
            content["tokenizer_class" if key == "AutoTokenizer" else "image_processor_type"] = "Evil"
            content["auto_map"] = {key: ["evil.Evil", "evil.Evil"] if key == "AutoTokenizer" else "evil.Evil"}
            (copy / name).write_text(json.dumps(content), encoding="utf-8")
        try:
            load_grounder(copy, "cpu")
        except CheckpointError as error:
            assert "\n" not in str(error)
        assert not marker.exists()

    def test_no_weights_at_all(self, copy: Path) -> None:
        (copy / "model.safetensors").unlink()
        with pytest.raises(CheckpointError, match="no .safetensors file"):
            load_grounder(copy, "cpu")

    @pytest.mark.parametrize("change", ["missing", "extra", "shape", "cut"])
    def test_tensors_that_do_not_fit(self, copy: Path, change: str) -> None:
        file = copy / "model.safetensors"
        tensors = load_file(file)
        name = next(key for key in tensors if ".ct." in key and tensors[key].ndim == 1)
        if change == "missing":
            del tensors[name]
        elif change == "extra":
            tensors["model.unknown.weight"] = torch.zeros(2)
        elif change == "shape":
            tensors[name] = torch.zeros(len(tensors[name]) + 1)
        save_file(tensors, file, metadata={"format": "pt"})
        if change == "cut":
            file.write_bytes(file.read_bytes()[:5000])
        with pytest.raises(CheckpointError) as caught:
            load_grounder(copy, "cpu")
        message = str(caught.value)
        assert "\n" not in message and "checkpoint spoilt: cannot be loaded" in message and str(copy) not in message

    def test_unknown_devices_and_modalities(self, folder: Path) -> None:
        with pytest.raises(UsageError, match="choose auto or one of cpu"):
            load_grounder(folder, "gpu:0")
        with pytest.raises(UsageError, match="no device 'cuda:99'"):
            resolve_device("cuda:99")
        with pytest.raises(UsageError, match="unknown modality 'pet': choose one of ct"):
            load_grounder(folder, "cpu", "pet")
        with pytest.raises(CheckpointError, match="no expert for mri"):
            load_grounder(folder, "cpu", "mri")
        assert resolve_device("cpu") == torch.device("cpu") and resolve_device().type in ("cpu", "cuda", "mps")

    def test_the_embedded_checkpoint_may_be_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing() -> Path:
            raise FileNotFoundError

        monkeypatch.setattr("modeling_medglip.checkpoints.location.default_checkpoint", missing)
        with pytest.raises(CheckpointError, match="embedded checkpoint is missing"):
            load_grounder(None, "cpu")


class TestPrompts:
    def test_labels_come_once_as_written(self) -> None:
        assert prompt_labels("Detect: Liver, spleen; liver.\nleft kidney") == ["Liver", "spleen", "left kidney"]

    @pytest.mark.parametrize("prompt", ["", " . , ", "\n\n", "[<>]"])
    def test_empty(self, prompt: str) -> None:
        with pytest.raises(UsageError, match="prompt is empty"):
            prompt_labels(prompt)

    def test_too_many(self) -> None:
        with pytest.raises(UsageError, match="10000 labels, more than 1000"):
            prompt_labels(". ".join(f"label {number}" for number in range(10_000)))


class TestGrounding:
    def test_boxes_are_valid_and_know_the_taxonomy(self, grounder: Grounder) -> None:
        result = ground_image(
            sample_image(modality="ct", spacing_mm=(1.0, 2.0)), "Liver. new thing", model=grounder, threshold=0.1
        )
        assert result.boxes and result.image.modality == "ct" and result.image.spacing_mm == (1.0, 2.0)
        assert {box.label for box in result.boxes} <= {"Liver", "new thing"}
        scores = [box.score for box in result.boxes]
        assert scores == sorted(scores, reverse=True) and min(scores) > 0.1
        for box in result.boxes:
            left, top, right, bottom = box.xyxy
            assert -0.01 <= left < right <= 60.01 and -0.01 <= top < bottom <= 40.01
            expected = ("liver", "abdomen") if box.label == "Liver" else (None, None)
            assert (box.label_id, box.region) == expected
        validate_boxes(result.to_dict())

    def test_deterministic(self, grounder: Grounder) -> None:
        first, second = (ground_image(sample_image(), "liver", "ct", grounder, threshold=0.1) for _ in range(2))
        assert first == second and first.boxes

    def test_a_high_threshold_leaves_nothing(self, grounder: Grounder) -> None:
        assert ground_image(sample_image(), "liver", "ct", grounder, threshold=1.0).boxes == ()

    def test_warnings_are_collected(self, grounder: Grounder) -> None:
        result = ground_image(sample_image(modality="ct", warnings=("from reading",)), "liver", model=grounder)
        assert result.warnings[0] == "from reading" and "pixels look like" in result.warnings[1]
        assert result.modality_source == "header"

    def test_unknown_words_are_warned_of(self, grounder: Grounder) -> None:
        result = ground_image(sample_image(modality="fundus"), "liver. \u2603", model=grounder)
        unknown, untrained = result.warnings
        assert unknown == "label '\u2603' has no word that the language encoder knows: boxes mean nothing"
        assert untrained.startswith("not trained in fundus: liver, \u2603: boxes for them may mean nothing")

    def test_failures_name_the_file(self, grounder: Grounder) -> None:
        with pytest.raises(MedGlipError, match="^scan.png: checkpoint tiny has no expert") as caught:
            ground_image(sample_image(modality="mri"), "liver", model=grounder)
        assert not isinstance(caught.value, UsageError)
        with pytest.raises(MedGlipError, match="^scan.png: the label .* tokens"):
            ground_image(sample_image(), "liver " * 300, "ct", grounder)
        with pytest.raises(UsageError, match="unknown modality"):
            ground_image(sample_image(), "liver", "pet", grounder)

    def test_many_labels(self, grounder: Grounder) -> None:
        prompt = ". ".join(f"left lung {number}" for number in range(60))
        assert ground_image(sample_image(), prompt, "ct", grounder, threshold=0.1, untrained_threshold=0.1).boxes


class TestTrained:
    """What the checkpoint was trained with: spleen and liver in CT, the optic disc in fundus images."""

    PROMPT = "liver. LIVER tissue. the spleen. optic disc"

    def test_every_label_and_box_says_whether_it_was_trained(self, grounder: Grounder) -> None:
        result = ground_image(sample_image(), self.PROMPT, "ct", grounder, threshold=0.1, untrained_threshold=0.1)
        assert result.trained == {"liver": True, "LIVER tissue": False, "the spleen": True, "optic disc": False}
        assert {box.label: box.trained for box in result.boxes} == result.trained
        content = result.to_dict()
        validate_boxes(content)
        assert content["trained"] == result.trained and all("trained" in box for box in content["boxes"])

    def test_untrained_labels_need_more(self, grounder: Grounder) -> None:
        result = ground_image(sample_image(), self.PROMPT, "ct", grounder, threshold=0.1, untrained_threshold=1.0)
        assert {box.label for box in result.boxes} == {"liver", "the spleen"}
        assert result.warnings[-1] == (
            "not trained in ct: LIVER tissue, optic disc: boxes for them may mean nothing and are shown from a score "
            "of 1 on"
        )

    def test_other_phrases_and_their_order_change_nothing(self, grounder: Grounder) -> None:
        def found(prompt: str) -> list[tuple[float, ...]]:
            boxes = ground_image(sample_image(), prompt, "ct", grounder, threshold=0.1, untrained_threshold=0.1).boxes
            return [(*box.bbox, box.score) for box in boxes if box.label in ("liver", "spleen")]

        alone = found("liver. spleen")
        assert alone and found("spleen. liver") == alone
        np.testing.assert_allclose(found("spleen. banana. liver. optic disc"), alone, atol=1e-3)

    def test_one_label_in_several_words(self, grounder: Grounder) -> None:
        result = ground_image(
            sample_image(),
            "lt kidney. kidney (L). left kidney. spleen",
            "ct",
            grounder,
            threshold=0.1,
            untrained_threshold=0.1,
        )
        boxes = {name: [box.bbox for box in result.boxes if box.label == name] for name in result.trained}
        assert boxes["lt kidney"] and boxes["lt kidney"] == boxes["kidney (L)"] == boxes["left kidney"]

    def test_nothing_stated_holds_nothing_back(self, grounder: Grounder) -> None:
        silent = Grounder(grounder.model, grounder.processor, "silent", grounder.device)
        silent.__dict__["trained"] = TrainedLabels({})
        result = ground_image(sample_image(), "banana", "ct", silent, threshold=0.1)
        assert result.boxes and result.trained == {"banana": None}
        assert not any("trained" in warning for warning in result.warnings)


def test_the_checkpoint_is_safetensors_and_small(folder: Path) -> None:
    assert (folder / "model.safetensors").stat().st_size < 2_000_000
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"] == "med-glip"


def test_images_and_volumes_are_grounded_alike() -> None:
    image, volume = (
        list(inspect.signature(function).parameters.values()) for function in (ground_image, ground_volume)
    )
    assert image[1:8] == volume[1:8]
    assert [parameter.name for parameter in image[1:8]] == [
        "prompt", "modality", "model", "device", "threshold", "untrained_threshold", "all_boxes"
    ]  # fmt: skip


def test_a_model_of_another_type_is_refused(grounder: Grounder) -> None:
    for ground in (
        lambda: ground_image(sample_image(), "liver", "ct", 0.3),
        lambda: grounding.as_grounder(grounder.model),
    ):
        with pytest.raises(UsageError, match="^model: give a folder, an id or a Grounder, not a "):
            ground()


def test_a_result_draws_the_image_that_was_grounded(grounder: Grounder, tmp_path: Path) -> None:
    image = sample_image()
    Image.fromarray(image.pixels).save(tmp_path / "scan.png")
    for given in (tmp_path / "scan.png", image.pixels, image):
        result = ground_image(given, "liver", "ct", grounder, threshold=0.1)
        assert result.boxes and result.plot(title="liver") == result.plot(image, title="liver")


class TestDetect:
    LABELS = (["liver"], ["spleen", "liver"])

    def test_a_batch_is_what_single_images_are(self, grounder: Grounder) -> None:
        images = [sample_image().pixels, sample_image().pixels[:30]]
        sizes, names = [(40, 60), (30, 60)], ["ct", "fundus"]
        batch = grounder.detect(images, self.LABELS, names, 0.1, sizes)
        for number, result in enumerate(batch):
            (alone,) = grounder.detect([images[number]], [self.LABELS[number]], names[number], 0.1, [sizes[number]])
            assert result["text_labels"] == alone["text_labels"] and len(result["scores"])
            torch.testing.assert_close(result["boxes"], alone["boxes"], atol=1e-3, rtol=0)
            assert float(result["boxes"][:, 2].max()) <= 60.01

    def test_a_prompt_that_was_encoded_once(self, grounder: Grounder) -> None:
        question = make_question(grounder.trained, ["liver", "spleen"], "ct")
        encoded = grounder.encode(question)
        assert "text_features" in encoded
        images = [sample_image().pixels, sample_image().pixels[::-1]]
        shared = grounder.detect(images, encoded, "ct", 0.1)
        each = grounder.detect(images, question.groups * 2, "ct", 0.1)
        for first, second in zip(shared, each, strict=True):
            assert first["text_labels"] == second["text_labels"] and len(first["scores"])
            torch.testing.assert_close(first["boxes"], second["boxes"], atol=1e-3, rtol=0)


def saved(folder: Path) -> dict[str, Path]:
    """Files of kinds that a plain conversion of the PIL image gets wrong."""
    files = {name: folder / name for name in ("turned.jpg", "hidden.png", "deep.png", "deep_hidden.png")}
    Image.fromarray(GRAY).save(files["turned.jpg"], exif=EXIF)
    files["hidden.png"].write_bytes(png(0, 8, GRAY[..., None].astype(int), chunk(b"tRNS", b"\0\7")))
    Image.fromarray(DEEP).save(files["deep.png"])
    files["deep_hidden.png"].write_bytes(
        png(0, 16, DEEP[..., None], chunk(b"tRNS", DEEP[:1, 7].astype(">u2").tobytes()))
    )
    return files


def test_pil_images_are_read_as_their_files(tmp_path: Path) -> None:
    for name, path in saved(tmp_path).items():
        with Image.open(path) as image:
            found = grounding._read(image, None).pixels
        expected = read_image(path).pixels
        gray = found if found.ndim == 2 else found[..., 0]
        assert gray.dtype == expected.dtype and np.array_equal(gray, expected), name


def test_what_pillow_gets_wrong_is_refused(tmp_path: Path) -> None:
    tags = {256: 30, 257: 20, 258: 16, 262: 0, 277: 1, 339: 1}
    (tmp_path / "inverted.tif").write_bytes(tiff({tag: (3, [value]) for tag, value in tags.items()}, DEEP.tobytes()))
    message = r"^image: Pillow .* pass modeling_medglip.read_image.path..pixels"
    with Image.open(tmp_path / "inverted.tif") as image, pytest.raises(MedGlipError, match=message):
        ground_image(image, "liver")
    assert np.array_equal(read_image(tmp_path / "inverted.tif").pixels, 65535 - DEEP)
