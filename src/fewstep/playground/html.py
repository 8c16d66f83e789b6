"""What the playground's page shows of pictures, as HTML: figures over their captions, and two pictures with a divider."""

import base64
import html
import io
from typing import Any

from fewstep.playground.pictures import enlarged
from fewstep.playground.tasks import Answer, Group

SMALL = 64  # pixels: pictures up to here are shown with sharp squares for pixels, or smooth
NOTHING = '<p class="nothing">The pictures will be here.</p>'


def shown(answer: Answer, smooth: bool = False, divider: bool = False) -> str:
    """HTML of an answer; an edit, or with `divider` the teacher's pictures, with a divider between what belongs together."""
    first, *others = answer.groups
    if answer.record["task"] == "edit":
        return divided(first.images[0], first.images[-1], smooth=smooth) + figures(answer.groups, smooth)
    return pairs(first, others[0], smooth) if others and divider else figures(answer.groups, smooth)


def figures(groups: list[Group], smooth: bool = False) -> str:
    """HTML of the pictures, each over its caption, whose parts are lines; small ones with sharp pixels, or enlarged smoothly."""
    return "".join(
        _section(
            group.title,
            [
                (_picture(image, _words(caption)[0], smooth), caption)
                for image, caption in zip(group.images, group.captions, strict=True)
            ],
        )
        for group in groups
    )


def pairs(group: Group, other: Group, smooth: bool = False) -> str:
    """HTML of the pictures of two groups, those at the same place over each other with a divider; the captions are those of the first."""
    left, right = (one.title.split(",")[0] for one in (group, other))
    found = zip(group.images, other.images, group.captions, strict=True)
    return _section(
        f"{group.title} | {other.title}", [(divided(one, two, left, right, smooth), caption) for one, two, caption in found]
    )


def _section(title: str, shown: list[tuple[str, str]]) -> str:
    """HTML of a title over figures: (HTML, caption) each."""
    parts = [f'<section class="pictures{" few" * (len(shown) < 4)}"><h3>{html.escape(title)}</h3><div>']
    for picture, caption in shown:
        first, *rest = _words(caption)
        lines = f"<b>{first}</b>" + "".join(f" <span>{line}</span>" for line in rest)
        parts.append(f"<figure>{picture}<figcaption>{lines}</figcaption></figure>")
    return "".join([*parts, "</div></section>"])


def _words(caption: str) -> list[str]:
    return html.escape(caption).split(" · ")


def divided(before: Any, after: Any, left: str = "before", right: str = "after", smooth: bool = False) -> str:
    """HTML of two pictures over each other, and a divider that mouse, finger and arrow keys move: before to the left, after to the right."""
    left, right = html.escape(left), html.escape(right)
    images = _picture(before, left, smooth) + _picture(after, right, smooth)
    move = "this.parentNode.style.setProperty('--cut', this.value + '%')"
    slider = f'<input type="range" min="0" max="100" value="50" aria-label="Divider between {left} and {right}" oninput="{move}">'
    return f'<div class="divided">{images}<b>{left}</b><b>{right}</b>{slider}<i></i></div>'


def _picture(image: Any, name: str, smooth: bool) -> str:
    """The picture as a PNG within the page; a small one is enlarged, so that what a person saves from the page can be seen."""
    small, held = image.width <= SMALL, io.BytesIO()
    (enlarged(image, 256 if smooth else 128, smooth) if small else image).save(held, format="PNG")
    data = base64.b64encode(held.getvalue()).decode()
    sharp = ' class="sharp"' if small and not smooth else ""
    return f'<img{sharp} src="data:image/png;base64,{data}" alt="{name}">'
