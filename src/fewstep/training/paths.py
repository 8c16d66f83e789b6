"""A pool of the guided teacher's own paths, made once in shards, and the stage that learns from it (`method.paths`)."""

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fewstep.data import fingerprints
from fewstep.data.datasets import rows_at, span
from fewstep.data.latent_cache import condition_of, leaves_of
from fewstep.errors import InputError
from fewstep.hashed import claim, read_tensors, write_tensors
from fewstep.method.conditioning import Condition, take, to
from fewstep.method.paths import draw_path_w, path_target, second_order_states
from fewstep.method.process import Process, time_grid, to_float64
from fewstep.method.stage_one import balance, weighted_error
from fewstep.method.stage_two import draw_index
from fewstep.models.denoiser import Denoiser
from fewstep.models.model import Model
from fewstep.progress import LiveLine, clock
from fewstep.training.draws import Draws
from fewstep.training.losses import weighting_of
from fewstep.training.recipe import Recipe
from fewstep.training.stage import Batch, Examples, Stage
from fewstep.training.trainer import Trainer

SHARD = 512  # paths in each file
INDEX = "paths.json"
VALIDATED = 512  # paths kept out that each validation looks at, at most


class PathPool:
    """Paths in memory: states (n, N + 1, ...) at the student's times, conditions (n, ...) and weights w (n,); a share of them is kept out."""

    def __init__(self, states: Tensor, condition: Condition, w: Tensor, held_out: float, seed: int) -> None:
        self.states, self.condition, self.w, self.seed = states, condition, w, seed
        self.held = max(1, round(held_out * len(w))) if held_out else 0
        self.count = len(w) - self.held

    def batch(self, start: int, count: int) -> tuple[Tensor, Condition, Batch]:
        """States (count, N + 1, ...), conditions (count, ...) and {"w": (count,)} from position `start` on, in epochs shuffled by the seed."""
        index = torch.from_numpy(rows_at(span(start, count), self.count, self.seed))
        return self.states[index], take(self.condition, index), {"w": self.w[index]}

    def kept_out(self, limit: int = VALIDATED) -> tuple[Tensor, Condition, Tensor]:
        """The paths that are never trained on, or the first of them."""
        index = slice(self.count, self.count + min(self.held, limit))
        return self.states[index], take(self.condition, index), self.w[index]


def path_pool(recipe: Recipe, teacher: Model, process: Process, data: Examples, trainer: Trainer) -> PathPool:
    """The pool of a run for the rung `paths.rung`, written first, or as far as it is missing; each process makes its own shards.

    Path i is a function of (seed, i): noise, its w, and the condition of the data's example i.

    Raises:
        InputError: a pool of another teacher or other settings is in the run, a shard is damaged, or the disk is full.
    """
    settings, accelerator = recipe.paths, trainer.accelerator
    folder = trainer.run / f"paths-{settings.rung:04d}"
    known = {
        "count": settings.count, "solver_steps": settings.solver_steps, "low_share": settings.low_share, "rung": settings.rung,
        "seed": recipe.train.seed, "guidance_scale": list(recipe.student.guidance_scale), "guidance": teacher.info.guidance,
        "teacher": fingerprints.of_weights(teacher.denoiser.network.state_dict()),
    }  # fmt: skip
    claim(folder / INDEX, known, "paths", accelerator)
    shards = {
        f"{start // SHARD:05d}.safetensors": range(settings.count)[start : start + SHARD]
        for start in range(0, settings.count, SHARD)
    }
    guided = replace(teacher, denoiser=trainer.frozen(teacher.denoiser))
    line, began, made = LiveLine(quiet=trainer.quiet), time.monotonic(), 0
    for number, (name, rows) in enumerate(shards.items()):
        if number % accelerator.num_processes == accelerator.process_index and not (folder / name).is_file():
            write_tensors(folder / name, made_paths(recipe, guided, process, data, rows, trainer))
            made += len(rows) * accelerator.num_processes
        left = (settings.count - rows.stop) * (time.monotonic() - began) / made if made else 0.0
        ending = "done" if rows.stop == settings.count else f"{clock(left)} left"
        line.show(f"paths  {rows.stop}/{settings.count}  {ending}", final=rows.stop == settings.count)
    accelerator.wait_for_everyone()
    parts = [read_shard(folder / name, len(rows)) for name, rows in shards.items()]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    states, w = joined.pop("states"), joined.pop("w")
    return PathPool(states, condition_of(joined), w, settings.held_out, recipe.train.seed)


