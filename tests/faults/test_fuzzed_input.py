"""Any value, in Python and on a command line, gives a result or one InputError: no other exception, no traceback, nothing outside `--out`."""

import math
import os
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fewstep
from command_line import command, refused
from fewstep.cli import main as cli
from fewstep.errors import InputError
from fewstep.export.formats import export
from fuzzing import fuzz
from tiny import tiny_student

HUGE = 10**5000  # has no text: Python refuses to print whole numbers of more than 4,300 digits
DEVICES = ["meta", "cuda:99", "tpu", "", "\0", "cpu:77777777777777777777", 3, 1.5, [], object()]
LONG, SURROGATE = "x" * 5000, "a\udcff\ud800"

NUMBERS = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 3, True, False, 10**20, -(10**20), HUGE, 2**31, 2**63, 2**64, 1.5, 4.0, Fraction(1, 2), 1j]),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e308, 0.0, -0.0, np.int64(2), np.float32(2), np.float64("nan"), np.uint8(4)]),
    st.integers(-3, 6),
    st.floats(-3, 6),
)
TEXTS = st.one_of(
    st.sampled_from(
        ["", "3", "#3", "#", "#99", "²", "٣", "x", LONG, SURROGATE, "\0", "9" * 5000, "nan", "-1", "1e400", "../nothing", "\u2028"]
    ),
    st.text(max_size=6).filter(lambda text: "/" not in text),
)
TENSORS = st.builds(
    lambda shape, dtype, value: torch.full(shape, 1).to(dtype) * (value if dtype.is_floating_point else int(max(value, 0) % 256)),
    st.sampled_from(
        [(), (0,), (2,), (1, 1, 8, 8), (2, 1, 8, 8), (1, 3, 8, 8), (0, 1, 8, 8), (8, 8), (1, 1, 8, 8, 1), (1, 1, 7, 9)]
    ),
    st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int64, torch.bool]),
    st.sampled_from([0.0, 1.0, 0.5, -1.0, 2.0, 255.0, 3.0]),
) | st.sampled_from([torch.full((1, 1, 8, 8), v) for v in (math.nan, math.inf, 1j)])
ODD = st.sampled_from(
    [None, [], (), {}, set(), object(), b"3", int, [None], [[1]], {"a": 1}, np.zeros(3), Path("x"), Path("\0"), Path(LONG)]
)
ANY = st.one_of(NUMBERS, TEXTS, TENSORS, ODD)
MANY = ANY | st.lists(NUMBERS | TEXTS, max_size=4)


def arguments(good: dict, special: dict | None = None):
    """`good` with one or two of its values, or none, replaced by others; `special` has what is drawn for some keys."""
    special = special or {}
    changed = st.lists(st.sampled_from(sorted(good)), max_size=2, unique=True)
    return changed.flatmap(lambda keys: st.fixed_dictionaries({key: special.get(key, MANY) for key in keys})).map(good.__or__)


