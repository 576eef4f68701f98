"""What the notebooks show: results that were measured before, single episodes, curves and small tables.

Nothing is trained or measured here. What comes back shows itself at the end of a cell, and needs no package of
Jupyter's: it has the `_repr_..._` methods that IPython looks for. Everything may hold what a model wrote, so texts
are escaped. What was not run is said to be so and is no error.
"""

from __future__ import annotations

import html
import io
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from critique_rl.config.run import EXPERIMENTS
from critique_rl.types import UserError, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from critique_rl.evaluation.episodes import Episode
    from critique_rl.studies.paper import Paper

COMMITTED = EXPERIMENTS / "results"
"""Result files of the repository, a folder for each preset."""
FOLDERS = ("", "llava_critic_r1")
"""Of `experiments`: where scripts and the papers' numbers are."""
WIDTH, COLOURS = 900, 64
"""Most pixels and colours of a picture: notebooks are committed with their outputs."""

_PLAIN = re.compile(r"[\w.,%@+=/-]*(?: [\w.,%@+=/-]+)*")
"""Text that looks the same outside of a block."""

Point = tuple[float, float] | tuple[float, float, float, float]
"""x and y, or x, y and both ends of the interval of y."""


@dataclass(frozen=True)
class Text:
    """Markdown.

    Attributes:
        markdown: The text.
    """

    markdown: str = field(repr=False)

    def _repr_markdown_(self) -> str:
        return self.markdown


