"""What changes while a stage is trained: weights, their average, the optimiser, and counters, all kept on the device."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fewstep import compat
from fewstep.errors import InputError
from fewstep.models.denoiser import Denoiser
from fewstep.training.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from fewstep.training.settings import TrainSettings
from fewstep.training.sharing import is_part, is_sharded, sharded, whole
from fewstep.training.stage import Stage


def learning_rate_factor(schedule: str, update: int, updates: int, warmup: int) -> float:
    """Factor of the learning rate at `update` (0-based): a linear warm-up, then constant, or to zero linearly or by a cosine."""
    rise = min(1.0, (update + 1) / warmup) if warmup else 1.0
    progress = update / max(updates, 1)
    fall = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[schedule]
    return rise * fall


def trained(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes: all, or of a LoRA student its adapters and its layer for w."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


OBSERVED = 100  # updates at the beginning of a stage whose examples' errors are looked at
FEW = 0.01  # share of the examples: where fewer make the loss, it is dominated by them


class Ema:
    """Exponential moving average of a network's trained parameters, with a decay that grows to `decay` as the average fills."""

    def __init__(self, network: nn.Module, decay: float, device: str = "device") -> None:
        self.decay, self.elsewhere = decay, device == "cpu"
        self.average = [self.there(p).clone() for p in trained(network).values()]

    def there(self, p: Tensor) -> Tensor:
        """A parameter where the average is; on the CPU itself no copy."""
        return p.detach().cpu() if self.elsewhere else p.detach()

    def update(self, network: nn.Module, update: int) -> None:
        """Take in the parameters after `update` (0-based); one fused call, and nothing waits on the device unless the average is elsewhere."""
        average_into: Any = get_ema_multi_avg_fn(min(self.decay, (1 + update) / (10 + update)))
        average_into(self.average, [self.there(p) for p in trained(network).values()], None)

    @torch.no_grad()
    def change_places(self, network: nn.Module) -> None:
        """Put the average into the network and the network's weights into the average; no copy is made where both are on one device."""
        for i, p in enumerate(trained(network).values()):
            average = self.average[i]
            if is_part(p) or average.device != p.device:
                kept = p.detach().clone()
                p.copy_(average)
                average.copy_(kept)
            else:
                self.average[i], p.data = p.data, average


def optimizer_of(settings: TrainSettings, parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """AdamW, fused, or with moments of 8 bits by bitsandbytes.

    Raises:
        InputError: the package for 8 bits is not installed.
    """
    known: dict[str, Any] = {"lr": rate, "betas": (0.9, 0.99), "weight_decay": settings.weight_decay}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **known)
    if find_spec("bitsandbytes") is None:
        raise InputError("train.optimizer 'adamw8bit' needs its package: pip install 'fewstep[adamw8bit]', or set it to 'adamw'")
    from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports] - an extra

    return AdamW8bit(parameters, **known)


