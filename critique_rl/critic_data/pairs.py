"""The one schema of preference pairs, their order, and files of them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from critique_rl.pairwise_rewards import TIE
from critique_rl.types import UserError, child_seed
from critique_rl.vision.images import image_bytes, store_image

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two responses to one question on one image, and which is better.

    Rationales and criteria of the published sets are not kept, as in the paper: the critic has to find its own.

    Attributes:
        id: Identity of the pair, the same in either order; order and subsets hang on it alone.
        source: Where it comes from, e.g. `vlfeedback`; reports count by it.
        image: Path of the image file, the bytes of one, or a `data:` URL; None of a question without one.
        question: What was asked, without an image marker.
        response_1: The response that is shown first.
        response_2: The response that is shown second.
        label: 1 or 2, the better response; 0 for a tie.
        tie: Whether neither is better.
        swapped: Whether the order is not that of the row it was read from.
    """

    id: str
    source: str
    image: str | bytes | None = field(repr=False)
    question: str
    response_1: str
    response_2: str
    label: int
    tie: bool = False
    swapped: bool = False

    def __post_init__(self) -> None:
        if self.label not in ((TIE,) if self.tie else (1, 2)):
            raise ValueError(f"pair {self.id}: label {self.label!r} does not go with tie={self.tie}")


def swap(pair: PreferencePair) -> PreferencePair:
    """The same pair in the other order; the label follows the text.

    >>> pair = PreferencePair("p", "toy", "x.png", "Which?", "good", "bad", label=1)
    >>> swap(pair).response_2, swap(pair).label, swap(swap(pair)) == pair
    ('good', 2, True)
    """
    return dataclasses.replace(
        pair,
        response_1=pair.response_2,
        response_2=pair.response_1,
        label=TIE if pair.tie else 3 - pair.label,
        swapped=not pair.swapped,
    )


def balance(pairs: Iterable[PreferencePair]) -> list[PreferencePair]:
    """Give each pair the order that a hash of its id says, so that P(label = 1) is 0.5 in each source.

    A function of the id alone: other pairs, their order, or a second call change nothing.
    """
    return [swap(p) if p.swapped != _is_swapped(p.id) else p for p in pairs]


def pairs_of_responses(
    rows: Iterable[Mapping[str, Any]], *, most: int = 1, ties: bool = False
) -> list[PreferencePair]:
    """Pairs of a right and a wrong response to one problem, in balanced order.

    Args:
        rows: Graded responses with id, dataset, question, response, response_correct and, if there is one, image:
            a response pool, or the records of an evaluation with several samples.
        most: Most pairs of one problem; no response is in two.
        ties: Also pair the next two right or two wrong responses that are left of a problem, as a tie.

    Raises:
        UserError: No problem has both.
    """
    right, wrong = dict[str, list[Mapping[str, Any]]](), dict[str, list[Mapping[str, Any]]]()
    seen = set[tuple[str, str]]()
    for row in rows:
        if row["response_correct"] is None or (row["id"], row["response"]) in seen:
            continue
        seen.add((row["id"], row["response"]))
        (right if row["response_correct"] else wrong).setdefault(row["id"], []).append(row)
    pairs = [
        PreferencePair(
            f"{identity}-{i}",
            good.get("dataset", ""),
            good.get("image"),
            good["question"],
            good["response"],
            bad["response"],
            label=1,
        )
        for identity, goods in right.items()
        for i, (good, bad) in enumerate(list(zip(goods, wrong.get(identity, []), strict=False))[:most])
    ]
    for kind, alike, others in (("right", right, wrong), ("wrong", wrong, right)) if ties else ():
        for identity, of in alike.items():
            left = of[min(most, len(others.get(identity, []))) :]
            if len(left) > 1:
                pairs.append(
                    PreferencePair(
                        f"{identity}-{kind}",
                        of[0].get("dataset", ""),
                        of[0].get("image"),
                        of[0]["question"],
                        left[0]["response"],
                        left[1]["response"],
                        label=TIE,
                        tie=True,
                    )
                )
    if not pairs:
        raise UserError(
            f"no pairs: of {len(right)} problems with right and {len(wrong)} with wrong responses none has both; "
            "draw more samples of each, at a higher temperature."
        )
    return balance(pairs)


def _is_swapped(pair_id: str) -> bool:
    return child_seed(0, "order of responses", pair_id) % 2 == 1


def subsample_pairs(pairs: Sequence[PreferencePair], limit: int, seed: int) -> list[PreferencePair]:
    """Draw at most `limit` pairs by a hash of seed and id; a smaller limit gives a part of a larger one."""
    if limit < 1:
        raise UserError(f"limit must be at least 1, got {limit}.")
    ranked = sorted(pairs, key=lambda p: (child_seed(seed, "pairs", p.id), p.id))
    drawn = {p.id for p in ranked[:limit]}
    return [p for p in pairs if p.id in drawn]


