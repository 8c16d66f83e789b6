"""The comparisons on pictures of classes: of paths and the ladder, of rules of guidance."""

import json

import numpy as np
import pytest

import fewstep
from benchmarks.quality import image_paths, image_rules
from benchmarks.quality.ladders import cost
from fewstep import InputError
from fewstep.training.recipe import load_recipe, write_recipe


@pytest.mark.parametrize("of", image_paths.VARIANTS)
def test_the_ways_to_distil_have_nearly_as_many_evaluations(of):
    paths = {"data.path": "data.npz", "teacher.path": "teacher"}
    most = {"fashion-mnist": 2_144_000}  # of the recipe before it had paths
    ladder, by_paths, *others = [
        cost(load_recipe(of, changes | paths))["evaluations"] for changes in image_paths.VARIANTS[of].values()
    ]
    assert 0.98 * ladder < by_paths < 1.02 * ladder
    assert all(evaluations <= most.get(of, 1.02 * ladder) for evaluations in others)


def test_students_of_another_recipe_are_not_measured_as_this_ones(tmp_path):
    run = tmp_path / "paths"
    for steps in image_paths.STEPS:
        (run / f"steps-{steps:04d}").mkdir(parents=True)
        (run / f"steps-{steps:04d}" / "fewstep.json").write_text("{}")
    write_recipe(run, load_recipe("fashion-mnist", {"data.path": "data.npz", "teacher.path": "teacher", "paths.updates": 7}))
    words = ["--of", "fashion-mnist", "--teacher", "teacher", "--data", "data.npz", "--work", str(tmp_path), "--only", "paths"]
    with pytest.raises(InputError, match=r"students of another recipe \(paths.updates was 7 and is 3000\); name another --work"):
        image_paths.main([*words, "--out", str(tmp_path / "p.json")])
    assert not (tmp_path / "p.json").exists()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with clothes.npz, noise in ten classes, and a hardly trained `teacher` of them."""
    folder, generator = tmp_path_factory.mktemp("clothes"), np.random.default_rng(0)
    images, labels = generator.integers(0, 255, (80, 32, 32), np.uint8), np.arange(80) % 10
    np.savez(folder / "clothes.npz", images=images, labels=labels)
    changes = {
        "data.path": str(folder / "clothes.npz"),
        "network.block_out_channels": [8, 8, 8],
        "network.norm_num_groups": 4,
        "teach.updates": 2,
        "train.batch_size": 4,
    }
    fewstep.teach("fashion-mnist", out=folder / "teacher", changes=changes, device="cpu", quiet=True)
    return folder


SMALL = "stage_one.updates=1 stage_two.updates=1 stage_two.last_updates=1 paths.updates=2 paths.count=16 train.batch_size=2 train.warmup=0"


@pytest.mark.slow
def test_both_ways_are_measured_against_one_set_of_the_teachers_samples(work, quick_classifier):
    words = [
        "--of",
        "fashion-mnist",
        "--teacher",
        str(work / "teacher"),
        "--data",
        str(work / "clothes.npz"),
        "--work",
        str(work / "runs"),
    ]
    words += [
        "--only",
        "ladder alone",
        "paths",
        "--samples",
        "70",
        "--reference-steps",
        "8",
        "--out",
        str(work / "p.json"),
        "--set",
        *SMALL.split(),
    ]
    image_paths.main(words)
    found = json.loads((work / "p.json").read_text())["fashion-mnist"]["ways"]
    assert list(found) == ["ladder alone", "paths"]
    for way in found.values():
        assert {(row["steps"], row["guidance_scale"]) for row in way["rows"]} == {(n, s) for n in (4, 2, 1) for s in (1, 2, 5)}
        assert all(row["frechet_to_teacher"] > 0 < row["rms_to_teacher"] for row in way["rows"])
    assert [row["rms_to_teacher"] for row in found["paths"]["rows"]] != [
        row["rms_to_teacher"] for row in found["ladder alone"]["rows"]
    ]


@pytest.mark.slow
def test_students_follow_the_rule_that_they_were_taught_by(work, quick_classifier):
    teacher, data = str(work / "teacher"), str(work / "clothes.npz")
    words = ["--recipe", "fashion-mnist", "--teacher", teacher, "--weak", teacher, "--data", data, "--features", "classifier"]
    words += [
        "--work",
        str(work / "rules"),
        "--only",
        "plain",
        "interval",
        "autoguidance",
        "--samples",
        "70",
        "--out",
        str(work / "rules.json"),
    ]
    image_rules.main([*words, "--set", *SMALL.split()])
    rules = json.loads((work / "rules.json").read_text())["rules"]
    assert [known["rule"].get("name") for known in rules.values()] == [None, "interval", None]
    assert "weak" in rules["autoguidance"]["rule"]
    curves = {
        name: {(row["model"], row["steps"], row["guidance_scale"]): row["frechet"] for row in known["rows"]}
        for name, known in rules.items()
    }
    assert set(curves["interval"]) == {
        (m, n, s) for m, n in (("teacher", 16), ("student", 4), ("student", 1)) for s in (1, 1.5, 2, 3, 5)
    }
    assert curves["plain"]["teacher", 16, 1] == curves["interval"]["teacher", 16, 1]  # no guidance, whatever the rule
    assert curves["plain"]["teacher", 16, 5] != curves["interval"]["teacher", 16, 5] != curves["autoguidance"]["teacher", 16, 5]