@torch.no_grad()
def made_paths(
    recipe: Recipe, teacher: Model, process: Process, data: Examples, rows: range, trainer: Trainer
) -> dict[str, Tensor]:
    """The tensors of some rows of the pool: states, w, and the leaves of the condition, on the CPU."""
    settings, device, rung = recipe.paths, trainer.accelerator.device, recipe.paths.rung or 1
    key = hashlib.sha256(f"paths {recipe.train.seed} {rows.start}".encode()).digest()[:7]
    generator = torch.Generator().manual_seed(int.from_bytes(key, "big"))
    condition = data.batch(rows.start, len(rows))[1]
    noise = torch.randn(len(rows), *teacher.info.shape, generator=generator)
    places = torch.randperm(len(rows), generator=generator) + torch.rand(len(rows), generator=generator, dtype=torch.float64)
    w = draw_path_w(places / len(rows), recipe.student.guidance_scale, settings.low_share)
    estimate, times = teacher.denoiser.guided(process), time_grid(settings.solver_steps, device)
    every = settings.solver_steps // rung
    states = torch.empty(len(rows), rung + 1, *teacher.info.shape)
    for chosen in filter(torch.any, (w == 0, w != 0)):  # without guidance an evaluation is one call of the network
        for index in chosen.nonzero().flatten().split(recipe.train.batch_size):
            z, c = noise[index].to(device), to(take(condition, index), device)
            weights = None if w[index[0]] == 0 else to_float64(w[index], device)
            path = list(second_order_states(estimate, z, times, c, weights, process))
            states[index] = torch.stack([z.float(), *(state.float() for state in path[every - 1 :: every])], 1).cpu()
    leaves = {name: value.cpu().contiguous() for name, value in leaves_of(condition).items()}
    return {"states": states, "w": w.float()} | leaves


def read_shard(file: Path, count: int) -> dict[str, Tensor]:
    """The tensors of a shard of so many paths. Raises InputError where it is missing, damaged, or of another number."""
    tensors, _ = read_tensors(file, "remove it, and the same command makes it again")
    if any(len(value) != count for value in tensors.values()):
        raise InputError(f"{file} holds another number of paths than {count}; remove it, and the same command makes it again")
    return tensors


def paths_stage(recipe: Recipe, student: Model, pool: PathPool | None) -> Stage:
    """Learn each step of a rung straight from the guided teacher's paths: one evaluation of the student an example, no teacher.

    Without a pool it can be opened, not trained.
    """
    settings, steps, process = recipe.paths, recipe.paths.rung or 1, student.denoiser.process
    weighting = weighting_of(recipe, "paths", student.denoiser.predicts, process)

    def error_at(denoiser: Denoiser, states: Tensor, condition: Condition, w: Tensor, index: Tensor) -> Tensor:
        z, target, t = path_target(states, index, steps, process)
        w = w.to(t)
        return balance(w, settings.balance) * weighted_error(denoiser(z, t, condition, w), target, t, process, weighting)

    def draw(draws: Draws) -> Batch:
        return {"index": draw_index(draws.uniform(stratified=True), steps)}

    def error(denoiser: Denoiser, batch: Batch) -> Tensor:
        return error_at(denoiser, batch["x"], batch["condition"], batch["w"], batch["index"])

    @torch.no_grad()
    def validate(denoiser: Denoiser) -> float:
        """The mean error of paths that are kept out, at every step."""
        assert pool is not None
        device, total, number = denoiser.device, 0.0, 0
        states, condition, w = pool.kept_out()
        for part in torch.arange(len(w)).split(recipe.train.batch_size):
            moved, c, weights = states[part].to(device), to(take(condition, part), device), w[part].to(device)
            for i in range(1, steps + 1):
                total += float(error_at(denoiser, moved, c, weights, torch.full((len(part),), i, device=device)).sum())
                number += len(part)
        return total / number

    return Stage(
        f"steps-{steps:04d}", settings.updates, settings.learning_rate, settings.schedule, draw, error, data=pool,
        validate=validate if pool is not None and pool.held else None, validate_every=settings.validate_every, patience=settings.patience,
    )  # fmt: skip
