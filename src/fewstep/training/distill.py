"""The whole method on one screen: a teacher, then one student for every guidance scale, then fewer and fewer steps."""

import copy
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from fewstep.devices import return_memory
from fewstep.errors import InputError
from fewstep.files import contents
from fewstep.method.conditioning import to
from fewstep.method.guidance import plain
from fewstep.method.parameterization import PREDICTIONS
from fewstep.method.process import process_of, process_settings
from fewstep.method.stage_two import rungs
from fewstep.models.denoiser import Denoiser
from fewstep.models.families import Family
from fewstep.models.families.class_conditional import ClassConditional
from fewstep.models.families.class_conditional_inpainting import ClassConditionalInpainting
from fewstep.models.families.pipeline_folder import naming_damage
from fewstep.models.file_hashes import check_hashes
from fewstep.models.half_weights import DTYPES, holds_half, widened
from fewstep.models.lora import has_adapters, load_adapters, lora_student, name_of, next_lora_student
from fewstep.models.metadata import INFO, Info, read_info
from fewstep.models.model import Model
from fewstep.models.negative_prompts import NegativeCall, NegativePrompts, attach_embedding, open_network
from fewstep.models.pretrained import is_compared, note_comparison
from fewstep.training.losses import stage_one, stage_two, student_prediction, student_process, teaching
from fewstep.training.paths import path_pool, paths_stage
from fewstep.training.plan_of_stages import stages_of
from fewstep.training.processes import by_main
from fewstep.training.recipe import Recipe, write_recipe
from fewstep.training.samples import TrainingSamples
from fewstep.training.stage import Stage
from fewstep.training.start import begin, check_start
from fewstep.training.trainer import Trainer


def distill_model(recipe: Recipe, teacher: Model, data: Any, trainer: Trainer, negatives: NegativePrompts | None = None) -> Model:
    """Stage one, the ladder of stage two, and the encoder's ladder where the recipe has one: the last student of stage two.

    Every stage's model is a folder of the run. Memory holds two networks, the one that teaches and the one in training, however long
    the ladder is: after stage one the guided teacher is let go of, unless a rung is taught by its paths or the caller holds it.

    Raises:
        InputError: `teacher` is a student already, or the recipe's student cannot be made of it.
    """
    check_teacher(teacher)
    if trainer.sharded and recipe.paths.rung is not None:
        raise InputError("paths.rung is made by each process with the whole teacher: use DDP, or set it to 0, for no paths")
    teacher.to(trainer.place).denoiser.network.requires_grad_(False)
    made = student_of(recipe, teacher, negatives and negatives.to(trainer.place))
    check_start(recipe, made)
    negatives = negatives and negatives.to(trainer.accelerator.device)
    by_main(trainer.accelerator, lambda: write_recipe(trainer.run, recipe))
    trainer.stages = stages_of(recipe, distilling=True)
    teacher = with_null_on_device(teacher)
    guided, samples = in_precision_of(trainer, teacher), TrainingSamples(recipe, teacher, data, trainer)
    samples.draw_teacher(guided.denoiser)
    trainer.after_update = samples.after_update
    stage = stage_one(recipe, guided, data, negatives)
    train = partial(train_or_open, trainer=trainer, dtype=DTYPES.get(recipe.student.dtype or ""), start=recipe.student.start)
    student, ladder = train(stage, made, position="1/2 "), rungs(recipe.stage_two.ladder)
    for_paths = None if recipe.paths.rung is None else teacher
    del stage, made, teacher, guided  # which hold the networks of this stage

    for number, (steps, k) in enumerate(ladder, 1):
        position, by_paths = f"2/2 rung {number}/{len(ladder)} ", steps == recipe.paths.rung
        if not by_paths or recipe.paths.after_rung:
            made = next_student(student, steps, recipe.stage_two.sampler)
            stage = stage_two(recipe, in_precision_of(trainer, student), steps, k, data=data, negatives=negatives)
            student = train(replace(stage, name=f"ladder-{steps:04d}") if by_paths else stage, made, position=position)
            del stage, made
        if by_paths:
            assert for_paths is not None
            student = next_student(student, steps)
            finished = (trainer.run / f"steps-{steps:04d}" / INFO).is_file()
            pool = None if finished else path_pool(recipe, for_paths, student.denoiser.process, data, trainer)
            student = train(paths_stage(recipe, student, pool), student, position=position)
    if not recipe.encoder.ladder:
        return student

    last = trainer.run / (f"steps-{ladder[-1][0]:04d}" if ladder else "stage-one")
    student = opened(student, trainer.run / "stage-one", trainer)
    for steps, k in rungs(recipe.encoder.ladder):
        stage = stage_two(recipe, in_precision_of(trainer, student), steps, k, True, data, negatives)
        student = train(stage, next_student(student, steps, kind="encoder"), position="encoder ")
    return opened(student, last, trainer)