X = torch.zeros(1, 1, 8, 8)
MASK = torch.ones(1, 1, 8, 8)
DRAWING = {"steps": 4, "guidance_scale": 2.0, "seed": 0, "sampler": "deterministic", "batch_size": 2}
COUNT = NUMBERS.filter(lambda n: not (isinstance(n, int) and 10 < n <= 10**7)) | TEXTS | ODD
DEVICE = st.sampled_from(DEVICES)
CALLS = {
    "sample": arguments({"class_labels": [3], "num_images": 2, "prompts": None, "negative_prompt": None, **DRAWING}, {"num_images": COUNT}),
    "sample_tensor": arguments({"condition": torch.tensor([3]), "noise": None, **DRAWING}),
    "edit": arguments({"images": X, "labels_or_prompts": [3], "strength": 0.5, **DRAWING}),
    "inpaint": arguments({"images": X, "masks": MASK, "labels_or_prompts": [3], "feather": 1.0, "resample": 0, **DRAWING},
                         {"resample": COUNT}),
    "translate": arguments({"images": X, "source": [3], "target": [8], "encoder": None, "steps": 4, "guidance_scale": 2.0,
                            "encoder_steps": 2, "encoder_guidance_scale": 1.0, "batch_size": 2}),
    "bake": arguments({"guidance_scale": 2.0}),
    "open_model": arguments({"path": "nothing here", "device": "cpu", "steps": 4, "network": None, "revision": None, "variant": None},
                            {"device": DEVICE, "path": ANY}),
    "open_data": arguments({"name": "digits", "path": None, "size": 8, "channels": 1, "split": "train", "layout": "auto",
                            "image_column": None, "classes": None, "streaming": False, "flip": False, "seed": 0, "memory_limit": 2**30},
                           {"path": st.sampled_from(["", "\0", LONG, SURROGATE, Path("\0"), 3, b"x", [], "../nothing", HUGE])}),
    "Denoiser": arguments({"network": torch.nn.Linear(1, 1), "prediction": "v", "process": fewstep.Cosine(), "null": 3}),
    "distill": arguments({"teacher": "digits", "data": None, "recipe": "digits", "steps": 4, "guidance_scale": (1.0, 2.0),
                          "changes": {"train.seed": 0}, "device": "meta"}, {"device": DEVICE, "changes": MANY | st.dictionaries(TEXTS, ANY, max_size=2)}),
    "teach": arguments({"recipe": "digits", "changes": {"train.seed": 0}, "device": "meta"},
                       {"device": DEVICE, "changes": st.dictionaries(st.sampled_from(["train.seed", "data.path", "teach.updates"]), ANY)}),
    "evaluate": arguments({"model": "nothing here", "data": "digits", "preset": "quick", "batch_size": 2, "seed": 0, "steps": [4],
                           "guidance_scale": [1.0], "samples": 10, "budgets": [8], "baselines": [], "features": "classifier",
                           "against": None, "device": "cpu", "score": "no.such:score"}, {"device": DEVICE, "against": ANY}),
    "export": arguments({"guidance_scale": 2.0, "format": "diffusers", "out": "\0"}, {"out": st.sampled_from(["", ".", LONG, SURROGATE, 3, None])}),
}  # fmt: skip
WORDS = st.sampled_from(
    ["", "3", "#3", "#99", "-1", "0", "2", "1.5", "9" * 20, "9" * 5000, LONG, SURROGATE, "\0", "nan", "inf", "1e999", "1/0", "1/2",
     "a/", "../nothing", "\u2028", "--", "=", "1,2", "x" * 300 + "/y", "²", "meta", "cuda:9", "[[[", "{}", "data.path=\0", "train.seed=" + "9" * 5000,
     "train.seed=" + "[" * 5000, "stage_two.ladder=[1e400]", "teach.start=" + SURROGATE]
) | st.text(max_size=4).filter(lambda text: "/" not in text)  # fmt: skip
COMMANDS = {
    "sample": ("MODEL", "--out", "OUT", "--class-label", "3", "--num-images", "1", "--steps", "4", "--guidance-scale", "2", "--seed", "1",
               "--device", "cpu", "--sampler", "deterministic", "--batch-size", "2"),
    "edit": ("MODEL", "--out", "OUT", "--image", "PICTURE", "--class-label", "3", "--strength", "0.5", "--guidance-scale", "2", "--device", "cpu"),
    "inpaint": ("MODEL", "--out", "OUT", "--image", "PICTURE", "--mask", "PICTURE", "--class-label", "3", "--feather", "1", "--resample", "0"),
    "translate": ("MODEL", "--out", "OUT", "--image", "PICTURE", "--from", "3", "--to", "8", "--encoder", "MODEL", "--encoder-steps", "4"),
    "distill": ("RECIPE", "--out", "OUT", "--steps", "4", "--guidance-scale", "1,2", "--set", "train.seed=1", "--device", "nothing"),
    "teach": ("RECIPE", "--out", "OUT", "--set", "train.seed=1", "--device", "nothing"),
    "evaluate": ("MODEL", "--out", "OUT", "--data", "nothing/here/x", "--steps", "4", "--guidance-scale", "1,2", "--budgets", "8", "--samples", "10"),
    "export": ("MODEL", "OUT", "--guidance-scale", "2", "--format", "nothing"),
    "show": ("MODEL", "--images-per-second", "3", "--batch-size", "2"),
    "compare": ("MODEL", "MODEL", "--out", "OUT", "--steps", "4", "--guidance-scale", "1,2", "--class-label", "3", "--num-images", "1", "--teacher-steps", "2"),
    "new": ("--teacher", "MODEL", "--data", "nothing/here/x", "--device", "cpu", "--memory", "2", "--out", "OUT", "--yes", "--set", "train.seed=1"),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny model, a picture and a FIFO, which is also the working folder."""
    folder = tmp_path_factory.mktemp("fuzzed")
    (folder / "here").mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder / "here")
        for name in ("huggingface_hub.constants.HF_HUB_OFFLINE", "datasets.config.HF_HUB_OFFLINE"):
            patched.setattr(name, True)
        model = tiny_student(4)
        model.save(folder / "model")
        model.sample([3])[0].save(folder / "picture.png")
        os.mkfifo(folder / "pipe.png")
        yield folder, model


def call(name, given, folder, model):
    """The public call of this name; an InputError of one line passes."""
    home = fewstep if hasattr(fewstep, name) else model
    given = {"out": folder / "here" / "out"} | given if name in ("distill", "teach", "evaluate", "export") else given
    quiet = {"quiet": True} if name in ("distill", "teach", "evaluate") else {}
    try:
        if name == "export":
            return export(model, **given | ({} if given["out"] != "\0" else {"out": folder / "here" / "out"}))
        return getattr(home, name)(**given, **quiet)
    except InputError as error:
        text = str(error)
        assert 0 < len(text) < 2000
    return None


def typed(words, folder):
    """A command in this process: exit code 0, 2 with one line, and no traceback."""
    known = {"MODEL": str(folder / "model"), "PICTURE": str(folder / "picture.png"), "PIPE": str(folder / "pipe.png")}
    known |= {"OUT": str(folder / "here" / "out"), "RECIPE": "digits"}
    with patch("sys.argv", ["fewstep", *(known.get(word, word) for word in words)]):
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
    assert code in (0, 2)


def swept(folder):
    """Nothing but the output folder was written; it is removed."""
    shutil.rmtree(folder / "here" / "out", ignore_errors=True)
    left = sorted(path.name for path in (folder / "here").iterdir())
    assert left == [], left


NAMED = tuple(str(n) for n in range(1, 12))  # folders "1" to "11", in the order of numbers


@pytest.mark.parametrize(
    ("classes", "labels", "expected"),
    [
        (NAMED, ["1", "11", "#0", "#10", 0, 10], [0, 10, 0, 10, 0, 10]),
        (tuple("0123456789"), ["3", 3, "#3"], [3, 3, 3]),
        (("cat", "dog", "#0"), ["dog", "1", 1, "#1", "#0", "0"], [1, 1, 1, 1, 2, 0]),
    ],
)
def test_text_is_the_name_of_a_class_and_a_number_its_index(place, classes, labels, expected):
    model = place[1]
    assert renamed(model, classes).labels(labels).tolist() == expected
    assert renamed(model, classes).labels(torch.arange(len(classes))).tolist() == list(range(len(classes)))


@pytest.mark.parametrize("label", ["0", "12", "#11", 11, -1, True, 1.0, None, "9" * 5000, "²", SURROGATE])
def test_text_that_is_no_name_is_no_index_where_classes_have_numbers_for_names(place, label):
    with pytest.raises(InputError, match="class"):
        renamed(place[1], NAMED).labels([label])


def renamed(model, classes):
    return replace(model, info=model.info.model_copy(update={"classes": classes}))


@pytest.mark.parametrize(
    ("name", "change", "value"),
    [
        ("sample", {"num_images": -1}, "-1"), ("sample", {"batch_size": 0}, "0"), ("sample", {"seed": 10**30}, str(2**63 - 1)),
        ("sample", {"steps": 0}, "4"), ("sample", {"steps": "4"}, "'4'"), ("sample", {"steps": 4.0}, "4.0"), ("sample", {"num_images": HUGE}, "int"),
        ("edit", {"images": torch.zeros(1, 1, 8, 8, dtype=torch.uint8)}, "uint8"), ("edit", {"images": 255 * MASK}, "255"),
        ("edit", {"images": math.nan * MASK}, "finite"), ("edit", {"images": X[0]}, "1, 8, 8"), ("edit", {"strength": "1"}, "'1'"),
        ("inpaint", {"masks": 2 * MASK}, "2"), ("inpaint", {"masks": -MASK}, "-1"), ("inpaint", {"masks": math.nan * MASK}, "finite"),
        ("inpaint", {"resample": 10**9}, "1000"), ("inpaint", {"feather": "3"}, "'3'"), ("translate", {"encoder": "digits"}, "'digits'"),
        ("bake", {"guidance_scale": math.nan}, "nan"), ("sample_tensor", {"condition": torch.tensor([11])}, "10"),
        ("sample_tensor", {"condition": torch.tensor([0.5])}, "float"), ("sample_tensor", {"noise": X.int()}, "int32"),
    ],
)  # fmt: skip
def test_a_plausible_wrong_value_is_named_with_its_limit(place, name, change, value):
    good = {
        "sample": {"class_labels": [3]}, "edit": {"images": X, "labels_or_prompts": [3], "strength": 0.5}, "bake": {},
        "inpaint": {"images": X, "masks": MASK, "labels_or_prompts": [3]}, "translate": {"images": X, "source": [3], "target": [8]},
        "sample_tensor": {"condition": torch.tensor([3])},
    }[name]  # fmt: skip
    with pytest.raises(InputError, match=value):
        getattr(place[1], name)(**good | change)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (("sample", "digits", "--out", "out", "--class-label", "9" * 5000), "class"), (("sample", "digits", "--out", "out", "--device", "meta"), "meta"),
        (("sample", "digits", "--out", LONG), "too long"), (("teach", LONG, "--out", "out"), "too long"), (("show", "a\0b"), "null"),
        (("sample", "digits", "--out", "out", "--num-images", "9" * 20), "9" * 20),
        (("edit", "digits", "--out", "out", "--strength", "0.5", "--class-label", "3", "--image", "../pipe.png"), "pipe.png"),
        (("distill", "digits", "--out", "out", "--set", "train.seed=" + "9" * 5000), "train.seed"),
    ],
)  # fmt: skip
def test_a_hostile_word_is_refused_in_one_line(place, capsys, words, value):
    line = refused(capsys, *words)
    assert value in line
    assert len(line) < 1000
    swept(place[0])


@pytest.mark.parametrize("out", [LONG, "a\0b", 3, "\ud800"])
@pytest.mark.parametrize("make", ["teach", "distill"])
def test_a_folder_that_cannot_be_is_refused(place, make, out):
    with pytest.raises(InputError, match=r"folder .* is no path"):
        getattr(fewstep, make)(recipe="digits", out=out)
    swept(place[0])


def test_a_label_of_a_grid_and_a_printed_path_need_not_be_text(place, capsys):
    folder = place[0]
    out = folder / "here" / "out" / SURROGATE[:2]
    command(capsys, "sample", folder / "model", "--class-label", "#3", "--out", out)
    assert sorted(path.name for path in out.iterdir()) == ["00000.png", "grid.png", "samples.json"]
    picture = out / "00000.png"
    command(
        capsys, "edit", folder / "model", "--image", picture, "--class-label", "3", "--strength", "0.5", "--out", out / "edited"
    )
    swept(folder)


CASES = st.sampled_from(sorted(CALLS)).flatmap(lambda name: st.tuples(st.just(name), CALLS[name]))


@st.composite
def command_lines(draw):
    """A right command of which up to two values are replaced."""
    name = draw(st.sampled_from(sorted(COMMANDS)))
    words = list(COMMANDS[name])
    places = [i for i, word in enumerate(words) if not word.startswith("--") and word != "OUT"]
    for i in draw(st.lists(st.sampled_from(places), max_size=2, unique=True)):
        words[i] = draw(WORDS)
    return [name, *words]


@pytest.mark.filterwarnings("ignore")
@fuzz(150)
@given(case=CASES)
def test_a_python_call_gives_a_result_or_one_input_error(place, case):
    call(*case, *place)
    swept(place[0])


@pytest.mark.filterwarnings("ignore")
@fuzz(50)
@given(words=command_lines())
def test_a_command_gives_a_result_or_one_line(place, words):
    typed(words, place[0])
    swept(place[0])
