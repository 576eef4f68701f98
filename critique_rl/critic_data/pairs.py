"""Schema of preference pairs, their order, selections of pairs, and pair files."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from critique_rl.markdown import table
from critique_rl.pairwise_rewards import TIE
from critique_rl.types import UserError, child_seed
from critique_rl.vision.images import image_bytes, store_image

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two responses, in the order of the prompt, to one question on one image, with the better one as label.

    Rationales and criteria of the published sets are left out, as in the paper: the critic must find them.

    Attributes:
        id: Same id in either order; order and subsets depend on the id alone.
        source: Name of the data set, e.g. `vlfeedback`; reports count by it.
        image: Path or bytes of an image file, or a `data:` URL; None for a question without an image.
        question: The question, without image markers.
        response_1: Response that is shown first.
        response_2: Response that is shown second.
        label: 1 or 2, the better response; 0 if `tie`.
        swapped: The order differs from the row in the data set.
        tie: Neither response is better.
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
            raise ValueError(f"pair {self.id}: label {self.label!r} contradicts tie={self.tie}")


def swap(pair: PreferencePair) -> PreferencePair:
    """Return the pair in the other order; the label follows the text.

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
    """Order the responses of each pair by a hash of the pair's id: P(label = 1) is 0.5 in each source.

    Other pairs, their order, or a second call change nothing.
    """
    return [p if p.swapped == child_seed(0, "order of responses", p.id) % 2 else swap(p) for p in pairs]


def pairs_of_responses(
    rows: Iterable[Mapping[str, Any]], *, most: int = 1, ties: bool = False
) -> list[PreferencePair]:
    """Pair a right and a wrong response to one problem; the pairs come in balanced order.

    Args:
        rows: Graded responses with id, dataset, question, response, response_correct and an optional image: a
            response pool, or the records of an evaluation with several samples.
        most: Most pairs of one problem; no response is in two pairs.
        ties: Also pair the next two unpaired right (or wrong) responses of a problem, as a tie.

    Raises:
        UserError: No problem gives a pair.
    """
    right, wrong = dict[str, list[Mapping[str, Any]]](), dict[str, list[Mapping[str, Any]]]()
    seen = set[tuple[str, str]]()
    for row in rows:
        if row["response_correct"] is None or (row["id"], row["response"]) in seen:
            continue
        seen.add((row["id"], row["response"]))
        (right if row["response_correct"] else wrong).setdefault(row["id"], []).append(row)

    def pair(name: object, problem: Mapping[str, Any], first: str, second: str, label: int) -> PreferencePair:
        source, image = problem.get("dataset", ""), problem.get("image")
        pair_id = f"{problem['id']}-{name}"
        return PreferencePair(pair_id, source, image, problem["question"], first, second, label, label == TIE)

    pairs = [
        pair(i, good, good["response"], bad["response"], label=1)
        for problem_id, goods in right.items()
        for i, (good, bad) in enumerate(list(zip(goods, wrong.get(problem_id, []), strict=False))[:most])
    ]
    for name, responses, others in (("right", right, wrong), ("wrong", wrong, right)) if ties else ():
        for problem_id, same_grade in responses.items():
            unpaired = same_grade[min(most, len(others.get(problem_id, []))) :]
            if len(unpaired) > 1:
                first, second = (row["response"] for row in unpaired[:2])
                pairs.append(pair(name, same_grade[0], first, second, TIE))
    if not pairs:
        raise UserError(
            f"no pairs: of {len(right)} problems with right and {len(wrong)} with wrong responses none has both; "
            "draw more samples of each, at a higher temperature."
        )
    return balance(pairs)


def subsample_pairs(pairs: Sequence[PreferencePair], limit: int, seed: int) -> list[PreferencePair]:
    """Draw at most `limit` pairs by a hash of seed and id; a larger limit adds pairs and drops none."""
    if limit < 1:
        raise UserError(f"limit must be at least 1, got {limit}.")
    ranked = sorted(pairs, key=lambda p: (child_seed(seed, "pairs", p.id), p.id))
    drawn = {p.id for p in ranked[:limit]}
    return [p for p in pairs if p.id in drawn]


