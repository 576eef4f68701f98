"""Tests of `critique_rl.vision.images`: what a model is shown of odd pictures, and how broken ones are named."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from critique_rl.vision.images import (
    ImageError,
    MissingImageError,
    as_url,
    data_url,
    image_bytes,
    image_size,
    open_image,
    shown_url,
)

WHITE, RED = (255, 255, 255), (255, 0, 0)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def half(mode: str, clear: Any, solid: Any) -> Image.Image:
    """Two pixels: one that is transparent, one that is not."""
    image = Image.new(mode, (2, 1), solid)
    image.putpixel((0, 0), clear)
    return image


def palette() -> Image.Image:
    image = Image.new("P", (2, 1), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((0, 0), 0)
    return image


TRANSPARENT: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "alpha": (encoded(half("RGBA", (0, 0, 0, 0), (255, 0, 0, 255))), RED),
    "alpha in WebP": (encoded(half("RGBA", (0, 0, 0, 0), (255, 0, 0, 255)), "WEBP", lossless=True), RED),
    "grey with alpha": (encoded(half("LA", (0, 0), (80, 255))), (80, 80, 80)),
    "palette": (encoded(palette(), transparency=0), RED),
    "palette with alphas": (encoded(palette(), transparency=bytes([0, 255])), RED),
    "palette in GIF": (encoded(palette(), "GIF", transparency=0), RED),
    "a colour": (encoded(half("RGB", (0, 0, 0), RED), transparency=(0, 0, 0)), RED),
    "a grey": (encoded(half("L", 0, 80), transparency=0), (80, 80, 80)),
    "a grey of 16 bits": (encoded(half("I;16", 7, 80 * 257), transparency=7), (80, 80, 80)),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_is_white(name: str, tmp_path: Path) -> None:
    content, solid = TRANSPARENT[name]
    path = tmp_path / "picture"
    path.write_bytes(content)
    for image in (content, str(path), data_url(content), shown_url(str(path)), shown_url(data_url(content))):
        shown = open_image(image)
        assert (shown.mode, shown.getpixel((0, 0)), shown.getpixel((1, 0))) == ("RGB", WHITE, solid)
    sent = Image.open(io.BytesIO(image_bytes(shown_url(str(path)))))
    assert sent.mode == "RGB" and not sent.has_transparency_data


def test_what_is_half_transparent_is_mixed_with_white() -> None:
    shown = open_image(encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 128))))
    assert shown.getpixel((0, 0)) == (255, 127, 127)


@pytest.mark.parametrize(
    ("mode", "kind"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I;16B", "TIFF"), ("I", "TIFF")]
)
def test_sixteen_bits_of_grey_become_eight(mode: str, kind: str) -> None:
    grey = np.array([[0, 257, 128 * 257, 65535]], dtype=">u2" if mode == "I;16B" else "u2")
    image = Image.fromarray(grey.astype("i4") if mode == "I" else grey)
    assert image.mode == mode
    shown = np.asarray(open_image(encoded(image, kind)))
    assert shown.tolist() == [[[v] * 3 for v in (0, 1, 128, 255)]]


def test_grey_values_without_a_known_range_are_refused() -> None:
    deep = Image.fromarray(np.array([[70_000]], dtype="i4"))
    with pytest.raises(ImageError, match="need more than 16 bits; save it with 8 bits"):
        open_image(encoded(deep, "TIFF"))


def test_an_opaque_picture_is_sent_as_it_is(tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG"):
        (tmp_path / kind).write_bytes(encoded(Image.new("RGB", (30, 20), "red"), kind))
        assert shown_url(str(tmp_path / kind)) == as_url(str(tmp_path / kind))
    assert shown_url("https://example.org/a.png") == "https://example.org/a.png"


@pytest.mark.parametrize("ask", [open_image, image_size, shown_url])
def test_what_is_no_image_is_named(ask: Callable[[str], Any], tmp_path: Path) -> None:
    for name, content in (("empty.png", b""), ("page.jpg", b"<html>not found</html>")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=rf"{name}: not a readable image"):
            ask(str(tmp_path / name))
    with pytest.raises(MissingImageError, match=r"no such image file: .*gone\.png"):
        ask(str(tmp_path / "gone.png"))
    with pytest.raises(ImageError, match="cannot be read"):
        ask(str(tmp_path))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_cut_off_file_is_found_without_decoding_whole_ones(kind: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), kind)
    path = tmp_path / "picture"
    path.write_bytes(content)
    assert image_size(str(path)) == image_size(content) == image_size(data_url(content)) == (80, 60)
    for share in (0.3, 0.6, 0.95):
        path.write_bytes(content[: int(share * len(content))])
        for ask in (image_size, open_image):
            with pytest.raises(ImageError, match="picture: not a readable image"):
                ask(str(path))
        with pytest.raises(ImageError, match="pairs, row 3: not a readable image"):
            image_size(path.read_bytes(), "pairs, row 3")


def test_bytes_behind_a_picture_do_no_harm() -> None:
    content = encoded(Image.new("RGB", (8, 4), "red"), "JPEG") + bytes(200)
    assert image_size(content) == open_image(content).size == (8, 4)
