"""The one training loop: teacher, stage one and every rung of stage two, on whatever accelerate finds.

All randomness of an update is a function of (seed, stage, update), drawn for the whole global batch of which each process takes
its slice: so a resumed run is the run that never stopped, and two processes are one process with twice the batch.
"""

import math
import os
import signal
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fewstep import compat
from fewstep.devices import check_device
from fewstep.errors import InputError
from fewstep.method.conditioning import each
from fewstep.models.denoiser import Denoiser
from fewstep.models.half_weights import InFloat32, holds_half
from fewstep.models.pretrained import save_model
from fewstep.progress import LiveLine, clock, to_stderr
from fewstep.training.checkpoint import load_newest, save_newest
from fewstep.training.logging import RunLog, tracker_arguments
from fewstep.training.settings import TrainSettings
from fewstep.training.stage import Batch, Examples, Stage
from fewstep.training.train_state import OBSERVED, State, trained

BAD_IN_A_ROW = 10
Save = Callable[..., Any]  # writes a model into a folder, its weights in a `dtype`: `save_model`


class Interrupted(Exception):
    """The run was asked to stop; its state is saved and the same command goes on."""


def checkpoint_blocks(network: Any) -> None:
    """Let the network's blocks be computed again for the gradient, not kept. Raises InputError where it is no network that can."""
    if not compat.can_checkpoint(network):
        raise InputError("train.gradient_checkpointing: this network does not know it; set it to false")
    if holds_half(network):
        contexts = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), InFloat32()))
        network.enable_gradient_checkpointing(contexts)
    else:
        network.enable_gradient_checkpointing()


