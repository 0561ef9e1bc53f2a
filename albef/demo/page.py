"""The page, built with Gradio."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import gradio as gr

from albef.demo.data import Data
from albef.demo.models import TOP, Models
from albef.demo.tabs import TABS, Input, Output, Tab, Value

_HEIGHT = 320
"""Height of an image in pixels."""
CSS = ".image-frame img { width: 100%; height: 100%; object-fit: contain; }"
"""Small images fill the height, too."""


def build(models: Models, data: Data) -> gr.Blocks:
    """Return the page, with a tab for each method that has a model."""
    page: gr.Blocks
    with gr.Blocks(title="ALBEF") as page:
        gr.Markdown(f"# ALBEF\n{models.about}")
        for tab in TABS:
            if tab.method in models.tabs:
                with gr.Tab(tab.title, id=tab.method, elem_id=f"tab-{tab.method}"):
                    _fill(tab, models, data)
    return page


def _fill(tab: Tab, models: Models, data: Data) -> None:
    gr.Markdown(tab.about)
    with gr.Row():
        with gr.Column():
            fields = [_field(each, data) for each in tab.inputs]
            button = gr.Button("Run", variant="primary")
        with gr.Column():
            outputs = [_output(each) for each in tab.outputs]
    run = _run(tab, getattr(models, tab.method))
    triggers = [button.click, *(each.submit for each in fields if isinstance(each, gr.Textbox) and each.lines == 1)]
    gr.on(triggers, run, fields, outputs, api_visibility="private")
    if rows := tab.examples(data):
        examples = gr.Examples(rows, fields[: len(rows[0])], cache_examples=False, api_visibility="private")
        examples.load_input_event.then(run, fields, outputs, api_visibility="private")


def _field(each: Input, data: Data) -> Any:
    if each.kind == "count":
        return gr.Slider(1, 20, each.default, step=1, label=each.label)
    if each.kind == "image":
        image = gr.Image(label=each.label, height=_HEIGHT, type="filepath", sources=["upload", "clipboard"], buttons=[])
        # The models decode the file, and say what is wrong with it.
        image.preprocess = lambda payload: payload.path if payload else None  # type: ignore[method-assign]
        return image
    box = gr.Textbox(each.default, label=each.label, lines=1 if each.kind == "text" else 3)
    note = gr.HTML(elem_classes="unknown", visible=False)
    box.change(lambda text: _note(data.unknown(text)), box, note, show_progress="hidden", api_visibility="private")
    return box


def _note(unknown: list[str]) -> Any:
    """Return the change of a note on unknown words."""
    words = ", ".join(f"<mark>{html.escape(word)}</mark>" for word in unknown)
    return gr.update(value=f"In no training text: {words}", visible=bool(unknown))


def _output(kind: Output) -> Any:
    if kind == "labels":
        return gr.Label(label="Answers", num_top_classes=TOP, show_heading=False)
    # Without the button that would share an image on another site.
    if kind == "overlay":
        return gr.Image(label="Location", height=_HEIGHT, format="png", buttons=["download", "fullscreen"])
    label = "Images" if kind == "images" else "Heat maps of the words"
    return gr.Gallery(label=label, columns=4, object_fit="contain", buttons=["download", "fullscreen"])


def _run(tab: Tab, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the values of the fields, whose errors the page shows."""

    def run(*values: Value) -> Any:
        try:
            return method(*(each.read(value) for each, value in zip(tab.inputs, values, strict=True)))
        except (ValueError, OSError) as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from error

    return run
