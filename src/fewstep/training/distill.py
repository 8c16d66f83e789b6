"""The whole method on one screen: a teacher, then one student for every guidance scale, then fewer and fewer steps."""

import copy
from dataclasses import replace
from typing import Any

import torch

from fewstep.errors import InputError
from fewstep.method.conditioning import to
from fewstep.method.parameterization import PREDICTIONS
from fewstep.method.process import process_of, process_settings
from fewstep.method.stage_two import rungs
from fewstep.models.denoiser import Denoiser
from fewstep.models.families import Family
from fewstep.models.families.class_conditional import ClassConditional
from fewstep.models.families.class_conditional_inpainting import ClassConditionalInpainting
from fewstep.models.lora import has_adapters, load_adapters, lora_student, name_of, next_lora_student
from fewstep.models.metadata import INFO, Info, read_info
from fewstep.models.model import Model
from fewstep.models.negative_prompts import NegativeCall, NegativePrompts, attach_embedding, open_network
from fewstep.models.pretrained import WriteCard, save_model
from fewstep.training.losses import stage_one, stage_two, student_process, teaching
from fewstep.training.recipe import Recipe
from fewstep.training.trainer import Stage, Trainer


def train_teacher(
    recipe: Recipe, data: Any, trainer: Trainer, start: Model | None = None, write_card: WriteCard | None = None
) -> Model:
    """A guided teacher trained on `data`: `start` trained on, or a new one of the recipe's network and process."""
    model = new_teacher(recipe, data) if start is None else replace(start, info=start.info.model_copy(update={"quality": {}}))
    model.denoiser.network.requires_grad_(True)
    return _train_or_open(teaching(recipe, model.denoiser.process), model, trainer, write_card=write_card)