class Trainer:
    """Runs stages in a run folder: checkpoints, resumption, progress, interruption."""

    def __init__(
        self,
        run: Path,
        data: Examples,
        settings: TrainSettings,
        device: str | None = None,
        quiet: bool = False,
        save: Save = save_model,
    ) -> None:
        self.run, self.data, self.settings, self.save = run, data, settings, save
        check_device(device)
        if not torch.distributed.is_initialized():
            compat.reset_accelerator()  # another run in this process may have had another precision
        if device is not None and (index := torch.device(device).index) is not None and torch.accelerator.device_count() > 1:
            torch.accelerator.set_device_index(index)
            os.environ["ACCELERATE_TORCH_DEVICE"] = device  # accelerate takes the first of several otherwise
        tracker = tracker_arguments(settings.log_with, run)
        self.accelerator = Accelerator(mixed_precision=settings.precision, cpu=device == "cpu", **tracker)
        if settings.precision == "fp16" and self.accelerator.device.type == "cpu":
            raise InputError("train.precision 'fp16' needs a GPU; on the CPU set it to 'bf16' or 'no'")
        self.main = self.accelerator.is_main_process
        self.quiet = quiet or not self.main
        self.line = LiveLine(quiet=self.quiet)
        self.log = RunLog(run, self.accelerator, settings.log_with)
        self.signals: list[int] = []

    def close(self) -> None:
        """Flush the log."""
        self.log.close()

    def train(self, stage: Stage, denoiser: Denoiser, position: str = "") -> dict[str, Any]:
        """Train the denoiser's network in place; it ends with its averaged weights. Returns the stage's entry of a model's history.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the state is saved.
            InputError: ten updates in a row were not finite; the last good state is saved.
        """
        network = denoiser.network.to(self.accelerator.device).train(stage.dropout)
        if self.settings.gradient_checkpointing:
            checkpoint_blocks(network)
        if self.accelerator.num_processes > 1 and self.accelerator.distributed_type != DistributedType.FSDP:
            idle = self._has_idle_weights(stage, replace(denoiser, autocast=self.accelerator.autocast))
            handler: Any = DistributedDataParallelKwargs(find_unused_parameters=idle)
            self.accelerator.ddp_handler = handler
        state = State(stage, network, self.settings, self.accelerator)
        self._restore(stage, state)
        wrapped = replace(denoiser, network=state.wrapped, autocast=self.accelerator.autocast)
        with self._catch_signals():
            self._loop(stage, state, wrapped, position)
        state.ema.copy_to(self.accelerator.unwrap_model(state.wrapped, keep_fp32_wrapper=False, keep_torch_compile=False))
        self.accelerator.free_memory()  # it would hold every stage's network and optimiser to the end
        network.eval()
        entry = {"stage": stage.name, "updates": state.update, "batch_size": state.global_batch}
        return entry | {"loss": state.loss, "skipped": state.skipped}

    def gradients(self, stage: Stage, state: State, denoiser: Denoiser) -> Tensor:
        """Accumulate the gradients of one update; the mean error, on the device."""
        parts = self.settings.gradient_accumulation
        total = torch.zeros((), device=self.accelerator.device)
        for part, batch in enumerate(self._batches(stage, state.update, state.examples)):
            with nullcontext() if part == parts - 1 else self.accelerator.no_sync(state.wrapped):
                errors = stage.error(denoiser, batch)
                state.observe(errors.detach())
                loss = errors.mean() / parts
                # a loss that is not finite must make every process's gradients so, whatever its own derivative is
                self.accelerator.backward(loss * torch.where(loss.isfinite(), 1.0, torch.nan))
            total += loss.detach().float()
        return total

    def _restore(self, stage: Stage, state: State) -> None:
        checkpoint = load_newest(self._checkpoints, to_stderr if self.main else lambda line: None)
        if checkpoint is not None and checkpoint.values["stage"] == stage.name:
            before, now = state.restore(checkpoint), state.global_batch
            if before != now and not self.quiet:
                to_stderr(
                    f"{stage.name}: goes on at update {state.update} with {now} examples an update, {before} before; "
                    f"the data go on from example {state.examples}"
                )
        if self.main:
            self.log.resume(stage.name, state.update)

    def _loop(self, stage: Stage, state: State, denoiser: Denoiser, position: str) -> None:
        since, first = time.monotonic(), state.update
        while not state.done:
            state.step(self.gradients(stage, state, denoiser))
            if state.update - first == OBSERVED and (few := state.few_examples()) and self.main:
                warnings.warn(
                    f"{stage.name}: the loss of its first {OBSERVED} updates is that of about {few[0]:.3g} of their {few[1]} examples; the others teach "
                    "next to nothing: set the stage's weighting to 'auto' or 'min_snr', and look for outliers in the data",
                    stacklevel=2,
                )
            if stage.validate is not None and state.update % stage.validate_every == 0:
                state.validate(denoiser)
            if state.done or state.update % self.settings.log_every == 0:
                self._report(stage, state, (state.update - first) / max(time.monotonic() - since, 1e-9), position)
                if state.longest_bad_row >= BAD_IN_A_ROW:
                    self._save(state)
                    raise InputError(
                        f"{stage.name}: {BAD_IN_A_ROW} updates in a row had a loss or gradient that is not finite; the last good state is saved: "
                        "lower the learning_rate or set train.precision to 'no', in a new --out"
                    )
            if self._asked_to_stop(state):
                self._save(state)
                raise Interrupted(f"stopped at {stage.name}, update {state.update}; the same command goes on from there")
            if state.update % self.settings.checkpoint_every == 0 and not state.done:
                self._save(state)

    def _has_idle_weights(self, stage: Stage, denoiser: Denoiser) -> bool:
        """Whether some trained weights have no part in the error (Qwen-Image's last block makes text that nobody reads).

        Data-parallel processes would stop at the second update for want of their gradients, unless they look for them, which takes time.
        """
        error = stage.error(denoiser, next(self._batches(stage, 0, 0))).mean()
        gradients = torch.autograd.grad(error, list(trained(denoiser.network).values()), allow_unused=True)
        return any(gradient is None for gradient in gradients)

    def _batches(self, stage: Stage, update: int, start: int) -> Iterator[Batch]:
        """This process's micro-batches of an update, whose global batch has the data from position `start` on."""
        processes, parts, size = self.accelerator.num_processes, self.settings.gradient_accumulation, self.settings.batch_size
        # torch's generator on the CPU takes the lower 32 bits alone: all that a draw depends on must reach them
        seed = zlib.crc32(stage.name.encode()) + update * 0x9E3779B1 + self.settings.seed * 0x85EBCA6B
        generator = torch.Generator(self.accelerator.device).manual_seed(seed % (1 << 63))
        torch.manual_seed((seed + self.accelerator.process_index) % (1 << 63))  # for dropout: it draws by itself
        drawn = stage.draw(generator, size * parts * processes)
        for part in range(parts):
            slot = (part * processes + self.accelerator.process_index) * size
            x, condition, *more = (stage.data or self.data).batch(start + slot, size)
            if "noise" not in drawn and stage.data is None:
                shape = (size * parts * processes, *x.shape[1:])
                drawn["noise"] = torch.randn(shape, generator=generator, device=self.accelerator.device)
            batch = {key: value[slot : slot + size] for key, value in drawn.items()}
            batch |= {key: self._to_device(value) for part in more for key, value in part.items()}
            yield batch | {"x": self._to_device(x), "condition": each(self._to_device, condition)}

    def _to_device(self, values: Tensor) -> Tensor:
        """A copy on the device; from pinned memory, else the copy to a GPU would be waited for."""
        device = self.accelerator.device
        return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)

    def _report(self, stage: Stage, state: State, speed: float, position: str) -> None:
        loss = state.read()
        images = speed * state.global_batch
        bad = f", {state.skipped} skipped" if state.skipped else ""
        bad += f", held out {state.held_out[-1]:.3g}" if state.held_out else ""
        ending = "done" if state.done else f"{clock((stage.updates - state.update) / max(speed, 1e-9))} left"
        self.line.show(
            f"{position}{stage.name}  {state.update}/{stage.updates}  loss {loss:.4g}  {images:.0f} images/s  {ending}{bad}",
            final=state.done,
        )
        if self.main:
            known = {"loss": loss if math.isfinite(loss) else None, "learning_rate": state.rate, "images_per_second": images}
            known |= {"held_out": state.held_out[-1]} if state.held_out else {}
            self.log.write(stage=stage.name, update=state.update, **known, skipped=state.skipped)

    def _save(self, state: State) -> None:
        state.read()  # so that the counters go along
        if self.main:
            save_newest(self._checkpoints, state.checkpoint())
        self.accelerator.wait_for_everyone()

    @property
    def _checkpoints(self) -> Path:
        return self.run / "checkpoint"

    def _asked_to_stop(self, state: State) -> bool:
        if self.accelerator.num_processes == 1:
            return bool(self.signals)
        if state.update % self.settings.log_every:  # the processes must agree, and asking each time would wait on the device
            return False
        asked = torch.tensor(float(bool(self.signals)), device=self.accelerator.device)
        return bool(cast(Tensor, self.accelerator.reduce(asked, "sum")) > 0)

    @contextmanager
    def _catch_signals(self) -> Iterator[None]:
        def note(number: int, _frame: Any) -> None:
            if self.signals:  # asked twice: at once
                raise KeyboardInterrupt
            self.signals.append(number)

        try:
            before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: nobody can signal us
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
