"""The card of a model folder: its lines of code run as they stand, and it says what fewstep.json says."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch

import fewstep
import pipelines
from alone import run_alone, untrained
from family_cases import CASES
from fewstep.export.model_card import card, why_not
from fewstep.training.distill import next_student, student_of
from fewstep.training.recipe import load_recipe
from tiny import tiny_student, tiny_teacher
from transformer_pipelines import dit_pipeline

# stock pipelines of these make latents of 16 channels, or pictures of multiples of 16 or 32 pixels, which tiny ones are not
CARDS = [name for name, case in CASES.items() if case.slow and not name.startswith(("Kolors", "LongCat", "Sana", "Wan"))]


def text_student(folder, steps=2):
    """A student of a tiny Stable Diffusion, not trained, its input for w doing something."""
    student = next_student(student_of(load_recipe(None), fewstep.open_model(pipelines.text_pipeline(folder))), steps)
    torch.nn.init.normal_(student.denoiser.network.get_parameter("time_embedding.cond_proj.weight"), std=0.3)
    student.denoiser.network.requires_grad_(False)
    return student


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """name -> model folder: students of class labels and of text, each with its input for w and with a scale baked in."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("cards")
    students = {"classes": tiny_student(2), "text": text_student(root / "pipeline")}
    students |= {f"{name}-baked": student.bake(2.5) for name, student in students.items()}
    return {name: student.save(root / name) for name, student in students.items()}


def codes(folder):
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)


@pytest.mark.filterwarnings("ignore:a prompt of 15 tokens is cut")  # the tiny encoder takes 8
@pytest.mark.parametrize("name", ["classes", "classes-baked", "text", "text-baked"])
def test_the_lines_of_code_run_as_they_stand(folders, name, monkeypatch):
    """In the folder above; the first block in a process that has no fewstep."""
    folder = folders[name]
    alone, ours = codes(folder)
    assert "fewstep" not in alone and "import fewstep" in ours
    shape = "\nassert tuple(images.shape) == (2, 1, 8, 8)" if name.startswith("classes") else "\nassert image.size == (16, 16)"
    run_alone(folder.parent, alone + shape)
    monkeypatch.chdir(folder.parent)
    found = {}
    exec(compile(ours, "card", "exec"), found)
    assert found["image"].size in ((8, 8), (16, 16))


@pytest.mark.slow
@pytest.mark.parametrize("name", CARDS)
def test_the_lines_of_code_run_for_a_baked_student_of_each_text_transformer(tmp_path, name):
    student = untrained(CASES[name].build(tmp_path / "teacher"))[1].bake(2.5)
    alone, _ = codes(student.save(tmp_path / "student"))
    size = student.info.picture_shape[1:] if len(student.info.shape) == 3 else None
    made = "wave.open('sound.wav').getparams()[:4] == (2, 2, 8, 24)" if student.info.sampling_rate else "len(image) > 1"
    run_alone(tmp_path, f"{alone}\nassert {size} in (None, image.size[::-1]), image.size" if size else f"{alone}\nassert {made}")


