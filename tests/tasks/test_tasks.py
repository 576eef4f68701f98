"""Data sets: layouts, error messages, splits. All rows are invented and written by the tests."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from critique_rl.grading import grade
from critique_rl.tasks import TASKS, drop_overlap, gold_report, load_task, split_problems, subsample
from critique_rl.tasks.math_ import last_boxed
from critique_rl.tasks.published import make_problem
from critique_rl.types import Problem, UserError, problem_id

GSM8K = {
    "question": "A shelf holds 1,000 jars. How many do 3 shelves hold?",
    "answer": "It is 3*1,000=<<3*1000=3000>>3,000.\n#### 3,000",
}
MATH = {
    "problem": "Halve $1$.",
    "solution": r"It is $\boxed{\frac{1}{2}}$.",
    "level": "Level 1",
    "type": "Algebra",
}
AQUA = {
    "question": "A pen costs 3 coins. What do 5 pens cost?",
    "options": ["A)8", "B)12", "C) 15 coins", "D)18", "E)20"],
    "rationale": "5 * 3 = 15. Answer C",
    "correct": "C",
}
SVAMP = {
    "ID": "x-1",
    "Body": "Mia had 9 shells and lost 4.",
    "Question": "How many shells are left?",
    "Equation": "( 9.0 - 4.0 )",
    "Answer": 5.0,
    "Type": "Subtraction",
}
SVAMP_HUB = {
    "question_concat": "Mia had 9 shells and lost 4. How many shells are left?",
    "Equation": "( 9.0 - 4.0 )",
    "Answer": "5.0",
}
THEOREMQA = {"Question": "Is 91 a prime number?", "Answer": False, "Answer_type": "bool", "Picture": None}
ROWS = {"gsm8k": GSM8K, "math": MATH, "aqua": AQUA, "svamp": SVAMP, "theoremqa": THEOREMQA}

needs_reasoning_gym = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="needs the extra 'procedural'"
)


def write_jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def gsm8k_rows(n: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {"question": f"What is {i} + 1?", "answer": f"Count on.\n#### {i + 1}"}
        for i in range(start, start + n)
    ]


def problems(n: int) -> list[Problem]:
    return [
        make_problem(dataset="d", question=f"What is {i} + 1?", solution="", answer=str(i + 1), kind="number")
        for i in range(n)
    ]


def ids(some: list[Problem]) -> set[str]:
    return {problem.id for problem in some}


# Layouts


def test_gsm8k_strips_annotations_and_commas(tmp_path: Path) -> None:
    (problem,) = load_task("gsm8k", source=write_jsonl(tmp_path / "test.jsonl", [GSM8K]), split="test")
    assert problem == Problem(
        id=problem_id(GSM8K["question"]),
        dataset="gsm8k",
        question=GSM8K["question"],
        solution="It is 3*1,000=3,000.",
        answer="3000",
        kind="number",
    )


def test_math_takes_the_answer_from_the_box_or_the_field(tmp_path: Path) -> None:
    rows = [MATH, {**MATH, "problem": "Halve $3$.", "answer": "1.5", "level": 1}]
    from_box, from_field = load_task("math", source=write_jsonl(tmp_path / "test.jsonl", rows), split="test")
    assert (from_box.answer, from_box.kind) == (r"\frac{1}{2}", "math")
    assert from_box.solution == MATH["solution"]
    assert from_field.answer == "1.5"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{1} or \boxed{\sqrt{x^{2}}}", r"\sqrt{x^{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),  # an escaped brace does not count
        (r"so $\fbox{7}$", "7"),
        (r"so $\boxed 3$ it is", "3"),
        (r"\boxed {4}", "4"),
        (r"\boxed{never closed", None),
        ("no box", None),
    ],
)
def test_last_boxed(text: str, expected: str | None) -> None:
    assert last_boxed(text) == expected


def test_aqua_appends_the_options(tmp_path: Path) -> None:
    (problem,) = load_task("aqua", source=write_jsonl(tmp_path / "test.json", [AQUA]), split="test")
    assert problem.question == (
        "A pen costs 3 coins. What do 5 pens cost?\nAnswer Choices: (A) 8 (B) 12 (C) 15 coins (D) 18 (E) 20"
    )
    assert (problem.answer, problem.kind, problem.solution) == ("C", "choice", AQUA["rationale"])


def test_svamp_gives_both_layouts_the_same_identity(tmp_path: Path) -> None:
    path = tmp_path / "svamp.json"
    path.write_text(json.dumps([SVAMP], indent=2))
    (original,) = load_task("svamp", source=str(path), split="test")
    (hub,) = load_task("svamp", source=write_jsonl(tmp_path / "hub.jsonl", [SVAMP_HUB]), split="test")
    assert original == hub
    assert (hub.answer, hub.kind, hub.solution) == ("5", "number", "9 - 4 = 5")


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("( 8.0 / 0.5 )", "8 / 0.5"),
        ("( ( 7.0 + 10.0 ) * 4.0 )", "(7 + 10) * 4"),
        ("( 7.0 + ( 10.0 * 4.0 ) )", "7 + (10 * 4)"),
        ("( 1.0 + 2.0 ) * ( 3.0 + 4.0 )", "(1 + 2) * (3 + 4)"),
        ("9.0", "9"),
    ],
)
def test_svamp_solutions_are_written_as_people_do(tmp_path: Path, equation: str, expected: str) -> None:
    source = write_jsonl(tmp_path / "test.jsonl", [{**SVAMP, "Equation": equation}])
    assert load_task("svamp", source=source, split="test")[0].solution == f"{expected} = 5"


def test_the_file_of_svamp_is_cut_as_the_hub_cuts_it(tmp_path: Path) -> None:
    rows = [{**SVAMP, "ID": f"chal-{n}", "Body": f"Mia had {n} shells."} for n in range(1, 1001)]
    path = write_jsonl(tmp_path / "SVAMP.json", rows)
    train, test = (
        load_task("svamp", source=path, split=split, splits="published", held_out=0)
        for split in ("train", "test")
    )
    assert (len(train), len(test), len({*ids(train), *ids(test)})) == (700, 300, 1000)
    # first rows of both splits on the hub: chal-777 and chal-736
    assert any("777 shells" in p.question for p in train) and any("736 shells" in p.question for p in test)
    held = load_task("svamp", source=path, split="validation", splits="published")
    assert held and ids(held) < ids(train)
    broken = write_jsonl(tmp_path / "broken.json", [{**SVAMP, "ID": "x-1"}])
    with pytest.raises(UserError, match="line 1, field 'ID': found 'x-1', expected `chal-` and a number"):
        load_task("svamp", source=broken, split="test", splits="published")
    for name, also in (("svamp", ", or 'published'"), ("gsm8k", "")):
        wanted = "published" if name == "gsm8k" else "publish"
        with pytest.raises(UserError, match=f"found '{wanted}', expected the share of each split{also}$"):
            load_task(name, source=path, split="test", splits=wanted)


@pytest.mark.parametrize(
    ("answer", "answer_type", "expected"),
    [
        (True, "bool", "True"),
        ("False", "bool", "False"),  # the hub gives text
        (12, "integer", "12"),
        (0.5, "float", "0.5"),
        (3, "float", "3"),
        ([0, 5], "list of integer", "[0, 5]"),
        ([0.5, 1.0], "list of float", "[0.5, 1.0]"),
        ("(c)", "option", "(c)"),
    ],
)
def test_theoremqa_answers(tmp_path: Path, answer: Any, answer_type: str, expected: str) -> None:
    row = {**THEOREMQA, "Answer": answer, "Answer_type": answer_type}
    (problem,) = load_task("theoremqa", source=write_jsonl(tmp_path / "test.jsonl", [row]), split="test")
    assert (problem.answer, problem.kind, problem.solution) == (expected, "mixed", "")


def test_theoremqa_drops_pictures_only_when_asked(tmp_path: Path) -> None:
    rows = [THEOREMQA, {**THEOREMQA, "Question": "What does the plot show?", "Picture": "images/a.png"}]
    source = write_jsonl(tmp_path / "test.jsonl", rows)
    assert len(load_task("theoremqa", source=source, split="test")) == 2
    # Alike in words, unlike in what they refer to.
    rows += [{**rows[1], "Picture": "images/b.png"}, {**rows[1], "Picture": {"path": "c.png", "bytes": None}}]
    more = load_task("theoremqa", source=write_jsonl(tmp_path / "test.jsonl", rows), split="test")
    assert len(more) == len({p.id for p in more}) == 4
    (left,) = load_task("theoremqa", source=source, split="test", pictures="drop")
    assert left.question == THEOREMQA["Question"]
    with pytest.raises(UserError, match="pictures: found 'none', expected 'keep' or 'drop'"):
        load_task("theoremqa", source=source, split="test", pictures="none")


@pytest.mark.parametrize("name", sorted(ROWS))
def test_every_format_gives_the_same_problems(tmp_path: Path, name: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    row = ROWS[name]
    array, lines = tmp_path / "a_test.json", tmp_path / "b_test.json"
    array.write_text(json.dumps([row], indent=1))
    lines.write_text("\n" + json.dumps(row) + "\n\n")  # empty lines are skipped
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "c_test.parquet")
    sources = [
        str(array),
        str(lines),
        write_jsonl(tmp_path / "d_test.jsonl", [row]),
        str(tmp_path / "c_test.parquet"),
    ]
    loaded = [load_task(name, source=source, split="test") for source in sources]
    assert len(loaded[0]) == 1
    assert all(other == loaded[0] for other in loaded)


def test_line_separator_inside_a_string_is_no_new_line(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({**GSM8K, "question": "One\u2028two?"}, ensure_ascii=False), encoding="utf-8")
    (problem,) = load_task("gsm8k", source=str(path), split="test")
    assert problem.question == "One\u2028two?"


def test_directory_files_are_found_by_name(tmp_path: Path) -> None:
    for split, start in (("train", 0), ("dev", 100), ("test", 200)):
        write_jsonl(tmp_path / f"gsm8k_{split}.jsonl", gsm8k_rows(10, start))
    (tmp_path / "README.md").write_text("not data")
    loaded = {
        split: load_task("gsm8k", source=str(tmp_path), split=split)
        for split in ("train", "validation", "test")
    }
    assert [len(part) for part in loaded.values()] == [10, 10, 10]  # a dev file is there: train is whole
    assert loaded["validation"][0].question == "What is 100 + 1?"


def test_math500_is_not_the_test_set_beside_it(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "math_test.jsonl", [MATH])
    only = write_jsonl(tmp_path / "MATH-500_test.jsonl", [{**MATH, "problem": "Halve $8$."}])
    assert load_task("math", source=str(tmp_path), split="test")[0].question == "Halve $1$."
    assert load_task("math", source=str(tmp_path), split="math500")[0].question == "Halve $8$."
    assert load_task("math", source=only, split="test") == load_task("math", source=only, split="math500")


def test_duplicates_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    again = {**GSM8K, "question": "  " + GSM8K["question"].upper(), "answer": "#### 4"}
    source = write_jsonl(tmp_path / "test.jsonl", [GSM8K, GSM8K, again])
    with caplog.at_level(logging.WARNING):
        (problem,) = load_task("gsm8k", source=source, split="test")
    assert problem.answer == "3000"
    assert "dropped 2 of 3 problems as duplicates, 1 of them with another answer" in caplog.text


# Error messages: each names the file, the row and the field


BAD_ROWS = [
    (
        "gsm8k",
        {"question": "?", "text": "x"},
        "missing field 'answer'; fields found: question, text; expected: question",
    ),
    ("gsm8k", {"prompt": "x"}, "unknown layout; fields found: prompt; expected: question, answer"),
    ("gsm8k", {}, "unknown layout; fields found: none"),
    ("gsm8k", {**GSM8K, "question": 7}, "field 'question': found 7, expected text"),
    ("gsm8k", {**GSM8K, "question": " "}, "field 'question': found ' ', expected text that is not empty"),
    (
        "gsm8k",
        {**GSM8K, "answer": "It is 5."},
        "field 'answer': found 'It is 5.', expected a solution that ends in '####",
    ),
    ("gsm8k", {**GSM8K, "answer": "So\n#### many"}, "field 'answer': found 'So\\n#### many', expected"),
    ("gsm8k", ["a", "list"], "found ['a', 'list'], expected an object"),
    (
        "math",
        {**MATH, "solution": "It is 3."},
        "field 'solution': found 'It is 3.', expected a solution with its answer",
    ),
    ("math", {**MATH, "answer": 3}, "field 'answer': found 3, expected text"),
    (
        "aqua",
        {**AQUA, "correct": "F"},
        "field 'correct': found 'F', expected one of the options' letters A, B, C, D, E",
    ),
    ("aqua", {**AQUA, "options": "A)1"}, "field 'options': found 'A)1', expected a list"),
    (
        "aqua",
        {**AQUA, "options": ["A)1", "C)2"]},
        "field 'options': found ['A)1', 'C)2'], expected texts that begin",
    ),
    ("aqua", {**AQUA, "options": [1, 2]}, "field 'options': found [1, 2], expected texts that begin"),
    ("svamp", {**SVAMP, "Answer": "five"}, "field 'Answer': found 'five', expected a number"),
    ("svamp", {**SVAMP, "Answer": True}, "field 'Answer': found True, expected a number"),
    *(
        (
            name,
            {**ROWS[name], field: value},
            f"field {field!r}: found {value!r}, expected a gold answer, not a",
        )
        for name, field in (
            ("svamp", "Answer"),
            ("theoremqa", "Answer"),
            ("aqua", "correct"),
            ("gsm8k", "answer"),
            ("math", "answer"),
        )
        for value in (float("nan"), float("inf"), "NaN", " null ")
    ),
    *(
        (name, {**ROWS[name], field: None}, f"field {field!r}: found None, expected a gold answer, not a")
        for name, field in (
            ("svamp", "Answer"),
            ("theoremqa", "Answer"),
            ("aqua", "correct"),
            ("gsm8k", "answer"),
        )
    ),
    ("svamp", GSM8K, "expected: question_concat, Equation, Answer or Body, Question, Equation, Answer"),
    (
        "theoremqa",
        {**THEOREMQA, "Answer_type": "text"},
        "field 'Answer_type': found 'text', expected one of bool",
    ),
    ("theoremqa", {**THEOREMQA, "Answer": [1]}, "field 'Answer': found [1], expected an answer of type bool"),
    (
        "theoremqa",
        {**THEOREMQA, "Answer_type": "integer"},
        "field 'Answer': found False, expected an answer of type int",
    ),
    ("theoremqa", {**THEOREMQA, "Answer": ""}, "field 'Answer': found '', expected an answer"),
]


@pytest.mark.parametrize(("name", "row", "message"), BAD_ROWS)
def test_a_bad_row_is_named(tmp_path: Path, name: str, row: Any, message: str) -> None:
    source = write_jsonl(tmp_path / "test.jsonl", [ROWS[name], row])
    with pytest.raises(UserError) as error:
        load_task(name, source=source, split="test")
    assert f"{source}, line 2" in str(error.value)
    assert message in str(error.value)


def test_a_bad_row_of_an_array_is_named_by_index(tmp_path: Path) -> None:
    path = tmp_path / "svamp.json"
    path.write_text(json.dumps([SVAMP, {**SVAMP, "Equation": None}]))
    with pytest.raises(UserError, match=r"svamp.json, row 1, field 'Equation': found None, expected text"):
        load_task("svamp", source=str(path), split="test")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("test.jsonl", "", "test.jsonl: no rows"),
        ("test.json", " \n", "test.json: no rows"),
        ("test.json", "[]", "test.json: no rows"),
        ("test.jsonl", '{"question": "a"}\n{"question": ', "test.jsonl, line 2: broken JSON"),
        ("test.json", '[\n{"question": "a"},\n{]', "test.json, line 3: broken JSON"),
        (
            "test.csv",
            "question,answer",
            "test.csv: unknown kind of file, expected one of .jsonl, .json, .parquet",
        ),
        ("test.parquet", "not one", "test.parquet: not a parquet file"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError) as error:
        load_task("gsm8k", source=str(tmp_path / file), split="test")
    assert message in str(error.value)


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_bytes('{"question": "café"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"test.jsonl: not UTF-8 text, byte 17"):
        load_task("gsm8k", source=str(tmp_path / "test.jsonl"), split="test")


def test_missing_paths_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.jsonl: no such file or directory"):
        load_task("gsm8k", source=str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(UserError, match=r"the directory has no \.jsonl, \.json, \.parquet file"):
        load_task("gsm8k", source=str(tmp_path))
    write_jsonl(tmp_path / "rows.jsonl", [GSM8K])
    with pytest.raises(UserError, match=r"no file name says its split, .* found rows.jsonl"):
        load_task("gsm8k", source=str(tmp_path))
    write_jsonl(tmp_path / "a_test.jsonl", [GSM8K])
    with pytest.raises(UserError, match=r"no split 'train'\. There are: test\. Name a file of that split"):
        load_task("gsm8k", source=str(tmp_path))
    write_jsonl(tmp_path / "b_test.jsonl", [GSM8K])
    with pytest.raises(UserError, match=r"more than one file for split 'test': a_test.jsonl, b_test.jsonl"):
        load_task("gsm8k", source=str(tmp_path), split="test")


def test_unknown_names_suggest_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"no task 'gms8k'\. Did you mean 'gsm8k'\? There are: aqua, cnn_dailymail, custom, drawings, gsm8k",
    ):
        load_task("gms8k")
    with pytest.raises(UserError, match=r"task gsm8k: no option 'heldout'\. Did you mean 'held_out'\?"):
        load_task("gsm8k", heldout=0.2)
    source = write_jsonl(tmp_path / "rows.jsonl", [GSM8K])
    with pytest.raises(UserError, match=r"no split 'tset'\. Did you mean 'test'\?"):
        load_task("gsm8k", source=source, split="tset")


# The hub


@pytest.mark.parametrize(
    ("name", "split", "calls"),
    [
        ("gsm8k", "test", [("openai/gsm8k", "main", "test")]),
        ("math", "math500", [("HuggingFaceH4/MATH-500", "default", "test")]),
        ("aqua", "validation", [("deepmind/aqua_rat", "raw", "validation")]),
        ("svamp", "test", [("ChilleD/SVAMP", "default", "test")]),
        ("theoremqa", "test", [("TIGER-Lab/TheoremQA", "default", "test")]),
    ],
)
def test_hub_rows_are_parsed_like_local_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, split: str, calls: list[tuple[str, str, str]]
) -> None:
    datasets = pytest.importorskip("datasets")
    seen = []

    def load_dataset(repo: str, config: str, *, split: str) -> Any:
        seen.append((repo, config, split))
        return datasets.Dataset.from_list([ROWS[name]])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    local = load_task(name, source=write_jsonl(tmp_path / "test.jsonl", [ROWS[name]]), split="test")
    assert load_task(name, split=split) == local
    assert seen == calls


def test_math_reads_every_subject_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(repo: str, config: str, *, split: str) -> Any:
        return datasets.Dataset.from_list([{**MATH, "problem": f"{config} {split}"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    loaded = load_task("math", split="test")
    assert len(loaded) == 7
    assert loaded[0].question == "algebra test"


def test_an_unreachable_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(repo: str, config: str, *, split: str) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError) as error:
        load_task("gsm8k", split="test")
    assert "openai/gsm8k (config main, split test)" in str(error.value)
    assert "no route" in str(error.value)
    assert "let `source` be a local file" in str(error.value)


def test_a_split_that_is_not_published_is_refused() -> None:
    with pytest.raises(UserError, match=r"TIGER-Lab/TheoremQA: no split 'train'\. There are: test"):
        load_task("theoremqa", split="train")


# Splits


def test_splits_are_disjoint_and_complete() -> None:
    fractions = {"train": 0.8, "validation": 0.1, "test": 0.1}
    parts = split_problems(problems(2000), fractions=fractions, salt="s")
    assert list(parts) == list(fractions)
    assert sum(map(len, parts.values())) == 2000
    assert set.union(*map(ids, parts.values())) == ids(problems(2000))
    # 2000 * 0.1 = 200 with a standard deviation of sqrt(2000 * 0.1 * 0.9) = 13.4; five of them are 67.
    assert abs(len(parts["test"]) - 200) < 67
    assert abs(len(parts["validation"]) - 200) < 67


def test_a_split_depends_on_the_problem_alone() -> None:
    fractions = {"train": 0.5, "test": 0.5}
    few = split_problems(problems(100), fractions=fractions, salt="s")
    many = split_problems(problems(300)[::-1], fractions=dict(reversed(fractions.items())), salt="s")
    for name in fractions:
        assert ids(few[name]) == ids(many[name]) & ids(problems(100))
    other = split_problems(problems(100), fractions=fractions, salt="another")
    assert ids(few["test"]) != ids(other["test"])


def test_splits_keep_the_order() -> None:
    for part in split_problems(problems(50), fractions={"a": 0.5, "b": 0.5}, salt="s").values():
        assert part == [problem for problem in problems(50) if problem in part]


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"train": 0.8, "test": 0.1}, "expected 1"),
        ({"train": 1.2, "test": -0.2}, "fraction of 'test' is -0.2, expected a number above 0"),
        ({"train": "all"}, "fraction of 'train' is 'all'"),
        ({}, "expected names with fractions"),
        (["train"], "expected names with fractions"),
    ],
)
def test_bad_fractions_are_refused(fractions: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_problems(problems(3), fractions=fractions, salt="s")


def test_validation_is_held_out_of_train(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "train.jsonl", gsm8k_rows(1000))
    train, validation = (load_task("gsm8k", source=source, split=split) for split in ("train", "validation"))
    assert not ids(train) & ids(validation)
    assert len(train) + len(validation) == 1000
    assert abs(len(validation) - 100) < 48  # five standard deviations of sqrt(1000 * 0.1 * 0.9) = 9.5

    more = write_jsonl(tmp_path / "more_train.jsonl", gsm8k_rows(1500)[::-1])
    assert ids(validation) <= ids(load_task("gsm8k", source=more, split="validation", seed=5))
    assert ids(train) <= ids(load_task("gsm8k", source=more, split="train", seed=5))

    assert len(load_task("gsm8k", source=source, split="train", held_out=0)) == 1000
    with pytest.raises(UserError, match="held_out: found 0, expected a share between 0 and 1 for validation"):
        load_task("gsm8k", source=source, split="validation", held_out=0)
    with pytest.raises(UserError, match="held_out: found 1"):
        load_task("gsm8k", source=source, split="train", held_out=1)


def test_one_file_can_serve_every_split(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "everything.jsonl", gsm8k_rows(500))
    splits = {"train": 0.8, "validation": 0.1, "test": 0.1}
    loaded = {split: load_task("gsm8k", source=source, split=split, splits=splits) for split in splits}
    assert sum(map(len, loaded.values())) == len(set.union(*map(ids, loaded.values()))) == 500
    assert all(loaded.values())
    with pytest.raises(UserError, match=r"no split 'dev' in `splits`\. There are: train, validation, test"):
        load_task("gsm8k", source=source, split="dev", splits=splits)
    with pytest.raises(UserError, match="splits: only for a single local file"):
        load_task("gsm8k", source=str(tmp_path), split="train", splits=splits)
    with pytest.raises(UserError, match="splits: only for a single local file"):
        load_task("gsm8k", split="train", splits=splits)
    tiny = write_jsonl(tmp_path / "tiny.jsonl", gsm8k_rows(1))
    with pytest.raises(UserError, match=r"tiny.jsonl: split '\w+' is empty"):
        for split in splits:
            load_task("gsm8k", source=tiny, split=split, splits=splits)


def test_a_file_serves_no_split_that_its_name_denies(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "gsm8k_train.jsonl", gsm8k_rows(10))
    unnamed = write_jsonl(tmp_path / "gsm8k.jsonl", gsm8k_rows(10))
    with pytest.raises(UserError, match=r"gsm8k_train.jsonl: no split 'test'\. There are: train"):
        load_task("gsm8k", source=train, split="test")
    with pytest.raises(
        UserError, match=r"gsm8k.jsonl: no split 'train'\. There are: test\. .*option `splits`"
    ):
        load_task("gsm8k", source=unnamed, split="train")
    assert len(load_task("gsm8k", source=unnamed, split="test")) == 10


def test_drop_overlap(caplog: pytest.LogCaptureFixture) -> None:
    assert drop_overlap(problems(10), problems(4)) == problems(10)[4:]
    assert "dropped 4 of 10" in caplog.text


# The limit


def test_limit_draws_by_seed_and_keeps_the_order(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "test.jsonl", gsm8k_rows(200))
    whole = load_task("gsm8k", source=source, split="test")
    drawn = load_task("gsm8k", source=source, split="test", limit=20)
    assert drawn == load_task("gsm8k", source=source, split="test", limit=20)
    assert drawn == [problem for problem in whole if problem in drawn]
    assert len(drawn) == 20
    assert drawn != whole[:20]
    assert ids(drawn) != ids(load_task("gsm8k", source=source, split="test", limit=20, seed=1))
    # Were it a prefix, no draw would reach the second half: 20 fair draws miss it with chance 1e-6.
    assert ids(drawn) & ids(whole[100:])


def test_a_smaller_limit_is_part_of_a_larger_one() -> None:
    assert ids(subsample(problems(100), 10, 0)) < ids(subsample(problems(100), 30, 0))
    assert ids(subsample(problems(100), 10, 0)) == ids(subsample(problems(100)[::-1], 10, 0))
    assert subsample(problems(5), 9, 0) == subsample(problems(5), None, 0) == problems(5)


@pytest.mark.parametrize("limit", [0, -1, 2.5, True])
def test_bad_limits_are_refused(limit: Any) -> None:
    with pytest.raises(UserError, match="limit: found"):
        subsample(problems(5), limit, 0)


# reasoning-gym


@needs_reasoning_gym
def test_reasoning_gym_splits_never_overlap_whatever_the_seed() -> None:
    config = {"min_terms": 2, "max_terms": 3, "max_digits": 1}  # few problems, so that draws meet again
    loaded = {
        (split, seed): ids(
            load_task("reasoning_gym", split=split, seed=seed, dataset="chain_sum", size=300, config=config)
        )
        for split in ("train", "validation", "test")
        for seed in (42, 43, 44)
    }
    for (split, _), first in loaded.items():
        for (other, _), second in loaded.items():
            if split != other:
                assert not first & second
    assert sum(len(loaded[split, 42]) for split in ("train", "validation", "test")) == 300
    assert loaded["train", 42] & loaded["train", 43]  # they do meet within a split


@needs_reasoning_gym
def test_neighbouring_seeds_of_reasoning_gym_share_next_to_nothing() -> None:
    first, second = (
        load_task("reasoning_gym", seed=seed, dataset="chain_sum", size=200, splits={"train": 1.0})
        for seed in (42, 43)
    )
    assert len(first) == len(second) == 200
    assert len(ids(first) & ids(second)) < 10
    assert first == load_task("reasoning_gym", seed=42, dataset="chain_sum", size=200, splits={"train": 1.0})


@needs_reasoning_gym
def test_reasoning_gym_answers_are_recomputed() -> None:
    for problem in load_task("reasoning_gym", dataset="chain_sum", size=50):
        expression = problem.question.split(":")[-1].strip().removesuffix("=").strip()
        terms = expression.split()
        total = int(terms[0]) + sum(
            int(term) * (1 if sign == "+" else -1)
            for sign, term in zip(terms[1::2], terms[2::2], strict=True)
        )
        assert int(problem.answer) == total
        assert (problem.kind, problem.dataset) == ("number", "reasoning_gym/chain_sum")


@needs_reasoning_gym
@pytest.mark.parametrize(
    ("dataset", "kind"),
    [
        ("gcd", "number"),
        ("dice", "number"),  # fractions
        ("coin_flip", "number"),  # some with an exponent
        ("course_schedule", "yes_no"),
        ("complex_arithmetic", "math"),
    ],
)
def test_reasoning_gym_kinds(dataset: str, kind: str) -> None:
    assert {p.kind for p in load_task("reasoning_gym", dataset=dataset, size=40)} == {kind}


@needs_reasoning_gym
def test_reasoning_gym_kind_can_be_chosen() -> None:
    assert load_task("reasoning_gym", dataset="spell_backward", size=20, kind="mixed")[0].kind == "mixed"


@needs_reasoning_gym
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give the option `dataset`"),
        ({"dataset": "chainsum"}, "no data set 'chainsum'. Did you mean 'chain_sum'"),
        ({"dataset": "chain_sum", "size": 0}, "size: found 0"),
        ({"dataset": "chain_sum", "split": "dev"}, "no split 'dev'. There are: train, validation, test"),
        ({"dataset": "chain_sum", "config": {"terms": 2}}, "config of chain_sum: no field 'terms'"),
        ({"dataset": "chain_sum", "config": {"seed": 2}}, "config of chain_sum: no field 'seed'"),
        ({"dataset": "chain_sum", "config": {"min_terms": 9}}, "config of chain_sum: AssertionError"),
        ({"dataset": "chain_sum", "kind": "numbers"}, "kind: found 'numbers'. Did you mean 'number'"),
        ({"dataset": "chain_sum", "source": "a.jsonl"}, "generated: remove `source`"),
        (
            {"dataset": "spell_backward", "size": 20},
            "spell_backward: answers like .* choose how to grade them",
        ),
        ({"dataset": "graph_color", "size": 2}, "graph_color, item 0: found answer None, expected text"),
        (
            {
                "dataset": "chain_sum",
                "size": 500,
                "config": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
            },
            r"chain_sum: only \d+ distinct problems in 5000 draws, expected 500; lower `size`",
        ),
    ],
)
def test_reasoning_gym_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_task("reasoning_gym", **options)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(UserError, match=r"needs an extra: pip install 'critique_rl\[procedural\]'"):
        load_task("reasoning_gym", dataset="chain_sum")


# The registry and the check of the gold answers


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_is_described(name: str) -> None:
    task = TASKS[name]
    assert task.name == name
    assert task.about
    assert task.licence
    assert task.kinds


def test_modular_chain_loads_through_the_registry() -> None:
    parts = {
        split: load_task("modular_chain", split=split, size=300) for split in ("train", "validation", "test")
    }
    assert sum(map(len, parts.values())) == 300
    assert len(load_task("modular_chain", size=300, limit=7)) == 7
    for options in ({"steps": 0}, {"size": 0}, {"size": "100"}, {"steps": 2.0}, {"size": True}):
        (name,) = options
        with pytest.raises(UserError, match=rf"{name}=.*expected a whole number from 1 on"):
            load_task("modular_chain", **options)
    first_error = TASKS["modular_chain"].first_error
    assert first_error is not None
    assert first_error(parts["train"][0], parts["train"][0].solution) is None


def test_every_gold_answer_of_the_layouts_passes(tmp_path: Path) -> None:
    for name, row in ROWS.items():
        report = gold_report(
            load_task(name, source=write_jsonl(tmp_path / "test.jsonl", [row]), split="test")
        )
        assert (report.correct, report.wrong, report.ungradable) == (1, 0, 0), report.summary()


@pytest.mark.parametrize(
    ("name", "wrong"), [("gsm8k", "300"), ("math", "2"), ("aqua", "D"), ("svamp", "6"), ("theoremqa", "True")]
)
def test_a_wrong_answer_does_not_pass(tmp_path: Path, name: str, wrong: str) -> None:
    (problem,) = load_task(name, source=write_jsonl(tmp_path / "test.jsonl", [ROWS[name]]), split="test")
    assert grade(gold=problem.answer, reply=f"The answer is {wrong}.", kind=problem.kind) is False


def test_gold_report_lists_what_does_not_pass() -> None:
    bad = make_problem(dataset="d", question="How many?", solution="", answer="a few", kind="number")
    report = gold_report([*problems(3), bad])
    assert (report.correct, report.wrong + report.ungradable) == (3, 1)
    (failure,) = report.failures
    assert (failure.id, failure.gold) == (bad.id, "a few")
    assert failure.reason
    assert "4 gold answers: 3 correct" in report.summary()
    assert "'a few'" in report.summary()
    assert "and 1 more" in report.summary(most=0)
