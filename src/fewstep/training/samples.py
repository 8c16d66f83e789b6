"""Pictures while a run trains, from the same noise and conditions each time: `RUN/samples/STAGE/UPDATE.png`, the teacher's beside the student's.

Training is the same to the bit with them and without: they have random numbers of their own, and weights, modes and generators are
afterwards what they were before. What goes wrong with them is a warning.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.devices import return_memory
from fewstep.errors import first_line
from fewstep.files import write_atomically
from fewstep.method import samplers
from fewstep.method.conditioning import Condition, join, take, to
from fewstep.method.guidance import weight_of
from fewstep.models.denoiser import Denoiser
from fewstep.models.model import Model
from fewstep.models.sampling import fresh_noise, initial_noise, to_images
from fewstep.training.processes import said_by_main
from fewstep.training.recipe import Recipe
from fewstep.training.sample_grids import FOLDER, TEACHER, SampleGrid, read_grid, small
from fewstep.training.sample_plan import ROWS, SamplePlan, sample_plans, scales_of, teacher_plan
from fewstep.training.stage import Stage
from fewstep.training.train_state import State
from fewstep.training.trainer import Trainer

RECORD = "samples.json"  # beside the grids: conditions, guidance scales, seed, and what each stage draws
Columns = list[tuple[str, float, list[Any]]]  # as of `SampleGrid`


class TrainingSamples:
    """The pictures of a run: the ends and the middle of the guidance range across, a few conditions down, one noise for each condition."""

    def __init__(self, recipe: Recipe, model: Model, data: Any, trainer: Trainer) -> None:
        """`model` is the teacher, or the model to be taught; it is not kept, and nothing is read or drawn before pictures are due."""
        self.info, self.family, self.data, self.trainer = model.info, model.family.bare(), data, trainer
        self.folder, self.accelerator, self.train = trainer.run / FOLDER, trainer.accelerator, recipe.train
        self.scales, self.rung_sampler = scales_of(recipe), recipe.stage_two.sampler
        batch = recipe.train.batch_size * recipe.train.gradient_accumulation * self.accelerator.num_processes
        known = recipe, trainer.stages, batch, model.info.image_size is not None
        self.plans, self.of_teacher = sample_plans(*known), teacher_plan(*known)
        if not model.info.pictured:
            self.plans, self.of_teacher = {}, None

    def draw_teacher(self, teacher: Denoiser) -> None:
        """Draw the guided teacher's pictures and write them, unless the run has them; the teacher is not kept."""
        plan, file = self.of_teacher, self.folder / TEACHER
        if plan is None or not self._takes_part or self._is_there(file):
            return
        with self._warning_of("the teacher's pictures"):
            drawn = self._drawn(teacher.guided(), teacher, plan, "deterministic")
            if self.trainer.main:
                facts = {"stage": "teacher", "steps": plan.steps, "evaluations": 2 * plan.steps}
                SampleGrid(self._columns("teacher", drawn), self.names, facts).write(file)
                self._note()

    def after_update(self, stage: Stage, state: State, denoiser: Denoiser) -> None:
        """Draw with the averaged weights where pictures are due: after each so many updates, and at the end of a stage."""
        plan = self.plans.get(stage.name)
        if plan is None or not self._takes_part or not (state.done or state.update % plan.every == 0):
            return
        with self._warning_of(f"the pictures of {stage.name}, update {state.update},"):
            own = replace(denoiser, network=state.network)  # neither compiled nor waiting for other processes
            guided, rung = stage.name == "teacher", stage.name not in ("teacher", "stage-one")
            with state.averaged(), evaluating(state.network):
                drawn = self._drawn(own.guided() if guided else own, own, plan, self.rung_sampler if rung else "deterministic")
            if not self.trainer.main:
                return
            columns, beside = self._columns("teacher" if guided else "student", drawn), None if guided else self._beside
            facts = {"stage": stage.name, "update": state.update, "steps": plan.steps, "evaluations": plan.steps * (1 + guided)}
            file = self.folder / stage.name / f"{state.update:07d}.png"
            image = SampleGrid(columns + (beside or []), self.names, facts).write(file)
            self._note()
            self.trainer.log.picture(stage.name, state.update, image)

    @property
    def _takes_part(self) -> bool:
        """Whether this process draws: the first; of a sharded network all, for none of them has it whole."""
        return self.trainer.main or self.trainer.sharded

    def _is_there(self, file: Any) -> bool:
        return said_by_main(self.accelerator, file.is_file()) if self.trainer.sharded else file.is_file()

    @contextmanager
    def _warning_of(self, what: str) -> Iterator[None]:
        """A problem becomes a warning; of sharded processes, which would wait for each other, it stays one."""
        try:
            yield
        except Exception as error:
            if self.trainer.sharded:
                raise
            warnings.warn(f"{what} are left out: {first_line(error)}; training goes on", stacklevel=3)

    @cached_property
    def _conditions(self) -> tuple[list[str], Condition]:
        return named_conditions(self.info, self.family.takes_mask, self.data)

    @property
    def names(self) -> list[str]:
        """What the conditions are called: classes, prompts, or "example 1" where nothing is known."""
        return self._conditions[0]

    @torch.no_grad()
    def _drawn(self, estimate: Any, denoiser: Denoiser, plan: SamplePlan, sampler: str) -> Tensor:
        """Samples float32 (scales x conditions, ...) on the CPU, no more of them at a time than training has."""
        rows, device, seed, parts = len(self.names), self.accelerator.device, self.train.seed, []
        noise, condition = initial_noise((rows, *self.info.shape), seed), self._conditions[1]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for part in torch.arange(rows * len(self.scales)).split(self.train.batch_size):
                row = part % rows
                w = torch.tensor([weight_of(self.scales[i]) for i in (part // rows).tolist()], device=device)
                arguments = estimate, noise[row].to(device), plan.steps, to(take(condition, row), device), w, denoiser.process
                if sampler == "stochastic":
                    x = samplers.stochastic(*arguments, fresh_noise(seed, row.tolist()))
                else:
                    x = samplers.deterministic(*arguments)
                parts.append(x.float().cpu())
        return torch.cat(parts)

    def _columns(self, model: str, drawn: Tensor) -> Columns:
        """The samples as columns of a grid; latents are decoded one at a time by a VAE that is opened for it."""
        images: list[Any] = []
        with torch.random.fork_rng(devices=[]):
            for x in drawn.nan_to_num().split(1):
                pictures = self._decoded(x) if self.info.image_size else x
                middle = pictures[:, :, pictures.shape[2] // 2] if pictures.ndim == 5 else pictures  # of a video one frame
                images.append(small(to_images(middle.float().nan_to_num())[0]))
        if self.info.image_size:
            self.family.free()
            return_memory()
        rows = len(self.names)
        return [(model, scale, images[k * rows : (k + 1) * rows]) for k, scale in enumerate(self.scales)]

    def _decoded(self, x: Tensor) -> Tensor:
        """The picture (1, c, h, w) of latents; on the CPU where the device, which holds the training, has no room."""
        try:
            return self.family.to_images(x.to(self.accelerator.device)).cpu()
        except torch.OutOfMemoryError:
            return_memory()
            return self.family.to_images(x)

    @cached_property
    def _beside(self) -> Columns | None:
        """The teacher's columns; None where the run has none."""
        grid = read_grid(self.folder / TEACHER)
        return None if grid is None or grid.rows != self.names else grid.of("teacher")

    def _note(self) -> None:
        """Write what the pictures are of, in words, beside them."""
        stages = {name: {"every": plan.every, "steps": plan.steps} for name, plan in self.plans.items()}
        known = {"conditions": self.names, "guidance_scale": self.scales, "seed": self.train.seed, "stages": stages}
        text = json.dumps(known | {"teacher_steps": self.of_teacher and self.of_teacher.steps}, indent=1, ensure_ascii=False) + "\n"
        file = self.folder / RECORD
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            write_atomically(file, lambda aside: aside.write_text(text, encoding="utf-8"))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Within it the network is in evaluation mode; afterwards each of its modules in the mode that it had."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def named_conditions(info: Any, masked: bool, data: Any) -> tuple[list[str], Condition]:
    """(names, conditions (n, ...) on the CPU) of at most `ROWS` pictures: classes from the first to the last, or the first of the data."""
    if info.condition == "class" and not masked:
        labels = torch.linspace(0, len(info.classes) - 1, min(ROWS, len(info.classes))).round().long()
        return [info.classes[k] for k in labels.tolist()], labels
    if hasattr(data, "first_conditions") and getattr(data, "buckets", None) is None:
        names, condition = data.first_conditions(ROWS)
    else:  # one at a time: in buckets each may have its size
        condition = reduce(join, (data.batch(i, 1)[1] for i in range(ROWS)))
        names = [f"example {i + 1}" for i in range(ROWS)]
    return names, to(condition, "cpu")
