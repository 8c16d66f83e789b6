"""How long a person waits: from a slider's movement until new pictures are on the playground's page, in a real Chromium, on two cores.

    python -m benchmarks.speed.playground_latency [MODEL]

MODEL is what `fewstep playground` takes; without it the bundled digits. Server and browser share the cores. Prints a table, and writes
benchmarks/results/playground.json. What is timed begins when the slider's value is set and ends when the browser has drawn the next
frame after the new pictures were decoded; beside it stands the network's own time, as the page says it under the pictures.
"""

import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.command import parser_of, run_main, write_json
from benchmarks.markdown import markdown

CORES, ROUNDS, MOVES, GOAL = 2, 4, 8, 300  # the goal in milliseconds
COUNTS = (1, 8, 16)  # images
MOVE = """value => new Promise(resolve => {
    const slider = document.querySelector('input[type=range]'), before = document.querySelector('.pictures img').src;
    const began = performance.now();
    const look = async () => {
        const images = [...document.querySelectorAll('.pictures img')];
        if (!images.length || images[0].src === before) return requestAnimationFrame(look);
        await Promise.all(images.map(image => image.decode()));
        requestAnimationFrame(() => resolve(performance.now() - began));
    };
    slider.value = value;
    slider.dispatchEvent(new Event('input', {bubbles: true}));
    look();
})"""


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "playground")
    parser.add_argument("model", nargs="*", help="as fewstep playground takes it")
    args = parser.parse_args(words)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # the server and the browser inherit it
    server = subprocess.Popen(
        [sys.executable, "-m", "fewstep", "playground", *args.model, "--device", "cpu"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split(" at ")[1].split()[0]
        load = os.getloadavg()[0]
        rows, name = measure(address)
    finally:
        server.terminate()
        server.wait()
    facts = {
        "measured": time.strftime("%Y-%m-%d"), "model": name, "cores": CORES, "load_average_before": round(load, 1),
        "machine": platform.processor() or platform.machine(), "moves": ROUNDS * MOVES,
        "versions": {package: version(package) for package in ("fewstep", "torch", "gradio", "playwright")}, "rows": rows,
    }  # fmt: skip
    write_json(args.out, facts)
    print(f"{name}, {CORES} cores, load average {load:.1f} before; milliseconds, {ROUNDS * MOVES} moves of the slider each")
    keys = ("steps", "images", "p10_ms", "median_ms", "p90_ms", "network_ms")
    print(markdown([*keys, f"below {GOAL}"], [[*(f"{row[key]:g}" for key in keys), str(row["median_ms"] < GOAL)] for row in rows]))


def measure(address: str) -> tuple[list[dict[str, Any]], str]:
    """A row for each number of steps and of images, and the name of the model."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("no chromium is installed")
    found: dict[tuple[int, int], tuple[list[float], list[float]]] = {}
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(120_000)
        page.goto(address)
        page.locator(".pictures img").first.wait_for()
        name = Path(page.locator("code").first.inner_text()).name
        panel = page.get_by_role("tabpanel").filter(visible=True)
        known = [int(text) for text in panel.locator("fieldset").first.locator("label").all_inner_texts()]
        for _, steps, count in product(range(ROUNDS), known, COUNTS):  # in turn: others' load comes and goes
            panel.get_by_label(str(steps), exact=True).first.check()
            number = panel.get_by_label("number input for Images")
            number.fill(str(count))
            number.press("Enter")
            page.wait_for_function(
                "([steps, count]) => document.querySelectorAll('.pictures img').length === count"
                " && document.querySelector('.pictures h3').innerText.includes(`${steps} step`)", arg=[steps, count]
            )  # fmt: skip
            kept = found.setdefault((steps, count), ([], []))
            for all_, new in zip(kept, timed(page, count), strict=True):
                all_ += new
        browser.close()
    return [{"steps": steps, "images": count} | summary(*both) for (steps, count), both in found.items()], name


def timed(page: Any, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds of moves of the guidance slider, to and fro over its range, and of the network in them."""
    slider = page.locator("input[type=range]").first
    low, high = (float(slider.get_attribute(end)) for end in ("min", "max"))
    waits, inside = [], []
    for i in range(MOVES + 2):
        page.wait_for_timeout(50)  # a person's hand rests; what came before is done
        wait = page.evaluate(MOVE, low + (high - low) * ((7 * i) % 20 + 1) / 21)
        share = float(page.locator("figcaption span").last.inner_text().removesuffix(" ms"))
        if i >= 2:  # the first moves warm up
            waits.append(wait)
            inside.append(count * share)
    return waits, inside


def summary(waits: list[float], inside: list[float]) -> dict[str, float]:
    """What a row tells of the waits and of the network's share; a tenth of the waits is below `p10_ms`, nine below `p90_ms`."""
    tenths = statistics.quantiles(waits, n=10)
    numbers = {
        "p10_ms": tenths[0],
        "median_ms": statistics.median(waits),
        "p90_ms": tenths[-1],
        "network_ms": statistics.median(inside),
    }
    return {key: round(value, 1) for key, value in numbers.items()}


if __name__ == "__main__":
    run_main(main)