@dataclass(frozen=True)
class Html:
    """A piece of HTML.

    Attributes:
        html: The text, in which all that is foreign is escaped.
    """

    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        png: The bytes of a PNG file.
    """

    png: bytes = field(repr=False)

    def _repr_png_(self) -> bytes:
        return self.png


def start(threads: int = 1) -> None:
    """Get ready, before anything else is imported: no library draws bars, or waits for a hub out of reach.

    Args:
        threads: CPU threads of torch. The figures of a run depend on them.
    """
    from critique_rl.runs.process import go_offline_without_hub, quiet_libraries

    go_offline_without_hub()
    quiet_libraries()
    import torch

    torch.set_num_threads(threads)


# -- results ----------------------------------------------------------------------------------------------


def table(
    stem: str,
    columns: Sequence[str] = ("acc_refine", "delta", "delta_ci", "delta_ic", "acc_dis", "acc_dis_balanced"),
    *,
    methods: Sequence[str] | None = None,
    preset: str = "tiny",
    results: Path = COMMITTED,
) -> Text:
    """The result file of a table script as a table beside the paper's numbers, or that it was not run.

    Args:
        stem: The script, e.g. `table3_ablation`.
        columns: Metrics; those that no row has are left out.
        methods: Rows; None takes all.
        preset: Configuration that it was run with.
        results: Folder of result files.

    Raises:
        UserError: No script has that name, the result file is not as it should be, or has no such method.
    """
    from critique_rl.studies import tables

    paper, content = _paper(stem), _load(stem, preset, results)
    if content is None:
        return _not_run(stem, preset)
    every = [*content["rows"], *content.get("not_run", ())]
    known = list(dict.fromkeys(row["method"] for row in every))
    for method in methods or ():
        if method not in known:
            raise UserError(f"{stem} of {preset} has no row '{method}'. {nearest(method, known)}")
    if methods is not None:
        kept = {
            key: [r for r in content.get(key, ()) if r["method"] in methods] for key in ("rows", "not_run")
        }
        content = {**content, **kept}
    measured = {name for row in content["rows"] for name in row["metrics"]}
    shown = [name for name in columns if name in measured or not content["rows"]]
    if not shown:
        raise UserError(f"{stem} of {preset} has none of the metrics {', '.join(columns)}.")
    return Text(tables.markdown(content, paper, shown))


def figure(stem: str, *, preset: str = "tiny", results: Path = COMMITTED) -> Picture | Text:
    """The figure that was drawn of a result file, or that there is none; arguments as of `table`."""
    path = results / preset / f"{stem}.png"
    if not path.exists():
        return _not_run(stem, preset)
    from PIL import Image

    with Image.open(path) as image:
        return _reduced(image)


def claims(*stems: str, preset: str = "tiny", results: Path = COMMITTED) -> Text:
    """What result files say of the paper's claims, as in the ledger (`experiments/README.md`).

    Args:
        stems: Scripts.
        preset: As in `table`, as is the next.
        results: Folder of result files.

    Raises:
        UserError: As of `table`, but for the method.
    """
    from critique_rl.reports import page
    from critique_rl.studies import claims, tables

    rows = []
    for stem in stems:
        paper, content = _paper(stem), _load(stem, preset, results)
        unit = paper.table(stem).unit
        for claim in (c for c in paper.claims if c.stem == stem):
            for found in claims.judge(claim, content, paper):
                beside = {} if found.paper is None else {"mean": found.paper, "values": [found.paper]}
                rows.append(
                    (
                        claim.text,
                        found.dataset or "–",
                        tables.format_cell(found.difference, claim.metric, unit),
                        tables.format_cell(beside or None, claim.metric, unit),
                        found.status + (f" ({found.reason})" if found.reason else ""),
                    )
                )
    return Text(page.table(("claim", "data set", "ours, difference", "paper", "outcome"), rows))


def examples(stem: str, *, most: int = 1, preset: str = "tiny", results: Path = COMMITTED) -> Html | Text:
    """The episodes side by side that a result file holds.

    Args:
        stem: As in `table`, as are the last two.
        most: Pairs shown.
        preset: Configuration.
        results: Folder of result files.

    Raises:
        UserError: As of `table`, but for the method.
    """
    from critique_rl.evaluation.episodes import Episode

    content = _load(stem, preset, results)
    if content is None:
        return _not_run(stem, preset)
    parts = [
        f"<p>{html.escape(shown['about'])}; one of {int(shown['of'])}</p>"
        + episodes(
            {
                row["method"]: Episode(**{key: value for key, value in row.items() if key != "method"})
                for row in shown["episodes"]
            }
        ).html
        for shown in content.get("examples", ())[:most]
    ]
    return Html("".join(parts)) if parts else Text(f"`{stem}` found no such episodes.")


def run_scripts(stems: Sequence[str], *, preset: str = "tiny", seeds: Sequence[int], into: Path) -> Path:
    """Run table scripts, which train and measure what is missing; finished steps in `into` are not run again.

    Args:
        stems: Scripts, e.g. `table3_ablation`.
        preset: A configuration's name, or the path of one.
        seeds: Seeds of every row.
        into: Folder for runs and results.

    Returns:
        Folder of the result files, as the other functions take it.

    Raises:
        UserError: No script has that name, or one ended with an error, which is on stderr.
    """
    into.mkdir(parents=True, exist_ok=True)
    results = (into / "results").resolve()
    for stem in stems:
        command = [sys.executable, str(_script(stem)), "--preset", preset, "--results", str(results)]
        code = subprocess.run([*command, "--seeds", *map(str, seeds)], cwd=into, check=False).returncode
        if code:
            raise UserError(f"{stem} ended with exit code {code}; what went wrong stands above.")
    return results


def _script(stem: str) -> Path:
    found = {path.stem: path for folder in FOLDERS for path in (EXPERIMENTS / folder).glob("*.py")}
    if stem not in found:
        raise UserError(
            f"experiments/{stem}.py is not there. {nearest(stem, found)}"
            if found
            else f"there is no folder {EXPERIMENTS}: the notebooks need a clone of the repository."
        )
    return found[stem]


def _paper(stem: str) -> Paper:
    """The numbers of the paper that a script is about."""
    from critique_rl.studies.paper import load_paper

    return load_paper(_script(stem).with_name("paper.yaml"))


def _load(stem: str, preset: str, results: Path) -> dict[str, Any] | None:
    from critique_rl.studies.results import load_result

    path = results / preset / f"{stem}.json"
    return load_result(path) if path.exists() else None


def _not_run(stem: str, preset: str) -> Text:
    script = _script(stem).relative_to(EXPERIMENTS.parent)
    return Text(f"**Not run.** To make it: `python {script.as_posix()} --preset {preset}`")


# -- episodes ---------------------------------------------------------------------------------------------


def episodes(shown: Mapping[str, Episode]) -> Html:
    """Episodes of one problem and one response side by side, by what each is called.

    Raises:
        UserError: There are none, or they are of several problems.
    """
    found = list(shown.values())
    if len({(e.question, e.image) for e in found}) != 1:
        raise UserError(
            f"episodes of one problem can stand side by side, got {len(found)} of several or none."
        )
    first = found[0]
    same = len({e.response for e in found}) == 1
    parts = [f"<p><b>Question</b> <code>{html.escape(first.question)}</code> "]
    parts.append(f"(answer <code>{html.escape(first.answer)}</code>)</p>")
    if first.image is not None:
        from critique_rl.vision.images import as_url

        parts.append(f'<p><img alt="picture of the question" src="{html.escape(as_url(first.image))}"></p>')
    if same:
        parts.append(f"<p><b>Response</b>, {_truth(first.response_correct)}</p>{_block(first.response)}")
    head = ["", *shown]
    body = [] if same else [("response", [_graded(e.response, e.response_correct) for e in found])]
    body += [("critique", [_judged(e) for e in found]), ("refinement", [_refined(e) for e in found])]
    return Html("".join(parts) + _grid(head, [[f"<b>{name}</b>", *cells] for name, cells in body]))


def _judged(e: Episode) -> str:
    if e.critique is None:
        return "none"
    if e.verdict is None:  # the empty critique of a control
        return f"{_block(e.critique)}no verdict"
    right = {True: "correct", False: "wrong"}.get(e.response_correct)  # type: ignore[arg-type]
    agrees = "" if right is None else " ✓" if e.verdict == right else " ✗"
    return f"{_block(e.critique)}verdict: {html.escape(str(e.verdict))}{agrees}"


def _refined(e: Episode) -> str:
    return "none" if e.refinement is None else _graded(e.refinement, e.refinement_correct)


def _graded(text: str, correct: bool | None) -> str:
    return f"{_block(text)}{_truth(correct)}"


def _truth(correct: bool | None) -> str:
    return {True: "right ✓", False: "wrong ✗", None: "not graded"}[correct]


def measured(rows: Mapping[str, Sequence[Episode]]) -> Text:
    """The metrics of episodes as a table, a row each, with bootstrap intervals over their problems."""
    from critique_rl.evaluation.summary import summarise
    from critique_rl.reports.markdown import markdown_table

    found = [
        {"method": label, "dataset": of[0].dataset if of else "", "metrics": summarise([of])}
        for label, of in rows.items()
    ]
    return Text(markdown_table(found, intervals=True))


def cases(rows: Sequence[Mapping[str, object]]) -> Html:
    """Rows as a table: the keys of the first are the headings, texts are shown letter by letter.

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
    # `pre` keeps line ends, and MathJax, which takes what stands between two dollar signs, leaves it alone
    return f'<pre style="background:none">{html.escape(text)}</pre>'