@dataclass(frozen=True, slots=True)
class Drop:
    """A pair left out, or a row without a pair.

    Attributes:
        id: Id of the pair; for a row without a pair its id or place.
        source: Name of the data set.
        reason: A few words, the same for all drops of one kind; reports count by it.
        detail: Values of this drop, with the place of the row if known.
    """

    id: str
    source: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Selection:
    """Pairs that are kept, and those that are not.

    Attributes:
        pairs: Kept pairs, in order.
        drops: Dropped pairs with their reasons.
    """

    pairs: list[PreferencePair]
    drops: list[Drop] = field(default_factory=list)

    def through(self, *filters: Callable[[list[PreferencePair]], Selection]) -> Selection:
        """Apply filters in turn to the kept pairs and collect the drops."""
        selection = self
        for apply in filters:
            after = apply(selection.pairs)
            selection = Selection(after.pairs, [*selection.drops, *after.drops])
        return selection

    def report(self) -> dict[str, dict[str, Any]]:
        """Count pairs and drops.

        Returns:
            By source: `read`, `kept`, `label_1` (share of kept pairs with label 1, without ties; None if all are
            ties) and `dropped` (counts by reason).
        """
        counts: dict[str, dict[str, Any]] = {}
        for source in sorted({p.source for p in self.pairs} | {d.source for d in self.drops}):
            labels = [p.label for p in self.pairs if p.source == source]
            decided = [label for label in labels if label != TIE]
            dropped = Counter(d.reason for d in self.drops if d.source == source)
            counts[source] = {
                "read": len(labels) + dropped.total(),
                "kept": len(labels),
                "label_1": decided.count(1) / len(decided) if decided else None,
                "dropped": dict(sorted(dropped.items())),
            }
        return counts

    def write_report(self, path: str | Path) -> None:
        """Write the counts and all drops as JSON."""
        content = {"sources": self.report(), "drops": [asdict(d) for d in self.drops]}
        Path(path).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")


def markdown_table(selection: Selection) -> str:
    """Write one table row per source: read, kept, share of label 1, and one column for each reason."""
    report = selection.report()
    reasons = sorted({reason for counts in report.values() for reason in counts["dropped"]})
    rows = []
    for source, counts in report.items():
        share = "–" if counts["label_1"] is None else f"{counts['label_1']:.1%}"
        dropped = (counts["dropped"].get(reason, 0) for reason in reasons)
        rows.append([source, counts["read"], counts["kept"], share, *dropped])
    return table(["Source", "Read", "Kept", "Label 1", *reasons], rows, raw=True)


def write_pairs(pairs: Sequence[PreferencePair], path: str | Path) -> None:
    """Write pairs to `.jsonl` or `.parquet`; `load_pairs` reads both.

    JSON lines hold paths; images in bytes become files in the folder `STEM.images` beside the JSON lines. Parquet
    holds the bytes. Paths below the file's folder are relative, so that the folder can move; other paths are
    absolute.

    Raises:
        UserError: The suffix is neither `.jsonl` nor `.parquet`.
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
            folder = path.parent / f"{path.stem}.images"
            for pair in pairs:
                image = str(store_image(pair.image, folder)) if isinstance(pair.image, bytes) else pair.image
                fields = {**asdict(pair), "image": _relative(image, path.parent)}
                file.write(json.dumps(fields, ensure_ascii=False) + "\n")
    os.replace(temporary, path)


def _write_parquet(pairs: Sequence[PreferencePair], path: Path, folder: Path) -> None:
    import pyarrow  # comes with datasets
    import pyarrow.parquet

    text, flag = pyarrow.string(), pyarrow.bool_()
    image = pyarrow.struct({"bytes": pyarrow.binary(), "path": text})  # as in the Image feature of datasets
    types = {"image": image, "label": pyarrow.int64(), "tie": flag, "swapped": flag}
    names = (f.name for f in dataclasses.fields(PreferencePair))
    schema = pyarrow.schema([(name, types.get(name, text)) for name in names])
    rows = [{**asdict(p), "image": _image_cell(_relative(p.image, folder))} for p in pairs]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path)


def _image_cell(image: str | bytes | None) -> dict[str, Any] | None:
    """Return an image as the Image feature of `datasets` stores it."""
    if image is None:
        return None
    return {"bytes": image, "path": None} if isinstance(image, bytes) else {"bytes": None, "path": image}


def _relative(image: str | bytes | None, folder: Path) -> str | bytes | None:
    """Return a path below `folder` relative to it, another path in full, any other image unchanged."""
    if not isinstance(image, str) or not image or image.startswith("data:"):
        return image
    absolute = Path(image).absolute()
    return str(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute)


def to_dataset(pairs: Sequence[PreferencePair]) -> Dataset:
    """Return the pairs as a `datasets.Dataset`; reading its column `image` gives a Pillow image."""
    import datasets

    names = [f.name for f in dataclasses.fields(PreferencePair)]
    columns: dict[str, list[Any]] = {name: [getattr(p, name) for p in pairs] for name in names}
    read = (image_bytes(i) if isinstance(i, str) and i.startswith("data:") else i for i in columns["image"])
    columns["image"] = [_image_cell(image) for image in read]
    kinds = {"label": "int64", "tie": "bool", "swapped": "bool"}
    features: dict[str, Any] = {name: datasets.Value(kinds.get(name, "string")) for name in names}
    features["image"] = datasets.Image()
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))
