"""Problems of your own: one row a problem, under field names of your choice.

    {"question": "An apple is 2 cents, a pear 3. What do both cost?", "answer": 5}

It may have `solution`, the gold reasoning, `kind`, how the answer is graded, and `image`, a `data:` URL or a path
that starts at the file's folder. A split is a file, a slice of it or one of a folder, as for published data.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import get_args

from critique_rl.tasks.base import DataError, Task
from critique_rl.tasks.published import load_published
from critique_rl.tasks.rows import Row
from critique_rl.types import AnswerKind, GradedKind, Problem, problem_id

KINDS: tuple[AnswerKind, ...] = (*get_args(GradedKind), "score")


def parse(row: Row, *, fields: dict[str, str], kind: AnswerKind, folder: Path) -> Problem:
    """Turn a row into a problem."""
    row.layout((fields["question"], fields["answer"]))
    shown = row.text(fields["image"]) if row.fields.get(fields["image"]) is not None else None
    image = shown
    if image is not None and not image.startswith("data:"):
        image = str(folder / Path(image).expanduser())
        if not Path(image).is_file():
            raise row.error(fields["image"], f"a file, at {image}, or a data: URL")
    own = kind if row.fields.get("kind") is None else row.fields["kind"]
    if own not in KINDS:
        raise row.error("kind", f"one of {', '.join(KINDS)}")
    question = row.text(fields["question"])
    return Problem(
        id=problem_id(question, shown),  # the same wherever the folder lies
        dataset="custom",
        question=question,
        solution=row.text(fields["solution"], may_be_empty=True)
        if row.fields.get(fields["solution"])
        else "",
        answer=_answer(row, fields["answer"]),
        kind=own,
        image=image,
    )


def _answer(row: Row, field: str) -> str:
    value = row.fields[field]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return row.text(field)
    return str(int(value)) if float(value).is_integer() else str(value)


def load(
    *,
    source: str | None,
    split: str,
    seed: int,
    kind: str = "math",
    question: str = "question",
    answer: str = "answer",
    solution: str = "solution",
    image: str = "image",
    splits: Mapping[str, float] | None = None,
    held_out: float = 0.1,
) -> list[Problem]:
    """Load one split of local files.

    Args:
        source: A file (.jsonl, .json, .parquet), or a folder with one for each split.
        split: `train`, `validation` or `test`.
        seed: Plays no part here; every task takes one.
        kind: How answers are graded, where a row does not say: `math`, `number`, `choice`, `yes_no`, `mixed`, or
            `score` with a scorer.
        question: Name of the field with the question.
        answer: Name of the field with the gold answer.
        solution: Name of the field with the gold reasoning, which may be missing.
        image: Name of the field with the picture, which may be missing.
        splits: For one file that serves every split, the share of each, see `load_published`.
        held_out: Share of train that is the validation slice, where there is no file of one.

    Raises:
        DataError: There is no source, or a row is not as it should be.
    """
    if source is None:
        raise DataError("task custom: `source` is missing; name your file or folder.")
    if kind not in KINDS:
        raise DataError(f"task custom: kind {kind!r} is none of {', '.join(KINDS)}.")
    path = Path(source).expanduser()
    fields = {"question": question, "answer": answer, "solution": solution, "image": image}
    folder = path if path.is_dir() else path.parent
    one = partial(parse, fields=fields, kind=kind, folder=folder)
    return load_published(one, {}, source=source, split=split, seed=seed, splits=splits, held_out=held_out)


TASK = Task(
    name="custom",
    about="Problems of a file of your own.",
    kinds=KINDS,
    load=load,
    hub=None,
    licence="yours",
)
