"""The playground's pictures and masks: small ones enlarged and brought back, what is painted, and halves."""

import numpy as np
import pytest
from PIL import Image

import fewstep
from fewstep.playground import tasks
from fewstep.playground.models import Models, Opened
from fewstep.playground.pictures import LARGEST, enlarged, mask_of, natural, painted
from tiny import tiny_student


def picture(seed=0, size=8):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8))


@pytest.mark.parametrize(("mode", "size"), [("L", 5), ("RGB", 8), ("RGBA", 7)])
def test_what_is_enlarged_to_be_seen_comes_back_as_it_was(mode, size):
    image = picture(1, size).convert(mode)
    assert enlarged(image).width >= 256
    assert natural(enlarged(image), size).tobytes() == image.tobytes()
    assert natural(picture(2, 16), 8).size == (16, 16)  # not an enlargement: the library resizes it


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1), (300, 10)])
def test_no_picture_is_enlarged_beyond_bounds(size):
    shown = enlarged(Image.new("L", size))
    assert max(shown.size) <= max(LARGEST, *size)
    assert shown.width % size[0] == shown.height % size[1] == 0


def test_what_is_not_painted_comes_back_to_the_bit():
    layer = Image.new("RGBA", (256, 256))
    layer.paste((255, 0, 0, 255), (0, 0, 70, 256))  # two columns of 32, and a sixth of the third
    image, mask = painted({"background": enlarged(picture()).convert("RGB"), "layers": [layer], "composite": None})
    models = Models("mine", {4: Opened("mine", tiny_student(4))})
    answer = tasks.inpaint(models, image, mask, "8", steps=4, guidance_scale=2.5, seed=0)
    before, shown, after = (np.asarray(one) for one in answer.groups[0].images)
    assert (shown[:, :2] == 255).all() and not shown[:, 2:].any()
    assert (before == np.asarray(picture())).all() and (after[:, 2:] == before[:, 2:]).all()
    assert (after[:, :2] != before[:, :2]).any()


def test_a_small_dab_fills_what_it_touches_and_nothing_painted_is_refused():
    dab = Image.new("L", (256, 256))
    dab.paste(255, (100, 40, 103, 43))
    assert mask_of(dab, 8).nonzero().tolist() == [[0, 0, 1, 3]]
    for nothing in (None, Image.new("L", (256, 256))):
        with pytest.raises(fewstep.InputError, match="nothing is painted"):
            mask_of(nothing, 8)
    assert painted(None) == painted({"background": None, "layers": []}) == (None, None)
    halves = [mask_of(name, 8) for name in ("top half", "bottom half")]
    assert (halves[0] ^ halves[1]).all()