def distill_model(
    recipe: Recipe,
    teacher: Model,
    data: Any,
    trainer: Trainer,
    negatives: NegativePrompts | None = None,
    write_card: WriteCard | None = None,
) -> dict[str, Model]:
    """Stage one, the ladder of stage two, and the encoder's ladder where the recipe has one: the models by folder name.

    Raises:
        InputError: `teacher` is a student already.
    """
    if teacher.info.kind != "teacher":
        raise InputError("the teacher to distil is a student or an encoder already; name the guided model that it was made from")
    teacher.to(trainer.accelerator.device).denoiser.network.requires_grad_(False)
    negatives = negatives and negatives.to(trainer.accelerator.device)
    student = _train_or_open(
        stage_one(recipe, _under_autocast(teacher, trainer), data, negatives),
        student_of(recipe, teacher, negatives),
        trainer,
        "1/2 ",
        write_card,
    )
    models = {"stage-one": student}
    ladder = rungs(recipe.stage_two.ladder)
    for number, (steps, k) in enumerate(ladder, 1):
        stage = stage_two(recipe, _under_autocast(student, trainer), steps, k, data=data, negatives=negatives)
        position = f"2/2 rung {number}/{len(ladder)} "
        student = models[stage.name] = _train_or_open(
            stage, next_student(student, steps, recipe.stage_two.sampler), trainer, position, write_card
        )
    encoder = models["stage-one"]
    for steps, k in rungs(recipe.encoder.ladder) if recipe.encoder.ladder else ():
        stage = stage_two(recipe, _under_autocast(encoder, trainer), steps, k, True, data, negatives)
        encoder = models[stage.name] = _train_or_open(
            stage, next_student(encoder, steps, kind="encoder"), trainer, "encoder ", write_card
        )
    return models


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
        InputError: a network of one's own whose input for w does not start at zero.
    """
    wanted = recipe.student.prediction
    same = wanted == "same" or teacher.info.prediction == "flow"  # stock schedulers of flows take nothing else
    prediction = teacher.info.prediction if same else wanted
    if recipe.student.lora is None:
        network = teacher.family.student_of(teacher.denoiser.network).requires_grad_(True)
    else:
        base = name_of(recipe.teacher.path or teacher.family.folder)
        network = lora_student(teacher.denoiser.network, teacher.family, recipe.student.lora, recipe.train.seed, base)
    denoiser = replace(teacher.denoiser, network=network, prediction=PREDICTIONS[prediction])
    if negatives is not None:
        attach_embedding(network, teacher.family, negatives.summaries.shape[1])
        denoiser = replace(denoiser, call=NegativeCall(denoiser.call))
    check_starts_as_teacher(replace(denoiser, prediction=teacher.denoiser.prediction), teacher, negatives)
    denoiser = replace(denoiser, process=student_process(recipe, teacher))
    steps = recipe.stage_two.ladder[0] if recipe.stage_one.times == "grid" else None
    known = {
        "kind": "student",
        "prediction": prediction,
        "process": process_settings(denoiser.process),
        "guidance_scale": recipe.student.guidance_scale,
        "steps": steps,
        "negative_prompts": negatives is not None,
        "quality": {},
    }
    info = teacher.info.model_copy(update=known)
    return replace(teacher, denoiser=denoiser, info=info)


@torch.no_grad()
def check_starts_as_teacher(student: Denoiser, teacher: Model, negatives: NegativePrompts | None = None) -> None:
    """Before its first update the student's network says, to the bit, what the conditional teacher's says, whatever else it is told."""
    info, device = teacher.info, teacher.denoiser.device
    z = torch.randn(3, *info.shape, generator=torch.Generator().manual_seed(0)).to(device)
    t, w = torch.tensor([0.1, 0.5, 1.0], device=device), torch.tensor([0.0, 1.7, 9.0], device=device)
    condition = to(teacher.example(3), device)
    avoiding = negatives.add_to(condition, torch.arange(3) % len(negatives.summaries)) if negatives is not None else condition
    weights = list(teacher.denoiser.network.parameters())
    asked = [p.requires_grad for p in weights]
    for p in weights:  # PyTorch folds a product by whether its weight asks for a gradient, which changes the last bits
        p.requires_grad_(True)
    same = torch.equal(student(z, t, avoiding, w), teacher.denoiser(z, t, condition))
    for p, asks in zip(weights, asked, strict=True):
        p.requires_grad_(asks)
    if not same:
        raise InputError("the student does not start as the conditional teacher; its network's new input for w must start at zero")


def next_student(before: Model, steps: int, sampler: str = "deterministic", kind: str = "student") -> Model:
    """A copy of the last rung's student, to be trained for fewer steps."""
    before.denoiser.network.requires_grad_(False)
    own = before.denoiser.network
    network = next_lora_student(own) if has_adapters(own) else copy.deepcopy(own).requires_grad_(True)
    info = before.info.model_copy(update={"kind": kind, "steps": steps, "sampler": sampler})
    return replace(before, denoiser=replace(before.denoiser, network=network), info=info)


def _under_autocast(teacher: Model, trainer: Trainer) -> Model:
    """The same frozen model, its network evaluated in the run's precision as the student's is; never saved, so it is a copy."""
    return replace(teacher, denoiser=replace(teacher.denoiser, autocast=trainer.accelerator.autocast))


def _train_or_open(stage: Stage, model: Model, trainer: Trainer, position: str = "", write_card: WriteCard | None = None) -> Model:
    """The stage's finished model folder if the run has one; else train it and write that folder."""
    folder, device = trainer.run / stage.name, trainer.accelerator.device
    if not (folder / INFO).is_file():
        remembered = trainer.train(stage, model.denoiser, position)
        model = replace(model, info=model.info.model_copy(update={"history": (*model.info.history, remembered)}))
        if trainer.main:
            save_model(model, folder, write_card)
        trainer.accelerator.wait_for_everyone()
    if has_adapters(model.denoiser.network):  # what is in memory stays, around the teacher's own weights
        load_adapters(model.denoiser.network, folder)
        return replace(model, info=read_info(folder))
    return replace(
        model, denoiser=replace(model.denoiser, network=open_network(model.family, folder).to(device)), info=read_info(folder)
    )
