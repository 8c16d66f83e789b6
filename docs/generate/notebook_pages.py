"""Notebooks as pages: their text, code and the small outputs that are kept in them."""

import base64
import json
from pathlib import Path
from typing import Any


def page_of(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """Markdown of a notebook, and the pictures that it shows, by the names under which the page looks for them."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in cells:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif source:
            parts.append(f"```python\n{source}\n```")
            parts += [shown(output, notebook.stem, pictures) for output in cell["outputs"]]
    return "\n\n".join(part for part in parts if part) + "\n", pictures


def shown(output: dict[str, Any], stem: str, pictures: dict[str, bytes]) -> str:
    """Markdown of one output of a cell; a picture goes into `pictures`."""
    if output["output_type"] == "stream":
        return f"```text\n{''.join(output['text']).strip()}\n```" if output["name"] == "stdout" else ""
    data = output.get("data", {})
    if "image/png" in data:
        name = f"{stem}-{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode("".join(data["image/png"]))
        return f"![Output of the cell above]({name})"
    return f"```text\n{''.join(data['text/plain']).strip()}\n```" if "text/plain" in data else ""
