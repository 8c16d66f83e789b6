"""The benchmark scripts at tiny sizes: what they hold against each other is alike, and the page has the figures of the results."""

import json
from dataclasses import replace

import pytest
import torch


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # of the digits' classifier


@pytest.fixture
def case():
    from benchmarks.quality import mixtures

    return mixtures.Case(mixtures.mixture_of(2), guidance_scale=3.0, samples=20, solver_steps=128)


def test_the_exact_network_says_what_the_mixture_says():
    from benchmarks.quality import mixture_models as models

    mixture = models.mixture_of(5)
    teacher, t, w = models.teacher_of(mixture), torch.tensor([0.2, 0.7, 1.0]), torch.tensor([0.0, 1.3, 4.0])
    z, labels = torch.randn(3, 5, 1, 1), torch.arange(3)
    expected = mixture.denoiser(models.PROCESS)(z, t, labels, w)
    torch.testing.assert_close(teacher.denoiser.guided()(z, t, labels, w), expected, rtol=1e-4, atol=1e-5)


def test_a_perfect_student_lands_where_the_ladders_first_steps_land(case):
    from benchmarks.quality import mixtures

    from fewstep.method.samplers import deterministic

    rows = list(mixtures.perfect_rows(case, (32, 4, 2, 1)))
    teacher = mixtures.teacher_of(case.mixture).denoiser.guided()
    x = deterministic(teacher, case.noise, 32, case.labels, case.w, mixtures.PROCESS)
    assert [row["evaluations"] for row in rows] == [4, 2, 1]
    assert [row["rms"] for row in rows] == pytest.approx([case.row(x)["rms"]] * 3, rel=1e-6)


def test_every_baseline_comes_to_the_truth_and_none_exceeds_its_budget(case):
    from benchmarks.quality import mixtures

    rows = list(mixtures.baseline_rows(case, (1, 16, 256)))
    assert all(row["evaluations"] <= row["budget"] for row in rows)
    assert {row["budget"] for row in rows} == {16, 256}  # one evaluation does not pay for a guided step
    for name in mixtures.BASELINES:
        few, many = (row for row in rows if row["method"] == name)
        assert many["rms"] < min(0.02, few["rms"] / 3)


def test_students_of_a_mixture_are_trained_measured_and_drawn(tmp_path):
    from benchmarks.quality import mixtures
    from benchmarks.quality.mixtures_picture import draw
    from benchmarks.quality.tables import mixtures as mixtures_table

    mixture, recipe = mixtures.mixture_of(2), mixtures.recipe_of(2, updates=0.001)
    students = mixtures.distilled(mixture, recipe, mixtures.student_of(mixture, 8, 2), tmp_path)
    again = mixtures.distilled(mixture, recipe, mixtures.student_of(mixture, 8, 2), tmp_path)
    assert list(students) == list(again) == [16, 8, 4, 2, 1]
    rows = list(mixtures.student_rows(mixtures.Case(mixture, 2.0, 20, 64), again))
    assert [row["evaluations"] for row in rows] == [16, 8, 4, 2, 1]
    student = {"dimensions": 2, "spread": 1.0, "parameters": 1}
    assert "| 2 | **student** |" in mixtures_table({"rows": rows, "students": [student]})
    draw(mixture, students, tmp_path / "picture.png", scales=(2.0,))
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_the_headline_counts_evaluations_and_measures_what_it_timed(teacher_folder):
    from benchmarks.speed import headline

    from fewstep import open_model
    from fewstep.data.loading import open_data
    from fewstep.training.distill import next_student, student_of
    from fewstep.training.recipe import load_recipe

    teacher = open_model(teacher_folder)
    student = next_student(student_of(load_recipe(), teacher), 2)
    noise, labels = headline.fixed_noise(teacher, 25)
    row, drawn = headline.race(teacher, student, noise, labels, 10, (8, 2), 2.0)
    assert row["evaluations"] == [16, 2] and row["ratio_of_evaluations"] == 8 and row["batches"] == 2
    whole = student.sample_tensor(labels, guidance_scale=2.0, noise=noise)
    torch.testing.assert_close(drawn[1].samples, whole.samples, rtol=1e-3, atol=1e-4)
    data = open_data(name="digits")
    rows = headline.quality_rows(drawn, labels, replace(data, pixels=data.pixels[:200], labels=data.labels[:200]))
    assert [(r["model"], r["steps"], r["samples"]) for r in rows] == [("teacher", 8, 25), ("student", 2, 25)]
    assert rows[0]["rms_to_teacher"] == 0 and 1 <= rows[1]["inception_score"] <= 10


