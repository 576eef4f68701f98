"""Preference pairs from files, folders and the hub."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from critique_rl.critic_data.filters import drop_unreadable
from critique_rl.critic_data.layouts import (
    HUB,
    IMAGE_MARKER,
    LAYOUTS,
    Candidate,
    Layout,
    Options,
    Unused,
    image_cell,
    image_folder,
    layout_of,
)
from critique_rl.critic_data.pairs import Drop, PreferencePair, Selection, balance
from critique_rl.pairwise_rewards import TIE
from critique_rl.tasks.base import DataError
from critique_rl.tasks.rows import SUFFIXES, HubSplit, Row, read_rows
from critique_rl.types import UserError, nearest
from critique_rl.vision.images import store_image

logger = logging.getLogger(__name__)

_IMAGE_FIELDS = ("image", "images", "img_path", "image_path")


def load_pairs(
    origin: str | Path | HubSplit,
    *,
    layout: str | None = None,
    source: str | None = None,
    image_root: str | Path | None = None,
    image_store: str | Path | None = None,
    block: re.Pattern[str] | None = None,
    min_gap: float = 0.6,
    keep_ties: bool = False,
    bad_rows: Literal["raise", "drop"] = "raise",
) -> Selection:
    """Read preference pairs of any layout, in balanced order and with readable images.

    A pair is dropped and counted if it is a tie (unless `keep_ties`), occurs twice, has empty or equal responses
    or a missing or corrupt image, or breaks a rule of the published set (VLFeedback: no rating, small gap).

    Args:
        origin: File (.jsonl, .json, .parquet), folder of files, split on the hub, or a name in `HUB`.
        layout: Name in `LAYOUTS`; None recognises the layout by the fields of the first row.
        source: Source of all pairs; None takes the row's field `source`, or the name of the layout.
        image_root: Folder that relative image paths start from; None takes the folder of the file.
        image_store: Folder for images that rows hold as bytes; None keeps them in memory.
        block: Pattern of question and responses in another judge prompt, see `split_prompt`.
        min_gap: VLFeedback: mean ratings must differ by more than this (paper: 0.6); equal ratings are ties.
        keep_ties: Keep ties, with label 0.
        bad_rows: `raise` refuses a file with rows of another layout, `drop` counts and drops the rows.

    Raises:
        DataError: The file is missing or empty, a row has another layout, two different pairs share an id, or no
            pair is left.
        UserError: The hub cannot be reached, or an argument has an unknown value.
    """
    if bad_rows not in ("raise", "drop"):
        raise UserError(f"bad_rows: found {bad_rows!r}, expected 'raise' or 'drop'")
    if layout is not None and layout not in LAYOUTS:
        raise UserError(f"layout: no layout {layout!r}. {nearest(layout, LAYOUTS)}")
    store = None if image_store is None else Path(image_store)
    options = Options(min_gap=min_gap, block=block)
    reader = _Reader(LAYOUTS[layout] if layout else None, source, image_root, store, options)
    result = _Sorted(keep_ties)
    errors = _read_all(_parts(origin), reader, result)
    if errors and (bad_rows == "raise" or not result.seen):
        raise DataError(_refusal(errors, can_drop=bad_rows == "raise"))
    if not result.pairs:
        counts = Counter(d.reason for d in result.drops)
        reasons = ", ".join(f"{reason} ({n})" for reason, n in counts.most_common())
        raise DataError(f"{origin}: no pair is left; left out: {reasons}")
    selection = Selection(balance(result.pairs), result.drops).through(drop_unreadable)
    if selection.drops:
        logger.warning("%s: kept %d pairs, left out %d", origin, len(selection.pairs), len(selection.drops))
    return selection


def _read_all(parts: list[Path | HubSplit], reader: _Reader, result: _Sorted) -> list[DataError]:
    """Read all rows into `result`; return the errors of rows with another layout."""
    errors: list[DataError] = []
    for part in parts:
        layout = reader.layout
        for row in read_rows(part):
            try:
                layout = layout or layout_of(row)
                items = list(reader.read(row, layout, part))
                for item in items:
                    _check_identity(item, result.seen, row.place)
            except DataError as error:
                errors.append(error)
                source = reader.source or _source_of(row, layout)
                result.drops.append(Drop(row.place, source, "bad row", str(error)))
                continue
            for item in items:
                result.add(item, row.place)
    return errors


@dataclass
class _Sorted:
    """Pairs to keep, and drops with their reasons; `seen` has all pairs by id, ties too."""

    keep_ties: bool
    pairs: list[PreferencePair] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    seen: dict[str, PreferencePair] = field(default_factory=dict)

    def add(self, item: PreferencePair | Drop, place: str) -> None:
        """Keep a pair unless it is a tie or occurs twice; count a drop."""
        if isinstance(item, Drop):
            self.drops.append(item)
        elif item.id in self.seen:
            self.drops.append(_duplicate(item, self.seen[item.id], place))
        else:
            self.seen[item.id] = item
            if item.tie and not self.keep_ties:
                self.drops.append(Drop(item.id, item.source, "tie", place))
            else:
                self.pairs.append(item)


def _refusal(errors: list[DataError], *, can_drop: bool) -> str:
    lines = [str(error) for error in errors[:5]]
    if len(errors) > 5:
        lines.append(f"and {len(errors) - 5} more bad rows")
    lines.append("Correct these rows, or pass bad_rows='drop'." if can_drop else "No row is left.")
    return "\n".join(lines)


def _parts(origin: str | Path | HubSplit) -> list[Path | HubSplit]:
    """Return the files of a folder sorted by name, or the one file or split."""
    if isinstance(origin, HubSplit):
        return [origin]
    if isinstance(origin, str) and origin in HUB and not Path(origin).exists():
        return [HUB[origin]]
    path = Path(origin)
    if not path.is_dir():
        return [path]
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
    if not files:
        raise DataError(f"{path}: no file {', '.join('*' + s for s in SUFFIXES)} in this folder")
    return list(files)


@dataclass(frozen=True)
class _Reader:
    """Settings of one call, and the function that turns a row into pairs."""

    layout: Layout | None
    source: str | None
    root: str | Path | None
    store: Path | None
    options: Options

    def read(self, row: Row, layout: Layout, part: Path | HubSplit) -> Iterator[PreferencePair | Drop]:
        """Yield the pairs and drops of one row, in the row's order."""
        row.layout(*layout.fields)
        source = self.source or _source_of(row, layout)
        row_id = _row_id(row)
        reference = _image_reference(row, row_id)
        for item in layout.read(row, self.options):
            if isinstance(item, Unused):
                yield Drop(row_id or row.place, source, item.reason, item.detail)
                continue
            question = item.question.replace(IMAGE_MARKER, "").strip()
            item = Candidate(question, item.response_1.strip(), item.response_2.strip(), item.label)
            problem = _problem(item)
            if problem is None and reference is None and layout.name != "pairs":
                problem = "no image"  # all published sets have images; our pairs may be text only
            if problem:
                yield Drop(row_id or row.place, source, problem, row.place)
                continue
            yield PreferencePair(
                id=row_id if layout.name == "pairs" and row_id else _pair_id(row_id, item, reference),
                source=source,
                image=self._image(reference, part),
                question=item.question,
                response_1=item.response_1,
                response_2=item.response_2,
                label=item.label,
                tie=item.label == TIE,
                swapped=layout.name == "pairs" and bool(row.fields.get("swapped", False)),
            )

    def _image(self, reference: str | bytes | None, part: Path | HubSplit) -> str | bytes | None:
        if reference is None or (isinstance(reference, str) and reference.startswith("data:")):
            return reference
        if isinstance(reference, bytes):
            return reference if self.store is None else str(store_image(reference, self.store).absolute())
        return str((image_folder(part, self.root) / reference).absolute())


