"""The playground's page in a real headless Chromium: every tab used end to end, at two widths, with screenshots in pytest's tmp_path."""

import queue
import shutil
import threading
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from conftest import run_command
from tiny import tiny_student, tiny_teacher

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("gradio", "playwright") if find_spec(name) is None] + ([] if CHROMIUM else ["a chromium browser"])
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
WAIT = 60_000  # milliseconds, on a busy machine
UNCOVERED = """() => {
    const canvas = [...document.querySelectorAll('canvas')].find(c => c.offsetParent), box = canvas.getBoundingClientRect();
    return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2) === canvas;
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where a playground of a tiny run listens, as its command says."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    for steps in (4, 2):
        tiny_student(steps).save(folder / f"steps-{steps:04d}")
    tiny_teacher().save(folder / "teacher")
    server = run_command("playground", folder, "--device", "cpu", background=True)
    said: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: said.put(server.stdout.readline()), daemon=True).start()
    try:
        yield said.get(timeout=120).split(" at ")[1].split()[0]
        assert server.poll() is None, "the server died"
    finally:
        server.kill()
        server.communicate()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        opened = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(address, browser):
    """A function that opens the page at some width, with its first pictures drawn."""
    pages = []

    def visit(width=1400):
        page = browser.new_page(viewport={"width": width, "height": 1000})
        pages.append(page)
        page.set_default_timeout(WAIT)
        page.goto(address)
        page.locator(".pictures img").first.wait_for()
        return page

    yield visit
    for page in pages:
        page.close()


def tab(page, name):
    """The panel of a tab, once chosen; where tabs do not fit, from the menu of those left over."""
    found = page.get_by_role("tab", name=name, exact=True)
    if not found.is_visible():
        page.locator(".overflow-menu button").first.click()
        page.locator(".overflow-dropdown button", has_text=name).click()
    else:
        found.click()
    return page.get_by_role("tabpanel").filter(visible=True)


def sources(page):
    return [image.get_attribute("src") for image in page.locator(".pictures img").filter(visible=True).all()]


def wait_for_others(page, before):
    page.wait_for_function("old => document.querySelector('.pictures img').src != old", arg=before[0])


def upload(panel, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.jpg")
    panel.locator("input[type=file]").first.set_input_files(tmp_path / "mine.jpg")
    panel.get_by_role("button", name="Remove Image").first.or_(panel.locator("img").first).first.wait_for()


def changed(panel, button, count):
    """Press the button; the pictures before and after, and what stands under the last."""
    panel.get_by_role("button", name=button, exact=True).click()
    panel.locator(".pictures figure").nth(count - 1).wait_for()
    return panel.locator("figcaption").last.inner_text()


def paint(page, panel):
    panel.get_by_role("button", name="Take the picture drawn last").click()
    page.wait_for_function(UNCOVERED)
    page.wait_for_timeout(2000)  # until the editor has drawn the picture: nothing on the page says so
    canvas = panel.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 0.45 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.6 * box["height"], steps=8)
    page.mouse.up()
    page.wait_for_timeout(1000)


@pytest.mark.parametrize("width", [1400, 400])
def test_every_tab_from_end_to_end(visit, tmp_path, width):
    page = visit(width)

    def shoot(name):
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than the page"
        page.screenshot(path=tmp_path / f"{name}-{width}.png", full_page=True)

    assert page.locator(".pictures figure").count() == 8
    assert "4 evaluations" in page.locator("figcaption").first.inner_text()
    page.get_by_label("The teacher's from the same noise").check()
    page.locator(".pictures").nth(1).wait_for()
    assert "128 evaluations" in page.locator("figcaption").last.inner_text()
    shoot("generate")
    page.get_by_role("button", name="Sweep the guidance scale").click()
    page.get_by_text("scale 5", exact=True).wait_for()
    shoot("sweep")
    edit = tab(page, "Edit")
    upload(edit, tmp_path)
    assert "2 evaluations" in changed(edit, "Edit", 2)
    shoot("edit")
    inpaint = tab(page, "Inpaint")
    paint(page, inpaint)
    assert "4 evaluations" in changed(inpaint, "Inpaint", 3)
    shoot("inpaint")
    style = tab(page, "Style transfer")
    style.get_by_role("button", name="Take the picture drawn last").click()
    style.locator("img").first.wait_for()
    assert "0 to 9" in changed(style, "Transfer", 2)
    shoot("style")
    about = tab(page, "About")
    about.get_by_text("model.translate").wait_for()
    assert about.get_by_text("fewstep translate").count()
    with page.expect_download() as download:
        about.locator("a[download='00000.png']").click()
    with Image.open(download.value.path()) as image:
        assert image.text["command"].startswith("fewstep translate")
    shoot("about")


def test_arrow_keys_on_the_slider_draw_anew(visit):
    page = visit()
    before = sources(page)
    page.locator("input[type=range]").first.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    wait_for_others(page, before)
    before = sources(page)
    page.get_by_role("button", name="New seed").filter(visible=True).press("Enter")
    wait_for_others(page, before)
    before = sources(page)
    page.get_by_label("2", exact=True).first.check()
    wait_for_others(page, before)
    page.get_by_text("student, 2 steps").wait_for()


def test_what_goes_wrong_is_a_sentence_and_the_page_goes_on(visit, tmp_path):
    page = visit()
    edit = tab(page, "Edit")
    edit.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_text("No picture is given; upload one, or take the one that was drawn last.").wait_for()
    (tmp_path / "text.png").write_text("dear diary")
    edit.locator("input[type=file]").first.set_input_files(tmp_path / "text.png")
    edit.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_test_id("toast-body").first.wait_for()
    other = visit()
    other.get_by_role("button", name="Draw", exact=True).click()
    other.close()  # a browser that goes away in the middle
    assert len(sources(visit())) == 8


def test_nothing_is_asked_of_other_machines(browser, address):
    page, asked = browser.new_page(), set()
    page.on("request", lambda request: asked.add(request.url.split("/")[2]) if request.url.startswith("http") else None)
    page.goto(address)
    page.locator(".pictures img").first.wait_for(timeout=WAIT)
    page.close()
    assert asked == {address.split("/")[2]}
