# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Build the page with its components and events, and serve it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from modeling_medglip.volumes.geometry import PLANES
from space_api import register_endpoints
from space_examples import Example, gallery, make_examples
from space_experts import Experts, load_experts
from space_handlers import Handlers, Parts
from space_html import hint, notice
from space_limits import Page, RequestLimits, bound_queue, bound_uploads, local_only, sweeper
from space_readers import READERS
from space_settings import FAINTEST, THRESHOLD, Settings
from space_tree import tree
from space_views import EMPTY


HERE = Path(__file__).parent
EVERY_ADDRESS = ("0.0.0.0", "::", "[::]")
INTRODUCTION = """
<div class="mg-title"><h1>MedGLIP</h1><p>Name what to look for in a medical image; boxes with scores come back.
Left and right are the patient's.</p></div>
"""
ABOUT = """
**From a program.** `/ground`, `/ground_volume`, `/compare` and `/labels` answer with the JSON that the download holds:

```python
from gradio_client import Client, handle_file

client = Client("ADDRESS_OF_THIS_PAGE")
boxes = client.predict(file=handle_file("ct.nii.gz"), prompt="liver. spleen.", api_name="/ground_volume")
```

**Boxes.** Lesions have dashed frames in warm colors and stand under the organ that they lie in. A search keeps what
it finds down to a score of 0.05, in whole volumes 0.15; the threshold hides some of it, without another search.

**Your files** stay on this server until a quarter of an hour after their last use. Nothing is sent elsewhere, logged
or learned from.
"""
# Most requests without a network pass at the same time, of all visitors together.
QUICK = 4
# The page's script calls `trigger` with these names.
EXAMPLES_JS = "medglip.examples(element, (id) => trigger('example', {example: id}));"
TREE_JS = "medglip.tree(element);"
RESULT_JS = """
medglip.result(element, (plane, index) => trigger('jump', {plane: plane, index: index}));
watch('value', () => medglip.refresh(element));
"""


def build_page(settings: Settings, experts: Experts | None = None, folder: Path | None = None) -> gr.Blocks:
    """Return the page with its endpoints, not yet served.

    Args:
        settings ([`Settings`]): of the server.
        experts ([`Experts`], *optional*): loaded checkpoints; those of the settings by default.
        folder (`Path`, *optional*): for the examples' files; a new one by default.
    """
    known = load_experts(settings) if experts is None else experts
    files = Path(tempfile.mkdtemp(prefix="medglip-examples-")) if folder is None else folder
    examples = make_examples(known, files) if settings.examples else {}
    swept = (settings.sweep_seconds, settings.keep_seconds)
    with Page(title="MedGLIP", analytics_enabled=False, delete_cache=swept, fill_width=True) as page:
        gr.HTML(notice(), elem_id="mg-notice")
        gr.HTML(INTRODUCTION)
        parts, pickers = _layout(known, examples)
        _connect(Handlers(known, examples, parts), parts, pickers)
        register_endpoints(known)
    local_only(page)
    READERS.start()
    return bound_queue(page.queue(max_size=settings.waiting, default_concurrency_limit=QUICK))


def _layout(experts: Experts, examples: Mapping[str, Example]) -> tuple[Parts, dict[str, Any]]:
    with gr.Row(elem_id="mg-columns"):
        with gr.Column(scale=4, min_width=320):
            asked = _asking(experts, examples)
        with gr.Column(scale=7, min_width=320, elem_id="mg-answers"):
            threshold = gr.Slider(
                FAINTEST, 1.0, THRESHOLD, step=0.01, label="Threshold", elem_id="mg-threshold",
                info="Hides boxes with lower scores, at once.", buttons=[],
            )  # fmt: skip
            status = gr.HTML(elem_id="mg-status")
            result = gr.HTML(hint(EMPTY), elem_id="mg-result", js_on_load=RESULT_JS, apply_default_css=False)
            with gr.Row(elem_id="mg-downloads"):
                download = gr.DownloadButton("Download boxes (JSON)", visible=False, size="md", elem_id="mg-download")
                second = gr.DownloadButton("Second expert's boxes (JSON)", visible=False, size="md")
            with gr.Accordion("About, privacy and use from programs", open=False):
                gr.Markdown(ABOUT)
    given = {name: asked[name] for name in Parts.__dataclass_fields__ if name in asked}
    shown = gr.State(None, time_to_live=3600)
    parts = Parts(shown=shown, status=status, result=result, download=download, download_second=second, **given)
    return parts, {"threshold": threshold, "examples": asked["examples"], "find": asked["find"]}


