"""The inputs and buttons of the page, and the handler between them and a task: it shows answers, and errors as a sentence."""

import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import gradio as gr

from fewstep.data.images import FORMATS
from fewstep.errors import InputError
from fewstep.playground.html import shown
from fewstep.playground.models import SEEDS, Models
from fewstep.playground.pictures import enlarged
from fewstep.playground.record import sentence
from fewstep.playground.slot import Ended, Slot
from fewstep.playground.tasks import Answer

SOURCES: list[Literal["upload", "webcam", "clipboard"]] = ["upload", "webcam", "clipboard"]
QUICK = 0.3  # seconds: what is done sooner shows no bar, which would cost the page more time than the work


def handler(slot: Slot, task: Callable[..., Iterator[Answer]], views: int = 1, named: bool = False) -> Callable[..., Any]:
    """A handler for Gradio of two outputs, HTML and the answer: it draws each answer of `task(*values, progress=...)` in the slot.

    The last values, `views` of them, say how answers are shown. What is `named` can be superseded by a preview of other values.
    """

    async def handle(request: gr.Request, progress: Any = gr.Progress(), *given: Any) -> Any:  # noqa: B008 - Gradio finds it there
        ended, began = threading.Event(), time.monotonic()
        values, view = given[:-views], [one is True for one in given[-views:]]

        def step(taken: int, steps: int) -> None:
            if ended.is_set():
                raise Ended
            if time.monotonic() - began > QUICK:
                progress((taken, steps), unit="steps")

        try:
            check_uploads(values)
            answers = task(*values, progress=step)
            while answer := await slot.draw(visitor_of(request), partial(next, answers, None), ended, given if named else None):
                for note in answer.notes:
                    gr.Info(sentence(InputError(note)))
                yield shown(answer, *view), replace(answer, asked=given)
        except Ended:
            yield gr.skip()
        except Exception as error:  # whatever it is, the page and the server go on
            if not isinstance(error, InputError):
                traceback.print_exception(error)
            gr.Warning(sentence(error))
            yield gr.skip()

    return handle


def preview_handler(slot: Slot, task: Callable[..., Iterator[Answer]], views: int) -> Callable[..., Any]:
    """A handler for Gradio that draws while a slider moves, of the same values as a named `handler` and before them the last answer; its output is HTML.

    It ends the named drawing of other values, and does nothing where one of the same values is being drawn, or has been.
    """
    draw = handler(slot, task, views)

    async def handle(request: gr.Request, last: Answer | None, progress: Any = gr.Progress(), *given: Any) -> Any:  # noqa: B008
        if (last and last.asked == given) or not slot.supersede(visitor_of(request), given):
            return
        async for output in draw(request, progress, *given):
            yield output[0] if isinstance(output, tuple) else output

    return handle


def show_again(changed: list[Any], last: Any, tasks: tuple[str, ...], output: Any) -> None:
    """Show the answer of one of these tasks again, without drawing it, when how it is shown changes."""

    def again(answer: Answer | None, *view: Any) -> Any:
        return shown(answer, *(one is True for one in view)) if answer and answer.record["task"] in tasks else gr.skip()

    for part in changed:
        part.change(again, [last, *changed], output, queue=False, show_progress="hidden", api_visibility="private")


def visitor_of(request: gr.Request) -> str:
    """The visitor's session, whatever the request says that it is."""
    return request.session_hash or ""


def end_in(slot: Slot) -> Callable[..., Any]:
    """A handler for Gradio that ends what the visitor waits for."""

    async def end(request: gr.Request) -> None:
        slot.end(visitor_of(request))

    return end


def check_uploads(values: tuple[Any, ...]) -> None:
    """Raise an InputError for a picture that `tolerant` could not read."""
    for value in values:
        if isinstance(value, Exception):
            why = "has more pixels than can be taken" if "DecompressionBomb" in type(value).__name__ else "cannot be read"
            raise InputError(f"the picture {why} ({type(value).__name__}); {FORMATS}") from value


def tolerant(part: Any) -> None:
    """Make a component pass on what it cannot read, so that a task refuses it: a picture's error, else the value itself.

    A picture whose address is on another machine is not fetched from there.
    """
    read, fetch, picture = part.preprocess, part.async_move_resource_to_block_cache, isinstance(part, gr.Image | gr.ImageEditor)

    def preprocess(payload: Any) -> Any:
        try:
            return read(payload)
        except Exception as error:  # of damaged pictures nearly anything, of the others that the value is none of theirs
            return error if picture else payload

    async def local(path: Any) -> Any:
        if str(path).lower().startswith(("http:", "https:")):
            raise gr.Error("This server fetches nothing from other machines; upload the picture.")
        return await fetch(path)

    part.preprocess, part.async_move_resource_to_block_cache = preprocess, local


