"""What fewstep costs over the network itself, timed against the same calls of the bare network.

One run of our code is watched, and each call of a network in it is repeated with the very same arguments in a plain loop. Both are
timed in turn, and the ratio is the median over the pairs: what else a machine does then slows both.
"""

import os
import platform
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.devices import seconds
from fewstep.models.model import Model
from fewstep.models.sampling import Samples

GOAL = 1.05  # largest ratio to the bare network
WARM_UP = 3  # runs of each before any is timed
Progress = Callable[[str], Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One recorded call of a network."""

    network: nn.Module
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    trained: bool  # a backward pass follows

    def __call__(self) -> Tensor:
        """The network's output, whatever it wraps it in."""
        output = self.network(*self.arguments, **self.named)
        return output if isinstance(output, Tensor) else output[0]


@contextmanager
def recorded(*networks: nn.Module) -> Iterator[list[Call]]:
    """The calls of these networks that are made inside, in order."""
    calls: list[Call] = []

    def note(network: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        calls.append(Call(network, arguments, named, torch.is_grad_enabled()))

    handles = [network.register_forward_pre_hook(note, with_kwargs=True) for network in networks]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def bench_model(
    model: Model, batch_size: int = 64, repeats: int = 20, steps: int | None = None, progress: Progress = lambda text: None
) -> dict[str, Any]:
    """Latency (one image) and throughput (`batch_size` images) of sampling, against as many calls of the bare network.

    A teacher is guided, so its bare calls have twice the batch. Without `steps` a student takes its own, any other model 4.

    Raises:
        InputError: steps that the model was not trained for.
    """
    rows = []
    for what, size in (("latency", 1), ("throughput", batch_size)):
        progress(f"{what}: {size} image{'s' * (size > 1)} at a time")
        rows.append(sampling_row(model, what, size, steps or model.info.steps or 4, repeats))
    info, parameters = model.info, list(model.denoiser.network.parameters())
    return {
        "model": {"kind": info.kind, "family": info.family, "steps": info.steps, "shape": list(info.shape)},
        "parameters": sum(p.numel() for p in parameters), "dtype": str(parameters[0].dtype).removeprefix("torch."), "rows": rows,
        "peak_memory": max(row["peak_memory"] for row in rows), "machine": machine(model.denoiser.device),
    }  # fmt: skip


def sampling_row(model: Model, what: str, batch_size: int, steps: int, repeats: int) -> Row:
    """The row of `batch_size` images in `steps` steps."""
    info, device = model.info, model.denoiser.device
    low, high = info.guidance_scale or (2.0, 2.0)
    condition = model.example(batch_size)
    scale, noise = (low + high) / 2, torch.randn(batch_size, *info.shape)

    def ours() -> Samples:
        return model.sample_tensor(condition, steps=steps, guidance_scale=scale, noise=noise, batch_size=batch_size)

    with recorded(model.denoiser.network) as calls:
        drawn = ours()

    @torch.no_grad()
    def bare() -> None:
        for call in calls:
            call()

    row = timed(ours, bare, repeats, device) | {"evaluations": drawn.evaluations, "batch_size": batch_size, "steps": steps}
    # no goal for one image alone: there a small network's time goes to starting each operation, ours and its own
    known = {"what": f"{info.kind}, {steps} step{'s' * (steps > 1)}, {what}", "goal": GOAL if what == "throughput" else None}
    return known | row | {"images_per_second": batch_size / row["seconds"]}


def timed(ours: Callable[[], Any], bare: Callable[[], Any], repeats: int, device: torch.device) -> Row:
    """Seconds of both, median and least, the median ratio of the pairs, and the peak memory of ours in bytes."""
    for _ in range(WARM_UP):
        ours()
        bare()
    peak_memory(device, reset=True)
    ours()
    row, pairs = {"peak_memory": peak_memory(device)}, []
    for number in range(repeats):  # each is first in every second pair
        spans = {work: seconds(work, device) for work in ((bare, ours) if number % 2 else (ours, bare))}
        pairs.append((spans[ours], spans[bare]))
    first, second = zip(*pairs, strict=True)
    return row | {
        "seconds": statistics.median(first), "seconds_min": min(first),
        "bare_seconds": statistics.median(second), "bare_seconds_min": min(second),
        "ratio": statistics.median(a / b for a, b in pairs), "repeats": repeats,
    }  # fmt: skip


def peak_memory(device: torch.device, reset: bool = False) -> int:
    """Bytes: on a GPU the most that tensors held since `reset`, else the most that the whole process ever held."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    name, cpus = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "cpu" and cpus.is_file() and (found := re.search("model name.*?: *(.+)", cpus.read_text())):
        name = found[1].strip()
    return {
        "device": device.type, "name": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "diffusers": version("diffusers"), "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }  # fmt: skip


def bench_text(measured: dict[str, Any]) -> str:
    """What `bench_model` found, as a table for people."""
    on, model, mib = measured["machine"], measured["model"], measured["peak_memory"] / 2**20
    return "\n".join([
        f"{model['kind']}, denoises {'x'.join(map(str, model['shape']))}, {measured['parameters']:,} parameters, {measured['dtype']}",
        f"{on['name']} ({on['device']}), {on['threads']} of {on['cores']} cores, torch {on['torch']}; peak memory {mib:,.0f} MiB",
        *table(measured["rows"]),
    ])  # fmt: skip


def table(rows: list[Row]) -> list[str]:
    """A heading, and a line a row."""
    lines = [f"{'':30}{'batch':>6}{'fewstep':>14}{'bare network':>14}{'ratio':>7}{'goal':>6}{'images/s':>10}"]
    for r in rows:
        times = "".join(f"{1e3 * r[key]:>11.2f} ms" for key in ("seconds", "bare_seconds"))
        goal = f"{r['goal']:.2f}" if r["goal"] else ""
        lines.append(f"{r['what']:30}{r['batch_size']:>6}{times}{r['ratio']:>7.3f}{goal:>6}{r['images_per_second']:>10,.0f}")
    return lines