def _asking(experts: Experts, examples: Mapping[str, Example]) -> dict[str, Any]:
    """Return the components of the left column."""
    made: dict[str, Any] = {}
    label = "PNG, JPEG, TIFF, DICOM, NIfTI, NRRD"
    made["upload"] = gr.File(label=label, type="filepath", height=132, elem_id="mg-upload")
    made["examples"] = gr.HTML(
        gallery(examples), js_on_load=EXAMPLES_JS, visible=bool(examples), apply_default_css=False
    )
    with gr.Group(visible=False, elem_id="mg-slices") as made["slices"]:
        made["plane"] = gr.Radio(list(PLANES), value="axial", label="Plane")
        made["index"] = gr.Slider(1, 2, 1, step=1, label="Slice", buttons=[], elem_id="mg-slice")
    made["prompt"] = gr.Textbox(
        label="Look for", placeholder="liver. spleen. left kidney.", lines=2, max_lines=6, max_length=20_000,
        info="Labels with dots, commas or lines between.", elem_id="mg-prompt",
    )  # fmt: skip
    with gr.Accordion("Pick labels", open=False, elem_id="mg-labels"):
        gr.HTML(tree(experts.trained()), js_on_load=TREE_JS, apply_default_css=False)
    with gr.Row():
        made["modality"] = gr.Dropdown(
            experts.modality_choices(), value="auto", label="Modality", min_width=130, elem_id="mg-modality"
        )
        made["second"] = gr.Dropdown(
            experts.second_choices(), value="", label="Compare with", min_width=130, elem_id="mg-second"
        )
    with gr.Row():
        made["find"] = gr.Button("Find", variant="primary", elem_id="mg-find")
        made["find_all"] = gr.Button("Find in whole volume", variant="primary", visible=False, elem_id="mg-find-all")
    return made


def _connect(handlers: Handlers, parts: Parts, pickers: Mapping[str, Any]) -> None:
    threshold, outputs = pickers["threshold"], parts.answers()
    shared = {"concurrency_id": "quick", "concurrency_limit": QUICK}
    private: dict[str, Any] = {"api_visibility": "private", "show_progress_on": [parts.result], **shared}
    model = {**private, "concurrency_id": "model", "concurrency_limit": handlers.experts.settings.at_once}
    quick = {**private, "show_progress": "hidden", "trigger_mode": "always_last"}
    parts.upload.upload(handlers.uploaded, [parts.upload, threshold], outputs, **private)
    parts.upload.clear(handlers.cleared, None, outputs, **private)
    pickers["examples"].example(handlers.example, [threshold], outputs, **model)
    asked = [parts.shown, parts.prompt, parts.modality, parts.second, threshold]
    for listener in (pickers["find"].click, parts.prompt.submit):
        listener(handlers.find, asked, outputs, **model)
    volume = {**private, "concurrency_id": "volume", "concurrency_limit": 1}
    asked = [parts.shown, parts.prompt, parts.modality, threshold]
    parts.find_all.click(_with_progress(handlers), asked, outputs, **volume)
    position = [parts.shown, parts.plane, parts.index, threshold]
    for moved in (parts.plane.input, parts.index.input):
        moved(handlers.moved, position, outputs, **quick)
    parts.result.jump(handlers.jumped, [parts.shown, threshold], outputs, **quick)
    threshold.change(None, [threshold], None, js="(value) => { medglip.threshold(value); return []; }")
    threshold.change(handlers.thresholded, [parts.shown, threshold], outputs, **quick)


def _with_progress(handlers: Handlers) -> Any:
    """Return the handler with a progress bar, which gradio finds by its default value."""

    def find_all(
        shown: Any,
        prompt: str,
        modality: str,
        threshold: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> dict[Any, Any]:
        return handlers.find_all(shown, prompt, modality, threshold, progress)

    return find_all


def theme() -> gr.themes.Base:
    """Return a theme with the fonts of the visitor's system, so that nothing is fetched."""
    sans = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"]
    mono = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
    made = gr.themes.Default(primary_hue="teal", secondary_hue="slate", neutral_hue="slate", font=sans, font_mono=mono)
    return made.set(
        block_title_text_weight="600", block_title_text_size="*text_sm", button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700", button_primary_text_color="white",
        button_primary_background_fill_dark="*primary_600", slider_color="*primary_600",
    )  # fmt: skip


def serve_page(page: gr.Blocks, settings: Settings, cache: Path, **options: Any) -> tuple[Any, str, str]:
    """Launch the page without sharing, analytics, history of runs or server-side rendering.

    It serves the files of its cache only.

    Args:
        page (`gr.Blocks`): from [`build_page`].
        settings ([`Settings`]): of the server.
        cache (`Path`): `GRADIO_TEMP_DIR` of this server alone; unused files in it are deleted.
        options (`Any`): further arguments of `gr.Blocks.launch`.

    Returns:
        `tuple[Any, str, str]`: the application, the local address, the shared one, which is empty.
    """
    swept = sweeper(cache, settings.sweep_seconds, settings.keep_seconds)
    bound = options.get("server_name") or os.environ.get("GRADIO_SERVER_NAME", "")
    bounded = Middleware(
        RequestLimits, upload_bytes=settings.upload_bytes, json_bytes=settings.json_bytes,
        seconds=settings.body_seconds, hosts=(*settings.hosts, bound), any_address=bound in EVERY_ADDRESS,
        cache=cache, cache_bytes=settings.cache_bytes,
    )  # fmt: skip
    bound_uploads()
    script = (HERE / "space.js").read_text(encoding="utf-8")
    return page.launch(
        share=False, ssr_mode=False, enable_monitoring=False, show_error=False, allowed_paths=[], pwa=False,
        mcp_server=False, run_history=False, max_file_size=settings.upload_bytes,
        state_session_capacity=settings.sessions,
        theme=theme(), css=(HERE / "space.css").read_text(encoding="utf-8"), head=f"<script>{script}</script>",
        app_kwargs={"middleware": [bounded], "lifespan": swept}, footer_links=["api"],
        quiet=True, **options,
    )  # fmt: skip
