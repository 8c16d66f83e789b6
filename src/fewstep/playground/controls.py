"""The pieces of the playground's page: its inputs, its buttons, and what turns an answer or an error into what is shown."""

import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Literal

import gradio as gr

from fewstep.data.images import FORMATS
from fewstep.errors import InputError
from fewstep.playground.drawing import Answer
from fewstep.playground.html import figures
from fewstep.playground.models import SEEDS, Models
from fewstep.playground.pictures import enlarged
from fewstep.playground.record import sentence

SOURCES: list[Literal["upload", "webcam", "clipboard"]] = ["upload", "webcam", "clipboard"]
QUICK = 0.3  # seconds: what is done sooner shows no bar, which would cost the page more time than the work
_at_work: dict[str, threading.Event] = {}  # of a session that is being drawn for: set, it ends that work


class Stopped(Exception):
    """A person pressed Stop, or went away."""


def handler(ask: Callable[..., Iterator[Answer]], show: Callable[[Answer], tuple[Any, ...]] | None = None) -> Callable[..., Any]:
    """What Gradio calls: it shows each answer of `ask(*values, progress=...)` and remembers it, or says in a sentence why there is none."""
    show = show or (lambda answer: (figures(answer.groups),))

    def handle(request: gr.Request, progress: Any = gr.Progress(), *values: Any) -> Iterator[Any]:  # noqa: B008 - how Gradio is asked for it
        session, ended, began = request.session_hash or "", threading.Event(), time.monotonic()
        _at_work[session] = ended

        def heard(taken: int, steps: int) -> None:
            if ended.is_set():
                raise Stopped
            if time.monotonic() - began > QUICK:
                progress((taken, steps), unit="steps")

        try:
            check_uploads(values)
            for answer in ask(*values, progress=heard):
                for note in answer.notes:
                    gr.Info(sentence(InputError(note)))
                yield (*show(answer), answer)
        except Stopped:
            yield gr.skip()
        except Exception as error:  # whatever it is, the page and the server go on
            if not isinstance(error, InputError):
                traceback.print_exception(error)
            gr.Warning(sentence(error))
            yield gr.skip()
        finally:
            if _at_work.get(session) is ended:
                del _at_work[session]

    return handle


def end(request: gr.Request) -> None:
    """End what is being drawn for the visitor: at the next step."""
    if work := _at_work.get(request.session_hash or ""):
        work.set()


def check_uploads(values: tuple[Any, ...]) -> None:
    """Refuse what `guarded` could not read.

    Raises:
        InputError: there is such a value.
    """
    for value in values:
        if isinstance(value, Exception):
            why = "has more pixels than can be taken" if "DecompressionBomb" in type(value).__name__ else "cannot be read"
            raise InputError(f"the picture {why} ({type(value).__name__}); {FORMATS}") from value


def guarded(part: Any) -> Any:
    """The component, made to pass on what it cannot read, so that it is refused in our words: a picture's error, else the value itself.

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
    return part


def action(label: str) -> tuple[Any, Any]:
    """The button that begins a tab's work, and the one that ends it."""
    with gr.Row():
        return gr.Button(label, variant="primary", scale=3, min_width=120), gr.Button("Stop", scale=1, min_width=70)


def stops(button: Any, *events: Any) -> None:
    """The button ends what this visitor waits for."""
    button.click(end, queue=False, cancels=list(events), api_visibility="private")


def words_input(models: Models, label: str, many: bool = False, of: tuple[str, ...] | None = None) -> Any:
    """A chooser of the models' classes, or of others, or a line for the prompt."""
    words = models.words if of is None else of
    if not words:
        return gr.Textbox(label="Prompt" if label == "Class" else label, lines=2, max_length=1000)
    if many:
        return gr.Dropdown(list(words), value=[], multiselect=True, label="Classes", info="Taken in turn; none: all of them")
    return gr.Dropdown(list(words), value=words[-1 if label == "To" else 0], label=label)


def scale_input(models: Models, label: str = "Guidance scale") -> Any:
    """A slider over the range of the student."""
    low, high = models.scales
    if low == high:
        return gr.Number(low, label=f"{label} (baked into this student)", interactive=False)
    return gr.Slider(low, high, value=min(max(2.0, low), high), step=0.05, label=label)


def steps_input(models: Models) -> Any:
    """The steps that there is a model for."""
    known, any_number = list(models.by_steps), models.first.info.steps is None
    only = f"Sampler: {models.samplers[0]}" if len(models.samplers) == 1 else None
    return gr.Radio(known, value=16 if any_number and 16 in known else max(known), label="Steps", info=only)


def sampler_input(models: Models) -> Any:
    """The samplers, where there is a choice: a student has that which it was trained for."""
    known = list(models.samplers)
    return gr.Radio(known, value=known[0], label="Sampler", visible=len(known) > 1)


def seed_input(models: Models) -> Any:
    """A number with a dice under it."""
    seed = gr.Number(models.seed, label="Seed", precision=0, minimum=0, maximum=SEEDS - 1)
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


def uploaded(value: Any) -> Any:
    """An editor's value with a small picture enlarged, so that it can be painted on."""
    if isinstance(value, Exception) or not value or value.get("background") is None:
        return gr.skip()
    return on_canvas(enlarged(value["background"]))


def picture_input(last: Any) -> Any:
    """A picture from a file, the webcam or the clipboard, or the one drawn last."""
    image = gr.Image(
        label="Picture", type="filepath", image_mode=None, format="png", sources=SOURCES, height=300, elem_classes="sharp"
    )
    taken = gr.Button("Take the picture drawn last", size="sm")
    taken.click(take, last, image, show_progress="hidden", api_visibility="private")
    return image
