"""The playground's server, asked as no browser would: pictures and values that are none, files that are not its own, other machines."""

import asyncio
import http.client
import json
import os
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit
from urllib.request import urlopen

import httpx
import numpy as np
import pytest
from PIL import Image

import fewstep

pytest.importorskip("gradio", reason="gradio is not installed (pip install 'fewstep[playground]')")

from fewstep.playground import tasks
from fewstep.playground.controls import handler, preview_handler
from fewstep.playground.guard import Guard
from fewstep.playground.slot import Ended, Slot
from visitor import API, Visitor

EDIT = ("3", 0.5, 4, 2.0, 0, "deterministic", False)  # class, strength, steps, guidance scale, seed, sampler, smooth
INPAINT = ("left half", "3", 4, 2.0, 0, "deterministic", False)  # part, class, steps, guidance scale, seed, sampler, smooth
# classes, guidance scale, that of each step, steps, sampler, seed, count, teacher beside, smooth, divider
GENERATE = (["3"], 2.0, "", 4, "deterministic", 0, 1, False, False, False)
WITH_TEACHER = (*GENERATE[:7], True, False, False)


@pytest.fixture
def visitor(playground):
    with Visitor(playground[0]) as one:
        yield one


def noise(size=(300, 300, 3)):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    """Pictures as they come, and what is none."""
    folder = tmp_path_factory.mktemp("uploads")
    Image.new("L", (1, 1), 200).save(folder / "one-pixel.png")
    Image.new("L", (20_000, 30), 200).save(folder / "long.png")
    Image.new("CMYK", (40, 30), (0, 200, 100, 0)).save(folder / "cmyk.jpg")
    turned = Image.Exif()
    turned[274] = 6
    noise((20, 30, 3)).save(folder / "turned.jpg", exif=turned)
    red = Image.new("RGB", (30, 30), "red")
    red.save(folder / "moving.gif", save_all=True, append_images=[Image.new("RGB", (30, 30))])
    noise().save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:5000])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "diary.png").write_text("dear diary")
    (folder / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    Image.new("1", (20_000, 9_000)).save(folder / "huge.png")
    return folder


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *((name, "") for name in ("one-pixel.png", "long.png", "cmyk.jpg", "turned.jpg")),
        ("moving.gif", "frames"),
        ("cut.png", "cut.png: image file is truncated"),
        ("empty.jpg", "cannot be read"),
        ("diary.png", "cannot be read"),
        ("drawing.svg", "drawing.svg"),
        ("huge.png", "more pixels"),
    ],
)
def test_any_upload_is_drawn_or_answered_in_a_sentence(visitor, uploads, name, said):
    value = visitor.upload(uploads / name)
    for task, words in (("edit", (value, *EDIT)), ("inpaint", (canvas(value), *INPAINT))):
        messages = visitor.ask(task, *words)
        told = " ".join(one["log"] for one in messages if one["msg"] == "log")
        drawn = "<figure>" in json.dumps(messages[-2:])
        if task == "edit":
            assert said in told and bool(said) == bool(told)
        assert drawn != ("annot" in told or "more pixels" in told)
        assert "/tmp" not in told and "Traceback" not in told


def canvas(background, *layers):
    """An editor's value."""
    return {"background": background, "layers": list(layers), "composite": None}


def test_a_picture_is_turned_as_its_metadata_say(visitor, uploads):
    upright = Image.open(uploads / "turned.jpg").transpose(Image.Transpose.ROTATE_270)
    upright.save(uploads / "upright.png")
    asked = (visitor.ask("edit", visitor.upload(uploads / name), *EDIT) for name in ("turned.jpg", "upright.png"))
    turned, upright = (json.dumps(messages[-2]).split("<img")[1] for messages in asked)
    assert turned == upright


