"""Filters on preference pairs: unreadable images, prompts that are too long, items of a benchmark."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from critique_rl.critic_data.layouts import IMAGE_MARKER, image_cell, image_folder
from critique_rl.critic_data.pairs import Drop, PreferencePair, Selection
from critique_rl.tasks.base import DataError
from critique_rl.tasks.rows import HubSplit, read_rows
from critique_rl.types import Conversation, UserError
from critique_rl.vision.images import (
    ImageError,
    MissingImageError,
    difference_hash,
    hash_distances,
    open_image,
    pixel_hash,
)


def drop_unreadable(pairs: Sequence[PreferencePair]) -> Selection:
    """Decode every image once; leave out pairs with a missing or corrupt image.

    Raises:
        DataError: No pair is left; most likely the images are in another folder.
    """
    problems: dict[str | bytes | None, ImageError | None] = {None: None}
    kept, drops = [], []
    for pair in pairs:
        if pair.image is not None and pair.image not in problems:
            try:
                open_image(pair.image)
                problems[pair.image] = None
            except ImageError as error:
                problems[pair.image] = error
        problem = problems[pair.image]
        if problem is None:
            kept.append(pair)
        else:
            reason = "missing image" if isinstance(problem, MissingImageError) else "corrupt image"
            drops.append(Drop(pair.id, pair.source, reason, str(problem)))
    if drops and not kept:
        raise DataError(
            f"none of the {len(problems) - 1} images can be read, the first: {drops[0].detail}. "
            "Set `image_root` to the folder that relative paths start from."
        )
    return Selection(kept, drops)


def drop_long(
    pairs: Sequence[PreferencePair], length_of: Callable[[PreferencePair], int], max_length: int
) -> Selection:
    """Leave out pairs with a prompt of more than `max_length` tokens (paper's code: 6142).

    The released code applies that limit to the number of *characters* of the text, without the image.

    Args:
        pairs: Pairs with readable images.
        length_of: Counts the tokens of a pair's prompt, see `token_length`. A ValueError or ImageError also drops
            the pair: processors refuse images of extreme shape, which would end a training run.

    Raises:
        DataError: No pair is left.
    """
    kept, drops = [], []
    for pair in pairs:
        try:
            length = length_of(pair)
        except (ValueError, ImageError) as error:
            drops.append(Drop(pair.id, pair.source, "not processed", f"{type(error).__name__}: {error}"))
            continue
        if length > max_length:
            drops.append(Drop(pair.id, pair.source, "too long", f"{length} tokens, at most {max_length}"))
        else:
            kept.append(pair)
    if drops and not kept:
        raise DataError(f"no pair is left of {len(pairs)}, the first: {drops[0].reason}, {drops[0].detail}")
    return Selection(kept, drops)


def token_length(
    processor: Any, prompt_of: Callable[[PreferencePair], Conversation]
) -> Callable[[PreferencePair], int]:
    """Return a function that counts the tokens of a pair's prompt as in the trainer, image tokens included.

    Args:
        processor: Processor of a vision-language model; a bare tokenizer counts the text only.
        prompt_of: Prompt of a pair without the image; the image goes before the first user turn, as in trl.
    """
    sees_images = hasattr(processor, "image_processor")

    def length_of(pair: PreferencePair) -> int:
        chat: Any = prompt_of(pair)
        if sees_images and pair.image is not None:
            from trl.data_utils import prepare_multimodal_messages  # slow to import, and text needs none

            chat = prepare_multimodal_messages(chat, images=[open_image(pair.image)])
        tokens = processor.apply_chat_template(
            [chat], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return len(tokens["input_ids"][0])

    return length_of


@dataclass(frozen=True)
class BenchmarkItem:
    """One item of a reward benchmark.

    Attributes:
        benchmark: Name of the benchmark.
        id: Id of the row, else its place.
        image: Path or bytes; None without an image, as in the video items of MM-RLHF-RewardBench.
        question: The question.
        responses: The responses that are compared.
    """

    benchmark: str
    id: str
    image: str | bytes | None = field(repr=False)
    question: str
    responses: tuple[str, ...]


_BENCHMARK_LAYOUTS = (
    ("query", "response"),  # VL-RewardBench
    ("prompt", "chosen", "rejected"),  # MM-RLHF-RewardBench
    ("question", "chosen", "rejected"),
    ("question", "response_1", "response_2"),  # our pairs
)


def load_benchmark(
    origin: str | Path | HubSplit, *, name: str, image_root: str | Path | None = None
) -> list[BenchmarkItem]:
    """Read the items of a reward benchmark for `decontaminate`, without labels.

    Args:
        origin: File or split on the hub, in the layout of VL-RewardBench (query, response, image), of
            MM-RLHF-RewardBench (prompt, chosen, rejected, image or video) or of our pairs.
        name: Name in the report.
        image_root: Folder that relative image paths start from; None takes the folder of the file.

    Raises:
        DataError: No such file, no rows, or a row of another layout.
    """
    if isinstance(origin, str):
        origin = Path(origin)
    root = image_folder(origin, image_root)
    items = []
    for row in read_rows(origin):
        question, *responses = row.layout(*_BENCHMARK_LAYOUTS)
        texts: list[str] = []
        for field_name in responses:
            value = row.fields[field_name]
            values = value if isinstance(value, list) else [value]
            if not all(isinstance(text, str) for text in values):
                raise row.error(field_name, "text, or a list of texts")
            texts += values
        row_id = str(row.fields.get("id") or row.place)
        image = image_cell(row, "image", row.fields.get("image"))
        if isinstance(image, str):
            image = str((root / image).absolute())
        items.append(BenchmarkItem(name, row_id, image, row.text(question, may_be_empty=True), tuple(texts)))
    return items


def decontaminate(
    pairs: Sequence[PreferencePair],
    items: Sequence[BenchmarkItem],
    *,
    max_distance: float = 0.25,
    share: float = 0.8,
    run: int = 8,
    min_question_words: int = 16,
) -> Selection:
    """Leave out the pairs that a benchmark holds too, for the first of these reasons:

    * `benchmark image`: the image has the pixels of a benchmark image,
    * `benchmark image, near`: the perceptual hashes of the two images are closer than `max_distance`,
    * `benchmark text`: a response, or a long question, shares at least `share` of its runs of `run` words with
      that of a benchmark item. Shorter texts do not count: many sets ask to describe the image.

    A cropped or mirrored image with other texts stays in.

    Args:
        pairs: Pairs with readable images.
        items: Benchmark items, see `load_benchmark`.
        max_distance: Jaccard distance (0 to 1) of difference hashes below which two images are one. Measured on
            generated images, with copies in JPEG of quality 30 to 90 at a third to twice the size. Copies: up to
            0.10 for soft and noisy images, 0.19 for several shapes on white, 0.29 for a single shape. Different
            images: from 0.55, 0.73, 0.32.
        share: Common runs, as a share (above 0 to 1) of the runs of the shorter text.
        run: Words in a run, at least 1; shorter responses do not count.
        min_question_words: Least words of a question that counts.

    Raises:
        DataError: An image of the benchmark cannot be read; the check would be incomplete.
        UserError: `max_distance`, `share` or `run` is out of its range.
    """
    if not 0 <= max_distance <= 1 or not 0 < share <= 1 or run < 1:
        raise UserError(f"max_distance {max_distance}, share {share} or run {run} is out of its range")
    images = _ImageIndex(items, max_distance)
    questions = _TextIndex(((i, i.question) for i in items), share, run, max(min_question_words, run))
    responses = _TextIndex(((i, text) for i in items for text in i.responses), share, run, run)
    verdicts: dict[str | bytes | None, tuple[str, str] | None] = {None: None}
    kept, drops = [], []
    for pair in pairs:
        if pair.image is not None and pair.image not in verdicts:
            verdicts[pair.image] = images.match(open_image(pair.image))
        match = verdicts[pair.image]
        for name in ("question", "response_1", "response_2"):
            index = questions if name == "question" else responses
            if not match and (shared := index.match(getattr(pair, name))):
                match = ("benchmark text", f"{shared[0]}: {name} has {shared[1]:.0%} of its runs")
        if match:
            drops.append(Drop(pair.id, pair.source, *match))
        else:
            kept.append(pair)
    return Selection(kept, drops)


def _label(item: BenchmarkItem) -> str:
    return f"{item.benchmark}, item {item.id}"


class _ImageIndex:
    """Benchmark images by pixels and by looks."""

    def __init__(self, items: Sequence[BenchmarkItem], max_distance: float) -> None:
        self.max_distance = max_distance
        self.by_pixels: dict[str, str] = {}
        self.labels: list[str] = []
        hashes = []
        for item in items:
            if item.image is None:
                continue
            try:
                image = open_image(item.image)
            except ImageError as error:
                raise DataError(f"{_label(item)}: {error}") from error
            self.by_pixels.setdefault(pixel_hash(image), _label(item))
            self.labels.append(_label(item))
            hashes.append(difference_hash(image))
        self.hashes_NW = np.stack(hashes) if hashes else None

    def match(self, image: Image.Image) -> tuple[str, str] | None:
        """Return reason and detail for an image of the benchmark, None for another."""
        same = self.by_pixels.get(pixel_hash(image))
        if same is not None:
            return "benchmark image", same
        if self.hashes_NW is None:
            return None
        distances_N = hash_distances(difference_hash(image), self.hashes_NW)
        nearest = int(distances_N.argmin())
        if distances_N[nearest] >= self.max_distance:
            return None
        return "benchmark image, near", f"{self.labels[nearest]}: distance {distances_N[nearest]:.2f}"


class _TextIndex:
    """Benchmark texts by their runs of words."""

    def __init__(
        self, texts: Iterable[tuple[BenchmarkItem, str]], share: float, run: int, min_words: int
    ) -> None:
        self.share, self.run, self.min_words = share, run, min_words
        self.labels: list[str] = []
        self.sizes: list[int] = []
        self.holders: dict[str, list[int]] = defaultdict(list)
        for item, text in texts:
            runs = self._runs(text)
            if runs:
                for words in runs:
                    self.holders[words].append(len(self.sizes))
                self.sizes.append(len(runs))
                self.labels.append(_label(item))

    def _runs(self, text: str) -> set[str]:
        words = normalised_words(text)
        if len(words) < self.min_words:
            return set()
        return {" ".join(words[i : i + self.run]) for i in range(len(words) - self.run + 1)}

    def match(self, text: str) -> tuple[str, float] | None:
        """Return the item with the largest share of common runs and that share; None below `share`."""
        runs = self._runs(text)
        common = Counter(holder for words in runs for holder in self.holders.get(words, ()))
        shares = {holder: n / min(len(runs), self.sizes[holder]) for holder, n in common.items()}
        if not shares:
            return None
        best = max(shares, key=lambda holder: (shares[holder], -holder))
        return (self.labels[best], shares[best]) if shares[best] >= self.share else None


def normalised_words(text: str) -> list[str]:
    """Return the words in lower case, without punctuation and image markers.

    >>> normalised_words("<image> What is it?\\n\\nA CAT!")
    ['what', 'is', 'it', 'a', 'cat']
    """
    text = unicodedata.normalize("NFKC", text).replace(IMAGE_MARKER, " ")
    return re.findall(r"\w+", text.lower())
