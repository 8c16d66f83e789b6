"""The playground's server, asked as no browser would: pictures and values that are none, files that are not its own, other machines."""

import http.client
import json
import struct
import time
import zlib
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed (pip install 'fewstep[playground]')")

from visitor import API, Visitor

EDIT = ("3", 0.5, 4, 2.0, 0, "deterministic")  # class, strength, steps, guidance scale, seed, sampler


@pytest.fixture
def visitor(playground):
    with Visitor(playground[0]) as one:
        yield one


def noise(size=(300, 300, 3)):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))


def huge(path: Path, side=20_000):
    """A PNG of side x side pixels, one bit each, all black."""
    packer = zlib.compressobj()
    rows = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


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
    huge(folder / "huge.png")
    return folder


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("one-pixel.png", ""),
        ("long.png", ""),
        ("cmyk.jpg", ""),
        ("turned.jpg", ""),
        ("moving.gif", "Moving.gif has several frames; the first is taken."),
        ("cut.png", "Cannot read cut.png: image file is truncated; give a PNG, JPEG or WebP picture."),
        ("empty.jpg", "The picture cannot be read"),
        ("diary.png", "The picture cannot be read"),
        ("drawing.svg", "annot identify image file 'drawing.svg'"),
        ("huge.png", "The picture has more pixels than can be taken"),
    ],
)
def test_any_upload_is_drawn_or_answered_in_a_sentence(visitor, uploads, name, said):
    value = visitor.upload(uploads / name)
    for task, words in (("edit", (value, *EDIT)), ("inpaint", (canvas(value), "left half", "3", 4, 2.0, 0, "deterministic"))):
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
    shown = [
        json.dumps(visitor.ask("edit", visitor.upload(uploads / name), *EDIT)[-2]).split("<img")[1]
        for name in ("turned.jpg", "upright.png")
    ]
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("task", "changed", "said"),
    [
        ("edit", {2: 0}, "Strength is 0; with 4 steps it can be 1/4 to 1"),
        ("edit", {2: 0.1}, "Strength is 0.1"),
        ("edit", {2: 0.6}, "is rounded to 2/4"),
        ("edit", {2: "x"}, "Strength is x"),
        ("edit", {1: "cat"}, "Class 'cat' is not known"),
        ("edit", {3: 3}, "Steps is 3"),
        ("edit", {4: 99}, "Guidance scale is 99"),
        ("edit", {5: -1}, "Seed is -1"),
        ("edit", {6: "stochastic"}, "Sampler is stochastic"),
        ("edit", {0: None}, "No picture is given"),
        ("edit", {0: {"url": "data:image/png;base64,AAAA", "meta": {"_type": "gradio.FileData"}}}, "The picture cannot be read"),
        ("edit", {0: [1, 2]}, "valid dictionary"),
        ("edit", {0: {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}}, "not uploaded by a user"),
        (
            "edit",
            {0: {"path": "https://example.com/x.png", "meta": {"_type": "gradio.FileData"}}},
            "fetches nothing from other machines",
        ),
        ("generate", {0: [7]}, "is no text"),
        ("generate", {0: {"cat": 1}}, "Class 'cat' is not known"),
        ("generate", {2: [4]}, "Steps is [4]"),
        ("generate", {5: 10**9}, "1 to 16 can be drawn at a time"),
        ("generate", {5: None}, "None images are asked for"),
        ("inpaint", {0: None}, "No picture is given"),
        ("inpaint", {1: "painted"}, "Nothing is painted"),
        ("inpaint", {1: 5}, "is not known"),
    ],
)
def test_any_value_is_answered_in_a_sentence(visitor, uploads, task, changed, said):
    value = visitor.upload(uploads / "whole.png")
    usual = {
        "edit": [value, *EDIT],
        "generate": [["3"], 2.0, 4, "deterministic", 0, 1, False],
        "inpaint": [canvas(value), "left half", "3", 4, 2.0, 0, "deterministic"],
    }[task]
    assert said in visitor.said(task, *(changed.get(i, one) for i, one in enumerate(usual)))
    assert not visitor.said(task, *usual), "the next request is served"


def test_uploads_and_the_queue_are_bounded(playground, visitor, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(21 * 2**20))
    with (tmp_path / "large.png").open("rb") as file:
        assert visitor.http.post(f"{API}/upload", files={"files": ("large.png", file)}).status_code == 413
    slow = playground[1] / "slow"
    slow.touch()
    others = [visitor.join("generate", ["3"], 2.0, 4, "deterministic", 0, 1, False) for _ in range(70)]
    slow.unlink()
    refused = [answer for answer in others if answer.status_code != 200]
    assert 1 <= len(refused) <= 6
    assert "full" in refused[0].text.lower()
    with Visitor(playground[0]) as another:
        while another.join("generate", ["3"], 2.0, 4, "deterministic", 0, 1, False).status_code != 200:
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
    visitor.ask("generate", ["3"], 2.0, 4, "deterministic", 0, 1, False)
    told = json.dumps(visitor.ask("tell", None)[-1])
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
    for path in (
        f"/{API}/file=https://example.com/x.png",
        f"/{API}/file=HTTP://example.com",
        f"/{API}/proxy=https://example.com/x",
    ):
        assert get(address, path) == (403, "This server fetches nothing from other machines.")
    visitor.ask("edit", {"path": "http://example.com/x.png", "meta": {"_type": "gradio.FileData"}}, *EDIT)
    events = [line.split("\t") for line in (folder / "sockets").read_text().splitlines()]
    assert any(event == "socket.bind" for event, _ in events), "nothing was watched"
    assert [asked for _, asked in events if not ("127.0.0.1" in asked or "::1" in asked)] == []


def test_the_page_begins_with_the_seed_of_the_command(playground):
    with urlopen(f"{playground[0]}/config") as answer:
        parts = json.load(answer)["components"]
    assert [part["props"]["value"] for part in parts if part["props"].get("label") == "Seed"] == [
        7,
        7,
        7,
    ]  # Generate, Edit, Inpaint
