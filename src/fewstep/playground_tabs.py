"""The page of the playground, in Gradio: five tabs whose every answer comes from `playground`; what goes wrong is a sentence on the page."""

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import themes

from fewstep import playground
from fewstep.errors import InputError
from fewstep.playground import Answer, enlarged
from fewstep.playground_controls import (
    SOURCES,
    action,
    handler,
    in_turn,
    on_canvas,
    picture_input,
    scale_input,
    seed_input,
    steps_input,
    stops,
    take,
    words_input,
)  # fmt: skip
from fewstep.playground_models import LARGE, Models
from fewstep.playground_record import command_of, facts_of, figures, python_of, write_pictures

QUEUED, HEARD = 64, "20mb"  # requests that wait at most; the largest upload
CSS = """
.pictures h3 { margin: 4px 0 8px; font-size: 1rem; font-weight: 600; }
.pictures > div { display: grid; grid-template-columns: repeat(auto-fill, minmax(120px, 1fr)); gap: 12px; margin-bottom: 16px; }
.pictures.few > div { grid-template-columns: repeat(auto-fill, minmax(130px, 200px)); }
.pictures figure { margin: 0; max-width: 256px; }
.pictures img { width: 100%; border-radius: 6px; display: block; }
.pictures img.sharp, .sharp img, .sharp canvas { image-rendering: pixelated; }
.pictures figcaption { font-size: .85rem; line-height: 1.3; margin-top: 4px; overflow-wrap: anywhere; }
.pictures figcaption span { display: block; opacity: .8; }
.facts table { display: block; overflow-x: auto; }
.facts td, .facts th { white-space: nowrap; word-break: normal; overflow-wrap: normal; padding: 4px 10px; }
.live .pending { opacity: 1 !important; }
"""
_kept = tempfile.TemporaryDirectory(prefix="fewstep-playground-")  # uploads and downloads; removed when the process ends


