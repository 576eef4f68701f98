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

from critique_rl.sharding import is_dtensor, loading_whole
from critique_rl.training.config import CriticConfig
from critique_rl.types import UserError
from critique_rl.vision.images import image_bytes, image_size, open_image, store_image
from critique_rl.vision.models import (
    check_shown,
    inputs_left_out,
    is_vision_model,
    load_processor,
    placeholder_in,
)

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
_COLUMNS = ("images", "image")
_VISION_TOWER = re.compile(r"(^|\.)(visual|vision_tower|vision_model)\.")
_BEHIND_TOWER = re.compile(r"(^|\.)(multi_modal_projector|connector)\.")


def with_images(dataset: Dataset, name: str) -> Dataset:
    """Convert the images of a dataset with a column `image` to the form that trl takes.

    A column of `datasets.Image` is decoded in place. Paths and `data:` URLs stay, for the actor; a column `images`
    of pictures is added. Pictures are opened when a row is asked for.

    Raises:
        ImageError: An image is missing, no image, or cut off; the message has row and file.
        UserError: Only some rows have an image; trl cannot put both kinds into one batch.
    """
    if "image" not in dataset.column_names:
        return dataset
    raw = dataset
    if isinstance(dataset.features["image"], datasets.Image):
        raw = dataset.cast_column("image", datasets.Image(decode=False))
    cells = list(raw["image"])
    if None in cells:
        raise UserError(
            f"{name}, row {cells.index(None)}, column 'image': None; either all rows have an image or none: "
            "train on one kind, or give the others a blank one."
        )
    for row, cell in enumerate(cells):
        _cell_size(cell, _place(name, row))
    if raw is dataset:
        files = [
            {"bytes": image_bytes(cell), "path": _place(name, row)}
            if _is_url(cell)
            else {"bytes": None, "path": cell}
            for row, cell in enumerate(cells)
        ]
        pictures = datasets.List(datasets.Image(decode=False))
        raw = dataset.add_column("images", [[file] for file in files], feature=pictures)
    return raw.with_transform(_with_pictures)


def _cell_size(cell: str | dict[str, Any], name: str) -> tuple[int, int]:
    """Width and height of an image as a dataset holds it: a path, a URL, or what `datasets.Image` stores.

    Raises:
        ImageError: It cannot be read; the message begins with `name`.
    """
    return image_size(cell if isinstance(cell, str) else cell["bytes"] or cell["path"], name)


def _place(name: str, row: int) -> str:
    return f"{name}, row {row}, column 'image'"


