"""CNN/DailyMail from files and from the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from critique_rl import tasks
from critique_rl.tasks.cnn_dailymail import TASK
from critique_rl.types import UserError, problem_id

NEWS = {
    "article": "The bridge closed on Monday. Repairs take a year.",
    "highlights": "Bridge closed .\nRepairs take a year .",
    "id": "0a1b",
}


def write_rows(path: Path, rows: list[Any]) -> str:
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["test.jsonl", "test.parquet"])
def test_news_from_a_file(tmp_path: Path, name: str) -> None:
    (problem,) = TASK.load(source=write_rows(tmp_path / name, [NEWS]), split="test", seed=0)
    assert (problem.id, problem.dataset) == (problem_id(NEWS["article"]), "cnn_dailymail")
    assert (problem.question, problem.answer) == (NEWS["article"], NEWS["highlights"])
    assert (problem.solution, problem.kind) == (NEWS["highlights"], "score")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_news_from_the_hub(monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    seen = []

    def load_dataset(repo: str, config: str, *, split: str) -> Any:
        seen.append((repo, config, split))
        return datasets.Dataset.from_list([NEWS])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [p.question for p in tasks.load_task("cnn_dailymail", split=split)] == [NEWS["article"]]
    assert seen == [("abisee/cnn_dailymail", "3.0.0", split)]  # validation is published, not cut from train


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"article": "a", "id": "1"}, r"test\.jsonl, line 2: missing field 'highlights'"),
        ({**NEWS, "article": " "}, r"test\.jsonl, line 2, field 'article': found ' ', expected text that is"),
        ({**NEWS, "highlights": None}, r"test\.jsonl, line 2, field 'highlights': found None, expected text"),
        ([1], r"test\.jsonl, line 2: found \[1\], expected an object"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: Any, message: str) -> None:
    source = write_rows(tmp_path / "test.jsonl", [NEWS, row])
    with pytest.raises(UserError, match=message):
        TASK.load(source=source, split="test", seed=0)
