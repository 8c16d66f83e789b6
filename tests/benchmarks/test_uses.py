"""The scripts on editing, inpainting and style transfer at tiny sizes: like is held against like, and evaluations are those taken."""

import json
from functools import cache

import pytest
import torch
from PIL import Image

import fewstep
from benchmarks.uses import base_lora, editing, inpainting, style_transfer
from benchmarks.uses import subject as uses
from conftest import TINY
from fewstep.data.datasets import Data
from fewstep.editing.inpainting import condition_of
from fewstep.evaluation.classifier import as_features, new_network, train
from fewstep.models.sampling import Samples
from fewstep.training.recipe import load_recipe

STUDENT = {k: v for k, v in TINY.items() if not k.startswith("network")} | {"stage_one.updates": 2, "stage_two.updates": 1}
STUDENT |= {"stage_two.last_updates": 1, "stage_two.ladder": [8, 4, 2], "encoder.ladder": [8, 4, 2], "encoder.updates": 1}
STUDENT |= {"stage_one.times": "continuous"}


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.setattr(uses, "train_or_load_classifier", lambda data, *rest, **more: quick_classifier())


@cache
def quick_classifier():
    """A classifier of digits that knows little."""
    data = fewstep.open_data(name="digits")
    few = Data(data.pixels[:200], data.labels[:200], data.classes)
    model = new_network(few, seed=0)
    return as_features(model, few, train(model, few, seed=0, updates=3))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, teacher_folder):
    """Run folders of students and encoders, and of students that take a mask."""
    root = tmp_path_factory.mktemp("runs")
    changes = STUDENT | {"data.name": "digits"}
    fewstep.distill(teacher_folder, recipe="digits", out=root / "uses", changes=changes, device="cpu", quiet=True)
    fills = load_recipe(None, TINY | {"teach.inpainting": True, "data.name": "digits"})
    fewstep.teach(fills, root / "fills-teacher", device="cpu", quiet=True)
    changes |= {"teacher.path": str(root / "fills-teacher"), "encoder.ladder": []}
    fewstep.distill(recipe=load_recipe(None, changes), out=root / "fills", device="cpu", quiet=True)
    return root


def run_script(capsys, module, *words):
    """Run the script; what it printed."""
    module.main([*map(str, words)])
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_subject_is_of_the_held_out_pictures_where_there_are_any(tmp_path, runs):
    assert uses.split(tmp_path / "split") == {"test": 300, "train": 1497}
    seen, held_out = uses.subject(runs / "uses", 40), uses.subject(runs / "uses", 40, data=str(tmp_path / "split"))
    assert (seen.seen, held_out.seen) == (True, False)
    assert (len(seen.data), len(held_out.data)) == (1797, 1497)
    rows = {tuple(x.flatten().tolist()) for x in held_out.data.images()}
    x = ((held_out.images + 1) * 127.5).round().byte()
    assert not [image for image in x if tuple(image.flatten().tolist()) in rows]
    assert bool((seen.others != seen.labels).all()) and len(set(seen.others.tolist())) > 5
    itself = seen.measures(Samples(seen.images, seen.images, 0, "", 0, 0.0), seen.labels)
    assert itself["psnr"] == float("inf") and itself["edges"] == pytest.approx(1)


@pytest.mark.slow
def test_edits_are_held_against_the_teacher_at_the_same_strength_and_noise(tmp_path, monkeypatch, capsys, runs):
    monkeypatch.setattr(editing, "REFERENCE", 16)
    words = ["--run", runs / "uses", "--images", 12, "--picture", tmp_path / "e.png", "--out", tmp_path / "e.json"]
    printed = run_script(capsys, editing, *words)
    result = json.loads((tmp_path / "e.json").read_text())
    rows = {(r["model"], r["steps"], r["strength"]): r for r in result["rows"]}
    assert [rows["student", 4, s]["evaluations"] for s in (0.25, 0.5, 0.75, 1.0)] == [1, 2, 3, 4]
    assert [rows["teacher", 4, s]["evaluations"] for s in (0.25, 0.5, 0.75, 1.0)] == [2, 4, 6, 8]
    assert [rows["teacher", 16, s]["evaluations"] for s in (0.5, 1.0)] == [16, 32]
    assert rows["teacher, not guided", 4, 0.75]["evaluations"] == 3
    assert all(rows["teacher", 16, s]["rms_to_teacher"] == 0 < rows["student", 4, s]["rms_to_teacher"] for s in (0.25, 0.5, 1.0))
    assert rows["student", 4, 0.25]["psnr"] > rows["student", 4, 1.0]["psnr"]
    assert "| 0.75 | **student of 4 steps** | 3 |" in printed
    assert (tmp_path / "e.png").stat().st_size > 10_000