def _source_of(row: Row, layout: Layout | None) -> str:
    """Return the source of a row in one spelling: reports count `RLHF-V` and `rlhf_v` as one."""
    named = row.fields.get("source")
    if isinstance(named, str) and named.strip():
        if layout is not None and layout.name == "pairs":  # our pairs: the spelling is on purpose
            return named
        return re.sub(r"[^a-z0-9]+", "_", named.strip().lower()).strip("_") or named.strip()
    return layout.name if layout is not None else "unknown"


def _row_id(row: Row) -> str | None:
    for name in ("id", "idx"):
        value = row.fields.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
        if value is not None and not isinstance(value, str):
            raise row.error(name, "text or a whole number")
    return None


def _image_reference(row: Row, row_id: str | None) -> str | bytes | None:
    """Return the image as in the row; None without an image, which is a drop and no error."""
    name = next((name for name in _IMAGE_FIELDS if name in row.fields), None)
    if name is None:  # VLFeedback has no image field: the ids name the images
        return f"{row_id}.jpg" if row_id is not None else None
    value = row.fields[name]
    if isinstance(value, list):
        if len(value) > 1:
            raise row.error(name, "one image")
        value = value[0] if value else None
    return image_cell(row, name, value) or None


def _problem(item: Candidate) -> str | None:
    if not item.question:
        return "no question"
    if not item.response_1 or not item.response_2:
        return "empty response"
    return "same responses" if item.response_1 == item.response_2 else None


def _pair_id(row_id: str | None, item: Candidate, image: str | bytes | None) -> str:
    """Return an id by content, the same in either order; row ids are not unique in VLFeedback."""
    image_key = hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else image
    content = (item.question, *sorted((item.response_1, item.response_2)), image_key)
    digest = hashlib.sha256(repr(content).encode()).hexdigest()[:16]
    return f"{row_id}-{digest}" if row_id else digest


def _check_identity(item: PreferencePair | Drop, seen: dict[str, PreferencePair], place: str) -> None:
    """Raise DataError if an id stands for two different pairs: order, subsets and records rely on ids."""
    other = seen.get(item.id) if isinstance(item, PreferencePair) else None
    if isinstance(item, PreferencePair) and other is not None and _content(item) != _content(other):
        raise DataError(f"{place}, field 'id': found {item.id!r}, which another pair has, expected a new id")


def _content(pair: PreferencePair) -> tuple[str, ...]:
    return repr(pair.image), pair.question, *sorted((pair.response_1, pair.response_2))


def _duplicate(pair: PreferencePair, first: PreferencePair, place: str) -> Drop:
    better = [None if p.tie else p.response_1 if p.label == 1 else p.response_2 for p in (first, pair)]
    detail = place if better[0] == better[1] else f"{place}, with another label than the pair that is kept"
    return Drop(pair.id, pair.source, "duplicate", detail)