def test_variants_of_the_method_are_distilled_once_and_count_their_evaluations(tmp_path):
    from benchmarks.quality import method_variants
    from benchmarks.quality.tables import method_variants as variants_table

    tiny = {
        "stage_one.updates": 1,
        "stage_two.updates": 1,
        "stage_two.last_updates": 1,
        "stage_two.ladder": [4, 2, 1],
        "train.batch_size": 4,
    }
    names = ["ours", "stochastic", "apart"]
    result = method_variants.run_all(tmp_path, names, samples=20, changes=tiny, device="cpu", best_steps=4)
    assert (tmp_path / "stochastic" / "stage-one" / "unet").is_dir()  # that of `ours`
    rows = {(r["variant"], r["steps"], r["guidance_scale"]): r for r in result["rows"]}
    assert rows["ours", 2, 5.0]["evaluations"] == rows["stochastic", 2, 5.0]["evaluations"] == 2
    assert rows["apart", 2, 5.0]["evaluations"] == rows["teacher", 2, 5.0]["evaluations"] == 4
    assert rows["teacher", 4, 1.3]["rms_to_teacher"] == 0 < rows["stage one alone", 4, 1.3]["rms_to_teacher"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/fewstep.json")}
    assert len(before) == 8
    method_variants.run_all(tmp_path, ["ours"], samples=20, changes=tiny, device="cpu", best_steps=4)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "| 1 | **ours** | 1 |" in variants_table(result)


def test_the_cifar10_benchmarks_inputs(tmp_path, monkeypatch):
    import numpy as np
    from benchmarks.quality import cifar10_inputs
    from PIL import Image

    from fewstep.evaluation.feature_files import open_script

    torch.manual_seed(0)
    network = cifar10_inputs.ResNet(3).eval()
    known = {
        f"module.{k.replace('output.', 'linear.')}": v for k, v in network.state_dict().items() if k not in ("mean", "deviation")
    }
    torch.save({"state_dict": known, "best_prec1": 0.0}, tmp_path / "weights.th")
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8), np.arange(6, dtype=np.uint8)
    mosaic = images.reshape(2, 3, 32, 32, 3).swapaxes(1, 2).reshape(64, 96, 3)  # two rows of three
    Image.fromarray(mosaic).save(tmp_path / "mosaic.webp", lossless=True)
    blob = np.frombuffer((tmp_path / "mosaic.webp").read_bytes(), np.uint8)
    np.savez(tmp_path / "train_0.npz", data=blob, offsets=np.array([0, len(blob)]), tile=np.array([32, 32, 3]), labels=labels)
    monkeypatch.setattr(
        "sys.argv", ["x", "--data", str(tmp_path), "--weights", str(tmp_path / "weights.th"), "--out", str(tmp_path / "out")]
    )
    cifar10_inputs.main()
    written = np.load(tmp_path / "out" / "cifar10.npz")
    assert np.array_equal(written["images"], images) and np.array_equal(written["labels"], labels)
    features, x = open_script(tmp_path / "out" / "resnet56.pt", 3, 32), torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        torch.testing.assert_close(features(x).float(), network(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(features.logits(features(x)).float(), network.output(network(x)), rtol=1e-4, atol=1e-5)


def test_a_trial_of_stage_one_is_measured_against_the_guided_teacher():
    from benchmarks.quality import stage_one_trials as trials
    from benchmarks.quality.tables import trials as trials_table

    from fewstep import open_model
    from fewstep.data.loading import open_data
    from fewstep.training.distill import student_of
    from fewstep.training.recipe import load_recipe

    teacher, data = open_model("digits"), open_data(name="digits")
    recipe = load_recipe("digits-full", trials.SHORT | {"stage_one.updates": 2, "train.batch_size": 8})
    untrained = trials.errors(student_of(recipe, teacher), teacher, data, samples=30)
    assert untrained["1"] < 1e-5 and list(untrained.values()) == sorted(untrained.values())  # it is the conditional teacher
    found = trials.errors(trials.trained(recipe, teacher, data, "cpu"), teacher, data, samples=30)
    assert found["1"] > 0 and found != untrained
    assert "| two | 2 |" in trials_table({"rows": [{"trial": "two", "updates": 2, "errors": found}]})


def test_the_page_has_the_results_and_a_missing_one_leaves_it_alone(tmp_path):
    from benchmarks import tables as results_page

    page = "before\n<!-- table: headline -->old<!-- end -->\nafter"
    assert results_page.rendered(page, tmp_path) == page
    (tmp_path / "headline.json").write_text(json.dumps({"speed": [], "calls": [], "quality": []}))
    new = results_page.rendered(page, tmp_path)
    assert "old" not in new and "Inception Score" in new and new.endswith("<!-- end -->\nafter")
    assert results_page.rendered(new, tmp_path) == new


def test_the_committed_page_has_the_committed_results():
    from benchmarks import tables as results_page

    for path in sorted(results_page.DOCS.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        assert results_page.rendered(page) == page, "python -m benchmarks.tables"


def evaluation(folder, samples=10, **row):
    """What `fewstep evaluate` leaves, as far as `evaluations` reads it."""
    rows = [{"model": m, "sampler": s, "steps": n, "evaluations": n, "guidance_scale": 1.0, "ratio": 1.5, "rms_to_teacher": 0.25, **row}
            for m, s, n in (("teacher", "ddim", 8), ("student", "deterministic", 2))]  # fmt: skip
    known = {
        "data": {"sha256": "0"}, "features": {"fingerprint": "1"}, "settings": {"samples": samples, "reference_steps": 8, "seed": 0},
        "model": str(folder.name), "against": None, "summary": "", "rows": rows,
    }  # fmt: skip
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(known))
    return folder


def test_evaluations_are_kept_side_by_side_where_they_were_measured_alike(tmp_path, monkeypatch, capsys):
    from benchmarks.quality import evaluations

    one, two = evaluation(tmp_path / "one"), evaluation(tmp_path / "two", ratio=2.5)
    other, out = evaluation(tmp_path / "other", samples=20), tmp_path / "result.json"

    def run(*words):
        monkeypatch.setattr("sys.argv", ["evaluations.py", *map(str, words), "--out", str(out)])
        with pytest.raises(SystemExit) as stop:
            evaluations.run_main(evaluations.main)
        return stop.value.code

    assert not run(f"UNet={one}", f"DiT={two}")
    kept = json.loads(out.read_text())
    assert kept["models"]["DiT"]["model"] == "two" and [row["network"] for row in kept["rows"]] == ["UNet", "UNet", "DiT", "DiT"]
    lines = evaluations.tables.evaluation(kept).splitlines()[2:]
    assert lines == [
        "| UNet | teacher ddim | 8 | 8 | 1.500 / 0.250 |", "| DiT | teacher ddim | 8 | 8 | 2.500 / 0.250 |",
        "| UNet | **student** | 2 | 2 | 1.500 / 0.250 |", "| DiT | **student** | 2 | 2 | 2.500 / 0.250 |",
    ]  # fmt: skip
    assert not run(one)
    assert json.loads(out.read_text())["rows"] == json.loads((one / "metrics.json").read_text())["rows"]
    capsys.readouterr()
    for words, message in (
        ((f"A={one}", f"B={other}"), "samples of the settings is 10 for A and 20 for B"),
        ((one, two), "a name of its own"),
        ((tmp_path / "none",), "holds no evaluation"),
    ):
        assert run(*words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line
