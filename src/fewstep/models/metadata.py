"""Metadata of a model, the content of `fewstep.json`; and the names of model folders: bundled ones, and the stages of a run."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fewstep.errors import InputError, check_whole_number
from fewstep.files import utf8_path_of, write_atomically


class Info(BaseModel):
    """The content of `fewstep.json` in a model folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    kind: Literal["teacher", "student", "encoder"]
    family: str
    prediction: Literal["v", "x", "eps", "flow"]
    process: dict[str, Any]
    condition: Literal["class", "text"] = "class"
    classes: tuple[str, ...] = ()
    size: Annotated[int, Field(ge=1)]  # of what the network denoises: pixels, or latents
    channels: Annotated[int, Field(ge=1)]
    image_size: int | None = None  # of the pictures that latents stand for; None: the network denoises pixels
    image_channels: int | None = None  # likewise
    sampling_rate: int | None = (
        None  # of sounds, a second: then `image_size` is how many samples they have; None: pictures or videos
    )
    latent_shape: tuple[int, ...] | None = (
        None  # where not (channels, size, size): (channels, [frames,] height, width), of sounds (channels, length); the last is `size`
    )
    steps: int | None = None  # the step count that a student was trained for; None: any
    guidance_scale: tuple[float, float] | None = None  # the range that a student was trained for; None: any
    baked: bool = False  # a student of one scale, that scale in its weights: it takes no w
    negative_prompts: bool = False  # whether a student takes one
    sampler: Literal["deterministic", "stochastic"] = "deterministic"
    guidance: dict[str, Any] = {}  # the rule that the teacher was guided by, see `guidance_rules.rule_settings`; empty: plain
    history: tuple[dict[str, Any], ...] = ()  # the stages that led here
    data: dict[str, Any] = {}
    quality: dict[str, Any] = {}
    stock: dict[str, Any] = {}  # how stock diffusers' samples from the folder compare with ours: `verify.compared`

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example of what the network denoises."""
        return self.latent_shape or (self.channels, self.size, self.size)

    @property
    def picture(self) -> tuple[int, int]:
        """(channels, size) of the pictures that go in and come out."""
        return (self.channels, self.size) if self.image_size is None else (self.image_channels or 3, self.image_size)

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a picture that goes in or comes out; of a video, of one of its frames; of a sound (channels, 1, samples)."""
        channels, width = self.picture
        if self.makes_sounds:
            return channels, 1, width
        return channels, width * self.shape[-2] // self.shape[-1], width

    @property
    def makes_sounds(self) -> bool:
        """Whether what it makes are sounds."""
        return self.sampling_rate is not None

    @property
    def pictured(self) -> bool:
        """Whether what it makes can be shown as pictures."""
        return not self.makes_sounds and self.picture[0] in (1, 3)

    @property
    def takes_w(self) -> bool:
        """Whether the network has an input for the guidance weight w."""
        return self.kind != "teacher" and not self.baked


HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
INFO = "fewstep.json"
STAGE = re.compile(r"(steps|encoder)-\d+|stage-one|teacher")  # the name of a model folder in a run


def bundled(name: str) -> Path:
    """The folder of a bundled model: "digits-teacher"."""
    return Path(__file__).parents[1] / "bundled" / name


def find_folder(path: str | Path) -> Path:
    """The path, or the bundled folder of that name where there is no such path: "digits" is the teacher, "digits-student" its students."""
    folder = utf8_path_of("model", path)
    if folder.exists() or len(folder.parts) != 1:
        return folder
    return next((bundled(name) for name in (f"{path}-teacher", str(path)) if bundled(name).is_dir()), folder)


def is_run(folder: Path) -> bool:
    """Whether the folder is a run, which holds models, and no model itself."""
    return not (folder / INFO).is_file() and ((folder / "recipe.toml").is_file() or any(folder.glob(f"steps-[0-9]*/{INFO}")))


def rungs_in(run: Path, kind: str = "steps") -> dict[int, Path]:
    """The students of a run by their number of steps, or with kind "encoder" its encoders."""
    folders = [file.parent for file in sorted(run.glob(f"{kind}-*/{INFO}"))]
    return {int(number): f for f in folders if (number := f.name.removeprefix(f"{kind}-")).isdecimal()}


def rung_of(run: Path, steps: int | None = None) -> Path:
    """The model folder in a run: the rung for `steps`, else the one of fewest steps, else what stage there is.

    Raises:
        InputError: the run holds no such model.
    """
    if steps is not None:
        check_whole_number("steps", steps, 1)
    if rungs := rungs_in(run):
        steps = min(rungs) if steps is None else steps
        if steps not in rungs:
            raise InputError(f"run {run} has no student for {steps} steps; it has {', '.join(map(str, sorted(rungs)))}")
        return rungs[steps]
    for name in ("stage-one", "teacher"):
        if (run / name / INFO).is_file():
            return run / name
    raise InputError(f"run {run} holds no finished model yet; run the same command again to go on")


def name_of(path: str) -> str:
    """What pages call a model of this path: the last part of it, of a stage of a run both; a hub id or a bundled name as it is."""
    folder = Path(path)
    if not folder.exists():
        return path
    *_, run, name = ("", *folder.resolve().parts)
    return f"{run}/{name}" if STAGE.fullmatch(name) and run else name


def write_info(folder: Path, info: Info) -> None:
    """Write or replace `fewstep.json` in a model folder."""
    text = json.dumps(info.model_dump(mode="json"), indent=1) + "\n"
    write_atomically(folder / INFO, lambda aside: aside.write_text(text, encoding="utf-8"))


def read_info(folder: Path) -> Info:
    """The checked `fewstep.json` of a model folder.

    Raises:
        InputError: it cannot be read, is not JSON, or has other keys.
    """
    try:
        return Info.model_validate_json((folder / INFO).read_bytes())
    except OSError as error:
        raise InputError(f"{folder} has no readable {INFO} ({error}); name a folder that fewstep teach or distill wrote") from None
    except ValidationError as error:
        first = error.errors()[0]
        what = ".".join(map(str, first["loc"])) or "the whole"
        raise InputError(f"{folder / INFO}: {what}: {first['msg']}; it is of another version, or damaged: copy it again") from None
