"""Links that lead out of docs/ into the repository: what they name is brought into the site, and the link with it."""

import os
import posixpath
import re
from pathlib import Path, PurePosixPath

import notebook_pages

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<=\]\()(?!\w+:|/|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
PLACE = "repository"  # the folder of the site that such files go to
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json"}
STATIC = (".json", ".png")  # brought in as they are
HIDDEN = "---\nsearch:\n  exclude: true\n---\n"  # from the search


def target(page: str, link: str) -> str | None:
    """The path in the repository of a relative link on a page (both from the root), or None where nothing is there."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    return path if not path.startswith("..") and (ROOT / path).exists() else None


def place_of(path: str) -> str:
    """Where a file of the repository is in the site: documents as they are, the others under `repository/`."""
    file = PurePosixPath(path)
    if file.parts[0] == "docs":
        return str(file.relative_to("docs"))
    if file.suffix == ".ipynb":
        return f"notebooks/{file.stem}.md"
    return f"{PLACE}/{path}" if file.suffix in (*STATIC, ".md") else f"{PLACE}/{path}.md"


def redirected(markdown: str, page: str) -> str:
    """The text of a page (its path from the root) with each link out of its folder leading to the place in the site."""

    def lead(found: re.Match[str]) -> str:
        path = target(page, found[1])
        if path is None or (path.startswith("docs/") and page.startswith("docs/")):
            return found[0]  # mkdocs checks what stays within docs/, and says what is not there
        return os.path.relpath(place_of(path), posixpath.dirname(place_of(page)) or ".") + (found[2] or "")

    return LINK.sub(lead, markdown)


def outside(markdown: str, page: str) -> list[str]:
    """The paths outside docs/ that a page links to."""
    paths = [target(page, found[1]) for found in LINK.finditer(markdown)]
    return [path for path in paths if path and not path.startswith("docs/")]


def content_of(path: str) -> dict[str, str | bytes]:
    """What a path of the repository brings into the site: names there, and their content."""
    file, place = ROOT / path, place_of(path)
    if file.is_dir():
        names = sorted(p.name for p in file.iterdir() if p.suffix in STATIC)
        lines = "\n".join(f"- [{name}]({posixpath.basename(path)}/{name})" for name in names)
        here: dict[str, str | bytes] = {f"{PLACE}/{path}/{name}": (file / name).read_bytes() for name in names}
        return here | {place: f"{HIDDEN}# `{path}`\n\n{lines}\n"}
    if file.suffix == ".ipynb":
        text, pictures = notebook_pages.page_of(file)
        folder = posixpath.dirname(place)
        return {place: text} | {f"{folder}/{name}": data for name, data in pictures.items()}
    if file.suffix in STATIC:
        return {place: file.read_bytes()}
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        return {place: HIDDEN + text}
    return {place: f"{HIDDEN}# `{path}`\n\n~~~~~~{LANGUAGES.get(file.suffix, 'text')}\n{text}\n~~~~~~\n"}


def collected(documents: dict[str, str], notebooks: list[str]) -> dict[str, str | bytes]:
    """All that the documents (text by path from the root) link to outside docs/, and what that links to in turn."""
    waiting = [path for page, text in documents.items() for path in outside(text, page)] + notebooks
    brought: dict[str, str | bytes] = {}
    done: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path not in done:
            done.add(path)
            brought |= (new := content_of(path))
            text = new[place_of(path)]
            if isinstance(text, str) and PurePosixPath(path).suffix in (".md", ".ipynb"):
                waiting += outside(text, path)
                brought[place_of(path)] = redirected(text, path)
    return brought
