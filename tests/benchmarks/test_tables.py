"""The pages have the figures of the results; a benchmark of all families runs from a config to a stock pipeline; commands end alike."""

import json

import pytest

from benchmarks import command, tables
from benchmarks.quality import tables as quality
from fewstep import InputError


def test_a_page_has_the_results_and_a_missing_one_leaves_it_alone(tmp_path):
    page = "before\n<!-- table: headline -->old<!-- end -->\nafter"
    assert tables.rendered(page, tmp_path) == page
    (tmp_path / "headline.json").write_text(json.dumps({"speed": [], "calls": [], "quality": []}))
    new = tables.rendered(page, tmp_path)
    assert "old" not in new and "Inception Score" in new and new.endswith("<!-- end -->\nafter")
    assert tables.rendered(new, tmp_path) == new


def test_the_committed_pages_have_the_committed_results():
    assert tables.main(["--check"]) == 0, "python -m benchmarks.tables"


def test_every_family_was_measured_and_agrees():
    from benchmarks.families import stock_samples

    rows = command.read_json(command.RESULTS / "families.json")["rows"]
    assert {row["family"] for row in rows} == set(stock_samples.CASES)
    assert all(row["updates"] == [20, 20] and row["difference"] < stock_samples.LIMIT for row in rows)
    assert all(row["baked_from_conditioned"] < 1e-5 and row["scale_moves_samples_by"] > 1e-3 for row in rows)


def test_a_command_ends_with_one_line_and_code_2_for_wrong_input(capsys):
    def wrong():
        raise InputError("updates is 0; the least is 1")

    with pytest.raises(SystemExit) as stop:
        command.run_main(wrong)
    assert stop.value.code == 2 and capsys.readouterr().err == "error: updates is 0; the least is 1\n"


def test_rules_without_the_plain_one_are_compared_with_nothing():
    row = {"model": "student", "steps": 4, "guidance_scale": 1.0, "frechet": 2.0, "class_nll": 0.5}
    found = quality.guidance_rules({"rules": {"apg": {"rows": [row]}}})
    assert found.splitlines()[-1] == "| student, 4 steps | apg | 2.000 / 0.500 |  |"
