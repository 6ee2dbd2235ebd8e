# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Answer the events of the page: uploads, examples, prompts, and moves through a volume."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from modeling_medglip.errors import UsageError
from space_examples import Example
from space_experts import Experts
from space_html import error, hint
from space_messages import visitor_message
from space_sources import Source
from space_views import (
    ASK,
    EMPTY,
    Shown,
    at_slice,
    boxes_files,
    open_source,
    result_html,
    shown_image,
    status_html,
    whole_volume,
)


Updates = dict[Any, Any]


@dataclass(frozen=True)
class Parts:
    """The components that the handlers update."""

    shown: gr.State
    upload: gr.File
    prompt: gr.Textbox
    modality: gr.Dropdown
    second: gr.Dropdown
    slices: gr.Group
    plane: gr.Radio
    index: gr.Slider
    find_all: gr.Button
    status: gr.HTML
    result: gr.HTML
    download: gr.DownloadButton
    download_second: gr.DownloadButton

    def answers(self) -> list[Any]:
        """Return all of them, for `outputs`."""
        return [getattr(self, name) for name in self.__dataclass_fields__]


class Handlers:
    """Handlers of the page's events. An error is shown where the result would be.

    Args:
        experts ([`Experts`]): the loaded checkpoints.
        examples (`Mapping[str, Example]`): id -> example.
        parts ([`Parts`]): the components to update.
    """

    def __init__(self, experts: Experts, examples: Mapping[str, Example], parts: Parts) -> None:
        self.experts, self.examples, self.parts = experts, examples, parts

    # New inputs

    def uploaded(self, path: str | None, threshold: float) -> Updates:
        """Show an uploaded file.

        Args:
            path (`str`, *optional*): of the upload; `None` if it was removed.
            threshold (`float`): boxes with lower scores are hidden.
        """
        if path is None:
            return self.cleared()
        try:
            return self._opened(open_source(Source(Path(path)), self.experts), threshold)
        except Exception as problem:
            return {**self.cleared(), self.parts.upload: gr.skip(), self.parts.status: error(visitor_message(problem))}

    def cleared(self) -> Updates:
        """Clear the page after the upload was removed."""
        parts = self.parts
        closed = {parts.slices: gr.update(visible=False), parts.find_all: gr.update(visible=False)}
        shown = {parts.shown: None, parts.status: "", parts.result: hint(EMPTY)}
        return {part: gr.skip() for part in parts.answers()} | closed | shown | self._no_files()

    def example(self, event: gr.EventData, threshold: float) -> Updates:
        """Show a chosen example, and ground its prompt.

        Args:
            event (`gr.EventData`): with the id of the example.
            threshold (`float`): boxes with lower scores are hidden.
        """
        try:
            chosen = self.examples.get(str(getattr(event, "example", "")))
            if chosen is None:
                raise UsageError("unknown example: choose one of the page")
            shown = open_source(chosen.source, self.experts)
            shown = self._grounded(shown, chosen.prompt, "auto", "")
        except Exception as problem:
            return {self.parts.status: error(visitor_message(problem))}
        settings = {self.parts.prompt: chosen.prompt, self.parts.modality: "auto", self.parts.second: ""}
        return {**self._opened(shown, threshold), **settings, self.parts.upload: None}

    def _opened(self, shown: Shown, threshold: float) -> Updates:
        parts = self.parts
        volume = bool(shown.counts)
        updates = {part: gr.skip() for part in parts.answers()} | self._show(shown, threshold)
        updates[parts.slices] = updates[parts.find_all] = gr.update(visible=volume)
        if volume:
            count = dict(shown.counts)[shown.plane]
            updates[parts.plane] = shown.plane
            updates[parts.index] = _slider(count, shown.index)
        return updates

    # Grounding

    def find(self, shown: Shown | None, prompt: str, modality: str, second: str, threshold: float) -> Updates:
        """Ground the image or slice that is shown.

        Args:
            shown ([`Shown`], *optional*): what the page shows.
            prompt (`str`): labels.
            modality (`str`): of the first expert, or `"auto"`.
            second (`str`): the second expert, see [`Experts.find`]; empty for none.
            threshold (`float`): boxes with lower scores are hidden.
        """
        try:
            return self._show(self._grounded(shown, prompt, modality, second), threshold)
        except Exception as problem:
            return {self.parts.status: error(visitor_message(problem))}

    def _grounded(self, shown: Shown | None, prompt: str, modality: str, second: str) -> Shown:
        if shown is None:
            raise UsageError(f"no image is open: {EMPTY[0].lower()}{EMPTY[1:]}")
        results = self.experts.find(shown_image(shown, self.experts), prompt, modality, second)
        return replace(shown, results=results, volume=None)

    def find_all(
        self, shown: Shown | None, prompt: str, modality: str, threshold: float, progress: gr.Progress | None = None
    ) -> Updates:
        """Ground the whole volume, in the plane that is shown.

        Args:
            shown ([`Shown`], *optional*): what the page shows.
            prompt (`str`): labels.
            modality (`str`): of the expert, or `"auto"`.
            threshold (`float`): boxes with lower scores are hidden.
            progress (`gr.Progress`, *optional*): follows the slices.
        """

        def tracked(slices: Iterable[Any], count: int) -> Iterable[Any]:
            return slices if progress is None else progress.tqdm(slices, total=count, desc="Slices", unit="slices")

        try:
            if shown is None or not shown.counts:
                raise UsageError("no volume is open: upload a NIfTI file, or choose the example")
            return self._show(whole_volume(shown, self.experts, prompt, modality, tracked), threshold)
        except Exception as problem:
            return {self.parts.status: error(visitor_message(problem))}

    # Moving through the volume, and the threshold

    def moved(self, shown: Shown | None, plane: str, number: float, threshold: float) -> Updates:
        """Show another slice.

        Args:
            shown ([`Shown`], *optional*): what the page shows.
            plane (`str`): of the slice.
            number (`float`): of the slice, counted from 1.
            threshold (`float`): boxes with lower scores are hidden.
        """
        if shown is None or not shown.counts:
            return {self.parts.status: hint(EMPTY)}
        try:
            at = at_slice(shown, plane, round(number) - 1, self.experts)
        except Exception as problem:
            return {self.parts.status: error(visitor_message(problem))}
        index = _slider(dict(at.counts)[at.plane], at.index) if plane != shown.plane else gr.skip()
        return {**self._show(at, threshold), self.parts.index: index}

    def jumped(self, shown: Shown | None, event: gr.EventData, threshold: float) -> Updates:
        """Show the best slice of a clicked row of a volume's table.

        Args:
            shown ([`Shown`], *optional*): what the page shows.
            event (`gr.EventData`): with plane and index of the slice.
            threshold (`float`): boxes with lower scores are hidden.
        """
        plane, number = str(getattr(event, "plane", "")), str(getattr(event, "index", ""))
        if shown is None or not number.isdecimal() or plane not in dict(shown.counts):
            return {self.parts.status: gr.skip()}
        updates = self.moved(shown, plane, int(number) + 1, threshold)
        slider = _slider(dict(shown.counts)[plane], int(number))
        return {**updates, self.parts.plane: plane, self.parts.index: slider}

    def thresholded(self, shown: Shown | None, threshold: float) -> Updates:
        """Write the files anew for a threshold; the page's script hides the boxes itself.

        Args:
            shown ([`Shown`], *optional*): what the page shows.
            threshold (`float`): lowest score of a box in the files.
        """
        return {self.parts.status: gr.skip(), **(self._no_files() if shown is None else self._files(shown, threshold))}

    def _show(self, shown: Shown, threshold: float) -> Updates:
        parts = self.parts
        html = result_html(shown, threshold)
        if not shown.results and shown.volume is None:
            html += hint(ASK)
        updates = {parts.shown: shown, parts.status: status_html(shown), parts.result: html}
        return {**updates, **self._files(shown, threshold)}

    def _files(self, shown: Shown, threshold: float) -> Updates:
        files = boxes_files(shown, threshold, self.parts.download.GRADIO_CACHE)
        buttons = (self.parts.download, self.parts.download_second)
        return {
            button: gr.update(value=files[number] if number < len(files) else None, visible=number < len(files))
            for number, button in enumerate(buttons)
        }

    def _no_files(self) -> Updates:
        hidden = gr.update(value=None, visible=False)
        return {self.parts.download: hidden, self.parts.download_second: hidden}


def _slider(count: int, index: int) -> Any:
    """Update the slider of `count` slices. Gradio refuses a single position: the slider gets two, and is fixed."""
    return gr.update(maximum=max(count, 2), value=min(index + 1, count), interactive=count > 1)
