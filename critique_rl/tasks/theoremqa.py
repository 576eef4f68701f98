"""TheoremQA: university-level questions that each need a theorem; answers of six types. Test data only.

Source: https://huggingface.co/datasets/TIGER-Lab/TheoremQA, licence MIT; 800 test questions, 53 of them refer to
a picture. `theoremqa_test.json` of TIGER-AI-Lab/TheoremQA is an array; on the hub `Answer` is text:

    {"Question": "Is 91 a prime number?", "Answer": false, "Answer_type": "bool", "Picture": null}
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Literal

from critique_rl.tasks.base import DataError, Task
from critique_rl.tasks.published import load_published, make_problem
from critique_rl.tasks.rows import HubSplit, Row
from critique_rl.types import Problem

HUB = {"test": HubSplit("TIGER-Lab/TheoremQA", ("default",), "test")}
PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "integer": (int,),
    "float": (int, float),
    "list of integer": (list,),
    "list of float": (list,),
    "option": (str,),
}


def parse(row: Row) -> Problem:
    """Turn a row into a problem; the answer is in Python notation, e.g. `True` or `[0, 5]`."""
    row.layout(("Question", "Answer", "Answer_type"))
    answer_type = row.text("Answer_type")
    if answer_type not in PYTHON_TYPES:
        raise row.error("Answer_type", f"one of {', '.join(PYTHON_TYPES)}")
    answer = row.known("Answer")
    number_as_bool = isinstance(answer, bool) and answer_type != "bool"
    if number_as_bool or not isinstance(answer, (str, *PYTHON_TYPES[answer_type])) or not str(answer).strip():
        raise row.error("Answer", f"an answer of type {answer_type}")
    return make_problem(
        dataset="theoremqa",
        question=row.text("Question"),
        solution="",
        answer=str(answer).strip(),
        kind="mixed",
        picture=_picture(row.fields.get("Picture")),
    )


def _picture(value: Any) -> str | None:
    """Identify a picture, which the actor does not see: by file name, or by a hash of its content on the hub."""
    if isinstance(value, Mapping):
        content = value.get("bytes")
        value = value.get("path") if content is None else hashlib.sha256(content).hexdigest()
    return PurePath(str(value)).name if value else None


def load(
    *,
    source: str | None,
    split: str,
    seed: int,
    splits: Mapping[str, float] | None = None,
    held_out: float = 0.1,
    pictures: Literal["keep", "drop"] = "keep",
) -> list[Problem]:
    """Load one split; see `load_published` for the other options and for errors.

    `pictures="drop"` leaves out the questions that refer to a picture; the paper keeps all 800.
    """
    if pictures not in ("keep", "drop"):
        raise DataError(f"pictures: found {pictures!r}, expected 'keep' or 'drop'")

    def read(row: Row) -> Problem | None:
        return parse(row) if pictures == "keep" or row.fields.get("Picture") is None else None

    return load_published(read, HUB, source=source, split=split, seed=seed, splits=splits, held_out=held_out)


TASK = Task(
    name="theoremqa",
    about="University-level questions that need a theorem; answers of six types.",
    kinds=("mixed",),
    load=load,
    hub="TIGER-Lab/TheoremQA",
    licence="MIT",
)