class State:
    """All that changes while a stage is trained."""

    def __init__(self, stage: Stage, network: nn.Module, settings: TrainSettings, accelerator: Accelerator) -> None:
        self.stage, self.settings, self.accelerator = stage, settings, accelerator
        self.sharded, self.given = is_sharded(accelerator), network
        self.network = sharded(network, accelerator) if self.sharded else network
        self.global_batch = settings.batch_size * settings.gradient_accumulation * accelerator.num_processes
        self.update = self.skipped = self.longest_bad_row = 0
        self.examples: int = 0  # that the updates have taken: the position in the data
        self.rate, self.loss = 0.0, float("nan")
        self.held_out: list[float] = []  # the error of examples that are kept out, at each validation
        self.ema = Ema(self.network, settings.ema, settings.ema_device)
        if self.sharded and settings.optimizer == "adamw8bit":
            raise InputError("train.optimizer 'adamw8bit' is not known with FSDP2: set it to 'adamw', or use DDP")
        self.optimizer = optimizer_of(settings, list(trained(self.network).values()), stage.learning_rate)
        self.compiled: Any = torch.compile(self.network) if settings.compile else self.network
        if self.sharded:
            self.wrapped, self.prepared = self.compiled, accelerator.prepare_optimizer(self.optimizer)
        else:
            self.wrapped, self.prepared = accelerator.prepare(self.compiled, self.optimizer)
        # on the device, read at each log: [sum of losses, updates in it, bad updates, bad in a row, the longest such row]
        self.counts = torch.zeros(5, device=accelerator.device)
        self.observed = torch.zeros(3, device=accelerator.device)  # of examples' errors: their number, sum, sum of squares
        self.observed_updates = 0

    @contextmanager
    def adding(self, last: bool) -> Iterator[None]:
        """Gradients are added up in each process, and averaged over the processes with the last micro-batch alone."""
        if self.sharded:
            network: Any = self.network
            network.set_requires_gradient_sync(last)
            yield
        else:
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                yield

    @torch.no_grad()
    def finish(self) -> None:
        """Put the averaged weights into the network that was given, which is whole in every process and computes as it did before."""
        if not self.sharded:  # accelerate has put the run's precision around its forward
            self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False, keep_torch_compile=False)
        for p, average in zip(trained(self.given).values(), self.ema.average, strict=True):
            p.copy_(whole(average))

    def observe(self, errors: Tensor) -> None:
        """Take in the errors (b,) of an update's examples, of the first `OBSERVED` updates; nothing waits on the device."""
        if self.observed_updates < OBSERVED * self.settings.gradient_accumulation:
            self.observed_updates += 1
            finite = torch.where(errors.isfinite(), errors, 0.0).float()
            self.observed += torch.stack([torch.ones_like(finite).sum(), finite.sum(), finite.square().sum()])

    def few_examples(self) -> tuple[float, int] | None:
        """(by how many examples the loss is made, of how many) where that is less than one in a hundred: (sum e)^2 / sum e^2 of their errors."""
        number, total, squares = cast(Tensor, self.accelerator.reduce(self.observed.clone(), "sum")).tolist()
        effective = total**2 / squares if squares else number
        return (effective, round(number)) if effective < FEW * number else None

    def step(self, loss: Tensor) -> None:
        """One update of weights and average; nothing changes where the gradient is not finite. Nothing waits on the device."""
        stage, warmup = self.stage, self.settings.warmup
        self.rate = stage.learning_rate * learning_rate_factor(stage.schedule, self.update, stage.updates, warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.gradient_clip)
        assert norm is not None
        norm = whole(norm)
        bad = (~norm.isfinite()).float()
        if self.settings.optimizer == "adamw8bit":  # which has no such kernel: the device is waited for
            if not bad:
                self.prepared.step()
        else:
            if self.accelerator.scaler is None:  # AdamW's fused kernel skips by this tensor, as it does for a gradient scaler
                compat.skip_where(self.optimizer, bad)
            self.prepared.step()
        self.prepared.zero_grad()
        self.ema.update(self.network, self.update)
        self.counts[:2] += torch.stack([torch.where(bad > 0, 0.0, loss), 1 - bad])
        self.counts[3] = (self.counts[3] + 1) * bad
        self.counts[2] += bad
        self.counts[4] = torch.maximum(self.counts[3], self.counts[4])
        self.update += 1
        self.examples += self.global_batch

    @property
    def done(self) -> bool:
        """Whether the stage is at its end: all updates made, or as many validations without a lower error as it has patience."""
        patience, errors = self.stage.patience, self.held_out
        impatient = bool(patience) and len(errors) > patience and min(errors[-patience:]) >= min(errors[:-patience])
        return self.update >= self.stage.updates or impatient

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the network has the averaged weights; those in training come back to the bit."""
        self.reshard()
        self.ema.change_places(self.network)
        try:
            yield
        finally:
            self.reshard()
            self.ema.change_places(self.network)

    def reshard(self) -> None:
        """Let go of what was gathered of a sharded network, which is of the weights that it had then."""
        if self.sharded:
            for module in self.network.modules():
                if hasattr(module, "reshard"):
                    module.reshard()  # pyright: ignore[reportCallIssue]

    def validate(self, denoiser: Denoiser) -> None:
        """Note the averaged weights' error on what is kept out; the weights in training stay as they are."""
        assert self.stage.validate is not None
        with self.averaged():
            self.held_out.append(self.stage.validate(denoiser))

    def read(self) -> float:
        """The mean loss since the last call, over all processes; also the counters."""
        counts = cast(Tensor, self.accelerator.reduce(self.counts.clone(), "mean")).tolist()
        total, updates, bad, row, self.longest_bad_row = counts[0], counts[1], *map(round, counts[2:])
        self.skipped += bad
        self.counts = torch.tensor([0.0, 0, 0, row, row], device=self.counts.device)
        self.loss = total / updates if updates else self.loss
        return self.loss

    def checkpoint(self) -> Checkpoint:
        """The state without weights that are not trained, of a sharded network this process's part."""
        frozen = {name for name, p in self.network.named_parameters() if not p.requires_grad}
        tensors = {f"network/{key}": value for key, value in self.network.state_dict().items() if key not in frozen}
        tensors |= {f"ema/{name}": value for name, value in zip(trained(self.network), self.ema.average, strict=True)}
        tensors |= {f"optimizer/{k}": v for k, v in optimizer_tensors(self.optimizer, list(trained(self.network))).items()}
        scaler = self.accelerator.scaler
        counters = {key: getattr(self, key) for key in ("update", "examples", "global_batch", "skipped", "loss", "held_out")}
        return Checkpoint(tensors, {"stage": self.stage.name, **counters, "scaler": scaler.state_dict() if scaler else None})

    def restore(self, checkpoint: Checkpoint) -> int:
        """Go on from a checkpoint of this stage; the examples of an update that it was trained with.

        The data go on from the recorded number of examples, whatever an update takes now: the draws of an update and the order of the
        data are the same for every split of one global batch into processes and micro-batches.
        """
        frozen = {name: p for name, p in self.network.named_parameters() if not p.requires_grad}
        weights = trained(self.network)
        like = {f"network/{key}": value for key, value in self.network.state_dict().items()}
        like |= {f"ema/{name}": p.detach() for name, p in weights.items()}
        like |= {f"optimizer/{name}|{key}": p.detach() for name, p in weights.items() for key in ("exp_avg", "exp_avg_sq")}
        like |= {f"optimizer/{name}|step": torch.zeros((), device=self.counts.device) for name in weights}
        if self.settings.optimizer == "adamw8bit":  # which has more parts, none of them sharded
            like |= {key: self.counts for key in checkpoint.tensors if key.startswith("optimizer/")}
        checkpoint = checkpoint.like(like)
        self.network.load_state_dict(frozen | checkpoint.part("network"))
        averages = checkpoint.part("ema")
        self.ema.average = [self.ema.there(averages[name]) for name in weights]
        restore_optimizer(self.optimizer, list(weights), checkpoint.part("optimizer"))
        values = checkpoint.values
        earlier: dict[str, Any] = {
            "global_batch": self.global_batch,
            "examples": values["update"] * self.global_batch,
            "held_out": [],
        }
        values = earlier | values  # checkpoints that were written before these keys: as it is now
        self.update, self.examples, self.skipped, self.loss = (values[k] for k in ("update", "examples", "skipped", "loss"))
        self.held_out = list(values["held_out"])
        if self.accelerator.scaler and values["scaler"]:
            self.accelerator.scaler.load_state_dict(values["scaler"])
        return values["global_batch"]
