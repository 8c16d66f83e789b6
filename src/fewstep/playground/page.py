"""The page of the playground, in Gradio: five tabs whose every answer comes from `playground`; what goes wrong is a sentence on the page."""

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

from fewstep.errors import InputError
from fewstep.playground import drawing as playground
from fewstep.playground.about import cards_of, facts_of, quality_of
from fewstep.playground.controls import (
    SOURCES,
    action,
    end,
    guarded,
    handler,
    in_turn,
    picture_input,
    sampler_input,
    scale_input,
    seed_input,
    steps_input,
    stops,
    take,
    uploaded,
    words_input,
)  # fmt: skip
from fewstep.playground.drawing import Answer
from fewstep.playground.guard import Guard, answers_to
from fewstep.playground.html import CSS, NOTHING, divided, figures
from fewstep.playground.models import LARGE, Models
from fewstep.playground.pictures import BOXES, painted
from fewstep.playground.record import command_of, python_of, write_pictures

QUEUED, HEARD = 64, "20mb"  # requests that wait at most; the largest upload
_kept = tempfile.TemporaryDirectory(prefix="fewstep-playground-")  # uploads and downloads; removed when the process ends


def serve(models: Models, host: str, port: int | None) -> gr.Blocks:
    """The page, listening on a port, without one on the first free from 7860 on; `close()` ends it.

    Raises:
        InputError: the port was taken in the meantime.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = _kept.name
    from starlette.middleware import Middleware

    built = page(models).queue(max_size=QUEUED, default_concurrency_limit=1)
    theme = themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])  # none from the net
    try:
        built.launch(
            server_name=f"[{host}]" if ":" in host else host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, ssr_mode=False,
            max_file_size=HEARD, footer_links=[], enable_monitoring=False, theme=theme, css=CSS, show_error=True,
            app_kwargs={"middleware": [Middleware(Guard, answers_to(host))]},
        )  # fmt: skip
    except ValueError:
        if not built.is_running:  # it is served: Gradio's own look at it waits 3 seconds, which a busy machine may take longer for
            raise
    except OSError as error:
        raise InputError(f"cannot listen on port {port or '7860 and the next'} of {host}: {error}; name another --port") from None
    return built


def page(models: Models) -> gr.Blocks:
    """All tabs, and one memory a visitor of what was drawn last."""
    with gr.Blocks(title="fewstep playground", analytics_enabled=False, delete_cache=(3600, 86400)) as built:
        gr.Markdown(f"## fewstep playground\n`{models.name}`")
        last = gr.State(None)
        with gr.Tab("Generate"):
            generate_tab(models, last, built)
        with gr.Tab("Edit"):
            edit_tab(models, last)
        with gr.Tab("Inpaint"):
            inpaint_tab(models, last)
        with gr.Tab("Style transfer"):
            style_tab(models, last)
        with gr.Tab("About") as about:
            about_tab(models, last, about)
        built.unload(end)  # a visitor who goes away waits for nothing
    for part in built.blocks.values():
        if isinstance(part, Component):
            guarded(part)
    return built


def generate_tab(models: Models, last: Any, built: gr.Blocks) -> None:
    """Pictures from noise, drawn again while a slider moves."""
    live = models.first.info.picture[1] <= LARGE
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            words, scale, steps = words_input(models, "Class", many=True), scale_input(models), steps_input(models)
            sampler, seed = sampler_input(models), seed_input(models)
            count = gr.Slider(1, models.most, value=8 if live else 1, step=1, label="Images")
            beside = gr.Checkbox(label="The teacher's from the same noise", visible=models.teacher is not None)
            draw, stop = action("Draw")
            sweep = gr.Button("Sweep the guidance scale")
        with gr.Column(scale=2, min_width=320):
            shown = gr.HTML(NOTHING, label="Pictures", elem_classes="live" if live else None)

    def ask(
        words: Any, scale: float, steps: int, sampler: str, seed: int, count: int, beside: bool, progress: Any
    ) -> Iterator[Answer]:  # fmt: skip
        answer = playground.generate(models, listed(words), steps, scale, seed, count, sampler, progress)
        yield answer
        if beside:
            yield playground.beside(models, answer, progress)

    def strip(words: Any, steps: int, sampler: str, seed: int, progress: Any) -> Iterator[Answer]:
        yield playground.sweep(models, listed(words), steps, seed, sampler, progress)

    changed = [part.change if live else part.release for part in (scale, count) if isinstance(part, gr.Slider)]
    changed += [steps.change, sampler.change, seed.change, beside.change, draw.click]
    changed += [words.change, built.load] if models.words else [words.submit]
    common: dict[str, Any] = {"show_progress": "minimal" if live else "full", "concurrency_id": "models"}
    inputs = [words, scale, steps, sampler, seed, count, beside]
    drawn = gr.on(changed, handler(ask), inputs, [shown, last], trigger_mode="always_last", api_name="generate", **common)
    swept = sweep.click(handler(strip), [words, steps, sampler, seed], [shown, last], api_name="sweep", **common)
    stops(stop, drawn, swept)


def listed(words: Any) -> list[str]:
    """The classes of a chooser, or the prompt of a line of text, as a list."""
    return [words] if isinstance(words, str) else words or []


def changing(
    models: Models, draw: Any, buttons: tuple[Any, Any], inputs: list[Any], last: Any, name: str, divider: bool = False
) -> None:
    """What shows the answer of a tab that changes a picture: side by side, and over each other with a divider that can be moved."""
    shown = gr.HTML(NOTHING, label="Before and after")

    def show(answer: Answer) -> tuple[str]:
        images = answer.groups[0].images
        return ((divided(images[0], images[-1]) if divider else "") + figures(answer.groups),)

    asked = handler(in_turn(draw, models), show)
    event = buttons[0].click(asked, inputs, [shown, last], api_name=name, concurrency_id="models", show_progress="full")
    stops(buttons[1], event)


def edit_tab(models: Models, last: Any) -> None:
    """A picture redrawn under another class or prompt."""
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            image, words, steps = picture_input(last), words_input(models, "Class"), steps_input(models)
            strength = gr.Slider(label="Strength", info="1 keeps nothing of the picture", **on_grid(steps.value or 1, 0.5))
            scale, sampler, seed = scale_input(models), sampler_input(models), seed_input(models)
            buttons = action("Edit")
        with gr.Column(scale=2, min_width=320):

            def draw(models: Models, image: Any, words: str, *values: Any, progress: Any) -> Answer:
                return playground.redraw(models, image, [words], *values, progress=progress)

            inputs = [image, words, strength, steps, scale, seed, sampler]
            changing(models, draw, buttons, inputs, last, "edit", divider=True)
    steps.change(
        lambda n, now: gr.Slider(**on_grid(n, now)), [steps, strength], strength, queue=False, api_visibility="private"
    )  # fmt: skip


def on_grid(steps: int, strength: float) -> dict[str, Any]:
    """The bounds of a slider over the strengths of some steps, and the value on it that is nearest to one."""
    return {
        "minimum": 1 / steps if steps > 1 else 0,
        "maximum": 1,
        "step": 1 / steps,
        "value": max(1, round(strength * steps)) / steps,
    }


def inpaint_tab(models: Models, last: Any) -> None:
    """A picture of which the painted part is drawn anew."""
    filling, by_hand = models.filling, "painted"
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            editor = gr.ImageEditor(
                label="Paint the mask", type="pil", format="png", sources=SOURCES, layers=False, transforms=(),
                brush=gr.Brush(default_size=24, colors=["#ff3b6b"], color_mode="fixed"), canvas_size=(320, 320), elem_classes="sharp",
            )  # fmt: skip
            taken = gr.Button("Take the picture drawn last", size="sm")
            part = gr.Radio([by_hand, *BOXES], value=by_hand, label="What is drawn anew")
            words, steps, scale = words_input(filling, "Class"), steps_input(filling), scale_input(filling)
            sampler, seed = sampler_input(filling), seed_input(models)
            buttons = action("Inpaint")
        with gr.Column(scale=2, min_width=320):

            def draw(models: Models, value: Any, part: str, words: str, *values: Any, progress: Any) -> Answer:
                image, mask = painted(value)
                return playground.fill(models, image, mask if part == by_hand else str(part), [words], *values, progress=progress)

            if models.inpainter:
                gr.Markdown(f"Inpainter: `{filling.name}`")
            changing(models, draw, buttons, [editor, part, words, steps, scale, seed, sampler], last, "inpaint")
    taken.click(partial(take, editor=True), last, editor, show_progress="hidden", api_visibility="private")
    editor.upload(uploaded, editor, editor, show_progress="hidden", api_visibility="private")


def style_tab(models: Models, last: Any) -> None:
    """A picture carried to noise under one class or prompt and back under another."""
    if models.encoder is None:
        gr.Markdown("Style transfer needs an encoder: start the playground again with `--encoder` or `--teacher`.")
        return
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            image, source = picture_input(last), words_input(models, "From", of=models.encoder.model.info.classes)
            target = words_input(models, "To")
            scale, steps = scale_input(models, "Strength (guidance scale)"), steps_input(models)
            buttons = action("Transfer")
        with gr.Column(scale=2, min_width=320):
            gr.Markdown(f"Encoder: `{models.encoder.path}`")
            changing(models, playground.restyle, buttons, [image, source, target, steps, scale], last, "translate")


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

    def tell(answer: Answer | None, request: gr.Request) -> Any:
        if answer is None:
            return "# draw something first", "# draw something first", None
        visitor = hashlib.sha256((request.session_hash or "").encode()).hexdigest()[:16]  # whatever a visitor says it is
        folder = Path(_kept.name) / "drawn" / visitor
        folder.mkdir(parents=True, exist_ok=True)
        return python_of(answer.record), command_of(answer.record), write_pictures(folder, answer)

    tab.select(tell, last, [script, command, files], api_visibility="private")