def action(label: str, slot: Slot) -> Any:
    """The button that begins a tab's work; beside it the one that ends what this visitor waits for."""
    with gr.Row():
        button = gr.Button(label, variant="primary", scale=3, min_width=120)
        gr.Button("Stop", scale=1, min_width=70).click(end_in(slot), queue=False, api_visibility="private")
    return button


def label_input(models: Models, label: str, many: bool = False, classes: tuple[str, ...] | None = None) -> Any:
    """A chooser of the models' classes, or of others, or a line for the prompt."""
    classes = models.classes if classes is None else classes
    if not classes:
        return gr.Textbox(label="Prompt" if label == "Class" else label, lines=2, max_length=1000)
    if many:
        return gr.Dropdown(list(classes), value=[], multiselect=True, label="Classes", info="Taken in turn; none: all of them")
    return gr.Dropdown(list(classes), value=classes[-1 if label == "To" else 0], label=label)


def scale_input(models: Models, label: str = "Guidance scale") -> Any:
    """A slider over the range of the student."""
    low, high = models.scales
    if low == high:
        return gr.Number(low, label=f"{label} (baked into this student)", interactive=False)
    return gr.Slider(low, high, value=min(max(2.0, low), high), step=0.05, label=label)


def scale_by_step_input(models: Models) -> Any:
    """A line for a scale of each step, where students take several steps and a range of scales."""
    useful = models.first.info.steps is not None and max(models.by_steps) > 1 and models.scales[0] < models.scales[1]
    info = "As 1/2/2/2, the first where all is noise; empty: the scale above in each"
    return gr.Textbox(label="A scale for each step", info=info, max_lines=1, max_length=200, visible=useful)


def steps_input(models: Models) -> Any:
    """The steps that there is a model for."""
    known, any_number = list(models.by_steps), models.first.info.steps is None
    only = f"Sampler: {models.samplers[0]}" if len(models.samplers) == 1 else None
    return gr.Radio(known, value=16 if any_number and 16 in known else max(known), label="Steps", info=only)


def sampler_and_seed_inputs(models: Models, seed: int) -> tuple[Any, Any]:
    """The samplers, shown where there is a choice (a student has that which it was trained for), and a number with a dice under it."""
    sampler = gr.Radio(list(models.samplers), value=models.samplers[0], label="Sampler", visible=len(models.samplers) > 1)
    number = gr.Number(seed, label="Seed", precision=0, minimum=0, maximum=SEEDS - 1)
    dice = gr.Button("⚄ New seed", size="sm")
    dice.click(lambda: random.randrange(SEEDS), outputs=number, queue=False, api_visibility="private")
    return sampler, number


def picture_input(last: Any) -> Any:
    """A picture from a file, the webcam or the clipboard, or the one drawn last."""
    kind = {"type": "filepath", "image_mode": None, "format": "png", "sources": SOURCES}
    image = gr.Image(label="Picture", height=300, elem_classes="sharp", **kind)
    take_button(last, image)
    return image


def take_button(last: Any, target: Any) -> None:
    """A button that puts the picture drawn last into an image or an editor."""
    button, editor = gr.Button("Take the picture drawn last", size="sm"), isinstance(target, gr.ImageEditor)

    def take(answer: Answer | None) -> Any:
        if answer is None:
            gr.Warning("Nothing has been drawn yet; draw something first, or upload a picture.")
            return gr.skip()
        image = enlarged(answer.groups[0].images[-1 if answer.inputs else 0])  # so that it can be seen and painted on
        return on_canvas(image) if editor else image

    button.click(take, last, target, show_progress="hidden", api_visibility="private")


def on_canvas(image: Any) -> dict[str, Any]:
    """An editor's value: the picture, with nothing painted."""
    return {"background": image, "layers": [], "composite": image}


def uploaded(value: Any) -> Any:
    """An editor's value with a small picture enlarged, so that it can be painted on."""
    if isinstance(value, Exception) or not value or value.get("background") is None:
        return gr.skip()
    return on_canvas(enlarged(value["background"]))
