"""The map in the package's docstring is the order of imports: no file imports a later one at its top."""

import ast
from pathlib import Path

import fewstep

SOURCE = Path(fewstep.__file__).parent
ORDER = [
    "errors", "process", "prediction", "condition", "guidance", "stage_one", "stage_two", "samplers", "exact", "denoiser", "info", "families", "negative_embedding", "model", "lora", "teachers", "stock_code", "card", "folder", "hub",
    "settings", "recipe", "fingerprints", "decoding", "sources", "tables", "captions", "epochs", "data", "encoding", "masks", "prompts", "negatives", "inputs", "checkpoint", "progress", "state", "training", "cache", "caching", "examples", "stages", "distillation", "run",
    "streaming", "measures", "extractors", "classifier", "clip_score", "features", "reference_statistics", "evaluation", "references", "pictures", "columns", "charts", "report", "bench",
    "baselines", "contenders", "tally", "wanted", "contest", "verdict", "comparison", "cost", "plan", "sizing", "show", "quickstart",
    "images", "editing", "inpainting", "translation", "sheets", "onnx_file", "export",
    "options", "train_commands", "use_commands", "evaluate_command", "edit_commands", "export_command", "playground_models", "playground_pictures", "playground", "playground_record", "playground_html", "playground_about", "playground_guard", "playground_controls", "playground_tabs", "playground_command",
    "cli", "__main__",
]  # fmt: skip


def imported(path):
    """The modules of ours that a file imports at its top."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fewstep."):
            yield node.module.split(".")[1]


def test_the_order_names_every_file():
    files = {path.stem for path in SOURCE.glob("*.py")} | {"families"}
    assert files - {"__init__"} == set(ORDER)


def test_no_file_imports_a_later_one():
    for path in SOURCE.rglob("*.py"):
        own = "families" if path.parent.name == "families" else path.stem
        for name in imported(path):
            assert own == "__init__" or ORDER.index(name) < ORDER.index(own) or name == own == "families", (
                f"{path.name} imports {name}"
            )


def test_the_mathematics_touches_neither_files_nor_devices():
    for name in ORDER[1:9]:
        text = (SOURCE / f"{name}.py").read_text()
        for word in ("pathlib", "open(", "cuda", "fewstep.recipe", "fewstep.training"):
            assert word not in text, f"{name}.py has {word}"
