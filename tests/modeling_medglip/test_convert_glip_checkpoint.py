"""The converter against outputs of the original GLIP (random weights), and against the public checkpoint's key
list."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import modeling_medglip
from modeling_medglip.convert_glip_checkpoint import (
    GLIP_T_CONFIG,
    config_from_glip,
    convert_file,
    convert_state_dict,
    model_from_glip,
)
from modeling_medglip.image_processing_medglip import post_process_boxes
from modeling_medglip.inference import fast_form
from modeling_medglip.modeling_medglip import (
    MedGlipBiDirectionalAttention,
    MedGlipFeaturePyramid,
    MedGlipForObjectDetection,
    assign_atss,
    decode_boxes,
    make_anchors,
)


FIXTURES = Path(__file__).parent.parent / "fixtures"
REFERENCE = Path(os.environ.get("MEDGLIP_REFERENCE", Path(__file__).parents[3] / "shared" / "reference"))
TINY = {
    "swin": {"embed_dim": 16, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 7, "mlp_ratio": 4},
    "head": {"channels": 32, "num_convs": 2, "fuse_embed_dim": 64, "fuse_heads": 8, "group_norm_groups": 16},
    "bert": {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    },
}
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference outputs are not part of the clone")


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return load_file(FIXTURES / "glip_head.safetensors")


@pytest.fixture(scope="module")
def head_model(recorded: dict[str, Tensor]) -> MedGlipForObjectDetection:
    """A tiny expert whose pyramid and head are the original's."""
    weights = {key.removeprefix("weights."): value for key, value in recorded.items() if key.startswith("weights.")}
    model = MedGlipForObjectDetection(config_from_glip(TINY, "ct"))
    loaded = model.load_state_dict(convert_state_dict(weights, "ct"), strict=False)
    assert not loaded.unexpected_keys
    assert not [key for key in loaded.missing_keys if "backbone." not in key and "text_model" not in key]
    return model.eval()


def by_level(recorded: dict[str, Tensor], name: str) -> list[Tensor]:
    return [recorded[f"{name}.{level}"] for level in range(5)]


@torch.no_grad()
def test_pyramid_and_head_give_the_original_outputs(
    head_model: MedGlipForObjectDetection, recorded: dict[str, Tensor]
) -> None:
    expert = head_model.model.experts["ct"]
    levels = expert.pyramid([recorded[f"swin.{level}"][None] for level in (1, 2, 3)])
    hidden = recorded["language_hidden"][None]
    mask = torch.ones(hidden.shape[:2], dtype=torch.long)
    outputs = expert.fuse(levels, hidden, mask, torch.zeros(1, 1, 1, hidden.shape[1]))
    regions, logits = outputs.regions, outputs.logits
    counts = torch.tensor([level[0, 0].numel() for level in levels])
    deltas, centerness = head_model.box_heads["ct"](regions, torch.arange(5).repeat_interleave(counts))

    assert torch.allclose(logits[0], torch.cat(by_level(recorded, "logits")), atol=1e-4)
    original = torch.cat([level.flatten(1) for level in by_level(recorded, "box_deltas")], dim=1).T
    assert torch.allclose(deltas[0], original, atol=1e-4)
    original = torch.cat([level.flatten() for level in by_level(recorded, "centerness")])
    assert torch.allclose(centerness[0], original, atol=1e-4)


def test_anchors_are_the_original_ones(head_model: MedGlipForObjectDetection, recorded: dict[str, Tensor]) -> None:
    shapes = [(20, 24), (10, 12), (5, 6), (3, 3), (2, 2)]
    anchors = make_anchors(shapes, head_model.config.head_config, torch.device("cpu"))
    assert torch.equal(anchors, torch.cat(by_level(recorded, "anchors")))


def test_the_assignment_is_the_original_one(recorded: dict[str, Tensor]) -> None:
    anchors = torch.cat(by_level(recorded, "anchors"))
    counts = [len(level) for level in by_level(recorded, "anchors")]
    for image in (0, 1):
        labels = recorded[f"targets.{image}.labels"]
        assigned = assign_atss(anchors, counts, recorded[f"targets.{image}.boxes"], topk=9)
        ours = torch.where(assigned >= 0, labels[assigned.clamp(min=0)], 0)
        assert torch.equal(ours, recorded[f"assignment.{image}"])


