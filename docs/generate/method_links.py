"""On the page of the method, each function's name leads to its place in the reference of Python."""

import ast
import re
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "fewstep" / "method"
MODULES = ("process", "parameterization", "guidance", "guidance_rules", "stage_one", "stage_two", "samplers", "gaussian_mixture")
NAME = re.compile(r"`(\w+)`|(?s:```.*?```)")


def functions() -> dict[str, str]:
    """The public functions and classes of the mathematics: their full names by their own."""
    found: dict[str, str] = {}
    for module in MODULES:
        for node in ast.parse((SOURCE / f"{module}.py").read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, f"fewstep.method.{module}.{node.name}")
    return found


def linked(markdown: str) -> str:
    """The text with each function's name, written as code, made a reference to it."""
    known = functions()
    return NAME.sub(lambda found: f"[{found[0]}][{known[found[1]]}]" if found[1] in known else found[0], markdown)
