"""Images: open the path of a file, its bytes or a `data:` URL; hash pixels exactly or perceptually.

In problems, prompts and records an image is a string, so that records stay text: a path, or a URL that contains
the file, the form for servers and browsers.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from critique_rl.types import UserError

HASH_SIDE = 16
HASH_MARGIN = 6
"""Least difference of neighbours, in grey levels: JPEG noise in an even area must not set bits at random."""

_URL = "data:"
_ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND", b"GIF8": b";"}
_TAIL = 64
_KINDS = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"RIFF", ".webp"), (b"BM", ".bmp"))


class ImageError(UserError):
    """An image cannot be read."""


class MissingImageError(ImageError):
    """The file of an image does not exist."""


def open_image(image: str | bytes, name: str | None = None) -> Image.Image:
    """Decode an image completely, upright and in RGB: what is transparent is white, 16 bits of grey become 8.

    Args:
        image: Path of a file, its bytes, or a `data:` URL.
        name: What messages call it; by default its path, or its size.

    Raises:
        ImageError: The content is no image, or cut off; MissingImageError if the file does not exist.
    """
    with _opened(image, name) as opened:
        return _in_rgb(ImageOps.exif_transpose(opened))


def image_size(image: str | bytes, name: str | None = None) -> tuple[int, int]:
    """Width and height of an image as stored, from its header; arguments and errors as of `open_image`.

    The end of a JPEG, PNG or GIF shows whether it is whole. Where it does not, and in other formats, the image is
    decoded.
    """
    with _opened(image, name) as opened:
        size = opened.size
        if not _ends_well(opened.fp):  # type: ignore[attr-defined]  # `Image.open` sets it
            opened.load()
        return size


@contextmanager
def _opened(image: str | bytes, name: str | None) -> Iterator[Image.Image]:
    """The image with its header read; every error of Pillow becomes an `ImageError` with a name."""
    try:
        is_path = isinstance(image, str) and not image.startswith(_URL)
        with (
            _file(str(image)) if is_path else io.BytesIO(image_bytes(image)) as file,
            Image.open(file) as opened,
        ):
            yield opened
    except ImageError as error:
        raise error if name is None or name in str(error) else type(error)(f"{name}: {error}") from error
    except Exception as error:  # Pillow's decoders raise almost any class
        source = image if isinstance(image, str) and not image.startswith(_URL) else f"{len(image)} bytes"
        raise ImageError(
            f"{name or source}: not a readable image, {type(error).__name__}: {error}"
        ) from error


def _file(path: str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except FileNotFoundError as error:
        raise MissingImageError(f"no such image file: {path!r}") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be read, {error}") from error


def _ends_well(file: Any) -> bool:
    """Whether the last bytes of a file are those of a whole image, as far as the format shows it."""
    place = file.tell()
    file.seek(0)
    start = file.read(4)
    file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
    tail = file.read()
    file.seek(place)
    return any(start.startswith(magic) and end in tail for magic, end in _ENDS.items())


def _in_rgb(image: Image.Image) -> Image.Image:
    """Eight bits a colour, on white."""
    key = image.info.get("transparency")
    if image.mode.startswith("I"):  # Pillow would cut all values above 255
        grey_YX = np.asarray(image, dtype=np.int64)
        if grey_YX.size and not 0 <= grey_YX.min() <= grey_YX.max() < 1 << 16:
            raise ValueError("its grey values need more than 16 bits; save it with 8 bits")
        alpha_YX = np.where(grey_YX == key, 0, 255)
        pixels_YX2 = np.stack([(grey_YX * 255 + 32767) // 65535, alpha_YX], axis=-1).astype(np.uint8)
        image = Image.fromarray(pixels_YX2, "LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    # Straight to RGB, what is transparent would have the colour that is stored below: black, most often.
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def image_bytes(image: str | bytes) -> bytes:
    """The content of an image file, with the arguments and errors of `open_image`."""
    if isinstance(image, bytes):
        return image
    if not image.startswith(_URL):
        with _file(image) as file:
            return file.read()
    head, comma, body = image.partition(",")
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError("expected data:image/KIND;base64,CONTENT")
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise ImageError(f"{image[:40]}...: not a readable data URL, {error}") from error


def data_url(content: bytes) -> str:
    """A URL that contains the bytes of an image file.

    >>> data_url(b"GIF89a")
    'data:image/gif;base64,R0lGODlh'
    """
    kind = _suffix(content).removeprefix(".").replace("jpg", "jpeg").replace("img", "octet-stream")
    return f"{_URL}image/{kind};base64,{base64.b64encode(content).decode()}"


def as_url(image: str) -> str:
    """URL of an image: a URL stays, a file becomes a `data:` URL.

    Raises:
        MissingImageError: The file does not exist.
    """
    return image if image.startswith((_URL, "http://", "https://")) else data_url(image_bytes(image))


def shown_url(image: str) -> str:
    """URL of an image for a model on a server, which is to see what `open_image` shows.

    A picture that is opaque and has 8 bits stays as it is; any other becomes a PNG.

    Raises:
        ImageError: The content is no image; MissingImageError if the file does not exist.
    """
    if image.startswith(("http://", "https://")):
        return image
    with _opened(image, None) as opened:
        plain = not opened.has_transparency_data and not opened.mode.startswith("I")
    if plain:
        return as_url(image)
    content = io.BytesIO()
    open_image(image).save(content, "PNG")
    return data_url(content.getvalue())


def pixel_hash(image: Image.Image) -> str:
    """Hash of size and pixels: equal for lossless copies in any file format, with any metadata."""
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


def difference_hash(image: Image.Image) -> npt.NDArray[np.uint64]:
    """Perceptual hash: places where the picture gets clearly lighter or darker, to the right and downwards.

    A difference hash (dHash) with three values instead of two: an even area sets no bit. Size, format and
    compression do not change it much; cropping, rotation and mirroring do.

    Returns:
        4 * 16 * 16 bits as 16 numbers of 64 bits.
    """
    n = HASH_SIDE
    small = image.convert("L").resize((n + 1, n + 1), Image.Resampling.BOX)
    grey_YX = np.asarray(small, dtype=np.int16)
    steps = (grey_YX[:n, 1:] - grey_YX[:n, :n], grey_YX[1:, :n] - grey_YX[:n, :n])
    bits = [sign * step > HASH_MARGIN for step in steps for sign in (1, -1)]
    return np.packbits(np.stack(bits)).view(np.uint64)


def hash_distances(one: npt.NDArray[np.uint64], others_NW: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Jaccard distances of a perceptual hash to others: 0 for the same bits, 1 for none in common.

    Only set bits count: a common white background does not make two drawings alike. A picture without structure
    has distance 1 to all pictures, itself included.
    """
    differ_N = np.bitwise_count(one ^ others_NW).sum(axis=-1, dtype=np.int64)
    either_N = np.bitwise_count(one | others_NW).sum(axis=-1, dtype=np.int64)
    return np.where(either_N > 0, differ_N / np.maximum(either_N, 1), 1.0)


def store_image(content: bytes, folder: Path) -> Path:
    """Write the bytes of an image, unchanged, to a file with their hash as its name."""
    path = folder / f"{hashlib.sha256(content).hexdigest()[:32]}{_suffix(content)}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.new")  # a kill leaves no half image behind
        temporary.write_bytes(content)
        os.replace(temporary, path)
    return path


def _suffix(content: bytes) -> str:
    return next((suffix for magic, suffix in _KINDS if content.startswith(magic)), ".img")
