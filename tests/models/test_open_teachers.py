"""Where teachers come from: folders of diffusers, hub ids, single files; what is no teacher is refused in one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import fewstep
import pipelines
from fewstep.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return pipelines.text_pipeline(tmp_path_factory.mktemp("teachers") / "pipeline")


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def change(file, **keys):
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


@pytest.mark.parametrize(
    ("file", "size", "message"),  # what is refused of each family: test_refused_teachers
    [
        ("unet/diffusion_pytorch_model.safetensors", 500, "damaged or missing"),
        ("model_index.json", 1, "no readable model_index.json"),
        ("model_index.json", None, "not a model folder"),
    ],
)
def test_what_is_cut_short_or_missing_is_refused_in_one_line(copy, file, size, message):
    content = (copy / file).read_bytes()[:size]
    (copy / file).unlink()
    if size is not None:
        (copy / file).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        fewstep.open_model(copy)
    assert "\n" not in str(error.value)


def test_a_hub_id_is_downloaded_as_diffusers_does(folder, monkeypatch):
    asked = []

    def download(name, **settings):
        asked.append((name, settings))
        if name == "someone/nothing":
            raise OSError("no pipeline there\nand more")
        return str(folder)

    monkeypatch.setattr("diffusers.DiffusionPipeline.download", download)
    model = fewstep.open_model("someone/something", revision="main", variant=None)
    assert model.info.family == "stable_diffusion"
    assert asked == [("someone/something", {"revision": "main", "variant": None, "use_safetensors": True})]
    with pytest.raises(InputError, match=r"someone/nothing.*no pipeline there; check id"):
        fewstep.open_model("someone/nothing")


def test_a_single_file_is_converted_by_diffusers(folder, tmp_path, monkeypatch):
    import diffusers

    file, made = tmp_path / "mine.safetensors", []
    save_file({"a": torch.zeros(1)}, file)

    def convert(path, **settings):
        made.append(path)
        return diffusers.StableDiffusionPipeline.from_pretrained(folder)

    monkeypatch.setattr("diffusers.loaders.single_file_utils.infer_diffusers_model_type", lambda checkpoint: "v1")
    monkeypatch.setattr("diffusers.StableDiffusionPipeline.from_single_file", convert)
    first, second = (fewstep.open_model(file) for _ in range(2))
    assert made == [str(file)]  # converted once
    assert first.family.folder == second.family.folder
    assert (first.family.folder / "vae").is_dir()


def test_files_that_are_no_checkpoint(tmp_path):
    file, old = tmp_path / "mine.safetensors", tmp_path / "old.ckpt"
    file.write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be opened as a checkpoint"):
        fewstep.open_model(file)
    save_file({"double_blocks.0.img_attn.norm.key_norm.scale": torch.zeros(1)}, file)
    with pytest.raises(InputError, match="checkpoint"):
        fewstep.open_model(file)
    old.write_bytes(b"")
    with pytest.raises(InputError, match=rf"pickled.*from_single_file\('{old}'"):
        fewstep.open_model(old)


def test_a_class_conditional_folder_of_pixels(tmp_path):
    folder = pipelines.class_pipeline(tmp_path / "pixels", latent=False)
    change(folder / "model_index.json", id2label={"0": "cat", "1": "dog"})
    model = fewstep.open_model(folder)
    assert (model.info.classes, model.info.image_size, model.info.condition) == (("cat", "dog", "2"), None, "class")
    x = torch.zeros(2, 4, 8, 8)
    assert model.family.to_latents(x) is x
    assert model.sample_tensor(model.labels(["dog"]), steps=2, guidance_scale=2.0).evaluations == 4
    change(folder / "unet" / "config.json", num_class_embeds=None)
    with pytest.raises(InputError, match="takes no class"):
        fewstep.open_model(folder)


@pytest.mark.slow
def test_the_example_adds_a_family_from_outside(tmp_path):
    example = Path(__file__).parents[2] / "examples" / "own_family.py"
    assert len(example.read_text().splitlines()) <= 60
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, example, tmp_path], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "three.png").is_file()
