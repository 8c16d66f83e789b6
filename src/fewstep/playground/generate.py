"""The Generate tab: pictures from noise, drawn again while a slider moves, beside the teacher's, over all scales and from several seeds."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from fewstep.playground import controls, tasks
from fewstep.playground.html import NOTHING
from fewstep.playground.models import LARGE, Models, scales_by_step
from fewstep.playground.slot import Slot
from fewstep.playground.tasks import Answer, Progress

TASKS = ("sample", "sweep", "strip")  # of this tab's answers
REMEMBERED = 20  # prompts


def generate_tab(models: Models, slot: Slot, last: Any, smooth: Any, built: gr.Blocks) -> None:
    """The tab. Small pictures are drawn anew while a slider moves; of large ones the first, in the fewest steps, and all when it is let go."""
    live, taught = models.first.info.picture[1] <= LARGE, models.teacher is not None
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            labels = controls.label_input(models, "Class", many=True)
            past, earlier = gr.State([]), gr.Dropdown([], label="Prompts drawn before", visible=False)
            scale, by_step, steps = (
                controls.scale_input(models),
                controls.scale_by_step_input(models),
                controls.steps_input(models),
            )
            sampler, seed = controls.sampler_and_seed_inputs(models, models.seed)
            count = gr.Slider(1, models.most, value=8 if live else 1, step=1, label="Images")
            beside = gr.Checkbox(label="The teacher's from the same noise", visible=taught)
            divider = gr.Checkbox(label="With a divider between student and teacher", visible=taught)
            draw = controls.action("Draw", slot)
            sweep, strip = gr.Button("Sweep the guidance scale"), gr.Button("Several seeds")
        with gr.Column(scale=2, min_width=320):
            shown = gr.HTML(NOTHING, label="Pictures", elem_classes="live" if live else None)

    def with_teacher(answer: Answer, beside: Any, progress: Progress) -> Iterator[Answer]:
        yield answer
        if beside:
            yield tasks.with_teacher(models, answer, progress)

    def generate(
        labels: Any, scale: Any, by_step: Any, steps: Any, sampler: Any, seed: Any, count: Any, beside: Any, progress: Any
    ) -> Any:
        chosen = scales_by_step(by_step) or scale
        yield from with_teacher(tasks.generate(models, labels, steps, chosen, seed, count, sampler, progress), beside, progress)

    def preview(labels: Any, scale: Any, by_step: Any, steps: Any, sampler: Any, seed: Any, *rest: Any, progress: Progress) -> Any:
        if scales_by_step(by_step) is None:
            yield tasks.preview(models, labels, scale, seed, sampler, progress)

    def swept(labels: Any, steps: Any, seed: Any, sampler: Any, progress: Progress) -> Iterator[Answer]:
        yield tasks.sweep(models, labels, steps, seed, sampler, progress)

    def several(labels: Any, scale: Any, by_step: Any, steps: Any, sampler: Any, seed: Any, beside: Any, progress: Any) -> Any:
        chosen = scales_by_step(by_step) or scale
        yield from with_teacher(tasks.strip(models, labels, steps, chosen, seed, sampler, progress), beside, progress)

    views, inputs = [smooth, divider], [labels, scale, by_step, steps, sampler, seed]
    changed = [part.change if live else part.release for part in (scale, count) if isinstance(part, gr.Slider)]
    changed += [steps.change, sampler.change, seed.change, beside.change, draw.click, by_step.submit]
    changed += [labels.change, built.load] if models.classes else [labels.submit]
    common: dict[str, Any] = {"outputs": [shown, last], "show_progress": "minimal" if live else "full"}
    all_inputs, drawing = [*inputs, count, beside, *views], controls.handler(slot, generate, 2, named=True)
    drawn = [gr.on(changed, drawing, all_inputs, trigger_mode="always_last", api_name="generate", **common)]
    drawn += [sweep.click(controls.handler(slot, swept, 2), [labels, steps, seed, sampler, *views], api_name="sweep", **common)]
    drawn += [strip.click(controls.handler(slot, several, 2), [*inputs, beside, *views], api_name="strip", **common)]
    controls.show_again(views, last, TASKS, shown)
    if not live and isinstance(scale, gr.Slider):
        previewing = controls.preview_handler(slot, preview, 2)
        moved: dict[str, Any] = {"trigger_mode": "always_last", "show_progress": "hidden", "api_name": "preview"}
        scale.change(previewing, [last, *all_inputs], shown, **moved)
    if not models.classes:
        chosen = earlier.input(lambda prompt: prompt, earlier, labels, queue=False, api_visibility="private")
        drawn += [chosen.then(drawing, all_inputs, api_visibility="private", **common)]
        for one in drawn:
            one.then(remember, [last, past], [past, earlier], queue=False, show_progress="hidden", api_visibility="private")


def remember(answer: Answer | None, past: list[str]) -> Any:
    """The prompts drawn by this visitor with that of the answer before them, each once, and the list of them on the page."""
    if answer is None or answer.record["task"] not in TASKS:
        return past, gr.skip()
    first = answer.record["labels_or_prompts"][0]
    past = [first, *(prompt for prompt in past if prompt != first)][:REMEMBERED]
    return past, gr.Dropdown(past, value=None, visible=True)
