"""The scripts of quality and speed at tiny sizes: like is compared with like, and evaluations are counted."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.quality import cifar10_inputs, evaluations, method_variants, mixture_models, mixtures, tables
from benchmarks.quality import stage_one_trials as trials
from benchmarks.speed import headline
from fewstep import InputError, open_data, open_model
from fewstep.evaluation.feature_files import open_script
from fewstep.method.samplers import deterministic
from fewstep.training.distill import next_student, student_of
from fewstep.training.recipe import load_recipe

pytestmark = pytest.mark.usefixtures("quick_classifier")  # in what scripts measure


@pytest.fixture
def case():
    return mixtures.Case(mixtures.mixture_of(2), guidance_scale=3.0, samples=20, solver_steps=128)


def test_the_exact_network_predicts_what_the_mixture_does():
    mixture = mixture_models.mixture_of(5)
    teacher, t, w = mixture_models.teacher_of(mixture), torch.tensor([0.2, 0.7, 1.0]), torch.tensor([0.0, 1.3, 4.0])
    z, labels = torch.randn(3, 5, 1, 1), torch.arange(3)
    expected = mixture.denoiser(mixture_models.PROCESS)(z, t, labels, w)
    torch.testing.assert_close(teacher.denoiser.guided()(z, t, labels, w), expected, rtol=1e-4, atol=1e-5)


def test_a_perfect_student_lands_where_the_ladders_first_steps_land(case):
    rows = list(mixtures.perfect_rows(case, (32, 4, 2, 1)))
    teacher = mixtures.teacher_of(case.mixture).denoiser.guided()
    x = deterministic(teacher, case.noise, 32, case.labels, case.w, mixtures.PROCESS)
    assert [row["evaluations"] for row in rows] == [4, 2, 1]
    assert [row["rms"] for row in rows] == pytest.approx([case.row(x)["rms"]] * 3, rel=1e-6)


def test_every_baseline_comes_to_the_truth_and_none_exceeds_its_budget(case):
    rows = list(mixtures.baseline_rows(case, (1, 16, 256)))
    assert all(row["evaluations"] <= row["budget"] for row in rows)
    assert {row["budget"] for row in rows} == {16, 256}  # one evaluation does not pay for a guided step
    for name in mixtures.BASELINES:
        few, many = (row for row in rows if row["method"] == name)
        assert many["rms"] < min(0.02, few["rms"] / 3)


def test_the_headline_counts_evaluations_and_measures_what_it_timed(teacher_folder):
    teacher, data = open_model(teacher_folder), open_data(name="digits")
    student = next_student(student_of(load_recipe(), teacher), 2)
    noise, labels = headline.fixed_noise(teacher, 25)
    row, drawn = headline.race(teacher, student, noise, labels, 10, (8, 2), 2.0)
    assert row["evaluations"] == [16, 2] and row["ratio_of_evaluations"] == 8 and row["batches"] == 2
    whole = student.sample_tensor(labels, guidance_scale=2.0, noise=noise)
    torch.testing.assert_close(drawn[1].samples, whole.samples, rtol=1e-3, atol=1e-4)
    rows = headline.quality_rows(drawn, labels, replace(data, pixels=data.pixels[:200], labels=data.labels[:200]))
    assert [(r["model"], r["steps"], r["samples"]) for r in rows] == [("teacher", 8, 25), ("student", 2, 25)]
    assert rows[0]["rms_to_teacher"] == 0 and 1 <= rows[1]["inception_score"] <= 10


@pytest.mark.slow  # tests of training and of the classifier's measures keep the parts
def test_variants_of_the_method_are_distilled_once_and_count_their_evaluations(tmp_path):
    tiny = dict.fromkeys(("stage_one.updates", "stage_two.updates", "stage_two.last_updates"), 1)
    tiny |= {"stage_two.ladder": [4, 2, 1], "train.batch_size": 4}
    result = method_variants.run_all(tmp_path, ["ours", "stochastic", "apart"], 20, tiny, "cpu", best_steps=4)
    assert (tmp_path / "stochastic" / "stage-one" / "unet").is_dir()  # that of `ours`
    rows = {(r["variant"], r["steps"], r["guidance_scale"]): r for r in result["rows"]}
    assert rows["ours", 2, 5.0]["evaluations"] == rows["stochastic", 2, 5.0]["evaluations"] == 2
    assert rows["apart", 2, 5.0]["evaluations"] == rows["teacher", 2, 5.0]["evaluations"] == 4
    assert rows["teacher", 4, 1.3]["rms_to_teacher"] == 0 < rows["stage one alone", 4, 1.3]["rms_to_teacher"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/fewstep.json")}
    method_variants.run_all(tmp_path, ["ours"], 20, tiny, "cpu", best_steps=4)
    assert len(before) == 8 and {path: path.stat().st_mtime_ns for path in before} == before


def test_a_trial_of_stage_one_is_measured_against_the_guided_teacher():
    teacher, data = open_model("digits"), open_data(name="digits")
    recipe = load_recipe("digits-full", trials.SHORT | {"stage_one.updates": 2, "train.batch_size": 8})
    untrained = trials.errors(student_of(recipe, teacher), teacher, data, samples=30)
    assert untrained["1"] < 1e-5 and list(untrained.values()) == sorted(untrained.values())  # it is the conditional teacher
    found = trials.errors(trials.trained(recipe, teacher, data, "cpu"), teacher, data, samples=30)
    assert found["1"] > 0 and found != untrained


def test_the_cifar10_benchmarks_inputs(tmp_path):
    torch.manual_seed(0)
    network = cifar10_inputs.ResNet(3).eval()
    state = {k: v for k, v in network.state_dict().items() if k not in ("mean", "deviation")}
    published = {f"module.{k.replace('output.', 'linear.')}": v for k, v in state.items()}
    torch.save({"state_dict": published, "best_prec1": 0.0}, tmp_path / "weights.th")
    images, labels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8), np.arange(6, dtype=np.uint8)
    mosaic = images.reshape(2, 3, 32, 32, 3).swapaxes(1, 2).reshape(64, 96, 3)  # two rows of three
    Image.fromarray(mosaic).save(tmp_path / "mosaic.webp", lossless=True)
    blob = np.frombuffer((tmp_path / "mosaic.webp").read_bytes(), np.uint8)
    np.savez(tmp_path / "train_0.npz", data=blob, offsets=np.array([0, len(blob)]), tile=np.array([32, 32, 3]), labels=labels)
    out = tmp_path / "out"
    cifar10_inputs.main(["--data", str(tmp_path), "--weights", str(tmp_path / "weights.th"), "--out", str(out)])
    written = np.load(out / "cifar10.npz")
    assert np.array_equal(written["images"], images) and np.array_equal(written["labels"], labels)
    features, x = open_script(out / "resnet56.pt", 3, 32), torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        torch.testing.assert_close(features(x).float(), network(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(features.logits(features(x)).float(), network.output(network(x)), rtol=1e-4, atol=1e-5)


def evaluation(folder, samples=10, **row):
    """What `fewstep evaluate` leaves, as far as `evaluations` reads it."""
    configurations = (("teacher", "ddim", 8), ("student", "deterministic", 2))
    measured = {"guidance_scale": 1.0, "ratio": 1.5, "rms_to_teacher": 0.25} | row
    rows = [{"model": m, "sampler": s, "steps": n, "evaluations": n} | measured for m, s, n in configurations]
    known = {
        "data": {"sha256": "0"},
        "features": {"fingerprint": "1"},
        "model": folder.name,
        "against": None,
        "summary": "",
        "rows": rows,
    }
    folder.mkdir()
    settings = {"samples": samples, "reference_steps": 8, "seed": 0}
    (folder / "metrics.json").write_text(json.dumps(known | {"settings": settings}))
    return folder


def test_evaluations_stand_side_by_side_where_they_were_measured_alike(tmp_path):
    one, two = evaluation(tmp_path / "one"), evaluation(tmp_path / "two", ratio=2.5)
    other, out = evaluation(tmp_path / "other", samples=20), tmp_path / "result.json"

    def run(*words):
        evaluations.main([*map(str, words), "--out", str(out)])
        return json.loads(out.read_text())

    kept = run(f"UNet={one}", f"DiT={two}")
    assert kept["models"]["DiT"]["model"] == "two" and [row["network"] for row in kept["rows"]] == ["UNet", "UNet", "DiT", "DiT"]
    assert tables.evaluation(kept).splitlines()[2:] == [
        "| UNet | teacher ddim | 8 | 8 | 1.500 / 0.250 |", "| DiT | teacher ddim | 8 | 8 | 2.500 / 0.250 |",
        "| UNet | **student** | 2 | 2 | 1.500 / 0.250 |", "| DiT | **student** | 2 | 2 | 2.500 / 0.250 |",
    ]  # fmt: skip
    assert run(one)["rows"] == json.loads((one / "metrics.json").read_text())["rows"]
    for words, message in (
        ((f"A={one}", f"B={other}"), "10 for A and 20 for B"),
        ((one, two), "name"),
        ((tmp_path / "none",), "none"),
    ):
        with pytest.raises(InputError, match=message):
            run(*words)


def test_the_cost_of_a_ladder_is_that_of_all_evaluations():
    from benchmarks.quality.ladders import cost

    changes = {
        "stage_one.updates": 10,
        "stage_two.ladder": [8, 4, 1],
        "stage_two.updates": 3,
        "stage_two.last_updates": 5,
        "train.batch_size": 2,
    }
    assert cost(load_recipe(None, changes)) == {
        "ladder": [8, 4, 1], "updates": 18, "evaluations": 2 * (10 * (2 + 3) + 3 * (2 + 3) + 5 * (4 + 3))
    }  # fmt: skip