def test_detections_of_the_original_outputs(recorded: dict[str, Tensor]) -> None:
    """From the recorded outputs of the first image to its detections, in the original's own boxes."""
    deltas = torch.cat([level.flatten(1) for level in by_level(recorded, "box_deltas")], dim=1).T
    spans = ([1], [3, 4], [6, 7], [9, 10], [12, 13, 14], [16], [18, 19])
    logits = torch.cat(by_level(recorded, "logits"))
    label_tokens = torch.zeros(1, len(spans), logits.shape[1], dtype=torch.bool)
    for label, tokens in enumerate(spans):
        label_tokens[0, label, tokens] = True
    outputs = SimpleNamespace(
        logits=logits[None],
        centerness=torch.cat([level.flatten() for level in by_level(recorded, "centerness")])[None],
        pred_boxes=decode_boxes(deltas, torch.cat(by_level(recorded, "anchors")))[None],
        spatial_shapes=torch.tensor([level.shape[1:] for level in by_level(recorded, "box_deltas")]),
        input_sizes=torch.tensor([[160, 192]]),
    )
    (found,) = post_process_boxes(outputs, label_tokens, threshold=0.0, legacy_boxes=True)
    order = recorded["detections.scores"].argsort(descending=True, stable=True)
    assert len(order) == len(found["scores"]) > 50
    assert torch.allclose(found["scores"], recorded["detections.scores"][order], atol=1e-5)
    assert torch.equal(found["labels"] + 1, recorded["detections.labels"][order])
    assert torch.allclose(found["boxes"], recorded["detections.boxes"][order], atol=1e-2)


def test_zero_deltas_decode_to_the_anchor() -> None:
    anchors = torch.tensor([[-28.0, -28.0, 35.0, 35.0]])
    assert torch.allclose(decode_boxes(torch.zeros(1, 4), anchors), anchors)


def test_public_checkpoint_converts_with_nothing_missing_or_left_over() -> None:
    shapes = json.loads((FIXTURES / "glip_t_keys.json").read_text())
    with torch.device("meta"):
        state = {f"module.{key}": torch.empty(shape) for key, shape in shapes.items()}
        model = model_from_glip(state, GLIP_T_CONFIG, "CT")
    own = sum(parameter.numel() for parameter in model.parameters())
    ignored = ("relative_position_index", "cell_anchors", "cls_logits")
    kept = [
        torch.empty(shape, device="meta").numel()
        for key, shape in shapes.items()
        if not any(i in key for i in ignored)
    ]
    assert own == sum(kept)
    assert model.config.modalities == ["ct"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("module.rpn.head.bias0"), "lacks 1 tensors"),
        (lambda state: state.update({"module.backbone.resnet.conv1": torch.zeros(1)}), "not one of GLIP's"),
        (lambda state: state.update({"module.rpn.head.bias0": torch.zeros(2)}), "another shape"),
    ],
)
def test_a_wrong_checkpoint_is_refused_in_one_line(change: Any, message: str) -> None:
    shapes = json.loads((FIXTURES / "glip_t_keys.json").read_text())
    with torch.device("meta"):
        state = {f"module.{key}": torch.empty(shape) for key, shape in shapes.items()}
        change(state)
        with pytest.raises(ValueError, match=message) as error:
            model_from_glip(state, GLIP_T_CONFIG, "ct")
    assert "\n" not in str(error.value)


# With the whole reference ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    described = json.loads((REFERENCE / "glip_tiny.json").read_text())
    described["io"] = load_file(REFERENCE / "glip_tiny_io.safetensors")
    weights = load_file(REFERENCE / "glip_tiny_weights.safetensors")
    described["model"] = model_from_glip(weights, described["config"], "ct")
    return described


@needs_reference
@pytest.mark.parametrize("padded", [True, False], ids=["padded to 256 tokens", "not padded"])
@pytest.mark.parametrize("fast", [False, True], ids=["as it is", "fast form"])
@torch.no_grad()
def test_whole_network_gives_the_original_outputs(reference: dict[str, Any], padded: bool, fast: bool) -> None:
    io, model = reference["io"], reference["model"].eval()
    model = fast_form(model) if fast else model
    mask = io["tokens.attention_mask"]
    length = 256 if padded else int(mask.sum(1).max())
    output = model(io["images"], io["tokens.input_ids"][:, :length], mask[:, :length])
    logits = torch.cat([io[f"outputs.dot_product_logits.{level}"] for level in range(5)], 1)[:, :, :length]
    valid = mask[:, None, :length].bool().expand_as(logits)
    assert (output.logits - logits)[valid].abs().max() < 1e-4
    deltas = torch.cat([io[f"outputs.bbox_reg.{level}"].flatten(2) for level in range(5)], 2).transpose(1, 2)
    assert (output.box_deltas - deltas).abs().max() < 1e-4
    centerness = torch.cat([io[f"outputs.centerness.{level}"].flatten(1) for level in range(5)], 1)
    assert (output.centerness - centerness).abs().max() < 1e-4


