"""The pieces of the playground's page: its inputs, its buttons, and what turns an answer or an error into what is shown."""

import random
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Literal

import gradio as gr

from fewstep.errors import InputError
from fewstep.playground import Answer, enlarged
from fewstep.playground_models import SEEDS, Models
from fewstep.playground_record import figures, sentence

SOURCES: list[Literal["upload", "webcam", "clipboard"]] = ["upload", "webcam", "clipboard"]
_stopped: set[str] = set()  # sessions whose work is to end


class Stopped(Exception):
    """A person pressed Stop."""


def handler(ask: Callable[..., Iterator[Answer]], show: Callable[[Answer], tuple[Any, ...]] | None = None) -> Callable[..., Any]:
    """What Gradio calls: it shows each answer of `ask(*values, progress=...)` and remembers it, or says in a sentence why there is none."""
    show = show or (lambda answer: (figures(answer.groups),))

    def handle(request: gr.Request, progress: Any = gr.Progress(), *values: Any) -> Iterator[Any]:  # noqa: B008 - how Gradio is asked for it
        session = request.session_hash or ""
        _stopped.discard(session)

        def heard(done: int) -> None:
            if session in _stopped:
                raise Stopped
            progress((done, None), unit="images")

        try:
            for answer in ask(*values, progress=heard):
                yield (*show(answer), answer)
        except Stopped:
            yield gr.skip()
        except Exception as error:  # whatever it is, the page and the server go on
            if not isinstance(error, InputError):
                traceback.print_exception(error)
            gr.Warning(sentence(error))
            yield gr.skip()

    return handle


def action(label: str) -> tuple[Any, Any]:
    """The button that begins a tab's work, and the one that ends it."""
    with gr.Row():
        return gr.Button(label, variant="primary", scale=3, min_width=120), gr.Button("Stop", scale=1, min_width=70)


def stops(button: Any, *events: Any) -> None:
    """The button ends what this visitor waits for."""

    def stop(request: gr.Request) -> None:
        _stopped.add(request.session_hash or "")

    button.click(stop, queue=False, cancels=list(events), api_visibility="private")


def words_input(models: Models, label: str, many: bool = False) -> Any:
    """A chooser of classes, or a line for the prompt."""
    if not models.words:
        return gr.Textbox(label="Prompt" if label == "Class" else label, lines=2, max_length=1000)
    if many:
        return gr.Dropdown(list(models.words), value=[], multiselect=True, label="Classes", info="Taken in turn; none: all of them")
    return gr.Dropdown(list(models.words), value=models.words[-1 if label == "To" else 0], label=label)


def scale_input(models: Models, label: str = "Guidance scale") -> Any:
    """A slider over the range of the student."""
    low, high = models.scales
    if low == high:
        return gr.Number(low, label=f"{label} (baked into this student)", interactive=False)
    return gr.Slider(low, high, value=min(max(2.0, low), high), step=0.05, label=label)


def steps_input(models: Models) -> Any:
    """The steps that there is a model for."""
    return gr.Radio(list(models.by_steps), value=max(models.by_steps) if models.first.info.steps else 16, label="Steps")


def seed_input() -> Any:
    """A number with a dice under it."""
    seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=SEEDS - 1)
    dice = gr.Button("⚄ New seed", size="sm")
    dice.click(lambda: random.randrange(SEEDS), outputs=seed, queue=False, api_visibility="private")
    return seed


def in_turn(draw: Callable[..., Answer], models: Models) -> Callable[..., Iterator[Answer]]:
    """The one answer of a function of `playground`, as `handler` takes it."""

    def ask(*values: Any, progress: Callable[[int], None]) -> Iterator[Answer]:
        yield draw(models, *values, progress=progress)

    return ask


def latest(answer: Answer | None) -> Any:
    """The picture drawn last, enlarged so that it can be seen and painted on.

    Raises:
        InputError: there is none yet.
    """
    if answer is None:
        raise InputError("nothing has been drawn yet; draw something first, or upload a picture")
    return enlarged(answer.groups[0].images[-1 if answer.inputs else 0])


def take(answer: Answer | None, editor: bool = False) -> Any:
    """The picture drawn last as the value of an image or an editor, or a sentence on the page."""
    try:
        image = latest(answer)
    except InputError as error:
        gr.Warning(sentence(error))
        return gr.skip()
    return on_canvas(image) if editor else image


def on_canvas(image: Any) -> dict[str, Any]:
    """An editor's value: the picture, with nothing painted."""
    return {"background": image, "layers": [], "composite": image}


def picture_input(last: Any) -> Any:
    """A picture from a file, the webcam or the clipboard, or the one drawn last."""
    image = gr.Image(
        label="Picture", type="pil", image_mode="RGBA", format="png", sources=SOURCES, height=300, elem_classes="sharp"
    )
    taken = gr.Button("Take the picture drawn last", size="sm")
    taken.click(take, last, image, show_progress="hidden", api_visibility="private")
    return image
