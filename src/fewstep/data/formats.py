"""The endings of pictures: those of Pillow, and of HEIC and JPEG XL where the plugins of the extra `heif` are installed."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec

# fmt: off
PICTURES = {
    ".apng", ".avif", ".bmp", ".cur", ".dds", ".dib", ".gif", ".icns", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
    ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".ras", ".sgi", ".tga", ".tif", ".tiff", ".webp", ".xbm",
}
# fmt: on
PLUGINS = {"pillow_heif": {".heic", ".heif", ".hif"}, "pillow_jxl": {".jxl"}}  # by module; importing pillow_jxl registers it


@cache
def picture_endings() -> frozenset[str]:
    """The endings that are read, in lower case; registers the plugins that are installed."""
    endings = set(PICTURES)
    for module, more in PLUGINS.items():
        if find_spec(module) is not None:
            plugin = import_module(module)
            if module == "pillow_heif":
                plugin.register_heif_opener()
            endings |= more
    return frozenset(endings)


def missing_plugins(endings: set[str]) -> list[str]:
    """Those of the endings, in order, that a plugin which is not installed would read."""
    return sorted(endings & set.union(*PLUGINS.values()) - picture_endings())