def check_teacher(model: Model) -> None:
    """Raises InputError where a model is no teacher."""
    if model.info.kind != "teacher":
        raise InputError("the teacher to distil is a student or an encoder already; name the guided model that it was made from")


def train_teacher(recipe: Recipe, data: Any, trainer: Trainer, start: Model | None = None) -> Model:
    """A guided teacher trained on `data`: `start` trained on, or a new one of the recipe's network and process."""
    model = new_teacher(recipe, data) if start is None else replace(start, info=start.info.model_copy(update={"quality": {}}))
    by_main(trainer.accelerator, lambda: write_recipe(trainer.run, recipe))
    model.denoiser.network.requires_grad_(True)
    trainer.stages = stages_of(recipe, distilling=False)
    trainer.after_update = TrainingSamples(recipe, model, data, trainer).after_update
    return train_or_open(teaching(recipe, model.denoiser), model, trainer)


def train_or_open(
    stage: Stage, model: Model, trainer: Trainer, position: str = "", dtype: torch.dtype | None = None, start: str | None = None
) -> Model:
    """The stage's finished model folder if the run has one; else train it and write that folder, the weights in a dtype.

    Frozen, it is kept in the dtype that it was saved in.
    """
    folder = trainer.run / stage.name
    if not (folder / INFO).is_file():
        check_unused(folder)
        begin(stage.name, model, start)
        entry = trainer.train(stage, model.denoiser, position)
        return_memory()
        info = model.info.model_copy(update={"history": (*model.info.history, entry)})
        by_main(trainer.accelerator, lambda: trainer.save(replace(model, info=info), folder, dtype=dtype))
    else:
        check_hashes(folder)
    trainer.log.earlier += stage.updates
    model = opened(model, folder, trainer, again=True)
    if not is_compared(folder):
        by_main(trainer.accelerator, lambda: note_comparison(model, folder))
    return model


def check_unused(folder: Path) -> None:
    """Raises InputError where the folder of a stage that is to be trained holds something, as a finished one without its metadata."""
    if folder.exists() and (not folder.is_dir() or contents(folder)):
        raise InputError(f"{folder / INFO} is missing: copy {folder} again, or remove it to train that stage again")


def opened(model: Model, folder: Path, trainer: Trainer, again: bool = False) -> Model:
    """The model of a folder of the run that `model`, another one of it, is like; with `again` in the place of `model`."""
    network: Any = model.denoiser.network
    with naming_damage(folder):
        info = read_info(folder)
        if has_adapters(network):  # what is in memory stays, around the teacher's own weights
            network = network if again else next_lora_student(network)
            load_adapters(network, folder)
        else:
            if again:
                network.to("meta")  # or memory would hold both
            network = open_network(model.family, folder, model.family.stored_dtype(folder)).to(trainer.place)
    denoiser = replace(model.denoiser, network=network, dtype=torch.float32 if holds_half(network) else None)
    return replace(model, denoiser=denoiser, info=info)


def with_null_on_device(teacher: Model) -> Model:
    """The same model, its null condition put on its device once, when first needed, not in every update."""
    null, device = teacher.denoiser.null, teacher.denoiser.device
    if null is None:
        return teacher

    @cache
    def on_device() -> Any:
        found = null() if callable(null) else null
        return to(torch.tensor([found]) if isinstance(found, int) else found, device)

    return replace(teacher, denoiser=replace(teacher.denoiser, null=on_device))


def in_precision_of(trainer: Trainer, teacher: Model) -> Model:
    """The same frozen model as the trainer evaluates it, in the run's precision and sharded as the student is; never saved, so it is a copy."""
    return replace(teacher, denoiser=trainer.frozen(teacher.denoiser))


