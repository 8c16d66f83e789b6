"""A user's pictures and masks: whatever the format, the model's size and range; whatever is wrong, one line."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import fewstep
from fewstep.data.images import read_images, read_masks
from fewstep.errors import InputError


@pytest.fixture(scope="module")
def grey():
    return fewstep.open_model("digits").info  # 8x8, one channel


@pytest.fixture(scope="module")
def colour(grey):
    return grey.model_copy(update={"channels": 3, "size": 16})


def gradient(width=40, height=20):
    return Image.fromarray(np.linspace(0, 255, width * height).astype(np.uint8).reshape(height, width))


def header(width, height):
    """A PNG that says its size and holds no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) + chunk(b"IEND", b"")


def test_a_picture_of_the_right_size_comes_in_to_the_bit(tmp_path, grey):
    values = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    pictures = read_images(tmp_path / "a.png", grey)
    assert ((pictures.pixels[0, 0] + 1) * 127.5).round().byte().numpy().tolist() == values.tolist()
    assert (pictures.shapes, pictures.names) == ([(8, 8)], [str(tmp_path / "a.png")])


def test_transparent_parts_are_white_and_rotation_is_applied(tmp_path, colour):
    image, exif = Image.new("RGBA", (16, 16), (0, 0, 0, 255)), Image.Exif()
    image.paste((0, 0, 0, 0), (0, 0, 16, 8))  # transparent above
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=exif)
    x = read_images([tmp_path / "a.png", Image.open(tmp_path / "a.png")], colour).pixels
    assert bool((x[:, :, :8] == -1).all() and (x[:, :, 8:] == 1).all())


def test_an_animation_gives_its_first_frame_and_says_so(tmp_path, colour):
    frames = [Image.new("RGB", (16, 16), c) for c in ("white", "black")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    said = []
    assert bool((read_images(tmp_path / "a.gif", colour, said.append).pixels == 1).all())
    assert said == [f"{tmp_path / 'a.gif'} has several frames; the first is taken"]


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 30)])
def test_the_smallest_and_the_longest(tmp_path, colour, size):
    Image.new("RGB", size, "white").save(tmp_path / "a.png")
    pictures = read_images(tmp_path / "a.png", colour)
    assert bool((pictures.pixels == 1).all()) and pictures.shapes == [size]


@pytest.mark.parametrize("side", [12_000, 20_000])
def test_too_many_pixels_are_refused_before_they_are_read(tmp_path, colour, side):
    (tmp_path / "a.png").write_bytes(header(side, side))
    with pytest.raises(InputError, match=r"a\.png has more than the limit of \d+ pixels; make it smaller first"):
        read_images(tmp_path / "a.png", colour)


def test_what_is_no_picture_is_one_line(tmp_path, colour):
    whole = tmp_path / "whole.jpg"
    Image.effect_noise((64, 64), 50).save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:700])
    (tmp_path / "text.png").write_text("dear diary")
    (tmp_path / "empty.png").touch()
    for name in ("cut.jpg", "text.png", "empty.png", "nothing.png", "."):
        with pytest.raises(InputError, match=r"cannot (read|identify)") as refused:
            read_images([whole, tmp_path / name], colour)
        assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)
    for wrong in (3, None, [b"bytes"]):
        with pytest.raises(InputError, match="give a file"):
            read_images(wrong, colour)
    with pytest.raises(InputError, match="no image"):
        read_images([], colour)


def test_a_tensor_passes_as_it_is(grey):
    x = torch.randn(3, 1, 8, 8)
    assert read_images(x, grey).pixels.equal(x)
    with pytest.raises(InputError, match=r"images are shaped \(3, 1, 8, 7\); this model takes \(n, 1, 8, 8\)"):
        read_images(x[..., :7], grey)
    with pytest.raises(InputError, match="not finite"):
        read_images(x / 0, grey)


def painted(mode, white=(0, 0, 20, 20)):
    """A 40x20 mask with `white` painted on it."""
    if mode == "RGBA":  # a layer: red paint on nothing
        mask = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
        mask.paste((255, 0, 0, 255), white)
        return mask
    mask = Image.new("L", (40, 20))
    mask.paste(255, white)
    return mask.convert("RGBA") if mode == "RGBA, opaque" else mask.convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "RGBA, opaque"])
def test_masks_of_every_mode_are_cropped_and_resized_as_the_picture(colour, mode):
    mask = read_masks(painted(mode), read_images([gradient(40, 20), gradient(80, 40)], colour))  # white left half
    assert mask.shape == (2, 1, 16, 16) and mask.dtype == torch.bool
    assert bool(mask[..., :8].all()) and not bool(mask[..., 8:].any())


def test_a_pixel_that_white_touches_is_filled(grey):
    mask = read_masks(painted("L", (10, 0, 11, 1)), read_images(gradient(), grey))  # one white pixel at the crop's corner
    assert mask.nonzero().tolist() == [[0, 0, 0, 0]]


def test_masks_as_files_are_turned_cut_to_their_first_frame_and_refused_as_pictures_are(tmp_path, colour):
    pictures, exif, said = read_images(gradient(20, 20), colour), Image.Exif(), []
    exif[0x0112] = 3  # upside down
    above = Image.new("L", (20, 20))
    above.paste(255, (0, 0, 20, 10))
    above.save(tmp_path / "turned.png", exif=exif)
    assert not bool(read_masks(tmp_path / "turned.png", pictures)[..., :8, :].any())
    assert bool(read_masks(tmp_path / "turned.png", pictures)[..., 8:, :].all())
    above.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("L", (20, 20), 255)])
    assert bool(read_masks(tmp_path / "moving.gif", pictures, said.append)[..., :8, :].all())
    assert said == [f"{tmp_path / 'moving.gif'} has several frames; the first is taken"]
    (tmp_path / "cut.png").write_bytes((tmp_path / "turned.png").read_bytes()[:60])
    (tmp_path / "huge.png").write_bytes(header(20_000, 20_000))
    for name, message in (("cut.png", "cannot"), ("none.png", "cannot"), ("huge.png", "more than the limit")):
        with pytest.raises(InputError, match=message) as refused:
            read_masks(tmp_path / name, pictures)
        assert name in str(refused.value) and "\n" not in str(refused.value)
    one = read_masks(Image.new("CMYK", (1, 1)), pictures)  # no ink is white
    assert bool(one.all())


def test_wrong_masks_are_one_line(grey):
    pictures = read_images([gradient(), gradient()], grey)
    with pytest.raises(InputError, match="mask 0 is 20x40, image 0 40x20; give a mask of the picture's proportions"):
        read_masks(painted("L").transpose(Image.Transpose.ROTATE_90), pictures)
    with pytest.raises(InputError, match="3 masks for 2 images"):
        read_masks([painted("L")] * 3, pictures)
    with pytest.raises(InputError, match=r"masks are shaped \(2, 8, 8\)"):
        read_masks(torch.ones(2, 8, 8), pictures)
    assert read_masks(torch.ones(1, 1, 8, 8), pictures).shape == (2, 1, 8, 8)
