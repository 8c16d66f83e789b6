"""Features in which samples are compared with data: what any of them must offer, and opening the one that the user chose."""

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from fewstep.errors import InputError, nearest
from fewstep.evaluation.classifier import Classifier, cache_folder, train_classifier, train_or_load_classifier
from fewstep.evaluation.clip_score import ClipFeatures, ClipScore
from fewstep.evaluation.extractors import open_inception, open_onnx, open_script

__all__ = ["Classifier", "Features", "open_features", "train_classifier", "train_or_load_classifier"]
INCEPTION = "inception="  # before the file's name, in a choice


class Features(Protocol):
    """A way to turn images into vectors."""

    @property
    def name(self) -> str:
        """What a table calls it."""
        ...

    @property
    def dimension(self) -> int:
        """Numbers in a feature vector."""
        ...

    @property
    def size(self) -> int | None:
        """Pixels that it works at; None: any."""
        ...

    @property
    def accuracy_of(self) -> float | None:
        """Share of held-out images that it classifies right, where that is known."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash that changes with the features, for the names of cached files."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Features float64 (n, d), on the CPU, of images (n, c, h, w) in [-1, 1]; what is outside is clipped first.

        Raises:
            InputError: images that are not finite or do not fit, or features that are not finite.
        """
        ...

    def logits(self, features: Tensor) -> Tensor | None:
        """Logits (n, k) of features (n, d), where it has any."""
        ...


def open_features(
    choice: str,
    data: Any = None,
    cache: str | Path | None = None,
    device: str = "cpu",
    quiet: bool = False,
    clip: ClipScore | None = None,
) -> Features:
    """The features of a choice: "classifier", "clip", "inception=FILE", a TorchScript file, or an .onnx file.

    The classifier is trained on `data` and kept in `cache`, by default beside them; "clip" are those of `clip`; the others are files.

    Raises:
        InputError: an unknown choice, a file that is missing or of another format, or data that a classifier cannot be trained on.
    """
    if choice == "clip":
        if clip is None:
            raise InputError("features 'clip' need a CLIP model: name a folder or a hub id with --clip (evaluate.clip)")
        return ClipFeatures(clip)
    if choice == "classifier":
        if data is None:
            raise InputError("the classifier's features need data to train on: name the data, or a features file")
        return train_or_load_classifier(data, cache_folder(data) if cache is None else cache, quiet=quiet)
    if choice.startswith(INCEPTION):
        return open_inception(Path(choice.removeprefix(INCEPTION)).expanduser(), device)
    path = Path(choice).expanduser()
    if not path.is_file():
        raise InputError(
            f"there is no features file '{choice}'; {nearest(choice, ['classifier', 'clip'])}, inception=FILE, or a TorchScript or .onnx file"
        )
    if path.suffix.lower() == ".onnx":
        return open_onnx(path)
    channels, size = (3, 32) if data is None else (data.channels, data.size)
    return open_script(path, channels, size, device)
