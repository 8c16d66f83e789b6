"""The page of recipes, made of the shipped TOML files: what their comments say, and the files themselves."""

import html
import re
from pathlib import Path

from fewstep.training.recipe import load_recipe, shipped_recipes


def recipes() -> str:
    """Markdown of every shipped recipe."""
    known = shipped_recipes()
    listed = "\n".join(f"| [`{name}`](#{anchor(name)}) | {first_sentence(path)} |" for name, path in known.items())
    return "\n\n".join([f"| recipe | |\n|---|---|\n{listed}", *(section(name, path) for name, path in known.items())])


def large_recipes() -> str:
    """A table of the recipes for teachers of the hub: teacher, range of guidance scales, and the cost that their comments name."""
    rows = []
    for name, path in shipped_recipes().items():
        said = split(path.read_text(encoding="utf-8"))[0]
        cost = next((line.partition(":") for line in said if line.startswith("Cost, each of")), None)
        if cost:
            recipe = load_recipe(path)
            low, high = recipe.student.guidance_scale
            text = html.escape(f"{cost[0].removeprefix('Cost, ')}: {cost[2].strip().removesuffix('.')}", quote=False)
            rows.append(f"| [`{name}`](recipes.md#{anchor(name)}) | `{recipe.teacher.path}` | {low:g} to {high:g} | {text} |")
    return "| recipe | teacher | guidance scales | cost |\n|---|---|---|---|\n" + "\n".join(rows)


def anchor(name: str) -> str:
    """The anchor of a recipe's heading."""
    return f"recipe-{name}"


def section(name: str, path: Path) -> str:
    """Markdown of one recipe: its comment as text, then the file."""
    said, body = split(path.read_text(encoding="utf-8"))
    file = "\n".join("    " + line if line else "" for line in ["```toml", *body.strip().splitlines(), "```"])
    return f'### {name} {{ #{anchor(name)} }}\n\n{prose(said)}\n\n??? note "`recipes/{path.name}`"\n\n{file}'


def split(text: str) -> tuple[list[str], str]:
    """The lines of the comment at the top, without their marks, and the rest of the file."""
    lines = text.splitlines()
    top = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    return [line.removeprefix("#").removeprefix(" ") for line in lines[:top]], "\n".join(lines[top:])


def prose(lines: list[str]) -> str:
    """The comment as paragraphs, a new line after each that ends a sentence; what is set in is a command line."""
    blocks: list[tuple[bool, list[str]]] = []
    for line in [*lines, ""]:
        code = line.startswith("  ")
        if not line.strip():
            blocks.append((False, []))
        elif blocks and blocks[-1][1] and blocks[-1][0] == code:
            blocks[-1][1].append(line.strip())
        else:
            blocks.append((code, [line.strip()]))
    return "\n\n".join(code_block(text) if code else lines_of(text) for code, text in blocks if text)


def lines_of(lines: list[str]) -> str:
    """A paragraph of the lines, broken where one ends a sentence."""
    text = [html.escape(re.sub(r"\s{2,}", " ", line), quote=False) for line in lines]
    return "".join(line + ("  \n" if line.endswith(".") else " ") for line in text).strip()


def code_block(lines: list[str]) -> str:
    """Command lines, each remark (set off by four spaces or more) behind a `#`."""
    return "\n".join(["```sh", *(re.sub(r"\s{4,}(?=\S)", "    # ", line) for line in lines), "```"])


def first_sentence(path: Path) -> str:
    """What a recipe is, in its comment's first sentence."""
    text = " ".join(line.strip() for line in split(path.read_text(encoding="utf-8"))[0])
    return html.escape(re.split(r"(?<=[a-z0-9)])[.:]\s", text, maxsplit=1)[0], quote=False).replace("|", "\\|")