def test_the_card_says_what_the_model_is(folders):
    text = (folders["classes"] / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: diffusers\n")
    for part in ("| steps | 2 |", "1 to 5, an input of the network", "| condition | 10 classes |", "fewstep export classes OUT"):
        assert part in text
    assert "license:" not in text.split("---")[1]
    baked = (folders["text-baked"] / "README.md").read_text()
    assert "2.5, baked into the weights" in baked and "guidance_scale=1.0" in baked and "StableDiffusionPipeline" in baked
    assert "pipeline_tag: text-to-image" in baked and "fewstep export" not in baked
    assert "guide it a second time" in (folders["text"] / "README.md").read_text()
    student = fewstep.open_model(folders["text"])
    of_hub = card(student.info, student.family, folders["text"], "me/owls")
    assert 'StableDiffusionPipeline.from_pretrained("me/owls")' in of_hub
    assert 'fewstep.open_model(snapshot_download("me/owls"))' in of_hub and "hf download me/owls" in of_hub


def test_quality_history_and_data_are_tables_and_no_path_of_a_machine(tmp_path):
    student = tiny_student(2)
    quality: dict = {"samples": 1000, "rows": [{"steps": 4, "fid": 3.25}]}
    quality |= {"frechet": {"1": 0.2966, "2": 2.0623}, "class_accuracy": {"1": 0.996, "2": 1.0}}
    history = ({"stage": "steps-0002", "updates": 150, "batch_size": 128, "loss": 0.003},)
    data = {"path": "/somewhere/private/owls", "images": 1797, "note": "a | b"}
    info = student.info.model_copy(update={"quality": quality, "history": history, "data": data})
    folder = replace(student, info=info).save(tmp_path / "s")
    text = (folder / "README.md").read_text()
    for row in ("| guidance scale | frechet | class_accuracy |", "| 1 | 0.2966 | 0.996 |", "| 4 | 3.25 |", "| samples | 1000 |"):
        assert row in text
    assert "| steps-0002 | 150 | 128 | 0.003 |" in text and "| path | owls |" in text and "a \\| b" in text
    assert "/somewhere" not in text


def test_where_no_stock_pipeline_draws_the_card_says_why(tmp_path, folders):
    student = fewstep.open_model(folders["classes"])
    for changed, reason in (
        ({"sampler": "stochastic"}, "stochastic sampler"),
        ({"steps": 3}, "3 does not divide 1024"),
        ({"kind": "encoder"}, "carries images to noise"),
    ):
        info = student.info.model_copy(update=changed)
        assert reason in (why_not(info, folders["classes"]) or "")
        assert "With diffusers alone" not in card(info, student.family, folders["classes"], "mine")
    assert why_not(student.info, folders["classes"]) is None
    teacher = tiny_teacher().save(tmp_path / "teacher")
    text = (teacher / "README.md").read_text()
    assert "fewstep distill --teacher teacher" in text and "Not with diffusers alone" not in text


def test_a_family_whose_stock_pipeline_takes_no_scale(tmp_path):
    teacher = fewstep.open_model(dit_pipeline(tmp_path / "pipeline"))
    student = next_student(student_of(load_recipe(None), teacher), 2)
    (ours,) = codes(student.save(tmp_path / "student"))
    assert "no input for the guidance scale" in (tmp_path / "student" / "README.md").read_text()
    alone, _ = codes(student.bake(2.5).save(tmp_path / "baked"))
    assert "DiTPipeline" in alone and "class_labels=[0]" in alone and "guidance_scale=1.0" in alone and "class_labels=[0]" in ours


def test_latents_of_a_vae_of_any_kind_become_pictures_in_the_lines_of_code(tmp_path):
    from diffusers import AutoencoderTiny

    teacher = pipelines.class_pipeline(tmp_path / "pipeline", latent=True)
    shutil.rmtree(teacher / "vae")
    AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
                    latent_channels=4, scaling_factor=0.5).save_pretrained(teacher / "vae")  # fmt: skip
    index = json.loads((teacher / "model_index.json").read_text())
    (teacher / "model_index.json").write_text(json.dumps(index | {"vae": ["diffusers", "AutoencoderTiny"]}))
    student = next_student(student_of(load_recipe(None), fewstep.open_model(teacher)), 2)
    alone, _ = codes(student.save(tmp_path / "student"))
    left: dict = {}
    exec(alone.replace('"student"', f'"{tmp_path / "student"}"').replace("torch.randn(2, ", "torch.zeros(2, "), left)
    ours = student.sample_tensor(torch.tensor([0, 1]), noise=torch.zeros(2, *student.info.shape), guidance_scale=3.0).pictures()
    torch.testing.assert_close(left["images"], (ours / 2 + 0.5).clamp(0, 1), atol=1e-4, rtol=0)


def test_the_teachers_licence_is_carried_to_the_student_and_on(tmp_path):
    """From a stock folder's card and licence files, of the whole and of a part, to its student and to what is made of that."""
    folder = pipelines.text_pipeline(tmp_path / "pipeline")
    (folder / "README.md").write_text(
        "---\nlicense: other\nlicense_name: owl-rail\nlicense_link: LICENSE.md\ntags: [a]\n---\n# Owls\n"
    )
    (folder / "LICENSE.md").write_text("be kind")
    (folder / "text_encoder" / "LICENSE").write_text("MIT")
    student = next_student(student_of(load_recipe(None), fewstep.open_model(folder)), 2)
    saved = student.save(tmp_path / "student")
    baked = fewstep.open_model(saved).bake(2.0).save(tmp_path / "baked")
    for made in (saved, baked):
        text = (made / "README.md").read_text()
        assert "license: other\nlicense_name: owl-rail\nlicense_link: LICENSE.md\n" in text.split("---")[1]
        assert "`owl-rail` (LICENSE.md)" in text and "`text_encoder/LICENSE`" in text
        assert (made / "LICENSE.md").read_text() == "be kind" and (made / "text_encoder" / "LICENSE").read_text() == "MIT"
    (folder / "README.md").write_text("---\nlicense: [unclosed\n---\n")
    assert "Not stated" in card(student.info, student.family, saved, "x")
