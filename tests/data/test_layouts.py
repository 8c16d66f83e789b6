"""What is read of a folder, for each way in which people lay pictures out: (class or caption, picture) pairs, and what is left out."""

import io
import json
import os
import tarfile
import unicodedata
import zipfile

import numpy as np
import pytest
from PIL import Image

from fewstep.data import formats
from fewstep.data.decoding import decode
from fewstep.data.loading import open_data, open_source
from fewstep.data.prompts import prompt_file
from fewstep.data.sources import SourceSettings
from fewstep.data.summary import summary
from fewstep.errors import InputError
from fewstep.training.describe import describe, describe_text

TEXTS = (".txt", ".csv", ".tsv", ".md", ".json", ".jsonl", ".caption")


def build(root, *files):
    """Files by their paths: `NAME=content` of text, with | between lines; else pictures.

    `NAME.tar=FILE FILE:text` has these members, `NAME.parquet={"column": [...]}` these columns, both without content one picture of
    class 0 named as they are. `NAME.tif=uint16 4095` is a picture of that type with this value, black but for one pixel.
    """
    for text in files:
        name, _, content = text.partition("=")
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in TEXTS:
            path.write_bytes(content.replace("|", "\n").encode())
        elif path.suffix == ".tar":
            shard(path, content or f"{path.stem}.png {path.stem}.cls:0 {path.stem}.txt:{path.stem}")
        elif path.suffix == ".parquet":
            table(path, content)
        elif path.suffix == ".zip":
            zipfile.ZipFile(path, "w").close()
        elif path.suffix == ".tif":
            kind, value = content.split()
            values = np.zeros((4, 4), kind)
            values[1, 2] = int(value)
            Image.fromarray(values).save(path)
        else:
            Image.new("L", (4, 4), len(name)).save(path, "PNG")
    return root


def png():
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    return file.getvalue()


def shard(path, members):
    with tarfile.open(path, "w") as tar:
        for member in members.split():
            name, _, text = member.partition(":")
            content = text.replace("|", "\n").replace("_", " ").encode() if text else png()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def table(path, columns):
    import datasets

    if columns:
        return datasets.Dataset.from_dict(json.loads(columns)).to_parquet(path)
    rows = {"image": [{"bytes": png(), "path": path.name}], "label": [0], "text": [path.stem]}
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"]), "text": datasets.Value("string")}
    )
    return datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


def read(root, file="", prompts=None, values=False, **settings):
    """({"class or caption: picture"}, what is left out); a ! for one that cannot be used; the largest value with `values`; prompts."""
    if prompts is not None:
        found = prompt_file(root / prompts)
        return set(found.prompts), found.left_out
    source = open_source(SourceSettings(path=str(root / file), **settings))
    examples = list(source.examples(None, 0))
    assert source.total in (None, len(examples))
    if values:
        return {f"{e.name}={decode(e.pixels, None, None).max()}" for e in examples}, source.left_out
    names = {e: source.classes[e.label] if source.classes and not isinstance(e.label, str) else e.label for e in examples}
    missing = {e for e in examples if e.fault or not (isinstance(e.pixels, bytes) or e.pixels.exists())}
    return {f"{names[e]}: {e.name}{'!' * (e in missing)}" for e in examples}, source.left_out


CATS = ["train/cat/1.png", "train/dog/2.png"]
TESTS = ["test/cat/3.png", "test/dog/4.png"]
BOTH = {"cat: cat/1.png", "dog: dog/2.png"}
TWO = {"one: 1.png", "two: 2.png"}
TEXT = {"captions": True}
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
PLAIN = ["cat/1.png", "dog/2.png"]


