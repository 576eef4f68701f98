"""Rows of a data set, from a local file or the hub; each row stores its place for error messages."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critique_rl.grading.prepare import MISSING
from critique_rl.tasks.base import DataError
from critique_rl.types import UserError

SUFFIXES = (".jsonl", ".json", ".parquet")

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 80


@dataclass(frozen=True)
class HubSplit:
    """One published split.

    Attributes:
        repo: Repository on the hub.
        configs: Configs of the repository to read, in this order.
        split: Name of the split.
    """

    repo: str
    configs: tuple[str, ...]
    split: str

    def __str__(self) -> str:
        return f"{self.repo} ({self.split})"


@dataclass(frozen=True)
class Row:
    """One row of a data set.

    Attributes:
        fields: Values by field name.
        place: Place of the row for error messages, e.g. `train.jsonl, line 3`.
    """

    fields: Mapping[str, Any]
    place: str

    def error(self, field: str, expected: str) -> DataError:
        """Build the error for a field with an unexpected value."""
        value = _brief.repr(self.fields[field])
        return DataError(f"{self.place}, field {field!r}: found {value}, expected {expected}")

    def layout(self, *layouts: tuple[str, ...]) -> tuple[str, ...]:
        """Return the first layout that the row has all fields of; raise `DataError` if there is none."""
        for layout in layouts:
            if all(field in self.fields for field in layout):
                return layout
        closest = max(layouts, key=lambda layout: sum(field in self.fields for field in layout))
        missing = [repr(field) for field in closest if field not in self.fields]
        problem = "unknown layout" if len(missing) == len(closest) else f"missing field {', '.join(missing)}"
        expected = " or ".join(", ".join(layout) for layout in layouts)
        present = ", ".join(self.fields) or "none"
        raise DataError(f"{self.place}: {problem}; fields found: {present}; expected: {expected}")

    def text(self, field: str, *, may_be_empty: bool = False) -> str:
        """Return a text field without surrounding white space; raise `DataError` if it is no text, or empty."""
        value = self.fields[field]
        if not isinstance(value, str):
            raise self.error(field, "text")
        if not value.strip() and not may_be_empty:
            raise self.error(field, "text that is not empty")
        return value.strip()

    def gold(self, field: str) -> str:
        """Return a gold answer, a text or a number; raise `DataError` for a missing value such as NaN."""
        value = self.known(field)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(int(value)) if float(value).is_integer() else str(value)
        return self.text(field)

    def known(self, field: str) -> Any:
        """Return the value of a gold answer; raise `DataError` for a missing value such as NaN."""
        value = self.fields[field]
        if is_missing(value):
            raise self.error(field, "a gold answer, not a missing value")
        return value


def is_missing(value: Any) -> bool:
    """Whether a value is no gold answer: NaN, infinity or null, also written as text.

    >>> is_missing(float("nan")), is_missing(" <NA> "), is_missing(0), is_missing("None")
    (True, True, False, False)
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return True
    return str(value).strip().casefold() in MISSING


def read_rows(origin: Path | HubSplit) -> list[Row]:
    """Read all rows of a local file (.jsonl, .json, .parquet) or of a split on the hub.

    A `.json` file holds an array, or one object per line as in AQuA.

    Raises:
        DataError: The file is missing, broken or empty; the message names the file and the line or row.
        UserError: The hub cannot be reached, or has no such data.
    """
    rows = _read_hub(origin) if isinstance(origin, HubSplit) else _read_file(origin)
    if not rows:
        raise DataError(f"{origin}: no rows")
    return rows


def _read_file(path: Path) -> list[Row]:
    if not path.exists():
        raise DataError(f"{path}: no such file or directory")
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of file, expected one of {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        return _read_parquet(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text, byte {error.start} cannot be read") from error
    if path.suffix == ".json" and text.lstrip().startswith("["):
        array = _parse_json(text, path, first_line=1)
        items = [(f"{path}, row {i}", item) for i, item in enumerate(array)]
    else:
        # splitlines() would also split at characters such as U+2028, which JSON allows inside a string.
        lines = [(i, line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
        items = [(f"{path}, line {i}", _parse_json(line, path, first_line=i)) for i, line in lines]
    for place, item in items:
        if not isinstance(item, dict):
            raise DataError(f"{place}: found {_brief.repr(item)}, expected an object with named fields")
    return [Row(fields=item, place=place) for place, item in items]


def _parse_json(text: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise DataError(f"{path}, line {line}: broken JSON, {error.msg} (column {error.colno})") from error


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow  # a dependency of datasets; reading directly copies nothing into the hub's cache
    import pyarrow.parquet

    try:
        items = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a parquet file, {error}") from error
    return [Row(fields=item, place=f"{path}, row {i}") for i, item in enumerate(items)]


def _read_hub(origin: HubSplit) -> list[Row]:
    import datasets

    rows: list[Row] = []
    for config in origin.configs:
        try:
            loaded = datasets.load_dataset(origin.repo, config, split=origin.split)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise UserError(
                f"cannot load {origin.repo} (config {config}, split {origin.split}) from the Hugging Face hub, "
                f"{type(error).__name__}: {error}; without the hub let `source` be a local file or directory"
            ) from error
        place = f"{origin.repo} ({config}, {origin.split})"
        # to_list() leaves images as bytes; iteration would decode them, which needs Pillow.
        rows += [Row(fields=item, place=f"{place}, row {i}") for i, item in enumerate(loaded.to_list())]
    return rows