@pytest.mark.parametrize(
    ("task", "changed", "said"),
    [
        ("edit", {2: 0.6}, "2/4"),
        ("edit", {2: "x"}, "'x'"),
        ("generate", {5: 10**400}, ""),
        ("generate", {5: "NaN"}, "NaN"),
        ("generate", {0: ["x" * 50_000]}, "50000"),
        ("generate", {3: "x" * 50_000}, "xxx"),
        ("generate", {2: "1/2"}, "2 guidance scales for 4 steps"),
        ("generate", {2: "1/2/x/3"}, "'1/2/x/3'"),
        ("generate", {2: "/".join(["1"] * 9)}, "9 guidance scales"),
        ("generate", {2: "1/2/9/3"}, "9.0"),
        ("generate", {2: [1, 2, 3, 4]}, "scale for each step is '[1, 2, 3, 4]'"),
        ("edit", {6: "stochastic"}, "stochastic"),
        ("edit", {0: None}, "picture is given"),
        ("edit", {0: {"url": "data:image/png;base64,AAAA", "meta": {"_type": "gradio.FileData"}}}, "cannot be read"),
        ("edit", {0: [1, 2]}, "valid dictionary"),
        ("edit", {0: {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}}, "not uploaded by a user"),
        ("edit", {0: {"path": "https://example.com/x.png", "meta": {"_type": "gradio.FileData"}}}, "fetches nothing"),
        ("generate", {0: {"cat": 1}}, "no text"),
        ("inpaint", {0: None}, "picture is given"),
        ("inpaint", {1: "painted"}, "painted"),
        ("inpaint", {1: 5}, "not known"),
    ],
)
def test_any_value_is_answered_in_a_sentence(visitor, uploads, task, changed, said):
    value = visitor.upload(uploads / "whole.png")
    usual = {"edit": [value, *EDIT], "generate": GENERATE, "inpaint": [canvas(value), *INPAINT]}[task]
    sentence = visitor.said(task, *(changed.get(i, one) for i, one in enumerate(usual)))
    assert said in sentence and len(sentence) < 600
    assert not visitor.said(task, *usual), "the next request is served"


def test_uploads_and_the_queue_are_bounded(playground, visitor, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(21 * 2**20))
    with (tmp_path / "large.png").open("rb") as file:
        assert visitor.http.post(f"{API}/upload", files={"files": ("large.png", file)}).status_code == 413
    slow = playground[1] / "slow"
    slow.touch()
    others = [visitor.join("generate", *GENERATE) for _ in range(70)]
    slow.unlink()
    refused = [answer for answer in others if answer.status_code != 200]
    assert 1 <= len(refused) <= 6
    assert "full" in refused[0].text.lower()
    with Visitor(playground[0]) as another:
        while another.join("generate", *GENERATE).status_code != 200:
            time.sleep(0.1)


def get(address, path, **headers):
    """(status, content) of a path sent as it is."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request("GET", path, headers=headers)
    with closing(connection):
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")


def test_no_file_but_its_own_is_served(playground):
    address, folder = playground
    (folder / "here" / "secret.txt").write_text("a secret")
    up = "../" * 12
    for name in ("secret.txt", folder / "here" / "secret.txt", f"{up}{folder}/here/secret.txt", folder / "mine" / "teacher" / "fewstep.json", "/etc/passwd", "/proc/self/environ", "~/.bashrc"):  # fmt: skip
        for start in (f"/{API}/file=", "/file=", "/file/", "/assets/", "/static/", "/svelte/", "/custom_component/x/client/", ""):
            for path in (f"{start}{name}", f"{start}{name}".replace("..", "%2e%2e"), f"{start}{name}".replace("/", "%2f")):
                status, content = get(address, path if path.startswith("/") else f"/{path}")
                assert status in (400, 403, 404, 405), f"{path}: {status}"
                assert "a secret" not in content and "root:" not in content and "PATH=" not in content


def test_a_session_cannot_name_where_files_are_written(playground, visitor):
    visitor.session = "../../escaped"
    visitor.ask("generate", *GENERATE)
    told = json.dumps(visitor.ask("describe", None)[-1])
    assert "fewstep sample" in told and "00000.png" in told
    assert not list(playground[1].rglob("*escaped*"))


def test_pages_of_other_names_are_refused(playground):
    address = playground[0]
    port = urlsplit(address).port
    assert get(address, "/config", Host=f"localhost:{port}")[0] == 200
    assert get(address, "/config", Host=f"[::1]:{port}")[0] == 200
    for name in ("example.com", f"127.0.0.1.example.com:{port}", ""):
        status, said = get(address, "/config", Host=name)
        assert (status, said.split(";")[0]) == (403, "This server answers to 127.0.0.1, localhost, ::1 alone")


def post(address, path, content=b"{}", **headers):
    """(status, content) of what a page, or anything else, sends."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = httpx.post(f"{address}/{path}", content=content, headers={"content-type": "application/json"} | headers, timeout=60)
    return answer.status_code, answer.text


