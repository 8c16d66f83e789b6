"""docs/families.md says of every text-to-image and text-to-video pipeline of diffusers what becomes of it here."""

import inspect
import re
import warnings
from pathlib import Path

import diffusers
from diffusers import pipelines

from fewstep.models.families import FAMILIES, family_of
from fewstep.models.families.pipeline_folder import quiet

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit, in a pipeline that is there where sentencepiece is
    from diffusers.pipelines import auto_pipeline

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
FROM_MORE = re.compile(
    r"^(image|images|video|audio|mask|mask_image|control_image|control_video|ref_image|cond_image|reference_image|controls)$"
)
SOUND = re.compile(r"Audio|MusicLDM|AceStep")
OF_TEXT = ("DiffusionGemmaPipeline", "LLaDA2Pipeline")  # they write text


def rows():
    """[(pipelines, what becomes of them)] of the table."""
    table = PAGE.read_text().split("## Every pipeline of diffusers")[1]
    found = [line.strip("|\n ").rsplit(" | ", 1) for line in table.splitlines() if line.startswith("| `")]
    return [(re.findall(r"`(\w+)`", names), what) for names, what in found]


def kinds():
    """Pipeline classes that diffusers makes from text alone, by its own mappings and by what their calls take."""
    mappings = [getattr(auto_pipeline, f"AUTO_TEXT2{kind}_PIPELINES_MAPPING") for kind in ("IMAGE", "VIDEO")]
    found = {made.__name__ for mapping in mappings for made in mapping.values()}
    for name in dir(pipelines):
        made = getattr(pipelines, name) if name.endswith("Pipeline") else None
        if not inspect.isclass(made) or SOUND.search(name) or name in OF_TEXT:
            continue
        taken = inspect.signature(made.__call__).parameters
        if "prompt" in taken and not any(FROM_MORE.match(argument) for argument in taken):
            found.add(name)
    return found


def test_no_pipeline_is_forgotten_and_none_is_there_twice():
    with quiet():
        known = kinds()
    named = [name for names, _ in rows() for name in names]
    assert len(known) > 100
    assert known <= set(named)
    assert len(named) == len(set(named))
    assert all(hasattr(diffusers, name) or hasattr(pipelines, name) for name in named)


def test_the_pipelines_that_are_called_supported_are_those_of_families():
    opened = {name for family in FAMILIES if family != "own" for name in family_of(family).pipelines}
    for names, what in rows():
        family = re.match(r"supported: `(\w+)`", what)
        if family:
            assert set(names) <= set(family_of(family[1]).pipelines)
        else:
            assert not set(names) & opened or "prior" in what