def serve(models: Models, host: str, port: int) -> gr.Blocks:
    """The page, listening on a port; `close()` ends it.

    Raises:
        InputError: the port was taken in the meantime.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = _kept.name
    built = page(models).queue(max_size=QUEUED, default_concurrency_limit=1)
    theme = themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])  # none from the net
    try:
        built.launch(
            server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, ssr_mode=False,
            max_file_size=HEARD, footer_links=[], theme=theme, css=CSS, show_error=True,
        )  # fmt: skip
    except OSError as error:
        raise InputError(f"cannot listen on port {port} of {host}: {error}; name another --port") from None
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
    return built


def generate_tab(models: Models, last: Any, built: gr.Blocks) -> None:
    """Pictures from noise, drawn again while a slider moves."""
    live = models.first.info.picture[1] <= LARGE
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            words, scale, steps = words_input(models, "Class", many=True), scale_input(models), steps_input(models)
            seed = seed_input()
            count = gr.Slider(1, models.most, value=8 if live else 1, step=1, label="Images")
            beside = gr.Checkbox(label="The teacher's from the same noise", visible=models.teacher is not None)
            draw, stop = action("Draw")
            sweep = gr.Button("Sweep the guidance scale")
        with gr.Column(scale=2, min_width=320):
            shown = gr.HTML(label="Pictures", elem_classes="live" if live else None)

    def ask(words: Any, scale: float, steps: int, seed: int, count: int, beside: bool, progress: Any) -> Iterator[Answer]:
        wanted = [words] if isinstance(words, str) else words or []
        answer = playground.generate(models, wanted, steps, scale, seed, count, progress)
        yield answer
        if beside:
            yield playground.beside(models, answer, progress)

    def strip(words: Any, steps: int, seed: int, progress: Any) -> Iterator[Answer]:
        yield playground.sweep(models, [words] if isinstance(words, str) else words or [], steps, seed, progress)

    changed = [part.change if live else part.release for part in (scale, count) if isinstance(part, gr.Slider)]
    changed += [steps.change, seed.change, beside.change, draw.click]
    changed += [words.change, built.load] if models.words else [words.submit]
    common: dict[str, Any] = {"show_progress": "minimal" if live else "full", "concurrency_id": "models"}
    inputs = [words, scale, steps, seed, count, beside]
    drawn = gr.on(changed, handler(ask), inputs, [shown, last], trigger_mode="always_last", api_name="generate", **common)
    swept = sweep.click(handler(strip), [words, steps, seed], [shown, last], api_name="sweep", **common)
    stops(stop, drawn, swept)


def changing(
    models: Models, draw: Any, buttons: tuple[Any, Any], inputs: list[Any], last: Any, name: str, divided: bool = False
) -> None:
    """What shows the answer of a tab that changes a picture: with a divider that can be moved, or side by side."""
    outputs: list[Any] = [gr.HTML(label="Before and after")]
    if divided:
        outputs.insert(
            0,
            gr.ImageSlider(
                label="Before | after", type="pil", format="png", elem_classes="sharp", interactive=False, max_height=384
            ),
        )

    def show(answer: Answer) -> tuple[Any, ...]:
        images, below = answer.groups[0].images, figures(answer.groups)
        return ((enlarged(images[0]), enlarged(images[-1])), below) if divided else (below,)

    asked = handler(in_turn(draw, models), show)
    event = buttons[0].click(asked, inputs, [*outputs, last], api_name=name, concurrency_id="models", show_progress="full")
    stops(buttons[1], event)


def edit_tab(models: Models, last: Any) -> None:
    """A picture redrawn under another class or prompt."""
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            image, words, steps = picture_input(last), words_input(models, "Class"), steps_input(models)
            strength = gr.Slider(
                0, 1, value=0.5, step=1 / (steps.value or 1), label="Strength", info="1 keeps nothing of the picture"
            )
            scale, seed = scale_input(models), seed_input()
            buttons = action("Edit")
        with gr.Column(scale=2, min_width=320):

            def draw(models: Models, image: Any, words: str, *values: Any, progress: Any) -> Answer:
                return playground.redraw(models, image, [words], *values, progress=progress)

            changing(models, draw, buttons, [image, words, strength, steps, scale, seed], last, "edit", divided=True)
    steps.change(lambda n: gr.Slider(step=1 / n, minimum=0), steps, strength, queue=False, api_visibility="private")


def inpaint_tab(models: Models, last: Any) -> None:
    """A picture of which the painted part is drawn anew."""
    painted = "painted"
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            editor = gr.ImageEditor(
                label="Paint the mask", type="pil", format="png", sources=SOURCES, layers=False, transforms=(),
                brush=gr.Brush(default_size=24, colors=["#ff3b6b"], color_mode="fixed"), canvas_size=(320, 320), elem_classes="sharp",
            )  # fmt: skip
            taken = gr.Button("Take the picture drawn last", size="sm")
            part = gr.Radio([painted, *playground.BOXES], value=painted, label="What is drawn anew")
            words, steps, scale, seed = words_input(models, "Class"), steps_input(models), scale_input(models), seed_input()
            buttons = action("Inpaint")
        with gr.Column(scale=2, min_width=320):

            def draw(models: Models, value: Any, part: str, words: str, *values: Any, progress: Any) -> Answer:
                image, mask = playground.painted(value)
                return playground.fill(models, image, mask if part == painted else part, [words], *values, progress=progress)

            changing(models, draw, buttons, [editor, part, words, steps, scale, seed], last, "inpaint")
    taken.click(partial(take, editor=True), last, editor, show_progress="hidden", api_visibility="private")
    editor.upload(
        lambda value: on_canvas(enlarged(value["background"])), editor, editor, show_progress="hidden", api_visibility="private"
    )


def style_tab(models: Models, last: Any) -> None:
    """A picture carried to noise under one class or prompt and back under another."""
    if models.encoder is None:
        gr.Markdown("Style transfer needs an encoder: start the playground again with `--encoder` or `--teacher`.")
        return
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            image, source, target = picture_input(last), words_input(models, "From"), words_input(models, "To")
            scale, steps = scale_input(models, "Strength (guidance scale)"), steps_input(models)
            buttons = action("Transfer")
        with gr.Column(scale=2, min_width=320):
            gr.Markdown(f"Encoder: `{models.encoder.path}`")
            changing(models, playground.restyle, buttons, [image, source, target, steps, scale], last, "translate")


def about_tab(models: Models, last: Any, tab: Any) -> None:
    """Facts of the models, and the code and the files of what was drawn last."""
    gr.Markdown("### The picture drawn last")
    script = gr.Code(label="Python", language="python", interactive=False, lines=3, wrap_lines=True)
    command = gr.Code(label="Command", language="shell", interactive=False, lines=1, wrap_lines=True)
    files = gr.File(label="Pictures, with these settings in their PNG text fields", file_count="multiple", interactive=False)
    gr.Markdown(f"### The models\n{facts_of(models)}", elem_classes="facts")

    def tell(answer: Answer | None, request: gr.Request) -> Any:
        if answer is None:
            return "# draw something first", "# draw something first", None
        folder = Path(_kept.name) / "drawn" / (request.session_hash or "none")
        folder.mkdir(parents=True, exist_ok=True)
        return python_of(answer.record), command_of(answer.record), write_pictures(folder, answer)

    tab.select(tell, last, [script, command, files], api_visibility="private")
