"""TODO docstring."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import datasets
from datasets import Dataset
from PIL import Image

from critique_rl.training.config import CriticConfig
from critique_rl.types import UserError
from critique_rl.vision.images import image_bytes, store_image

VISION_INPUTS = (
    "pixel_values",
    "image_grid_thw",
    "num_images",
    "pixel_attention_mask",
    "spatial_shapes",
    "num_tiles",
    "image_sizes",
    "token_type_ids",
    "mm_token_type_ids",
    "image_position_ids",
)
"""What trl hands to a forward pass for the images of a batch."""


def with_images(dataset: Dataset, name: str) -> Dataset:
    """The dataset with its images as trl takes them, if it has a column `image`.

    A column of `datasets.Image` stays where it is. Beside one of paths or `data:` URLs, which an actor is shown,
    comes a column `images` of pictures.

    Raises:
        UserError: Some rows alone have an image: trl cannot put both kinds into one batch.
    """
    if "image" not in dataset.column_names:
        return dataset
    pictures = datasets.Image(mode="RGB")
    if isinstance(dataset.features["image"], datasets.Image):
        missing = dataset.with_format("arrow")["image"][:].is_null().to_pylist()
    else:
        cells = dataset["image"][:]
        missing = [cell is None for cell in cells]
    if any(missing):
        raise UserError(
            f"{name}, row {missing.index(True)}, column 'image': None; either all rows have an image or none: "
            "train on one kind, or give the others a blank one."
        )
    if isinstance(dataset.features["image"], datasets.Image):
        return dataset.cast_column("image", pictures)
    files = [
        {"bytes": image_bytes(cell), "path": None} if _is_url(cell) else {"bytes": None, "path": cell}
        for cell in cells
    ]
    return dataset.add_column("images", [[file] for file in files], feature=datasets.List(pictures))


def logged_images(
    images: Sequence[str | Image.Image | None] | None, args: CriticConfig
) -> list[str | None] | None:
    """Images as the record of a rollout names them: a path as it is, others by a file beside the record."""
    if images is None or not args.log_completions:
        return None
    folder = Path(str(args.output_dir)) / "completions" / "images"
    names: list[str | None] = []
    for image in images:
        if image is None or (isinstance(image, str) and not _is_url(image)):
            names.append(image)
            continue
        stored = store_image(image_bytes(image) if isinstance(image, str) else _jpeg(image), folder)
        names.append(f"{folder.name}/{stored.name}")
    return names


def _jpeg(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.convert("RGB").save(content, "JPEG")
    return content.getvalue()


def _is_url(cell: str) -> bool:
    return cell.startswith("data:")