@dataclass(frozen=True, slots=True)
class Drop:
    """One pair, or one row that gave none, that was left out.

    Attributes:
        id: Identity of the pair, or the row's own id or place where there is no pair yet.
        source: As in `PreferencePair`.
        reason: Short and the same for all such cases; reports count by it.
        detail: What exactly was found, with the place of the row where it is known.
    """

    id: str
    source: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Selection:
    """Pairs that are kept, and what was left out on the way.

    Attributes:
        pairs: Those that are kept, in order.
        drops: The others, each with the reason.
    """

    pairs: list[PreferencePair]
    drops: list[Drop] = field(default_factory=list)

    def through(self, *filters: Callable[[list[PreferencePair]], Selection]) -> Selection:
        """Apply filters in turn to what is left; what they drop is added up."""
        selection = self
        for keep in filters:
            after = keep(selection.pairs)
            selection = Selection(after.pairs, [*selection.drops, *after.drops])
        return selection

    def report(self) -> dict[str, dict[str, Any]]:
        """Counts by source.

        Returns:
            By source `read`, `kept`, `label_1` (share of the kept pairs without ties whose first response is
            better, None if there are none) and `dropped`, counts by reason.
        """
        found: dict[str, dict[str, Any]] = {}
        for source in sorted({p.source for p in self.pairs} | {d.source for d in self.drops}):
            labels = [p.label for p in self.pairs if p.source == source]
            decided = [label for label in labels if label != TIE]
            dropped = Counter(d.reason for d in self.drops if d.source == source)
            found[source] = {
                "read": len(labels) + dropped.total(),
                "kept": len(labels),
                "label_1": decided.count(1) / len(decided) if decided else None,
                "dropped": dict(sorted(dropped.items())),
            }
        return found

    def write_report(self, path: str | Path) -> None:
        """Write the counts and every drop with its detail as JSON."""
        content = {"sources": self.report(), "drops": [asdict(d) for d in self.drops]}
        Path(path).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")


def markdown_table(selection: Selection) -> str:
    """One row per source: read, kept, share of label 1, and a column for each reason of a drop."""
    report = selection.report()
    reasons = sorted({reason for counts in report.values() for reason in counts["dropped"]})
    header = ["Source", "Read", "Kept", "Label 1", *reasons]
    rows = [
        [
            source,
            str(counts["read"]),
            str(counts["kept"]),
            "–" if counts["label_1"] is None else f"{counts['label_1']:.1%}",
            *(str(counts["dropped"].get(reason, 0)) for reason in reasons),
        ]
        for source, counts in report.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def write_pairs(pairs: Sequence[PreferencePair], path: str | Path) -> None:
    """Write pairs to `.jsonl` or `.parquet`; `load_pairs` reads both.

    JSON lines hold paths: images that are bytes are written to files in the folder `STEM.images` beside it.
    Parquet holds bytes as they are. Paths below the file's folder are written relative to it, so that the
    folder can be moved; others in full.

    Raises:
        UserError: The file is of another kind.
    """
    path = Path(path).absolute()
    if path.suffix not in (".jsonl", ".parquet"):
        raise UserError(f"{path}: unknown kind of file, expected .jsonl or .parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    if path.suffix == ".parquet":
        _write_parquet(pairs, temporary, path.parent)
    else:
        with temporary.open("w", encoding="utf-8") as file:
            for pair in pairs:
                stored = (
                    store_image(pair.image, path.parent / f"{path.stem}.images")
                    if isinstance(pair.image, bytes)
                    else pair.image
                )
                fields = {**asdict(pair), "image": stored and _written_path(stored, path.parent)}
                file.write(json.dumps(fields, ensure_ascii=False) + "\n")
    os.replace(temporary, path)


def _write_parquet(pairs: Sequence[PreferencePair], path: Path, folder: Path) -> None:
    import pyarrow  # comes with datasets
    import pyarrow.parquet

    text, flag = pyarrow.string(), pyarrow.bool_()
    image = pyarrow.struct(
        {"bytes": pyarrow.binary(), "path": text}
    )  # as the Image feature of datasets has it
    types = {"image": image, "label": pyarrow.int64(), "tie": flag, "swapped": flag}
    names = [f.name for f in dataclasses.fields(PreferencePair)]
    schema = pyarrow.schema([(name, types.get(name, text)) for name in names])
    rows = [{**asdict(p), "image": _image_cell(p.image, folder)} for p in pairs]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path)


def _image_cell(image: str | bytes | None, folder: Path) -> dict[str, Any] | None:
    if image is None:
        return None
    if isinstance(image, bytes):
        return {"bytes": image, "path": None}
    return {"bytes": None, "path": _written_path(image, folder)}


def _written_path(image: str | Path, folder: Path) -> str:
    if str(image).startswith("data:"):
        return str(image)
    absolute = Path(image).absolute()
    return str(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute)


def to_dataset(pairs: Sequence[PreferencePair]) -> Dataset:
    """Pairs as a `datasets.Dataset` whose column `image` decodes to a Pillow image when it is read."""
    import datasets

    names = [f.name for f in dataclasses.fields(PreferencePair)]
    columns: dict[str, list[Any]] = {name: [getattr(p, name) for p in pairs] for name in names}
    columns["image"] = [_cell(image) for image in columns["image"]]
    kinds = {"label": "int64", "tie": "bool", "swapped": "bool"}
    features = {name: datasets.Value(kinds.get(name, "string")) for name in names}
    return datasets.Dataset.from_dict(
        columns, features=datasets.Features({**features, "image": datasets.Image()})
    )


def _cell(image: str | bytes | None) -> dict[str, Any] | None:
    """An image as `datasets.Image` stores it: a path as it is, anything else as the bytes of its file."""
    if image is None:
        return None
    if isinstance(image, str) and not image.startswith("data:"):
        return {"bytes": None, "path": image}
    return {"bytes": image_bytes(image), "path": None}
