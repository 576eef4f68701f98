"""Images of preference pairs: a path or the bytes of a file, opened in one way and hashed in two."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from critique_rl.tasks.base import DataError

HASH_SIDE = 16
HASH_MARGIN = 6
"""Grey levels by which neighbours must differ: JPEG noise in an even area would otherwise set bits at random."""

_KINDS = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"RIFF", ".webp"), (b"BM", ".bmp"))


class ImageError(DataError):
    """An image that cannot be read."""


class MissingImageError(ImageError):
    """The file of an image is not there."""


def open_image(image: str | bytes) -> Image.Image:
    """Decode an image completely, upright and in RGB.

    Args:
        image: Path of a file, or its bytes.

    Raises:
        ImageError: It is no image, or one that is cut off; MissingImageError if there is no such file.
    """
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except FileNotFoundError as error:
        raise MissingImageError(f"no such image file: {image!r}") from error
    except Exception as error:  # the boundary: Pillow's decoders raise almost anything
        what = f"{len(image)} bytes" if isinstance(image, bytes) else image
        raise ImageError(f"{what}: not a readable image, {type(error).__name__}: {error}") from error


def pixel_hash(image: Image.Image) -> str:
    """Hash of size and pixels: equal for copies without loss, whatever their file format or metadata."""
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


def difference_hash(image: Image.Image) -> npt.NDArray[np.uint64]:
    """Perceptual hash: where the picture gets clearly lighter or darker, to the right and downwards.

    A difference hash (dHash) with three values instead of two: an even area sets no bit. It survives another
    size, format and compression; not cropping, rotation or mirroring.

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

    Relative to the bits that are set, so that two drawings on white paper are not alike for their paper. A
    picture without any structure is at distance 1 from everything, itself included.
    """
    differ_N = np.bitwise_count(one ^ others_NW).sum(axis=-1, dtype=np.int64)
    either_N = np.bitwise_count(one | others_NW).sum(axis=-1, dtype=np.int64)
    return np.where(either_N > 0, differ_N / np.maximum(either_N, 1), 1.0)


def store_image(content: bytes, folder: Path) -> Path:
    """Write the bytes of an image, unchanged, to a file that is named by their hash."""
    suffix = next((suffix for magic, suffix in _KINDS if content.startswith(magic)), ".img")
    path = folder / f"{hashlib.sha256(content).hexdigest()[:32]}{suffix}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.new")  # a kill leaves no half image behind
        temporary.write_bytes(content)
        os.replace(temporary, path)
    return path
