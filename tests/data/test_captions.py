"""Pictures with captions: every form gives the same pairs; what has no caption is left out and named."""

import gc
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import pipelines
from fewstep import open_model
from fewstep.data import encoding
from fewstep.data.encoding import EncodedData, encoded
from fewstep.data.loading import Data, open_data
from fewstep.errors import InputError

CAPTIONS = ["a cat", "a dog", "an owl", "a cat", "fish"]
quiet = {"report": lambda line: None}


def picture(k):
    return Image.new("RGB", (16, 16), (40 * k, 200 - 40 * k, 10))


def text_files(root):
    """Five pictures with a .txt beside each, at two depths."""
    (root / "deeper").mkdir()
    for k, caption in enumerate(CAPTIONS):
        place = root / ("deeper" if k > 2 else ".") / f"{'z' if k < 3 else 'a'}{k}"
        picture(k).save(place.with_suffix(".png"))
        place.with_suffix(".txt").write_text(caption + "\n")
    return root


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    return text_files(tmp_path_factory.mktemp("beside"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return open_model(pipelines.text_pipeline(tmp_path_factory.mktemp("teacher") / "pipeline"))


def metadata_jsonl(root, column="text"):
    for k in range(5):
        picture(k).save(root / f"{k}.png")
    lines = [{"file_name": f"{k}.png", column: caption} for k, caption in enumerate(CAPTIONS)]
    (root / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def metadata_csv(root):
    lines = map(json.loads, (metadata_jsonl(root) / "metadata.jsonl").read_text().splitlines())
    (root / "metadata.csv").write_text("file_name,caption\n" + "".join(f"{x['file_name']},{x['text']}\n" for x in lines))
    (root / "metadata.jsonl").unlink()
    return root


def arrays(root):
    images = np.stack([np.asarray(picture(k)) for k in range(5)])
    np.savez(root / "pairs.npz", images=images, captions=np.array(CAPTIONS))
    return root / "pairs.npz"


def parquet(root):
    import datasets

    columns = {"image": datasets.Image(), "caption": datasets.Value("string")}
    rows = {"image": [picture(k) for k in range(5)], "caption": CAPTIONS}
    datasets.Dataset.from_dict(rows, features=datasets.Features(columns)).to_parquet(root / "rows.parquet")
    return root / "rows.parquet"


def tar(root):
    with tarfile.open(root / "shard.tar", "w") as file:
        for k, caption in enumerate(CAPTIONS):
            picture(k).save(root / f"{k}.png")
            (root / f"{k}.txt").write_text(caption)
            for name in (f"{k}.png", f"{k}.txt"):
                file.add(root / name, name)
    return root / "shard.tar"


def pairs(data):
    """{caption and colour} of all examples."""
    return sorted((data.classes[k], tuple(x[:, 0, 0].tolist())) for x, k in zip(data.images(), data.labels, strict=True))


WANTED = sorted((caption, (40 * k, 200 - 40 * k, 10)) for k, caption in enumerate(CAPTIONS))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # datasets leaves metadata.csv open until it is collected
@pytest.mark.parametrize("build", [text_files, metadata_jsonl, metadata_csv, arrays, parquet, tar])
def test_every_form_of_captions_gives_the_same_pairs(tmp_path, build):
    data = open_data(path=str(build(tmp_path)), captions=True, size=16, **quiet)
    assert isinstance(data, Data) and pairs(data) == WANTED
    assert data.description["kind"] == "captions" and data.description["classes"] == []
    gc.collect()


def test_a_column_is_named_or_refused(tmp_path):
    root = metadata_jsonl(tmp_path, column="words")
    assert pairs(open_data(path=str(root), caption_column="words", size=16, **quiet)) == WANTED
    with pytest.raises(InputError, match=r"no column 'word' for data.caption_column: did you mean 'words'"):
        open_data(path=str(root), caption_column="word")
    with pytest.raises(InputError, match=r"no column 'image' for data\.caption_column"):
        open_data(path=str(root), caption_column="image")


def test_what_cannot_be_used_is_left_out_counted_and_named(beside, tmp_path):
    for file in beside.rglob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "z0.txt").unlink()
    (tmp_path / "z1.txt").write_text("  \n")
    (tmp_path / "z2.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "a3.png").write_bytes(b"no picture")
    lines = []
    data = open_data(path=str(tmp_path), captions=True, report=lines.append)
    assert (len(data), data.classes) == (1, ("fish",))
    assert len(lines) == 1 and "3 of 4 pictures" in lines[0]
    for part in ("1 pictures without a caption (z0.png)", "z1.png: it has no caption", "z2.txt cannot be read", "a3.png: "):
        assert part in lines[0]


def test_rows_without_a_caption_are_left_out(tmp_path):
    rows = metadata_jsonl(tmp_path) / "metadata.jsonl"
    rows.write_text(rows.read_text().replace('"fish"', "null"))
    data = open_data(path=str(tmp_path), captions=True, size=16, **quiet)
    assert len(data) == 4 and data.skipped[0].endswith("it has no caption")


def test_without_captions_the_error_says_where_they_are_looked_for(tmp_path):
    picture(0).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"has no captions \(a .txt beside each picture, or data.caption_column\)"):
        open_data(path=str(tmp_path), captions=True)
    np.savez(tmp_path / "bad.npz", images=np.zeros((3, 4, 4), np.uint8), captions=np.array(["a", "b"]))
    with pytest.raises(InputError, match=r"need text of shape \(3,\)"):
        open_data(path=str(tmp_path / "bad.npz"), captions=True)


def test_captions_are_encoded_with_their_own_pictures_once_or_as_they_are_asked_for(beside, teacher, monkeypatch):
    data = open_data(path=str(beside), captions=True, seed=3, **quiet)
    (x, labels), (z, condition) = data.batch(2, 7), encoded(data, teacher).batch(2, 7)
    torch.testing.assert_close(z, teacher.family.to_latents(x))
    torch.testing.assert_close(condition, teacher.condition(prompts=[data.classes[k] for k in labels]))
    monkeypatch.setattr(encoding, "HELD", 2)  # more captions than are held in memory
    torch.testing.assert_close(EncodedData(data, teacher, batch=3).batch(2, 7), (z, condition))
