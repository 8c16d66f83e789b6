"""The report: every figure is in it, it needs nothing from outside, nothing from outside gets into it unescaped, and it is replaced whole."""

import base64
import io
import itertools
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from fewstep.errors import InputError
from fewstep.evaluation.report import grid_image, write_report
from fewstep.evaluation.results_table import pair, text_table

torch.set_num_threads(1)

SCALES = (1.0, 2.0, 3.5)
LOG = [
    {"stage": stage, "update": update, "loss": None if update == 50 else 0.3 / update, "learning_rate": 1e-3}
    for stage in ("stage-one", "steps-0016", "steps-0004")
    for update in range(25, 251, 25)
]


def row(model, sampler, steps, scale, frechet, rms, accuracy=0.98, seconds=0.00321):
    evaluations = steps * (2 if model == "teacher" and scale != 1 else 1)
    return {
        "model": model, "sampler": sampler, "steps": steps, "evaluations": evaluations, "guidance_scale": scale, "samples": 1000,
        "class_accuracy": accuracy, "frechet": frechet, "rms_to_teacher": rms, "seconds_per_image": seconds,
    }  # fmt: skip


def realistic():
    rows = []
    for scale in SCALES:
        for steps in (4, 8, 16, 256):
            rows.append(row("teacher", "ddim", steps, scale, 1.04 + 97 / steps**1.5, None if steps == 256 else 1.3 / steps, 0.9913))
        for steps in (1, 2, 4):
            rows.append(row("student", "deterministic", steps, scale, 1.31 + 5.3 / steps, 0.21 / steps, 0.972))
        rows.append(row("stage-one", "deterministic", 64, scale, 1.12 * scale, 0.0178 * scale))
    checks = [
        ("4 steps as good as the teacher's 8", 1.2, 1.3, True),
        ("1 step as the 4", 4.1, 3.9, False),
        ("2 as 4", None, 3.9, None),
    ]
    return {
        "summary": "The student needs 4 evaluations where the teacher needs 512.", "rows": rows,
        "features": {"name": "64 features of a small digit classifier", "held_out_accuracy": 0.985},
        "checks": [dict(zip(("claim", "student", "against", "holds"), check, strict=True)) for check in checks],
        "seconds": {"stage-one": 61.0, "steps-0004": 20.1, "total": 200.0}, "versions": {"fewstep": "0.1.0", "torch": "2.13.0+cpu"},
    }  # fmt: skip


def pictures(n=6, size=8, channels=1, scales=SCALES):
    configurations = (("teacher", 256), ("teacher", 8), ("student", 4), ("student", 1))
    noise = torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))
    return {(*c, scale): noise * (1 + i / 3) for i, c in enumerate(configurations) for scale in scales}


class Reader(HTMLParser):
    """Collects what a page says and what it refers to, and checks that its elements are closed in order."""

    EMPTY = frozenset({"meta", "img", "br", "source", "link"})

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.addresses, self.images, self.text = [], [], [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.addresses += [values[a] for a in ("src", "srcset", "href", "action", "data") if values.get(a)]
        if tag == "img":
            self.images.append(values)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data.strip())


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    path = write_report(run, realistic(), pictures(), "Digits, distilled", recipe='[data]\nname = "digits"\n', log=LOG)
    return path, Reader(path.read_text())


def test_every_figure_of_the_rows_is_on_the_page(report):
    texts = report[1].text
    for r in realistic()["rows"]:
        assert f"{r['steps']}" in texts
        assert f"{r['evaluations']}" in texts
        assert f"{100 * r['class_accuracy']:.1f}%" in texts
        shown = [float(t) for t in texts if re.fullmatch(r"[\d.]+", t)]
        for figure in (r["frechet"], r["rms_to_teacher"], 1000 * r["seconds_per_image"]):
            assert figure is None or any(t == pytest.approx(figure, rel=0.01) for t in shown), r
    assert "1,000" in texts
    assert "–" in texts  # the teacher's distance to itself
    text = " ".join(texts)
    assert "None" not in text
    for words in (
        "The student needs 4 evaluations", "Within 1,000 samples", "98.5% of images", "1 of 3 reached", "✓ reached", "✗ not reached",
        "not measured", "stage one 1 min 01 s", "to 4 steps 20 s", "torch 2.13.0+cpu", 'name = "digits"',
    ):  # fmt: skip
        assert words in text
    assert {"256 or 512 evaluations", "8 or 16 evaluations", "4 evaluations", "1 evaluation"} <= set(texts)


def test_the_page_needs_nothing_but_itself(report):
    path, page = report
    assert not re.search(r"https?:|//[a-z]|@import|url\(", path.read_text().split("<body>")[0])
    assert "script" not in page.tags
    assert page.addresses
    for address in page.addresses:
        kind, content = address.split(",")
        assert kind == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(content))).verify()
    assert sorted(file.name for file in path.parent.iterdir()) == ["grid.png", "quality.png", "report.html"]
    for name in ("grid.png", "quality.png"):
        with Image.open(path.with_name(name)) as image:
            assert image.format == "PNG" and image.width > 300


