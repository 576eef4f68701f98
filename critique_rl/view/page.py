"""Joins the gathered data with the page's own files to one HTML file that names no address outside.

Texts of models enter the page as compressed data in base64, so that no text can end its element or begin another.
The page shows texts as text only, and its policy lets nothing but its own script run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from critique_rl.reports.columns import COLUMNS, columns_of, is_scored, is_share
from critique_rl.reports.markdown import format_metric
from critique_rl.reports.pictures import places
from critique_rl.training.metrics import CURVES
from critique_rl.view.entries import marks
from critique_rl.view.gather import Gathered, Source, Table
from critique_rl.vision.images import ImageError, data_url, open_image

THUMBNAIL = 512
"""Longer side of an image on the page, in pixels."""
SCRIPTS = ("page.list.js", "page.detail.js", "page.curves.js", "page.start.js")
"""Parts of the page's script; they share one function."""
CODES = {None: -1, False: 0, True: 1}


def render(gathered: Gathered) -> str:
    """Render the page as HTML."""
    style, frame, *parts = (
        (files(__package__) / name).read_text("utf-8") for name in ("page.css", "page.html", *SCRIPTS)
    )
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    text = json.dumps(data(gathered), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    packed = base64.b64encode(zlib.compress(text.encode("utf-8", "replace"))).decode()
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    title = html.escape(" and ".join(gathered.names))
    return Template(frame).substitute(title=title, policy=policy, style=style, script=script, data=packed)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def data(gathered: Gathered) -> dict[str, Any]:
    """Data for the script of the page; each text and image is stored once and referred to by its index."""
    store = _Store()
    sources = [_source(source, store) for source in gathered.sources]
    if store.missing:
        gathered.notes.append(f"{store.missing} images cannot be read and are left out")
    curves = []
    for curve in gathered.curves:
        logged = [key for key in CURVES if any(row.get(key) is not None for row in curve.rows)]
        series = {key: [_number(row.get(key)) for row in curve.rows] for key in logged}
        curves.append({"run": curve.run, "stage": curve.stage, "part": curve.part, "series": series})
    return {
        "names": list(gathered.names),
        "sources": sources,
        "texts": list(store.texts),
        "images": list(store.images),
        "marks": store.marks,
        "curves": curves,
        "colours": places(curve.stage for curve in gathered.curves),
        "panels": CURVES,
        "tables": [_table(table) for table in gathered.tables],
    }


class _Store:
    """Texts, parts of critiques, and images, each once, by index."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}
        self.marks: dict[int, list[Any]] = {}
        self.images: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        self.missing = 0

    def text(self, text: str | None) -> int:
        return -1 if text is None else self.texts.setdefault(text, len(self.texts))

    def critique(self, text: str | None) -> int:
        index = self.text(text)
        if text is not None and index not in self.marks:
            self.marks[index] = [part for mark in marks(text) for part in mark]
        return index

    def image(self, image: str | None) -> int:
        if image is None:
            return -1
        if image not in self._seen:
            self._seen[image] = self._thumbnail(image)
        return self._seen[image]

    def _thumbnail(self, image: str) -> int:
        try:
            picture = open_image(image)
        except ImageError:
            self.missing += 1
            return -2
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        content = io.BytesIO()
        picture.save(content, "WEBP", quality=80)
        return self.images.setdefault(data_url(content.getvalue()), len(self.images))


def _source(source: Source, store: _Store) -> dict[str, Any]:
    entries = source.entries
    names = dict.fromkeys(name for e in entries for name in e.numbers)
    columns: dict[str, Sequence[Any]] = {
        "item": [e.item for e in entries],
        "flags": [e.flags for e in entries],
        "question": [store.text(e.question) for e in entries],
        "answer": [store.text(e.answer) for e in entries],
        "image": [store.image(e.image) for e in entries],
        "response": [store.text(e.response) for e in entries],
        "other": [store.text(e.other_response) for e in entries],
        "truth": [_truth(e.truth) for e in entries],
        "critique": [store.critique(e.critique) for e in entries],
        "verdict": [store.text(e.verdict) for e in entries],
        "right": [CODES[e.verdict_right] for e in entries],
        "expected": [store.text(e.expected) for e in entries],
        "refinement": [store.text(e.refinement) for e in entries],
        "refined": [_truth(e.refinement_truth) for e in entries],
        "error": [e.first_error for e in entries],
    }
    numbers = {name: [e.numbers.get(name) for e in entries] for name in names}
    about = {name: getattr(source, name) for name in ("run", "key", "label", "training", "total")}
    return about | {"columns": columns, "numbers": numbers}


def _truth(truth: bool | float | None) -> bool | float | None:
    return truth if truth is None or isinstance(truth, bool) else round(truth, 2)


def _number(value: float | None) -> float | None:
    number = None if value is None else float(f"{value:.5g}")
    return None if number is None or number != number else number


def _table(table: Table) -> dict[str, Any]:
    measured = {name for row in table.rows for name in row["metrics"]}
    scored = is_scored(table.rows)
    columns = columns_of(table.rows) if scored else COLUMNS | columns_of(table.rows)
    columns = {name: heading for name, heading in columns.items() if name in measured}
    unit = "score" if scored else "percent"
    rows = [
        [row["method"], row["dataset"], [_cell(row["metrics"].get(m), is_share(m, unit)) for m in columns]]
        for row in table.rows
    ]
    return {"run": table.run, "origin": table.origin, "columns": list(columns.values()), "rows": rows}


def _cell(metric: Mapping[str, Any] | None, percent: bool) -> list[str]:
    """A value in percent or its own unit, and its interval if it has one."""
    if metric is None:
        return ["–", ""]
    scale, digits = (100, 1) if percent else (1, 2)
    mean = format_metric({"mean": metric["mean"], "values": [metric["mean"]]}, percent=percent)
    low, high = metric["low"], metric["high"]
    return [mean, f"{scale * low:.{digits}f} to {scale * high:.{digits}f}" if high > low else ""]
