"""Reading preference pairs from files, folders and the hub."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from critique_rl.critic_data.filters import drop_unreadable
from critique_rl.critic_data.layouts import (
    HUB,
    IMAGE_MARKER,
    LAYOUTS,
    Candidate,
    Layout,
    Options,
    Unused,
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

    Pairs are dropped and counted if they are ties (unless kept), occur twice, have empty or equal responses or a
    missing or corrupt image, or if a set has a rule of its own (VLFeedback: no rating, small gap).

    Args:
        origin: File (.jsonl, .json, .parquet), folder of such files, split on the hub, or a name of `HUB`.
        layout: Name in `LAYOUTS`; None recognises it by the fields of the first row.
        source: Source of all pairs; None takes the row's field `source`, or the name of the layout.
        image_root: Folder that relative image paths start from; None is the folder of the file.
        image_store: Folder to write images to that rows hold as bytes; None keeps them in memory.
        block: Pattern of question and responses in another judge prompt, see `split_prompt`.
        min_gap: VLFeedback: least difference of mean ratings (paper: 0.6); equal ratings are ties.
        keep_ties: Keep ties, with label 0.
        bad_rows: `raise` refuses a file with rows of another layout, `drop` counts and drops the rows.

    Raises:
        DataError: The file is missing or empty, a row has another layout, an id names different pairs, or no pair
            is left.
        UserError: The hub cannot be reached, or an argument has an unknown value.
    """
    if bad_rows not in ("raise", "drop"):
        raise UserError(f"bad_rows: found {bad_rows!r}, expected 'raise' or 'drop'")
    if layout is not None and layout not in LAYOUTS:
        raise UserError(f"layout: no layout {layout!r}. {nearest(layout, LAYOUTS)}")
    reader = _Reader(
        layout=None if layout is None else LAYOUTS[layout],
        source=source,
        root=None if image_root is None else Path(image_root),
        store=None if image_store is None else Path(image_store),
        options=Options(min_gap=min_gap, block=block),
    )
    kept = _Kept(keep_ties)
    bad = _read_all(_parts(origin), reader, kept)
    if bad and (bad_rows == "raise" or not kept.seen):
        raise DataError(_refusal(bad, can_drop=bad_rows == "raise"))
    if not kept.pairs:
        counts = Counter(d.reason for d in kept.drops)
        why = ", ".join(f"{reason} ({n})" for reason, n in counts.most_common())
        raise DataError(f"{origin}: no pair is left; left out: {why}")
    selection = Selection(balance(kept.pairs), kept.drops).through(drop_unreadable)
    if selection.drops:
        logger.warning("%s: kept %d pairs, left out %d", origin, len(selection.pairs), len(selection.drops))
    return selection


def _read_all(parts: list[Path | HubSplit], reader: _Reader, kept: _Kept) -> list[DataError]:
    """Read all rows into `kept`; errors of rows without the layout."""
    bad: list[DataError] = []
    for part in parts:
        layout = reader.layout
        for row in read_rows(part):
            try:
                layout = layout or layout_of(row)
                items = list(reader.read(row, layout, part))
                for item in items:
                    _check_identity(item, kept.seen, row.place)
            except DataError as error:
                bad.append(error)
                kept.drops.append(
                    Drop(row.place, reader.source or _name_of(row, layout), "bad row", str(error))
                )
                continue
            for item in items:
                kept.add(item, row.place)
    return bad


class _Kept:
    """Pairs that are kept, and what is left out, with the reason."""

    def __init__(self, keep_ties: bool) -> None:
        self.keep_ties = keep_ties
        self.pairs: list[PreferencePair] = []
        self.drops: list[Drop] = []
        self.seen: dict[str, PreferencePair] = {}

    def add(self, item: PreferencePair | Drop, place: str) -> None:
        """Take what a row holds: a pair, unless it is a tie or occurs twice, or the reason why there is none."""
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


def _refusal(bad: list[DataError], *, can_drop: bool) -> str:
    shown = "\n".join(str(error) for error in bad[:5])
    more = f"\nand {len(bad) - 5} more bad rows" if len(bad) > 5 else ""
    advice = (
        "\nMend these rows, or pass bad_rows='drop' to leave them out." if can_drop else "\nNo row is left."
    )
    return shown + more + advice