def test_every_image_says_what_it_shows(report):
    alts = [image["alt"] for image in report[1].images]
    assert len(alts) == len(set(alts)) == 12 + 3 + 3  # strips, scales, stages
    assert "teacher, 256 steps, 256 or 512 evaluations, guidance scale 3.5" in alts


def test_hostile_words_stay_words(tmp_path):
    hostile = "</title></pre><script src='https://example.org'>alert(1)</script><img src=x>\"'&"
    metrics = realistic() | {"summary": hostile, "versions": {hostile: hostile}, "seconds": {hostile: 1.0}}
    metrics["checks"][0]["claim"] = metrics["features"]["name"] = hostile
    metrics["rows"] = [r | {"sampler": hostile} for r in metrics["rows"]]
    log = [line | {"stage": hostile} for line in LOG[:3]]
    page = Reader(write_report(tmp_path, metrics, {}, hostile, recipe=hostile, log=log).read_text())
    assert "script" not in page.tags
    assert all(address.startswith("data:") for address in page.addresses)
    assert sum(hostile in text for text in page.text) >= 6


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row("teacher", "ddim", 8, 2.0, 12.0, None)],
        [row("student", "deterministic", 1, 2.0, 12.0, 0.1)],
        [row("stage-one", "deterministic", 64, 2.0, 1.5, 0.02)],
        [row("student", "stochastic", 4, 2.0, None, None, None, None)],
        [row("student", "stochastic", 4, 2.0, 0.0, 0.0, 0.0, 0.0), row("teacher", "dpm++", 4, 2.0, float("nan"), float("inf"))],
        [row("teacher", "ddim", 3, 2.0, 4e5, 1e-6)],
    ],
    ids=["none", "teacher", "student", "stage one", "nothing measured", "not numbers", "far apart"],
)
def test_few_or_odd_rows_make_a_page_and_a_table(tmp_path, rows):
    page = Reader(write_report(tmp_path, {"rows": rows}, {}, "Few", recipe="", log=[]).read_text())
    assert "Few" in page.text
    assert page.text.count("2") >= sum(r["model"] == "stage-one" for r in rows)
    assert not (tmp_path / "grid.png").exists()
    table = text_table(rows).splitlines()
    assert len(table) == (1 + 2 + len(rows) if rows else 1)
    if len(rows) == 1 and rows[0]["frechet"] is None:
        assert table[-1].split() == ["student", "stochastic", "4", "4", "–", "–", "–", "–", "1,000"]


def test_a_kill_while_writing_leaves_the_old_report(tmp_path, monkeypatch):
    metrics = {"rows": [row("student", "deterministic", 1, 2.0, 12.0, 0.1)]}
    path = write_report(tmp_path, metrics, {}, "Old", recipe="", log=[])
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_report(tmp_path, metrics, {}, "New", recipe="", log=[])
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["quality.png", "report.html"]


def test_text_table_is_aligned_and_narrow():
    rows = realistic()["rows"]
    lines = text_table(rows).splitlines()
    assert max(map(len, lines)) <= 100
    assert [line for line in lines if line.startswith("guidance")] == [f"guidance scale {s:g}" for s in SCALES]
    figures = [line for line in lines if line.endswith("1,000")]
    assert len(figures) == len(rows)
    assert len({len(line) for line in figures}) == 1
    ranks = [line.split()[0] for line in figures[:7]]
    assert ranks == ["teacher"] * 4 + ["student"] * 3
    assert [int(line.split()[2]) for line in figures[:7]] == [256, 16, 8, 4, 4, 2, 1]


def test_rounding_never_hides_which_of_two_figures_is_larger():
    for one, other in itertools.product((1.204, 1.2043, 0.98, 312.41, 312.4, 0.0), repeat=2):
        texts = pair(one, other)
        assert (texts[0] == texts[1]) == (one == other)
        assert (float(texts[0]) < float(texts[1])) == (one < other)
    assert pair(None, 1.5) == ("–", "1.50")


@pytest.mark.parametrize(("n", "size", "channels"), [(5, 8, 1), (10, 8, 1), (7, 16, 3), (1, 64, 3), (3, 256, 3)])
def test_grid_image_shows_each_sample_pixel_by_pixel_or_smaller(n, size, channels):
    image = grid_image(pictures(n, size, channels, scales=(2.0,)), [])
    assert image.mode == "RGB"
    assert image.width <= 1500
    if (n, size) == (5, 8):  # a pixel becomes a 6 x 6 square of its grey
        expected = round((float(pictures(n)["teacher", 256, 2.0][0, 0, 0, 0].clamp(-1, 1)) + 1) * 127.5)
        assert image.crop((90, 76, 96, 82)).getcolors() == [(36, (expected,) * 3)]


def test_a_configuration_missing_at_one_scale_is_a_gap(tmp_path):
    grids = {key: samples for key, samples in pictures().items() if key != ("student", 4, 2.0)}
    page = Reader(write_report(tmp_path, {}, grids, "Gap", recipe="", log=[]).read_text())
    assert (len(page.images), page.text.count("–")) == (11, 1)
