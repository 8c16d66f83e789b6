"""What mkdocs calls while it builds the site: generated parts of pages, files of the repository that pages link to, a last check.

A line `<!-- generated: NAME -->` on a page is replaced by what the function NAME in GENERATED gives.
"""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commands_page import commands
from method_links import linked
from mkdocs.structure.files import File, Files, InclusionLevel
from recipes_page import large_recipes, recipes
from repository_links import PLACE, ROOT, collected, redirected
from settings_table import settings

GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands,
    "large_recipes": large_recipes,
    "recipes": recipes,
    "settings": settings,
}
MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
ROW = re.compile(r"^\|.*$", re.MULTILINE)
CODE = re.compile(r"`[^`]*`")
FOREIGN = re.compile(  # what a browser would fetch from elsewhere
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=["']?(?:https?:)?//[^>]*>|<link\b(?=[^>]*\brel=["']?(?:stylesheet|icon|preload|preconnect))[^>]*\bhref=["']?(?:https?:)?//[^>]*>|url\(["']?(?:https?:)?//[^)]*\)|@import[^;]*//[^;]*;""",
    re.IGNORECASE,
)
log = logging.getLogger("mkdocs.hooks.fewstep")


def generated(markdown: str) -> str:
    """The text with each mark replaced.

    Raises:
        KeyError: a mark names what GENERATED does not have.
    """
    return MARK.sub(lambda found: GENERATED[found[1]](), markdown)


def bars_in_code(markdown: str) -> str:
    """The text with the bars in a table's code as they are: escaped, as other programs want them, mkdocs would show the mark too."""
    return ROW.sub(lambda row: CODE.sub(lambda code: code[0].replace("\\|", "|"), row[0]), markdown)


def on_files(files: Files, *, config: Any) -> Files:
    """Add the notebooks, and the files of the repository that pages link to."""
    documents = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    notebooks = sorted(f"examples/{path.name}" for path in (ROOT / "examples").glob("*.ipynb"))
    for place, content in collected(documents, notebooks).items():
        level = InclusionLevel.NOT_IN_NAV if place.startswith(PLACE) else InclusionLevel.UNDEFINED
        files.append(File.generated(config, place, content=content, inclusion=level))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Replace the marks, and lead links out of docs/, and on the page of the method names, to their places in the site."""
    if page.file.generated_by:
        return markdown
    text = bars_in_code(redirected(generated(markdown), f"docs/{page.file.src_uri}"))
    return linked(text) if page.file.src_uri == "method.md" else text


def on_post_build(*, config: Any) -> None:
    """Warn, which fails a strict build, of whatever a page or style sheet would load from a network."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix in (".html", ".css"):
            for found in FOREIGN.findall(path.read_text(encoding="utf-8")):
                log.warning(f"{path.relative_to(config.site_dir)} loads from a network: {found[:120]}")
