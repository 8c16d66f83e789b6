"""Decoding one picture agrees with arithmetic, whatever its format."""

import io

import numpy as np
import pytest
from PIL import Image

from fewstep.data.decoding import decode
from fewstep.data.formats import PLUGINS, picture_endings


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "I"])
def test_every_mode_becomes_the_channels_asked_for(kind):
    grey = Image.fromarray(np.full((5, 5), 255, np.uint8))
    if kind in ("I;16", "I"):
        image = Image.fromarray(np.full((5, 5), 65535, np.uint16 if kind == "I;16" else np.int32))
    else:
        image = grey.convert("RGB").quantize() if kind == "P" else grey.convert(kind)
    content = encoded(image, "TIFF" if kind in ("CMYK", "I") else "PNG")
    for channels in (1, 3):
        assert decode(content, 5, channels).tolist() == np.full((channels, 5, 5), 255).tolist()
    assert len(decode(content, 5, None)) == (1 if kind in ("L", "1", "LA", "I;16", "I") else 3)


def test_a_transparent_pixel_is_white():
    image = Image.new("RGBA", (3, 3), (200, 0, 0, 0))
    image.putpixel((1, 2), (200, 0, 0, 255))
    array = decode(encoded(image), None, 3)
    assert array[:, 0, 0].tolist() == [255, 255, 255] and array[:, 2, 1].tolist() == [200, 0, 0]
    palette = image.convert("RGB").quantize()
    assert decode(encoded(palette, transparency=palette.getpixel((0, 0))), None, 3)[:, 0, 0].tolist() == [255, 255, 255]


def test_a_cmyk_jpeg_has_its_colours():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    r, g, b = decode(encoded(red, "JPEG", quality=95), None, None)[:, 8, 8].astype(int)
    assert r > 240 and max(g, b) < 15


def test_the_camera_s_rotation_is_applied():
    image, exif = Image.new("L", (4, 6)), Image.Exif()
    image.putpixel((3, 0), 255)
    exif[Image.ExifTags.Base.Orientation] = 6  # to be turned a quarter clockwise
    array = decode(encoded(image, exif=exif), None, None)
    assert array.shape == (1, 4, 6) and array[0, 3, 5] == 255


@pytest.mark.parametrize("shape", [(5, 11), (11, 5), (5, 5)])
def test_where_the_short_side_fits_the_crop_is_exact_and_central(shape):
    values = np.arange(55 if 11 in shape else 25, dtype=np.uint8).reshape(shape)
    (h, w), side = shape, 5
    expected = values[(h - side) // 2 : (h + side) // 2, (w - side) // 2 : (w + side) // 2]
    assert np.array_equal(decode(values, 5, 1)[0], expected)


def test_resizing_keeps_a_ramp_central_and_a_constant_constant_and_does_not_alias():
    ramp = np.tile(np.arange(40, 240, 2, dtype=np.uint8), (50, 1))  # 50 x 100; its central square runs from 90 to 188
    small = decode(ramp, 10, 1)[0].astype(float)
    assert np.allclose(small[:, 1:-1], 90 + 10 * np.arange(1, 9) + 4, atol=1.5)  # five columns become one
    assert decode(np.full((3, 7), 99, np.uint8), 12, 1).tolist() == np.full((1, 12, 12), 99).tolist()
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    assert np.abs(decode(stripes, 8, 1).astype(int) - 127).max() <= 8


@pytest.mark.parametrize(
    ("kind", "largest", "white"),
    [("int32", 255, 255), ("uint16", 255, 255), ("uint16", 256, 4095), ("uint16", 4095, 4095), ("uint16", 4096, 65535), ("int32", 65535, 65535)],
)  # fmt: skip
def test_white_of_deep_pictures_is_that_of_the_least_depth_that_holds_them(kind, largest, white):
    values = np.array([[0, largest // 3], [largest // 2, largest]], kind)
    found = decode(encoded(Image.fromarray(values), "TIFF"), None, None)[0]
    assert np.abs(found - values * 255.0 / white).max() <= 0.5 and found[0, 0] == 0


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
def test_pictures_of_the_extra_heif(kind, tmp_path):
    module = {"HEIF": "pillow_heif", "JXL": "pillow_jxl"}[kind]
    pytest.importorskip(module)
    assert picture_endings() >= {".heic", ".jxl"} & set(PLUGINS[module])
    content = encoded(Image.new("RGB", (16, 16), (200, 40, 90)), kind, quality=95)
    (tmp_path / "a.bin").write_bytes(content)
    for pixels in (content, tmp_path / "a.bin"):
        assert np.abs(decode(pixels, None, None)[:, 8, 8].astype(int) - [200, 40, 90]).max() <= 4
