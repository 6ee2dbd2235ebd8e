# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Write a checkpoint as graphs of ONNX or OpenVINO, with dynamic sizes of batch, image and prompt."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..configuration_medglip import MedGlipHeadConfig
from ..errors import MedGlipError, UsageError, install_hint, one_line
from ..inference import fold_batch_norms
from ..modeling_medglip import (
    MedGlipBoxHead,
    MedGlipExpert,
    MedGlipForObjectDetection,
    decode_boxes,
    make_anchors,
    region_levels,
)
from ..outputs.run_report import package_version
from ..processing_medglip import MedGlipProcessor
from .manifest import BOX_HEADS, FORMATS, HIDDEN, LEVELS, OUTPUTS, TEXT_ENCODER, Manifest, parts_of, sha256


MAKERS = {"onnx": ("torch", "onnx", "onnxscript"), "openvino": ("torch", "onnx", "onnxscript", "openvino")}
DYNAMIC = torch.export.Dim.DYNAMIC
# Of the images and the prompt that graphs are traced with; no size is fixed by them.
TRACED_SIZE, TRACED_TOKENS = (288, 224), 10


class TextEncoderGraph(nn.Module):
    """The language encoder as a graph.

    Args:
        model ([`MedGlipForObjectDetection`]): in evaluation mode.
    """

    def __init__(self, model: MedGlipForObjectDetection) -> None:
        super().__init__()
        self.text_model = model.model.text_model

    def forward(self, input_ids: Tensor, text_mask: Tensor, position_ids: Tensor) -> Tensor:
        """Return the features of tokens `(prompts, tokens, hidden_size)`.

        Args:
            input_ids (`Tensor` of shape `(prompts, tokens)`): token ids.
            text_mask (`Tensor` of shape `(prompts, 1, tokens, tokens)`): added to the scores of self-attention.
            position_ids (`Tensor` of shape `(prompts, tokens)`): of each token.
        """
        output = self.text_model(input_ids=input_ids, attention_mask=text_mask, position_ids=position_ids)
        return output.last_hidden_state


class ImageEncoderGraph(nn.Module):
    """The image encoder of an expert as a graph.

    Args:
        expert ([`MedGlipExpert`]): in evaluation mode.
    """

    def __init__(self, expert: MedGlipExpert) -> None:
        super().__init__()
        self.expert = expert

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Return maps P3..P7 `(batch, channels, h, w)`.

        Args:
            pixel_values (`Tensor` of shape `(batch, 3, height, width)`): as the processor makes them.
        """
        return tuple(self.expert.encode_image(pixel_values))


class DecoderGraph(nn.Module):
    """The fusion of image and prompt, the alignment and the boxes of an expert as a graph.

    Args:
        expert ([`MedGlipExpert`]): in evaluation mode.
        box_head ([`MedGlipBoxHead`]): the expert's.
        config ([`MedGlipHeadConfig`]): the expert's.
    """

    def __init__(self, expert: MedGlipExpert, box_head: MedGlipBoxHead, config: MedGlipHeadConfig) -> None:
        super().__init__()
        self.expert, self.box_head, self.config = expert, box_head, config

    def forward(
        self, p3: Tensor, p4: Tensor, p5: Tensor, p6: Tensor, p7: Tensor,
        hidden: Tensor, attention_mask: Tensor, text_mask: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Return `OUTPUTS`, as [`MedGlipObjectDetectionOutput`] describes them.

        Args:
            p3 (`Tensor` of shape `(batch, channels, h, w)`): the image encoder's map, as for the next four.
            p4 (`Tensor` of shape `(batch, channels, h, w)`): see `p3`.
            p5 (`Tensor` of shape `(batch, channels, h, w)`): see `p3`.
            p6 (`Tensor` of shape `(batch, channels, h, w)`): see `p3`.
            p7 (`Tensor` of shape `(batch, channels, h, w)`): see `p3`.
            hidden (`Tensor` of shape `(batch, tokens, hidden_size)`): the text encoder's features.
            attention_mask (`Tensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding.
            text_mask (`Tensor` of shape `(batch, 1, tokens, tokens)`): as the text encoder takes it.
        """
        levels = [p3, p4, p5, p6, p7]
        shapes = [(level.shape[2], level.shape[3]) for level in levels]
        found = self.expert.fuse(levels, hidden, attention_mask, text_mask)
        deltas, centerness = self.box_head(found.regions, region_levels(shapes, p3.device))
        boxes = decode_boxes(deltas, make_anchors(shapes, self.config, p3.device))
        return found.regions, found.tokens, found.logits, found.presence, boxes, centerness


