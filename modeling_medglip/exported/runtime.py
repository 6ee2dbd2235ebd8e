# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Run an exported folder: a model whose encoders and decoders are graphs, and which is used as any other."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from ..configuration_medglip import MedGlipConfig
from ..errors import CheckpointError, MedGlipError, UsageError, install_hint, one_line
from ..modeling_medglip import ExpertOutputs, MedGlipForObjectDetection
from ..processing_medglip import MedGlipProcessor
from .manifest import BOX_HEADS, FILE, HIDDEN, LEVELS, OUTPUTS, TEXT_ENCODER, Manifest, parts_of, read_manifest


# A graph: named tensors in, named tensors out.
Graph = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class MedGlipExportedModel(MedGlipForObjectDetection):
    """A model for inference whose language encoder and experts run as graphs, see [`load_exported`]."""

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Raise `UsageError`: graphs cannot be turned back into a checkpoint."""
        raise UsageError("an exported checkpoint cannot be saved: copy its folder")


class GraphTextEncoder(nn.Module):
    """The language encoder, run by a graph.

    Args:
        graph (`Callable`): see [`graphs.TextEncoderGraph`].
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        # A model asks its first parameter for its type and device.
        self.empty = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None
    ) -> BaseModelOutput:
        """Return the features of tokens as `last_hidden_state`; see [`graphs.TextEncoderGraph`]."""
        prompts, tokens = input_ids.shape
        if position_ids is None:
            position_ids = torch.arange(tokens).expand(prompts, -1)
        mask = full_mask(attention_mask, tokens)
        inputs = {"input_ids": input_ids, "text_mask": mask, "position_ids": position_ids}
        return BaseModelOutput(last_hidden_state=self.graph(inputs)["hidden"])


