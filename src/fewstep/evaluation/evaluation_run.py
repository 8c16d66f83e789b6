"""Sampling and measuring one configuration after another: in chunks, on many processes, resumed where it was stopped."""

import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from fewstep.errors import InputError
from fewstep.evaluation.accumulator import SUMS, Accumulator, ratio
from fewstep.evaluation.clip_score import ClipScore
from fewstep.evaluation.configurations import Configuration
from fewstep.evaluation.features import Features
from fewstep.evaluation.metrics import frechet_distance
from fewstep.evaluation.sample_conditions import SampleConditions
from fewstep.evaluation.scorer import Scorer
from fewstep.evaluation.statistics import Statistics
from fewstep.hashed import read_json, read_tensors, write_json, write_tensors
from fewstep.progress import LiveLine, clock, to_stderr
from fewstep.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

CHUNK = 64  # samples that share a seed: whatever the batch or the number of processes, sample i has the same noise
Row = dict[str, Any]
AGAIN = "remove it, and the same command makes it again"


def chunk_seed(seed: int, chunk: int) -> int:
    """The seed of a chunk's noise, another for each chunk: within 32 bits, since torch's generator on a CPU takes no more."""
    return (zlib.crc32(f"evaluation {seed}".encode()) + 0x9E3779B1 * chunk) % (1 << 32)


