"""Images: open the path of a file, its bytes or a `data:` URL; hash pixels exactly or perceptually.

In problems, prompts and records an image is a string, so that records stay text: a path, or a URL that contains
the file, the form for servers and browsers.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from critique_rl.types import UserError

HASH_SIDE = 16
HASH_MARGIN = 6
"""Least difference of neighbours, in grey levels: JPEG noise in an even area must not set bits at random."""

_URL = "data:"
_KINDS = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"RIFF", ".webp"), (b"BM", ".bmp"))


class ImageError(UserError):
    """An image cannot be read."""


class MissingImageError(ImageError):
    """The file of an image does not exist."""


def open_image(image: str | bytes) -> Image.Image:
    """Decode an image completely, upright and in RGB.

    Args:
        image: Path of a file, its bytes, or a `data:` URL.

    Raises:
        ImageError: The content is no image, or cut off; MissingImageError if the file does not exist.
    """
    try:
        content = image_bytes(image)
        with Image.open(io.BytesIO(content)) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise almost any class
        source = image if isinstance(image, str) and not image.startswith(_URL) else f"{len(image)} bytes"
        raise ImageError(f"{source}: not a readable image, {type(error).__name__}: {error}") from error


def image_bytes(image: str | bytes) -> bytes:
    """The content of an image file, with the arguments and errors of `open_image`."""
    if isinstance(image, bytes):
        return image
    if not image.startswith(_URL):
        try:
            return Path(image).read_bytes()
        except FileNotFoundError as error:
            raise MissingImageError(f"no such image file: {image!r}") from error
        except OSError as error:
            raise ImageError(f"{image}: cannot be read, {error}") from error
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