@pytest.mark.parametrize("path", ["upload", "queue/join", "run/predict", "cancel", "reset", "component_server"])
def test_pages_of_other_sites_can_send_nothing(playground, path):
    for origin in ("https://example.com", "http://127.0.0.1:1", "null", "http://localhost.example.com"):
        assert post(playground[0], f"{API}/{path}", Origin=origin)[0] == 403
    assert post(playground[0], f"{API}/{path}", Origin=playground[0])[0] != 403 or path == "cancel"


def test_unknown_names_are_not_found_and_large_values_come_back_to_nobody(playground):
    address, folder = playground
    for path in ("call/nothing", "run/nothing", "api/nothing", "queue/join"):
        status, said = post(address, f"{API}/{path}", b'{"data": [], "fn_index": 9999, "session_hash": "a"}')
        assert status in (400, 404) and len(said) < 200, path
    for path in ("queue/join", "call/generate", "call/nothing"):
        status, said = post(address, f"{API}/{path}", b'{"data": ["' + b"x" * 400_000 + b'"]}')
        assert (status, len(said) < 200) == (413, True), path
    assert "FnIndexInferError" not in (folder / "errors").read_text()


def test_uploads_are_bounded_in_all_and_old_ones_go(tmp_path):
    for i, size in enumerate((400, 300, 200)):
        (tmp_path / str(i)).write_bytes(bytes(size))
        os.utime(tmp_path / str(i), (i, i))
    seen = []

    async def app(scope, receive, send):
        seen.append(sorted(path.name for path in tmp_path.iterdir()))

    async def upload(size, path="/gradio_api/upload"):
        sent = []

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"content-length", str(size).encode())]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        await Guard(app, ("localhost",), tmp_path, kept=1000)(scope, None, send)
        return sent[0]["status"] if sent else 200

    assert [asyncio.run(upload(size)) for size in (50, 200, 600, 1001, 10**9)] == [200, 200, 200, 503, 413]
    assert seen == [["0", "1", "2"], ["1", "2"], ["2"]]


def test_a_drawing_that_is_ended_abandoned_or_out_of_time_gives_the_slot_back():
    async def all_of_it():
        slot, ended = Slot(limit=0.3, grace=0.1), threading.Event()

        def busy():
            while not ended.wait(0.01):
                pass
            raise Ended

        with pytest.raises(fewstep.InputError, match="more than"):
            await slot.draw("a", busy, ended)
        with pytest.raises(fewstep.InputError, match="more than"):
            await slot.draw("a", lambda: time.sleep(0.6), threading.Event())  # a step that does not end in time
        ended.clear()
        drawing = asyncio.create_task(slot.draw("a", busy, ended))
        waiting = asyncio.create_task(slot.draw("b", lambda: "drawn", threading.Event()))
        unbegun = asyncio.create_task(slot.draw("c", lambda: "drawn", threading.Event()))
        unbegun.cancel()
        await asyncio.sleep(0.05)
        slot.end("b")
        with pytest.raises(Ended):
            await waiting
        drawing.cancel()  # as of a visitor who goes away
        assert await asyncio.wait_for(slot.draw("d", lambda: "drawn", threading.Event()), 5) == "drawn"
        assert ended.is_set() and drawing.cancelled()

    asyncio.run(all_of_it())


