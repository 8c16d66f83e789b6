"""A crowd at the page, half of whose requests are malformed: the right ones are drawn right, the others are refused, nothing is served that is not its own."""

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import fewstep
from figures import record

pytest.importorskip("gradio", reason="gradio is not installed (pip install 'fewstep[playground]')")

from visitor import API, Visitor

SEEDS = 5
EDIT = ("3", 0.5, 4, 2.0, 0, "deterministic", False)  # class, strength, steps, guidance scale, seed, sampler, smooth


def generate(seed=0, **changed):
    """The values of a drawing: classes, guidance scale, that of each step, steps, sampler, seed, count, teacher beside, smooth, divider."""
    known = {
        "classes": ["3"],
        "scale": 2.0,
        "by_step": "",
        "steps": 4,
        "sampler": "deterministic",
        "seed": seed,
        "count": 1,
        "beside": False,
    }
    return list((known | {"smooth": False, "divider": False} | changed).values())


def shown(messages):
    """The pictures in the answer to a request, as the page shows them."""
    return re.findall(r"data:image/png;base64,[\w+/=]+", json.dumps(messages))


def drawing(**changed):
    """A malformed drawing: answered, without a picture."""

    def ask(visitor, _picture):
        return not shown(visitor.ask("generate", *generate(**changed)))

    return ask


def editing(value):
    """An edit of what is no picture of this visitor's: answered, without a picture."""

    def ask(visitor, _picture):
        return not shown(visitor.ask("edit", value, *EDIT))

    return ask


def posting(path, content, statuses, **headers):
    """What no page sends: refused with one of these statuses."""

    def ask(visitor, _picture):
        headers_ = {"content-type": "application/json"} | headers
        return visitor.http.post(f"{API}/{path}", content=content, headers=headers_).status_code in statuses

    return ask


def getting(path):
    """A file that is not the page's: refused, and nothing of it is said."""

    def ask(visitor, _picture):
        answer = visitor.http.get(path)
        return answer.status_code in (400, 403, 404, 405) and "root:" not in answer.text

    return ask


FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
MALFORMED = [
    drawing(seed="NaN"), drawing(steps="x"), drawing(classes=["no such class"]), drawing(classes={"cat": 1}), drawing(scale=[1]),
    drawing(count="many"), drawing(sampler="none"), drawing(by_step="1/2/3"), drawing(by_step="1/2/3/x"), drawing(by_step=[1, 2]), drawing(seed="x" * 9000), editing(None), editing([1, 2]), editing(FILE),
    posting("queue/join", b'{"data": [], "fn_index": 9999, "session_hash": "a"}', (400, 404)), posting("queue/join", b"{", (400, 422)),
    posting("queue/join", b"\xff" * 100, (400, 422)), posting("call/nothing", b'{"data": []}', (400, 404)),
    posting("queue/join", b'{"data": ["' + b"x" * 400_000 + b'"]}', (413,)), posting("cancel", b"{}", (403,)),
    posting("queue/join", b"{}", (403,), origin="https://example.com"), posting("upload", b"x", (403,), origin="null"),
    getting(f"{API}/file=/etc/passwd"), getting(f"/{API}/file=../../../../../../etc/passwd"), getting("/file=%2fetc%2fpasswd"),
    getting(f"{API}/file=http://127.0.0.1/x"),
]  # fmt: skip


def resident(process):
    """Bytes of memory that a process has; None where the system does not say."""
    status = Path(f"/proc/{process}/status")
    found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return int(found[1]) * 1024 if found else None


def crowd(playground, tmp_path, clients, requests):
    """Let so many clients ask so often, every other time wrongly; what was seen."""
    address, folder = playground
    fewstep.open_model(folder / "mine" / "steps-0004").sample([8])[0].save(tmp_path / "eight.png")
    with Visitor(address) as quiet:  # what the right answers are, one at a time
        right = {seed: shown(quiet.ask("generate", *generate(seed))) for seed in range(SEEDS)}
        right["edit"] = shown(quiet.ask("edit", quiet.upload(tmp_path / "eight.png"), *EDIT))
    assert all(right.values()) and len({str(pictures) for pictures in right.values()}) == SEEDS + 1
    process, waits, over = int((folder / "pid").read_text()), [], threading.Event()

    def watch():
        while not over.wait(0.05):
            began = time.monotonic()
            httpx.get(f"{address}/{API}/startup-events", timeout=120)
            waits.append(time.monotonic() - began)

    def client(number):
        wrong = []
        with Visitor(address) as visitor:
            visitor.http.timeout = 600
            picture = visitor.upload(tmp_path / "eight.png")
            for k in range(requests):
                turn = number * requests + k
                if turn % 2:
                    held = MALFORMED[turn // 2 % len(MALFORMED)](visitor, picture)
                elif turn % 3:
                    held = shown(visitor.ask("generate", *generate(turn % SEEDS))) == right[turn % SEEDS]
                else:
                    held = shown(visitor.ask("edit", picture, *EDIT)) == right["edit"]
                wrong += [] if held else [turn]
        return wrong

    watcher, before = threading.Thread(target=watch), resident(process)
    watcher.start()
    try:
        with ThreadPoolExecutor(clients) as pool:
            wrong = [turn for found in pool.map(client, range(clients)) for turn in found]
    finally:
        over.set()
        watcher.join()
    return {
        "wrong": wrong,
        "before": before,
        "after": resident(process),
        "longest_wait": max(waits),
        "errors": (folder / "errors").read_text(),
    }


@pytest.mark.slow  # tests/playground/test_server.py asks the same server for each of them, and with others beside
def test_in_a_crowd_right_requests_are_drawn_right_and_others_refused(playground, tmp_path):
    seen = crowd(playground, tmp_path, clients=6, requests=8)
    assert not seen["wrong"]


@pytest.mark.slow
def test_in_a_large_crowd_memory_stays_flat(playground, tmp_path):
    crowd(playground, tmp_path, clients=50, requests=4)  # what libraries keep is there from now on
    seen = crowd(playground, tmp_path, clients=50, requests=20)
    assert not seen["wrong"]
    grown = seen["after"] - seen["before"] if seen["before"] else 0
    record(
        "crowd",
        {"what": "50 clients, 1,000 requests, half malformed", "answered_wrongly": len(seen["wrong"]), "memory_grown_mib": round(grown / 2**20, 1),
         "memory_before_mib": round((seen["before"] or 0) / 2**20, 1), "longest_wait_of_another_visitor_seconds": round(seen["longest_wait"], 2)},
    )  # fmt: skip
    assert grown < 100 * 2**20
    assert seen["longest_wait"] < 60