@pytest.mark.parametrize(
    ("files", "settings", "pairs", "left"),
    [
        (PLAIN, {}, BOTH, ""),
        (PLAIN, {"captions": True}, BOTH, ""),
        (PLAIN, {"layout": "splits"}, BOTH, ""),
        ([*CATS, *TESTS], {}, BOTH, ""),
        ([*CATS, *TESTS], {"split": "test"}, {"cat: cat/3.png", "dog: dog/4.png"}, ""),
        ([*CATS, *TESTS], {"layout": "classes"}, {"train: train/cat/1.png", "train: train/dog/2.png", "test: test/cat/3.png", "test: test/dog/4.png"}, ""),
        ([*CATS, "test/3.png", "test/4.png"], {}, BOTH, ""),
        (["Train/cat/1.png", "Train/dog/2.png", "Test/cat/3.png"], {}, BOTH, ""),
        (["Training/cat/1.png", "Training/dog/2.png", "Testing/cat/3.png"], {}, BOTH, ""),
        (["Training/cat/1.png", "VALID/cat/3.png", "VALID/dog/4.png"], {"split": "validation"}, {"cat: cat/3.png", "dog: dog/4.png"}, ""),
        ([*CATS, "valid/cat/3.png", "samples/4.png"], {}, BOTH, "1 pictures in no split (samples)"),
        ([*CATS, "val/cat/3.png", "stray.png"], {}, BOTH, "1 pictures in no split (.)"),
        (["cat/train/1.png", "cat/val/3.png", "dog/train/2.png"], {}, {"cat: cat/train/1.png", "dog: dog/train/2.png"}, ""),
        (["cat/train/1.png", "cat/val/3.png", "dog/val/2.png"], {"split": "val"}, {"cat: cat/val/3.png", "dog: dog/val/2.png"}, ""),
        (["train/1.png", "bus/2.png"], {}, {"train: train/1.png", "bus: bus/2.png"}, ""),
        (["train/1.png", "test/2.png"], {"layout": "classes"}, {"train: train/1.png", "test: test/2.png"}, ""),
        ([*CATS, "bus/a/3.png"], {"layout": "splits"}, BOTH, "1 pictures in no split (bus/a)"),
        ([*PLAIN, "@eaDir/cat/1.png", "$RECYCLE.BIN/x.png", "lost+found/9", "__MACOSX/cat/1.png", ".thumbnails/1.png"], {}, BOTH, "1 files in @eaDir"),
        ([*PLAIN, "cat/@eaDir/1.png", "empty/notes.txt="], {}, BOTH, "empty"),
        ([*PLAIN, "stray.png"], {}, BOTH, "1 pictures outside the sub-folders (stray.png"),
        ([*PLAIN, "backup.tar"], {}, BOTH, "backup.tar"),
        ([*PLAIN, "cat/x.parquet"], {}, BOTH, "cat/x.parquet"),
        ([*PLAIN, "metadata.csv=note,weight|a,1"], {}, BOTH, "1 .csv; metadata.csv"),
        ([*PLAIN, "metadata.csv=file_name,label|cat/1.png,x|dog/2.png,y"], {"layout": "classes"}, BOTH, "1 .csv"),
        (["1.png", "train_9.png", "x.parquet"], {}, {"a: x.parquet"}, "2 pictures beside"),
        (["one.parquet", "two.parquet"], {}, {"a: one.parquet", "a: two.parquet"}, ""),
        (["train-0.parquet", "more_train.parquet", "test.parquet"], {}, {"a: train-0.parquet", "a: more_train.parquet"}, ""),
        (["0.tar", "0.parquet"], {"captions": True}, {"0: 0.png"}, ""),
        (["a/1.png", "a/1.txt=one", "2.png", "2.txt=two"], {"captions": True}, {"one: a/1.png", "two: 2.png"}, ""),
        (["train/1.png", "train/1.txt=one", "Val/2.png", "Val/2.txt=two"], {"captions": True}, {"one: 1.png"}, ""),
        (["1.png", "1.txt=one", "backup.tar"], {"captions": True}, {"one: 1.png"}, "backup.tar"),
        (["cat/1.png", "cat/1.txt=one", "dog/2.png", "dog/2.txt=two"], {}, BOTH, "2 .txt"),
        (["cat/1.png", "dog/2.png", "dog/2.txt=two"], {"captions": True, "layout": "classes"}, BOTH, "1 captions beside"),
        # captions in files beside pictures
        (["1.png", "1.caption=one", "2.png", "2.caption=two"], TEXT, TWO, ""),
        (["10_dog/1.png", "10_dog/1.caption=one"], TEXT, {"one: 10_dog/1.png"}, ""),
        (["1.PNG", "1.TXT=one", "2.png", "2.Txt=two"], TEXT, {"one: 1.PNG", "two: 2.png"}, ""),
        (["1.png", '1.json={"caption": "one", "width": 4}', "2.png", '2.json={"text": "two"}'], TEXT, TWO, ""),
        (["1.png", '1.json={"words": "one"}', "2.png", '2.json={"words": "two"}'], {"caption_column": "words"}, TWO, ""),
        (["cat/1.png", 'cat/1.json={"shapes": []}', "dog/2.png"], TEXT, BOTH, "1 .json"),
        (["1.png", "1.txt=one", "1.caption=other", "2.png", "2.txt=two"], TEXT, TWO, "1 .caption"),
        (["1.png", "1.txt=one|another", "2.png", "2.txt=|two"], TEXT, TWO, ""),
        (["1.png", "1.txt=one", "2.png"], TEXT, {"one: 1.png"}, "1 pictures without a caption (2.png)"),
        ([f"{NFD}.png", f"{NFC}.txt=one"], TEXT, {f"one: {NFD}.png"}, ""),
        ([f"{NFC}/1.png", f"{NFD}/3.png", "dog/2.png"], {}, {f"{NFC}: {NFC}/1.png", f"{NFC}: {NFD}/3.png", "dog: dog/2.png"}, ""),
        ([*PLAIN, "cat/readme.png", "cat/readme.txt=by me"], TEXT, BOTH | {"cat: cat/readme.png"}, '1 captions beside pictures in folders'),
        # what is no picture, or not listed
        ([*PLAIN, "cat/3.xyz", "cat/4", "Thumbs.db"], {}, BOTH, "2 files of other types (1 .xyz, 1 no ending; cat/3.xyz, ...)"),
        (["cat/1.heic", "dog/2.jxl", "dog/3.HIF"], {}, {"cat: cat/1.heic", "dog: dog/2.jxl", "dog: dog/3.HIF"}, ""),
        (["1.png", "2.png", "metadata.csv=file_name,text|1.png,one"], TEXT, {"one: 1.png"}, "1 pictures that metadata.csv does not list (2.png)"),
        (["1.png", "metadata.csv=file_name,text|1.png,one|2.png,two"], TEXT, {"one: 1.png", "two: 2.png!"}, ""),
        (["1.png", "notes.md=", "metadata.csv=file_name,text|1.png,one"], TEXT, {"one: 1.png"}, "1 .md"),
        (["train/1.png", "test/2.png", "metadata.csv=file_name,text|train/1.png,one|test/2.png,two"], TEXT, {"one: train/1.png"}, ""),
        (["train/1.png", "train/metadata.jsonl={\"file_name\": \"1.png\", \"text\": \"one\"}", "test/2.png"], TEXT, {"one: train/1.png"}, ""),
        ([f"{NFD}.png", f"metadata.csv=file_name,text|{NFC}.png,one"], TEXT, {f"one: {NFC}.png"}, ""),
        # values of tables
        (["1.png", "2.png", "metadata.csv=file_name,label|1.png,None|2.png,NA"], {}, {"None: 1.png", "NA: 2.png"}, ""),
        (["1.png", "2.png", "metadata.csv=file_name,label|1.png,1|2.png,0"], {}, {"1: 1.png", "0: 2.png"}, ""),
        (["1.png", "2.png", "metadata.csv=file_name,text|1.png,17|2.png,4"], TEXT, {"17: 1.png", "4: 2.png"}, ""),
        (["1.png", 'x.parquet={"image": ["1.png"], "text": [17]}'], TEXT | {"file": "x.parquet"}, {"17: 1.png"}, ""),
        (["a/1.png", 'a/x.parquet={"file_name": ["1.png"], "text": ["one"]}'], TEXT | {"file": "a/x.parquet"}, {"one: 1.png"}, ""),
        (["a/1.png", "a/x.csv=path,caption|1.png,one"], TEXT | {"file": "a/x.csv"}, {"one: 1.png"}, ""),
        (["1.png", "2.png", "x.tsv=path\tcls|1.png\tcat|2.png\tdog"], {"file": "x.tsv"}, {"cat: 1.png", "dog: 2.png"}, ""),
        (["1.png", 'x.parquet={"image": ["1.png"], "text": [["one", "other"]]}'], TEXT | {"file": "x.parquet"}, {"one: 1.png"}, ""),
        (["1.png", 'metadata.jsonl={"file_name": "1.png", "text": ["", "one", "other"]}'], TEXT, {"one: 1.png"}, ""),
        (["1.png", 'metadata.parquet={"file_name": ["1.png"], "text": ["one"]}'], TEXT, {"one: 1.png"}, ""),
        # shards
        (["x.tar=1.png 1.txt:one 2.png 3.png 3.txt:three"], TEXT, {"one: 1.png", "None: 2.png!", "three: 3.png"}, ""),
        (["x.tar=1.png 2.png 2.cls:1 3.png 3.cls:0"], {}, {"None: 1.png!", "1: 2.png", "0: 3.png"}, ""),
        (["x.tar=1.png 1.cls:one 2.png 2.cls:1 3.png 3.cls:0"], {}, {"None: 1.png!", "1: 2.png", "0: 3.png"}, ""),
        (["x.tar=1.png 1.json:{bad 2.png 2.json:{\"text\":\"two\"}"], TEXT, {"None: 1.png!", "two: 2.png"}, ""),
        (["x.tar=1.png 1.txt:one|other 2.png 2.TXT:two"], TEXT, TWO, ""),
        (['x.tar=1.png 1.json:{"caption":"one"} 2.png 2.json:{"caption":"two","x":1}'], TEXT, TWO, ""),
        (
            ['00000.tar=1.jpg 1.txt:one 1.json:{"caption":"one","error":null} 2.jpg 2.txt:two 2.json:{"caption":"two","error":"x"}',
             '00000.parquet={"url": ["a"], "caption": ["one"]}', "00000_stats.json={}"],
            TEXT, {"one: 1.jpg", "two: 2.jpg"}, "1 .json; 00000_stats.json",
        ),
        (
            ["00000/1.jpg", "00000/1.txt=one", '00000/1.json={"caption": "one"}', '00000.parquet={"url": ["a"]}', "00000_stats.json={}"],
            TEXT, {"one: 00000/1.jpg"}, "2 .json",
        ),
        # values of pixels
        (["a/1.tif=uint16 4095", "b/2.tif=uint16 65535", "b/3.tif=int32 255", "b/4.tif=uint16 1000"], {"values": True}, {"a/1.tif=255", "b/2.tif=255", "b/3.tif=255", "b/4.tif=62"}, ""),
        # prompts
        (["p.txt=one|# a comment|  two|"], {"prompts": "p.txt"}, {"one", "two"}, "1 lines that begin with # (# a comment)"),
        (["p.txt=prompt|one|two"], {"prompts": "p.txt"}, {"one", "two"}, "the header 'prompt'"),
        (["p.txt=one|\\#two"], {"prompts": "p.txt"}, {"one", "#two"}, ""),
        (["p.txt=one\u2028still one|two\x0b\x85two"], {"prompts": "p.txt"}, {"one\u2028still one", "two\x0b\x85two"}, ""),
        (["p.csv=id,prompt|1,\"one, and more\"|2,"], {"prompts": "p.csv"}, {"one, and more"}, "1 rows without a prompt"),
        (['p.jsonl={"prompt": "one"}'], {"prompts": "p.jsonl"}, {"one"}, ""),
    ],
)  # fmt: skip
def test_what_a_layout_gives(tmp_path, files, settings, pairs, left):
    found, lines = read(build(tmp_path, *files), **settings)
    assert found == pairs
    assert left in " ".join(lines) and bool(left) == bool(lines)


