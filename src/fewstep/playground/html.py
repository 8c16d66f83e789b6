"""What the playground's page shows of pictures, as HTML: figures over their captions, and two pictures with a divider."""

import base64
import html
import io
from typing import Any

from fewstep.playground.pictures import enlarged
from fewstep.playground.tasks import Group

SMALL = 64  # pixels: pictures up to here are shown with sharp squares for pixels
NOTHING = '<p class="nothing">The pictures will be here.</p>'


def figures(groups: list[Group]) -> str:
    """HTML of the pictures, each over its caption, whose parts are lines; small ones with sharp pixels."""
    parts = []
    for group in groups:
        kind = "pictures few" if len(group.images) < 4 else "pictures"
        parts.append(f'<section class="{kind}"><h3>{html.escape(group.title)}</h3><div>')
        for image, caption in zip(group.images, group.captions, strict=True):
            first, *rest = html.escape(caption).split(" · ")
            lines = f"<b>{first}</b>" + "".join(f" <span>{line}</span>" for line in rest)
            parts.append(f"<figure>{_picture(image, first)}<figcaption>{lines}</figcaption></figure>")
        parts.append("</div></section>")
    return "".join(parts)


def divided(before: Any, after: Any) -> str:
    """HTML of two pictures over each other, and a divider that mouse, finger and arrow keys move: before to the left, after to the right."""
    images = _picture(before, "before") + _picture(after, "after")
    move = "this.parentNode.style.setProperty('--cut', this.value + '%')"
    slider = f'<input type="range" min="0" max="100" value="50" aria-label="Divider between before and after" oninput="{move}">'
    return f'<div class="divided">{images}<b>before</b><b>after</b>{slider}<i></i></div>'


def _picture(image: Any, name: str) -> str:
    """The picture as a PNG within the page; a small one is enlarged, so that what a person saves from the page can be seen."""
    small, held = image.width <= SMALL, io.BytesIO()
    (enlarged(image, 128) if small else image).save(held, format="PNG")
    data = base64.b64encode(held.getvalue()).decode()
    sharp = ' class="sharp"' if small else ""
    return f'<img{sharp} src="data:image/png;base64,{data}" alt="{name}">'
