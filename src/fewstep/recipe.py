"""Settings: every key with its default and its bound. A TOML recipe overrides the defaults, `--set key=value` the recipe."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fewstep.errors import InputError, nearest

Updates = Annotated[int, Field(ge=0, le=10_000_000)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Weighting = Literal["snr_plus_one", "truncated_snr", "snr"]
Schedule = Literal["constant", "linear", "cosine"]


class Section(BaseModel):
    """A part of a recipe: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TeacherSettings(Section):
    path: str | None = None  # a model folder, or the name of a bundled teacher ("digits")


class DataSettings(Section):
    name: str | None = None  # built-in data: "digits"
    path: str | None = None  # an image folder, .npz, or anything that `datasets` opens
    split: str = "train"
    size: Annotated[int, Field(ge=1, le=8192)] | None = None  # images are resized and centre-cropped to this
    channels: Literal[1, 3] | None = None
    image_column: str | None = None
    label_column: str | None = None
    classes: tuple[str, ...] | None = None  # names, where the data has numbers alone
    streaming: bool = False
    flip: bool = False  # mirror half of the images


class ProcessSettings(Section):
    """The process of a teacher that `fewstep teach` makes; another teacher's comes with its folder."""

    name: Literal["cosine"] = "cosine"
    log_snr: tuple[Annotated[float, Field(le=20)], Annotated[float, Field(ge=-20)]] = (20.0, -20.0)  # at t = 0 and at t = 1


class NetworkSettings(Section):
    """Config keys of diffusers' UNet2DConditionModel, for a teacher that `fewstep teach` makes."""

    block_out_channels: Annotated[tuple[Annotated[int, Field(ge=4, le=8192)], ...], Field(min_length=1, max_length=8)] = (32, 64)
    layers_per_block: Annotated[int, Field(ge=1, le=16)] = 1
    norm_num_groups: Annotated[int, Field(ge=1, le=256)] = 16
    attention_head_dim: Annotated[int, Field(ge=1, le=256)] = 8
    mid_block_type: Literal["UNetMidBlock2D", "none"] = "none"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class TeachSettings(Section):
    updates: Updates = 20_000
    learning_rate: LearningRate = 1e-3
    schedule: Schedule = "cosine"
    condition_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    prediction: Literal["v", "x", "eps"] = "v"
    weighting: Weighting = "snr_plus_one"


class StudentSettings(Section):
    guidance_scale: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = (1.0, 5.0)
    prediction: Literal["same", "v", "x", "eps"] = "v"

    @model_validator(mode="after")
    def _ordered(self) -> "StudentSettings":
        if self.guidance_scale[0] > self.guidance_scale[1]:
            raise ValueError(f"the range {list(self.guidance_scale)} is upside down; give the smaller number first")
        return self


class StageOneSettings(Section):
    updates: Updates = 10_000
    learning_rate: LearningRate = 1e-3
    schedule: Schedule = "linear"
    weighting: Weighting = "snr_plus_one"
    times: Literal["continuous", "grid"] = "continuous"  # grid: only those of the ladder's first step count
    balance: Annotated[float, Field(ge=0, le=4)] = 2.0  # each example's loss is divided by guidance_scale to this power


class StageTwoSettings(Section):
    ladder: Annotated[tuple[Annotated[int, Field(ge=1, le=1 << 20)], ...], Field(min_length=1, max_length=32)] = (
        64,
        16,
        8,
        4,
        2,
        1,
    )
    updates: Updates = 5_000  # a rung
    last_updates: Updates = 10_000  # each of the rungs to 2 and to 1 step
    learning_rate: LearningRate = 5e-4
    schedule: Schedule = "linear"
    weighting: Weighting = "truncated_snr"
    balance: Annotated[float, Field(ge=0, le=4)] = 0.0
    sampler: Literal["deterministic", "stochastic"] = "deterministic"

    @model_validator(mode="after")
    def _divides(self) -> "StageTwoSettings":
        from fewstep.stage_two import rungs

        rungs(self.ladder)
        return self


class EncoderSettings(Section):
    ladder: tuple[Annotated[int, Field(ge=1, le=1 << 20)], ...] = ()  # empty: no encoder
    updates: Updates = 5_000
    learning_rate: LearningRate = 5e-4

    @model_validator(mode="after")
    def _divides(self) -> "EncoderSettings":
        from fewstep.stage_two import rungs

        if self.ladder:
            rungs(self.ladder)
        return self


class TrainSettings(Section):
    batch_size: Annotated[int, Field(ge=1, le=1 << 20)] = 128  # a process and a micro-batch, as in accelerate
    gradient_accumulation: Annotated[int, Field(ge=1, le=4096)] = 1
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    precision: Literal["no", "bf16", "fp16"] = "no"
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    warmup: Updates = 100
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    log_every: Annotated[int, Field(ge=1)] = 25
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    compile: bool = False


class EvaluateSettings(Section):
    samples: Annotated[int, Field(ge=2, le=10_000_000)] = 1000  # of each configuration
    steps: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4)
    guidance_scale: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0)