def noise_of(start: int, stop: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Noise (stop - start, *shape) of the samples from `start`, a multiple of `CHUNK`: a function of (seed, chunk) alone."""
    seeds = [chunk_seed(seed, chunk) for chunk in range(start // CHUNK, -(-stop // CHUNK))]
    chunks = [torch.randn(CHUNK, *shape, generator=torch.Generator().manual_seed(one)) for one in seeds]
    return torch.cat(chunks)[: stop - start]


@dataclass
class EvaluationRun:
    """Everything that the configurations of an evaluation share."""

    out: Path
    state: PartialState
    conditions: SampleConditions
    features: Features
    data: Accumulator  # what the measures compare with
    samples: int
    batch_size: int
    seed: int = 0
    bootstrap: int = 0
    line: LiveLine = field(default_factory=LiveLine)
    clip: ClipScore | None = None  # for the CLIP score of text
    noise: Tensor | None = None  # (samples, ...) to begin with; None: `noise_of`
    scorer: Scorer | None = None  # a user's own
    extrapolate: bool = False  # the Fréchet distance to infinitely many samples
    save_every: float = 30.0  # seconds
    work: float = 0.0  # evaluations of the network, of all configurations that are to be sampled now
    done: float = 0.0
    references: dict[float, Configuration] = field(default_factory=dict)  # the teacher's at its many steps, by guidance scale
    began: float = field(default_factory=time.monotonic)

    def measure(self, configurations: list[Configuration]) -> list[Row]:
        """The rows of all configurations, those measured by earlier calls in the same folder last."""
        keys = {configuration.key for configuration in configurations}
        rows = [self.row(configuration) for configuration in configurations]
        paths = [path for path in sorted((self.out / "rows").glob("*.json")) if path.stem not in keys]
        return rows + [read_json(path, AGAIN) for path in paths]

    def plan(self, configurations: list[Configuration], say: Callable[[str], None] = to_stderr) -> None:
        """Count what there is to do, and say what it will cost: evaluations, and the seconds that a short batch leads to expect."""
        left = [c for c in configurations if self.finished(c) is None and c.stored is None]
        self.work = float(sum(c.evaluations * self.samples for c in left))
        if not left or self.line.quiet:
            return
        shortest, n = min(left, key=lambda c: c.evaluations), min(self.batch_size, self.samples)
        arguments = self.noise_from(0, n), self.conditions.condition(self.conditions.labels(0, n)), n
        shortest.draw(*arguments)  # to warm up
        seconds = self.work * shortest.draw(*arguments).seconds / (n * shortest.evaluations * self.state.num_processes)
        say(
            f"evaluation: {len(left)} configurations, {self.samples:,} samples each, {self.work:,.0f} evaluations of the network "
            f"in batches of {self.batch_size}: about {clock(seconds)}"
        )

    def noise_from(self, start: int, stop: int) -> Tensor:
        """The noise (stop - start, ...) of samples."""
        return noise_of(start, stop, self.conditions.model.info.shape, self.seed) if self.noise is None else self.noise[start:stop]

    def row_file(self, configuration: Configuration) -> Path:
        """Where the row is kept; beside it, as .safetensors, a few of its samples."""
        return self.out / "rows" / f"{configuration.key}.json"

    def finished(self, configuration: Configuration) -> Row | None:
        """The row of a configuration, where it is there already."""
        file = self.row_file(configuration)
        needed = [file, file.with_suffix(".safetensors")]
        needed += self.shards(configuration, 0, self.samples) if configuration.reference else []
        return read_json(file, AGAIN) if all(path.is_file() for path in needed) else None

    def shards(self, configuration: Configuration, start: int, stop: int) -> list[Path]:
        """Where the teacher's samples `start` to `stop` at this guidance scale are kept, a file for each chunk."""
        folder = self.out / "samples" / f"scale-{configuration.guidance_scale:g}"
        return [folder / f"{chunk:06d}.safetensors" for chunk in range(start // CHUNK, -(-stop // CHUNK))]

    def kept(self, configuration: Configuration) -> dict[str, Tensor]:
        """What is kept of a finished configuration: `shown` (up to 8, c, h, w), of a reference `mean` and `covariance`; else empty."""
        path = self.row_file(configuration).with_suffix(".safetensors")
        return read_tensors(path, AGAIN)[0] if path.is_file() else {}

    def row(self, configuration: Configuration) -> Row:
        """The configuration's row, measured now unless it is there.

        Raises:
            InputError: its images are not finite, or the disk is full.
        """
        if configuration.reference:
            self.references[configuration.guidance_scale] = configuration
        if (known := self.finished(configuration)) is not None:
            return known
        found = self.sampled(configuration)
        if self.state.num_processes > 1:
            found, *parts = [Accumulator.of_state(part, found.classes) for part in gather_object([found.state()])]
            for part in parts:
                found.merge(part)
        row: Row = {
            "model": configuration.role, "sampler": configuration.sampler, "steps": configuration.steps,
            "evaluations": configuration.evaluations, "guidance_scale": configuration.guidance_scale, "features": self.features.name,
        }  # fmt: skip
        statistics, path = found.moments.statistics(), self.row_file(configuration)
        reference = None if configuration.reference else self.references.get(configuration.guidance_scale)
        row |= found.measures(self.data, self.bootstrap, self.extrapolate) | {"frechet_to_teacher": None}
        if reference and (teacher := self.kept(reference)):
            row["frechet_to_teacher"] = frechet_distance(statistics, Statistics(teacher["mean"], teacher["covariance"]))
        if self.state.is_main_process:
            kept = {"shown": torch.zeros(0) if found.shown is None else found.shown.half()}
            kept |= {"mean": statistics.mean, "covariance": statistics.covariance} if configuration.reference else {}
            write_tensors(path.with_suffix(".safetensors"), kept)
            write_json(path, row)
        self.state.wait_for_everyone()
        self.partial_path(configuration).unlink(missing_ok=True)
        return row

    def sampled(self, configuration: Configuration) -> Accumulator:
        """This process's part of the configuration: every so many-th unit of chunks."""
        stochastic = configuration.sampler == "stochastic"  # the noise that it adds follows from the seed of its chunk
        size = CHUNK if stochastic else max(self.batch_size // CHUNK, 1) * CHUNK
        units = range(self.state.process_index * size, self.samples, self.state.num_processes * size)
        values = {"stage": configuration.key, "unit": size, "processes": self.state.num_processes, "sums": len(SUMS)}
        found, saved = self.resumed(configuration, values), time.monotonic()
        drawn, each = int(found.sums["images"]), configuration.evaluations * self.state.num_processes
        self.work -= drawn * each
        for start in units[-(-drawn // size) :]:
            stop = min(start + size, self.samples)
            self.take(configuration, found, start, stop)
            self.done += 0 if configuration.stored is not None else (stop - start) * each
            self.show(configuration, stop)
            if time.monotonic() - saved > self.save_every:
                save_checkpoint(self.partial_path(configuration), Checkpoint(found.state(), values))
                saved = time.monotonic()
        return found

    def take(self, configuration: Configuration, found: Accumulator, start: int, stop: int) -> None:
        """Sample and measure images `start` to `stop`."""
        labels = self.conditions.labels(start, stop)
        condition, seed = self.conditions.condition(labels), chunk_seed(self.seed, start // CHUNK) ^ 0x5BD1E995
        with self.counted(configuration, start):
            drawn = configuration.draw(self.noise_from(start, stop), condition, self.batch_size, seed, start)
        if not drawn.samples.isfinite().all():
            raise InputError(
                f"{configuration}: samples {start} to {stop - 1} hold numbers that are not finite; "
                "the model is damaged, or this way to sample it fails: leave it out"
            )
        if configuration.reference:
            for file, part in zip(self.shards(configuration, start, stop), drawn.samples.half().split(CHUNK), strict=True):
                write_tensors(file, {"samples": part})
        images, teacher = self.conditions.pictures(drawn.samples), self.teachers(configuration, start, stop)
        prompts = self.conditions.prompts(labels)
        clip_scores, scores = (None if score is None else score(images, prompts) for score in (self.clip, self.scorer))
        found.add(self.features, images, labels, start, drawn.seconds, teacher, clip_scores, scores)

    def teachers(self, configuration: Configuration, start: int, stop: int) -> Tensor | None:
        """The teacher's pictures from the same noise, at its many steps; None for itself, and where there is no teacher."""
        paths = self.shards(configuration, start, stop)
        if configuration.reference or not all(path.is_file() for path in paths):
            return None
        return self.conditions.pictures(torch.cat([read_tensors(path, AGAIN)[0]["samples"].float() for path in paths]))

    @contextmanager
    def counted(self, configuration: Configuration, start: int) -> Iterator[None]:
        """The line of progress after each call of the network: a batch of many steps may take hours."""
        ahead = 0

        def count(_network: Any, args: tuple[Any, ...], named: dict[str, Any], _output: Any) -> None:
            nonlocal ahead
            ahead += next(len(one) for one in (*args, *named.values()) if isinstance(one, Tensor) and one.ndim > 1)
            self.show(configuration, start, ahead * self.state.num_processes)

        handle = configuration.model.denoiser.network.register_forward_hook(count, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def show(self, configuration: Configuration, stop: int, ahead: int = 0) -> None:
        """The line of progress, with the time left for all configurations; `ahead` are evaluations for samples after `stop`."""
        spent, done = time.monotonic() - self.began, self.done + ahead
        left = clock(spent * max(self.work - done, 0) / max(done, 1))
        self.line.show(f"{configuration}: {stop:,} of {self.samples:,} samples; {left} left for all", stop == self.samples)

    def partial_path(self, configuration: Configuration) -> Path:
        """Where this process keeps its part of a configuration that is being sampled."""
        return self.out / "partial" / f"{configuration.key}-{self.state.process_index}.safetensors"

    def resumed(self, configuration: Configuration, values: dict[str, Any]) -> Accumulator:
        """The saved part of a configuration, where it was saved with these values; else an empty one."""
        with suppress(InputError):  # cut short: begin that part again
            saved = load_checkpoint(self.partial_path(configuration))
            if saved is not None and saved.values == values:
                return Accumulator.of_state(saved.tensors, self.conditions.classes)
        return Accumulator.empty(self.features.dimension, self.conditions.classes)


def is_reference(row: Row, reference_steps: int) -> bool:
    """Whether a row is the teacher's at its many steps."""
    return (row["model"], row["sampler"], row["steps"]) == ("teacher", "ddim", reference_steps)


def with_ratios(rows: list[Row], reference_steps: int) -> list[Row]:
    """The rows with `ratio` and `diversity_ratio`: Fréchet distance and diversity over those of the teacher's many steps at the same scale."""
    reference = {r["guidance_scale"]: r for r in rows if is_reference(r, reference_steps)}

    def over(row: Row, key: str) -> float | None:
        return ratio(row.get(key), reference.get(row["guidance_scale"], {}).get(key))

    return [{**row, "ratio": over(row, "frechet"), "diversity_ratio": over(row, "diversity")} for row in rows]
