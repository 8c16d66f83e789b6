"""Recipes: TOML files that override the defaults of the settings, and `--set key=value` that overrides a recipe."""

import os
import tomllib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from fewstep.data.sources import looks_like_hub_id
from fewstep.errors import InputError, check_text, check_whole_number, nearest, shown
from fewstep.files import os_errors, path_of, write_atomically
from fewstep.training.settings import Recipe

# a path, or a name on the hub or of what is bundled
NAMES = ("teacher.path", "teacher.weak", "student.start", "data.path", "teach.start", "evaluate.clip")
PATHS = (*NAMES, "teacher.lora", "data.prompts", "data.negative_prompts", "data.cache", "evaluate.prompts")
RECIPE = "recipe.toml"  # in a run folder
MAY_CHANGE = (  # between a run and its resumption
    "train.checkpoint_every", "train.log_every", "train.sample_every", "train.log_with", "train.compile", "train.batch_size", "train.gradient_accumulation", "evaluate.",
)  # fmt: skip


def make_recipe(values: dict[str, Any], source: str = "recipe") -> Recipe:
    """A checked recipe from nested plain values. Raises InputError at an unknown key (names the nearest) or a value out of bounds."""
    for section, keys in values.items():
        for key, value in keys.items() if isinstance(keys, dict) else ():
            if isinstance(value, str):
                check_text(f"{source}: {section}.{key}", value)  # TOML is UTF-8, which a path need not be
    try:
        return Recipe(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            section = _section(first["loc"][:-1])
            raise InputError(f"{source}: unknown key '{key}'; {nearest(str(first['loc'][-1]), section.model_fields)}") from None
        given = f" is {shown(first['input'])}" if not isinstance(first["input"], dict) else ""
        where = f"{key}{given}: " if key else ""  # without a key it is about the recipe as a whole
        raise InputError(f"{source}: {where}{first['msg'].removeprefix('Value error, ')}") from None


def _section(location: tuple[Any, ...]) -> type[BaseModel]:
    section: Any = Recipe
    for part in location:
        kind = section.model_fields[part].annotation
        section = next((known for known in get_args(kind) if isinstance(known, type) and issubclass(known, BaseModel)), kind)
    return section


@os_errors()
def load_recipe(recipe: str | Path | Recipe | None = None, changes: dict[str, Any] | None = None) -> Recipe:
    """The recipe in a TOML file, the shipped one with that name, or one in hand, with dotted keys changed; without one, the defaults.

    Relative paths in a file are taken from its folder; those of shipped recipes and of `changes` from the working folder.

    Raises:
        InputError: no such recipe, not TOML, or a key or value that does not fit.
    """
    values: dict[str, Any] = {}
    if isinstance(recipe, Recipe):
        values = recipe.model_dump(exclude_none=True, exclude_unset=True)
    elif recipe is not None:
        path = find_recipe(recipe)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:  # also of thousands of digits, or of brackets
            raise InputError(f"{path} is not TOML: {error}; mend it, or name another recipe") from None
        if path not in shipped_recipes().values():
            _resolve_paths(values, path.parent)
    for key, value in checked_changes(changes).items():
        _change(values, key, value)
    return make_recipe(values, "recipe" if recipe is None or isinstance(recipe, Recipe) else str(recipe))


def checked_changes(changes: Any) -> dict[str, Any]:
    """Dotted keys with their values; none for None. Raises InputError where they are something else."""
    if not isinstance(changes, dict | None) or not all(isinstance(key, str) for key in changes or {}):
        raise InputError(f"changes are {shown(changes)}; give keys with values, as {{'stage_one.updates': 200}}")
    return changes or {}


def _change(values: dict[str, Any], key: str, value: Any) -> None:
    section, *tables, name = key.split(".") if "." in key else (key, "")
    if not name or section not in Recipe.model_fields:
        raise InputError(f"--set {shown(key)}: a key is section.name; {nearest(section, Recipe.model_fields)}")
    place = values.setdefault(section, {})
    if not isinstance(place, dict):
        raise InputError(f"[{section}] is {shown(place)} in the recipe; a table of keys is needed")
    for table in tables:  # "student.lora.rank"
        place[table] = dict(place[table]) if isinstance(place.get(table), dict) else {}
        place = place[table]
    place[name] = value


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    """Replace relative paths in the values of a recipe file, which are the folder's; names (on the hub, of what is bundled) stay.

    Raises:
        InputError: a path leads to something from the working folder alone.
    """
    for key in PATHS:
        section, _, name = key.partition(".")
        given = values[section].get(name) if isinstance(values.get(section), dict) else None
        if isinstance(given, str):
            values[section][name] = _beside(key, given, folder)
        elif isinstance(given, list):
            values[section][name] = [_beside(key, path, folder) if isinstance(path, str) else path for path in given]


def _beside(key: str, path: str, folder: Path) -> str:
    """A path of a recipe file, taken from its folder where it is relative; a name as it is."""
    beside = os.path.normpath(folder / path)
    if not _is_relative(path):
        return path
    if os.path.exists(beside) or not _may_be_name(key, path):
        return beside
    if os.path.exists(path):
        raise InputError(
            f"{key} = '{path}' is in the working folder, not in {folder}: a path in a recipe file is relative to its folder, "
            "or absolute; --set takes one from the working folder"
        )
    return path


def _is_relative(path: str) -> bool:
    return not path.startswith("~") and "://" not in path and not os.path.isabs(path)


def _may_be_name(key: str, path: str) -> bool:
    return key in NAMES and looks_like_hub_id(path)


def shipped_recipes() -> dict[str, Path]:
    """The shipped recipes by name."""
    here = Path(__file__).resolve().parents[1]
    folder = here / "recipes" if (here / "recipes").is_dir() else here.parents[1] / "recipes"  # installed, or a checkout
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_recipe(recipe: str | Path) -> Path:
    """The file of a recipe given by path or by shipped name. Raises InputError where there is no such file or name."""
    path = path_of("recipe", recipe)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(recipe) not in shipped:
        raise InputError(f"recipe '{str(recipe)[:100]}' is neither a file nor a shipped recipe; {nearest(str(recipe), shipped)}")
    return shipped[str(recipe)]


def parse_change(text: str) -> tuple[str, Any]:
    """("stage_one.updates", 200) of "stage_one.updates=200": TOML, or a plain string. Raises InputError where it has no '='."""
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {shown(text)}: it has the form section.key=value")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), value.strip()


def arguments(
    recipe: Any,
    teacher: Any,
    data: Any,
    steps: int | None,
    guidance_scale: tuple[float, float] | None,
    variant: str | None = None,
    lora: list[str] | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """The recipe's keys that the arguments of `distill` stand for."""
    changes: dict[str, Any] = {}
    if isinstance(teacher, str | Path):
        changes["teacher.path"] = str(teacher)
    changes |= {} if variant is None else {"teacher.variant": variant}
    changes |= {} if lora is None else {"teacher.lora": lora}
    changes |= {"teacher.force": True} if force else {}
    if isinstance(data, str | Path):
        changes["data.path"] = str(data)
    if guidance_scale is not None:
        changes["student.guidance_scale"] = list(guidance_scale) if isinstance(guidance_scale, tuple) else guidance_scale
    if steps is not None:
        changes["stage_two.ladder"] = ladder_to(steps, load_recipe(recipe).stage_two.ladder)
    return changes


def ladder_to(steps: int, ladder: tuple[int, ...]) -> list[int]:
    """A ladder that ends at `steps` (1 to 65,536, or InputError): the given one cut there, or of other numbers 16, 4, 1 times it."""
    check_whole_number("steps", steps, 1, 1 << 16)
    return list(ladder[: ladder.index(steps) + 1]) if steps in ladder[1:] else [16 * steps, 4 * steps, steps]


def to_toml(recipe: Recipe, folder: Path | None = None) -> str:
    """The resolved recipe as TOML, its relative paths as seen from `folder`, if given; keys without a value are left out.

    Keys of [evaluate] that the recipe leaves out are left out as well: the preset of an evaluation decides them.
    """
    import tomli_w

    values = recipe.model_dump(mode="json", exclude_none=True)
    values["evaluate"] = recipe.evaluate.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    for key in PATHS if folder else ():
        section, _, name = key.partition(".")
        given = values[section].get(name)
        if given:
            seen = [_from(folder, key, path) for path in _listed(given)]
            values[section][name] = seen[0] if isinstance(given, str) else seen
    return tomli_w.dumps(values)


def _from(folder: Path | None, key: str, path: str) -> str:
    """A path as seen from a folder; a name, or an absolute path, as it is."""
    return os.path.relpath(path, folder) if _is_relative(path) and (os.path.exists(path) or not _may_be_name(key, path)) else path


def _listed(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else given or []


def write_recipe(run: Path, recipe: Recipe) -> None:
    """Write the resolved recipe into a run folder, made if new: from now on the folder is this recipe's."""
    text = to_toml(recipe, run)
    write_atomically(run / RECIPE, lambda aside: aside.write_text(text, encoding="utf-8"))


def first_difference(old: Recipe, new: Recipe) -> str | None:
    """The first dotted key, of those that matter to the weights, in which two recipes differ, with both values."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    for section, values in after.items():
        for name, value in values.items():
            key, was = f"{section}.{name}", before[section][name]
            same_path = key in PATHS and [*map(os.path.abspath, _listed(was))] == [*map(os.path.abspath, _listed(value))]
            if was != value and not same_path and not key.startswith(MAY_CHANGE):
                return f"{key} was {was!r} and is {value!r}"
    return None