class Recipe(Section):
    """The whole of a run's settings."""

    teacher: TeacherSettings = TeacherSettings()
    data: DataSettings = DataSettings()
    process: ProcessSettings = ProcessSettings()
    network: NetworkSettings = NetworkSettings()
    teach: TeachSettings = TeachSettings()
    student: StudentSettings = StudentSettings()
    stage_one: StageOneSettings = StageOneSettings()
    stage_two: StageTwoSettings = StageTwoSettings()
    encoder: EncoderSettings = EncoderSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()


MAY_CHANGE = ("train.checkpoint_every", "train.log_every", "train.compile", "evaluate.")  # between a run and its resumption


def make_recipe(values: dict[str, Any], source: str = "recipe") -> Recipe:
    """A checked recipe from nested plain values.

    Raises:
        InputError: an unknown key (with the nearest known one) or a value out of its bounds.
    """
    try:
        return Recipe(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            section = _section(first["loc"][:-1])
            raise InputError(f"{source}: unknown key '{key}'; {nearest(str(first['loc'][-1]), section.model_fields)}") from None
        given = f" is {first['input']!r}" if not isinstance(first["input"], dict) else ""
        raise InputError(f"{source}: {key}{given}: {first['msg'].removeprefix('Value error, ')}") from None


def _section(location: tuple[Any, ...]) -> type[BaseModel]:
    section: Any = Recipe
    for part in location:
        section = section.model_fields[part].annotation
    return section


def load_recipe(recipe: str | Path | None = None, changes: dict[str, Any] | None = None) -> Recipe:
    """The recipe in a TOML file, or the shipped one with that name, with dotted keys changed; without a recipe, the defaults.

    Raises:
        InputError: no such recipe, not TOML, or a key or value that does not fit.
    """
    values: dict[str, Any] = {}
    if recipe is not None:
        path = find_recipe(recipe)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not TOML: {error}") from None
        _resolve_paths(values, path.parent)
    for key, value in (changes or {}).items():
        _change(values, key, value)
    return make_recipe(values, str(recipe or "recipe"))


def _change(values: dict[str, Any], key: str, value: Any) -> None:
    section, _, name = key.partition(".")
    if not name or section not in Recipe.model_fields:
        raise InputError(f"--set {key}: a key is section.name; {nearest(section, Recipe.model_fields)}")
    values.setdefault(section, {})[name] = value


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    """Paths in a recipe are relative to the working folder, else to the recipe's own."""
    for section in ("teacher", "data"):
        path = values.get(section, {}).get("path") if isinstance(values.get(section), dict) else None
        if isinstance(path, str) and not Path(path).exists() and (folder / path).exists():
            values[section]["path"] = str(folder / path)


def shipped_recipes() -> dict[str, Path]:
    """The shipped recipes by name."""
    here = Path(__file__).resolve().parent
    folder = here / "recipes" if (here / "recipes").is_dir() else here.parents[1] / "recipes"  # installed, or a checkout
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_recipe(recipe: str | Path) -> Path:
    """The file of a recipe given by path or by shipped name.

    Raises:
        InputError: there is no such file or name.
    """
    if Path(recipe).is_file():
        return Path(recipe)
    shipped = shipped_recipes()
    if str(recipe) not in shipped:
        raise InputError(f"recipe '{recipe}' is neither a file nor a shipped recipe; {nearest(str(recipe), shipped)}")
    return shipped[str(recipe)]


def parse_change(text: str) -> tuple[str, Any]:
    """("stage_one.updates", 200) of "stage_one.updates=200": the value is TOML, or else a plain string.

    Raises:
        InputError: there is no '='.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text}: it has the form section.key=value")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def arguments(
    recipe: Any, teacher: Any, data: Any, steps: int | None, guidance_scale: tuple[float, float] | None
) -> dict[str, Any]:
    """The recipe's keys that the arguments of `distill` stand for."""
    changes: dict[str, Any] = {}
    if isinstance(teacher, str | Path):
        changes["teacher.path"] = str(teacher)
    if isinstance(data, str | Path):
        changes["data.path"] = str(data)
    if guidance_scale is not None:
        changes["student.guidance_scale"] = list(guidance_scale)
    if steps is not None:
        changes["stage_two.ladder"] = ladder_to(steps, load_recipe(recipe).stage_two.ladder)
    return changes


def ladder_to(steps: int, ladder: tuple[int, ...]) -> list[int]:
    """A ladder that ends at `steps`: the given one cut there, or for other numbers 16, 4 and 1 times it.

    Raises:
        InputError: steps is below 1.
    """
    if steps < 1:
        raise InputError(f"steps is {steps}; at least 1 is needed")
    return list(ladder[: ladder.index(steps) + 1]) if steps in ladder[1:] else [16 * steps, 4 * steps, steps]


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML; keys without a value are left out."""
    import tomli_w

    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def first_difference(old: Recipe, new: Recipe) -> str | None:
    """The first dotted key, of those that matter to the weights, in which two recipes differ, with both values."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    for section, values in after.items():
        for name, value in values.items():
            key = f"{section}.{name}"
            if before[section][name] != value and not key.startswith(MAY_CHANGE):
                return f"{key} was {before[section][name]!r} and is {value!r}"
    return None
