"""Features by a network from a file: the Inception network that FID is defined by, any other TorchScript module, or ONNX."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.data.fingerprints import whole
from fewstep.errors import InputError

INCEPTION_SOURCE = (
    "the TorchScript file inception-2015-12-05.pt of StyleGAN2-ADA's metrics, "
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
)
INCEPTION_FEATURES = 2048
BATCH = 32  # Inception at 299 x 299 pixels takes about 15 MB an image


@dataclass(frozen=True)
class FromFile:
    """Features of images (n, c, h, w) by a network from a file; `run` takes images with `channels` channels in [-1, 1]."""

    name: str
    dimension: int
    channels: int | None  # None: those that come
    size: int | None  # None: any
    fingerprint: str  # of the file
    run: Callable[[Tensor], Tensor]
    weight: Tensor | None = None  # (k, d) of a last layer that makes logits of features
    bias: Tensor | None = None
    batch: int = BATCH
    accuracy_of: float | None = None  # nobody says

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """float64 (n, d), on the CPU; what is outside [-1, 1] is clipped first.

        Raises:
            InputError: non-finite images or features, or another shape than the network takes or is to give.
        """
        images = clipped(images)
        parts = [checked(self._run(part), len(part), self.name) for part in images.split(self.batch)]
        features = torch.cat(parts) if parts else torch.zeros(0, self.dimension, dtype=torch.float64)
        if features.shape[1] != self.dimension:
            raise InputError(f"{self.name} gives {features.shape[1]} features here but gave {self.dimension} before: use one size")
        return features

    def _run(self, images: Tensor) -> Tensor:
        return self.run(resized(with_channels(images, self.channels), self.size))

    def logits(self, features: Tensor) -> Tensor | None:
        """float64 (n, k) of features (n, d), by the layer named `output`; None where the file has none."""
        if self.weight is None:
            return None
        logits = features.double() @ self.weight.T
        return logits if self.bias is None else logits + self.bias


def clipped(images: Tensor) -> Tensor:
    """float32 images (n, c, h, w) within [-1, 1].

    Raises:
        InputError: some are not finite, or the shape is another.
    """
    if images.ndim != 4:
        raise InputError(f"images have shape {tuple(images.shape)}; (n, c, h, w) is needed")
    bad = int((~images.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise InputError(f"{bad} of {len(images)} images have values that are not finite: the model that drew them is broken")
    return images.float().clamp(-1, 1)


def checked(features: Any, count: int, name: str) -> Tensor:
    """The features as float64 (count, d), on the CPU.

    Raises:
        InputError: they are of another shape, or not finite.
    """
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != count or not features.shape[1]:
        got = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise InputError(f"{name} gives {got} for {count} images; features of shape ({count}, d) are needed: flatten its output")
    bad = int((~features.isfinite()).any(1).sum())
    if bad:
        raise InputError(f"{name} gives features that are not finite for {bad} of {count} images: use another features file")
    return features.double().cpu()


def with_channels(images: Tensor, channels: int | None) -> Tensor:
    """Images (n, c, h, w) with so many channels: grey repeated, or colour averaged."""
    if channels is None or images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1)
    return images.mean(1, keepdim=True).expand(-1, channels, -1, -1)


def resized(images: Tensor, size: int | None) -> Tensor:
    """Images (n, c, size, size), by antialiased bilinear resizing where they are of another size."""
    if size is None or images.shape[-2:] == (size, size):
        return images
    return torch.nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)


def open_inception(path: Path, device: str = "cpu") -> FromFile:
    """2048 features of the FID Inception network in the format of inception-2015-12-05.pt, which resizes inside itself.

    Logits are without the last layer's bias, as in the original Inception Score.

    Raises:
        InputError: the file is missing, or not of this format.
    """
    if not path.is_file():
        raise InputError(f"there is no Inception file {path}; get {INCEPTION_SOURCE}")
    module = load_script(path, device)

    def run(images: Tensor) -> Tensor:
        pixels = ((images + 1) * 127.5).round().to(torch.uint8).to(device)
        return quietly(module, pixels, return_features=True)

    try:
        features = checked(run(torch.zeros(1, 3, 32, 32)), 1, path.name)
        weight = module.output.weight.detach().double().cpu()
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not of the FID Inception format ({last_line(error)}); get {INCEPTION_SOURCE}") from error
    if features.shape[1] != INCEPTION_FEATURES:
        raise InputError(
            f"{path} gives {features.shape[1]} features; the FID Inception network gives {INCEPTION_FEATURES}: get {INCEPTION_SOURCE}"
        )
    return FromFile("inception", INCEPTION_FEATURES, 3, None, whole(path), run, weight)


def open_script(path: Path, channels: int, size: int, device: str = "cpu") -> FromFile:
    """Features of any TorchScript module that takes float images (n, c, h, w) in [-1, 1] and gives (n, d).

    It is tried with images of that many channels and pixels; grey ones are repeated where it wants colour. A linear layer of it
    named `output` makes logits.

    Raises:
        InputError: it is not TorchScript, or does not take these images or give such features.
    """
    module, failures = load_script(path, device), []

    def run(images: Tensor) -> Tensor:
        return quietly(module, images.to(device))

    for count in dict.fromkeys((channels, 3)):
        try:
            features = run(torch.zeros(2, count, size, size))
        except RuntimeError as error:
            failures.append(last_line(error))
            continue
        dimension = checked(features, 2, path.name).shape[1]
        weight, bias = head_of(module, dimension)
        return FromFile(path.name, dimension, count, None, whole(path), run, weight, bias)
    raise InputError(
        f"{path} does not take images of shape (n, {channels}, {size}, {size}) ({failures[0]}): give a module for this shape"
    )


def head_of(module: Any, dimension: int) -> tuple[Tensor | None, Tensor | None]:
    """Weight (k, d) and bias (k,) of the module's layer named `output`, where it fits features (n, d)."""
    weight, bias = (getattr(getattr(module, "output", None), key, None) for key in ("weight", "bias"))
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[1] != dimension:
        return None, None
    return weight.detach().double().cpu(), bias.detach().double().cpu() if isinstance(bias, Tensor) else None