@pytest.mark.slow
def test_translations_are_held_against_the_teacher_at_equal_evaluations(tmp_path, monkeypatch, capsys, runs):
    monkeypatch.setattr(style_transfer, "REFERENCE", 16)
    words = ["--run", runs / "uses", "--second", runs / "uses", "--images", 9, "--picture", tmp_path / "s.png"]
    printed = run_script(capsys, style_transfer, *words, "--out", tmp_path / "s.json")
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]
    found = {(r["task"], r["guidance_scale"], r["model"], r["each_way"]): r["evaluations"] for r in rows}
    for steps in (2, 4):
        for task, scale in (("round trip", 1.0), ("translation", 1.0), ("translation", 3.0)):
            assert found[task, scale, "student", steps] == found[task, scale, "teacher", steps] == 2 * steps
    assert found["round trip", 1.0, "teacher", 16] == 32 and found["translation", 3.0, "teacher", 16] == 48
    trips = {r["each_way"]: r["psnr"] for r in rows if (r["task"], r["model"]) == ("round trip", "teacher")}
    assert trips[2] < trips[4] < trips[16]
    assert {r["each_way"] for r in rows if r["task"] == "two models"} == {2, 4, 16}
    assert "| round trip | **student, 2 x 4** | 8 |" in printed
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.height > 9 * 64


@pytest.mark.slow
def test_what_is_filled_in_is_measured_inside_the_mask(tmp_path, monkeypatch, capsys, runs):
    monkeypatch.setattr(inpainting, "REFERENCE", 8)
    words = ["--run", runs / "fills", "--student", runs / "uses", "--images", 20, "--repeats", 2, "--picture", tmp_path / "i.png"]
    printed = run_script(capsys, inpainting, *words, "--out", tmp_path / "i.json")
    result = json.loads((tmp_path / "i.json").read_text())
    assert [r["error"] for r in result["rows"] if not r["steps"]] == [0]
    found = {(r["method"], r["guidance_scale"], r["by"], r["evaluations"]) for r in result["rows"] if r["steps"]}
    for method in (inpainting.SEES, inpainting.PUT_BACK, inpainting.UNTOLD):
        for scale, many in ((1.0, 8), (2.0, 16)):
            assert {(method, scale, "teacher", n) for n in (many, 4, 2)} | {(method, scale, "student", n) for n in (4, 2)} <= found
    assert f"| {inpainting.SEES} | 2 | **student, 4 steps** | 4 |" in printed
    assert 0.1 < result["masked_share"] < 0.6
    assert (tmp_path / "i.png").stat().st_size > 5000
    tried = uses.subject(runs / "fills", 30)
    filler, (method, *_) = inpainting.Filler(tried, 1), inpainting.methods_of(tried, None, None)
    drawn = filler.answer(method, "student", 4, 1.0)
    assert drawn.samples[~filler.masks].equal(tried.images[~filler.masks])
    assert set(condition_of(method.teacher, filler.x, filler.masks, filler.labels.tolist())) == {"labels", "mask", "masked"}
    with pytest.raises(fewstep.InputError, match="take no mask"):
        inpainting.methods_of(uses.subject(runs / "uses", 2), None, None)


def test_codes_are_alike_where_they_are_and_not_where_they_are_not():
    x = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert style_transfer.alike(x, 3 * x + 1) == pytest.approx(1)
    assert abs(style_transfer.alike(x, x.roll(1, 0))) < 0.1


def test_edges_are_alike_in_a_picture_its_negative_and_a_paler_one_alone():
    x = torch.randn(5, 3, 7, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    for alike in (x, -x, 0.3 * x + 0.2):
        torch.testing.assert_close(uses.edge_correlation(alike.clamp(-1, 1), x), torch.ones(5).double())
    other = torch.randn(200, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    assert abs(uses.edge_correlation(other, other.roll(1, 0)).mean()) < 0.05
    bar = torch.zeros(1, 1, 8, 8)
    bar[..., 2] = 1.0
    assert uses.edge_correlation(bar, bar.roll(1, 3)) < 0.5 < uses.edge_correlation(bar, 0.5 * bar)
    assert uses.edge_correlation(torch.zeros(2, 1, 8, 8), bar.expand(2, -1, -1, -1)).tolist() == [0, 0]


@pytest.mark.slow
def test_a_lora_of_the_teacher_is_measured_on_its_students(tmp_path, capsys):
    words = ["--work", tmp_path / "work", "--out", tmp_path / "l.json", "--styles", "thick", "--guidance-scale", 2, "--updates", 5]
    printed = run_script(capsys, base_lora, *words, "--rung", 5, "--lora-updates", 5, "--samples", 20)
    result = json.loads((tmp_path / "l.json").read_text())
    rows = {(row["style"], row["model"], row["steps"]): row for row in result["rows"]}
    assert {key[2] for key in rows if key[1] == "all scales"} == {1, 4}
    assert {key[1] for key in rows if key[0] == "thick"} == {
        "teacher",
        "all scales",
        "one scale",
        "distilled again",
        "all scales, without it",
    }
    assert rows["thick", "teacher", 64]["rms_to_teacher"] == 0 < rows["thick", "all scales", 4]["rms_to_teacher"]
    loaded, bare = (fewstep.open_model(tmp_path / "work" / "all-scales", steps=4), tmp_path / "work" / "thick" / "lora")
    changed = base_lora.with_lora(loaded, bare).denoiser.network.state_dict()
    assert changed.keys() == loaded.denoiser.network.state_dict().keys()  # merged, nothing beside the weights
    assert not torch.equal(changed["conv_in.weight"], loaded.denoiser.network.state_dict()["conv_in.weight"])
    assert "| thick | 2 | 4 |" in printed
