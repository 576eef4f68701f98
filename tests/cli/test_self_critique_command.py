"""`critique-rl self-critique`: real models judge what an evaluation has sampled."""

from __future__ import annotations

import json
import math
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import environment, hear_ctrl_c, png, read_jsonl, teach, write_jsonl, write_response

from critique_rl.cli import commands as cli
from critique_rl.cli.self_critique import judges
from critique_rl.cold_start import tiny_vl
from critique_rl.cold_start.tiny import save_untrained
from critique_rl.evaluation.intervals import interval, wilson
from critique_rl.evaluation.protocol import Protocol, evaluate
from critique_rl.grading import extract_answer
from critique_rl.prompts import COMPACT
from critique_rl.self_critique import shuffled
from critique_rl.types import Conversation, Generation, Problem, Sampling, UserError, child_seed
from critique_rl.vision.images import data_url

SAMPLES, PROBLEMS = 8, 30
Row = dict[str, Any]


@pytest.fixture(scope="module")
def judge_dir(tmp_path_factory: pytest.TempPathFactory, problems: list[Problem]) -> Path:
    """A judge that names the response without an open step, and names none if both have one."""
    rng = random.Random(0)
    chats = []
    for problem in problems * 6:
        right = [rng.random() < 0.5 for _ in range(2)]
        first, second = (written(problem, r, rng) for r in right)
        reply = f"\\boxed{{{1 if right[0] else 2}}}" if any(right) else "Wrong"
        chats.append((COMPACT.pairwise_prompt(problem.question, first, second), reply))
    directory = tmp_path_factory.mktemp("models") / "judge"
    teach(directory, chats, seed=3, steps=240)
    return directory


