"""Your own problems from a local file: one problem per row, with field names of your choice.

    {"question": "An apple is 2 cents, a pear 3. What do both cost?", "answer": 5}

Optional fields: `solution`, the gold reasoning; `kind`, the way to grade the answer; `image`, a `data:` URL or a
path relative to the file's folder. Files and their slices give the splits, as for published data.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from critique_rl.tasks.base import DataError, Task
from critique_rl.tasks.published import load_published
from critique_rl.tasks.rows import Row
from critique_rl.types import KINDS, AnswerKind, Problem, problem_id


def parse(row: Row, *, fields: dict[str, str], kind: AnswerKind, folder: Path) -> Problem:
    """Turn a row into a problem; `kind` is for rows without a `kind`, paths of images start from `folder`."""
    row.layout((fields["question"], fields["answer"]))
    image = named_image = row.text(fields["image"]) if row.fields.get(fields["image"]) is not None else None
    if image is not None and not image.startswith("data:"):
        image = str(folder / Path(image).expanduser())
        if not Path(image).is_file():
            raise row.error(fields["image"], f"a file, at {image}, or a data: URL")
    row_kind = kind if row.fields.get("kind") is None else row.fields["kind"]
    if row_kind not in KINDS:
        raise row.error("kind", f"one of {', '.join(KINDS)}")
    question = row.text(fields["question"])
    has_solution = row.fields.get(fields["solution"])
    return Problem(
        id=problem_id(question, named_image),  # the path as the row has it: moving the folder keeps the id
        dataset="custom",
        question=question,
        solution=row.text(fields["solution"], may_be_empty=True) if has_solution else "",
        answer=row.gold(fields["answer"]),
        kind=row_kind,
        image=image,
    )


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
        source: A file (.jsonl, .json, .parquet), or a folder with one file per split.
        split: `train`, `validation` or `test`.
        seed: Not used; every task has this parameter.
        kind: Way to grade rows without a field `kind`: `math`, `number`, `choice`, `yes_no`, `mixed`, or `score`
            with a scorer.
        question: Name of the field with the question.
        answer: Name of the field with the gold answer.
        solution: Name of the optional field with the gold reasoning.
        image: Name of the optional field with the picture.
        splits: For one file that holds all splits, the share of each; see `load_published`.
        held_out: Share of train in the validation slice, if there is no validation file.

    Raises:
        DataError: There is no source, `kind` is unknown, or `load_published` raises it.
    """
    if source is None:
        raise DataError("task custom: `source` is missing; name your file or folder.")
    if kind not in KINDS:
        raise DataError(f"task custom: kind {kind!r} is none of {', '.join(KINDS)}.")
    path = Path(source).expanduser()
    fields = {"question": question, "answer": answer, "solution": solution, "image": image}
    parse_row = partial(parse, fields=fields, kind=kind, folder=path if path.is_dir() else path.parent)
    return load_published(
        parse_row, {}, source=source, split=split, seed=seed, splits=splits, held_out=held_out
    )


TASK = Task(
    name="custom",
    about="Your own problems from a local file.",
    kinds=KINDS,
    load=load,
    licence="yours",
)
