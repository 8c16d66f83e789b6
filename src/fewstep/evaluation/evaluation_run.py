"""Sampling and measuring one configuration after another: in chunks, on many processes, resumed where it was stopped."""

import json
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor

from fewstep.errors import InputError
from fewstep.evaluation.accumulator import Tally, ratio
from fewstep.evaluation.clip_score import ClipScore
from fewstep.evaluation.configurations import Contender
from fewstep.evaluation.labels import Wanted
from fewstep.evaluation.metrics import Statistics, frechet_distance
from fewstep.files import write_atomically
from fewstep.progress import LiveLine, clock
from fewstep.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

CHUNK = 64  # samples that share a seed: whatever the batch or the number of processes, sample i has the same noise


def chunk_seed(seed: int, chunk: int) -> int:
    """The seed of a chunk's noise, another for each chunk: within 32 bits, since torch's generator on a CPU takes no more."""
    return (zlib.crc32(f"evaluation {seed}".encode()) + 0x9E3779B1 * chunk) % (1 << 32)


def noise_of(start: int, stop: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Noise (stop - start, *shape) of the samples from `start`, a multiple of `CHUNK`: a function of (seed, chunk) alone."""
    chunks = []
    for chunk in range(start // CHUNK, -(-stop // CHUNK)):
        generator = torch.Generator().manual_seed(chunk_seed(seed, chunk))
        chunks.append(torch.randn(CHUNK, *shape, generator=generator))
    return torch.cat(chunks)[: stop - start]


@dataclass
class Contest:
    """Everything that the configurations of an evaluation share."""

    out: Path
    state: PartialState
    wanted: Wanted
    features: Any
    data: Any  # the reference: what the measures compare with
    samples: int
    batch_size: int
    seed: int
    bootstrap: int
    line: LiveLine
    clip: ClipScore | None = None  # for the CLIP score of text
    save_every: float = 30.0  # seconds
    work: float = 0.0  # evaluations of the network, of all configurations that are to be sampled now
    done: float = 0.0
    references: dict[float, Path] = field(default_factory=dict)  # the teacher's statistics at its many steps, by guidance scale
    began: float = field(default_factory=time.monotonic)

    def plan(self, contenders: list[Contender]) -> None:
        """What there is to do, for the time left."""
        self.work = float(sum(c.evaluations * self.samples for c in contenders if self.finished(c) is None))

    def finished(self, contender: Contender) -> dict[str, Any] | None:
        """The row of a configuration, where it is there already."""
        path = self.out / "rows" / f"{contender.key}.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return None

    def earlier(self, contenders: list[Contender]) -> list[dict[str, Any]]:
        """The rows of other configurations, finished by earlier calls with other steps, scales, baselines or budgets."""
        asked = {contender.key for contender in contenders}
        paths = [path for path in sorted((self.out / "rows").glob("*.json")) if path.stem not in asked]
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

    def shown(self, contender: Contender) -> Tensor | None:
        """The first few samples of a finished configuration, for the report."""
        path = self.out / "rows" / f"{contender.key}.safetensors"
        return load_file(path)["shown"].float() if path.is_file() else None

    def teachers_statistics(self, guidance_scale: float) -> Statistics | None:
        """Those of the features of the teacher's samples at its many steps; None where there are none."""
        path = self.references.get(guidance_scale)
        kept = load_file(path) if path is not None and path.is_file() else {}
        return Statistics(kept["mean"], kept["covariance"]) if "mean" in kept else None

    def row(self, contender: Contender) -> dict[str, Any]:
        """The configuration's row, measured now unless it is there.

        Raises:
            InputError: its images are not finite, or the disk is full.
        """
        if contender.reference:
            self.references[contender.guidance_scale] = self.out / "rows" / f"{contender.key}.safetensors"
        if (known := self.finished(contender)) is not None:
            return known
        tally = self.gathered(self.sampled(contender))
        known = {
            "model": contender.role, "sampler": contender.sampler, "steps": contender.steps, "evaluations": contender.evaluations,
            "guidance_scale": contender.guidance_scale, "features": self.features.name,
        }  # fmt: skip
        statistics = tally.moments.statistics()
        theirs = None if contender.reference else self.teachers_statistics(contender.guidance_scale)
        row = known | tally.measures(self.data, self.bootstrap)
        row["frechet_to_teacher"] = None if theirs is None else frechet_distance(statistics, theirs)
        if self.state.is_main_process:
            path = self.out / "rows" / f"{contender.key}.json"
            shown = {"shown": torch.zeros(0) if tally.shown is None else tally.shown.half()}
            if contender.reference:
                shown |= {"mean": statistics.mean, "covariance": statistics.covariance}
            write_atomically(path.with_name(f"{contender.key}.safetensors"), partial(save_file, shown))
            write_atomically(path, lambda aside: aside.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8"))
        self.state.wait_for_everyone()
        self.partial_path(contender).unlink(missing_ok=True)
        return row

    def sampled(self, contender: Contender) -> Tally:
        """What this process sees of the configuration: every so many-th unit of chunks."""
        size = CHUNK if contender.sampler == "stochastic" else max(self.batch_size // CHUNK, 1) * CHUNK
        units = range(self.state.process_index * size, self.samples, self.state.num_processes * size)
        tally, saved = self.resumed(contender, size), time.monotonic()
        begun, each = int(tally.sums["images"]), contender.evaluations * self.state.num_processes
        self.work -= begun * each
        for start in units[-(-begun // size) :]:
            stop = min(start + size, self.samples)
            self.take(contender, tally, start, stop)
            self.done += (stop - start) * each
            self.show(contender, stop)
            if time.monotonic() - saved > self.save_every:
                values = {"stage": contender.key, "unit": size, "processes": self.state.num_processes}
                save_checkpoint(self.partial_path(contender), Checkpoint(tally.state(), values))
                saved = time.monotonic()
        return tally

    def take(self, contender: Contender, tally: Tally, start: int, stop: int) -> None:
        """Sample and measure images `start` to `stop`."""
        noise = noise_of(start, stop, contender.model.info.shape, self.seed)
        labels = self.wanted.labels(start, stop)
        batch_size = CHUNK if contender.sampler == "stochastic" else self.batch_size  # its noise is drawn batch by batch
        condition, seed = self.wanted.condition(labels), chunk_seed(self.seed, start // CHUNK) ^ 0x5BD1E995
        with self.counted(contender, start):
            drawn = contender.draw(noise, condition, batch_size, seed)
        if not drawn.samples.isfinite().all():
            raise InputError(
                f"{contender}: samples {start} to {stop - 1} hold numbers that are not finite; "
                "the model is damaged, or this way to sample it fails: leave it out"
            )
        shard = self.out / "samples" / f"scale-{contender.guidance_scale:g}"
        if contender.reference:
            for k in range(0, len(drawn.samples), CHUNK):
                part = {"samples": drawn.samples[k : k + CHUNK].half()}
                write_atomically(shard / f"{(start + k) // CHUNK:06d}.safetensors", partial(save_file, part))
        images, teachers = self.wanted.pictures(drawn.samples), self.teachers(contender, shard, start, stop)
        scores = self.clip(images, self.wanted.prompts(labels)) if self.clip is not None else None
        tally.add(self.features, images, labels, start, drawn.seconds, teachers, scores)

    def teachers(self, contender: Contender, shard: Path, start: int, stop: int) -> Tensor | None:
        """The teacher's pictures from the same noise, at its many steps; None for itself, and where there is no teacher."""
        paths = [shard / f"{chunk:06d}.safetensors" for chunk in range(start // CHUNK, -(-stop // CHUNK))]
        if contender.reference or not all(path.is_file() for path in paths):
            return None
        return self.wanted.pictures(torch.cat([load_file(path)["samples"].float() for path in paths]))

    @contextmanager
    def counted(self, contender: Contender, start: int) -> Iterator[None]:
        """The line of progress after each call of the network: a batch of many steps may take hours."""
        ahead = 0

        def count(_network: Any, args: tuple[Any, ...], named: dict[str, Any], _output: Any) -> None:
            nonlocal ahead
            ahead += next(len(one) for one in (*args, *named.values()) if isinstance(one, Tensor) and one.ndim > 1)
            self.show(contender, start, ahead * self.state.num_processes)

        handle = contender.model.denoiser.network.register_forward_hook(count, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def show(self, contender: Contender, stop: int, ahead: int = 0) -> None:
        """The line of progress, with the time left for all configurations; `ahead` are evaluations for samples after `stop`."""
        spent, done = time.monotonic() - self.began, self.done + ahead
        left = clock(spent * max(self.work - done, 0) / max(done, 1))
        self.line.show(f"{contender}: {stop:,} of {self.samples:,} samples; {left} left for all", stop == self.samples)

    def partial_path(self, contender: Contender) -> Path:
        """Where this process keeps its part of a configuration that is being sampled."""
        return self.out / "partial" / f"{contender.key}-{self.state.process_index}.safetensors"

    def resumed(self, contender: Contender, unit: int) -> Tally:
        """The saved part of a configuration, else an empty one."""
        classes = self.wanted.classes
        try:
            saved = load_checkpoint(self.partial_path(contender))
        except InputError:  # cut short: begin that part again
            saved = None
        values = {"stage": contender.key, "unit": unit, "processes": self.state.num_processes}
        if saved is None or saved.values != values:
            return Tally.empty(self.features.dimension, classes)
        return Tally.of_state(saved.tensors, classes)

    def gathered(self, tally: Tally) -> Tally:
        """The parts of all processes as one."""
        if self.state.num_processes == 1:
            return tally
        parts = [Tally.of_state(state, tally.classes) for state in gather_object([tally.state()])]
        for other in parts[1:]:
            parts[0].merge(other)
        return parts[0]


def is_reference(row: dict[str, Any], reference_steps: int) -> bool:
    """Whether a row is the teacher's at its many steps."""
    return (row["model"], row["sampler"], row["steps"]) == ("teacher", "ddim", reference_steps)


def with_ratios(rows: list[dict[str, Any]], reference_steps: int) -> list[dict[str, Any]]:
    """The rows with `ratio`: the Fréchet distance over that of the teacher's many steps at the same guidance scale."""
    whole = {r["guidance_scale"]: r["frechet"] for r in rows if is_reference(r, reference_steps)}
    return [{**row, "ratio": ratio(row["frechet"], whole.get(row["guidance_scale"]))} for row in rows]