def _with_pictures(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Open the images of rows when they are asked for; `datasets` would turn what is transparent black."""
    opened = {column: [_picture(cell) for cell in batch[column]] for column in _COLUMNS if column in batch}
    return {**batch, **opened}


def _picture(cell: Any) -> Any:
    if isinstance(cell, list):
        return [_picture(one) for one in cell]
    return open_image(cell["bytes"] or cell["path"], cell["path"]) if isinstance(cell, dict) else cell


def processor_for(model: Any, processor: Any, dataset: Dataset, args: CriticConfig) -> Any:
    """Return the processor of a critic with vision; trl would silently take its tokenizer alone.

    Args:
        model: The critic, loaded or as a path.
        processor: The caller's processor or tokenizer; None loads the processor, and leaves a tokenizer to trl.
        dataset: Training data; a column `image` needs a critic with vision.
        args: The configuration; its pixel limits hold for a processor that is loaded here.

    Raises:
        UserError: The data have images and the critic has no vision, the processor pads on the right, or trl
            leaves out an input of the model.
    """
    name = str(model) if isinstance(model, str | Path) else str(model.config._name_or_path)
    if processor is None and name and is_vision_model(name):
        processor = load_processor(name, min_pixels=args.min_pixels, max_pixels=args.max_pixels)
    if not isinstance(processor, ProcessorMixin):
        if "image" in dataset.column_names:
            raise UserError(f"train_dataset has images, but {name or 'the critic'} is no model with vision.")
        return processor
    check_inputs(name, processor)
    if processor.tokenizer.padding_side != "left":
        raise UserError(
            "the processor's tokenizer pads on the right, which misaligns image positions: set "
            "processor.tokenizer.padding_side = 'left', or load it with critique_rl.vision.load_processor."
        )
    return processor


def check_inputs(path: str, processor: Any) -> None:
    """Refuse a model that could not take a step.

    Raises:
        UserError: It reads an input that trl's trainers do not pass on; the message names it.
    """
    if path and (left_out := inputs_left_out(path, processor, VISION_INPUTS)):
        raise UserError(
            f"{path}: its forward pass also reads {', '.join(left_out)}, which trl's trainers do not pass on, so "
            "it cannot be trained here; take a model such as Qwen2.5-VL or Qwen3-VL."
        )


def prompts_to_check(dataset: Dataset, processor: Any, name: str) -> Iterator[tuple[int, Any]]:
    """Yield row number and prompt of the rows whose length is checked.

    Images take long to process: of prompts with images, the `LONGEST` by text alone and those with the smallest,
    the largest and the narrowest image, with their pictures in place. The sizes of all others, and all texts, are
    checked here. Messages call the dataset `name`.

    Raises:
        UserError: A text holds a token that stands for an image, or the processor refuses the size of an image.
    """
    column = next((c for c in _COLUMNS if c in dataset.column_names), None)
    raw = dataset.with_format(None)
    prompts = list(enumerate(raw["prompt"]))
    if column is None:
        yield from prompts
        return
    _check_texts(raw, processor, name)
    sizes = _check_sizes(raw, column, processor, name)
    rows = sorted(sizes, key=lambda row: -sum(len(message["content"]) for message in prompts[row][1]))[
        :LONGEST
    ]
    rows += [
        min(sizes, key=lambda row: min(sizes[row])),
        max(sizes, key=lambda row: sizes[row][0] * sizes[row][1]),
        max(sizes, key=lambda row: max(sizes[row]) / min(sizes[row])),
    ]
    for row in dict.fromkeys(rows):
        pictures = dataset[row][column]
        pictures = pictures if isinstance(pictures, list) else [pictures]
        yield row, prepare_multimodal_messages(prompts[row][1], images=pictures)


def _check_texts(raw: Dataset, processor: Any, name: str) -> None:
    """Refuse texts with a token of images or videos."""
    for row, prompt in enumerate(raw["prompt"]):
        for message in prompt:
            token = placeholder_in(message["content"], processor)
            if token is not None:
                values = raw[row].items()
                column = next((c for c, text in values if isinstance(text, str) and token in text), "prompt")
                raise UserError(
                    f"{name}, row {row}, column '{column}': {token} stands for an image and must not be "
                    "part of a text; remove it or write it in other words."
                )


def _check_sizes(raw: Dataset, column: str, processor: Any, name: str) -> dict[int, tuple[int, int]]:
    """Width and height of the image of each row, each accepted by the image processor as far as it says so."""
    sizes: dict[int, tuple[int, int]] = {}
    for row, cell in enumerate(raw[column]):
        one = cell[0] if isinstance(cell, list) else cell
        sizes[row] = _cell_size(one, _place(name, row))
        file = "" if one["bytes"] else f" ({one['path']})"
        check_shown(sizes[row], processor, f"{_place(name, row)}{file}")
    return sizes


def freeze_unused_vision(model: Any, dataset: Dataset, args: CriticConfig) -> None:
    """Exclude from training the part of a model that reads images, if it is asked for or the data have none.

    Without images that part gets no gradient. FSDP2 keeps no state of its optimizer then, and could not resume.

    Raises:
        UserError: `freeze_vision_tower` is set, and no part of the model has one of the known names.
    """
    named = list(model.named_parameters())
    tower = [p for name, p in named if _VISION_TOWER.search(name)]
    if args.freeze_vision_tower and not tower:
        raise UserError("freeze_vision_tower: the critic has no part called visual or vision_tower.")
    blind = not set(_COLUMNS) & set(dataset.column_names)
    behind = [p for name, p in named if blind and tower and _BEHIND_TOWER.search(name)]
    for parameter in [*tower, *behind] if blind or args.freeze_vision_tower else []:
        parameter.requires_grad_(False)


def restore_vision_weights(model: Any, checkpoint: str) -> None:
    """Load a checkpoint of full weights into a model with vision; leave any other model as it is.

    Checkpoints have the parameter names of the hub, but `Trainer` reads those of the model: it would restore
    nothing and only warn (transformers issue 43701). The parts that FSDP keeps have the names of the model, and
    `Trainer` has read them.
    """
    if not (isinstance(model, PreTrainedModel) and hasattr(model.config, "vision_config")):
        return
    if any(map(is_dtensor, model.parameters())):
        return
    with loading_whole():
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