def new_teacher(recipe: Recipe, data: Any) -> Model:
    """An untrained teacher for `data`'s classes, size and channels; its weights are a function of the seed."""
    family = ClassConditionalInpainting() if recipe.teach.inpainting else ClassConditional()
    settings = recipe.network.model_dump()
    settings["mid_block_type"] = None if settings["mid_block_type"] == "none" else settings["mid_block_type"]
    process = process_of(recipe.process.model_dump())
    torch.manual_seed(recipe.train.seed)
    network = family.build(classes=len(data.classes), size=data.size, channels=data.channels, **settings)
    prediction = PREDICTIONS[recipe.teach.prediction]
    model = teacher_around(Denoiser(network, prediction, process, None, family.call), family, data)
    return replace(model, denoiser=replace(model.denoiser, null=family.null(model.info)))


def teacher_around(denoiser: Denoiser, family: Family, data: Any) -> Model:
    """A teacher around a denoiser, with `data`'s classes, size and channels."""
    info = Info(
        kind="teacher", family=family.name, prediction=denoiser.predicts.name, process=process_settings(denoiser.process),
        classes=data.classes, size=data.size, channels=data.channels, data=data.description,
    )  # fmt: skip
    return Model(denoiser, info, family)


def student_of(recipe: Recipe, teacher: Model, negatives: NegativePrompts | None = None) -> Model:
    """The teacher's conditional network with an input for w, and one for negative prompts, that change nothing yet (checked).

    Raises:
        InputError: a network of one's own whose input for w does not start at zero, or a prediction or adapters that do not fit.
    """
    prediction = student_prediction(recipe, teacher)
    if recipe.student.lora is None:
        network = widened(teacher.family.student_of(teacher.denoiser.network)).requires_grad_(True)
    else:
        base = name_of(recipe.teacher.path or teacher.family.folder)
        network = lora_student(
            teacher.denoiser.network, teacher.family, recipe.train.seed, base=base, **recipe.student.lora.model_dump()
        )
    denoiser = replace(teacher.denoiser, network=network, prediction=PREDICTIONS[prediction])
    if negatives is not None:
        attach_embedding(network, teacher.family, negatives.summaries.shape[1])
        denoiser = replace(denoiser, call=NegativeCall(denoiser.call))
    check_starts_as_teacher(replace(denoiser, prediction=teacher.denoiser.prediction), teacher, negatives)
    denoiser = replace(denoiser, process=student_process(recipe, teacher), rule=plain, weak=None)  # its guidance is in its weights
    steps = recipe.stage_two.ladder[0] if recipe.stage_one.times == "grid" else None
    known = {
        "kind": "student", "prediction": prediction, "process": process_settings(denoiser.process), "steps": steps, "quality": {},
        "guidance_scale": recipe.student.guidance_scale, "negative_prompts": negatives is not None,
    }  # fmt: skip
    return replace(teacher, denoiser=denoiser, info=teacher.info.model_copy(update=known))


@torch.no_grad()
def check_starts_as_teacher(student: Denoiser, teacher: Model, negatives: NegativePrompts | None = None) -> None:
    """Raises InputError where a student does not start, to the bit, as the conditional teacher, whatever w (b,) it has."""
    info, device, network = teacher.info, teacher.denoiser.device, teacher.denoiser.network
    z = torch.randn(3, *info.shape, generator=torch.Generator().manual_seed(0)).to(device)
    t, w = torch.tensor([0.1, 0.5, 1.0], device=device), torch.tensor([0.0, 1.7, 9.0], device=device)
    condition = to(teacher.example(3), device)
    negative = negatives.add_to(condition, torch.arange(3) % len(negatives.summaries)) if negatives is not None else condition
    required = [p.requires_grad for p in network.parameters()]
    network.requires_grad_(True)  # PyTorch folds a product by whether its weight requires a gradient, which changes the last bits
    same = torch.equal(student(z, t, negative, w), teacher.denoiser(z, t, condition))
    for p, requires in zip(network.parameters(), required, strict=True):
        p.requires_grad_(requires)
    if not same:
        raise InputError("the student does not start as the conditional teacher; its network's new input for w must start at zero")


def next_student(before: Model, steps: int, sampler: str = "deterministic", kind: str = "student") -> Model:
    """A copy of the last rung's student, to be trained for fewer steps."""
    before.denoiser.network.requires_grad_(False)
    own = before.denoiser.network
    network = next_lora_student(own) if has_adapters(own) else widened(copy.deepcopy(own)).requires_grad_(True)
    info = before.info.model_copy(update={"kind": kind, "steps": steps, "sampler": sampler})
    return replace(before, denoiser=replace(before.denoiser, network=network), info=info)
