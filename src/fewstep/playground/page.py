"""The page in Gradio: five tabs, each of whose answers is one of `tasks`, and the server that serves it."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import themes
from gradio.components import Component
from gradio.route_utils import FnIndexInferError
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from fewstep.errors import InputError
from fewstep.models.metadata import name_of
from fewstep.playground import controls, tasks
from fewstep.playground.about import cards_of, facts_of, quality_of
from fewstep.playground.generate import generate_tab
from fewstep.playground.guard import UPLOAD, Guard, answers_to
from fewstep.playground.html import NOTHING, SMALL
from fewstep.playground.models import Models
from fewstep.playground.pictures import BOXES, painted
from fewstep.playground.record import command_of, python_of, write_pictures
from fewstep.playground.slot import Slot
from fewstep.playground.tasks import Answer

ACTIVE, QUEUED = 40, 24  # requests that wait for the slot, and those that wait for that, at most
CSS = Path(__file__).with_name("page.css")
_kept = tempfile.TemporaryDirectory(prefix="fewstep-playground-")  # uploads and downloads; removed when the process ends


def serve(models: Models, host: str, port: int | None) -> gr.Blocks:
    """The page, listening on a port, without one on the first free from 7860 on; `close()` ends it.

    Raises:
        InputError: the port was taken in the meantime.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = _kept.name
    built = page(models).queue(max_size=QUEUED, default_concurrency_limit=None)
    theme = themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])  # none from the net
    middleware = [Middleware(Guard, answers_to(host), Path(_kept.name))]
    try:
        built.launch(
            server_name=f"[{host}]" if ":" in host else host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, ssr_mode=False,
            max_file_size=UPLOAD, max_threads=ACTIVE, footer_links=[], enable_monitoring=False, theme=theme, css_paths=CSS, show_error=True,
            app_kwargs={"middleware": middleware, "exception_handlers": {KeyError: unknown, FnIndexInferError: unknown}},
        )  # fmt: skip
    except ValueError:
        if not built.is_running:  # it is served: Gradio's own look at it waits 3 seconds, which a busy machine may take longer for
            raise
    except OSError as error:
        raise InputError(f"cannot listen on port {port or '7860 and the next'} of {host}: {error}; name another --port") from None
    return built


async def unknown(request: Any, error: Exception) -> PlainTextResponse:
    """The answer to a request for a function, a session or a file that Gradio does not know."""
    return PlainTextResponse("There is nothing of this name.", status_code=404)


def page(models: Models) -> gr.Blocks:
    """All tabs, one slot in which they draw, and for each visitor a memory of what was drawn last."""
    slot = Slot()
    with gr.Blocks(title="fewstep playground", analytics_enabled=False, delete_cache=(3600, 86400)) as built:
        with gr.Row():
            gr.Markdown(f"## fewstep playground\n`{name_of(models.name)}`")
            small = models.first.info.picture[1] <= SMALL
            smooth = gr.Checkbox(label="Smooth small pictures", visible=small, scale=0, min_width=220, container=False)
        last = gr.State(None)
        with gr.Tab("Generate"):
            generate_tab(models, slot, last, smooth, built)
        with gr.Tab("Edit"):
            edit_tab(models, slot, last, smooth)
        with gr.Tab("Inpaint"):
            inpaint_tab(models, slot, last, smooth)
        with gr.Tab("Style transfer"):
            style_tab(models, slot, last, smooth)
        with gr.Tab("About") as about:
            about_tab(models, last, about)
        built.unload(controls.end_in(slot))  # a visitor who goes away waits for nothing
    for part in built.blocks.values():
        if isinstance(part, Component):
            controls.tolerant(part)
    return built


def show_changed(slot: Slot, task: Any, button: Any, inputs: list[Any], last: Any, smooth: Any, name: str) -> None:
    """Show the answer of a tab that changes a picture, whose record names the task as `name` does."""
    shown = gr.HTML(NOTHING, label="Before and after")

    def once(*values: Any, progress: tasks.Progress) -> Iterator[Answer]:
        yield task(*values, progress=progress)

    button.click(controls.handler(slot, once), [*inputs, smooth], [shown, last], api_name=name, show_progress="full")
    controls.show_again([smooth], last, (name,), shown)


