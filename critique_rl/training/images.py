"""Images in training: dataset columns, processors, the vision part of a critic, and the record of a rollout."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin
from trl.data_utils import prepare_multimodal_messages

from critique_rl.training.config import CriticConfig
from critique_rl.types import UserError
from critique_rl.vision.images import image_bytes, store_image
from critique_rl.vision.models import is_vision_model, load_processor

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
"""Inputs of a forward pass that trl makes from the images of a batch."""
LONGEST = 100
"""Number of prompts with images whose length is checked before training."""
_VISION_TOWER = re.compile(r"(^|\.)(visual|vision_tower|vision_model)\.")


def with_images(dataset: Dataset, name: str) -> Dataset:
    """Convert the images of a dataset with a column `image` to the form that trl takes.

    A column of `datasets.Image` is decoded in place. Paths and `data:` URLs stay, for the actor; a column `images`
    of pictures is added.

    Raises:
        UserError: Only some rows have an image; trl cannot put both kinds into one batch.
    """
    if "image" not in dataset.column_names:
        return dataset
    pictures = datasets.Image(mode="RGB")
    decoded = isinstance(dataset.features["image"], datasets.Image)
    if decoded:
        missing = dataset.with_format("arrow")["image"][:].is_null().to_pylist()
    else:
        cells = dataset["image"][:]
        missing = [cell is None for cell in cells]
    if any(missing):
        raise UserError(
            f"{name}, row {missing.index(True)}, column 'image': None; either all rows have an image or none: "
            "train on one kind, or give the others a blank one."
        )
    if decoded:
        return dataset.cast_column("image", pictures)
    files = [
        {"bytes": image_bytes(cell), "path": None} if _is_url(cell) else {"bytes": None, "path": cell}
        for cell in cells
    ]
    return dataset.add_column("images", [[file] for file in files], feature=datasets.List(pictures))


def processor_for(model: Any, processor: Any, dataset: Dataset, args: CriticConfig) -> Any:
    """Return the processor of a critic with vision; trl would silently take its tokenizer alone.

    Args:
        model: The critic, loaded or as a path.
        processor: The caller's processor or tokenizer; None loads the processor, and leaves a tokenizer to trl.
        dataset: Training data; a column `image` needs a critic with vision.
        args: The configuration; its pixel limits hold for a processor that is loaded here.

    Raises:
        UserError: The data have images and the critic has no vision, or the processor pads on the right.
    """
    name = str(model) if isinstance(model, str | Path) else str(model.config._name_or_path)
    if processor is None and name and is_vision_model(name):
        processor = load_processor(name, min_pixels=args.min_pixels, max_pixels=args.max_pixels)
    if not isinstance(processor, ProcessorMixin):
        if "image" in dataset.column_names:
            raise UserError(f"train_dataset has images, but {name or 'the critic'} is no model with vision.")
        return processor
    if processor.tokenizer.padding_side != "left":
        raise UserError(
            "the processor's tokenizer pads on the right, which misaligns image positions: set "
            "processor.tokenizer.padding_side = 'left', or load it with critique_rl.vision.load_processor."
        )
    return processor


def prompts_to_check(dataset: Dataset) -> Iterator[tuple[int, Any]]:
    """Yield row number and prompt of the rows whose length is checked.

    Images take long to process: of prompts with images, the `LONGEST` by text alone, with their pictures in place.
    """
    prompts = enumerate(dataset["prompt"])
    column = next((c for c in ("images", "image") if c in dataset.column_names), None)
    if column is None:
        yield from prompts
        return
    by_length = sorted(prompts, key=lambda row: -sum(len(message["content"]) for message in row[1]))
    for row, prompt in by_length[:LONGEST]:
        pictures = dataset[row][column]
        pictures = pictures if isinstance(pictures, list) else [pictures]
        yield row, prepare_multimodal_messages(prompt, images=pictures)


def freeze_vision_tower(model: Any) -> None:
    """Exclude the part of a model that reads images from training.

    Raises:
        UserError: No part of the model has one of the known names.
    """
    parameters = [p for name, p in model.named_parameters() if _VISION_TOWER.search(name)]
    if not parameters:
        raise UserError("freeze_vision_tower: the critic has no part called visual or vision_tower.")
    for parameter in parameters:
        parameter.requires_grad_(False)


def restore_vision_weights(model: Any, checkpoint: str) -> None:
    """Load a checkpoint of full weights into a model with vision; leave any other model as it is.

    Checkpoints have the parameter names of the hub, but `Trainer` reads those of the model: it would restore
    nothing and only warn (transformers issue 43701).
    """
    if isinstance(model, PreTrainedModel) and hasattr(model.config, "vision_config"):
        saved = type(model).from_pretrained(checkpoint, dtype=model.dtype)
        model.load_state_dict(saved.state_dict())


def logged_images(
    images: Sequence[str | Image.Image | None] | None, args: CriticConfig
) -> list[str | None] | None:
    """Name images in the record of a rollout: paths stay, others are stored in files beside the record."""
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