class GraphExpert(nn.Module):
    """The image side of one modality, run by two graphs; with the methods of [`MedGlipExpert`].

    Args:
        encoder (`Callable`): see [`graphs.ImageEncoderGraph`].
        decoder (`Callable`): see [`graphs.DecoderGraph`].
        has_presence (`bool`): whether the expert has a presence head.
    """

    def __init__(self, encoder: Graph, decoder: Graph, has_presence: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.presence = has_presence or None

    def encode_image(self, pixel_values: Tensor) -> list[Tensor]:
        """See [`MedGlipExpert.encode_image`]."""
        levels = self.encoder({"pixel_values": pixel_values})
        return [levels[name] for name in LEVELS]

    def fuse(self, levels: list[Tensor], text: Tensor, attention_mask: Tensor, text_mask: Tensor) -> ExpertOutputs:
        """See [`MedGlipExpert.fuse`]."""
        prompts = {"hidden": text, "attention_mask": attention_mask.long()}
        mask = full_mask(text_mask, text.shape[1])
        found = self.decoder({**dict(zip(LEVELS, levels, strict=True)), **prompts, "text_mask": mask})
        return ExpertOutputs(*(found[name] for name in OUTPUTS[:4]))


def full_mask(text_mask: Tensor, tokens: int) -> Tensor:
    """Return a mask of self-attention with a row for every token: `(batch, 1, tokens, tokens)`.

    Args:
        text_mask (`Tensor` of shape `(batch, 1, 1 or tokens, tokens)`): see [`TextFeatures`].
        tokens (`int`): of the prompt.
    """
    return text_mask.expand(-1, 1, tokens, tokens)


def is_exported(source: Path | str) -> bool:
    """Return whether a folder holds an exported checkpoint."""
    return isinstance(source, Path) and (source / FILE).is_file()


def load_exported(
    folder: Path, name: str, modality: str | None = None
) -> tuple[MedGlipExportedModel, MedGlipProcessor]:
    """Load a folder that [`graphs.export_model`] wrote.

    Args:
        folder (`Path`): the exported folder.
        name (`str`): how it is called in messages.
        modality (`str`, *optional*): load only this modality's expert.

    Raises:
        `CheckpointError`: incomplete or damaged, no such expert, or the runtime is not installed.
    """
    manifest = read_manifest(folder, name)
    try:
        processor = MedGlipProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config = MedGlipConfig.from_pretrained(folder, local_files_only=True)
        if set(config.modalities) != set(manifest.modalities):
            raise CheckpointError(f"checkpoint {name}: config.json and {FILE} name different experts: export it again")
        if modality is not None:
            config = config.for_modalities([modality])
        return _assemble(folder, manifest, config), processor
    except MedGlipError:
        raise
    except Exception as error:  # broken files make the libraries raise nearly anything
        raise CheckpointError(f"checkpoint {name}: cannot be loaded ({one_line(error, 220)})") from error


def _assemble(folder: Path, manifest: Manifest, config: MedGlipConfig) -> MedGlipExportedModel:
    """Return a model without encoders of its own, with graphs in their place."""
    open_graph = OPENERS[manifest.format]
    with torch.device("meta"):
        model = MedGlipExportedModel(config)
    model.model.text_model = GraphTextEncoder(open_graph(manifest.graph(folder, TEXT_ENCODER), HIDDEN))
    for name in config.modalities:
        files = [manifest.graph(folder, part) for part in parts_of(name)]
        encoder, decoder = open_graph(files[0], LEVELS), open_graph(files[1], OUTPUTS)
        has_presence = bool(config.expert_head_config(name).presence_dim)
        model.model.experts[name] = GraphExpert(encoder, decoder, has_presence)
    heads = load_file(folder / BOX_HEADS)
    kept = {key: value for key, value in heads.items() if key.partition(".")[0] in config.modalities}
    model.box_heads.load_state_dict(kept, strict=True, assign=True)
    return model.eval().requires_grad_(False)


# Runtimes ------------------------------------------------------------------------------------------------------------


def open_onnx(file: Path, names: Sequence[str]) -> Graph:
    """Open a graph with ONNX Runtime; a call takes as many threads as PyTorch has where it is made.

    Args:
        file (`Path`): an `.onnx` file.
        names (`Sequence[str]`): of its outputs, in their order.

    Raises:
        `CheckpointError`: ONNX Runtime is not installed.
    """
    runtime = _import("onnxruntime", "onnx")

    def session(threads: int) -> Any:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        return runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    sessions = _by_threads(session)
    sessions()  # a damaged graph is found here

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = sessions().run(names, {name: value.contiguous().numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}

    return run


def open_openvino(file: Path, names: Sequence[str]) -> Graph:
    """Open a graph with OpenVINO on the CPU, in single precision; a call takes as many threads as PyTorch has there.

    Args:
        file (`Path`): an `.xml` file, with its `.bin` beside it.
        names (`Sequence[str]`): of its outputs, in their order.

    Raises:
        `CheckpointError`: OpenVINO is not installed.
    """
    core, whole = openvino_core(), torch.get_num_threads()
    graph = core.read_model(file)

    def compiled(threads: int) -> Any:
        streams = max(1, whole // threads)  # calls that run at once
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": streams * threads,
            "NUM_STREAMS": streams,
        }
        return core.compile_model(graph, "CPU", settings)

    graphs = _by_threads(compiled)

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = {name: value.contiguous().numpy() for name, value in inputs.items()}
        results = graphs().infer_new_request(arrays)
        return {name: torch.from_numpy(results[index]) for index, name in enumerate(names)}

    return run


OPENERS: dict[str, Callable[[Path, Sequence[str]], Graph]] = {"onnx": open_onnx, "openvino": open_openvino}


def _by_threads(make: Callable[[int], Any]) -> Callable[[], Any]:
    """Return what gives a graph for the caller's number of threads; a graph is made once for each, when it is used."""
    made: dict[int, Any] = {}
    lock = Lock()

    def get() -> Any:
        threads = torch.get_num_threads()
        with lock:
            if threads not in made:
                made[threads] = make(threads)
            return made[threads]

    return get


def import_openvino() -> Any:
    """Import OpenVINO without the telemetry that its conversion tool sends when it is imported.

    Raises:
        `CheckpointError`: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # an import of it then fails
    return _import("openvino", "openvino")


@functools.cache
def openvino_core() -> Any:
    """Return the one core of OpenVINO in this process, which is never deleted.

    Every core sets a stack for signal handlers and restores the one before when it is deleted. Of several, that may be
    the stack of another that is gone; the next signal then kills the process.

    Raises:
        `CheckpointError`: OpenVINO is not installed.
    """
    return import_openvino().Core()


def _import(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise CheckpointError(f"the exported checkpoint needs {package}: {install_hint(extra)}") from None


__all__ = ["MedGlipExportedModel", "full_mask", "import_openvino", "is_exported", "load_exported", "openvino_core"]
