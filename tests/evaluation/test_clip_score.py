"""The CLIP score by a tiny random CLIP model."""

import shutil

import pytest
import torch
from cheap_features import clip_model
from transformers import CLIPModel

from fewstep.errors import InputError
from fewstep.evaluation.clip_score import DEVIATION, MEAN, ClipScore

PROMPTS = ["a b c", "d", "a fox a fox a fox"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return clip_model(tmp_path_factory.mktemp("clip"))


def test_a_score_is_the_models_own_similarity(clip_folder):
    score = ClipScore.open(clip_folder)
    images = torch.rand(3, 3, 12, 12) * 2 - 1
    found = score(images, PROMPTS)
    pixels = ((images + 1) / 2 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
    tokens = score.tokenizer(PROMPTS, padding=True, truncation=True, max_length=8, return_tensors="pt")
    with torch.no_grad():
        whole = score.model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels)
    known = 100 * whole.logits_per_image.diag().double() / score.model.logit_scale.exp().double()
    torch.testing.assert_close(found, known.detach(), rtol=1e-4, atol=1e-3)
    assert (found.abs() <= 100).all()


def test_scores_do_not_depend_on_the_batch_nor_on_its_longest_prompt(clip_folder):
    score = ClipScore.open(clip_folder)
    images = torch.rand(40, 1, 8, 8) * 4 - 2  # grey, of another size, out of range
    prompts = (PROMPTS * 14)[:40]
    alone = torch.cat([score(images[k : k + 1], prompts[k : k + 1]) for k in range(40)])
    torch.testing.assert_close(score(images, prompts), alone, rtol=1e-4, atol=1e-3)


def test_what_is_no_clip_model_is_refused(clip_folder, tmp_path):
    with pytest.raises(InputError, match="is no CLIP model that transformers opens"):
        ClipScore.open(str(tmp_path))
    with pytest.raises(InputError, match="2 images and 1 prompts"):
        ClipScore.open(clip_folder)(torch.zeros(2, 3, 12, 12), ["fox"])
    whole = CLIPModel.from_pretrained(clip_folder)
    shutil.copytree(clip_folder, tmp_path / "text")
    whole.text_model.save_pretrained(tmp_path / "half", safe_serialization=True)
    shutil.copy(tmp_path / "half" / "model.safetensors", tmp_path / "text" / "model.safetensors")
    with pytest.raises(InputError, match="of its weights are not there"):
        ClipScore.open(str(tmp_path / "text"))
    (tmp_path / "text" / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(InputError, match="is no CLIP model"):
        ClipScore.open(str(tmp_path / "text"))
