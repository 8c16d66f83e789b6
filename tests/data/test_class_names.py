# ruff: noqa: F811 - fixtures of another file are imported, then named as arguments
"""Labels are matched with a model's classes by name, or by order where that is said."""

import pytest
import torch

from coloured_pictures import as_dataset, folder, refuse, short_streams_without_network  # noqa: F401 - fixtures
from fewstep.data.class_names import class_order
from fewstep.data.loading import open_data
from fewstep.errors import InputError


@pytest.mark.parametrize("streaming", [False, True])
def test_labels_are_matched_with_a_model_s_classes_by_name(folder, streaming, capsys):
    known = ("red", "blue", "green")  # the data's are blue, green, red
    given, ordered = (open_data(path=str(folder), size=6, streaming=streaming, seed=1) for _ in range(2))
    ordered = ordered.with_classes(known)
    (x, labels), (y, matched) = given.batch(0, 12), ordered.batch(0, 12)
    assert torch.equal(x, y) and ordered.classes == known
    assert [known[k] for k in matched] == [("blue", "green", "red")[k] for k in labels]
    assert "matched by name" in capsys.readouterr().err
    assert torch.equal(ordered.with_classes(known).batch(0, 12)[1], matched)
    assert torch.equal(open_data(path=str(folder), seed=1).with_classes(("0", "1", "2")).labels, open_data(path=str(folder)).labels)
    with pytest.raises(InputError, match=r"red; .*yellow"):
        given.with_classes(("blue", "green", "yellow"))
    with pytest.raises(InputError, match="number of classes is 3, the model's 2"):
        given.with_classes(("blue", "green"))
    with pytest.raises(InputError, match=r'3 of the 3 .*blue, green, red; .*n1, n2, n3.*data.class_names = "by-order"'):
        given.with_classes(("n1", "n2", "n3"))
    named = given.with_classes(("n1", "n2", "n3"), "by-order")
    assert named.classes == ("n1", "n2", "n3") and torch.equal(named.batch(0, 12)[1], labels)
    assert "n1, n2, n3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ours", "known", "order"),
    [
        (("2", "1", "0"), ("0", "1", "2"), [2, 1, 0]),  # numbers are names where the sets agree
        (("1", "2", "3"), ("a", "b", "c"), None),  # names of classes that begin at 1 are no numbers from 0
        (("0", "1", "2"), ("a", "b", "c"), [0, 1, 2]),
        (("a", "b", "c"), ("0", "1", "2"), [0, 1, 2]),
        (("café", "b"), ("b", "cafe\u0301"), [1, 0]),  # composed and decomposed
    ],
)
def test_class_names_of_numbers_and_of_other_spellings(ours, known, order):
    if order is None:
        with pytest.raises(InputError, match=r"data\.class_names"):
            class_order(ours, known, "here")
    else:
        assert class_order(ours, known, "here", lambda line: None).tolist() == order
    assert class_order(ours, known, "here", lambda line: None, "by-order").tolist() == list(range(len(known)))


def test_a_stream_of_plain_labels_needs_the_names_of_its_classes(folder, tmp_path):
    import datasets

    as_dataset(folder, datasets.Value("int64")).to_parquet(tmp_path / "train.parquet")
    refuse(r"set data\.classes = ", path=str(tmp_path), size=6, streaming=True)
    assert open_data(path=str(tmp_path)).classes == ("0", "1", "2")
    assert open_data(path=str(tmp_path), size=6, streaming=True, classes=["x", "y", "z"]).classes == ("x", "y", "z")
    (tmp_path / "classes.json").write_text('["a", "b"]')
    with pytest.raises(InputError, match=r"label 2 is outside 0\.\.1"):
        open_data(path=str(tmp_path), size=6, streaming=True).batch(0, 12)
