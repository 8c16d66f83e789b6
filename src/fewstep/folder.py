"""Model folders: a diffusers pipeline folder, safetensors only, plus `fewstep.json`. Opened, checked and saved here."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from fewstep.card import write_card
from fewstep.condition import to
from fewstep.errors import InputError, first_line
from fewstep.families import family_of
from fewstep.guidance import weight_of
from fewstep.info import Info
from fewstep.lora import merged, save_adapters
from fewstep.model import Model
from fewstep.negative_embedding import open_network, settled, stripped, write_layer
from fewstep.prediction import prediction_of
from fewstep.teachers import denoiser_of, local_folder, open_teacher

INFO = "fewstep.json"
AGREEMENT = 1e-3  # largest difference between our samples and stock diffusers' that a save accepts; about 1e-6 is usual


def bundled(name: str) -> Path:
    """The folder of a bundled model: "digits-teacher"."""
    return Path(__file__).parent / "bundled" / name


def find_folder(path: str | Path) -> Path:
    """The path, or the bundled folder of that name where there is no such path: "digits" is the teacher, "digits-student" its students."""
    folder = Path(path)
    if folder.exists() or len(folder.parts) != 1:
        return folder
    return next((bundled(name) for name in (f"{path}-teacher", str(path)) if bundled(name).is_dir()), folder)


def is_run(folder: Path) -> bool:
    """Whether the folder is a run, which holds models, and no model itself."""
    return not (folder / INFO).is_file() and ((folder / "recipe.toml").is_file() or any(folder.glob(f"steps-[0-9]*/{INFO}")))


def open_model(
    path: str | Path,
    device: torch.device | str = "cpu",
    steps: int | None = None,
    network: Any = None,
    *,
    revision: str | None = None,
    variant: str | None = None,
) -> Model:
    """The model of a folder, of a run folder (its rung for `steps`, else its last), or the bundled one of a name ("digits", "digits-student").

    A folder of a stock diffusers pipeline, a hub id (with its `revision` and `variant`) or a single `.safetensors` checkpoint is
    opened as a teacher. `network` is the module, or the `Denoiser`, whose weights the folder of a network of one's own holds.

    Raises:
        InputError: nothing there, a folder of something else, or damaged files.
    """
    folder = find_folder(path)
    folder = local_folder(folder if folder.exists() else path, revision, variant)
    if is_run(folder):
        folder = rung_of(folder, steps)
    if not (folder / INFO).is_file():
        return open_teacher(folder, variant).to(device)
    info = read_info(folder)
    family = family_of(info.family, network, folder)
    try:
        network = open_network(family, folder)
    except InputError:
        raise
    except Exception as error:  # whatever diffusers and safetensors raise of files that are missing, cut short or of another kind
        raise InputError(f"{folder} cannot be opened as {info.family}: {first_line(error)}; copy it again") from error
    return Model(denoiser_of(network, info, family), info, family).to(device)


def rungs_in(run: Path, kind: str = "steps") -> dict[int, Path]:
    """The students of a run by their number of steps, or with kind "encoder" its encoders."""
    folders = [file.parent for file in sorted(run.glob(f"{kind}-*/{INFO}"))]
    return {int(number): f for f in folders if (number := f.name.removeprefix(f"{kind}-")).isdecimal()}


def rung_of(run: Path, steps: int | None = None) -> Path:
    """The model folder in a run: the rung for `steps`, else the one of fewest steps, else what stage there is.

    Raises:
        InputError: the run holds no such model.
    """
    rungs = rungs_in(run)
    if steps is not None and rungs:
        if steps not in rungs:
            raise InputError(f"run {run} has no student for {steps} steps; it has {', '.join(map(str, sorted(rungs)))}")
        return rungs[steps]
    if rungs:
        return rungs[min(rungs)]
    whole = [run / name for name in ("stage-one", "teacher") if (run / name / INFO).is_file()]
    if not whole:
        raise InputError(f"run {run} holds no finished model yet; run the same command again to go on")
    return whole[0]


def read_info(folder: Path) -> Info:
    """The checked `fewstep.json` of a model folder.

    Raises:
        InputError: it is missing, is not JSON, or has other keys.
    """
    try:
        return Info(**json.loads((folder / INFO).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(
            f"{folder} has no {INFO}, so it is not a model folder of fewstep; name one that fewstep teach or distill wrote"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, OSError) as error:
        raise InputError(f"{folder / INFO} cannot be read: {error}; copy it again") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{folder / INFO}: {'.'.join(map(str, first['loc']))}: {first['msg']}; it is of another version, or damaged"
        ) from None


def check_free(folder: Path) -> None:
    """Nothing but a model folder may be replaced.

    Raises:
        InputError: the folder holds something else.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / INFO).is_file())):
        raise InputError(f"{folder} holds something else; name a folder that is new or empty")


def save_model(model: Model, folder: Path) -> Path:
    """Write a model folder aside, sample from it with diffusers alone, compare, and rename it into place.

    Raises:
        InputError: the folder holds something else, or cannot be written.
        RuntimeError: stock diffusers gives other samples than we do (a fault of ours; nothing is left behind).
    """
    from safetensors import SafetensorError

    check_free(folder)
    given, model = model, settled(model)
    network = merged(model.denoiser.network)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        (aside / INFO).write_text(json.dumps(model.info.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
        model.family.write(stripped(network), model.denoiser.process, prediction_of(model.info.prediction), aside)
        write_layer(network, aside)
        if model is given:  # a negative prompt that was baked in is in no adapter
            save_adapters(model, aside)
        write_card(model, aside, folder.name)
        check_agreement(model, aside)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(aside, folder)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {folder}: {error}; free some space and run the same command again") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


@torch.no_grad()
def check_agreement(model: Model, folder: Path) -> float:
    """The largest difference between our samples and those of stock diffusers from the same noise, as the folder stands.

    Raises:
        RuntimeError: it is above `AGREEMENT`.
    """
    from fewstep.samplers import deterministic

    info, known = model.info, model.denoiser.process.train_timesteps
    steps = info.steps if info.steps and info.steps < 4 and known % info.steps == 0 else 4  # stock DDIM is exact where N divides T
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, *info.shape, generator=generator).to(model.denoiser.device)
    condition = to(model.example(2), z.device)
    scales = torch.tensor(info.guidance_scale, device=z.device) if info.guidance_scale else None
    w = weight_of(scales) if info.takes_w and scales is not None else None
    stock = model.family.stock_sample(folder, z, steps, condition, w)
    if stock is None:
        return 0.0
    ours = deterministic(model.denoiser, z, steps, condition, w, model.denoiser.process)
    difference = float((ours - stock).abs().max() / ours.abs().max().clamp(min=1))
    if not difference <= AGREEMENT:
        raise RuntimeError(
            f"stock diffusers' samples from {folder} differ from ours by {difference:.2g} (at most {AGREEMENT:g} is right)"
        )
    return difference
