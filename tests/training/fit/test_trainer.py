"""Training of one expert: groups of parameters, frozen parts, averaged weights, going on after an interruption."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel
from transformers import BertConfig, TimmBackboneConfig, TrainerCallback

from modeling_medglip.configuration_medglip import MedGlipConfig
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from tests.modeling_medglip.tiny_checkpoint import tiny_config
from training.fit.ema import EmaCallback
from training.fit.recipe import ExpertRecipe, load_recipe
from training.fit.trainer import GroundingTrainer, freeze, last_checkpoint, parameter_groups, train_expert


RECIPE = ExpertRecipe(size=64, anchor_scale=4, batch=2, epochs=2)
OPTIMIZATION = dataclasses.replace(load_recipe().optimization, warmup_steps=1, frozen_stages=1)


class Squares(torch.utils.data.Dataset):
    """Eight images with one bright square; the place depends on the epoch."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        left = 4 * index + 8 * self.epoch
        image = torch.zeros(3, 64, 64)
        image[:, 16:40, left : left + 16] = 1.0
        box = torch.tensor([[left, 16.0, left + 15, 39.0]])
        return {"pixel_values": image, "labels": {"boxes": box, "class_labels": torch.tensor([0])}}


def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    ids = torch.tensor([[5, 1, 6, 1]])
    tokens = torch.tensor([[[True, False, False, False], [False, False, True, False]]])
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
        "input_ids": ids.repeat(len(examples), 1),
        "attention_mask": torch.ones(len(examples), 4, dtype=torch.long),
        "label_tokens": tokens.repeat(len(examples), 1, 1),
        "labels": [example["labels"] for example in examples],
        "modality": ["ct"] * len(examples),
    }