@pytest.mark.parametrize(
    ("files", "settings", "names"),
    [
        (["train/1.png", "test/2.png"], {}, ["train", 'data.layout = "classes"', 'data.layout = "splits"']),
        (["train/cat/1.png", "bus/a/2.png", "car/3.png"], {}, ["bus", 'data.layout = "classes"', 'data.layout = "splits"']),
        (["cat/train/1.png", "cat/val/3.png", "dog/2.png"], {}, ["val", 'data.layout = "classes"', 'data.layout = "splits"']),
        ([*PLAIN, "metadata.csv=file_name,label|cat/1.png,x|dog/2.png,y"], {}, ["metadata.csv", 'data.layout = "table"']),
        (["cats_train.parquet", "dogs.parquet"], {}, ["cats_train.parquet", "dogs.parquet", "data.path"]),
        (["a.parquet", "b.tar"], {}, [".parquet", ".tar", "data.path"]),
        ([*CATS, "val/cat/3.png", "valid/cat/4.png"], {"split": "validation"}, ["val, valid", "data.split"]),
        ([*CATS, *TESTS], {"split": "val"}, ["data.split", "test, train"]),
        (PLAIN, {"layout": "captions"}, ["data.layout", ".txt"]),
        (["images.zip", "metadata.csv=file_name,text|1.png,one"], TEXT, ["images.zip", "metadata.csv", "unpack"]),
        (["images.zip"], {}, ["images.zip", "unpack"]),
        (["images.zip"], {"file": "images.zip"}, ["images.zip", "unpack"]),
        (["p.txt=id,prompt|1,one"], {"prompts": "p.txt"}, ["id,prompt", ".csv"]),
        (["p.csv=id,words|1,one"], {"prompts": "p.csv"}, ["id, words", "'prompt'"]),
        (["1.png", "metadata.jsonl=file_name"], {}, ["metadata.jsonl"]),
        (["1.png", "1.txt=one", "x.txt="], {}, ["1 pictures lie in no sub-folder"]),
    ],
)
def test_two_readings_are_an_error_that_names_the_key(tmp_path, files, settings, names):
    with pytest.raises(InputError) as caught:
        read(build(tmp_path, *files), **settings)
    assert all(name in str(caught.value) for name in names), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["beside", "parquet"])
