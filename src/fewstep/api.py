"""The public face: models with all that one does with them, and the calls that make them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fewstep.data.images import read_images, read_masks
from fewstep.editing import inpainting, sdedit, style_transfer
from fewstep.errors import InputError, shown
from fewstep.export import hub
from fewstep.export.model_card import write_card
from fewstep.files import os_errors
from fewstep.locks import locked
from fewstep.models import model, pretrained
from fewstep.models.denoiser import Denoiser
from fewstep.training import run_folder
from fewstep.training.recipe import Recipe, arguments, checked_changes, load_recipe


class Model(model.Model):
    """A teacher, student or encoder. `fewstep.open_model` makes one of a folder."""

    @os_errors()
    def edit(self, images: Any, labels_or_prompts: Sequence[int | str], *, strength: float, **choices: Any) -> list[Any]:
        """PIL images of pictures (files, PIL images or one tensor) redrawn under labels or prompts, taken in turn; see `sdedit.edit`."""
        x = read_images(images, self.info).pixels
        condition = self.labels_or_prompts(labels_or_prompts, len(x))
        return sdedit.edit(self, x, condition, strength=strength, **choices).images()

    @os_errors()
    def inpaint(self, images: Any, masks: Any, labels_or_prompts: Sequence[int | str], **choices: Any) -> list[Any]:
        """PIL images of pictures filled in where their masks (one for all, or one each) are white; see `inpainting.inpaint`."""
        pictures = read_images(images, self.info)
        holes = read_masks(masks, pictures)
        condition = inpainting.condition_of(self, pictures.pixels, holes, labels_or_prompts)
        return inpainting.inpaint(self, pictures.pixels, holes, condition, **choices).images()

    @os_errors()
    def translate(
        self,
        images: Any,
        source: Sequence[int | str],
        target: Sequence[int | str],
        encoder: "model.Model | None" = None,
        **choices: Any,
    ) -> list[Any]:
        """PIL images of pictures carried to noise by `encoder` (this model without one) and back by this; see `style_transfer.translate`."""
        encoder, x = self if encoder is None else encoder, read_images(images, self.info).pixels
        if not isinstance(encoder, model.Model):
            raise InputError(f"the encoder is {shown(encoder)}; give a model, as fewstep.open_model opens one")
        conditions = encoder.labels_or_prompts(source, len(x)), self.labels_or_prompts(target, len(x))
        return style_transfer.translate(self, encoder, x, *conditions, **choices).images()

    @os_errors()
    def save(self, folder: str | Path) -> Path:
        """Write the model folder with its card, checked by sampling from it with diffusers alone.

        Raises:
            InputError: the folder holds something else, or the disk is full.
        """
        return pretrained.save_model(self, Path(folder), write_card)

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the model folder, saved and checked as `save` does it; the repository's address. Raises InputError where it cannot."""
        hub.check_id(repo_id)
        with TemporaryDirectory(prefix="fewstep-") as aside:
            folder = Path(aside) / "model"
            pretrained.save_model(self, folder, lambda made, folder, _own: write_card(made, folder, repo_id))
            return hub.push_folder(folder, repo_id, private=private, token=token)


save_with_card = partial(pretrained.save_model, write_card=write_card)


def public(opened: model.Model) -> Model:
    """The same model with all that users do with one."""
    return Model(opened.denoiser, opened.info, opened.family)


@os_errors()
def open_model(
    path: str | Path,
    device: torch.device | str = "cpu",
    steps: int | None = None,
    network: Any = None,
    *,
    revision: str | None = None,
    variant: str | None = None,
    lora: str | Path | Sequence[str | Path] | None = None,
    force: bool = False,
    verify: bool = True,
) -> Model:
    """The model of a folder, of a run folder (its rung for `steps`, else its last), or the bundled one of a name ("digits", "digits-student").

    A folder of a stock diffusers pipeline, a hub id (with its `revision` and `variant`) or a single `.safetensors` checkpoint is
    opened as a teacher. `lora` names LoRA files ("style.safetensors", or "style.safetensors:0.8" with a weight) that are merged into
    the model: of diffusers' or kohya's names, made for its base. `network` is the module, or the `Denoiser`, whose weights the folder of a network of one's own holds.
    With `force` a pipeline that looks distilled already, by its scheduler or its name, is a teacher all the same. With `verify` false a folder's files are not compared with their hashes.

    Raises:
        InputError: nothing there, a folder of something else, or damaged files.
    """
    return public(
        pretrained.open_model(
            path, device, steps, network, revision=revision, variant=variant, lora=lora, force=force, verify=verify
        )
    )


@os_errors()
def teach(
    recipe: str | Path | Recipe,
    out: str | Path,
    *,
    changes: dict[str, Any] | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> Model:
    """Train a guided teacher by a recipe into the run folder `out`; its model folder is `out/teacher`. The same call resumes.

    With `teach.start` the model of that folder is trained on, of whatever family: its network alone, text encoder and VAE stay.

    Raises:
        InputError: recipe, data or folder cannot be used, or another command works in the folder.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    with locked(out):
        return public(run_folder.teach(load_recipe(recipe, changes), out, device, quiet, save_with_card))


@os_errors()
def distill(
    teacher: "model.Model | Denoiser | str | Path | None" = None,
    data: Any = None,
    *,
    out: str | Path,
    recipe: str | Path | Recipe | None = None,
    steps: int | None = None,
    guidance_scale: tuple[float, float] | None = None,
    changes: dict[str, Any] | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> Model:
    """Distil a guided teacher into a student of `steps` steps for every guidance scale in the range; returns that student.

    `teacher` is a model, its folder, or a `Denoiser` around a network of one's own; `data` a path or what `open_data` gives; each
    may come from the recipe instead. Every rung's student is a model folder in the run folder `out`. The same call resumes.

    Raises:
        InputError: recipe, teacher, data or folder cannot be used, or do not belong together, or another command works in the folder.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    settings = load_recipe(recipe, arguments(recipe, teacher, data, steps, guidance_scale) | checked_changes(changes))
    with locked(out):
        return public(run_folder.distill(settings, teacher, data, out, device, quiet, save_with_card))
