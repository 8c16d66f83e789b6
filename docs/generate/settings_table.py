"""The table of settings, made of the pydantic models: each key with its values and bounds, default, and the comment beside it."""

import inspect
import io
import json
import tokenize
from typing import Any, get_args

from pydantic import BaseModel

from fewstep.training.settings import Recipe


def settings() -> str:
    """Markdown of every section of a recipe, and of the tables in it."""
    return "\n\n".join(part for name, field in Recipe.model_fields.items() for part in sections(name, field.annotation))


def sections(name: str, model: Any) -> list[str]:
    """Markdown of a section, and of the tables that its keys may hold."""
    schema, said = model.model_json_schema(), comments(model)
    parts, rows = [f"### `[{name}]` {{ #{anchor(name)} }}"], []
    if model.__dict__.get("__doc__"):
        parts.append(inspect.getdoc(model) or "")
    inner = []
    for key, field in model.model_fields.items():
        table = next(
            (t for t in (field.annotation, *get_args(field.annotation)) if isinstance(t, type) and issubclass(t, BaseModel)), None
        )
        shape = schema["properties"][key]
        allowed = f"a table: [`[{name}.{key}]`](#{anchor(f'{name}.{key}')})" if table else values(shape)
        rows.append(f"| `{key}` | {allowed} | {default_of(field, shape)} | {escaped(said.get(key, ''))} |")
        inner += sections(f"{name}.{key}", table) if table else []
    parts.append("| key | values | default | |\n|---|---|---|---|\n" + "\n".join(rows))
    return ["\n\n".join(parts), *inner]


def anchor(name: str) -> str:
    """The anchor of a section's heading."""
    return f"settings-{name.replace('.', '-').replace('_', '-')}"


def comments(model: type[BaseModel]) -> dict[str, str]:
    """The comment that stands beside each field in the source."""
    found, field = {}, ""
    for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(model)).readline):
        if token.type == tokenize.NAME and token.start[1] == 4 and token.string in model.model_fields:
            field = token.string
        elif token.type == tokenize.COMMENT and field and not token.string.startswith(("# pyright", "# noqa", "# fmt")):
            found[field] = token.string.lstrip("# ").strip()
    return found


def values(shape: dict[str, Any]) -> str:
    """What a key may hold, in words, of its JSON schema."""
    if "anyOf" in shape:
        return " or ".join(values(one) for one in shape["anyOf"] if one.get("type") != "null")
    if "enum" in shape or "const" in shape:
        return ", ".join(f"`{json.dumps(value)}`" for value in shape.get("enum", [shape.get("const")]))
    if shape.get("type") == "array":
        return listed(shape)
    kind = {"integer": "integer", "number": "number", "boolean": "`true`, `false`", "string": "text"}[shape["type"]]
    return kind + bounds(shape)


def listed(shape: dict[str, Any]) -> str:
    """What a list may hold."""
    fewest, most = shape.get("minItems"), shape.get("maxItems")
    if "prefixItems" in shape:
        each = list(dict.fromkeys(values(one) for one in shape["prefixItems"]))
        return f"{len(shape['prefixItems'])} of: {each[0]}" if len(each) == 1 else f"list of: {'; '.join(each)}"
    count = f"{fewest or 0} to {most} of" if most else "1 or more of" if fewest else "list of"
    return f"{count}: {values(shape['items'])}"


def bounds(shape: dict[str, Any]) -> str:
    """The bounds of a number: ", 1 to 8192", ", above 0", ..."""
    low, high = shape.get("minimum"), shape.get("maximum")
    above, below = shape.get("exclusiveMinimum"), shape.get("exclusiveMaximum")
    start = f"from {plain(low)}" if low is not None else f"above {plain(above)}" if above is not None else ""
    end = f"to {plain(high)}" if high is not None else f"below {plain(below)}" if below is not None else ""
    return f", {' '.join(part for part in (start, end) if part)}" if start or end else ""


def plain(number: float) -> str:
    """A number with commas, without a needless fraction."""
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:g}"


def default_of(field: Any, shape: dict[str, Any]) -> str:
    """The default as TOML has it."""
    value = shape.get("default", field.default)
    return "none" if value is None or isinstance(value, BaseModel) else f"`{json.dumps(value, default=list)}`"


def escaped(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
