"""Files of any content, `fewstep.json`, `model_index.json`, recipes, pictures and masks: a result or one InputError, nothing else."""

import io
import json
import math
import shutil
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import fewstep
import pipelines
from fewstep.errors import InputError
from fewstep.models.file_hashes import HASHES
from fewstep.training.describe import describe, describe_text
from fewstep.training.recipe import load_recipe, to_toml
from figures import record
from fuzzing import fuzz
from tiny import tiny_student

VALUES = st.one_of(
    st.sampled_from([None, True, False, -1, 0, 1, 2, 10**20, 1e308, math.nan, math.inf, "", "x", "x" * 300, "\udcff", "../../etc", [], {}, [None],
                     [[]], {"name": "cosine"}, {"name": None}, [1, 2], ["diffusers", "UNet2DModel"], ["os", "system"], [None, None]]),
    st.integers(-5, 9), st.floats(), st.text(max_size=5), st.lists(st.integers(-2, 9) | st.text(max_size=3), max_size=4),
    st.dictionaries(st.text(max_size=4), st.integers() | st.none(), max_size=3),
)  # fmt: skip
RAN = Counter()  # cases by what they are of
BYTES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=0, max_size=4), st.integers(0, 8)), min_size=1, max_size=4
)


@st.composite
def changed_values(draw, known):
    """A JSON table with some of its values replaced, left out or added, at any depth; as text."""
    values = json.loads(json.dumps(known))
    for _ in range(draw(st.integers(1, 3))):
        place = values
        while True:
            key = draw(st.sampled_from(sorted(place))) if isinstance(place, dict) and place else None
            if key is None or not isinstance(place[key], dict) or draw(st.booleans()):
                break
            place = place[key]
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if key is not None and action == "remove":
            del place[key]
        else:
            place[draw(st.text(max_size=6)) if action == "add" or key is None else key] = draw(VALUES)
    return json.dumps(values).encode()


def spliced(content, changes):
    """Bytes in some places of which so many are replaced by others; a place is a share of the whole."""
    content = bytearray(content)
    for where, new, count in changes:
        start = int(where * len(content))
        content[start : start + count] = new
    return bytes(content)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a student and a pipeline of text, neither with hashes, and a student in memory."""
    folder, model = tmp_path_factory.mktemp("files"), tiny_student(2)
    model.save(folder / "student")
    (folder / "student" / HASHES).unlink()
    pipelines.text_pipeline(folder / "pipeline")
    yield folder, model
    for what, cases in RAN.items():
        record("fuzzed_files", {"what": what, "cases": cases})


def one_line(call):
    """What a call gives, or the one line with which it is refused."""
    try:
        return call()
    except InputError as error:
        said = str(error)
    assert 0 < len(said) < 3000
    return said


def with_file(folder, name, content, use):
    """Use a folder with another content of one file, which is put back."""
    before = (folder / name).read_bytes()
    listed = sorted(folder.rglob("*"))
    try:
        (folder / name).write_bytes(content)
        one_line(use)
    finally:
        (folder / name).write_bytes(before)
    assert sorted(folder.rglob("*")) == listed


def metadata(place, content):
    RAN["fewstep.json"] += 1
    folder = place[0] / "student"
    with_file(folder, "fewstep.json", content, lambda: fewstep.open_model(folder).sample([0]))
    with_file(folder, "fewstep.json", content, lambda: describe_text(describe(str(folder))))


def index(place, content):
    RAN["model_index.json"] += 1
    folder = place[0] / "pipeline"
    with_file(folder, "model_index.json", content, lambda: fewstep.open_model(folder).sample(prompts=["a"], steps=1))


def recipe(place, content):
    RAN["recipes"] += 1
    file = place[0] / "recipe.toml"
    file.write_bytes(content)
    one_line(lambda: to_toml(load_recipe(file)))


def picture(place, content, suffix=".png"):
    RAN["pictures, each edited, as its own mask, and among data"] += 1
    folder, model = place
    file = (folder / "picture").with_suffix(suffix)
    file.write_bytes(content)
    one_line(lambda: model.edit([file], [3], strength=0.5))
    one_line(lambda: model.inpaint([file], [file], [3]))
    shutil.rmtree(folder / "data", ignore_errors=True)
    for name in ("a", "b"):
        (folder / "data" / name).mkdir(parents=True)
        shutil.copy(file, folder / "data" / name / f"x{suffix}")
        Image.new("L", (8, 8)).save(folder / "data" / name / "whole.png")
    one_line(lambda: fewstep.open_data(path=str(folder / "data"), size=8, report=lambda line: None))


@pytest.fixture(scope="module")
def known(place):
    """The content of the files as they are."""
    files = {"metadata": "student/fewstep.json", "index": "pipeline/model_index.json"}
    texts = {name: (place[0] / file).read_bytes() for name, file in files.items()}
    return texts | {"recipe": to_toml(load_recipe("digits")).encode()}


MODES = st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F", "YCbCr", "HSV", "LAB"])
FORMATS = st.sampled_from(
    [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("GIF", ".gif"), ("TIFF", ".tif"), ("BMP", ".bmp"), ("PPM", ".ppm")]
)


@st.composite
def pictures(draw):
    """(content, ending) of a picture of some mode, size and format, whole, damaged, or of another ending than it should have."""
    width, height, seed = draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.integers(0, 9))
    (kind, suffix), file = draw(FORMATS), io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    try:
        Image.fromarray(pixels).convert(draw(MODES)).save(file, kind)
    except (OSError, ValueError):  # a mode that the format does not have
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
    content = file.getvalue()
    if draw(st.booleans()):
        content = spliced(content, draw(BYTES))
    return content, draw(st.sampled_from([suffix, suffix, ".png", ".jpg"]))


@pytest.mark.filterwarnings("ignore")
@fuzz(60)
@given(case=st.tuples(st.sampled_from(["metadata", "index"]), st.data(), BYTES, st.booleans()))
def test_any_json_of_a_model_folder(place, known, case):
    name, data, changes, plain = case
    content = spliced(known[name], changes) if plain else data.draw(changed_values(json.loads(known[name])))
    {"metadata": metadata, "index": index}[name](place, content)


@pytest.mark.filterwarnings("ignore")
@fuzz(100)
@given(changes=BYTES)
def test_any_bytes_as_a_recipe(place, known, changes):
    recipe(place, spliced(known["recipe"], changes))


@pytest.mark.filterwarnings("ignore")
@fuzz(60)
@given(case=pictures())
def test_any_bytes_as_a_picture_and_a_mask(place, case):
    picture(place, *case)
