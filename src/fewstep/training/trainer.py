"""The one training loop: teacher, stage one and every rung of stage two, on whatever accelerate finds.

Each random number is a function of (seed, stage, position of its example), drawn by the process that has the example (`draws`): so a
resumed run is the run that never stopped, and two processes are one process with twice the batch.
"""

import math
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import DistributedDataParallelKwargs
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fewstep import compat
from fewstep.devices import keep_large_blocks_apart
from fewstep.errors import InputError
from fewstep.models.denoiser import Denoiser
from fewstep.models.half_weights import InFloat32, holds_half
from fewstep.models.pretrained import save_model
from fewstep.progress import LiveLine, clock, to_stderr
from fewstep.training.batches import Batches, Pace, Split
from fewstep.training.checkpoint import load_newest, save_newest, save_shards
from fewstep.training.logging import RunLog
from fewstep.training.plan_of_stages import Planned, seconds_left
from fewstep.training.settings import TrainSettings
from fewstep.training.sharing import accelerator_for, check_examples, described, is_sharded, sharded, small_buckets
from fewstep.training.stage import Batch, Examples, Stage
from fewstep.training.train_state import OBSERVED, State, trained

BAD_IN_A_ROW = 10
COMPILED_OFF = 0.1  # how far a compiled network's gradient may be off, as a share of the network's own: rounding in half precision is a hundredth
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
        self.accelerator = accelerator_for(settings, run, device)
        check_examples(data, self.accelerator)
        if self.accelerator.device.type == "cpu":
            keep_large_blocks_apart()
        self.main, self.sharded = self.accelerator.is_main_process, is_sharded(self.accelerator)
        self.place = torch.device("cpu") if self.sharded else self.accelerator.device  # of whole networks
        self.quiet = quiet or not self.main
        self.line = LiveLine(quiet=self.quiet)
        self.log = RunLog(run, self.accelerator, settings.log_with)
        self.signals: list[int] = []
        self.after_update: Callable[[Stage, State, Denoiser], None] = lambda stage, state, denoiser: None  # pictures while training
        self.stages: list[Planned] = []  # of the whole run, for the time that is left
        if not self.quiet:
            to_stderr(described(self.accelerator, settings))
            if few := small_buckets(data, settings.batch_size * settings.gradient_accumulation * self.accelerator.num_processes):
                to_stderr(few)

    def close(self) -> None:
        """Flush the log."""
        self.log.close()

    def train(self, stage: Stage, denoiser: Denoiser, position: str = "") -> dict[str, Any]:
        """Train the denoiser's network in place; it ends with its averaged weights. Returns the stage's entry of a model's history.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the state is saved.
            InputError: ten updates in a row were not finite, and the last good state is saved; or torch.compile makes the network wrong.
        """
        network = denoiser.network.to(self.place).train(stage.dropout)
        if self.settings.gradient_checkpointing:
            checkpoint_blocks(network)
        if self.accelerator.num_processes > 1 and not self.sharded:
            idle = self._has_idle_weights(stage, replace(denoiser, autocast=self.accelerator.autocast))
            handler: Any = DistributedDataParallelKwargs(find_unused_parameters=idle)
            self.accelerator.ddp_handler = handler
        state = State(stage, network, self.settings, self.accelerator)
        self._restore(stage, state)
        if self.settings.compile and not self.sharded:
            self._check_compiled(stage, denoiser, state)
        wrapped = replace(denoiser, network=state.wrapped, autocast=self.accelerator.autocast)
        with self._catch_signals(), self.batches_of(stage) as batches:
            self._loop(stage, state, wrapped, batches, position)
        state.finish()
        self.accelerator.free_memory()  # it would hold every stage's network and optimiser to the end
        network.eval()
        entry = {"stage": stage.name, "updates": state.update, "batch_size": state.global_batch}
        return entry | {"loss": state.loss, "skipped": state.skipped}

    def frozen(self, denoiser: Denoiser) -> Denoiser:
        """A model that a student learns from, in the run's precision, compiled and sharded as the student is."""
        network: Any = sharded(denoiser.network, self.accelerator) if self.sharded else denoiser.network
        network = torch.compile(network) if self.settings.compile else network
        weak = denoiser.weak and self.frozen(denoiser.weak)
        return replace(denoiser, network=network, weak=weak, autocast=self.accelerator.autocast)

    def batches_of(self, stage: Stage) -> Batches:
        """This process's batches of a stage, which end with the `with` that they are used in."""
        split = Split(self.accelerator.process_index, self.accelerator.num_processes, self.accelerator.device)
        return Batches(stage, self.data, self.settings, split)

    def gradients(self, stage: Stage, state: State, denoiser: Denoiser, batches: Batches) -> Tensor:
        """Accumulate the gradients of one update; the mean error, on the device."""
        parts = self.settings.gradient_accumulation
        total = torch.zeros((), device=self.accelerator.device)
        for part, batch in enumerate(batches.of(state.update, state.examples)):
            with state.adding(last=part == parts - 1):
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

    def _loop(self, stage: Stage, state: State, denoiser: Denoiser, batches: Batches, position: str) -> None:
        pace = Pace(state.update, batches)
        while not state.done:
            state.step(self.gradients(stage, state, denoiser, batches))
            if state.update - pace.first == OBSERVED and (few := state.few_examples()) and self.main:
                warnings.warn(
                    f"{stage.name}: the loss of its first {OBSERVED} updates is that of about {few[0]:.3g} of their {few[1]} examples; the others teach "
                    "next to nothing: set the stage's weighting to 'auto' or 'min_snr', and look for outliers in the data",
                    stacklevel=2,
                )
            if stage.validate is not None and state.update % stage.validate_every == 0:
                state.validate(denoiser)
            if state.done or state.update % self.settings.log_every == 0:
                self._report(stage, state, pace, position)
                if state.longest_bad_row >= BAD_IN_A_ROW:
                    self._save(state)
                    raise InputError(
                        f"{stage.name}: {BAD_IN_A_ROW} updates in a row had a loss or gradient that is not finite; the last good state is saved: "
                        "lower the learning_rate or set train.precision to 'no', in a new --out"
                    )
            self.after_update(stage, state, denoiser)
            if self._asked_to_stop(state):
                self._save(state)
                raise Interrupted(f"stopped at {stage.name}, update {state.update}; the same command goes on from there")
            if state.update % self.settings.checkpoint_every == 0 and not state.done:
                self._save(state)

    def _has_idle_weights(self, stage: Stage, denoiser: Denoiser) -> bool:
        """Whether some trained weights have no part in the error (Qwen-Image's last block makes text that nobody reads).

        Data-parallel processes would stop at the second update for want of their gradients, unless they look for them, which takes time.
        """
        error = stage.error(denoiser, self._first_batch(stage)).mean()
        gradients = torch.autograd.grad(error, list(trained(denoiser.network).values()), allow_unused=True)
        return any(gradient is None for gradient in gradients)

    def _first_batch(self, stage: Stage) -> Batch:
        with self.batches_of(stage) as batches:
            return next(batches.of(0, 0))

    def _check_compiled(self, stage: Stage, denoiser: Denoiser, state: State) -> None:
        """Refuse a compiled network whose gradient is not its own: such a training goes wrong without a word.

        torch 2.13 makes zero of the gradient of a small UNet's whole block on a CPU. Dropout, which is drawn in another way, is not compared.
        """
        network = denoiser.network
        if any(isinstance(module, torch.nn.Dropout) and module.training and module.p for module in network.modules()):
            return
        batch = self._first_batch(stage)

        def gradient(one: Any) -> tuple[Tensor | None, ...]:
            """Of the first output, weighted at random: that of the error is next to nothing where the student begins as its teacher."""
            outputs: list[Tensor] = []

            def call(*given: Any) -> Tensor:
                outputs.append(denoiser.call(*given))
                return outputs[-1]

            stage.error(replace(denoiser, network=one, call=call, autocast=self.accelerator.autocast), batch)
            at = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(0)).to(outputs[0])
            return torch.autograd.grad(outputs[0], list(trained(network).values()), at, allow_unused=True)

        own, other = gradient(network), gradient(state.compiled)
        off = sum(float((a - (0 if b is None else b)).square().sum()) for a, b in zip(own, other, strict=True) if a is not None)
        size = sum(float(a.square().sum()) for a in own if a is not None)
        if off > COMPILED_OFF**2 * size:
            raise InputError(
                f"train.compile: the gradient of the compiled network is {math.sqrt(off / size):.0%} off its own, where {COMPILED_OFF:.0%} is the limit: "
                "torch.compile makes this network wrong on this machine; set train.compile to false"
            )

    def _report(self, stage: Stage, state: State, pace: Pace, position: str) -> None:
        loss, speed, waiting = state.read(), pace.speed(state.update), pace.waiting()
        images = speed * state.global_batch
        bad = f", {state.skipped} skipped" if state.skipped else ""
        bad += f", held out {state.held_out[-1]:.3g}" if state.held_out else ""
        ending = "done" if state.done else self._left(stage, state, speed)
        self.line.show(
            f"{position}{stage.name}  {state.update}/{stage.updates}  loss {loss:.4g}  {images:.0f} images/s, {waiting:.1%} waiting for data  {ending}{bad}",
            final=state.done,
        )
        if self.main:
            known = {
                "loss": loss if math.isfinite(loss) else None,
                "learning_rate": state.rate,
                "images_per_second": images,
                "waiting_for_data": waiting,
            }
            known |= {"held_out": state.held_out[-1]} if state.held_out else {}
            self.log.write(stage=stage.name, update=state.update, **known, skipped=state.skipped)

    def _left(self, stage: Stage, state: State, speed: float) -> str:
        """The time left for the stage and for the run, and what the device holds at most so far."""
        an_update = 1 / max(speed, 1e-9)
        left = (stage.updates - state.update) * an_update
        run, device = seconds_left(self.stages, stage.name, left, an_update), self.accelerator.device
        of_run = "" if run is None or len(self.stages) == 1 else f", {clock(run)} for the run"
        held = f"  {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB" if device.type == "cuda" else ""
        return f"{clock(left)} left{of_run}{held}"

    def _save(self, state: State) -> None:
        state.read()  # so that the counters go along
        if self.sharded:
            save_shards(self._checkpoints, state.checkpoint(), self.accelerator)
        elif self.main:
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