def test_show_names_the_captions(tmp_path, form):
    build(
        tmp_path,
        *(["cat/1.png", "cat/1.txt=a cat, asleep", "dog/2.png", "dog/2.txt=a dog"] if form == "beside" else ["one.parquet"]),
    )
    facts = describe(str(tmp_path))
    captions = ["a cat, asleep", "a dog"] if form == "beside" else ["one"]
    assert (facts["kind"], facts["first_captions"], facts["images"]) == ("captions", captions, len(captions))
    assert facts["classes"] == (["cat", "dog"] if form == "beside" else ["a", "b"])
    assert repr(captions[0]) in describe_text(facts)
    assert describe_text(facts).splitlines()[0] == summary(open_data(path=str(tmp_path), captions=True, report=lambda line: None))


def test_the_line_counts_names_and_says_what_is_left_out(tmp_path):
    build(tmp_path, *PLAIN, "dog/3.png", "dog/4.txt=", "stray.png")
    (tmp_path / "dog" / "3.png").write_bytes(b"no picture")
    lines = []
    data = open_data(path=str(tmp_path), report=lines.append)
    assert lines == [summary(data)]
    for part in (
        f"data {tmp_path}: 2 examples of 2 classes (cat, dog)",
        "1 pictures outside",
        "1 .txt",
        "1 of 3 pictures",
        "dog/3.png: ",
    ):
        assert part in lines[0]
    (tmp_path / "p.txt").write_text("a cat\n# none\n")
    assert summary(prompt_file(tmp_path / "p.txt")) == describe(str(tmp_path / "p.txt"))["summary"]
    assert "1 prompts ('a cat', ...); left out: 1 lines" in summary(prompt_file(tmp_path / "p.txt"))


