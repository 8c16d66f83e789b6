"""The network as an ONNX file: inputs z, timestep, the condition's tensors and w, any batch size; checked against PyTorch.

Beside it `onnx.json` has all that a sampler needs besides: the inputs, the times of each step with their alpha and sigma, and the
difference that the check found. Text encoder and VAE are not in it.
"""

import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.errors import InputError, as_input_error, first_line
from fewstep.method.conditioning import Condition, to
from fewstep.method.guidance import weight_of
from fewstep.method.process import time_grid
from fewstep.models.model import DEFAULT_STEPS, Model

OPSET = 18
TOLERANCE = 1e-4  # largest difference between ONNX Runtime and PyTorch, relative to the largest output; about 1e-6 is usual
LARGEST = 1_900_000_000  # bytes of weights in the .onnx file itself, whose format ends at 2 GiB; of more they are beside it
NETWORK, FACTS = "network.onnx", "onnx.json"


class Called(nn.Module):
    """A network as its family calls it: (z, timestep, condition, w) or, where it takes no w, (z, timestep, condition)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = model.denoiser.network
        self.calls = (model.denoiser.call,)  # in a tuple, where it is no method of this module

    def forward(self, z: Tensor, timestep: Tensor, condition: Condition, w: Tensor | None = None) -> Tensor:
        """The network's output (b, ...)."""
        return self.calls[0](self.network, z, timestep, condition, w)


def write_onnx(model: Model, out: Path) -> None:
    """Write `network.onnx` and `onnx.json` into the folder `out`; for one image at a time where PyTorch can export no other.

    Raises:
        InputError: the extra `onnx` is not installed, or PyTorch cannot export this network.
        RuntimeError: ONNX Runtime's output differs from PyTorch's by more than `TOLERANCE` (the file is not to be used).
    """
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise InputError(f"--format onnx needs {' and '.join(missing)}; install it: pip install 'fewstep[onnx]'")
    model = model.fold_negative_prompt(plain=True)
    model.denoiser.network.requires_grad_(False).eval()
    try:
        made, sizes = exported(model, 2), (1, 3)
    except Exception:  # the exporter's kinds of error are many; some networks have code for which the batch must be known
        try:
            made, sizes = exported(model, 1), (1,)
        except Exception as error:
            reason = first_line(error.__cause__ or error)
            raise InputError(
                f"PyTorch cannot export this network of {model.info.family} to ONNX ({reason}); use --format diffusers"
            ) from error
    out.mkdir(parents=True, exist_ok=True)
    weights = sum(p.numel() * p.element_size() for p in model.denoiser.network.parameters())
    made.save(out / NETWORK, external_data=weights > LARGEST)
    facts = facts_of(model, "batch" if len(sizes) > 1 else 1) | {"largest_difference": check(model, out / NETWORK, sizes)}
    (out / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def exported(model: Model, n: int) -> Any:
    """The network as an ONNX program: for any batch size where n is 2, for one image where n is 1."""
    given, called, log = inputs_of(model, n), Called(model), logging.getLogger("torch.onnx")
    called(**given)  # what a network computes once and keeps is computed here: while traced it would be without content
    free = {0: torch.export.Dim.DYNAMIC} if n > 1 else None
    shapes = {key: dict.fromkeys(value, free) if isinstance(value, dict) else free for key, value in given.items()}
    level = log.level
    with warnings.catch_warnings():  # of torchvision that is not here, and of names that the exporter changes
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            return torch.onnx.export(
                called, (), kwargs=given, dynamo=True, dynamic_shapes=shapes if free else None, opset_version=OPSET, verbose=False,
                input_names=list(named(given)), output_names=["output"],
            )  # fmt: skip
        finally:
            log.setLevel(level)


def inputs_of(model: Model, n: int) -> dict[str, Any]:
    """Inputs (n, ...) of the network: z, timesteps from 1 to 1 / n, a condition, and w over the model's range where it takes one."""
    info, device = model.info, model.denoiser.device
    dtype = next(model.denoiser.network.parameters()).dtype
    z = torch.randn(n, *info.shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    timestep = model.denoiser.process.network_time(time_grid(n, device)[:-1]).to(device)
    given = {"z": z, "timestep": timestep, "condition": to(model.example(n), device)}
    if not info.takes_w:
        return given
    low, high = (weight_of(scale) for scale in info.guidance_scale or (1.0, 2.0))
    return given | {"w": torch.linspace(low, high, n, device=device)}


def named(given: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors among the network's inputs, by their names in the file, in its order."""
    leaves = given["condition"] if isinstance(given["condition"], dict) else {"labels": given["condition"]}
    return {"z": given["z"], "timestep": given["timestep"], **leaves, **({"w": given["w"]} if "w" in given else {})}


@torch.no_grad()
def check(model: Model, file: Path, sizes: tuple[int, ...]) -> float:
    """The largest difference between ONNX Runtime and PyTorch for batches of these sizes, relative to the largest output.

    Raises:
        InputError: ONNX Runtime cannot open the file.
        RuntimeError: it is above `TOLERANCE`.
    """
    import onnxruntime

    problem = f"ONNX Runtime cannot open what PyTorch made of this network of {model.info.family}"
    with as_input_error(problem, "use --format diffusers"):
        session, worst = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]), 0.0
    inputs = {entry.name for entry in session.get_inputs()}
    for n in sizes:
        given = inputs_of(model, n)
        feeds = {name: value.cpu().numpy() for name, value in named(given).items() if name in inputs}
        output, right = torch.from_numpy(session.run(None, feeds)[0]), Called(model)(**given).cpu()
        worst = max(worst, float((output - right).abs().max() / right.abs().max().clamp(min=1)))
    if not worst <= TOLERANCE:
        raise RuntimeError(
            f"ONNX Runtime's output of {file} differs from PyTorch's by {worst:.2g} (at most {TOLERANCE:g} is right)"
        )
    return worst


def facts_of(model: Model, batch: str | int) -> dict[str, Any]:
    """The content of `onnx.json`: the inputs, the table of steps, and what the model is."""
    info, process, times = model.info, model.denoiser.process, time_grid(model.info.steps or DEFAULT_STEPS)
    alphas, sigmas = (value.flatten().tolist() for value in process.at(times, times))
    steps = zip(process.network_time(times).tolist(), alphas, sigmas, strict=True)
    inputs = named(inputs_of(model, 1)).items()
    return {
        "inputs": {name: {"shape": [batch, *value.shape[1:]], "dtype": str(value.dtype)[6:]} for name, value in inputs},
        "opset": OPSET, "tolerance": TOLERANCE, "prediction": info.prediction, "sampler": info.sampler,
        "grid": [dict(zip(("timestep", "alpha", "sigma"), step, strict=True)) for step in steps],
        "model": info.model_dump(mode="json"),
    }  # fmt: skip
