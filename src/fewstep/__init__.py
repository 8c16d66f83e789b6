"""fewstep: distils guided diffusion models into one network that takes the guidance scale and samples in 1 to 4 steps.

Packages in reading order, which is also the order of imports (import-linter keeps it):

    method       the paper's mathematics, torch only
    models       a network and what is known of it; families: what is peculiar to one kind of network
    data         pictures, labels, captions and prompts as training data
    training     settings, recipes, losses, the training loop, run folders, cost
    evaluation   metrics, features, samplers to compare with, report; latency
    editing      SDEdit, inpainting, style transfer
    export       folders, LoRA files, ONNX, model cards, the hub
    api          the public face: Model, open_model, teach, distill
    playground   the page in the browser
    cli          the commands

Beneath all of them: errors, files, locks, devices, progress.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewstep.api import Model, distill, open_model, teach
    from fewstep.data.loading import Data, open_data
    from fewstep.errors import InputError
    from fewstep.evaluation.compare import compare
    from fewstep.evaluation.evaluate import evaluate
    from fewstep.method.process import Cosine, DiscreteBetas, RectifiedFlow
    from fewstep.models.denoiser import Denoiser

__version__ = version("fewstep")
__all__ = [
    "Cosine",
    "Data",
    "Denoiser",
    "DiscreteBetas",
    "InputError",
    "Model",
    "RectifiedFlow",
    "compare",
    "distill",
    "evaluate",
    "open_data",
    "open_model",
    "teach",
]

_HOMES = {
    "Cosine": "method.process", "DiscreteBetas": "method.process", "RectifiedFlow": "method.process", "Denoiser": "models.denoiser",
    "Data": "data.datasets", "open_data": "data.loading", "InputError": "errors", "evaluate": "evaluation.evaluate",
    "compare": "evaluation.compare",
    "Model": "api", "open_model": "api", "teach": "api", "distill": "api",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that `import fewstep` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fewstep' has no attribute {name!r}")
    return getattr(import_module(f"fewstep.{_HOMES[name]}"), name)