def _grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already; headings are not."""
    left = 'style="text-align:left"'  # Jupyter's own style has them at the right
    top = "".join(f"<th {left}>{html.escape(name)}</th>" for name in head)
    rows = ["".join(f"<td {left}>{cell}</td>" for cell in row) for row in body]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in (top, *rows)) + "</table>"


# -- pictures ---------------------------------------------------------------------------------------------


def lines(
    series: Mapping[str, Sequence[Point]], *, x_label: str, y_label: str, logarithmic: bool = False
) -> Picture:
    """A line for each series, with intervals where its points have them.

    Args:
        series: Points by what they are called.
        x_label: Heading of the x axis.
        y_label: Heading of the y axis.
        logarithmic: Whether the x axis is one of powers of two.
    """
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(6.5, 3.8), layout="constrained")
    axis = drawn.subplots()
    for label, points in series.items():
        ordered = sorted(points)
        x, y = [p[0] for p in ordered], [p[1] for p in ordered]
        ends = [p[2:] if len(p) == 4 else (p[1], p[1]) for p in ordered]
        error = [
            [value - low for value, (low, _) in zip(y, ends, strict=True)],
            [high - value for value, (_, high) in zip(y, ends, strict=True)],
        ]
        axis.errorbar(x, y, yerr=error, marker="o", markersize=4, capsize=2.5, elinewidth=1, label=label)
    ticks = sorted({p[0] for points in series.values() for p in points})
    if logarithmic:
        axis.set_xscale("log", base=2)
    if len(ticks) <= 8 and all(float(x).is_integer() for x in ticks):
        axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axis.minorticks_off()
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    return _picture(drawn)


def sheet(pictures: Sequence[tuple[str | bytes, str]], *, columns: int = 3) -> Picture:
    """Pictures with what stands below each, enlarged without smoothing.

    Args:
        pictures: Each as `images.open_image` takes it, with its caption.
        columns: Pictures in a row.
    """
    from matplotlib.figure import Figure

    from critique_rl.vision.images import open_image

    rows = -(-len(pictures) // columns)
    drawn = Figure(figsize=(2.9 * columns, 2.3 * rows), layout="constrained")
    axes = drawn.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (image, caption) in zip(axes.flat, pictures, strict=False):
        axis.set_axis_on()
        axis.set_xticks([])
        axis.set_yticks([])
        axis.imshow(open_image(image), interpolation="nearest")
        wrapped = [part for line in caption.splitlines() for part in textwrap.wrap(line, 40) or [""]]
        axis.set_xlabel("\n".join(wrapped), fontsize=8, parse_math=False)
    return _picture(drawn)


def _picture(drawn: Figure) -> Picture:
    from PIL import Image

    file = io.BytesIO()
    drawn.savefig(file, dpi=110)
    with Image.open(file) as image:
        return _reduced(image)


def _reduced(image: Image.Image) -> Picture:
    """A picture of few colours and at most `WIDTH` pixels."""
    plain = image.convert("RGB")
    if plain.width > WIDTH:
        plain = plain.resize((WIDTH, round(plain.height * WIDTH / plain.width)))
    file = io.BytesIO()
    plain.quantize(COLOURS).save(file, "PNG", optimize=True)
    return Picture(file.getvalue())