@needs_reference
@torch.no_grad()
def test_detections_match_the_original(reference: dict[str, Any]) -> None:
    from modeling_medglip.processing_medglip import MedGlipProcessor

    io, model = reference["io"], reference["model"]
    output = model(io["images"], io["tokens.input_ids"], io["tokens.attention_mask"])
    output["input_sizes"] = torch.tensor(reference["image_sizes_hw"])
    label_tokens = torch.zeros(2, 7, 256, dtype=torch.bool)
    for label, tokens in reference["label_to_tokens"].items():
        label_tokens[:, int(label) - 1, tokens] = True
    inputs = {"label_tokens": label_tokens, "text_labels": [reference["labels"]] * 2}
    results = MedGlipProcessor.post_process_grounded_object_detection(
        None, output, inputs, threshold=0.0, legacy_boxes=True
    )
    for index, found in enumerate(results):
        scores, order = io[f"outputs.detections.{index}.scores"].sort(descending=True, stable=True)
        assert len(found["scores"]) == len(scores)
        assert torch.allclose(found["scores"], scores, atol=1e-4)
        original = torch.cat(
            [io[f"outputs.detections.{index}.labels"][:, None] - 1, io[f"outputs.detections.{index}.boxes"]], 1
        )[order]
        ours = torch.cat([found["labels"][:, None], found["boxes"]], 1)
        distance = torch.cdist(ours, original.float(), p=float("inf"))
        assert (distance.min(1).values < 1e-2).all() and (distance.min(0).values < 1e-2).all()


@needs_reference
def test_losses_and_gradients_match_the_original(reference: dict[str, Any]) -> None:
    io = reference["io"]
    model = model_from_glip(load_file(REFERENCE / "glip_tiny_weights.safetensors"), reference["config"], "ct")
    switch_off_randomness(model.train())
    labels, label_tokens = [], torch.zeros(2, 4, 256, dtype=torch.bool)
    for index in range(2):
        boxes = io[f"train.targets.{index}.boxes"]
        label_tokens[index, : len(boxes)] = io[f"train.targets.{index}.positive_map"] > 0
        labels.append({"boxes": boxes, "class_labels": torch.arange(len(boxes))})
    output = model(
        io["images"],
        io["train.tokens.input_ids"],
        io["train.tokens.attention_mask"],
        labels=labels,
        label_tokens=label_tokens,
    )
    names = {"loss_alignment": "loss_dot_product_token", "loss_box": "loss_reg", "loss_centerness": "loss_centerness"}
    for ours, theirs in names.items():
        assert output.loss_dict[ours].item() == pytest.approx(reference["losses"][theirs], rel=1e-4)
    output.loss.backward()
    gradients = {
        key.removeprefix("train.grads."): value for key, value in io.items() if key.startswith("train.grads.")
    }
    state = {key: value for key, value in gradients.items() if "scales." not in key}
    ours = dict(model.named_parameters())
    converted = convert_state_dict(state, "ct")
    assert len(converted) >= 7
    for key, gradient in converted.items():
        assert torch.allclose(ours[key].grad, gradient, rtol=1e-3, atol=1e-5), key


def switch_off_randomness(model: nn.Module) -> None:
    """The reference's training step was taken without dropout of any kind."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, MedGlipBiDirectionalAttention):
            module.dropout = 0.0
        elif isinstance(module, MedGlipFeaturePyramid):
            module.drop_block = 0.0
        elif type(module).__name__ == "SwinDropPath":
            module.drop_prob = 0.0


def test_the_converter_is_at_hand_without_an_import_of_its_own() -> None:
    assert modeling_medglip.convert_glip_checkpoint.model_from_glip is model_from_glip
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = modeling_medglip.nonsense


def test_a_converted_file_loads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {**TINY, "swin": {**TINY["swin"], "embed_dim": 8, "num_heads": [1, 1, 2, 2]}}
    monkeypatch.setattr("modeling_medglip.convert_glip_checkpoint.GLIP_T_CONFIG", tiny)
    torch.manual_seed(0)
    source = MedGlipForObjectDetection(config_from_glip(tiny, "ct"))
    save_file(to_glip(source), tmp_path / "glip.safetensors")
    convert_file(tmp_path / "glip.safetensors", tmp_path / "converted", "ct")
    again = MedGlipForObjectDetection.from_pretrained(tmp_path / "converted")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in source.state_dict().items())


def to_glip(model: MedGlipForObjectDetection) -> dict[str, Tensor]:
    """The model's tensors under GLIP's names: each of GLIP's keys is converted on its own to see where it goes."""
    ours = model.state_dict()
    names = json.loads((FIXTURES / "glip_t_keys.json").read_text())
    result: dict[str, Tensor] = {}
    for name in names:
        probe = torch.zeros(1) if "scales" in name else torch.zeros(3, 1)
        targets = [key for key in convert_state_dict({name: probe}, "ct") if key in ours]
        if not targets:
            continue
        if "scales" in name:
            result[name] = ours[targets[0]][int(name.split(".")[-2])].reshape(1)
            continue
        value = torch.cat([ours[key] for key in targets])
        convolution = "AttnConv" in name or "bbox_pred" in name or "head.centerness" in name
        result[name] = (value[..., None, None] if convolution and value.dim() == 2 else value).contiguous()
    return result