def edit_tab(models: Models, slot: Slot, last: Any, smooth: Any) -> None:
    """A picture redrawn under another class or prompt."""
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            image, label, steps = controls.picture_input(last), controls.label_input(models, "Class"), controls.steps_input(models)
            strength = gr.Slider(label="Strength", info="1 keeps nothing of the picture", **on_grid(steps.value or 1, 0.5))
            scale, (sampler, seed) = controls.scale_input(models), controls.sampler_and_seed_inputs(models, models.seed)
            button = controls.action("Edit", slot)
        with gr.Column(scale=2, min_width=320):
            inputs = [image, label, strength, steps, scale, seed, sampler]
            show_changed(slot, partial(tasks.edit, models), button, inputs, last, smooth, "edit")
    moved = {"inputs": [steps, strength], "outputs": strength, "queue": False, "api_visibility": "private"}
    steps.change(lambda n, now: gr.Slider(**on_grid(n, now)), **moved)


def on_grid(steps: int, strength: float) -> dict[str, Any]:
    """The bounds of a slider over the strengths of some steps, and the value on it that is nearest to one."""
    least, value = 1 / steps if steps > 1 else 0, max(1, round(strength * steps)) / steps
    return {"minimum": least, "maximum": 1, "step": 1 / steps, "value": value}


def inpaint_tab(models: Models, slot: Slot, last: Any, smooth: Any) -> None:
    """A picture of which the painted part is drawn anew."""
    filling, by_hand = models.for_inpainting, "painted"
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            editor = gr.ImageEditor(
                label="Paint the mask", type="pil", format="png", sources=controls.SOURCES, layers=False, transforms=(),
                brush=gr.Brush(default_size=24, colors=["#ff3b6b"], color_mode="fixed"), canvas_size=(320, 320), elem_classes="sharp",
            )  # fmt: skip
            controls.take_button(last, editor)
            part = gr.Radio([by_hand, *BOXES], value=by_hand, label="What is drawn anew")
            label, steps, scale = (
                controls.label_input(filling, "Class"),
                controls.steps_input(filling),
                controls.scale_input(filling),
            )
            sampler, seed = controls.sampler_and_seed_inputs(filling, models.seed)
            button = controls.action("Inpaint", slot)
        with gr.Column(scale=2, min_width=320):

            def inpaint(value: Any, part: Any, *values: Any, progress: tasks.Progress) -> Answer:
                image, mask = painted(value)
                return tasks.inpaint(models, image, mask if part == by_hand else str(part), *values, progress=progress)

            if models.inpainter:
                gr.Markdown(f"Inpainter: `{name_of(filling.name)}`")
            show_changed(slot, inpaint, button, [editor, part, label, steps, scale, seed, sampler], last, smooth, "inpaint")
    editor.upload(controls.uploaded, editor, editor, show_progress="hidden", api_visibility="private")


def style_tab(models: Models, slot: Slot, last: Any, smooth: Any) -> None:
    """A picture carried to noise under one class or prompt and back under another."""
    if models.encoder is None:
        gr.Markdown("Style transfer needs an encoder: start the playground again with `--encoder` or `--teacher`.")
        return
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            image = controls.picture_input(last)
            source = controls.label_input(models, "From", classes=models.encoder.model.info.classes)
            target = controls.label_input(models, "To")
            scale, steps = controls.scale_input(models, "Strength (guidance scale)"), controls.steps_input(models)
            button = controls.action("Transfer", slot)
        with gr.Column(scale=2, min_width=320):
            gr.Markdown(f"Encoder: `{models.encoder.name}`")
            inputs = [image, source, target, steps, scale]
            show_changed(slot, partial(tasks.translate, models), button, inputs, last, smooth, "translate")


def about_tab(models: Models, last: Any, tab: Any) -> None:
    """Facts of the models, and the code and the files of what was drawn last."""
    gr.Markdown("### The picture drawn last")
    script = gr.Code(label="Python", language="python", interactive=False, lines=3, wrap_lines=True)
    command = gr.Code(label="Command", language=None, interactive=False, lines=1, wrap_lines=True)
    files = gr.File(label="Pictures, with these settings in their PNG text fields", file_count="multiple", interactive=False)
    gr.Markdown(f"### The models\n{facts_of(models)}", elem_classes="facts")
    gr.Markdown(f"### Measured quality\n{quality_of(models)}", elem_classes="facts")
    for title, card in cards_of(models).items():
        with gr.Accordion(f"Model card of {title}", open=False):
            gr.Markdown(card, elem_classes="facts")

    def describe(answer: Answer | None, request: gr.Request) -> Any:
        if answer is None:
            return "# draw something first", "# draw something first", None
        visitor = hashlib.sha256(controls.visitor_of(request).encode()).hexdigest()[:16]  # whatever a visitor says it is
        folder = Path(_kept.name) / "drawn" / visitor
        folder.mkdir(parents=True, exist_ok=True)
        return python_of(answer.record), command_of(answer.record), write_pictures(folder, answer)

    tab.select(describe, last, [script, command, files], api_visibility="private")