def tiny_model() -> MedGlipForObjectDetection:
    torch.manual_seed(0)
    text = BertConfig(
        vocab_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    head = {
        "channels": 16, "num_blocks": 1, "fusion_dim": 16, "fusion_heads": 2, "groups": 4, "text_heads": 2,
        "text_intermediate": 16, "conv_type": "plain", "anchor_sizes": [16, 32, 64, 128, 256], "drop_block": 0.0,
        "text_dropout": 0.0, "fusion_dropout": 0.0,
    }  # fmt: skip
    backbone = TimmBackboneConfig(backbone="efficientnet_lite0", out_indices=[2, 3, 4])
    config = MedGlipConfig(
        text_config=text, backbone_config=backbone, head_config=head, modalities=["ct"], separator_token_ids=[1]
    )
    return MedGlipForObjectDetection(config)


@pytest.fixture
def model() -> MedGlipForObjectDetection:
    return tiny_model()


def test_language_and_first_stages_are_frozen(model: MedGlipForObjectDetection) -> None:
    freeze(model, OPTIMIZATION)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not [name for name in trained if "text_model" in name]
    backbone = {name.split("_backbone.")[1] for name in trained if "_backbone." in name}
    assert not [name for name in backbone if name.startswith(("conv_stem", "bn1", "blocks.0."))]
    assert [name for name in backbone if name.startswith("blocks.1.")]


def test_first_stages_of_a_swin_encoder_are_frozen() -> None:
    model = MedGlipForObjectDetection(tiny_config(("ct",)))
    freeze(model, dataclasses.replace(OPTIMIZATION, frozen_stages=2))
    encoder = dict(model.model.experts["ct"].backbone.named_parameters())
    frozen = {name for name, parameter in encoder.items() if not parameter.requires_grad}
    early = ("embeddings.", "encoder.layers.0.", "encoder.layers.1.")
    assert frozen == {name for name in encoder if name.removeprefix("swin.").startswith(early)}
    with pytest.raises(ValueError, match="frozen_stages 5: the image encoder has no 5 stages"):
        freeze(model, dataclasses.replace(OPTIMIZATION, frozen_stages=5))


def test_groups_hold_every_trained_parameter_once(model: MedGlipForObjectDetection) -> None:
    freeze(model, OPTIMIZATION)
    groups = parameter_groups(model, OPTIMIZATION)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert {group["lr"] for group in groups} == {OPTIMIZATION.head_learning_rate, OPTIMIZATION.backbone_learning_rate}
    for group in groups:
        expected = OPTIMIZATION.weight_decay if group["weight_decay"] else 0.0
        assert group["weight_decay"] == expected
        assert all((parameter.dim() > 1) == bool(group["weight_decay"]) for parameter in group["params"])


def test_averages_equal_those_of_torch() -> None:
    """With a decay that rises from step to step, as ours does."""
    torch.manual_seed(0)
    trained = torch.nn.Linear(3, 2)
    ema = EmaCallback(trained, decay=0.5)

    def average(average: torch.Tensor, weights: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        step = int(updates)
        return torch.lerp(average, weights, 1 - min(0.5, (1 + step) / (10 + step)))

    other = AveragedModel(trained, avg_fn=average)
    other.update_parameters(trained)  # the first one copies
    for step in range(1, 15):
        with torch.no_grad():
            trained.weight += torch.rand_like(trained.weight)
        state = type("State", (), {"global_step": step})()
        ema.on_step_end(None, state, None)
        other.update_parameters(trained)
        assert torch.allclose(ema.average["weight"], other.module.weight)


def test_average_follows_the_weights(model: MedGlipForObjectDetection) -> None:
    ema = EmaCallback(model, decay=0.5)
    name, parameter = next((n, p) for n, p in model.named_parameters() if "pyramid.p6.weight" in n)
    before = parameter.detach().clone()
    with torch.no_grad():
        parameter.add_(1.0)
    state = type("State", (), {"global_step": 100})()
    ema.on_step_end(None, state, None)
    assert torch.allclose(ema.average[name], before + 0.5)
    with ema.applied():
        assert torch.allclose(parameter, before + 0.5)
    assert torch.allclose(parameter, before + 1.0)


class Stop(TrainerCallback):
    """Interrupts the training after its first epoch."""

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save, control.should_training_stop = True, True


class StopAt(TrainerCallback):
    """Interrupts the training after a step, in the middle of an epoch."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            control.should_save, control.should_training_stop = True, True


def weights_of(trainer: GroundingTrainer) -> dict[str, torch.Tensor]:
    assert isinstance(trainer.model, torch.nn.Module)
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def frozen() -> MedGlipForObjectDetection:
    torch.manual_seed(0)
    model = MedGlipForObjectDetection(tiny_config(("ct",)))
    freeze(model, OPTIMIZATION)
    return model


def train(out: Path, **more: Any) -> dict[str, torch.Tensor]:
    return weights_of(train_expert(frozen(), Squares(), collate, RECIPE, OPTIMIZATION, out, **more))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of a training that nothing interrupts."""
    return train(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    "stop", [StopAt(3), *(pytest.param(stop, marks=pytest.mark.slow) for stop in (Stop(), StopAt(6)))]
)
def test_an_interrupted_training_ends_with_the_same_weights(
    undisturbed: dict[str, torch.Tensor], tmp_path: Path, stop: TrainerCallback
) -> None:
    train(tmp_path / "cut", callbacks=(stop,))
    checkpoint = last_checkpoint(tmp_path / "cut")
    assert checkpoint is not None and checkpoint.name != "checkpoint-8"
    resumed = train(tmp_path / "cut")
    assert undisturbed.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in undisturbed.items())


def test_a_run_that_diverges_is_stopped(tmp_path: Path) -> None:
    steep = dataclasses.replace(OPTIMIZATION, head_learning_rate=1e30, gradient_clip=1e30)
    with pytest.raises(ValueError, match="the run diverged, take a lower learning rate"):
        train_expert(frozen(), Squares(), collate, RECIPE, steep, tmp_path)


class Spoil(TrainerCallback):
    """After a step, a weight becomes NaN; nothing is logged before the next checkpoint."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == 5:
            next(p for p in model.parameters() if p.requires_grad).data.view(-1)[0] = float("nan")


def test_weights_that_are_not_numbers_leave_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights are not finite numbers at step 8: the run .*; checkpoint-4 is left"):
        train(tmp_path, callbacks=(Spoil(),), logging_steps=100)
    checkpoint = last_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.name == "checkpoint-4" and not (tmp_path / "checkpoint-8").exists()
    for name in ("model", "ema"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(checkpoint / f"{name}.safetensors").values())


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    """The best checkpoint is not the last one, and the last one says that all is done."""
    scores = iter([0.9, 0.1])
    arguments: dict[str, Any] = {"load_best_model_at_end": True}
    first = train(tmp_path, measure=lambda model: {"AP": next(scores)}, **arguments)
    again = train(tmp_path, measure=lambda model: {"AP": next(scores)}, **arguments)
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_the_best_weights_are_restored_exactly(tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def measure(model: torch.nn.Module) -> dict[str, float]:
        assert not model.training
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"AP": [0.2, 0.9, 0.1, 0.3][len(seen) - 1], "AP50": 0.5}

    longer = dataclasses.replace(RECIPE, epochs=4)
    trainer = train_expert(
        frozen(), Squares(), collate, longer, OPTIMIZATION, tmp_path, measure=measure, load_best_model_at_end=True
    )
    assert trainer.state.best_metric == 0.9 and len(seen) == 4
    weights = weights_of(trainer)
    assert all(torch.equal(tensor, seen[1][name]) for name, tensor in weights.items())
    assert not all(torch.equal(tensor, seen[3][name]) for name, tensor in weights.items())


def test_a_checkpoint_that_is_cut_short_is_not_used(tmp_path: Path) -> None:
    train(tmp_path, callbacks=(Stop(),))
    whole = last_checkpoint(tmp_path)
    (tmp_path / "checkpoint-6").mkdir()
    (tmp_path / "checkpoint-6" / "model.safetensors").write_bytes(b"half")
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / "checkpoint-7" / "trainer_state.json").write_text('{"global', encoding="utf-8")
    assert last_checkpoint(tmp_path) == whole and last_checkpoint(tmp_path / "none") is None


def test_a_full_disk_leaves_the_last_good_checkpoint(
    undisturbed: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def save(self: EmaCallback, folder: Path) -> None:
        written.append(folder.name)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        whole(self, folder)

    whole = EmaCallback.save
    monkeypatch.setattr(EmaCallback, "save", save)
    with pytest.raises(
        OSError,
        match="step 8 cannot be saved \\(.*No space left on device\\); checkpoint-4 is left: the same command goes on",
    ):
        train(tmp_path)
    assert written == ["checkpoint-4", "checkpoint-8"] and not (tmp_path / "checkpoint-8").exists()
    monkeypatch.setattr(EmaCallback, "save", whole)
    resumed = train(tmp_path)
    assert all(torch.equal(value, resumed[name]) for name, value in undisturbed.items())


def test_gradients_of_four_images_at_once_and_one_after_the_other(tmp_path: Path) -> None:
    """The losses are divided by the positives of the whole step."""
    steps: dict[int, dict[str, torch.Tensor]] = {}
    for batch, accumulate in ((4, 1), (1, 4)):
        recipe = dataclasses.replace(RECIPE, batch=batch, epochs=1)
        plain = dataclasses.replace(OPTIMIZATION, ema_decay=0.0, warmup_steps=0)
        model = tiny_model()  # without stochastic depth
        freeze(model, OPTIMIZATION)
        trainer = train_expert(
            model, Squares(), collate, recipe, plain, tmp_path / str(batch),
            gradient_accumulation_steps=accumulate, callbacks=(Gradients(steps, batch),),
        )  # fmt: skip
        assert trainer.state.global_step == 2
    first, second = steps[4], steps[1]
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        assert torch.allclose(gradient, second[name], rtol=1e-3, atol=1e-5 * float(gradient.abs().max() + 1e-6)), name


class Gradients(TrainerCallback):
    """Remembers the gradients of the first step."""

    def __init__(self, steps: dict[int, dict[str, torch.Tensor]], key: int) -> None:
        self.steps, self.key = steps, key

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self.key not in self.steps:
            self.steps[self.key] = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
