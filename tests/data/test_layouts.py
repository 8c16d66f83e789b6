"""What is read of a folder, for each way in which people lay pictures out: (class or caption, picture) pairs, and what is left out."""

import io
import tarfile

import pytest
from PIL import Image

from fewstep.data.loading import open_source
from fewstep.data.sources import SourceSettings
from fewstep.errors import InputError
from fewstep.training.describe import describe, describe_text


def build(root, *files):
    """Files by their paths: pictures; `NAME.txt=caption`; tables `NAME.tar` and `NAME.parquet` of one picture of class 0 named as they are."""
    for text in files:
        name, _, content = text.partition("=")
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".txt", ".csv", ".md"):
            path.write_text(content.replace("|", "\n"))
        elif path.suffix == ".tar":
            shard(path)
        elif path.suffix == ".parquet":
            table(path)
        else:
            Image.new("L", (4, 4), len(name)).save(path, "PNG")
    return root


def png():
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    return file.getvalue()


def shard(path):
    with tarfile.open(path, "w") as tar:
        for ending, content in (("png", png()), ("cls", b"0"), ("txt", path.stem.encode())):
            info = tarfile.TarInfo(f"{path.stem}.{ending}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def table(path):
    import datasets

    rows = {"image": [{"bytes": png(), "path": path.name}], "label": [0], "text": [path.stem]}
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"]), "text": datasets.Value("string")}
    )
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


def read(root, **settings):
    """({"class or caption: picture"}, the lines that say what is left out)."""
    lines: list[str] = []
    source = open_source(SourceSettings(path=str(root), report=lines.append, **settings))
    examples = list(source.examples(None, 0))
    assert source.total in (None, len(examples))
    return {f"{source.classes[e.label] if source.classes else e.label}: {e.name}" for e in examples}, lines


CATS = ["train/cat/1.png", "train/dog/2.png"]
TESTS = ["test/cat/3.png", "test/dog/4.png"]
BOTH = {"cat: cat/1.png", "dog: dog/2.png"}
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
        ([*PLAIN, "metadata.csv=note,weight|a,1"], {}, BOTH, ""),
        ([*PLAIN, "metadata.csv=file_name,label|cat/1.png,x|dog/2.png,y"], {"layout": "classes"}, BOTH, ""),
        (["1.png", "train_9.png", "x.parquet"], {}, {"a: x.parquet"}, "2 pictures beside"),
        (["one.parquet", "two.parquet"], {}, {"a: one.parquet", "a: two.parquet"}, ""),
        (["train-0.parquet", "more_train.parquet", "test.parquet"], {}, {"a: train-0.parquet", "a: more_train.parquet"}, ""),
        (["0.tar", "0.parquet"], {"captions": True}, {"0: 0.png"}, ""),
        (["a/1.png", "a/1.txt=one", "2.png", "2.txt=two"], {"captions": True}, {"one: a/1.png", "two: 2.png"}, ""),
        (["train/1.png", "train/1.txt=one", "Val/2.png", "Val/2.txt=two"], {"captions": True}, {"one: 1.png"}, ""),
        (["1.png", "1.txt=one", "backup.tar"], {"captions": True}, {"one: 1.png"}, "backup.tar"),
        (["cat/1.png", "cat/1.txt=one", "dog/2.png", "dog/2.txt=two"], {}, BOTH, ""),
        (["cat/1.png", "dog/2.png", "dog/2.txt=two"], {"captions": True, "layout": "classes"}, BOTH, ""),
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
