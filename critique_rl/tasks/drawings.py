r"""Generated task with pictures: small drawings, and questions with answers that can be checked.

The task stands in for visual question answering. A picture has 2 x 3 fields of 28 x 28 pixels, one image token of
Qwen2.5-VL each. It is a grid of coloured shapes or a chart of three bars. The gold response describes the picture
and then computes the answer:

    How many red shapes?

    <think>row 1: red circle none blue square
    row 2: none red square red triangle
    so 1+2=3</think> \boxed{3}

Nothing is downloaded. The question does not say what the picture shows, so a model without the picture can only
guess.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw

from critique_rl.tasks.base import FRACTIONS, DataError, Task, check_generated, first_difference, split_of
from critique_rl.types import GradedKind, Problem, child_seed, nearest, problem_id
from critique_rl.vision.images import data_url

COLOURS = ("red", "green", "blue")
SHAPES = ("circle", "square", "triangle")
EMPTY = "none"
CELLS = (*(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES), EMPTY)
EMPTY_SHARE = 0.3
BARS = "ABC"
HIGHEST = 8
HEIGHTS = tuple(str(height) for height in range(HIGHEST + 1))
LETTERS = "ABC"
ROWS, COLUMNS = 2, 3

FIELD = 28
UNIT = 6
"""Side of a field and height of one unit of a bar, in pixels."""

_GRIDS = len(CELLS) ** (ROWS * COLUMNS)
_CHARTS = len(HEIGHTS) ** len(BARS)
THERE_ARE = {
    "count": _GRIDS * (len(COLOURS) + len(SHAPES)),
    "colour": _GRIDS * ROWS * COLUMNS * (len(CELLS) - 1) // len(CELLS),
    # Six orders of the colours; three questions about a height, three about a difference (six between equal bars).
    "chart": 6 * (3 * _CHARTS + 3 * (_CHARTS + _CHARTS // len(HEIGHTS))),
}
"""Distinct problems of each kind."""

_CELL = rf"(?:(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})|{EMPTY})"
_ROW = re.compile(rf"\brow ([12]): ({_CELL}) ({_CELL}) ({_CELL})(?!\w)")
_CHART = re.compile(r"\bbars A ([0-8]) B ([0-8]) C ([0-8])(?!\w)")
_COUNT = re.compile(rf"How many (?:({'|'.join(COLOURS)}) shapes|({'|'.join(SHAPES)})s)\?")
_COLOUR = re.compile(
    r"What colour is the shape in row ([12]), column ([1-3])\? \(A\) (\w+) \(B\) (\w+) \(C\) (\w+)"
)
_HIGHER = re.compile(r"How much higher is bar ([A-C]) than bar ([A-C])\?")
_HIGH = re.compile(r"How high is bar ([A-C])\?")
_BOX = re.compile(r"\\boxed\{([^{}]*)\}")


@dataclass(frozen=True)
class Scene:
    """Content of a picture, as drawn or as somebody reads it.

    Attributes:
        rows: For a grid two rows of three cells, e.g. `red circle`, or `none`; for a chart one row of heights.
    """

    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Scene:
        """Read a complete description from a text such as `Problem.solution`.

        Raises:
            DataError: Lines are missing, or the text describes both a grid and a chart.

        >>> Scene.parse("<think>bars A 3 B 5 C 0\\nso 5</think>").rows
        (('3', '5', '0'),)
        """
        rows = described(text)
        if set(rows) not in ({0}, {1, 2}):
            raise DataError(f"task drawings: no whole description of a picture in {text!r:.200}")
        return cls(tuple(rows[number] for number in sorted(rows)))

    @property
    def is_chart(self) -> bool:
        """True for a chart, False for a grid."""
        return len(self.rows) == 1

    def lines(self) -> list[str]:
        """Describe the picture, line by line."""
        if self.is_chart:
            heights = zip(BARS, self.rows[0], strict=True)
            return ["bars " + " ".join(f"{bar} {height}" for bar, height in heights)]
        return [f"row {i}: {' '.join(row)}" for i, row in enumerate(self.rows, 1)]


def described(text: str) -> dict[int, tuple[str, ...]]:
    """Find the lines of descriptions in a text: rows of a grid under their number, heights of a chart under 0.

    If a line occurs twice, the last one counts.

    >>> described("row 2: none red circle none")
    {2: ('none', 'red circle', 'none')}
    """
    rows = {int(match[1]): match.groups()[1:] for match in _ROW.finditer(text)}
    charts = [match.groups() for match in _CHART.finditer(text)]
    return rows | {0: charts[-1]} if charts else rows


def reckon(question: str, scene: Scene) -> tuple[str, str | None]:
    """Compute the last line of a thought, and the answer; the answer is None if the cell in question is empty.

    Raises:
        DataError: The question is not one of this task about this sort of picture.

    >>> reckon("How much higher is bar B than bar C?", Scene((("3", "5", "0"),)))
    ('so 5-0=5', '5')
    """
    if (match := _COUNT.fullmatch(question)) and not scene.is_chart:
        asked = match[1] or match[2]
        first, second = (sum(asked in cell.split() for cell in row) for row in scene.rows)
        return f"so {first}+{second}={first + second}", str(first + second)
    if (match := _COLOUR.fullmatch(question)) and not scene.is_chart:
        colour = scene.rows[int(match[1]) - 1][int(match[2]) - 1].split()[0]
        options = match.groups()[2:]
        letter = LETTERS[options.index(colour)] if colour in options else None
        return f"it is {colour}", letter
    if (match := _HIGHER.fullmatch(question)) and scene.is_chart:
        one, other = (int(scene.rows[0][BARS.index(bar)]) for bar in match.groups())
        return f"so {one}-{other}={one - other}", str(one - other)
    if (match := _HIGH.fullmatch(question)) and scene.is_chart:
        height = scene.rows[0][BARS.index(match[1])]
        return f"so {height}", height
    sort = "a chart" if scene.is_chart else "a grid"
    raise DataError(f"task drawings: {question!r:.200} is no question of this task about {sort}")


def thought(question: str, scene: Scene, rng: random.Random) -> tuple[list[str], str]:
    """Describe `scene` and compute the answer; guess the answer if the cell in question is empty."""
    line, answer = reckon(question, scene)
    letter = rng.choice(LETTERS) if answer is None else answer
    return [*scene.lines(), f"{line}, {letter}" if letter.isalpha() else line], letter


def write(lines: Sequence[str], answer: str) -> str:
    r"""Write a reply: the thought and the boxed answer.

    >>> write(["a glance"], "3")
    '<think>a glance</think> \\boxed{3}'
    """
    return f"<think>{chr(10).join(lines)}</think> \\boxed{{{answer}}}"


def boxed(reply: str) -> str | None:
    """Read the last box after the thought of a reply; None without one."""
    boxes = _BOX.findall(reply.rpartition("</think>")[2])
    return boxes[-1].strip() if boxes else None


def thought_lines(reply: str) -> list[str]:
    """Split the thought of a reply into lines, without blank lines and without the box."""
    text = reply.partition("</think>")[0].strip().removeprefix("<think>")
    return [line.strip() for line in text.split("\n") if line.strip()]


def first_error(problem: Problem, response: str) -> int | None:
    """Find the index of the first line of a thought that differs from the gold line; None if all are right.

    A thought without a description is a single step, which is right if the answer is.
    """
    lines = thought_lines(response)
    if not described("\n".join(lines)):
        return None if boxed(response) == problem.answer else 0
    return first_difference(thought_lines(problem.solution), lines)


def draw_scene(rng: random.Random, *, chart: bool) -> Scene:
    """Draw the content of a picture: uniform heights, or cells of which 30 % are empty on average."""
    if chart:
        return Scene((tuple(rng.choice(HEIGHTS) for _ in BARS),))

    cells = [EMPTY if rng.random() < EMPTY_SHARE else rng.choice(CELLS[:-1]) for _ in range(ROWS * COLUMNS)]
    return Scene((tuple(cells[:COLUMNS]), tuple(cells[COLUMNS:])))


def draw_question(rng: random.Random, kind: str, scene: Scene, *, shuffle: bool = False) -> str | None:
    """Draw a question of one kind in `THERE_ARE`; None if the kind is `colour` and all cells are empty.

    The options of `colour` are red, green, blue in this order, unless `shuffle` is True.
    """
    if kind == "count":
        return f"How many {rng.choice([f'{c} shapes' for c in COLOURS] + [f'{s}s' for s in SHAPES])}?"
    if kind == "colour":
        rows = enumerate(scene.rows, 1)
        full = [(r, c) for r, row in rows for c, cell in enumerate(row, 1) if cell != EMPTY]
        if not full:
            return None
        row, column = rng.choice(full)
        options = rng.sample(COLOURS, len(COLOURS)) if shuffle else COLOURS
        listed = " ".join(f"({letter}) {colour}" for letter, colour in zip(LETTERS, options, strict=True))
        return f"What colour is the shape in row {row}, column {column}? {listed}"
    one, other = rng.sample(range(len(BARS)), 2)
    if rng.random() < 0.5:
        return f"How high is bar {BARS[one]}?"
    if int(scene.rows[0][one]) < int(scene.rows[0][other]):
        one, other = other, one
    return f"How much higher is bar {BARS[one]} than bar {BARS[other]}?"


def guess(question: str, rng: random.Random) -> str:
    """Answer without looking: the right answer for a random picture to which the question applies."""
    chart = bool(_HIGH.fullmatch(question) or _HIGHER.fullmatch(question))
    while True:
        _, answer = reckon(question, draw_scene(rng, chart=chart))
        if answer is not None and not answer.startswith("-"):
            return answer


# Pictures hold indices into a palette, which keeps a file near 300 bytes.
_PALETTE = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "red": (230, 0, 0),
    "green": (0, 150, 0),
    "blue": (0, 0, 230),
}
_INDEX = {name: i for i, name in enumerate(_PALETTE)}
_GLYPHS = {"A": ".#.#.#####.##.#", "B": "##.#.###.#.###.", "C": ".###..#..#...##"}
"""Letters of 3 x 5 pixels, row by row."""


def draw(scene: Scene, bar_colours: Sequence[str] = COLOURS) -> bytes:
    """Draw a PNG file without antialiasing; equal arguments give equal bytes. `bar_colours` is for charts."""
    picture = Image.new("P", (COLUMNS * FIELD, ROWS * FIELD), _INDEX["white"])
    if scene.is_chart:
        _draw_chart(picture, [int(height) for height in scene.rows[0]], bar_colours)
    else:
        for r, row in enumerate(scene.rows):
            for c, cell in enumerate(row):
                if cell != EMPTY:
                    picture.paste(_shape(cell), (c * FIELD, r * FIELD))
    picture.putpalette([level for colour in _PALETTE.values() for level in colour])
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


@cache
def _shape(cell: str) -> Image.Image:
    colour, shape = cell.split()
    field = Image.new("P", (FIELD, FIELD), _INDEX["white"])
    pen, fill = ImageDraw.Draw(field), _INDEX[colour]
    low, high = 4, FIELD - 5
    if shape == "circle":
        pen.ellipse((low, low, high, high), fill=fill)
    elif shape == "square":
        pen.rectangle((low, low, high, high), fill=fill)
    else:
        middle = FIELD // 2
        pen.polygon(((middle - 1, low), (middle, low), (high, high), (low, high)), fill=fill)
    return field


def _draw_chart(picture: Image.Image, heights: Sequence[int], colours: Sequence[str]) -> None:
    pen, axis, side = ImageDraw.Draw(picture), HIGHEST * UNIT + 1, 6
    pen.line((0, axis, COLUMNS * FIELD - 1, axis), fill=_INDEX["black"])
    for unit in range(1, HIGHEST + 1):  # the scale, with longer marks at 4 and 8
        pen.line((0, axis - unit * UNIT, 3 if unit % 4 == 0 else 1, axis - unit * UNIT), fill=_INDEX["black"])
    for i, (bar, height, colour) in enumerate(zip(BARS, heights, colours, strict=True)):
        left = i * FIELD
        if height:
            top = axis - height * UNIT
            pen.rectangle((left + side, top, left + FIELD - 1 - side, axis - 1), fill=_INDEX[colour])
        dots = [divmod(i, 3) for i, dot in enumerate(_GLYPHS[bar]) if dot == "#"]
        corner = left + FIELD // 2 - 1
        pen.point([(corner + x, axis + 2 + y) for y, x in dots], fill=_INDEX["black"])


def load(
    *,
    source: str | None,
    split: str,
    seed: int,
    size: int = 8000,
    kinds: Sequence[str] = tuple(THERE_ARE),
    shuffle: bool = False,
    **unknown: object,
) -> list[Problem]:
    """Draw `size` distinct problems, equally many of each kind, and keep those of one split.

    The split of a problem is a hash of its picture's content, 70 / 10 / 20 % train / validation / test. No seed,
    size or other question moves a picture of the test split into training, even with bars in other colours.

    Args:
        source: Must be None: the task is generated.
        split: `train`, `validation` or `test`.
        seed: Seed of the draw; no seed moves a picture to another split.
        size: Distinct problems over all splits together.
        kinds: Kinds of questions: `count` and `colour` about grids of shapes, `chart` about charts.
        shuffle: Shuffle the options of `colour`.
        unknown: Other options, which raise an error.

    Raises:
        DataError: An argument is unknown or out of range, or `size` exceeds half of all possible problems.
    """
    if unknown:
        names = sorted(unknown)
        raise DataError(f"task drawings: unknown option {names}; there are size, kinds and shuffle.")
    check_generated("drawings", source, split, FRACTIONS)
    if not isinstance(shuffle, bool):
        raise DataError(f"task drawings: shuffle={shuffle!r}, expected true or false.")
    _check_kinds(kinds)
    most = len(kinds) * min(THERE_ARE[kind] for kind in kinds) // 2
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= most:
        raise DataError(f"task drawings: size={size!r}, expected 1 to {most} with kinds {', '.join(kinds)}.")
    rng = random.Random(child_seed(seed, "drawings", *kinds))
    drawn: dict[tuple[Scene, tuple[str, ...], str], str] = {}
    while len(drawn) < size:
        kind = kinds[len(drawn) % len(kinds)]
        scene = draw_scene(rng, chart=kind == "chart")
        colours = tuple(rng.sample(COLOURS, len(COLOURS))) if scene.is_chart else COLOURS
        question = draw_question(rng, kind, scene, shuffle=shuffle)
        if question is not None:
            drawn[scene, colours, question] = kind
    return [
        _problem(scene, colours, question, "choice" if kind == "colour" else "number")
        for (scene, colours, question), kind in drawn.items()
        if split_of("\n".join(scene.lines()), FRACTIONS, "drawings") == split
    ]


def _check_kinds(kinds: Sequence[str]) -> None:
    if isinstance(kinds, str) or not isinstance(kinds, Sequence) or not kinds:
        raise DataError(f"task drawings: kinds={kinds!r}, expected a list of some of {', '.join(THERE_ARE)}.")
    for i, kind in enumerate(kinds):
        if not isinstance(kind, str) or kind not in THERE_ARE:
            raise DataError(f"task drawings: kinds: no kind {kind!r}. {nearest(str(kind), THERE_ARE)}")
        if kind in kinds[:i]:
            raise DataError(f"task drawings: kinds={kinds!r} names {kind!r} twice; name it once.")


def _problem(scene: Scene, bar_colours: Sequence[str], question: str, graded: GradedKind) -> Problem:
    image = data_url(draw(scene, bar_colours))
    lines, answer = thought(question, scene, random.Random(0))  # no question is about an empty cell: no guess
    return Problem(
        id=problem_id(question, image),
        dataset="drawings",
        question=question,
        solution=write(lines, answer),
        answer=answer,
        kind=graded,
        image=image,
    )


TASK = Task(
    name="drawings",
    about="Questions about small drawings of shapes and bars, with answers that can be checked; generated.",
    kinds=("number", "choice"),
    load=load,
    licence="Apache-2.0",
    first_error=first_error,
)
