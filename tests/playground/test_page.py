"""The playground's page in a real headless Chromium: every tab used end to end, at two widths, by mouse and by keys alone.

Screenshots are kept in the folder that FEWSTEP_SCREENSHOTS names, else in pytest's tmp_path.
"""

import os
import shutil
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("gradio", "playwright") if find_spec(name) is None] + ([] if CHROMIUM else ["a chromium browser"])
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
MENU = ".overflow-menu > button"  # behind three dots
WAIT = 120_000  # milliseconds, on a busy machine
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
EDITOR = "() => [...document.querySelectorAll('canvas')].find(canvas => canvas.offsetParent)"
UNCOVERED = f"""() => {{
    const canvas = ({EDITOR})(), box = canvas?.getBoundingClientRect();
    return !!canvas && document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2) === canvas;
}}"""
FOCUSED = """() => {
    const one = document.activeElement;
    return [one.getAttribute('aria-label') || '', one.innerText || '', one.labels?.length ? one.labels[0].innerText : ''].join('|');
}"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        opened = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *CAMERA])
        yield opened
        opened.close()


@pytest.fixture
def visit(playground, browser):
    """A function that opens the page at some width, with its first pictures drawn. In the end no page has asked another machine."""
    pages, asked = [], set()

    def visit(width=1400):
        page = browser.new_page(viewport={"width": width, "height": 1000})
        pages.append(page)
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: asked.add(request.url.split("/")[2]) if request.url.startswith("http") else None)
        page.goto(playground[0])
        page.locator(".pictures img").first.wait_for()
        return page

    yield visit
    for page in pages:
        page.close()
    assert asked == {playground[0].split("/")[2]}


def tab(page, name):
    """The panel of a tab, once chosen; on a narrow page Gradio may put the last tabs into a menu, also a moment later."""
    from playwright.sync_api import TimeoutError as TooLate

    shown = page.get_by_role("tab", name=name, exact=True)
    try:
        shown.click(timeout=15_000)
    except TooLate:
        if page.locator(MENU).filter(visible=True).count():
            choose_in_menu(page, name)
        else:
            shown.click()
    return page.get_by_role("tabpanel").filter(visible=True)


def choose_in_menu(page, name):
    page.locator(MENU).click()
    page.locator(".overflow-dropdown").get_by_text(name, exact=True).click()


def sources(page):
    return [image.get_attribute("src") for image in page.locator(".pictures img").filter(visible=True).all()]


def wait_for_others(page, before):
    page.wait_for_function("old => ![...document.querySelectorAll('.pictures img')].some(one => one.src == old)", arg=before[0])


def upload(panel, path):
    panel.locator("input[type=file]").first.set_input_files(path)
    panel.get_by_role("button", name="Remove Image").first.or_(panel.locator("img").first).first.wait_for()


def changed(panel, button, count):
    """Press the button; what stands under the last of so many pictures."""
    panel.get_by_role("button", name=button, exact=True).click()
    panel.locator(".pictures figure").nth(count - 1).wait_for()
    return panel.locator("figcaption").last.inner_text()


def paint(page, panel):
    """Take the picture drawn last, and draw a line on it: again until the editor, which says nothing of it, has loaded and shows it."""
    panel.get_by_role("button", name="Take the picture drawn last").click()
    page.wait_for_function(UNCOVERED)
    canvas = panel.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    for _ in range(20):
        page.wait_for_timeout(500)
        before, box = canvas.screenshot(), canvas.bounding_box()
        page.mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 0.45 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.6 * box["height"], steps=8)
        page.mouse.up()
        page.mouse.move(1, 1)
        page.wait_for_timeout(500)
        if canvas.screenshot() != before:
            return
    pytest.fail("the editor shows nothing of what is painted")


def photograph(panel):
    """Take a picture with the camera, which is Chromium's own test image."""
    panel.get_by_role("button", name="Remove Image").or_(panel.get_by_label("Clear")).first.click()
    panel.get_by_label("Capture from camera").click()
    panel.get_by_text("Click to Access Webcam").click()
    panel.page.wait_for_function("() => [...document.querySelectorAll('video')].some(one => one.videoWidth && one.readyState > 2)")
    panel.get_by_label("capture photo").click()
    panel.locator("img").filter(visible=True).first.wait_for()