def _parts(origin: str | Path | HubSplit) -> list[Path | HubSplit]:
    """The files of a folder in the order of their names, or the one file or split."""
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


class _Reader:
    """Turns rows into pairs; everything that holds for all rows of one call."""

    def __init__(
        self,
        layout: Layout | None,
        source: str | None,
        root: Path | None,
        store: Path | None,
        options: Options,
    ) -> None:
        self.layout, self.source, self.root, self.store, self.options = layout, source, root, store, options

    def read(self, row: Row, layout: Layout, part: Path | HubSplit) -> Iterator[PreferencePair | Drop]:
        """Pairs of one row, in its order, and what it holds beside them."""
        row.layout(*layout.fields)
        source = self.source or _name_of(row, layout)
        row_id = _row_id(row)
        reference = _image_reference(row, row_id)
        for item in layout.read(row, self.options):
            if isinstance(item, Unused):
                yield Drop(row_id or row.place, source, item.reason, item.detail)
                continue
            item = replace(item, question=item.question.replace(IMAGE_MARKER, "").strip())
            item = replace(item, response_1=item.response_1.strip(), response_2=item.response_2.strip())
            problem = _problem(item)
            if problem is None and reference is None and layout.name != "pairs":
                problem = "no image"  # of the published sets all have one; ours may be of text
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
        root = self.root or (part.parent if isinstance(part, Path) else Path())
        return str((root / reference).absolute())


def _name_of(row: Row, layout: Layout | None) -> str:
    """Source of a row, in one spelling: `RLHF-V` and `rlhf_v` are one in reports."""
    named = row.fields.get("source")
    if isinstance(named, str) and named.strip():
        if layout is not None and layout.name == "pairs":  # ours, and written by us or meant so
            return named
        return re.sub(r"[^a-z0-9]+", "_", named.strip().lower()).strip("_") or named.strip()
    return layout.name if layout is not None else "unknown"


def _row_id(row: Row) -> str | None:
    for field in ("id", "idx"):
        value = row.fields.get(field)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
        if value is not None and not isinstance(value, str):
            raise row.error(field, "text or a whole number")
    return None


def _image_reference(row: Row, row_id: str | None) -> str | bytes | None:
    """The image as the row states it; None if the row has none, which is counted and no error."""
    field = next((f for f in _IMAGE_FIELDS if f in row.fields), None)
    if field is None:  # the file of VLFeedback has no such field, its images are named by the id
        return f"{row_id}.jpg" if row_id is not None else None
    value: Any = row.fields[field]
    if isinstance(value, list):
        if len(value) > 1:
            raise row.error(field, "one image")
        value = value[0] if value else None
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if value is None or value == "" or value == b"":
        return None
    if not isinstance(value, str | bytes):
        raise row.error(field, "a path, or an object with bytes or path")
    return value


def _problem(item: Candidate) -> str | None:
    if not item.question:
        return "no question"
    if not item.response_1 or not item.response_2:
        return "empty response"
    return "same responses" if item.response_1 == item.response_2 else None


def _pair_id(row_id: str | None, item: Candidate, image: str | bytes | None) -> str:
    """Identity by content, the same in either order; ids of rows alone are not unique in VLFeedback."""
    seen = hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else image
    content = (item.question, *sorted((item.response_1, item.response_2)), seen)
    digest = hashlib.sha256(repr(content).encode()).hexdigest()[:16]
    return f"{row_id}-{digest}" if row_id else digest


def _check_identity(item: PreferencePair | Drop, seen: dict[str, PreferencePair], place: str) -> None:
    """Raise if an id stands for two different pairs: order, subsets and records hang on it."""
    other = seen.get(item.id) if isinstance(item, PreferencePair) else None
    if isinstance(item, PreferencePair) and other is not None and _content(item) != _content(other):
        raise DataError(
            f"{place}, field 'id': found {item.id!r}, which another pair has, expected ids of their own"
        )


def _content(pair: PreferencePair) -> tuple[str, ...]:
    return repr(pair.image), pair.question, *sorted((pair.response_1, pair.response_2))


def _duplicate(pair: PreferencePair, first: PreferencePair, place: str) -> Drop:
    better = [None if p.tie else p.response_1 if p.label == 1 else p.response_2 for p in (first, pair)]
    detail = place if better[0] == better[1] else f"{place}, with another label than the pair that is kept"
    return Drop(pair.id, pair.source, "duplicate", detail)
