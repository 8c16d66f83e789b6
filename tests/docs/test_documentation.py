"""What the site is made of: generated parts name everything there is, links lead somewhere, nothing is loaded from a network."""

import importlib
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import fewstep
from fewstep.training.recipe import shipped_recipes
from fewstep.training.settings import Recipe

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.fixture(autouse=True)
def _generators(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "generate"))


def test_the_reference_of_commands_names_every_command_with_its_options():
    import typer
    from commands_page import commands

    from fewstep.cli import main as cli

    page, known = commands(), typer.main.get_command(cli.app).commands
    sections = dict(re.findall(r"^## (\S+) \{ #\1 \}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(known) and {"quickstart", "distill", "playground"} <= set(known)
    for name, command in known.items():
        assert f"[`fewstep {name}`](#{name})" in page
        assert command.help.splitlines()[0] in sections[name]
        assert f"\nfewstep {name} " in sections[name], "an example"
        options = {option for p in command.params if p.param_type_name == "option" for option in p.opts} - {"--help"}
        assert {option for option in options if f"`{option}" not in sections[name]} == set(), name
    assert re.search(r"`--frames <int>` .*`8`; 2 to 1024", sections["translate"])


def test_the_settings_name_every_key_with_default_and_bounds():
    from settings_table import settings

    page = settings()
    for name, field in Recipe.model_fields.items():
        section = re.search(rf"^### `\[{name}\]` .*?(?=^### |\Z)", page, re.MULTILINE | re.DOTALL)
        assert section is not None, name
        missing = [key for key in field.annotation.model_fields if f"\n| `{key}` | " not in section[0]]
        assert missing == [], name
    assert "| `condition_dropout` | number, from 0 below 1 | `0.1` |" in page
    assert "| `ladder` | 1 to 32 of: integer, from 1 to 1,048,576 | `[64, 16, 8, 4, 2, 1]` |" in page
    assert "[`[student.lora]`](#settings-student-lora)" in page and "### `[student.lora]` { #settings-student-lora }" in page


def test_every_shipped_recipe_is_shown_with_its_comment_and_its_file():
    from recipes_page import large_recipes, recipes

    page = recipes()
    for name, path in shipped_recipes().items():
        assert f"### {name} {{ #recipe-{name} }}" in page
        body = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
        assert all(line in page for line in body), name
    assert "| [`sd15`](recipes.md#recipe-sd15) | `runwayml/stable-diffusion-v1-5` | 3 to 15 | each of 8 GPUs: " in large_recipes()


def test_the_reference_of_python_names_what_is_public_and_nothing_else():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"heading: (\S+)", text))
    assert {f"fewstep.{name}" for name in fewstep.__all__} <= headings
    for path in re.findall(r"^::: (\S+)", text, re.MULTILINE):
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name) or importlib.import_module(path)


def test_the_navigation_names_every_page_and_notebook():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"(\S+\.md)$", str(yaml.safe_dump(yaml.safe_load(text)["nav"], width=1000)), re.MULTILINE)
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "examples").glob("*.ipynb")}
    assert sorted(named) == sorted({page.name for page in PAGES} | notebooks)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_every_relative_link_leads_to_something_and_every_mark_is_known(page):
    from hooks import GENERATED, MARK
    from repository_links import LINK

    text = page.read_text(encoding="utf-8")
    for link, _ in LINK.findall(text):
        known = (page.parent / link).exists() or link == "recipes.md"
        assert known, f"{page.name} links to {link}"
    assert set(MARK.findall(text)) <= set(GENERATED)


def test_links_out_of_the_documents_lead_into_the_site():
    from repository_links import collected, redirected

    text = "[a](../src/fewstep/method/guidance.py) [b](../benchmarks/results/) [c](choosing.md#x) [d](../examples/own_network.ipynb) [e](https://example.org/f.py)"
    assert redirected(text, "docs/page.md") == (
        "[a](repository/src/fewstep/method/guidance.py.md) [b](repository/benchmarks/results.md) [c](choosing.md#x) "
        "[d](notebooks/own_network.md) [e](https://example.org/f.py)"
    )
    brought = collected({"docs/page.md": text}, [])
    assert "def combine" in brought["repository/src/fewstep/method/guidance.py.md"]
    assert "repository/benchmarks/results/quickstart.json" in brought
    assert brought["notebooks/own_network.md"].startswith("# Distil your own network")


def test_what_a_page_would_load_from_a_network_is_found(tmp_path, caplog):
    import hooks

    (tmp_path / "good.html").write_text(
        '<a href="https://arxiv.org/abs/2210.03142">paper</a> <img src="a.png"> <link rel="canonical" href="https://x.org">'
    )
    hooks.on_post_build(config=SimpleNamespace(site_dir=str(tmp_path)))
    assert caplog.records == []
    for name, text in {
        "script.html": '<script defer src="https://cdn.example/x.js"></script>',
        "style.html": '<link href="https://fonts.example/css" rel="stylesheet">',
        "image.html": "<img alt='x' src='//example.org/x.png'>",
        "font.css": "@font-face { src: url(https://fonts.example/x.woff2) }",
    }.items():
        (tmp_path / name).write_text(text)
    hooks.on_post_build(config=SimpleNamespace(site_dir=str(tmp_path)))
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 4
