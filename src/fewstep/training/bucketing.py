"""The buckets of a recipe: whether its teacher's network takes their sizes, and what else of the recipe goes with them."""

from pathlib import Path
from typing import Any

from fewstep.data.buckets import Buckets, usual_buckets
from fewstep.data.latent_cache import is_cache, read_index
from fewstep.errors import InputError
from fewstep.models.model import Model
from fewstep.models.sizes import at_size, sizes_taken
from fewstep.training.recipe import Recipe


def buckets_of(recipe: Recipe, model: Model) -> Buckets | None:
    """The buckets that `data.buckets` names, or makes of the model's size; None where it has none.

    Raises:
        InputError: the network does not take them, or something else in the recipe does not go with them.
    """
    settings, info = recipe.data, model.info
    if settings.buckets is None:
        return None
    _, height, width = info.picture_shape
    taken = sizes_taken(model)
    if info.condition != "text" or taken is None:
        why = "takes class labels" if info.condition != "text" else f"knows pictures of {width}x{height} alone"
        raise InputError(f"data.buckets: this teacher {why}; leave it out")
    step, largest = taken
    if settings.buckets == "auto":
        if settings.bucket_step % step:
            raise InputError(
                f"data.bucket_step = {settings.bucket_step}: the network takes sides that are multiples of {step}: set it to one"
            )
        found = usual_buckets(height, width, settings.bucket_step, settings.bucket_ratio)
    else:
        found = Buckets.of(settings.buckets)
    check_sizes(found, step, largest)
    check_recipe(recipe)
    return found


def check_sizes(buckets: Buckets, step: int, largest: int) -> None:
    """Raises InputError for a size that a network does not take, or two of the same proportions, between which no picture could choose."""
    seen: dict[float, str] = {}
    for name, size in zip(buckets.names, buckets.sizes, strict=True):
        if wrong := [side for side in size if side % step or side > largest]:
            sides = f"multiples of {step} pixels up to {largest}"
            raise InputError(
                f"data.buckets: {name} has a side of {wrong[0]}, and the network takes {sides}: change or leave out that bucket"
            )
        if (other := seen.setdefault(size[1] / size[0], name)) != name or buckets.sizes.count(size) > 1:
            raise InputError(f"data.buckets: {other} and {name} have the same proportions: leave out one of them")


def check_recipe(recipe: Recipe) -> None:
    """Raises InputError where something of a recipe needs pictures of one size, and there are buckets."""
    data, stages = recipe.data, (recipe.stage_one, recipe.stage_two)
    for key, given, remedy in (
        ("data.prompts", data.prompts, "has samples of the teacher's size: give pictures, or leave out data.buckets"),
        ("data.size", data.size, "is one size: leave it out"),
        ("paths.rung", recipe.paths.rung, "learns from paths of one size: leave it or data.buckets out"),
        ("guided_inputs", any(stage.guided_inputs for stage in stages), "are samples of one size: leave them or data.buckets out"),
        ("data.streaming with data.on_the_fly", data.streaming and data.on_the_fly, "has no buckets: leave one of them out"),
    ):
        if given:
            raise InputError(f"data.buckets: {key} {remedy}")


def check_cache_of_buckets(recipe: Recipe, model: Model) -> None:
    """Raises InputError where `data.cache` holds buckets that are not the recipe's, or that do not go with the rest of it."""
    made = read_index(Path(str(recipe.data.cache)).expanduser())["made_by"]["data"].get("buckets")
    given = buckets_of(recipe, model)
    if given is not None and given.pairs != made:
        raise InputError(
            f"data.buckets are not those of the cache {recipe.data.cache} ({made or 'it has none'}): leave them out, or make another cache"
        )
    if made:
        check_recipe(recipe)


def largest_size(recipe: Recipe, model: Model) -> Model:
    """The model at the size of the recipe's largest bucket, where it has any: what its training takes most memory for."""
    buckets, cache = buckets_of(recipe, model), recipe.data.cache and Path(recipe.data.cache).expanduser()
    if buckets is None and cache and is_cache(cache):
        made: Any = read_index(cache)["made_by"]["data"].get("buckets")
        buckets = made and Buckets.of(made)
    return at_size(model, *buckets.largest) if buckets else model