def check_width(page, width, name, folder):
    """Nothing is wider than the page; its screenshot."""
    folder = Path(os.environ.get("FEWSTEP_SCREENSHOTS") or folder)
    folder.mkdir(parents=True, exist_ok=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than the page"
    page.screenshot(path=folder / f"{name}-{width}.png", full_page=True)


@pytest.mark.parametrize("width", [pytest.param(1400, marks=pytest.mark.slow), 400])  # the others are wide
def test_generate(visit, tmp_path, width):
    page = visit(width)
    assert page.locator(".pictures figure").count() == 8
    assert "4 evaluations" in page.locator("figcaption").first.inner_text()
    page.get_by_label("The teacher's from the same noise").check()
    page.locator(".pictures").nth(1).wait_for()
    assert "128 evaluations" in page.locator("figcaption").last.inner_text()
    check_width(page, width, "generate", tmp_path)
    if width == 400:  # once, where it is narrow
        divide_smooth_and_vary(page, tmp_path)
    page.get_by_role("button", name="Sweep the guidance scale").click()
    page.get_by_text("scale 5", exact=True).wait_for()
    for name in ("Edit", "Inpaint", "Style transfer", "About"):
        tab(page, name)
        check_width(page, width, name.lower().replace(" ", "-"), tmp_path)


def divide_smooth_and_vary(page, folder):
    """The teacher's pictures behind a divider, small ones smooth, a scale for each step, and several seeds."""
    page.get_by_label("With a divider between student and teacher").check()
    page.locator(".pictures .divided").nth(7).wait_for()
    page.get_by_label("Smooth small pictures").check()
    page.locator(".pictures img.sharp").first.wait_for(state="detached")
    check_width(page, 400, "divided", folder)
    page.get_by_label("The teacher's from the same noise").uncheck()
    by_step = page.get_by_label("A scale for each step")
    by_step.fill("1/2/5")
    by_step.press("Enter")
    page.get_by_text("There are 3 guidance scales for 4 steps").wait_for()
    page.get_by_role("button", name="Several seeds").click()
    page.get_by_text("There are 3 guidance scales for 4 steps").nth(1).wait_for()
    by_step.fill("1/2/5/2")
    page.get_by_role("button", name="Several seeds").click()
    page.get_by_text("seed 14", exact=True).wait_for()
    check_width(page, 400, "seeds", folder)


def test_edit(visit, tmp_path):
    page = visit()
    edit, pixels = tab(page, "Edit"), np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    edit.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_text("No picture is given").wait_for()
    Image.fromarray(pixels).save(tmp_path / "mine.jpg")
    upload(edit, tmp_path / "mine.jpg")
    assert "2 evaluations" in changed(edit, "Edit", 2)
    check_width(page, 1400, "edited", tmp_path)
    strength = edit.locator("input[type=range]").first
    assert [strength.get_attribute(name) for name in ("min", "step")] == ["0.25", "0.25"]
    edit.get_by_label("2", exact=True).check()
    page.wait_for_function(
        "() => [...document.querySelectorAll('input[type=range]')].some(one => one.offsetParent && one.step == '0.5')"
    )
    photograph(edit)
    before = sources(page)
    edit.get_by_role("button", name="Edit", exact=True).click()
    wait_for_others(page, before)


def test_inpaint(visit, tmp_path):
    page = visit()
    inpaint = tab(page, "Inpaint")
    (tmp_path / "text.png").write_text("dear diary")
    inpaint.locator("input[type=file]").first.set_input_files(tmp_path / "text.png")
    inpaint.get_by_role("button", name="Inpaint", exact=True).click()
    page.get_by_text("No picture is given").or_(page.get_by_text("The picture cannot be read")).first.wait_for()
    paint(page, inpaint)
    assert "4 evaluations" in changed(inpaint, "Inpaint", 3)
    check_width(page, 1400, "inpainted", tmp_path)


def test_style_transfer_and_about(visit, tmp_path):
    page = visit()
    style = tab(page, "Style transfer")
    style.get_by_role("button", name="Take the picture drawn last").click()
    style.locator("img").filter(visible=True).first.wait_for()
    assert "0 to 9" in changed(style, "Transfer", 2)
    about = tab(page, "About")
    about.get_by_text("model.translate").wait_for()
    assert about.get_by_text("fewstep translate").count()
    about.get_by_role("button", name="Model card of").first.click()
    about.get_by_text("evaluation of the network a step").first.wait_for()
    with page.expect_download() as download:
        about.locator("a[download='00000.png']").click()
    with Image.open(download.value.path()) as image:
        assert image.text["command"].startswith("fewstep translate")
    check_width(page, 1400, "described", tmp_path)


def tab_to(page, words):
    """Press Tab until what has the focus is named so."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if words in page.evaluate(FOCUSED):
            return
    pytest.fail(f"Tab does not come to '{words}'")


def test_keys_alone_draw_edit_and_divide(visit):
    page = visit()
    before = sources(page)
    page.locator("input[type=range]").first.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    wait_for_others(page, before)
    before = sources(page)
    tab_to(page, "New seed")
    page.keyboard.press("Enter")
    wait_for_others(page, before)
    page.get_by_role("tab", name="Generate", exact=True).focus()
    tab_to(page, "Edit")
    page.keyboard.press("Enter")
    tab_to(page, "Take the picture drawn last")
    page.keyboard.press("Enter")
    edit = page.get_by_role("tabpanel").filter(visible=True)
    edit.locator("img").filter(visible=True).first.wait_for()
    tab_to(page, "2")
    page.keyboard.press("ArrowLeft")
    tab_to(page, "Edit")
    page.keyboard.press("Enter")
    edit.locator(".pictures figure").nth(1).wait_for()
    tab_to(page, "Divider between before and after")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert edit.locator(".divided").get_attribute("style") == "--cut: 60%;"


@pytest.mark.slow  # without a browser: test_nothing_that_visitors_do_keeps_others_from_being_drawn
def test_what_is_stopped_superseded_or_left_behind_keeps_nobody_waiting(visit, playground, tmp_path):
    """Every evaluation takes a fifth of a second and more: 64 steps of the teacher are not done while another is drawn for."""
    page, other = visit(), visit()
    Image.new("L", (8, 8)).save(tmp_path / "black.png")

    def others_wait():
        began, before = time.monotonic(), sources(other)
        other.get_by_role("button", name="New seed").filter(visible=True).click()
        wait_for_others(other, before)
        return time.monotonic() - began

    slow = playground[1] / "slow"
    slow.touch()
    page.get_by_label("The teacher's from the same noise").check()
    page.get_by_text("/64 steps").wait_for()
    page.get_by_role("button", name="Stop").filter(visible=True).click()
    assert others_wait() < 10
    assert page.locator(".pictures").count() == 1
    page.locator("input[type=range]").first.focus()
    for _ in range(20):  # a burst, each key of which supersedes the one before
        page.keyboard.press("ArrowRight")
    edit = tab(page, "Edit")
    upload(edit, tmp_path / "black.png")
    edit.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_text("/64 steps").first.wait_for(state="attached")
    page.close()
    assert others_wait() < 15
    slow.unlink()
    assert len(sources(visit())) == 8


@pytest.mark.slow  # choose_in_menu is what test_generate uses at 400 pixels
def test_tabs_that_do_not_fit_are_in_a_menu(visit):
    page = visit(width=260)
    page.locator(MENU).filter(visible=True).wait_for()
    choose_in_menu(page, "About")
    page.get_by_role("tabpanel").filter(visible=True).get_by_text("The picture drawn last").first.wait_for()