def test_several_captions_are_counted_and_the_first_is_taken(tmp_path):
    build(tmp_path, "1.png", "1.txt=one|other", "2.png", "2.txt=two")
    data = open_data(path=str(tmp_path), captions=True, report=lambda line: None)
    assert data.classes == ("one", "two") and "captions of 1 pictures" in summary(data)


def test_pictures_that_need_a_plugin_are_counted_with_its_name_where_it_is_not_installed(tmp_path, monkeypatch):
    formats.picture_endings.cache_clear()
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    try:
        found, left = read(build(tmp_path, *PLAIN, "cat/3.heic", "dog/4.JXL"))
    finally:
        formats.picture_endings.cache_clear()
    assert found == BOTH and "2 files of other types" in left[0] and "fewstep[heif]" in left[0] and ".heic and .jxl" in left[0]


def test_a_pipe_beside_a_picture_is_no_caption(tmp_path):
    build(tmp_path, "1.png", "2.png", "2.txt=two")
    os.mkfifo(tmp_path / "1.txt")
    data = open_data(path=str(tmp_path), captions=True, report=lambda line: None)
    assert data.classes == ("two",) and "no regular file" in data.skipped[0]


@pytest.mark.parametrize("name", ["p.txt", "p.csv"])
def test_a_pipe_is_no_file_of_prompts(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=r"no regular file.*data\.prompts"):
        prompt_file(tmp_path / name)
