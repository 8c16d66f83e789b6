"""What the playground's page shows of pictures, as HTML: figures over their captions, and two pictures with a divider."""

import base64
import html
import io
from typing import Any

from fewstep.playground.pictures import enlarged
from fewstep.playground.tasks import Group

SMALL = 64  # pixels: pictures up to here are shown with sharp squares for pixels
NOTHING = '<p class="nothing">The pictures will be here.</p>'
CSS = """
.gradio-container { --block-info-text-color: var(--neutral-500); }
.pictures h3 { margin: 4px 0 8px; font-size: 1rem; font-weight: 600; }
.pictures > div { display: grid; grid-template-columns: repeat(auto-fill, minmax(120px, 1fr)); gap: 12px; margin-bottom: 24px; }
.pictures.few > div { grid-template-columns: repeat(auto-fill, minmax(130px, 200px)); }
.pictures figure { margin: 0; max-width: 256px; }
.pictures img { width: 100%; border-radius: 6px; display: block; }
img.sharp, .sharp img, .sharp canvas { image-rendering: pixelated; }
.pictures figcaption { font-size: .85rem; line-height: 1.3; margin-top: 4px; overflow-wrap: anywhere; }
.pictures figcaption span { display: block; opacity: .8; }
.divided { position: relative; max-width: 384px; margin-bottom: 24px; --cut: 50%; }
.divided img { display: block; width: 100%; border-radius: 6px; }
.divided img + img { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--cut)); }
.divided input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize; touch-action: pan-y; }
.divided i { position: absolute; top: 0; bottom: 0; left: var(--cut); width: 4px; margin-left: -2px; pointer-events: none;
  background: var(--color-accent); box-shadow: 0 0 0 1px white; }
.divided i::after { content: "\\25C2\\25B8"; position: absolute; top: 50%; left: 50%; transform: translate(-50%, -50%); padding: 4px 6px;
  border-radius: 6px; background: var(--color-accent); color: white; font-style: normal; line-height: 1; }
.divided:focus-within i { width: 8px; margin-left: -4px; }
.divided b { position: absolute; top: 8px; padding: 0 6px; border-radius: 4px; background: #000a; color: white; font-size: .8rem;
  font-weight: 500; pointer-events: none; }
.divided b:first-of-type { left: 8px; }
.divided b:last-of-type { right: 8px; }
.nothing { padding: 32px 16px; border: 1px dashed var(--border-color-primary); border-radius: 6px; text-align: center; opacity: .8; }
.facts { overflow-x: auto; }
.facts table { width: auto; }
.facts td, .facts th { white-space: nowrap; word-break: normal; overflow-wrap: normal; padding: 4px 10px; }
.live .pending { opacity: 1 !important; }
@media (max-width: 500px) {
  .pictures > div, .pictures.few > div { grid-template-columns: repeat(2, 1fr); }
  .tab-container button { padding: 0 7px; font-size: .8rem; }
}
"""


def figures(groups: list[Group]) -> str:
    """HTML of the pictures, each over its caption; small ones with sharp pixels."""
    parts = []
    for group in groups:
        kind = "pictures few" if len(group.images) < 4 else "pictures"
        parts.append(f'<section class="{kind}"><h3>{html.escape(group.title)}</h3><div>')
        for image, text in zip(group.images, group.captions, strict=True):
            words, name = html.escape(text), html.escape(text.split(" · ")[0], quote=True)
            parts.append(
                f'<figure><img{_sharp(image)} src="{data_url(image)}" alt="{name}"><figcaption>{_lines(words)}</figcaption></figure>'
            )
        parts.append("</div></section>")
    return "".join(parts)


def divided(before: Any, after: Any) -> str:
    """HTML of two pictures over each other, and a divider that mouse, finger and arrow keys move: before to the left, after to the right."""
    images = "".join(
        f'<img{_sharp(image)} src="{data_url(image)}" alt="{name}">' for image, name in ((before, "before"), (after, "after"))
    )
    move = "this.parentNode.style.setProperty('--cut', this.value + '%')"
    slider = f'<input type="range" min="0" max="100" value="50" aria-label="Divider between before and after" oninput="{move}">'
    return f'<div class="divided">{images}<b>before</b><b>after</b>{slider}<i></i></div>'


def _sharp(image: Any) -> str:
    return ' class="sharp"' if image.width <= SMALL else ""


def _lines(words: str) -> str:
    first, *rest = words.split(" · ")
    return f"<b>{first}</b>" + "".join(f" <span>{part}</span>" for part in rest)


def data_url(image: Any) -> str:
    """The picture as a PNG within the page; a small one is enlarged, so that what a person saves from the page can be seen."""
    held = io.BytesIO()
    (enlarged(image, 128) if image.width <= SMALL else image).save(held, format="PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()