def test_a_preview_ends_the_drawing_of_other_values_and_leaves_that_of_its_own():
    picture = tasks.Group("one", [Image.new("L", (8, 8))], ["one · 1 evaluation"])
    answer, request = tasks.Answer([picture], {"task": "sample"}), SimpleNamespace(session_hash="a")

    def endless(value, progress):
        while True:
            time.sleep(0.01)
            progress(1, 2)
        yield

    def quick(value, progress):
        yield answer

    async def all_of_it():
        slot = Slot()
        full, ours = handler(slot, endless, 1, named=True), preview_handler(slot, quick, 1)
        drawing = asyncio.ensure_future(anext(full(request, lambda *_, **__: None, 2.0, False)))
        await asyncio.sleep(0.05)
        assert [seen async for seen in ours(request, None, None, 2.0, False)] == []
        assert not drawing.done()
        [seen] = [seen async for seen in ours(request, None, None, 3.0, False)]
        assert "<figure>" in seen and not isinstance(await drawing, tuple)
        assert [seen async for seen in ours(request, replace(answer, asked=(3.0, False)), None, 3.0, False)] == []

    asyncio.run(all_of_it())


def test_the_teachers_pictures_follow_the_students(visitor):
    messages = [json.dumps(one) for one in visitor.ask("generate", *WITH_TEACHER)]
    assert next(one.count("<section") for one in messages if "<section" in one) == 1
    assert any("128 evaluations" in one for one in messages)


def test_an_event_cancelled_before_it_begins_keeps_no_place(playground, visitor):
    """Gradio never counts such an event as done; with its own limit of one drawing nothing was drawn from then on."""
    (playground[1] / "cancel").touch()
    visitor.join("generate", *GENERATE).raise_for_status()
    while (playground[1] / "cancel").exists():
        time.sleep(0.05)
    with Visitor(playground[0]) as other:
        assert "<figure>" in json.dumps(other.ask("generate", *GENERATE))


def test_nothing_that_visitors_do_keeps_others_from_being_drawn(playground):
    """While the server is slow: requests superseded, cancelled in Gradio's own way, ended, and abandoned, all at once."""
    address, folder = playground
    (folder / "slow").touch()
    try:
        for _ in range(3):
            visitors = [Visitor(address) for _ in range(8)]
            for i, one in enumerate(visitors):
                joined = [one.join("generate", *WITH_TEACHER) for _ in range(2)]
                body = {"session_hash": one.session, "fn_index": one.numbers["generate"]}
                body["event_id"] = joined[0].json().get("event_id", "") if joined[0].status_code == 200 else ""
                if i % 2:
                    one.http.post(f"{API}/cancel", json=body)
                with one.http.stream("GET", f"{API}/heartbeat/{one.session}") as beats:
                    next(beats.iter_lines())
                one.http.close()
        (folder / "slow").unlink()
        with Visitor(address) as last:
            assert "<figure>" in json.dumps(last.ask("generate", *GENERATE))
    finally:
        (folder / "slow").unlink(missing_ok=True)


def test_it_listens_on_loopback_alone(playground):
    port, found = urlsplit(playground[0]).port, set()
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    if not tables[0].is_file():
        pytest.skip("no /proc/net/tcp on this machine")
    for table in filter(Path.is_file, tables):
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
        found |= {row[1] for row in rows if row[3] == "0A" and int(row[1].rsplit(":", 1)[1], 16) == port}  # 0A: listening
    assert found == {f"0100007F:{port:04X}"}


def test_no_other_machine_is_asked(playground, visitor):
    address, folder = playground
    for path in ("file=https://example.com/x.png", "file=HTTP://example.com", "proxy=https://example.com/x"):
        assert get(address, f"/{API}/{path}") == (403, "This server fetches nothing from other machines.")
    visitor.ask("edit", {"path": "http://example.com/x.png", "meta": {"_type": "gradio.FileData"}}, *EDIT)
    events = [line.split("\t") for line in (folder / "sockets").read_text().splitlines()]
    assert any(event == "socket.bind" for event, _ in events), "nothing was watched"
    assert [asked for _, asked in events if not ("127.0.0.1" in asked or "::1" in asked)] == []


def test_the_page_begins_with_the_seed_of_the_command(playground):
    with urlopen(f"{playground[0]}/config") as answer:
        parts = json.load(answer)["components"]
    seeds = [part["props"]["value"] for part in parts if part["props"].get("label") == "Seed"]
    assert seeds == [7, 7, 7]  # Generate, Edit, Inpaint