@pytest.fixture(scope="module")
def mute_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge with random weights, which writes no readable judgement."""
    directory = tmp_path_factory.mktemp("models") / "mute"
    save_untrained(directory, seed=1)
    return directory


def written(problem: Problem, right: bool, rng: random.Random) -> str:
    wrong = [value for value in range(10) if str(value) != problem.answer]
    return write_response(problem, int(problem.answer) if right else rng.choice(wrong))


class Sampler:
    """Answers right with a probability of 0.3."""

    name = "sampler"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = {p.question: p for p in problems}

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        rng = random.Random(sampling.seed)
        asked = [next(p for q, p in self.problems.items() if q in prompt[0]["content"]) for prompt in prompts]
        return [Generation(written(p, rng.random() < 0.3, rng), 9, 9, False) for p in asked]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory, problems: list[Problem]) -> Path:
    """Records of an evaluation; one of its replies could not be graded."""
    path, greedy = tmp_path_factory.mktemp("evaluated") / "records.jsonl", Sampling(20)
    protocol = Protocol(COMPACT, greedy, greedy, greedy, seed=1, samples=SAMPLES)
    evaluate(problems[:PROBLEMS], Sampler(problems), None, protocol, records=path)
    rows = read_jsonl(path)
    rows[3]["response_correct"] = None
    return write_jsonl(path, rows)


def command(records: Path, output: Path, *more: str, quiet: bool = True) -> int:
    given = ["self-critique", str(records), str(output), "--prompts", "compact", "--max-tokens", "12", *more]
    return cli.main([*given, "--quiet"] if quiet else given)


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, records: Path, judge_dir: Path, mute_dir: Path
) -> Path:
    """Output folder of the command with two judges."""
    output = tmp_path_factory.mktemp("chosen") / "out"
    assert command(records, output, "--judge", str(judge_dir), "--judge", f"none={mute_dir}") == 0
    return output


# --- an independent reading of the files ----------------------------------------------------------------


def pools(records: Path) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in sorted(read_jsonl(records), key=lambda row: row["sample"]):
        found.setdefault(row["id"], []).append(row)
    return found


def replay(lines: Sequence[Row], pool: str) -> list[list[int]]:
    """Candidates left after each round, from the judgements of one problem in both orders."""
    mine = [line for line in lines if line["item"] == pool]
    left = [
        place
        for line in mine
        if line["round"] == 0 and line["order"] == "forward"
        for place in (line["first"], line["second"])
    ]
    rounds = [left]
    while len(left) > 1:
        number, winners = len(rounds) - 1, []
        for pair, two in enumerate(zip(left[::2], left[1::2], strict=True)):
            calls = {j["order"]: j for j in mine if (j["round"], j["pair"]) == (number, pair)}
            forward, swapped = calls["forward"], calls["swapped"]
            assert (forward["first"], forward["second"]) == two == (swapped["second"], swapped["first"])
            said = [
                None if j["label"] is None else (j["first"], j["second"])[j["label"] - 1]
                for j in (forward, swapped)
            ]
            if said == [None, None]:
                winners.append(two[0])
            elif said[0] == said[1]:
                winners.append(two[0] if said[0] == two[0] else two[1])
            else:
                winners.append(two[child_seed(0, "coin", pool, number, pair) % 2])
        left = winners
        rounds.append(left)
    return rounds


def mean(grades: Sequence[bool | None]) -> float | None:
    known = [grade for grade in grades if grade is not None]
    return sum(known) / len(known) if known else None


def voted(pool: Sequence[Row], block: Sequence[int]) -> bool | None:
    answers = [extract_answer(pool[i]["response"], pool[i]["kind"]) for i in block]
    votes = Counter(a for a in answers if a is not None)
    if not votes:
        return False
    winner = max(votes, key=lambda a: (votes[a], -answers.index(a)))
    grades = [pool[i]["response_correct"] for i, a in zip(block, answers, strict=True) if a == winner]
    return next((g for g in grades if g is not None), None)


def shown(table: str, method: str) -> list[str]:
    """Cells of the first row of a method."""
    line = next(line for line in table.splitlines() if line.startswith(f"| {method} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def cell(values: dict[str, float | None], sign: str = "") -> str:
    low, high = interval(values, seed=0) or (0.0, 0.0)
    known = statistics.fmean(v for v in values.values() if v is not None)
    return f"{known:{sign}.1%} ({low:{sign}.1%} to {high:{sign}.1%})"


def test_the_tables_follow_from_records_and_judgements(finished: Path, records: Path) -> None:
    table = (finished / "self_critique.md").read_text(encoding="utf-8")
    accuracies, gains, behaviour = table.split("\n\n")[1::2]
    content = json.loads((finished / "self_critique.json").read_text(encoding="utf-8"))
    rows = {row["method"]: row for row in content["rows"]}
    assert list(rows) == ["single", "majority", "random", "pass", "judge", "none"]
    asked = pools(records)
    assert len(asked) == PROBLEMS and {len(pool) for pool in asked.values()} == {SAMPLES}

    grades = {i: [row["response_correct"] for row in pool] for i, pool in asked.items()}
    orders = {i: shuffled(i, SAMPLES, seed=0) for i in asked}
    votes: dict[int, dict[str, float | None]] = {}
    for place, n in enumerate((1, 2, 4, 8)):
        votes[n] = {}
        oracle: dict[str, float | None] = {}
        for i, pool in asked.items():
            cut = [orders[i][start : start + n] for start in range(0, SAMPLES, n)]
            votes[n][i] = mean([voted(pool, block) for block in cut])
            known = [grade for grade in grades[i] if grade is not None]
            wrong = math.comb(known.count(False), n) / math.comb(len(known), n) if len(known) >= n else None
            oracle[i] = None if wrong is None else 1 - wrong
        single = {i: mean(of) for i, of in grades.items()}
        for label, values in (
            ("Majority vote", votes[n]),
            ("Oracle, pass@n", oracle),
            ("One sample, pass@1", single),
        ):
            assert shown(accuracies, label)[place] == cell(values), (label, n)

    for name in ("judge", "none"):
        lines = read_jsonl(finished / "judgements" / f"{name}.jsonl")
        assert len(lines) == PROBLEMS * 2 * (SAMPLES - 1)
        rounds = {i: replay(lines, i) for i in asked}
        assert all(rounds[i][0] == list(orders[i]) for i in asked)
        for place, n in enumerate((1, 2, 4, 8)):
            chosen = {i: mean([grades[i][c] for c in rounds[i][n.bit_length() - 1]]) for i in asked}
            assert shown(accuracies, name)[place] == cell(chosen), (name, n)
            found = rows[name]["metrics"][f"acc_at_{n}"]
            average = statistics.fmean(v for v in chosen.values() if v is not None)
            assert found["mean"] == pytest.approx(average, abs=1e-12) and found["values"] == [found["mean"]]
            gain: dict[str, float | None] = {}
            for i in asked:
                ours, theirs = chosen[i], votes[n][i]
                gain[i] = None if ours is None or theirs is None else ours - theirs
            assert shown(gains, name)[place] == cell(gain, "+"), (name, n)
            spent = [
                j["tokens"] for j in lines if 2 << j["round"] <= n
            ]  # whole blocks alone, as 8 is a power of two
            counts = rows[name]["counts"][str(n)]
            assert counts["calls"] == 2 * (n - 1)
            assert counts["tokens"] == pytest.approx(sum(spent) / PROBLEMS / (SAMPLES / n))
            assert counts["problems"] == sum(v is not None for v in chosen.values())

        said = [j for j in lines if j["label"] is not None]
        mixed = [j for j in said if {grades[j["item"]][j["first"]], grades[j["item"]][j["second"]]} == {0, 1}]
        both = [
            {j["winner"] for j in pair}
            for pair in zip(lines[::2], lines[1::2], strict=True)
            if all(j["label"] for j in pair)
        ]
        shares = [
            (len(lines) - len(said), len(lines)),
            (sum(j["label"] == 1 for j in said), len(said)),
            (sum(len(winners) == 1 for winners in both), len(both)),
            (sum(grades[j["item"]][j["winner"]] for j in mixed), len(mixed)),
        ]
        expected = [str(len(lines)), "0", str(sum(j["tokens"] for j in lines))]
        for count, of in shares:
            low, high = wilson(count, of) or (0, 0)
            expected.append(f"{count / of:.1%} ({low:.1%} to {high:.1%})" if of else "–")
        assert shown(behaviour, name) == expected


def test_a_judge_that_can_tell_gains_and_one_that_says_nothing_does_not(finished: Path) -> None:
    content = json.loads((finished / "self_critique.json").read_text(encoding="utf-8"))
    rows = {row["method"]: row for row in content["rows"]}
    assert rows["judge"]["judge"]["accuracy"]["low"] > 0.7
    assert rows["judge"]["metrics"]["acc_at_8"]["low"] > rows["single"]["metrics"]["acc_at_8"]["high"]
    assert rows["judge"]["metrics"]["gain_at_8"]["low"] > 0.1
    assert 0.1 < rows["judge"]["judge"]["unparsed"]["mean"] < 0.9
    assert rows["none"]["judge"]["unparsed"]["mean"] == 1.0
    assert rows["none"]["judge"]["decided"]["kept"] == PROBLEMS * (SAMPLES - 1)


def test_the_result_has_the_shape_of_all_results(
    finished: Path, records: Path, judge_dir: Path, mute_dir: Path
) -> None:
    content = json.loads((finished / "self_critique.json").read_text(encoding="utf-8"))
    assert set(content) == {"config", "commit", "versions", "seeds", "rows"} and content["seeds"] == [0]
    judged = content["config"].pop("judges")
    assert {name: given["spec"] for name, given in judged.items()} == {
        "judge": str(judge_dir),
        "none": str(mute_dir),
    }
    assert judged["judge"]["model"].startswith(f"{judge_dir}, prompt ")
    assert content["config"] == {
        "records": str(records),
        "both_orders": True,
        "max_tokens": 12,
        "prompts": "compact",
        "limit": None,
    }
    for row in content["rows"]:
        assert row["dataset"] == "modular_chain"
        assert all(set(metric) == {"mean", "low", "high", "values"} for metric in row["metrics"].values())
    gains = [name for name in content["rows"][-1]["metrics"] if name.startswith("gain")]
    assert gains == ["gain_at_1", "gain_at_2", "gain_at_4", "gain_at_8"]


# --- going on -------------------------------------------------------------------------------------------


def test_the_same_command_goes_on_and_prints_the_same(
    finished: Path, records: Path, judge_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, whole = tmp_path / "out", (finished / "judgements" / "judge.jsonl").read_bytes()
    judgements = output / "judgements" / "judge.jsonl"
    judgements.parent.mkdir(parents=True)
    judgements.write_bytes(whole[: len(whole) // 2])
    assert command(records, output, "--judge", str(judge_dir), quiet=False) == 0
    printed = capsys.readouterr()
    assert f"{PROBLEMS * 14}/{PROBLEMS * 14}" in printed.err
    table = (output / "self_critique.md").read_text(encoding="utf-8")
    assert printed.out == f"{table}\nresults: {output / 'self_critique.json'}\n"
    assert judgements.read_bytes() == whole
    assert command(records, output, "--judge", str(judge_dir)) == 0
    again = capsys.readouterr()
    assert (again.out, again.err) == (printed.out, "") and judgements.read_bytes() == whole


def test_ctrl_c_ends_with_130_and_leaves_what_was_judged(
    finished: Path, records: Path, judge_dir: Path, mute_dir: Path, tmp_path: Path
) -> None:
    models, output = ["--judge", str(judge_dir), "--judge", f"none={mute_dir}"], tmp_path / "out"
    places = [f"judgements/{name}.jsonl" for name in ("judge", "none")]
    whole = [(finished / place).read_bytes() for place in places]
    given = ["self-critique", str(records), str(output), *models, "--prompts", "compact"]
    given += ["--max-tokens", "12"]
    arguments = [sys.executable, "-m", "critique_rl.cli", *given]
    with subprocess.Popen(
        arguments, stderr=subprocess.PIPE, text=True, env=environment(), preexec_fn=hear_ctrl_c
    ) as process:
        deadline, first = time.monotonic() + 120, output / places[0]
        while not (first.exists() and first.stat().st_size) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 130, error
    assert "Traceback" not in error and error.splitlines()[-1].startswith("interrupted")
    kept = [(output / place).read_bytes() if (output / place).exists() else b"" for place in places]
    assert kept[0] and all(w.startswith(k) for k, w in zip(kept, whole, strict=True)) and kept != whole
    assert command(records, output, *models) == 0
    assert [(output / place).read_bytes() for place in places] == whole
    table = (finished / "self_critique.md").read_bytes()
    assert (output / "self_critique.md").read_bytes() == table


def test_another_measurement_in_the_same_folder_is_refused(
    records: Path, judge_dir: Path, mute_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--judge", f"x={mute_dir}", "--limit", "3")
    assert command(records, tmp_path, *few) == 0
    before = (tmp_path / "judgements" / "x.jsonl").read_bytes()
    for more in (
        ["--one-order", *few],
        ["--seed", "1", *few],
        [*few, "--max-tokens", "9"],
        ["--judge", f"x={judge_dir}", "--limit", "3"],
        [*few, "--limit", "2"],
    ):
        capsys.readouterr()
        assert command(records, tmp_path, *more) == 2
        error = capsys.readouterr().err
        assert f"error: {tmp_path}/judgements/x.jsonl holds judgements of another judge" in error
    assert (tmp_path / "judgements" / "x.jsonl").read_bytes() == before


def test_a_larger_limit_goes_on_from_a_smaller_one_and_one_order_asks_half(
    records: Path, mute_dir: Path, tmp_path: Path
) -> None:
    judged: list[set[str]] = []
    for limit in (4, 9):
        more = ("--judge", f"x={mute_dir}", "--one-order", "--limit", str(limit))
        assert command(records, tmp_path, *more) == 0
        lines = read_jsonl(tmp_path / "judgements" / "x.jsonl")
        judged.append({line["item"] for line in lines})
        assert len(judged[-1]) == limit
        row = json.loads((tmp_path / "self_critique.json").read_text(encoding="utf-8"))["rows"][-1]
        assert row["judge"]["calls"] == row["judge"]["reasks"] == 7 * limit
        assert len(lines) == 14 * limit
        assert {count["problems"] for count in row["counts"].values()} <= {limit, limit - 1}
    assert judged[0] < judged[1]


# --- images -------------------------------------------------------------------------------------------


def test_a_judge_with_vision_sees_the_image_of_each_problem(
    mute_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeing = tmp_path / "seeing"
    tiny_vl.save_untrained(seeing, seed=0)
    images = {"p0": data_url(png("red")), "p1": data_url(png("blue")), "p2": None}
    records = write_jsonl(tmp_path / "r.jsonl", [{**row, "image": images[row["id"]]} for row in episodes()])
    assert command(records, tmp_path / "out", "--judge", str(seeing)) == 0
    made = read_jsonl(tmp_path / "out" / "judgements" / "seeing.jsonl")
    forward = {j["item"]: j for j in made if j["order"] == "forward"}
    # The questions are one text of one length: what is more are the tokens of the image and its two ends.
    assert forward["p0"]["tokens"] == forward["p1"]["tokens"] == forward["p2"]["tokens"] + 6 + 2
    assert command(records, tmp_path / "blind", "--judge", str(mute_dir)) == 2
    assert "is a model without vision" in capsys.readouterr().err


# --- mistakes -------------------------------------------------------------------------------------------


def episodes(samples: int = 2, **fields: Any) -> list[Row]:
    """Hand-written records of three problems."""
    row = {"dataset": "toy", "question": "?", "answer": "1", "kind": "number", "response": "The answer is 1"}
    rest = {"critique": None, "verdict": None, "refinement": None, "refinement_correct": None, "tokens": 3}
    return [
        {**row, **rest, "response_correct": True, "id": f"p{i}", "sample": sample, **fields}
        for sample in range(samples)
        for i in range(3)
    ]


def lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; give the records.jsonl of an evaluation"),
        ("", "is empty; give the records.jsonl"),
        ('{"id": "p0"}\n', "line 1 is no episode record"),
        (lines(episodes())[:-9], "the last line is cut short; let the evaluation go on"),
        (lines(episodes(1)), "one sample per problem leaves no choice: evaluate with several"),
        (lines(episodes()[:-1]), "has 2 records of problem p0 and 1 of p2: let the evaluation go on"),
        (lines([*episodes(1), *episodes(1)]), "there are two records of problem p0, sample 0, round 0"),
        (lines(episodes(response_correct=None)), "none of its replies is graded"),
        (lines(episodes(kind="score", response_correct=None)), "its replies are scored"),
        (lines(episodes(kind="essay")), "of kind 'essay', which has no right answers: give one of"),
    ],
)
def test_records_that_give_no_choice_are_refused_before_a_judge_is_loaded(
    tmp_path: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    records = tmp_path / "r.jsonl"
    if content is not None:
        records.write_text(content, encoding="utf-8")
    assert command(records, tmp_path / "out", "--judge", "no/such/model") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {records}") and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert (records.read_text(encoding="utf-8") if records.exists() else None) == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --judge"),
        (["--judge", "no/such/model"], "no/such/model"),
        (["--judge", "http://127.0.0.1:9/v1"], "no server answers at http://127.0.0.1:9/v1"),
        (["--judge", "a=x", "--judge", "a=y"], "two judges are called 'a': name them, NAME=y"),
        (["--judge", "m/a", "--judge", "n/a"], "two judges are called 'a': name them, NAME=n/a"),
        (["--judge", "majority=x"], "'majority' is a baseline: give it another name, NAME=x"),
        (["--judge", "a="], "--judge 'a=' has no model"),
        (["--judge", ""], "--judge '' has no model"),
        (["--judge", "x", "--limit", "0"], "--limit must be at least 1, got 0"),
        (["--judge", "x", "--max-tokens", "0"], "--max-tokens must be at least 1, got 0"),
        (["--judge", "x", "--both-orders"], "unrecognized arguments: --both-orders"),
        (["--judge", "x", "--seed", "one"], "invalid int value: 'one'"),
    ],
)
def test_a_mistake_in_the_command_is_one_clear_error(
    records: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(records, tmp_path / "out", *arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and message in captured.err and captured.out == ""
    assert not (tmp_path / "out").exists()


def test_a_judge_whose_context_is_too_short_says_so(
    records: Path, actor_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["self-critique", str(records), str(tmp_path), "--judge", str(actor_dir), "--quiet"]
    assert cli.main(given) == 2
    assert (
        "max_tokens=2048 leaves no room for a prompt in the context of 512 tokens" in capsys.readouterr().err
    )
    assert not (tmp_path / "self_critique.json").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["x=a/b", "a/b/", "org/model-1.5"], {"x": "a/b", "b": "a/b/", "model-1.5": "org/model-1.5"}),
        (["http://h:1/v1?key=a"], {"h-1": "http://h:1/v1?key=a"}),
        (["https://me:secret@h/v1"], {"h": "https://me:secret@h/v1"}),
        (["s=http://h:1/v1?key=a"], {"s": "http://h:1/v1?key=a"}),
        (["./a=b"], {"a-b": "./a=b"}),
    ],
)
def test_judges_are_named(given: list[str], expected: dict[str, str]) -> None:
    assert judges(given) == expected
    with pytest.raises(UserError, match="two judges are called"):
        judges([*given, given[0]])