def export_model(
    model: MedGlipForObjectDetection,
    processor: MedGlipProcessor,
    out: str | Path,
    format: str = "onnx",
    name: str = "model",
    calibration: Sequence[Any] | None = None,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
) -> Manifest:
    """Write a model as graphs that run without PyTorch's networks.

    Args:
        model ([`MedGlipForObjectDetection`]): on the CPU; it stays as it is.
        processor ([`MedGlipProcessor`]): the model's.
        out (`str` or `Path`): a new folder; `load_grounder` loads it.
        format (`str`, *optional*, defaults to `"onnx"`): `"onnx"` or `"openvino"`.
        name (`str`, *optional*, defaults to `"model"`): of the checkpoint, for messages and `export.json`.
        calibration (`Sequence`, *optional*): images of the modality, as the processor takes them, from which the
            ranges of eight-bit integers are learned; without them graphs stay in single precision.
        progress (`Callable`, *optional*): called with the graphs and their number; yields the graphs.

    Raises:
        `UsageError`: an unknown format, a folder that exists, a package that is missing, or eight bits for several
            experts. `MedGlipError`: a graph that cannot be made.
    """
    folder = Path(out)
    _check_request(model, name, folder, format, calibration)
    traceable = _traceable(model)
    parts = list(_graphs(traceable))
    with tempfile.TemporaryDirectory(dir=_parent(folder)) as temporary:
        made = Path(temporary) / "graphs"
        made.mkdir()
        for part, graph, inputs in parts if progress is None else progress(parts, len(parts)):
            _write_graph(graph, inputs, made / f"{part}.onnx", part)
        if calibration is not None:
            from .quantization import quantize

            with _quiet():
                quantize(traceable, processor, made, calibration)
        if format == "openvino":
            _convert(made)
        _write_rest(model, processor, made)
        manifest = Manifest(
            format=format,
            precision="float32" if calibration is None else "int8",
            modalities=tuple(model.config.modalities),
            source=name,
            versions={package: package_version(package) for package in MAKERS[format]},
            files={file.name: sha256(file) for file in sorted(made.iterdir())},
        )
        manifest.write(made)
        made.rename(folder)
    return manifest


def _parent(folder: Path) -> Path:
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    return folder.absolute().parent


def _check_request(
    model: MedGlipForObjectDetection, name: str, folder: Path, format: str, calibration: Sequence[Any] | None
) -> None:
    if format not in FORMATS:
        raise UsageError(f"format {one_line(format, 40)!r}: choose one of {', '.join(FORMATS)}")
    if folder.exists():
        raise UsageError(f"{one_line(folder.name, 120)}: exists: name a new folder", hint="out")
    if type(model) is not MedGlipForObjectDetection:
        raise UsageError(f"checkpoint {name}: is exported already: give the checkpoint it was made from")
    modalities = model.config.modalities
    if calibration is not None and len(modalities) > 1:
        raise UsageError("eight bits are calibrated for one expert: name its modality", hint="modality")
    if any(model.config.expert_backbone_config(modality).model_type == "swin" for modality in modalities):
        raise UsageError(f"checkpoint {name}: the windows of a Swin encoder cannot be exported for any size")
    needed = [*MAKERS[format], *(["onnxruntime"] if calibration is not None else [])]
    if missing := [name for name in needed if package_version(name) == "not installed"]:
        extra = "onnx" if "openvino" not in missing else "openvino"
        raise UsageError(f"exporting needs {', '.join(missing)}: {install_hint(extra)}")


