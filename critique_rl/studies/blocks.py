"""Blocks of a notebook: texts, tables of single replies, episodes side by side, and pictures.

A block shows itself at the end of a cell through the `_repr_..._` methods that IPython looks for; no package of
Jupyter is needed. It may hold text of a model, so all text is escaped.
"""

from __future__ import annotations

import html
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.summary import summarise
from critique_rl.reports.markdown import markdown_table
from critique_rl.reports.pictures import colours, plain
from critique_rl.studies.charts import MOST_TICKS, draw_intervals, name_ticks
from critique_rl.types import UserError
from critique_rl.vision.images import as_url, open_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

WIDTH, COLOURS = 900, 64
"""Largest width in pixels and number of colours of a picture: notebooks are committed with their outputs."""

_PLAIN = re.compile(r"[\w.,%@+=/-]*(?: [\w.,%@+=/-]+)*")
"""Text that looks the same outside of a `pre` element."""

Point = tuple[float, float] | tuple[float, float, float, float]
"""x and y, or x, y and both ends of the interval of y."""


@dataclass(frozen=True)
class Text:
    """A block of Markdown.

    Attributes:
        markdown: The text.
    """

    markdown: str = field(repr=False)

    def _repr_markdown_(self) -> str:
        return self.markdown


@dataclass(frozen=True)
class Html:
    """A block of HTML.

    Attributes:
        html: The HTML, in which foreign text is escaped.
    """

    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        png: Content of a PNG file.
    """

    png: bytes = field(repr=False)

    def _repr_png_(self) -> bytes:
        return self.png


# -- episodes and rows ------------------------------------------------------------------------------------


def episodes(named: Mapping[str, Episode]) -> Html:
    """Show episodes of one problem side by side, each below its heading.

    Raises:
        UserError: There are no episodes, or they are of several problems.
    """
    columns = list(named.values())
    if len({(e.question, e.image) for e in columns}) != 1:
        count = len(columns)
        raise UserError(f"episodes of one problem can stand side by side, got {count} of several or none.")
    first = columns[0]
    same = len({e.response for e in columns}) == 1
    parts = [f"<p><b>Question</b> <code>{html.escape(first.question)}</code> "]
    parts.append(f"(answer <code>{html.escape(first.answer)}</code>)</p>")
    if first.image is not None:
        parts.append(f'<p><img alt="picture of the question" src="{html.escape(as_url(first.image))}"></p>')
    if same:
        parts.append(f"<p><b>Response</b>, {_truth(first.response_correct)}</p>{_block(first.response)}")
    rows = {} if same else {"response": [_graded(e.response, e.response_correct) for e in columns]}
    rows["critique"] = [_judged(e) for e in columns]
    rows["refinement"] = [
        "none" if e.refinement is None else _graded(e.refinement, e.refinement_correct) for e in columns
    ]
    body = [[f"<b>{name}</b>", *cells] for name, cells in rows.items()]
    return Html("".join(parts) + _grid(["", *named], body))


def _judged(e: Episode) -> str:
    if e.critique is None:
        return "none"
    if e.verdict is None:  # the empty critique of a control
        return f"{_block(e.critique)}no verdict"
    agrees = ""
    if e.response_correct is not None:
        agrees = " ✓" if e.verdict == ("correct" if e.response_correct else "wrong") else " ✗"
    return f"{_block(e.critique)}verdict: {html.escape(str(e.verdict))}{agrees}"


def _graded(text: str, correct: bool | None) -> str:
    return f"{_block(text)}{_truth(correct)}"


def _truth(correct: bool | None) -> str:
    return {True: "right ✓", False: "wrong ✗", None: "not graded"}[correct]


def measured(rows: Mapping[str, Sequence[Episode]]) -> Text:
    """Show the metrics of episodes, a row for each name, with bootstrap intervals over their problems."""
    results = [
        {"method": name, "dataset": row[0].dataset if row else "", "metrics": summarise([row])}
        for name, row in rows.items()
    ]
    return Text(markdown_table(results, intervals=True))


def cases(rows: Sequence[Mapping[str, object]]) -> Html:
    """Show rows as a table: the keys of the first row are the headings, texts appear letter by letter.

    >>> "a &lt; b</pre>" in cases([{"reply": "a < b", "grade": None}]).html
    True
    """
    head = list(rows[0]) if rows else []
    return Html(_grid(head, [[_cell(row[name]) for name in head] for row in rows]))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return _block(value)
    return html.escape(str(value))


def _block(text: str) -> str:
    # `pre` keeps line ends; MathJax, which typesets text between dollar signs, does not touch it.
    return f'<pre style="background:none">{html.escape(text)}</pre>'


def _grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table; cells are HTML already, headings are not."""
    left = 'style="text-align:left"'  # Jupyter aligns right
    top = "".join(f"<th {left}>{html.escape(name)}</th>" for name in head)
    rows = ["".join(f"<td {left}>{cell}</td>" for cell in row) for row in body]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in (top, *rows)) + "</table>"


# -- pictures ---------------------------------------------------------------------------------------------


def lines(
    series: Mapping[str, Sequence[Point]], *, x_label: str, y_label: str, logarithmic: bool = False
) -> Picture:
    """Draw a line for each series, with intervals where points have them; `logarithmic`: x in powers of two."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    axis, colour = figure.subplots(), colours(series)
    for name, points in series.items():
        with_ends = [p if len(p) == 4 else (*p, p[1], p[1]) for p in sorted(points)]
        draw_intervals(axis, with_ends, color=colour[name], label=name)
    ticks = {p[0] for points in series.values() for p in points}
    few = len(ticks) <= MOST_TICKS and all(float(x).is_integer() for x in ticks)
    name_ticks(axis, ticks if few else (), logarithmic=logarithmic)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    plain(axis)
    axis.legend(frameon=False, fontsize=8)
    return _picture(figure)


def sheet(pictures: Sequence[tuple[str | bytes, str]], *, columns: int = 3) -> Picture:
    """Show pictures, as `images.open_image` takes them, with a caption below each, enlarged without smoothing."""
    from matplotlib.figure import Figure

    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(pictures) :]:
        axis.set_axis_off()
    for axis, (image, caption) in zip(axes.flat, pictures, strict=False):
        axis.set_xticks([])
        axis.set_yticks([])
        axis.imshow(open_image(image), interpolation="nearest")
        wrapped = [part for line in caption.splitlines() for part in textwrap.wrap(line, 40) or [""]]
        axis.set_xlabel("\n".join(wrapped), fontsize=8, parse_math=False)
    return _picture(figure)


def _picture(figure: Figure) -> Picture:
    from PIL import Image

    file = io.BytesIO()
    figure.savefig(file, dpi=110)
    with Image.open(file) as image:
        return reduced(image)


def reduced(image: Image.Image) -> Picture:
    """A picture of at most `COLOURS` colours and `WIDTH` pixels."""
    rgb = image.convert("RGB")
    if rgb.width > WIDTH:
        rgb = rgb.resize((WIDTH, round(rgb.height * WIDTH / rgb.width)))
    file = io.BytesIO()
    rgb.quantize(COLOURS).save(file, "PNG", optimize=True)
    return Picture(file.getvalue())
