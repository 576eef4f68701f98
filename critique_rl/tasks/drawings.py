r"""The embedded stand-in for visual question answering: small drawings, and questions that can be checked.

A picture has 2 x 3 fields of 28 x 28 pixels, one image token of Qwen2.5-VL each. It is a grid of coloured shapes
or a chart of three bars; the gold response first says what it shows and then reckons:

    How many red shapes?

    <think>row 1: red circle none blue square
    row 2: none red square red triangle
    so 1+2=3</think> \boxed{3}

Nothing is downloaded. What a picture shows is in the gold response and nowhere else in the text, so that a model
without the picture can only guess.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw

from critique_rl.tasks.base import DataError, Task, split_of
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
FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}

FIELD = 28
UNIT = 6
"""Pixels of a field's side and of a unit of height."""

_GRIDS = len(CELLS) ** (ROWS * COLUMNS)
_CHARTS = len(HEIGHTS) ** len(BARS)
THERE_ARE = {
    "count": _GRIDS * (len(COLOURS) + len(SHAPES)),
    "colour": _GRIDS * ROWS * COLUMNS * (len(CELLS) - 1) // len(CELLS),
    # Six orders of the colours; three heights to be asked for, and three differences, both ways if there is none.
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
    """What a picture shows, or what somebody reads off it.

    Attributes:
        rows: Two rows of three cells, each `red circle` or the like or `none`; of a chart one row, the heights.
    """

    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Scene:
        """Read the description in a text that holds all lines of it, such as `Problem.solution`.

        Raises:
            DataError: Lines are missing.

        >>> Scene.parse("<think>bars A 3 B 5 C 0\\nso 5</think>").rows
        (('3', '5', '0'),)
        """
        found = described(text)
        if set(found) not in ({0}, {1, 2}):
            raise DataError(f"task drawings: no whole description of a picture in {text!r:.200}")
        return cls(tuple(found[line] for line in sorted(found)))

    @property
    def is_chart(self) -> bool:
        """Whether it is a chart and no grid."""
        return len(self.rows) == 1

    def lines(self) -> list[str]:
        """The description, line by line."""
        if self.is_chart:
            heights = zip(BARS, self.rows[0], strict=True)
            return ["bars " + " ".join(f"{bar} {height}" for bar, height in heights)]
        return [f"row {i}: {' '.join(row)}" for i, row in enumerate(self.rows, 1)]


def described(text: str) -> dict[int, tuple[str, ...]]:
    """The lines of descriptions in a text: rows of cells by their number, the heights of bars as 0.

    Of two lines of the same name the last counts.

    >>> described("row 2: none red circle none")
    {2: ('none', 'red circle', 'none')}
    """
    found = {int(match[1]): match.groups()[1:] for match in _ROW.finditer(text)}
    for match in _CHART.finditer(text):
        found[0] = match.groups()
    return found


def reckon(question: str, scene: Scene) -> tuple[str, str | None]:
    """The line that follows from a description, and the answer; None where a question is about an empty cell.

    Raises:
        DataError: It is no question of the task, or one about another sort of picture.

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
    """Description and reckoning of a reader who sees `scene`, and the answer, guessed where it sees nothing."""
    line, answer = reckon(question, scene)
    letter = rng.choice(LETTERS) if answer is None else answer
    return [*scene.lines(), f"{line}, {letter}" if letter.isalpha() else line], letter


def write(lines: Sequence[str], answer: str) -> str:
    r"""A reply: thought and boxed answer.

    >>> write(["a glance"], "3")
    '<think>a glance</think> \\boxed{3}'
    """
    return f"<think>{chr(10).join(lines)}</think> \\boxed{{{answer}}}"


def boxed(reply: str) -> str | None:
    """Content of the last box after the thought of a reply; None without one."""
    boxes = _BOX.findall(reply.rpartition("</think>")[2])
    return boxes[-1].strip() if boxes else None


def thought_lines(reply: str) -> list[str]:
    """The lines of a reply's thought, blank ones dropped; the box is none of them."""
    text = reply.partition("</think>")[0].strip().removeprefix("<think>")
    return [line.strip() for line in text.split("\n") if line.strip()]


def first_error(problem: Problem, response: str) -> int | None:
    """Index of the first line of a response's thought that is not the gold line; None if all of them are right.

    A thought that describes nothing is one step, right if the answer is.
    """
    lines = thought_lines(response)
    if not described("\n".join(lines)):
        return None if boxed(response) == problem.answer else 0
    gold = thought_lines(problem.solution)
    return next((i for i, line in enumerate(gold) if i >= len(lines) or lines[i] != line), None)


def draw_scene(rng: random.Random, *, chart: bool) -> Scene:
    """Draw what a picture shows: even heights, or cells of which three in ten are empty."""
    if chart:
        return Scene((tuple(rng.choice(HEIGHTS) for _ in BARS),))
    return Scene(tuple(tuple(_draw_cell(rng) for _ in range(COLUMNS)) for _ in range(ROWS)))


def _draw_cell(rng: random.Random) -> str:
    return EMPTY if rng.random() < EMPTY_SHARE else rng.choice(CELLS[:-1])


def draw_question(rng: random.Random, kind: str, scene: Scene, *, shuffle: bool = False) -> str | None:
    """Draw a question of one kind; None if the picture has nothing to be asked for.

    Args:
        rng: Draws.
        kind: Name in `THERE_ARE`.
        scene: What the picture shows.
        shuffle: Whether the options stand in any order, instead of red, green, blue.
    """
    if kind == "count":
        return f"How many {rng.choice([f'{c} shapes' for c in COLOURS] + [f'{s}s' for s in SHAPES])}?"
    if kind == "colour":
        full = [
            (r, c) for r, row in enumerate(scene.rows, 1) for c, cell in enumerate(row, 1) if cell != EMPTY
        ]
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
    """Answer without looking: what would be right of another picture of which the question can be asked."""
    chart = bool(_HIGH.fullmatch(question) or _HIGHER.fullmatch(question))
    while True:
        _, answer = reckon(question, draw_scene(rng, chart=chart))
        if answer is not None and not answer.startswith("-"):
            return answer


# Pictures: indices into a palette, so that a file has some 300 bytes.
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
    """The picture as a PNG file: without antialiasing, and with the same bytes for the same scene.

    Args:
        scene: What it shows.
        bar_colours: Colours of the bars of a chart.
    """
    if scene.is_chart:
        picture = _draw_chart([int(height) for height in scene.rows[0]], bar_colours)
    else:
        picture = Image.new("P", (COLUMNS * FIELD, ROWS * FIELD), _INDEX["white"])
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


def _draw_chart(heights: Sequence[int], colours: Sequence[str]) -> Image.Image:
    picture = Image.new("P", (COLUMNS * FIELD, ROWS * FIELD), _INDEX["white"])
    pen, axis, side = ImageDraw.Draw(picture), HIGHEST * UNIT + 1, 6
    pen.line((0, axis, COLUMNS * FIELD - 1, axis), fill=_INDEX["black"])
    for unit in range(1, HIGHEST + 1):  # the scale, a longer mark at 4 and 8
        pen.line((0, axis - unit * UNIT, 3 if unit % 4 == 0 else 1, axis - unit * UNIT), fill=_INDEX["black"])
    for i, (bar, height, colour) in enumerate(zip(BARS, heights, colours, strict=True)):
        left = i * FIELD
        if height:
            top = axis - height * UNIT
            pen.rectangle((left + side, top, left + FIELD - 1 - side, axis - 1), fill=_INDEX[colour])
        dots = [divmod(at, 3) for at, dot in enumerate(_GLYPHS[bar]) if dot == "#"]
        corner = left + FIELD // 2 - 1
        pen.point([(corner + x, axis + 2 + y) for y, x in dots], fill=_INDEX["black"])
    return picture


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

    The split of a problem is a hash of what its picture shows, 70 / 10 / 20 % train / validation / test. So no
    seed, no size and no other question brings a picture of the test split into training, nor the same chart in
    other colours.

    Args:
        source: Must be None: the task is generated.
        split: `train`, `validation` or `test`.
        seed: Seed of the draw; it never moves a picture from one split to another.
        size: Distinct problems over all splits together.
        kinds: What is asked: `count` and `colour` of grids of shapes, `chart` of charts.
        shuffle: Whether the options of `colour` stand in any order.
        unknown: Refused.

    Raises:
        DataError: An option is unknown or out of range, or `size` exceeds half of the problems there are.
    """
    if unknown:
        raise DataError(
            f"task drawings: unknown option {sorted(unknown)}; there are size, kinds and shuffle."
        )
    if source is not None:
        raise DataError("task drawings is generated: remove `source`.")
    if split not in FRACTIONS:
        raise DataError(f"task drawings: no split {split!r}. {nearest(split, FRACTIONS)}")
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
        _problem(*key, "choice" if kind == "colour" else "number")
        for key, kind in drawn.items()
        if _split_of(key[0]) == split
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
    lines, answer = thought(
        question, scene, random.Random(0)
    )  # nothing is guessed: no empty cell is asked for
    return Problem(
        id=problem_id(question, image),
        dataset="drawings",
        question=question,
        solution=write(lines, answer),
        answer=answer,
        kind=graded,
        image=image,
    )


def _split_of(scene: Scene) -> str:
    return split_of("\n".join(scene.lines()), FRACTIONS, "drawings")


TASK = Task(
    name="drawings",
    about="Small drawings of shapes and bars, and questions whose answers can be checked; generated.",
    kinds=("number", "choice"),
    load=load,
    hub=None,
    licence="Apache-2.0",
    first_error=first_error,
)
