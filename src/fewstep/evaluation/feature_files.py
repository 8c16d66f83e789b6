"""Opening the features that a user chose: a classifier of the data, CLIP, DINOv2, the Inception network of FID, another TorchScript, or ONNX."""

import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.data.fingerprints import whole
from fewstep.errors import InputError, nearest
from fewstep.evaluation.classifier import cache_folder, train_or_load_classifier
from fewstep.evaluation.clip_score import ClipScore, last_line
from fewstep.evaluation.dinov2 import PUBLISHED, open_dinov2
from fewstep.evaluation.features import BATCH, Features, checked

INCEPTION, DINOV2 = "inception=", "dinov2="  # before the file's or model's name, in a choice
INCEPTION_SOURCE = (
    "the TorchScript file inception-2015-12-05.pt of StyleGAN2-ADA's metrics, "
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
)
INCEPTION_FEATURES = 2048


def open_features(
    choice: str, data: Any, cache: str | Path | None = None, device: str = "cpu", quiet: bool = False, clip: ClipScore | None = None
) -> Features:
    """The features of a choice: "classifier", "clip", "dinov2" or "dinov2=MODEL", "inception=FILE", a TorchScript file, or an .onnx file.

    The classifier is trained on `data` and kept in `cache`, by default beside them; "clip" are those of `clip`; the others are files.

    Raises:
        InputError: an unknown choice, a file that is missing or of another format, or data that a classifier cannot be trained on.
    """
    if choice == "clip":
        if clip is None:
            raise InputError("features 'clip' need a CLIP model: name a folder or a hub id with --clip (evaluate.clip)")
        return clip.features()
    if choice == "classifier":
        return train_or_load_classifier(data, cache or cache_folder(data), quiet=quiet)
    if choice == "dinov2" or choice.startswith(DINOV2):
        return open_dinov2(choice.removeprefix(DINOV2) if choice != "dinov2" else PUBLISHED, device)
    path = Path(choice.removeprefix(INCEPTION)).expanduser()
    if choice.startswith(INCEPTION):
        return open_inception(path, device)
    if not path.is_file():
        raise InputError(
            f"there is no features file '{choice}'; {nearest(choice, ['classifier', 'clip', 'dinov2'])}, inception=FILE, or a TorchScript or .onnx file"
        )
    return open_onnx(path) if path.suffix.lower() == ".onnx" else open_script(path, data.channels, data.size, device)


def open_inception(path: Path, device: str = "cpu") -> Features:
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
        return without_warnings(module, pixels, return_features=True)

    try:
        dimension, head = checked(run(torch.zeros(1, 3, 32, 32)), 1, path.name).shape[1], linear(module.output.weight, None)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not of the FID Inception format ({last_line(error)}); get {INCEPTION_SOURCE}") from error
    if dimension != INCEPTION_FEATURES:
        given = f"{path} gives {dimension} features; the FID Inception network gives {INCEPTION_FEATURES}"
        raise InputError(f"{given}: get {INCEPTION_SOURCE}")
    return Features("inception", INCEPTION_FEATURES, run, whole(path), channels=3, head=head)


def open_script(path: Path, channels: int, size: int, device: str = "cpu") -> Features:
    """Features of any TorchScript module that takes float images (n, c, h, w) in [-1, 1] and gives (n, d).

    It is tried with images of that many channels and pixels; grey ones are repeated where it needs colour. A linear layer of it
    named `output` makes logits.

    Raises:
        InputError: it is not TorchScript, or does not take these images or give such features.
    """
    module, failures = load_script(path, device), []

    def run(images: Tensor) -> Tensor:
        return without_warnings(module, images.to(device))

    for count in dict.fromkeys((channels, 3)):
        try:
            features = run(torch.zeros(2, count, size, size))
        except RuntimeError as error:
            failures.append(last_line(error))
            continue
        dimension = checked(features, 2, path.name).shape[1]
        weight, bias = (getattr(getattr(module, "output", None), key, None) for key in ("weight", "bias"))
        fits = isinstance(weight, Tensor) and weight.ndim == 2 and weight.shape[1] == dimension
        return Features(path.name, dimension, run, whole(path), count, head=linear(weight, bias) if fits else None)
    shape = f"(n, {channels}, {size}, {size})"
    raise InputError(f"{path} does not take images of shape {shape} ({failures[0]}): give a module for this shape")


def linear(weight: Any, bias: Any) -> nn.Linear:
    """The layer of weight (k, d) and bias (k,) or None, float64, on the CPU."""
    values = {key: value.detach() for key, value in (("weight", weight), ("bias", bias)) if isinstance(value, Tensor)}
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in values, dtype=torch.float64)
    layer.load_state_dict(values)
    return layer


def load_script(path: Path, device: str) -> Any:
    """The TorchScript module in a file, in evaluation mode.

    Raises:
        InputError: the file is something else.
    """
    try:
        return without_warnings(torch.jit.load, str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} is not a TorchScript file: give one that torch.jit.save wrote, or an .onnx file") from error


def without_warnings(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call it without torch's warnings that TorchScript is being retired."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        return function(*arguments, **named)


def open_onnx(path: Path) -> Features:
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
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3  # errors alone
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        images, output = session.get_inputs()[0], session.get_outputs()[0].name
        count, channels, height, _ = (n if isinstance(n, int) else None for n in images.shape)

        def run(x: Tensor) -> Tensor:
            return torch.from_numpy(session.run([output], {images.name: x.contiguous().numpy()})[0])

        features = run(torch.zeros(count or 2, channels or 3, height or 64, height or 64))
    except Exception as error:  # onnxruntime's own classes, which come from its compiled part
        needed = "an ONNX file that takes float images (n, c, h, w)"
        raise InputError(f"{path} is not {needed} ({last_line(error)}): export it again") from error
    dimension = checked(features, count or 2, path.name).shape[1]
    if count not in (None, 1):
        raise InputError(f"{path} takes {count} images at a time; export it with a dynamic first axis")
    return Features(path.name, dimension, run, whole(path), channels, height, batch=count or BATCH)
