# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The named endpoints for programs: `/ground`, `/ground_volume`, `/compare`, `/labels`. They return plain JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from modeling_medglip.errors import UsageError
from modeling_medglip.outputs.results import GroundingResult, validate_boxes
from modeling_medglip.outputs.volume_results import VolumeResult
from modeling_medglip.volumes.geometry import PLANES
from space_experts import Experts, above
from space_messages import in_page_terms, visitor_message
from space_settings import THRESHOLD
from space_sources import Source, planes_of, read_slice_image
from space_tree import leaves


class Api:
    """The functions behind the endpoints."""

    def __init__(self, experts: Experts) -> None:
        self.experts = experts

    def ground(
        self, file: str, prompt: str, modality: str, threshold: float, plane: str, slice_number: int
    ) -> dict[str, Any]:
        """Find labels in an image, or in one slice of a volume (the middle one for slice_number 0)."""
        return _answered(lambda: self._images(file, prompt, modality, threshold, plane, slice_number, "")[0])

    def compare(
        self, file: str, prompt: str, modality: str, second: str, threshold: float, plane: str, slice_number: int
    ) -> list[dict[str, Any]]:
        """Ask two experts about one image. second: a modality, or "1:ct": CT of the second checkpoint."""

        def both() -> list[dict[str, Any]]:
            if not second.strip():
                raise UsageError("name the second expert: a modality such as ct")
            other = second if ":" in second else f"0:{second}"
            return self._images(file, prompt, modality, threshold, plane, slice_number, other)

        return _answered(both)

    def ground_volume(self, file: str, prompt: str, modality: str, threshold: float, plane: str) -> dict[str, Any]:
        """Find labels in a volume: boxes in voxels of the file and in LPS mm. plane: "" for the acquired one."""

        def grounded() -> dict[str, Any]:
            source = _source(file)
            if not source.is_volume:
                raise UsageError(f"{source.path.name[:120]}: is not a volume: /ground takes images")
            volume = source.volume(self.experts.settings)
            return content(self.experts.find_in_volume(volume, prompt, modality, plane or None), threshold)

        return _answered(grounded)

    def labels(self) -> list[dict[str, Any]]:
        """Every label of the taxonomy and every trained one: region, category, and which experts know it."""
        return [
            {"label": leaf.name, "label_id": leaf.label_id, "region": leaf.region, "category": leaf.category,
             "kind": leaf.kind, "trained": list(leaf.trained)}
            for leaf in leaves(self.experts.trained())
        ]  # fmt: skip

    def _images(
        self, file: str, prompt: str, modality: str, threshold: float, plane: str, number: int, second: str
    ) -> list[dict[str, Any]]:
        source = _source(file)
        if source.is_volume:
            volume = source.volume(self.experts.settings)
            acquired, counts = planes_of(volume)
            plane = plane or acquired
            if plane not in PLANES:
                raise UsageError(f"plane {plane[:40]!r}: choose one of {', '.join(PLANES)}")
            image = read_slice_image(volume, plane, number - 1 if number else counts[plane] // 2)
        else:
            image = source.read_image()
        return [content(result, threshold) for result in self.experts.find(image, prompt, modality, second)]


def content(result: GroundingResult | VolumeResult, threshold: float) -> dict[str, Any]:
    """Return the content of a `*.boxes.json`, with how the modality was chosen, and the warnings.

    Args:
        result ([`GroundingResult`] or [`VolumeResult`]): of one expert.
        threshold (`float`): lowest score of a box, 0 to 1.
    """
    made = above(result, threshold).to_dict()
    validate_boxes(made, "boxes")
    modality = {"modality_source": result.modality_source, "modality_probability": result.modality_probability}
    return {**made, **modality, "warnings": list(map(in_page_terms, result.warnings))}


def _source(file: str | None) -> Source:
    if not file:
        raise UsageError("give a file")
    return Source(Path(file))


def _answered(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as problem:
        raise gr.Error(visitor_message(problem), print_exception=False) from None


def register_endpoints(experts: Experts) -> None:
    """Add the endpoints, whose components are hidden, to the page that is being built."""
    api, limit = Api(experts), experts.settings.at_once
    with gr.Row(visible=False):
        file = gr.File(label="file", type="filepath")
        prompt = gr.Textbox(label="prompt", max_length=20_000)
        modality = gr.Textbox("auto", label="modality")
        threshold = gr.Slider(0.0, 1.0, THRESHOLD, label="threshold")
        plane = gr.Textbox("", label="plane")
        number = gr.Number(0, label="slice_number", precision=0)
        second = gr.Textbox("", label="second")
        answer = gr.JSON(label="boxes")
        button = gr.Button()
    model: dict[str, Any] = {"concurrency_limit": limit, "concurrency_id": "model", "outputs": answer}
    button.click(api.ground, [file, prompt, modality, threshold, plane, number], api_name="ground", **model)
    asked = [file, prompt, modality, second, threshold, plane, number]
    button.click(api.compare, asked, api_name="compare", **model)
    volumes = {**model, "concurrency_limit": 1, "concurrency_id": "volume"}
    button.click(api.ground_volume, [file, prompt, modality, threshold, plane], api_name="ground_volume", **volumes)
    button.click(api.labels, [], answer, api_name="labels")