def load_script(path: Path, device: str) -> Any:
    """The TorchScript module in a file, in evaluation mode.

    Raises:
        InputError: the file is something else.
    """
    try:
        return quietly(torch.jit.load, str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} is not a TorchScript file: give one that torch.jit.save wrote, or an .onnx file") from error


def quietly(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call it without torch's warnings that TorchScript is being retired."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return function(*arguments, **named)


def open_onnx(path: Path) -> FromFile:
    """Features of an ONNX network whose first input is float images (n, c, h, w) in [-1, 1] and whose first output is (n, d).

    Images are resized to the height that its input has fixed, if it has; on the CPU.

    Raises:
        InputError: onnxruntime is not installed, it is not ONNX, or it has another input or output.
    """
    try:
        runtime = import_module("onnxruntime")
    except ImportError as error:
        raise InputError(f"{path} needs onnxruntime, which is not installed: pip install onnxruntime") from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes, which come from its compiled part
        raise InputError(f"{path} is not an ONNX file that onnxruntime opens ({last_line(error)}): export it again") from error
    images, output = session.get_inputs()[0], session.get_outputs()[0]
    if len(images.shape) != 4 or images.type != "tensor(float)":
        raise InputError(f"{path} takes {images.type} of shape {images.shape}; float images (n, c, h, w) are needed: export it so")
    count, channels, height, _ = (n if isinstance(n, int) else None for n in images.shape)

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run([output.name], {images.name: x.contiguous().numpy()})[0])

    try:
        features = run(torch.zeros(count or 2, channels or 3, height or 64, height or 64))
    except Exception as error:
        raise InputError(f"{path} fails on images of zeros ({last_line(error)}): export it again") from error
    dimension = checked(features, count or 2, path.name).shape[1]
    if count not in (None, 1):
        raise InputError(f"{path} takes {count} images at a time; export it with a dynamic first axis")
    return FromFile(path.name, dimension, channels, height, whole(path), run, batch=count or BATCH)


def last_line(error: BaseException) -> str:
    """What an exception says, in one line: the last of a TorchScript's traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("RuntimeError: ")[:200] if lines else type(error).__name__
