"""fewstep: distils guided diffusion models into one network that takes the guidance scale and samples in 1 to 4 steps.

Reading order, which is also the order of imports:

    the mathematics   process, prediction, condition, guidance, stage_one, stage_two, samplers, exact
    models            denoiser, info, families/, negative_embedding, model, lora, teachers, stock_code, card, folder, hub
    training          settings, recipe, data (fingerprints, decoding, sources, tables, captions, epochs), encoding, masks, prompts, negatives, inputs,
                      checkpoint, progress, state, training, cache, caching, examples, stages, distillation, run
    use               streaming, measures, extractors, classifier, clip_score, features, reference_statistics, evaluation,
                      references, pictures, columns, charts, report, bench, baselines, contenders, tally, wanted, contest, verdict,
                      comparison, cost, plan, sizing, show, quickstart,
                      images, editing, inpainting, translation, sheets, onnx_file, export
    faces             options, train_commands, use_commands, evaluate_command, edit_commands, export_command,
                      playground (playground_models, playground_pictures, playground_record, playground_html, playground_about, playground_guard,
                  playground_controls, playground_tabs, playground_command), cli
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewstep.comparison import evaluate
    from fewstep.data import Data, open_data
    from fewstep.denoiser import Denoiser
    from fewstep.errors import InputError
    from fewstep.folder import open_model
    from fewstep.model import Model
    from fewstep.process import Cosine, DiscreteBetas, RectifiedFlow
    from fewstep.run import distill, teach

__version__ = version("fewstep")
__all__ = [
    "Cosine",
    "Data",
    "Denoiser",
    "DiscreteBetas",
    "InputError",
    "Model",
    "RectifiedFlow",
    "distill",
    "evaluate",
    "open_data",
    "open_model",
    "teach",
]

_HOMES = {
    "Cosine": "process", "Data": "data", "DiscreteBetas": "process", "RectifiedFlow": "process", "Denoiser": "denoiser", "InputError": "errors",
    "Model": "model", "open_model": "folder", "open_data": "data", "teach": "run", "distill": "run",
    "evaluate": "comparison",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that `import fewstep` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fewstep' has no attribute {name!r}")
    return getattr(import_module(f"fewstep.{_HOMES[name]}"), name)
