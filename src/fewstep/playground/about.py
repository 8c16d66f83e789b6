"""What the playground says of its models, as Markdown: what each is, what was measured of it, and its card."""

import re
from pathlib import Path

from fewstep.export.model_card import card, quality
from fewstep.models.metadata import INFO, find_folder, is_run, name_of, rung_of
from fewstep.playground.models import Models


def facts_of(models: Models) -> str:
    """A line on the pictures, and a table of the models."""
    info = models.first.info
    channels, size = info.picture
    data = Path(str(info.data.get("path") or info.data.get("kind") or "")).name  # where it lies on a machine is nobody's business
    about = f"{size}x{size} pixels, {channels} channel{'s' if channels > 1 else ''}; family {info.family}; process {info.process['name']}"
    rows = [about + (f"; trained on {data}" if data else ""), ""]
    rows += ["| model | kind | steps | guidance scale | sampler | weights |", "|---|---|---|---|---|---|"]
    for opened in models.all:
        info, weights = opened.model.info, sum(p.numel() for p in opened.model.denoiser.network.parameters())
        scales = "{:g} to {:g}".format(*info.guidance_scale) if info.guidance_scale else "any"
        rows += [f"| `{opened.name}` | {info.kind} | {info.steps or 'any'} | {scales} | {info.sampler} | {weights / 1e6:,.2f} M |"]
    return "\n".join(rows)


def quality_of(models: Models) -> str:
    """What the `fewstep.json` of each model says that was measured, or how to measure it."""
    parts = []
    for opened in models.all:
        if opened.model.info.quality:
            steps = f", {opened.steps} step{'s' if opened.steps > 1 else ''}" if opened.steps else ""
            parts.append(f"**`{opened.name}`**{steps}\n\n{quality(opened.model.info).removeprefix('## Quality').strip()}")
    return (
        "\n\n".join(parts) or "None is recorded in `fewstep.json`. Measure it: `fewstep evaluate MODEL --data DATA --out evaluated`"
    )


def cards_of(models: Models) -> dict[str, str]:
    """The model cards by title, of all models that are folders of fewstep; their headings are set lower, for a page that has its own."""
    cards = {}
    for opened in models.all:
        folder = find_folder(opened.path)
        folder = rung_of(folder, opened.steps) if is_run(folder) else folder
        if (folder / INFO).is_file():
            text = card(opened.model.info, opened.model.family, folder, folder.name).split("\n---\n", 1)[1]
            cards[name_of(str(folder))] = re.sub(r"^(#+ )", r"###\1", text.strip(), flags=re.MULTILINE)
    return cards
