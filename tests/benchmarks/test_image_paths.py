"""The comparison of paths and the ladder on pictures of classes."""

import json

import numpy as np
import pytest

import fewstep
from benchmarks.quality import image_paths, to_reach
from benchmarks.quality.ladders import cost
from fewstep.training.recipe import load_recipe


@pytest.mark.parametrize("of", image_paths.VARIANTS)
def test_the_ways_to_distil_have_nearly_as_many_evaluations(of):
    paths = {"data.path": "data.npz", "teacher.path": "teacher"}
    costs = [cost(load_recipe(of, changes | paths))["evaluations"] for changes in image_paths.VARIANTS[of].values()]
    assert max(costs) < 1.02 * min(costs)


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
    words += ["--samples", "70", "--reference-steps", "8", "--out", str(work / "p.json"), "--set", *SMALL.split()]
    image_paths.main(words)
    found = json.loads((work / "p.json").read_text())["fashion-mnist"]
    assert list(found) == ["ladder alone", "paths"]
    for way in found.values():
        assert {(row["steps"], row["guidance_scale"]) for row in way["rows"]} == {(n, s) for n in (4, 2, 1) for s in (1, 2, 5)}
        assert all(row["frechet_to_teacher"] > 0 < row["rms_to_teacher"] for row in way["rows"])
    assert [row["rms_to_teacher"] for row in found["paths"]["rows"]] != [
        row["rms_to_teacher"] for row in found["ladder alone"]["rows"]
    ]
    reach = [
        "--run",
        str(work / "reach"),
        "--of",
        "fashion-mnist",
        "--students",
        str(work / "runs/paths"),
        "--data",
        str(work / "clothes.npz"),
    ]
    to_reach.main([*reach, "--samples", "70", "--guidance-scale", "2", "--out", str(work / "r.json")])
    figures = json.loads((work / "r.json").read_text())["figures"]
    assert [(row["of"], row["steps"], row["guidance_scale"]) for row in figures] == [("fashion-mnist", n, 2.0) for n in (4, 2, 1)]