def _traceable(model: MedGlipForObjectDetection) -> MedGlipForObjectDetection:
    """Return a copy of the model whose graphs are the smallest."""
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    copied.config._attn_implementation = "eager"  # plain matrix products
    for expert in copied.model.experts.values():
        fold_batch_norms(cast(nn.Module, expert.backbone))
    return copied


def _graphs(model: MedGlipForObjectDetection) -> Iterator[tuple[str, nn.Module, dict[str, Tensor]]]:
    """Yield name, module and example inputs of every graph."""
    ids = torch.randint(10, 100, (2, TRACED_TOKENS))
    mask = torch.zeros(2, 1, TRACED_TOKENS, TRACED_TOKENS)
    positions = torch.arange(TRACED_TOKENS).expand(2, -1).contiguous()
    text = TextEncoderGraph(model)
    yield TEXT_ENCODER, text, {"input_ids": ids, "text_mask": mask, "position_ids": positions}
    with torch.no_grad():
        hidden = text(ids, mask, positions)
        for name in model.config.modalities:
            expert, (encoder, decoder) = cast(MedGlipExpert, model.model.experts[name]), parts_of(name)
            pixels = torch.rand(2, 3, *TRACED_SIZE)
            yield encoder, ImageEncoderGraph(expert), {"pixel_values": pixels}
            levels = dict(zip(LEVELS, expert.encode_image(pixels), strict=True))
            prompts = {"hidden": hidden, "attention_mask": torch.ones(2, TRACED_TOKENS, dtype=torch.long)}
            box_head = cast(MedGlipBoxHead, model.box_heads[name])
            graph = DecoderGraph(expert, box_head, model.head_configs[name])
            yield decoder, graph, {**levels, **prompts, "text_mask": mask}


# Axes of an input whose size is not fixed, by its number of axes; channels and hidden sizes are.
FREE_AXES = {2: (0, 1), 3: (0, 1), 4: (0, 2, 3)}
NAMES: dict[type[nn.Module], tuple[str, ...]] = {
    TextEncoderGraph: HIDDEN,
    ImageEncoderGraph: LEVELS,
    DecoderGraph: OUTPUTS,
}


def _write_graph(graph: nn.Module, inputs: dict[str, Tensor], file: Path, part: str) -> None:
    """Trace a module and write it as ONNX."""
    shapes = {name: dict.fromkeys(FREE_AXES[value.dim()], DYNAMIC) for name, value in inputs.items()}
    try:
        with _quiet():
            program = torch.export.export(graph.eval(), (), inputs, dynamic_shapes=shapes, strict=False)
            torch.onnx.export(
                program, (), str(file), kwargs=inputs, dynamo=True, external_data=False, verbose=False,
                input_names=list(inputs), output_names=list(NAMES[type(graph)]),
            )  # fmt: skip
    except Exception as error:  # tracing raises nearly anything
        raise MedGlipError(f"{part}: cannot be exported ({one_line(error)})") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what tracing prints and logs."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _convert(folder: Path) -> None:
    """Replace the ONNX files of a folder by OpenVINO's."""
    from .runtime import import_openvino, openvino_core

    openvino, core = import_openvino(), openvino_core()
    for file in sorted(folder.glob("*.onnx")):
        graph = core.read_model(file)
        openvino.save_model(graph, file.with_suffix(".xml"), compress_to_fp16=False)
        del graph
        file.unlink()


def _write_rest(model: MedGlipForObjectDetection, processor: MedGlipProcessor, folder: Path) -> None:
    """Write what belongs to no graph: configuration, box heads, processor."""
    model.config.save_pretrained(folder)
    heads = model.box_heads.state_dict()
    save_file({key: value.contiguous() for key, value in heads.items()}, folder / BOX_HEADS)
    processor.save_pretrained(folder)
    for file in folder.glob("*.py"):  # the code of models that transformers loads
        file.unlink()


__all__ = ["DecoderGraph", "ImageEncoderGraph", "TextEncoderGraph", "export_model"]
