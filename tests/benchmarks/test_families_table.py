"""The benchmark of all families: it runs at tiny sizes, and the pages have the figures of its results."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def rows_of(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())["rows"]


def test_one_family_from_its_config_to_its_stock_pipeline(tmp_path, capsys):
    from benchmarks.families import stock_samples as families

    assert families.main(["--only", "Wan", "--updates", "2", "--out", str(tmp_path / "rows.json")]) == 0
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert (row["pipeline"], row["student"], row["updates"]) == ("WanPipeline", "baked", [2, 2])
    assert row["difference"] < families.LIMIT and row["baked_from_conditioned"] < 1e-5
    assert "| Wan | `WanPipeline` | baked |" in capsys.readouterr().out


def test_the_pages_have_the_figures():
    from benchmarks.families import stock_samples as families
    from benchmarks.families import tables

    rows = rows_of("families")
    assert tables.stock_samples({"rows": rows}) in (ROOT / "docs" / "families.md").read_text()
    assert {row["family"] for row in rows} == set(families.CASES)
    assert all(row["updates"] == [20, 20] and row["difference"] < families.LIMIT for row in rows)
    assert all(row["baked_from_conditioned"] < 1e-5 and row["scale_moves_samples_by"] > 1e-3 for row in rows)
    assert tables.onnx({"rows": rows_of("families-onnx")}) in (ROOT / "docs" / "export.md").read_text()
